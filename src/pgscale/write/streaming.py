"""Write an endless source in committed batches, each about as long as asked for; conflicts are tried again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from pgscale.connect.retry import CONFLICTS, aretrying, retrying
from pgscale.errors import PgscaleError, UsageError
from pgscale.write.dead_letters.sink import DeadLetters
from pgscale.write.effects import drive, drive_async
from pgscale.write.failures import as_the_servers, translated
from pgscale.write.feeding import AsyncFeed, Feed
from pgscale.write.flowing import Committed, Look, Outcome, Pause, Put, StreamResult, Switch, Take, flow_of, make_plan
from pgscale.write.rules import Rule
from pgscale.write.sources import ArrowStream, AsyncRows, Rows

_OPTIONS: dict[str, Any] = {"autocommit": True, "connect_timeout": 10, "application_name": "pgscale/stream"}


def stream(
    connection: psycopg.Connection[Any],
    table: str,
    rows: Iterable[Any] | ArrowStream,
    *,
    key: Sequence[str] = (),
    rules: Mapping[str, Rule] | None = None,
    columns: Sequence[str] | None = None,
    dead_letters: DeadLetters | None = None,
    target_commit_s: float = 0.5,
    queue_rows: int = 50_000,
    retry_for_s: float = 60.0,
    on_commit: Callable[[Committed], None] | None = None,
    reconnect: Callable[[], psycopg.Connection[Any]] | None = None,
) -> StreamResult:
    """Write rows in batches, each committed by itself, until the source ends.

    Args:
        connection: in autocommit and in no transaction. In one of the caller's nothing could be committed, and no
            conflict tried again: that takes the whole transaction.
        table, columns, dead_letters: as for `copy`; `most` of the letters counts for each batch.
        rows: as for `copy`. A thread reads them ahead, and waits when `queue_rows` are in the queue.
        key, rules: as for `upsert`; without a key rows are copied.
        target_commit_s: how long a batch should take; their size follows it. Rows that came are committed about so
            long after the first of them, also when the source pauses.
        retry_for_s: how long a batch that meets a deadlock (40P01) or a serialization failure (40001) is tried again,
            and how long a server that is away is waited for.
        on_commit: told of every batch when it is committed; what it raises ends the stream.
        reconnect: gives another connection when this one is lost, set up as the first; the stream goes on on it, and
            closes it at its end. Without it the stream ends, and says what is committed.

    A connection that is lost at COMMIT leaves it open whether the batch is in. The server is asked, on another
    connection, what became of the transaction; so no batch is written twice, and none is left out.

    Raises:
        UsageError: the connection or a number is not fit for it.
        StreamFailedError: a batch or the source failed; it says how many rows are committed.

    Locks: as `copy` and `upsert`, for as long as a batch takes.
    """
    source = Rows(rows)
    plan = make_plan(
        table, key, rules, columns, dead_letters, source.names, target_commit_s, queue_rows, retry_for_s,
        goes_on=reconnect is not None,
    )  # fmt: skip
    flow = flow_of(plan, on_commit)
    _check(connection)
    lines = _Lines(connection, reconnect)
    with Feed(source, queue_rows) as feed:
        answer: Any = None
        error: Exception | None = None
        try:
            while True:
                wanted = flow.send(answer) if error is None else flow.throw(error)
                answer, error = None, None
                try:
                    match wanted:
                        case Take():
                            answer = feed.take(wanted.most, wanted.wait_s)
                        case Put():
                            answer = retrying(
                                partial(_attempt, lines.main, wanted),
                                states=CONFLICTS,
                                give_up_after_s=retry_for_s,
                                on_retry=wanted.note_retry,
                            )
                        case Look():
                            line = lines.other() if wanted.on_another else lines.main
                            answer = drive(wanted.steps(line.info), line, Rows(()))
                        case Switch():
                            lines.switch()
                        case Pause():
                            time.sleep(wanted.seconds)
                except Exception as failed:  # noqa: BLE001 because the flow judges it
                    error = failed
        except StopIteration as ended:
            return ended.value
        finally:
            lines.close()


async def astream(
    connection: psycopg.AsyncConnection[Any],
    table: str,
    rows: AsyncIterable[Any] | Iterable[Any] | ArrowStream,
    *,
    key: Sequence[str] = (),
    rules: Mapping[str, Rule] | None = None,
    columns: Sequence[str] | None = None,
    dead_letters: DeadLetters | None = None,
    target_commit_s: float = 0.5,
    queue_rows: int = 50_000,
    retry_for_s: float = 60.0,
    on_commit: Callable[[Committed], None] | None = None,
    reconnect: Callable[[], Awaitable[psycopg.AsyncConnection[Any]]] | None = None,
) -> StreamResult:
    """As stream, on an async connection; the rows may be async too, and a task reads them ahead."""
    source = AsyncRows(rows)
    plan = make_plan(
        table, key, rules, columns, dead_letters, source.names, target_commit_s, queue_rows, retry_for_s,
        goes_on=reconnect is not None,
    )  # fmt: skip
    flow = flow_of(plan, on_commit)
    _check(connection)
    lines = _AsyncLines(connection, reconnect)
    async with AsyncFeed(source, queue_rows) as feed:
        answer: Any = None
        error: Exception | None = None
        try:
            while True:
                wanted = flow.send(answer) if error is None else flow.throw(error)
                answer, error = None, None
                try:
                    match wanted:
                        case Take():
                            answer = await feed.take(wanted.most, wanted.wait_s)
                        case Put():
                            answer = await aretrying(
                                partial(_attempt_async, lines.main, wanted),
                                states=CONFLICTS,
                                give_up_after_s=retry_for_s,
                                on_retry=wanted.note_retry,
                            )
                        case Look():
                            line = (await lines.other()) if wanted.on_another else lines.main
                            answer = await drive_async(wanted.steps(line.info), line, AsyncRows(()))
                        case Switch():
                            await lines.switch()
                        case Pause():
                            await asyncio.sleep(wanted.seconds)
                except Exception as failed:  # noqa: BLE001 because the flow judges it
                    error = failed
        except StopIteration as ended:
            return ended.value
        finally:
            await lines.close()


class _Lines:
    """The connection that a stream writes on, and another one when it is lost."""

    def __init__(self, first: psycopg.Connection[Any], reconnect: Callable[[], psycopg.Connection[Any]] | None) -> None:
        self.main = first
        self._reconnect = reconnect
        # Now, for of a connection that is lost it cannot be had.
        self._conninfo = make_conninfo(first.info.dsn, password=first.info.password)
        self._other: psycopg.Connection[Any] | None = None
        self._opened: list[psycopg.Connection[Any]] = []

    def other(self) -> psycopg.Connection[Any]:
        if self._other is None or self._other.closed:
            if self._reconnect is None:
                self._other = psycopg.connect(self._conninfo, **_OPTIONS)
                self._opened.append(self._other)
            else:
                self._other = self._reconnect()
                self._opened.append(self._other)
                _check(self._other)
        return self._other

    def switch(self) -> None:
        self.main, self._other = self.other(), None

    def close(self) -> None:
        for one in self._opened:
            one.close()


class _AsyncLines:
    """As _Lines, of async connections."""

    def __init__(
        self,
        first: psycopg.AsyncConnection[Any],
        reconnect: Callable[[], Awaitable[psycopg.AsyncConnection[Any]]] | None,
    ) -> None:
        self.main = first
        self._reconnect = reconnect
        self._conninfo = make_conninfo(first.info.dsn, password=first.info.password)
        self._other: psycopg.AsyncConnection[Any] | None = None
        self._opened: list[psycopg.AsyncConnection[Any]] = []

    async def other(self) -> psycopg.AsyncConnection[Any]:
        if self._other is None or self._other.closed:
            if self._reconnect is None:
                self._other = await psycopg.AsyncConnection.connect(self._conninfo, **_OPTIONS)
                self._opened.append(self._other)
            else:
                self._other = await self._reconnect()
                self._opened.append(self._other)
                _check(self._other)
        return self._other

    async def switch(self) -> None:
        self.main, self._other = await self.other(), None

    async def close(self) -> None:
        for one in self._opened:
            await one.close()


def _check(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    is_idle = connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    if not connection.autocommit or not is_idle:
        raise UsageError(
            "A stream commits its batches, so its connection is in autocommit and in no transaction.",
            consequence="Nothing was written.",
            hint="Connect with autocommit=True; in a transaction of yours use copy or upsert.",
        )


def _attempt(connection: psycopg.Connection[Any], put: Put) -> Outcome:
    try:
        with translated(put.plan.table):
            return drive(put.steps(connection.info), connection, Rows(put.rows))
    except PgscaleError as error:
        raise as_the_servers(error, CONFLICTS) from error.__cause__


async def _attempt_async(connection: psycopg.AsyncConnection[Any], put: Put) -> Outcome:
    try:
        with translated(put.plan.table):
            return await drive_async(put.steps(connection.info), connection, AsyncRows(put.rows))
    except PgscaleError as error:
        raise as_the_servers(error, CONFLICTS) from error.__cause__
