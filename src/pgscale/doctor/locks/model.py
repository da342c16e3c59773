"""Values of the lock tree: what was read of the server, and who waits for whom. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

Key: TypeAlias = "int | str"
"""Who holds or waits: a backend by its pid, a prepared transaction by its gid."""

BlockKind = Literal["holds", "queue"]


# What was read.


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """The object of a lock, as pg_locks names it.

    Args:
        database: its name; None for what belongs to the whole cluster.
    """

    kind: str
    database: str | None = None
    relation: int | None = None
    page: int | None = None
    tuple: int | None = None
    virtual: str | None = None
    transaction: int | None = None
    class_id: int | None = None
    object_id: int | None = None
    object_sub_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LockRow:
    """One row of pg_locks.

    Args:
        pid: None when a prepared transaction holds it.
        prepared: the transaction id of that prepared transaction.
        blockers: pg_blocking_pids() of one that waits: leaders instead of their parallel workers, 0 for a prepared
            transaction.
        since: when it began to wait; NULL for an instant after it did.
    """

    tag: Tag
    mode: str
    granted: bool
    pid: int | None
    prepared: int | None = None
    since: datetime | None = None
    waited_s: float | None = None
    blockers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Doing:
    """What a backend is and does: what is shown of other roles' only with pg_read_all_stats."""

    kind: str
    started: datetime
    leader_pid: int | None = None
    transaction_started: datetime | None = None
    state: str | None = None
    state_s: float | None = None
    transaction_s: float | None = None
    query: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A process of the server.

    Args:
        doing: None when the role that looks may not see it.
    """

    pid: int
    user: str | None
    database: str | None
    application: str
    doing: Doing | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A transaction prepared for two-phase commit: nobody is connected, and it holds its locks for ever."""

    gid: str
    transaction: int
    prepared_s: float
    owner: str
    database: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The server's locks at one moment, as far as somebody waits for them.

    Args:
        locks: those that are waited for, those held on the same objects, and the rows that waiters hold.
        relations: names by oid, of the connected database and of shared relations.
        objects: names of other objects, by class and object id.
        notes: what could not be read, and why.
    """

    at: datetime
    database: str
    role: str
    locks: tuple[LockRow, ...] = ()
    backends: Mapping[int, Backend]
    prepared: tuple[Prepared, ...] = ()
    relations: Mapping[int, str]
    objects: Mapping[tuple[int, int], str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What a role may signal.

    Args:
        may_signal: it has pg_signal_backend.
        has_role: it has the rights of the role that the process belongs to.
        may_signal_autovacuum: it has pg_signal_autovacuum_worker (18).
    """

    is_superuser: bool
    may_signal: bool
    has_role: bool
    target_is_superuser: bool
    may_signal_autovacuum: bool


# What follows from it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """One reason why somebody waits.

    Args:
        kind: `holds` when it holds the object in a mode that conflicts; `queue` when it only asked before.
        modes: those it holds on the object, or asked for.
    """

    key: Key
    kind: BlockKind
    modes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A lock that somebody waits for.

    Args:
        pid: who asked: the session itself, or one of its parallel workers.
        what: the object in words.
    """

    pid: int
    tag: Tag
    mode: str
    what: str
    since: datetime | None
    waited_s: float | None
    blockers: tuple[Blocker, ...]

    def is_same(self, other: Wait) -> bool:
        """Tell whether it is one wait, seen in two looks."""
        one = (self.pid, self.tag, self.mode) == (other.pid, other.tag, other.mode)
        return one and (self.since is None or other.since is None or self.since == other.since)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Somebody who holds others up, or waits, or both.

    Args:
        waits: empty for a root.
        parent: whom it is shown under; None for a root.
        behind: sessions that wait for it, or for one that does.
        frees: those of them that wait for nothing else, so that they can go on once it has ended.
        deadlocked: it waits for itself, round a circle.
    """

    key: Key
    who: Backend | Prepared
    waits: tuple[Wait, ...]
    parent: Key | None
    behind: int
    frees: int
    deadlocked: bool

    @property
    def waited_s(self) -> float:
        return max((w.waited_s or 0.0 for w in self.waits), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Who waits for whom.

    Args:
        roots: those who wait for nobody, the one that holds up most first.
        children: by whom they are shown under, the one that holds up most first. Each session is shown once.
        others: by holder, those who wait for it too but are shown under another holder.
    """

    look: Look
    nodes: Mapping[Key, Node]
    roots: tuple[Key, ...]
    children: Mapping[Key, tuple[Key, ...]]
    others: Mapping[Key, tuple[Key, ...]]

    @property
    def waiting(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes.values() if node.waits)


def order(key: Key) -> tuple[bool, int, str]:
    """Sort pids before gids."""
    return (True, 0, key) if isinstance(key, str) else (False, key, "")
