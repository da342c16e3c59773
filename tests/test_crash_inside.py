"""Killed inside a step: when its work is done and its ledger row is not yet committed, and in the midst of the work.

A trigger on the ledger, or on the partition that rows go to, holds the run's session at the very place; then the
process gets SIGKILL. The steps' boundaries are in test_crash.py.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgscale import partition
from support.clients import pg_dump_schema
from support.crash import DDL, TwinWriters, differences, pgscale, relkind, traces

ROWS = 20_000
RUN = ("run", "t", "--by", "hash:id", "--partitions", "3", "--pace", "fast", "--workers", "1")

HELD = (
    "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pgscale/%' AND wait_event = 'PgSleep'"
    " AND datname = current_database()"
)


def _make(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(DDL.format(rows=ROWS))


def _start(dsn: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "pgscale", "partition", *arguments, "--dsn", dsn],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _kill_when(conn: psycopg.Connection[Any], query: str, process: subprocess.Popen[bytes]) -> int:
    """Kill the process at the moment the query returns a row; return what it returned."""
    until = time.monotonic() + 60
    try:
        while (row := conn.execute(query).fetchone()) is None:
            assert process.poll() is None, f"it ended before it came there: exit {process.returncode}"
            assert time.monotonic() < until, "it never came there"
            time.sleep(0.01)
        return int(row[0])
    finally:
        process.kill()
        process.wait(10)


@contextlib.contextmanager
def _brake(
    conn: psycopg.Connection[Any],
    table: str,
    event: str,
    when: str = "true",
    *,
    sleep_s: float = 30,
    orphan: bool = False,
) -> Iterator[None]:
    """Hold every session of a run that does this to the table; an orphan does not notice that its process died."""
    alone = "PERFORM set_config('client_connection_check_interval', '0', true);" if orphan else ""
    conn.execute(
        "CREATE FUNCTION public.brake() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
        f" IF current_setting('application_name') LIKE 'pgscale/%' THEN {alone} PERFORM pg_sleep({sleep_s}); END IF;"
        " RETURN COALESCE(NEW, OLD); END$$"
    )
    conn.execute(
        f"CREATE TRIGGER brake BEFORE {event} ON {table} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION public.brake()"
    )
    try:
        yield
    finally:
        # Waits for the session that was held: by then its transaction is over, one way or the other.
        conn.execute("DROP FUNCTION IF EXISTS public.brake() CASCADE")


def kill_inside(
    dsn: str, table: str, event: str, when: str = "true", command: tuple[str, ...] = ("resume", "t")
) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn, _brake(conn, table, event, when):
        _kill_when(conn, HELD, _start(dsn, *command))


def _resume(dsn: str) -> dict[str, Any]:
    done = pgscale(dsn, "resume", "t", "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _finish(dsn: str) -> None:
    assert relkind(dsn) == "p"
    assert differences(dsn) == 0
    assert pgscale(dsn, "finish", "t").returncode == 0
    assert differences(dsn) == 0
    assert not [t for t in traces(dsn) if not t.startswith("table t_p")]


# --- with the work done and the ledger's row not yet committed --------------------------------------------

STEPS = (
    *("prepare", "capture", "copy", "scrub:0", "scrub", "index:t_p1", "attach", "analyze", "verify", "reverse"),
    *("cutover", "settle:0", "settle:3"),
)
LEDGER_ROWS = (
    *((step, "pgscale.step", "INSERT", f"NEW.step_id = '{step}'") for step in STEPS),
    ("a chunk", "pgscale.chunk", "UPDATE", "OLD.last_page > OLD.first_page"),
    ("the first chunk", "pgscale.chunk", "UPDATE", "OLD.last_page = OLD.first_page"),
    ("the pages", "pgscale.chunk", "INSERT", "NEW.phase = 'pages'"),
    ("a batch", "pgscale.applied", "INSERT OR UPDATE", "true"),
    ("the order of the swap", "pgscale.run", "UPDATE", "NEW.state = 'cut-over'"),
)


@pytest.mark.sampled(11)
@pytest.mark.parametrize(("table", "event", "when"), [r[1:] for r in LEDGER_ROWS], ids=[r[0] for r in LEDGER_ROWS])
def test_killed_before_its_ledger_row_is_committed(database, table: str, event: str, when: str) -> None:
    dsn = database.dsn
    _make(dsn)
    with TwinWriters(dsn=dsn, seed=11) as writers:
        assert pgscale(dsn, *RUN, kill_at="after:ledger").returncode == -9
        kill_inside(dsn, table, event, when)
        result = _resume(dsn)
        time.sleep(0.2)
    assert not writers.failures
    assert writers.committed > 10
    # Not the exact number: the application writes.
    assert result["parity"]["rows_checked"] > ROWS / 2
    assert result["parity"]["mismatches"] == 0
    _finish(dsn)


def test_nothing_is_counted_twice(database) -> None:
    """Nobody else writes: what is copied, applied and compared is known to the row."""
    dsn = database.dsn
    _make(dsn)
    assert pgscale(dsn, *RUN, kill_at="before:copy").returncode == -9
    with psycopg.connect(dsn, autocommit=True) as conn:
        for table in ("t", "t_twin"):
            conn.execute(f"UPDATE {table} SET v = v + 1 WHERE id <= 50")
    kill_inside(dsn, "pgscale.chunk", "UPDATE", "OLD.last_page > OLD.first_page")
    kill_inside(dsn, "pgscale.applied", "INSERT OR UPDATE")
    assert pgscale(dsn, "resume", "t", kill_at="after:verify").returncode == -9
    result = _resume(dsn)
    assert (result["rows_copied"], result["rows_applied"]) == (ROWS, 50)
    assert result["parity"] == {**result["parity"], "rows_checked": ROWS, "mismatches": 0}
    _finish(dsn)


# --- in the midst of the work -----------------------------------------------------------------------------


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("point", "event"), [("before:copy", "INSERT"), ("before:apply", "INSERT"), ("before:apply", "DELETE")]
)
def test_killed_while_rows_move(database, point: str, event: str) -> None:
    dsn = database.dsn
    _make(dsn)
    with TwinWriters(dsn=dsn, seed=12) as writers:
        assert pgscale(dsn, *RUN, kill_at=point).returncode == -9
        kill_inside(dsn, "t_p1", event)
        _resume(dsn)
    assert not writers.failures
    _finish(dsn)


def _twice_in_the_copy(dsn: str) -> None:
    """Kill a run whose copy has, or is about to have, rows twice: copied, then updated into pages not yet copied."""
    _make(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        for table in ("t", "t_twin"):
            conn.execute(f"DELETE FROM {table} WHERE id BETWEEN 15000 AND 19000 AND id % 2 = 0")
        conn.execute("VACUUM t")
        assert pgscale(dsn, *RUN, kill_at="before:copy").returncode == -9
        kill_inside(dsn, "pgscale.chunk", "UPDATE", "OLD.last_page > OLD.first_page")
        copied = conn.execute("SELECT max(last_page) FROM pgscale.chunk WHERE phase = 'copy'").fetchone()
        assert copied is not None
        for table in ("t", "t_twin"):
            conn.execute(f"UPDATE {table} SET v = v + 1 WHERE id <= 100")
        pages = conn.execute("SELECT last_page FROM pgscale.chunk WHERE phase = 'pages'").fetchone()
        assert pages is not None
        moved = conn.execute(
            "SELECT count(*) FROM t WHERE id <= 100 AND ctid >= %s::tid AND ctid < %s::tid",
            (f"({copied[0]},0)", f"({pages[0]},0)"),
        ).fetchone()
        assert moved is not None
        assert moved[0] > 50, "no row is copied twice: this test shows nothing"


@pytest.mark.sampled(4)
@pytest.mark.parametrize("killed", ["in the copy", "before the scrub", "in the scrub"])
def test_rows_that_were_copied_twice_are_scrubbed(database, killed: str) -> None:
    dsn = database.dsn
    _twice_in_the_copy(dsn)
    if killed != "in the copy":
        assert pgscale(dsn, "resume", "t", kill_at="before:scrub").returncode == -9
    if killed == "in the scrub":
        kill_inside(dsn, "t_p0", "DELETE")
    _resume(dsn)
    _finish(dsn)


def test_killed_while_capture_waits_for_a_writer(database) -> None:
    dsn = database.dsn
    _make(dsn)
    assert pgscale(dsn, *RUN, kill_at="before:capture").returncode == -9
    waits = "SELECT 1 FROM pg_locks WHERE relation = 't'::regclass AND NOT granted"
    with psycopg.connect(dsn) as writer, psycopg.connect(dsn, autocommit=True) as conn:
        writer.execute("UPDATE t SET v = v + 1 WHERE id = 1")
        _kill_when(conn, waits, _start(dsn, "resume", "t"))
        writer.rollback()
    with TwinWriters(dsn=dsn, seed=13) as writers:
        _resume(dsn)
    assert not writers.failures
    _finish(dsn)


def test_a_session_that_outlives_its_process_is_awaited(database) -> None:
    """The server notices a dead client late; until then its session may commit, and a chunk must not come twice."""
    dsn = database.dsn
    _make(dsn)
    assert pgscale(dsn, *RUN, kill_at="before:copy").returncode == -9
    with psycopg.connect(dsn, autocommit=True) as conn:
        first = "OLD.first_page = 0 AND OLD.last_page = 0"
        with _brake(conn, "pgscale.chunk", "UPDATE", first, sleep_s=3, orphan=True):
            orphan = _kill_when(conn, HELD, _start(dsn, "resume", "t"))
            alive = conn.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [orphan]).fetchone()
            assert alive == (1,)
            result = partition.resume(dsn, "t")
        assert (result.rows_copied, result.rows_checked, result.mismatches) == (ROWS, ROWS, 0)
    _finish(dsn)


# --- while taking back ------------------------------------------------------------------------------------


def test_an_undo_killed_inside_its_swap(database) -> None:
    dsn = database.dsn
    _make(dsn)
    before = pg_dump_schema(dsn)
    assert pgscale(dsn, *RUN).returncode == 0
    with TwinWriters(dsn=dsn, seed=14) as writers:
        kill_inside(dsn, "pgscale.step", "INSERT", "NEW.step_id = 'undo'", ("undo", "t"))
        time.sleep(0.3)
        undone = pgscale(dsn, "undo", "t")
        assert undone.returncode == 0, undone.stderr
    assert not writers.failures
    assert (relkind(dsn), differences(dsn), traces(dsn)) == ("r", 0, [])
    assert pg_dump_schema(dsn) == before


def test_an_undo_killed_after_its_swap_goes_on(database) -> None:
    dsn = database.dsn
    _make(dsn)
    before = pg_dump_schema(dsn)
    assert pgscale(dsn, *RUN).returncode == 0
    with psycopg.connect(dsn) as older, psycopg.connect(dsn, autocommit=True) as conn:
        older.execute("SELECT 1")
        # It waits for the older transaction when the tables are exchanged.
        _kill_when(conn, "SELECT 1 FROM pgscale.run WHERE state = 'undone'", _start(dsn, "undo", "t"))
    for verb in ("abort", "finish", "cutover"):
        assert pgscale(dsn, verb, "t").returncode == 4
    assert _resume(dsn)["state"] == "undone"
    assert (relkind(dsn), differences(dsn), traces(dsn)) == ("r", 0, [])
    assert pg_dump_schema(dsn) == before


@pytest.mark.sampled(4)
@pytest.mark.parametrize("verb", ["abort", "finish"])
def test_taking_back_killed_between_its_transactions_cannot_turn_round(database, verb: str) -> None:
    """The triggers are gone: a run that went forward from here, or back, would miss what is written."""
    dsn = database.dsn
    _make(dsn)
    before = pg_dump_schema(dsn)
    assert pgscale(dsn, *RUN, kill_at="before:cutover" if verb == "abort" else "").returncode == (
        -9 if verb == "abort" else 0
    )
    with psycopg.connect(dsn) as reader, psycopg.connect(dsn, autocommit=True) as conn:
        held = conn.execute(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname LIKE %s AND c.relname = 't'",
            ["pgscale\\_new%" if verb == "abort" else "pgscale\\_old%"],
        ).fetchone()
        assert held is not None
        reader.execute(f"SELECT FROM {held[0]} LIMIT 1")
        waits = f"SELECT 1 FROM pg_locks WHERE relation = '{held[0]}'::regclass AND NOT granted"
        _kill_when(conn, waits, _start(dsn, verb, "t"))
        left = conn.execute(
            "SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass AND tgname LIKE '\\_pgscale%'"
        )
        assert left.fetchone() == (0,)
    with TwinWriters(dsn=dsn, seed=15) as writers:
        for other in ("undo", "cutover", "finish" if verb == "abort" else "abort"):
            assert pgscale(dsn, other, "t").returncode == 4, other
        assert _resume(dsn)["state"] == ("aborted" if verb == "abort" else "finished")
    assert not writers.failures
    assert differences(dsn) == 0
    assert relkind(dsn) == ("r" if verb == "abort" else "p")
    if verb == "abort":
        assert traces(dsn) == []
        assert pg_dump_schema(dsn) == before
