"""COPY rows of any usual shape into a table, encoded for the types of its columns."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from pgscale.write import ddl
from pgscale.write.dead_letters.sink import DeadLetters, OpenSink, Sink, opening
from pgscale.write.destination import encoder_for, is_in_a_transaction, read_destination, refuse_if_altered
from pgscale.write.effects import Atomic, Begin, Done, End, Pull, Steps, Write, drive, drive_async
from pgscale.write.encoding import SIGNATURE, TRAILER, Encoder
from pgscale.write.failures import translated
from pgscale.write.isolating import read_guards
from pgscale.write.model import Destination
from pgscale.write.rows import Chunk, Shape, shape_of
from pgscale.write.sources import ArrowStream, AsyncRows, Rows
from pgscale.write.staging import FIRST_BATCH_ROWS, choose_shape, make_task
from pgscale.write.surviving import copy_surviving

# Big enough that a call costs nothing beside its bytes, small enough to stay in a processor's cache.
CHUNK_BYTES = 256 * 1024
FIRST_CHUNK_ROWS, MOST_CHUNK_ROWS = 256, 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyResult:
    """What a copy did.

    Args:
        rows, bytes: as written; dead_letters: rows that were not, and are dead letters now.
    """

    rows: int
    bytes: int
    dead_letters: int = 0


def copy(
    connection: psycopg.Connection[Any],
    table: str,
    rows: Iterable[Any] | ArrowStream,
    columns: Sequence[str] | None = None,
    dead_letters: DeadLetters | None = None,
) -> CopyResult:
    """Write rows by COPY in its binary format: all of them or none.

    Args:
        connection: in autocommit the call is a transaction; in a transaction it is a savepoint of it.
        table: as in SQL; found by the connection's search_path.
        rows: tuples, lists, dicts, named tuples or dataclasses, all of one shape, in any iterable, endless ones too
            (memory stays constant); or one object with `__arrow_c_stream__`.
        columns: which columns the values are for, in their order. By default what the rows say (keys, fields), else
            every column of the table that is not generated. Others get their defaults.
        dead_letters: where bad rows go, so that all others are written: in one transaction, each row once, here or
            there. By default a bad row fails the call.

    Values are encoded for the column's type: nothing is cast. None is NULL. Datetimes need a time zone where the
    column has one, and none where it has none; infinity is `math.inf` or 'infinity'. Strings in JSON columns are
    JSON already; other objects are made JSON. Identity columns take the values they are given, also ALWAYS ones.

    Raises:
        RowError: a value does not fit: it names row, column and reason. Nothing of the call was written.
        RefusedError: there is no such table or column, or a type without a binary form.
        UsageError: the rows are none.
        TooManyDeadLettersError: more rows are bad than `dead_letters` allows. Nothing of the call was written.

    Lock: ROW EXCLUSIVE on the table.
    """
    source = Rows(rows)
    with translated(table, source):
        steps = copy_steps(connection.info, table, columns, source.names, opening(dead_letters))
        return drive(steps, connection, source)


async def acopy(
    connection: psycopg.AsyncConnection[Any],
    table: str,
    rows: AsyncIterable[Any] | Iterable[Any] | ArrowStream,
    columns: Sequence[str] | None = None,
    dead_letters: DeadLetters | None = None,
) -> CopyResult:
    """As copy, on an async connection; the rows may be async too."""
    source = AsyncRows(rows)
    with translated(table, source):
        steps = copy_steps(connection.info, table, columns, source.names, opening(dead_letters))
        return await drive_async(steps, connection, source)


def copy_steps(
    info: psycopg.ConnectionInfo,
    table: str,
    columns: Sequence[str] | None,
    names: tuple[str, ...],
    open_sink: OpenSink | None,
) -> Steps[CopyResult]:
    """Ask what a copy needs; its arguments are those of `copy`.

    Args:
        names: what the source says its columns are.
        open_sink: opens what takes bad rows; without it the first of them fails the call.
    """
    is_inside = is_in_a_transaction(info)
    destination = yield from read_destination(info, table)
    if open_sink is not None:
        sink = open_sink(str(destination.table), None)
        return (yield from _copy_all_that_fits(info, table, destination, columns, names, sink, is_inside=is_inside))
    chunk: Chunk = yield Pull(FIRST_CHUNK_ROWS)
    if not chunk:
        return CopyResult(rows=0, bytes=0)
    shape = shape_of(chunk[0])
    encoder = encoder_for(destination, columns or names or shape.names or None)
    yield Atomic()
    yield Begin(ddl.copy_statement(destination.table, encoder.names))
    sent = yield from send(encoder, shape, chunk)
    counted: int = yield End()
    yield from refuse_if_altered(destination, table)
    yield Done()
    return CopyResult(rows=counted, bytes=sent)


def _copy_all_that_fits(
    info: psycopg.ConnectionInfo,
    name: str,
    destination: Destination,
    columns: Sequence[str] | None,
    names: tuple[str, ...],
    sink: Sink,
    *,
    is_inside: bool,
) -> Steps[CopyResult]:
    chunk: Chunk = yield Pull(FIRST_BATCH_ROWS)
    if not chunk:
        return CopyResult(rows=0, bytes=0)
    shape, encoder = choose_shape(chunk, destination, columns, names)
    guards = yield from read_guards(info, destination.oid)
    task = make_task(destination, encoder, shape, guards, sink, purpose="insert", is_in_a_transaction=is_inside)
    yield Atomic()
    landed, sent = yield from copy_surviving(task, chunk)
    yield from refuse_if_altered(destination, name)
    yield from sink.close()
    yield Done()
    return CopyResult(rows=landed, bytes=sent, dead_letters=sink.count)


def send(encoder: Encoder, shape: Shape, chunk: Chunk) -> Steps[int]:
    """Send all rows within a COPY that has begun, from the chunk that is pulled already; return the bytes sent."""
    extract: Callable[[Chunk], Iterable[Sequence[Any]]] = shape.extractor(encoder.names)
    pulled, sent = 0, len(SIGNATURE) + len(TRAILER)
    yield Write(SIGNATURE)
    while chunk:
        data = encoder.encode(chunk, shape, extract, pulled)
        yield Write(data)
        pulled += len(chunk)
        sent += len(data)
        most = min(max(1, CHUNK_BYTES * len(chunk) // max(1, len(data))), MOST_CHUNK_ROWS)
        chunk = yield Pull(most)
    yield Write(TRAILER)
    return sent
