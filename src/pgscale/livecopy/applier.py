"""Bring what changed: take captured keys, delete their rows from the target, insert them as they stand now."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Self

import psycopg
from psycopg import IsolationLevel

from pgscale.connect.retry import TRANSIENT
from pgscale.connect.session import APPLIER, Session
from pgscale.ledger import store
from pgscale.livecopy import ddl
from pgscale.livecopy.model import Pair
from pgscale.livecopy.work import Rate, Work, execute, explain, progress

# Uniqueness and exclusion: a row that is brought may meet one that is itself waiting to be changed.
COLLISIONS = frozenset({"23505", "23P01"})
LAST_PAGE = 4_294_967_295
# A batch is as many quarters of the log's pages as its time allows: a whole page of short keys is 200 of them, which
# is more work than the application should find in its way at once.
QUARTERS, ROWS_A_QUARTER = 4, 64
END_OF_LOG = LAST_PAGE * QUARTERS

# Below this a batch would be mostly round trips and the start of its statements.
LEAST_BATCH_S = 0.002
# A round that is behind and brings more than half as many keys as the one before: the application writes nearly as
# fast as the pace lets us apply, and we would arrive late or never.
SHRINKING = 0.5


class Applier:
    """One session that applies one direction. Not for several threads at once.

    Args:
        statements: the plan's three apply statements.
    """

    MOST_QUARTERS, VACUUM_PAGES, SHRINK_PAGES = 2_048, 64, 2_048

    def __init__(self, work: Work, pair: Pair, statements: Sequence[str]) -> None:
        self.work, self.pair = work, pair
        self.take, self.delete, self.bring = statements
        self.session: Session = work.open(APPLIER)
        self.session.execute(ddl.batch_table(pair).encode())
        for method in ("seqscan", "hashjoin", "mergejoin"):
            self.session.execute(ddl.disable(method))
        # One snapshot sees which keys changed and how their rows stand.
        self.session.isolation_level = IsolationLevel.REPEATABLE_READ
        self._quarters = QUARTERS
        self._dirty_pages = 0
        self._urgency = 1.0
        self._last_keys = 0
        self.applied = 0
        # TRUNCATE does not respect snapshots: not while somebody judges by one what waits in the log.
        self.shrinks_log = True

    def close(self) -> None:
        self.session.close()

    def backlog_pages(self) -> int:
        row = execute(self.session, ddl.pages_of(self.pair.log)).fetchone()
        return int(row[0]) if row else 0

    def round(self, phase: str | None = None, rate: Rate | None = None) -> int:
        """Apply everything visible in the log when the round began; return the number of keys.

        Locks: ACCESS SHARE on the source, ROW EXCLUSIVE on the target, for one batch at a time.
        """
        pages, keys, first = self.backlog_pages(), 0, 0
        total = pages * QUARTERS
        if self._clear_after_truncate():
            keys += 1
        while first < total and not self.work.stop.is_set():
            self.work.throttle.wait(self.work.stop)
            quarters = self._quarters
            # Never further: what was captured since, while rounds are long, would all be one batch.
            last = min(first + quarters, total)
            with self.work.throttle.turn():
                started = time.monotonic()
                taken = self._batch(first, last)
                took = time.monotonic() - started
            keys += taken
            # Aim at the pace's chunk, by the time a batch really took.
            target = max(self.work.throttle.chunk_s, LEAST_BATCH_S)
            if taken:
                done = last - first
                wanted = done * target / max(took, 1e-4)
                # A log that was shorter than the batch tells nothing about larger ones.
                most = quarters * 2 if done == quarters else quarters
                self._quarters = int(min(max(wanted, quarters / 4, 1), most, self.MOST_QUARTERS))
                self._dirty_pages += done / QUARTERS
            first = last if taken else self._next_row(last)
            if phase is not None and rate is not None:
                self.applied += taken
                progress(self.work, phase, self.applied, None, rate, unit="keys")
            if taken:
                self.work.throttle.rest(took / self._urgency, self.work.stop)
        self._keep_log_small(pages)
        return keys

    def _next_row(self, quarter: int) -> int:
        """Return the first quarter from this one on that has rows: of an old log most pages have none."""
        row = execute(self.session, ddl.next_in_log(self.pair), _tid(quarter), again=True).fetchone()
        if row is None:
            return END_OF_LOG
        page, number = (int(part) for part in str(row[0])[1:-1].split(","))
        return page * QUARTERS + min(number // ROWS_A_QUARTER, QUARTERS - 1)

    def judge(self, keys: int, *, is_behind: bool) -> None:
        """Rest less when a round of so many keys was behind and they do not get fewer, more when it was not."""
        if not is_behind:
            self._urgency = max(self._urgency / 1.5, 1.0)
        elif keys > self._last_keys * SHRINKING:
            self._urgency = min(self._urgency * 1.5, 1000.0)
        self._last_keys = keys

    def _batch(self, first: int, last: int) -> int:
        evict = False
        while True:
            try:
                return self._transaction(first, last, evict=evict)
            except psycopg.Error as error:
                if error.sqlstate in COLLISIONS and not evict:
                    evict = True
                elif error.sqlstate not in TRANSIENT:
                    raise
            self.work.check()

    def _transaction(self, first: int, last: int, *, evict: bool) -> int:
        """Apply one batch in one snapshot, in three round trips."""
        session = self.session
        with session.pipeline() as pipeline, session.transaction():
            # The source before the target, as the verifier does; and before the snapshot is taken.
            execute(session, ddl.lock_to_read(self.pair.source), again=True)
            truncated = execute(session, ddl.take_truncated(self.pair), again=True)
            taken = execute(session, self.take, _tid(first), _tid(last), again=True)
            pipeline.sync()
            if truncated.rowcount:
                execute(session, ddl.truncate_target(self.pair))
            if not taken.rowcount:
                return 0
            if evict:
                execute(session, ddl.evict(self.pair))
            execute(session, self.delete, again=True)
            execute(session, self.bring, again=True)
            store.execute(session, "add_applied", run_id=self.work.run_id, rows=taken.rowcount)
            return taken.rowcount

    def drain_all(self, within_s: float) -> int:
        """Apply the whole log in one transaction, while somebody else keeps writers out; return the keys.

        Args:
            within_s: the statement timeout; psycopg.errors.QueryCanceled is raised when it passes.
        """
        self.session.execute(ddl.statement_timeout(within_s))
        try:
            return self._batch(0, END_OF_LOG)
        finally:
            if not self.session.closed:
                self.session.execute(ddl.statement_timeout(APPLIER.statement_timeout_ms / 1000))

    def _clear_after_truncate(self) -> bool:
        while True:
            try:
                with self.session.transaction():
                    execute(self.session, ddl.lock_to_read(self.pair.source))
                    if not execute(self.session, ddl.take_truncated(self.pair)).rowcount:
                        return False
                    execute(self.session, ddl.truncate_target(self.pair))
                    return True
            except psycopg.Error as error:
                if error.sqlstate not in TRANSIENT:
                    raise
            self.work.check()

    def _keep_log_small(self, total: int) -> None:
        """Let the log's space be used again; give a long empty log's space back, in one short attempt."""
        if self._dirty_pages < self.VACUUM_PAGES or self.work.stop.is_set():
            return
        self._dirty_pages = 0
        self.session.execute(ddl.vacuum_log(self.pair).encode())
        if total < self.SHRINK_PAGES or not self.shrinks_log:
            return
        try:
            with self.session.transaction():
                self.session.execute("SET LOCAL lock_timeout = '50ms'")
                execute(self.session, ddl.lock_log(self.pair))
                row = execute(self.session, ddl.has_log(self.pair)).fetchone()
                if row and not row[0]:
                    execute(self.session, ddl.truncate_log(self.pair))
        except psycopg.errors.LockNotAvailable:
            # Somebody writes; the next round tries again.
            self._dirty_pages = self.VACUUM_PAGES

    def catch_up(self, phase: str, few: int = 1_000) -> None:
        """Apply in rounds until fewer than `few` keys are waiting.

        Raises:
            InterruptedRunError: the run is being stopped.
        """
        rate = Rate(done=self.applied)
        while True:
            keys = self.round(phase, rate)
            self.work.check()
            row = execute(self.session, ddl.count_log(self.pair, few)).fetchone()
            is_behind = row is None or int(row[0]) >= few
            self.judge(keys, is_behind=is_behind)
            if not is_behind:
                return


def _tid(quarter: int) -> str:
    """Return the first TID of a quarter of a page; the one after all for END_OF_LOG."""
    page, number = divmod(quarter, QUARTERS)
    return f"({page},{65535 if page == LAST_PAGE else number * ROWS_A_QUARTER})"


def drain_within(session: Session, pair: Pair) -> None:
    """Apply the whole log as the session's open transaction sees it; no other session may be applying.

    The planner methods it turns off stay off until the transaction ends.
    """
    session.execute(ddl.batch_table(pair).encode())
    if execute(session, ddl.take_truncated(pair)).rowcount:
        execute(session, ddl.truncate_target(pair))
    for setting in ddl.PROBE_BY_KEY:
        session.execute(setting)
    take, delete, bring = ddl.apply(pair)
    execute(session, take, _tid(0), _tid(END_OF_LOG))
    execute(session, ddl.evict(pair))
    execute(session, delete)
    execute(session, bring)


class InBackground:
    """Keeps an applier going in a thread while something else happens; raises its failure at the end.

    Args:
        shrinks_log: give a long empty log's space back; not while rows are compared.
    """

    # Often enough to stay close; seldom enough that keys which change often are brought once, and that a batch is
    # worth its round trips: every half second cost the application more than all that is brought.
    PERIOD_S = 2.0

    def __init__(self, applier: Applier, *, shrinks_log: bool = True) -> None:
        self.applier = applier
        self._shrinks_log = shrinks_log
        self._end = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self.applier.shrinks_log = self._shrinks_log
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()
        self.applier.shrinks_log = True
        if self._failure is not None and exc[0] is None:
            raise explain(self._failure)

    def check(self) -> None:
        """Raise the thread's failure if it has one."""
        if self._failure is not None:
            raise explain(self._failure)

    def _run(self) -> None:
        try:
            while not (self._end.is_set() or self.applier.work.stop.is_set()):
                started = time.monotonic()
                keys = self.applier.round()
                self.applier.judge(keys, is_behind=time.monotonic() - started > self.PERIOD_S)
                self._end.wait(self.PERIOD_S)
        except BaseException as error:  # noqa: BLE001 because it is raised again by __exit__ or check
            self._failure = error
            self.applier.work.stop.set()
