"""Take the rows of a table from its physical end, in short transactions, and give the empty tail back as they go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pgscale import sql as named
from pgscale.connect.retry import retrying
from pgscale.connect.session import CONTROL, WORKER, Session
from pgscale.core.model import Progress
from pgscale.ledger import store
from pgscale.livecopy import ddl
from pgscale.livecopy.chunks import ChunkSize
from pgscale.livecopy.work import Rate, Work, execute, in_parallel, progress, tid
from pgscale.partition.move.ddl.moving import is_empty
from pgscale.partition.move.model import Lane
from pgscale.partition.move.tail import Cutter

QUERIES = named.load("pgscale.partition.move")

# VACUUM cuts off a tail of a thousand pages, or of a sixteenth of the table, and nothing shorter
# (REL_TRUNCATE_MINIMUM and REL_TRUNCATE_FRACTION in src/backend/access/heap/vacuumlazy.c).
LEAST_TAIL_PAGES, LEAST_TAIL_SHARE = 1000, 16
# What has left and is not given back yet is the price in disk; each VACUUM reads the indexes once.
STRETCH_SHARE = 50
LEAST_STRETCH_PAGES = 64
LONGEST_WAIT_S = 2.0


def stretch_pages(pages: int, at_first: int) -> int:
    """Return how many pages at the end are emptied before the next VACUUM.

    Args:
        pages: the table's now; at_first: when the run began.
    """
    least = min(LEAST_TAIL_PAGES, -(-pages // LEAST_TAIL_SHARE))
    return min(pages, max(least, at_first // STRETCH_SHARE, LEAST_STRETCH_PAGES))


class Tail:
    """The pages [first, end) given out from the end, in extents that do not overlap. No I/O."""

    def __init__(self, first: int, end: int) -> None:
        self._first, self._end = first, end
        self._lock = threading.Lock()

    def take(self, pages: int) -> tuple[int, int] | None:
        """Return the last range of at most `pages` pages that nobody has, None when nothing is left."""
        with self._lock:
            if self._end <= self._first:
                return None
            end = self._end
            self._end = max(self._first, end - max(1, pages))
            return self._end, end


class Mover:
    """Empties one table.

    Args:
        work: the run; lane: which table, and how its rows go; cutter: gives its tail back; workers: parallel sessions.
        at_first: pages of the table when the run began.
        phase: for the watcher.
        after: called after each stretch with the pages that are left; nothing moves meanwhile.
    """

    def __init__(
        self,
        work: Work,
        lane: Lane,
        cutter: Cutter,
        *,
        workers: int,
        at_first: int,
        phase: str,
        after: Callable[[int], None],
    ) -> None:
        self.work, self.lane, self.cutter, self.workers = work, lane, cutter, workers
        self.at_first, self.phase, self.after = at_first, phase, after
        self._rate = Rate()

    def run(self) -> int:
        """Return how many rows have left when none is left; killed at any moment, it goes on from what is there.

        Raises:
            InterruptedRunError, RunFailedError.

        Locks: of the rows of one chunk, for as long as that takes; VACUUM's.
        """
        moved, wait_s = 0, 0.05
        with self.work.session(WORKER) as session:
            while True:
                self.work.check()
                pages = self.pages(session)
                if pages == 0:
                    return moved
                first = pages - stretch_pages(pages, self.at_first)
                rows = self._move(first, pages)
                moved += rows
                if first == 0 and self._is_empty(session):
                    self.cutter.run()
                    return moved
                self._wait_for_snapshots(session)
                self.cutter.run()
                left = self.pages(session)
                self.after(left)
                if left > first and not rows:
                    self._tell_waiting(session, left)
                    self.work.stop.wait(wait_s)
                    wait_s = min(wait_s * 2, LONGEST_WAIT_S)
                else:
                    wait_s = 0.05

    def pages(self, session: Session) -> int:
        """Return the table's size in pages."""
        row = execute(session, ddl.pages_of(self.lane.source)).fetchone()
        return int(row[0]) if row else 0

    def _is_empty(self, session: Session) -> bool:
        row = execute(session, is_empty(self.lane.source)).fetchone()
        return bool(row and row[0])

    def _move(self, first: int, end: int) -> int:
        """Move what is in these pages; rows that others have locked stay for the next time."""
        tail = Tail(first, end)
        counts = [0] * self.workers

        def body(number: int) -> None:
            size = ChunkSize(self.work.throttle.chunk_s, least=1)
            with self.work.session(WORKER) as session:
                _prepare(session)
                while not self.work.stop.is_set() and (extent := tail.take(max(size.pages, 1))):
                    self.work.throttle.wait(self.work.stop)
                    started = time.monotonic()
                    counts[number] += self._chunk(session, *extent, number)
                    took_s = self.work.throttle.took(started)
                    size.learn(extent[1] - extent[0], took_s)
                    gone = max(0, self.at_first - extent[0])
                    progress(self.work, self.phase, gone, self.at_first, self._rate, unit="pages", workers=self.workers)
                    self.work.throttle.rest(took_s, self.work.stop)

        with self.work.session(CONTROL) as session:
            for number in range(self.workers):
                store.execute(
                    session,
                    "insert_chunk",
                    run_id=self.work.run_id,
                    phase=self.lane.phase,
                    first=number,
                    last=number,
                    rows=0,
                )
        in_parallel(self.work, [lambda n=n: body(n) for n in range(self.workers)])
        return sum(counts)

    def _chunk(self, session: Session, first: int, end: int, number: int) -> int:
        """One transaction: SERIALIZABLE, so that transactions at that level which read a row here and write it there
        are not taken for strangers. What it meets raises 40001, and is tried again."""

        def attempt() -> int:
            row = execute(
                session, self.lane.statement, tid(first), tid(end), self.work.run_id, number, again=True
            ).fetchone()
            assert row is not None
            return int(row[0])

        return retrying(attempt, give_up_after_s=3600.0, first_wait_s=0.002, longest_wait_s=0.2, sleep=self._sleep)

    def _wait_for_snapshots(self, session: Session, most_s: float = 1.0) -> None:
        """Wait a little for whoever still sees what has just left: VACUUM would have to leave it."""
        version = session.info.server_version
        row = session.execute(QUERIES.get("this_transaction", version)).fetchone()
        assert row is not None
        until = time.monotonic() + most_s
        while session.execute(QUERIES.get("older_snapshots", version), {"xid": row[0]}).fetchall():
            if time.monotonic() > until:
                return
            self._sleep(0.01)

    def _tell_waiting(self, session: Session, left: int) -> None:
        version = session.info.server_version
        row = session.execute(QUERIES.get("this_transaction", version)).fetchone()
        assert row is not None
        older = session.execute(QUERIES.get("older_snapshots", version), {"xid": row[0]}).fetchall()
        who = ", ".join(str(pid) for (pid,) in older)
        why = f"transactions of sessions {who} to end" if who else "locked rows, or for the lock that cuts the tail off"
        self._note(f"waiting for {why}; {left:,} pages are left, and moving more now would need more disk")

    def _note(self, note: str) -> None:
        self.work.tell(Progress(table=self.work.table, phase="waiting", note=note))

    def _sleep(self, seconds: float) -> None:
        self.work.stop.wait(seconds)
        self.work.check()


def _prepare(session: Session) -> None:
    # Each chunk is one statement, and so one transaction.
    session.execute("SET default_transaction_isolation = 'serializable'")
    # A wait here would make the application wait for the rows of the chunk.
    session.execute("SET lock_timeout = '50ms'")
    # The ledger's few rows are one page: read as a whole, it would make workers meet each other.
    session.execute(ddl.disable("seqscan"))
