"""What is declined before a row is read, by name; passwords that stay out of messages; sessions like any other's."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgscale import partition
from pgscale.catalog import reader as catalog
from pgscale.catalog.model import TableFacts
from pgscale.connect import session as sessions
from pgscale.connect.dsn import resolve_dsn
from pgscale.connect.session import CONTROL, READER, Session, open_session
from pgscale.errors import ConnectError, RefusedError, UsageError
from pgscale.partition import Options, reader
from pgscale.partition.bounds import parse_by
from pgscale.partition.checks import find_reasons, refuse_nonfinite
from pgscale.partition.keys import decide_keys
from pgscale.partition.reader import KeyValues, read_key_values
from support.servers import Database

# --- passwords --------------------------------------------------------------------------------------------

UNPARSED = (
    "postgresql://u:S3cr%zzet@h/db",
    "postgres:/u:S3cret@h/db",
    "postgresql+psycopg://u:S3cr%zzet@h/db",
    "host=h password='S3cret",
    "host=h S3cret",
    "postgresql://u:S3c/ret@h/db?S3cret",
)


@pytest.mark.parametrize("dsn", UNPARSED)
def test_a_dsn_that_cannot_be_parsed_is_not_repeated(dsn: str) -> None:
    with pytest.raises(UsageError) as declined:
        resolve_dsn(dsn)
    shown = "".join(traceback.format_exception(declined.value)).partition("Traceback")[0]
    assert declined.value.__context__ is None, "libpq's message is chained"
    for text in (str(declined.value), shown):
        assert "S3c" not in text
        assert "zz" not in text
    assert "libpq" in declined.value.fact
    assert "percent-encoded" in declined.value.hint
    for char in "%@:/":
        assert f"`{char}`" in declined.value.hint


@pytest.mark.parametrize("error", [psycopg.OperationalError, psycopg.ProgrammingError])
def test_the_password_is_removed_from_what_libpq_says(
    monkeypatch: pytest.MonkeyPatch, error: type[psycopg.Error]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error("no good: top S3cr@t word")

    monkeypatch.setattr(psycopg, "connect", refuse)
    for dsn in ("postgresql://u:top%20S3cr%40t%20word@h/db", "host=h password='top S3cr@t word'"):
        with pytest.raises(ConnectError) as failed:
            open_session(dsn, READER)
        assert "no good: ***" in str(failed.value)
        assert "S3cr" not in str(failed.value)


def test_the_password_is_removed_when_the_session_cannot_be_set_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "jit_S3cret"
    monkeypatch.setattr(sessions, "_SETTINGS", ((secret, "off"),))
    assert "password" not in conninfo_to_dict(database.dsn)
    with pytest.raises(ConnectError) as failed:
        open_session(make_conninfo(database.dsn, password=secret), READER)
    assert "***" in str(failed.value)
    assert secret not in str(failed.value)


# --- sessions ---------------------------------------------------------------------------------------------


@pytest.mark.versions(14, 18)
def test_no_setting_of_a_role_reaches_a_session(database: Database) -> None:
    expected = {
        "client_encoding": "UTF8",
        "idle_session_timeout": "0",
        "default_tablespace": "",
        "xmloption": "content",
        "default_transaction_deferrable": "off",
    }
    with database.connect() as conn:
        for name, value in (
            ("client_encoding", "latin1"),
            ("idle_session_timeout", "'5s'"),
            ("default_tablespace", "pg_default"),
            ("xmloption", "document"),
            ("default_transaction_deferrable", "on"),
        ):
            conn.execute(f"ALTER ROLE CURRENT_USER SET {name} = {value}".encode())
    for profile in (READER, CONTROL):
        with open_session(make_conninfo(database.dsn, client_encoding="latin1"), profile) as session:
            found = {name: session.execute("SELECT current_setting(%s)", [name]).fetchone() for name in expected}
            assert found == {name: (value,) for name, value in expected.items()}
            assert session.execute("SELECT 'Ω'").fetchone() == ("Ω",)


# --- types of the partition key ---------------------------------------------------------------------------

TYPES = """
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE ordered AS (a int, b text);
CREATE TYPE unordered AS (a int, b json);
CREATE DOMAIN a_text AS text; CREATE DOMAIN a_json AS json;
CREATE TABLE t (id int PRIMARY KEY, j json, x xml, p point, js json[], u unordered, dj a_json,
  n numeric, nn numeric(8, 2), uid uuid, s text, v varchar(9), c char(3), b boolean, e mood, o ordered, r int4range,
  a text[], dt a_text, net cidr, jb jsonb, ts timestamp(3), tz timestamptz(0), d date, i bigint);
"""
UNORDERED = ("j", "x", "p", "js", "u", "dj")
STEPLESS = ("uid", "s", "v", "c", "b", "e", "o", "r", "a", "dt", "net", "jb")
STEPPED = ("n", "nn", "ts", "tz", "d", "i", "id")


def _facts(session: Session, table: str = "public.t") -> TableFacts:
    return catalog.read_table(session, catalog.find_table(session, table)[0])


def _reasons(facts: TableFacts, by: str) -> tuple[str, ...]:
    parsed = parse_by(by)
    return find_reasons(facts, parsed, Options(by=by, accept_key_change=True), decide_keys(facts, parsed))


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test when a row is looked at."""

    def look(*_: object) -> None:
        raise AssertionError("the table was read")

    monkeypatch.setattr(reader, "_looks", look)
    monkeypatch.setattr(reader, "_extent", look)


@pytest.mark.versions(14, 18)
def test_the_catalog_knows_which_types_are_ordered(database: Database) -> None:
    with database.connect() as conn:
        conn.execute(TYPES)
    with open_session(database.dsn, READER) as session:
        facts = _facts(session)
        assert {c.name for c in facts.columns if not c.has_btree_opclass} == set(UNORDERED)
        for name in (*STEPLESS, *STEPPED):
            assert not [r for r in _reasons(facts, f"list:{name}") if "operator class" in r], name
        for name in STEPPED:
            assert _reasons(facts, f"range:{name}:1") == (), name


@pytest.mark.usefixtures("unread")
def test_a_type_without_an_order_is_refused_by_name(database: Database) -> None:
    with database.connect() as conn:
        conn.execute(TYPES)
        conn.execute("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD UNIQUE (id), ALTER id SET NOT NULL")
        # PostgreSQL says the same.
        with pytest.raises(psycopg.errors.UndefinedObject):
            conn.execute("CREATE TABLE parted (j json) PARTITION BY LIST (j)")
    for name in UNORDERED:
        for by in (f"list:{name}", f"range:{name}:day"):
            with pytest.raises(RefusedError, match=f"column {name} has no default btree operator class") as refused:
                partition.run(database.dsn, "public.t", Options(by=by, accept_key_change=True))
            assert refused.value.exit_code == 4


@pytest.mark.usefixtures("unread")
def test_a_range_over_a_type_without_steps_is_a_wrong_call(database: Database) -> None:
    with database.connect() as conn:
        conn.execute(TYPES)
        conn.execute("INSERT INTO t (id, uid, b) VALUES (1, gen_random_uuid(), true)")
    for name in STEPLESS:
        with pytest.raises(UsageError, match=f"column {name} is ") as declined:
            partition.run(database.dsn, "public.t", Options(by=f"range:{name}:10", accept_key_change=True))
        assert declined.value.exit_code == 2
        assert "list" in declined.value.hint


# --- list values ------------------------------------------------------------------------------------------


def _found(session: Session, by: str, table: str = "public.t") -> KeyValues:
    return read_key_values(session, _facts(session, table), parse_by(by))


@pytest.fixture(params=[32_768, 1], ids=["one look", "many looks"])
def pages_per_look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(reader, "PAGES_PER_LOOK", request.param)
    return int(request.param)


@pytest.mark.usefixtures("pages_per_look")
def test_list_values_are_distinct_by_type(database: Database) -> None:
    with database.connect() as conn:
        conn.execute(
            "CREATE DOMAIN worth AS numeric; CREATE TYPE mood AS ENUM ('sad', 'happy');"
            "CREATE TABLE t (id int PRIMARY KEY, n numeric, w worth, k text, c char(5),"
            " e mood, f float8, pad text);"
            "INSERT INTO t SELECT g, v, v, s, s, CASE WHEN g % 2 = 0 THEN 'sad' ELSE 'happy' END::mood, 0.1,"
            " repeat('x', 900) FROM generate_series(0, 199) g,"
            " LATERAL (SELECT (ARRAY['1.0', '1.00', '1', '2'])[g % 4 + 1]::numeric,"
            " (ARRAY['a', 'A', 'b', 'B'])[g / 50 + 1]) u(v, s)"
        )
    with open_session(database.dsn, READER) as session:
        for by, values in (
            ("list:n", ("1", "2")),
            ("list:w", ("1", "2")),
            ("list:k", ("A", "B", "a", "b")),
            ("list:c", ("A", "B", "a", "b")),
            ("list:e", ("happy", "sad")),
            ("list:f", ("0.1",)),
        ):
            assert _found(session, by).values == values, by


@pytest.mark.versions(15)  # of the servers tested, the one with ICU
@pytest.mark.usefixtures("pages_per_look")
def test_list_values_are_distinct_by_collation(database: Database) -> None:
    with database.connect() as conn:
        try:
            conn.execute(
                "CREATE COLLATION careless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
            )
        except psycopg.errors.FeatureNotSupported as error:
            pytest.skip(str(error))
        conn.execute(
            "CREATE EXTENSION citext;"
            "CREATE DOMAIN relaxed AS text COLLATE careless;"
            "CREATE TABLE t (id int PRIMARY KEY, s text COLLATE careless, d relaxed, i citext, pad text);"
            "INSERT INTO t SELECT g, v, v, v, repeat('x', 900) FROM generate_series(0, 199) g,"
            " LATERAL (SELECT (ARRAY['a', 'A', 'b', 'B'])[g / 50 + 1]) u(v)"
        )
    with open_session(database.dsn, READER) as session:
        for name in ("s", "d", "i"):
            assert _found(session, f"list:{name}").values == ("A", "B"), name


@pytest.mark.usefixtures("pages_per_look")
def test_list_values_are_counted_by_type(database: Database) -> None:
    with database.connect() as conn:
        conn.execute(
            "CREATE TABLE t (id int PRIMARY KEY, n numeric);"
            "INSERT INTO t SELECT g, (g % 900 || CASE WHEN g < 900 THEN '' ELSE '.0' END)::numeric"
            " FROM generate_series(0, 1799) g;"
            "CREATE TABLE many (id int PRIMARY KEY); INSERT INTO many SELECT generate_series(1, 1001);"
            "CREATE TABLE nothing (id int PRIMARY KEY)"
        )
    with open_session(database.dsn, READER) as session:
        values = _found(session, "list:n").values
        assert values is not None
        assert sorted(map(int, values)) == list(range(900))
        assert _found(session, "list:id", "public.many").values is None
        assert _found(session, "list:id", "public.nothing").values == ()


def test_a_list_of_numbers_of_many_scales_is_carried(database: Database) -> None:
    with database.connect() as conn:
        conn.execute(
            "CREATE TABLE t (id int, n numeric, PRIMARY KEY (id, n)); INSERT INTO t VALUES (1, 1.0), (2, 1.00), (3, 2)"
        )
        result = partition.run(database.dsn, "public.t", Options(by="list:n"))
        assert result.mismatches == 0
        rows = conn.execute("SELECT tableoid::regclass::text, n::text FROM t ORDER BY id").fetchall()
        assert [n for _, n in rows] == ["1.0", "1.00", "2"]
        assert rows[0][0] == rows[1][0] != rows[2][0]


# --- collations of unique keys ----------------------------------------------------------------------------


@pytest.mark.versions(14, 18)
def test_a_unique_key_under_another_collation_is_refused_by_name(database: Database) -> None:
    with database.connect() as conn:
        conn.execute(
            'CREATE TABLE t (id int, s text COLLATE "C", k text, CONSTRAINT plain PRIMARY KEY (id, s));'
            'CREATE UNIQUE INDEX odd ON t (s COLLATE "POSIX", id); CREATE UNIQUE INDEX even ON t (s, id);'
            'CREATE UNIQUE INDEX both_ways ON t (s COLLATE "POSIX", s, id); CREATE INDEX free ON t (s COLLATE "POSIX");'
            "CREATE UNIQUE INDEX computed ON t (lower(s), id, s)"
        )
    with open_session(database.dsn, READER) as session:
        facts = _facts(session)
        own = {i.name: i.own_collation for i in facts.indexes}
        assert own == {
            "plain": [False, False],
            "odd": [True, False],
            "even": [False, False],
            "both_ways": [True, False, False],
            "free": [True],
            "computed": [False, False, False],
        }
        for by in ("list:s", "hash:s"):
            (reason,) = _reasons(facts, by)
            assert "odd" in reason
            assert "collation" in reason
        assert _reasons(facts, "hash:id") == ()
    with pytest.raises(RefusedError, match="Unique index odd compares s by another collation") as refused:
        partition.run(database.dsn, "public.t", Options(by="list:s"))
    assert refused.value.exit_code == 4


# --- values beyond every range ----------------------------------------------------------------------------

NONFINITE = (
    ("date", "'2024-01-05'", ("'infinity'", "'-infinity'"), "month"),
    ("timestamp(3)", "'2024-01-05'", ("'infinity'", "'-infinity'"), "month"),
    ("timestamptz", "'2024-01-05'", ("'infinity'", "'-infinity'"), "month"),
    ("numeric", "7", ("'NaN'", "'Infinity'", "'-Infinity'"), "10"),
    ("numeric(9, 2)", "7", ("'NaN'",), "10"),
    ("bigint", "7", (), "10"),
)


@pytest.mark.usefixtures("pages_per_look")
@pytest.mark.parametrize(("kind", "finite", "others", "step"), NONFINITE, ids=[n[0] for n in NONFINITE])
def test_nonfinite_values_need_a_default_partition(
    database: Database, kind: str, finite: str, others: tuple[str, ...], step: str
) -> None:
    by = f"range:k:{step}"
    without, with_default = Options(by=by, default_partition=False), Options(by=by)
    with database.connect() as conn:
        execute: Callable[[str], object] = conn.execute  # pyright: ignore[reportAssignmentType] because the types vary
        execute(f"CREATE TABLE t (id int PRIMARY KEY, k {kind}, pad text)")
        execute(f"INSERT INTO t SELECT g, {finite}, repeat('x', 900) FROM generate_series(1, 30) g")
        execute("INSERT INTO t VALUES (0, NULL)")
        with open_session(database.dsn, READER) as session:
            plain = _found(session, by)
            assert not plain.has_nonfinite
            refuse_nonfinite(plain, parse_by(by), without)
            for other in others:
                execute("DELETE FROM t WHERE id > 30")
                execute(f"INSERT INTO t VALUES (31, {other})")
                for index in ("CREATE INDEX ON t (k)", "DROP INDEX t_k_idx"):
                    execute(index)
                    found = _found(session, by)
                    assert found.has_nonfinite, (other, index)
                    assert found.extent == plain.extent
                refuse_nonfinite(found, parse_by(by), with_default)
                with pytest.raises(RefusedError, match="Column k holds infinity") as refused:
                    refuse_nonfinite(found, parse_by(by), without)
                assert refused.value.exit_code == 4
    assert (plain.extent.lowest or "").startswith(finite.strip("'"))


def test_a_range_of_an_empty_table_is_finite(database: Database) -> None:
    with database.connect() as conn:
        conn.execute("CREATE TABLE t (id int PRIMARY KEY, k date)")
    with open_session(database.dsn, READER) as session:
        for by in ("range:k:month", "range:id:10"):
            found = _found(session, by)
            assert (found.extent.lowest, found.extent.highest, found.has_nonfinite) == (None, None, False)
