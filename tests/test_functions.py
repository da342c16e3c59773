"""`pgscale functions dump|check` and assert_functions, on functions of every kind that PostgreSQL has."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgscale.catalog import (
    FunctionDriftError,
    aassert_functions,
    assert_functions,
    check_functions,
    dump_functions,
)
from pgscale.errors import UsageError
from support.cli import pgscale
from support.servers import Database

pytest_plugins = ["pytester"]

# One of every kind, written by hand: clauses in another order and other words than the server writes them in.
ZOO = {
    "elsewhere": "CREATE FUNCTION here() RETURNS int LANGUAGE internal STRICT AS 'pg_backend_pid'",
    "plain": """
        create function app.f(a int, b varchar default 'x', c app.mood = 'ok', d timestamptz default now(),
            e int default -1, f text[] default array[]::text[], g date default date '2020-01-01') returns setof app.t
        language plpgsql stable as $x$ begin
            return query select * from app.t;  -- all of them
        end $x$""",
    "out": "CREATE FUNCTION app.g(OUT x int, y IN OUT numeric(10,2), VARIADIC z text[]) LANGUAGE sql AS 'SELECT 1, 2'",
    "table": """
        CREATE FUNCTION app.h(n app.t.id%TYPE) RETURNS TABLE (a int, b double precision) STRICT COST 5 ROWS 10
        SET search_path = app, "Odd schema" SET work_mem='64MB' SET TIME ZONE 'UTC' PARALLEL SAFE
        AS $$ SELECT 1, 2.0 $$ LANGUAGE SQL""",
    "overload": "CREATE FUNCTION app.f(text) RETURNS text LANGUAGE 'sql' IMMUTABLE AS $a$ SELECT $b$ $$;'$b$ || $1 $a$",
    "procedure": "CREATE PROCEDURE app.p(IN a int, INOUT b int) LANGUAGE plpgsql AS 'BEGIN b := a; COMMIT; END'",
    "standard": "CREATE FUNCTION app.r(a int, b int) RETURNS int RETURN (a + b)",
    "atomic": "CREATE FUNCTION app.s() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT t.id FROM app.t; END",
    "trigger": "CREATE FUNCTION app.trg() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
    " SET datestyle FROM CURRENT AS 'BEGIN RETURN new; END'",
    "odd": """
        CREATE FUNCTION app."É ""x"\"/Y"(double precision, "A b" text) RETURNS void LANGUAGE plpgsql
        AS E'begin\\r\\n return; -- \\'\\n end'""",
    "one": "CREATE FUNCTION app.one() RETURNS TABLE (a int) LANGUAGE sql VOLATILE COST 100 ROWS 1000 AS 'SELECT 1'",
    "defaults": """
        CREATE FUNCTION app.d(a int DEFAULT here(), b app.mood = 'ok'::app.mood, c varchar DEFAULT 'x'::varchar,
            d timestamptz DEFAULT (now() + interval '1 day'), e text DEFAULT NULL) RETURNS void LANGUAGE sql AS ''""",
    "c": "CREATE FUNCTION app.c() RETURNS language_handler AS '$libdir/plpgsql', 'plpgsql_call_handler' LANGUAGE C",
    "case": "CREATE FUNCTION app.\"F\"(text) RETURNS text LANGUAGE sql AS 'SELECT ''a''\n''b'''",
}
BASE = """
    CREATE SCHEMA app;
    CREATE TYPE app.mood AS ENUM ('sad', 'ok');
    CREATE TYPE app.span AS RANGE (subtype = float8);
    CREATE TABLE app.t (id int, m app.mood);
    CREATE AGGREGATE app.total(int) (SFUNC = int4pl, STYPE = int);
"""


# Signatures, for those that more than one test drops or alters.
PLAIN = "app.f(int, varchar, app.mood, timestamptz, int, text[], date)"


def _make(database: Database, directory: Path | None = None) -> psycopg.Connection[Any]:
    """Make the zoo, and files of it with something around it; return a connection that may do anything."""
    superuser = database.connect_superuser()
    superuser.execute(BASE)
    for name, statement in ZOO.items():
        superuser.execute(statement.encode())
        if directory is not None:
            text = f"-- {name}\n{statement};\nGRANT ALL ON SCHEMA app TO public;\n"
            (directory / f"{name}.sql").write_bytes(text.encode())
    return superuser


def _contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


@pytest.mark.versions("all")
def test_what_is_dumped_makes_the_functions_again(database: Database, tmp_path: Path) -> None:
    superuser = _make(database)
    directory = tmp_path / "functions"
    call = ("--dsn", database.superuser_dsn, "--json")
    dumped = pgscale("functions", "dump", str(directory), *call)
    data = json.loads(dumped.out)
    assert (dumped.exit_code, data["aggregates_left_out"], data["gone"], data["unchanged"]) == (0, 1, [], 0)
    before = _contents(directory)
    assert sorted(before) == [
        "app/%46.sql",
        "app/%C3%89%20%22x%22%2F%59.sql",
        "app/c.sql",
        "app/d.sql",
        "app/f-int4-varchar-mood-timestamptz-int4-_text-date.sql",
        "app/f-text.sql",
        "app/g.sql",
        "app/h.sql",
        "app/one.sql",
        "app/p.sql",
        "app/r.sql",
        "app/s.sql",
        "app/trg.sql",
        "public/here.sql",
    ]

    again = json.loads(pgscale("functions", "dump", str(directory), *call).out)
    assert (again["written"], again["unchanged"], _contents(directory)) == ([], len(before), before)
    made = superuser.execute(
        "SELECT CASE prokind WHEN 'p' THEN 'PROCEDURE ' ELSE 'FUNCTION ' END || p.oid::regprocedure FROM pg_proc p"
        " WHERE pronamespace IN ('app'::regnamespace, 'public'::regnamespace) AND prokind <> 'a'"
        " AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'i')"
        " ORDER BY p.oid DESC"
    ).fetchall()
    assert len(made) == len(before)
    for (signature,) in made:
        superuser.execute(f"DROP {signature}".encode())
    checked = pgscale("functions", "check", str(directory), *call)
    assert checked.exit_code == 1
    assert [each["kind"] for each in json.loads(checked.out)["differences"]] == ["missing"] * len(before)

    superuser.execute("SET check_function_bodies = off")
    for path in sorted(directory.rglob("*.sql"), reverse=True):
        superuser.execute(path.read_bytes())
    checked = pgscale("functions", "check", str(directory), *call)
    assert (checked.exit_code, json.loads(checked.out)["equal"]) == (0, len(before))


@pytest.mark.versions("all")
def test_files_written_by_hand_are_what_they_make(database: Database, tmp_path: Path) -> None:
    connection = _make(database, tmp_path)
    connection.execute("CREATE SCHEMA pgscale_old_1; CREATE FUNCTION pgscale_old_1.f() RETURNS int RETURN 1")
    assert check_functions(connection, tmp_path) == ()
    # A role with no rights but to name the types sees as much, and a dump leaves every file alone.
    nobody = database.dsn_as(database.create_role())
    checked = pgscale("functions", "check", str(tmp_path), "--dsn", nobody)
    assert checked.exit_code == 3
    assert "permission denied for schema app. GRANT USAGE" in checked.err
    connection.execute("GRANT USAGE ON SCHEMA app TO public")
    checked = pgscale("functions", "check", str(tmp_path), "--dsn", nobody)
    assert (checked.exit_code, checked.out) == (
        0,
        f"{len(ZOO)} functions of {tmp_path} are as in the catalog; nothing is missing or extra.\n",
    )
    before = _contents(tmp_path)
    dumped = pgscale("functions", "dump", str(tmp_path), "--dsn", nobody)
    assert (dumped.exit_code, _contents(tmp_path)) == (0, before)
    assert (
        f"0 files written, {len(ZOO)} functions on disk already as in the catalog.\n1 aggregate left out" in dumped.out
    )


# What is done to the catalog: an ALTER, or the function made anew with parts of its definition exchanged.
DRIFTS: list[tuple[str, str, str | dict[str, str], list[str]]] = [
    ("plain", PLAIN, "IMMUTABLE STRICT LEAKPROOF", ["LEAKPROOF", "STRICT", "volatility"]),
    ("plain", PLAIN, "SECURITY DEFINER COST 7 ROWS 7", ["COST", "ROWS", "SECURITY"]),
    ("plain", PLAIN, {"DEFAULT 'x'::": "DEFAULT 'y'::"}, ["default of argument 2"]),
    ("plain", PLAIN, {"'-1'": "'1'", "2020": "2021"}, ["default of argument 5", "default of argument 7"]),
    ("plain", PLAIN, {"f text[] DEFAULT ARRAY[]::text[]": "f text[] DEFAULT '{}'"}, ["default of argument 6"]),
    ("plain", PLAIN, {"SETOF app.t": "app.t"}, ["result"]),
    ("out", "app.g(numeric, text[])", {"OUT x integer": "OUT x2 integer"}, ["argument 1"]),
    ("table", "app.h(int)", "SET work_mem = '65MB' RESET timezone", ["SET timezone", "SET work_mem"]),
    ("table", "app.h(int)", "SET search_path = 'app, Odd schema' PARALLEL UNSAFE", ["PARALLEL", "SET search_path"]),
    ("table", "app.h(int)", {"b double precision": "b real"}, ["argument 3"]),
    ("overload", "app.f(text)", {"$$;'$b$": "$$; '$b$"}, ["body"]),
    ("trigger", "app.trg()", {"RETURN new": "RETURN/**/ NEW\n", "BEGIN": "begin --\n"}, []),
    ("trigger", "app.trg()", {"RETURN new": "RETURN old"}, ["body"]),
    ("trigger", "app.trg()", {"RETURNS trigger": "RETURNS record"}, ["result"]),
    ("trigger", "app.trg()", {"LANGUAGE plpgsql": "LANGUAGE sql", "trigger": "int"}, ["language", "result"]),
    ("procedure", "app.p(int, int)", {"INOUT b": "INOUT c"}, ["argument 2"]),
    (
        "procedure",
        "app.p(int, int)",
        {"a integer, ": "a integer DEFAULT 1, ", "b integer": "b integer DEFAULT 2"},
        ["default of argument 1", "default of argument 2"],
    ),
    ("standard", "app.r(int, int)", {"(a + b)": "(b + a)"}, ["body"]),
    ("c", "app.c()", {"plpgsql_call_handler": "plpgsql_validator"}, ["link symbol"]),
    ("elsewhere", "here()", {"pg_backend_pid": "pg_postmaster_start_time"}, ["body"]),
]


def test_every_kind_of_drift_is_named(database: Database, tmp_path: Path) -> None:
    connection = _make(database, tmp_path)
    connection.execute("SET check_function_bodies = off")
    for name, signature, change, wanted in DRIFTS:
        with connection.transaction(force_rollback=True):
            if isinstance(change, str):
                connection.execute(f"ALTER FUNCTION {signature} {change}".encode())
            else:
                asked = "SELECT pg_get_functiondef(%s::regprocedure)"
                ((definition,),) = connection.execute(asked, (signature,)).fetchall()
                for old, new in change.items():
                    assert old in definition, (old, definition)
                    definition = definition.replace(old, new)
                if name != "elsewhere":  # which a default names, and which can be replaced as it is
                    connection.execute(f"DROP ROUTINE {signature}".encode())
                connection.execute(definition.encode())
            found = check_functions(connection, tmp_path)
        assert [(each.kind, each.file) for each in found] == [("drifted", f"{name}.sql")] * bool(wanted), change
        for each in found:
            assert sorted(said.what for said in each.changes) == sorted(wanted), change
            assert all(said.file != said.catalog for said in each.changes), change
            assert each.diff.startswith(f"--- {name}.sql:{each.line}\n+++ catalog "), change


def test_what_is_gone_extra_or_beside_a_function_is_told(database: Database, tmp_path: Path) -> None:
    connection = _make(database)
    # What belongs to an extension, as what CREATE EXTENSION makes, is nobody's to keep.
    connection.execute("ALTER EXTENSION plpgsql ADD FUNCTION app.s()")
    for place in ("app", "more", ".git"):
        (tmp_path / place).mkdir()
    (tmp_path / ".git" / "f.sql").write_text("'")
    (tmp_path / "app" / "gone.sql").write_text("CREATE FUNCTION app.gone(a app.lost) RETURNS int RETURN 1;")
    both = tmp_path / "more" / "both.sql"
    both.write_text(
        "\\set ON_ERROR_STOP on\n-- first\nCREATE FUNCTION app.trg() RETURNS trigger LANGUAGE plpgsql AS '';  -- note\n"
        "CREATE FUNCTION app.old() RETURNS int RETURN 1;\n"
        "CREATE PROCEDURE app.p(a int, INOUT b int) LANGUAGE sql AS '';"
    )
    call = (str(tmp_path), "--schema", "app", "--dsn", database.superuser_dsn)
    checked = pgscale("functions", "check", *call)
    assert checked.exit_code == 1
    lines = checked.out.splitlines()
    assert lines[:2] == [
        "missing: app.gone(app.lost) (app/gone.sql:1) cannot be in the catalog: there is no type app.lost",
        "missing: app.old() (more/both.sql:4) is on disk and not in the catalog",
    ]
    assert "drifted: app.trg() (more/both.sql:3) differs in SECURITY, SET datestyle, body" in lines
    assert "    SECURITY: invoker → definer" in lines
    assert "    +AS $function$BEGIN RETURN new; END$function$" in lines
    assert "extra: app.f(text) is in the catalog and not on disk" in lines
    assert lines[-1] == f"2 missing, 2 drifted, 10 extra; 0 functions of {tmp_path} are as in the catalog."

    dumped = pgscale("functions", "dump", *call, "--prune")
    assert f"removed: {tmp_path}/app/gone.sql: app.gone(app.lost)" in dumped.out
    assert f"take them out of it yourself: {both}: app.old()" in dumped.out
    text = both.read_text()
    assert text.startswith("\\set ON_ERROR_STOP on\n-- first\nCREATE OR REPLACE FUNCTION app.trg()\n RETURNS trigger\n")
    assert "$function$;  -- note\nCREATE FUNCTION app.old() RETURNS int RETURN 1;\nCREATE OR REPLACE PROC" in text
    assert not (tmp_path / "app" / "gone.sql").exists()
    left = [each.headline for each in check_functions(connection, tmp_path, schemas=["app"])]
    assert left == ["missing: app.old() (more/both.sql:9) is on disk and not in the catalog"]
    assert {path.name for path in (tmp_path / "app").iterdir()} >= {"%46.sql", "f-text.sql"}


def test_an_application_starts_only_with_its_functions(database: Database, tmp_path: Path) -> None:
    _make(database, tmp_path).execute("GRANT USAGE ON SCHEMA app TO public")
    with database.connect(autocommit=False) as connection:
        connection.execute("CREATE TABLE kept (id int); SET LOCAL search_path = public, app")
        assert_functions(connection, tmp_path)
        (tmp_path / "elsewhere.sql").write_text("CREATE FUNCTION here() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        connection.execute("SET LOCAL search_path = app")
        with pytest.raises(FunctionDriftError) as caught:
            assert_functions(connection, str(tmp_path))
        assert [each.kind for each in caught.value.differences] == ["missing", "extra"]
        assert "2 stored functions of this database are not as" in str(caught.value)
        assert "extra: public.here() is in the catalog and not on disk" in str(caught.value)
        # The transaction goes on as it was: its settings, and that it may write.
        assert connection.execute("SHOW search_path").fetchone() == ("app",)
        assert connection.execute("SHOW lock_timeout").fetchone() == ("0",)
        connection.execute("INSERT INTO public.kept VALUES (1)")
        connection.execute("RESET search_path")
        assert_functions(connection, tmp_path, schemas=["app"])

        async def starts() -> None:
            async with await psycopg.AsyncConnection.connect(database.dsn) as later:
                await aassert_functions(later, tmp_path, schemas=["app"])
                assert later.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
                async with later.transaction():
                    await aassert_functions(later, tmp_path, schemas=["app"])
                    shown = await later.execute("SHOW lock_timeout")
                    assert await shown.fetchone() == ("0",)
                with pytest.raises(FunctionDriftError, match="differs in language, STRICT, body"):
                    await aassert_functions(later, tmp_path)

        asyncio.run(starts())


def test_nothing_waits_for_a_table_that_is_locked(database: Database, tmp_path: Path) -> None:
    connection = _make(database, tmp_path)
    (tmp_path / "atomic.sql").unlink()
    with database.connect_superuser(autocommit=False) as holder:
        holder.execute("LOCK app.t IN ACCESS EXCLUSIVE MODE")
        connection.execute("SET lock_timeout = '50ms'; ALTER EXTENSION plpgsql ADD FUNCTION app.s()")
        assert check_functions(connection, tmp_path) == ()


@pytest.mark.versions(14, 18)
def test_the_server_reads_what_it_alone_can(database: Database, tmp_path: Path) -> None:
    connection = database.connect()
    connection.execute("CREATE SCHEMA app; CREATE TABLE app.t (id int, b int)")
    same = {
        "r": "CREATE FUNCTION app.r(a int, b int DEFAULT 1+2*3) RETURNS int RETURN a+b",
        "s": "create or replace function app.s() returns setof int begin atomic select id from app.t where b>1; end",
    }
    for name, text in same.items():
        connection.execute(text.encode())
        (tmp_path / f"{name}.sql").write_text(text)
    for name in "xyz":
        connection.execute(f"CREATE FUNCTION app.{name}(a int DEFAULT 1 + 1) RETURNS int RETURN a".encode())
    (tmp_path / "x.sql").write_text("CREATE FUNCTION app.x(a int DEFAULT 1+1) RETURNS int RETURN a+1")
    (tmp_path / "y.sql").write_text("CREATE FUNCTION app.y(a int DEFAULT 1+1) RETURNS int RETURN lost(a)")
    (tmp_path / "z.sql").write_text("CREATE FUNCTION app.z(a int DEFAULT 1+1) RETURNS int STABLE RETURN a")
    call = ("functions", "check", str(tmp_path), "--dsn", database.dsn, "--json")
    asked = "SELECT array_agg((p.*)::text ORDER BY oid) FROM pg_proc p WHERE pronamespace = 'app'::regnamespace"
    before = connection.execute(asked).fetchone()
    for more, wanted in (((), ["r", "s", "x", "y", "z"]), (("--create",), ["x", "y", "z"])):
        ran = pgscale(*call, *more)
        drifted = json.loads(ran.out)["differences"]
        assert (ran.exit_code, [each["file"].removesuffix(".sql") for each in drifted]) == (1, wanted)
    assert connection.execute(asked).fetchone() == before


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"a.sql": "CREATE FUNCTION f() RETURNS int RETURN 1", "b.sql": "CREATE FUNCTION public.f() RETURNS a RETURN"},
         r"public.f\(\) is in a.sql:1 and again in b.sql:1"),
        ({"a.sql": "\nCREATE FUNCTION f(a int,) RETURNS int RETURN 1"}, r"a.sql:2: the CREATE .* has \) where"),
        ({"a.sql": "CREATE FUNCTION f() RETURNS int AS ''"}, "a.sql:1: the CREATE .* has no LANGUAGE"),
        ({"a.sql": "CREATE FUNCTION f() RETURNS int LANGUAGE sql"}, "a.sql:1: the CREATE .* has no body"),
        ({"a.sql": "CREATE FUNCTION f() RETURNS int LANGUAGE sql FAST AS ''"}, "has fast where a clause was expected"),
        ({"a.sql": "CREATE FUNCTION f(a int[x]) RETURNS int LANGUAGE sql AS ''"}, "The server cannot read a type"),
        ({"a.sql": "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $a$"}, "does not end"),
        ({"a.sql": "\xff"}, "a.sql is not UTF-8: byte 0 is 0xff"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read_are_named(
    database: Database, tmp_path: Path, files: dict[str, str], told: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=told):
        check_functions(database.connect(), tmp_path)


def test_there_is_such_a_directory_and_such_a_schema(database: Database, tmp_path: Path) -> None:
    ran = pgscale("functions", "check", str(tmp_path / "none"), "--dsn", database.dsn)
    assert (ran.exit_code, "`pgscale functions dump DIR` makes it" in ran.err) == (2, True)
    ran = pgscale("functions", "dump", str(tmp_path), "--schema", "public", "--schema", "none", "--dsn", database.dsn)
    assert (ran.exit_code, ran.err) == (2, "pgscale: There is no schema none.\n")


def test_a_file_is_written_whole_or_not_at_all(database: Database, tmp_path: Path) -> None:
    connection = _make(database)
    (tmp_path / "app").write_text("in the way")
    ran = pgscale("functions", "dump", str(tmp_path), "--dsn", database.superuser_dsn)
    assert (ran.exit_code, "cannot be written" in ran.err) == (5, True)
    (tmp_path / "app").unlink()
    place = tmp_path / "x.sql"
    place.write_text("CREATE FUNCTION app.trg() RETURNS trigger LANGUAGE plpgsql AS '';")
    place.chmod(0o640)
    dump_functions(connection, tmp_path)
    assert (place.stat().st_mode & 0o777, place.read_text().count("RETURN new")) == (0o640, 1)
    assert [path.name for path in tmp_path.rglob("*") if path.suffix == ".tmp"] == []


def test_a_suite_of_tests_is_told_in_its_own_words(
    database: Database, tmp_path: Path, pytester: pytest.Pytester
) -> None:
    _make(database, tmp_path).execute("ALTER FUNCTION app.trg() STABLE; GRANT USAGE ON SCHEMA app TO public")
    pytester.makeconftest('pytest_plugins = ["pgscale.catalog.testing"]')
    pytester.makepyfile(
        f"""
        import psycopg
        def test_app(stored_functions_match):
            stored_functions_match({database.dsn!r}, {str(tmp_path)!r})
        def test_public(stored_functions_match):
            with psycopg.connect({database.dsn!r}) as connection:
                stored_functions_match(connection, {str(tmp_path)!r}, schemas=["public"])
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["drifted: app.trg() (trigger.sql:2) differs in volatility", "    volatility: volatile → stable"]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
