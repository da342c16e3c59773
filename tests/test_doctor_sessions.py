"""`sessions.*`: forgotten transactions, what would end them, and connections against their limits."""

from __future__ import annotations

import configparser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support.bouncer import Bouncer
from support.clients import psql
from support.doctor import Doctor, plain_role_of
from support.servers import Database

IDLE, TIMEOUTS, CONNECTIONS = "sessions.idle_in_transaction", "sessions.timeouts", "sessions.connections"


@pytest.fixture
def doctor(quiet_database: Database, tmp_path: Path) -> Doctor:
    return Doctor(quiet_database, tmp_path)


@contextmanager
def _connected(database: Database, count: int, **given: Any) -> Iterator[list[psycopg.Connection[Any]]]:
    connections = [database.connect(application_name="shop", **given) for _ in range(count)]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


def _is_ended(connection: psycopg.Connection[Any]) -> bool:
    try:
        connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False


@pytest.mark.versions("all")
def test_idle_in_transaction(doctor: Doctor, quiet_database: Database) -> None:
    assert doctor.answer(IDLE)["text"] == "No session is idle in a transaction."
    with _connected(quiet_database, 4) as (idle, forgotten, failed, busy):
        forgotten.execute("BEGIN; SELECT 1")
        failed.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; CREATE TABLE t ()")
        with pytest.raises(psycopg.errors.DivisionByZero):
            failed.execute("SELECT 1 / 0")
        busy.pgconn.send_query(b"BEGIN; SELECT pg_sleep(300)")
        assert "for long; the longest for" in doctor.answer(IDLE)["text"]
        doctor.limits(sessions={"warning_idle_in_transaction_s": 0})
        finding = doctor.finding(IDLE)
        assert finding["severity"] == "warning"
        evidence = finding["evidence"]
        assert [row["pid"] for row in evidence["which"]] == [forgotten.info.backend_pid, failed.info.backend_pid]
        assert evidence["which"][0]["last_query"] == "BEGIN; SELECT 1"
        doctor.limits(sessions={"warning_idle_in_transaction_s": 0, "critical_idle_in_transaction_s": 0})
        assert doctor.finding(IDLE)["severity"] == "critical"
        doctor.apply(finding)
        assert [_is_ended(each) for each in (idle, forgotten, failed)] == [False, True, True]
        assert doctor.is_well(IDLE)
        busy.cancel_safe()
    # What it says about the future holds, too.
    doctor.apply(finding, 1)
    with _connected(quiet_database, 1) as (later,):
        assert later.execute("SHOW idle_in_transaction_session_timeout").fetchall() == [("10min",)]


@pytest.mark.versions("all")
def test_timeouts(doctor: Doctor, quiet_database: Database, pg_version: int) -> None:
    database, role = quiet_database, quiet_database.owner
    names = ["idle_in_transaction_session_timeout"] + ["transaction_timeout"] * (pg_version >= 17)
    finding = doctor.finding(TIMEOUTS)
    assert finding["severity"] == "info"
    assert finding["evidence"]["settings"] == dict.fromkeys(names, "0")
    with _connected(database, 1):
        assert doctor.finding(TIMEOUTS)["evidence"]["roles"] == [role]
        doctor.apply(finding)
        assert f"{names[0]} is 10min" in doctor.answer(TIMEOUTS)["text"]
        # What the role was given for itself is stronger than the database's.
        psql(database.superuser_dsn, f"ALTER ROLE {role} SET {names[0]} = '0s'")
        finding = doctor.finding(TIMEOUTS)
        assert finding["evidence"]["roles"] == [role]
        if pg_version >= 17:
            doctor.apply(finding, 1)
            assert doctor.is_well(TIMEOUTS)
            psql(database.superuser_dsn, f"ALTER ROLE {role} IN DATABASE {database.name} RESET transaction_timeout")
        doctor.apply(finding)
        assert doctor.is_well(TIMEOUTS)
    # What our own role was given says nothing of others.
    psql(database.superuser_dsn, f"ALTER ROLE {doctor.role} SET {names[0]} = '1s'")
    answer = doctor.answer(TIMEOUTS)
    assert answer["answer"] == "not checked"
    psql(database.superuser_dsn, answer["hint"])
    assert doctor.is_well(TIMEOUTS)


@pytest.mark.versions("all")
def test_connections(
    doctor: Doctor, quiet_database: Database, pg_version: int, bouncer: Callable[..., Bouncer]
) -> None:
    database = quiet_database
    usable = 30 - 3 - (2 if pg_version >= 16 else 0)
    assert doctor.answer(CONNECTIONS)["text"] == f"0 of {usable} connections are in use, 0 of them idle."
    with _connected(database, 19) as clients:
        assert doctor.is_well(CONNECTIONS)
        doctor.limits(sessions={"pooler_connections": 19})
        pooled = doctor.finding(CONNECTIONS)
        assert pooled["severity"] == "info"
        with _connected(database, 3, user="postgres"):
            finding = doctor.finding(CONNECTIONS)
        assert finding["severity"] == "warning"
        assert finding["fact"].startswith(f"22 of the {usable} connections that clients may have are in use, 22 of")
        assert finding["evidence"]["by_application"][0]["connections"] == 19
        assert [remedy["kind"] for remedy in finding["remedies"]] == ["file", "setting"]
        assert finding["remedies"][-1]["restart"]

        # Those who ask for nothing can go.
        doctor.limits(sessions={"long_idle_s": 0, "warning_connections_share": 0.7})
        clients[0].pgconn.send_query(b"SELECT pg_sleep(300)")
        finding = doctor.finding(CONNECTIONS)
        doctor.apply(finding)
        assert [_is_ended(each) for each in clients[1:]] == [True] * 18
        assert doctor.is_well(CONNECTIONS)
        clients[0].cancel_safe()

    # PgBouncer takes what is printed for it.
    ini = configparser.ConfigParser()
    ini.read_string(pooled["remedies"][0]["text"])
    assert list(ini["databases"]) == [database.name]
    settings = {name: value for name, value in ini["pgbouncer"].items() if name != "listen_port"}
    pooler = bouncer(database.dsn, "session", settings)
    with psycopg.connect(pooler.dsn) as pooled_connection:
        assert pooled_connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.versions(14, 18)
def test_limits_of_roles_and_databases(doctor: Doctor, quiet_database: Database) -> None:
    database = quiet_database
    for kind, name in (("role", database.owner), ("database", database.name)):
        psql(database.superuser_dsn, f"ALTER {kind} {name} CONNECTION LIMIT 5")
        with _connected(database, 4):
            finding = doctor.finding(CONNECTIONS)
            assert (finding["severity"], finding["subject"]) == ("warning", f"{kind} {name}")
            doctor.apply(finding, 1)
            assert doctor.is_well(CONNECTIONS), kind


@pytest.mark.versions(14, 18)
def test_without_rights(quiet_database: Database, tmp_path: Path) -> None:
    plain = plain_role_of(quiet_database)
    doctor = Doctor(quiet_database, tmp_path, plain)
    with _connected(quiet_database, 1):
        for check in (IDLE, CONNECTIONS):
            answer = doctor.answer(check)
            assert answer["because"] == "what 1 session of other roles does is hidden from this login"
        assert doctor.finding(TIMEOUTS)["evidence"]["roles"] == [quiet_database.owner]  # everybody may know
        psql(quiet_database.superuser_dsn, answer["hint"])
        assert doctor.is_well(IDLE)
        assert doctor.is_well(CONNECTIONS)
