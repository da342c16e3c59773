"""Owns a run: the advisory lock, the heartbeat, and the requests that other processes leave in the ledger."""

from __future__ import annotations

import threading
import time
from typing import Self

import psycopg

from pgscale.connect.session import CONTROL, Session, open_session
from pgscale.errors import RunFailedError
from pgscale.ledger import store
from pgscale.livecopy.work import Work

BEAT_S = 0.5
# How long a server process may take to notice that its client is gone.
NOTICED_S = 1.0


class Keeper:
    """Keeps a run owned while its body runs.

    Args:
        session: the session that holds the run's advisory lock; used by the keeper's thread alone from then on.

    Requests: `pause` holds the work, NULL lets it go on, `abort` stops it, `cutover` is only noted.
    """

    def __init__(self, work: Work, session: Session) -> None:
        self.work, self.session = work, session
        self.wants_cutover = threading.Event()
        self.wants_abort = threading.Event()
        self.lost: RunFailedError | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        last = time.monotonic()
        while not self._end.wait(BEAT_S):
            now = time.monotonic()
            told = self.work.tell.last
            try:
                request = store.scalar(
                    self.session,
                    "heartbeat",
                    run_id=self.work.run_id,
                    busy_s=now - last,
                    note=self.work.throttle.reason,
                    eta_least_s=told.eta_least_s,
                    eta_most_s=told.eta_most_s,
                )
            except psycopg.errors.QueryCanceled:
                continue
            except psycopg.Error as error:
                if not self._end.is_set():
                    self.lost = RunFailedError(
                        f"The run lost its own connection: {' '.join(str(error).split())}.",
                        consequence="Nothing is lost: every finished chunk is in the ledger.",
                        hint="`pgscale partition resume` goes on.",
                    )
                    self.work.cancel()
                return
            last = now
            self.work.throttle.pause("paused by the operator" if request == "pause" else "")
            if request == "abort":
                self.wants_abort.set()
                self.work.cancel()
            elif request == "cutover":
                self.wants_cutover.set()


def own(dsn: str, role: str, oid: int) -> Session | None:
    """Open the session that owns the table's run; None while a live process has it.

    A process that ended a moment ago owns it until its server process has noticed, so it is asked for a while.
    """
    session = open_session(dsn, CONTROL.as_role(role))
    until = time.monotonic() + NOTICED_S
    while not store.try_own(session, oid):
        if time.monotonic() > until:
            session.close()
            return None
        time.sleep(0.05)
    return session
