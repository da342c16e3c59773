"""Expected rows per partition from the planner's statistics. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from pgscale.catalog.model import ColumnStatistics
from pgscale.core.model import quote_ident
from pgscale.partition.model import Leaf, Skew

# Largest partition over the mean, from which on it is said.
UNEVEN = 1.5


def hash_skew(leaves: tuple[Leaf, ...], rows: int, statistics: ColumnStatistics, remainders: list[int]) -> Skew:
    """Spread the most common values where their hash puts them, and all other rows evenly.

    Args:
        rows: rows of the table.
        statistics: of the (only) key column.
        remainders: the remainder of each most common value, in the order of `statistics.values`.
    """
    counts = [0.0] * len(leaves)
    frequencies = statistics.frequencies or []
    for remainder, frequency in zip(remainders, frequencies, strict=False):
        counts[remainder] += frequency * rows
    rest = max(0.0, 1.0 - sum(frequencies)) * rows
    # With few distinct values the rest is not even either: at most one value a partition can be wrong.
    distinct = statistics.n_distinct if statistics.n_distinct > 0 else -statistics.n_distinct * rows
    others = max(0, round(distinct) - len(frequencies))
    if 0 < others < len(leaves):
        for number in range(others):
            counts[number] += rest / others
    else:
        counts = [c + rest / len(leaves) for c in counts]
    return _skew(leaves, counts, f"pg_stats: {len(frequencies)} most common values and {rows:,} rows")


@dataclass(frozen=True, slots=True, kw_only=True)
class Combinations:
    """How many different combinations of the key's columns there are, and what says so."""

    count: float
    source: str


def combined_skew(
    leaves: int, rows: int, columns: tuple[tuple[str, ColumnStatistics], ...], counted: Combinations | None
) -> Skew:
    """Bound the largest partition of a hash over several columns from above.

    Which combinations occur is not known from one column's statistics. So the most common values are taken to
    coincide (no combination is more common than the rarest of them), and without a count there are taken to be no
    more combinations than the column with most values has.

    Args:
        columns: the key's columns with their statistics.
        counted: the number of combinations where extended statistics have it.
    """
    tops = [(name, _most_common(statistics)) for name, statistics in columns]
    heaviest = min(share for _, share in tops)
    distincts = [_distinct_values(statistics, rows) for _, statistics in columns]
    found = counted or Combinations(count=max(distincts), source="the column with most values, as if it decided alone")
    others = max(1.0, found.count - 1)
    # m values in n partitions: with high probability none gets more than m/n + √(2 m/n ln n) of them
    # (Raab and Steger, Balls into Bins, 1998).
    spread = 1 + math.sqrt(2 * leaves * math.log(leaves) / others) if leaves > 1 else 1.0
    ratio = min(float(leaves), heaviest * leaves + (1 - heaviest) * spread)
    common = ", ".join(f"{quote_ident(name)} {share:.1%}" for name, share in tops)
    return Skew(
        rows_per_leaf=(),
        largest_over_mean=ratio,
        largest_rows=round(ratio * rows / leaves),
        basis=f"{found.count:,.0f} combinations by {found.source}; most common value of {common}, taken to coincide;"
        f" {rows:,} rows",
    )


def describe_unevenness(skew: Skew | None) -> str | None:
    """Return the warning that the key is uneven, with numbers; None when it is even enough."""
    if skew is None or skew.largest_over_mean <= UNEVEN:
        return None
    if not skew.rows_per_leaf:
        return (
            f"The key may be uneven: the largest partition could hold up to {skew.largest_rows:,} rows,"
            f" {skew.largest_over_mean:.1f} times the mean ({skew.basis})."
        )
    name, rows = max(skew.rows_per_leaf, key=lambda pair: pair[1])
    return (
        f"The key is uneven: {quote_ident(name)} would hold about {rows:,} rows,"
        f" {skew.largest_over_mean:.1f} times the mean."
    )


def _most_common(statistics: ColumnStatistics) -> float:
    """Return the share of the most common value; NULL is a value here, as it is to the hash."""
    listed = statistics.null_frac
    for frequency in statistics.frequencies or []:
        listed = max(listed, frequency)
    distinct = statistics.n_distinct
    return max(listed, 1.0 / distinct) if distinct > 0 and not statistics.frequencies else listed


def _distinct_values(statistics: ColumnStatistics, rows: int) -> float:
    return statistics.n_distinct if statistics.n_distinct > 0 else -statistics.n_distinct * rows


def list_skew(leaves: tuple[Leaf, ...], rows: int, statistics: ColumnStatistics) -> Skew | None:
    """Read each value's share from its frequency; values outside the common ones share the rest."""
    shares: dict[str, float] = dict(zip(statistics.values or [], statistics.frequencies or [], strict=False))
    if not shares:
        return None
    counts: list[float] = []
    known = 0.0
    unknown: list[int] = []
    for number, leaf in enumerate(leaves):
        value = leaf.bound.removeprefix("FOR VALUES IN (").removesuffix(")")
        text = value.strip("'").replace("''", "'")
        if leaf.bound == "DEFAULT":
            counts.append(0.0)
        elif value == "NULL":
            counts.append(statistics.null_frac * rows)
            known += statistics.null_frac
        elif text in shares:
            counts.append(shares[text] * rows)
            known += shares[text]
        else:
            unknown.append(number)
            counts.append(0.0)
    for number in unknown:
        counts[number] = max(0.0, 1.0 - known) * rows / len(unknown)
    filled = tuple(leaf for leaf in leaves if leaf.bound != "DEFAULT")
    return _skew(filled, counts[: len(filled)], f"pg_stats: {len(shares)} most common values and {rows:,} rows")


def _skew(leaves: tuple[Leaf, ...], counts: list[float], basis: str) -> Skew:
    mean = sum(counts) / max(1, len(counts))
    return Skew(
        rows_per_leaf=tuple((leaf.name, round(count)) for leaf, count in zip(leaves, counts, strict=True)),
        largest_over_mean=max(counts) / mean if mean > 0 else 1.0,
        basis=basis,
        largest_rows=round(max(counts)),
    )


def range_skew(leaves: tuple[Leaf, ...], rows: int, histogram: list[str], statistics: ColumnStatistics) -> Skew | None:
    """Count the equal-depth histogram buckets whose middle lies in each range."""
    ranges: list[tuple[Decimal | str | None, Decimal | str | None]] = []
    filled = tuple(leaf for leaf in leaves if leaf.bound != "DEFAULT")
    for leaf in filled:
        low, _, high = leaf.bound.removeprefix("FOR VALUES FROM (").removesuffix(")").partition(") TO (")
        # The outermost ranges of a type that ends there have no bound on that side.
        ranges.append(
            (None if low == "MINVALUE" else _comparable(low), None if high == "MAXVALUE" else _comparable(high))
        )
    points = [(_comparable(v), 1.0) for v in histogram]
    common = sum(statistics.frequencies or [])
    weight = max(0.0, 1.0 - common - statistics.null_frac) / max(1, len(points))
    points = [(p, weight) for p, _ in points]
    points += [(_comparable(v), f) for v, f in zip(statistics.values or [], statistics.frequencies or [], strict=False)]
    if not points:
        return None
    counts = [0.0] * len(filled)
    for point, share in points:
        for number, (low, high) in enumerate(ranges):
            if (low is None or _is_below(low, point, or_equal=True)) and (high is None or _is_below(point, high)):
                counts[number] += share * rows
                break
    if not sum(counts):
        return None
    while len(counts) > 1 and counts[-1] == 0:
        # Periods that are still to come are empty by design.
        counts.pop()
    return _skew(filled[: len(counts)], counts, f"pg_stats: histogram of {len(histogram)} bounds and {rows:,} rows")


def _is_below(low: Decimal | str, high: Decimal | str, *, or_equal: bool = False) -> bool:
    """Compare two values of one type; those of different types are in no order."""
    if isinstance(low, Decimal) and isinstance(high, Decimal):
        return low < high or (or_equal and low == high)
    if isinstance(low, str) and isinstance(high, str):
        return low < high or (or_equal and low == high)
    return False


def _comparable(value: str) -> Decimal | str:
    text = value.strip("'").removesuffix("+00")
    try:
        return Decimal(text)
    except InvalidOperation:
        # ISO dates compare as text; a date is its own midnight.
        return text if " " in text else f"{text} 00:00:00"
