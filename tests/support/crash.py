"""Writers that survive a crashed server, and a twin that tells whether anything was lost or came twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import psycopg

from support import cli

DDL = """
CREATE TABLE owner_of (id int PRIMARY KEY);
INSERT INTO owner_of SELECT g FROM generate_series(0, 9) g;
CREATE TABLE t (id bigint PRIMARY KEY, owner int NOT NULL REFERENCES owner_of, v bigint NOT NULL, note text,
                UNIQUE (id, v));
CREATE INDEX ON t (owner);
CREATE TABLE t_twin (LIKE t INCLUDING ALL);
INSERT INTO t SELECT g, g % 10, g, repeat('x', 40) FROM generate_series(1, {rows}) g;
INSERT INTO t_twin SELECT * FROM t;
"""


@dataclass(kw_only=True)
class TwinWriters:
    """Threads that write every change to both tables in one transaction, and go on after a lost connection.

    `upserts=False` leaves out what a view cannot serve.
    """

    dsn: str
    seed: int
    threads: int = 3
    upserts: bool = True
    committed: int = 0
    failures: list[str] = field(default_factory=list)
    # The key that ON CONFLICT names.
    arbiter: str = "id"
    # `make soak` lets them write as fast as they can; otherwise they leave the processors to what is tested.
    breath_s: float = 0.0 if os.environ.get("TEST_ALL") else 0.004
    _stop: threading.Event = field(default_factory=threading.Event)
    _running: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> TwinWriters:
        for number in range(self.threads):
            thread = threading.Thread(target=self._run, args=(number,), daemon=True)
            self._running.append(thread)
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._running:
            thread.join(30)

    def _run(self, number: int) -> None:
        rng = random.Random(self.seed * 100 + number)
        conn: psycopg.Connection | None = None
        while not self._stop.is_set():
            try:
                if conn is None or conn.closed:
                    conn = psycopg.connect(self.dsn, connect_timeout=5)
                self._transaction(conn, rng, number)
                self.committed += 1
                self._stop.wait(self.breath_s)
            except psycopg.OperationalError as error:
                if error.sqlstate in ("40001", "40P01"):
                    assert conn is not None
                    conn.rollback()
                    continue
                # The only thing an application may see of a crash: its connection drops.
                if conn is not None:
                    conn.close()
                conn = None
                time.sleep(0.02)
            except psycopg.Error as error:
                self.failures.append(f"{error.sqlstate} {error}")
                return
        if conn is not None:
            conn.close()

    def _transaction(self, conn: psycopg.Connection, rng: random.Random, number: int) -> None:
        mine = number + self.threads * rng.randrange(2000)
        new = 1_000_000 + mine
        with conn.transaction():
            kind = rng.randrange(4)
            counts = []
            for table in ("t_twin", "t"):
                if kind == 0 and not self.upserts:
                    text = (
                        f"INSERT INTO {table} SELECT {new}, 1, 1, 'n'"
                        f" WHERE NOT EXISTS (SELECT FROM {table} WHERE id = {new})"
                    )
                elif kind == 0:
                    text = (
                        f"INSERT INTO {table} VALUES ({new}, 1, 1, 'n')"
                        f" ON CONFLICT ({self.arbiter}) DO UPDATE SET v = {table}.v + 1"
                    )
                elif kind == 1:
                    text = f"UPDATE {table} SET v = v + 1, note = 'u' WHERE id = {mine}"
                elif kind == 2:
                    text = f"DELETE FROM {table} WHERE id IN ({new}, {mine + 6000})"
                else:
                    text = f"UPDATE {table} SET id = id + 2000000 WHERE id = {mine + 12000}"
                counts.append(conn.execute(text).rowcount)
            if counts[0] != counts[1]:
                self.failures.append(f"{text}: twin {counts[0]} rows, table {counts[1]}")


def pgscale(dsn: str, *arguments: str, kill_at: str = "", timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the command line; with `kill_at`, in a process of its own that ends itself there by SIGKILL."""
    if not kill_at and threading.current_thread() is threading.main_thread():
        ran = cli.pgscale("partition", *arguments, "--dsn", dsn)
        return subprocess.CompletedProcess(arguments, ran.exit_code, ran.out, ran.err)
    return subprocess.run(
        [sys.executable, "-m", "pgscale", "partition", *arguments, "--dsn", dsn],
        env={**os.environ, "PGSCALE_KILL_AT": kill_at},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def kill_after(dsn: str, seconds: float, *arguments: str) -> int:
    """Start the command line and kill it by SIGKILL after so long; return its exit code (-9 when killed)."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pgscale", "partition", *arguments, "--dsn", dsn],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        return process.wait(10)


def differences(dsn: str) -> int:
    """Rows that are in one of the twins only, duplicates counted."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute(
            "SELECT (SELECT count(*) FROM (TABLE t EXCEPT ALL TABLE t_twin) a)"
            " + (SELECT count(*) FROM (TABLE t_twin EXCEPT ALL TABLE t) b)"
        ).fetchone()
        assert row is not None
        return int(row[0])


def relkind(dsn: str) -> str:
    with psycopg.connect(dsn) as conn:
        row = conn.execute("SELECT relkind FROM pg_class WHERE oid = 't'::regclass").fetchone()
        assert row is not None
        return str(row[0])


def traces(dsn: str) -> list[str]:
    """Whatever of pgscale is left in the database."""
    with psycopg.connect(dsn) as conn:
        return [
            r[0]
            for r in conn.execute(
                "SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE 'pgscale%'"
                " UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgname LIKE '\\_pgscale%'"
                " UNION ALL SELECT 'table ' || relname FROM pg_class WHERE relname LIKE 't\\_p%' AND relkind = 'r'"
            )
        ]
