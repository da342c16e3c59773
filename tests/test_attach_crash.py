"""An attach killed at any point: `resume` finishes, `abort` and `undo` restore, nothing lost, nothing twice."""

from __future__ import annotations

import random
import time

import psycopg
import pytest

from support.clients import pg_dump_schema
from support.crash import TwinWriters, differences, kill_after, pgscale, relkind, traces
from test_crash_inside import kill_inside

# The arbiter of the upserts holds both partition keys; the index that lacks them grows.
DDL = """
CREATE TABLE owner_of (id int PRIMARY KEY);
INSERT INTO owner_of SELECT g FROM generate_series(0, 9) g;
CREATE TABLE t (id bigint, owner int NOT NULL REFERENCES owner_of, v bigint NOT NULL, note text,
                PRIMARY KEY (id, owner));
CREATE UNIQUE INDEX once ON t (v, id);
CREATE INDEX ON t (owner);
CREATE TABLE t_twin (LIKE t INCLUDING ALL);
INSERT INTO t SELECT g, g % 10, g, repeat('x', 40) FROM generate_series(1, 5000) g;
INSERT INTO t_twin SELECT * FROM t;
"""
# Identifiers go up to 2,018,000; the first partition up to 10,000,000. Only the list makes a key grow.
GOALS = {"range": "range:id:5000000", "list": "list:owner"}
POINTS = tuple(f"after:{step}" for step in ("ledger", "prepare", "references", "probe", "key:0", "check", "validate"))
AFTER_CUTOVER = ("after:cutover", "before:analyze")


def _run(method: str) -> tuple[str, ...]:
    return ("run", "t", "--by", GOALS[method], "--strategy", "attach", "--pace", "fast", "--accept-key-change")


def _make(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(DDL)


def _writers(dsn: str, seed: int) -> TwinWriters:
    return TwinWriters(dsn=dsn, seed=seed, arbiter="id, owner")


def _later_rows(dsn: str) -> None:
    """Rows of later partitions, in both tables: `undo` must bring them back."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("INSERT INTO owner_of VALUES (77)")
        for table in ("t", "t_twin"):
            conn.execute(f"INSERT INTO {table} SELECT g, 77, g, 'later' FROM generate_series(11000001, 11000300) g")


def _finish(dsn: str) -> None:
    assert relkind(dsn) == "p"
    assert differences(dsn) == 0
    assert pgscale(dsn, "finish", "t").returncode == 0
    assert differences(dsn) == 0
    assert not [t for t in traces(dsn) if not t.startswith("table t_p")]


def _assert_as_before(dsn: str, before: str) -> None:
    assert (relkind(dsn), differences(dsn), traces(dsn)) == ("r", 0, [])
    assert pg_dump_schema(dsn) == before


def _cases(*points: str) -> list[tuple[str, str]]:
    """Every point of the list, and those of the range where it differs."""
    return [("list", p) for p in points] + [("range", p) for p in points if "check" in p or "cutover" in p]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("method", "point"), _cases(*POINTS, *AFTER_CUTOVER))
def test_resume_finishes_a_run_killed_at(database, method: str, point: str) -> None:
    dsn = database.dsn
    _make(dsn)
    with _writers(dsn, 1) as writers:
        killed = pgscale(dsn, *_run(method), kill_at=point)
        assert killed.returncode == -9, killed.stderr
        done = pgscale(dsn, "resume", "t")
        if done.returncode == 4 and "has no run" in done.stderr:
            done = pgscale(dsn, *_run(method))
        assert done.returncode == 0, done.stderr
        time.sleep(0.1)
    assert not writers.failures
    assert writers.committed > 10
    _finish(dsn)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("method", "point"), _cases("after:references", "after:key:0", "after:check"))
def test_abort_restores_a_run_killed_at(database, method: str, point: str) -> None:
    dsn = database.dsn
    _make(dsn)
    before = pg_dump_schema(dsn)
    with _writers(dsn, 2) as writers:
        assert pgscale(dsn, *_run(method), kill_at=point).returncode == -9
        aborted = pgscale(dsn, "abort", "t")
        assert aborted.returncode == 0, aborted.stderr
    assert not writers.failures
    _assert_as_before(dsn, before)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("point", ["before:undo", "after:undo"])
def test_an_undo_killed_at_goes_on(database, point: str) -> None:
    dsn = database.dsn
    _make(dsn)
    before = pg_dump_schema(dsn)
    assert pgscale(dsn, *_run("list"), kill_at="after:cutover").returncode == -9
    _later_rows(dsn)
    with _writers(dsn, 3) as writers:
        assert pgscale(dsn, "undo", "t", kill_at=point).returncode == -9
        undone = pgscale(dsn, "undo", "t")
        assert undone.returncode == 0, undone.stderr
    assert not writers.failures
    _assert_as_before(dsn, before)


STEPS = ("prepare", "key:0", "check", "validate", "cutover")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("step", STEPS)
def test_killed_before_its_ledger_row_is_committed(database, step: str) -> None:
    dsn = database.dsn
    _make(dsn)
    with _writers(dsn, 11) as writers:
        assert pgscale(dsn, *_run("list"), kill_at="after:ledger").returncode == -9
        kill_inside(dsn, "pgscale.step", "INSERT", f"NEW.step_id = '{step}'")
        done = pgscale(dsn, "resume", "t")
        assert done.returncode == 0, done.stderr
        time.sleep(0.1)
    assert not writers.failures
    assert writers.committed > 10
    _finish(dsn)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("step", ["back:0", "undo"])
def test_an_undo_killed_inside(database, step: str) -> None:
    dsn = database.dsn
    _make(dsn)
    before = pg_dump_schema(dsn)
    assert pgscale(dsn, *_run("list")).returncode == 0
    _later_rows(dsn)
    with _writers(dsn, 14) as writers:
        kill_inside(dsn, "pgscale.step", "INSERT", f"NEW.step_id = '{step}'", ("undo", "t"))
        time.sleep(0.1)
        undone = pgscale(dsn, "undo", "t")
        assert undone.returncode == 0, undone.stderr
    assert not writers.failures
    _assert_as_before(dsn, before)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments(database, seed: int) -> None:
    dsn, rng = database.dsn, random.Random(seed)
    method = ("list", "range")[seed]
    _make(dsn)
    before = pg_dump_schema(dsn)
    with _writers(dsn, seed) as writers:
        for _ in range(rng.randrange(1, 4)):
            kill_after(dsn, rng.uniform(0.25, 0.7), *_run(method))
        ending = rng.choice(("resume", "undo") if relkind(dsn) == "p" else ("resume", "abort"))
        done = pgscale(dsn, ending, "t")
        if done.returncode == 4 and "has no run" in done.stderr:
            done = pgscale(dsn, *_run(method))
        assert done.returncode == 0, done.stderr
    assert not writers.failures, (seed, writers.failures)
    assert differences(dsn) == 0, seed
    if relkind(dsn) == "r":
        _assert_as_before(dsn, before)
