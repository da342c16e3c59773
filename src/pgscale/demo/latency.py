"""What a load felt: pgbench's per-transaction log as samples, percentiles and gaps."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, NamedTuple

from pgscale.core.model import Json


class Sample(NamedTuple):
    """One transaction that ended: when (Unix time, seconds), how long it took, and whether it failed.

    With a rate limit the latency counts from the moment the transaction was due, so a server that
    stalls cannot hide behind a client that waits for it.
    """

    at_s: float
    latency_ms: float
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Percentiles over the served transactions of a window; all zero when there were none."""

    count: int = 0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0

    def to_json(self) -> dict[str, Json]:
        return {
            "count": self.count,
            "p50_ms": round(self.p50_ms, 3),
            "p95_ms": round(self.p95_ms, 3),
            "p99_ms": round(self.p99_ms, 3),
            "max_ms": round(self.max_ms, 3),
        }


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank, never invented).

    Args:
        ordered: values in ascending order, at least one.
        share: between 0 and 1.
    """
    return ordered[min(len(ordered), max(1, math.ceil(share * len(ordered)))) - 1]


def latency_of(samples: Iterable[Sample]) -> Latency:
    """Summarize the served ones among the samples; failed transactions have no latency."""
    ordered = sorted(sample.latency_ms for sample in samples if not sample.failed)
    if not ordered:
        return Latency()
    return Latency(
        count=len(ordered),
        p50_ms=percentile(ordered, 0.50),
        p95_ms=percentile(ordered, 0.95),
        p99_ms=percentile(ordered, 0.99),
        max_ms=ordered[-1],
    )


def between(samples: Sequence[Sample], start_s: float, end_s: float) -> Sequence[Sample]:
    """The samples that ended in [start_s, end_s); `samples` must be in order of time."""
    first = bisect_left(samples, start_s, key=_ended_at)
    return samples[first : bisect_left(samples, end_s, lo=first, key=_ended_at)]


def longest_gap_ms(samples: Sequence[Sample]) -> float:
    """The longest time in which no transaction was served; `samples` must be in order of time."""
    served = [sample.at_s for sample in samples if not sample.failed]
    return max((b - a for a, b in pairwise(served)), default=0.0) * 1000.0


def parse_sample(line: str) -> Sample | None:
    """Read one line of pgbench's per-transaction log; None for a transaction that was skipped.

    The fields are client, transaction number, latency in microseconds or a word (`failed`,
    `serialization`, `deadlock`, `skipped`), script, and the end as seconds and microseconds of Unix time.
    https://www.postgresql.org/docs/18/pgbench.html, "Per-Transaction Logging".

    Raises:
        ValueError: the line is not of this form.
    """
    fields = line.split()
    if len(fields) < 6:
        raise ValueError(f"not a line of a pgbench log: {line!r}")
    at_s = int(fields[4]) + int(fields[5]) / 1e6
    word = fields[2]
    if word == "skipped":
        return None
    if word.isdigit():
        return Sample(at_s, int(word) / 1000.0)
    if word in {"failed", "serialization", "deadlock"}:
        return Sample(at_s, 0.0, failed=True)
    raise ValueError(f"not a line of a pgbench log: {line!r}")


def _ended_at(sample: Sample) -> float:
    return sample.at_s


class LogTail:
    """Follows the log files of one pgbench process while it writes them.

    pgbench writes a file per thread (`PREFIX.PID`, `PREFIX.PID.1`, …) through a 4 kB buffer, so the tail
    is behind by the time the load takes to fill it: about 0.1 s at 1,000 transactions a second. A line
    that is only half there waits for its other half.

    Args:
        directory: where the logs are, and nothing else.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[Path, IO[str]] = {}
        self._halves: dict[Path, str] = {}
        self._closed = False

    def read(self) -> list[Sample]:
        """Everything that was written since the last call, in order of time; nothing once closed."""
        if self._closed:
            return []
        for path in self._directory.iterdir():
            if path not in self._files:
                self._files[path] = path.open(encoding="ascii")
                self._halves[path] = ""
        samples: list[Sample] = []
        for path, file in self._files.items():
            lines = (self._halves[path] + file.read()).split("\n")
            self._halves[path] = lines.pop()
            samples.extend(sample for line in lines if (sample := parse_sample(line)))
        samples.sort()
        return samples

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._closed = True
