"""The strategy `move`: what a statement does to the view is what it does to the table."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import errors

from pgscale import partition
from pgscale.core.model import Progress
from pgscale.errors import RefusedError, RunFailedError
from pgscale.partition import Options
from support.clients import pg_dump_schema
from support.crash import pgscale, relkind, traces
from support.servers import Database

RUN = ("run", "t", "--strategy", "move", "--by", "hash:id", "--partitions", "3", "--pace", "fast")


def _options(by: str = "hash:id", **more: Any) -> Options:
    partitions = 3 if by.startswith("hash") and "partitions" not in more else more.pop("partitions", None)
    return Options(by=by, partitions=partitions, pace="fast", strategy="move", **more)


@contextmanager
def _half_way(
    database: Database, ddl: str, *arguments: str, at: str = "after:view"
) -> Iterator[psycopg.Connection[Any]]:
    """A table whose run stopped behind the view; afterwards the run goes on and ends."""
    conn = database.connect()
    conn.execute(ddl)
    done = pgscale(database.dsn, *(arguments or RUN), kill_at=at)
    assert done.returncode == -9, done.stderr
    assert relkind(database.dsn) == "v"
    yield conn
    finished = pgscale(database.dsn, "resume", "t", "--json")
    assert finished.returncode == 0, finished.stderr
    assert relkind(database.dsn) == "p"


def _one(conn: psycopg.Connection[Any], query: str, *params: Any) -> Any:
    row = conn.execute(query, params).fetchone()
    return None if row is None else (row[0] if len(row) == 1 else row)


# --- the way through --------------------------------------------------------------------------------------

SIMPLE = (
    "CREATE TABLE t (id bigint PRIMARY KEY, at timestamp NOT NULL DEFAULT '2013-01-05', n int NOT NULL DEFAULT 0,"
    " note text);"
    "INSERT INTO t SELECT g, timestamp '2013-01-01' + g * interval '1 hour', 0, repeat('x', 50)"
    " FROM generate_series(1, 3000) g"
)


@pytest.mark.versions("all")
@pytest.mark.parametrize("by", ["hash:id", "range:at:month", "list:n"])
def test_every_row_moves(database: Database, by: str) -> None:
    conn = database.connect()
    conn.execute(SIMPLE)
    before = conn.execute("SELECT * FROM t ORDER BY id").fetchall()
    result = partition.run(database.dsn, "t", _options(by, accept_key_change=True))
    assert (result.state, result.rows_copied, result.strategy) == ("cut-over", 3000, "move")
    assert conn.execute("SELECT * FROM t ORDER BY id").fetchall() == before
    assert relkind(database.dsn) == "p"
    assert partition.finish(database.dsn, "t").state == "finished"
    assert [t for t in traces(database.dsn) if not t.startswith("table t_p")] == []


@pytest.mark.versions(14, 18)
def test_undo_moves_every_row_back(database: Database) -> None:
    conn = database.connect()
    conn.execute(SIMPLE)
    conn.execute("ALTER TABLE t SET (autovacuum_vacuum_threshold = 77, autovacuum_enabled = true)")
    dump = pg_dump_schema(database.dsn)
    partition.run(database.dsn, "t", _options())
    conn.execute("UPDATE t SET n = 1 WHERE id <= 10; INSERT INTO t VALUES (9000); DELETE FROM t WHERE id = 3000")
    after = conn.execute("SELECT * FROM t ORDER BY id").fetchall()
    assert partition.undo(database.dsn, "t").state == "undone"
    assert conn.execute("SELECT * FROM t ORDER BY id").fetchall() == after
    assert (relkind(database.dsn), traces(database.dsn)) == ("r", [])
    assert pg_dump_schema(database.dsn) == dump


def test_abort_moves_every_row_back(database: Database) -> None:
    conn = database.connect()
    conn.execute(SIMPLE.replace("3000", "20000"))
    dump = pg_dump_schema(database.dsn)
    assert pgscale(database.dsn, *RUN, kill_at="inside:move").returncode == -9
    conn.execute("UPDATE t SET n = 1 WHERE id % 3 = 0")
    after = conn.execute("SELECT * FROM t ORDER BY id").fetchall()
    assert partition.abort(database.dsn, "t").state == "aborted"
    assert conn.execute("SELECT * FROM t ORDER BY id").fetchall() == after
    assert (relkind(database.dsn), traces(database.dsn)) == ("r", [])
    assert pg_dump_schema(database.dsn) == dump


def _once_asked_to_abort(dsn: str, go_on: threading.Event) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        while not conn.execute("SELECT 1 FROM pgscale.run WHERE request = 'abort'").fetchone():
            time.sleep(0.02)
    go_on.set()


def test_another_process_aborts_a_live_run(database: Database) -> None:
    conn = database.connect()
    conn.execute(SIMPLE.replace("3000", "20000"))
    dump = pg_dump_schema(database.dsn)
    moving, go_on, errors_seen = threading.Event(), threading.Event(), list[BaseException]()

    def watch(progress: Progress) -> None:
        if progress.phase == "move" and progress.done * 3 > (progress.total or 1) and not moving.is_set():
            moving.set()
            go_on.wait(60)

    def run() -> None:
        try:
            partition.run(database.dsn, "t", _options(workers=1), watch=watch)
        except BaseException as error:  # noqa: BLE001 because it is looked at below
            errors_seen.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert moving.wait(60)
    assert relkind(database.dsn) == "v"
    threading.Thread(target=_once_asked_to_abort, args=(database.dsn, go_on), daemon=True).start()
    assert partition.abort(database.dsn, "t").state == "aborted"
    thread.join(60)
    assert "aborted by another process" in str(errors_seen[0])
    assert (relkind(database.dsn), traces(database.dsn)) == ("r", [])
    assert _one(conn, "SELECT count(*), count(DISTINCT id) FROM t") == (20_000, 20_000)
    assert pg_dump_schema(database.dsn) == dump


def test_autovacuum_is_held_off_and_given_back(database: Database) -> None:
    settings = "SELECT reloptions FROM pg_class WHERE relname = 't' AND relkind = 'r'"
    conn = database.connect()
    conn.execute(SIMPLE)
    conn.execute("ALTER TABLE t SET (fillfactor = 90, autovacuum_enabled = true, toast.autovacuum_enabled = true)")
    before = _one(conn, settings)
    assert pgscale(database.dsn, *RUN, kill_at="after:view").returncode == -9
    assert "autovacuum_enabled=false" in _one(conn, settings)
    partition.abort(database.dsn, "t")
    assert sorted(_one(conn, settings)) == sorted(before)


def test_without_a_cut_over_the_view_stays(database: Database) -> None:
    from support.waiting import WaitingRun  # noqa: PLC0415 because only this test waits

    conn = database.connect()
    conn.execute(SIMPLE)
    with WaitingRun(database.dsn, "t", _options()) as run:
        assert relkind(database.dsn) == "v"
        conn.execute("UPDATE t SET n = 5 WHERE id = 7")
        assert partition.cutover(database.dsn, "t").state == "cut-over"
        run.join()
    assert relkind(database.dsn) == "p"
    assert _one(conn, "SELECT n FROM t WHERE id = 7") == 5


# --- statements on the view -------------------------------------------------------------------------------

RICH = (
    "CREATE TABLE t (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, serial_no serial, n int NOT NULL DEFAULT 7"
    " CHECK (n >= 0), at timestamptz NOT NULL DEFAULT now(), twice int GENERATED ALWAYS AS (n * 2) STORED,"
    " who text DEFAULT current_user, doc json, UNIQUE (id, n));"
    "CREATE UNIQUE INDEX t_who_once ON t (lower(who), id) WHERE n > 100;"
    "INSERT INTO t (n, who, doc) SELECT g, 'w' || g, '{\"a\": 1}' FROM generate_series(1, 500) g"
)


@pytest.mark.versions("all")
def test_statements_behave_as_on_the_table(database: Database) -> None:
    with _half_way(database, RICH) as conn:
        row = _one(conn, "INSERT INTO t DEFAULT VALUES RETURNING id, serial_no, n, twice, who")
        assert row == (501, 501, 7, 14, database.owner)
        assert _one(conn, "INSERT INTO t (id, n) VALUES (DEFAULT, 3) RETURNING id, twice") == (502, 6)
        assert _one(conn, "INSERT INTO t (id, n) VALUES (9001, 3) RETURNING id") == 9001
        # A row of the old table and one of the new: changed, counted, returned with what was computed.
        for number in (5, 501):
            updated = conn.execute("UPDATE t SET n = n + 50 WHERE id = %s RETURNING n, twice", [number])
            assert updated.rowcount == 1
            n, twice = updated.fetchone() or (0, 0)
            assert twice == 2 * n
        assert conn.execute("UPDATE t SET n = n WHERE id BETWEEN 1 AND 10").rowcount == 10
        assert conn.execute("UPDATE t SET n = 1 WHERE id = -1").rowcount == 0
        assert conn.execute("DELETE FROM t WHERE id IN (11, 12, 502) RETURNING id").fetchall() == [(11,), (12,), (502,)]
        assert conn.execute("DELETE FROM t WHERE id IN (11, 12, 502)").rowcount == 0
        with conn.cursor().copy("COPY t (n, who) FROM STDIN") as copy:
            copy.write("41\tcopied\n42\tcopied\n")
        assert _one(conn, "SELECT count(*), sum(twice) FROM t WHERE who = 'copied'") == (2, 166)
        assert conn.execute(
            "WITH d AS (DELETE FROM t WHERE who = 'copied' RETURNING *) SELECT count(*) FROM d"
        ).fetchone() == (2,)
        for statement, error in (
            ("INSERT INTO t (n) VALUES (-1)", errors.CheckViolation),
            ("INSERT INTO t (n) VALUES (NULL)", errors.NotNullViolation),
            ("INSERT INTO t (id) VALUES (NULL)", errors.NotNullViolation),
            ("INSERT INTO t (twice) VALUES (3)", errors.GeneratedAlways),
            ("UPDATE t SET twice = 3 WHERE id = 20", errors.GeneratedAlways),
            ("UPDATE t SET n = -1 WHERE id = 20", errors.CheckViolation),
        ):
            with pytest.raises(error):
                conn.execute(statement)
        assert _one(conn, "SELECT pg_get_serial_sequence('t', 'serial_no')") == "public.t_serial_no_seq"
        last = _one(conn, "SELECT max(id) FROM t WHERE id < 9000")
    with database.connect() as conn:
        assert _one(conn, "INSERT INTO t (n) VALUES (1) RETURNING id") > last
        assert _one(conn, "SELECT pg_get_serial_sequence('t', 'id')") == "public.t_id_seq"


def test_an_identity_that_is_always_generated(database: Database) -> None:
    ddl = (
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int);"
        "INSERT INTO t (n) SELECT g FROM generate_series(1, 50) g"
    )
    with _half_way(database, ddl) as conn:
        assert _one(conn, "INSERT INTO t (n) VALUES (1) RETURNING id") == 51
        for statement in ("INSERT INTO t VALUES (77, 1)", "UPDATE t SET id = 77 WHERE id = 3"):
            with pytest.raises(errors.GeneratedAlways):
                conn.execute(statement)
        assert conn.execute("UPDATE t SET n = 9 WHERE id IN (3, 51)").rowcount == 2


def test_a_statement_that_meets_a_row_twice_changes_it_once(database: Database) -> None:
    with _half_way(database, SIMPLE) as conn:
        conn.execute("UPDATE t SET n = 1 WHERE id = 2")
        twice = "FROM (VALUES (1), (1), (2), (2)) v(id) WHERE v.id = t.id"
        for level in ("READ COMMITTED", "REPEATABLE READ"):
            with conn.transaction():
                conn.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
                conn.execute("SAVEPOINT s")
                assert conn.execute(f"UPDATE t SET n = n + 1 {twice}").rowcount == 2
        assert conn.execute("SELECT n FROM t WHERE id IN (1, 2) ORDER BY id").fetchall() == [(2,), (3,)]


def _write_behind(database: Database, statement: str, behind: str) -> psycopg.Cursor[Any]:
    """Run a statement that finds its row and waits, while another transaction changes that row and commits."""
    holder = database.connect(autocommit=False)
    holder.execute(behind)
    done: list[Any] = []

    def write() -> None:
        try:
            done.append(database.connect().execute(statement))
        except psycopg.Error as error:
            done.append(error)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND %s = ANY (pg_blocking_pids(pid))"
    until = time.monotonic() + 30
    with database.connect() as conn:
        while not done and not _one(conn, waiting, holder.info.backend_pid) and time.monotonic() < until:
            time.sleep(0.01)
    holder.commit()
    thread.join(30)
    if isinstance(done[0], psycopg.Error):
        raise done[0]
    return done[0]


@pytest.mark.parametrize("by", ["hash:id", "list:n"])
def test_a_row_that_is_gone_is_skipped_and_one_with_another_key_is_not(database: Database, by: str) -> None:
    run = ("run", "t", "--strategy", "move", "--by", by, "--pace", "fast", "--accept-key-change")
    with _half_way(database, SIMPLE, *run, *(("--partitions", "3") if by == "hash:id" else ())) as conn:
        conn.execute("UPDATE t SET note = 'new' WHERE id IN (2, 4, 6)")
        twice = "FROM (VALUES (1), (1), (2), (2)) v(id) WHERE v.id = t.id"
        for level in ("READ COMMITTED", "REPEATABLE READ"):
            with conn.transaction(force_rollback=level == "READ COMMITTED"):
                conn.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
                assert conn.execute(f"DELETE {twice.replace('FROM', 'FROM t USING', 1)}").rowcount == 2
        twice = twice.replace("(1)", "(3)").replace("(2)", "(4)")
        assert conn.execute(f"UPDATE t SET id = t.id + 100000 {twice}").rowcount == 2
        for number in (5, 6):
            # Deleted meanwhile: as on a table there is nothing to do.
            gone = _write_behind(
                database, f"UPDATE t SET n = n + 1 WHERE id = {number}", f"DELETE FROM t WHERE id = {number}"
            )
            assert gone.rowcount == 0
        conn.execute("UPDATE t SET note = 'new' WHERE id IN (9, 10)")
        for behind, numbers in (("id = id + 200000", (7, 9)), ("n = n + 7", (8, 10))):
            for number in numbers:
                with pytest.raises(errors.SerializationFailure):
                    _write_behind(
                        database,
                        f"UPDATE t SET n = n + 1 WHERE id = {number}",
                        f"UPDATE t SET {behind} WHERE id = {number}",
                    )
        assert conn.execute("SELECT count(*), sum(n) FROM t").fetchone() == (2996, 14)


def test_rights_hold_as_before(database: Database) -> None:
    reader, writer = database.create_role("reader"), database.create_role("writer")
    ddl = SIMPLE + (
        f"; GRANT SELECT ON t TO {reader}; GRANT SELECT (id, n), UPDATE (n), INSERT (id) ON t TO {writer};"
        f"GRANT DELETE ON t TO {writer}"
    )
    with _half_way(database, ddl):
        as_reader = database.connect(user=reader)
        assert _one(as_reader, "SELECT count(*) FROM t") == 3000
        for statement in (
            "DELETE FROM t",
            "UPDATE t SET n = 1",
            "INSERT INTO t VALUES (1)",
            "SELECT 1 FROM pgscale.run",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                as_reader.execute(statement)
        as_writer = database.connect(user=writer)
        assert as_writer.execute("UPDATE t SET n = 4 WHERE id IN (1, 2)").rowcount == 2
        assert as_writer.execute("INSERT INTO t (id) VALUES (70000)").rowcount == 1
        assert as_writer.execute("DELETE FROM t WHERE id = 70000").rowcount == 1
        for statement in ("UPDATE t SET note = '' WHERE id = 1", "INSERT INTO t (id, note) VALUES (70001, '')"):
            with pytest.raises(errors.InsufficientPrivilege):
                as_writer.execute(statement)


def test_what_hangs_on_the_table_follows(database: Database) -> None:
    ddl = SIMPLE + (
        "; CREATE TABLE o (id bigint PRIMARY KEY); INSERT INTO o SELECT generate_series(0, 3000);"
        "ALTER TABLE t ADD FOREIGN KEY (id) REFERENCES o ON DELETE CASCADE; CREATE VIEW w AS SELECT id, n FROM t;"
        "CREATE FUNCTION f() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM t; END;"
        "COMMENT ON TABLE t IS 'the table'; COMMENT ON COLUMN t.n IS 'a number'; CREATE STATISTICS s ON id, n FROM t;"
        "CREATE INDEX ON t (n, at)"
    )
    with _half_way(database, ddl) as conn:
        assert conn.execute("UPDATE w SET n = 3 WHERE id = 5").rowcount == 1
        assert _one(conn, "SELECT f()") == 3000
        assert conn.execute("DELETE FROM o WHERE id = 6").rowcount == 1
        assert _one(conn, "SELECT count(*) FROM w") == 2999
        with pytest.raises(errors.ForeignKeyViolation):
            conn.execute("INSERT INTO t VALUES (5000)")
        assert _one(conn, "SELECT obj_description('t'::regclass)") == "the table"
    with database.connect() as conn:
        assert (_one(conn, "SELECT f()"), _one(conn, "SELECT count(*) FROM w")) == (2999, 2999)
        assert conn.execute("DELETE FROM o WHERE id = 7").rowcount == 1
        assert _one(conn, "SELECT count(*) FROM w") == 2998
        assert (
            _one(conn, "SELECT 's'::text FROM pg_statistic_ext WHERE stxname = 's' AND stxrelid = 't'::regclass") == "s"
        )
        partition.undo(database.dsn, "t")
        assert (_one(conn, "SELECT f()"), _one(conn, "SELECT count(*) FROM w")) == (2998, 2998)


KEYS = (
    "CREATE TABLE t (id int NOT NULL, k int NOT NULL, email text, state text, a int, b int, PRIMARY KEY (id, k));"
    "CREATE UNIQUE INDEX t_email ON t (lower(email), k) WHERE state <> 'gone';"
    "CREATE UNIQUE INDEX t_ab ON t (a, b, k){};"
    "INSERT INTO t SELECT g, g %% 5, 'U' || g, CASE WHEN g > 90 THEN 'gone' ELSE 'here' END, g, NULLIF(g, 7)"
    " FROM generate_series(1, 100) g"
).replace("%%", "%")
BY_K = (*RUN[:5], "hash:k", *RUN[6:])


@pytest.mark.versions(14, 18)
def test_unique_keys_of_every_kind_hold_over_both_tables(database: Database, pg_version: int) -> None:
    nulls = " NULLS NOT DISTINCT" if pg_version >= 15 else ""
    with _half_way(database, KEYS.format(nulls), *BY_K) as conn:
        conn.execute("INSERT INTO t VALUES (501, 1, 'new', 'here', 501, NULL)")
        taken = [
            ("INSERT INTO t VALUES (1, 1)", "t_pkey"),
            ("INSERT INTO t VALUES (501, 1)", "t_pkey"),
            ("INSERT INTO t VALUES (601, 1, 'u1', 'here')", "t_email"),
            ("INSERT INTO t VALUES (601, 1, 'NEW', 'here')", "t_email"),
            ("INSERT INTO t VALUES (601, 1, 'x', 'here', 1, 1)", "t_ab"),
            ("UPDATE t SET state = 'here', email = 'u1' WHERE id = 91", "t_email"),
            ("UPDATE t SET id = 6 WHERE id = 1", "t_pkey"),
            ("UPDATE t SET id = 501 WHERE id = 1", "t_pkey"),
            ("UPDATE t SET a = 6, b = 6 WHERE id = 501", "t_ab"),
        ]
        if nulls:
            taken += [
                ("INSERT INTO t VALUES (601, 2, 'x', 'here', 7, NULL)", "t_ab"),
                ("INSERT INTO t VALUES (601, 1, 'x', 'here', 501, NULL)", "t_ab"),
            ]
        for statement, constraint in taken:
            with pytest.raises(errors.UniqueViolation) as info:
                conn.execute(statement)
            assert info.value.diag.constraint_name == constraint, statement
        free = (
            "INSERT INTO t VALUES (1, 2, 'u1', 'here', 1, 1)",
            "INSERT INTO t VALUES (602, 1, 'u91', 'here')",
            "INSERT INTO t VALUES (603, 1, 'u1', 'gone', 603, 1)",
            "UPDATE t SET email = 'U11' WHERE id = 11",
            "UPDATE t SET email = lower(email) WHERE id IN (12, 501)",
            "DELETE FROM t WHERE id = 13; INSERT INTO t VALUES (13, 3, 'u13', 'here', 13, 13)",
        )
        for statement in free:
            conn.execute(statement)


def test_a_key_that_has_grown_stands_in_the_way_back(database: Database) -> None:
    conn = database.connect()
    conn.execute(SIMPLE)
    partition.run(database.dsn, "t", _options("list:n", accept_key_change=True))
    conn.execute("INSERT INTO t (id, n) VALUES (5, 1)")
    with pytest.raises(RunFailedError, match="break a key of the old table"):
        partition.undo(database.dsn, "t")
    assert relkind(database.dsn) == "v"
    assert _one(conn, "SELECT count(*) FROM t") == 3001
    assert conn.execute("DELETE FROM t WHERE id = 5 AND n = 1").rowcount == 1
    assert partition.resume(database.dsn, "t").state == "undone"
    assert (relkind(database.dsn), _one(conn, "SELECT count(*) FROM t")) == ("r", 3000)


@pytest.mark.parametrize("held", ["a row that is locked", "an old snapshot"])
def test_more_rows_do_not_move_while_the_tail_is_held(database: Database, held: str) -> None:
    conn = database.connect()
    conn.execute(SIMPLE.replace("3000", "20000"))
    assert pgscale(database.dsn, *RUN, kill_at="after:view").returncode == -9
    old = _one(conn, "SELECT oid::regclass::text FROM pg_class WHERE relname = 't' AND relkind = 'r'")
    pages = _one(conn, "SELECT pg_relation_size(%s::regclass) / 8192", old)
    holder = database.connect(autocommit=False)
    if held == "an old snapshot":
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert holder.execute("SELECT count(*) FROM t").fetchone() == (20_000,)
    else:
        holder.execute("UPDATE t SET n = 1 WHERE id = 20000")
    notes: list[str] = []
    seen = threading.Event()

    def watch(progress: Progress) -> None:
        if progress.phase == "waiting" and "moving more now would need more disk" in progress.note:
            notes.append(progress.note)
            seen.set()

    thread = threading.Thread(target=partition.resume, args=(database.dsn, "t", watch))
    thread.start()
    assert seen.wait(60)
    # Nobody else waits for the run, and it has not gone on.
    assert conn.execute("UPDATE t SET n = 1 WHERE id IN (1, 19999)").rowcount == 2
    assert _one(conn, "SELECT count(*) FROM t") == 20_000
    moved = _one(conn, "SELECT sum(row_count) FROM pgscale.chunk WHERE phase = 'moved'")
    assert moved < 20_000 * 130 / pages
    (status,) = partition.status(database.dsn, "t")
    assert (status.pages_total, status.phase) == (pages, "move")
    if held == "an old snapshot":
        assert str(holder.info.backend_pid) in notes[-1]
        assert holder.execute("SELECT count(*), sum(n) FROM t").fetchone() == (20_000, 0)
    holder.commit()
    holder.close()
    thread.join(60)
    assert not thread.is_alive()
    assert relkind(database.dsn) == "p"
    assert _one(conn, "SELECT count(*), count(DISTINCT id) FROM t") == (20_000, 20_000)


def test_what_came_before_the_view_cannot_write_behind_it(database: Database) -> None:
    """A snapshot older than the swap may not see a row of the old table: a duplicate of it must not get in."""
    conn = database.connect()
    conn.execute(SIMPLE)
    older = database.connect(autocommit=False)
    older.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    older.execute("SELECT 1")
    conn.execute("INSERT INTO t VALUES (5000)")
    assert pgscale(database.dsn, *RUN, kill_at="after:view").returncode == -9
    assert _one(older, "SELECT count(*) FROM t") == 3000
    with pytest.raises(errors.SerializationFailure):
        older.execute("INSERT INTO t VALUES (5000)")
    older.rollback()
    with pytest.raises(errors.UniqueViolation) as info:
        older.execute("INSERT INTO t VALUES (5000)")
    older.rollback()
    assert info.value.diag.constraint_name == "t_pkey"
    older.close()
    partition.abort(database.dsn, "t")


# --- what others do meanwhile -----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["resume", "abort"])
def test_what_is_changed_while_rows_move_stays_changed(database: Database, way: str) -> None:
    reader, other = database.create_role("reader"), database.create_role("other")
    conn = database.connect()
    conn.execute(SIMPLE)
    conn.execute(
        f"GRANT SELECT, INSERT (id) ON t TO {reader}; CREATE VIEW w AS SELECT id, n, note FROM t;"
        "CREATE FUNCTION f() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM t; END;"
        "CREATE VIEW gone AS SELECT n FROM t"
    )
    assert pgscale(database.dsn, *RUN, kill_at="after:view").returncode == -9
    conn.execute(
        f"REVOKE ALL ON t FROM {reader}; GRANT UPDATE (n), SELECT ON t TO {other} WITH GRANT OPTION;"
        "CREATE OR REPLACE VIEW w AS SELECT id, n, note, at FROM t WHERE id > 2990;"
        "CREATE VIEW later AS SELECT n FROM t;"
        "CREATE OR REPLACE FUNCTION f() RETURNS bigint BEGIN ATOMIC SELECT -count(*) FROM t; END; DROP VIEW gone;"
        "ALTER TABLE t ALTER COLUMN n SET DEFAULT 42; ALTER TABLE t ALTER COLUMN at DROP DEFAULT"
    )
    ended = pgscale(database.dsn, way, "t")
    assert ended.returncode == 0, ended.stderr
    assert relkind(database.dsn) == ("p" if way == "resume" else "r")
    with pytest.raises(errors.InsufficientPrivilege):
        database.connect(user=reader).execute("SELECT 1 FROM t")
    assert database.connect(user=other).execute("UPDATE t SET n = 1 WHERE id = 1").rowcount == 1
    assert _one(conn, "SELECT count(*), count(at), (SELECT count(*) FROM later), f() FROM w") == (10, 10, 3000, -3000)
    assert _one(conn, "SELECT to_regclass('gone')") is None
    assert _one(conn, "INSERT INTO t (id, at) VALUES (5000, now()) RETURNING n") == 42
    with pytest.raises(errors.NotNullViolation):
        conn.execute("INSERT INTO t (id) VALUES (5001)")


def test_plans_that_sessions_keep_follow_the_table_through_the_run(database: Database) -> None:
    conn = database.connect()
    conn.execute(SIMPLE)
    conn.execute(
        "CREATE FUNCTION app(x bigint) RETURNS int LANGUAGE plpgsql AS $$DECLARE r t%ROWTYPE; BEGIN"
        " UPDATE t SET n = n + 1 WHERE id = x; SELECT * INTO STRICT r FROM t WHERE id = x; RETURN r.n; END$$;"
        "PREPARE up AS UPDATE t SET n = n + 1 WHERE id = $1; PREPARE all_of AS SELECT * FROM t WHERE id = $1;"
        "PREPARE put AS INSERT INTO t VALUES ($1) RETURNING id; SET plan_cache_mode = force_generic_plan"
    )

    def use(number: int) -> None:
        for one in (1, 3000):
            assert conn.execute(f"EXECUTE up({one})").rowcount == 1
            assert _one(conn, f"SELECT app({one})") == 2 * number
            assert _one(conn, f"EXECUTE all_of({one})")[2] == 2 * number
        assert _one(conn, f"EXECUTE put({5000 + number})") == 5000 + number

    use(1)
    assert pgscale(database.dsn, *RUN, kill_at="after:view").returncode == -9
    use(2)
    partition.resume(database.dsn, "t")
    use(3)
    partition.undo(database.dsn, "t")
    use(4)
    assert _one(conn, "SELECT count(*) FROM t") == 3004


def test_a_check_that_rests_on_the_search_path_stops_the_run_before_the_view(database: Database) -> None:
    conn = database.connect()
    conn.execute(SIMPLE)
    conn.execute(
        "CREATE TABLE allowed (n int); INSERT INTO allowed VALUES (0), (1);"
        "CREATE FUNCTION ok(x int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN x IN (SELECT n FROM allowed); END';"
        "ALTER TABLE t ADD CHECK (ok(n))"
    )
    dump = pg_dump_schema(database.dsn)
    with pytest.raises(RunFailedError, match=r"cannot be moved: .*allowed") as info:
        partition.run(database.dsn, "t", _options())
    assert "search_path" in info.value.hint
    assert relkind(database.dsn) == "r"
    partition.abort(database.dsn, "t")
    assert pg_dump_schema(database.dsn) == dump
    conn.execute("ALTER FUNCTION ok SET search_path = public")
    assert partition.run(database.dsn, "t", _options()).state == "cut-over"


def test_an_identity_serves_whom_default_privileges_give_nothing(database: Database) -> None:
    writer = database.create_role("writer")
    ddl = (
        "ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM PUBLIC;"
        "CREATE TABLE t (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, n int);"
        f"INSERT INTO t (n) VALUES (1), (2); GRANT INSERT, SELECT ON t TO {writer}"
    )
    with _half_way(database, ddl):
        assert _one(database.connect(user=writer), "INSERT INTO t (n) VALUES (3) RETURNING id") == 3


# --- refusals ---------------------------------------------------------------------------------------------

REFUSED = (
    ("CREATE TABLE r (id int REFERENCES t)", "Foreign key r_id_fkey"),
    (
        "CREATE FUNCTION tf() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER mine BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION tf()",
        "Trigger mine",
    ),
    ("ALTER TABLE t ENABLE ROW LEVEL SECURITY", "row-level security"),
    ("CREATE MATERIALIZED VIEW mv AS SELECT * FROM t", "Materialized view public.mv"),
    ("CREATE VIEW g AS SELECT id, n FROM t GROUP BY id", "View public.g relies on the primary key"),
    ("ALTER TABLE t ADD CONSTRAINT late UNIQUE (id, n) DEFERRABLE", "Unique key late is DEFERRABLE"),
    ("ALTER TABLE t ADD CONSTRAINT nv CHECK (n > 5) NOT VALID", "Constraint nv is NOT VALID"),
    ("CREATE PUBLICATION p_of_move FOR TABLE t", "Publication p_of_move"),
    (
        "CREATE TABLE o (id bigint PRIMARY KEY);"
        "ALTER TABLE t ADD o bigint CONSTRAINT fk REFERENCES o ON DELETE SET NULL",
        "Foreign key fk changes rows",
    ),
    (
        "CREATE FUNCTION app() RETURNS void LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.t (id) VALUES (1)"
        " ON CONFLICT DO NOTHING; END$$",
        "ON CONFLICT, which a view refuses: function public.app",
    ),
    (
        "CREATE FUNCTION lock_it() RETURNS int LANGUAGE sql AS 'SELECT n FROM t WHERE id = 1 FOR UPDATE'",
        "FOR UPDATE or SHARE, which locks nothing through a view: function public.lock_it",
    ),
)


@pytest.mark.parametrize(("ddl", "named"), REFUSED)
def test_what_a_view_cannot_carry_is_refused(database: Database, ddl: str, named: str) -> None:
    conn = database.connect()
    conn.execute(SIMPLE)
    conn.execute(ddl)
    dump = pg_dump_schema(database.dsn)
    with pytest.raises(RefusedError) as info:
        partition.run(database.dsn, "t", _options())
    assert any(named in reason for reason in info.value.reasons), info.value.reasons
    assert "mirror" in info.value.hint
    assert pg_dump_schema(database.dsn) == dump


def test_a_view_loses_what_a_replica_role_writes(database: Database) -> None:
    """Why the setting is looked for: no trigger of a view can be made to fire ALWAYS."""
    with _half_way(database, SIMPLE), psycopg.connect(database.superuser_dsn, autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica")
        assert admin.execute("INSERT INTO public.t VALUES (5000)").rowcount == 1
        assert _one(admin, "SELECT count(*) FROM public.t") == 3000
        admin.execute(
            f"ALTER ROLE {database.owner} SET session_replication_role = replica; CREATE TABLE public.u (id int)"
        )
        admin.execute(f"ALTER TABLE public.u OWNER TO {database.owner}; ALTER TABLE public.u ADD PRIMARY KEY (id)")
        with pytest.raises(RefusedError) as info:
            partition.plan(database.dsn, "u", _options())
        (reason,) = info.value.reasons
        assert f"lost without an error: role {database.owner}" in reason
        admin.execute(f"ALTER ROLE {database.owner} RESET session_replication_role")


SEEN = (
    ("INSERT INTO t (id) VALUES (1) ON CONFLICT (id) DO NOTHING", "INSERT … ON CONFLICT"),
    ("SELECT n FROM public.t WHERE id = 1 FOR UPDATE", "FOR UPDATE or SHARE"),
    ("SELECT t.n FROM t FOR SHARE SKIP LOCKED", "FOR UPDATE or SHARE"),
    ("COPY t TO STDOUT", "COPY … TO"),
    ("SELECT ctid FROM t LIMIT 1", "a system column"),
)
HARMLESS = (
    "SELECT n FROM t WHERE id = 1 -- for update",
    "INSERT INTO u (id) VALUES (1) ON CONFLICT DO NOTHING",
    "SELECT count(*) FROM t WHERE note = 'truncate t; on conflict'",
    "UPDATE t SET n = 2 WHERE id = 3",
)


@pytest.mark.versions(15)
def test_statements_seen_are_refused(private_server, database_factory) -> None:
    server = private_server({"shared_preload_libraries": "pg_stat_statements"}, version=15)
    database = database_factory(server)
    with psycopg.connect(database.superuser_dsn, autocommit=True) as admin:
        admin.execute("CREATE EXTENSION pg_stat_statements")
        admin.execute(f"GRANT pg_read_all_stats TO {database.owner}")
    conn = database.connect()
    conn.execute(SIMPLE + "; CREATE TABLE u (id int PRIMARY KEY)")
    for statement in HARMLESS:
        conn.execute(statement)
    assert partition.plan(database.dsn, "t", _options()).unchecked == ()
    for statement, _ in SEEN:
        if statement.startswith("COPY"):
            with conn.cursor().copy(statement) as copy:
                list(copy)
        else:
            conn.execute(statement)
    conn.execute("TRUNCATE t")
    with pytest.raises(RefusedError) as info:
        partition.plan(database.dsn, "t", _options())
    reasons = "\n".join(info.value.reasons)
    for what in (*(named for _, named in SEEN), "TRUNCATE"):
        assert what in reasons
    assert len(info.value.reasons) == len(SEEN) + 1, reasons
    shown = pgscale(database.dsn, "plan", "t", "--strategy", "move", "--by", "hash:id", "--partitions", "3", "--json")
    assert (shown.returncode, len(json.loads(shown.stdout)["refused"])) == (4, len(SEEN) + 1)


def test_what_was_not_looked_at_is_said(database: Database) -> None:
    database.connect().execute(SIMPLE)
    (unchecked,) = partition.plan(database.dsn, "t", _options()).unchecked
    assert "ON CONFLICT" in unchecked
    assert "not installed" in unchecked


def test_a_view_locks_nothing_for_update(database: Database) -> None:
    """Why FOR UPDATE is looked for: through the view it is accepted, and does nothing."""
    with _half_way(database, SIMPLE) as conn:
        holder = database.connect(autocommit=False)
        holder.execute("SELECT n FROM t WHERE id = 1 FOR UPDATE")
        conn.execute("SET lock_timeout = '500ms'")
        assert conn.execute("UPDATE t SET n = 9 WHERE id = 1").rowcount == 1
        holder.rollback()
        with pytest.raises(psycopg.Error) as info:
            conn.execute("INSERT INTO t (id) VALUES (1) ON CONFLICT DO NOTHING")
        assert info.value.sqlstate is not None
