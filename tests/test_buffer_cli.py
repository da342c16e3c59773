"""`pgscale buffer`: drain, status, replay."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from pgscale.commands import buffer as commands
from pgscale.errors import PermissionDeniedError, RefusedError
from pgscale.write.buffer import Buffer, SpoolLog, SpoolOptions
from pgscale.write.buffer.status import astatus, rewind, status

OPTIONS = SpoolOptions(segment_bytes=1 << 16, keep_s=3600)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def _cli(dsn: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pgscale", "buffer", *map(str, arguments), "--dsn", dsn],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def _count(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        return connection.execute("SELECT count(*) FROM event").fetchone()[0]


def test_drain_status_and_replay(database, spool) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE event (n smallint NOT NULL)")
    with Buffer("public.event", path=spool, lanes=2, options=OPTIONS) as buffer:
        buffer.put_many({"n": n} for n in range(1_000))
        time.sleep(0.05)
        between = time.time()
        buffer.put_many({"n": n} for n in range(500))
        buffer.put({"n": 1 << 20})
    before = json.loads(_cli(database.dsn, "status", spool, "--json").stdout)
    assert (before["depth"], before["landed"], before["level"], before["durability"]) == (1_501, 0, "spool", "power")
    assert before["is_known"] is False
    assert 0 < before["oldest_age_s"] < 60
    done = _cli(database.dsn, "drain", spool, "--until-empty", "--workers", 2, "--json")
    assert done.returncode == 1, "there is a dead letter"
    assert json.loads(done.stdout) == {"events": 1_500, "dead": 1, "retries": 0, "notes": []}
    assert "Landing events of" in done.stderr
    after = _cli(database.dsn, "status", spool)
    assert after.returncode == 0
    assert "depth      0 events" in after.stdout
    assert "landed     1,500 events" in after.stdout
    assert "dead       1 dead letter\n" in after.stdout
    # Kept events land again from a moment on, and only when somebody says so.
    assert _cli(database.dsn, "drain", spool, "--until-empty").returncode == 0
    assert _count(database.dsn) == 1_500
    with SpoolLog(spool) as log, psycopg.connect(database.dsn, autocommit=True) as connection:
        assert rewind(log, connection, between) == 501
        assert status(log, connection).depth == 501
    assert _cli(database.dsn, "drain", spool, "--until-empty").returncode == 1
    assert _count(database.dsn) == 2_000
    assert json.loads(_cli(database.dsn, "replay", spool, "--json").stdout) == {"events": 1_501}


def test_a_database_that_is_restored_gets_what_it_misses(database, spool) -> None:
    """Its positions are restored with it; what was kept lands from there on, once."""
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE event (n integer)")
        with Buffer("public.event", path=spool, lanes=2, options=OPTIONS) as buffer:
            buffer.put_many({"n": n} for n in range(3_000))
            assert _cli(database.dsn, "drain", spool, "--until-empty").returncode == 0
            connection.execute("CREATE TABLE backup AS TABLE event")
            connection.execute("CREATE TABLE backup_lane AS TABLE pgscale.buffer_lane")
            buffer.put_many({"n": n} for n in range(3_000, 9_000))
            assert _cli(database.dsn, "drain", spool, "--until-empty").returncode == 0
        connection.execute("TRUNCATE event, pgscale.buffer_lane")
        connection.execute("INSERT INTO event TABLE backup")
        connection.execute("INSERT INTO pgscale.buffer_lane TABLE backup_lane")
        assert json.loads(_cli(database.dsn, "status", spool, "--json").stdout)["depth"] == 6_000
        assert _cli(database.dsn, "drain", spool, "--until-empty").returncode == 0
        assert connection.execute("SELECT count(*), count(DISTINCT n) FROM event").fetchone() == (9_000, 9_000)


def test_drain_goes_on_until_it_is_told(database, spool) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE event (n integer)")
    process = None
    with Buffer("public.event", path=spool) as buffer:
        buffer.put({"n": 1})
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "pgscale", "buffer", "drain", str(spool), "--json", "--dsn", database.dsn],
                stdout=subprocess.PIPE,
                text=True,
                env=dict(os.environ),
            )
            for n in range(2, 5):
                until = time.monotonic() + 60
                while _count(database.dsn) < n - 1:
                    assert time.monotonic() < until
                    time.sleep(0.02)
                buffer.put({"n": n})
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=60)
        finally:
            if process is not None:
                process.kill()
                process.wait()
    assert process.returncode == 0
    assert json.loads(out)["events"] in (3, 4)


def test_trouble_is_told_while_it_lasts(database, spool) -> None:
    with Buffer("public.event", path=spool) as buffer:
        buffer.put({"n": 1})
    away = _cli("host=127.0.0.1 port=1 dbname=x", "drain", spool)
    assert away.returncode == 3
    assert "Cannot connect" in away.stderr
    command = [sys.executable, "-m", "pgscale", "buffer", "drain", str(spool), "--until-empty", "--dsn", database.dsn]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert process.stderr is not None
        assert "Landing events of" in process.stderr.readline()
        assert "Trying again: There is no table public.event" in process.stderr.readline()
        with psycopg.connect(database.dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE event (n integer)")
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
    assert _count(database.dsn) == 1


def test_what_is_wrong_is_said(database, spool, tmp_path) -> None:
    none = _cli(database.dsn, "status", tmp_path / "none")
    assert none.returncode == 4
    assert "There is no buffer in" in none.stderr
    with Buffer("public.event", path=spool) as buffer:
        buffer.put({"n": 1})
    segment = spool / "0000000001.seg"
    data = bytearray(segment.read_bytes())
    data[140] ^= 1
    segment.write_bytes(data)
    damaged = _cli(database.dsn, "status", spool)
    assert damaged.returncode == 1
    assert "damaged: segment 1, bytes 64 to" in damaged.stdout
    drained = _cli(database.dsn, "drain", spool)
    assert drained.returncode == 1
    assert "--skip-damaged" in drained.stderr
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE event (n integer)")
    given_up = _cli(database.dsn, "drain", spool, "--skip-damaged", "--until-empty", "--json")
    assert given_up.returncode == 1
    assert "skipped: segment 1" in json.loads(given_up.stdout)["notes"][0]


def test_status_is_async_too(database, spool) -> None:

    with Buffer("public.event", path=spool) as buffer:
        buffer.put({"n": 1})

    async def work() -> int:
        connection = await psycopg.AsyncConnection.connect(database.dsn, autocommit=True)
        async with connection:
            with SpoolLog(spool) as log:
                return (await astatus(log, connection)).depth

    assert asyncio.run(work()) == 1


def test_what_the_server_declines_is_said_in_words(database, spool, monkeypatch) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE event (n integer)")
    with Buffer("public.event", path=spool, options=OPTIONS) as buffer:
        buffer.put({"n": 1})
    commands.drain(
        database.dsn, str(spool), print, workers=1, until_empty=True, deliveries=1, skip_damaged=False, begin_here=False
    )
    monkeypatch.setattr(commands, "CONTROL", dataclasses.replace(commands.CONTROL, lock_timeout_ms=50))
    with psycopg.connect(database.dsn) as drainer:
        drainer.execute("SELECT FROM pgscale.buffer_lane FOR UPDATE")
        with pytest.raises(RefusedError, match="Drainers are at work"):
            commands.replay(database.dsn, str(spool), None)
    poor = database.dsn_as(database.create_role())
    with pytest.raises(PermissionDeniedError, match="GRANT USAGE ON SCHEMA pgscale"):
        commands.status(poor, str(spool))
