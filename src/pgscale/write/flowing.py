"""What a stream asks for, one thing after the other; sync and async give it the same answers. No I/O of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import psycopg

from pgscale.errors import PermissionDeniedError, PgscaleError, RefusedError, UsageError
from pgscale.write.copying import CopyResult, copy_steps
from pgscale.write.dead_letters.sink import DeadLetters, new_call, opening
from pgscale.write.effects import Steps
from pgscale.write.failures import is_lost
from pgscale.write.model import RowError
from pgscale.write.outcomes import Commit, Incarnation, Verdict, look_up, read_incarnation
from pgscale.write.pacing import Pacer
from pgscale.write.rows import Chunk
from pgscale.write.rules import Rule
from pgscale.write.staging import most_common_shape
from pgscale.write.upserting import UpsertResult, upsert_steps

Outcome: TypeAlias = "CopyResult | UpsertResult"
# Between attempts to reach a server that is away, or looks at a COMMIT that is under way.
FIRST_WAIT_S, LONGEST_WAIT_S = 0.02, 1.0
# A session that has lost its client notices within this time; one that has not is ended.
NOTICES_S = 2.0


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
        batches: committed; retries: of batches that met another transaction; reconnects: to go on from a connection
            that was lost.
    """

    rows: int
    inserted: int
    updated: int
    dead_letters: int
    batches: int
    retries: int
    reconnects: int = 0


class StreamFailedError(PgscaleError):
    """A stream ended before its source.

    Args:
        committed_rows: how many rows from the beginning of the source are committed, as rows or as letters.
        unknown_rows: how many after them may be committed or not: the connection was lost at COMMIT, and the server
            could not be asked what became of it.
        row: the index of the row at fault, where it is known.
    """

    exit_code = 5

    def __init__(self, fact: str, *, committed_rows: int, unknown_rows: int, row: int | None) -> None:
        after = f"; of the {unknown_rows:,} after them it is not known" if unknown_rows else ", and none after them"
        super().__init__(fact, consequence=f"The first {committed_rows:,} rows of the source are committed{after}.")
        self.committed_rows = committed_rows
        self.unknown_rows = unknown_rows
        self.row = row


# What is asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """Take the next rows of the feed; the answer is a chunk, empty at the end."""

    most: int
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What becomes of a batch.

    Args:
        goes_on: when the connection is lost, on another one; patience_s: how long a conflict or a server that is away
            is waited for; call: what its letters are told by.
    """

    table: str
    key: tuple[str, ...]
    rules: dict[str, Rule]
    columns: Sequence[str] | None
    dead_letters: DeadLetters | None
    pacer: Pacer
    target_s: float
    patience_s: float
    goes_on: bool
    call: str = field(default_factory=new_call)


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """Write and commit a batch; the answer is its outcome."""

    plan: Plan
    rows: Chunk
    columns: Sequence[str] | None
    first: int
    retries: list[BaseException] = field(default_factory=list[BaseException])
    commit: Commit[Outcome] = field(default_factory=Commit[Outcome])

    def note_retry(self, _: int, error: BaseException) -> None:
        self.retries.append(error)

    def steps(self, info: psycopg.ConnectionInfo) -> Steps[Outcome]:
        return self.commit.watched(self._steps(info), info)

    def _steps(self, info: psycopg.ConnectionInfo) -> Steps[Outcome]:
        plan, open_sink = self.plan, opening(self.plan.dead_letters, self.first, self.plan.call)
        if plan.key:
            return (yield from upsert_steps(info, plan.table, plan.key, plan.rules, self.columns, (), open_sink))
        return (yield from copy_steps(info, plan.table, self.columns, (), open_sink))


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Drive steps; the answer is what they return.

    Args:
        on_another: connection than the one that writes, opened for it.
    """

    steps: Callable[[psycopg.ConnectionInfo], Steps[Any]]
    on_another: bool


@dataclass(frozen=True, slots=True)
class Switch:
    """Write on another connection from now on."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait."""

    seconds: float


Wish: TypeAlias = "Take | Put | Look | Switch | Pause"
Flow: TypeAlias = "Generator[Wish, Any, StreamResult]"


def make_plan(
    table: str,
    key: Sequence[str],
    rules: Mapping[str, Rule] | None,
    columns: Sequence[str] | None,
    dead_letters: DeadLetters | None,
    names: tuple[str, ...],
    target_s: float,
    queue_rows: int,
    patience_s: float,
    *,
    goes_on: bool,
) -> Plan:
    """Return the plan of a stream; its arguments are those of `stream`.

    Raises:
        UsageError: a number is not fit for it.
    """
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
        patience_s=patience_s,
        goes_on=goes_on,
    )


def flow_of(plan: Plan, on_commit: Callable[[Committed], None] | None) -> Flow:
    """Ask for what a stream needs, until its source ends.

    Raises:
        StreamFailedError: a batch or the source failed.
    """
    pacer, columns = plan.pacer, plan.columns
    rows = inserted = updated = dead = batches = retries = reconnects = 0
    server = yield from _read_server()
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
        landed = yield from _land(put, server)
        outcome, server = landed.outcome, landed.server
        seconds = time.perf_counter() - started
        pacer.note(len(chunk), seconds)
        rows += len(chunk)
        batches += 1
        retries += len(put.retries)
        reconnects += landed.reconnects
        dead += outcome.dead_letters
        inserted += outcome.rows if isinstance(outcome, CopyResult) else outcome.inserted
        updated += 0 if isinstance(outcome, CopyResult) else outcome.updated
        if on_commit is not None:
            on_commit(Committed(rows=rows, batch_rows=len(chunk), seconds=seconds, next_rows=pacer.rows))
        if landed.ended is not None:
            raise landed.ended
    return StreamResult(
        rows=rows,
        inserted=inserted,
        updated=updated,
        dead_letters=dead,
        batches=batches,
        retries=retries,
        reconnects=reconnects,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Landed:
    """A batch that is committed.

    Args:
        server: that the stream writes on now; ended: to be raised, for there is no connection to go on on.
    """

    outcome: Outcome
    server: Incarnation | None
    reconnects: int
    ended: StreamFailedError | None = None


def _land(put: Put, server: Incarnation | None) -> Generator[Wish, Any, _Landed]:
    """Commit a batch, once, however often the connection is lost.

    Raises:
        StreamFailedError: it is not committed, or nobody knows.
    """
    plan, size = put.plan, len(put.rows)
    until: float | None = None
    lost: Exception
    reconnects = 0
    while True:
        try:
            outcome: Outcome = yield put
        except (PgscaleError, psycopg.Error) as error:
            if not put.first and isinstance(error, (UsageError, RefusedError, PermissionDeniedError)):
                raise
            if not is_lost(error):
                raise _failed(error, plan.table, put.first) from error
            lost = error
        else:
            return _Landed(outcome=outcome, server=server, reconnects=reconnects)
        until = until or time.monotonic() + plan.patience_s
        verdict: Verdict = "unknown" if put.commit.xid is not None else "aborted"
        has_another = False
        try:
            verdict = yield from _find_out(put.commit, server, until)
            if plan.goes_on and verdict != "unknown" and time.monotonic() < until:
                yield from _while_away(Switch(), until)
                has_another = True
        except psycopg.Error:
            pass
        except Exception as error:  # noqa: BLE001 because whatever the caller's function raises is told
            lost = error
        is_in = verdict == "committed"
        ended = None
        if not has_another:
            ended = _failed(lost, plan.table, put.first + is_in * size, size if verdict == "unknown" else 0)
            ended.__cause__ = lost
        else:
            server = yield from _read_server()
            reconnects += 1
        if is_in:
            return _Landed(outcome=put.commit.finish(), server=server, reconnects=reconnects, ended=ended)
        if ended is not None:
            raise ended


def _find_out(commit: Commit[Outcome], server: Incarnation | None, until: float) -> Generator[Wish, Any, Verdict]:
    """Find out what became of a batch whose connection is lost.

    Raises:
        psycopg.Error: there was nobody to ask.
    """
    if commit.xid is None:
        # COMMIT was not sent, or there was nothing that it could have committed.
        return "aborted"
    began, wait_s = time.monotonic(), FIRST_WAIT_S
    while True:
        ends_idle = time.monotonic() - began > NOTICES_S
        steps = partial(look_up, xid=commit.xid, before=server, ends_idle=ends_idle)
        verdict: Verdict = yield from _while_away(Look(steps=steps, on_another=True), until)
        if verdict != "in progress":
            return verdict
        if time.monotonic() > until:
            return "unknown"
        yield Pause(wait_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def _read_server() -> Generator[Wish, Any, Incarnation | None]:
    try:
        return (yield Look(steps=read_incarnation, on_another=False))
    except psycopg.Error:
        # Whoever writes on it will tell.
        return None


def _while_away(wish: Wish, until: float) -> Generator[Wish, Any, Any]:
    """Ask for it again while the server cannot be reached."""
    wait_s = FIRST_WAIT_S
    while True:
        try:
            return (yield wish)
        except psycopg.Error as error:
            if not is_lost(error) or time.monotonic() + wait_s > until:
                raise
        yield Pause(wait_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def _failed(error: Exception, table: str, committed: int, unknown: int = 0) -> StreamFailedError:
    row = committed + error.row if isinstance(error, RowError) else None
    if isinstance(error, RowError):
        where = "" if error.column is None else f", column {error.column}"
        fact = f"Row {row}{where}: {error.reason}."
    elif isinstance(error, PgscaleError):
        fact = error.fact
    elif isinstance(error, psycopg.Error):
        fact = f"{table} could not be written: {' '.join(str(error).split()).rstrip('.')}."
    else:
        fact = f"There is no connection to go on on: {type(error).__name__}: {error}."
    return StreamFailedError(fact, committed_rows=committed, unknown_rows=unknown, row=row)
