"""`checkpoints.*`: forced ones, the archiver, and WAL that slots keep."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgscale.embedded import Server
from support.clients import psql
from support.doctor import Doctor, paste, plain_role_of
from support.servers import Database

FORCED, SETTINGS = "checkpoints.forced", "checkpoints.settings"
ARCHIVING, SLOTS = "checkpoints.archiving", "checkpoints.slots"


@pytest.fixture
def doctor(quiet_database: Database, tmp_path: Path) -> Doctor:
    return Doctor(quiet_database, tmp_path)


@pytest.fixture
def system(quiet_database: Database) -> Iterator[Callable[..., None]]:
    """`system(max_wal_size="32MB")` sets something for the server, until the test ends."""

    def configure(**settings: str) -> None:
        lines = [f"ALTER SYSTEM SET {name} = '{value}';" for name, value in settings.items()]
        paste(quiet_database, "\n".join([*lines, "SELECT pg_reload_conf();"]))

    yield configure
    paste(quiet_database, "ALTER SYSTEM RESET ALL;\nSELECT pg_reload_conf();")


def _write_wal(database: Database, megabytes: int) -> None:
    with database.connect_superuser() as writer:
        for _ in range(megabytes):
            writer.execute("SELECT pg_logical_emit_message(true, 'pgscale', repeat('x', 1 << 20))")


def _until(doctor: Doctor, check: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Ask until the answer is what is waited for: counters and files come a moment later."""
    until = time.monotonic() + 60
    while not wanted(answer := doctor.answer(check)):
        assert time.monotonic() < until, answer
        time.sleep(0.05)
    return answer


@pytest.mark.versions("all")
def test_forced_checkpoints(doctor: Doctor, quiet_database: Database, system: Callable[..., None]) -> None:
    database = quiet_database
    assert doctor.answer(FORCED)["because"] == "there is no earlier sample to compare with"
    doctor.hours_pass(1)
    assert "too few checkpoints" in doctor.answer(FORCED)["text"]
    doctor.limits(checkpoints={"least_checkpoints": 1})
    psql(database.superuser_dsn, "CHECKPOINT; CHECKPOINT")
    answer = _until(doctor, FORCED, lambda a: "too few" not in a["text"])
    # They were asked for, but not by WAL.
    assert "WAL forces no checkpoints" in answer["text"]

    # 17 MB force one now; one of 20 MB an hour would come every 50 minutes.
    system(max_wal_size="32MB", checkpoint_timeout="1h")
    _write_wal(database, 25)
    finding = _until(doctor, FORCED, lambda a: a["answer"] == "finding")["findings"][0]
    assert finding["severity"] == "warning"
    assert finding["subject"] == "max_wal_size"
    evidence = finding["evidence"]
    assert 17 << 20 <= evidence["wal_per_second_bytes"] * 3600 <= 60 << 20
    assert evidence["wal_that_forces_one_bytes"] == pytest.approx((32 << 20) / 1.9)
    assert evidence["pg_wal_now_bytes"] >= 32 << 20
    doctor.limits(checkpoints={"least_checkpoints": 1, "critical_interval_s": 3600})
    assert doctor.finding(FORCED)["severity"] == "critical"
    doctor.apply(finding)
    assert "WAL forces no checkpoints" in doctor.answer(FORCED)["text"]


@pytest.mark.versions(14, 18)
def test_settings(doctor: Doctor, quiet_database: Database, system: Callable[..., None]) -> None:
    assert doctor.answer(SETTINGS)["text"] == "checkpoint_timeout is 5 min 0 s, checkpoint_completion_target 0.9."
    system(checkpoint_timeout="30s", checkpoint_completion_target="0.5")
    findings = doctor.answer(SETTINGS)["findings"]
    assert [each["subject"] for each in findings] == ["checkpoint_timeout", "checkpoint_completion_target"]
    for finding in findings:
        doctor.apply(finding)
    assert doctor.is_well(SETTINGS)


@pytest.mark.versions(14, 18)
def test_archiving(
    private_server: Callable[..., Server], database_factory: Callable[..., Database], tmp_path: Path, pg_version: int
) -> None:
    server = private_server({"archive_mode": "on", "archive_command": "cp %p ../archive-$$/%f"})
    archive = server.data_dir.parent / f"archive-{server.port}"
    database = database_factory(server)
    doctor = Doctor(database, tmp_path)
    switch = "SELECT pg_logical_emit_message(false, '', ''), pg_switch_wal();"
    command = f"echo 100%% >&2; cp %p {archive}/%f"
    psql(database.superuser_dsn, f"ALTER SYSTEM SET archive_command = '{command}'; SELECT pg_reload_conf(); {switch}")
    answer = _until(doctor, ARCHIVING, lambda a: a["answer"] == "finding" and "fails" in a["findings"][0]["fact"])
    (finding,) = answer["findings"]
    assert finding["severity"] == "warning"
    assert finding["evidence"]["waiting_files"] >= 1
    file = finding["evidence"]["last_failed"]
    doctor.limits(checkpoints={"critical_waiting_s": 0, "warning_waiting_s": 0})
    assert doctor.finding(ARCHIVING)["severity"] == "critical"

    # What is printed shows the error, and later that it has gone.
    (remedy,) = finding["remedies"]
    assert remedy["kind"] == "shell"
    tried = subprocess.run(["sh", "-c", remedy["text"]], capture_output=True, text=True, check=False)
    assert tried.returncode != 0
    assert tried.stderr.startswith("100%\n"), tried.stderr
    archive.mkdir()
    os.chmod(archive, 0o777)  # noqa: PTH101 because the server is another user
    subprocess.run(["sh", "-c", remedy["text"]], capture_output=True, check=True)
    assert (archive / file).stat().st_size == 16 << 20
    (archive / file).unlink()  # the server could not overwrite what is ours
    doctor.limits()
    psql(database.superuser_dsn, f"SELECT pg_reload_conf(); {switch}")  # wakes it
    assert "without failures" in _until(doctor, ARCHIVING, lambda a: a["answer"] == "well")["text"]

    # It succeeds, but slowly.
    command = f"until [ -e {archive}/go ]; do sleep 0.05; done"
    psql(database.superuser_dsn, f"ALTER SYSTEM SET archive_command = '{command}'; SELECT pg_reload_conf(); {switch}")
    try:
        doctor.limits(checkpoints={"warning_waiting_s": 0})
        finding = _until(doctor, ARCHIVING, lambda a: a["answer"] == "finding")["findings"][0]
        assert re.match(r"Archiving is behind: \d files? of WAL wait", finding["fact"])
        # Its files are not for everybody to see.
        (tmp_path / "plain").mkdir()
        plain = Doctor(database, tmp_path / "plain", plain_role_of(database))
        assert plain.answer(ARCHIVING)["hint"] == f"GRANT pg_monitor TO {plain.role};"
    finally:
        # While a command runs the archiver hears nothing, and DROP DATABASE waits for it to.
        (archive / "go").touch()

    psql(database.superuser_dsn, "ALTER SYSTEM SET archive_command = ''; SELECT pg_reload_conf()")
    finding = _until(doctor, ARCHIVING, lambda a: a["findings"][0]["subject"] == "archive_command")["findings"][0]
    assert finding["remedies"][0]["restart"]
    doctor.apply(finding)
    server.restart("immediate")
    assert doctor.answer(ARCHIVING)["text"] == "WAL is not archived: archive_mode is off."


@pytest.mark.versions("all")
def test_slots(doctor: Doctor, quiet_database: Database, system: Callable[..., None]) -> None:
    database = quiet_database
    assert doctor.answer(SLOTS)["text"] == "No replication slot keeps WAL."
    with database.connect_superuser() as superuser:
        superuser.execute("SELECT pg_create_physical_replication_slot('standby1', true)")
        try:
            finding = doctor.finding(SLOTS)
            assert (finding["severity"], finding["subject"]) == ("info", "max_slot_wal_keep_size")
            doctor.apply(finding)
            assert doctor.answer(SLOTS)["text"].startswith("1 replication slot keeps up to ")

            _write_wal(database, 3)
            doctor.limits(checkpoints={"warning_unused_retained_bytes": 2_000_000})
            finding = doctor.finding(SLOTS)
            assert finding["fact"].startswith("Replication slot standby1 (not in use) keeps ")
            assert finding["evidence"]["retained_bytes"] >= 3 << 20
            doctor.apply(finding)
            assert doctor.is_well(SLOTS)

            # Near its bound, past it, lost.
            doctor.limits()
            # A slot begins at the last checkpoint, and whole segments are kept: it counts where in one that is.
            superuser.execute("SELECT pg_switch_wal()")
            superuser.execute("CHECKPOINT")
            superuser.execute("SELECT pg_create_physical_replication_slot('standby1', true)")
            system(max_slot_wal_keep_size="16MB", checkpoint_timeout="1h", max_wal_size="1GB")
            _write_wal(database, 14)
            assert doctor.finding(SLOTS)["severity"] == "warning"
            _write_wal(database, 40)
            finding = doctor.finding(SLOTS)
            assert (finding["severity"], finding["evidence"]["wal_status"]) == ("critical", "unreserved")
            doctor.apply(finding)
            assert doctor.is_well(SLOTS)
            system(max_slot_wal_keep_size="16MB")
            until = time.monotonic() + 30
            while "is lost" not in (finding := doctor.finding(SLOTS))["fact"]:
                # The checkpointer hears of the setting when it hears of it.
                assert time.monotonic() < until, finding
                superuser.execute("CHECKPOINT")
            doctor.apply(finding)
            assert doctor.is_well(SLOTS)

            # One in use cannot be dropped: its consumer is slow.
            superuser.execute("SELECT pg_create_physical_replication_slot('standby2', true)")
            consumer = database.connect_superuser(replication="database", application_name="slow")
            row = superuser.execute("SELECT restart_lsn FROM pg_replication_slots").fetchone()
            assert row is not None
            consumer.pgconn.send_query(f"START_REPLICATION SLOT standby2 {row[0]}".encode())
            doctor.limits(checkpoints={"warning_retained_bytes": 1})
            _write_wal(database, 1)
            in_use = _until(doctor, SLOTS, lambda a: "(in use)" in str(a))["findings"][0]
            assert in_use["evidence"]["consumer"] == "slow"
            assert "At the consumer (slow)" in in_use["remedies"][0]["why"]
            doctor.apply(in_use)
        finally:
            superuser.execute("SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE active")
            superuser.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
