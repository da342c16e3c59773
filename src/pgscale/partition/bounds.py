"""Parse `--by` and compute partition bounds and names. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import ROUND_FLOOR, Decimal, InvalidOperation
from itertools import pairwise

from psycopg import sql

from pgscale.errors import RefusedError, UsageError
from pgscale.livecopy.ddl import text
from pgscale.partition.model import MOST_LEAVES, By, Leaf, Method

PERIODS = ("day", "week", "month", "quarter", "year")
INTEGER_TYPES = frozenset({"smallint", "integer", "bigint", "numeric"})
TIME_TYPES = frozenset({"date", "timestamp without time zone", "timestamp with time zone"})
_INTEGER_LIMITS = {
    "smallint": (-(2**15), 2**15 - 1),
    "integer": (-(2**31), 2**31 - 1),
    "bigint": (-(2**63), 2**63 - 1),
}
# How many empty periods are made beyond the newest row, so that today's and next period's rows have a home.
PERIODS_AHEAD = 3
_INTERVAL = re.compile(r"^(\d+)\s*(second|minute|hour|day|week)s?$")
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}


def parse_by(by: str) -> By:
    """Parse `hash:COL[,COL]`, `range:COL:STEP` or `list:COL`; a column may be quoted as in SQL.

    Raises:
        UsageError: with the form that is expected.
    """
    hint = "Use --by hash:COL[,COL], --by range:COL:day|week|month|quarter|year|STEP, or --by list:COL."
    method, _, rest = by.partition(":")
    if method not in ("hash", "range", "list") or not rest:
        raise UsageError(f"--by {by!r} is not understood.", hint=hint)
    known: Method = method
    parts = _split(rest, ":")
    columns = tuple(_unquote(c) for c in _split(parts[0], ","))
    step = ":".join(parts[1:]).strip()
    if not all(columns) or (known == "range") != bool(step) or (known != "hash" and len(columns) != 1):
        raise UsageError(f"--by {by!r} is not understood.", hint=hint)
    return By(method=known, columns=columns, step=step)


def _split(value: str, separator: str) -> list[str]:
    """Split outside double quotes."""
    parts, quoted = [""], False
    for char in value:
        if char == '"':
            quoted = not quoted
        if char == separator and not quoted:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _unquote(name: str) -> str:
    name = name.strip()
    if len(name) >= 2 and name[0] == name[-1] == '"':
        return name[1:-1].replace('""', '"')
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """The smallest and largest value of a range column, as the server prints them; None when no row."""

    lowest: str | None
    highest: str | None


class Namer:
    """Makes leaf and index names that fit 63 bytes and collide with nothing that exists."""

    def __init__(self, taken: frozenset[str]) -> None:
        self._taken = set(taken)

    def name(self, base: str, suffix: str) -> str:
        """Return `base` + `suffix`, the base shortened to fit, with a digest where that would be ambiguous."""
        wanted = base + suffix
        for attempt in range(1000):
            extra = "" if attempt == 0 else f"_{attempt}"
            candidate = fit(base, suffix + extra)
            if candidate not in self._taken:
                self._taken.add(candidate)
                return candidate
        raise RefusedError(f"No free name could be found for {wanted}.", consequence="Nothing was changed.")


def fit(base: str, suffix: str) -> str:
    """Shorten `base` so that base + suffix has at most 63 bytes, PostgreSQL's limit of a name."""
    room = 63 - len(suffix.encode())
    if len(base.encode()) <= room:
        return base + suffix
    digest = hashlib.sha256(base.encode()).hexdigest()[:6]
    return base.encode()[: room - 7].decode(errors="ignore") + "_" + digest + suffix


def hash_leaves(table: str, modulus: int, namer: Namer) -> tuple[Leaf, ...]:
    """Return one leaf per remainder."""
    return tuple(
        Leaf(
            name=namer.name(table, f"_p{remainder}"),
            bound=f"FOR VALUES WITH (MODULUS {modulus}, REMAINDER {remainder})",
        )
        for remainder in range(modulus)
    )


def list_leaves(table: str, values: tuple[str, ...], namer: Namer, *, with_null: bool) -> tuple[Leaf, ...]:
    """Return one leaf per value, and one for NULL when the column may hold it."""
    leaves: list[Leaf] = []
    for value in values:
        label = re.sub(r"\W+", "_", value.lower()).strip("_")[:24] or "value"
        bound = text(sql.SQL("FOR VALUES IN ({})").format(sql.Literal(value)))
        leaves.append(Leaf(name=namer.name(table, f"_p_{label}"), bound=bound))
    if with_null:
        leaves.append(Leaf(name=namer.name(table, "_p_null"), bound="FOR VALUES IN (NULL)"))
    return tuple(leaves)


def default_leaf(table: str, namer: Namer) -> Leaf:
    return Leaf(name=namer.name(table, "_default"), bound="DEFAULT")


def range_leaves(table: str, type_name: str, step: str, extent: Extent, namer: Namer) -> tuple[Leaf, ...]:
    """Return contiguous leaves that cover the extent and some periods ahead.

    Args:
        type_name: the column's type as format_type prints it, without modifier.
        step: a period's name, `6 hours`, or a number for numeric columns.
        extent: finite smallest and largest values present.
        namer: gives the leaves their names.

    Raises:
        UsageError: the step does not fit the type; RefusedError: it would make too many partitions.
    """
    if type_name in INTEGER_TYPES:
        edges, label = _number_edges(step, extent, is_integer=type_name != "numeric")
    elif type_name in TIME_TYPES:
        edges, label = _time_edges(step, extent, type_name)
    else:
        raise UsageError(
            f"A range by a step needs a date, timestamp or number; the column is {type_name}.",
            hint="Use --by list:COL or --by hash:COL for this column.",
        )
    leaves: list[Leaf] = []
    least, most = _INTEGER_LIMITS.get(type_name, (None, None))
    for low, high, at in edges:
        if most is not None and int(low) > most:
            break
        bound = text(
            sql.SQL("FOR VALUES FROM ({}) TO ({})").format(
                sql.SQL("MINVALUE") if least is not None and int(low) < least else sql.Literal(low),
                sql.SQL("MAXVALUE") if most is not None and int(high) > most else sql.Literal(high),
            )
        )
        leaves.append(Leaf(name=namer.name(table, "_p" + label(at)), bound=bound))
    return tuple(leaves)


Edges = list[tuple[str, str, str]]


def _too_many(count: int | str, step: str) -> RefusedError:
    return RefusedError(
        f"A step of {step} would make {count} partitions; at most {MOST_LEAVES} are allowed.",
        consequence="Nothing was changed.",
        hint="Use a larger step.",
    )


def _number_edges(step: str, extent: Extent, *, is_integer: bool) -> tuple[Edges, Callable[[str], str]]:
    try:
        width = Decimal(step)
    except InvalidOperation:
        raise UsageError(
            f"{step!r} is not a step for a numeric column.", hint="Give a number, such as range:id:1000000."
        ) from None
    if not width.is_finite() or width <= 0 or (is_integer and width != width.to_integral_value()):
        raise UsageError(f"The step {step} must be a positive {'whole ' if is_integer else ''}number.")
    low = Decimal(extent.lowest) if extent.lowest is not None else Decimal(0)
    high = Decimal(extent.highest) if extent.highest is not None else low
    first = (low / width).to_integral_value(ROUND_FLOOR)
    last = (high / width).to_integral_value(ROUND_FLOOR) + PERIODS_AHEAD
    count = int(last - first) + 1
    if count > MOST_LEAVES:
        raise _too_many(count, step)
    edges: Edges = []
    for index in range(count):
        start = (first + index) * width
        # normalize() would print 1E+6.
        edges.append((f"{start:f}", f"{start + width:f}", f"{start:f}"))

    def label(at: str) -> str:
        return at.replace("-", "m").replace(".", "_")

    return edges, label


def _parse_time(value: str) -> datetime:
    try:
        # The session prints ISO dates in UTC; PostgreSQL writes the zone as +00.
        return datetime.fromisoformat(value.removesuffix("+00"))
    except ValueError:
        raise RefusedError(
            f"The column holds {value}, which lies outside the years 1 to 9999.",
            consequence="Nothing was changed.",
            hint="Correct such rows first, or partition by hash.",
        ) from None


def _time_edges(step: str, extent: Extent, type_name: str) -> tuple[Edges, Callable[[str], str]]:
    fmt: Callable[[datetime], str]
    if type_name == "date":
        fmt = lambda at: at.date().isoformat()  # noqa: E731 because the three formats read best side by side
    elif type_name == "timestamp with time zone":
        fmt = lambda at: at.isoformat(sep=" ") + "+00"  # noqa: E731 because as above
    else:
        fmt = lambda at: at.isoformat(sep=" ")  # noqa: E731 because as above
    today = datetime.combine(date.today(), datetime.min.time())
    low = _parse_time(extent.lowest) if extent.lowest is not None else today
    high = _parse_time(extent.highest) if extent.highest is not None else low
    starts = _starts(step, low, high, type_name)
    edges: Edges = [(fmt(a), fmt(b), a.isoformat()) for a, b in pairwise(starts)]

    def label(at: str) -> str:
        moment = datetime.fromisoformat(at)
        match step:
            case "year":
                return f"{moment:%Y}"
            case "quarter":
                return f"{moment:%Y}_q{(moment.month + 2) // 3}"
            case "month":
                return f"{moment:%Y_%m}"
            case "week":
                year, week, _ = moment.isocalendar()
                return f"{year:04d}_w{week:02d}"
            case "day":
                return f"{moment:%Y_%m_%d}"
            case _:
                return f"{moment:%Y%m%d_%H%M%S}"

    return edges, label


def _starts(step: str, low: datetime, high: datetime, type_name: str) -> list[datetime]:
    floor, advance = _calendar(step, type_name)
    starts: list[datetime] = []
    ahead = 0
    try:
        for start in _walk(floor(low), advance):
            starts.append(start)
            ahead += start > high
            if ahead > PERIODS_AHEAD:
                return starts
            if len(starts) > MOST_LEAVES + 1:
                raise _too_many(f"more than {MOST_LEAVES}", step)
    except (OverflowError, ValueError):
        if len(starts) < 2:
            raise UsageError(f"The step {step} leaves the years 1 to 9999.") from None
    return starts


def _walk(start: datetime, advance: Callable[[datetime], datetime]) -> Iterator[datetime]:
    while True:
        yield start
        start = advance(start)


def _add_months(at: datetime, months: int) -> datetime:
    index = at.year * 12 + at.month - 1 + months
    return at.replace(year=index // 12, month=index % 12 + 1)


def _calendar(step: str, type_name: str) -> tuple[Callable[[datetime], datetime], Callable[[datetime], datetime]]:
    def midnight(at: datetime) -> datetime:
        return at.replace(hour=0, minute=0, second=0, microsecond=0)

    def by_months(months: int) -> tuple[Callable[[datetime], datetime], Callable[[datetime], datetime]]:
        def floor(at: datetime) -> datetime:
            month = (at.month - 1) // months * months + 1
            return midnight(at.replace(month=month, day=1))

        return floor, lambda at: _add_months(at, months)

    match step:
        case "year":
            return by_months(12)
        case "quarter":
            return by_months(3)
        case "month":
            return by_months(1)
        case "week":
            # ISO weeks begin on Monday.
            return (
                lambda at: midnight(at) - timedelta(days=at.weekday()),
                lambda at: at + timedelta(days=7),
            )
        case "day":
            return midnight, lambda at: at + timedelta(days=1)
        case _:
            pass
    match = _INTERVAL.match(step)
    if match is None or int(match[1]) == 0:
        raise UsageError(
            f"{step!r} is not a step for a {type_name} column.",
            hint=f"Use {', '.join(PERIODS)}, or an interval such as '6 hours'.",
        )
    width = timedelta(seconds=int(match[1]) * _SECONDS[match[2]])
    if type_name == "date" and width % timedelta(days=1):
        raise UsageError(f"A date column cannot be divided by {step}.", hint="Use whole days.")
    epoch = datetime(1970, 1, 1)
    return lambda at: epoch + (at - epoch) // width * width, lambda at: at + width
