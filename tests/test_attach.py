"""The strategy attach: the table becomes the first partition, no row moves, and `undo` loses nothing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgscale import partition
from pgscale.errors import RefusedError, RunFailedError, UsageError
from pgscale.partition import Options, PartitionSet
from support import parity
from support.clients import pg_dump_schema
from support.crash import pgscale, relkind
from support.servers import Database
from support.waiting import WaitingRun

RANGE = "range:at:month"
EVENTS = """
CREATE TABLE account (id int PRIMARY KEY);
INSERT INTO account SELECT generate_series(0, 9);
CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL, kind text NOT NULL DEFAULT 'a',
  account int NOT NULL REFERENCES account, v int, PRIMARY KEY (id, at, kind));
CREATE INDEX t_by_account ON t (account, at);
CREATE VIEW recent AS SELECT id, kind, v FROM t WHERE at > '2025-01-01';
INSERT INTO t (at, kind, account, v) SELECT now() - g * interval '1 hour', (ARRAY['a', 'b', 'c'])[g % 3 + 1], g % 10, g
  FROM generate_series(1, 2000) g;
"""
LATER = "INSERT INTO t (at, kind, account, v) VALUES (now() + interval '200 days', 'new', 1, -1) RETURNING id"


def _options(by: str = RANGE, **rest: Any) -> Options:
    return Options(by=by, strategy="attach", pace="fast", **rest)


@pytest.fixture
def conn(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with database.connect() as conn:
        yield conn


def _one(conn: psycopg.Connection[Any], query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def _where(conn: psycopg.Connection[Any], table: str) -> tuple[Any, ...]:
    """The table's oid, its file, and every row's place in it."""
    name = sql.Literal(table)
    row = conn.execute(
        sql.SQL(
            "SELECT {n}::regclass::oid, pg_relation_filenode({n}), md5(string_agg(ctid::text || id, ',' ORDER BY id))"
            " FROM {t}"
        ).format(n=name, t=sql.Identifier(table))
    ).fetchone()
    assert row is not None
    return tuple(row)


def _leaf_of(conn: psycopg.Connection[Any], condition: str) -> str:
    return str(_one(conn, f"SELECT DISTINCT tableoid::regclass::text FROM t WHERE {condition}"))


@pytest.mark.versions("all")
@pytest.mark.parametrize("by", [RANGE, "list:kind"])
def test_no_row_moves_and_new_rows_find_their_partition(database: Database, conn, by: str) -> None:
    conn.execute(EVENTS)
    before = _where(conn, "t")
    result = partition.run(database.dsn, "t", _options(by))
    assert (result.state, result.rows_copied, result.retained_table) == ("cut-over", 0, None)
    assert _where(conn, "t_p_first") == before
    assert _one(conn, "SELECT relkind FROM pg_class WHERE oid = 't'::regclass") == "p"
    new = _one(conn, LATER)
    assert new == 2001
    assert _leaf_of(conn, "v = -1") == "t_default"
    assert _one(conn, "SELECT count(*) FROM recent WHERE v = -1") == 1
    assert parity.traces(conn) != []
    assert partition.finish(database.dsn, "t").state == "finished"
    assert parity.traces(conn) == []
    assert _where(conn, "t_p_first") == before


def _scans(conn: psycopg.Connection[Any], oid: int) -> int:
    conn.execute("SELECT pg_stat_force_next_flush()")
    return int(_one(conn, f"SELECT pg_stat_get_numscans({oid})"))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("by", [RANGE, "list:kind", "list:v", "range:opened:month"])
def test_the_swap_reads_no_row(database: Database, conn, by: str) -> None:
    """The CHECK implies the bound: of a range, of few values, and of more than the 100 that a proof looks into.

    `opened` may be NULL and the primary key grows by it.
    """
    conn.execute(EVENTS.replace("PRIMARY KEY (id, at, kind)", "PRIMARY KEY (id, at, kind, v, account)"))
    conn.execute("ALTER TABLE t ADD opened date; UPDATE t SET v = v % 300, opened = at")
    oid = _one(conn, "SELECT 't'::regclass::oid")
    run = ("run", "t", "--by", by, "--strategy", "attach", "--accept-key-change")
    assert pgscale(database.dsn, *run, kill_at="before:cutover").returncode == -9
    time.sleep(1.2)  # for the killed process's sessions to report what they counted
    scans = _scans(conn, oid)
    assert scans > 0, "the validation is not counted: this test shows nothing"
    done = pgscale(database.dsn, "resume", "t", kill_at="after:cutover")
    assert done.returncode == -9, done.stderr
    time.sleep(1.2)
    assert _scans(conn, oid) == scans


@pytest.mark.versions("all")
def test_keys_that_grow_are_built_beside_and_shrink_again(database: Database, conn) -> None:
    conn.execute(
        "CREATE TABLE t (id bigserial CONSTRAINT the_key PRIMARY KEY, at date, code text,"
        " CONSTRAINT codes UNIQUE (code) DEFERRABLE INITIALLY DEFERRED, x int);"
        "CREATE UNIQUE INDEX lower_code ON t (lower(code)) INCLUDE (x) WHERE x > 3;"
        "ALTER TABLE t REPLICA IDENTITY USING INDEX the_key, CLUSTER ON the_key;"
        "COMMENT ON CONSTRAINT codes ON t IS 'c'; COMMENT ON INDEX lower_code IS 'i';"
        "INSERT INTO t (at, code, x) SELECT date '2024-01-01' + g, 'Code ' || g, g FROM generate_series(1, 400) g"
    )
    before, where = pg_dump_schema(database.dsn), _where(conn, "t")
    with pytest.raises(RefusedError) as refused:
        partition.run(database.dsn, "t", _options("range:at:month"))
    assert "accept-key-change" in "\n".join(refused.value.reasons)
    partition.run(database.dsn, "t", _options("range:at:month", accept_key_change=True))
    assert _where(conn, "t_p_first") == where
    key = conn.execute(
        "SELECT indexdef FROM pg_indexes WHERE tablename = 't' ORDER BY indexname COLLATE \"C\""
    ).fetchall()
    assert [k[0].partition(" USING ")[2] for k in key] == [
        "btree (code, at)",
        "btree (lower(code), at) INCLUDE (x) WHERE (x > 3)",
        "btree (id, at)",
    ]
    conn.execute("INSERT INTO t VALUES (7, '2024-01-08', 'z', 1) ON CONFLICT (id, at) DO UPDATE SET x = 70")
    conn.execute("INSERT INTO t (at, code, x) VALUES ('2199-01-01', 'far', 9)")
    assert _one(conn, "SELECT attnotnull FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'at'")
    partition.undo(database.dsn, "t")
    parity.assert_identical(before, pg_dump_schema(database.dsn))
    assert _one(conn, "SELECT x FROM t WHERE id = 7") == 70
    assert _one(conn, "SELECT array_agg(id) FROM t WHERE at > '2100-01-01'") == [401]
    assert parity.traces(conn) == []


def test_undo_refuses_rows_that_share_the_old_key(database: Database, conn) -> None:
    conn.execute(
        "CREATE TABLE t (id int PRIMARY KEY, at date NOT NULL);"
        "INSERT INTO t SELECT g, date '2024-01-01' + g FROM generate_series(1, 50) g"
    )
    partition.run(database.dsn, "t", _options("range:at:month", accept_key_change=True))
    conn.execute("INSERT INTO t VALUES (7, '2199-01-01')")
    for _ in range(2):
        with pytest.raises(RunFailedError, match="break a key of the old table"):
            partition.undo(database.dsn, "t")
        assert _one(conn, "SELECT relkind FROM pg_class WHERE oid = 't'::regclass") == "p"
    conn.execute("DELETE FROM t WHERE at = '2199-01-01'")
    assert partition.undo(database.dsn, "t").state == "undone"
    assert _one(conn, "SELECT count(*) FROM t") == 50


@pytest.mark.sampled(2)
@pytest.mark.versions("all")
@pytest.mark.parametrize("by", [RANGE, "list:kind"])
def test_undo_brings_later_rows_back(database: Database, conn, by: str) -> None:
    conn.execute(EVENTS)
    before = pg_dump_schema(database.dsn)
    file = _where(conn, "t")[:2]
    partition.run(database.dsn, "t", _options(by))
    later = _one(conn, LATER)
    conn.execute("UPDATE t SET at = at + interval '400 days', kind = 'moved' WHERE v BETWEEN 1 AND 5")
    conn.execute("DELETE FROM t WHERE v = 6")
    rows = conn.execute("SELECT * FROM t ORDER BY id").fetchall()
    assert partition.undo(database.dsn, "t").state == "undone"
    assert conn.execute("SELECT * FROM t ORDER BY id").fetchall() == rows
    assert _where(conn, "t")[:2] == file
    assert _one(conn, LATER) == later + 1
    parity.assert_identical(before, pg_dump_schema(database.dsn))
    assert parity.traces(conn) == []


def test_an_old_snapshot_cannot_write_past_an_undo(database: Database, conn) -> None:
    """It sees no row that came back: its UPDATE would change 0 rows in silence."""
    conn.execute(EVENTS)
    partition.run(database.dsn, "t", _options())
    conn.execute(LATER)
    with psycopg.connect(database.dsn) as old:
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT 1 FROM account")
        notes: list[str] = []
        undoing = threading.Thread(
            target=partition.undo, args=(database.dsn, "t"), kwargs={"watch": lambda p: notes.append(p.note)}
        )
        undoing.start()
        until = time.monotonic() + 20
        while not any("snapshot" in note for note in notes) and time.monotonic() < until:
            time.sleep(0.01)
        assert any("snapshot" in note for note in notes)
        assert _one(old, "SELECT count(*) FROM t WHERE v = -1") == 1
        old.rollback()
        undoing.join(30)
    assert _one(conn, "SELECT count(*) FROM t WHERE v = -1") == 1


def test_a_writer_with_an_old_snapshot_meets_the_guard_of_an_undo(database: Database, conn) -> None:
    """It waits for the table while the rows are moved, which it cannot see."""
    conn.execute(EVENTS)
    conn.execute(BRAKE)
    partition.run(database.dsn, "t", _options(max_block_s=8))
    conn.execute(LATER)
    conn.execute("INSERT INTO brake VALUES (true)")
    held = "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND mode = 'AccessExclusiveLock' AND granted"
    with psycopg.connect(database.dsn) as old:
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT 1 FROM account")
        undoing = threading.Thread(target=partition.undo, args=(database.dsn, "t"))
        undoing.start()
        until = time.monotonic() + 20
        while not _one(conn, held) and time.monotonic() < until:
            time.sleep(0.005)
        with pytest.raises(psycopg.errors.SerializationFailure):
            old.execute("UPDATE t SET account = 3 WHERE v = -1")
        old.rollback()
        undoing.join(30)
    assert _one(conn, "SELECT count(*) FROM t WHERE v = -1") == 1


def test_what_an_undo_leaves_behind_for_older_transactions_binds_nobody(database: Database, conn) -> None:
    """Rows of later partitions go back: copies of them would hold the accounts. No trigger sees them go."""
    conn.execute(EVENTS + "INSERT INTO account VALUES (77)")
    conn.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $$it fired$$; END';"
        "CREATE TRIGGER once AFTER DELETE ON t FOR EACH ROW WHEN (old.kind <> 'x') EXECUTE FUNCTION no()"
    )
    partition.run(database.dsn, "t", _options())
    conn.execute(LATER.replace("1, -1", "77, -1"))
    with psycopg.connect(database.dsn) as older:
        older.execute("SELECT 1")
        undoing = threading.Thread(target=partition.undo, args=(database.dsn, "t"))
        undoing.start()
        until = time.monotonic() + 20
        while relkind(database.dsn) != "r" and time.monotonic() < until:
            time.sleep(0.01)
        conn.execute("UPDATE t SET account = 1 WHERE v = -1")
        conn.execute("DELETE FROM account WHERE id = 77")
        assert undoing.is_alive()
        older.rollback()
        undoing.join(30)
    assert not undoing.is_alive()
    assert parity.traces(conn) == []


def test_rights_are_the_parents_alone(database: Database, conn) -> None:
    """A right that is taken away later must not live on in the first partition."""
    conn.execute(EVENTS)
    conn.execute("GRANT SELECT ON t TO PUBLIC; GRANT UPDATE (v) ON t TO PUBLIC")
    before = pg_dump_schema(database.dsn)
    partition.run(database.dsn, "t", _options())
    rights = (
        "SELECT has_table_privilege('pg_monitor', '{0}', 'SELECT'),"
        " has_any_column_privilege('pg_monitor', '{0}', 'UPDATE')"
    )
    assert conn.execute(rights.format("t")).fetchone() == (True, True)
    assert conn.execute(rights.format("t_p_first")).fetchone() == (False, False)
    partition.undo(database.dsn, "t")
    parity.assert_identical(before, pg_dump_schema(database.dsn))


BRAKE = """
CREATE TABLE brake (on_ bool);
CREATE FUNCTION slow(v int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
  IF v = -1 AND EXISTS (SELECT FROM public.brake) THEN PERFORM pg_sleep(1); END IF; RETURN true; END $$;
ALTER TABLE t ADD CONSTRAINT slow CHECK (slow(v))
"""


def test_an_undo_that_would_block_too_long_is_refused(database: Database, conn) -> None:
    conn.execute(EVENTS)
    conn.execute(BRAKE)
    partition.run(database.dsn, "t", _options(max_block_s=0.3))
    conn.execute(LATER)
    conn.execute("INSERT INTO brake VALUES (true)")
    with pytest.raises(RunFailedError, match="--max-block"):
        partition.undo(database.dsn, "t")
    assert _one(conn, "SELECT count(*) FROM t WHERE v = -1") == 1
    assert _leaf_of(conn, "v = -1") == "t_default"
    undone = pgscale(database.dsn, "undo", "t", "--max-block", "20s")
    assert undone.returncode == 0, undone.stderr
    assert relkind(database.dsn) == "r"
    assert _one(conn, "SELECT count(*) FROM t WHERE v = -1") == 1


# --- the CHECK --------------------------------------------------------------------------------------------

RUN = ("run", "t", "--by", RANGE, "--strategy", "attach", "--pace", "fast")


def test_until_the_swap_rows_outside_the_bound_are_refused_and_those_of_the_margin_are_not(database, conn) -> None:
    conn.execute(EVENTS)
    daily = ("run", "t", "--by", "range:at:day", "--strategy", "attach")
    assert pgscale(database.dsn, *daily, kill_at="before:check").returncode == -9
    conn.execute(LATER)
    conn.execute("DELETE FROM t WHERE v = -1")
    assert pgscale(database.dsn, "resume", "t", kill_at="before:cutover").returncode == -9
    with pytest.raises(psycopg.errors.CheckViolation):
        conn.execute(LATER)
    conn.execute("INSERT INTO t (at, account) VALUES (now() + interval '23 hours', 1), ('-infinity', 1)")
    assert pgscale(database.dsn, "resume", "t").returncode == 0
    conn.execute(LATER)


def test_rows_beyond_the_bound_stop_the_run_and_take_the_check_back(database: Database, conn) -> None:
    conn.execute(EVENTS)
    before = pg_dump_schema(database.dsn)
    assert pgscale(database.dsn, *RUN, kill_at="before:check").returncode == -9
    conn.execute(LATER)
    for _ in range(2):
        failed = pgscale(database.dsn, "resume", "t")
        assert failed.returncode == 5, failed.stderr
        assert "bound planned" in failed.stderr
        # The CHECK would refuse every further change of that row.
        conn.execute("UPDATE t SET account = 2 WHERE v = -1")
    assert pgscale(database.dsn, "abort", "t").returncode == 0
    parity.assert_identical(before, pg_dump_schema(database.dsn))
    partition.run(database.dsn, "t", _options())
    assert _leaf_of(conn, "v = -1") == "t_p_first"


def test_a_run_resumed_when_its_bound_is_near_adds_no_check(database: Database, conn) -> None:
    conn.execute(EVENTS)
    assert pgscale(database.dsn, *RUN, kill_at="before:check").returncode == -9
    conn.execute(
        "UPDATE pgscale.run SET plan = jsonb_set(plan, '{bound,safe_until}', to_jsonb((now() - interval '1 s')::text))"
    )
    failed = pgscale(database.dsn, "resume", "t")
    assert (failed.returncode, "too near" in failed.stderr) == (5, True), failed.stderr
    assert _one(conn, "SELECT count(*) FROM pg_constraint WHERE conname = '_pgscale_bound'") == 0
    assert pgscale(database.dsn, "abort", "t").returncode == 0
    assert parity.traces(conn) == []


def test_a_check_that_somebody_dropped_stops_the_swap(database: Database, conn) -> None:
    conn.execute(EVENTS)
    assert pgscale(database.dsn, *RUN, kill_at="before:cutover").returncode == -9
    conn.execute("ALTER TABLE t DROP CONSTRAINT _pgscale_bound")
    failed = pgscale(database.dsn, "resume", "t")
    assert (failed.returncode, "Somebody dropped" in failed.stderr) == (5, True), failed.stderr
    assert pgscale(database.dsn, "abort", "t").returncode == 0
    assert parity.traces(conn) == []


def test_a_changed_definition_stops_the_swap(database: Database, conn) -> None:
    conn.execute(EVENTS)
    assert pgscale(database.dsn, *RUN, kill_at="before:cutover").returncode == -9
    conn.execute("ALTER TABLE t ADD COLUMN more int")
    failed = pgscale(database.dsn, "resume", "t")
    assert (failed.returncode, "was changed while the run was on" in failed.stderr) == (5, True), failed.stderr
    assert pgscale(database.dsn, "abort", "t").returncode == 0
    assert parity.traces(conn) == []


def test_without_cutover_it_waits_before_anything_is_refused(database: Database, conn) -> None:
    conn.execute(EVENTS)
    with WaitingRun(database.dsn, "t", _options()) as run:
        conn.execute(LATER)
        conn.execute("DELETE FROM t WHERE v = -1")
        partition.cutover(database.dsn, "t")
        run.join()
    assert run.error is None
    assert _one(conn, "SELECT relkind FROM pg_class WHERE oid = 't'::regclass") == "p"


def test_a_killed_index_build_is_dropped_and_built_again(database: Database, conn) -> None:
    conn.execute(
        "CREATE TABLE t (id int PRIMARY KEY, at date NOT NULL);"
        "INSERT INTO t SELECT g, '2024-01-01' FROM generate_series(1, 500) g"
    )
    before = pg_dump_schema(database.dsn)
    options = _options("range:at:month", accept_key_change=True)
    with psycopg.connect(database.dsn) as writer:
        writer.execute("UPDATE t SET at = '2024-01-02' WHERE id = 1")
        notes: list[str] = []
        failed: list[BaseException] = []

        def body() -> None:
            try:
                partition.run(database.dsn, "t", options, watch=lambda p: notes.append(p.phase))
            except RunFailedError as error:
                failed.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        until = time.monotonic() + 20
        invalid = "SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass AND NOT indisvalid"
        while not _one(conn, invalid) and time.monotonic() < until:
            time.sleep(0.01)
        conn.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CREATE UNIQUE INDEX CONC%'")
        thread.join(30)
    assert _one(conn, invalid) == 1, "no invalid index was left: this test shows nothing"
    done = pgscale(database.dsn, "resume", "t")
    assert done.returncode == 0, done.stderr
    assert _one(
        conn, "SELECT bool_and(indisvalid) FROM pg_index WHERE indrelid IN ('t'::regclass, 't_p_first'::regclass)"
    )
    partition.undo(database.dsn, "t")
    parity.assert_identical(before, pg_dump_schema(database.dsn))


@pytest.mark.sampled(2)
@pytest.mark.versions(14, 18)
def test_keys_of_odd_types_are_proven_too(database: Database, conn) -> None:
    conn.execute(
        "CREATE DOMAIN code AS varchar(9) CHECK (VALUE <> ''); CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');"
        "CREATE TABLE t (c code, m mood, b bool, v varchar(9), ch char(4), n numeric(9, 2), a int[], d date,"
        ' k text COLLATE "C")'
    )
    conn.execute(
        "INSERT INTO t SELECT 'c\"\\' || g % 3, (enum_range(NULL::mood))[g % 3 + 1], true, 'v' || g % 90, 'x',"
        " g % 150 + 0.5, ARRAY[g % 2], '2024-01-01', 'k' || g % 150 FROM generate_series(1, 300) g"
    )
    for by in (
        "list:c",
        "list:m",
        "list:b",
        "list:v",
        "list:ch",
        "list:n",
        "list:a",
        "list:k",
        "range:n:2.5",
        "range:d:week",
    ):
        assert partition.run(database.dsn, "t", _options(by)).state == "cut-over", by
        assert _one(conn, "SELECT count(*) FROM t_p_first") == 300
        partition.undo(database.dsn, "t")
    conn.execute("UPDATE t SET v = v || n")
    with pytest.raises(RefusedError, match="character varying"):
        partition.plan(database.dsn, "t", _options("list:v"))


# --- what is refused, planned, and looked after -----------------------------------------------------------


def test_a_hash_is_refused(database: Database, conn) -> None:
    conn.execute(EVENTS)
    with pytest.raises(UsageError, match="range and list"):
        partition.plan(database.dsn, "t", _options("hash:account", partitions=4))


def test_the_plan_shows_every_step(database: Database, conn) -> None:
    conn.execute(EVENTS)
    shown = pgscale(database.dsn, "plan", *RUN[1:], "--json")
    assert shown.returncode == 0, shown.stderr
    steps = {s["id"]: s for s in json.loads(shown.stdout)["steps"]}
    assert list(steps) == [
        "prepare",
        "references",
        "references:prove",
        "probe",
        "check",
        "validate",
        "cutover",
        "analyze",
    ]
    assert all(s["sql"] and s["lock"] and s["longest_wait"] and s["reason"] for s in steps.values())
    assert "NOT VALID" in steps["check"]["sql"][-1]
    assert any("ATTACH PARTITION" in s for s in steps["cutover"]["sql"])
    assert any("DETACH PARTITION" in s for s in steps["cutover"]["undo"])
    assert pgscale(database.dsn, "plan", *RUN[1:]).returncode == 0
    assert parity.traces(conn) == []


def test_an_attached_table_is_looked_after(database: Database, conn) -> None:
    """`maintain` makes the periods that follow, and retires the first partition when all of it is old."""
    conn.execute(EVENTS)
    partition.run(database.dsn, "t", _options())
    partition.finish(database.dsn, "t")
    wanted = PartitionSet(table="public.t", period="month", ahead=8)
    made = partition.maintain(database.dsn, [wanted])
    assert not [f for f in made.findings if f.severity == "error"], made.findings
    assert _one(conn, "SELECT count(*) FROM pg_inherits WHERE inhparent = 't'::regclass") > 6
    again = partition.maintain(database.dsn, [wanted])
    assert not again.findings, again.findings
    later = datetime.now(UTC) + timedelta(days=800)
    partition.maintain(database.dsn, [replace(wanted, retention="1 year")], now=later)
    assert _one(conn, "SELECT count(*) FROM t_p_first") == 2000
    assert not _one(conn, "SELECT relispartition FROM pg_class WHERE oid = 't_p_first'::regclass")
