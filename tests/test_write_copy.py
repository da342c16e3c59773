"""COPY of rows of any shape, sync and async: what fits is written whole, what does not names row, column, reason."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import itertools
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
import pytest

from pgscale import write
from pgscale.errors import PgscaleError, RefusedError, UsageError
from pgscale.write import destination
from support.servers import Database

ROWS = [(1, "a", None), (2, "é", 2.5), (3, None, -1.0)]
NAMES = ("id", "label", "score")


class Named(NamedTuple):
    score: float | None
    id: int
    label: str | None


@dataclass
class Record:
    label: str | None
    score: float | None
    id: int


@dataclass(frozen=True, slots=True)
class Only:
    id: int


def _arrow(rows: list[tuple[Any, ...]]) -> Any:
    pa = pytest.importorskip("pyarrow")
    columns = list(zip(*rows, strict=True))
    return pa.table({n: list(c) for n, c in zip(NAMES, columns, strict=True)})


def _generator(rows: list[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    yield from rows


async def _async(rows: list[tuple[Any, ...]]) -> AsyncIterator[tuple[Any, ...]]:
    for row in rows:
        await asyncio.sleep(0)
        yield row


SHAPES: dict[str, Callable[[list[tuple[Any, ...]]], Any]] = {
    "tuples": lambda rows: rows,
    "lists": lambda rows: [list(row) for row in rows],
    "generator": _generator,
    "dicts": lambda rows: [dict(zip(reversed(NAMES), reversed(row), strict=True)) for row in rows],
    "named tuples": lambda rows: [Named(id=i, label=label, score=score) for i, label, score in rows],
    "dataclasses": lambda rows: [Record(label=label, score=score, id=i) for i, label, score in rows],
    "arrow": _arrow,
    "async": _async,
}


@pytest.fixture
def conn(database: Database) -> psycopg.Connection[Any]:
    connection = database.connect()
    connection.execute("CREATE TABLE t (id integer PRIMARY KEY, label text, score double precision)")
    return connection


def _all(conn: psycopg.Connection[Any], table: str = "t") -> list[tuple[Any, ...]]:
    return conn.execute(f"SELECT * FROM {table} ORDER BY 1".encode()).fetchall()


@pytest.mark.parametrize("shape", [s for s in SHAPES if s != "async"])
def test_every_shape_of_rows(conn: psycopg.Connection[Any], shape: str) -> None:
    assert write.copy(conn, "t", SHAPES[shape](ROWS)).rows == 3
    assert _all(conn) == ROWS


def test_every_shape_of_rows_async(conn: psycopg.Connection[Any], database: Database) -> None:
    async def run() -> None:
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as connection:
            for make in SHAPES.values():
                await connection.execute("TRUNCATE t")
                assert (await write.acopy(connection, "t", make(ROWS))).rows == 3
                assert _all(conn) == ROWS
            with pytest.raises(write.RowError) as raised:
                await write.acopy(connection, "t", _async([(10, "x", 1.0), (11, "y", "no")]))
            assert (raised.value.row, raised.value.column) == (1, "score")
            assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE

    asyncio.run(run())
    assert _all(conn) == ROWS


def test_no_rows(conn: psycopg.Connection[Any]) -> None:
    assert write.copy(conn, "t", []) == write.CopyResult(rows=0, bytes=0)
    assert write.copy(conn, "t", iter(()), ["id"]).rows == 0


def test_columns_choose_and_order(conn: psycopg.Connection[Any]) -> None:
    conn.execute("ALTER TABLE t ALTER label SET DEFAULT 'none', ADD twice integer GENERATED ALWAYS AS (id * 2) STORED")
    assert write.copy(conn, "t", [(0.5, 1)], ["score", "id"]).rows == 1
    assert write.copy(conn, "t", [(2, "b", 1.5)]).rows == 1
    assert write.copy(conn, "t", [Only(3)]).rows == 1
    assert write.copy(conn, "t", [{"id": 4}]).rows == 1
    assert _all(conn) == [(1, "none", 0.5, 2), (2, "b", 1.5, 4), (3, "none", None, 6), (4, "none", None, 8)]


def test_odd_names(database: Database) -> None:
    conn = database.connect()
    conn.execute('CREATE SCHEMA "Ö x"; CREATE TABLE "Ö x"."a""b" ("from" integer, "Ω %s {}" text)')
    assert write.copy(conn, '"Ö x"."a""b"', [{"from": 1, "Ω %s {}": "x"}]).rows == 1
    conn.execute('SET search_path TO "Ö x"')
    assert write.copy(conn, '"a""b"', [(2, "y")]).rows == 1
    assert conn.execute('SELECT * FROM "a""b" ORDER BY 1').fetchall() == [(1, "x"), (2, "y")]


@pytest.mark.parametrize(
    ("table", "rows", "columns", "error", "said"),
    [
        ("nothing", ROWS, None, RefusedError, "no table nothing"),
        ("t", [(1, 2)], ["id", "other"], RefusedError, "no column other"),
        ("t", [(1, 2)], ["id", "id"], RefusedError, "named twice"),
        ("t", [(1,)], ["made"], RefusedError, "generated"),
        ("t", [(1,)], ["place"], RefusedError, "Column place has type point"),
        ("t", "abc", None, UsageError, "str is no iterable of rows"),
        ("t", 5, None, UsageError, "int is no iterable of rows"),
        ("t", [5], None, UsageError, "int is no row"),
        ("t", ["abc"], None, UsageError, "str is no row"),
    ],
)
def test_refused_before_anything_is_written(
    conn: psycopg.Connection[Any],
    table: str,
    rows: Any,
    columns: list[str] | None,
    error: type[PgscaleError],
    said: str,
) -> None:
    conn.execute("ALTER TABLE t ADD made integer GENERATED ALWAYS AS (1) STORED, ADD place point")
    with pytest.raises(error) as raised:
        write.copy(conn, table, rows, columns)
    assert said in str(raised.value)
    assert _all(conn) == []


class Mood(enum.Enum):
    OK = "fine"


TYPED = (
    "CREATE TYPE mood AS ENUM ('OK', 'bad'); CREATE TYPE pair AS (n integer, t text);"
    "CREATE DOMAIN few AS integer CHECK (VALUE < 9);"
    "CREATE TABLE v (i2 smallint, i4 integer, i8 bigint, f4 real, n numeric(5,2), b boolean, t text, vc varchar(3),"
    " by bytea, d date, ts timestamp, tz timestamptz, ti time, iv interval, u uuid, j jsonb, a integer[], m mood,"
    " p pair, few few, ip inet, net cidr, bits bit(3), nn integer NOT NULL DEFAULT 0)"
)
WRONG = [
    ("i2", 40000, "40000 is out of range for smallint"),
    ("i4", "1", "str where an integer is wanted"),
    ("i4", True, "bool where an integer is wanted"),
    ("i4", 1.0, "float where an integer is wanted"),
    ("i8", 2**63, "9223372036854775808 is out of range for bigint"),
    ("f4", 1e300, "1e+300 is out of range for real"),
    ("f4", "1", "str where a number is wanted"),
    ("n", 1000, "numeric field overflow (22003)"),
    ("n", "1", "str where a number is wanted"),
    ("b", 1, "int where a boolean is wanted"),
    ("t", b"x", "bytes where text is wanted"),
    ("t", "a\x00b", "NUL"),
    ("t", "\ud800", "lone surrogate"),
    ("vc", "abcd", "value too long for type character varying(3) (22001)"),
    ("by", "x", "str where bytes is wanted"),
    ("d", "2026-01-01", "str where a date is wanted"),
    ("d", dt.datetime(2026, 1, 1), "datetime where a date is wanted"),
    ("ts", dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "with a time zone where timestamp"),
    ("tz", dt.datetime(2026, 1, 1), "without a time zone where timestamptz"),
    ("ti", dt.timedelta(hours=1), "timedelta where a time is wanted"),
    ("iv", 5, "int where a timedelta is wanted"),
    ("u", "zz", "'zz' is no UUID"),
    ("j", {1, 2}, "not JSON"),
    ("j", float("nan"), "not JSON"),
    ("j", "{", "invalid input syntax for type json (22P02)"),
    ("a", [[1], [2, 3]], "different lengths"),
    ("a", [1, [2]], "different depths"),
    ("a", [1, "x"], "str where an integer is wanted"),
    ("a", 1, "int where a list is wanted"),
    ("m", "none", "'none' is no label of enum mood"),
    ("p", (1,), "1 fields, where type pair has 2"),
    ("p", ("x", "y"), "field n: str where an integer is wanted"),
    ("p", {"n": 1}, "fields t"),
    ("few", 9, "value for domain few violates check constraint"),
    ("ip", "300.1.1.1", "300.1.1.1"),
    ("net", "10.0.0.1/8", "host bits"),
    ("bits", "12", "not made of zeros and ones"),
    ("bits", "1", "bit string length 1 does not match type bit(3) (22026)"),
    ("nn", None, "null value in column"),
]


def test_what_does_not_fit_names_row_column_and_reason(database: Database) -> None:
    conn = database.connect()
    conn.execute(TYPED)
    for column, value, reason in WRONG:
        good = Mood.OK if column == "m" else None if column != "nn" else 1
        with pytest.raises(write.RowError) as raised:
            write.copy(conn, "v", [(good,)] * 700 + [(value,)] + [(good,)] * 5, [column])
        assert raised.value.row == 700, (column, value)
        assert raised.value.column == column
        assert reason in str(raised.value), (column, value)
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert conn.execute("SELECT count(*) FROM v").fetchone() == (0,)


def test_enum_members_stand_for_labels(database: Database) -> None:
    conn = database.connect()
    conn.execute(TYPED)
    assert write.copy(conn, "v", [(Mood.OK,), ("bad",)], ["m"]).rows == 2
    assert conn.execute("SELECT m::text FROM v ORDER BY m").fetchall() == [("OK",), ("bad",)]


RAGGED: list[tuple[Any, Any, str]] = [
    ((1, "a"), (2, "b", "c"), "3 values for 2 columns"),
    ((1, "a"), (2,), "1 values for 2 columns"),
    ((1, "a"), "ab", "str, where the first row is a tuple or list"),
    ((1, "a"), {"id": 2, "label": "b"}, "dict, where the first row is a tuple or list"),
    ({"id": 1, "label": "a"}, {"id": 2}, "no value for label"),
    ({"id": 1, "label": "a"}, {"id": 2, "label": "b", "more": 1}, "more is not among the columns"),
    ({"id": 1, "label": "a"}, {"id": 2, "lable": "b"}, "no value for label"),
    ({"id": 1, "label": "a"}, (2, "b"), "tuple, where the first row is a mapping"),
    (Record("a", 1.0, 1), Only(2), "Only has no label, score"),
]


@pytest.mark.parametrize(("first", "second", "reason"), RAGGED)
def test_rows_of_different_shapes(conn: psycopg.Connection[Any], first: Any, second: Any, reason: str) -> None:
    columns = ["id", "label"] if isinstance(first, tuple) else None
    with pytest.raises(write.RowError) as raised:
        write.copy(conn, "t", [first, second], columns)
    assert (raised.value.row, raised.value.column) == (1, None)
    assert reason in str(raised.value)
    assert _all(conn) == []


def test_a_row_that_would_come_apart_as_well_is_no_row(conn: psycopg.Connection[Any]) -> None:
    """The keys of a dict, the letters of a string: as many as columns, and text as they want it."""
    conn.execute("CREATE TABLE words (a text, b text)")
    for wrong in ({"x": 1, "y": 2}, "xy"):
        with pytest.raises(write.RowError) as raised:
            write.copy(conn, "words", [("a", "b"), wrong])
        assert raised.value.row == 1
    assert conn.execute("SELECT count(*) FROM words").fetchone() == (0,)


def test_mixed_but_equal_shapes_are_fine(conn: psycopg.Connection[Any]) -> None:
    class Sub(dict[str, Any]):
        pass

    assert write.copy(conn, "t", [(1, "a", 1), [2, "b", 2], Named(id="c", score=3, label=3.0)]).rows == 3
    assert write.copy(conn, "t", [{"id": 4}, Sub(id=5)]).rows == 2
    assert [row[0] for row in _all(conn)] == [1, 2, 3, 4, 5]


def test_server_errors_name_the_row(conn: psycopg.Connection[Any]) -> None:
    conn.execute("INSERT INTO t VALUES (500)")
    with pytest.raises(write.RowError) as raised:
        write.copy(conn, "t", [(n,) for n in range(1000)], ["id"])
    assert raised.value.row == 500
    assert "duplicate key" in str(raised.value)
    assert "23505" in str(raised.value)
    assert isinstance(raised.value.__cause__, psycopg.errors.UniqueViolation)
    conn.execute("CREATE TABLE child (id integer REFERENCES t)")
    with pytest.raises(write.WriteFailedError, match="23503"):
        write.copy(conn, "child", [(500,), (7,)])
    assert _all(conn, "child") == []


def test_in_a_transaction_it_is_a_savepoint(database: Database) -> None:
    conn = database.connect(autocommit=False)
    conn.execute("CREATE TABLE t (id integer PRIMARY KEY)")
    conn.commit()
    write.copy(conn, "t", [(1,)])
    with pytest.raises(write.RowError):
        write.copy(conn, "t", [(2,), (1,)])
    write.copy(conn, "t", [(3,)])
    assert database.connect().execute("SELECT count(*) FROM t").fetchone() == (0,)
    conn.commit()
    assert _all(conn) == [(1,), (3,)]
    write.copy(conn, "t", [(4,)])
    conn.rollback()
    assert _all(conn) == [(1,), (3,)]


def test_the_source_that_fails_leaves_nothing(conn: psycopg.Connection[Any]) -> None:
    def rows() -> Iterator[tuple[int]]:
        yield from ((n,) for n in range(5_000))
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write.copy(conn, "t", rows(), ["id"])
    assert _all(conn) == []
    assert write.copy(conn, "t", [(1,)], ["id"]).rows == 1


def test_memory_stays_constant(conn: psycopg.Connection[Any]) -> None:
    conn.execute("CREATE UNLOGGED TABLE big (n bigint, t text)")
    text = "x" * 200

    def peak(count: int) -> int:
        tracemalloc.start()
        write.copy(conn, "big", ((n, text) for n in itertools.islice(itertools.count(), count)))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)
    few, many = peak(10_000), peak(60_000)
    assert many < few * 1.3 + 100_000


def test_another_encoding_is_refused(conn: psycopg.Connection[Any]) -> None:
    conn.execute("SET client_encoding TO LATIN1")
    with pytest.raises(UsageError, match="client_encoding"):
        write.copy(conn, "t", ROWS)


@pytest.mark.versions("all")
def test_on_every_version(conn: psycopg.Connection[Any]) -> None:
    conn.execute("CREATE TABLE p (id integer, at date) PARTITION BY RANGE (at)")
    conn.execute("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')")
    assert write.copy(conn, "p", [(1, dt.date(2026, 5, 5))]).rows == 1
    with pytest.raises(write.RowError, match="no partition of relation"):
        write.copy(conn, "p", [(1, dt.date(2026, 5, 5)), (2, dt.date(2030, 1, 1))])
    assert write.copy(conn, "t", ROWS).rows == 3
    assert _all(conn) == ROWS


@pytest.mark.versions("all")
def test_what_a_call_reads_is_too_cheap_to_be_compiled(database: Database, pg_version: int) -> None:
    """JIT compiles what it takes for dear, for 50 ms a call: a recursive query seemed to have thousands of rows."""
    query = destination.QUERIES.get("read_types", pg_version * 10_000)
    with database.connect() as conn:
        oids = [row[0] for row in conn.execute("SELECT oid::int8 FROM pg_type ORDER BY oid LIMIT 100").fetchall()]
        told = conn.execute(b"EXPLAIN (FORMAT json) " + query, {"oids": oids}).fetchone()
        assert told is not None
        assert told[0][0]["Plan"]["Total Cost"] < 50_000
