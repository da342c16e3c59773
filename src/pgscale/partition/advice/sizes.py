"""How large a partition should be, and which period, step or number of partitions comes to that. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pgscale.core.units import format_bytes, format_duration
from pgscale.partition.advice.model import Memory
from pgscale.partition.skew import Spread

# The partitions in use at one time (the newest, the one before, what reports read) should stay in memory together
# with whatever else is in use: an eighth of it for one.
PART_OF_MEMORY = 8
# A partition is also what is vacuumed, indexed, archived and restored in one go; beyond this each takes an hour.
LARGEST_BYTES = 64 * 1024**3
# Planning grows with the partitions that remain after pruning, and each statement that is not pruned opens and locks
# all of them with their indexes. PostgreSQL's manual (5.12.6) says up to a few thousand do fairly well when nearly
# all are pruned; this stays an order of magnitude below.
MOST_RANGES = 400
MOST_HASHES, LEAST_HASHES = 256, 4
# A hash cannot grow without moving rows: room for a table twice as large.
HASH_ROOM = 2
# A hash with fewer values a partition than this is uneven by chance.
VALUES_A_PARTITION = 8
# How much of the rows, counted from the newest, tells the present rate of growth.
RECENT = 0.1

_HOUR, _DAY = 3600.0, 86_400.0
# A `month` here is a mean one.
PERIOD_S = {
    "1 hour": _HOUR,
    "6 hours": 6 * _HOUR,
    "day": _DAY,
    "week": 7 * _DAY,
    "month": 30.44 * _DAY,
    "quarter": 91.31 * _DAY,
    "year": 365.25 * _DAY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A period, a step or a number, and why: a sentence with its numbers.

    Args:
        growth_bytes_per_s: the recent rate, for times.
    """

    step: str
    why: str
    growth_bytes_per_s: float | None = None


def target_bytes(memory: Memory) -> int:
    """Return the size of a partition, indexes included, to aim at."""
    return min(LARGEST_BYTES, max(1, memory.cache_bytes // PART_OF_MEMORY))


def describe_target(memory: Memory) -> str:
    """Return what the size aimed at rests on, in words."""
    target = target_bytes(memory)
    default = " (its default: set it to what this server has)" if memory.is_default else ""
    if target == LARGEST_BYTES:
        return f"aimed at {format_bytes(target)}, the most that is still vacuumed and archived in reasonable time"
    cache = f"effective_cache_size {format_bytes(memory.cache_bytes)}"
    return f"aimed at {format_bytes(target)}, an eighth of {cache}{default}"


def choose_period(spread: Spread | None, table_bytes: int, memory: Memory, *, by_day: bool) -> Size:
    """Return the period whose partitions come nearest to the size aimed at, at the recent rate of growth.

    Args:
        spread: None when there are no statistics; then it is a month.
        by_day: the column is a date, which no period shorter than a day divides.
    """
    if spread is None:
        return Size(step="month", why="month: the usual first choice, as the column has no statistics to go by")
    low, high = spread.ends
    since = spread.recent(RECENT)
    part = spread.share(since, math.nextafter(high, math.inf))
    rate = table_bytes * part / max(_DAY if by_day else 1.0, high - since)
    periods = {name: s for name, s in PERIOD_S.items() if not by_day or s >= _DAY}
    few = [n for n, s in periods.items() if (high - low) / s <= MOST_RANGES] or ["year"]

    def misses_by(name: str) -> float:
        return abs(math.log(max(1.0, rate * periods[name]) / target_bytes(memory)))

    wanted, step = min(periods, key=misses_by), min(few, key=misses_by)
    count = math.floor((high - low) / periods[step]) + 1
    limit = f"; periods of a {wanted} would be more than {MOST_RANGES} partitions" if wanted != step else ""
    return Size(
        step=step,
        growth_bytes_per_s=rate,
        why=(
            f"{step}: about {format_bytes(rate * periods[step])} a partition with its indexes, at the"
            f" {format_bytes(rate * _DAY)} a day of the newest {part:.0%} of rows; {describe_target(memory)};"
            f" some {count:,} partition{'s' if count > 1 else ''} for the {format_duration(high - low)} of today{limit}"
        ),
    )


def choose_step(spread: Spread | None, table_bytes: int, rows: int, memory: Memory) -> Size:
    """Return the step of numbers whose partitions come nearest to the size aimed at."""
    row_bytes = table_bytes / max(1, rows)
    per_partition = max(1.0, target_bytes(memory) / max(1.0, row_bytes))
    if spread is None:
        step = _round(per_partition)
        return Size(step=f"{step:.0f}", why=f"step {step:,.0f}: {describe_target(memory)}, if no number is left out")
    low, high = spread.ends
    # Rows a number: gaps (rolled back, deleted) make it less than one.
    density = rows / max(1.0, high - low)
    step = max(_round(per_partition / max(density, 1e-9)), _round((high - low) / MOST_RANGES, up=True), 1.0)
    size = step * density * row_bytes
    count = math.floor((high - low) / step) + 1
    return Size(
        step=f"{step:.0f}",
        why=(
            f"step {step:,.0f}: about {format_bytes(min(size, table_bytes))} a partition with its indexes"
            f" ({row_bytes:,.0f} bytes a row, {density:.2f} rows for each number); {describe_target(memory)};"
            f" some {count:,} partition{'s' if count > 1 else ''} today"
        ),
    )


def choose_hashes(table_bytes: int, memory: Memory, distinct: float | None) -> Size:
    """Return the number of hash partitions, a power of two, with room for a larger table.

    Args:
        distinct: how many different values the key has; None when that is not known.
    """
    wanted = min(MOST_HASHES, HASH_ROOM * table_bytes / target_bytes(memory))
    if distinct is not None:
        wanted = min(wanted, distinct / VALUES_A_PARTITION)
    count = LEAST_HASHES
    while count < wanted:
        count *= 2
    return Size(
        step=str(count),
        why=(
            f"{count} partitions of about {format_bytes(table_bytes / count)} with indexes; {describe_target(memory)},"
            f" with room for a table twice as large, as a hash cannot be made finer without moving rows"
        ),
    )


def _round(number: float, *, up: bool = False) -> float:
    """Return 1, 2 or 5 times a power of ten: the nearest, or the next that is not smaller."""
    if number <= 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(number))
    steps = [power, 2 * power, 5 * power, 10 * power]
    if up:
        return next(s for s in steps if s >= number * (1 - 1e-9))
    return min(steps, key=lambda s: abs(math.log(s / number)))
