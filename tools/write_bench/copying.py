"""Parts `copy` and `arrow`: rows into a table, against the limit of one connection and the other libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

from pgscale import write
from pgscale.embedded import Server
from pgscale.write.destination import encoder_for, read_destination
from pgscale.write.effects import drive
from pgscale.write.encoding import SIGNATURE, TRAILER
from pgscale.write.rows import shape_of
from pgscale.write.sources import Rows
from write_bench.events import COLUMNS, TABLE, Asyncpg, Row, connect, make_rows, needed
from write_bench.model import Part, Ready, Say, in_turn

LIMIT = "binary COPY, encoded before (the limit)"
BLOCK_BYTES = 256 * 1024
SINGLE_ROWS = 2_000
COPY = b"COPY events (user_id, type, payload, at) FROM STDIN (FORMAT binary)"
INSERT = b"INSERT INTO events (user_id, type, payload, at) VALUES (%s, %s, %s, %s)"


def measure_copy(server: Server, *, rows: int, rounds: int, say: Say) -> Part:
    """Rows of Python."""
    given = make_rows(rows)
    dicts = [dict(zip(COLUMNS, row, strict=True)) for row in given]
    other = Asyncpg(server)
    with connect(server) as connection:
        connection.execute(b"DROP TABLE IF EXISTS events")
        connection.execute(TABLE)
        encoded = encode(connection, given)
        insert = "INSERT INTO events (user_id, type, payload, at) VALUES ($1, $2, $3, $4)"
        names = list(COLUMNS)
        ways: dict[str, tuple[Ready, int]] = {
            "row by row, a commit each (psycopg)": (lambda: lambda: one_by_one(connection, given), SINGLE_ROWS),
            "executemany (psycopg)": (lambda: lambda: executemany(connection, given), rows),
            "executemany (asyncpg)": (lambda: other.ready(lambda c: c.executemany(insert, given)), rows),
            "COPY, write_row (psycopg)": (lambda: lambda: copy_rows(connection, given), rows),
            "copy_records_to_table, tuples (asyncpg)": (
                lambda: other.ready(lambda c: c.copy_records_to_table("events", records=given, columns=names)),
                rows,
            ),
            "copy_records_to_table, dicts (asyncpg)": (
                lambda: other.ready(
                    lambda c: c.copy_records_to_table(
                        "events", records=(tuple(row.values()) for row in dicts), columns=names
                    )
                ),
                rows,
            ),
            "write.copy, tuples": (lambda: lambda: write.copy(connection, "events", given, COLUMNS), rows),
            "write.copy, dicts": (lambda: lambda: write.copy(connection, "events", dicts), rows),
            LIMIT: (lambda: lambda: send(connection, encoded), rows),
        }
        try:
            return in_turn("copy", ways, rows=rows, base=LIMIT, rounds=rounds, before=emptied(connection), say=say)
        finally:
            other.close()


def measure_arrow(server: Server, *, rows: int, rounds: int, say: Say) -> Part:
    """Rows of Arrow. The payload is text, for not every library writes jsonb."""
    pyarrow = needed("pyarrow", "pyarrow")
    columns = list(zip(*make_rows(rows), strict=True))
    table = pyarrow.table(
        {
            "user_id": pyarrow.array(columns[0], pyarrow.int64()),
            "type": pyarrow.array(columns[1]),
            "payload": pyarrow.array(columns[2]),
            "at": pyarrow.array(columns[3], pyarrow.timestamp("us", "UTC")),
        }
    )
    with connect(server) as connection:
        connection.execute(b"DROP TABLE IF EXISTS events")
        connection.execute(TABLE.replace("jsonb", "text"))
        encoded = encode(connection, make_rows(rows))
        ways: dict[str, tuple[Ready, int]] = {
            "pgpq, COPY by psycopg": (lambda: with_pgpq(connection, table), rows),
            "adbc_ingest (ADBC)": (lambda: with_adbc(server, table), rows),
            "write.copy, Arrow": (lambda: lambda: write.copy(connection, "events", table), rows),
            LIMIT: (lambda: lambda: send(connection, encoded), rows),
        }
        return in_turn("arrow", ways, rows=rows, base=LIMIT, rounds=rounds, before=emptied(connection), say=say)


def emptied(connection: psycopg.Connection[Any]) -> Callable[[], None]:
    def act() -> None:
        connection.execute(b"TRUNCATE events")
        connection.execute(b"CHECKPOINT")

    return act


def encode(connection: psycopg.Connection[Any], rows: list[Row]) -> list[bytes]:
    """Return all the bytes of a binary COPY, in blocks as they are sent."""
    encoder = encoder_for(drive(read_destination(connection.info, "events"), connection, Rows(())), COLUMNS)
    shape = shape_of(rows[0])
    data = encoder.encode(list(rows), shape, shape.extractor(encoder.names), 0)
    whole = SIGNATURE + data + TRAILER
    return [whole[at : at + BLOCK_BYTES] for at in range(0, len(whole), BLOCK_BYTES)]


def send(connection: psycopg.Connection[Any], blocks: list[bytes]) -> None:
    with connection.cursor() as cursor, cursor.copy(COPY) as copy:
        for block in blocks:
            copy.write(block)


def one_by_one(connection: psycopg.Connection[Any], rows: list[Row]) -> None:
    with connection.cursor() as cursor:
        for row in rows[:SINGLE_ROWS]:
            cursor.execute(INSERT, row, prepare=True)


def executemany(connection: psycopg.Connection[Any], rows: list[Row]) -> None:
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(INSERT, rows)


def copy_rows(connection: psycopg.Connection[Any], rows: list[Row]) -> None:
    with connection.cursor() as cursor, cursor.copy(b"COPY events (user_id, type, payload, at) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def with_pgpq(connection: psycopg.Connection[Any], table: Any) -> Callable[[], object]:
    pgpq = needed("pgpq", "pgpq")

    def act() -> None:
        encoder = pgpq.ArrowToPostgresBinaryEncoder(table.schema)
        with connection.cursor() as cursor, cursor.copy(COPY) as copy:
            copy.write(encoder.write_header())
            for batch in table.to_batches(max_chunksize=4_096):
                copy.write(encoder.write_batch(batch))
            copy.write(encoder.finish())

    return act


def with_adbc(server: Server, table: Any) -> Callable[[], object]:
    dbapi = needed("adbc_driver_postgresql.dbapi", "adbc-driver-postgresql")
    opened = dbapi.connect(f"postgresql://postgres@127.0.0.1:{server.port}/postgres")

    def act() -> None:
        with opened, opened.cursor() as cursor:
            cursor.adbc_ingest("events", table, mode="append")
            opened.commit()

    return act
