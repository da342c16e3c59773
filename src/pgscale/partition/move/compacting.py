"""Keep indexes small while rows move: a page of a btree is filled by half where keys arrive in descending order, and an
index does not shrink when its rows leave. Both are built anew, one at a time and beside themselves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg
from psycopg.rows import class_row

from pgscale import sql as named
from pgscale.connect.retry import retrying
from pgscale.connect.session import WORKER, Session
from pgscale.core.model import Progress, QName
from pgscale.livecopy.work import Work, execute
from pgscale.partition.move.ddl.moving import drop_index, reindex

QUERIES = named.load("pgscale.partition.move")

# All indexes together may hold so much that a rebuild would save, as a share of the table with its indexes.
SLACK_SHARE = 0.01
# An index that has grown by this much since it was built is about a third air.
WORTH = 0.3
# Below this a rebuild costs more than it gives back.
LEAST_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSize:
    """A btree index and its size."""

    schema: str
    name: str
    table_oid: int
    oid: int
    bytes: int
    is_left_over: bool

    @property
    def qname(self) -> QName:
        return QName(schema=self.schema, name=self.name)


class Compactor:
    """Looks after the indexes of the table that fills and of the one that empties.

    Args:
        filling, emptying: the tables on either side; total_bytes: the table with its indexes when the run began.
    """

    def __init__(self, work: Work, *, filling: Sequence[QName], emptying: Sequence[QName], total_bytes: int) -> None:
        self.work, self.filling, self.emptying = work, tuple(filling), tuple(emptying)
        self.slack_bytes = max(int(total_bytes * SLACK_SHARE), LEAST_BYTES)
        self._built: dict[str, int] = {}
        self._emptied_at = 0.5

    def look(self, gone: float) -> None:
        """Rebuild what is worth it. A failed rebuild leaves the index as it was.

        Args:
            gone: share of the rows that have moved.

        Locks: SHARE UPDATE EXCLUSIVE on one table at a time.
        """
        with self.work.session(WORKER) as session:
            # It waits for transactions, not they for it.
            session.execute("SET lock_timeout = '30s'")
            self._try_to_remove_left_overs(session)
            grown = self._grown(session)
            if sum(grown.values()) // 2 > self.slack_bytes or gone >= 1:
                for index, more in grown.items():
                    if more > WORTH * index.bytes:
                        self._rebuild(session, index)
            if self._emptied_at <= gone < 0.95:
                self._emptied_at = (1 + gone) / 2
                for index in self._indexes(session, self.emptying):
                    if index.bytes >= LEAST_BYTES:
                        self._rebuild(session, index)

    def tidy(self) -> None:
        """Drop what a rebuild that was killed has left behind; wait for the transactions that stand in its way."""

        def sleep(seconds: float) -> None:
            self.work.stop.wait(seconds)
            self.work.check()

        with self.work.session(WORKER) as session:
            retrying(lambda: self._remove_left_overs(session), give_up_after_s=3600.0, sleep=sleep)

    def _indexes(self, session: Session, tables: Sequence[QName]) -> list[IndexSize]:
        with session.cursor(row_factory=class_row(IndexSize)) as cursor:
            return cursor.execute(
                QUERIES.get("indexes_of", session.info.server_version),
                {"schemas": [t.schema for t in tables], "tables": [t.name for t in tables]},
            ).fetchall()

    def _grown(self, session: Session) -> dict[IndexSize, int]:
        """Return what each index has grown by since it was built."""
        return {
            index: index.bytes - self._built.get(index.name, 0)
            for index in self._indexes(session, self.filling)
            if index.bytes >= LEAST_BYTES
        }

    def _rebuild(self, session: Session, index: IndexSize) -> None:
        self.work.check()
        self.work.throttle.wait(self.work.stop)
        self.work.tell(
            Progress(table=self.work.table, phase="waiting", note=f"building index {index.name} anew, without air")
        )
        try:
            execute(session, reindex(index.qname))
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.DiskFull):
            self._try_to_remove_left_overs(session)
        sizes = self._indexes(session, (*self.filling, *self.emptying))
        self._built[index.name] = next((s.bytes for s in sizes if s.qname == index.qname), index.bytes)

    def _try_to_remove_left_overs(self, session: Session) -> None:
        """Another time will do: until then they cost disk and the application some time for each write."""
        with suppress(psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            self._remove_left_overs(session)

    def _remove_left_overs(self, session: Session) -> None:
        for index in self._indexes(session, (*self.filling, *self.emptying)):
            if index.is_left_over:
                execute(session, drop_index(index.qname))
