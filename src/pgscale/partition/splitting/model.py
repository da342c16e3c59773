"""Values of splitting: what was asked, where the partition hangs, what it becomes, and the plan."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

from pgscale.core.model import Json, QName, Step
from pgscale.livecopy.model import Pair
from pgscale.partition.lifecycle.model import Child
from pgscale.partition.model import Estimate, Leaf, Options, Pace, Skew, Statements, Verify, Workload

DEFAULT = "DEFAULT"


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitOptions:
    """What is asked of a split.

    Args:
        partition: the partition to divide, as in SQL; when None, the largest whose rows belong to more than one part.
        every: day, week, month, quarter, year, an interval such as `6 hours`, or a number, for a range; when None,
            what the other partitions have.
        values: list values that get a partition of their own; all when empty.
        time_zone: whose midnight begins a period, for `timestamp with time zone`.
        workers, pace, max_block_s, lock_timeout_s, max_replica_lag_s, chunk_target_s, verify, cutover: as in Options.

    Raises:
        UsageError: a number out of range, or an unknown word.
    """

    partition: str | None = None
    every: str | None = None
    values: tuple[str, ...] = ()
    time_zone: str = "UTC"
    workers: int | None = None
    pace: Pace = "normal"
    max_block_s: float = 1.0
    lock_timeout_s: float = 0.1
    max_replica_lag_s: float = 10.0
    chunk_target_s: float = 0.25
    verify: Verify = "full"
    cutover: bool = True

    def __post_init__(self) -> None:
        # The same limits hold as for any run.
        self.as_options("split")

    def as_options(self, by: str) -> Options:
        """Return what a run reads of its options."""
        return Options(
            by=by,
            values=self.values,
            workers=self.workers,
            pace=self.pace,
            max_block_s=self.max_block_s,
            lock_timeout_s=self.lock_timeout_s,
            max_replica_lag_s=self.max_replica_lag_s,
            chunk_target_s=self.chunk_target_s,
            verify=self.verify,
            cutover=self.cutover,
        )

    def same_goal(self, other: SplitOptions) -> bool:
        """Tell whether both ask for the same partitions, whatever the pace and limits."""
        return (self.every, self.values, self.time_zone) == (other.every, other.values, other.time_zone)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The partitioned table above; `column` is None where the key is an expression or has several columns.

    `key_is_plain`: it is compared by its type's default operator class and its own collation.
    """

    oid: int
    schema: str
    name: str
    owner: str
    kind: str
    strategy: str | None
    key_count: int
    column: str | None
    type_name: str | None
    key_is_plain: bool
    is_partition: bool

    @property
    def qname(self) -> QName:
        return QName(schema=self.schema, name=self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the partition hangs, and what it has that its parent has not.

    Args:
        leaf: the partition; siblings: the parent's other partitions.
        condition: what the bound says of a row, as the server deparsed it.
        own_triggers: names; own_indexes: oids; lacking_indexes: names of the parent's that the partition lacks.
    """

    parent: Parent
    leaf: Child
    siblings: tuple[Child, ...]
    condition: str
    own_triggers: tuple[str, ...]
    own_indexes: tuple[int, ...]
    lacking_indexes: tuple[str, ...]

    @property
    def default(self) -> Child | None:
        """The DEFAULT partition, where the one to be divided is another."""
        return next((c for c in self.siblings if c.is_default), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A partition that the old one is divided into.

    Args:
        name: what it will be called; staged: what it is called until the cut-over, which is the same but for a new
            DEFAULT partition, whose name the old one still has.
        bound: as SQL.
    """

    name: QName
    staged: QName
    bound: str

    @property
    def is_default(self) -> bool:
        return self.bound == DEFAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPlan:
    """The whole split as data: what a dry run prints and what a run executes and stores in the ledger.

    Args:
        table: the partition that is divided; parent: the table it is a partition of.
        by: the division as `--by` would say it; bound: the partition's own.
        fingerprint: of the partition's definition; signature: of what the swap rests on above it.
        watches_all: the swap rests on every partition of the parent.
        undo_before: transactions that prove, before undo's swap, what it needs proved.
    """

    table: QName
    table_oid: int
    parent: QName
    parent_oid: int
    owner: str
    server_version: int
    asked: SplitOptions
    by: str
    bound: str
    pieces: tuple[Piece, ...]
    steps: tuple[Step, ...]
    forward: Pair
    reverse: Pair
    statements: Statements
    undo_before: tuple[tuple[str, ...], ...]
    fingerprint: str
    signature: str
    watches_all: bool
    warnings: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    estimate: Estimate | None = None
    skew: Skew | None = None
    workload: Workload | None = None
    walks_keys: bool = False
    strategy: str = field(default="split")

    @property
    def options(self) -> Options:
        return self.asked.as_options(self.by)

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        return tuple(Leaf(name=piece.name.name, bound=piece.bound) for piece in self.pieces)

    @property
    def retained(self) -> QName:
        return self.reverse.target

    def log_of(self, state: str) -> Pair:
        """Return the pair whose log is applied in this state of the run."""
        return self.reverse if state == "cut-over" else self.forward

    def within(self, max_block_s: float) -> Self:
        """Return the plan with another limit for its locks.

        Raises:
            UsageError: the limit is out of range.
        """
        return replace(self, asked=replace(self.asked, max_block_s=max_block_s))

    def to_json(self) -> dict[str, Json]:
        """Return the plan as `split --dry-run --json` prints it."""
        return {
            "table": str(self.parent),
            "partition": str(self.table),
            "bound": self.bound,
            "strategy": self.strategy,
            "by": self.by,
            "partitions": [{"name": p.name.name, "bound": p.bound} for p in self.pieces],
            "steps": [step.to_json() for step in self.steps],
            "application_changes": list(self.changes),
            "warnings": list(self.warnings),
            "not_checked": list(self.unchecked),
            "estimate": self.estimate.to_json() if self.estimate else None,
            "refused": [],
        }
