"""Rows of several tables in one transaction: foreign keys wait where they can; else tables are written in order."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgscale import write
from pgscale.core.model import QName
from pgscale.errors import RefusedError, UsageError
from pgscale.write.ordering import order_tables
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
