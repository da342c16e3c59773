"""`pgscale lint`: the real database joined, what scratch servers lack or may not do, COPY, formats, exit codes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from unittest import mock

import psycopg
import pytest
from psycopg import sql

from pgscale.doctor.lint.registry import IDS, RULES
from pgscale.doctor.lint.splitting import split
from pgscale.errors import UsageError
from support.cli import pgscale

TIMEOUT = "SET lock_timeout = '2s';\n"


def test_copy_with_its_data_is_refused_before_the_data_is_read():
    # A quote in the data does not end, and that is nobody's fault.
    with pytest.raises(UsageError, match=r"f\.sql:3: COPY with its data"):
        split("SELECT 1;\n\nCOPY t (a) FROM stdin;\n1'\n\\.\n", "f.sql")
    assert len(split("COPY t FROM '/stdin'; SELECT 1 AS stdin", "f.sql")) == 2


# With the real database


def lint(*arguments: str, database, env=None):
    return pgscale("lint", *arguments, "--scratch", database.superuser_dsn, env=env)


def ids(document) -> list[str]:
    return [finding["check"] for file in document["files"] for finding in file["findings"]]


@pytest.mark.versions(14, 18)
def test_the_schema_is_copied_and_the_sizes_and_transactions_are_joined(database, tmp_path, pg_version):
    with database.connect() as owner:
        owner.execute("CREATE TABLE big (id bigint PRIMARY KEY, a int, b text)")
        owner.execute("CREATE TABLE small (LIKE big)")
        owner.execute("CREATE TABLE parts (id bigint, a int) PARTITION BY RANGE (id)")
        owner.execute("CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (1000000)")
        owner.execute("INSERT INTO big SELECT n, n, repeat('x', 1000) FROM generate_series(1, 9000) n")
        owner.execute("INSERT INTO parts SELECT n, n FROM generate_series(1, 300000) n")
        owner.execute("ANALYZE")
        before = owner.execute("SELECT oid, relname, relfilenode FROM pg_class ORDER BY oid").fetchall()
    holder = database.connect(autocommit=False)
    holder.execute("SELECT 1 FROM big LIMIT 1")
    file = tmp_path / "m.sql"
    file.write_text(
        "CREATE INDEX big_a ON big (a);\n"
        "ALTER TABLE small ALTER COLUMN a SET NOT NULL;\n"
        "CREATE INDEX parts_a ON parts (a);\n"
    )
    arguments = (str(file), "--dsn", database.dsn, "--transaction", "per-statement")
    with mock.patch("pgscale.doctor.lint.live.LONG_S", 0.0):
        done = lint(*arguments, "--json", database=database)
    assert done.exit_code == 1, done.err
    document = json.loads(done.out)
    assert document["notes"] == []
    assert document["scratch_version"] // 10_000 == pg_version
    timeout, big, small, parts = (f for f in document["files"][0]["findings"])
    assert [f["check"] for f in (timeout, big, small, parts)] == [
        "lock_timeout.missing",
        "index.not_concurrent",
        "column.not_null",
        "index.not_concurrent",
    ]
    # The holder reads, which SHARE does not wait for; an ACCESS EXCLUSIVE would.
    assert timeout["evidence"]["in_the_way"] == []
    assert (big["severity"], small["severity"], parts["severity"]) == ("critical", "info", "critical")
    assert big["evidence"]["rows"] == 9000
    assert 9_000_000 < big["evidence"]["table_bytes"] < 12_000_000
    assert parts["evidence"]["rows"] == 300_000
    assert big["evidence"]["work_s"] == pytest.approx(
        (big["evidence"]["table_bytes"] + big["evidence"]["index_bytes"]) / (50 << 20), abs=0.01
    )
    # A lock that the holder conflicts with, and a login with a lock_timeout of its own.
    file.write_text("ALTER TABLE big ADD COLUMN c int;\n")
    with mock.patch("pgscale.doctor.lint.live.LONG_S", 0.0):
        (finding,) = json.loads(lint(*arguments, "--json", database=database).out)["files"][0]["findings"]
    assert [each["pid"] for each in finding["evidence"]["in_the_way"]] == [holder.info.backend_pid]
    assert "1 long transaction would be waited for" in finding["fact"]
    with database.connect_superuser() as superuser:
        superuser.execute(sql.SQL("ALTER ROLE {} SET lock_timeout = '3s'").format(sql.Identifier(database.owner)))
    assert lint(*arguments, database=database).exit_code == 0
    with database.connect() as owner:
        assert owner.execute("SELECT oid, relname, relfilenode FROM pg_class ORDER BY oid").fetchall() == before


def test_a_table_that_somebody_holds_is_waited_for_two_seconds(database, tmp_path):
    holder = database.connect(autocommit=False)
    holder.execute("CREATE TABLE t (a int)")
    holder.commit()
    holder.execute("LOCK TABLE t")
    (tmp_path / "m.sql").write_text("SELECT 1;")
    with mock.patch("pgscale.doctor.lint.dump.LOCK_WAIT_MS", 50):
        done = lint(str(tmp_path / "m.sql"), "--dsn", database.dsn, database=database)
    assert done.exit_code == 3
    assert "could not be read" in done.err
    assert "Somebody holds a table in ACCESS EXCLUSIVE" in done.err


def scratches_left(database) -> int:
    with database.connect_superuser() as superuser:
        row = superuser.execute(
            "SELECT (SELECT count(*) FROM pg_database WHERE datname LIKE 'pgscale_lint%')"
            " + (SELECT count(*) FROM pg_roles WHERE rolname LIKE 'pgscale_lint%')"
        ).fetchone()
        return row[0]


def test_a_migration_has_no_rights_outside_its_scratch_database(quiet_database, tmp_path):
    touched = tmp_path / "touched"
    file = tmp_path / "m.sql"
    statements = [
        f"COPY (SELECT 1) TO PROGRAM 'touch {touched}'",
        f"COPY (SELECT 1) TO '{touched}'",
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "CREATE ROLE intruder",
        "ALTER SYSTEM SET work_mem = '1MB'",
        "DO $$ BEGIN CREATE ROLE intruder; END $$",
        "SELECT pg_read_file('/etc/passwd')",
        "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'x'",
    ]
    file.write_text("".join(f"{each};\n" for each in statements))
    done = lint(str(file), "--transaction", "per-statement", "--json", database=quiet_database)
    document = json.loads(done.out)
    seen = document["files"][0]["statements"]
    assert [bool(each["skipped"]) for each in seen] == [True] * len(statements), seen
    assert document["files"][0]["findings"] == []
    assert done.exit_code == 0
    assert not touched.exists()
    assert scratches_left(quiet_database) == 0
    file.write_text("SELECT 1 AS")
    assert lint(str(file), database=quiet_database).exit_code == 1
    assert scratches_left(quiet_database) == 0


def test_a_server_that_does_not_count_is_refused(database, tmp_path):
    (tmp_path / "m.sql").write_text("SELECT 1")
    done = pgscale(
        "lint", str(tmp_path / "m.sql"), "--scratch", f"{database.superuser_dsn} options='-c track_counts=off'"
    )
    assert done.exit_code == 4
    assert "track_counts off" in done.err


def test_a_login_that_may_create_databases_is_enough_and_one_that_may_not_is_told(quiet_database, tmp_path):
    (tmp_path / "m.sql").write_text("CREATE TABLE t (a int);\nALTER TABLE t ALTER COLUMN a SET NOT NULL;")
    maker = quiet_database.create_role("maker", "LOGIN CREATEDB")
    done = pgscale("lint", str(tmp_path / "m.sql"), "--scratch", quiet_database.dsn_as(maker))
    assert (done.exit_code, scratches_left(quiet_database)) == (0, 0), done.err
    done = pgscale("lint", str(tmp_path / "m.sql"), "--scratch", quiet_database.dsn)
    assert done.exit_code == 3
    assert "may not create a database" in done.err


@pytest.mark.versions(15)  # the one with contrib
def test_the_embedded_server_makes_roles_and_stands_in_for_types(database, tmp_path):
    """One start of the embedded server for all that only it does."""
    with database.connect_superuser() as superuser:
        superuser.execute("CREATE EXTENSION pgcrypto; CREATE EXTENSION citext")
        superuser.execute("CREATE TABLE public.tokens (name citext, token bytea DEFAULT gen_random_bytes(8))")
        superuser.execute("CREATE TABLE public.places (id int, at int)")
        reader = database.create_role("reader")
        superuser.execute("ALTER TABLE places ENABLE ROW LEVEL SECURITY")
        superuser.execute(sql.SQL("CREATE POLICY p ON places TO {} USING (true)").format(sql.Identifier(reader)))
    (tmp_path / "schema.sql").write_text(
        "CREATE TABLE people (id int, mail citext, spot public.geometry NOT NULL);\n"
        "CREATE EXTENSION pg_nowhere;\nCREATE INDEX people_spot ON people USING gist (spot gist_geometry_ops_2d);\n"
    )
    (tmp_path / "m.sql").write_text(
        f"{TIMEOUT}CREATE EXTENSION IF NOT EXISTS hstore;\nGRANT SELECT ON people TO newcomer;\n"
        "ALTER TABLE people ADD COLUMN extra hstore;\nALTER TABLE people ADD COLUMN other misspelt;\n"
        "ALTER TABLE places ALTER COLUMN at SET NOT NULL;\n"
        "ALTER TABLE tokens ADD COLUMN other bytea DEFAULT gen_random_bytes(8);\nSET ROLE newcomer;\n"
    )
    done = pgscale(
        "lint",
        str(tmp_path / "m.sql"),
        "--schema",
        str(tmp_path / "schema.sql"),
        "--dsn",
        database.superuser_dsn,
        "--transaction",
        "per-statement",
        "--json",
    )
    assert done.exit_code == 1, done.err
    document = json.loads(done.out)
    assert ids(document) == ["statement.failed", "column.not_null", "column.added_rewrite"]
    notes = "\n".join(document["notes"])
    assert "Type public.citext is not on the scratch server" in notes
    assert "Type public.geometry" in notes
    assert "CREATE EXTENSION pg_nowhere" in notes
    assert "CREATE INDEX people_spot" in notes
    assert "Function gen_random_bytes is not" in notes
    assert "public.tokens" not in notes
    skipped = [each["line"] for each in document["files"][0]["statements"] if each["skipped"]]
    assert skipped == [2]
    failed = document["files"][0]["findings"][0]
    assert (failed["line"], "misspelt" in failed["fact"]) == (5, True)


@pytest.mark.versions(17)
def test_a_tablespace(private_server, tmp_path):
    server = private_server({"allow_in_place_tablespaces": "on"})
    with psycopg.connect(server.dsn(), autocommit=True) as superuser:
        superuser.execute("CREATE TABLESPACE other LOCATION ''")
        superuser.execute("GRANT CREATE ON TABLESPACE other TO PUBLIC")
    (tmp_path / "schema.sql").write_text("CREATE TABLE t (a int);\nCREATE INDEX t_a ON t (a);")
    (tmp_path / "m.sql").write_text(
        f"{TIMEOUT}ALTER TABLE t SET TABLESPACE other;\nALTER INDEX t_a SET TABLESPACE other;\n"
    )
    arguments = ("--schema", str(tmp_path / "schema.sql"), "--transaction", "per-statement", "--json")
    done = pgscale("lint", str(tmp_path / "m.sql"), *arguments, "--scratch", server.dsn())
    document = json.loads(done.out)
    assert ids(document) == ["table.tablespace", "table.tablespace"]
    first, second = document["files"][0]["findings"]
    assert (first["evidence"]["lock"], second["evidence"]["lock"]) == ("ACCESS EXCLUSIVE", "ACCESS EXCLUSIVE")
    assert second["remedies"][0]["text"] == "REINDEX (TABLESPACE …) INDEX CONCURRENTLY t_a;"


# Output


def test_formats_exit_codes_and_what_silences(database, tmp_path, monkeypatch):
    schema, first, second = tmp_path / "schema.sql", tmp_path / "1, a.sql", tmp_path / "2.sql"
    schema.write_text("CREATE TABLE t (a int, b int);\nCREATE TABLE u (k uuid DEFAULT uuid_generate_v4());")
    first.write_text(f"{TIMEOUT}CREATE INDEX t_a ON t (a);\nCREATE TRIGGER x AFTER INSERT ON t EXECUTE FUNCTION f();\n")
    second.write_text("ALTER TABLE t ADD COLUMN c int; -- pgscale:ignore lock_timeout.missing\n")
    base = ("--schema", str(schema))
    github = lint(str(first), str(second), *base, "--format", "github", database=database)
    assert github.exit_code == 1
    index, failed = github.out.splitlines()
    where = str(first).replace(",", "%2C")
    assert index.startswith(
        f"::error file={where},line=2,title=index.not_concurrent::CREATE INDEX t_a holds SHARE on t"
    )
    assert "%0A" in index
    assert "CREATE INDEX CONCURRENTLY t_a ON t (a);" in index
    assert failed.startswith(f"::error file={where},line=3,title=statement.failed::")
    log = json.loads(lint(str(first), *base, "--format", "sarif", database=database).out)
    (run,) = log["runs"]
    assert log["version"] == "2.1.0"
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == IDS
    assert [(r["ruleId"], r["level"]) for r in run["results"]] == [
        ("index.not_concurrent", "error"),
        ("statement.failed", "error"),
    ]
    assert run["tool"]["driver"]["rules"][run["results"][0]["ruleIndex"]]["id"] == "index.not_concurrent"
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert (place["artifactLocation"]["uri"], place["region"]) == (first.as_uri(), {"startLine": 2})
    # Text, from standard input; the second file alone is well.
    text = f"{TIMEOUT}ALTER TABLE t RENAME COLUMN a TO z;\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    told = lint("-", *base, database=database)
    assert told.exit_code == 1
    assert "ACCESS EXCLUSIVE on t\n" in told.out
    assert "Note: Function uuid_generate_v4 is not on the scratch server" in told.out
    assert "! <stdin>:2: column.rename: Column a of t becomes z" in told.out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert lint("-", *base, "--fail-on", "critical", database=database).exit_code == 0
    well = lint(str(second), *base, database=database)
    assert (well.exit_code, "1 file: nothing is wrong." in well.out) == (0, True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"SELECT 1; -- pgscale:ignore index.misspelt", "names index.misspelt, which is no rule"),
        (b"SELECT 1; -- pgscale:ignore", "names no rule"),
        (b"\\i x", "is a command of psql"),
        (b"SELECT '\xff'", "is not UTF-8: byte 8"),
        (None, "cannot be read"),
    ],
)
def test_what_cannot_be_judged_is_told_before_a_server_is_asked(text, told, tmp_path):
    file = tmp_path / "m.sql"
    if text is not None:
        file.write_bytes(text)
    done = pgscale("lint", str(file), "--scratch", "host=127.0.0.1 port=1")
    assert done.exit_code == 2
    assert told in done.err


def test_rules_are_explained_and_options_that_contradict_are_refused():
    listed = pgscale("lint", "--explain", "all")
    assert listed.exit_code == 0
    assert all(rule in listed.out for rule in IDS)
    documented = (Path(__file__).parent.parent / "docs" / "lint.md").read_text()
    assert all(f"| `{rule.id}` | {rule.title} |" in documented for rule in RULES)
    assert "reads the whole table" in pgscale("lint", "--explain", "column.not_null").out
    assert pgscale("lint", "--explain", "column.nothing").exit_code == 2
    assert pgscale("lint").exit_code == 2
    assert pgscale("lint", "x.sql", "--json", "--format", "sarif").exit_code == 2
