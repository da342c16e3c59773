"""What the threads of a run share, and how they are started, stopped and joined."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import psycopg
from psycopg.pq import TransactionStatus

from pgscale.connect.session import Profile, Session, open_session, renew
from pgscale.core.model import Progress, Watch
from pgscale.errors import InterruptedRunError, PgscaleError, RunFailedError
from pgscale.ledger import store
from pgscale.livecopy.rate import Outlook, Rate
from pgscale.livecopy.throttle import Throttle


class Telling:
    """Passes every moment on to the watcher and keeps the last, so that it can be told again while work is held."""

    def __init__(self, watch: Watch, table: str) -> None:
        self._watch = watch
        self._last = Progress(table=table, phase="prepare")

    @property
    def last(self) -> Progress:
        return self._last

    def __call__(self, moment: Progress) -> None:
        self._last = moment
        self._watch(moment)

    def again(self, *, throttled: str, note: str = "") -> None:
        """Tell the last moment once more, with why work is held now; a note is said this once only."""
        last = self._last
        unknown: dict[str, Any] = {"rate": 0.0, "eta_s": None, "eta_least_s": None, "eta_most_s": None}
        self._last = replace(last, **unknown)
        self._watch(replace(self._last, throttled=throttled, note=note or last.note))


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One run's moving of rows.

    Args:
        dsn: where; role: the table's owner, which every session that touches tables acts as.
        oid: the source table's oid, the key of the run's advisory locks.
        run_id: its ledger row.
        stop: set to make every thread end after its present transaction.
        throttle: asked before and told after every piece of work.
        tell: the watcher, with what it was last told.
        table: the table as displayed.
        outlook: what is known of the storage, where the operator described it.
    """

    dsn: str
    role: str
    oid: int
    run_id: int
    stop: threading.Event
    throttle: Throttle
    tell: Telling
    table: str
    outlook: Outlook | None = None
    # While work is short, one session does it piece by piece: a connection costs a process, and a login.
    # A run that does everything at once has four anyway; beyond those none is kept that work does not need at a time.
    IDLE_S: ClassVar[float] = 2.0
    FEW: ClassVar[int] = 4
    sessions: list[Session] = field(default_factory=list[Session])
    _idle: dict[Profile, list[tuple[Session, float]]] = field(
        default_factory=dict[Profile, list[tuple[Session, float]]]
    )
    _most: list[int] = field(default_factory=lambda: [0])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def session(self, profile: Profile) -> Generator[Session]:
        """Lend a session, as `open` gives it: one that was just given back, or a new one.

        What failed or left a transaction open is closed, and nothing that has been idle for long is lent again:
        firewalls and servers end such connections.
        """
        session = self._take(profile) or self.open(profile)
        try:
            yield session
        except BaseException:
            session.close()
            raise
        self._give_back(session, profile)

    def _take(self, profile: Profile) -> Session | None:
        while True:
            with self._lock:
                idle = self._idle.get(profile)
                if not idle:
                    return None
                session, since = idle.pop()
            try:
                if time.monotonic() - since < self.IDLE_S:
                    renew(session, profile)
                    return session
            except psycopg.Error:
                # It ended meanwhile; a new one says why, if there is more to it.
                pass
            session.close()

    def _give_back(self, session: Session, profile: Profile) -> None:
        if session.closed or self.stop.is_set() or session.info.transaction_status != TransactionStatus.IDLE:
            session.close()
            return
        with self._lock:
            self._idle.setdefault(profile, []).append((session, time.monotonic()))

    def _make_room(self) -> None:
        """Close idle sessions where one more would be more than were ever at work: a pooler may have no more."""
        with self._lock:
            self.sessions[:] = [session for session in self.sessions if not session.closed]
            idle = sorted((entry for entries in self._idle.values() for entry in entries), key=lambda entry: entry[1])
            self._most[0] = max(self._most[0], len(self.sessions) - len(idle) + 1)
            spare = len(self.sessions) + 1 - max(self._most[0], self.FEW)
            for entry in idle[: max(spare, 0)]:
                for entries in self._idle.values():
                    if entry in entries:
                        entries.remove(entry)
                entry[0].close()

    def close(self) -> None:
        """Close every session of the run."""
        for session in self.sessions:
            if not session.closed:
                session.close()

    def open(self, profile: Profile, *, as_login: bool = False) -> Session:
        """Open a session of the run; those that move rows hold the run's work lock for as long as they live.

        Args:
            as_login: keep the rights of the login, which may see more of the server than the table's owner.
        """
        self._make_room()
        session = open_session(self.dsn, profile if as_login else profile.as_role(self.role))
        with self._lock:
            self.sessions.append(session)
        if not profile.durable:
            store.lock_work(session, self.oid)
        return session

    def cancel(self) -> None:
        """Stop every thread now: statements under way are cancelled, their transactions roll back."""
        self.stop.set()
        for session in list(self.sessions):
            try:
                if not session.closed:
                    session.cancel_safe(timeout=2.0)
            except psycopg.Error:
                # The connection is gone already, and with it the statement.
                continue

    def check(self) -> None:
        """Raise when the run is being stopped.

        Raises:
            InterruptedRunError
        """
        if self.stop.is_set():
            raise InterruptedRunError("The run was stopped.")


def execute(session: Session, statement: str, *params: object, again: bool = False) -> psycopg.Cursor[tuple[Any, ...]]:
    """Execute one statement of a plan, its parameters as $1, $2 …

    Args:
        again: it will be executed many times in this session: it is prepared and planned once.
    """
    if again and session.prepare_threshold is None:
        session.prepare_threshold = 1_000_000
        session.execute("SET plan_cache_mode = force_generic_plan")
    cursor = psycopg.RawCursor(session)
    return cursor.execute(statement.encode(), params or None, prepare=True if again else None)


def tid(page: int) -> str:
    """Return the first TID of a page."""
    return f"({min(page, 4_294_967_295)},0)"


def in_parallel(work: Work, bodies: Sequence[Callable[[], None]]) -> None:
    """Run every body in a thread of its own and wait; the first failure stops the others and is raised.

    Raises:
        InterruptedRunError: the run was stopped, or Ctrl-C was pressed.
        RunFailedError: a body failed.
    """
    failures: list[BaseException] = []

    def guarded(body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:  # noqa: BLE001 because it is raised again in the caller's thread
            failures.append(error)
            work.stop.set()

    threads = [threading.Thread(target=guarded, args=(body,), daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(0.05)
    except BaseException:
        work.cancel()
        for thread in threads:
            thread.join(10.0)
        raise
    if failures:
        real = [e for e in failures if not isinstance(e, InterruptedRunError)]
        raise explain((real or failures)[0])
    work.check()


def explain(error: BaseException) -> BaseException:
    """Turn a database error into one of ours; ours and interrupts pass."""
    if isinstance(error, PgscaleError) or not isinstance(error, psycopg.Error):
        return error
    what = " ".join(str(error).split()) or type(error).__name__
    wrapped = RunFailedError(
        f"The database stopped the run: {what}.",
        consequence="The table itself is unharmed, and every finished step is kept.",
        hint="Remove the cause, then `pgscale partition resume` it, or `abort`.",
    )
    wrapped.__cause__ = error
    return wrapped


def progress(work: Work, phase: str, done: int, total: int | None, rate: Rate, **more: Any) -> None:
    """Tell the watcher how a phase stands."""
    rate.add(done)
    least_s, most_s = _range_s(work, phase, done, total, rate)
    work.tell(
        Progress(
            table=work.table,
            phase=phase,
            done=done,
            total=total,
            rate=rate.per_second,
            eta_s=None if total is None else rate.eta_s(total - done),
            eta_least_s=least_s,
            eta_most_s=most_s,
            throttled=work.throttle.reason,
            **more,
        )
    )


def _range_s(work: Work, phase: str, done: int, total: int | None, rate: Rate) -> tuple[float | None, float | None]:
    """Return the seconds left at best and at worst: by the trailing windows, and by the storage where it is known."""
    if not total:
        return None, None
    if work.outlook is not None:
        work.outlook.note(phase, done / total)
    spread = rate.spread()
    if spread is None or spread[1] <= 0:
        return None, None
    slow, fast = spread
    left = total - done
    if work.outlook is not None:
        known = work.outlook.left_s(phase, left / total, slow / total, fast / total)
        if known is not None:
            return known
    return left / fast, left / slow if slow > 0 else None
