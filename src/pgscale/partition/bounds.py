"""Parse `--by` and compute partition bounds and names. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from psycopg import sql

from pgscale.core.model import quote_ident
from pgscale.errors import RefusedError, UsageError
from pgscale.livecopy.ddl import text
from pgscale.partition.model import MOST_LEAVES, By, Leaf, Method
from pgscale.partition.periods import INTEGER_LIMITS, NUMBER_TYPES, TIME_TYPES, Grid, Period, Value, le

# How many empty periods are made beyond the newest row, so that today's and next period's rows have a home.
PERIODS_AHEAD = 3


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


def show_by(by: By) -> str:
    """Return the `--by` that `parse_by` reads as this."""
    columns = ",".join(quote_ident(c) for c in by.columns)
    return ":".join(part for part in (by.method, columns, by.step) if part)


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
    if type_name not in NUMBER_TYPES | TIME_TYPES:
        raise UsageError(
            f"A range by a step needs a date, timestamp or number; the column is {type_name}.",
            hint="Use --by list:COL or --by hash:COL for this column.",
        )
    grid = Grid(type_name=type_name, step=step)
    leaves: list[Leaf] = []
    least, most = INTEGER_LIMITS.get(type_name, (None, None))
    for period in _covering(grid, extent):
        if most is not None and isinstance(period.low, Decimal) and period.low > most:
            break
        is_first = least is not None and isinstance(period.low, Decimal) and period.low < least
        is_last = most is not None and isinstance(period.high, Decimal) and period.high > most
        bound = text(
            sql.SQL("FOR VALUES FROM ({}) TO ({})").format(
                sql.SQL("MINVALUE") if is_first else sql.Literal(grid.show(period.low)),
                sql.SQL("MAXVALUE") if is_last else sql.Literal(grid.show(period.high)),
            )
        )
        leaves.append(Leaf(name=namer.name(table, f"_p{period.label}"), bound=bound))
    return tuple(leaves)


def _covering(grid: Grid, extent: Extent) -> list[Period]:
    """Return the periods from the smallest value to some beyond the largest."""
    low = _parse(grid, extent.lowest)
    high = _parse(grid, extent.highest) if extent.highest is not None else low
    periods: list[Period] = []
    ahead = 0
    for period in grid.periods(low):
        ahead += not le(period.low, high)
        if ahead > PERIODS_AHEAD:
            break
        periods.append(period)
        if len(periods) > MOST_LEAVES:
            raise RefusedError(
                f"A step of {grid.step} would make more than {MOST_LEAVES} partitions; that is the limit.",
                consequence="Nothing was changed.",
                hint="Use a larger step.",
            )
    if not periods:
        raise UsageError(f"The step {grid.step} leaves the years 1 to 9999.")
    return periods


def _parse(grid: Grid, value: str | None) -> Value:
    if value is None:
        return datetime.combine(date.today(), datetime.min.time()) if grid.is_time else Decimal(0)
    try:
        return grid.parse(value)
    except ValueError:
        raise RefusedError(
            f"The column holds {value}, which lies outside the years 1 to 9999.",
            consequence="Nothing was changed.",
            hint="Correct such rows first, or partition by hash.",
        ) from None
