"""`pgscale exec`: files of SQL in one transaction with a profile; how they are refused and told of."""

from __future__ import annotations

import io
import json
import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from pgscale.connect import Database
from pgscale.connect.profiles.scripts import why_not
from pgscale.connect.profiles.shipped import SHIPPED
from pgscale.sql.statements import split
from support.cli import pgscale
from support.lifecycle import wait_until

ALONE = """\
VACUUM t; VACUUM (ANALYZE) t; CREATE DATABASE d; DROP DATABASE d; CREATE TABLESPACE s LOCATION '/x'; DROP TABLESPACE s;
ALTER SYSTEM SET work_mem = '4MB'; CREATE INDEX CONCURRENTLY ON t (n); CREATE UNIQUE INDEX CONCURRENTLY i ON t (n);
DROP INDEX CONCURRENTLY IF EXISTS t_i; REINDEX TABLE CONCURRENTLY t; REINDEX (CONCURRENTLY) TABLE t;
REINDEX SCHEMA public; CLUSTER; DISCARD ALL; ALTER TABLE q DETACH PARTITION q1 CONCURRENTLY;
ALTER DATABASE postgres SET TABLESPACE pg_default;
CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p;
"""
# Much like them, and yet statements of a transaction.
TOGETHER = """\
ANALYZE t; CREATE INDEX "concurrently" ON t (n); DROP INDEX "concurrently"; REINDEX TABLE t; CLUSTER t USING t_i;
DISCARD PLANS; ALTER TABLE q DETACH PARTITION q1; SAVEPOINT s; ROLLBACK TO s; ROLLBACK WORK TO SAVEPOINT s; RELEASE s;
REFRESH MATERIALIZED VIEW CONCURRENTLY m; SELECT 'COMMIT; VACUUM'; ALTER TABLE t ADD COLUMN reindex int;
CREATE TABLE vacuum (commit int); LOCK TABLE t; PREPARE x AS SELECT 1; EXECUTE x; DEALLOCATE x; DO $$BEGIN END$$;
CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false);
"""
CONTROL = (
    "BEGIN; START TRANSACTION; COMMIT; END; ROLLBACK; ABORT; PREPARE TRANSACTION 'x'; ROLLBACK PREPARED 'x';"
    "COMMIT AND CHAIN; ROLLBACK AND CHAIN"
)


@pytest.mark.versions(14, 18)
def test_what_cannot_be_in_a_transaction_is_what_the_server_says(database):
    connection = database.connect_superuser()
    connection.execute(
        "CREATE TABLE t (n int); CREATE INDEX t_i ON t (n); CREATE TABLE q (n int) PARTITION BY LIST (n);"
        "CREATE TABLE q1 PARTITION OF q FOR VALUES IN (1); CREATE MATERIALIZED VIEW m AS SELECT 1 AS n;"
        "CREATE UNIQUE INDEX ON m (n); SET client_min_messages = error"
    )
    for statement in split(ALONE, "alone"):
        assert why_not(statement.terms), statement.text
        with pytest.raises(psycopg.errors.ActiveSqlTransaction), connection.transaction():
            connection.execute(statement.whole.encode())
    with connection.transaction():
        for statement in split(TOGETHER, "together"):
            assert not why_not(statement.terms), statement.text
            connection.execute(statement.whole.encode())
        raise psycopg.Rollback
    assert all(why_not(statement.terms) for statement in split(CONTROL, "control"))
    assert all(why_not(each.terms) for each in split("COPY t FROM STDIN; COPY (SELECT 1) TO stdout WITH CSV", "copy"))
    assert not why_not(split("COPY t FROM '/stdin'", "copy")[0].terms)


def _file(tmp_path: Path, text: str) -> str:
    file = tmp_path / "work.sql"
    file.write_text(text)
    return str(file)


@pytest.mark.versions(14, 18)
def test_a_file_runs_in_one_transaction_with_its_profile(database, tmp_path):
    file = _file(
        tmp_path,
        "\ufeffCREATE TABLE t (n int PRIMARY KEY, mem text);\n\n"
        "INSERT INTO t SELECT n, current_setting('work_mem') FROM generate_series(1, 1500) n;\n"
        "/* how many; 5% */ SELECT n FROM t WHERE n % 2 = 0 -- half\n;DO $$ BEGIN PERFORM 1; END $$",
    )
    dry = pgscale("exec", "--profile", "promote", file, "--dsn", database.dsn, "--dry-run", "--ram", "64GB")
    assert dry.exit_code == 0, dry.err
    assert "work_mem                            = 64MB   (was 4MB; shipped)" in dry.out
    assert "Memory: up to" in dry.out
    assert "4 statements of" in dry.out
    assert database.connect().execute("SELECT to_regclass('t')").fetchone() == (None,)
    ran = pgscale("exec", "--profile", "promote", file, "--dsn", database.dsn, "--json")
    assert ran.exit_code == 0, ran.err
    said = json.loads(ran.out)
    assert [(s["line"], s["command"], s["rows"]) for s in said["statements"]] == [
        (1, "CREATE TABLE", None),
        (3, "INSERT", 1500),
        (4, "SELECT", 750),
        (5, "DO", None),
    ]
    assert said["statements"][2]["statement"] == "SELECT n FROM t WHERE n % 2 = 0 -- half"
    assert all(0 < s["seconds"] < said["seconds"] for s in said["statements"])
    # The server's processes are seen here, and so its memory is.
    assert sum("Memory: up to" in note for note in said["notes"]) == (sys.platform == "linux")
    assert database.connect().execute("SELECT DISTINCT mem FROM t").fetchall() == [("64MB",)]


def test_statements_may_come_from_standard_input(database, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("SELECT 'ü';\nSELEC 1".encode())))
    ran = pgscale("exec", "--profile", "oltp", "-", "--dsn", database.dsn)
    assert (ran.exit_code, ran.out) == (5, "")
    assert 'standard input:2: syntax error at or near "SELEC" (42601).' in ran.err
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("SELECT 'ü'".encode())))
    ran = pgscale("exec", "--profile", "oltp", "-", "--dsn", database.dsn)
    assert ran.out.splitlines()[0].startswith("standard input:1  SELECT  1 row  ")
    assert "1 statement in" in ran.out.splitlines()[1]


def test_what_fails_leaves_nothing_and_says_where(database, tmp_path):
    connection = database.connect()
    connection.execute("CREATE TABLE t (n int, CONSTRAINT once UNIQUE (n) DEFERRABLE INITIALLY DEFERRED)")
    (tmp_path / "pgscale.toml").write_text(
        "[profiles.hasty.settings]\nstatement_timeout = '100ms'\n[environments.production]\n"
    )

    def run(text: str, profile: str = "oltp", *more: str) -> tuple[int, str]:
        given = ("--profile", profile, _file(tmp_path, text), "--dsn", database.dsn, *more)
        done = pgscale("exec", *given, "--config", str(tmp_path / "pgscale.toml"))
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
        assert "Traceback" not in done.err
        return done.exit_code, done.err

    code, err = run("INSERT INTO t VALUES (1);\n-- here\nSELECT 1,\n  nothing\nFROM t")
    assert (code, 'work.sql:4: column "nothing" does not exist (42703)' in err) == (5, True)
    assert "Everything was rolled back" in err
    code, err = run("INSERT INTO t VALUES (1);\n\nSELECT pg_sleep(20)", "hasty")
    assert (code, "work.sql:3: canceling" in err, "statement_timeout = 100ms of profile hasty" in err) == (
        5,
        True,
        True,
    )
    code, err = run("INSERT INTO t VALUES (1), (1)")
    assert (code, "COMMIT failed: duplicate key" in err, "Everything was rolled back" in err) == (5, True, True)
    code, err = run("INSERT INTO t VALUES (1);\nTABLE pg_authid")
    assert (code, "work.sql:2: permission denied" in err) == (3, True)
    code, err = run("INSERT INTO t VALUES (1);\nCOMMIT;\n\nVACUUM t; CREATE INDEX CONCURRENTLY ON t (n)")
    assert code == 4
    assert "work.sql:2: COMMIT ends or begins a transaction. " in err
    assert "work.sql:4: VACUUM cannot be in a transaction." in err
    assert "work.sql:4: CREATE INDEX … CONCURRENTLY cannot be in a transaction." in err
    code, err = run("INSERT INTO t VALUES (1); DO 'BEGIN COMMIT; END'")
    assert (code, "2D000" in err) == (5, True)
    code, err = run("INSERT INTO t VALUES (1)", "hasty", "--environment", "production")
    assert (code, "lock_timeout" in err) == (4, True)
    code, err = run("INSERT INTO t VALUES (1)", "oltpp")
    assert (code, "oltp was meant?" in err) == (2, True)
    code, err = run("SELECT 1;\nSELECT 'é',\n '€'", "oltp", "--dsn", f"{database.dsn} client_encoding=latin1")
    assert (code, "work.sql:3: the connection's client_encoding, iso8859-1, has no '€'" in err) == (2, True)
    for wrong in ("", "-- nothing", "\\d t", "SELECT 'a"):
        assert run(wrong)[0] == 2, wrong
    assert pgscale("exec", "--profile", "oltp", str(tmp_path / "none.sql")).exit_code == 2
    assert pgscale("exec", "--profile", "oltp").exit_code == 2
    assert pgscale("exec", "--list", "--dry-run").exit_code == 2
    assert pgscale("exec", "--profile", "oltp", _file(tmp_path, "SELECT 1"), "--dsn", "host=/nowhere").exit_code == 3


def test_a_connection_that_is_lost_says_what_is_known(database, tmp_path):
    other = database.connect()
    other.execute(
        "CREATE TABLE t (n int); CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(30); RETURN NULL; END';"
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION nap()"
    )
    asleep = "FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"

    def lost(text: str) -> dict[str, Any]:
        def end() -> None:
            wait_until(lambda: other.execute(f"SELECT count(*) {asleep}").fetchone() == (1,))
            other.execute(f"SELECT pg_terminate_backend(pid) {asleep}")

        thread = threading.Thread(target=end)
        thread.start()
        ran = pgscale("exec", "--profile", "create", _file(tmp_path, text), "--dsn", database.dsn, "--json")
        thread.join()
        assert ran.exit_code == 5
        return json.loads(ran.out)

    said = lost("INSERT INTO t VALUES (1);\nSELECT pg_sleep(30)")
    assert said["error"] == "StatementFailedError"
    assert "work.sql:2: terminating connection" in said["fact"]
    assert "rolled back" in said["consequence"]
    said = lost("INSERT INTO t VALUES (1);\nSELECT 1")
    assert said["fact"].endswith("work.sql: the connection was lost at COMMIT.")
    assert said["consequence"] == "Whether the file was committed is not known."


def test_rows_one_by_one_are_told_in_the_report(database, tmp_path):
    database.connect().execute("CREATE TABLE t (n int)")
    file = _file(tmp_path, "INSERT INTO t VALUES (1);\n" * 120)
    ran = pgscale("exec", "--profile", "bulk_import", file, "--dsn", database.dsn)
    assert ran.exit_code == 0, ran.err
    assert ran.out.count("inserted one by one") == 1
    assert ran.err == ""


def test_profiles_are_listed_with_where_they_come_from(tmp_path):
    (tmp_path / "pgscale.toml").write_text(
        "[profiles.report.settings]\nwork_mem = '1GB'\n[environments.production.profiles.mine.settings]\njit = true\n"
    )
    config = ("--config", str(tmp_path / "pgscale.toml"))
    listed = pgscale("exec", "--list", *config)
    assert listed.exit_code == 0, listed.err
    assert f"= 1GB   ({tmp_path}/pgscale.toml [profiles.report])" in listed.out
    assert "= on   (shipped: a report that writes is a mistake)" in listed.out
    assert "mine" not in listed.out
    said = json.loads(pgscale("exec", "--list", "--environment", "production", "--json", *config).out)
    assert [each["profile"] for each in said["profiles"]][-1] == "mine"
    assert said["profiles"][-1]["settings"][0] == {
        "name": "jit",
        "value": "on",
        "reason": "",
        "source": f"{tmp_path}/pgscale.toml [environments.production.profiles.mine]",
        "since": None,
    }


def test_what_the_documentation_shows_is_so(tmp_path):
    page = (Path(__file__).parent.parent / "docs/profiles.md").read_text()
    (tmp_path / "pgscale.toml").write_text(page.split("```toml\n")[1].split("```")[0])
    nightly = Database(environment="production", config=tmp_path / "pgscale.toml").resolve("nightly")
    assert [len(nightly.for_server(version)) for version in (160000, 180000)] == [3, 4]
    for name, section in SHIPPED.items():
        (row,) = re.findall(rf"^\| `{name}` .*", page, re.MULTILINE)
        for setting, entry in section.settings.items():
            assert {
                "idle_in_transaction_session_timeout": f"idle {entry.value}",
                "max_parallel_workers_per_gather": "no parallel workers",
            }.get(setting, f"`{setting}` {entry.value}") in row
