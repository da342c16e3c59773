"""A split killed at any point: `resume` finishes, `abort` and `undo` restore, nothing lost, nothing twice."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time

import psycopg
import pytest

from support import parity
from support.clients import pg_dump_schema
from support.crash import TwinWriters, differences, kill_after, pgscale
from test_crash_inside import kill_inside

# A foreign key out and one in, so that the cut-over must settle; a DEFAULT partition beside it, so that it must be held
# apart; a statistics object and an index of the partition's own. Identifiers go up to 2,018,000; those that `kept`
# refers to are not changed by any writer.
DDL = """
CREATE TABLE owner_of (id int PRIMARY KEY);
INSERT INTO owner_of SELECT g FROM generate_series(0, 9) g;
CREATE TABLE t (id bigint PRIMARY KEY, owner int NOT NULL REFERENCES owner_of, v bigint NOT NULL, note text,
                UNIQUE (id, v)) PARTITION BY RANGE (id);
CREATE TABLE t_first PARTITION OF t FOR VALUES FROM (MINVALUE) TO (16000);
CREATE TABLE t_default PARTITION OF t DEFAULT;
CREATE INDEX ON t (owner);
CREATE INDEX own ON t_first (note);
CREATE STATISTICS seen ON owner, v FROM t_first;
CREATE TABLE t_twin (LIKE t INCLUDING ALL);
INSERT INTO t SELECT g, g % 10, g, repeat('x', 40) FROM generate_series(1, 18000) g;
INSERT INTO t_twin SELECT * FROM t;
CREATE TABLE kept (t bigint REFERENCES t);
INSERT INTO kept VALUES (7), (5999);
"""
SPLIT = ("split", "t", "--partition", "t_first", "--every", "4000", "--pace", "fast", "--workers", "2")
DIVIDED = ["t_before_0", "t_default", "t_p0", "t_p12000", "t_p4000", "t_p8000"]
WHOLE = ["t_default", "t_first"]

# Every step's boundaries, in the order of a run.
STEPS = (
    "prepare", "capture", "copy", "scrub", "index:t_before_0", "index:t_p12000", "statistics", "analyze", "apart",
    "apart-proof",
)  # fmt: skip
BEFORE_CUTOVER = (
    "after:ledger",
    *(f"{when}:{step}" for step in STEPS for when in ("before", "after")),
    "before:apply",
    "before:verify",
    "after:verify",
    "before:cutover",
)
AFTER_CUTOVER = ("after:cutover", "before:settle:0", "before:settle:1")


def _make(dsn: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(DDL)
    return pg_dump_schema(dsn)


def _writers(dsn: str, seed: int) -> TwinWriters:
    return TwinWriters(dsn=dsn, seed=seed)


def _kill(dsn: str, *command: str, at: str) -> None:
    killed = pgscale(dsn, *command, kill_at=at)
    assert killed.returncode == -9, killed.stderr


def _do(dsn: str, *command: str) -> None:
    done = pgscale(dsn, *command)
    assert done.returncode == 0, done.stderr


def _leaves(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as conn:
        return [leaf.name for leaf in parity.leaves_of(conn, parity.TableName("public", "t"))]


def _traces(database) -> list[str]:
    with psycopg.connect(database.superuser_dsn) as root:
        return parity.traces(root)


def _finish_by_resume(dsn: str) -> None:
    done = pgscale(dsn, "resume", "t", "--json")
    if done.returncode == 4 and "has no run" in done.stderr:
        done = pgscale(dsn, *SPLIT, "--json")
    assert done.returncode == 0, done.stderr
    # Whoever was killed before its comparison ended has it done by whoever goes on.
    parity_found = json.loads(done.stdout)["parity"]
    assert parity_found["rows_checked"] > 8_000
    assert parity_found["mismatches"] == 0


def _assert_finished(database) -> None:
    dsn = database.dsn
    assert (_leaves(dsn), differences(dsn)) == (DIVIDED, 0)
    with psycopg.connect(dsn) as conn:
        lax = conn.execute("SELECT conname FROM pg_constraint WHERE NOT convalidated AND conparentid = 0").fetchall()
        assert lax == []
    _do(dsn, "finish", "t")
    assert differences(dsn) == 0
    assert _traces(database) == []


def _assert_restored(database, before: str) -> None:
    assert (_leaves(database.dsn), differences(database.dsn), _traces(database)) == (WHOLE, 0, [])
    parity.assert_identical(before, pg_dump_schema(database.dsn))


@pytest.mark.sampled(15)
@pytest.mark.parametrize("point", [*BEFORE_CUTOVER, *AFTER_CUTOVER])
def test_resume_finishes_a_split_killed_at(database, point: str) -> None:
    dsn = database.dsn
    _make(dsn)
    with _writers(dsn, 1) as writers:
        _kill(dsn, *SPLIT, at=point)
        _finish_by_resume(dsn)
        time.sleep(0.1)
    assert not writers.failures
    assert writers.committed > 10
    _assert_finished(database)


@pytest.mark.sampled(12)
@pytest.mark.parametrize("point", BEFORE_CUTOVER[::2])
def test_abort_restores_a_table_whose_split_was_killed_at(database, point: str) -> None:
    before = _make(database.dsn)
    with _writers(database.dsn, 2) as writers:
        _kill(database.dsn, *SPLIT, at=point)
        _do(database.dsn, "abort", "t_first")
    assert not writers.failures
    _assert_restored(database, before)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("point", AFTER_CUTOVER)
def test_undo_restores_a_table_whose_split_was_killed_at(database, point: str) -> None:
    before = _make(database.dsn)
    with _writers(database.dsn, 3) as writers:
        _kill(database.dsn, *SPLIT, at=point)
        for number in range(3):
            _kill(database.dsn, "undo", "t", at=f"after:undo_before:{number}")
        _do(database.dsn, "undo", "t")
    assert not writers.failures
    _assert_restored(database, before)


# --- inside transactions ------------------------------------------------------------------------------------

LEDGER_ROWS = (
    *(
        (step, "pgscale.step", "INSERT", f"NEW.step_id = '{step}'")
        for step in (*STEPS, "verify", "reverse", "cutover", "settle:0", "settle:1")
    ),
    ("a chunk", "pgscale.chunk", "UPDATE", "OLD.last_page > OLD.first_page"),
    ("the pages", "pgscale.chunk", "INSERT", "NEW.phase = 'pages'"),
    ("a batch", "pgscale.applied", "INSERT OR UPDATE", "true"),
    ("the order of the swap", "pgscale.run", "UPDATE", "NEW.state = 'cut-over'"),
)


@pytest.mark.sampled(15)
@pytest.mark.parametrize(("table", "event", "when"), [r[1:] for r in LEDGER_ROWS], ids=[r[0] for r in LEDGER_ROWS])
def test_killed_before_its_ledger_row_is_committed(database, table: str, event: str, when: str) -> None:
    dsn = database.dsn
    _make(dsn)
    with _writers(dsn, 4) as writers:
        _kill(dsn, *SPLIT, at="after:ledger")
        kill_inside(dsn, table, event, when)
        _finish_by_resume(dsn)
        time.sleep(0.1)
    assert not writers.failures
    assert writers.committed > 10
    _assert_finished(database)


@pytest.mark.sampled(7)
@pytest.mark.parametrize(
    ("point", "event"), [("before:copy", "INSERT"), ("before:apply", "INSERT"), ("before:apply", "DELETE")]
)
def test_killed_while_rows_are_copied_or_applied(database, point: str, event: str) -> None:
    dsn = database.dsn
    _make(dsn)
    with _writers(dsn, 5) as writers:
        _kill(dsn, *SPLIT, at=point)
        kill_inside(dsn, "t_p0", event)
        _finish_by_resume(dsn)
    assert not writers.failures
    _assert_finished(database)


def test_nothing_is_counted_twice(database) -> None:
    """Nobody else writes: what is copied, applied and compared is known to the row."""
    dsn = database.dsn
    _make(dsn)
    _kill(dsn, *SPLIT, at="before:copy")
    with psycopg.connect(dsn, autocommit=True) as conn:
        for table in ("t", "t_twin"):
            conn.execute(f"UPDATE {table} SET v = v + 1 WHERE id <= 50")
    kill_inside(dsn, "pgscale.chunk", "UPDATE", "OLD.last_page > OLD.first_page")
    kill_inside(dsn, "pgscale.applied", "INSERT OR UPDATE")
    done = pgscale(dsn, "resume", "t", "--json")
    result = json.loads(done.stdout)
    assert (result["rows_copied"], result["rows_applied"]) == (15_999, 50)
    assert (result["parity"]["rows_checked"], result["parity"]["mismatches"]) == (15_999, 0)
    _assert_finished(database)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("step", ["undo_before:0", "undo_before:2", "undo", "undo_settle:0", "undo_settle:1"])
def test_an_undo_killed_inside(database, step: str) -> None:
    dsn = database.dsn
    before = _make(dsn)
    _do(dsn, *SPLIT)
    with _writers(dsn, 6) as writers:
        kill_inside(dsn, "pgscale.step", "INSERT", f"NEW.step_id = '{step}'", ("undo", "t"))
        time.sleep(0.1)
        if not step.startswith("undo_before") and step != "undo":
            for other in ("abort", "finish", "cutover"):
                assert pgscale(dsn, other, "t").returncode == 4, other
            _do(dsn, "resume", "t")
        else:
            _do(dsn, "undo", "t")
    assert not writers.failures
    _assert_restored(database, before)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("verb", ["undo", "finish", "abort"])
def test_taking_back_can_be_killed_and_goes_on(database, verb: str) -> None:
    dsn = database.dsn
    before = _make(dsn)
    if verb == "abort":
        _kill(dsn, *SPLIT, "--verify", "none", at="before:cutover")
    else:
        _do(dsn, *SPLIT, "--verify", "none")
    with _writers(dsn, 7) as writers:
        for wait_s in (0.35, 0.45, 0.55, 0.7):
            if kill_after(dsn, wait_s, verb, "t") != -9:
                break
        last = pgscale(dsn, verb, "t")
        assert last.returncode == 0 or "has no run" in last.stderr, last.stderr
    assert not writers.failures
    if verb == "finish":
        assert (_leaves(dsn), differences(dsn), _traces(database)) == (DIVIDED, 0, [])
    else:
        _assert_restored(database, before)


# --- at random moments, and the server ----------------------------------------------------------------------


def _random_kills(database, seed: int) -> None:
    """Kill a split again and again at random moments, then let it end one of three ways."""
    dsn, rng = database.dsn, random.Random(seed)
    before = _make(dsn)
    with _writers(dsn, seed) as writers:
        for _ in range(rng.randrange(1, 4)):
            kill_after(dsn, rng.uniform(0.3, 1.6), *SPLIT)
        ending = rng.choice(("resume", "abort") if _leaves(dsn) == WHOLE else ("resume", "undo"))
        if ending == "resume":
            _finish_by_resume(dsn)
        else:
            done = pgscale(dsn, ending, "t")
            assert done.returncode == 0 or "has no run" in done.stderr, (seed, done.stderr)
    assert not writers.failures, (seed, writers.failures)
    assert differences(dsn) == 0, seed
    if _leaves(dsn) == WHOLE:
        _assert_restored(database, before)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments(database, seed: int) -> None:
    _random_kills(database, seed)


def _server_crash(private_server, database_factory, version: int, seed: int) -> None:
    rng = random.Random(seed)
    server = private_server({"fsync": "on", "synchronous_commit": "on"}, version=version)
    database = database_factory(server)
    dsn = database.dsn
    _make(dsn)
    with _writers(dsn, seed) as writers:
        for _ in range(2):
            process = subprocess.Popen(
                [sys.executable, "-m", "pgscale", "partition", *SPLIT, "--dsn", dsn],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            time.sleep(rng.uniform(0.5, 1.6))
            server.restart("immediate")
            output, _ = process.communicate(timeout=60)
            assert process.returncode in (0, 3, 4, 5), (seed, output)
            assert "Traceback" not in output, (seed, output)
        if _leaves(dsn) == WHOLE:
            _finish_by_resume(dsn)
        time.sleep(0.3)
    assert not writers.failures, (seed, writers.failures)
    assert differences(dsn) == 0, seed
    server.restart("immediate")
    assert differences(dsn) == 0, seed


def test_the_server_stops_at_once_and_starts_again(private_server, database_factory) -> None:
    _server_crash(private_server, database_factory, 18, seed=18)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_many_crashes(private_server, database_factory) -> None:
    """`SOAK_ROUNDS` rounds of random kills, every fourth with a crashed server; seeds printed."""
    rounds = int(os.environ.get("SOAK_ROUNDS", "10"))
    first = int(os.environ.get("SOAK_SEED", str(random.randrange(10**9))))
    seeds = random.Random(first)
    for number in range(rounds):
        seed = seeds.randrange(10**9)
        print(f"split crash round {number + 1}/{rounds}, SOAK_SEED={first}, seed={seed}")
        if number % 4 == 3:
            _server_crash(private_server, database_factory, seeds.choice((16, 18)), seed)
        else:
            _random_kills(database_factory(), seed)
