"""What is seen of a migration when it runs. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pgscale.core.finding import Finding
from pgscale.core.model import Json, quote_ident
from pgscale.sql.statements import Statement

TransactionMode: TypeAlias = Literal["auto", "per-file", "per-statement"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column.

    Args:
        type: with its collation, where that is not the type's own.
        default: its expression; empty where there is none or the column is generated.
    """

    number: int
    name: str
    type: str
    not_null: bool
    default: str
    is_identity: bool
    is_generated: bool

    @property
    def is_filled(self) -> bool:
        """Rows that are there already get a value other than NULL when it is added."""
        return bool(self.default) or self.is_identity or self.is_generated


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A constraint of a table.

    Args:
        kind: pg_constraint.contype: c, f, p, u, x, n, t.
        is_inherited: it came from a parent; the one who wrote SQL wrote the parent's.
    """

    oid: int
    name: str
    kind: str
    validated: bool
    definition: str
    is_inherited: bool
    index: int
    other_table: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A row of pg_class and what hangs on it.

    Args:
        kind: pg_class.relkind.
        filenode: 0 where nothing is stored under it (partitioned tables, views).
        table: of an index, its table; otherwise 0.
        definition: of an index, its statement.
        bound: of a partition, the condition that its rows meet.
        parents: what it inherits from or is a partition of.
    """

    oid: int
    schema: str
    name: str
    kind: str
    filenode: int
    tablespace: int
    is_partition: bool
    table: int
    is_unique: bool
    is_constraint: bool
    definition: str
    bound: str
    parents: tuple[int, ...]
    triggers: tuple[str, ...]
    columns: tuple[Column, ...]
    constraints: tuple[Constraint, ...]

    @property
    def shown(self) -> str:
        """Its name for people, without `public.`."""
        name = quote_ident(self.name)
        return name if self.schema == "public" else f"{quote_ident(self.schema)}.{name}"

    @property
    def is_table(self) -> bool:
        return self.kind in "rpm"

    @property
    def is_index(self) -> bool:
        return self.kind in "iI"


Catalog: TypeAlias = Mapping[int, Relation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """A lock on a relation that was in pg_locks after a statement.

    Args:
        mode: as pg_locks has it, `AccessExclusiveLock`.
        since: the line of the statement of the same transaction that took it.
        is_new: that is the statement itself.
        awaited: seen in the queue, because the statement runs outside a transaction and would have let go of it.
    """

    relation: int
    mode: str
    since: int
    is_new: bool = True
    awaited: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSays:
    """An error of the server, in its words."""

    sqlstate: str
    message: str
    detail: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one statement did in the scratch copy.

    Args:
        tag: the command tag of the server, without numbers; empty where it did not run.
        transaction: the number of its transaction within the run; statements of the same number commit together.
        alone: it ran outside a transaction block, as it must.
        in_block: the file has put it into a transaction block, where it cannot run.
        locks: of the transaction after the statement, on relations that are not catalogs.
        before, after: what it locked, and what it made, as the catalog had it; after lacks what was dropped.
        scans, index_scans: how often it began to read a table from the first row on, or by an index.
        lock_timeout_ms: in force while it ran.
        error: why it failed.
        skipped: why it was not run.
    """

    statement: Statement
    tag: str
    transaction: int
    alone: bool = False
    in_block: bool = False
    locks: tuple[Lock, ...] = ()
    before: Catalog = field(default_factory=dict[int, Relation])
    after: Catalog = field(default_factory=dict[int, Relation])
    scans: Mapping[int, int] = field(default_factory=dict[int, int])
    index_scans: Mapping[int, int] = field(default_factory=dict[int, int])
    lock_timeout_ms: int = 0
    error: ServerSays | None = None
    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSeen:
    """What a file did.

    Args:
        existing: the relations that were there when it began, by oid: others have no rows that matter and no users.
        note: how it was divided into transactions, where it does not say so itself.
    """

    file: str
    existing: Catalog
    statements: tuple[Seen, ...]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A finding and where it stands."""

    file: str
    line: int
    finding: Finding

    def to_json(self) -> dict[str, Json]:
        return {"file": self.file, "line": self.line, **self.finding.to_json()}
