"""Parts A and C: how long it takes, and how much memory, when nobody else works on the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

from partition_bench.ground import AGED_SEGMENTS, connect, create_database, describe, fresh_copy, run_pgscale, timed
from partition_bench.model import ChildRun, PartA, PartC, Round
from pgscale.embedded import Server

PARTITIONS = 20
WORKERS = 2
BATCH_ROWS = 20_000

_CREATE = """
CREATE TABLE events (
    id bigserial NOT NULL,
    uid bigint NOT NULL,
    type text NOT NULL,
    payload jsonb NOT NULL,
    payload_hash text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
)
"""

# 411 bytes of heap a row: 2,000,000 rows are 822 MB, as in the issue.
_FILL = """
INSERT INTO events (uid, type, payload, payload_hash, created_at, updated_at)
SELECT mod(abs(hashint8(i)::bigint), 100000),
       (ARRAY['click', 'view', 'purchase', 'refund'])[1 + mod(abs(hashint8(i + 1)::bigint), 4)],
       jsonb_build_object('session', h || h, 'page', '/items/' || i, 'referrer', h || h,
                          'agent', h || h, 'note', left(h, 12)),
       h,
       timestamptz '2024-01-01' + i * interval '13 seconds',
       timestamptz '2024-01-01' + i * interval '17 seconds'
FROM (SELECT i, md5(i::text) AS h FROM generate_series(1, %s::bigint) AS i) AS numbers
"""

_NEW = "CREATE TABLE new (LIKE events INCLUDING DEFAULTS) PARTITION BY HASH (uid)"
_COPY = "INSERT INTO new SELECT * FROM events"
_KEYS = (
    "ALTER TABLE new ADD PRIMARY KEY (id, uid)",
    "ALTER TABLE new ADD UNIQUE (uid, type, payload_hash)",
)
_BATCH = """
WITH moved AS (DELETE FROM events WHERE id >= %s AND id < %s RETURNING *)
INSERT INTO new SELECT * FROM moved
"""


def create_source(server: Server, name: str, rows: int) -> int:
    """Create a database with the table `events`, vacuumed, frozen and analyzed; returns its heap's bytes."""
    create_database(server, name)
    server.age_wal(AGED_SEGMENTS)
    with connect(server, name) as connection:
        connection.execute(_CREATE)
        connection.execute(_FILL, (rows,))
        connection.execute("ALTER TABLE events ADD PRIMARY KEY (id)")
        connection.execute("ALTER TABLE events ADD UNIQUE (uid, type, payload_hash)")
        connection.execute("VACUUM (FREEZE, ANALYZE) events")
        return connection.execute("SELECT pg_relation_size('events')").fetchall()[0][0]


def measure_a(server: Server, *, rows: int, rounds: int, batches: bool, say: Callable[[str], None]) -> PartA:
    """Measure every method `rounds` times, alternated, the first one rotating."""
    heap_bytes = create_source(server, "bench", rows)
    say(f"{rows:,} rows, {heap_bytes / 1e6:,.0f} MB heap")
    measured: list[Round] = []
    for number in range(rounds):
        done: dict[str, Any] = {}
        methods = ["floor", "pgscale", "indexed", *(["batches"] if batches else [])]
        turn = number % len(methods)
        for method in methods[turn:] + methods[:turn]:
            with fresh_copy(server, "bench") as database:
                if method == "pgscale":
                    done["pgscale"] = run_events(server.dsn(database))
                else:
                    with connect(server, database) as connection:
                        done.update(_BY_HAND[method](connection, rows))
            say(f"round {number + 1}: {_line(method, done)}")
        measured.append(_round(done))
    return {
        "ground": describe(server, aged_segments=AGED_SEGMENTS),
        "rows": rows,
        "heap_bytes": heap_bytes,
        "partitions": PARTITIONS,
        "workers": WORKERS,
        "rounds": measured,
    }


def measure_c(server: Server, *, sizes: tuple[int, ...], say: Callable[[str], None]) -> PartC:
    """Measure the peak memory of the pgscale process for tables of different sizes."""
    part: PartC = {"ground": describe(server, aged_segments=AGED_SEGMENTS), "points": []}
    for rows in sizes:
        source = f"memory_{rows}"
        create_source(server, source, rows)
        with fresh_copy(server, source) as database:
            run = run_events(server.dsn(database))
        with connect(server) as connection:
            connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(source)))
        part["points"].append(
            {
                "rows": rows,
                "peak_rss_bytes": run["peak_rss_bytes"],
                "children_peak_rss_bytes": run["children_peak_rss_bytes"],
            }
        )
        say(f"{rows:,} rows: {run['peak_rss_bytes'] / 1e6:.1f} MB")
    return part


def run_events(dsn: str) -> ChildRun:
    """pgscale, everything included, at the pace `fast`."""
    return run_pgscale(
        dsn,
        "public.events",
        {
            "by": "hash:uid",
            "partitions": PARTITIONS,
            "workers": WORKERS,
            "pace": "fast",
            "accept_key_change": True,
        },
    )


def _floor(connection: psycopg.Connection[Any], _rows: int) -> dict[str, float]:
    _create_new(connection)
    copy_s = timed(connection, _COPY)
    index_s = timed(connection, *_KEYS)
    return {"floor_copy_s": copy_s, "floor_index_s": index_s, "floor_s": copy_s + index_s}


def _indexed(connection: psycopg.Connection[Any], _rows: int) -> dict[str, float]:
    _create_new(connection)
    timed(connection, *_KEYS)
    return {"indexed_s": timed(connection, _COPY)}


def _batches(connection: psycopg.Connection[Any], rows: int) -> dict[str, float]:
    _create_new(connection)
    timed(connection, *_KEYS)
    total_s = 0.0
    for first in range(1, rows + 1, BATCH_ROWS):
        bounds = sql.Literal(first), sql.Literal(first + BATCH_ROWS)
        total_s += timed(connection, sql.SQL(_BATCH.replace("%s", "{}")).format(*bounds))
    return {"batches_s": total_s}


_BY_HAND: dict[str, Callable[[psycopg.Connection[Any], int], dict[str, float]]] = {
    "floor": _floor,
    "indexed": _indexed,
    "batches": _batches,
}


def _create_new(connection: psycopg.Connection[Any]) -> None:
    connection.execute(_NEW)
    for number in range(PARTITIONS):
        connection.execute(
            sql.SQL("CREATE TABLE {} PARTITION OF new FOR VALUES WITH (MODULUS {}, REMAINDER {})").format(
                sql.Identifier(f"new_p{number}"), sql.Literal(PARTITIONS), sql.Literal(number)
            )
        )


def _round(done: dict[str, Any]) -> Round:
    measured: Round = {
        "floor_copy_s": done["floor_copy_s"],
        "floor_index_s": done["floor_index_s"],
        "floor_s": done["floor_s"],
        "indexed_s": done["indexed_s"],
        "pgscale": done["pgscale"],
    }
    if "batches_s" in done:
        measured["batches_s"] = done["batches_s"]
    return measured


def _line(method: str, done: dict[str, Any]) -> str:
    if method != "pgscale":
        return f"{method} {done[f'{method}_s']:.2f} s"
    run: ChildRun = done["pgscale"]
    phases = ", ".join(f"{s['phase']} {s['end_s'] - s['start_s']:.2f}" for s in run["spans"])
    return f"pgscale {run['process_s']:.2f} s ({phases}), {run['peak_rss_bytes'] / 1e6:.0f} MB"
