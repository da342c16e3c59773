"""`autovacuum.*`: off, behind, tables never analyzed, and workers that cannot keep up."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgscale.embedded import Server
from support.clients import psql
from support.doctor import Doctor, plain_role_of, vacuum_shared_catalogs
from support.servers import Database

ENABLED, BEHIND, ANALYZED, WORKERS = (f"autovacuum.{each}" for each in ("enabled", "behind", "analyzed", "workers"))


def _until(answer: Callable[[], bool]) -> None:
    """14's collector tells later; workers come when they come."""
    until = time.monotonic() + 90
    while not answer():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.versions("all")
def test_tables_that_wait(quiet_database: Database, tmp_path: Path) -> None:
    database = quiet_database
    doctor = Doctor(database, tmp_path)
    doctor.limits(autovacuum={"least_rows": 100, "least_wait_s": 0, "least_unknown_rows": 100, "most_pass_s": 0})
    vacuum_shared_catalogs(database)
    assert doctor.is_well(BEHIND)
    assert doctor.is_well(ANALYZED)
    psql(
        database.dsn,
        'CREATE TABLE "Dead" (n integer) WITH (autovacuum_vacuum_threshold = 90, autovacuum_vacuum_scale_factor = 0,'
        " autovacuum_analyze_threshold = 9000);"
        "CREATE TABLE patient (n integer) WITH (autovacuum_vacuum_threshold = 900, autovacuum_analyze_threshold = 900);"
        "CREATE TABLE inserted (n integer) WITH (autovacuum_vacuum_insert_threshold = 200,"
        " autovacuum_analyze_threshold = 9000);"
        'INSERT INTO "Dead" SELECT generate_series(1, 300); INSERT INTO patient SELECT generate_series(1, 300);'
        'VACUUM (ANALYZE) "Dead", patient, inserted; DELETE FROM "Dead" WHERE n <= 280;'
        "DELETE FROM patient WHERE n <= 280;"
        "INSERT INTO inserted SELECT generate_series(1, 500);",
    )
    _until(lambda: len(doctor.answer(BEHIND).get("findings", [{}])[0].get("evidence", {}).get("tables", ())) == 2)
    finding = doctor.finding(BEHIND)
    assert {row["table"] for row in finding["evidence"]["tables"]} == {'public."Dead"', "public.inserted"}
    assert finding["fact"].startswith(
        'public."Dead" has waited too long for autovacuum: 280 dead rows, 3.1 times as many as make it'
    )
    assert finding["severity"] == "warning"
    doctor.limits(autovacuum={"least_rows": 100, "least_wait_s": 0, "critical_due_factor": 3, "most_pass_s": 0})
    assert doctor.finding(BEHIND)["severity"] == "critical"
    doctor.limits(autovacuum={"least_rows": 100})
    assert doctor.is_well(BEHIND)  # it was vacuumed just now
    doctor.limits(autovacuum={"least_rows": 100, "least_wait_s": 0})
    assert 'ALTER TABLE public."Dead" SET (autovacuum_vacuum_cost_limit = 10000);' in finding["remedies"][1]["text"]
    doctor.apply(finding, 1)
    doctor.apply(finding)
    _until(lambda: doctor.is_well(BEHIND))

    psql(
        database.dsn,
        "CREATE TABLE unknown (n integer); INSERT INTO unknown SELECT generate_series(1, 300);"
        "CREATE TABLE parent (n integer) PARTITION BY RANGE (n);"
        "CREATE TABLE child PARTITION OF parent FOR VALUES FROM (0) TO (1000);"
        "INSERT INTO parent SELECT generate_series(1, 200); ANALYZE child",
    )
    doctor.limits(autovacuum={"least_unknown_rows": 100})
    _until(lambda: len(doctor.answer(ANALYZED).get("findings", [{}])[0].get("evidence", {}).get("tables", ())) == 2)
    finding = doctor.finding(ANALYZED)
    assert finding["severity"] == "warning"
    assert finding["evidence"]["tables"] == [
        {"table": "public.unknown", "rows": 300, "partitioned": False},
        {"table": "public.parent", "rows": 200, "partitioned": True},
    ]
    doctor.apply(finding)
    _until(lambda: doctor.is_well(ANALYZED))


@pytest.mark.versions(18)
def test_workers_and_what_turns_them_off(
    private_server: Callable[..., Server], database_factory: Callable[..., Database], tmp_path: Path
) -> None:
    server = private_server({"max_connections": "20"})
    database = database_factory(server)
    psql(
        database.superuser_dsn,
        "ALTER SYSTEM SET autovacuum = off; ALTER SYSTEM SET autovacuum_max_workers = 1;"
        "ALTER SYSTEM SET autovacuum_naptime = '1s'; ALTER SYSTEM SET autovacuum_vacuum_cost_delay = '100ms';"
        "ALTER SYSTEM SET autovacuum_vacuum_cost_limit = 1; SELECT pg_reload_conf()",
    )
    doctor = Doctor(database, tmp_path)
    doctor.limits(autovacuum={"least_rows": 100, "least_wait_s": 0})
    psql(
        database.dsn,
        "CREATE TABLE large (n integer, t text);"
        "CREATE TABLE waits (n integer, t text) WITH (autovacuum_enabled = off);"
        "INSERT INTO large SELECT g, repeat('x', 900) FROM generate_series(1, 2000) g;"
        "INSERT INTO waits SELECT * FROM large;"
        "VACUUM (ANALYZE) large, waits; DELETE FROM large; DELETE FROM waits",
    )
    _until(lambda: doctor.is_well(WORKERS))  # a worker may have begun before
    _until(lambda: len(doctor.answer(ENABLED).get("findings", ())) == 2)
    server_off, tables_off = doctor.answer(ENABLED)["findings"]
    assert (server_off["severity"], tables_off["subject"]) == ("critical", "public.waits")
    doctor.apply(tables_off)
    doctor.apply(server_off)
    _until(lambda: doctor.is_well(ENABLED))

    # Between two tables no worker is busy for a moment, so what was found is what is looked at.
    seen: list[dict[str, Any]] = []
    _until(lambda: seen.append(doctor.answer(WORKERS)) or seen[-1]["answer"] == "finding")
    (finding,) = seen[-1]["findings"]
    assert finding["fact"].startswith("The only worker of autovacuum is busy, which together may change ")
    plain = plain_role_of(database)
    because = Doctor(database, tmp_path, plain).answer(WORKERS)["because"]
    assert because == f"what others do is hidden from role {plain}"
    doctor.limits(autovacuum={"least_rows": 100, "least_wait_s": 0})
    doctor.apply(finding)
    _until(lambda: doctor.is_well(WORKERS) and doctor.is_well(BEHIND))
