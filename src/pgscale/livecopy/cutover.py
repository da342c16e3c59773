"""The swap: keep writers out for a moment, drain the log to zero, exchange the tables.

An attempt has two locks. EXCLUSIVE stops writers but not readers; under it the applier drains the log and
commits, so that every snapshot taken from then on sees all rows of the new table. ACCESS EXCLUSIVE follows for
the exchange itself. A transaction whose snapshot is older than that drain must not read the new table (it would
see it as it was), so the attempt is given up while one exists.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from pgscale.connect.retry import TRANSIENT
from pgscale.connect.session import CONTROL, Session
from pgscale.core.model import Progress, QName
from pgscale.errors import RunFailedError
from pgscale.ledger import store
from pgscale.livecopy import ddl, verifier
from pgscale.livecopy.applier import Applier, drain_within
from pgscale.livecopy.model import Pair
from pgscale.livecopy.work import Work, execute

# A session that waits for the table as a writer takes a new snapshot when it gets it (READ COMMITTED) or meets
# the guard trigger (REPEATABLE READ): its present snapshot does not matter.
_OLD_SNAPSHOTS = """
SELECT a.pid, COALESCE(a.usename, '')::text, COALESCE(a.state, 'of another role')::text,
  COALESCE(EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - a.xact_start), 0)::float8
FROM pg_catalog.pg_stat_activity a
WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
  -- Of other roles' sessions the snapshot is shown, but neither type nor state.
  AND COALESCE(a.backend_type, 'client backend') = 'client backend' AND a.usesysid IS NOT NULL
  AND a.backend_xmin IS NOT NULL AND pg_catalog.age(a.backend_xmin) >= pg_catalog.age($1::text::pg_catalog.xid)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.pid = a.pid AND NOT l.granted
    AND l.locktype = 'relation' AND l.relation = ANY ($2::text[]::pg_catalog.regclass[]::oid[])
    AND l.mode <> 'AccessShareLock')
  AND NOT ($3::text::bool AND a.state = 'active')
ORDER BY a.xact_start LIMIT 3
"""


class GiveUpError(Exception):
    """This attempt is over; the reason says why. Another one may succeed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds: the longest block, the longest wait for one lock, and when to stop trying."""

    max_block_s: float
    lock_timeout_s: float
    give_up_after_s: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What happens under the lock.

    Args:
        lock: the ACCESS EXCLUSIVE lock statement, incoming foreign keys' tables included.
        statements: the exchange.
        mark: called with the session before COMMIT, for the ledger.
        check: called with the session under the lock; raises when the table is not what was planned.
    """

    lock: str
    statements: Sequence[str]
    mark: Callable[[Session], None]
    check: Callable[[Session], None]


class CutOver:
    """Attempts until one succeeds. Each holds the lock for at most `max_block_s`."""

    FEW_KEYS = 500
    # An upgrade of the lock can starve where transactions read and then write the table; then only one lock
    # is taken, and the drain is part of the exchange.
    UPGRADES_BEFORE_SINGLE = 8
    # Where some statement is always running, its snapshot would put the swap off for ever. One that has run since
    # before the drain without a lock on the table is taken for what it nearly always is: READ COMMITTED.
    GIVE_UPS_BEFORE_TRUST = 20

    def __init__(self, work: Work, pair: Pair, applier: Applier, exchange: Exchange, limits: Limits) -> None:
        self.work, self.pair, self.applier = work, pair, applier
        self.exchange, self.limits = exchange, limits
        self.session = work.open(CONTROL)
        # Whoever takes the run over must wait for a COMMIT of this session that is still under way.
        store.lock_work(self.session, work.oid)
        self.attempts = 0
        self.longest_ms = 0.0
        self._upgrades_failed = 0
        self._snapshots_met = 0

    def run(self) -> None:
        """Exchange the tables.

        Raises:
            RunFailedError: no attempt succeeded in time, with the last reason.
            InterruptedRunError: the run is being stopped.

        Locks: EXCLUSIVE, then ACCESS EXCLUSIVE on the table, together at most `max_block_s`.
        """
        began, wait = time.monotonic(), 0.05
        while True:
            self.work.check()
            self.applier.catch_up("apply", self.FEW_KEYS)
            self.attempts += 1
            reason = self._attempt()
            store.execute(self.session, "add_attempt", run_id=self.work.run_id, blocked_ms=self.longest_ms)
            if reason is None:
                return
            if time.monotonic() - began > self.limits.give_up_after_s:
                raise RunFailedError(
                    f"The cut-over of {self.work.table} did not succeed in {self.attempts} attempts: {reason}.",
                    consequence="The application was never blocked for longer than allowed; nothing was lost.",
                    hint="Remove the cause, then `pgscale partition resume` or `cutover`.",
                )
            self._tell(f"attempt {self.attempts}: {reason}")
            self.work.stop.wait(wait * random.uniform(0.5, 1.5))  # noqa: S311 because jitter needs no secrecy
            wait = min(wait * 1.6, 5.0)

    def _tell(self, note: str) -> None:
        self.work.tell(Progress(table=self.work.table, phase="cutover", done=self.attempts, unit="items", note=note))

    def _attempt(self) -> str | None:
        """Return None when the tables are exchanged, else why not."""
        started = time.monotonic()
        deadline = started + self.limits.max_block_s
        try:
            with self.session.transaction():
                self._attempt_in_transaction(deadline)
        except GiveUpError as reason:
            return str(reason)
        except psycopg.Error as error:
            if error.sqlstate not in TRANSIENT | {"57014"}:
                raise
            if error.sqlstate == "57014":
                return "it would have passed --max-block"
            first = str(error).splitlines()[0]
            return f"the lock was not free within {self.limits.lock_timeout_s * 1000:.0f} ms ({first})"
        finally:
            self.longest_ms = max(self.longest_ms, (time.monotonic() - started) * 1000)
        return None

    def _attempt_in_transaction(self, deadline: float) -> None:
        session = self.session
        session.execute(
            "SELECT pg_catalog.set_config('lock_timeout', %s, true),"
            " pg_catalog.set_config('statement_timeout', %s, true)",
            (f"{self.limits.lock_timeout_s * 1000:.0f}ms", f"{self.limits.max_block_s * 1000:.0f}ms"),
        )
        if self._upgrades_failed < self.UPGRADES_BEFORE_SINGLE:
            self._lock_in_two_stages(deadline)
        else:
            execute(session, self.exchange.lock)
            raise_if_late(deadline)
            self._drain_inside()
        self.exchange.check(session)
        verifier.recheck(self.work, self.pair, session)
        for statement in self.exchange.statements:
            raise_if_late(deadline)
            execute(session, statement)
        self.exchange.mark(session)
        raise_if_late(deadline)

    def _lock_in_two_stages(self, deadline: float) -> None:
        execute(self.session, ddl.lock_against_writers(self.pair))
        # What was committed while the lock was awaited may be too much for the time that is left.
        waiting = execute(self.session, ddl.count_log(self.pair, 20 * self.FEW_KEYS)).fetchone()
        if waiting and int(waiting[0]) >= 20 * self.FEW_KEYS:
            raise GiveUpError("a large transaction was committed at the last moment")
        self.applier.drain_all(max(0.02, deadline - time.monotonic()))
        row = self.applier.session.execute("SELECT pg_catalog.pg_current_xact_id()::xid::text").fetchone()
        assert row is not None
        try:
            execute(self.session, self.exchange.lock)
        except psycopg.Error:
            self._upgrades_failed += 1
            raise
        for pid, user, state, age_s in self._old_snapshots(row[0]):
            self._snapshots_met += 1
            raise GiveUpError(
                f"session {pid} of {user} ({state}, for {age_s:.1f} s) holds a snapshot from before the cut-over"
            )
        self._refuse_leftovers()

    def _old_snapshots(self, drained_by: str) -> list[tuple[Any, ...]]:
        trusts = self._snapshots_met >= self.GIVE_UPS_BEFORE_TRUST
        return old_snapshots(self.session, drained_by, *self.pair.written_through, self.pair.source, trusts=trusts)

    def _drain_inside(self) -> None:
        """Drain within the exchange's own transaction: the applier's session could not read the locked table."""
        drain_within(self.session, self.pair)
        self._refuse_leftovers()

    def _refuse_leftovers(self) -> None:
        row = execute(self.session, ddl.has_log(self.pair)).fetchone()
        marked = execute(self.session, ddl.is_truncated(self.pair)).fetchone()
        if (row and row[0]) or (marked and marked[0]):
            raise GiveUpError("keys are still waiting in the log")


def old_snapshots(session: Session, than_xid: str, *tables: QName, trusts: bool) -> list[tuple[Any, ...]]:
    """Return up to three sessions whose snapshot cannot see what a transaction commits: pid, user, state, age (s).

    Args:
        than_xid: that transaction; tables: whose waiting writers do not matter.
        trusts: an active session is taken for READ COMMITTED, whose next statement takes a new snapshot.
    """
    written = [ddl.text(ddl.qualified(table)) for table in tables]
    return execute(session, _OLD_SNAPSHOTS, than_xid, written, "true" if trusts else "false").fetchall()


def raise_if_late(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise GiveUpError("it would have passed --max-block")
