"""Values of the strategy attach: its bound, its keys, its plan."""

from __future__ import annotations

from dataclasses import dataclass, field

from pgscale.core.model import QName
from pgscale.livecopy.model import Pair
from pgscale.partition.model import TablePlan

# The CHECK that proves the bound. Names that begin so are left out of the table's fingerprint.
CHECK_NAME = "_pgscale_bound"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What the first partition takes.

    Args:
        sql: `FOR VALUES …`.
        predicate: what a CHECK must say so that ATTACH PARTITION reads no row.
        shown: the same for a person, of the key's column.
        safe_until: with a key of time: the moment (ISO, UTC) after which the CHECK must not be added any more, because
            rows of the present would soon be refused by it.
    """

    sql: str
    predicate: str
    shown: str
    safe_until: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexBuild:
    """An index that is built without blocking writers, under a name of our own.

    Args:
        name: its name while it is only ours.
        create: CREATE UNIQUE INDEX CONCURRENTLY …
        drop: DROP INDEX CONCURRENTLY …
        of: the name of the key it is built for.
    """

    name: QName
    create: str
    drop: str
    of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachStatements:
    """SQL that is not run step by step.

    Args:
        calm: lets autovacuum give way before a strong lock is asked for.
        lock, swap: the cut-over's transaction; settle: what follows, a transaction each.
        probe: an empty table like the one to attach, attached; rolled back.
        probe_name: that table.
        drop_check: takes the CHECK back.
        lock_back, detach, move, restore: the transaction of `undo`.
        back_settle, unguard, drop_new: what follows it.
        finish: what `finish` drops.
    """

    calm: tuple[str, ...]
    lock: str
    swap: tuple[str, ...]
    settle: tuple[tuple[str, ...], ...]
    probe: tuple[str, ...]
    probe_name: QName
    drop_check: str
    lock_back: str
    detach: tuple[str, ...]
    move: str
    restore: tuple[str, ...]
    back_settle: tuple[tuple[str, ...], ...]
    unguard: str
    drop_new: tuple[str, ...]
    finish: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachPlan(TablePlan):
    """The whole run as data. `leaves` begins with the first partition, which is the table itself.

    Args:
        first: the name the table has as a partition.
        keys: what is built for unique keys that grow; back: for the way back, where they shrink again.
    """

    first: QName
    bound: Bound
    keys: tuple[IndexBuild, ...]
    back: tuple[IndexBuild, ...]
    statements: AttachStatements
    strategy: str = field(default="attach")

    @property
    def retained(self) -> QName | None:
        """Nothing is kept aside: the table is the first partition."""
        return None

    def log_of(self, state: str) -> Pair | None:
        """No change is logged: no row is copied."""
        del state
        return None
