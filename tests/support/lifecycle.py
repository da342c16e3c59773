"""A small partitioned table, what looks after it, and what is seen of it afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from pgscale import partition
from pgscale.partition import Limits, MaintainResult, PartitionSet
from pgscale.partition.lifecycle.model import kind_of
from support.servers import Database

QUICK = Limits(give_up_after_s=1.0, detach_wait_s=1.0)


def bounds_of(conn: psycopg.Connection[Any], table: str = "events") -> dict[str, str]:
    rows = conn.execute(
        "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = %s::regclass ORDER BY 1",
        (table,),
    )
    return {str(r[0]): str(r[1]) for r in rows}


def make_events(database: Database, type_name: str = "date") -> psycopg.Connection[Any]:
    conn = database.connect(options="-c timezone=UTC")
    conn.execute(
        f"CREATE TABLE events (at {type_name} NOT NULL, id bigint NOT NULL, v text, PRIMARY KEY (at, id))"
        " PARTITION BY RANGE (at)"
    )
    return conn


def maintain(database: Database, wanted: PartitionSet, now: datetime, **more: Any) -> MaintainResult:
    return partition.maintain(database.dsn, [wanted], now=now, **more)


def ids_of(result: MaintainResult) -> list[str]:
    return [f.id for f in result.findings]


def done_in(result: MaintainResult) -> list[tuple[str, str, str]]:
    return [(kind_of(d.action), d.action.leaf.name, d.state) for s in result.sets for d in s.actions]


NOW = datetime(2024, 6, 10, tzinfo=UTC)


def aged_events(database: Database, *, default: bool = False, rows: int = 3) -> psycopg.Connection[Any]:
    """A table with partitions from January to June 2024; with a retention of 4 months January is due in June."""
    conn = make_events(database)
    for month in range(1, 7):
        conn.execute(
            f"CREATE TABLE events_p2024_{month:02d} PARTITION OF events"
            f" FOR VALUES FROM ('2024-{month:02d}-01') TO ('2024-{month + 1:02d}-01')"
        )
        conn.execute(
            "INSERT INTO events SELECT make_date(2024, %s, 1), g, E'a,\"b\"\\n' || g FROM generate_series(1, %s) g",
            (month, rows),
        )
    if default:
        conn.execute("CREATE TABLE d PARTITION OF events DEFAULT")
    return conn


def retiring(tmp_path: Path, what: str = "archive", form: str = "csv") -> PartitionSet:
    given: dict[str, Any] = {"on_retention": what, "archive_format": form}
    return PartitionSet(
        table="events", period="month", ahead=0, retention="4 months", archive_dir=str(tmp_path / "old"), **given
    )


def leave_pending(database: Database, conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """Leave a DETACH CONCURRENTLY half done, as a cancel does; return the old transaction it waited for."""
    old = database.connect(autocommit=False)
    old.execute("SELECT count(*) FROM events")
    worker = database.connect()
    thread_error: list[BaseException] = []

    def detach() -> None:
        try:
            worker.execute("ALTER TABLE events DETACH PARTITION events_p2024_01 CONCURRENTLY")
        except psycopg.errors.QueryCanceled as error:
            thread_error.append(error)

    thread = threading.Thread(target=detach)
    thread.start()
    wait_until(lambda: bool(scalar(conn, "SELECT count(*) FROM pg_inherits WHERE inhdetachpending")))
    worker.cancel()
    thread.join(10)
    assert thread_error
    return old


def scalar(conn: psycopg.Connection[Any], query: str) -> Any:
    row = conn.execute(query).fetchone()  # pyright: ignore[reportArgumentType, reportCallIssue] because the texts vary
    assert row is not None
    return row[0]


def wait_until(holds: Callable[[], bool], timeout_s: float = 20) -> None:
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def archived_not_dropped(database: Database, tmp_path: Path) -> psycopg.Connection[Any]:
    conn = aged_events(database)
    assert maintain_child(database.dsn, tmp_path, "maintain:archived").returncode == -9
    assert scalar(conn, "SELECT state FROM pgscale.retired") == "archived"
    return conn


CHILD = """
import sys
from datetime import datetime, UTC
from pgscale import partition
partition.maintain(sys.argv[1], [partition.PartitionSet(table="events", period="month", ahead=2, retention="4 months",
    on_retention="archive", archive_dir=sys.argv[2], archive_format="csv")], now=datetime(2024, 6, 10, tzinfo=UTC))
"""


def maintain_child(dsn: str, tmp_path: Path, point: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, dsn, str(tmp_path / "old")],
        env={**os.environ, "PGSCALE_KILL_AT": point},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def continued(database: Database, wanted: PartitionSet) -> MaintainResult:
    """Maintain once the session of a killed call is gone, which may live on for a moment with its lock."""
    results: list[MaintainResult] = []

    def is_alone() -> bool:
        results.append(maintain(database, wanted, NOW))
        return ids_of(results[-1]) != ["already-maintained"]

    wait_until(is_alone)
    return results[-1]
