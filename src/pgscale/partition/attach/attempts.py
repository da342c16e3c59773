"""One transaction under a strong lock, in short attempts until one succeeds."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import psycopg

from pgscale.connect.retry import TRANSIENT
from pgscale.connect.session import CONTROL, Session
from pgscale.core.model import Progress
from pgscale.errors import RunFailedError
from pgscale.ledger import store
from pgscale.livecopy.cutover import GiveUpError, Limits
from pgscale.livecopy.work import Work, execute

LONGEST_WAIT_S = 2.0
# Deadline of an attempt, by time.monotonic.
Attempt = Callable[[Session, float], None]


class Attempts:
    """Attempts of one transaction. Each waits at most `lock_timeout_s` for a lock and ends within `max_block_s`.

    Args:
        what: for the message when none succeeds.
        calm: statements before the deadline begins to run, which block neither readers nor writers.
        most_late: so many attempts may end because they took too long; None: no limit but the time.
    """

    def __init__(
        self, work: Work, limits: Limits, what: str, calm: Sequence[str], *, most_late: int | None = None
    ) -> None:
        self.work, self.limits, self.what, self.calm, self.most_late = work, limits, what, calm, most_late
        self.session = work.open(CONTROL)
        # Whoever takes the run over must wait for a COMMIT of this session that is still under way.
        store.lock_work(self.session, work.oid)
        self.made = 0
        self._since: float | None = None
        self.late = 0

    def run(self, attempt: Attempt) -> None:
        """Let `attempt` succeed once.

        Raises:
            RunFailedError: none did in time, with the last reason; InterruptedRunError: the run is being stopped.
        """
        began, wait = time.monotonic(), 0.05
        while True:
            self.work.check()
            self.made += 1
            self._since = None
            reason = self._try(attempt)
            blocked_ms = 0.0 if self._since is None else (time.monotonic() - self._since) * 1000
            store.execute(self.session, "add_attempt", run_id=self.work.run_id, blocked_ms=blocked_ms)
            if reason is None:
                return
            is_late = self.most_late is not None and self.late >= self.most_late
            if is_late or time.monotonic() - began > self.limits.give_up_after_s:
                raise RunFailedError(
                    f"{self.what} did not succeed in {self.made} attempts: {reason}.",
                    consequence="The application was never blocked for longer than allowed; nothing was changed.",
                    hint="Remove the cause and give the same command again.",
                )
            note = f"attempt {self.made}: {reason}"
            self.work.tell(Progress(table=self.work.table, phase="cutover", done=self.made, unit="items", note=note))
            self.work.stop.wait(wait * random.uniform(0.5, 1.5))  # noqa: S311 because jitter needs no secrecy
            wait = min(wait * 1.6, LONGEST_WAIT_S)

    def _try(self, attempt: Attempt) -> str | None:
        """Return None when it succeeded, else why not."""
        try:
            with self.session.transaction():
                for statement in self.calm:
                    execute(self.session, statement)
                self._since = since = time.monotonic()
                self.session.execute(
                    "SELECT pg_catalog.set_config('lock_timeout', %s, true),"
                    " pg_catalog.set_config('statement_timeout', %s, true)",
                    (f"{self.limits.lock_timeout_s * 1000:.0f}ms", f"{self.limits.max_block_s * 1000:.0f}ms"),
                )
                attempt(self.session, since + self.limits.max_block_s)
        except GiveUpError as reason:
            self.late += str(reason) == TOO_LONG
            return str(reason)
        except psycopg.Error as error:
            if error.sqlstate == "57014" and not self.work.stop.is_set():
                self.late += 1
                return TOO_LONG
            if error.sqlstate not in TRANSIENT:
                raise
            first = str(error).splitlines()[0]
            return f"the lock was not free within {self.limits.lock_timeout_s * 1000:.0f} ms ({first})"
        return None


TOO_LONG = "it would have passed --max-block"
