"""Write an endless source in committed batches, each about as long as asked for; conflicts are tried again."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import psycopg

from pgscale.connect.retry import CONFLICTS, aretrying, retrying
from pgscale.errors import PermissionDeniedError, PgscaleError, RefusedError, UsageError
from pgscale.write.copying import CopyResult, copy_steps
from pgscale.write.dead_letters.sink import DeadLetters, opening
from pgscale.write.effects import Steps, drive, drive_async
from pgscale.write.failures import as_the_servers, translated
from pgscale.write.feeding import AsyncFeed, Feed
from pgscale.write.model import RowError
from pgscale.write.pacing import Pacer
from pgscale.write.rows import Chunk
from pgscale.write.rules import Rule
from pgscale.write.sources import ArrowStream, AsyncRows, Rows
from pgscale.write.staging import most_common_shape
from pgscale.write.upserting import UpsertResult, upsert_steps

Outcome: TypeAlias = "CopyResult | UpsertResult"


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A batch that is committed.

    Args:
        rows: of the source so far, from its beginning: where to go on from; batch_rows: of this batch.
        seconds: it took, retries included; next_rows: what the next batch may have.
    """

    rows: int
    batch_rows: int
    seconds: float
    next_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamResult:
    """What a stream did.

    Args:
        rows: of the source; inserted, updated: rows of the table; dead_letters: rows that were not written.
        batches: committed; retries: of batches that met another transaction.
    """

    rows: int
    inserted: int
    updated: int
    dead_letters: int
    batches: int
    retries: int


class StreamFailedError(PgscaleError):
    """A stream ended before its source.

    Args:
        committed_rows: how many rows from the beginning of the source are committed, as rows or as letters.
        unknown_rows: how many after them may be committed or not, for the connection was lost meanwhile.
        row: the index of the row at fault, where it is known.
    """

    exit_code = 5

    def __init__(self, fact: str, *, committed_rows: int, unknown_rows: int, row: int | None) -> None:
        after = f"; of the {unknown_rows:,} after them it is not known" if unknown_rows else ", and none after them"
        super().__init__(fact, consequence=f"The first {committed_rows:,} rows of the source are committed{after}.")
        self.committed_rows = committed_rows
        self.unknown_rows = unknown_rows
        self.row = row


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
        retry_for_s: how long a batch that meets a deadlock (40P01) or a serialization failure (40001) is tried again.
        on_commit: told of every batch when it is committed; what it raises ends the stream.

    Raises:
        UsageError: the connection or a number is not fit for it.
        StreamFailedError: a batch or the source failed; it says how many rows are committed.

    Locks: as `copy` and `upsert`, for as long as a batch takes.
    """
    source = Rows(rows)
    flow = _flow(_plan(table, key, rules, columns, dead_letters, source.names, target_commit_s, queue_rows), on_commit)
    _check(connection)
    with Feed(source, queue_rows) as feed:
        answer: Any = None
        error: Exception | None = None
        while True:
            try:
                wanted = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as ended:
                return ended.value
            answer, error = None, None
            try:
                if isinstance(wanted, Take):
                    answer = feed.take(wanted.most, wanted.wait_s)
                else:
                    once = _attempt(connection, wanted)
                    answer = retrying(once, states=CONFLICTS, give_up_after_s=retry_for_s, on_retry=wanted.note_retry)
            except Exception as failed:  # noqa: BLE001 because the flow judges it
                error = failed


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
) -> StreamResult:
    """As stream, on an async connection; the rows may be async too, and a task reads them ahead."""
    source = AsyncRows(rows)
    flow = _flow(_plan(table, key, rules, columns, dead_letters, source.names, target_commit_s, queue_rows), on_commit)
    _check(connection)
    async with AsyncFeed(source, queue_rows) as feed:
        answer: Any = None
        error: Exception | None = None
        while True:
            try:
                wanted = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as ended:
                return ended.value
            answer, error = None, None
            try:
                if isinstance(wanted, Take):
                    answer = await feed.take(wanted.most, wanted.wait_s)
                else:
                    once = _attempt_async(connection, wanted)
                    answer = await aretrying(
                        once, states=CONFLICTS, give_up_after_s=retry_for_s, on_retry=wanted.note_retry
                    )
            except Exception as failed:  # noqa: BLE001 because the flow judges it
                error = failed


# The flow: what both ask for


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """Take the next rows of the feed; the answer is a chunk, empty at the end."""

    most: int
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What becomes of a batch."""

    table: str
    key: tuple[str, ...]
    rules: dict[str, Rule]
    columns: Sequence[str] | None
    dead_letters: DeadLetters | None
    pacer: Pacer
    target_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """Write and commit a batch; the answer is its outcome."""

    plan: Plan
    rows: Chunk
    columns: Sequence[str] | None
    first: int
    retries: list[BaseException] = field(default_factory=list[BaseException])

    def note_retry(self, _: int, error: BaseException) -> None:
        self.retries.append(error)

    def steps(self, info: psycopg.ConnectionInfo) -> Steps[Outcome]:
        plan, open_sink = self.plan, opening(self.plan.dead_letters, self.first)
        if plan.key:
            return (yield from upsert_steps(info, plan.table, plan.key, plan.rules, self.columns, (), open_sink))
        return (yield from copy_steps(info, plan.table, self.columns, (), open_sink))


def _plan(
    table: str,
    key: Sequence[str],
    rules: Mapping[str, Rule] | None,
    columns: Sequence[str] | None,
    dead_letters: DeadLetters | None,
    names: tuple[str, ...],
    target_s: float,
    queue_rows: int,
) -> Plan:
    if not target_s > 0:
        raise UsageError(f"target_commit_s is {target_s}; it is a number of seconds above 0.")
    if queue_rows < 1:
        raise UsageError(f"queue_rows is {queue_rows}; it is at least 1.")
    if rules and not key:
        raise UsageError("Rules are for rows that are merged; that takes a key.")
    return Plan(
        table=table,
        key=tuple(key),
        rules=dict(rules or {}),
        columns=columns or names or None,
        dead_letters=dead_letters,
        pacer=Pacer(target_s, queue_rows),
        target_s=target_s,
    )


def _check(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    is_idle = connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    if not connection.autocommit or not is_idle:
        raise UsageError(
            "A stream commits its batches, so its connection is in autocommit and in no transaction.",
            consequence="Nothing was written.",
            hint="Connect with autocommit=True; in a transaction of yours use copy or upsert.",
        )


def _attempt(connection: psycopg.Connection[Any], put: Put) -> Callable[[], Outcome]:
    def once() -> Outcome:
        try:
            with translated(put.plan.table):
                return drive(put.steps(connection.info), connection, Rows(put.rows))
        except PgscaleError as error:
            raise as_the_servers(error, CONFLICTS) from error.__cause__

    return once


def _attempt_async(connection: psycopg.AsyncConnection[Any], put: Put) -> Callable[[], Any]:
    async def once() -> Outcome:
        try:
            with translated(put.plan.table):
                return await drive_async(put.steps(connection.info), connection, AsyncRows(put.rows))
        except PgscaleError as error:
            raise as_the_servers(error, CONFLICTS) from error.__cause__

    return once


def _flow(plan: Plan, on_commit: Callable[[Committed], None] | None) -> Generator[Take | Put, Any, StreamResult]:
    pacer, columns = plan.pacer, plan.columns
    rows = inserted = updated = dead = batches = retries = 0
    while True:
        try:
            chunk: Chunk = yield Take(most=pacer.rows, wait_s=plan.target_s)
        except Exception as error:
            raise StreamFailedError(
                f"The source failed: {type(error).__name__}: {error}.", committed_rows=rows, unknown_rows=0, row=None
            ) from error
        if not chunk:
            break
        if columns is None and not rows:
            # What the first rows say holds for all: another batch must not begin to say something else.
            columns = most_common_shape(chunk if plan.dead_letters else chunk[:1]).names or None
        put = Put(plan=plan, rows=chunk, columns=columns, first=rows)
        started = time.perf_counter()
        try:
            outcome: Outcome = yield put
        except (PgscaleError, psycopg.Error) as error:
            if not rows and isinstance(error, (UsageError, RefusedError, PermissionDeniedError)):
                raise
            raise _failed(error, plan.table, rows, len(chunk)) from error
        seconds = time.perf_counter() - started
        pacer.note(len(chunk), seconds)
        rows += len(chunk)
        batches += 1
        retries += len(put.retries)
        dead += outcome.dead_letters
        inserted += outcome.rows if isinstance(outcome, CopyResult) else outcome.inserted
        updated += 0 if isinstance(outcome, CopyResult) else outcome.updated
        if on_commit is not None:
            on_commit(Committed(rows=rows, batch_rows=len(chunk), seconds=seconds, next_rows=pacer.rows))
    return StreamResult(
        rows=rows, inserted=inserted, updated=updated, dead_letters=dead, batches=batches, retries=retries
    )


def _failed(error: PgscaleError | psycopg.Error, table: str, committed: int, batch: int) -> StreamFailedError:
    server = error if isinstance(error, psycopg.Error) else error.__cause__
    state = server.sqlstate if isinstance(server, psycopg.Error) else ""
    # Without an answer of the server's, COMMIT may have been on its way.
    is_unknown = state is None or state.startswith(("08", "57P"))
    row = committed + error.row if isinstance(error, RowError) else None
    if isinstance(error, RowError):
        where = "" if error.column is None else f", column {error.column}"
        fact = f"Row {row}{where}: {error.reason}."
    else:
        fact = error.fact if isinstance(error, PgscaleError) else f"{table} could not be written: {str(error).strip()}."
    return StreamFailedError(fact, committed_rows=committed, unknown_rows=batch if is_unknown else 0, row=row)
