"""The life of range partitions: made ahead, moved out of DEFAULT, retired, archived; killed anywhere, continued."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from pgscale import partition
from pgscale.partition import PartitionSet
from support.crash import pgscale
from support.servers import Database


def _bounds(conn: psycopg.Connection[Any], table: str = "events") -> dict[str, str]:
    rows = conn.execute(
        "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = %s::regclass ORDER BY 1",
        (table,),
    )
    return {str(r[0]): str(r[1]) for r in rows}


def _make(database: Database, type_name: str = "date") -> psycopg.Connection[Any]:
    conn = database.connect(options="-c timezone=UTC")
    conn.execute(
        f"CREATE TABLE events (at {type_name} NOT NULL, id bigint NOT NULL, v text, PRIMARY KEY (at, id))"
        " PARTITION BY RANGE (at)"
    )
    return conn


@pytest.mark.versions(14, 15, 16, 18)
def test_partitions_are_made_ahead(database: Database) -> None:
    conn = _make(database)
    wanted = PartitionSet(table="events", period="month", ahead=2)
    result = partition.maintain(database.dsn, [wanted], now=datetime(2023, 12, 31, 23, tzinfo=UTC))
    assert not result.findings
    assert _bounds(conn) == {
        "events_p2023_12": "FOR VALUES FROM ('2023-12-01') TO ('2024-01-01')",
        "events_p2024_01": "FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')",
        "events_p2024_02": "FOR VALUES FROM ('2024-02-01') TO ('2024-03-01')",
    }
    again = partition.maintain(database.dsn, [wanted], now=datetime(2023, 12, 31, 23, tzinfo=UTC))
    assert [s.actions for s in again.sets] == [()]


def test_the_command_line_makes_them(database: Database, tmp_path: Any) -> None:
    conn = _make(database)
    config = tmp_path / "pgscale.toml"
    config.write_text('[[partitions]]\ntable = "public.events"\nperiod = "year"\nahead = 1\n')
    dry = pgscale(database.dsn, "maintain", "--config", str(config), "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "ATTACH PARTITION" in dry.stdout
    assert _bounds(conn) == {}
    done = pgscale(database.dsn, "maintain", "events", "--config", str(config), "--json")
    assert done.returncode == 0, done.stderr
    assert len(_bounds(conn)) == 2
