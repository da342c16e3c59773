"""Dead letters: whatever is bad among the rows, the others land, and every bad one is kept with its reason."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import enum
import ipaddress
import itertools
import json
import math
import threading
import tracemalloc
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from pgscale import write
from pgscale.connect.session import CONTROL, open_session
from pgscale.errors import PermissionDeniedError, PgscaleError, RefusedError, UsageError
from pgscale.ledger import store
from pgscale.write import copying, isolating, merging, staging, surviving
from pgscale.write.dead_letters import tagging
from pgscale.write.dead_letters.reader import Filter
from pgscale.write.dead_letters.runner import retry_letters
from support.servers import Database

LIGHT = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
LETTERS = "SELECT row_index, column_name, sqlstate, reason, row FROM pgscale.dead_letter ORDER BY row_index, id"
HERE = write.DeadLetters()


def _letters(conn: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return conn.execute(LETTERS).fetchall()


# What a letter keeps


class Colour(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Point(NamedTuple):
    x: int
    y: int


VALUES: list[Any] = [
    None, True, 0,
    -(2**63), 2**63, 10**400, 1.5, -0.0, 1e300, 5e-324, 1e16, math.inf, "", "é", "a\0b", "\ud800",
    "\ud83d\ude00", "{}",
    b"", b"\x00\xff", [], [1, [None]], (), (1, (2,)), {}, {"b": 1, "a": 2}, {"$": "bytes", "v": "00"},
    {1: 2}, {"a\0": 1},
    Decimal("1.50"), Decimal("Infinity"), dt.date(1, 1, 1), dt.datetime(2026, 1, 31, 1, 2, 3, 4),
    dt.datetime(2026, 1, 31, tzinfo=dt.timezone(dt.timedelta(hours=-3, minutes=-30))),
    dt.time(1, 2, 3, 4, tzinfo=dt.UTC),
    dt.datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1), dt.timedelta(-1, 5, 7),
    uuid.UUID(int=7),
    ipaddress.ip_address("10.0.0.1"), ipaddress.ip_network("::/3"), ipaddress.ip_interface("10.0.0.1/8"),
    Range(1, 5, "[)"),    Range(None, Decimal("2"), "(]"), Range(empty=True), Multirange([Range(1, 2)]),
    Jsonb({"b": 1, "a": [b"x"]}), Number.ONE,
]  # fmt: skip


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Jsonb):
        return isinstance(found, Jsonb) and _same(found.obj, wanted.obj)
    if isinstance(wanted, dict):
        return list(found.items()) == list(wanted.items())
    fold: Callable[[Any], int] = lambda value: getattr(value, "fold", 0)  # noqa: E731 because it is one expression
    return repr(found) == repr(wanted) if isinstance(wanted, float) else found == wanted and fold(found) == fold(wanted)


def test_every_value_comes_back(database: Database) -> None:
    """By way of jsonb, which drops more than JSON does; also in a database that has no é."""
    conn = database.connect()
    for value in VALUES:
        for kept in (tagging.to_json(value), tagging.without_letters_beyond_ascii(tagging.to_json(value))):
            stored = conn.execute("SELECT %s::jsonb", [json.dumps(kept, ensure_ascii=False)]).fetchone()
            assert stored is not None
            assert _same(tagging.from_json(stored[0]), value), (value, kept)
        assert json.dumps(tagging.without_letters_beyond_ascii(tagging.to_json(value)), ensure_ascii=False).isascii()
    nan = tagging.from_json(tagging.to_json({"n": math.nan, "d": Decimal("NaN")}))
    assert math.isnan(nan["n"])
    assert nan["d"].is_nan()
    red = tagging.from_json(tagging.to_json(Colour.RED))
    assert (red.name, red.value) == ("RED", "red")
    assert tagging.from_json(tagging.to_json(Point(1, 2))) == (1, 2)


@LIGHT
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.text(st.characters(min_codepoint=0xD7F0, max_codepoint=0xE010)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("$"), inner), max_leaves=8,
))  # fmt: skip
def test_whatever_is_nested_comes_back(value: Any) -> None:
    assert tagging.from_json(json.loads(json.dumps(tagging.to_json(value)))) == value
    assert tagging.row_from_bytes(tagging.row_to_bytes({"$": value})) == {"$": value}


def test_what_cannot_come_back_is_kept_for_the_eye() -> None:
    kept = tagging.to_json({1, 2})
    assert kept == {"$": "opaque", "v": "{1, 2}", "type": "builtins.set"}
    with pytest.raises(tagging.NotRestorableError, match=r"set was kept for the eye only: \{1, 2\}"):
        tagging.from_json(kept)
    around: list[Any] = []
    around.append(around)
    assert "holds itself" in str(tagging.row_to_json({"a": around}))


# Every way in which a row is bad

ZOO = """
CREATE TYPE mood AS ENUM ('ok');
CREATE DOMAIN few AS integer CHECK (VALUE < 9);
CREATE TABLE parent (id integer PRIMARY KEY);
INSERT INTO parent VALUES (1);
CREATE TABLE zoo (
  id integer PRIMARY KEY, req text NOT NULL DEFAULT '', vc varchar(3), few few, pos integer CHECK (pos > 0),
  pair integer, pid integer REFERENCES parent, late integer REFERENCES parent DEFERRABLE INITIALLY DEFERRED,
  once integer UNIQUE DEFERRABLE INITIALLY DEFERRED, j jsonb, m mood, said text,
  made integer GENERATED ALWAYS AS (10 / (id - 999)) STORED,
  CHECK (pair <> pos)
);
CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF NEW.said = 'no' THEN RAISE EXCEPTION 'never say no'; END IF;
  IF NEW.said = 'mine' THEN RAISE EXCEPTION 'mine' USING ERRCODE = 'ZZ001'; END IF;
  RETURN NULL; END $$;
CREATE TRIGGER judge AFTER INSERT OR UPDATE ON zoo FOR EACH ROW EXECUTE FUNCTION judge();
INSERT INTO zoo (id, once) VALUES (0, 0);
"""
COLUMNS = ("id", "req", "vc", "few", "pos", "pair", "pid", "late", "once", "j", "m", "said")
# What makes a row bad; its SQLSTATE, the column told, and a part of the reason.
BAD: list[tuple[dict[str, Any], str | None, str | None, str]] = [
    ({"req": None}, "23502", "req", 'null value in column "req" of relation "zoo"'),
    ({"req": 5}, None, "req", "int where text is wanted"),
    ({"req": "a\0b"}, None, "req", "NUL"),
    ({"req": "\ud800"}, None, "req", "lone surrogate"),
    ({"vc": "four"}, "22001", "vc", "value too long for type character varying(3)"),
    ({"few": 9}, "23514", "few", "value for domain few violates"),
    ({"pos": 0}, "23514", "pos", "zoo_pos_check"),
    ({"pos": 3, "pair": 3}, "23514", None, "zoo_check"),
    ({"pid": 7}, "23503", "pid", "zoo_pid_fkey"),
    ({"late": 7}, "23503", "late", "zoo_late_fkey"),
    ({"id": 0}, "23505", "id", "zoo_pkey"),
    ({"once": 0}, "23505", "once", "zoo_once_key"),
    ({"id": 999}, "22012", None, "division by zero"),
    ({"j": "{"}, "22P02", "j", "invalid input syntax for type json"),
    ({"m": "bad"}, None, "m", "no label of enum mood"),
    ({"said": "no"}, "P0001", None, "never say no"),
    ({"said": "mine"}, "ZZ001", None, "mine"),
]


def _row(number: int, **bad: Any) -> dict[str, Any]:
    usual = {
        "req": "x",
        "vc": "abc",
        "few": 1,
        "pos": 1,
        "pair": 2,
        "pid": 1,
        "late": 1,
        "j": "{}",
        "m": "ok",
        "said": "yes",
    }
    return dict.fromkeys(COLUMNS) | usual | {"id": 1000 + number, "once": 1000 + number} | bad


@pytest.fixture
def conn(database: Database) -> psycopg.Connection[Any]:
    connection = database.connect()
    connection.execute(ZOO.encode())
    return connection


Do = Callable[[psycopg.Connection[Any], Any], "write.CopyResult | write.UpsertResult"]
WAYS: dict[str, Do] = {
    "copy": lambda conn, rows: write.copy(conn, "zoo", rows, COLUMNS, HERE),
    "upsert": lambda conn, rows: write.upsert(conn, "zoo", rows, ["id"], None, COLUMNS, HERE),
}


@pytest.mark.versions(15, 16, 18)
@pytest.mark.parametrize("count", [60, 3_000])
@pytest.mark.parametrize("way", WAYS)
def test_every_kind_of_bad_row(conn: psycopg.Connection[Any], way: str, count: int) -> None:
    # An upsert of the key that is there is no error.
    bad = [one for one in BAD if way == "copy" or one[0] != {"id": 0}]
    rows = [_row(n) for n in range(count)]
    places = {3 + at * (count // len(bad)): one for at, one in enumerate(bad)}
    for place, (change, *_) in places.items():
        rows[place] |= change
    result = WAYS[way](conn, rows)
    assert result.dead_letters == len(bad)
    letters = _letters(conn)
    assert [letter[0] for letter in letters] == list(places)
    for (index, column, state, reason, row), (_, wanted_state, wanted_column, part) in zip(letters, bad, strict=True):
        assert (state, part in reason) == (wanted_state, True), (index, reason, state)
        assert (column, "_pgscale" in reason) == (wanted_column, False), (index, reason)
        assert tagging.from_json(row) == rows[index]
    found = [row[0] for row in conn.execute("SELECT id FROM zoo WHERE id > 0 ORDER BY id")]
    assert found == [1000 + n for n in range(count) if n not in places]
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_rows_that_are_no_rows_of_the_table(conn: psycopg.Connection[Any]) -> None:
    @dataclasses.dataclass
    class Thing:
        id: int
        req: str

    class Odd:
        @property
        def __index__(self) -> Any:
            raise LookupError("no index today")

    pairs: list[Any] = [5, (1,), (1, "a"), "ab", None, (2, "b", 3), [3, "c"], (Odd(), "d"), {"id": 4, "req": "e"}]
    result = write.copy(conn, "zoo", [*pairs, *((n, "x") for n in range(10, 20))], ["id", "req"], HERE)
    assert (result.rows, result.dead_letters) == (12, 7)
    letters = _letters(conn)
    assert [letter[0] for letter in letters] == [0, 1, 3, 4, 5, 7, 8]
    assert [tagging.from_json(letter[4]) for letter in letters if letter[0] != 7] == [
        {"": 5}, {"": (1,)}, {"": "ab"}, {"": None}, {"": (2, "b", 3)}, {"id": 4, "req": "e"}
    ]  # fmt: skip
    assert "no index today" in letters[5][3]
    # The first row may be the bad one: the columns are those of most rows.
    rows = [{"wrong": 1}, {"id": 30, "req": "a"}, Thing(31, "b"), {"id": 32, "req": "c"}, {"id": 33}]
    assert write.copy(conn, "zoo", rows, None, HERE).dead_letters == 3
    with pytest.raises(UsageError, match="int is no row"):
        write.copy(conn, "zoo", [1, 2], None, HERE)
    with pytest.raises(RefusedError, match="no column wrong"):
        write.copy(conn, "zoo", [{"wrong": 1}], None, HERE)


# k bad rows anywhere


@pytest.mark.parametrize("way", ["copy", "upsert", "staged upsert", "wary copy", "translated copy"])
def test_exactly_the_good_land_and_exactly_the_bad_are_letters(
    conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Batches of a few rows, so that bad rows share them or not."""
    monkeypatch.setattr(copying, "FIRST_BATCH_ROWS", 4)
    for module in (staging, surviving):
        monkeypatch.setattr(module, "MOST_BATCH_ROWS", 7)
    monkeypatch.setattr(surviving, "CHUNK_BYTES", 1)
    monkeypatch.setattr(surviving, "FEW_ROWS", 1)
    monkeypatch.setattr(staging, "MOST_STAGED_ROWS", 16)
    monkeypatch.setattr(merging, "MOST_SCANNED_ROWS", 8)
    if way == "wary copy":
        monkeypatch.setattr(surviving, "WARY_BATCHES", 10**9)
    if way == "translated copy":
        # A server that speaks another language names no line that could be read.
        monkeypatch.setattr(staging, "find_line", lambda error: None)
    if way == "staged upsert":
        monkeypatch.setattr(write.upserting, "MOST_UNNESTED_ROWS", 3)
    do = WAYS["upsert" if "upsert" in way else "copy"]
    kinds = [one for one in BAD if "upsert" not in way or one[0] != {"id": 0}]

    @LIGHT
    @given(
        st.integers(1, 40).flatmap(
            lambda n: st.tuples(st.just(n), st.dictionaries(st.integers(0, n - 1), st.sampled_from(kinds), max_size=n))
        )
    )
    def check(case: tuple[int, dict[int, tuple[dict[str, Any], Any, Any, Any]]]) -> None:
        count, bad = case
        conn.execute("DELETE FROM zoo WHERE id > 0; DROP SCHEMA IF EXISTS pgscale CASCADE")
        rows = [_row(n) | (bad[n][0] if n in bad else {}) for n in range(count)]
        result = do(conn, rows)
        assert result.dead_letters == len(bad)
        found = [row[0] for row in conn.execute("SELECT id FROM zoo WHERE id > 0 ORDER BY id")]
        assert found == [1000 + n for n in range(count) if n not in bad]
        if bad:
            letters = _letters(conn)
            assert [letter[0] for letter in letters] == sorted(bad)
            assert [letter[2] for letter in letters] == [bad[n][1] for n in sorted(bad)]
            assert [tagging.from_json(letter[4]) for letter in letters] == [rows[n] for n in sorted(bad)]

    check()


@LIGHT
@given(st.integers(1, 3_000), st.data())
def test_attempts_are_of_the_order_of_k_log_n(count: int, data: st.DataObject) -> None:
    """The search by itself: the steps are answered here, for there is nothing of PostgreSQL in it."""
    bad = data.draw(st.sets(st.integers(0, count - 1), max_size=12))
    buried: list[int] = []
    landed: list[tuple[int, int]] = []
    attempts = 0

    def land(low: int, high: int) -> Iterator[Any]:
        nonlocal attempts
        attempts += 1
        if bad & set(range(low, high)):
            raise psycopg.errors.CheckViolation("bad")
        landed.append((low, high))
        yield from ()
        return high - low

    def bury(place: int, error: psycopg.Error) -> Iterator[Any]:
        buried.append(place)
        yield from ()

    outcome: list[Any] = []

    def run() -> Iterator[Any]:
        outcome.append((yield from isolating.isolate(0, count, land, bury)))

    deque(run(), maxlen=0)
    assert outcome == [(count - len(bad), bool(bad))]
    assert buried == sorted(bad)
    assert sorted(itertools.chain.from_iterable(range(*r) for r in landed)) == sorted(set(range(count)) - bad)
    assert landed == sorted(landed)
    assert attempts <= 2 * len(bad) * (1 + math.log2(count)) + 1


def test_statements_are_counted_by_the_server(conn: psycopg.Connection[Any]) -> None:
    """Foreign keys name no line: 4 bad rows of 4,096 are found with as many INSERTs as a search by halves takes."""
    conn.execute(
        "CREATE TABLE tried (n integer);"
        "CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM nextval('tries'); RETURN NULL; END $$;"
        "CREATE SEQUENCE tries; CREATE TABLE child (id integer, pid integer REFERENCES parent);"
        "CREATE TRIGGER t BEFORE INSERT ON child EXECUTE FUNCTION count_it()"
    )
    rows = [(n, 7 if n in (0, 1_000, 1_001, 4_095) else 1) for n in range(4_096)]
    result = write.copy(conn, "child", rows, None, HERE)
    assert (result.rows, result.dead_letters) == (4_092, 4)
    tries = conn.execute("SELECT last_value FROM tries").fetchone()
    assert tries is not None
    # A batch of 1,024 rows, one of what is left: the COPY of each, and the search.
    assert tries[0] <= 2 + 2 * 4 * 12 + 2


def test_bad_rows_by_themselves_leave_few_dead_rows(
    conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The staging table has the NOT NULLs and CHECKs, too: after the first failure none gets as far as the table."""
    for module in (staging, surviving):
        monkeypatch.setattr(module, "MOST_BATCH_ROWS", 4_000)
    conn.execute("ALTER TABLE zoo SET (autovacuum_enabled = off)")
    rows = [_row(n, **({"pos": -1} if n % 4_000 == 3_950 else {})) for n in range(20_000)]
    assert write.copy(conn, "zoo", rows, COLUMNS, HERE).dead_letters == 5
    conn.execute("SELECT pg_stat_force_next_flush()")
    dead = conn.execute("SELECT n_dead_tup FROM pg_stat_all_tables WHERE relname = 'zoo'").fetchone()
    assert dead is not None
    # Of the first batch, and of none after it: each of them would leave as many.
    assert 0 < dead[0] <= 4_000


def test_a_trigger_may_make_a_good_row_of_a_bad_one(conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        "CREATE FUNCTION mend() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " NEW.req := coalesce(NEW.req, 'mended'); NEW.pos := abs(NEW.pos); RETURN NEW; END $$;"
        "CREATE TRIGGER mend BEFORE INSERT ON zoo FOR EACH ROW EXECUTE FUNCTION mend()"
    )
    rows = [_row(0, req=None), _row(1, vc="four"), _row(2, pos=-1), _row(3, pos=0), _row(4, req=None)]
    assert write.copy(conn, "zoo", rows, COLUMNS, HERE).dead_letters == 2
    assert conn.execute("SELECT req, pos FROM zoo WHERE id > 0 ORDER BY id").fetchall() == [
        ("mended", 1),
        ("x", 1),
        ("mended", 1),
    ]


def test_of_two_that_exclude_each_other_the_first_lands(conn: psycopg.Connection[Any]) -> None:
    rows = [_row(1), _row(2, said="no"), _row(1, vc="two"), _row(3)]
    assert write.copy(conn, "zoo", rows, COLUMNS, HERE).rows == 2
    assert conn.execute("SELECT id, vc FROM zoo WHERE id > 0 ORDER BY id").fetchall() == [(1001, "abc"), (1003, "abc")]
    assert [letter[0] for letter in _letters(conn)] == [1, 2]


@pytest.mark.parametrize("way", ["copy", "upsert"])
def test_children_before_their_parents(database: Database, way: str) -> None:
    """As one batch they would all land; that one of them is bad must not make letters of the others."""
    conn = database.connect()
    conn.execute("CREATE TABLE tree (id integer PRIMARY KEY, up integer REFERENCES tree, n integer CHECK (n > 0))")
    chain = [(n, n + 1 if n < 50 else None, 1) for n in range(1, 51)]
    rows = [*chain[:20], (100, None, 0), (101, 999, 1), *chain[20:], (102, 100, 1)]
    if way == "copy":
        result: Any = write.copy(conn, "tree", rows, None, HERE)
    else:
        result = write.upsert(conn, "tree", rows, ["id"], None, ["id", "up", "n"], HERE)
    assert result.dead_letters == 3
    assert conn.execute("SELECT count(*), max(id) FROM tree").fetchone() == (50, 50)
    assert [letter[4]["id"] for letter in _letters(conn)] == [100, 101, 102]


# Upserts


def test_an_upsert_merges_what_it_can(conn: psycopg.Connection[Any], database: Database) -> None:
    conn.execute("CREATE TABLE c (id integer PRIMARY KEY, n smallint CHECK (n < 100), t text)")
    rows = [(k % 10, 30_000 if k == 17 else 1, "x") for k in range(50)] + [(3, 99, "y"), (None, 1, "z"), (4, "?", "w")]
    for most in (10, 1_000):
        conn.execute("TRUNCATE c; DROP SCHEMA IF EXISTS pgscale CASCADE")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(write.upserting, "MOST_UNNESTED_ROWS", most)
            result = write.upsert(conn, "c", rows, ["id"], {"n": "add"}, None, write.DeadLetters(source="counts"))
        assert (result.rows, result.dead_letters) == (53, 4)
        found = conn.execute("SELECT id, n FROM c ORDER BY id").fetchall()
        assert found == [(k, 4 if k == 7 else 5) for k in range(10)]
        letters = conn.execute("SELECT row_index, source, merge FROM pgscale.dead_letter ORDER BY 1").fetchall()
        merge = {"key": ["id"], "rules": {"n": "add"}}
        assert letters == [(17, "counts", merge), (50, "counts", merge), (51, "counts", merge), (52, "counts", merge)]


@pytest.mark.parametrize("most", [10, 1_000])
def test_writers_that_meet_bad_rows_do_not_deadlock_either(
    conn: psycopg.Connection[Any], database: Database, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """The search goes by the order of the key, too, from whatever order the rows come in."""
    monkeypatch.setattr(write.upserting, "MOST_UNNESTED_ROWS", most)
    conn.execute("CREATE TABLE c (id integer PRIMARY KEY, n bigint NOT NULL)")
    write.copy(conn, "parent", [(1,)], None, HERE)  # the table of letters is there
    errors: list[BaseException] = []
    size, rounds, strides = 60, 8, (1, 7, 11, 13)

    def work(number: int) -> None:
        keys = [k * strides[number] % size for k in range(size)]
        try:
            with psycopg.connect(database.dsn, autocommit=True) as mine:
                for turn in range(rounds):
                    rows: list[Any] = [(k, 1) for k in (keys if turn % 2 else reversed(keys))]
                    rows.insert(number * 13, (1_000 + number, None))
                    write.upsert(mine, "c", rows, ["id"], {"n": "add"}, ["id", "n"], HERE)
        except BaseException as error:  # noqa: BLE001 because it is told of below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert conn.execute("SELECT min(n), max(n), count(*) FROM c").fetchone() == (4 * rounds, 4 * rounds, size)


def test_rows_that_do_not_pickle_are_kept_too(conn: psycopg.Connection[Any]) -> None:
    @dataclasses.dataclass
    class Local:
        id: int
        pos: int

    rows = [Local(n, -1 if n == 1_500 else 1) for n in range(1_000, 3_000)]
    assert write.upsert(conn, "zoo", rows, ["id"], None, None, HERE).dead_letters == 1
    assert [letter[4] for letter in _letters(conn)] == [{"id": 1500, "pos": -1}]


# Transactions, rights, limits, files


def test_what_is_no_rows_fault_fails_the_call(conn: psycopg.Connection[Any], database: Database) -> None:
    rows = [_row(0), _row(1, pos=0)]
    conn.execute("CREATE VIEW narrow AS SELECT 1 AS id")
    with pytest.raises(write.WriteFailedError):
        write.copy(conn, "narrow", [(1,)], None, HERE)
    with pytest.raises(write.TooManyDeadLettersError, match=r"More than 1 rows are bad; the last one is row 2: .*pos"):
        write.copy(conn, "zoo", [*rows, _row(2, pos=0)], COLUMNS, write.DeadLetters(most=1))
    conn.execute("SET statement_timeout TO '1s'; CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS"
                 " $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$;"
                 "CREATE TRIGGER nap BEFORE INSERT ON zoo FOR EACH ROW EXECUTE FUNCTION nap()")  # fmt: skip
    with pytest.raises(PgscaleError, match="57014"):
        write.copy(conn, "zoo", rows, COLUMNS, HERE)
    assert conn.execute("SELECT count(*), to_regclass('pgscale.dead_letter') FROM zoo").fetchone() == (1, None)


def test_the_sources_own_errors_are_no_fault_of_a_row(conn: psycopg.Connection[Any], database: Database) -> None:
    """Rows come from another server as often as not, whose errors look just like those of this one."""
    other = database.connect()

    def rows() -> Iterator[Any]:
        yield from ((n, "x") for n in range(2_000, 4_000))
        other.execute("SELECT 1 / 0")

    with pytest.raises(write.WriteFailedError, match="division by zero"):
        write.copy(conn, "zoo", rows(), ["id", "req"], HERE)
    with pytest.raises(write.WriteFailedError, match="division by zero"):
        write.upsert(conn, "zoo", rows(), ["id"], None, ["id", "req"], HERE)
    assert conn.execute("SELECT count(*), to_regclass('pgscale.dead_letter') FROM zoo").fetchone() == (1, None)


def test_rows_that_a_policy_refuses(conn: psycopg.Connection[Any], database: Database) -> None:
    """An upsert stages and inserts; COPY itself is not possible there, and says so."""
    role = database.create_role()
    conn.execute(
        f"ALTER TABLE parent ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON parent USING (true) WITH CHECK (id < 100);"
        f"GRANT ALL ON parent TO {role}; GRANT CREATE ON DATABASE {database.name} TO {role}".encode()
    )
    with psycopg.connect(database.dsn_as(role), autocommit=True) as theirs:
        result = write.upsert(theirs, "parent", [(50,), (500,), (60,)], ["id"], None, ["id"], HERE)
        assert (result.inserted, result.dead_letters) == (2, 1)
        ((_, _, state, reason, row),) = _letters(theirs)
        assert (state, "row-level security" in reason, row) == ("42501", True, {"id": 500})
        with pytest.raises(write.WriteFailedError, match="0A000"):
            write.copy(theirs, "parent", [(1,)], None, HERE)


def test_in_a_transaction_of_the_callers(conn: psycopg.Connection[Any], database: Database) -> None:
    mine = database.connect(autocommit=False)
    for n in range(3):
        assert write.copy(mine, "zoo", [_row(10 * n), _row(1, id=0)], COLUMNS, HERE).dead_letters == 1
        assert write.upsert(mine, "zoo", [_row(10 * n + 1), _row(2, pos=0)], ["id"], None, COLUMNS, HERE).rows == 2
    assert conn.execute("SELECT count(*) FROM zoo").fetchone() == (1,)
    mine.rollback()
    assert conn.execute("SELECT count(*), to_regclass('pgscale.dead_letter') FROM zoo").fetchone() == (1, None)
    # What the caller broke already is not the fault of a row.
    mine.execute("INSERT INTO zoo (id, late) VALUES (5, 77)")
    with pytest.raises(write.WriteFailedError, match="zoo_late_fkey"):
        write.copy(mine, "zoo", [_row(1)], COLUMNS, HERE)
    mine.execute("UPDATE zoo SET late = 1 WHERE id = 5")
    write.copy(mine, "zoo", [_row(1), _row(2, late=7)], COLUMNS, HERE)
    # It is checked at COMMIT as before.
    mine.execute("INSERT INTO zoo (id, late) VALUES (6, 77); DELETE FROM zoo WHERE id = 6")
    mine.commit()
    assert conn.execute("SELECT count(*) FROM zoo").fetchone() == (3,)
    assert len(_letters(conn)) == 1


def test_rights(conn: psycopg.Connection[Any], database: Database) -> None:
    """INSERT on both tables is enough; what is missing is told with its GRANT."""
    role = database.create_role()
    conn.execute(f"GRANT INSERT ON parent TO {role}".encode())
    rows = [(500,), (1,), (501,)]
    with psycopg.connect(database.dsn_as(role), autocommit=True) as theirs:
        with pytest.raises(PermissionDeniedError, match="GRANT CREATE ON DATABASE"):
            write.copy(theirs, "parent", rows, None, HERE)
        write.copy(conn, "parent", [(1,)], None, HERE)
        with pytest.raises(PermissionDeniedError, match=r"GRANT INSERT ON pgscale\.dead_letter"):
            write.copy(theirs, "parent", rows, None, HERE)
        conn.execute(f"GRANT USAGE ON SCHEMA pgscale TO {role}; GRANT INSERT ON pgscale.dead_letter TO {role}".encode())
        assert write.copy(theirs, "parent", rows, None, HERE).rows == 2
        database.connect_superuser().execute(f"REVOKE TEMPORARY ON DATABASE {database.name} FROM PUBLIC".encode())
        with pytest.raises(PermissionDeniedError, match="GRANT TEMPORARY"):
            write.copy(theirs, "parent", [(502,)], None, HERE)
    assert conn.execute("SELECT count(*) FROM parent").fetchone() == (3,)


def test_a_file_of_letters(conn: psycopg.Connection[Any], tmp_path: Path) -> None:
    path = tmp_path / "letters.ndjson"
    into = write.DeadLetters(source="night", file=path)
    rows = [_row(0), _row(1, pos=0, req="é"), _row(2, req=b"x")]
    for start in (0, 10):
        assert (
            write.copy(conn, "zoo", [r | {"id": r["id"] + start, "once": None} for r in rows], COLUMNS, into).rows == 1
        )
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(one["source"], one["table_name"], one["row_index"], one["sqlstate"]) for one in lines] == [
        ("night", "public.zoo", 2, None),
        ("night", "public.zoo", 1, "23514"),
    ] * 2
    assert lines[0]["row"]["req"] == {"$": "bytes", "v": "78"}
    assert conn.execute("SELECT to_regclass('pgscale.dead_letter')").fetchone() == (None,)
    with pytest.raises(UsageError, match="cannot be written to"):
        write.copy(conn, "zoo", [_row(50), _row(51, pos=0)], COLUMNS, write.DeadLetters(file=tmp_path))
    with pytest.raises(write.TooManyDeadLettersError):
        write.copy(conn, "zoo", [_row(60, pos=0)], COLUMNS, write.DeadLetters(file=path, most=0))
    assert len(path.read_text(encoding="utf-8").splitlines()) == 4
    assert conn.execute("SELECT count(*) FROM zoo").fetchone() == (3,)


def test_a_database_that_has_not_every_character(database: Database) -> None:
    """The row is bad because the server has no €, and the letter must not be for the same reason."""
    name = f"{database.name}_latin1"
    admin = database.connect_superuser()
    admin.execute(
        f"CREATE DATABASE {name} OWNER {database.owner} ENCODING LATIN1 LOCALE 'C' TEMPLATE template0".encode()
    )
    try:
        with psycopg.connect(
            database.server.dsn(name, database.owner), autocommit=True, client_encoding="utf8"
        ) as conn:
            conn.execute("CREATE TABLE t (n integer, x text)")
            assert (
                write.copy(conn, "t", [(1, "é"), (2, "5 €"), (3, "c")], None, write.DeadLetters(source="€")).rows == 2
            )
            ((index, column, state, _, row),) = _letters(conn)
            assert (index, column, state, tagging.from_json(row)) == (1, "x", "22P05", {"n": 2, "x": "5 €"})
            # So must not the reason of a later try.
            conn.execute("CREATE TYPE mood AS ENUM ('ok'); ALTER TABLE t ALTER x TYPE mood USING 'ok'")
            assert retry_letters(conn.info.dsn, Filter()).failed == 1
            assert _letters(conn)[0][3] == "'5 \\u20ac' is no label of enum mood"
    finally:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def test_memory_stays_constant(conn: psycopg.Connection[Any]) -> None:
    conn.execute("CREATE UNLOGGED TABLE big (n bigint CHECK (n % 50 > 0), t text)")
    text = "x" * 300

    def peak(count: int) -> int:
        tracemalloc.start()
        write.copy(conn, "big", ((n, text) for n in range(count)), None, HERE)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)
    few, many = peak(20_000), peak(60_000)
    assert many < few * 1.3 + 200_000


def test_async(conn: psycopg.Connection[Any], database: Database) -> None:
    async def rows() -> AsyncIterator[Any]:
        for n in range(2_000):
            await asyncio.sleep(0)
            yield _row(n, **({"said": "no"} if n % 500 == 7 else {}))

    async def run() -> None:
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as connection:
            copied = await write.acopy(connection, "zoo", rows(), COLUMNS, HERE)
            merged = await write.aupsert(connection, "zoo", rows(), ["id"], None, COLUMNS, HERE)
            assert (copied.rows, copied.dead_letters) == (1_996, 4)
            assert (merged.inserted, merged.updated, merged.dead_letters) == (0, 1_996, 4)

    asyncio.run(run())
    assert [letter[0] for letter in _letters(conn)] == [n for n in (7, 507, 1007, 1507) for _ in range(2)]


def test_the_ledger_goes_and_the_letters_stay(conn: psycopg.Connection[Any], database: Database) -> None:
    """Both live in schema pgscale; a run that is taken back takes the ledger with it, and must leave the rest."""
    write.copy(conn, "parent", [(1,)], None, HERE)
    with open_session(database.dsn, CONTROL) as session:
        store.create(session)
        store.drop_if_empty(session)
        assert not store.exists(session)
    assert len(_letters(conn)) == 1
