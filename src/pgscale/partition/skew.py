"""Expected rows per partition from the planner's statistics. Pure."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from datetime import datetime
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
    """Count the rows that the statistics place in each range; None where they tell nothing of the ranges."""
    spread = read_spread(histogram, statistics)
    filled = tuple(leaf for leaf in leaves if leaf.bound != "DEFAULT")
    if spread is None or not filled:
        return None
    counts: list[float] = []
    for leaf in filled:
        low, _, high = leaf.bound.removeprefix("FOR VALUES FROM (").removesuffix(")").partition(") TO (")
        ends = _end(low), _end(high)
        counts.append(rows * spread.share(*ends) if None not in ends else 0.0)  # type: ignore[arg-type]  # because neither is None, just checked
    if not sum(counts):
        return None
    while len(counts) > 1 and counts[-1] == 0:
        # Periods that are still to come are empty by design.
        counts.pop()
    return _skew(filled[: len(counts)], counts, f"pg_stats: histogram of {len(histogram)} bounds and {rows:,} rows")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How rows lie along a key with an order, as pg_stats has it.

    A position is a number, or of a time the seconds since 1970 (UTC).

    Args:
        bounds: of buckets with equally many rows each, ascending; empty without a histogram.
        bucket_share: the part of all rows that lie in the buckets together.
        points: the most common values, each with its part of all rows.
        lowest, highest: the texts of the least and the greatest value that the statistics know.
    """

    bounds: tuple[float, ...]
    bucket_share: float
    points: tuple[tuple[float, float], ...]
    lowest: str
    highest: str

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest position."""
        known = [*self.bounds, *(position for position, _ in self.points)]
        return min(known), max(known)

    def share(self, low: float, high: float) -> float:
        """Return the part of all rows in [low, high); within a bucket rows are taken to lie evenly."""
        among = sum(share for position, share in self.points if low <= position < high)
        return among + self.bucket_share * (self._below(high) - self._below(low))

    def recent(self, part: float) -> float:
        """Return the position from which on this part of the rows lies (0 to 1), counted from the greatest."""
        low, high = self.ends
        # Beyond the greatest value: a range excludes its end.
        end = math.nextafter(high, math.inf)
        for position in sorted({*self.bounds, *(p for p, _ in self.points)}, reverse=True):
            if self.share(position, end) >= part:
                return position
        return low

    def _below(self, position: float) -> float:
        """Return the part of the buckets' rows below a position."""
        bounds = self.bounds
        if not bounds or position <= bounds[0]:
            return 0.0
        if position > bounds[-1]:
            return 1.0
        number = bisect.bisect_left(bounds, position) - 1
        low, high = bounds[number], bounds[number + 1]
        inside = (position - low) / (high - low) if high > low else 1.0
        return (number + inside) / (len(bounds) - 1)


def read_spread(histogram: list[str], statistics: ColumnStatistics) -> Spread | None:
    """Return how rows lie along the key; None when the statistics know no finite value of it."""
    values = statistics.values or []
    texts = {text: position for text in (*histogram, *values) if (position := _position(text)) is not None}
    if not texts:
        return None
    bounds = sorted(texts[text] for text in histogram if text in texts)
    frequencies = statistics.frequencies or []
    points = [(texts[v], f) for v, f in zip(values, frequencies, strict=False) if v in texts]
    return Spread(
        bounds=tuple(bounds) if len(bounds) > 1 else (),
        bucket_share=max(0.0, 1.0 - sum(frequencies) - statistics.null_frac) if len(bounds) > 1 else 0.0,
        points=tuple(points),
        lowest=min(texts, key=texts.__getitem__),
        highest=max(texts, key=texts.__getitem__),
    )


def _end(bound: str) -> float | None:
    """Return the position of one end of a range."""
    return {"MINVALUE": -math.inf, "MAXVALUE": math.inf}.get(bound, _position(bound.strip("'")))


def _position(value: str) -> float | None:
    """Return the number or the seconds since 1970 that a text stands for, None when it is neither or not finite."""
    try:
        number = Decimal(value)
        return float(number) if number.is_finite() else None
    except InvalidOperation:
        pass
    try:
        return (datetime.fromisoformat(value.removesuffix("+00")) - datetime(1970, 1, 1)).total_seconds()
    except ValueError:
        return None
