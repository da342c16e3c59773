"""Part `upsert`: counts added up over many keys, against what is written by hand."""

from __future__ import annotations

import random
from typing import Any

import psycopg

from pgscale import write
from pgscale.embedded import Server
from write_bench.events import Asyncpg, connect
from write_bench.model import Part, Ready, Say, in_turn

KEYS = 100_000
BASE = "COPY into a staging table, one INSERT … ON CONFLICT (by hand)"
MERGE = b"INSERT INTO counts (k, n) VALUES (%s, %s) ON CONFLICT (k) DO UPDATE SET n = counts.n + excluded.n"
UNNEST = (
    b"INSERT INTO counts (k, n) SELECT k, sum(n) FROM unnest(%s::int8[], %s::int8[]) u (k, n) GROUP BY k"
    b" ON CONFLICT (k) DO UPDATE SET n = counts.n + excluded.n"
)
STAGED = (
    b"INSERT INTO counts (k, n) SELECT k, sum(n) FROM staging GROUP BY k ORDER BY k"
    b" ON CONFLICT (k) DO UPDATE SET n = counts.n + excluded.n"
)
UNNEST_ROWS = 5_000


def measure_upsert(server: Server, *, rows: int, rounds: int, say: Say) -> Part:
    """Half the keys are there already."""
    rng = random.Random(21)
    given = [(rng.randrange(KEYS), rng.randrange(1, 9)) for _ in range(rows)]
    other = Asyncpg(server)
    merge = MERGE.decode().replace("%s, %s", "$1, $2")
    with connect(server) as connection:
        connection.execute(b"DROP TABLE IF EXISTS counts")
        connection.execute(b"CREATE TABLE counts (k bigint PRIMARY KEY, n bigint NOT NULL)")
        connection.execute(b"CREATE TEMP TABLE staging (k bigint, n bigint)")

        def before() -> None:
            connection.execute(b"TRUNCATE counts, staging")
            connection.execute(
                b"INSERT INTO counts SELECT g, 1 FROM pg_catalog.generate_series(0, %s::int8 - 1, 2) g", (KEYS,)
            )
            connection.execute(b"VACUUM ANALYZE counts")
            connection.execute(b"CHECKPOINT")

        ways: dict[str, tuple[Ready, int]] = {
            "executemany (psycopg)": (lambda: lambda: executemany(connection, given), rows),
            "executemany (asyncpg)": (lambda: other.ready(lambda c: c.executemany(merge, given)), rows),
            f"unnest, {UNNEST_ROWS:,} rows each": (lambda: lambda: unnest(connection, given), rows),
            BASE: (lambda: lambda: by_hand(connection, given), rows),
            "write.upsert": (
                lambda: lambda: write.upsert(connection, "counts", given, ["k"], {"n": "add"}, ["k", "n"]),
                rows,
            ),
        }
        try:
            return in_turn("upsert", ways, rows=rows, base=BASE, rounds=rounds, before=before, say=say)
        finally:
            other.close()


def executemany(connection: psycopg.Connection[Any], rows: list[tuple[int, int]]) -> None:
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(MERGE, rows)


def unnest(connection: psycopg.Connection[Any], rows: list[tuple[int, int]]) -> None:
    with connection.transaction():
        for start in range(0, len(rows), UNNEST_ROWS):
            keys, counts = zip(*rows[start : start + UNNEST_ROWS], strict=True)
            connection.execute(UNNEST, (list(keys), list(counts)))


def by_hand(connection: psycopg.Connection[Any], rows: list[tuple[int, int]]) -> None:
    with connection.transaction(), connection.cursor() as cursor:
        with cursor.copy(b"COPY staging (k, n) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        cursor.execute(STAGED)
