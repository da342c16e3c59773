"""What maintenance wants to do, is going to do, and did. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pgscale.core.model import Json, QName, Step

Kind = Literal["clean", "freeze", "vacuum", "analyze", "reindex"]
KINDS: tuple[Kind, ...] = ("clean", "freeze", "vacuum", "analyze", "reindex")


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """What a check finds needed.

    Args:
        oid: of a table, a TOAST table or an index.
        check: the id of the check; why: its figures, as a clause.
        busy_with: the process that does it just now.
    """

    kind: Kind
    oid: int
    check: str
    why: str
    busy_with: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A table, a TOAST table or an index, with the table it belongs to, as of now.

    Args:
        kind: relkind; is_toast: of the table's TOAST table.
        pages, table_pages, index_pages, toast_pages: as of the last VACUUM or ANALYZE; index_pages those of all the
            table's indexes; table_pages those of its partitions, where it is partitioned.
        may_vacuum, may_reindex, may_drop: whether the role may, on the table; may_look: into its schema.
        has_run: a `pgscale partition` run is at work on it.
    """

    oid: int
    schema: str
    name: str
    kind: str
    table_oid: int
    table_schema: str
    table_name: str
    pages: int
    table_pages: int
    index_pages: int
    toast_pages: int
    owner: str
    may_vacuum: bool
    may_reindex: bool
    may_drop: bool
    may_look: bool
    has_run: bool

    @property
    def qname(self) -> QName:
        return QName(schema=self.schema, name=self.name)

    @property
    def table(self) -> QName:
        return QName(schema=self.table_schema, name=self.table_name)

    @property
    def is_toast(self) -> bool:
        return self.kind == "t"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """An invalid index that REINDEX CONCURRENTLY left, beside the valid one of the same definition.

    Args:
        twin: the valid one, quoted.
        is_in_work: somebody works on the table's indexes just now: it may be no leftover.
    """

    oid: int
    schema: str
    name: str
    table_oid: int
    twin: str
    pages: int
    is_in_work: bool

    @property
    def qname(self) -> QName:
        return QName(schema=self.schema, name=self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One statement, and why.

    Args:
        kind: which rate its duration is estimated by.
        target: what it works on, unquoted; table: the table that belongs to.
        check, why: what asks for it.
        bytes: what it reads, about; estimate_s: how long that takes, seconds.
        room_bytes: of disk that it needs for a time.
    """

    kind: Kind
    step: Step
    target: QName
    table: QName
    table_oid: int
    check: str
    why: str
    bytes: int
    estimate_s: float
    room_bytes: int = 0

    @property
    def key(self) -> str:
        """Names it from run to run: the OID of an index that was rebuilt is another."""
        return f"{self.kind} {self.target}"

    def to_json(self) -> dict[str, Json]:
        return {
            "kind": self.kind,
            "target": str(self.target),
            "table": str(self.table),
            "check": self.check,
            "why": self.why,
            "bytes": self.bytes,
            "estimate_s": round(self.estimate_s, 1),
            "room_bytes": self.room_bytes,
            **{name: value for name, value in self.step.to_json().items() if name in ("sql", "lock", "longest_wait")},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What is needed and was not done, and why; without a full stop."""

    subject: str
    check: str
    reason: str

    def to_json(self) -> dict[str, Json]:
        return {"subject": self.subject, "check": self.check, "reason": self.reason}


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenancePlan:
    """What is going to be done, in this order, and what is left alone.

    Args:
        left: needed, but not to be done by this role, or not now.
        notes: what else to know, sentences.
    """

    tasks: tuple[Task, ...]
    left: tuple[Left, ...]
    notes: tuple[str, ...] = ()

    @property
    def estimate_s(self) -> float:
        return sum(task.estimate_s for task in self.tasks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A task that was carried out."""

    task: Task
    took_s: float

    def to_json(self) -> dict[str, Json]:
        return {**self.task.to_json(), "took_s": round(self.took_s, 3)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A task that the server refused for a reason of its own."""

    task: Task
    error: str

    def to_json(self) -> dict[str, Json]:
        return {**self.task.to_json(), "error": self.error}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run did.

    Args:
        left: as in the plan, and what there was no time, no lock or no room for.
    """

    plan: MaintenancePlan
    done: tuple[Done, ...]
    failed: tuple[Failed, ...]
    left: tuple[Left, ...]
    took_s: float
