"""`horizon.held`: whoever keeps VACUUM from removing rows is named, and what is printed removes him."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support.doctor import Doctor, burn_xids, plain_role_of
from support.servers import Database

CHECK = "horizon.held"
AT_ONCE = {"warning_age_s": 0, "least_age_xids": 5}


@pytest.fixture
def doctor(quiet_database: Database, tmp_path: Path) -> Doctor:
    doctor = Doctor(quiet_database, tmp_path)
    doctor.limits(horizon=AT_ONCE)
    return doctor


@pytest.fixture
def writer(quiet_database: Database) -> psycopg.Connection[Any]:
    """The application: a table with rows to delete."""
    connection = quiet_database.connect()
    connection.execute("CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 100) g")
    return connection


def _time_passes(database: Database) -> None:
    with database.connect() as writer:  # its end flushes what it counted
        writer.execute("DELETE FROM t WHERE id IN (SELECT id FROM t LIMIT 7)")
    burn_xids(database, 10)


def _holds(database: Database, begin: str) -> psycopg.Connection[Any]:
    session = database.connect(application_name="billing")
    session.execute(begin.encode())
    return session


@pytest.mark.versions("all")
def test_the_culprit_is_named_and_its_remedy_removes_it(
    doctor: Doctor, quiet_database: Database, writer: psycopg.Connection[Any]
) -> None:
    database = quiet_database
    # Idle in a transaction, but without a snapshot or an id: holds nothing.
    idle = _holds(database, "BEGIN; SELECT count(*) FROM t")
    _time_passes(database)
    assert doctor.answer(CHECK)["text"] == "No transaction holds back VACUUM."
    idle.execute("DECLARE c CURSOR FOR SELECT * FROM t; FETCH 1 FROM c")
    _time_passes(database)
    finding = doctor.finding(CHECK)
    assert finding["evidence"]["pid"] == idle.info.backend_pid
    idle.rollback()

    # A snapshot, an id, and the snapshot that saw the id running: the one with the id was first.
    for begin in ("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t", "BEGIN; INSERT INTO t VALUES (0)"):
        culprit = _holds(database, begin)
        victim = _holds(database, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        _time_passes(database)
        finding = doctor.finding(CHECK)
        evidence = finding["evidence"]
        assert evidence["pid"] == culprit.info.backend_pid, finding
        assert (evidence["state"], evidence["application"]) == ("idle in transaction", "billing")
        assert evidence["age_s"] > 0
        assert 10 <= evidence["age_xids"] < 100
        assert [row["holder"].split()[1] for row in evidence["next_in_line"]] == [str(victim.info.backend_pid)]
        victim.close()
        until = time.monotonic() + 30
        while finding["evidence"]["dead_rows"] < 14:  # 14's collector tells later
            assert time.monotonic() < until
            finding = doctor.finding(CHECK)
        assert "public.t" in finding["cost"]
        doctor.apply(finding)
        with pytest.raises(psycopg.OperationalError):
            culprit.execute("SELECT 1")
        assert doctor.is_well(CHECK)

    # A statement that runs is cancelled; the session stays.
    culprit = _holds(database, "BEGIN; INSERT INTO t VALUES (0)")
    ended: list[str | None] = []

    def sleep() -> None:
        try:
            culprit.execute("SELECT pg_sleep(300)")
        except psycopg.Error as error:
            ended.append(error.sqlstate)

    thread = threading.Thread(target=sleep)
    thread.start()
    _time_passes(database)
    finding = doctor.finding(CHECK)
    assert finding["evidence"]["query"] == "SELECT pg_sleep(300)"
    doctor.apply(finding)
    thread.join(30)
    assert ended == ["57014"]
    assert doctor.is_well(CHECK)
    culprit.close()

    # A prepared transaction holds more firmly than the snapshot that saw it.
    victim = _holds(database, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    writer.execute("BEGIN; INSERT INTO t VALUES (0); PREPARE TRANSACTION 'it''s \\ mine'")
    _time_passes(database)
    finding = doctor.finding(CHECK)
    assert finding["subject"].startswith("prepared transaction"), finding
    doctor.apply(finding)
    assert doctor.finding(CHECK)["evidence"]["pid"] == victim.info.backend_pid
    victim.close()
    assert doctor.is_well(CHECK)


@pytest.mark.versions("all")
def test_slots_and_other_databases(
    doctor: Doctor,
    quiet_database: Database,
    writer: psycopg.Connection[Any],
    database_factory: Any,
) -> None:
    database = quiet_database
    doctor.limits(horizon={"warning_age_xids": 5})
    with database.connect_superuser() as superuser:
        superuser.execute("SELECT pg_create_logical_replication_slot('cdc', 'pgoutput')")
        _time_passes(database)
        finding = doctor.finding(CHECK)
        assert finding["subject"] == "replication slot cdc (not in use)"
        assert "of the system catalogs" in finding["fact"]
        # What holds rows of tables comes first.
        holder = _holds(database, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        _time_passes(database)
        assert doctor.finding(CHECK)["evidence"]["pid"] == holder.info.backend_pid
        holder.close()
        # How old it is in time, earlier runs tell: two hours ago later transactions had their ids.
        doctor.limits(horizon={"least_age_xids": 5})
        doctor.hours_pass(2)
        assert 7200 <= doctor.finding(CHECK)["evidence"]["age_s"] < 7300
        doctor.apply(finding)
        assert doctor.is_well(CHECK)

    doctor.limits(horizon={"warning_age_xids": 5})
    other = database_factory(database.server)
    reader = other.connect()
    reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    _time_passes(database)
    finding = doctor.finding(CHECK)
    assert f"VACUUM in database {other.name}" in finding["fact"]
    assert "dead_rows" not in finding["evidence"]
    # VACUUM of our own table is indeed not held, until the other transaction gets an id.
    assert _not_removable(database) == 0
    reader.execute("ROLLBACK; BEGIN; CREATE TABLE u ()")
    ours = _holds(database, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    _time_passes(database)
    finding = doctor.finding(CHECK)
    assert finding["evidence"]["pid"] == reader.info.backend_pid
    assert " in database " not in finding["fact"]
    assert _not_removable(database) > 0
    doctor.apply(finding)
    ours.close()
    assert doctor.is_well(CHECK)
    assert _not_removable(database) == 0


def _not_removable(database: Database) -> int:
    """How many dead rows a VACUUM leaves behind."""
    told: list[str] = []
    with database.connect() as connection:
        connection.add_notice_handler(lambda notice: told.append(f"{notice.message_primary} {notice.message_detail}"))
        connection.execute("VACUUM (VERBOSE) t")
    text = " ".join(" ".join(told).split())
    words = text.split("dead row versions cannot be removed yet" if "row versions" in text else "are dead but not yet")
    assert len(words) > 1, text
    return int(words[0].split()[-1])


def test_vacuum_itself_holds_nothing(doctor: Doctor, quiet_database: Database, writer: psycopg.Connection[Any]) -> None:
    writer.execute("INSERT INTO t SELECT g FROM generate_series(1, 20000) g")
    vacuum = quiet_database.connect()
    vacuum.execute("SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1")
    thread = threading.Thread(target=lambda: _until_cancelled(vacuum))
    thread.start()
    try:
        while not writer.execute(
            "SELECT pid FROM pg_stat_progress_vacuum JOIN pg_stat_activity USING (pid) WHERE backend_xmin IS NOT NULL"
        ).fetchone():
            assert thread.is_alive()
        burn_xids(quiet_database, 10)
        assert doctor.is_well(CHECK)
    finally:
        vacuum.cancel_safe()
        thread.join(30)


def _until_cancelled(connection: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute("VACUUM t")


@pytest.mark.versions(14, 18)
def test_without_rights(quiet_database: Database, writer: psycopg.Connection[Any], tmp_path: Path) -> None:
    plain = plain_role_of(quiet_database)
    doctor = Doctor(quiet_database, tmp_path, plain)
    assert doctor.is_well(CHECK)  # nobody holds anything: that much everybody may see
    holder = _holds(quiet_database, "BEGIN; INSERT INTO t VALUES (0)")
    _time_passes(quiet_database)
    answer = doctor.answer(CHECK)
    assert answer["answer"] == "not checked"
    assert "hidden" in answer["because"]
    assert answer["hint"] == f"GRANT pg_monitor TO {plain};"
    # Its age in transactions is not hidden.
    doctor.limits(horizon={"warning_age_xids": 5})
    assert doctor.finding(CHECK)["evidence"]["pid"] == holder.info.backend_pid
