"""Values of advice: what it rests on, the keys that come into question, and what is said of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pgscale.catalog.model import ColumnStatistics, TableFacts
from pgscale.core.model import Json, QName
from pgscale.partition.bounds import show_by
from pgscale.partition.model import By, JudgedStatement, Leaf, Skew
from pgscale.partition.skew import Combinations
from pgscale.partition.workload import CountedStatement

Worth = Literal["worthwhile", "premature", "useless", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnEvidence:
    """What pg_stats has of one column.

    Args:
        hashes: the 64-bit partition hash of each most common value; empty when there are none, or no hash function.
    """

    name: str
    statistics: ColumnStatistics
    histogram: tuple[str, ...] = ()
    hashes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """effective_cache_size: what the planner takes the server's memory for caching to be, bytes."""

    cache_bytes: int
    is_default: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementSource:
    """The statements that mention the table, and how far they are known.

    Args:
        name: `pg_stat_statements`, or the file's name.
        since: when the counting began, as text; empty when that is not known.
        is_timed: the times were measured; else each call counts as one millisecond.
        hidden, via_views, left_out: as in partition.model.Workload.
    """

    name: str
    statements: tuple[CountedStatement, ...]
    since: str = ""
    is_timed: bool = True
    hidden: int = 0
    via_views: int = 0
    left_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything advice is made from, read from the catalog and the statistics; no row of the table was read.

    Args:
        columns: those that have statistics which this login may see.
        combinations: how many combinations of columns there are, where extended statistics count them.
        source: None when the statements could not be read.
        unchecked: what could not be looked at, each a sentence with its reason.
    """

    facts: TableFacts
    columns: tuple[ColumnEvidence, ...]
    combinations: tuple[tuple[frozenset[str], Combinations], ...]
    memory: Memory
    source: StatementSource | None
    unchecked: tuple[str, ...]

    def column(self, name: str) -> ColumnEvidence | None:
        return next((c for c in self.columns if c.name == name), None)

    @property
    def table_bytes(self) -> int:
        table = self.facts.table
        return table.heap_bytes + table.toast_bytes + table.index_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A key that comes into question, before it is judged.

    Args:
        leaves: the partitions as they would be today, as far as the statistics know.
        sizing: why that many, or that period: a sentence with its numbers.
        growth_bytes_per_s: what the table grows by at the recent rate; None when the key does not tell.
    """

    by: By
    leaves: tuple[Leaf, ...]
    sizing: str
    skew: Skew | None = None
    growth_bytes_per_s: float | None = None

    @property
    def partitions(self) -> int:
        return max(1, sum(leaf.bound != "DEFAULT" for leaf in self.leaves))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """How the statements that read the table by conditions would fare: parts of their time and of their calls.

    `depends`: the planner decides each time, by the plan of a join or subquery.
    """

    statements: int
    calls: int
    pruned_time: float
    depends_time: float
    pruned_calls: float
    depends_calls: float
    unpruned: tuple[JudgedStatement, ...]

    def to_json(self) -> dict[str, Json]:
        total = sum(s.total_ms for s in self.unpruned)
        return {
            "statements": self.statements,
            "calls": self.calls,
            "time_share": {"pruned": round(self.pruned_time, 4), "depends": round(self.depends_time, 4)},
            "calls_share": {"pruned": round(self.pruned_calls, 4), "depends": round(self.depends_calls, 4)},
            "unpruned_ms": round(total, 3),
            "unpruned": [{"query": s.text, "calls": s.calls, "total_ms": round(s.total_ms, 3)} for s in self.unpruned],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class GrownKey:
    """A unique key that would have to take in the partition key, and the calls that rely on it as it is."""

    name: str
    is_primary: bool
    columns: tuple[str, ...]
    missing: tuple[str, ...]
    conflict_calls: int | None

    def to_json(self) -> dict[str, Json]:
        return {
            "name": self.name,
            "primary": self.is_primary,
            "columns": list(self.columns),
            "grows_by": list(self.missing),
            "on_conflict_calls": self.conflict_calls,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """One part of a candidate's score."""

    name: str
    got: float
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A key that was judged.

    Args:
        reasons: what speaks for it and against it, each a sentence with its numbers.
        blockers: why `plan` would refuse it; a blocked candidate comes after all others.
        command: the exact command that shows what a run would do.
    """

    proposal: Proposal
    points: tuple[Points, ...]
    pruning: Pruning | None
    grown: tuple[GrownKey, ...]
    reasons: tuple[str, ...]
    blockers: tuple[str, ...]
    command: str

    @property
    def by(self) -> str:
        return show_by(self.proposal.by)

    @property
    def score(self) -> float:
        """Between 0 and 100, over what could be checked."""
        most = sum(p.most for p in self.points)
        return max(0.0, 100 * sum(p.got for p in self.points) / most) if most else 0.0

    def to_json(self) -> dict[str, Json]:
        skew = self.proposal.skew
        return {
            "by": self.by,
            "method": self.proposal.by.method,
            "columns": list(self.proposal.by.columns),
            "partitions": self.proposal.partitions,
            "score": round(self.score, 1),
            "points": {p.name: {"got": round(p.got, 1), "most": p.most} for p in self.points},
            "pruning": self.pruning.to_json() if self.pruning else None,
            "largest_over_mean": round(skew.largest_over_mean, 2) if skew else None,
            "keys_that_grow": [key.to_json() for key in self.grown],
            "sizing": self.proposal.sizing,
            "reasons": list(self.reasons),
            "blockers": list(self.blockers),
            "command": self.command,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Whether to partition a table, and by which key: the candidates, best first.

    Args:
        worth: whether partitioning is worth its cost now; `unknown` when the statements could not be checked.
        because: why, each a sentence with its numbers.
        target_bytes: the size of a partition, with its indexes, that was aimed at.
        source: what the statements come from; empty when they were not checked.
        blockers: why a run would be refused whatever the key.
    """

    table: QName
    worth: Worth
    because: tuple[str, ...]
    rows: int
    table_bytes: int
    target_bytes: int
    source: str
    candidates: tuple[Candidate, ...]
    blockers: tuple[str, ...]
    unchecked: tuple[str, ...]

    @property
    def best(self) -> Candidate | None:
        """The first candidate, when a run by it would not be refused."""
        first = self.candidates[0] if self.candidates and not self.blockers else None
        return first if first is not None and not first.blockers else None

    def to_json(self) -> dict[str, Json]:
        return {
            "table": str(self.table),
            "worth": self.worth,
            "because": list(self.because),
            "rows": self.rows,
            "table_bytes": self.table_bytes,
            "target_partition_bytes": self.target_bytes,
            "source": self.source or None,
            "best": self.best.by if self.best else None,
            "command": self.best.command if self.best else None,
            "candidates": [c.to_json() for c in self.candidates],
            "blockers": list(self.blockers),
            "not_checked": list(self.unchecked),
        }
