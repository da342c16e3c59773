"""`replicas.*`: lag, missing standbys, and what replay does on a standby."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgscale.embedded import Server
from support.clients import psql
from support.doctor import Doctor, plain_role_of
from support.servers import Database
from support.standby import standby_of

LAG, SYNCHRONOUS, DISCONNECTED = "replicas.lag", "replicas.synchronous", "replicas.disconnected"
REPLAY, CONFLICTS = "replicas.replay", "replicas.conflicts"


def _until(doctor: Doctor, check: str, answer_is: str) -> dict[str, Any]:
    """Ask until the answer is what is waited for: standbys tell once a second."""
    until = time.monotonic() + 60
    while (answer := doctor.answer(check))["answer"] != answer_is:
        assert time.monotonic() < until, answer
        time.sleep(0.05)
    return answer


def _caught_up(primary: Database, standby: Database) -> None:
    with primary.connect_superuser() as one, standby.connect_superuser() as other:
        row = one.execute("SELECT pg_logical_emit_message(true, '', '')::text").fetchone()
        assert row is not None
        until = time.monotonic() + 60
        while other.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", row).fetchone() != (True,):
            assert time.monotonic() < until
            time.sleep(0.02)


# 14 and 17 come without pg_basebackup here.
@pytest.mark.versions(15, 18)
def test_standbys(
    private_server: Callable[..., Server],
    database_factory: Callable[..., Database],
    tmp_path: Path,
    pg_version: int,
) -> None:
    primary = private_server(
        {"wal_receiver_status_interval": "1s", "wal_retrieve_retry_interval": "100ms", "autovacuum": "off"}
    )
    database = database_factory(primary)
    doctor = Doctor(database, tmp_path)
    assert doctor.answer(LAG)["text"] == "Nobody receives WAL from this server."
    assert doctor.answer(DISCONNECTED)["text"] == "There is no slot for a standby."
    assert doctor.is_well(SYNCHRONOUS)
    for check in (REPLAY, CONFLICTS):
        assert doctor.answer(check)["text"] == "This is no standby."
    psql(database.dsn, "CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 100) g")
    psql(
        primary.dsn(),
        "SELECT pg_create_physical_replication_slot('standby1', true);"
        "ALTER SYSTEM SET primary_slot_name = 'standby1'; ALTER SYSTEM SET max_standby_streaming_delay = '0';",
    )
    # Nobody uses the slot yet.
    doctor.limits(replicas={"warning_unused_s": 0})
    if pg_version < 17:
        assert doctor.finding(DISCONNECTED)["severity"] == "info"
    assert doctor.finding(DISCONNECTED)["severity"] == "warning"
    doctor.limits()

    with standby_of(primary) as server:
        standby = Database(server, database.name, database.owner)
        (tmp_path / "standby").mkdir()
        at_standby = Doctor(standby, tmp_path / "standby", doctor.role)
        _caught_up(database, standby)
        assert "1 slot for standbys, of which 1 in use." in str(_until(doctor, DISCONNECTED, "well"))
        assert doctor.answer(LAG)["text"].startswith("1 receiver of WAL is at most ")
        assert at_standby.answer(REPLAY)["text"].startswith("Replay is 0 bytes behind")

        # Replay is paused: the primary sees that it is behind, the standby sees why.
        psql(server.dsn(), "SELECT pg_wal_replay_pause()")
        doctor.limits(replicas={"warning_lag_bytes": 10_000})
        psql(database.dsn, "INSERT INTO t SELECT g FROM generate_series(1, 1000) g")
        finding = _until(doctor, LAG, "finding")["findings"][0]
        assert finding["severity"] == "warning"
        assert 10_000 <= finding["evidence"]["behind_bytes"] < 1 << 20
        paused = at_standby.finding(REPLAY)
        assert paused["fact"].startswith("Replay is paused")
        at_standby.apply(paused)
        _until(doctor, LAG, "well")
        assert at_standby.is_well(REPLAY)
        psql(server.dsn(), "SELECT pg_wal_replay_pause()")
        psql(database.dsn, "INSERT INTO t SELECT g FROM generate_series(1, 1000) g")
        finding = _until(doctor, LAG, "finding")["findings"][0]
        until = time.monotonic() + 60
        while "not replayed" not in finding["fact"]:  # at first it may be on the way
            assert time.monotonic() < until, finding
            finding = doctor.finding(LAG)
        doctor.apply(finding, database=standby)
        _until(doctor, LAG, "well")
        (tmp_path / "plain").mkdir()
        plain = Doctor(database, tmp_path / "plain", plain_role_of(database))
        assert plain.answer(LAG)["hint"] == f"GRANT pg_monitor TO {plain.role};"

        # Replay cancels a query that still reads what VACUUM removed.
        assert at_standby.answer(CONFLICTS)["answer"] == "not checked"
        at_standby.hours_pass(1)
        assert "cancelled 0 queries" in at_standby.answer(CONFLICTS)["text"]
        assert _is_cancelled(database, standby)
        at_standby.limits(replicas={"warning_conflicts_per_hour": 0.9})
        conflict = _until(at_standby, CONFLICTS, "finding")["findings"][0]
        assert conflict["evidence"]["cancelled_by"] == {"snapshot": 1}
        at_standby.apply(conflict)
        until = time.monotonic() + 60
        while _is_cancelled(database, standby):  # the primary does not know of the reader before its feedback comes
            assert time.monotonic() < until
        at_standby.answer(CONFLICTS)
        at_standby.hours_pass(1)
        assert not _is_cancelled(database, standby)
        assert "cancelled 0 queries" in at_standby.answer(CONFLICTS)["text"]

        # Commits wait for one that is not there.
        psql(primary.dsn(), "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (berlin, paris)'")
        psql(primary.dsn(), "SET synchronous_commit = local; SELECT pg_reload_conf()")
        finding = _until(doctor, SYNCHRONOUS, "finding")["findings"][0]
        assert finding["severity"] == "critical"
        assert finding["fact"] == "Commits wait for 1 synchronous standby, but 0 are there."
        doctor.apply(finding)
        _until(doctor, SYNCHRONOUS, "well")
        psql(primary.dsn(), "ALTER SYSTEM SET synchronous_standby_names = '*'")
        psql(primary.dsn(), "SELECT pg_reload_conf()")
        until = time.monotonic() + 60
        while "1 synchronous standby answer" not in doctor.answer(SYNCHRONOUS).get("text", ""):
            assert time.monotonic() < until
        psql(primary.dsn(), "ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf()")

        # The standby cannot connect any more.
        psql(server.dsn(), "ALTER SYSTEM SET primary_slot_name = 'gone'; SELECT pg_reload_conf()")
        finding = _until(at_standby, REPLAY, "finding")["findings"][0]
        assert finding["fact"].startswith("No WAL is received")
        psql(server.dsn(), "ALTER SYSTEM SET primary_slot_name = 'standby1'")
        at_standby.apply(finding)
        _until(at_standby, REPLAY, "well")
    doctor.limits(replicas={"warning_unused_s": 0})
    finding = _until(doctor, DISCONNECTED, "finding")["findings"][0]
    doctor.apply(finding)
    assert doctor.is_well(DISCONNECTED)


def _is_cancelled(primary: Database, standby: Database) -> bool:
    """Whether a reader on the standby is, when VACUUM has removed what it may read."""
    with closing(psycopg.connect(standby.dsn)) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM t")
        psql(primary.dsn, "DELETE FROM t WHERE id IN (SELECT id FROM t LIMIT 10); VACUUM (TRUNCATE false) t")
        _caught_up(primary, standby)
        try:
            reader.execute("SELECT count(*) FROM t")
        except psycopg.Error:
            return True
    return False
