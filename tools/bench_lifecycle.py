"""Measures retiring a month of rows: a partition dropped against DELETE of the same rows. `make bench-lifecycle`.

    python tools/bench_lifecycle.py                     into docs/benchmarks/
    python tools/bench_lifecycle.py --quick             small sizes, to see that it works; writes nothing

It starts a server of its own in the temporary directory (TMPDIR; about 3 GB for 2,000,000 rows).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, LiteralString, TypedDict

import psycopg
from partition_bench.ground import AGED_SEGMENTS, binaries_of, connect, create_database, describe, fresh_copy, timed
from partition_bench.model import Ground
from psycopg import sql

from pgscale import partition
from pgscale.embedded import Server
from pgscale.partition import PartitionSet

DOCS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
# VACUUM is measured, so it must not come by itself.
SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "8GB", "min_wal_size": "2GB", "autovacuum": "off"}
MONTHS = 12
BATCH_ROWS = 10_000
NOW = datetime(2025, 1, 15, tzinfo=UTC)
CUT = "2024-02-01"

_COLUMNS = "at timestamptz NOT NULL, id bigint NOT NULL, account int NOT NULL, payload text NOT NULL"
# Rows come in the order of time, as events do; the index on account is in another order.
_FILL = (
    "INSERT INTO events SELECT timestamptz '2024-01-01' + g * interval '1 year' / %(rows)s::int8, g,"
    " (g * 7919) %% 100000, pg_catalog.repeat(pg_catalog.md5(g::text), 4)"
    " FROM pg_catalog.generate_series(0::int8, %(rows)s::int8 - 1) g"
)
_INDEXES = ("CREATE INDEX ON events (at)", "CREATE INDEX ON events (account, at)")
_WANTED = PartitionSet(table="public.events", period="month", ahead=0, retention="11 months", on_retention="drop")


class Retired(TypedDict):
    """What retiring a month took, and what VACUUM took afterwards."""

    rows: int
    seconds: float
    wal_bytes: int
    size_before_bytes: int
    size_after_bytes: int
    dead_rows: int
    vacuum_s: float
    vacuum_wal_bytes: int
    size_vacuumed_bytes: int


class Results(TypedDict):
    ground: Ground
    rows: int
    rounds: list[dict[str, Retired]]


def delete_at_once(session: psycopg.Connection[Any], dsn: str) -> None:
    del dsn
    session.execute("DELETE FROM events WHERE at < %s", (CUT,))


def delete_in_batches(session: psycopg.Connection[Any], dsn: str) -> None:
    del dsn
    while session.execute(
        "DELETE FROM events WHERE ctid = ANY (ARRAY (SELECT ctid FROM events WHERE at < %s LIMIT %s))",
        (CUT, BATCH_ROWS),
    ).rowcount:
        pass


def drop_by_hand(session: psycopg.Connection[Any], dsn: str) -> None:
    del dsn
    session.execute("ALTER TABLE events DETACH PARTITION events_p2024_01 CONCURRENTLY")
    session.execute("DROP TABLE events_p2024_01")


def drop_by_pgscale(session: psycopg.Connection[Any], dsn: str) -> None:
    del session
    result = partition.maintain(dsn, [_WANTED], now=NOW)
    if result.findings:
        raise RuntimeError(str(result.findings))


Method = Callable[[psycopg.Connection[Any], str], None]
METHODS: dict[str, tuple[str, Method]] = {
    "DELETE, one statement": ("plain", delete_at_once),
    f"DELETE, batches of {BATCH_ROWS:,}": ("plain", delete_in_batches),
    "DETACH CONCURRENTLY and DROP TABLE, by hand": ("parts", drop_by_hand),
    "`pgscale partition maintain`, everything included": ("parts", drop_by_pgscale),
}


def build(server: Server, rows: int) -> None:
    """Make the same rows twice: in an ordinary table, and in one with a partition a month."""
    for name in ("plain", "parts"):
        create_database(server, name)
        with connect(server, name) as session:
            session.execute("SET timezone = 'UTC'")
            if name == "plain":
                session.execute(f"CREATE TABLE events ({_COLUMNS}, PRIMARY KEY (id, at))")
            else:
                session.execute(f"CREATE TABLE events ({_COLUMNS}, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)")
                for month in range(MONTHS + 1):
                    first = datetime(2024 + month // 12, month % 12 + 1, 1)
                    after = datetime(2024 + (month + 1) // 12, (month + 1) % 12 + 1, 1)
                    session.execute(
                        sql.SQL("CREATE TABLE {} PARTITION OF events FOR VALUES FROM ({}) TO ({})").format(
                            sql.Identifier(f"events_p{first:%Y_%m}"), sql.Literal(first), sql.Literal(after)
                        )
                    )
            session.execute(_FILL, {"rows": rows})
            for statement in _INDEXES:
                session.execute(statement)
            session.execute("VACUUM (ANALYZE, FREEZE)")


def _number(session: psycopg.Connection[Any], query: LiteralString) -> int:
    return int(session.execute(query).fetchall()[0][0])


def _size(session: psycopg.Connection[Any]) -> int:
    """The table with its partitions and indexes, and what was detached from it and is not dropped."""
    return _number(
        session,
        "SELECT pg_catalog.sum(pg_catalog.pg_total_relation_size(c.oid)) FROM pg_catalog.pg_class c"
        " WHERE c.relname LIKE 'events%' AND c.relkind = 'r'",
    )


def _wal(session: psycopg.Connection[Any]) -> int:
    return _number(session, "SELECT pg_catalog.pg_current_wal_insert_lsn() - '0/0'")


def measure(server: Server, source: str, method: Method) -> Retired:
    """Retire a month with one method, on a new copy of the database."""
    with fresh_copy(server, source) as name, connect(server, name) as session:
        session.execute("SET timezone = 'UTC'")
        rows_before = _number(session, "SELECT pg_catalog.count(*) FROM events")
        size_before, wal_before = _size(session), _wal(session)
        started_s = time.perf_counter()
        method(session, server.dsn(name))
        seconds = time.perf_counter() - started_s
        wal_after = _wal(session)
        session.execute("SELECT pg_catalog.pg_stat_force_next_flush()")
        dead = _number(session, "SELECT COALESCE(pg_catalog.sum(n_dead_tup), 0) FROM pg_catalog.pg_stat_user_tables")
        size_after = _size(session)
        vacuum_s = timed(session, "VACUUM events")
        return {
            "rows": rows_before - _number(session, "SELECT pg_catalog.count(*) FROM events"),
            "seconds": seconds,
            "wal_bytes": wal_after - wal_before,
            "size_before_bytes": size_before,
            "size_after_bytes": size_after,
            "dead_rows": dead,
            "vacuum_s": vacuum_s,
            "vacuum_wal_bytes": _wal(session) - wal_after,
            "size_vacuumed_bytes": _size(session),
        }


def run(rows: int, rounds: int, major: int) -> Results:
    with Server(binaries_of(major), settings=SETTINGS) as server:
        build(server, rows)
        with connect(server) as session:
            for _ in range(AGED_SEGMENTS // 4):
                session.execute(
                    "SELECT pg_catalog.pg_switch_wal() FROM pg_catalog.pg_logical_emit_message(false, '', '')"
                )
            session.execute("CHECKPOINT")
        done: list[dict[str, Retired]] = []
        for number in range(rounds):
            # Another order each round, so that none is always the first on a cold machine.
            names = list(METHODS)
            names = names[number % len(names) :] + names[: number % len(names)]
            done.append({name: measure(server, *METHODS[name]) for name in names})
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        return {"ground": describe(server, aged_segments=AGED_SEGMENTS // 4), "rows": rows, "rounds": done}


# -- the page --------------------------------------------------------------------------------------------


def _spread(values: Sequence[float], digits: int) -> str:
    middle = f"{median(values):,.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def _cells(name: str, rounds: list[dict[str, Retired]]) -> list[str]:
    found = [r[name] for r in rounds]
    mega = 1024.0 * 1024.0
    return [
        name,
        _spread([f["seconds"] for f in found], 3),
        _spread([f["wal_bytes"] / mega for f in found], 2),
        _spread([(f["size_before_bytes"] - f["size_after_bytes"]) / mega for f in found], 1),
        _spread([float(f["dead_rows"]) for f in found], 0),
        _spread([f["vacuum_s"] for f in found], 3),
        _spread([f["vacuum_wal_bytes"] / mega for f in found], 2),
        _spread([(f["size_before_bytes"] - f["size_vacuumed_bytes"]) / mega for f in found], 1),
    ]


def render(results: Results) -> str:
    rounds, ground = results["rounds"], results["ground"]
    first = next(iter(rounds[0].values()))
    size = f"{first['size_before_bytes'] / 1024**2:,.0f} MB"
    gone = " or ".join(f"{c:,}" for c in sorted({f["rows"] for r in rounds for f in r.values()}))
    settings = ", ".join(f"`{k}` {v}" for k, v in ground["settings"].items())
    lines = [
        "# Retiring a month: dropping its partition against DELETE of the same rows",
        "",
        f"{results['rows']:,} rows of twelve months in the order of time, {size} with a primary key and two indexes:"
        f" once as an ordinary table, once with a partition a month. The oldest month goes: {gone} rows with every"
        f" method. {len(rounds)} rounds, the"
        " methods alternated in another order each, each on its own copy of the database after a checkpoint; median"
        " (least to most).",
        "",
        "| | seconds | WAL, MB | disk given back, MB | dead rows left | VACUUM afterwards, s | its WAL, MB"
        " | disk given back after it, MB |",
        "|---|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(_cells(name, rounds))} |" for name in METHODS),
        "",
        "DELETE leaves its rows where they are until VACUUM has gone through the table and each of its indexes; the"
        " room is then free for new rows of this table, and not for anything else: rows lie in the order of time, so"
        " the emptied pages are at the table's beginning, and VACUUM can cut off its end only. A dropped partition"
        " leaves nothing to VACUUM: what VACUUM takes there is the look at the eleven others. As each round begins"
        " after a checkpoint, the WAL of both holds whole pages. DELETE in one statement"
        " holds its row locks and its snapshot until it ends. `pgscale partition maintain` opens its sessions, reads"
        " the catalog, notes what it promises, detaches CONCURRENTLY and drops.",
        "",
        f"`{ground['command']}`, {ground['date']}: {ground['server']}, {ground['cores']} cores ({ground['processor']}),"
        f" Python {ground['python']}; the machine was shared with other work, so times spread. {settings}; everything"
        " else default. autovacuum is off so that VACUUM can be measured by itself.",
        "",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--major", type=int, choices=(15, 16, 18), default=15, help="15: Debian's; else the wheel's")
    parser.add_argument("--rows", type=int, help="of a year (2,000,000)")
    parser.add_argument("--rounds", type=int, help="(5)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to stdout")
    given = parser.parse_args(arguments)
    rows: int = given.rows or (60_000 if given.quick else 2_000_000)
    rounds: int = given.rounds or (1 if given.quick else 5)
    results = run(rows, rounds, given.major)
    page = render(results)
    if not given.quick:
        DOCS.mkdir(parents=True, exist_ok=True)
        (DOCS / "lifecycle.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (DOCS / "lifecycle.md").write_text(page, encoding="utf-8")
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
