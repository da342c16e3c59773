"""Upsert: what one row at a time would give, for every rule, in bulk, from many writers at once."""

from __future__ import annotations

import asyncio
import threading
import time
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from pgscale import write
from pgscale.errors import PermissionDeniedError, RefusedError, UsageError
from pgscale.write import upserting
from support.servers import Database

LIGHT = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
# One statement a rule, for one row: what the folding is held against.
ALONE = {
    "set": "EXCLUDED.{c}",
    "add": "CASE WHEN t.{c} IS NULL THEN EXCLUDED.{c} WHEN EXCLUDED.{c} IS NULL THEN t.{c}"
    " ELSE t.{c} + EXCLUDED.{c} END",
    "least": "CASE WHEN EXCLUDED.{c} < t.{c} OR t.{c} IS NULL THEN EXCLUDED.{c} ELSE t.{c} END",
    "greatest": "CASE WHEN EXCLUDED.{c} > t.{c} OR t.{c} IS NULL THEN EXCLUDED.{c} ELSE t.{c} END",
    "keep": "CASE WHEN t.{c} IS NULL THEN EXCLUDED.{c} ELSE t.{c} END",
    "coalesce": "CASE WHEN EXCLUDED.{c} IS NULL THEN t.{c} ELSE EXCLUDED.{c} END",
    "nothing": "t.{c}",
}
COLUMNS = ("n", "x", "u", "a", "m")
TABLE = "CREATE TABLE {} (k integer, l text, n bigint, x text, u uuid, a integer[], m numeric(12,2), UNIQUE {} (k, l))"
SMALL = st.none() | st.integers(-3, 3)
ROWS = st.lists(
    st.tuples(
        st.none() | st.integers(1, 3),
        st.sampled_from(["a", "A", None]),
        SMALL,
        st.none() | st.sampled_from(["", "a", "b", "é"]),
        st.none() | st.uuids(),
        st.none() | st.lists(SMALL, max_size=3),
        st.none() | st.decimals(-100, 100, places=2),
    ),
    max_size=9,
)


def _rule(column: str) -> st.SearchStrategy[str]:
    return st.sampled_from([r for r in write.RULES if r != "add" or column in ("n", "m")])


RULES = st.fixed_dictionaries({c: _rule(c) for c in COLUMNS})


def _alone(conn: psycopg.Connection[Any], row: tuple[Any, ...], rules: dict[str, Any]) -> None:
    updates = ", ".join(f"{c} = {ALONE[rule].format(c=c)}" for c, rule in rules.items())
    conn.execute(
        f"INSERT INTO twin AS t VALUES (%s, %s, %s, %s, %s, %s::integer[], %s)"
        f" ON CONFLICT (k, l) DO UPDATE SET {updates}".encode(),
        row,
    )


@pytest.mark.parametrize("nulls", ["", "NULLS NOT DISTINCT"])
@pytest.mark.parametrize("most", [0, 1_000], ids=["staged", "unnested"])
def test_it_equals_one_row_at_a_time(
    database: Database, monkeypatch: pytest.MonkeyPatch, most: int, nulls: str
) -> None:
    monkeypatch.setattr(upserting, "MOST_UNNESTED_ROWS", most)
    conn = database.connect()
    for table in ("t", "twin"):
        conn.execute(TABLE.format(table, nulls).encode())
    order = "ORDER BY k, l, n, x, u, a, m"

    @LIGHT
    @given(ROWS, ROWS, RULES)
    def check(before: list[tuple[Any, ...]], rows: list[tuple[Any, ...]], rules: dict[str, Any]) -> None:
        conn.execute("DELETE FROM t; DELETE FROM twin")
        for batch in (before, rows):
            old = conn.execute("SELECT count(*) FROM twin").fetchone()
            for row in batch:
                _alone(conn, row, rules)
            new = conn.execute("SELECT count(*) FROM twin").fetchone()
            result = write.upsert(conn, "t", batch, ("l", "k"), rules)
            assert result.rows == len(batch)
            assert old is not None
            assert new is not None
            assert result.inserted == new[0] - old[0]
        found, wanted = (conn.execute(f"SELECT * FROM {t} {order}".encode()).fetchall() for t in ("t", "twin"))
        assert found == wanted

    check()


@pytest.fixture
def conn(database: Database) -> psycopg.Connection[Any]:
    connection = database.connect()
    connection.execute("CREATE TABLE c (id integer PRIMARY KEY, hits bigint NOT NULL DEFAULT 0, seen text)")
    return connection


def test_inserted_and_updated_are_told(conn: psycopg.Connection[Any]) -> None:
    assert write.upsert(conn, "c", [], ["id"]) == write.UpsertResult(rows=0, inserted=0, updated=0)
    first = write.upsert(conn, "c", [(1, 1, "a"), (2, 1, "b"), (1, 1, "c")], ["id"], {"hits": "add"})
    assert first == write.UpsertResult(rows=3, inserted=2, updated=0)
    second = write.upsert(conn, "c", [(n, 1, None) for n in range(1500)], ["id"], {"hits": "add", "seen": "coalesce"})
    assert second == write.UpsertResult(rows=1500, inserted=1498, updated=2)
    third = write.upsert(conn, "c", [{"id": 1}, {"id": 5000}], ["id"])
    assert third == write.UpsertResult(rows=2, inserted=1, updated=0)
    assert conn.execute("SELECT * FROM c WHERE id IN (1, 2) ORDER BY id").fetchall() == [(1, 3, "c"), (2, 2, "b")]


def test_a_counter_that_is_overwritten_is_warned_of(conn: psycopg.Connection[Any]) -> None:
    (warning,) = write.upsert(conn, "c", [(1, 1, "a")], ["id"]).warnings
    assert "hits looks like a counter" in warning
    assert write.upsert(conn, "c", [(1, 1, "a")], ["id"], {"hits": "add"}).warnings == ()


def test_what_is_refused(conn: psycopg.Connection[Any], database: Database) -> None:
    conn.execute("ALTER TABLE c ADD a integer, ADD b integer, ADD UNIQUE (a) DEFERRABLE")
    conn.execute("CREATE UNIQUE INDEX part ON c (b) WHERE b > 0")
    wrong: list[tuple[list[str], dict[str, Any], type[Exception], str]] = [
        (["seen"], {}, RefusedError, "no unique key of seen to upsert by. Nothing was written. Its unique keys: id."),
        (["a"], {}, RefusedError, "is DEFERRABLE"),
        (["b"], {}, RefusedError, "part is partial"),
        ([], {}, UsageError, "needs the columns of a unique key"),
        (["id"], {"id": "set"}, UsageError, "id is of the key"),
        (["id"], {"other": "set"}, UsageError, "a rule for other"),
        (["id"], {"hits": "sum"}, UsageError, "There is no rule 'sum'"),
        (["id"], {"seen": "add"}, UsageError, "type text, which cannot be added"),
    ]
    for key, rules, error, said in wrong:
        with pytest.raises(error) as raised:
            write.upsert(conn, "c", [(1, 1, "x", 1, 1)], key, rules)
        assert said in str(raised.value)
    with pytest.raises(UsageError, match="no value for id"):
        write.upsert(conn, "c", [{"hits": 1}], ["id"])
    for count in (1, 1500):
        with pytest.raises(write.RowError) as bad:
            write.upsert(
                conn, "c", [(n, 1, "x") for n in range(count)] + [(1, "x", "y")], ["id"], None, ["id", "hits", "seen"]
            )
        assert (bad.value.row, bad.value.column) == (count, "hits")
    role = database.create_role()
    conn.execute(f"GRANT ALL ON c TO {role}".encode())
    database.connect_superuser().execute(f"REVOKE TEMPORARY ON DATABASE {database.name} FROM PUBLIC".encode())
    with psycopg.connect(database.dsn_as(role), autocommit=True) as poor:
        assert write.upsert(poor, "c", [(1, 1, "x")], ["id"], None, ["id", "hits", "seen"]).inserted == 1
        with pytest.raises(PermissionDeniedError, match="GRANT TEMPORARY"):
            write.upsert(poor, "c", [(n, 1, "x") for n in range(1500)], ["id"], None, ["id", "hits", "seen"])
    assert conn.execute("SELECT count(*) FROM c").fetchone() == (1,)


def test_domains_that_forbid_null(database: Database) -> None:
    conn = database.connect()
    conn.execute(
        "CREATE DOMAIN filled AS integer NOT NULL; CREATE TABLE d (id integer PRIMARY KEY, f filled DEFAULT 7)"
    )
    assert write.upsert(conn, "d", [{"id": 1}], ["id"]).inserted == 1
    assert conn.execute("SELECT * FROM d").fetchall() == [(1, 7)]


@pytest.mark.parametrize("count", [3, 1_200])
def test_several_in_one_transaction(database: Database, count: int) -> None:
    conn = database.connect(autocommit=False)
    conn.execute("CREATE TABLE c (id integer PRIMARY KEY, hits bigint)")
    for _ in range(3):
        write.upsert(conn, "c", [(n, 1) for n in range(count)], ["id"], {"hits": "add"})
    with pytest.raises(write.RowError):
        write.upsert(conn, "c", [(n, 1) for n in range(count)] + [(None, "x")], ["id"], {"hits": "add"})
    write.upsert(conn, "c", [(n, 1) for n in range(count)], ["id"], {"hits": "add"})
    conn.commit()
    assert conn.execute("SELECT min(hits), max(hits), count(*) FROM c").fetchone() == (4, 4, count)


@pytest.mark.parametrize("size", [60, 1_200])
def test_many_writers_of_the_same_keys_never_deadlock(
    conn: psycopg.Connection[Any], database: Database, size: int
) -> None:
    """Each has its keys in another order and its own number of them: unordered, also where the server groups rows by
    hash, they would meet in a circle soon."""
    errors: list[BaseException] = []
    rounds = 20 if size < 1000 else 5
    sizes = [size, size // 2 + 1, size, size // 4 + 1]

    def work(number: int) -> None:
        keys = [(n * (2 * number + 1)) % size for n in range(sizes[number])]
        try:
            with psycopg.connect(database.dsn, autocommit=True) as mine:
                for turn in range(rounds):
                    rows = [(k, 1) for k in (keys if turn % 2 else reversed(keys))]
                    write.upsert(mine, "c", rows, ["id"], {"hits": "add"}, ["id", "hits"])
        except BaseException as error:  # noqa: BLE001 because it is told of below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert conn.execute("SELECT sum(hits) FROM c").fetchone() == (rounds * sum(sizes),)


@pytest.mark.versions("all")
def test_on_every_version_and_partitioned(database: Database) -> None:
    conn = database.connect()
    conn.execute("CREATE TABLE p (id integer PRIMARY KEY, n bigint) PARTITION BY HASH (id)")
    for number in range(2):
        conn.execute(f"CREATE TABLE p{number} PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER {number})".encode())
    for count in (10, 1_500):
        conn.execute("TRUNCATE p")
        write.upsert(conn, "p", [(n, 1) for n in range(0, count, 2)], ["id"], {"n": "add"})
        result = write.upsert(conn, "p", [(n, 1) for n in range(count)], ["id"], {"n": "add"})
        assert (result.inserted, result.updated) == (count // 2, count // 2)


def test_async(conn: psycopg.Connection[Any], database: Database) -> None:
    async def run() -> write.UpsertResult:
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as connection:
            await write.aupsert(connection, "c", [(n, 1, "a") for n in range(1_200)], ["id"])
            return await write.aupsert(connection, "c", [(n, 1, "a") for n in range(10)], ["id"], {"hits": "add"})

    assert asyncio.run(run()) == write.UpsertResult(rows=10, inserted=0, updated=10)
    assert conn.execute("SELECT sum(hits) FROM c").fetchone() == (1_210,)


def test_a_key_may_be_named_in_any_order(conn: psycopg.Connection[Any], database: Database) -> None:
    """Writers that name it differently lock its rows in one order all the same."""
    conn.execute("CREATE TABLE w (a integer, b integer, hits bigint, PRIMARY KEY (a, b))")
    rows = [(1, 3, 1), (2, 2, 1), (3, 1, 1)]
    write.upsert(conn, "w", rows, ["a", "b"])
    errors: list[BaseException] = []

    def work(key: list[str]) -> None:
        try:
            with psycopg.connect(database.dsn, autocommit=True) as mine:
                write.upsert(mine, "w", rows, key, {"hits": "add"})
        except BaseException as error:  # noqa: BLE001 because it is told of below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(key,)) for key in (["a", "b"], ["b", "a"])]
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
    with database.connect(autocommit=False) as other:
        other.execute("SELECT FROM w WHERE a = 2 FOR UPDATE")
        for number, thread in enumerate(threads, start=1):
            thread.start()
            until = time.monotonic() + 60
            while conn.execute(waiting, [database.name]).fetchone() != (number,):
                assert time.monotonic() < until
                time.sleep(0.01)
        other.commit()
    for thread in threads:
        thread.join()
    assert errors == []
    assert conn.execute("SELECT sum(hits) FROM w").fetchone() == (9,)


@pytest.mark.versions(15)
@pytest.mark.parametrize("way", ["unnested", "staged", "isolated"])
def test_keys_that_are_equal_and_not_the_same(database: Database, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """The first row is what is inserted, later ones change it: as one row at a time, to the letter."""
    monkeypatch.setattr(upserting, "MOST_UNNESTED_ROWS", 1_000 if way == "unnested" else 0)
    database.connect_superuser().execute("CREATE EXTENSION citext")
    conn = database.connect()
    conn.execute("CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    words, numbers = ["b", "A", "a", "B", "aa", "Aa", "AA"], [Decimal(n) for n in ("1.00", "1", "2.50", "1.0", "2.5")]
    for kind, values in (
        ("text COLLATE caseless", words),
        ("citext", words),
        ("numeric", numbers),
        ("text COLLATE caseless NOT NULL", [*words, *reversed(words)]),
    ):
        for table in ("t", "twin"):
            columns = f"k {kind} UNIQUE, x text, low numeric, high numeric CHECK (high < 99), n int"
            conn.execute(f"CREATE TABLE {table} ({columns})".encode())
        rows = [(k, f"x{i}", numbers[i % 5], numbers[-i % 5], 1) for i, k in enumerate(values)]
        rules: dict[str, Any] = {"x": "set", "low": "least", "high": "greatest", "n": "add"}
        for row in rows:
            conn.execute(
                "INSERT INTO twin AS t VALUES (%s, %s, %s, %s, %s) ON CONFLICT (k) DO UPDATE SET x = EXCLUDED.x,"
                " low = LEAST(t.low, EXCLUDED.low), high = GREATEST(t.high, EXCLUDED.high), n = t.n + EXCLUDED.n",
                row,
            )
        if way == "isolated":
            rows.insert(3, (values[0], "bad", Decimal(1), Decimal(100), 1))
        letters = write.DeadLetters() if way == "isolated" else None
        result = write.upsert(conn, "t", rows, ["k"], rules, dead_letters=letters)
        assert result.dead_letters == (way == "isolated")
        found, wanted = (
            conn.execute(f"SELECT k::text, x, low::text, high::text, n FROM {t} ORDER BY k".encode()).fetchall()
            for t in ("t", "twin")
        )
        assert found == wanted, kind
        conn.execute("DROP TABLE t, twin")


ODD = ("100%", "%s", "%(rows)s", "$1", 'say "x"', "it's", "UPPER", "sel ect", "größe", "a,b", "n:m", "\\")


@pytest.mark.parametrize("most", [0, 1_000], ids=["staged", "unnested"])
@pytest.mark.parametrize("kind", ["", "PARTITION BY LIST (n)"], ids=["table", "partitioned"])
def test_names_may_be_what_they_like(database: Database, monkeypatch: pytest.MonkeyPatch, most: int, kind: str) -> None:
    monkeypatch.setattr(upserting, "MOST_UNNESTED_ROWS", most)
    conn = database.connect()
    table = sql.Identifier("S%s $1", 'T%(t)s "%"')
    columns = sql.SQL(", ").join(sql.SQL("{} integer").format(sql.Identifier(name)) for name in ODD)
    conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier("S%s $1")))
    conn.execute(
        sql.SQL("CREATE TABLE {} ({}, n integer CHECK (n > 0), UNIQUE ({}, n)) ").format(
            table, columns, sql.Identifier(ODD[0])
        )
        + sql.SQL(kind)
    )
    if kind:
        conn.execute(sql.SQL("CREATE TABLE leaf PARTITION OF {} DEFAULT").format(table))
    name = table.as_string(conn)
    rows: list[dict[str, Any]] = [{"n": 1, **dict.fromkeys(ODD, k)} for k in (1, 2, 1)]
    rules: dict[str, Any] = {one: "add" if at % 2 else "greatest" for at, one in enumerate(ODD[1:])}
    key = [ODD[0], "n"]
    assert write.upsert(conn, name, rows, key, rules).inserted == 2
    bad = {"n": -1, **dict.fromkeys(ODD, 9)}
    result = write.upsert(conn, name, [*rows[:2], bad], key, rules, None, write.DeadLetters())
    assert (result.updated, result.dead_letters) == (2, 1)
    assert write.copy(conn, name, [bad, {**bad, "n": 2}], None, write.DeadLetters()).rows == 1
    found = conn.execute(sql.SQL("SELECT * FROM {} ORDER BY n, {}").format(table, sql.Identifier(ODD[0]))).fetchall()
    # k twice, and once more: of those that are added up, three times.
    one, two = ([k, *(k * times if at % 2 else k for at in range(len(ODD) - 1)), 1] for k, times in ((1, 3), (2, 2)))
    assert found == [tuple(one), tuple(two), (*(9,) * len(ODD), 2)]
