"""Any row as JSON and back. Pure.

What JSON has is itself: None, bool, str, int, float, list, dict with str keys. Everything else is an object of two
names, `"$"` for the kind and `"v"` for the value as text or as tagged values:

    b"\\x00\\xff"           {"$": "bytes", "v": "00ff"}
    Decimal("1.50")       {"$": "decimal", "v": "1.50"}
    datetime(…, UTC)      {"$": "datetime", "v": "2026-01-31T12:00:00+00:00"}
    (1, 2)                {"$": "tuple", "v": [1, 2]}
    nan                   {"$": "float", "v": "nan"}

It is made for jsonb, which keeps less than JSON does: so text with NUL or half a surrogate pair, floats that numeric
would change (-0.0, 1e300), integers beyond 64 bits, and dicts whose order jsonb would change are tagged, too. A dict
with `"$"` among its keys is tagged as pairs, so that nothing the caller gives is ever mistaken for a tag.

What comes back is what went in, except: members of an Enum come back as members of an Enum of one member with the
same name and value; dataclasses and other mappings as dicts, named tuples as tuples, NumPy's values as Python's,
bytearray and memoryview as bytes, time zones that are no ZoneInfo as their offset. All of these are written the same.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import ipaddress
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any, cast
from zoneinfo import ZoneInfo

from psycopg.types.json import Json as JsonWrapper
from psycopg.types.json import Jsonb
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from pgscale.core.model import Json
from pgscale.errors import PgscaleError

KIND, VALUE = "$", "v"
# The kind of what is kept for the eye only.
OPAQUE = "opaque"
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1


class NotRestorableError(PgscaleError):
    """A letter holds a value of a kind that is kept as its repr only, or that this version does not know."""


_BY_TEXT: Mapping[str, tuple[type, Callable[[str], Any]]] = MappingProxyType(
    {
        "decimal": (Decimal, Decimal),
        "date": (dt.date, dt.date.fromisoformat),
        "uuid": (uuid.UUID, uuid.UUID),
        # An interface is an address, too: it comes first.
        "ip4interface": (ipaddress.IPv4Interface, ipaddress.IPv4Interface),
        "ip6interface": (ipaddress.IPv6Interface, ipaddress.IPv6Interface),
        "ip4": (ipaddress.IPv4Address, ipaddress.IPv4Address),
        "ip6": (ipaddress.IPv6Address, ipaddress.IPv6Address),
        "ip4network": (ipaddress.IPv4Network, ipaddress.IPv4Network),
        "ip6network": (ipaddress.IPv6Network, ipaddress.IPv6Network),
    }
)


def to_json(value: object) -> Json:  # noqa: PLR0911 because each kind of value has its answer
    """Return the value as JSON that jsonb keeps and `from_json` turns back."""
    if isinstance(value, enum.Enum):
        mixed = "int" if isinstance(value, int) else "str" if isinstance(value, str) else ""
        return {KIND: "enum", VALUE: [to_json(value.name), to_json(cast("object", value.value)), mixed]}
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return int(value) if _LEAST <= value <= _MOST else {KIND: "int", VALUE: hex(value)}
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {KIND: "bytes", VALUE: value.hex()}
    if isinstance(value, list):
        return [to_json(one) for one in cast("list[object]", value)]
    if isinstance(value, tuple):
        return {KIND: "tuple", VALUE: [to_json(one) for one in cast("tuple[object, ...]", value)]}
    if isinstance(value, Mapping):
        return _mapping(cast("Mapping[object, object]", value))
    return _other(value)


def from_json(value: Json) -> Any:
    """Return what was made JSON by `to_json`.

    Raises:
        NotRestorableError: it was kept as its repr only.
    """
    if isinstance(value, list):
        return [from_json(one) for one in value]
    if not isinstance(value, dict):
        return value
    if KIND not in value:
        return {name: from_json(one) for name, one in value.items()}
    kind = str(value[KIND])
    if kind in _BY_TEXT:
        return _BY_TEXT[kind][1](str(value[VALUE]))
    restore = _RESTORED.get(kind)
    if restore is None:
        raise NotRestorableError(
            f"A value of type {value.get('type', kind)} was kept for the eye only: {value.get(VALUE)}.",
            hint="Drop the letter, and write the row from where it came.",
        )
    return restore(value)


def row_to_json(row: Mapping[str, Any]) -> dict[str, Json]:
    """Return a row as a JSON object of its columns, which have no order."""
    try:
        if KIND in row or any(_is_odd(name) for name in row):
            return {KIND: "dict", VALUE: [[to_json(name), to_json(one)] for name, one in row.items()]}
        return {name: to_json(one) for name, one in row.items()}
    except RecursionError:
        return {KIND: OPAQUE, VALUE: "a row that is nested too deep, or holds itself", "type": "recursive"}


def row_to_bytes(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row_to_json(row)).encode()


def row_from_bytes(data: bytes) -> dict[str, Any]:
    return cast("dict[str, Any]", from_json(json.loads(data)))


def without_letters_beyond_ascii(value: Json) -> Json:
    """Return tagged JSON in which every text is ASCII, for a database whose encoding is not UTF-8."""
    if isinstance(value, str):
        return value if value.isascii() else {KIND: "str", VALUE: value.encode("unicode_escape").decode("ascii")}
    if isinstance(value, list):
        return [without_letters_beyond_ascii(one) for one in value]
    if isinstance(value, dict):
        if all(name.isascii() for name in value):
            return {name: without_letters_beyond_ascii(one) for name, one in value.items()}
        pairs: list[Json] = [[name, one] for name, one in value.items()]
        return {KIND: "dict", VALUE: without_letters_beyond_ascii(pairs)}
    return value


def _is_odd(text: str) -> bool:
    """Tell whether jsonb refuses the text: it has no NUL, and no surrogates by themselves."""
    return "\0" in text or any("\ud800" <= c <= "\udfff" for c in text)


def _text(value: str) -> Json:
    if value.isascii() and "\0" not in value:
        return str(value)
    if _is_odd(value):
        return {KIND: "str", VALUE: value.encode("unicode_escape").decode("ascii")}
    return str(value)


def _float(value: float) -> Json:
    shown = float.__repr__(value)
    # jsonb keeps numeric, which has no exponent, no minus zero, no NaN; and what has no point comes back an integer.
    if shown == "-0.0" or not shown.lstrip("-").replace(".", "", 1).isdigit():
        return {KIND: "float", VALUE: shown}
    return float(value)


def _mapping(value: Mapping[object, object]) -> Json:
    names = list(value)
    if all(isinstance(name, str) for name in names):
        texts = cast("list[str]", names)
        if (
            KIND not in value
            and not any(map(_is_odd, texts))
            and texts == sorted(texts, key=lambda n: (len(n.encode()), n.encode()))
        ):
            return {name: to_json(value[name]) for name in texts}
    return {KIND: "dict", VALUE: [[to_json(name), to_json(one)] for name, one in value.items()]}


def _zone(value: dt.datetime | dt.time) -> dict[str, Json]:
    zone = value.tzinfo
    said: dict[str, Json] = {"zone": zone.key} if isinstance(zone, ZoneInfo) else {}
    return {**said, "fold": 1} if value.fold else said


def _other(value: object) -> Json:  # noqa: PLR0911 because each kind of value has its answer
    if isinstance(value, dt.datetime):
        return {KIND: "datetime", VALUE: value.isoformat(), **_zone(value)}
    if isinstance(value, dt.time):
        return {KIND: "time", VALUE: value.isoformat(), **_zone(value)}
    if isinstance(value, dt.timedelta):
        return {KIND: "timedelta", VALUE: [value.days, value.seconds, value.microseconds]}
    for kind, (of, _) in _BY_TEXT.items():
        if isinstance(value, of):
            return {KIND: kind, VALUE: str(value)}
    if isinstance(value, Range):
        found = cast("Range[Any]", value)
        if found.isempty:
            return {KIND: "range", VALUE: None}
        bounds = ("[" if found.lower_inc else "(") + ("]" if found.upper_inc else ")")
        return {KIND: "range", VALUE: [to_json(found.lower), to_json(found.upper), bounds]}
    if isinstance(value, Multirange):
        return {KIND: "multirange", VALUE: [to_json(one) for one in cast("Sequence[object]", value)]}
    if isinstance(value, (JsonWrapper, Jsonb)):
        if value.dumps is not None:  # its text is what would have been written
            shown = value.dumps(value.obj)
            return to_json(shown)
        return {KIND: "jsonb" if isinstance(value, Jsonb) else "json", VALUE: to_json(value.obj)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _mapping({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    return _foreign(value)


def _foreign(value: Any) -> Json:
    """NumPy's numbers and arrays by what they hold, everything else by its repr."""
    held: object = value.tolist() if type(value).__module__ == "numpy" and hasattr(value, "tolist") else None
    if isinstance(held, (bool, int, float, list)) and getattr(getattr(value, "dtype", None), "kind", "") in "biufUO":
        return to_json(cast("object", held))
    kind = cast("type[object]", type(value))
    try:
        shown = repr(value)
    except Exception:  # noqa: BLE001 because a class may do anything there, and the letter is kept all the same
        shown = "(it cannot be shown)"
    return {KIND: OPAQUE, VALUE: to_json(shown[:1000]), "type": f"{kind.__module__}.{kind.__qualname__}"}


def _parts(value: Mapping[str, Json]) -> list[Json]:
    return cast("list[Json]", value[VALUE])


def _restore_datetime(value: Mapping[str, Json]) -> dt.datetime:
    found = dt.datetime.fromisoformat(str(value[VALUE]))
    fold = 1 if value.get("fold") else 0
    zone = value.get("zone")
    return found.replace(tzinfo=ZoneInfo(str(zone)), fold=fold) if zone is not None else found.replace(fold=fold)


def _restore_time(value: Mapping[str, Json]) -> dt.time:
    found = dt.time.fromisoformat(str(value[VALUE]))
    fold = 1 if value.get("fold") else 0
    zone = value.get("zone")
    return found.replace(tzinfo=ZoneInfo(str(zone)), fold=fold) if zone is not None else found.replace(fold=fold)


def _restore_enum(value: Mapping[str, Json]) -> enum.Enum:
    name, held, mixed = (from_json(part) for part in _parts(value))
    make: Any = {"int": enum.IntEnum, "str": enum.StrEnum}.get(mixed, enum.Enum)
    return make("Restored", {name: held})[name]


def _restore_range(value: Mapping[str, Json]) -> Range[Any]:
    if value[VALUE] is None:
        return Range(empty=True)
    lower, upper, bounds = (from_json(part) for part in _parts(value))
    return Range(lower, upper, bounds)


_RESTORED: Mapping[str, Callable[[Mapping[str, Json]], Any]] = MappingProxyType(
    {
        "str": lambda v: str(v[VALUE]).encode("ascii").decode("unicode_escape"),
        "int": lambda v: int(str(v[VALUE]), 16),
        "float": lambda v: float(str(v[VALUE])),
        "bytes": lambda v: bytes.fromhex(str(v[VALUE])),
        "tuple": lambda v: tuple(from_json(one) for one in _parts(v)),
        "dict": lambda v: {from_json(pair[0]): from_json(pair[1]) for pair in cast("list[list[Json]]", _parts(v))},
        "datetime": _restore_datetime,
        "time": _restore_time,
        "timedelta": lambda v: dt.timedelta(*cast("list[int]", v[VALUE])),
        "enum": _restore_enum,
        "range": _restore_range,
        "multirange": lambda v: Multirange([from_json(one) for one in _parts(v)]),
        "json": lambda v: JsonWrapper(from_json(v[VALUE])),
        "jsonb": lambda v: Jsonb(from_json(v[VALUE])),
    }
)
