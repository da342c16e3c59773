"""What a rehearsal is asked for and what it finds."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pgscale.core.model import Json, QName
from pgscale.errors import UsageError
from pgscale.partition.estimate import MeasuredCopy
from pgscale.partition.model import SCRATCH_PREFIX, Estimate, Options

# Shorter than this a copy is mostly its beginning and its end, and says nothing of a table.
LEAST_COPY_S = 1.0
_SHARE = re.compile(r"^(\d+(?:\.\d+)?)\s*%$")
_COUNT = re.compile(r"^\d+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """How much of the table is rehearsed: a share of its pages, or about so many rows."""

    share: float | None = None
    rows: int | None = None

    @staticmethod
    def parse(text: str) -> Amount:
        """Return the amount from `1%`, `0.5%` or `100000`.

        Raises:
            UsageError: it is neither.
        """
        share, count = _SHARE.match(text.strip()), _COUNT.match(text.strip().replace("_", ""))
        if share is not None and 0 < float(share[1]) <= 100:
            return Amount(share=float(share[1]) / 100)
        if count is not None and int(count[0]) > 0:
            return Amount(rows=int(count[0]))
        raise UsageError(f"--rows is {text!r}; write a share such as 1% or a number of rows such as 100000.")

    def share_of(self, rows: int) -> float:
        """Return the share of the pages of a table of so many rows."""
        if self.share is not None:
            return self.share
        assert self.rows is not None
        return min(1.0, self.rows / max(1, rows))


def scratch_of(oid: int, name: str) -> QName:
    """Return the name of a table's scratch copy, alone in its schema."""
    return QName(schema=f"{SCRATCH_PREFIX}{oid}", name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsedPhase:
    """What a phase took, and the WAL that the server wrote meanwhile, of whoever."""

    name: str
    took_s: float
    wal_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What the rehearsal found, and what the whole table would take.

    Args:
        rows, heap_bytes, index_bytes: of the scratch copy.
        skipped_chunks: left out because a row had moved between two chunks and came twice.
        leftovers: schemas of a rehearsal that was killed, removed before this one.
        measured: what a plan rests on; stored tells whether it was kept for that.
        doubt: why the figures say little, empty when they do.
    """

    table: str
    options: Options
    share: float
    rows: int
    heap_bytes: int
    index_bytes: int
    partitions: int
    skipped_chunks: int
    phases: tuple[RehearsedPhase, ...]
    blocked_ms: float
    leftovers: tuple[str, ...]
    measured: MeasuredCopy
    estimate: Estimate
    stored: bool
    doubt: str

    def phase(self, name: str) -> RehearsedPhase | None:
        return next((p for p in self.phases if p.name == name), None)

    @property
    def wal_bytes_per_row(self) -> float:
        return sum(p.wal_bytes for p in self.phases) / max(1, self.rows)

    def to_json(self) -> dict[str, Json]:
        return {
            "table": self.table,
            "options": self.options.to_json(),
            "share": round(self.share, 6),
            "rows": self.rows,
            "heap_bytes": self.heap_bytes,
            "index_bytes": self.index_bytes,
            "partitions": self.partitions,
            "skipped_chunks": self.skipped_chunks,
            "phases": {p.name: {"took_s": round(p.took_s, 3), "wal_bytes": p.wal_bytes} for p in self.phases},
            "wal_bytes_per_row": round(self.wal_bytes_per_row, 1),
            "blocked_ms": round(self.blocked_ms, 1),
            "leftovers_removed": list(self.leftovers),
            "stored": self.stored,
            "doubt": self.doubt,
            "whole_table": self.estimate.to_json(),
        }
