"""Measures the disk that `--strategy move` needs at its peak, against the plain published method. `make bench-move`.

    python tools/bench_move.py                into docs/benchmarks/move.md and move.json
    python tools/bench_move.py --quick        a small table, to stdout

Both begin with the same table on a server of their own in the temporary directory (TMPDIR). The plain method: a
UNION ALL view, and batches by key from the start, `DELETE … RETURNING` into the partitioned table, with autovacuum as
it comes. What is counted is the database's files and the WAL directory, every 20 ms, less what was there without the
table.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from partition_bench.ground import binaries_of
from psycopg import sql

from pgscale import partition
from pgscale.embedded import Server

DOCS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
SETTINGS = {"shared_buffers": "256MB", "fsync": "off", "wal_level": "replica", "max_wal_senders": "0"}
BATCH_ROWS = 5000
CASES: dict[str, tuple[LiteralString, LiteralString]] = {
    "one key, 280-byte rows": ("", "repeat('x', 200)"),
    "one key and a secondary index, 280-byte rows": ("CREATE INDEX ON t (account)", "repeat('x', 200)"),
    "one key, 120-byte rows": ("", "repeat('x', 50)"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """What one method needed. Bytes are of the table alone at first; the peak counts WAL beyond that at the start."""

    case: str
    method: str
    start_bytes: int
    peak_bytes: int
    peak_tables_bytes: int
    end_bytes: int
    took_s: float
    rows: int
    largest_index_bytes: int

    @property
    def bound(self) -> float:
        """The least that a method can need which keeps every row in an index of the table: a btree gives no page back,
        so the largest one stands beside what takes its place, whenever that is built."""
        return 1 + self.largest_index_bytes / self.start_bytes

    @property
    def ratio(self) -> float:
        return self.peak_bytes / self.start_bytes


class Disk:
    """Watches the files of one database and the WAL directory."""

    PERIOD_S = 0.02

    def __init__(self, data_dir: Path, database_oid: int) -> None:
        self._base, self._wal = data_dir / "base" / str(database_oid), data_dir / "pg_wal"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.peak = self.peak_tables = 0

    def now(self) -> tuple[int, int]:
        """Return the bytes of the database's files and of the WAL."""
        return _size(self._base), _size(self._wal)

    def __enter__(self) -> Disk:
        self.wal_at_first = self.now()[1]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self.PERIOD_S):
            tables, wal = self.now()
            self.peak_tables = max(self.peak_tables, tables)
            self.peak = max(self.peak, tables + max(0, wal - self.wal_at_first))


def _size(directory: Path) -> int:
    total = 0
    for entry in os.scandir(directory):
        try:
            total += entry.stat().st_size if entry.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def measure(server: Server, case: str, method: str, rows: int, max_wal_mb: int) -> Peak:
    """Make the table in a database of its own and partition it; return what that took."""
    name = "bench"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS bench WITH (FORCE)")
        admin.execute("CREATE DATABASE bench")
    dsn = server.dsn(name)
    index, pad = CASES[case]
    with psycopg.connect(dsn, autocommit=True) as conn:
        row = conn.execute("SELECT oid FROM pg_database WHERE datname = 'bench'").fetchone()
        assert row is not None
        disk = Disk(server.data_dir, int(row[0]))
        conn.execute("CREATE TABLE t (id bigint PRIMARY KEY, at timestamptz NOT NULL, account int NOT NULL, pad text)")
        conn.execute("CHECKPOINT")
        empty, _ = disk.now()
        conn.execute(
            sql.SQL(
                "INSERT INTO t SELECT g, timestamptz '2020-01-01' + g * interval '1 min', g % 10000, {}"
                " FROM generate_series(1, {}) g"
            ).format(sql.SQL(pad), sql.Literal(rows))
        )
        if index:
            conn.execute(index)
        conn.execute("VACUUM (FREEZE, ANALYZE) t")
        # The WAL directory reaches the size that it keeps under load before anything is measured.
        conn.execute("CREATE TABLE churn (pad text)")
        for _ in range(3):
            conn.execute("INSERT INTO churn SELECT repeat('y', 900) FROM generate_series(1, %s)", [max_wal_mb * 1100])
            conn.execute("TRUNCATE churn")
        conn.execute("DROP TABLE churn")
        conn.execute("CHECKPOINT")
        start = disk.now()[0] - empty
        largest = conn.execute(
            "SELECT max(pg_relation_size(indexrelid)) FROM pg_index WHERE indrelid = 't'::regclass"
        ).fetchone()
        assert largest is not None
    began = time.monotonic()
    with disk:
        _METHODS[method](dsn)
        took_s = time.monotonic() - began
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CHECKPOINT")
        count = conn.execute("SELECT count(*) FROM t").fetchone()
        assert count == (rows,), count
    return Peak(
        case=case,
        method=method,
        start_bytes=start,
        peak_bytes=disk.peak - empty,
        peak_tables_bytes=disk.peak_tables - empty,
        end_bytes=disk.now()[0] - empty,
        took_s=took_s,
        rows=rows,
        largest_index_bytes=int(largest[0]),
    )


def _move(dsn: str) -> None:
    options = partition.Options(by="hash:id", partitions=8, strategy="move", pace="fast")
    partition.run(dsn, "t", options)
    partition.finish(dsn, "t")


def _plain(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        indexes: list[Any] = conn.execute(
            "SELECT indexdef FROM pg_indexes WHERE tablename = 't' AND indexname <> 't_pkey'"
        ).fetchall()
        conn.execute("ALTER TABLE t RENAME TO t_old")
        conn.execute("CREATE TABLE t_new (LIKE t_old) PARTITION BY HASH (id)")
        for number in range(8):
            conn.execute(
                sql.SQL("CREATE TABLE {} PARTITION OF t_new FOR VALUES WITH (MODULUS 8, REMAINDER {})").format(
                    sql.Identifier(f"t_new_{number}"), sql.Literal(number)
                )
            )
        conn.execute("ALTER TABLE t_new ADD PRIMARY KEY (id)")
        for _ in indexes:
            conn.execute("CREATE INDEX ON t_new (account)")
        conn.execute("CREATE VIEW t AS SELECT * FROM t_old UNION ALL SELECT * FROM t_new")
        while conn.execute(
            "WITH gone AS (DELETE FROM t_old WHERE id IN (SELECT id FROM t_old ORDER BY id LIMIT %s) RETURNING *)"
            " INSERT INTO t_new SELECT * FROM gone",
            [BATCH_ROWS],
        ).rowcount:
            pass
        conn.execute("DROP VIEW t")
        conn.execute("DROP TABLE t_old")
        conn.execute("ALTER TABLE t_new RENAME TO t")


_METHODS: dict[str, Callable[[str], None]] = {"move": _move, "plain": _plain}


def render(peaks: Sequence[Peak], where: str, command: str, max_wal_mb: int) -> str:
    """Return the page."""
    lines = [
        "# The disk that `--strategy move` needs",
        "",
        f"`{command}`, {where}, {os.cpu_count()} cores, `max_wal_size = min_wal_size = {max_wal_mb}MB`; nobody else"
        " writes. The peak counts the old and the new table with all indexes, and the WAL kept beyond what was kept at"
        " the start. *plain* is the published method: a view, and batches by key from the start.",
        "",
        "*Bound*: 1 + the largest index ÷ start. A btree gives no page back when its rows leave, and the old table"
        " needs its keys to the end; so the index stands beside whatever takes its place, whenever that is built. A"
        " table whose largest index is more than 15 % of it cannot stay below 1.15 by any such method.",
        "",
        "| table | method | start | peak | peak ÷ start | bound | without WAL | at the end | time |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for p in peaks:
        lines.append(
            f"| {p.case}, {p.rows:,} | {p.method} | {p.start_bytes / 1e6:.0f} MB | {p.peak_bytes / 1e6:.0f} MB |"
            f" **{p.ratio:.2f}** | {p.bound:.2f} | {p.peak_tables_bytes / p.start_bytes:.2f} |"
            f" {p.end_bytes / p.start_bytes:.2f} | {p.took_s:.0f} s |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--major", type=int, choices=(15, 16, 18), default=18)
    parser.add_argument("--max-wal", type=int, default=128, help="max_wal_size, MB")
    parser.add_argument("--quick", action="store_true", help="a small table, to stdout; writes nothing")
    given = parser.parse_args(arguments)
    rows: int = 300_000 if given.quick else given.rows
    max_wal = f"{given.max_wal}MB"
    peaks: list[Peak] = []
    settings = {**SETTINGS, "max_wal_size": max_wal, "min_wal_size": max_wal}
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        with Server(binaries_of(given.major), Path(directory) / "data", settings=settings) as server:
            where = f"PostgreSQL {given.major}"
            for case in CASES:
                for method in _METHODS:
                    peaks.append(measure(server, case, method, rows, given.max_wal))
                    last = peaks[-1]
                    print(f"{case}: {method} {last.ratio:.3f} in {last.took_s:.1f} s", file=sys.stderr, flush=True)
    command = " ".join(["python", "tools/bench_move.py", *arguments])
    page = render(peaks, where, command, given.max_wal)
    if not given.quick:
        (DOCS / "move.json").write_text(json.dumps([asdict(p) for p in peaks], indent=1) + "\n", encoding="utf-8")
        (DOCS / "move.md").write_text(page, encoding="utf-8")
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
