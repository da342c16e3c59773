"""`--by list:COL --values …`: values are told apart as the column's type and collation do, never by their text."""

from __future__ import annotations

import re
from dataclasses import dataclass

import psycopg
import pytest

from pgscale import partition
from pgscale.errors import PgscaleError, RefusedError, UsageError
from pgscale.partition import Options
from support import parity
from support.crash import pgscale
from support.servers import Database

TABLES = """
CREATE TYPE mood AS ENUM ('sad', 'happy', '1.0');
CREATE DOMAIN worth AS numeric(6, 2) CHECK (VALUE >= 0);
CREATE DOMAIN code AS varchar(3);
CREATE TABLE t (id int NOT NULL UNIQUE, n numeric, w worth, s text, v varchar(3), k code, c char(4), b boolean, m mood,
  ts timestamp, tz timestamptz, d date, f float8, u uuid, a int[], j jsonb, i interval, bits bit(3));
INSERT INTO t SELECT g, v, v, CASE g WHEN 1 THEN 'A' ELSE 'a' END, 'abc', 'abc', 'ab', g = 1, 'sad', ts, ts, ts, v,
  '00000000-0000-0000-0000-00000000000a', '{1,2}', '{"a": 1.0}', '36 hours', '101'
  FROM (VALUES (1, 1.0, timestamp '2013-01-05'), (2, 1.00, '2013-01-05'), (3, 2, '2013-01-06')) x(g, v, ts);
"""


@dataclass(frozen=True)
class Named:
    """Values of one column: given, and what the partitions' bounds must be (`covers`) or what is said (`says`)."""

    column: str
    given: tuple[str, ...]
    covers: tuple[str, ...] = ()
    says: str = ""
    error: type[PgscaleError] = UsageError


GOOD = (
    Named("n", ("1.000", "2.0"), ("1.000", "2.0")),
    Named("n", ("1e0", "NaN", "2"), ("1", "NaN", "2")),
    Named("w", ("1", "2"), ("1.00", "2.00")),
    Named("s", ("a", "A"), ("a", "A")),
    Named("v", ("abc  ",), ("abc",)),
    Named("c", ("ab  ",), ("ab",)),
    Named("b", ("yes", "off"), ("true", "false")),
    Named("m", ("sad", "1.0"), ("sad", "1.0")),
    Named("ts", ("2013-1-5", "20130106 00:00"), ("2013-01-05 00:00:00", "2013-01-06 00:00:00")),
    Named("tz", ("2013-01-05 02:00+02", "2013-01-06"), ("2013-01-05 00:00:00+00", "2013-01-06 00:00:00+00")),
    Named("d", ("Jan 5, 2013", "2013-01-06"), ("2013-01-05", "2013-01-06")),
    Named("f", ("1.0", "2e0"), ("1", "2")),
    Named("u", ("{0000000000000000000000000000000A}",), ("00000000-0000-0000-0000-00000000000a",)),
    Named("a", ("{ 1, 2 }",), ("{1,2}",)),
    Named("j", ('{"a":1.00}',), ('{"a": 1.00}',)),
    Named("i", ("1 day 12:00",), ("1 day 12:00:00",)),
    Named("bits", ("101",), ("101",)),
)
BAD = (
    Named("n", ("1.0", "2", "1.00"), says=r"'1\.0', '1\.00' are equal as numeric"),
    Named("w", ("1", "2", "1.001"), says=r"'1', '1\.001' are equal as public\.worth"),
    Named("s", ("a", "A", "a"), says=r"more than once: 'a'\."),
    Named("c", ("ab", "ab "), says=r"'ab', 'ab ' are equal as character\(4\)"),
    Named("b", ("t", "f", "true"), says=r"'t', 'true' are equal as boolean"),
    Named("ts", ("2013-01-05", "2013-01-05 00:00", "2013-01-06"), says="are equal as timestamp"),
    Named("i", ("36 hours", "1 day 12:00"), says="are equal as interval"),
    Named("n", ("1", "two"), says=r"'two', which is no value of column n \(numeric\).*invalid input syntax"),
    Named("n", ("",), says=r"'', which is no value of column n"),
    Named("w", ("1", "2", "-3"), says=r"'-3', which is no value of column w \(public\.worth\).*check"),
    Named("v", ("abc", "abcd"), says=r"'abcd', which is no value of column v \(character varying\(3\)\)"),
    Named("k", ("abc", "abcd"), says=r"'abcd', which is no value of column k \(public\.code\)"),
    Named("bits", ("101", "1011"), says=r"'1011', which is no value of column bits"),
    Named("m", ("sad", "Sad"), says=r"'Sad', which is no value of column m.*enum"),
    Named("d", ("2013-02-30",), says=r"'2013-02-30', which is no value of column d.*out of range"),
    Named("a", ("{1,2",), says=r"which is no value of column a.*malformed"),
    Named("n", ("1.0",), says=r"Rows hold 1 value of n that --values does not name: '2'", error=RefusedError),
    Named("s", ("a",), says=r"Rows hold 1 value of s that --values does not name: 'A'", error=RefusedError),
    Named("ts", ("2013-01-06",), says=r"does not name: '2013-01-05 00:00:00'", error=RefusedError),
)


def _fill(database: Database) -> psycopg.Connection[tuple[object, ...]]:
    conn = database.connect()
    conn.execute(TABLES)
    return conn


def _options(named: Named) -> Options:
    return Options(by=f"list:{named.column}", values=named.given, accept_key_change=True, pace="fast", workers=1)


@pytest.mark.versions(14, 18)
def test_named_values_become_bounds_as_the_server_prints_them(database: Database) -> None:
    _fill(database)
    for named in GOOD:
        plan = partition.plan(database.dsn, "t", _options(named))
        shown = [leaf.bound for leaf in plan.leaves if leaf.bound not in ("DEFAULT", "FOR VALUES IN (NULL)")]
        assert shown == [f"FOR VALUES IN ('{value}')" for value in named.covers], named


@pytest.mark.versions(14, 18)
def test_named_values_are_declined_in_one_paragraph_before_any_change(database: Database) -> None:
    _fill(database)
    before = parity.dump_schema(database.superuser_dsn)
    for named in BAD:
        with pytest.raises(named.error, match=named.says) as declined:
            partition.run(database.dsn, "t", _options(named))
        assert declined.value.exit_code == (2 if named.error is UsageError else 4), named
        assert len(str(declined.value)) < 500
        assert "\n" not in str(declined.value)
    parity.assert_identical(before, parity.dump_schema(database.superuser_dsn))
    with database.connect_superuser() as admin:
        assert parity.traces(admin) == []


@pytest.mark.parametrize(
    ("by", "given", "code", "says"),
    [
        ("list:n", "1.0,2,1.00", 2, "'1.0', '1.00' are equal as numeric"),
        ("list:n", "1,x", 2, "'x', which is no value of column n"),
        ("list:n", "1", 4, "does not name: '2'"),
    ],
)
def test_the_command_line_says_it_once(database: Database, by: str, given: str, code: int, says: str) -> None:
    _fill(database)
    ran = pgscale(database.dsn, "run", "t", "--by", by, "--values", given, "--accept-key-change")
    assert ran.returncode == code, ran.stderr
    assert says in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.stderr
    assert not re.search(r"\n\s*\n", ran.stderr.strip())


@pytest.mark.versions(14, 18)
def test_named_numbers_carry_rows_of_every_spelling(database: Database) -> None:
    conn = _fill(database)
    options = Options(by="list:n", values=("1", "2.00"), accept_key_change=True, default_partition=False, pace="fast")
    result = partition.run(database.dsn, "t", options)
    assert (result.rows_checked, result.mismatches) == (3, 0)
    rows = conn.execute("SELECT id, n::text, tableoid::regclass::text FROM t ORDER BY id").fetchall()
    assert [row[:2] for row in rows] == [(1, "1.0"), (2, "1.00"), (3, "2")]
    assert rows[0][2] == rows[1][2] != rows[2][2]


@pytest.mark.versions(15)  # of the servers tested, the one with contrib and ICU
def test_named_values_are_told_apart_by_collation(database: Database) -> None:
    conn = database.connect_superuser()
    try:
        conn.execute("CREATE EXTENSION citext")
        conn.execute("CREATE COLLATION careless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile) as error:
        pytest.skip(str(error))
    owner = database.connect()
    owner.execute(
        "CREATE TABLE t (id int PRIMARY KEY, i citext, s text COLLATE careless);"
        "INSERT INTO t VALUES (1, 'A', 'A'), (2, 'a', 'a'), (3, 'b', 'b')"
    )
    for column in ("i", "s"):
        options = _options(Named(column, ("a", "B")))
        plan = partition.plan(database.dsn, "t", options)
        assert [leaf.bound for leaf in plan.leaves][:2] == ["FOR VALUES IN ('a')", "FOR VALUES IN ('B')"]
        with pytest.raises(UsageError, match="'a', 'A' are equal as"):
            partition.plan(database.dsn, "t", _options(Named(column, ("a", "b", "A"))))
        with pytest.raises(RefusedError, match=r"does not name: '[bB]'"):
            partition.plan(database.dsn, "t", _options(Named(column, ("A",))))
    result = partition.run(database.dsn, "t", _options(Named("i", ("a", "B"))))
    assert result.mismatches == 0
    assert owner.execute("SELECT count(DISTINCT tableoid) FROM t").fetchone() == (2,)
