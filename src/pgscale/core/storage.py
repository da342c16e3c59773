"""Storage that bursts and then falls to its baseline: token buckets, integrated over time. Pure.

Throughput is I/O operations a second times the size of one. Each limit of a volume, or of the instance it hangs on,
is a bucket: it gives `burst` units a second while it has credit, `baseline` for ever, and credit comes back at the
baseline. What limits is the smallest of all. While the demand stays the same, the rate can only fall, and only when
a bucket runs empty: between these moments it is constant, so the integral is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

# PostgreSQL reads and writes pages of 8 kB; what is adjacent is merged on its way, by Linux up to read_ahead_kb,
# which is 128 by default. How much of it is, differs: an estimate looks at both.
LEAST_IO_BYTES, MOST_IO_BYTES = 8 * 1024, 128 * 1024

Credits: TypeAlias = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """One limit.

    Args:
        unit: `io` counts operations, `bytes` counts bytes.
        baseline: units a second for ever, and what the credit grows by.
        burst: units a second while there is credit; not below the baseline.
        credit: units that a full bucket holds; without any nothing bursts.
        of: whose limit it is, for a person.
    """

    unit: Literal["io", "bytes"]
    baseline: float
    burst: float
    credit: float = 0.0
    of: str = "the volume"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.baseline) and 0 < self.baseline <= self.burst and self.credit >= 0):
            raise ValueError(
                f"a baseline of {self.baseline:g}, a burst of {self.burst:g} and a credit of {self.credit:g} do not fit"
            )

    def bytes_per_s(self, credit: float, io_bytes: float) -> float:
        """Return what it lets through with this much credit."""
        return (self.burst if credit > 0 else self.baseline) * self.bytes_per_unit(io_bytes)

    def bytes_per_unit(self, io_bytes: float) -> float:
        return io_bytes if self.unit == "io" else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A time of constant rate; `emptied` is the number of the bucket that ran empty at its end, if one did."""

    seconds: float
    bytes_per_s: float
    emptied: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """The limits that I/O passes, one after the other.

    Args:
        name: for a person.
        buckets: every limit.
        least_io_bytes, most_io_bytes: between which the size of an operation lies.
    """

    name: str
    buckets: tuple[Bucket, ...]
    least_io_bytes: float = LEAST_IO_BYTES
    most_io_bytes: float = MOST_IO_BYTES

    def __post_init__(self) -> None:
        if not self.buckets:
            raise ValueError("storage without a limit is not described")
        if not 0 < self.least_io_bytes <= self.most_io_bytes:
            raise ValueError("the size of an operation is more than nothing")

    def full(self) -> Credits:
        return tuple(b.credit for b in self.buckets)

    def empty(self) -> Credits:
        return (0.0,) * len(self.buckets)

    def bytes_per_s(self, credits: Credits, io_bytes: float) -> float:
        """Return what it gives at this moment to whoever wants all of it."""
        return min(b.bytes_per_s(c, io_bytes) for b, c in zip(self.buckets, credits, strict=True))

    def move(
        self, amount_bytes: float, *, io_bytes: float, credits: Credits, demand_bytes_per_s: float = math.inf
    ) -> tuple[tuple[Stretch, ...], Credits]:
        """Return how long it takes to move so many bytes, as times of constant rate, and the credit left.

        Args:
            demand_bytes_per_s: as fast as the one who moves them could on storage without limits.

        Raises:
            ValueError: the demand is nothing.
        """
        if demand_bytes_per_s <= 0:
            raise ValueError("without a demand nothing ever moves")
        stretches: list[Stretch] = []
        left = amount_bytes
        while left > 0:
            rate = min(demand_bytes_per_s, self.bytes_per_s(credits, io_bytes))
            seconds = left / rate
            emptied: int | None = None
            for number, (bucket, credit) in enumerate(zip(self.buckets, credits, strict=True)):
                drain = rate / bucket.bytes_per_unit(io_bytes) - bucket.baseline
                if credit > 0 and drain > 0 and credit / drain < seconds:
                    seconds, emptied = credit / drain, number
            credits = self.spend(credits, rate * seconds, seconds, io_bytes)
            left = left - rate * seconds if emptied is not None else 0.0
            if emptied is not None:
                credits = (*credits[:emptied], 0.0, *credits[emptied + 1 :])
            stretches.append(Stretch(seconds=seconds, bytes_per_s=rate, emptied=emptied))
        return tuple(stretches), credits

    def spend(self, credits: Credits, amount_bytes: float, seconds: float, io_bytes: float) -> Credits:
        """Return the credit left after so many bytes in so many seconds, evenly; nothing moved is a rest."""
        return tuple(
            min(b.credit, max(0.0, c + b.baseline * seconds - amount_bytes / b.bytes_per_unit(io_bytes)))
            for b, c in zip(self.buckets, credits, strict=True)
        )

    def never_falling(self) -> Storage:
        """Return the same storage if its credit lasted for ever: what the first minutes make believe."""
        lasting = (replace(b, baseline=b.burst, credit=0.0) for b in self.buckets)
        return replace(self, buckets=tuple(lasting))

    def with_used(self, io_per_s: float, bytes_per_s: float) -> Storage:
        """Return what is left when the application takes so much of it all the time.

        Raises:
            ValueError: nothing is left of the baseline.
        """
        left: list[Bucket] = []
        for b in self.buckets:
            used = io_per_s if b.unit == "io" else bytes_per_s
            if used >= b.baseline:
                unit = "I/O operations" if b.unit == "io" else "bytes"
                raise ValueError(f"the application's {used:,.0f} {unit}/s leave nothing of {b.of}'s {b.baseline:,.0f}")
            left.append(replace(b, baseline=b.baseline - used, burst=b.burst - used))
        return replace(self, buckets=tuple(left))


def total_s(stretches: Iterable[Stretch]) -> float:
    return sum(s.seconds for s in stretches)
