"""`pgscale maintenance`: does what the checks find needed and nothing else, in a window, and can be killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgscale.commands.maintenance import window_until
from pgscale.doctor.limits import AutovacuumLimits, Limits
from pgscale.doctor.maintenance import gate, runner
from pgscale.errors import UsageError
from support.cli import Ran, pgscale
from support.clients import psql
from support.doctor import vacuum_shared_catalogs
from support.servers import Database
from support.waiting_sessions import outcome, send, until_true

OLDEST_AND_NEWEST = pytest.mark.versions(14, 18)
# Whatever is large in real life is small here.
TOML = """
[doctor.autovacuum]
least_rows = 100
least_wait_s = 0
[doctor.bloat]
least_bytes = 8192
"""
SCHEMA = """
CREATE TABLE "Busy" (id integer PRIMARY KEY, n integer);
INSERT INTO "Busy" SELECT g, g FROM generate_series(1, 6000) g;
CREATE INDEX busy_n ON "Busy" (n);
CREATE TABLE calm (id integer PRIMARY KEY); INSERT INTO calm SELECT generate_series(1, 6000);
CREATE TABLE parts (id integer) PARTITION BY RANGE (id);
CREATE TABLE part1 PARTITION OF parts FOR VALUES FROM (0) TO (9000);
INSERT INTO parts SELECT generate_series(1, 5000);
"""
DELETE = 'DELETE FROM "Busy" WHERE id % 10 > 0'


class Keeper:
    """`pgscale maintenance` on a quiet database."""

    def __init__(self, database: Database, directory: Path, role: str | None = None) -> None:
        self.database, self.directory = database, directory
        self.role = role or database.owner
        toml = directory / "pgscale.toml"
        toml.write_text(TOML)
        self.options = ("--config", str(toml), "--state", str(directory / "state"))

    def arguments(self, verb: str, *more: str) -> tuple[str, ...]:
        return ("maintenance", verb, "--dsn", self.database.dsn_as(self.role), *self.options, *more)

    def ran(self, verb: str, *more: str) -> Ran:
        ran = pgscale(*self.arguments(verb, *more))
        assert "Traceback" not in ran.err, ran.err
        return ran

    def plan(self, *more: str) -> dict[str, Any]:
        ran = self.ran("plan", "--json", *more)
        assert ran.exit_code == 0, ran.err
        return json.loads(ran.out)

    def run(self, *more: str, exit_code: int = 0) -> dict[str, Any]:
        ran = self.ran("run", "--json", *more)
        assert ran.exit_code == exit_code, (ran.out, ran.err)
        return json.loads(ran.out)

    @contextmanager
    def process(self, *more: str) -> Iterator[subprocess.Popen[str]]:
        """A run of its own process, to be killed or interrupted."""
        process = subprocess.Popen(
            [sys.executable, "-m", "pgscale", *self.arguments("run", "--json", *more)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def keeper(quiet_database: Database, tmp_path: Path) -> Keeper:
    psql(quiet_database.dsn, SCHEMA)
    vacuum_shared_catalogs(quiet_database)
    # What a session wrote is counted at its end, on 14 some time later: its own VACUUM would come too early.
    observer = quiet_database.connect()
    until_true(observer, "SELECT sum(n_tup_ins) = 17000 FROM pg_stat_user_tables")
    psql(quiet_database.dsn, 'VACUUM (ANALYZE) "Busy", calm, part1')
    until_true(observer, "SELECT sum(n_ins_since_vacuum) = 0 FROM pg_stat_user_tables")
    return Keeper(quiet_database, tmp_path)


def _kinds(tasks: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(task["kind"], task["target"]) for task in tasks]


def _until_dead_are_told(database: Database) -> psycopg.Connection[Any]:
    """14's collector tells late."""
    observer = database.connect()
    until_true(observer, "SELECT sum(n_dead_tup) > 1000 FROM pg_stat_user_tables WHERE relname = 'Busy'")
    return observer


def _indexes(observer: psycopg.Connection[Any]) -> dict[str, bool]:
    return dict(observer.execute("SELECT indexrelid::regclass::text, indisvalid FROM pg_index").fetchall())


@pytest.mark.versions("all")
def test_it_does_what_is_needed(keeper: Keeper) -> None:
    database = keeper.database
    assert _kinds(keeper.plan("--only", "vacuum", "--only", "reindex")["tasks"]) == []
    psql(database.dsn, DELETE)
    observer = _until_dead_are_told(database)
    plan = keeper.plan()
    assert _kinds(plan["tasks"]) == [("vacuum", 'public."Busy"'), ("analyze", "public.parts")]
    vacuum = plan["tasks"][0]
    assert vacuum["sql"] == ['VACUUM (ANALYZE) "public"."Busy"']
    assert vacuum["why"].startswith("5,400 dead rows, ")
    assert vacuum["bytes"] > 8192
    assert plan["tasks"][1]["why"] == "never analyzed, about 5,000 rows"
    assert 'VACUUM (ANALYZE) "public"."Busy";\n' in keeper.ran("plan").out
    assert _kinds(keeper.plan("--only", "analyze")["tasks"]) == [
        ("analyze", 'public."Busy"'), ("analyze", "public.parts"),
    ]  # fmt: skip
    calm = "SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'calm'"
    assert observer.execute(calm).fetchone() == (1,)

    assert _kinds(keeper.run()["done"]) == [("vacuum", 'public."Busy"'), ("analyze", "public.parts")]
    # Only what VACUUM has counted tells that its indexes are half empty.
    until_true(observer, "SELECT n_dead_tup = 0 FROM pg_stat_user_tables WHERE relname = 'Busy'")
    before = _indexes(observer)
    done = keeper.run("--pace", "fast")["done"]
    assert {(kind, name) for kind, name in _kinds(done)} == {
        ("reindex", "public.busy_n"),
        ("reindex", 'public."Busy_pkey"'),
    }
    assert done[0]["room_bytes"] > 0
    assert _indexes(observer) == before
    assert all(before.values())
    assert keeper.run() == {"done": [], "failed": [], "left": [], "notes": [], "took_s": pytest.approx(0, abs=60)}
    assert keeper.ran("run").out == "Nothing needs maintenance.\n"
    assert observer.execute(calm).fetchone() == (1,), "a healthy table was left alone"
    (state,) = (keeper.directory / "state").iterdir()
    assert set(json.loads(state.read_text())["done"]) == {
        'vacuum public."Busy"', "analyze public.parts", "reindex public.busy_n", 'reindex public."Busy_pkey"',
    }  # fmt: skip


@OLDEST_AND_NEWEST
def test_what_did_not_help_is_not_repeated(keeper: Keeper) -> None:
    with keeper.database.connect() as holder:
        holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        psql(keeper.database.dsn, DELETE)
        observer = _until_dead_are_told(keeper.database)
        assert ("vacuum", 'public."Busy"') in _kinds(keeper.run()["done"])
        until_true(observer, "SELECT vacuum_count = 2 FROM pg_stat_user_tables WHERE relname = 'Busy'")
        # The rows are still seen by somebody.
        ran = keeper.run("--only", "vacuum")
        assert ran["done"] == []
        (left,) = ran["left"]
        assert left["subject"] == 'public."Busy"'
        assert left["reason"].endswith("look who holds VACUUM back with pgscale doctor --only horizon")
        holder.execute("ROLLBACK")


@pytest.mark.versions(14, 16, 18)
def test_toast_and_tables_of_others(keeper: Keeper, pg_version: int) -> None:
    database = keeper.database
    other = database.create_role("other")
    psql(
        database.superuser_dsn,
        "CREATE TABLE long (id integer PRIMARY KEY, t text); ALTER TABLE long ALTER t SET STORAGE EXTERNAL;"
        "INSERT INTO long SELECT g, repeat('x', 9000) FROM generate_series(1, 300) g;"
        f"ALTER TABLE long OWNER TO {database.owner}; ALTER TABLE calm OWNER TO {other};"
        "DELETE FROM calm WHERE id % 10 > 0",
    )
    observer = database.connect()
    until_true(
        observer, "SELECT sum(n_tup_ins + n_tup_del) = 11700 FROM pg_stat_user_tables WHERE relname IN ('long', 'calm')"
    )
    psql(database.superuser_dsn, "VACUUM (ANALYZE) long, calm")
    psql(database.dsn, "UPDATE long SET t = t || 'y' WHERE id <= 200")
    until_true(observer, "SELECT sum(n_dead_tup) > 900 FROM pg_stat_all_tables WHERE schemaname = 'pg_toast'")
    psql(database.superuser_dsn, "VACUUM (PROCESS_TOAST false) long")
    plan = keeper.plan("--only", "vacuum", "--only", "reindex")
    (task,) = plan["tasks"]
    only_toast = "VACUUM (PROCESS_MAIN false) " if pg_version >= 16 else "VACUUM "
    assert task["sql"] == [f'{only_toast}"public"."long"']
    assert task["why"].startswith("TOAST: ")
    # The index of a table of somebody else needs it, and is left, with the reason; the table itself its database's
    # owner may vacuum.
    assert [each["subject"] for each in plan["left"]] == []
    psql(database.superuser_dsn, f"GRANT SELECT ON calm TO {database.owner}")
    (left,) = keeper.plan("--only", "reindex")["left"]
    assert left["subject"] == "public.calm_pkey"
    assert left["reason"].startswith(f"it belongs to role {other}")
    if pg_version >= 17:
        psql(database.superuser_dsn, f"GRANT MAINTAIN ON calm TO {database.owner}")
        assert _kinds(keeper.run("--only", "reindex")["done"]) == [("reindex", "public.calm_pkey")]
    keeper.run("--only", "vacuum")
    until_true(observer, "SELECT sum(n_dead_tup) = 0 FROM pg_stat_all_tables WHERE schemaname = 'pg_toast'")
    # A role that owns nothing vacuums nothing.
    psql(database.dsn, DELETE)
    _until_dead_are_told(database)
    stranger = Keeper(database, keeper.directory, database.create_role("stranger"))
    plan = stranger.plan("--only", "vacuum")
    assert plan["tasks"] == []
    assert {each["subject"] for each in plan["left"]} == {'public."Busy"'}
    assert stranger.run("--only", "vacuum")["done"] == []


@OLDEST_AND_NEWEST
def test_it_is_killed_and_goes_on(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 while an index is rebuilt: the next run clears away what it left, and repeats nothing."""
    database = keeper.database
    observer = _half_empty(keeper)
    with database.connect() as holder, keeper.process() as process:
        holder.execute('BEGIN; INSERT INTO "Busy" VALUES (-1, -1)')
        # The first one waits for the other's transaction, with its new index made.
        until_true(observer, "SELECT count(*) > 0 FROM pg_index WHERE NOT indisvalid")
        monkeypatch.setattr(runner, "NOTICED_S", 0.1)
        busy = keeper.ran("run")
        monkeypatch.undo()
        assert (busy.exit_code, "Another pgscale maintenance is at work" in busy.err) == (4, True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        until_true(observer, "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgscale/maintenance'")
        holder.execute("ROLLBACK")
    (leftover,) = [name for name, valid in _indexes(observer).items() if not valid]
    assert leftover.rstrip('"').endswith("_ccnew")
    # What only looks like it stays: no valid index is the same, or it is no REINDEX's.
    psql(database.dsn, 'CREATE INDEX "twin_ccnew" ON "Busy" (n DESC); CREATE INDEX odd ON "Busy" (n)')
    psql(
        database.superuser_dsn,
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid IN ('twin_ccnew'::regclass, 'odd'::regclass)",
    )
    ran = keeper.run()
    assert _kinds(ran["done"])[0] == ("clean", f"public.{leftover}")
    assert {kind for kind, _ in _kinds(ran["done"])[1:]} == {"reindex"}
    assert {name for name, valid in _indexes(observer).items() if not valid} == {"twin_ccnew", "odd"}
    assert keeper.run()["done"] == []
    assert database.connect().execute('SELECT count(*) FROM "Busy" WHERE n > 0').fetchone() == (600,)


def _half_empty(keeper: Keeper) -> psycopg.Connection[Any]:
    """Only rebuilds are left to do."""
    psql(keeper.database.dsn, DELETE)
    observer = keeper.database.connect()
    until_true(observer, "SELECT n_tup_del = 5400 FROM pg_stat_user_tables WHERE relname = 'Busy'")
    psql(keeper.database.dsn, 'VACUUM (ANALYZE) "Busy"; ANALYZE parts')
    until_true(observer, "SELECT n_dead_tup = 0 FROM pg_stat_user_tables WHERE relname = 'Busy'")
    assert {kind for kind, _ in _kinds(keeper.plan()["tasks"])} == {"reindex"}
    return observer


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing(keeper: Keeper, number: signal.Signals) -> None:
    observer = _half_empty(keeper)
    before = _indexes(observer)
    with keeper.database.connect() as holder, keeper.process() as process:
        holder.execute('BEGIN; SELECT count(*) FROM "Busy"; INSERT INTO "Busy" VALUES (-1, -1)')
        until_true(observer, "SELECT count(*) > 0 FROM pg_index WHERE NOT indisvalid")
        # Dropping what is half made waits for nobody who is gone; whoever is there is waited for a few seconds.
        send(holder, "SELECT pg_sleep(0.3); ROLLBACK")
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert outcome(holder) == "ok"
        assert process.returncode == 130, err
        assert "Traceback" not in err
    assert _indexes(observer) == before


def test_the_window(keeper: Keeper) -> None:
    """Nothing is begun that would not end in it; what runs at its end is cancelled, and cleared away."""
    observer = _half_empty(keeper)
    before = _indexes(observer)
    ran = keeper.run("--window", "100ms", exit_code=1)
    assert ran["done"] == []
    assert {each["subject"] for each in ran["left"]} == {"public.busy_n", 'public."Busy_pkey"'}
    assert "it takes about 5" in ran["left"][0]["reason"]
    with keeper.database.connect() as holder, ThreadPoolExecutor(1) as pool:
        holder.execute('BEGIN; INSERT INTO "Busy" VALUES (-1, -1)')
        # The window ends while it waits for the other's transaction; dropping what it has made waits for that, too.
        watching = pool.submit(_roll_back_after_the_rebuild, observer, holder)
        ran = keeper.run("--window", "2s", exit_code=1)
        watching.result()
    reasons = [each["reason"] for each in ran["left"]]
    assert sum("the window was over; it was cancelled after" in reason for reason in reasons) == 1, reasons
    assert _indexes(observer) == before


def test_a_lost_connection(keeper: Keeper) -> None:
    observer = _half_empty(keeper)
    with keeper.database.connect() as holder, keeper.process() as process:
        holder.execute('BEGIN; INSERT INTO "Busy" VALUES (-1, -1)')
        until_true(observer, "SELECT count(*) > 0 FROM pg_index WHERE NOT indisvalid")
        observer.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'pgscale/maintenance-watch'"
        )
        _, err = process.communicate(timeout=60)
        assert (process.returncode, "The connection was lost: " in err) == (5, True), err
        assert "0 of 2 tasks were done. Run it again" in err
        holder.execute("ROLLBACK")
    until_true(observer, "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'pgscale/maintenance%'")
    assert {kind for kind, _ in _kinds(keeper.run()["done"])} == {"clean", "reindex"}
    assert all(_indexes(observer).values())


def _roll_back_after_the_rebuild(observer: psycopg.Connection[Any], holder: psycopg.Connection[Any]) -> None:
    rebuilding = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'REINDEX%' AND state = 'active'"
    until_true(observer, rebuilding)
    until_true(observer, rebuilding.replace("count(*)", "count(*) = 0"))
    holder.execute("ROLLBACK")


@OLDEST_AND_NEWEST
def test_locks_and_old_transactions(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock is tried for a while, then the rest is done; an index is not rebuilt behind an old transaction."""
    database = keeper.database
    psql(database.dsn, DELETE)
    _until_dead_are_told(database)
    limits = Limits(autovacuum=AutovacuumLimits(least_rows=100, least_wait_s=0))
    options = runner.Options(patience_s=0.2, keeps_state=False, pace="fast")
    monkeypatch.setattr(runner, "WORKER", replace(runner.WORKER, lock_timeout_ms=50))
    told: list[str] = []
    with database.connect() as holder:
        holder.execute('BEGIN; LOCK TABLE "Busy" IN SHARE UPDATE EXCLUSIVE MODE')
        ran_out = runner.run(
            database.dsn, limits, options, lambda moment: told.append(moment.phase), lambda plan: told.append("told")
        )
        assert [each.task.key for each in ran_out.done] == ["analyze public.parts"]
        (left,) = ran_out.left
        assert (left.subject, left.reason) == ('public."Busy"', "its lock was not to be had within 200 ms")
        holder.execute("ROLLBACK")
    assert told[:2] == ["told", "vacuum"]
    assert runner.run(database.dsn, limits, options, lambda _: None, lambda _: None).failed == ()

    observer = _half_empty(keeper)
    before = _indexes(observer)
    with database.connect() as old:
        monkeypatch.setattr(gate, "OLD_TRANSACTION_S", 0.0)
        old.execute('BEGIN; SELECT count(*) FROM "Busy"')
        ran = keeper.run(exit_code=1)
        assert ran["done"] == []
        assert f"the transaction of process {old.info.backend_pid} (role {database.owner})" in ran["left"][0]["reason"]
        # Somebody else is at work: nothing begins until the window is over.
        send(old, "SELECT pg_sleep(30)")
        until_true(
            observer,
            "SELECT count(*) = 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(30)' AND state = 'active'",
        )
        ran = keeper.run("--max-active", "0", "--window", "1s", exit_code=1)
        assert ran["left"][0]["reason"] == "1 session is at work (--max-active 0) until the window was over"
        old.cancel_safe()
        assert outcome(old) == "57014"
        old.execute("ROLLBACK")
    assert _indexes(observer) == before


def test_options(database: Database) -> None:
    for arguments, code, said in (
        (("run", "--window", "1h", "--until", "06:00"), 2, "choose one"),
        (("run", "--until", "6 o'clock"), 2, "no time of day"),
        (("run", "--window", "0s"), 2, "over before it begins"),
        (("plan", "--only", "everything"), 2, "everything"),
        (("plan", "--dsn", "host=127.0.0.1 port=1"), 3, "Cannot connect"),
    ):
        ran = pgscale("maintenance", *arguments)
        assert (ran.exit_code, said in ran.err) == (code, True), ran.err
    assert pgscale("maintenance", "--dsn", database.dsn, "plan").exit_code == 2
    ran = pgscale("maintenance", "--dsn", database.dsn)
    assert (ran.exit_code, ran.out) == (0, "Nothing needs maintenance.\n"), ran.err


def test_a_window_by_the_clock():
    now = datetime(2026, 3, 1, 22, 30, tzinfo=timezone(timedelta(0))).astimezone()
    local = now.strftime("%H:%M")
    assert window_until(local, now) == pytest.approx(86_400, abs=3_601)
    later = (now + timedelta(minutes=90)).strftime("%H:%M")
    assert window_until(later, now) == pytest.approx(5_400, abs=3_601)
    with pytest.raises(UsageError):
        window_until("25:00", now)
