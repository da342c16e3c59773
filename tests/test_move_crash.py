"""The strategy `move`, killed at any point: `resume` finishes, `abort` restores, nothing lost, nothing twice."""

from __future__ import annotations

import random
import time

import psycopg
import pytest

from support.clients import pg_dump_schema
from support.crash import DDL, TwinWriters, differences, kill_after, pgscale, relkind, traces
from test_crash_inside import kill_inside

ROWS = 20_000
RUN = (
    *("run", "t", "--strategy", "move", "--by", "hash:id", "--partitions", "3"),
    *("--pace", "fast", "--workers", "2"),
)
BEFORE_VIEW = ("after:ledger", "after:prepare", "before:view")
BEHIND_VIEW = ("after:view", "inside:move", "before:cutover")


def _make(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(DDL.format(rows=ROWS))


def _writers(dsn: str, seed: int) -> TwinWriters:
    return TwinWriters(dsn=dsn, seed=seed, upserts=False)


def _resume(dsn: str) -> None:
    done = pgscale(dsn, "resume", "t")
    assert done.returncode == 0, done.stderr


def _restored(dsn: str, before: str) -> None:
    assert (relkind(dsn), differences(dsn), traces(dsn)) == ("r", 0, [])
    assert pg_dump_schema(dsn) == before


def _finished(dsn: str) -> None:
    assert (relkind(dsn), differences(dsn)) == ("p", 0)
    assert pgscale(dsn, "finish", "t").returncode == 0
    assert differences(dsn) == 0
    assert not [t for t in traces(dsn) if not t.startswith("table t_p")]


@pytest.mark.sampled(11)
@pytest.mark.parametrize("point", [*BEFORE_VIEW[1:], *BEHIND_VIEW, "after:cutover"])
def test_resume_finishes_a_run_killed_at(database, point: str) -> None:
    dsn = database.dsn
    _make(dsn)
    with _writers(dsn, 1) as writers:
        assert pgscale(dsn, *RUN, kill_at=point).returncode == -9
        _resume(dsn)
        time.sleep(0.1)
    assert not writers.failures
    assert writers.committed > 10
    _finished(dsn)


@pytest.mark.sampled(11)
@pytest.mark.parametrize("point", [*BEFORE_VIEW, *BEHIND_VIEW])
def test_abort_restores_a_run_killed_at(database, point: str) -> None:
    dsn = database.dsn
    _make(dsn)
    before = pg_dump_schema(dsn)
    with _writers(dsn, 2) as writers:
        assert pgscale(dsn, *RUN, kill_at=point).returncode == -9
        aborted = pgscale(dsn, "abort", "t")
        assert aborted.returncode == 0, aborted.stderr
    assert not writers.failures
    _restored(dsn, before)


@pytest.mark.sampled(11)
@pytest.mark.parametrize(
    ("verb", "point"),
    [
        *(("abort", p) for p in ("after:turn", "inside:back", "after:restore")),
        *(("undo", p) for p in ("after:undo", "inside:back")),
    ],
)
def test_taking_back_can_be_killed_and_goes_on(database, verb: str, point: str) -> None:
    dsn = database.dsn
    _make(dsn)
    before = pg_dump_schema(dsn)
    with _writers(dsn, 3) as writers:
        first = pgscale(dsn, *RUN, kill_at="inside:move" if verb == "abort" else "")
        assert first.returncode == (-9 if verb == "abort" else 0), first.stderr
        assert pgscale(dsn, verb, "t", kill_at=point).returncode == -9
        other = "finish" if point == "inside:back" else "cutover"
        assert pgscale(dsn, other, "t").returncode == 4, other
        _resume(dsn)
    assert not writers.failures
    _restored(dsn, before)


INSIDE = (
    *((step, "pgscale.step", "INSERT", f"NEW.step_id = '{step}'") for step in ("prepare", "view", "move", "cutover")),
    ("a chunk", "pgscale.chunk", "UPDATE", "OLD.phase = 'moved'"),
)


@pytest.mark.sampled(11)
@pytest.mark.parametrize(("table", "event", "when"), [i[1:] for i in INSIDE], ids=[i[0] for i in INSIDE])
def test_killed_before_its_ledger_row_is_committed(database, table: str, event: str, when: str) -> None:
    dsn = database.dsn
    _make(dsn)
    with _writers(dsn, 4) as writers:
        assert pgscale(dsn, *RUN, kill_at="after:ledger").returncode == -9
        kill_inside(dsn, table, event, when)
        _resume(dsn)
    assert not writers.failures
    _finished(dsn)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("step", ["turn", "restore", "undo"])
def test_taking_back_killed_inside_a_swap(database, step: str) -> None:
    dsn = database.dsn
    _make(dsn)
    before = pg_dump_schema(dsn)
    with _writers(dsn, 5) as writers:
        pgscale(dsn, *RUN, kill_at="" if step == "undo" else "inside:move")
        verb = "undo" if step == "undo" else "abort"
        kill_inside(dsn, "pgscale.step", "INSERT", f"NEW.step_id = '{step}'", (verb, "t"))
        time.sleep(0.3)
        done = pgscale(dsn, verb, "t")
        assert done.returncode == 0, done.stderr
    assert not writers.failures
    _restored(dsn, before)


def test_nothing_is_counted_twice(database) -> None:
    dsn = database.dsn
    _make(dsn)
    assert pgscale(dsn, *RUN, kill_at="inside:move").returncode == -9
    kill_inside(dsn, "pgscale.chunk", "UPDATE", "OLD.phase = 'moved'")
    done = pgscale(dsn, "resume", "t", "--json")
    assert f'"rows_copied": {ROWS}' in done.stdout
    _finished(dsn)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments(database, seed: int) -> None:
    dsn, rng = database.dsn, random.Random(seed)
    _make(dsn)
    before = pg_dump_schema(dsn)
    with _writers(dsn, seed) as writers:
        for _ in range(3):
            kill_after(dsn, rng.uniform(0.4, 1.5), *RUN)
        ending = rng.choice(("resume", "abort")) if relkind(dsn) != "p" else rng.choice(("resume", "undo"))
        done = pgscale(dsn, ending, "t")
        if done.returncode == 4 and "has no run" in done.stderr:
            done = pgscale(dsn, *RUN) if ending == "resume" else done
        assert done.returncode == 0 or "has no run" in done.stderr or "partitioned" in done.stderr, done.stderr
    assert not writers.failures, writers.failures
    assert differences(dsn) == 0
    if relkind(dsn) == "r":
        _restored(dsn, before)


def test_the_server_stops_at_once_and_starts_again(private_server, database_factory) -> None:
    server = private_server({"fsync": "on", "synchronous_commit": "on"}, version=18)
    database = database_factory(server)
    dsn = database.dsn
    _make(dsn)
    with _writers(dsn, 9) as writers:
        assert pgscale(dsn, *RUN, kill_at="inside:move").returncode == -9
        server.restart("immediate")
        _resume(dsn)
        time.sleep(0.2)
    assert not writers.failures, writers.failures
    _finished(dsn)


def test_an_index_half_built_anew_is_cleared_away(database) -> None:
    dsn = database.dsn
    _make(dsn)
    before = pg_dump_schema(dsn)
    assert pgscale(dsn, *RUN, kill_at="inside:move").returncode == -9
    with psycopg.connect(dsn, autocommit=True) as conn, psycopg.connect(dsn) as older:
        old = conn.execute("SELECT oid::regclass::text FROM pg_class WHERE relname = 't' AND relkind = 'r'").fetchone()
        assert old is not None
        older.execute(f"UPDATE {old[0]} SET v = v WHERE id = 1")
        # As a REINDEX CONCURRENTLY leaves it whose server process was ended while it waited.
        conn.execute("SET statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            conn.execute(f"REINDEX TABLE CONCURRENTLY {old[0]}")
        left = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
        assert conn.execute(left).fetchone() != (0,)
        older.rollback()
    assert pgscale(dsn, "abort", "t").returncode == 0
    _restored(dsn, before)
