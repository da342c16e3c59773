"""`pgscale dead-letters`: what is kept is shown, written again exactly once, and dropped."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from pgscale import write
from pgscale.cli.app import app
from pgscale.errors import ConnectError, PermissionDeniedError, UsageError
from pgscale.write.dead_letters.reader import Filter
from pgscale.write.dead_letters.runner import Retried, drop_letters, retry_letters
from support.cli import pgscale
from support.servers import Database

TABLES = """
CREATE SCHEMA app;
CREATE TABLE parent (id integer PRIMARY KEY);
CREATE TABLE child (id integer PRIMARY KEY, pid integer REFERENCES parent, data bytea, at timestamptz);
CREATE TABLE app.counts (k text PRIMARY KEY, n integer CHECK (n < 10));
"""


def _run(database: Database, line: str) -> tuple[int, str]:
    """As a user would: the exit code and what was printed."""
    done = pgscale("dead-letters", *shlex.split(line), "--dsn", database.dsn)
    assert "Traceback" not in done.err, done.err
    return done.exit_code, done.out or done.err


@pytest.fixture
def conn(database: Database) -> psycopg.Connection[Any]:
    connection = database.connect()
    connection.execute(TABLES.encode())
    return connection


def _fill(conn: psycopg.Connection[Any]) -> None:
    """1 and 2 wait for parents, 3 has a key that is there, 4 is of an upsert, 5 has no names, 6 is for the eye."""
    rows = [(1, 7, b"\x00\xff", None), (2, 8, None, None), (3, None, None, None), (3, None, b"", None)]
    write.copy(conn, "child", rows, None, write.DeadLetters(source="night"))
    write.upsert(conn, "app.counts", [("a", 4)], ["k"], {"n": "add"}, ["k", "n"])
    write.upsert(conn, "app.counts", [("a", 9)], ["k"], {"n": "add"}, ["k", "n"], write.DeadLetters(source="sums"))
    write.copy(conn, "parent", [(1, 2), (1,), ({1},)], ["id"], write.DeadLetters())
    conn.execute("UPDATE pgscale.dead_letter SET at = now() - interval '3 days' WHERE source = 'sums'")


def test_list_retry_drop(conn: psycopg.Connection[Any], database: Database) -> None:
    assert _run(database, "list") == (0, "0 dead letters.\n")
    assert _run(database, "retry --all") == (0, "0 rows written, 0 failed again and stay.\n")
    assert _run(database, "drop --all") == (0, "0 dead letters dropped.\n")
    _fill(conn)
    code, text = _run(database, "list --limit 1")
    assert code == 0
    assert re.search(
        r"^1  \d{4}-\S+ \S+  public\.child row 0, column pid from night\n    insert or update .*\(23503\)\n", text
    )
    assert '"data": {"$": "bytes", "v": "00ff"}' in text
    assert text.endswith("6 dead letters; 1 of them are shown, --limit shows more.\n")
    code, text = _run(database, "list --table counts --older-than 2d --json")
    (letter,) = json.loads(text)["letters"]
    assert (letter["table"], letter["merge"], letter["sqlstate"]) == (
        "app.counts", {"key": ["k"], "rules": {"n": "add"}}, "23514"
    )  # fmt: skip
    for line, total in (("1 2 99", 2), ("--source night", 3), ("--sqlstate 23505", 1), ("--newer-than 1h", 5),
                        ("--table public.child --source sums", 0), ("--table app.counts", 1)):  # fmt: skip
        assert json.loads(_run(database, f"list --json {line}")[1])["total"] == total, line

    conn.execute("INSERT INTO parent VALUES (7); UPDATE app.counts SET n = -2")
    code, text = _run(database, "retry --all --json")
    found = json.loads(text)
    assert (code, found["written"], found["failed"], found["gone"]) == (1, 2, 4, 0)
    assert {one["id"]: one["reason"] for one in found["failures"]} == {
        2: 'insert or update on table "child" violates foreign key constraint "child_pid_fkey" (23503)',
        3: 'duplicate key value violates unique constraint "child_pkey" (23505)',
        5: "The row has no names of columns, so it is not known where its values go.",
        6: "A value of type builtins.set was kept for the eye only: {1}."
        " Drop the letter, and write the row from where it came.",
    }
    assert conn.execute("SELECT id, pid, data FROM child ORDER BY id").fetchall() == [
        (1, 7, b"\x00\xff"),
        (3, None, None),
    ]
    assert conn.execute("SELECT * FROM app.counts").fetchall() == [("a", 7)]
    tries = conn.execute("SELECT id, tries FROM pgscale.dead_letter ORDER BY id").fetchall()
    assert tries == [(2, 1), (3, 1), (5, 1), (6, 1)]
    assert "tried again 1 time\n" in _run(database, "list 2")[1]

    assert _run(database, "drop 3 99") == (0, "1 dead letter dropped.\n")
    assert _run(database, "drop --source night") == (0, "1 dead letter dropped.\n")
    assert _run(database, "drop --older-than 1h") == (0, "0 dead letters dropped.\n")
    for line in ("retry", "drop", "drop --all 5"):
        code, text = _run(database, line)
        assert (code, "Say which letters" in text) == (2, True)


def _places(conn: psycopg.Connection[Any]) -> tuple[Any, ...] | None:
    """How many rows are in the table, how many different ones, and how many letters there are."""
    return conn.execute(
        "SELECT count(*), count(DISTINCT n), (SELECT count(*) FROM pgscale.dead_letter) FROM log"
    ).fetchone()


def test_each_row_is_written_once_whoever_retries(conn: psycopg.Connection[Any], database: Database) -> None:
    conn.execute("CREATE TABLE log (n integer, pid integer REFERENCES parent)")
    write.copy(conn, "log", [(n, 5) for n in range(1_500)], None, write.DeadLetters())
    conn.execute("INSERT INTO parent VALUES (5)")
    results: list[Retried] = []
    threads = [threading.Thread(target=lambda: results.append(retry_letters(database.dsn, Filter()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one.written for one in results) == 1_500
    assert [one.failed for one in results] == [0, 0, 0]
    assert _places(conn) == (1_500, 1_500, 0)


def test_many_letters_go_in_one_transaction(conn: psycopg.Connection[Any], database: Database) -> None:
    """Those that are bad still keep none of the others; rows of one table are written in their order."""
    conn.execute(
        "CREATE TABLE log (n integer, pid integer REFERENCES parent, x text, tx xid8 DEFAULT pg_current_xact_id());"
        "CREATE TABLE last (k integer PRIMARY KEY, v integer, w integer, CHECK (v > 0))"
    )
    bad = {7, 499, 500, 1_199}
    rows: list[Any] = [{"n": n, "pid": 6 if n in bad else 5} for n in range(1_200)]
    write.copy(conn, "log", rows, None, write.DeadLetters())
    # Letters of a table between those of another, and some that name other columns.
    for row in ({"k": 1, "v": -1}, {"k": 1, "v": -2, "w": 2}, {"k": 1, "v": -3}):
        write.upsert(conn, "last", [row], ["k"], None, None, write.DeadLetters())
    write.copy(conn, "log", [{"n": 1_200, "pid": 5, "x": "x"}], None, write.DeadLetters())
    conn.execute("INSERT INTO parent VALUES (5); ALTER TABLE last DROP CONSTRAINT last_v_check")
    seen: list[tuple[int, int]] = []
    result = retry_letters(database.dsn, Filter(), lambda done, total: seen.append((done, total)))
    assert (result.written, result.failed, result.gone) == (1_200, 4, 0)
    assert (seen[-1], len(seen) < 8) == ((1_204, 1_204), True)
    assert conn.execute("SELECT count(*), count(DISTINCT n), count(DISTINCT tx) < 8 FROM log").fetchone() == (
        1_197, 1_197, True
    )  # fmt: skip
    assert conn.execute("SELECT * FROM last").fetchall() == [(1, -3, 2)]
    left = conn.execute("SELECT row_index, tries, column_name, sqlstate, reason FROM pgscale.dead_letter ORDER BY id")
    reason = 'insert or update on table "log" violates foreign key constraint "log_pid_fkey"'
    assert left.fetchall() == [(n, 1, "pid", "23503", reason) for n in sorted(bad)]


def test_what_is_found_out_late_is_the_fault_of_few(conn: psycopg.Connection[Any], database: Database) -> None:
    """At COMMIT nobody knows which row it was, a trigger that leaves rows out does not tell, and a batch may be too
    much for the server: then fewer are tried at a time."""
    conn.execute(
        "CREATE TABLE audit (pid integer REFERENCES parent DEFERRABLE INITIALLY DEFERRED);"
        "CREATE TABLE log (n integer, CHECK (n < 0)); INSERT INTO parent SELECT generate_series(0, 99);"
        "CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO audit VALUES (CASE NEW.n WHEN 13 THEN 1000 ELSE NEW.n END);"
        " RETURN CASE WHEN NEW.n % 10 > 0 THEN NEW END; END $$;"
        "CREATE FUNCTION weigh() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF (SELECT count(*) FROM added) > 12 THEN RAISE EXCEPTION 'too much' USING ERRCODE = '53200'; END IF;"
        " RETURN NULL; END $$"
    )
    write.copy(conn, "log", [(n,) for n in range(40)], None, write.DeadLetters())
    conn.execute(
        "ALTER TABLE log DROP CONSTRAINT log_n_check;"
        "CREATE TRIGGER judge BEFORE INSERT ON log FOR EACH ROW EXECUTE FUNCTION judge();"
        "CREATE TRIGGER weigh AFTER INSERT ON log REFERENCING NEW TABLE AS added EXECUTE FUNCTION weigh()"
    )
    result = retry_letters(database.dsn, Filter())
    assert (result.written, result.failed) == (35, 5)
    assert [one.reason for one in result.failures] == [
        "a trigger left it out",
        "a trigger left it out",
        'insert or update on table "audit" violates foreign key constraint "audit_pid_fkey" (23503)',
        "a trigger left it out",
        "a trigger left it out",
    ]
    assert _places(conn) == (35, 35, 5)


def test_a_retry_that_dies_leaves_each_row_in_one_place(conn: psycopg.Connection[Any], database: Database) -> None:
    """The process is killed in the middle of a batch and after one; then the server ends the session."""
    conn.execute("CREATE TABLE log (n integer CHECK (n < 0))")
    write.copy(conn, "log", [(n,) for n in range(1_600)], None, write.DeadLetters())
    conn.execute("ALTER TABLE log DROP CONSTRAINT log_n_check")
    # The first batch is of 500, the next one of at most twice as many.
    for point, rows in (("letters:written", 0), ("letters:committed", 500), ("letters:written#2", 1_000)):
        killed = subprocess.run(
            [sys.executable, "-m", "pgscale", "dead-letters", "retry", "--all", "--dsn", database.dsn],
            env={**os.environ, "PGSCALE_KILL_AT": point}, capture_output=True, check=False,
        )  # fmt: skip
        assert killed.returncode == -9, killed.stderr
        # What the dead one had locked is free when the server has seen that it is gone.
        deadline = time.monotonic() + 60
        while conn.execute("SELECT FROM pg_stat_activity WHERE application_name = 'pgscale/control'").fetchall():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert _places(conn) == (rows, rows, 1_600 - rows)
    conn.execute(
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$;"
        "CREATE TRIGGER die AFTER INSERT ON log FOR EACH ROW WHEN (NEW.n = 1100) EXECUTE FUNCTION die()"
    )
    with pytest.raises(ConnectError, match=r"lost at the letters 1001 to 1500\. Every row is either in its table or"):
        retry_letters(database.dsn, Filter())
    assert _places(conn) == (1_000, 1_000, 600)
    conn.execute("DROP TRIGGER die ON log")
    assert retry_letters(database.dsn, Filter()).written == 600
    assert _places(conn) == (1_600, 1_600, 0)


def test_what_a_trigger_names_without_a_schema_is_found(conn: psycopg.Connection[Any], database: Database) -> None:
    conn.execute(
        "CREATE TABLE audit (n integer); CREATE TABLE log (n integer CHECK (n > 0));"
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO audit VALUES (NEW.n); RETURN NEW; END $$;"
        "CREATE TRIGGER note AFTER INSERT ON log FOR EACH ROW EXECUTE FUNCTION note()"
    )
    write.copy(conn, "log", [(0,)], None, write.DeadLetters())
    conn.execute("ALTER TABLE log DROP CONSTRAINT log_n_check")
    assert retry_letters(database.dsn, Filter()) == Retried(written=1, failed=0, gone=0, failures=())
    assert conn.execute("SELECT n FROM audit").fetchall() == [(0,)]


def test_rights(conn: psycopg.Connection[Any], database: Database) -> None:
    _fill(conn)
    role = database.create_role()
    dsn = database.dsn_as(role)
    for granted, said in (("", "may not read"), (f"GRANT USAGE ON SCHEMA pgscale TO {role}", "may not read"),
                          (f"GRANT SELECT ON pgscale.dead_letter TO {role}", "Letters cannot be taken")):  # fmt: skip
        conn.execute(granted.encode())
        for act in (retry_letters, drop_letters):
            with pytest.raises(PermissionDeniedError, match=said):
                act(dsn, Filter())
    assert conn.execute("SELECT count(*), max(tries) FROM pgscale.dead_letter").fetchone() == (6, 0)
    # Where no temporary table may be made, they go one by one.
    database.connect_superuser().execute(f"REVOKE TEMPORARY ON DATABASE {database.name} FROM PUBLIC".encode())
    conn.execute(f"GRANT INSERT ON child TO {role}; GRANT UPDATE, DELETE ON pgscale.dead_letter TO {role}".encode())
    conn.execute("INSERT INTO parent VALUES (7)")
    retried = retry_letters(dsn, Filter(source="night"))
    assert (retried.written, retried.failed, retried.failures[0].id) == (1, 2, 2)
    with pytest.raises(UsageError, match="no NUL"):
        write.copy(conn, "child", [(1, 1)], ["id", "pid"], write.DeadLetters(source="a\0"))


def test_help_has_an_example_that_runs(conn: psycopg.Connection[Any], database: Database) -> None:
    for verb in ("list", "retry", "drop"):
        help_text = CliRunner().invoke(app, ["dead-letters", verb, "--help"]).output
        example = re.search(r"Example: pgscale dead-letters (.*)", help_text)
        assert example is not None, verb
        assert _run(database, example[1])[0] == 0, verb
