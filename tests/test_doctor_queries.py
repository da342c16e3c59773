"""`queries.*`: statements out of line, grown slower, and running for too long."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgscale.embedded import Server
from support.cli import pgscale
from support.clients import psql
from support.doctor import Doctor, plain_role_of
from support.servers import Database

HEAVY, SLOWER, RUNNING = "queries.heavy", "queries.slower", "queries.running"
NONE = 1e9
# What is much on any machine is not to be had in a test; what is a large part is.
MUCH: dict[str, float] = {
    "least_counted_s": 0, "least_calls": 3, "busy_sessions": NONE, "slow_mean_s": NONE,
    "read_bytes_per_s": 10**12, "temp_bytes_per_s": 10**12, "wal_bytes_per_s": 10**12, "slower_lost_share": 2e-5,
}  # fmt: skip


@pytest.mark.versions(14, 17)  # 1.9 and 1.11 of the extension
def test_statements(
    private_server: Callable[..., Server],
    database_factory: Callable[..., Database],
    tmp_path: Path,
    pg_version: int,
) -> None:
    database = database_factory(
        private_server({"shared_preload_libraries": "pg_stat_statements", "autovacuum": "off"}, version=pg_version)
    )
    doctor = Doctor(database, tmp_path)
    doctor.limits(queries=MUCH)
    for check in (HEAVY, SLOWER):
        answer = doctor.answer(check)
        assert answer["because"] == "the extension pg_stat_statements is not installed in this database"
        assert answer["hint"].startswith("CREATE EXTENSION pg_stat_statements;")
    psql(database.superuser_dsn, 'CREATE SCHEMA "S"; CREATE EXTENSION pg_stat_statements SCHEMA "S" VERSION \'1.8\'')
    for because in ("where the extension pg_stat_statements is", "is of version 1.8, which is too old"):
        answer = doctor.answer(HEAVY)
        assert answer["because"].endswith(because), answer
        psql(database.superuser_dsn, answer["hint"])
    psql(database.superuser_dsn, f'ALTER DATABASE {database.name} SET search_path = public, "S"')
    psql(
        database.dsn,
        """
        CREATE TABLE t (id integer, v text);
        INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 5000) g;
        CREATE TABLE late (s float8); INSERT INTO late VALUES (0.001);
        """,
    )
    with database.connect() as app:
        app.execute("SET work_mem = '64kB'")
        for _ in range(4):
            app.execute("SELECT count(*) FROM (SELECT * FROM t ORDER BY v, id OFFSET 0) s")
            app.execute("SELECT pg_sleep(s) FROM late")
        before = doctor.answer(HEAVY)
        assert before["text"].endswith("is out of line."), before

        # Each measure finds its own, and only that.
        for limit, value, said, statement in (
            ("temp_bytes_per_s", 1, "100% of all temporary files", "ORDER BY v, id"),
            ("wal_bytes_per_s", 1, "of all WAL", "INSERT INTO t"),
            ("slow_mean_s", 0.001, "on average", "pg_sleep"),
        ):
            found = _facts_of(doctor, **{limit: value}, small_share=0.01)
            assert [said in fact for fact in found if statement in fact] == [True], (found, limit)
        doctor.limits(queries={**MUCH, "slow_mean_s": 0.001, "small_share": 1})
        assert doctor.is_well(HEAVY)
        doctor.limits(queries={**MUCH, "temp_bytes_per_s": 1})
        (finding,) = doctor.answer(HEAVY)["findings"]
        assert "do not fit into work_mem" in finding["cost"]
        assert finding["evidence"]["roles"] == database.owner
        _look_at_the_plan(database, finding)
        assert "ORDER BY v, id OFFSET" in psql(database.superuser_dsn, finding["remedies"][1]["text"])
        doctor.apply(finding, 2)
        assert doctor.is_well(HEAVY)

        # An hour ago it was fast.
        assert "no earlier sample" in Doctor(database, tmp_path / "..", doctor.role).answer(SLOWER)["because"]
        doctor.limits(queries=MUCH)
        doctor.answer(SLOWER)
        doctor.hours_pass(1)
        for _ in range(4):
            app.execute("SELECT pg_sleep(s) FROM late")
        assert "None of" in doctor.answer(SLOWER)["text"]
        app.execute("UPDATE late SET s = 0.1")
        for _ in range(4):
            app.execute("SELECT pg_sleep(s) FROM late")
        finding = doctor.finding(SLOWER)
        assert (finding["severity"], "pg_sleep(s)" in finding["fact"]) == ("warning", True)
        assert finding["evidence"]["calls"] == 8
        assert finding["evidence"]["mean_s"] > 0.05 > finding["evidence"]["earlier_mean_s"]
        doctor.limits(queries={**MUCH, "slower_times": 10_000})
        assert doctor.is_well(SLOWER)
        doctor.limits(queries=MUCH)
        doctor.apply(finding, 2)
        assert doctor.is_well(SLOWER), doctor.answer(SLOWER)
    plain = Doctor(database, tmp_path, plain_role_of(database))
    assert plain.answer(HEAVY)["hint"] == f"GRANT pg_monitor TO {plain.role};"


def _look_at_the_plan(database: Database, finding: dict[str, Any]) -> None:
    """What the finding says to run explains the statement by its id, also one with parameters, and says why not."""
    program, verb, query_id = finding["remedies"][0]["text"].split()
    assert (program, verb, query_id) == ("pgscale", "explain", finding["evidence"]["query_id"])
    ran = pgscale("explain", query_id, "--dsn", database.superuser_dsn, "--json")
    assert ran.exit_code == 0, ran.err
    said = json.loads(ran.out)
    assert said["query"] == "SELECT count(*) FROM (SELECT * FROM t ORDER BY v, id OFFSET $1) s"
    assert said["is_generic"]
    measured = pgscale("explain", "--analyze", query_id, "--param", "0", "--dsn", database.superuser_dsn, "--json")
    assert json.loads(measured.out)["plan"]["actual_rows"] == 1, measured.err
    with database.connect_superuser() as superuser:
        ids = dict(superuser.execute('SELECT left(query, 12), queryid FROM "S".pg_stat_statements').fetchall())
    for given, role, exit_code, words in (
        (str(ids["CREATE TABLE"]), "postgres", 2, "CREATE has no plan to explain"),
        ("-1", "postgres", 2, "has no statement -1 of this database"),
        (query_id, plain_role_of(database), 3, 'may not look into schema "S"'),
    ):
        ran = pgscale("explain", given, "--dsn", database.dsn_as(role))
        assert (ran.exit_code, words in ran.err) == (exit_code, True), ran.err
    role = plain_role_of(database)
    psql(database.superuser_dsn, f'GRANT USAGE ON SCHEMA "S" TO {role}')
    hidden = pgscale("explain", query_id, "--dsn", database.dsn_as(role))
    assert (hidden.exit_code, f"GRANT pg_read_all_stats TO {role};" in hidden.err) == (3, True), hidden.err


def _facts_of(doctor: Doctor, **limits: float) -> list[str]:
    doctor.limits(queries={**MUCH, **limits})
    return [finding["fact"] for finding in doctor.answer(HEAVY)["findings"]]


@pytest.mark.versions(14, 18)
def test_running(quiet_database: Database, tmp_path: Path) -> None:
    database = quiet_database
    doctor = Doctor(database, tmp_path)
    assert doctor.answer(RUNNING)["text"] == "No client runs a statement now."
    psql(database.dsn, "CREATE TABLE t (id integer)")
    holder = database.connect()
    holder.execute("BEGIN; LOCK TABLE t")
    statement, maintenance, ours = (database.connect(application_name=name) for name in ("shop", "", "pgscale/copy"))
    statement.pgconn.send_query(b"SELECT * FROM t")
    maintenance.pgconn.send_query(b"create index on t (id)")
    ours.pgconn.send_query(b"SELECT pg_sleep(300)")
    with database.connect_superuser() as superuser:
        until = time.monotonic() + 30
        while superuser.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() != (2,):
            assert time.monotonic() < until
            time.sleep(0.01)
    assert doctor.answer(RUNNING)["text"].startswith("2 statements of clients run now, the longest for")
    doctor.limits(queries={"warning_running_s": 0})
    finding = doctor.finding(RUNNING)
    (row,) = finding["evidence"]["which"]
    assert (row["pid"], row["kind"], row["waits_for"]) == (statement.info.backend_pid, "statement", "Lock")
    assert "pgscale locks" in finding["cost"]
    doctor.limits(queries={"warning_running_s": 0, "critical_running_s": 0, "maintenance_running_s": 0})
    finding = doctor.finding(RUNNING)
    assert finding["severity"] == "critical"
    assert [row["kind"] for row in finding["evidence"]["which"]] == ["statement", "maintenance"]
    doctor.apply(finding)
    for ended in (statement, maintenance):
        with pytest.raises(psycopg.errors.QueryCanceled):
            _result(ended)
    doctor.apply(finding, 1)
    assert doctor.answer(RUNNING)["text"] == "No client runs a statement now."
    with pytest.raises(psycopg.OperationalError):
        statement.execute("SELECT 1")
    plain = Doctor(database, tmp_path, plain_role_of(database))
    assert "is hidden from this login" in plain.answer(RUNNING)["because"] or "are" in plain.answer(RUNNING)["because"]
    ours.cancel_safe()


def _result(connection: psycopg.Connection[Any]) -> None:
    while (result := connection.pgconn.get_result()) is not None:
        if result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"57014":
            raise psycopg.errors.QueryCanceled


def test_versions_of_the_extension_are_explained():
    told = pgscale("doctor", "--explain", HEAVY).out
    assert "-- pg_stat_statements.statements (pg_stat_statements from 1.9 before 1.11)\n" in told
