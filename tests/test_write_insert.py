"""Rows of several tables in one transaction: foreign keys wait where they can; else tables are written in order."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgscale import write
from pgscale.core.model import QName
from pgscale.errors import RefusedError, UsageError
from pgscale.write.dead_letters.reader import Filter
from pgscale.write.dead_letters.runner import retry_letters
from pgscale.write.ordering import group_tables, order_tables
from support.servers import Database

TABLES = """
CREATE TABLE a (id integer PRIMARY KEY, b integer);
CREATE TABLE b (id integer PRIMARY KEY, a integer CONSTRAINT b_a REFERENCES a {b});
ALTER TABLE a ADD CONSTRAINT a_b FOREIGN KEY (b) REFERENCES b {a};
"""
YES, LATE, NO = "DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED", "NOT DEFERRABLE"


def _counts(conn: psycopg.Connection[Any], *tables: str) -> list[int]:
    return [row[0] for t in tables for row in conn.execute(f"SELECT count(*) FROM {t}".encode())]


@pytest.mark.versions(15, 16, 18)
@pytest.mark.parametrize("kind", [YES, LATE])
def test_parents_and_children_in_any_order(database: Database, kind: str) -> None:
    conn = database.connect()
    conn.execute(TABLES.format(a=kind, b=kind).encode())
    rows = {"b": [(n, n) for n in range(5)], "a": [{"id": n, "b": n} for n in range(5)]}
    result = write.insert(conn, rows, defer_constraints=True)
    assert (result.rows, result.order, result.not_deferrable) == ({"b": 5, "a": 5}, ("b", "a"), ())
    pairs = [("a", [(10, 10)]), ("b", [(10, 11)]), ("a", [(11, 10)])]
    assert write.insert(conn, pairs, defer_constraints=True).rows == {"a": 2, "b": 1}
    with pytest.raises(
        write.WriteFailedError, match=r'b, a could not be written: .*foreign key constraint "b_a" \(23503\)'
    ):
        write.insert(conn, {"b": [(20, 99)], "a": [(20, 20)]}, defer_constraints=True)
    with pytest.raises(write.RowError, match="Row 1 of a, column id: str where an integer is wanted") as raised:
        write.insert(conn, {"b": [(20, 20)], "a": [(20, 20), ("x", 20)]}, defer_constraints=True)
    assert (raised.value.table, raised.value.row) == ("a", 1)
    assert _counts(conn, "a", "b") == [7, 6]
    if kind == YES:
        with pytest.raises(write.WriteFailedError, match=r"b could not be written: .*b_a"):
            write.insert(conn, {"b": [(20, 20)], "a": [(20, 20)]})


def test_order_where_keys_cannot_wait(database: Database) -> None:
    conn = database.connect()
    conn.execute(TABLES.format(a=YES, b=NO).encode())
    conn.execute(
        'CREATE SCHEMA "O\'x"; CREATE TABLE "O\'x".c (id integer, b integer CONSTRAINT "C-b" REFERENCES b, c integer)'
    )
    rows = {'"O\'x".c': [(1, 1, 1)], "b": [(1, 1)], "a": [(1, 1)]}
    result = write.insert(conn, rows, defer_constraints=True)
    assert result.order == ("a", "b", '"O\'x".c')
    assert [key.remedy for key in result.not_deferrable] == [
        'ALTER TABLE "O\'x".c ALTER CONSTRAINT "C-b" DEFERRABLE INITIALLY IMMEDIATE',
        "ALTER TABLE public.b ALTER CONSTRAINT b_a DEFERRABLE INITIALLY IMMEDIATE",
    ]
    # The remedy is one.
    for key in result.not_deferrable:
        conn.execute(key.remedy.encode())
    again = write.insert(conn, {'"O\'x".c': [(2, 2, 2)], "b": [(2, 2)], "a": [(2, 2)]}, defer_constraints=True)
    assert (again.order, again.not_deferrable) == (('"O\'x".c', "b", "a"), ())


def test_a_circle_of_keys_that_cannot_wait_is_refused(database: Database) -> None:
    conn = database.connect()
    conn.execute(TABLES.format(a=NO, b=NO).encode())
    conn.execute("CREATE TABLE tree (id integer PRIMARY KEY, up integer REFERENCES tree)")
    with pytest.raises(RefusedError) as raised:
        write.insert(conn, {"tree": [(1, 2), (2, None)], "a": [(1, None)], "b": [(1, 1)]}, defer_constraints=True)
    said = str(raised.value)
    assert "Foreign key a_b of public.a to public.b is checked at once." in said
    assert "ALTER TABLE public.b ALTER CONSTRAINT b_a DEFERRABLE" in said
    assert "tree" not in said
    assert _counts(conn, "tree", "a", "b") == [0, 0, 0]
    # A table's keys to itself are checked when all its rows are there.
    assert write.insert(conn, {"tree": [(1, 2), (2, None)]}, defer_constraints=True).rows == {"tree": 2}
    conn.execute("ALTER TABLE a ALTER CONSTRAINT a_b DEFERRABLE")
    assert write.insert(conn, {"b": [(1, 1)], "a": [(1, 1)]}, defer_constraints=True).order == ("a", "b")


@pytest.mark.versions("all")
def test_partitions_and_their_keys(database: Database) -> None:
    """The key is declared between the parents; rows go to the parents or straight into partitions."""
    conn = database.connect()
    conn.execute(
        "CREATE TABLE p (id integer PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1000);"
        "CREATE TABLE c (id integer, pid integer CONSTRAINT c_p REFERENCES p) PARTITION BY RANGE (id);"
        "CREATE TABLE c1 PARTITION OF c FOR VALUES FROM (0) TO (1000)"
    )
    for number, (child, parent) in enumerate(itertools.product(("c", "c1"), ("p", "p1"))):
        result = write.insert(conn, {child: [(1, number)], parent: [(number,)]}, defer_constraints=True)
        assert result.order == (parent, child)
        assert [str(key) for key in result.not_deferrable] == ["Foreign key c_p of public.c to public.p"]
    conn.execute(result.not_deferrable[0].remedy.encode())
    for number, (child, parent) in enumerate(itertools.product(("c", "c1"), ("p", "p1")), start=10):
        result = write.insert(conn, {child: [(1, number)], parent: [(number,)]}, defer_constraints=True)
        assert (result.order, result.not_deferrable) == ((child, parent), ())


def test_in_a_transaction_of_the_callers(database: Database) -> None:
    conn = database.connect(autocommit=False)
    conn.execute(TABLES.format(a=YES, b=LATE).encode())
    conn.commit()
    write.insert(conn, {"b": [(1, 1)], "a": [(1, 1)]}, defer_constraints=True)
    # Afterwards the keys are as they were: b's waits, a's does not.
    conn.execute("INSERT INTO b VALUES (2, 2)")
    with pytest.raises(psycopg.errors.ForeignKeyViolation), conn.transaction():
        conn.execute("INSERT INTO a VALUES (2, 7)")
    conn.execute("INSERT INTO a VALUES (2, 2)")
    with pytest.raises(write.WriteFailedError):
        write.insert(conn, {"b": [(3, 9)], "a": []}, defer_constraints=True)
    conn.commit()
    assert _counts(conn, "a", "b") == [2, 2]


def test_async_and_odd_calls(database: Database) -> None:
    conn = database.connect()
    conn.execute(TABLES.format(a=YES, b=YES).encode())

    async def rows() -> AsyncIterator[Any]:
        for n in range(700):
            await asyncio.sleep(0)
            yield (n, n)

    async def run() -> write.InsertResult:
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as connection:
            assert (await write.ainsert(connection, {})).order == ()
            return await write.ainsert(connection, {"b": rows(), "a": rows()}, defer_constraints=True)

    assert asyncio.run(run()).rows == {"b": 700, "a": 700}
    assert write.insert(conn, {}).rows == {}
    assert write.insert(conn, {"a": []}, defer_constraints=True).rows == {"a": 0}
    for wrong in (["a"], [("a",)], [(1, [])]):
        with pytest.raises(UsageError, match="a table's name and its rows"):
            write.insert(conn, wrong)
    with pytest.raises(RefusedError, match="no table nothing"):
        write.insert(conn, {"a": [(9000, None)], "nothing": [(1,)]}, defer_constraints=True)
    assert _counts(conn, "a", "b") == [700, 700]


# Bad rows


LETTERS = (
    "SELECT regexp_replace(table_name, 'public.', ''), row_index, column_name, sqlstate FROM pgscale.dead_letter"
    " ORDER BY id"
)


@pytest.mark.versions(15, 16, 18)
def test_the_children_of_a_bad_row_are_bad_too(database: Database) -> None:
    """Whether keys can wait or not, and whoever is given first; each has a reason of its own."""
    conn = database.connect()
    for first, second in itertools.product((NO, YES, LATE), repeat=2):
        conn.execute("DROP SCHEMA IF EXISTS pgscale CASCADE; DROP TABLE IF EXISTS c, b, a")
        conn.execute(
            "CREATE TABLE a (id integer PRIMARY KEY, n integer CONSTRAINT positive CHECK (n > 0));"
            f"CREATE TABLE b (id integer PRIMARY KEY, a integer REFERENCES a {first},"
            f" up integer REFERENCES b {second});"
            f"CREATE TABLE c (id integer UNIQUE, b integer REFERENCES b {second})".encode()
        )
        rows = {
            "c": [(1, 1), (2, 2), (1, 1), (None, None), (4, 4), (5, 5)],
            "b": [(1, 1, 5), (2, 2, None), ("x", 1, None), (3, 77, None), (4, 1, 3), (5, 1, None)],
            "a": [(1, 1), (2, -1), (2**40, 1)],
        }
        result = write.insert(conn, rows, defer_constraints=True, dead_letters=write.DeadLetters(source="family"))
        assert result.order == ("a", "b", "c")
        assert (result.rows, result.dead_letters) == ({"a": 1, "b": 2, "c": 3}, {"a": 2, "b": 4, "c": 3})
        assert len(result.not_deferrable) == [first, second, second].count(NO)
        assert sorted(conn.execute(LETTERS).fetchall()) == [
            ("a", 1, "n", "23514"), ("a", 2, "id", None), ("b", 1, "a", "23503"), ("b", 2, "id", None),
            ("b", 3, "a", "23503"), ("b", 4, "up", "23503"), ("c", 1, "b", "23503"), ("c", 2, "id", "23505"),
            ("c", 4, "b", "23503"),
        ]  # fmt: skip
    # Parents are kept first: when the reason is gone, one retry brings the children, too.
    conn.execute("ALTER TABLE a DROP CONSTRAINT positive; INSERT INTO a VALUES (77)")
    assert (retried := retry_letters(database.dsn, Filter())).written == 6
    assert [one.table for one in retried.failures] == ["public.a", "public.b", "public.c"]


CIRCLES = {
    "waits": TABLES.format(a=YES, b=YES),
    "late": TABLES.format(a=LATE, b=YES),
    # Of a partition the key has another name; a row of it may come to it by way of the table, or not.
    "partition": "CREATE TABLE a (id integer PRIMARY KEY, b integer) PARTITION BY RANGE (id);"
    f"CREATE TABLE b (id integer PRIMARY KEY, a integer CONSTRAINT b_a REFERENCES a {LATE});"
    f"CREATE TABLE a1 (id integer PRIMARY KEY, b integer CONSTRAINT mine REFERENCES b {LATE});"
    f"ALTER TABLE a ADD CONSTRAINT a_b FOREIGN KEY (b) REFERENCES b {LATE};"
    "ALTER TABLE a ATTACH PARTITION a1 FOR VALUES FROM (0) TO (1000)",
}


@pytest.mark.versions(15, 18)
@pytest.mark.parametrize("kind", CIRCLES)
def test_a_circle_lands_but_for_the_bad_and_their_children(database: Database, kind: str) -> None:
    conn = database.connect()
    conn.execute(CIRCLES[kind].encode())
    conn.execute("ALTER TABLE a ADD CHECK (id <> 3), ADD UNIQUE (b, id); CREATE TABLE leaf (a integer REFERENCES a)")
    a: list[Any] = [(n, n) for n in range(10)]
    b: list[Any] = [(n, n) for n in range(10)]
    # 23 has no parent, so 22 to 20 have none either; 40 and 41 hold one another, and 42 is held by nobody.
    a += [(20, 20), (21, 21), (40, 41), ("x", 1), (5, 5)]
    b += [(20, 21), (21, 99), (41, 40), (42, None)]
    leaves = [(3,), (20,), (40,), (None,)]
    wanted = ({"leaf": 2, "a": 10, "b": 11}, {"leaf": 2, "a": 5, "b": 3})
    letters = [
        ("a", 3, "id", "23514"), ("a", 10, "b", "23503"), ("a", 11, "b", "23503"), ("a", 13, "id", None),
        ("a", 14, "id", "23505"), ("b", 3, "a", "23503"), ("b", 10, "a", "23503"), ("b", 11, "a", "23503"),
        ("leaf", 0, "a", "23503"), ("leaf", 1, "a", "23503"),
    ]  # fmt: skip
    table = "a1" if kind == "partition" else "a"

    async def arows() -> AsyncIterator[Any]:
        for row in a:
            yield row

    async def run() -> write.InsertResult:
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as connection:
            given = {"leaf": leaves, "a": arows(), "b": b}
            return await write.ainsert(
                connection, given, defer_constraints=True, dead_letters=write.DeadLetters(source="async")
            )

    inside = database.connect(autocommit=False)
    tables = [("leaf", leaves), (table, a[:12]), ("b", b), (table, a[12:])]
    result = write.insert(inside, tables, defer_constraints=True, dead_letters=write.DeadLetters())
    assert (result.rows | {"a": result.rows[table]}, result.order) == (
        wanted[0] | {table: 10, "a": 10}, (table, "b", table, "leaf")
    )  # fmt: skip
    # What waits at COMMIT waits as before.
    if kind != "waits":
        inside.execute("INSERT INTO a VALUES (500, 500); INSERT INTO b VALUES (500, 500)")
    inside.rollback()
    assert conn.execute("SELECT count(*), to_regclass('pgscale.dead_letter') FROM a").fetchone() == (0, None)
    result = asyncio.run(run())
    assert (result.rows, result.dead_letters) == wanted
    found = [("a" if one[0] == "a1" else one[0], *one[1:]) for one in conn.execute(LETTERS)]
    assert sorted(found) == letters
    assert conn.execute("SELECT array_agg(id ORDER BY id) FROM b").fetchone() == ([0, 1, 2, *range(4, 10), 41, 42],)


def test_what_dead_letters_do_not_change(database: Database, tmp_path: Path) -> None:
    conn = database.connect()
    conn.execute(TABLES.format(a=YES, b=NO).encode())
    into = write.DeadLetters(file=tmp_path / "letters", most=2)
    with pytest.raises(RefusedError, match=r"every key can wait\..*b_a .*is checked at once\..*ALTER CONSTRAINT b_a"):
        write.insert(conn, {"b": [], "a": []}, defer_constraints=True, dead_letters=into)
    # Without waiting, tables are written as given; the file is of the whole call, and so is the limit.
    bad = {"b": [(1, 1)], "a": [(1, None), ("x", None)]}
    result = write.insert(conn, bad, dead_letters=into)
    assert (result.rows, result.dead_letters, result.order) == ({"b": 0, "a": 1}, {"b": 1, "a": 1}, ("b", "a"))
    assert [json.loads(line)["table_name"] for line in (tmp_path / "letters").read_text().splitlines()] == [
        "public.b",
        "public.a",
    ]
    with pytest.raises(write.TooManyDeadLettersError, match=r"row 2 of public\.a: str where"):
        write.insert(conn, {"b": [(1, 7)], "a": [(2, None), ("x", None), ("y", None)]}, dead_letters=into)
    with pytest.raises(RefusedError, match="no table nothing"):
        write.insert(conn, {"a": [(3, None)], "nothing": [(1,)]}, defer_constraints=True, dead_letters=into)
    assert _counts(conn, "a", "b") == [1, 0]


NAME = QName(schema="s", name="t")
NUMBERS = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.permutations(range(n)), st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=2 * n)
    )
)


def _key(child: int, parent: int) -> write.ForeignKey:
    return write.ForeignKey(
        name=f"k{child}_{parent}",
        schema="s",
        table=NAME,
        parent=NAME,
        child_oid=child,
        parent_oid=parent,
        is_deferrable=False,
        is_deferred=False,
    )


@given(NUMBERS)
def test_no_child_before_its_parent(case: tuple[list[int], set[tuple[int, int]]]) -> None:
    oids, edges = case
    keys = [_key(child, parent) for child, parent in edges]
    possible = [
        order
        for order in itertools.permutations(range(len(oids)))
        if all(order.index(oids.index(p)) < order.index(oids.index(c)) for c, p in edges if c != p)
    ]
    if possible:
        assert order_tables(oids, keys) in possible
    else:
        with pytest.raises(RefusedError, match="in a circle"):
            order_tables(oids, keys)


@given(NUMBERS)
def test_groups_are_circles_and_parents_come_first(case: tuple[list[int], set[tuple[int, int]]]) -> None:
    oids, edges = case
    groups = group_tables([*oids, oids[0]], [_key(child, parent) for child, parent in edges])
    assert sorted(place for group in groups for place in group) == list(range(len(oids) + 1))
    group_of = {[*oids, oids[0]][place]: number for number, group in enumerate(groups) for place in group}
    assert all(group_of[parent] <= group_of[child] for child, parent in edges)
    reaches = {(child, parent) for child, parent in edges} | {(n, n) for n in oids}
    for middle, low, high in itertools.product(oids, repeat=3):
        if (low, middle) in reaches and (middle, high) in reaches:
            reaches.add((low, high))
    for one, other in itertools.combinations(oids, 2):
        assert (group_of[one] == group_of[other]) == ({(one, other), (other, one)} <= reaches)
