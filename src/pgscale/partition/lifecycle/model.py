"""Values of the life of partitions: what is wished, what is there, what to do, what was found."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pgscale.catalog.model import Index, TableFacts
from pgscale.core.model import Json, QName
from pgscale.errors import UsageError
from pgscale.partition.periods import PERIODS, Value

Promise = Literal["detach", "drop", "archive"]
ArchiveFormat = Literal["parquet", "csv"]
Severity = Literal["info", "warning", "error"]

_INTERVAL = re.compile(r"^[1-9]\d*\s*(second|minute|hour|day|week)s?$")
_NUMBER = re.compile(r"^\d+(\.\d+)?$")
_AGE = re.compile(r"^\d+\s*(second|minute|hour|day|week|month|quarter|year)s?$")
MOST_AHEAD = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionSet:
    """What is wished of one partitioned table: one `[[partitions]]` of pgscale.toml.

    Args:
        table: as in SQL.
        period: day, week, month, quarter, year, an interval such as `6 hours`, or a number.
        time_zone: whose midnight begins a period; also decides which day it is now.
        ahead: how many periods beyond the present one exist.
        retention: `13 months`, or a distance of numbers; partitions wholly older retire. None keeps for ever.
        on_retention: what retiring means.
        archive_dir: where archives go; required for `archive`.
        archive_format: `parquet` needs the extra `pgscale[archive]`.
        default: True makes a DEFAULT partition, False removes an empty one, None leaves it as it is.

    Raises:
        UsageError: naming the key that is wrong.
    """

    table: str
    period: str
    time_zone: str = "UTC"
    ahead: int = 3
    retention: str | None = None
    on_retention: Promise = "detach"
    archive_dir: str | None = None
    archive_format: ArchiveFormat = "parquet"
    default: bool | None = None

    def __post_init__(self) -> None:
        is_number = _NUMBER.match(self.period) is not None
        if not self.table.strip():
            raise UsageError("`table` is empty.", hint="Name the table as in SQL.")
        if self.period not in PERIODS and not _INTERVAL.match(self.period) and not is_number:
            raise UsageError(
                f"`period` is {self.period!r}.", hint=f"Use {', '.join(PERIODS)}, an interval ('6 hours') or a number."
            )
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise UsageError(f"`time_zone` is {self.time_zone!r}.", hint="Name one as in Europe/Berlin.") from None
        if not 0 <= self.ahead <= MOST_AHEAD:
            raise UsageError(f"`ahead` is {self.ahead}; it must be between 0 and {MOST_AHEAD}.")
        if self.retention is not None and not (_NUMBER if is_number else _AGE).match(self.retention.strip()):
            raise UsageError(
                f"`retention` is {self.retention!r}.",
                hint="Give a distance of numbers." if is_number else "Write it as in '13 months' or '90 days'.",
            )
        if self.on_retention not in ("detach", "drop", "archive"):
            raise UsageError(f"`on_retention` is {self.on_retention!r}.", hint="Use detach, drop or archive.")
        if self.archive_format not in ("parquet", "csv"):
            raise UsageError(f"`archive_format` is {self.archive_format!r}.", hint="Use parquet or csv.")
        if self.on_retention == "archive" and not self.archive_dir:
            raise UsageError("`archive_dir` is missing.", hint="on_retention = 'archive' needs a directory.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one call may cost others.

    Args:
        lock_timeout_s: longest wait for a lock, and so the longest queue behind it, seconds.
        give_up_after_s: seconds of short attempts before a step is left to the next call.
        hold_s: longest time a transaction may hold locks that block others, seconds.
        detach_wait_s: how long DETACH CONCURRENTLY waits for older transactions; nobody waits behind it, seconds.
        default_scan_bytes: largest DEFAULT partition that is scanned under a lock.
        move_rows: most rows that leave DEFAULT for a new partition in one transaction.
    """

    lock_timeout_s: float = 0.1
    give_up_after_s: float = 30.0
    hold_s: float = 10.0
    detach_wait_s: float = 30.0
    default_scan_bytes: int = 256 * 1024 * 1024
    move_rows: int = 100_000


# -- what is there ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The table as the catalog has it; `columns` are the key's names, empty where it is an expression."""

    oid: int
    schema: str
    name: str
    kind: str
    owner: str
    is_owner: bool
    strategy: str | None
    key_count: int
    column: str | None
    type_name: str | None
    tablespace: str | None
    access_method: str | None
    is_partition: bool = False

    @property
    def qname(self) -> QName:
        return QName(schema=self.schema, name=self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One direct partition. `bound` is the server's text, read in an ISO session in UTC."""

    oid: int
    schema: str
    name: str
    kind: str
    bound: str
    is_pending: bool
    bytes: int

    @property
    def qname(self) -> QName:
        return QName(schema=self.schema, name=self.name)

    @property
    def is_default(self) -> bool:
        return self.bound == "DEFAULT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sibling:
    """The newest partition, which new ones are made like; `own_indexes` are those that the table has not."""

    facts: TableFacts
    own_indexes: tuple[Index, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retired:
    """A row of pgscale.retired, and what its table is now: None where it is gone.

    Args:
        state: `noted` before the detach; `archived` when the file was written and read back.
        now_name: the name the noted oid has now; now_attached: whether it is a partition again or still.
    """

    leaf_oid: int
    leaf_schema: str
    leaf_name: str
    low: str
    high: str
    promise: Promise
    archive_dir: str | None
    archive_format: ArchiveFormat
    state: str
    file: str | None
    sha256: str | None
    row_count: int | None
    fingerprint: str | None
    now_schema: str | None = None
    now_name: str | None = None
    now_attached: bool = False

    @property
    def qname(self) -> QName:
        return QName(schema=self.leaf_schema, name=self.leaf_name)

    @property
    def is_gone(self) -> bool:
        return self.now_name is None

    @property
    def is_renamed(self) -> bool:
        return not self.is_gone and (self.now_schema, self.now_name) != (self.leaf_schema, self.leaf_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Highest:
    """The largest value of a number key, as text: in the partitions, and in DEFAULT.

    Args:
        unknown: why it is not known without a scan; empty when it is.
    """

    regular: str | None = None
    default: str | None = None
    unknown: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFacts:
    """Everything the plan looks at, but for what stands in the way of its own wishes (Obstacles)."""

    parent: Parent
    children: tuple[Child, ...] = ()
    retired: tuple[Retired, ...] = ()
    highest: Highest = field(default_factory=Highest)
    taken_names: frozenset[str] = frozenset()
    open_run: str = ""

    @property
    def default(self) -> Child | None:
        return next((c for c in self.children if c.is_default), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A range that no partition covers and that is wished; bounds as SQL literals or MINVALUE, MAXVALUE."""

    leaf: QName
    low: str
    high: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacles:
    """What stands in the way of what is wished, read for exactly that.

    Args:
        default_rows: rows of DEFAULT that lie in a missing range, by the new leaf's name; counting stops one
            above the limit.
        default_references: foreign keys that point at rows of DEFAULT.
        default_publications: publications that DEFAULT's changes go to.
        default_is_empty: whether DEFAULT has no row; None when not looked at.
        references: foreign keys whose rows point into a partition that is due, by its oid.
    """

    default_rows: dict[str, int] = field(default_factory=dict[str, int])
    default_references: tuple[str, ...] = ()
    default_publications: tuple[str, ...] = ()
    default_is_empty: bool | None = None
    references: dict[int, tuple[str, ...]] = field(default_factory=dict[int, tuple[str, ...]])


# -- what to do ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """Make a partition for [low, high)."""

    leaf: QName
    low: str
    high: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateDefault:
    """Make the DEFAULT partition."""

    leaf: QName


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveDefault:
    """Detach and drop the DEFAULT partition, which is empty."""

    leaf: QName
    oid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveFromDefault:
    """Make a partition for [low, high) and bring the rows that DEFAULT holds of it, in one transaction."""

    leaf: QName
    low: str
    high: str
    default: QName
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalize:
    """Complete a DETACH CONCURRENTLY that was interrupted."""

    leaf: QName
    oid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Detach:
    """Note what is promised, then detach."""

    leaf: QName
    oid: int
    low: str
    high: str
    promise: Promise
    concurrently: bool
    archive_dir: str | None
    archive_format: ArchiveFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """Write a detached table to a file, read it back, compare."""

    leaf: QName
    oid: int
    low: str
    high: str
    archive_dir: str
    archive_format: ArchiveFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Drop a detached table whose promise says so; `archived` when a file must stand for it."""

    leaf: QName
    oid: int
    archived: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """Take a promise back: its table is gone, or is to be kept after all."""

    leaf: QName
    oid: int
    reason: str


Action: TypeAlias = (
    Create | CreateDefault | RemoveDefault | MoveFromDefault | Finalize | Detach | Archive | Drop | Forget
)

_KINDS: dict[type, str] = {
    Create: "create",
    CreateDefault: "create-default",
    RemoveDefault: "remove-default",
    MoveFromDefault: "move-from-default",
    Finalize: "finalize",
    Detach: "detach",
    Archive: "archive",
    Drop: "drop",
    Forget: "forget",
}


def kind_of(action: Action) -> str:
    return _KINDS[type(action)]


def describe(action: Action) -> str:  # noqa: PLR0911 because one case a kind of action reads well
    """Return the action in one line, for a person."""
    leaf = action.leaf
    match action:
        case Create():
            return f"create {leaf} for [{action.low}, {action.high})"
        case CreateDefault():
            return f"create the DEFAULT partition {leaf}"
        case RemoveDefault():
            return f"detach and drop the empty DEFAULT partition {leaf}"
        case MoveFromDefault():
            moved = f"{action.rows:,} rows of {action.default}"
            return f"create {leaf} for [{action.low}, {action.high}) and move {moved} to it"
        case Finalize():
            return f"finish the interrupted detach of {leaf}"
        case Detach():
            how = " concurrently" if action.concurrently else ""
            return f"detach {leaf} [{action.low}, {action.high}){how}, to {action.promise} it"
        case Archive():
            return f"archive {leaf} as {action.archive_format} in {action.archive_dir}"
        case Drop():
            return f"drop {leaf}"
        case Forget():
            return f"forget the promise for {leaf}: {action.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something a person should know. The id is stable; the evidence is the numbers it rests on."""

    id: str
    severity: Severity
    table: str
    message: str
    evidence: dict[str, Json] = field(default_factory=dict[str, Json])
    remedy: str = ""

    def to_json(self) -> dict[str, Json]:
        return {
            "id": self.id,
            "severity": self.severity,
            "table": self.table,
            "message": self.message,
            "evidence": dict(self.evidence),
            "remedy": self.remedy,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The range of a partition; None where it is open."""

    child: Child
    low: Value | None
    high: Value | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LifePlan:
    """What one call does for one table."""

    table: str
    actions: tuple[Action, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """One action and how it went: `planned`, `done` or `failed`; its SQL, and a file where it made one."""

    action: Action
    state: Literal["planned", "done", "failed"]
    sql: tuple[str, ...] = ()
    file: str | None = None

    def to_json(self) -> dict[str, Json]:
        data: dict[str, Json] = {
            "action": kind_of(self.action),
            "partition": str(self.action.leaf),
            "state": self.state,
            "text": describe(self.action),
            "sql": list(self.sql),
        }
        for name in ("low", "high", "rows", "promise", "archive_format"):
            if hasattr(self.action, name):
                data[name] = getattr(self.action, name)
        if self.file is not None:
            data["file"] = self.file
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class SetResult:
    """How one table was looked after."""

    table: str
    actions: tuple[Done, ...]
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Json]:
        return {
            "table": self.table,
            "actions": [a.to_json() for a in self.actions],
            "findings": [f.to_json() for f in self.findings],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintainResult:
    """What a call did, or with `dry_run` would do."""

    sets: tuple[SetResult, ...]
    dry_run: bool

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(f for s in self.sets for f in s.findings)

    @property
    def has_errors(self) -> bool:
        return any(f.severity == "error" for f in self.findings)

    def to_json(self) -> dict[str, Json]:
        return {"dry_run": self.dry_run, "ok": not self.has_errors, "sets": [s.to_json() for s in self.sets]}
