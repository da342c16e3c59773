"""What a hostile review broke once: events around a run that lost rows, hung, or ended in a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import psycopg.sql
import pytest

from pgscale import partition
from pgscale.core.model import Progress
from pgscale.errors import RefusedError, RunFailedError
from pgscale.partition import Options, actions
from pgscale.partition.strategies import STRATEGIES
from support.crash import pgscale, relkind, traces
from support.servers import Database
from support.waiting import WaitingRun

HASH = Options(by="hash:id", partitions=4, pace="fast")
RUN = ("--by", "hash:id", "--partitions", "4", "--pace", "fast")
ROWS = 1000
MIRROR = STRATEGIES["mirror"]


class Background:
    """A call in a thread, with its result or its error kept for the test."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self.thread.start()

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self.result = call()
        except BaseException as error:  # noqa: BLE001 because it is handed to the test
            self.error = error

    def get(self, timeout_s: float = 60) -> Any:
        """Wait for its end; return the result or raise the error."""
        self.thread.join(timeout_s)
        assert not self.thread.is_alive(), f"it does not end within {timeout_s:g} s"
        if self.error is not None:
            raise self.error
        return self.result


def _table(database: Database, name: str = "t", rows: int = ROWS) -> psycopg.Connection[Any]:
    conn = database.connect()
    conn.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, v text)")
    conn.execute(f"INSERT INTO {name} SELECT g, 'x' FROM generate_series(1, {rows}) g")
    return conn


def _slow_table(database: Database, whom: str, rows: int) -> psycopg.Connection[Any]:
    """A table whose every row costs 50 ms to the sessions of that name that write it."""
    conn = database.connect()
    conn.execute(f"""
        CREATE FUNCTION slow(i int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
          IF current_setting('application_name') LIKE '{whom}' THEN PERFORM pg_sleep(0.05); END IF;
          RETURN true;
        END $$""")
    conn.execute("CREATE TABLE t (id int PRIMARY KEY, v text CHECK (public.slow(id)))")
    conn.execute(f"INSERT INTO t SELECT g, 'x' FROM generate_series(1, {rows}) g")
    return conn


def _rows(conn: psycopg.Connection[Any], table: str = "t") -> list[tuple[Any, ...]]:
    return conn.execute(f"SELECT id, v FROM {table} ORDER BY id, v").fetchall()


def _state(database: Database, table: str = "t") -> str:
    return partition.status(database.dsn, table)[0].result.state


def _wait(what: str, holds: Callable[[], bool], timeout_s: float = 30, every_s: float = 0.05) -> None:
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until, f"not within {timeout_s:g} s: {what}"
        time.sleep(every_s)


def _start(dsn: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pgscale", "partition", *arguments, "--dsn", dsn],
        env={**os.environ, "PGSCALE_KILL_AT": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _end(process: subprocess.Popen[str], timeout_s: float = 90) -> tuple[int, str]:
    try:
        _, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, stderr


def _assert_calm(stderr: str) -> str:
    """One paragraph of ours, whatever progress was shown before it, and no traceback; return it."""
    assert "Traceback" not in stderr, stderr
    lines = [line for line in stderr.splitlines() if line.strip()]
    said = [number for number, line in enumerate(lines) if line.startswith("pgscale: ")]
    assert said == [len(lines) - 1], stderr
    return lines[-1]


def _dead_run(database: Database, point: str = "before:cutover", pace: str = "fast") -> None:
    killed = pgscale(database.dsn, "run", "t", *RUN[:-1], pace, kill_at=point)
    assert killed.returncode == -9, killed.stderr


def _refused_cutover(waiting: WaitingRun) -> str:
    """Order the cut-over, which must fail for whoever ordered it and for the run; return all that was said."""
    with pytest.raises(RunFailedError) as caught:
        partition.cutover(waiting.dsn, waiting.table)
    waiting.join()
    assert isinstance(waiting.error, RunFailedError), waiting.error
    assert relkind(waiting.dsn) == "r"
    return f"{caught.value} {waiting.error}".lower()


# -- rows that could be lost ----------------------------------------------------------------------------


def test_undo_after_one_leaf_was_truncated_keeps_the_other_leaves(database: Database) -> None:
    conn = _table(database)
    partition.run(database.dsn, "t", HASH)
    conn.execute("UPDATE t SET v = 'before' WHERE id <= 50")
    gone = {row[0] for row in conn.execute("SELECT id FROM t_p0")}
    assert 0 < len(gone) < ROWS
    conn.execute("TRUNCATE t_p0")
    conn.execute("UPDATE t SET v = 'after' WHERE id BETWEEN 40 AND 90")
    conn.execute("DELETE FROM t WHERE id BETWEEN 900 AND 920")
    conn.execute("INSERT INTO t SELECT g, 'new' FROM generate_series(5001, 5100) g")
    back = min(gone)
    conn.execute("INSERT INTO t VALUES (%s, 'again')", (back,))
    wanted = _rows(conn)
    partition.undo(database.dsn, "t")
    assert relkind(database.dsn) == "r"
    assert _rows(conn) == wanted
    assert {row[0] for row in wanted} & gone == {back}


def test_undo_after_a_truncate_and_reload_during_the_run(database: Database) -> None:
    conn = _table(database)
    with WaitingRun(database.dsn, "t", HASH) as waiting:
        with conn.transaction():
            conn.execute("TRUNCATE t")
            conn.execute("INSERT INTO t SELECT g, 'reloaded' FROM generate_series(1, 500) g")
        conn.execute("UPDATE t SET v = 'later' WHERE id <= 20")
        wanted = _rows(conn)
        partition.cutover(database.dsn, "t")
        waiting.join()
    assert relkind(database.dsn) == "p"
    assert _rows(conn) == wanted
    partition.undo(database.dsn, "t")
    assert relkind(database.dsn) == "r"
    assert _rows(conn) == wanted


@pytest.mark.parametrize("verb", ["resume", "run"])
def test_a_half_done_abort_is_finished_and_never_cut_over(database: Database, verb: str) -> None:
    conn = _table(database)
    _dead_run(database)
    # As an abort killed between its two transactions leaves it: no capture any more, the copy still there.
    conn.execute("UPDATE pgscale.run SET state = 'aborting'")
    names = conn.execute(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = 't'::regclass AND tgname LIKE '\\_pgscale%'"
    ).fetchall()
    assert names
    for (name,) in names:
        conn.execute(psycopg.sql.SQL("DROP TRIGGER {} ON t").format(psycopg.sql.Identifier(name)))
    conn.execute("INSERT INTO t SELECT g, 'late' FROM generate_series(2001, 2100) g")
    conn.execute("UPDATE t SET v = 'late' WHERE id <= 50")
    wanted = _rows(conn)
    with pytest.raises(RefusedError):
        partition.cutover(database.dsn, "t")
    assert relkind(database.dsn) == "r"
    assert _rows(conn) == wanted
    if verb == "resume":
        assert partition.resume(database.dsn, "t").state == "aborted"
        assert traces(database.dsn) == []
    else:
        # Finishes the abort, then starts from the beginning: its copy has the rows nobody captured.
        assert partition.run(database.dsn, "t", HASH).state == "cut-over"
        assert relkind(database.dsn) == "p"
    assert _rows(conn) == wanted


def _write_unseen(conn: psycopg.Connection[Any]) -> None:
    conn.execute("ALTER TABLE t DISABLE TRIGGER USER")
    conn.execute("INSERT INTO t SELECT g, 'unseen' FROM generate_series(5001, 5100) g")
    conn.execute("ALTER TABLE t ENABLE TRIGGER USER")


def test_triggers_disabled_for_a_while_refuse_the_cutover(database: Database) -> None:
    conn = _table(database)
    with WaitingRun(database.dsn, "t", HASH) as waiting:
        _write_unseen(conn)
        assert "trigger" in _refused_cutover(waiting)
        aborted = pgscale(database.dsn, "abort", "t")
        assert aborted.returncode == 0, aborted.stderr
    assert traces(database.dsn) == []
    assert len(_rows(conn)) == ROWS + 100


def test_triggers_disabled_for_a_while_refuse_the_cutover_of_a_dead_run(database: Database) -> None:
    conn = _table(database)
    _dead_run(database)
    _write_unseen(conn)
    refused = pgscale(database.dsn, "cutover", "t")
    assert refused.returncode == 5
    assert "trigger" in _assert_calm(refused.stderr).lower()
    assert relkind(database.dsn) == "r"
    assert partition.abort(database.dsn, "t").state == "aborted"
    assert len(_rows(conn)) == ROWS + 100


def test_triggers_disabled_for_a_while_refuse_the_undo(database: Database) -> None:
    conn = _table(database)
    partition.run(database.dsn, "t", HASH)
    _write_unseen(conn)
    refused = pgscale(database.dsn, "undo", "t")
    assert refused.returncode == 5
    assert "trigger" in _assert_calm(refused.stderr).lower()
    assert relkind(database.dsn) == "p"
    assert len(_rows(conn)) == ROWS + 100
    assert _state(database) == "cut-over"


@pytest.mark.parametrize("rewrite", ["VACUUM FULL t", "CLUSTER t USING backwards"])
def test_a_rewrite_during_the_copy_loses_nothing(database: Database, rewrite: str) -> None:
    conn = database.connect()
    conn.execute("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE INDEX backwards ON t (id DESC)")
    conn.execute("INSERT INTO t SELECT g, repeat('x', 100) || g FROM generate_series(1, 20000) g")
    conn.execute("DELETE FROM t WHERE id <= 9000")
    conn.execute("CREATE TABLE t_twin AS TABLE t")
    other = database.connect()
    other.execute("SET lock_timeout = '3s'")
    seen: list[str] = []

    def watch(progress: Progress) -> None:
        if progress.phase == "copy" and not seen and 0 < progress.done < (progress.total or 0):
            try:
                other.execute(rewrite)
                seen.append("done")
            except psycopg.errors.LockNotAvailable:
                seen.append("kept out by the run")
            for table in ("t", "t_twin"):
                other.execute(f"UPDATE {table} SET v = 'later' WHERE id BETWEEN 12000 AND 12100")

    options = Options(by="hash:id", partitions=4, pace="fast", workers=1, verify="none")
    partition.run(database.dsn, "t", options, watch=watch)
    assert seen, "the rewrite came too late to matter"
    assert relkind(database.dsn) == "p"
    assert _rows(conn) == _rows(conn, "t_twin")


# -- what was changed meanwhile -------------------------------------------------------------------------


def test_undo_refuses_after_a_filled_partition_was_attached(database: Database) -> None:
    conn = _table(database, rows=100)
    partition.run(database.dsn, "t", Options(by="range:id:100", pace="fast", default_partition=False))
    conn.execute("CREATE TABLE t_more (id int PRIMARY KEY, v text)")
    conn.execute("INSERT INTO t_more SELECT g, 'more' FROM generate_series(1000, 1099) g")
    conn.execute("ALTER TABLE t ATTACH PARTITION t_more FOR VALUES FROM (1000) TO (1100)")
    wanted = _rows(conn)
    assert len(wanted) == 200
    with pytest.raises(RunFailedError, match=r"partitions|t_more"):
        partition.undo(database.dsn, "t")
    assert relkind(database.dsn) == "p"
    assert _rows(conn) == wanted
    assert _state(database) == "cut-over"


def test_undo_refuses_after_a_partition_was_detached(database: Database) -> None:
    conn = _table(database)
    partition.run(database.dsn, "t", HASH)
    conn.execute("ALTER TABLE t DETACH PARTITION t_p1")
    wanted = _rows(conn)
    assert len(wanted) < ROWS
    with pytest.raises(RunFailedError, match=r"partitions|t_p1"):
        partition.undo(database.dsn, "t")
    assert relkind(database.dsn) == "p"
    assert _rows(conn) == wanted
    assert _state(database) == "cut-over"


def test_undo_refuses_after_a_view_was_made(database: Database) -> None:
    conn = _table(database)
    partition.run(database.dsn, "t", HASH)
    conn.execute("CREATE VIEW after_cut AS SELECT * FROM t")
    with pytest.raises(RunFailedError, match=r"(?i)depend|definition|after_cut"):
        partition.undo(database.dsn, "t")
    assert _state(database) == "cut-over"
    assert relkind(database.dsn) == "p"
    conn.execute("INSERT INTO t VALUES (5001, 'seen')")
    assert conn.execute("SELECT count(*) FROM after_cut").fetchone() == (ROWS + 1,)
    conn.execute("DROP VIEW after_cut")
    wanted = _rows(conn)
    assert partition.undo(database.dsn, "t").state == "undone"
    assert _rows(conn) == wanted


def test_abort_that_read_the_ledger_before_the_cutover_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn = _table(database)
    _dead_run(database)
    original = actions.try_own

    def late(*arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(actions, "try_own", original)
        assert partition.resume(database.dsn, "t").state == "cut-over"
        return original(*arguments, **named)

    monkeypatch.setattr(actions, "try_own", late)
    with pytest.raises(RefusedError):
        partition.abort(database.dsn, "t")
    assert _state(database) == "cut-over"
    conn.execute("INSERT INTO t VALUES (5001, 'new')")
    wanted = _rows(conn)
    assert partition.undo(database.dsn, "t").state == "undone"
    assert relkind(database.dsn) == "r"
    assert _rows(conn) == wanted


def test_a_view_replaced_during_the_run_refuses_the_cutover(database: Database) -> None:
    conn = _table(database)
    conn.execute("CREATE VIEW small AS SELECT id FROM t")
    with WaitingRun(database.dsn, "t", HASH) as waiting:
        conn.execute("CREATE OR REPLACE VIEW small AS SELECT id FROM t WHERE id > 900")
        assert "definition" in _refused_cutover(waiting)
        assert partition.abort(database.dsn, "t").state == "aborted"
    assert conn.execute("SELECT count(*) FROM small").fetchone() == (ROWS - 900,)


@pytest.mark.parametrize("live", [True, False], ids=["live", "dead"])
def test_abort_after_the_table_was_dropped_removes_every_trace(database: Database, live: bool) -> None:
    conn = _table(database)

    def abort() -> None:
        conn.execute("DROP TABLE t")
        aborted = pgscale(database.dsn, "abort", "t", timeout=60)
        assert aborted.returncode == 0, aborted.stderr

    if live:
        with WaitingRun(database.dsn, "t", HASH) as waiting:
            abort()
            waiting.join()
    else:
        _dead_run(database)
        abort()
    assert traces(database.dsn) == []


# -- other sessions -------------------------------------------------------------------------------------


def test_an_older_snapshot_of_another_role_holds_the_cutover_back(database: Database) -> None:
    conn = _table(database)
    conn.execute("CREATE TABLE elsewhere (i int); INSERT INTO elsewhere VALUES (1)")
    role = database.create_role("reader")
    conn.execute(f"GRANT SELECT, UPDATE ON t, elsewhere TO {role}")
    notes: list[str] = []
    with WaitingRun(database.dsn, "t", HASH, watch=lambda p: notes.append(p.note)) as waiting:
        with psycopg.connect(database.dsn_as(role)) as other:
            other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            other.execute("SELECT i FROM elsewhere")
            conn.execute("UPDATE t SET v = 'newer' WHERE id = 1")
            ordered = Background(lambda: partition.cutover(database.dsn, "t"))
            until = time.monotonic() + 3
            while time.monotonic() < until:
                assert relkind(database.dsn) == "r", "cut over in spite of an older snapshot"
                time.sleep(0.1)
            assert other.execute("SELECT v FROM t WHERE id = 1").fetchone() == ("x",)
            pid = other.info.backend_pid
            other.commit()
        assert ordered.get().state == "cut-over"
        waiting.join()
    assert relkind(database.dsn) == "p"
    assert any(str(pid) in note for note in notes), notes
    assert dict(_rows(conn))[1] == "newer"


def test_a_bulk_commit_while_the_cutover_waits_does_not_block_for_long(database: Database) -> None:
    # 80 rows are to an applier this slow what millions are to a fast one.
    conn = _slow_table(database, "pgscale/applier%", 200)
    waited = (
        "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 't'::regclass AND NOT granted"
        " AND mode IN ('ExclusiveLock', 'AccessExclusiveLock'))"
    )
    options = Options(by="hash:id", partitions=4, pace="fast", max_block_s=0.5)
    with WaitingRun(database.dsn, "t", options) as waiting:
        bulk = database.connect(autocommit=False)
        bulk.execute("UPDATE t SET v = 'bulk' WHERE id <= 80")
        ordered = Background(lambda: partition.cutover(database.dsn, "t"))
        _wait("the cut-over waits for its lock", lambda: conn.execute(waited).fetchone() == (True,), every_s=0.002)
        bulk.commit()
        longest, number, until = 0.0, 1000, time.monotonic() + 60
        while ordered.thread.is_alive() and time.monotonic() < until:
            number += 1
            began = time.monotonic()
            conn.execute("INSERT INTO t VALUES (%s, 'app')", (number,))
            longest = max(longest, time.monotonic() - began)
            time.sleep(0.2)
        assert ordered.get(1).state == "cut-over"
        waiting.join()
    assert longest < 3.0
    assert waiting.result is not None
    assert waiting.result.blocked_ms <= 1500
    rows = dict(_rows(conn))
    assert len(rows) == 200 + number - 1000
    assert sum(v == "bulk" for v in rows.values()) == 80


# -- processes ------------------------------------------------------------------------------------------


def _abort_in_phase_copy(database: Database, pace: str) -> None:
    process = _start(database.dsn, "run", "t", *RUN[:-1], pace)
    try:

        def copies() -> bool:
            runs = partition.status(database.dsn, "t")
            return bool(runs) and runs[0].phase == "copy"

        _wait("the copy has begun", copies)
        time.sleep(0.3)
        assert copies()
        assert partition.abort(database.dsn, "t").state == "aborted"
        code, stderr = _end(process, 30)
    finally:
        if process.returncode is None:
            process.kill()
            process.communicate()
    assert code == 5, stderr
    assert "abort" in _assert_calm(stderr)
    assert traces(database.dsn) == []
    assert relkind(database.dsn) == "r"


def test_abort_of_a_run_that_is_busy_copying(database: Database) -> None:
    conn = _table(database, rows=300_000)
    _abort_in_phase_copy(database, "gentle")
    assert conn.execute("SELECT count(*) FROM t").fetchone() == (300_000,)


def test_abort_of_a_run_in_the_middle_of_a_chunk(database: Database) -> None:
    conn = _slow_table(database, "pgscale/worker%", 400)
    _abort_in_phase_copy(database, "fast")
    assert len(_rows(conn)) == 400


@pytest.mark.sampled(2)
@pytest.mark.parametrize("verb", ["cutover", "resume"])
def test_a_run_that_died_while_paused_goes_on(database: Database, verb: str) -> None:
    conn = _table(database, rows=5000)
    # Not fast: a request is noticed every half second, and this pace first listens for longer than that.
    _dead_run(database, "before:copy", "normal")
    conn.execute("UPDATE pgscale.run SET request = 'pause'")
    done = pgscale(database.dsn, verb, "t", timeout=40)
    assert done.returncode == 0, done.stderr
    assert relkind(database.dsn) == "p"
    assert len(_rows(conn)) == 5000


def test_two_first_runs_of_different_tables_at_once(database: Database) -> None:
    _table(database, "t")
    _table(database, "u")
    processes = [_start(database.dsn, "run", table, *RUN) for table in ("t", "u")]
    for process in processes:
        code, stderr = _end(process)
        assert code == 0, stderr
    assert _state(database, "t") == _state(database, "u") == "cut-over"


def test_two_first_runs_planned_at_the_same_moment(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, with both coming to the ledger that is not there yet at once."""
    _table(database, "t", 10)
    _table(database, "u", 10)
    barrier, original = threading.Barrier(2, timeout=30), MIRROR.make_plan

    def late(*arguments: Any, **named: Any) -> Any:
        made = original(*arguments, **named)
        barrier.wait()
        return made

    monkeypatch.setitem(STRATEGIES, "mirror", replace(MIRROR, make_plan=late))
    runs = [Background(lambda name=name: partition.run(database.dsn, name, HASH)) for name in ("t", "u")]
    assert [run.get().state for run in runs] == ["cut-over", "cut-over"]


def test_two_runs_of_the_same_table_at_once(database: Database) -> None:
    conn = _table(database, rows=20_000)
    processes = [_start(database.dsn, "run", "t", *RUN) for _ in range(2)]
    (good, _), (bad, said) = sorted((_end(process) for process in processes), key=lambda ended: ended[0])
    assert (good, bad) == (0, 4), said
    assert "public.t" in _assert_calm(said)
    assert relkind(database.dsn) == "p"
    assert len(_rows(conn)) == 20_000


def test_a_run_planned_while_another_one_finished_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn = _table(database)
    original = MIRROR.make_plan

    def late(*arguments: Any, **named: Any) -> Any:
        made = original(*arguments, **named)
        monkeypatch.setitem(STRATEGIES, "mirror", MIRROR)
        assert partition.run(database.dsn, "t", HASH).state == "cut-over"
        return made

    monkeypatch.setitem(STRATEGIES, "mirror", replace(MIRROR, make_plan=late))
    with pytest.raises(RefusedError):
        partition.run(database.dsn, "t", HASH)
    assert _state(database) == "cut-over"
    assert partition.undo(database.dsn, "t").state == "undone"
    assert len(_rows(conn)) == ROWS


@pytest.mark.parametrize("arguments", [("status",), ("status", "t"), ("pause", "t"), ("finish", "t")], ids=" ".join)
def test_a_role_without_rights_on_the_ledger_is_told_so(database: Database, arguments: tuple[str, ...]) -> None:
    _table(database, rows=10)
    partition.run(database.dsn, "t", HASH)
    refused = pgscale(database.dsn_as(database.create_role("stranger")), *arguments)
    assert refused.returncode == 3, refused.stderr
    assert "pgscale" in _assert_calm(refused.stderr).removeprefix("pgscale: ")
    assert _state(database) == "cut-over"


def test_default_privileges_open_no_schema_of_a_run(database: Database) -> None:
    """Copies have neither the policies of the table nor its revoked rights: nobody else may look into them."""
    reader = database.create_role("reader")
    conn = _table(database)
    conn.execute(
        f"ALTER DEFAULT PRIVILEGES GRANT USAGE, CREATE ON SCHEMAS TO {reader}, PUBLIC;"
        f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {reader}; CREATE MATERIALIZED VIEW m AS SELECT id FROM t"
    )
    opened = (
        "SELECT nspname FROM pg_namespace WHERE nspname ~ '^pgscale_'"
        " AND has_schema_privilege(%s, oid, 'USAGE, CREATE')"
    )
    calls: list[tuple[str, tuple[str, ...]]] = [
        ("rehearse:filled", ("rehearse", "t", *RUN, "--rows", "100%")),
        ("after:matviews", ("run", "t", *RUN)),
        ("after:prepare", ("run", "u", "--strategy", "attach", "--by", "range:id:1000")),
        ("after:view", ("run", "u", "--strategy", "move", *RUN)),
    ]
    _table(database, "u")
    for point, arguments in calls:
        killed = pgscale(database.dsn, *arguments, kill_at=point)
        assert killed.returncode == -9, killed.stderr
        assert conn.execute("SELECT 1 FROM pg_namespace WHERE nspname ~ '^pgscale_'").fetchone()
        assert conn.execute(opened, (reader,)).fetchall() == []
        if arguments[0] == "run":
            partition.abort(database.dsn, arguments[1])


def test_a_ledger_of_an_older_version_is_brought_up_to_date(database: Database) -> None:
    conn = _table(database, rows=10)
    older = "ALTER TABLE pgscale.run DROP eta_least_s, DROP eta_most_s; DROP TABLE pgscale.rehearsal, pgscale.retired"
    assert pgscale(database.dsn, "run", "t", *RUN, kill_at="after:capture").returncode == -9
    conn.execute(older)
    (status,) = partition.status(database.dsn, "t")
    assert (status.result.state, status.eta_most_s) == ("running", None)
    assert partition.resume(database.dsn, "t").state == "cut-over"
    conn.execute(older)
    _table(database, "u", rows=10)
    assert partition.run(database.dsn, "u", HASH).state == "cut-over"
    conn.execute("SELECT eta_least_s, eta_most_s, (SELECT count(*) FROM pgscale.rehearsal) FROM pgscale.run")
    conn.execute("UPDATE pgscale.run SET plan = plan - 'leaves' WHERE table_name = 'u'")
    with pytest.raises(RefusedError, match="another version"):
        partition.undo(database.dsn, "u")
    assert partition.undo(database.dsn, "t").state == "undone"


def test_plan_of_a_locked_table_ends_with_a_clear_error(database: Database) -> None:
    _table(database, rows=10)
    holder = database.connect(autocommit=False)
    holder.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
    try:
        planned = pgscale(database.dsn, "plan", "t", *RUN, timeout=60)
    finally:
        holder.rollback()
    assert planned.returncode in (3, 4, 5), planned.stderr
    assert "lock" in _assert_calm(planned.stderr).lower()
