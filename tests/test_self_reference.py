"""Foreign keys of a partitioned table: how many objects the swap makes under its lock, and that settling reads no row
while writers are kept out."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from pgscale import partition
from pgscale.partition import Options
from support import parity
from support.crash import pgscale
from support.servers import Database

ROWS = 2_000


def _tree(database: Database) -> psycopg.Connection[Any]:
    conn = database.connect()
    conn.execute(
        "CREATE TABLE p (id int PRIMARY KEY); INSERT INTO p VALUES (1);"
        "CREATE TABLE t (id int PRIMARY KEY, parent int CONSTRAINT up REFERENCES t, f int REFERENCES p,"
        " lost int CONSTRAINT away REFERENCES t ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED);"
        "COMMENT ON CONSTRAINT up ON t IS 'a tree'"
    )
    conn.execute(f"INSERT INTO t SELECT g, NULLIF(g / 2, 0), 1, g FROM generate_series(1, {ROWS}) g")
    return conn


def _run(database: Database, leaves: int, kill_at: str) -> None:
    killed = pgscale(
        database.dsn, "run", "t", "--by", "hash:id", "--partitions", str(leaves), "--pace", "fast", kill_at=kill_at
    )
    assert killed.returncode == -9, killed.stderr


def _foreign_keys(conn: psycopg.Connection[Any], name: str) -> int:
    """How many constraints there are for one self-reference, those for each partition included."""
    row = conn.execute(
        "WITH RECURSIVE k AS (SELECT oid FROM pg_constraint WHERE contype = 'f' AND conname = %s AND conparentid = 0"
        " UNION SELECT c.oid FROM pg_constraint c JOIN k ON c.conparentid = k.oid) SELECT count(*) FROM k",
        [name],
    ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("leaves", [4, 12])
@pytest.mark.versions(14, 17, 18)
def test_a_self_reference_is_enforced_from_the_swap_on_with_few_objects(
    database: Database, pg_version: int, leaves: int
) -> None:
    conn = _tree(database)
    _run(database, leaves, "after:cutover")
    # Before 18 each leaf has a constraint of its own, and that has one for each partition.
    expected = 2 * leaves + 1 if pg_version >= 18 else leaves * (leaves + 1)
    assert _foreign_keys(conn, "up") == expected
    for statement in (
        "INSERT INTO t VALUES (5000, 6000, 1)",
        "UPDATE t SET parent = 6000 WHERE id = 7",
        "DELETE FROM t WHERE id = 2",
        "INSERT INTO t VALUES (5000, NULL, 9)",
        "DELETE FROM p",
        "INSERT INTO t VALUES (5000, NULL, 1, 6000)",
    ):
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            conn.execute(statement)  # pyright: ignore[reportArgumentType, reportCallIssue] because names vary
    done = pgscale(database.dsn, "resume", "t")
    assert done.returncode == 0, done.stderr
    assert _foreign_keys(conn, "up") == 2 * leaves + 1
    lax = conn.execute("SELECT conname FROM pg_constraint WHERE contype = 'f' AND NOT convalidated").fetchall()
    assert lax == []
    comment = "SELECT obj_description(oid) FROM pg_constraint WHERE conname = 'up' AND conrelid = 't'::regclass"
    assert conn.execute(comment).fetchone() == ("a tree",)


@pytest.mark.sampled(2)
@pytest.mark.versions(14, 18)
@pytest.mark.parametrize("settled", [False, True], ids=["not settled", "settled"])
def test_a_self_reference_can_be_undone(database: Database, settled: bool) -> None:
    conn = _tree(database)
    before = parity.dump_schema(database.superuser_dsn)
    _run(database, 4, "after:cutover")
    if settled:
        assert pgscale(database.dsn, "resume", "t").returncode == 0
    conn.execute("INSERT INTO t VALUES (5000, 1, 1, 1)")
    assert partition.undo(database.dsn, "t").state == "undone"
    parity.assert_identical(before, parity.dump_schema(database.superuser_dsn))
    assert conn.execute("SELECT count(*) FROM t").fetchone() == (ROWS + 1,)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        conn.execute("INSERT INTO t VALUES (5001, 6000, 1)")


READ = (
    "SELECT COALESCE(sum(seq_tup_read + COALESCE(idx_tup_fetch, 0)), 0)::int FROM pg_stat_xact_user_tables"
    " WHERE schemaname = 'public'"
)
KEEPS_WRITERS_OUT = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")


@pytest.mark.versions(14, 16, 17, 18)
def test_settling_reads_no_row_under_a_lock_that_keeps_writers_out(database: Database, pg_version: int) -> None:
    conn = _tree(database)
    _run(database, 4, "before:settle:0")
    row = conn.execute("SELECT plan FROM pgscale.run").fetchone()
    assert row is not None
    groups = row[0]["statements"]["settle"]
    assert len(groups) == 3 * 5
    read_in_all, blocking = 0, 0
    for statements in groups:
        with conn.transaction():
            # The counters begin with what the session has not reported yet.
            before = conn.execute(READ).fetchone()
            for statement in statements:
                conn.execute(statement)
            kept_out = conn.execute(
                "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE l.pid = pg_backend_pid()"
                " AND c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND l.mode = ANY(%s)",
                [list(KEEPS_WRITERS_OUT)],
            ).fetchone()
            read = conn.execute(READ).fetchone()
            assert kept_out is not None
            assert before is not None
            assert read is not None
            if kept_out[0]:
                blocking += 1
                assert read == before, statements
            read_in_all += read[0] - before[0]
    assert read_in_all > ROWS, "the validations of the leaves do read"
    # The parent's constraint is made after the swap before 18, and only marked as proved from 18 on.
    assert blocking == (0 if pg_version >= 18 else 3)
    lax = conn.execute("SELECT conname FROM pg_constraint WHERE contype = 'f' AND NOT convalidated").fetchall()
    assert lax == []


@pytest.mark.versions(17, 18)
def test_plan_warns_of_a_self_reference_that_locks_for_long(database: Database, pg_version: int) -> None:
    _tree(database)
    for leaves, words in ((4, ()), (30, ("540 ms", "30 partitions")), (64, ("2458 ms", "beyond --max-block 1000 ms"))):
        planned = partition.plan(database.dsn, "t", Options(by="hash:id", partitions=leaves))
        warned = [w for w in planned.warnings if "references itself" in w]
        assert len(warned) == (1 if words and pg_version < 18 else 0)
        for word in words:
            assert all(word in warning for warning in warned)
        assert json.loads(json.dumps(planned.to_json()))["warnings"] == list(planned.warnings)
