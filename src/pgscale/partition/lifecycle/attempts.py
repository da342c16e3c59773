"""How a caretaker's statements run: in short attempts that let others by, or alone and outside a transaction."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import psycopg

from pgscale.connect.retry import retrying
from pgscale.connect.session import READER, Profile, Session, open_session
from pgscale.livecopy.work import execute
from pgscale.partition.lifecycle import reader
from pgscale.partition.lifecycle.model import Limits

# Everything of one table happens in one session: its advisory lock ends with the last statement under way,
# so a call that takes over from a killed one never meets a DETACH that the server is still working on.
CARE = Profile(purpose="maintain", statement_timeout_ms=60_000, lock_timeout_ms=1_000)
# How often the other session looks.
_LOOK_S = 0.03


class Attempts:
    """One session, and what its statements may cost others."""

    def __init__(self, dsn: str, session: Session, limits: Limits) -> None:
        self.dsn = dsn
        self.session = session
        self.limits = limits

    def set_limits(self, lock_timeout_s: float, statement_timeout_s: float) -> None:
        """Set both timeouts until the end of the transaction; 0 is none."""
        for name, seconds in (("lock_timeout", lock_timeout_s), ("statement_timeout", statement_timeout_s)):
            self.session.execute(
                "SELECT pg_catalog.set_config(%s::text, %s::text, true)", (name, str(int(seconds * 1000)))
            )

    def in_short(self, attempt: Callable[[], object]) -> None:
        """Run one transaction again and again until its locks are to be had at once."""

        def once() -> None:
            with self.session.transaction():
                self.set_limits(self.limits.lock_timeout_s, self.limits.hold_s)
                attempt()

        self.again(once, self.limits.give_up_after_s)

    def again(self, attempt: Callable[[], None], give_up_after_s: float) -> None:
        retrying(attempt, give_up_after_s=give_up_after_s, longest_wait_s=2.0)

    def alone(self, statement: str) -> None:
        """Run a statement outside a transaction, which may wait `detach_wait_s` for other transactions to end.

        Nobody waits behind that. Where it waits for a lock on a table that keeps others from their rows, they do: there
        it is cancelled after `lock_timeout_s`. A lock_timeout cannot tell the two apart, so another session looks on.

        Raises:
            LockNotAvailable: it waited too long for either.
        """
        self._set_for_session(self.limits.detach_wait_s * 1000, self.limits.detach_wait_s * 1000)
        done, cancelled = threading.Event(), threading.Event()
        try:
            with open_session(self.dsn, READER) as eyes:
                guard = threading.Thread(target=self._guard, args=(eyes, done, cancelled), daemon=True)
                guard.start()
                try:
                    execute(self.session, statement)
                finally:
                    done.set()
                    guard.join()
        except psycopg.errors.QueryCanceled as error:
            if cancelled.is_set():
                raise psycopg.errors.LockNotAvailable("others would have queued behind its wait for a lock") from error
            raise
        finally:
            if not self.session.closed:
                self._set_for_session(CARE.lock_timeout_ms, CARE.statement_timeout_ms)

    def _guard(self, eyes: Session, done: threading.Event, cancelled: threading.Event) -> None:
        with suppress(psycopg.Error):
            while not done.wait(_LOOK_S):
                row = reader.query(
                    eyes, "waits_for_table", pid=self.session.info.backend_pid, seconds=self.limits.lock_timeout_s
                ).fetchone()
                if row is not None and row[0]:
                    cancelled.set()
                    self.session.cancel_safe(timeout=2.0)

    def _set_for_session(self, lock_timeout_ms: float, statement_timeout_ms: float) -> None:
        for name, ms in (("lock_timeout", lock_timeout_ms), ("statement_timeout", statement_timeout_ms)):
            self.session.execute("SELECT pg_catalog.set_config(%s::text, %s::text, false)", (name, str(int(ms))))
