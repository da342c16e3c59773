"""COPY rows of any usual shape into a table, encoded for the types of its columns."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from pgscale.write import ddl
from pgscale.write.destination import encoder_for, read_destination
from pgscale.write.effects import Atomic, Begin, Done, End, Pull, Steps, Write, drive, drive_async
from pgscale.write.encoding import SIGNATURE, TRAILER, Encoder
from pgscale.write.failures import translated
from pgscale.write.rows import Chunk, Shape, shape_of
from pgscale.write.sources import ArrowStream, AsyncRows, Rows

# Big enough that a call costs nothing beside its bytes, small enough to stay in a processor's cache.
CHUNK_BYTES = 256 * 1024
FIRST_CHUNK_ROWS, MOST_CHUNK_ROWS = 256, 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyResult:
    """What a copy did."""

    rows: int
    bytes: int


def copy(
    connection: psycopg.Connection[Any],
    table: str,
    rows: Iterable[Any] | ArrowStream,
    columns: Sequence[str] | None = None,
) -> CopyResult:
    """Write rows by COPY in its binary format: all of them or none.

    Args:
        connection: in autocommit the call is a transaction; in a transaction it is a savepoint of it.
        table: as in SQL; found by the connection's search_path.
        rows: tuples, lists, dicts, named tuples or dataclasses, all of one shape, in any iterable, endless ones too
            (memory stays constant); or one object with `__arrow_c_stream__`.
        columns: which columns the values are for, in their order. By default what the rows say (keys, fields), else
            every column of the table that is not generated. Others get their defaults.

    Values are encoded for the column's type: nothing is cast. None is NULL. Datetimes need a time zone where the
    column has one, and none where it has none; infinity is `math.inf` or 'infinity'. Strings in JSON columns are
    JSON already; other objects are made JSON. Identity columns take the values they are given, also ALWAYS ones.

    Raises:
        RowError: a value does not fit: it names row, column and reason. Nothing of the call was written.
        RefusedError: there is no such table or column, or a type without a binary form.
        UsageError: the rows are none.

    Lock: ROW EXCLUSIVE on the table.
    """
    source = Rows(rows)
    with translated(table):
        return drive(_copy(connection.info, table, columns, source.names), connection, source)


async def acopy(
    connection: psycopg.AsyncConnection[Any],
    table: str,
    rows: AsyncIterable[Any] | Iterable[Any] | ArrowStream,
    columns: Sequence[str] | None = None,
) -> CopyResult:
    """As copy, on an async connection; the rows may be async too."""
    source = AsyncRows(rows)
    with translated(table):
        return await drive_async(_copy(connection.info, table, columns, source.names), connection, source)


def _copy(
    info: psycopg.ConnectionInfo, table: str, columns: Sequence[str] | None, names: tuple[str, ...]
) -> Steps[CopyResult]:
    destination = yield from read_destination(info, table)
    chunk: Chunk = yield Pull(FIRST_CHUNK_ROWS)
    if not chunk:
        return CopyResult(rows=0, bytes=0)
    shape = shape_of(chunk[0])
    encoder = encoder_for(destination, columns or names or shape.names or None)
    yield Atomic()
    yield Begin(ddl.copy_statement(destination.table, encoder.names))
    sent = yield from send(encoder, shape, chunk)
    counted: int = yield End()
    yield Done()
    return CopyResult(rows=counted, bytes=sent)


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
