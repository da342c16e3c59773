"""Dead letters: whatever is bad among the rows, the others land, and every bad one is kept with its reason."""

from __future__ import annotations

import dataclasses
import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pgscale import write
from pgscale.errors import RefusedError, UsageError
from pgscale.write import batches, copying, isolating, merging, spreading, staging, surviving
from pgscale.write.dead_letters import tagging
from support.bad_rows import BAD, COLUMNS, HERE, ZOO, letters_of, row_of
from support.servers import Database

LIGHT = settings(
    phases=[Phase.explicit, Phase.generate],
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


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
    rows = [row_of(n) for n in range(count)]
    places = {3 + at * (count // len(bad)): one for at, one in enumerate(bad)}
    for place, (change, *_) in places.items():
        rows[place] |= change
    result = WAYS[way](conn, rows)
    assert result.dead_letters == len(bad)
    letters = letters_of(conn)
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
    letters = letters_of(conn)
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


Bad = tuple[dict[str, Any], str | None, str | None, str]


def _one_at_a_time(conn: psycopg.Connection[Any], rows: list[dict[str, Any]], known: set[int]) -> set[int]:
    """Return the indexes of the rows that the server refuses when they come so; some are known not to fit."""
    refused = set(known)
    names = ", ".join(COLUMNS)
    insert = f"INSERT INTO zoo ({names}) VALUES ({', '.join(f'%({name})s' for name in COLUMNS)})".encode()
    with conn.transaction(force_rollback=True):
        for index, row in enumerate(rows):
            if index in known:
                continue
            try:
                with conn.transaction():
                    conn.execute(insert, row)
                    conn.execute("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED")
            except psycopg.Error:
                refused.add(index)
    return refused


def _few_at_a_time(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Let batches have a few rows, so that bad rows share them or not."""
    monkeypatch.setattr(copying, "FIRST_BATCH_ROWS", 4)
    for module in (staging, surviving):
        monkeypatch.setattr(module, "MOST_BATCH_ROWS", 7)
    monkeypatch.setattr(surviving, "CHUNK_BYTES", 1_000)
    monkeypatch.setattr(surviving, "PIECE_ROWS", 2)
    monkeypatch.setattr(batches, "FEW_ROWS", 1)
    monkeypatch.setattr(spreading, "LEAST_ROWS", 1)
    monkeypatch.setattr(staging, "MOST_STAGED_ROWS", 16)
    monkeypatch.setattr(merging, "MOST_SCANNED_ROWS", 8)
    # As thin as they are, never thin enough; or as dense, never dense enough.
    monkeypatch.setattr(surviving, "DENSE_GAP", 10**9 if way == "staged copy" else 0)
    if way == "stepped copy":
        monkeypatch.setattr(spreading, "COST_ROWS", 0.01)
    if way == "translated copy":
        # A server that speaks another language names no line that could be read, nor a key.
        monkeypatch.setattr(staging, "find_line", lambda error: None)
        monkeypatch.setattr(surviving, "find_line", lambda error: None)
        monkeypatch.setattr(surviving, "find_key", lambda error: None)
    if way == "staged upsert":
        monkeypatch.setattr(write.upserting, "MOST_UNNESTED_ROWS", 3)


@pytest.mark.parametrize("way", ["copy", "stepped copy", "staged copy", "translated copy", "upsert", "staged upsert"])
def test_exactly_the_good_land_and_exactly_the_bad_are_letters(
    conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """As one row at a time: of two that exclude each other the first lands, if it is not bad itself."""
    _few_at_a_time(monkeypatch, way)
    is_upsert = "upsert" in way
    kinds = [one for one in BAD if not is_upsert or one[0] != {"id": 0}]
    # Rows of an upsert come in the order of their keys, and meet.
    twins = st.just(set[int]()) if is_upsert else st.sets(st.integers(1, 39), max_size=5)

    @LIGHT
    @given(st.integers(1, 40), st.dictionaries(st.integers(0, 39), st.sampled_from(kinds), max_size=12), twins, twins)
    def check(count: int, bad: dict[int, Bad], same_id: set[int], same_once: set[int]) -> None:
        conn.execute("DELETE FROM zoo WHERE id > 0; DROP SCHEMA IF EXISTS pgscale CASCADE")
        rows = [row_of(n) | (bad[n][0] if n in bad else {}) for n in range(count)]
        for n in range(1, count):
            rows[n] |= {"id": rows[n // 2]["id"]} if n in same_id else {}
            rows[n] |= {"once": rows[n // 2]["once"]} if n in same_once else {}
        refused = _one_at_a_time(conn, rows, {n for n in bad if n < count and bad[n][1] is None})
        result = WAYS["upsert" if is_upsert else "copy"](conn, rows)
        assert (result.rows, result.dead_letters) == (count if is_upsert else count - len(refused), len(refused))
        found = conn.execute("SELECT id, once FROM zoo WHERE id > 0 ORDER BY id").fetchall()
        assert found == sorted((row["id"], row["once"]) for n, row in enumerate(rows) if n not in refused)
        if refused:
            letters = letters_of(conn)
            assert [letter[0] for letter in letters] == sorted(refused)
            assert [tagging.from_json(letter[4]) for letter in letters] == [rows[n] for n in sorted(refused)]
            alone = [n for n in sorted(refused) if n in bad and not {n} & (same_id | same_once)]
            told = {letter[0]: letter[2] for letter in letters}
            assert [told[n] for n in alone] == [bad[n][1] for n in alone]

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


@pytest.mark.parametrize(("refuses", "most"), [("a key", 20), ("a trigger", 2 + 2 * 4 * 12 + 2)])
def test_statements_are_counted_by_the_server(conn: psycopg.Connection[Any], refuses: str, most: int) -> None:
    """Neither names a line: 4 bad rows of 4,096 are found by the key that is told, or by halves."""
    conn.execute(
        "CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM nextval('tries'); RETURN NULL; END $$;"
        "CREATE SEQUENCE tries; CREATE TABLE child (id integer, pid integer);"
        "CREATE TRIGGER t BEFORE INSERT ON child EXECUTE FUNCTION count_it()"
    )
    if refuses == "a key":
        conn.execute("ALTER TABLE child ADD FOREIGN KEY (pid) REFERENCES parent")
    else:
        conn.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN IF NEW.pid = 7 THEN RAISE EXCEPTION 'not 7'; END IF; RETURN NULL; END $$;"
            "CREATE TRIGGER r AFTER INSERT ON child FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    rows = [(n, 7 if n in (0, 1_000, 1_001, 4_095) else 1) for n in range(4_096)]
    result = write.copy(conn, "child", rows, None, HERE)
    assert (result.rows, result.dead_letters) == (4_092, 4)
    assert [letter[0] for letter in letters_of(conn)] == [0, 1_000, 1_001, 4_095]
    tries = conn.execute("SELECT last_value FROM tries").fetchone()
    assert tries is not None
    assert tries[0] <= most


def test_bad_rows_by_themselves_leave_few_dead_rows(
    conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """COPYs have only as many rows as are worth it."""
    for module in (staging, surviving):
        monkeypatch.setattr(module, "MOST_BATCH_ROWS", 4_000)
    conn.execute("ALTER TABLE zoo SET (autovacuum_enabled = off)")
    rows = [row_of(n, **({"pos": -1} if n % 4_000 == 3_950 else {})) for n in range(20_000)]
    assert write.copy(conn, "zoo", rows, COLUMNS, HERE).dead_letters == 5
    conn.execute("SELECT pg_stat_force_next_flush()")
    dead = conn.execute("SELECT n_dead_tup FROM pg_stat_all_tables WHERE relname = 'zoo'").fetchone()
    assert dead is not None
    # Of the first batch, and of a COPY for each bad row.
    assert 0 < dead[0] <= 4_000 + 4 * math.sqrt(2 * spreading.COST_ROWS * 4_000)


def test_a_trigger_may_make_a_good_row_of_a_bad_one(conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        "CREATE FUNCTION mend() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " NEW.req := coalesce(NEW.req, 'mended'); NEW.pos := abs(NEW.pos); RETURN NEW; END $$;"
        "CREATE TRIGGER mend BEFORE INSERT ON zoo FOR EACH ROW EXECUTE FUNCTION mend()"
    )
    rows = [row_of(0, req=None), row_of(1, vc="four"), row_of(2, pos=-1), row_of(3, pos=0), row_of(4, req=None)]
    assert write.copy(conn, "zoo", rows, COLUMNS, HERE).dead_letters == 2
    assert conn.execute("SELECT req, pos FROM zoo WHERE id > 0 ORDER BY id").fetchall() == [
        ("mended", 1),
        ("x", 1),
        ("mended", 1),
    ]


def test_of_two_that_exclude_each_other_the_first_lands(conn: psycopg.Connection[Any]) -> None:
    rows = [row_of(1), row_of(2, said="no"), row_of(1, vc="two"), row_of(3)]
    assert write.copy(conn, "zoo", rows, COLUMNS, HERE).rows == 2
    assert conn.execute("SELECT id, vc FROM zoo WHERE id > 0 ORDER BY id").fetchall() == [(1001, "abc"), (1003, "abc")]
    assert [letter[0] for letter in letters_of(conn)] == [1, 2]


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
    assert [letter[4]["id"] for letter in letters_of(conn)] == [100, 101, 102]


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
    assert [letter[4] for letter in letters_of(conn)] == [{"id": 1500, "pos": -1}]
