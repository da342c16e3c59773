"""Drain a buffer into PostgreSQL: batch after batch, exactly once, through lost connections and restarted servers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgscale.connect.dsn import redact, resolve_dsn
from pgscale.errors import ConnectError, PgscaleError, UsageError
from pgscale.write.buffer import positions
from pgscale.write.buffer.landing import Landed, Rules, land
from pgscale.write.buffer.model import BufferDamagedError, Log
from pgscale.write.buffer.records import RecordDecoder
from pgscale.write.effects import Atomic, Done, Steps, drive, drive_async
from pgscale.write.failures import WriteFailedError
from pgscale.write.sources import AsyncRows, Rows

MOST_EVENTS, FEWEST_EVENTS = 20_000, 100
TARGET_S = 0.25
RATE_WINDOW_S = 10.0
CALM_ROUNDS = 50
# Between looks into an empty log, and before lanes that others have are asked for again.
IDLE_S, LONGEST_IDLE_S, TAKEN_S = 0.005, 0.1, 0.005
FIRST_RETRY_S, LONGEST_RETRY_S = 0.1, 5.0
# While there is nothing to land: between questions to the database whether it still stands where this drainer thinks.
LOOK_AGAIN_S = 10.0
# SET of the drainer's own session: a dead drainer's locks are not to outlive it for long.
_SETTINGS = (
    b"SET idle_in_transaction_session_timeout = '60s'; SET client_connection_check_interval = '1s';"
    b" SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;"
    b" SET lock_timeout = '30s'; SET statement_timeout = '300s'; SET default_transaction_isolation = 'read committed'"
)
# Of libpq: a server that has vanished is to be known within half a minute, and not when the kernel gives up.
_KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What a drainer did: events landed, dead letters written, attempts that failed and were made again."""

    events: int = 0
    dead: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class _Pause:
    """Wait; the answer is whether to stop."""

    seconds: float


@dataclass(frozen=True, slots=True)
class _Run:
    """Drive steps on the connection; the answer is what they return, or the error that ended them."""

    steps: Callable[[psycopg.ConnectionInfo], Steps[Any]]


@dataclass(frozen=True, slots=True)
class _Look:
    """Call a function that may block on a disk or a network; the answer is what it returns, or the error."""

    function: Callable[[], Any]


_Wish: TypeAlias = "_Pause | _Run | _Look"
Watch: TypeAlias = Callable[["Drained"], None]


class Drainer:
    """Lands the events of one log. Any number of them may work side by side, in threads, processes or machines.

    Each claims lanes by a row lock in the database, in the transaction that lands their events; so no two of them
    ever land the same, and what a dead one held is free as soon as the server sees its connection gone. One object
    works for one thread or task at a time, with a log object of its own.

    Args:
        log: of the buffer.
        deliveries: how often an event is tried whose error may heal (a parent row that is missing, a partition that
            is to be made) before it becomes a dead letter. Values that do not fit become one at once.
        batch: most events of a transaction; it adapts to a quarter of a second.
        begin_here: where the database knows nothing of the buffer, begin with what is left in it.
    """

    def __init__(self, log: Log, *, deliveries: int = 5, batch: int = MOST_EVENTS, begin_here: bool = False) -> None:
        if deliveries < 1 or batch < 1:
            raise UsageError("deliveries and batch are at least 1.")
        self.log = log
        self._deliveries = deliveries
        self._begins_here = begin_here
        self._most = self._largest = self._size = batch
        self._decoder = RecordDecoder()
        self._lanes = log.target.lanes
        self._calm = 0
        # Where the lanes stand, as far as this drainer knows; empty when it has yet to ask.
        self._known: dict[int, int] = {}
        self._look_again_at = 0.0
        self._landed_at: deque[tuple[float, int]] = deque()
        self.events = self.dead = self.retries = 0
        self.last_error = ""

    def drain_once(self, connection: psycopg.Connection[Any]) -> Landed:
        """Land one batch on a connection in autocommit.

        Raises:
            UsageError: the connection is in a transaction, or begins one by itself: what is landed would be removed
                from the log before anybody commits it.
            PgscaleError, psycopg.Error: nothing was landed, or whether it was is not known: the next call finds out.
        """
        _check(connection)
        if not self._known:
            drive(self._begin(connection.info), connection, Rows(()))
        return drive(self._once(connection.info), connection, Rows(()))

    async def adrain_once(self, connection: psycopg.AsyncConnection[Any]) -> Landed:
        """As drain_once."""
        _check(connection)
        if not self._known:
            await drive_async(self._begin(connection.info), connection, AsyncRows(()))
        return await drive_async(self._once(connection.info), connection, AsyncRows(()))

    def run(
        self,
        dsn: str | None,
        stop: threading.Event | None = None,
        *,
        until_empty: bool = False,
        watch: Watch | None = None,
    ) -> Drained:
        """Land events until told to stop, or until there are none.

        Lost connections, servers that start again, and every other trouble that is not an event's are waited out.

        Args:
            dsn: as `resolve_dsn` takes it.
            watch: told after every batch.

        Raises:
            BufferDamagedError: the log cannot be read on.
        """
        stop = stop or threading.Event()
        conninfo = resolve_dsn(dsn)
        connection: psycopg.Connection[Any] | None = None
        loop = self._loop(conninfo, watch, until_empty=until_empty)
        try:
            answer: Any = None
            while True:
                match loop.send(answer):
                    case _Pause(seconds):
                        answer = stop.wait(seconds)
                    case _Look(function):
                        answer = _tried(function)
                    case _Run(steps):
                        try:
                            if connection is None or connection.closed:
                                connection = psycopg.connect(conninfo, **_options(conninfo))
                                connection.execute(_SETTINGS)
                            answer = drive(steps(connection.info), connection, Rows(()))
                        except (psycopg.Error, PgscaleError, MemoryError) as error:
                            if connection is not None and _is_lost(error):
                                connection.close()
                            answer = error
        except StopIteration as ended:
            return ended.value
        finally:
            if connection is not None:
                connection.close()

    async def arun(
        self,
        dsn: str | None,
        stop: asyncio.Event | None = None,
        *,
        until_empty: bool = False,
        watch: Watch | None = None,
    ) -> Drained:
        """As run, in a task."""
        stop = stop or asyncio.Event()
        conninfo = resolve_dsn(dsn)
        connection: psycopg.AsyncConnection[Any] | None = None
        loop = self._loop(conninfo, watch, until_empty=until_empty)
        try:
            answer: Any = None
            while True:
                match loop.send(answer):
                    case _Pause(seconds):
                        with suppress(asyncio.TimeoutError):
                            await asyncio.wait_for(stop.wait(), max(seconds, 0.001))
                        answer = stop.is_set()
                    case _Look(function):
                        answer = await asyncio.to_thread(_tried, function)
                    case _Run(steps):
                        try:
                            if connection is None or connection.closed:
                                connection = await psycopg.AsyncConnection.connect(conninfo, **_options(conninfo))
                                await connection.execute(_SETTINGS)
                            answer = await drive_async(steps(connection.info), connection, AsyncRows(()))
                        except (psycopg.Error, PgscaleError, MemoryError) as error:
                            if connection is not None and _is_lost(error):
                                await connection.close()
                            answer = error
        except StopIteration as ended:
            return ended.value
        finally:
            if connection is not None:
                await connection.close()

    def _loop(self, conninfo: str, watch: Watch | None, *, until_empty: bool) -> Generator[_Wish, Any, Drained]:
        """Say what to do next; the same for threads and for tasks."""
        wait_s, idle_s, is_over = FIRST_RETRY_S, IDLE_S, False
        while not is_over:
            answer: Any
            if not self._known:
                answer = yield _Run(self._begin)
            elif not (answer := (yield _Look(self._has_events))):
                if self.last_error:
                    # It was trouble with the log, and it is over: nothing else would say so.
                    answer = yield _Run(self._clear)
                elif until_empty or time.monotonic() >= self._look_again_at:
                    # What others hold is not landed yet, and a database that was restored knows less than this drainer:
                    # ask it, which waits for nobody.
                    answer = yield _Run(self._read_known)
                    if until_empty and answer is None and self._known and not (yield _Look(self._has_events)):
                        break
                if not until_empty and not isinstance(answer, Exception):
                    is_over = yield _Pause(idle_s)
                    idle_s = min(idle_s * 2, LONGEST_IDLE_S)
                    continue
            elif not isinstance(answer, Exception):
                idle_s = IDLE_S
                began, self._size = time.monotonic(), self._most
                answer = yield _Run(self._once)
                self._adapt(answer, time.monotonic() - began)
            if isinstance(answer, BufferDamagedError):
                yield _Run(partial(self._note, answer))
                raise answer
            if isinstance(answer, Exception):
                self._failed(answer, conninfo)
                if isinstance(answer, ConnectError) and until_empty and not self._known:
                    raise answer
                if not _is_lost(answer):
                    yield _Run(partial(self._note, answer))
                is_over = yield _Pause(wait_s)
                wait_s = min(wait_s * 2, LONGEST_RETRY_S)
                continue
            if isinstance(answer, Landed):
                if watch is not None:
                    watch(self.drained)
                if answer.held:
                    is_over = yield _Pause(wait_s)
                    wait_s = min(wait_s * 2, LONGEST_RETRY_S)
                    continue
                if answer.lanes == 0 and time.monotonic() >= self._look_again_at:
                    # Others have them all; or they are not there any more.
                    yield _Run(self._read_known)
                is_over = yield _Pause(TAKEN_S if answer.lanes == 0 else 0)
            wait_s = FIRST_RETRY_S
        return self.drained

    @property
    def drained(self) -> Drained:
        return Drained(events=self.events, dead=self.dead, retries=self.retries)

    @property
    def rate_per_s(self) -> float:
        """Return events landed a second, of the last seconds."""
        now = time.monotonic()
        while self._landed_at and self._landed_at[0][0] < now - RATE_WINDOW_S:
            self._landed_at.popleft()
        if not self._landed_at:
            return 0.0
        return sum(count for _, count in self._landed_at) / max(now - self._landed_at[0][0], 1.0)

    def _has_events(self) -> bool:
        try:
            return self.log.has_events(self._known)
        except BufferDamagedError:
            # What is known here may be old, and other drainers have removed what they landed: the claim tells.
            return True

    def _begin(self, info: psycopg.ConnectionInfo) -> Steps[None]:
        """Learn where the lanes stand; make their rows when the database knows nothing of the buffer."""
        del info
        buffer, lanes = self.log.buffer, self.log.target.lanes
        yield from positions.ensure_table()
        yield Atomic()
        known = yield from positions.count_lanes(buffer)
        positions.refuse_other_lanes(known, lanes)
        if self.log.level == "memory":
            yield from positions.forget_memory(buffer)
        if not known:
            first = self.log.first_position(is_oldest=self._begins_here)
            yield from positions.insert_lanes(buffer, lanes, first)
        self._known = yield from positions.read_positions(buffer)
        yield Done()

    def _read_known(self, info: psycopg.ConnectionInfo) -> Steps[None]:
        del info
        # Empty where the rows are gone, with the database or from it: then all begins anew.
        self._known = yield from positions.read_positions(self.log.buffer)
        self._look_again_at = time.monotonic() + LOOK_AGAIN_S

    def _once(self, info: psycopg.ConnectionInfo) -> Steps[Landed]:
        rules = Rules(
            most=self._most,
            lanes=self._lanes,
            deliveries=self._deliveries,
            on_read=self._note_size,
            rate_per_s=self.rate_per_s,
        )
        landed = yield from land(info, self.log, self._decoder, rules)
        self._known.update(landed.positions)
        self.last_error = ""
        self.events += landed.events
        self.dead += landed.dead
        self.retries += landed.held
        self._landed_at.append((time.monotonic(), landed.events))
        return landed

    def _note(self, error: Exception, info: psycopg.ConnectionInfo) -> Steps[None]:
        yield from positions.note_error(info, self.log.buffer, error)

    def _clear(self, info: psycopg.ConnectionInfo) -> Steps[None]:
        del info
        yield from positions.clear_error(self.log.buffer)
        self.last_error = ""

    def _failed(self, error: Exception, conninfo: str) -> None:
        self.retries += 1
        if isinstance(error, psycopg.errors.UndefinedTable):
            # Our own: somebody dropped it, or this is another database behind the same name.
            self._known = {}
        self.last_error = redact(" ".join(str(error).split()), conninfo)

    def _note_size(self, events: int) -> None:
        self._size = events

    def _adapt(self, answer: object, took_s: float) -> None:
        """Fit the batch to the time it should take, and the lanes to how many drainers there are."""
        if not isinstance(answer, Landed):
            # Perhaps it is too much for a timeout, or for somebody's memory.
            self._most = max(1, min(self._most, self._size) // 2)
            return
        if took_s > 1.5 * TARGET_S:
            self._most = max(self._most // 2, min(FEWEST_EVENTS, self._largest))
        elif answer.events + answer.dead >= self._most and took_s < TARGET_S / 2:
            self._most = min(self._most * 2, self._largest)
        lanes = self.log.target.lanes
        if answer.lanes < min(self._lanes, lanes):
            self._lanes = max(1, answer.lanes or self._lanes // 2)
            self._calm = 0
        else:
            self._calm += 1
            if self._calm >= CALM_ROUNDS and self._lanes < lanes:
                self._lanes, self._calm = self._lanes + 1, 0


_OPTIONS: dict[str, Any] = {
    "autocommit": True,
    "connect_timeout": 10,
    "client_encoding": "UTF8",
    "application_name": "pgscale/drainer",
}


def _options(conninfo: str) -> dict[str, Any]:
    given = conninfo_to_dict(conninfo)
    return {**_OPTIONS, **{name: value for name, value in _KEEPALIVES.items() if name not in given}}


def _check(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    is_idle = connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    if not connection.autocommit or not is_idle:
        raise UsageError(
            "A drainer commits what it lands, so its connection is in autocommit and in no transaction.",
            consequence="Nothing was landed.",
            hint="psycopg.connect(…, autocommit=True)",
        )


def _tried(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except PgscaleError as error:
        return error


def _is_lost(error: Exception) -> bool:
    """Tell whether the connection may be of no use any more, and the outcome of its COMMIT unknown."""
    if isinstance(error, ConnectError):
        return True
    cause = error.__cause__ if isinstance(error, WriteFailedError) else error
    if not isinstance(cause, (psycopg.OperationalError, psycopg.InterfaceError)):
        return False
    # A lock or a statement that took too long, a deadlock, a full disk: said by the server on a connection that lives.
    return cause.sqlstate is None or cause.sqlstate.startswith(("08", "57P"))
