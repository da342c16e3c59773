"""Values of partitioning: what was asked, the leaves to make, and the mirror plan."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, get_args

from pgscale.core.model import Json, QName, Step
from pgscale.errors import UsageError
from pgscale.livecopy.model import Pair
from pgscale.partition.volumes import parse_storage

Method = Literal["hash", "range", "list"]
Pace = Literal["gentle", "normal", "fast"]
Verify = Literal["full", "none"]
# `auto` is none of them: a plan has the one it chose.
StrategyName = Literal["mirror", "attach", "move", "auto"]
STRATEGY_NAMES: tuple[str, ...] = get_args(StrategyName)

MOST_LEAVES = 4096
# The one kind of schema of our own whose tables may be partitioned: those of rehearsals.
SCRATCH_PREFIX = "pgscale_rehearse_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is asked of a run.

    Args:
        by: `hash:COL[,COL]`, `range:COL:day|week|month|quarter|year|STEP`, `list:COL`.
        partitions: number of hash partitions; required for hash, refused otherwise.
        values: list values that get a partition of their own; all that occur when empty.
        workers: parallel copy workers, 1 to 64; by default two, one at the gentle pace.
        pace: how much the application may feel; see livecopy.throttle.
        max_block_s: longest time the table may be locked at the cut-over, seconds.
        lock_timeout_s: longest wait for a lock, and so the longest queue behind it, seconds.
        max_replica_lag_s: copying pauses while a standby is further behind, seconds.
        chunk_target_s: the time one chunk should take, seconds.
        verify: `full` compares every row; `none` skips it.
        accept_key_change: unique keys that lack the partition key may grow by it.
        cutover: False stops before the swap and keeps applying.
        default_partition: rows outside every bound land in `<table>_default` instead of failing.
        storage: what the volume gives, for estimates only; see partition.volumes. None: not known.
        strategy: how the table becomes partitioned; see partition.strategies. `auto` chooses one.
        free_disk_bytes: free disk where the copy would lie, for `auto`; None looks itself, where it can.
        strategy_reasons: why `auto` chose the strategy; a plan's options have them, a caller gives none.
    """

    by: str
    partitions: int | None = None
    values: tuple[str, ...] = ()
    workers: int | None = None
    pace: Pace = "normal"
    max_block_s: float = 1.0
    lock_timeout_s: float = 0.1
    max_replica_lag_s: float = 10.0
    chunk_target_s: float = 0.25
    verify: Verify = "full"
    accept_key_change: bool = False
    cutover: bool = True
    default_partition: bool = True
    strategy: StrategyName = "mirror"
    storage: str | None = None
    free_disk_bytes: int | None = None
    strategy_reasons: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.workers is not None and not 1 <= self.workers <= 64:
            raise UsageError(f"workers is {self.workers}; it must be between 1 and 64.")
        if self.pace not in ("gentle", "normal", "fast"):
            raise UsageError(f"There is no pace {self.pace!r}.", hint="Use gentle, normal or fast.")
        if self.verify not in ("full", "none"):
            raise UsageError(f"There is no verification {self.verify!r}.", hint="Use full or none.")
        if self.strategy not in STRATEGY_NAMES:
            raise UsageError(f"There is no strategy {self.strategy!r}.", hint=f"Use {' or '.join(STRATEGY_NAMES)}.")
        if self.storage is not None:
            parse_storage(self.storage)
        if self.free_disk_bytes is not None and self.free_disk_bytes < 0:
            raise UsageError(f"free_disk_bytes is {self.free_disk_bytes}; it cannot be negative.")
        for name in ("max_block_s", "lock_timeout_s", "max_replica_lag_s", "chunk_target_s"):
            value = float(getattr(self, name))
            if not 0.001 <= value <= 86_400:
                raise UsageError(f"{name} is {value:g} s; it must be between 1 ms and one day.")

    def to_json(self) -> dict[str, Json]:
        return {
            "by": self.by,
            "partitions": self.partitions,
            "values": list(self.values),
            "workers": self.workers,
            "pace": self.pace,
            "max_block_s": self.max_block_s,
            "lock_timeout_s": self.lock_timeout_s,
            "max_replica_lag_s": self.max_replica_lag_s,
            "chunk_target_s": self.chunk_target_s,
            "verify": self.verify,
            "accept_key_change": self.accept_key_change,
            "cutover": self.cutover,
            "default_partition": self.default_partition,
            "strategy": self.strategy,
            "storage": self.storage,
            "free_disk_bytes": self.free_disk_bytes,
            "strategy_reasons": list(self.strategy_reasons),
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Options:
        given: dict[str, Any] = {
            **data,
            "values": tuple(data["values"]),
            "strategy_reasons": tuple(data.get("strategy_reasons", ())),
        }
        return Options(**given)

    def same_goal(self, other: Options) -> bool:
        """Tell whether both ask for the same partitioned table, whatever the pace and limits.

        `auto` asks for whichever strategy was chosen: what it chose once is not chosen again.
        """
        return (self.by, self.partitions, self.values, self.default_partition) == (
            other.by,
            other.partitions,
            other.values,
            other.default_partition,
        ) and ("auto" in (self.strategy, other.strategy) or self.strategy == other.strategy)


@dataclass(frozen=True, slots=True, kw_only=True)
class By:
    """A parsed `--by`. `step` is for range only: a period's name or a number or interval."""

    method: Method
    columns: tuple[str, ...]
    step: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One partition: its name and its bound as SQL (`FOR VALUES …` or `DEFAULT`)."""

    name: str
    bound: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One part of the work: seconds at best and at worst, and what it reads and writes, WAL included.

    `limit` says what it waits for at worst: `work` is processors, round trips and the pace, `storage` is I/O.
    """

    name: str
    least_s: float
    most_s: float
    least_bytes: float = 0.0
    most_bytes: float = 0.0
    limit: Literal["work", "storage"] = "work"

    def to_json(self) -> dict[str, Json]:
        return {
            "least_s": round(self.least_s, 1),
            "most_s": round(self.most_s, 1),
            "least_io_bytes": round(self.least_bytes),
            "most_io_bytes": round(self.most_bytes),
            "limit": self.limit,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Sizes in bytes and time in seconds that the run is expected to need, from best to worst.

    `wal_bytes` and `duration_s` are the worst; `basis` says what the time rests on; `burst_trap` says, where the
    storage falls to its baseline on the way, how wrong its first minutes are.
    """

    rows: int
    disk_bytes: int
    wal_bytes: int
    duration_s: float
    basis: str
    least_wal_bytes: int = 0
    least_duration_s: float = 0.0
    phases: tuple[Phase, ...] = ()
    storage: str = ""
    burst_trap: str = ""

    def to_json(self) -> dict[str, Json]:
        return {
            "rows": self.rows,
            "disk_bytes": self.disk_bytes,
            "wal_bytes": {"least": self.least_wal_bytes, "most": self.wal_bytes},
            "duration_s": {"least": round(self.least_duration_s, 1), "most": round(self.duration_s, 1)},
            "phases": {p.name: p.to_json() for p in self.phases},
            "storage": self.storage,
            "burst_trap": self.burst_trap,
            "basis": self.basis,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Skew:
    """Expected rows per partition from statistics, and how uneven that is (largest over mean).

    Where it is not known which partition is the largest, `rows_per_leaf` is empty and the ratio an upper bound.
    """

    rows_per_leaf: tuple[tuple[str, int], ...]
    largest_over_mean: float
    basis: str
    largest_rows: int = 0

    def to_json(self) -> dict[str, Json]:
        return {
            "rows_per_partition": {**dict(self.rows_per_leaf)},
            "largest_over_mean": round(self.largest_over_mean, 2),
            "largest_rows": self.largest_rows,
            "is_upper_bound": not self.rows_per_leaf,
            "basis": self.basis,
        }


Verdict = Literal["pruned", "depends", "unpruned", "no rows read", "not understood"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedStatement:
    """A statement of the application as pg_stat_statements counts it, and whether its partitions are pruned.

    `depends`: the key is compared with another table's column, so it is the planner's choice each time.
    """

    text: str
    calls: int
    total_ms: float
    verdict: Verdict

    @property
    def mean_ms(self) -> float:
        return self.total_ms / max(1, self.calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Every visible statement that mentions the table, judged; most total time first.

    Args:
        since: when the counting began, as text; empty when that is not known.
        hidden: statements of the database whose text this login may not see.
        via_views: statements that mention a view on the table and not the table.
        left_out: visible statements beyond the number that is looked at.
    """

    statements: tuple[JudgedStatement, ...]
    since: str
    hidden: int
    via_views: int
    left_out: int

    def count(self, verdict: Verdict) -> int:
        return sum(s.verdict == verdict for s in self.statements)

    def share(self, statement: JudgedStatement) -> float:
        """Return the statement's part of the time of all statements here, 0 to 1."""
        total = sum(s.total_ms for s in self.statements)
        return statement.total_ms / total if total > 0 else 0.0

    def to_json(self) -> dict[str, Json]:
        return {
            "since": self.since,
            "statements": [
                {
                    "query": s.text,
                    "calls": s.calls,
                    "total_ms": round(s.total_ms, 3),
                    "mean_ms": round(s.mean_ms, 3),
                    "share": round(self.share(s), 4),
                    "verdict": s.verdict,
                }
                for s in self.statements
            ],
            "hidden": self.hidden,
            "via_views": self.via_views,
            "left_out": self.left_out,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MatviewPlaces:
    """A materialized view that is made again: its name, where the new one waits and where the old one is kept."""

    live: QName
    staged: QName
    retained: QName


@dataclass(frozen=True, slots=True, kw_only=True)
class Statements:
    """SQL that is not run step by step: the inside of the swaps and the ways back."""

    cutover_before: tuple[str, ...]
    cutover: tuple[str, ...]
    settle: tuple[tuple[str, ...], ...]
    undo: tuple[str, ...]
    undo_settle: tuple[tuple[str, ...], ...]
    undo_unguard: tuple[str, ...]
    drop_new: tuple[str, ...]
    abort_triggers: tuple[str, ...]
    finish_triggers: tuple[tuple[str, ...], ...]
    finish: tuple[str, ...]
    lock_forward: str
    lock_reverse: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePlan:
    """The whole run of a table as data, whatever its strategy: what `plan` prints and `run` executes and stores.

    Args:
        fingerprint: of the table's definition; changes: what changes for the application.
        unchecked: what could not be looked at, and why.
        strategy: its name, a default of each plan.
    """

    table: QName
    table_oid: int
    owner: str
    server_version: int
    options: Options
    leaves: tuple[Leaf, ...]
    steps: tuple[Step, ...]
    fingerprint: str
    strategy: str
    warnings: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    estimate: Estimate | None = None
    skew: Skew | None = None
    workload: Workload | None = None
    unchecked: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """Return the plan as `plan --json` prints it."""
        return {
            "table": str(self.table),
            "strategy": self.strategy,
            "options": self.options.to_json(),
            "partitions": [{"name": leaf.name, "bound": leaf.bound} for leaf in self.leaves],
            "steps": [step.to_json() for step in self.steps],
            "application_changes": list(self.changes),
            "warnings": list(self.warnings),
            "not_checked": list(self.unchecked),
            "estimate": self.estimate.to_json() if self.estimate else None,
            "skew": self.skew.to_json() if self.skew else None,
            "workload": self.workload.to_json() if self.workload else None,
            "refused": [],
        }

    def within(self, max_block_s: float) -> Self:
        """Return the plan with another limit for its locks.

        Raises:
            UsageError: the limit is out of range.
        """
        return replace(self, options=replace(self.options, max_block_s=max_block_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorPlan(TablePlan):
    """A run of the strategy mirror."""

    forward: Pair
    reverse: Pair
    statements: Statements
    walks_keys: bool = False
    matviews: tuple[MatviewPlaces, ...] = ()
    strategy: str = field(default="mirror")

    @property
    def retained(self) -> QName:
        return self.reverse.target

    def log_of(self, state: str) -> Pair:
        """Return the pair whose log is applied in this state of the run."""
        return self.reverse if state == "cut-over" else self.forward


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a run stands when the call returns."""

    run_id: int
    table: str
    strategy: str
    state: str
    rows_copied: int
    rows_applied: int
    rows_checked: int
    mismatches: int
    attempts: int
    blocked_ms: float
    duration_s: float
    retained_table: str | None

    def to_json(self) -> dict[str, Json]:
        return {
            "run_id": self.run_id,
            "table": self.table,
            "strategy": self.strategy,
            "state": self.state,
            "rows_copied": self.rows_copied,
            "rows_applied": self.rows_applied,
            "parity": {"rows_checked": self.rows_checked, "mismatches": self.mismatches},
            "cutover": {"attempts": self.attempts, "blocked_ms": round(self.blocked_ms, 1)},
            "duration_s": round(self.duration_s, 2),
            "retained_table": self.retained_table,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """One run as `status` shows it; the ETA is that of its phase, None while it is not known."""

    result: RunResult
    phase: str
    note: str
    is_live: bool
    pages_copied: int
    pages_total: int
    backlog_bytes: int
    next_step: str
    eta_least_s: float | None = None
    eta_most_s: float | None = None

    def to_json(self) -> dict[str, Json]:
        return {
            **self.result.to_json(),
            "phase": self.phase,
            "note": self.note,
            "live": self.is_live,
            "pages_copied": self.pages_copied,
            "pages_total": self.pages_total,
            "backlog_bytes": self.backlog_bytes,
            "next": self.next_step,
            "phase_eta_s": None
            if self.eta_least_s is None
            else {
                "least": round(self.eta_least_s, 1),
                "most": None if self.eta_most_s is None else round(self.eta_most_s, 1),
            },
        }
