"""Values of settings as the server reads them: numbers, units, words. Pure.

The rules are those of parse_int, parse_real, parse_bool and convert_to_base_unit in src/backend/utils/misc/guc.c.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import ClassVar

from pgscale.doctor.tuning.model import Problem, Setting
from pgscale.errors import PgscaleError

# In bytes and in microseconds; from large to small, as SHOW looks for the one that fits.
MEMORY: Mapping[str, int] = {"TB": 1 << 40, "GB": 1 << 30, "MB": 1 << 20, "kB": 1 << 10, "B": 1}
TIME: Mapping[str, int] = {
    "d": 86_400_000_000,
    "h": 3_600_000_000,
    "min": 60_000_000,
    "s": 1_000_000,
    "ms": 1000,
    "us": 1,
}

# What people write, in lower case.
_MEMORY_WORDS: Mapping[str, str] = {
    word: unit
    for unit, words in {
        "B": "b byte bytes",
        "kB": "k kb kib ko",
        "MB": "m mb mib mo",
        "GB": "g gb gib go",
        "TB": "t tb tib to",
    }.items()
    for word in words.split()
}
_TIME_WORDS: Mapping[str, str] = {
    word: unit
    for unit, words in {
        "us": "us usec µs microseconds",
        "ms": "ms msec msecs millis millisecond milliseconds",
        "s": "s sec secs second seconds",
        "min": "min m mn mins minute minutes",
        "h": "h hr hrs hour hours",
        "d": "d day days",
    }.items()
    for word in words.split()
}

_NUMBER = re.compile(r"\s*([+-]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?))\s*([^\W\d]*)\s*")
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")


class BadValueError(PgscaleError):
    """A value that the server does not take for a setting.

    Args:
        problem: `value`, `unit` or `range`.
        better: what was most likely meant, None when that cannot be told.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, fact: str, problem: Problem, better: str | None = None) -> None:
        super().__init__(fact)
        self.problem: Problem = problem
        self.better = better


def units_of(setting: Setting) -> Mapping[str, int]:
    """Return the units that a setting takes, each in bytes or microseconds; none for a plain number."""
    if setting.unit is None:
        return {}
    return TIME if setting.unit in TIME else MEMORY


def scale_of(unit: str) -> int:
    """Return how many bytes or microseconds a setting's unit is, `8kB` too."""
    count = re.match(r"\d*", unit)
    digits = count[0] if count else ""
    name = unit.removeprefix(digits)
    return int(digits or "1") * (TIME[name] if name in TIME else MEMORY[name])


def parse_value(setting: Setting, text: str) -> str:
    """Return a value as pg_settings would print it: numbers in the setting's unit, words as the server spells them.

    Raises:
        BadValueError: the server would not take it.
    """
    if setting.kind == "bool":
        return "on" if _parse_bool(text) else "off"
    if setting.kind == "enum":
        return _parse_word(setting, text)
    if setting.kind == "string":
        return text
    return _plain(parse_number(setting, text))


def parse_number(setting: Setting, text: str) -> Decimal:
    """Return a number in the setting's unit, rounded as the server does, within its limits.

    Raises:
        BadValueError: as parse_value().
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        comma = re.fullmatch(r"\s*-?\d+,\d+\s*", text)
        raise BadValueError(f"{text!r} is no number", "value", text.strip().replace(",", ".") if comma else None)
    number, unit = _digits(match[1], setting), match[2]
    value = number * _factor(setting, text, match[1], unit)
    if unit and number != number.to_integral_value():
        value = _round_to_smaller(setting, value, unit)
    if setting.kind == "integer":
        value = value.to_integral_value(ROUND_HALF_EVEN)
    least, most = Decimal(str(setting.minimum)), Decimal(str(setting.maximum))
    if not least <= value <= most:
        shown = [format_value(setting, _plain(limit)) for limit in (least, most)]
        raise BadValueError(f"{text} is outside {shown[0]} to {shown[1]}", "range", shown[value > most])
    return value


def format_value(setting: Setting, plain: str) -> str:
    """Return a value as SHOW does: with the largest unit that divides it; what is no number is left as it is."""
    units = units_of(setting)
    if setting.unit is None or not units:
        return plain
    try:
        number = Decimal(plain)
    except InvalidOperation:
        return plain
    if number <= 0:
        return _plain(number)
    base = number * scale_of(setting.unit)
    for unit, size in units.items():
        if base % size == 0 and (size >= min(scale_of(setting.unit), 1 << 10) or units is TIME):
            return f"{_plain(base / size)}{unit}"
    return _plain(number)


def to_bytes(setting: Setting, plain: str) -> int:
    """Return a size in bytes, of a value in the setting's unit."""
    assert setting.unit is not None, setting.name
    return round(Decimal(plain) * scale_of(setting.unit))


def quote(text: str) -> str:
    """Return a value as it stands in a file: plain numbers and words bare, everything else in quotes."""
    if re.fullmatch(r"-?\d+(\.\d+)?|-?\d+[A-Za-z]+|[A-Za-z_][A-Za-z_0-9]*", text):
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n").replace("\t", "\\t")
    return f"'{escaped}'"


def _digits(text: str, setting: Setting) -> Decimal:
    sign, bare = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if bare.lower().startswith("0x"):
        return Decimal(sign * int(bare, 16))
    if setting.kind == "integer" and re.fullmatch(r"0[0-7]+", bare):
        return Decimal(sign * int(bare, 8))  # strtol with base 0
    return sign * Decimal(bare)


def _factor(setting: Setting, text: str, number: str, unit: str) -> Decimal:
    if not unit:
        return Decimal(1)
    units = units_of(setting)
    if setting.unit is None:
        raise BadValueError(f"{text} has a unit, but the setting takes a plain number", "unit", number)
    if unit in units:
        return Decimal(units[unit]) / scale_of(setting.unit)
    meant = (_TIME_WORDS if units is TIME else _MEMORY_WORDS).get(unit.lower())
    names = ", ".join(reversed(list(units)))
    raise BadValueError(
        f"{unit} is no unit here; the server knows {names}, and upper and lower case matter",
        "unit",
        None if meant is None else f"{number}{meant}",
    )


def _round_to_smaller(setting: Setting, value: Decimal, unit: str) -> Decimal:
    """Round a fraction as the server does: `30.1GB` to whole MB."""
    assert setting.unit is not None
    names = list(units_of(setting))
    sizes = units_of(setting)
    after = names[names.index(unit) + 1 :]
    if not after:
        return value
    step = Decimal(sizes[after[0]]) / scale_of(setting.unit)
    return (value / step).to_integral_value(ROUND_HALF_EVEN) * step


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _parse_bool(text: str) -> bool:
    word = text.lower()
    if word in {"1", "on"}:
        return True
    if word in {"0", "of", "off"}:
        return False
    # Any beginning of true, false, yes and no; `o` alone could be either.
    for truth, words in ((True, _TRUE[:2]), (False, _FALSE[:2])):
        if word and any(known.startswith(word) for known in words):
            return truth
    raise BadValueError(f"{text!r} is neither on nor off", "value", _nearest_word(word, ("on", "off")))


def _parse_word(setting: Setting, text: str) -> str:
    word = text.lower()
    by_lower = {value.lower(): value for value in setting.values}
    if setting.name == "wal_compression" and word in {"on", "true", "yes", "1"}:
        return "pglz"  # which is what it shows from then on
    if word in by_lower:
        return by_lower[word]
    if {"on", "off"} <= by_lower.keys() and word in {"true", "yes", "1"}:
        return "on"
    if {"on", "off"} <= by_lower.keys() and word in {"false", "no", "0"}:
        return "off"
    if hidden := HIDDEN_WORDS.get(setting.name, {}).get(word):
        return hidden
    raise BadValueError(
        f"{text!r} is none of {', '.join(setting.values)}", "value", _nearest_word(word, tuple(by_lower))
    )


# Words that the server takes and does not show.
_LEVELS: Mapping[str, str] = {"debug": "debug2", "panic": "panic", "fatal": "fatal", "info": "info"}
HIDDEN_WORDS: Mapping[str, Mapping[str, str]] = {
    "wal_level": {"archive": "replica", "hot_standby": "replica"},
    "client_min_messages": _LEVELS,
    "log_min_messages": _LEVELS,
    "log_min_error_statement": _LEVELS,
    "compute_query_id": {"regress": "regress"},
}


def _nearest_word(word: str, words: tuple[str, ...]) -> str | None:
    near = [known for known in words if distance(word, known) <= max(1, len(known) // 5)]
    return near[0] if len(near) == 1 else None


def distance(one: str, other: str) -> int:
    """Return how many letters to insert, drop, change or swap with their neighbour make one word of another."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        row = [i]
        for j, b in enumerate(other, start=1):
            best = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                best = min(best, before[j - 2] + 1)
            row.append(best)
        before, last = last, row
    return last[-1]
