"""The bound of the first partition, wide enough for every row there is and for those that come during the run. Pure.

From the moment its CHECK is on the table until the swap, a row outside the bound is refused. So a range has no lower
end, and its upper one is a period's end with a margin beyond both the newest row and the present: at least one whole
period, and

- for times at least a day, and a quarter of how far the newest row lies in the future;
- for numbers at least a twentieth of the numbers there are.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice

from psycopg import sql

from pgscale.catalog.model import Column
from pgscale.core.model import quote_ident
from pgscale.errors import RefusedError
from pgscale.livecopy.ddl import ident, text, trusted
from pgscale.partition.attach.model import Bound
from pgscale.partition.bounds import PERIODS_AHEAD, Extent, Namer
from pgscale.partition.model import Leaf
from pgscale.partition.periods import Grid, Period, Value

LEAST_MARGIN = timedelta(days=1)
# A run that is resumed later than this before the bound would let the CHECK refuse rows of the present.
LATEST_START = timedelta(hours=12)
# pg_class has no TOAST table, so a bound is compressed but not moved out. Measured on 14 and 18: the most values that
# fit, of random texts of 5 and 20 bytes, take 16 and 40 bytes each; numbers and alike words less.
BOUND_BYTES = 8_000
_COST_OF_VALUE, _COST_OF_BYTE = 7, 2
# MAX_SAOP_ARRAY_SIZE in src/backend/optimizer/util/predtest.c: of longer lists only the very same proves the other.
PROVEN_VALUES = 100
_INTEGER_LIMITS = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}


def range_bound(column: Column, grid: Grid, extent: Extent, now: datetime) -> tuple[Bound, tuple[Period, ...]]:
    """Return the first partition's bound and the periods after it.

    Args:
        extent: the finite smallest and largest value; now: aware, by the server's clock.

    Raises:
        RefusedError: the bound would lie beyond the year 9999.
    """
    try:
        newest = None if extent.highest is None else grid.parse(extent.highest)
        least = None if extent.lowest is None else _least(grid, extent.lowest)
        high = _high(grid, newest, least, now)
        most = _INTEGER_LIMITS.get(grid.type_name)
        if most is not None and isinstance(high, Decimal) and high > most:
            return _bound(column, None, None), ()
        return (
            _bound(column, grid.show(high), _safe_until(high)),
            tuple(p for p in islice(grid.periods(high), PERIODS_AHEAD) if most is None or _fits(p.low, most)),
        )
    except (ValueError, OverflowError):
        raise RefusedError(
            f"Column {quote_ident(column.name)} holds {extent.highest}, after which no partitions can be made:"
            " they would begin outside the years 1 to 9999.",
            consequence="Nothing was changed.",
            hint="Correct such rows first.",
        ) from None


def _fits(value: Value, most: int) -> bool:
    return isinstance(value, Decimal) and value <= most


def _least(grid: Grid, lowest: str) -> Value | None:
    """Only the upper end matters: what Python cannot hold (BC) lies below it."""
    try:
        return grid.parse(lowest)
    except ValueError:
        return None


def _high(grid: Grid, newest: Value | None, least: Value | None, now: datetime) -> Value:
    if not grid.is_time:
        number = newest if isinstance(newest, Decimal) else Decimal(0)
        first = least if isinstance(least, Decimal) else number
        return _after(grid, number, number + (number - first) / 20)
    present = grid.at(now)
    assert isinstance(present, datetime)
    base = max(present, newest) if isinstance(newest, datetime) else present
    return _after(grid, base, base + max(LEAST_MARGIN, (base - present) / 4))


def _after(grid: Grid, base: Value, wanted: Value) -> Value:
    """Return the first end of a period that is not before `wanted`, with a whole period between it and `base`."""
    next_low = grid.period(base).high
    if isinstance(next_low, datetime) and isinstance(wanted, datetime):
        return grid.period(max(next_low, wanted)).high
    assert isinstance(next_low, Decimal)
    assert isinstance(wanted, Decimal)
    return grid.period(max(next_low, wanted)).high


def _safe_until(high: Value) -> str | None:
    if not isinstance(high, datetime):
        return None
    return (high - LATEST_START).replace(tzinfo=UTC).isoformat(sep=" ")


def _bound(column: Column, high: str | None, safe_until: str | None) -> Bound:
    name = ident(column.name)
    limit = sql.SQL("MAXVALUE") if high is None else sql.Literal(high)
    there = sql.SQL("{} IS NOT NULL").format(name)
    below = there if high is None else _and(there, sql.SQL("{} < {}").format(name, _literal(high, column)))
    shown = f"{quote_ident(column.name)} is " + ("anything" if high is None else f"before {high}")
    return Bound(
        sql=text(sql.SQL("FOR VALUES FROM (MINVALUE) TO ({})").format(limit)),
        predicate=text(below),
        shown=f"{shown} and not NULL",
        safe_until=safe_until,
    )


def later_leaves(table: str, periods: tuple[Period, ...], grid: Grid, namer: Namer) -> tuple[Leaf, ...]:
    """Return the partitions after the first one."""
    most = _INTEGER_LIMITS.get(grid.type_name)
    leaves: list[Leaf] = []
    for period in periods:
        beyond = most is not None and not _fits(period.high, most)
        bound = sql.SQL("FOR VALUES FROM ({}) TO ({})").format(
            sql.Literal(grid.show(period.low)), sql.SQL("MAXVALUE") if beyond else sql.Literal(grid.show(period.high))
        )
        leaves.append(Leaf(name=namer.name(table, f"_p{period.label}"), bound=text(bound)))
    return tuple(leaves)


def list_bound(column: Column, values: tuple[str, ...]) -> Bound:
    """Return the bound that takes these values, and NULL where the column may hold it.

    Raises:
        RefusedError: there is no value at all.
    """
    nullable = not column.not_null
    if not values and not nullable:
        raise RefusedError(
            f"Column {quote_ident(column.name)} holds no value yet that the first partition could take.",
            consequence="Nothing was changed.",
            hint="Name the expected ones with --values.",
        )
    if len(values) > PROVEN_VALUES and (column.type_kind == "d" or column.type.startswith("character varying")):
        raise RefusedError(
            f"Of a list of more than {PROVEN_VALUES} values PostgreSQL derives no bound where the column is"
            f" {column.type}: {quote_ident(column.name)} has {len(values)}.",
            consequence="Nothing was changed.",
            hint="Use --strategy mirror, or a range.",
        )
    if sum(_COST_OF_VALUE + _COST_OF_BYTE * len(v.encode()) for v in values) > BOUND_BYTES:
        raise RefusedError(
            f"The bound of the first partition would name {len(values)} values of {quote_ident(column.name)}, which may"
            " be too big: PostgreSQL keeps it in one row of pg_class, of 8 kB.",
            consequence="Nothing was changed.",
            hint="Use --strategy mirror, or a range.",
        )
    name = ident(column.name)
    listed: list[sql.Composable] = [sql.Literal(v) for v in values]
    there = sql.SQL("{} IS NOT NULL").format(name)
    null = sql.SQL("{} IS NULL").format(name)
    predicate: sql.Composable = null
    if values:
        held = _among(column, values)
        predicate = sql.SQL("({} OR {})").format(null, held) if nullable else _and(there, held)
    if nullable:
        listed.append(sql.SQL("NULL"))
    shown = ", ".join([*map(repr, values[:10]), *(["…"] if len(values) > 10 else []), *(["NULL"] if nullable else [])])
    return Bound(
        sql=text(sql.SQL("FOR VALUES IN ({})").format(sql.SQL(", ").join(listed))),
        predicate=text(predicate),
        shown=f"{quote_ident(column.name)} is one of {shown}",
    )


def _among(column: Column, values: tuple[str, ...]) -> sql.Composable:
    """Say it so that the server's proof understands it; compare make_partition_op_expr() in partbounds.c."""
    name, equals = ident(column.name), trusted(column.equals)
    if column.type_kind == "d":
        # A cast to a domain is no constant to the proof: the literals take the type that the operator wants.
        if len(values) == 1:
            return sql.SQL("{} {} {}").format(name, equals, sql.Literal(values[0]))
        return sql.SQL("{} {} ANY ({})").format(name, equals, sql.Literal(_array_literal(values)))
    if len(values) == 1 or column.type.endswith("[]"):
        # ANY would look into the arrays.
        equal = (sql.SQL("{} {} {}").format(name, equals, _literal(v, column)) for v in values)
        return sql.SQL("({})").format(sql.SQL(" OR ").join(equal))
    listed = sql.SQL(", ").join(_literal(v, column) for v in values)
    return sql.SQL("{} {} ANY (ARRAY[{}])").format(name, equals, listed)


def _array_literal(values: tuple[str, ...]) -> str:
    quoted = (v.replace("\\", "\\\\").replace('"', '\\"') for v in values)
    return "{" + ",".join(f'"{v}"' for v in quoted) + "}"


def _and(*parts: sql.Composable) -> sql.Composed:
    return sql.SQL("({})").format(sql.SQL(" AND ").join(parts))


def _literal(value: str, column: Column) -> sql.Composed:
    """Of the very type and collation that the server gives the bound: of long lists only equals are proven."""
    literal = sql.SQL("{}::{}").format(sql.Literal(value), trusted(column.type))
    return literal if column.collation is None else literal + sql.SQL(" COLLATE {}").format(trusted(column.collation))
