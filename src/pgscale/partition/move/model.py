"""Values of the strategy `move`: its plan, and what it must know of unique keys."""

from __future__ import annotations

from dataclasses import dataclass, field

from pgscale.core.model import QName
from pgscale.partition.model import TablePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPart:
    """One part of a unique key: its column, '' for an expression; its SQL; its equality operator."""

    column: str
    expression: str
    equals: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UniqueKey:
    """A unique key that holds over both tables.

    Args:
        name: of the constraint, or of the index where there is none: what error 23505 names.
        parts: in the order of the index.
        predicate: of a partial index.
        nulls_not_distinct: NULL equals NULL.
    """

    name: str
    parts: tuple[KeyPart, ...]
    predicate: str | None
    nulls_not_distinct: bool

    @property
    def is_plain(self) -> bool:
        return self.predicate is None and all(part.column for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One table that rows leave from its physical end.

    Args:
        source: the table; its file shrinks as they go.
        statement: moves one range of pages. Parameters: the first TID and the one after the last, the run, the
            worker's number; it returns the number of rows.
        vacuum: gives the empty tail back to the disk.
        phase: of the ledger's rows that count what has moved.
    """

    source: QName
    phase: str
    statement: str
    vacuum: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveStatements:
    """What is run as one transaction each.

    Args:
        lock_table: first of the swap that puts the view in the table's place.
        raise_view: the rest of it; lock_view: first of every later one.
        settle: the partitioned table takes the name; turn: from now on rows go back.
        undo: the view takes the partitioned table's place and rows go back; restore: the old table takes the name.
        drop_view: the last of settle and restore, when nothing hangs on the view any more.
        drop_new: removes what is left when the table has its name again; finish: when the partitioned one has.
        is_empty: whether no row is left in the old table; is_emptied: in the partitioned one.
        probe: a few rows go to the partitioned table; never committed.
        gate: locks the view and not the tables behind it; never committed.
    """

    lock_table: str
    raise_view: tuple[str, ...]
    lock_view: str
    settle: tuple[str, ...]
    turn: tuple[str, ...]
    undo: tuple[str, ...]
    restore: tuple[str, ...]
    drop_new: tuple[str, ...]
    finish: tuple[str, ...]
    drop_view: str
    analyze: str
    probe: str
    is_empty: str
    is_emptied: str
    gate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MovePlan(TablePlan):
    """The whole run as data: what `plan` prints and what `run` executes and stores in the ledger."""

    old: QName
    stage: QName
    forward: Lane
    back: tuple[Lane, ...]
    statements: MoveStatements
    total_bytes: int
    strategy: str = field(default="move")

    @property
    def retained(self) -> QName:
        """The old table: empty after the run, kept until `finish` so that `undo` has a way back."""
        return self.old

    def log_of(self, state: str) -> None:
        """Nothing is logged: a row is in one of the two tables at any moment."""
        del state
