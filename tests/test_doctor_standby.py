"""The horizon where standbys are: their feedback, their slots, and the standby itself."""

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
from support.doctor import Doctor, burn_xids
from support.servers import Database
from support.standby import standby_of

CHECK = "horizon.held"


def _until(doctor: Doctor, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Ask until the answer is what is waited for: feedback comes once a second."""
    until = time.monotonic() + 60
    while not wanted(answer := doctor.answer(CHECK)):
        assert time.monotonic() < until, answer
        time.sleep(0.1)
    return answer


def _finding(doctor: Doctor, named: str) -> dict[str, Any]:
    answer = _until(doctor, lambda a: a["answer"] == "finding" and named in a["findings"][0]["fact"])
    return answer["findings"][0]


# 14 and 17 come without pg_basebackup here.
@pytest.mark.versions(15, 18)
def test_feedback_and_slots(
    private_server: Callable[..., Server], database_factory: Callable[..., Database], tmp_path: Path
) -> None:
    settings = {
        "hot_standby_feedback": "on", "wal_receiver_status_interval": "1s", "wal_retrieve_retry_interval": "100ms",
        "autovacuum": "off",
    }  # fmt: skip
    primary = private_server(settings)
    database = database_factory(primary)
    doctor = Doctor(database, tmp_path)
    doctor.limits(horizon={"warning_age_xids": 5})

    with standby_of(primary) as standby:
        replica = Database(standby, database.name, database.owner)
        with closing(psycopg.connect(replica.dsn)) as reader:
            _reads(reader)
            burn_xids(database, 10)
            finding = _finding(doctor, "The feedback of standby")
            # The standby knows which of its sessions it is.
            at_standby = Doctor(replica, tmp_path, doctor.role)
            at_standby.limits(horizon={"warning_age_xids": 5})
            named = _finding(at_standby, "holds back VACUUM on the primary")
            assert named["evidence"]["pid"] == reader.info.backend_pid
            doctor.apply(finding, database=replica)
            with pytest.raises(psycopg.OperationalError):
                reader.execute("SELECT 1")
        _until(doctor, lambda a: a["answer"] == "well")
        psql(standby.dsn(), "ALTER SYSTEM SET hot_standby_feedback = off; SELECT pg_reload_conf();")
        _until(at_standby, lambda a: "sends no feedback" in a.get("text", ""))

        # The same by way of a slot, which stays when the standby goes.
        psql(primary.dsn(), "SELECT pg_create_physical_replication_slot('standby1')")
        psql(
            standby.dsn(),
            "ALTER SYSTEM SET hot_standby_feedback = on; ALTER SYSTEM SET primary_slot_name = 'standby1';"
            " SELECT pg_reload_conf();",
        )
        with closing(psycopg.connect(replica.dsn)) as reader:
            _reads(reader)
            burn_xids(database, 10)
            finding = _finding(doctor, "Replication slot standby1 (in use)")
            doctor.apply(finding, database=replica)
        _until(doctor, lambda a: a["answer"] == "well")
        with closing(psycopg.connect(replica.dsn)) as reader:
            _reads(reader)
            burn_xids(database, 10)
            _finding(doctor, "Replication slot standby1 (in use)")
            standby.stop("immediate")
    finding = _finding(doctor, "Replication slot standby1 (not in use)")
    doctor.apply(finding)
    assert doctor.is_well(CHECK)


def _reads(reader: psycopg.Connection[Any]) -> None:
    reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    reader.execute("SELECT 1")
