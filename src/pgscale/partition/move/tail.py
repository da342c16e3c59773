"""Give the empty tail of a table back to the disk, while the application reads and writes it all the time.

VACUUM cuts the tail off under ACCESS EXCLUSIVE, for which it does not queue: it tries every 50 ms for five seconds and
gives up (lazy_truncate_heap() in src/backend/access/heap/vacuumlazy.c). Where somebody always holds the table, it never
gets it. Everybody comes through the view, though: while that is locked for a moment, the tables behind it are free.
"""

from __future__ import annotations

import threading
import time

import psycopg

from pgscale import sql as named
from pgscale.connect.retry import TRANSIENT, retrying
from pgscale.connect.session import CONTROL, WORKER, Session
from pgscale.core.model import Progress
from pgscale.livecopy.work import Work, execute

QUERIES = named.load("pgscale.partition.move")

# So long VACUUM may try by itself.
PATIENCE_S = 0.15
POLL_S = 0.01


class Cutter:
    """Runs VACUUM on one table.

    Args:
        work: the run; vacuum: the statement; gate: takes ACCESS EXCLUSIVE on the view alone and is rolled back.
        lock_timeout_s: the first wait for that lock; max_block_s: the longest, and the longest time it is held.
    """

    def __init__(self, work: Work, vacuum: str, gate: str, *, lock_timeout_s: float, max_block_s: float) -> None:
        self.work, self.vacuum, self.gate = work, vacuum, gate
        self.lock_timeout_s, self.max_block_s = lock_timeout_s, max_block_s
        self._wait_s = lock_timeout_s

    def run(self) -> None:
        """Vacuum, and hold the application off for a moment where the tail could not be cut off otherwise.

        Raises:
            psycopg.Error: VACUUM failed; InterruptedRunError: the run is being stopped.
        """
        failures: list[BaseException] = []

        def body() -> None:
            try:
                with self.work.session(WORKER) as session:
                    pids.append(session.info.backend_pid)
                    if self.work.throttle.pace != "fast":
                        session.execute("SET vacuum_cost_delay = '1ms'")
                    self._vacuum(session)
            except BaseException as error:  # noqa: BLE001 because it is raised again in the caller's thread
                failures.append(error)

        pids: list[int] = []
        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        with self.work.session(CONTROL) as watcher:
            while thread.is_alive():
                if pids and self._is_cutting(watcher, pids[0]):
                    thread.join(PATIENCE_S)
                    if thread.is_alive() and self._is_cutting(watcher, pids[0]):
                        self._hold_off(watcher, pids[0])
                thread.join(POLL_S * 2)
        if failures:
            raise failures[0]
        self.work.check()

    def _vacuum(self, session: Session) -> None:
        retrying(
            lambda: execute(session, self.vacuum),
            give_up_after_s=3600.0,
            on_retry=lambda n, e: self._note(f"VACUUM: attempt {n}: {str(e).splitlines()[0]}"),
            sleep=self._sleep,
        )

    def _is_cutting(self, watcher: Session, pid: int) -> bool:
        return bool(watcher.execute(QUERIES.get("is_cutting", watcher.info.server_version), {"pid": pid}).fetchone())

    def _hold_off(self, watcher: Session, pid: int) -> None:
        """Lock the view until VACUUM has its lock and is done; each failure waits a little longer the next time."""
        try:
            with self.work.session(CONTROL) as session, session.transaction(force_rollback=True):
                session.execute(
                    "SELECT pg_catalog.set_config('lock_timeout', %s, true)", (f"{self._wait_s * 1000:.0f}ms",)
                )
                execute(session, self.gate)
                until = time.monotonic() + self.max_block_s
                while time.monotonic() < until and self._is_cutting(watcher, pid) and not self.work.stop.is_set():
                    time.sleep(POLL_S)
        except psycopg.Error as error:
            if error.sqlstate not in TRANSIENT:
                raise
            self._wait_s = min(self._wait_s * 1.5, max(self.max_block_s, self.lock_timeout_s))
            self._note(f"to cut the tail off: {str(error).splitlines()[0]}")
            self.work.stop.wait(self._wait_s)
        else:
            self._wait_s = self.lock_timeout_s

    def _note(self, note: str) -> None:
        self.work.tell(Progress(table=self.work.table, phase="waiting", note=note))

    def _sleep(self, seconds: float) -> None:
        self.work.stop.wait(seconds)
        self.work.check()
