"""Killed at any point: `resume` finishes, `abort` restores, nothing lost, nothing twice."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time

import psycopg
import pytest

from support.clients import pg_dump_schema
from support.crash import DDL, TwinWriters, differences, kill_after, pgscale, relkind, traces

RUN = ("run", "t", "--by", "hash:id", "--partitions", "3", "--pace", "fast", "--workers", "2")

# Every step's boundaries, in the order of a run. `settle:0` proves a leaf's foreign key, `settle:3` the parent's.
BEFORE_CUTOVER = (
    "before:ledger",
    "after:ledger",
    *(f"{when}:{step}" for step in ("prepare", "capture", "copy", "scrub") for when in ("before", "after")),
    "before:index:t_p0",
    "after:index:t_p2",
    "before:attach",
    "after:attach",
    "before:apply",
    "before:verify",
    "after:verify",
    "before:cutover",
)
AFTER_CUTOVER = ("after:cutover", "before:settle:0", "before:settle:3")


def _make(dsn: str, rows: int = 20_000) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(DDL.format(rows=rows))


def _dump(dsn: str) -> str:
    return pg_dump_schema(dsn)


def _finish_by_resume(dsn: str) -> None:
    done = pgscale(dsn, "resume", "t", "--json")
    if done.returncode == 4 and "has no run" in done.stderr:
        done = pgscale(dsn, *RUN, "--json")
    assert done.returncode == 0, done.stderr
    assert relkind(dsn) == "p"
    # Whoever was killed before its comparison ended has it done by whoever goes on.
    assert json.loads(done.stdout)["parity"]["rows_checked"] > 10_000


@pytest.mark.sampled(11)
@pytest.mark.parametrize("point", [*BEFORE_CUTOVER, *AFTER_CUTOVER])
def test_resume_finishes_a_run_killed_at(database, point: str) -> None:
    _make(database.dsn)
    with TwinWriters(dsn=database.dsn, seed=1) as writers:
        killed = pgscale(database.dsn, *RUN, kill_at=point)
        assert killed.returncode == -9, killed.stderr
        _finish_by_resume(database.dsn)
        time.sleep(0.2)
    assert not writers.failures
    assert writers.committed > 10
    assert differences(database.dsn) == 0
    assert pgscale(database.dsn, "finish", "t").returncode == 0
    assert differences(database.dsn) == 0
    assert not [t for t in traces(database.dsn) if not t.startswith("table t_p")]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("point", BEFORE_CUTOVER[1::2])
def test_abort_restores_a_run_killed_at(database, point: str) -> None:
    _make(database.dsn)
    before = _dump(database.dsn)
    with TwinWriters(dsn=database.dsn, seed=2) as writers:
        assert pgscale(database.dsn, *RUN, kill_at=point).returncode == -9
        aborted = pgscale(database.dsn, "abort", "t")
        assert aborted.returncode == 0, aborted.stderr
    assert not writers.failures
    assert differences(database.dsn) == 0
    assert traces(database.dsn) == []
    assert _dump(database.dsn) == before


@pytest.mark.sampled(2)
@pytest.mark.parametrize("point", AFTER_CUTOVER)
def test_undo_restores_a_run_killed_at(database, point: str) -> None:
    _make(database.dsn)
    before = _dump(database.dsn)
    with TwinWriters(dsn=database.dsn, seed=3) as writers:
        assert pgscale(database.dsn, *RUN, kill_at=point).returncode == -9
        undone = pgscale(database.dsn, "undo", "t")
        assert undone.returncode == 0, undone.stderr
    assert not writers.failures
    assert differences(database.dsn) == 0
    assert traces(database.dsn) == []
    assert _dump(database.dsn) == before


@pytest.mark.sampled(2)
@pytest.mark.parametrize("verb", ["undo", "finish", "abort"])
def test_taking_back_can_be_killed_and_goes_on(database, verb: str) -> None:
    _make(database.dsn)
    start = (*RUN, "--verify", "none")
    if verb == "abort":
        assert pgscale(database.dsn, *start, kill_at="before:cutover").returncode == -9
    else:
        assert pgscale(database.dsn, *start).returncode == 0
    with TwinWriters(dsn=database.dsn, seed=4) as writers:
        for wait_s in (0.35, 0.45, 0.55, 0.7):
            if kill_after(database.dsn, wait_s, verb, "t") != -9:
                break
        last = pgscale(database.dsn, verb, "t")
        assert last.returncode == 0 or "has no run" in last.stderr, last.stderr
    assert not writers.failures
    assert differences(database.dsn) == 0
    assert relkind(database.dsn) == ("p" if verb == "finish" else "r")


def _random_kills(dsn: str, seed: int) -> None:
    """Kill a run again and again at random moments, then let it end one of three ways."""
    rng = random.Random(seed)
    _make(dsn)
    before = _dump(dsn)
    with TwinWriters(dsn=dsn, seed=seed) as writers:
        for _ in range(rng.randrange(1, 4)):
            kill_after(dsn, rng.uniform(0.3, 1.6), *RUN)
        ending = rng.choice(("resume", "abort"))
        if relkind(dsn) == "p":
            ending = rng.choice(("resume", "undo"))
        if ending == "resume":
            done = pgscale(dsn, "resume", "t")
            if done.returncode == 4 and "has no run" in done.stderr:
                done = pgscale(dsn, *RUN)
        else:
            done = pgscale(dsn, ending, "t")
        assert done.returncode == 0 or "has no run" in done.stderr, done.stderr
    assert not writers.failures, (seed, writers.failures)
    assert differences(dsn) == 0, seed
    if relkind(dsn) == "r":
        assert traces(dsn) == [], seed
        assert _dump(dsn) == before, seed


@pytest.mark.sampled(2)
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments(database, seed: int) -> None:
    _random_kills(database.dsn, seed)


def _server_crash(private_server, database_factory, version: int, seed: int) -> None:
    rng = random.Random(seed)
    server = private_server({"fsync": "on", "synchronous_commit": "on"}, version=version)
    database = database_factory(server)
    _make(database.dsn)
    with TwinWriters(dsn=database.dsn, seed=seed) as writers:
        for _ in range(2):
            process = subprocess.Popen(
                [sys.executable, "-m", "pgscale", "partition", *RUN, "--dsn", database.dsn],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            time.sleep(rng.uniform(0.5, 1.6))
            server.restart("immediate")
            output, _ = process.communicate(timeout=60)
            assert process.returncode in (0, 3, 4, 5), (seed, output)
            assert "Traceback" not in output, (seed, output)
        if relkind(database.dsn) == "r":
            _finish_by_resume(database.dsn)
        time.sleep(0.3)
    assert not writers.failures, (seed, writers.failures)
    assert differences(database.dsn) == 0, seed
    server.restart("immediate")
    assert differences(database.dsn) == 0, seed


@pytest.mark.sampled(2)
@pytest.mark.parametrize("version", [16, 18])
def test_the_server_stops_at_once_and_starts_again(private_server, database_factory, version: int) -> None:
    _server_crash(private_server, database_factory, version, seed=version)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_many_crashes(private_server, database_factory) -> None:
    """`SOAK_ROUNDS` rounds of random kills, every fourth with a crashed server; seeds printed."""
    rounds = int(os.environ.get("SOAK_ROUNDS", "10"))
    first = int(os.environ.get("SOAK_SEED", str(random.randrange(10**9))))
    seeds = random.Random(first)
    for number in range(rounds):
        seed = seeds.randrange(10**9)
        print(f"crash round {number + 1}/{rounds}, SOAK_SEED={first}, seed={seed}")
        if number % 4 == 3:
            _server_crash(private_server, database_factory, seeds.choice((16, 18)), seed)
        else:
            _random_kills(database_factory().dsn, seed)
