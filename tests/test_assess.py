"""`pgscale assess`: what it measures on real servers, and what it concludes from figures no test server reaches."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgscale.doctor import registry
from pgscale.doctor.phase.judging import assess, describe_days
from pgscale.doctor.phase.model import PHASES, Measured, Surroundings, Table
from support.cli import pgscale
from support.clients import pgbench, psql
from support.doctor import monitor_of, plain_role_of
from support.servers import Database

TABLE = Table(
    oid=1, schema="app", name="Orders", is_partition=False, rows=1e5, pages=1000, index_pages=500, seq_scans=1,
    seq_rows=10,
    index_scans=10, inserted=10, updated=5, deleted=1, columns=9, documents=0, times=1, blobs=1, most_keys_to_one=1,
    keys_to_itself=0, key_columns=1,
)  # fmt: skip
SMALL = Measured(
    basis="in a test", seconds=7200, tables=(TABLE,), block_bytes=8192, tps=50, writes_per_s=20, growth_per_s=1,
    read_share=0.8, hit_share=0.999, total_bytes=1500 * 8192, shared_buffers_bytes=1 << 30, connections=20, idle=10,
    surroundings=Surroundings(partitioned_tables=0, foreign_servers=0, replicas=0), has_citus=False,
)  # fmt: skip


def _next(**changes: Any) -> str | None:
    step = assess(replace(SMALL, **changes)).next_step
    return None if step is None else step.id


def _with_table(**changes: Any) -> Measured:
    table = replace(TABLE, **changes)
    return replace(SMALL, tables=(table,), total_bytes=(table.pages + table.index_pages) * 8192)


@pytest.mark.parametrize(
    ("rows", "tps", "phase"),
    [
        (1e5, 50, 0),
        (9.9e6, 999, 0),
        (1e7, 50, 1),
        (1e5, 1000, 1),
        (1e8, 10, 2),
        (1e3, 1e4, 2),
        (1e9, 1, 3),
        (1, 1e5, 3),
    ],
)
def test_the_phase_is_the_furthest_that_rows_or_transactions_reach(rows: float, tps: float, phase: int) -> None:
    found = assess(replace(_with_table(rows=rows), tps=tps))
    assert found.phase is PHASES[phase]
    assert found.reached_by


def test_the_next_step_is_what_presses_most() -> None:
    assert _next() is None
    assert len(assess(SMALL).premature) == 6
    assert _next(connections=400, idle=390) == "pooler"
    assert _next(connections=400, idle=100) is None
    assert _next(connections=None, idle=None) is None
    assert _next(hit_share=0.9, total_bytes=8 << 30) == "tune"
    # However many pages are missed, a database that is in memory needs none.
    assert _next(hit_share=0.9) is None
    assert _next(shared_buffers_bytes=128 << 20, total_bytes=1 << 30, hit_share=None) == "tune"
    assert _next(tps=2000) == "replicas"
    assert _next(tps=2000, read_share=0.1) is None
    assert _next(tps=1500, surroundings=replace(SMALL.surroundings, replicas=2)) is None
    assert _next(tps=30_000, surroundings=replace(SMALL.surroundings, replicas=30)) == "cache"
    assert _next(writes_per_s=60_000.0) == "shards"
    found = assess(_with_table(rows=4e8, pages=10**7))
    assert found.next_step is not None
    assert found.next_step.command == "pgscale partition advise 'app.\"Orders\"'"
    assert assess(_with_table(rows=4e8, is_partition=True)).next_step is None
    urgent = assess(replace(_with_table(rows=4e8), tps=2000))
    assert [urgent.next_step and urgent.next_step.id, *(step.id for step in urgent.later)] == ["partition", "replicas"]


def test_the_time_to_the_next_phase() -> None:
    found = assess(replace(_with_table(rows=1e6), growth_per_s=9e6 / 86_400 / 30))
    assert found.next_phase_days == pytest.approx(30)
    assert assess(replace(SMALL, growth_per_s=-1)).next_phase_days is None
    assert assess(replace(SMALL, seconds=60)).next_phase_days is None
    assert assess(_with_table(rows=2e9)).next_phase_days is None
    assert [describe_days(days) for days in (0.5, 30, 90, 1000)] == ["12 h 0 min", "30 d 0 h", "3 months", "3 years"]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"columns": 3, "most_keys_to_one": 2}, "graph"),
        ({"columns": 4, "keys_to_itself": 1}, "graph"),
        ({"columns": 40, "keys_to_itself": 1}, None),
        ({"columns": 2, "index_scans": 10_000}, "key-value"),
        ({"columns": 3, "documents": 1}, "document"),
        ({"inserted": 10**6}, "time series"),
        ({"inserted": 10**6, "updated": 10**5}, None),
        ({"columns": 50, "seq_scans": 90, "seq_rows": 90 * 10**5}, "analytics"),
        ({"columns": 3, "documents": 1, "rows": 1e4}, None),
    ],
)
def test_tables_of_another_kind_are_named(changes: dict[str, Any], kind: str | None) -> None:
    fits = assess(_with_table(**changes)).fits
    assert [fit.kind for fit in fits] == ([kind] if kind else [])
    assert all(fit.still for fit in fits)


def test_every_command_exists() -> None:
    for step in (*assess(replace(SMALL, tps=1e6)).later, *assess(SMALL).premature):
        words = step.command.split()
        assert words[:1] in ([], ["pgscale"])
        if words:
            assert (
                pgscale(words[1], *(words[2:3] if words[1] in ("partition", "bench") else ()), "--help").exit_code == 0
            )
        for check in re.findall(r"--only (\S+)", step.command):
            registry.choose([check])


@pytest.mark.versions(14, 18)
def test_a_real_database(quiet_database: Database, tmp_path: Path) -> None:
    database = quiet_database
    psql(database.dsn, "CREATE SCHEMA app")
    pgbench(database.dsn, "-i", "-q", "-s", "2")
    psql(
        database.dsn,
        "CREATE TABLE app.node (id int PRIMARY KEY);"
        "CREATE TABLE app.edge (a int REFERENCES app.node, b int REFERENCES app.node, PRIMARY KEY (a, b));"
        "INSERT INTO app.node VALUES (1); VACUUM ANALYZE",
    )
    samples = ("--samples", str(tmp_path / "samples"), "--watch", "1s", "--json")
    ran = pgscale("assess", "--dsn", database.dsn_as(monitor_of(database)), *samples)
    assert ran.exit_code == 0, ran.err
    found = json.loads(ran.out)
    assert found["phase"] == "one instance"
    assert 200_000 <= found["measured"]["rows"] <= 201_000
    assert found["measured"]["tables"] == 6
    assert found["measured"]["basis"].startswith("in the 1.")
    assert found["measured"]["connections"] == 0
    assert re.search(r"^Phase 1 of 4: one instance", pgscale("assess", "--dsn", database.dsn, *samples[:4]).out)
    plain = pgscale("assess", "--dsn", database.dsn_as(plain_role_of(database)), *samples)
    assert plain.exit_code == 0, plain.err
    assert pgscale("assess", "--dsn", "host=127.0.0.1 port=1").exit_code == 3


def test_what_happens_while_it_is_watched(quiet_database: Database, tmp_path: Path) -> None:
    """A second run counts from the first, however long ago that was."""
    database = quiet_database
    monitor = monitor_of(database)
    psql(database.dsn, "CREATE TABLE t (id int)")
    arguments = ("assess", "--dsn", database.dsn_as(monitor), "--samples", str(tmp_path), "--watch", "1s", "--json")
    pgscale(*arguments)
    for file in tmp_path.glob("*.json"):
        document = json.loads(file.read_text())
        document["runs"][0]["taken_at"] = re.sub(r"^\d{4}", "2025", document["runs"][0]["taken_at"])
        file.write_text(json.dumps(document))
    psql(database.dsn, "INSERT INTO t SELECT generate_series(1, 5000)")
    measured = json.loads(pgscale(*arguments).out)["measured"]
    assert measured["basis"].startswith("since the run of 2025-")
    assert measured["read_share"] is not None
    assert 10 < measured["rows_per_day"] < 20
