"""Buffers under kill -9 of everybody: what was acknowledged lands exactly once, in order."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pgscale.embedded import Server
from support.buffer_load import TABLE, Acknowledged, check, drain_rest, open_buffer, start
from support.power import lose_power
from support.redis_server import RedisServer

PRODUCER = ("spool:before-begin#2", "spool:begun#2", "spool:sealed#2", "spool:unmoved#40", "spool:written#40")
PRODUCER_SYNCED = ("spool:synced#40",)
DRAINER = ("drain:read", "drain:before-commit", "drain:committed", "drain:forgotten")


@pytest.fixture
def where(tmp_path: Path) -> str:
    return str(tmp_path / "spool")


def _make(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(TABLE)


def _finish(process: subprocess.Popen[str], acknowledged: Acknowledged | None = None, code: int = -9) -> None:
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    if acknowledged is not None:
        acknowledged.hear(out)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("point", [*PRODUCER, *PRODUCER_SYNCED])
def test_a_producer_killed_at(database, where: str, point: str) -> None:
    _kill_a_producer(database.dsn, where, point)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("point", ["redis:before-add#20", "redis:added#20"])
def test_a_producer_for_redis_killed_at(database, redis_server, point: str) -> None:
    _kill_a_producer(database.dsn, redis_server().url("events"), point)


def _kill_a_producer(dsn: str, where: str, point: str) -> None:
    _make(dsn)
    acknowledged = Acknowledged()
    bystander = start("put", where, 1, 2, 800)
    _finish(start("put", where, 0, 4, 100_000, kill_at=point), acknowledged)
    _finish(bystander, acknowledged, 0)
    _finish(start("put", where, 2, 1, 100), acknowledged, 0)
    drain_rest(where, dsn)
    assert check(dsn, acknowledged) >= 1_700


@pytest.mark.sampled(4)
@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize("point", DRAINER)
@pytest.mark.parametrize("level", ["spool", "redis"])
def test_a_drainer_killed_at(database, where: str, redis_server, level: str, point: str, nth: int) -> None:
    _make(database.dsn)
    if level == "redis":
        where = redis_server().url("events")
    acknowledged = Acknowledged()
    _finish(start("put", where, 0, 4, 800), acknowledged, 0)
    _finish(start("drain", where, database.dsn, kill_at=f"{point}#{nth}"))
    drain_rest(where, database.dsn)
    assert check(database.dsn, acknowledged) == 3_200


class _Killed:
    """A process that somebody kills now and then, and starts again."""

    def __init__(self, verb: str, *arguments: object) -> None:
        self._what = (verb, *arguments)
        self.process = start(*self._what)

    def kill(self, acknowledged: Acknowledged | None = None) -> None:
        self.process.kill()
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode in (-9, 0), err
        if acknowledged is not None:
            acknowledged.hear(out)


def _wait_for_events(dsn: str) -> None:
    until = time.monotonic() + 60
    with psycopg.connect(dsn, autocommit=True) as connection:
        while connection.execute("SELECT EXISTS (SELECT FROM event)").fetchone() == (False,):
            assert time.monotonic() < until, "nothing landed"
            time.sleep(0.02)


def _round(dsn: str, where: str, rng: random.Random, servers: list[Callable[[], None]]) -> int:
    """Producers and drainers that are killed at random, and servers; then everything must be there once."""
    _make(dsn)
    acknowledged = Acknowledged()
    open_buffer(where).close()
    producers = [_Killed("put", where, 0, 3, 10**6), _Killed("put", where, 1, 1, 10**6)]
    drainers = [_Killed("drain", where, dsn) for _ in range(2)]
    try:
        _wait_for_events(dsn)
        for run in range(2, 2 + rng.randrange(2, 5)):
            time.sleep(rng.uniform(0.05, 1.5))
            match rng.choice(("producer", "drainer", "server" if servers else "producer")):
                case "producer":
                    producers.pop(rng.randrange(len(producers))).kill(acknowledged)
                    producers.append(_Killed("put", where, run, rng.randrange(1, 4), 10**6))
                case "drainer":
                    drainers.pop(rng.randrange(2)).kill()
                    drainers.append(_Killed("drain", where, dsn))
                case _:
                    rng.choice(servers)()
        time.sleep(rng.uniform(0.4, 0.9))
    finally:
        for one in producers:
            one.kill(acknowledged)
        for one in drainers:
            one.kill()
    drain_rest(where, dsn)
    return check(dsn, acknowledged)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments(database, where: str, seed: int) -> None:
    _round(database.dsn, where, random.Random(seed), [])


def test_servers_that_die(private_server, database_factory, redis_server, tmp_path) -> None:
    server = private_server({"fsync": "on", "synchronous_commit": "on"}, version=18)
    _with_dying_servers(server, database_factory(server).dsn, redis_server(), random.Random(5))
    _round(
        database_factory(server).dsn, str(tmp_path / "spool"), random.Random(6), [lambda: server.restart("immediate")]
    )


def _with_dying_servers(server: Server, dsn: str, redis: RedisServer, rng: random.Random) -> int:
    def kill_redis() -> None:
        redis.kill()
        redis.start()

    return _round(dsn, redis.url("events"), rng, [kill_redis, lambda: server.restart("immediate")])


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_many_crashes(private_server, database_factory, redis_server, tmp_path, monkeypatch) -> None:
    """Ten times `SOAK_ROUNDS` rounds: kills at random, of servers too, and losses of power; seeds printed."""
    rounds = 10 * int(os.environ.get("SOAK_ROUNDS", "2"))
    first = int(os.environ.get("SOAK_SEED", str(random.randrange(10**9))))
    seeds = random.Random(first)
    server = private_server({"fsync": "on", "synchronous_commit": "on"}, version=seeds.choice((16, 18)))
    for number in range(rounds):
        seed = seeds.randrange(10**9)
        rng = random.Random(seed)
        kind = ("spool", "spool", "redis", "power")[number % 4]
        print(f"buffer crash round {number + 1}/{rounds}, {kind}, SOAK_SEED={first}, seed={seed}", flush=True)
        database = database_factory(server)
        if kind == "redis":
            redis = redis_server()
            _with_dying_servers(server, database.dsn, redis, rng)
            redis.kill()
        elif kind == "spool":
            _round(database.dsn, str(tmp_path / f"spool{number}"), rng, [lambda: server.restart("immediate")])
        else:
            with monkeypatch.context() as patch:
                (tmp_path / f"power{number}").mkdir()
                lose_power(tmp_path / f"power{number}", patch, seed)
        database.drop()
        shutil.rmtree(tmp_path / f"spool{number}", ignore_errors=True)
        shutil.rmtree(tmp_path / f"power{number}", ignore_errors=True)
