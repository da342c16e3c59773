"""Materialized views on the table: made again over the copy, with the rows of one moment, and kept for the way back."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import pytest

from pgscale import partition
from pgscale.core.model import Progress, QName
from pgscale.errors import RefusedError, RunFailedError
from pgscale.partition import Options
from pgscale.partition.matviews import reads_only, redirect
from support.clients import pg_dump_schema
from support.crash import DDL, TwinWriters, differences, pgscale, relkind, traces
from support.servers import Database
from support.waiting import WaitingRun

OPTIONS = Options(by="hash:id", partitions=3, workers=2, pace="fast")
RUN = ("run", "t", "--by", "hash:id", "--partitions", "3", "--pace", "fast", "--workers", "2", "--verify", "none")
SUMS = """CREATE MATERIALIZED VIEW m AS SELECT owner, count(*) AS n, sum(v) AS total FROM t GROUP BY owner;
CREATE UNIQUE INDEX m_owner ON m (owner); CREATE MATERIALIZED VIEW mm AS SELECT sum(total) AS total FROM m;
CREATE VIEW on_m AS SELECT n FROM m; COMMENT ON INDEX m_owner IS 'one an owner'"""


def _make(database: Database, statements: str) -> None:
    with database.connect() as conn:
        for statement in statements.split("\n--\n"):
            conn.execute(statement)


def _rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    with database.connect() as conn:
        return conn.execute(query).fetchall()


# --- names -------------------------------------------------------------------------------------------------

T, STAGED = QName(schema="public", name="t"), QName(schema="new", name="t")


@pytest.mark.parametrize(
    ("query", "after"),
    [
        (" SELECT t.id\n   FROM public.t;", ' SELECT t.id\n   FROM "new"."t"'),
        (
            "SELECT 'public.t', E'\\'public.t' FROM (public.t x",
            "SELECT 'public.t', E'\\'public.t' FROM (\"new\".\"t\" x",
        ),
        ('SELECT "public.t" FROM "public".t', 'SELECT "public.t" FROM "new"."t"'),
        ("SELECT x.public.t, public.t(1) FROM public.tt", "SELECT x.public.t, public.t(1) FROM public.tt"),
        ("SELECT 1.5 FROM public.t JOIN public.t t_1", 'SELECT 1.5 FROM "new"."t" JOIN "new"."t" t_1'),
    ],
)
def test_a_query_is_redirected_by_its_tokens(query: str, after: str) -> None:
    assert redirect(query, {T: STAGED}) == after


def test_two_relations_are_redirected_at_once() -> None:
    other = QName(schema='a"b', name="Größe")
    query = 'SELECT 1 FROM public.t JOIN "a""b"."Größe" USING (id)'
    assert redirect(query, {T: STAGED, other: T}) == 'SELECT 1 FROM "new"."t" JOIN "public"."t" USING (id)'


def test_only_is_seen_where_it_belongs_to_the_relation() -> None:
    assert reads_only("SELECT 1 FROM ONLY public.t", T)
    assert not reads_only("SELECT 1 AS only FROM ONLY public.tt, public.t", T)


# --- rows --------------------------------------------------------------------------------------------------


@pytest.mark.versions(14, 18)
def test_refresh_reads_the_table_in_place_there_and_back(database: Database) -> None:
    _make(
        database,
        "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT g, 1 FROM generate_series(1, 100) g;"
        "CREATE MATERIALIZED VIEW m AS SELECT id, v FROM t; CREATE UNIQUE INDEX ON m (id);"
        "CREATE MATERIALIZED VIEW late AS SELECT sum(v) FROM m WITH NO DATA;"
        "INSERT INTO t SELECT g, 1 FROM generate_series(101, 110) g",
    )
    partition.run(database.dsn, "t", OPTIONS)
    # As after a REFRESH just before the cut-over.
    assert _rows(database, "SELECT count(*) FROM m") == [(110,)]
    with database.connect() as conn:
        conn.execute("INSERT INTO t SELECT g, 1 FROM generate_series(111, 120) g")
        conn.execute("REFRESH MATERIALIZED VIEW CONCURRENTLY m")
        assert conn.execute("SELECT count(*) FROM m").fetchone() == (120,)
        conn.execute("REFRESH MATERIALIZED VIEW late")
        assert conn.execute("TABLE late").fetchone() == (120,)
        conn.execute("INSERT INTO t SELECT g, 1 FROM generate_series(121, 125) g")
    partition.undo(database.dsn, "t")
    with database.connect() as conn:
        assert conn.execute("SELECT (SELECT count(*) FROM m), (TABLE late)").fetchone() == (125, 125)
        conn.execute("DELETE FROM t WHERE id <= 25")
        conn.execute("REFRESH MATERIALIZED VIEW CONCURRENTLY m")
        assert conn.execute("SELECT count(*) FROM m").fetchone() == (100,)
    assert relkind(database.dsn) == "r"
    assert not traces(database.dsn)


def test_one_that_was_emptied_comes_back_empty(database: Database) -> None:
    _make(
        database,
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE MATERIALIZED VIEW m AS SELECT id FROM t",
    )
    partition.run(database.dsn, "t", OPTIONS)
    _make(database, "REFRESH MATERIALIZED VIEW m WITH NO DATA")
    partition.undo(database.dsn, "t")
    with database.connect() as conn, pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        conn.execute("TABLE m")


@pytest.mark.parametrize("back", [False, True])
def test_the_rows_are_those_of_one_moment(database: Database, back: bool) -> None:
    """Every transaction moves what one row has to another: the sum is the same at every moment."""
    _make(
        database,
        "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT g, 100 FROM generate_series(1, 5000) g;"
        "CREATE MATERIALIZED VIEW m AS SELECT sum(v) AS total, count(*) AS n FROM t;"
        "CREATE MATERIALIZED VIEW again AS SELECT m.total, (SELECT sum(v) FROM t) AS own FROM m",
    )
    stop, failures = threading.Event(), list[str]()

    def move(number: int) -> None:
        with database.connect() as conn:
            turn = number
            while not stop.is_set():
                turn += 7
                one, two = sorted((turn * 13 % 5000 + 1, turn * 29 % 5000 + 1))
                try:
                    with conn.transaction():
                        conn.execute("UPDATE t SET v = v - 1 WHERE id = %s", [one])
                        conn.execute("UPDATE t SET v = v + 1 WHERE id = %s", [two])
                except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
                    continue
                except psycopg.Error as error:
                    failures.append(str(error))
                    return

    threads = [threading.Thread(target=move, args=(n,), daemon=True) for n in range(3)]
    for thread in threads:
        thread.start()
    try:
        partition.run(database.dsn, "t", OPTIONS)
        if back:
            partition.undo(database.dsn, "t")
        found = _rows(database, "SELECT m.total, n, again.total, own FROM m, again")
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert not failures
    assert found == [(500_000, 5000, 500_000, 500_000)]


def test_the_owners_settings_are_those_of_a_refresh(database: Database) -> None:
    _make(
        database,
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz); INSERT INTO t VALUES (1, '2024-01-01 23:30+00');"
        "CREATE TABLE rights (who text); INSERT INTO rights VALUES ('seen'), ('hidden');"
        "CREATE MATERIALIZED VIEW m AS SELECT at::date AS day, at::text AS shown, who FROM t, rights",
    )
    with database.connect() as conn:
        conn.execute("ALTER ROLE CURRENT_USER SET timezone = 'Asia/Tokyo'")
        conn.execute("ALTER ROLE CURRENT_USER SET datestyle = 'German'")
        conn.execute("ALTER TABLE rights ENABLE ROW LEVEL SECURITY")
        conn.execute("ALTER TABLE rights FORCE ROW LEVEL SECURITY")
        conn.execute("CREATE POLICY p ON rights USING (who = 'seen')")
    with database.connect() as conn:
        conn.execute("REFRESH MATERIALIZED VIEW m")
        before = conn.execute("SELECT day::text, shown, who FROM m").fetchall()
    assert len(before) == 1
    partition.run(database.dsn, "t", OPTIONS)
    assert _rows(database, "SELECT day::text, shown, who FROM m") == before


# --- kills -------------------------------------------------------------------------------------------------

FORWARD = ("before:matviews", "after:matviews", "before:refresh", "after:refresh", "before:cutover")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("point", [*FORWARD, "after:cutover"])
def test_resume_finishes_a_run_killed_at(database: Database, point: str) -> None:
    _make(database, DDL.format(rows=5000) + SUMS)
    with TwinWriters(dsn=database.dsn, seed=1) as writers:
        assert pgscale(database.dsn, *RUN, kill_at=point).returncode == -9
        done = pgscale(database.dsn, "resume", "t")
        assert done.returncode == 0, done.stderr
    assert not writers.failures
    assert differences(database.dsn) == 0
    assert _rows(database, "SELECT (SELECT sum(total) FROM m) = (SELECT total FROM mm)") == [(True,)]
    _make(database, "REFRESH MATERIALIZED VIEW CONCURRENTLY m\n--\nREFRESH MATERIALIZED VIEW mm")
    assert _rows(database, "SELECT total = (SELECT sum(v) FROM t) FROM mm") == [(True,)]
    assert pgscale(database.dsn, "finish", "t").returncode == 0
    assert not [t for t in traces(database.dsn) if not t.startswith("table t_p")]


@pytest.mark.parametrize("point", FORWARD)
def test_abort_restores_a_run_killed_at(database: Database, point: str) -> None:
    _make(database, DDL.format(rows=2000) + SUMS)
    before = pg_dump_schema(database.dsn)
    oids = _rows(database, "SELECT 'm'::regclass::oid, 'mm'::regclass::oid")
    assert pgscale(database.dsn, *RUN, kill_at=point).returncode == -9
    aborted = pgscale(database.dsn, "abort", "t")
    assert aborted.returncode == 0, aborted.stderr
    assert traces(database.dsn) == []
    assert pg_dump_schema(database.dsn) == before
    assert _rows(database, "SELECT 'm'::regclass::oid, 'mm'::regclass::oid") == oids


@pytest.mark.sampled(2)
@pytest.mark.parametrize("point", ["before:refresh", "after:refresh"])
def test_undo_killed_at_goes_on(database: Database, point: str) -> None:
    _make(database, DDL.format(rows=2000) + SUMS)
    before = pg_dump_schema(database.dsn)
    assert pgscale(database.dsn, *RUN).returncode == 0
    with TwinWriters(dsn=database.dsn, seed=3) as writers:
        assert pgscale(database.dsn, "undo", "t", kill_at=point).returncode == -9
        time.sleep(0.2)
        undone = pgscale(database.dsn, "undo", "t")
        assert undone.returncode == 0, undone.stderr
    assert not writers.failures
    assert differences(database.dsn) == 0
    assert traces(database.dsn) == []
    assert pg_dump_schema(database.dsn) == before
    _make(database, "REFRESH MATERIALIZED VIEW CONCURRENTLY m\n--\nREFRESH MATERIALIZED VIEW mm")
    assert _rows(database, "SELECT total = (SELECT sum(v) FROM t) FROM mm") == [(True,)]


# --- what stands in the way --------------------------------------------------------------------------------


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "change",
    [
        "CREATE INDEX late ON m (n)",
        "DROP INDEX m_owner",
        "ALTER INDEX m_owner RENAME TO renamed",
        "ALTER MATERIALIZED VIEW m RENAME COLUMN n TO many",
        "DROP MATERIALIZED VIEW mm; CREATE MATERIALIZED VIEW mm AS SELECT max(total) AS total FROM m",
        "GRANT SELECT (n) ON m TO PUBLIC",
        "COMMENT ON INDEX m_owner IS 'other'",
        "CREATE STATISTICS s ON n, total FROM m",
        "CREATE MATERIALIZED VIEW late AS SELECT * FROM mm",
        "CREATE VIEW late AS SELECT * FROM mm",
        "ALTER MATERIALIZED VIEW mm CLUSTER ON mm_total",
    ],
)
def test_a_change_of_a_materialized_view_stops_the_run(database: Database, change: str) -> None:
    _make(database, DDL.format(rows=100) + SUMS + "; CREATE INDEX mm_total ON mm (total)")
    with WaitingRun(database.dsn, "t", OPTIONS) as run:
        _make(database, change)
        with pytest.raises(RunFailedError):
            partition.cutover(database.dsn, "t")
        run.join()
    assert "was changed while the run was on" in str(run.error)
    partition.abort(database.dsn, "t")
    assert traces(database.dsn) == []


def test_a_refresh_does_not_stop_the_run_but_a_change_stops_undo(database: Database) -> None:
    _make(database, DDL.format(rows=100) + SUMS)
    with WaitingRun(database.dsn, "t", OPTIONS) as run:
        _make(database, "REFRESH MATERIALIZED VIEW m\n--\nREFRESH MATERIALIZED VIEW CONCURRENTLY m\n--\nANALYZE m")
        partition.cutover(database.dsn, "t")
        run.join()
    _make(database, "REFRESH MATERIALIZED VIEW m\n--\nREFRESH MATERIALIZED VIEW mm\n--\nANALYZE m")
    _make(database, "CREATE INDEX late ON mm (total)")
    with pytest.raises(RunFailedError, match="changed since the cut-over"):
        partition.undo(database.dsn, "t")
    _make(database, "DROP INDEX late")
    partition.undo(database.dsn, "t")
    assert traces(database.dsn) == []


def test_a_reader_of_the_materialized_view_is_waited_for_in_short_attempts(database: Database) -> None:
    _make(database, DDL.format(rows=100) + SUMS)
    waited = threading.Event()

    def seen(progress: Progress) -> None:
        if progress.phase == "cutover" and "attempt" in progress.note:
            waited.set()

    with WaitingRun(database.dsn, "t", OPTIONS, seen) as run, database.connect() as reader:
        reader.execute("BEGIN; LOCK TABLE on_m IN ACCESS SHARE MODE")
        orders = threading.Thread(target=partition.cutover, args=(database.dsn, "t"))
        orders.start()
        assert waited.wait(30)
        # Others are not locked out for longer than an attempt takes.
        with database.connect() as other:
            other.execute("SET statement_timeout = '5s'")
            other.execute("UPDATE t SET v = v WHERE id = 1")
            other.execute("TABLE m")
        reader.execute("COMMIT")
        orders.join(30)
        run.join()
    assert relkind(database.dsn) == "p"


@pytest.mark.parametrize("back", [False, True])
def test_nobody_waits_while_it_is_computed_and_an_order_stops_it(database: Database, back: bool) -> None:
    _make(
        database,
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE TABLE delay (s) AS SELECT 0;"
        "CREATE MATERIALIZED VIEW m AS SELECT id, (SELECT pg_sleep(s)::text FROM delay) AS slept FROM t",
    )
    before = pg_dump_schema(database.dsn)
    if back:
        assert pgscale(database.dsn, *RUN).returncode == 0
    _make(database, "UPDATE delay SET s = 60")
    verb = ("undo", "t") if back else RUN
    working = threading.Thread(target=pgscale, args=(database.dsn, *verb), daemon=True)
    working.start()
    query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'REFRESH%' AND datname = current_database()"
    until = time.monotonic() + 30
    while _rows(database, query) != [(1,)]:
        assert time.monotonic() < until
        time.sleep(0.05)
    with database.connect() as conn:
        conn.execute("SET statement_timeout = '2s'")
        conn.execute("INSERT INTO t VALUES (2)")
        assert conn.execute("SELECT count(*) FROM m").fetchone() == (1,)
        conn.execute("DELETE FROM delay")
        if back:
            conn.execute(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
                " WHERE query LIKE 'REFRESH%' AND datname = current_database() AND state = 'active'"
            )
    if not back:
        partition.abort(database.dsn, "t")
    working.join(30)
    assert not working.is_alive()
    if back:
        assert relkind(database.dsn) == "p"
        partition.undo(database.dsn, "t")
        assert _rows(database, "SELECT count(*) FROM m") == [(2,)]
    assert traces(database.dsn) == []
    assert pg_dump_schema(database.dsn) == before


def test_a_query_that_fails_stops_the_run_before_the_swap(database: Database) -> None:
    _make(
        database,
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);"
        "CREATE MATERIALIZED VIEW m AS SELECT 1 / id FROM t; INSERT INTO t VALUES (0)",
    )
    with pytest.raises(RunFailedError, match=r"public\.m cannot be computed: division by zero"):
        partition.run(database.dsn, "t", OPTIONS)
    assert relkind(database.dsn) == "r"
    _make(database, "DELETE FROM t WHERE id = 0")
    assert partition.resume(database.dsn, "t").state == "cut-over"
    assert _rows(database, "TABLE m") == [(1,)]


def test_row_level_security_that_would_filter_is_refused(database: Database) -> None:
    with psycopg.connect(database.superuser_dsn, autocommit=True) as admin:
        role = f"{database.owner}_group"
        admin.execute(f"CREATE ROLE {role}; GRANT {role} TO {database.owner}")  # pyright: ignore[reportArgumentType, reportCallIssue] because names vary
    try:
        _make(database, "CREATE TABLE t (id int PRIMARY KEY); CREATE MATERIALIZED VIEW m AS SELECT id FROM t")
        _make(database, f"GRANT CREATE ON SCHEMA public TO {role}; ALTER MATERIALIZED VIEW m OWNER TO {role}")
        partition.plan(database.dsn, "t", OPTIONS)
        _make(database, "ALTER TABLE t ENABLE ROW LEVEL SECURITY")
        with pytest.raises(RefusedError, match="row-level security hides rows"):
            partition.plan(database.dsn, "t", OPTIONS)
    finally:
        with psycopg.connect(database.superuser_dsn, autocommit=True) as admin:
            admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")  # pyright: ignore[reportArgumentType, reportCallIssue] because names vary


def test_the_refusal_is_exit_code_4_and_the_plan_names_each_step(database: Database) -> None:
    _make(database, "CREATE TABLE t (id int PRIMARY KEY); CREATE MATERIALIZED VIEW m AS SELECT id FROM t")
    made = partition.plan(database.dsn, "t", OPTIONS)
    ids = [step.id for step in made.steps]
    assert (
        ids.index("attach") < ids.index("matviews") < ids.index("apply") < ids.index("refresh") < ids.index("cutover")
    )
    assert any("public.m is made again" in change for change in made.changes)
    _make(database, "CREATE FUNCTION of_row(m) RETURNS int LANGUAGE sql AS 'SELECT $1.id'")
    refused = pgscale(database.dsn, *RUN)
    assert refused.returncode == 4
    assert "of_row" in refused.stderr
    assert traces(database.dsn) == []
