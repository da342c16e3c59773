"""How statements read tables, from their texts; and which key serves which."""

from __future__ import annotations

from typing import Any

import pytest

from pgscale.doctor.indexing.choosing import Limit, choose
from pgscale.doctor.indexing.estimating import Ground
from pgscale.doctor.indexing.model import Access, Column, Index, Statement, Table, Test
from pgscale.doctor.indexing.reading import Known, may_read, read_statement

COLUMNS = {"id": 8, "tenant": 4, "status": 8, "at": 8, "Flag": 1, "gone_at": 8, "total": 8}


def _table(oid: int, schema: str, name: str, *namesakes: str) -> Table:
    return Table(
        oid=oid, schema=schema, name=name, is_partitioned=False, pages=10_000, rows=1e6, visible_pages=10_000,
        written_rows=0, sequential_scans=5, counted_s=1000.0, namesakes=list(namesakes),
    )  # fmt: skip


T, ORDERS = _table(1, "public", "t"), _table(2, "app", "Orders", "old")
KNOWN = Known(
    tables=(T, ORDERS),
    columns={1: frozenset(COLUMNS), 2: frozenset(COLUMNS)},
    unique={1: [], 2: [frozenset({"id"})]},
    path=("$user", "app", "public"),
)


def _statement(query: str, **given: Any) -> Statement:
    counted: dict[str, Any] = {"calls": 100, "total_ms": 1e5, "rows": 100, "blocks": 1_000_000, "counted_s": 1000.0}
    return Statement(query_id=query, query=query, **{**counted, **given})


def _only(query: str, **given: Any) -> Access:
    read = read_statement(_statement(query, **given), KNOWN)
    assert read is not None
    (access,) = [access for access in read.accesses if access.table is T] or read.accesses
    return access


READ: tuple[tuple[str, dict[str, Any]], ...] = (
    ("SELECT * FROM t WHERE id = $1", {"equal": {"id"}, "is_plain": True}),
    ("select id, status from public.T x where $1 = x.tenant and (x.at > $2) and x.at <= $3",
     {"equal": {"tenant"}, "ranges": {"at"}, "both_bounds": {"at"}, "used": {"id", "status", "tenant", "at"},
      "is_plain": True}),
    ("SELECT 1 FROM t WHERE id IN ($1, $2) AND total BETWEEN $3 AND $4",
     {"equal": {"id"}, "ranges": {"total"}, "both_bounds": {"total"}, "used": {"id", "total"}, "is_plain": True}),
    ("SELECT 1 FROM t WHERE id = ANY($1)", {"equal": {"id"}, "used": {"id"}, "is_plain": True}),
    ("SELECT 1 FROM t WHERE (id, tenant) = ($1, $2)",
     {"equal": {"id", "tenant"}, "used": {"id", "tenant"}, "is_plain": True}),
    ("SELECT 1 FROM t WHERE id = $1 OR id = $2", {"equal": {"id"}, "used": {"id"}, "is_plain": True}),
    ("SELECT 1 FROM t WHERE id = $1 OR tenant = $2", {"used": {"id", "tenant"}}),
    ("SELECT 1 FROM t WHERE id <> $1 AND id NOT IN ($2) AND NOT id = $3 AND id + 1 = $4 AND id = tenant",
     {"used": {"id", "tenant"}}),
    ("SELECT 1 FROM t WHERE lower(status) = $1 AND status LIKE $2 AND tenant = $3",
     {"equal": {"tenant"}, "used": {"status", "tenant"}}),
    ('SELECT 1 FROM t WHERE gone_at IS NULL AND status IS NOT NULL AND NOT "Flag" AND tenant = $1',
     {"equal": {"tenant"}, "tests": {"gone_at": "null", "status": "not null", "Flag": "false"},
      "used": {"gone_at", "status", "Flag", "tenant"}, "is_plain": True}),
    ('SELECT 1 FROM t WHERE "Flag"', {"tests": {"Flag": "true"}, "used": {"Flag"}, "is_plain": True}),
    ('SELECT 1 FROM t WHERE "Flag" IS FALSE', {"tests": {"Flag": "false"}, "used": {"Flag"}, "is_plain": True}),
    ("SELECT count(*) FROM t WHERE tenant = $1", {"equal": {"tenant"}, "used": {"tenant"}}),
    ("SELECT DISTINCT status FROM t WHERE tenant = $1", {"equal": {"tenant"}, "used": {"tenant", "status"}}),
    ("SELECT t.* FROM t WHERE tenant = $1 ORDER BY at DESC, id LIMIT $2",
     {"equal": {"tenant"}, "order": ["at DESC", "id"], "is_limited": True}),
    ("SELECT id FROM t ORDER BY at DESC NULLS LAST FETCH FIRST 5 ROWS ONLY",
     {"order": ["at DESC NULLS LAST"], "is_limited": True, "used": {"id", "at"}}),
    ("SELECT id FROM t WHERE tenant = $1 ORDER BY lower(status) LIMIT $2",
     {"equal": {"tenant"}, "used": {"id", "tenant", "status"}}),
    ("UPDATE t SET total = $1 WHERE id = $2", {"equal": {"id"}, "is_plain": True}),
    ("DELETE FROM t USING u WHERE u.id = t.tenant AND u.name = $1", {"joined": {"tenant"}, "loops": 10.0}),
    ("SELECT 1 FROM u JOIN t ON t.tenant = u.id WHERE u.name = $1", {"joined": {"tenant"}, "used": {"tenant"},
     "loops": 10.0}),
    ("SELECT 1 FROM u JOIN t USING (id)", {"joined": {"id"}, "loops": float("inf")}),
    ("SELECT 1 FROM u LEFT JOIN t ON t.id = u.t_id AND t.tenant = $1", {"joined": {"id"}, "equal": {"tenant"},
     "used": {"id", "tenant"}, "loops": float("inf")}),
    ("SELECT 1 FROM t LEFT JOIN u ON t.tenant = $1", {}),
    ("SELECT 1 FROM u WHERE name = $1 AND EXISTS (SELECT FROM t WHERE t.tenant = u.id)",
     {"joined": {"tenant"}, "used": {"tenant"}, "loops": 10.0}),
    ('SELECT 1 FROM "Orders" o JOIN t ON t.tenant = o.id WHERE o.id = ANY($1)', {"joined": {"tenant"}, "loops": 10.0}),
    ('SELECT 1 FROM "Orders" o JOIN t ON t.tenant = o.id WHERE $1 = o.id', {"joined": {"tenant"}, "loops": 1.0}),
    ("INSERT INTO log SELECT id FROM t WHERE tenant = $1", {"equal": {"tenant"}, "used": {"id", "tenant"}}),
    ("SELECT id FROM t WHERE tenant = $1 FOR UPDATE", {"equal": {"tenant"}, "is_plain": True}),
    ("SELECT id FROM (SELECT * FROM t WHERE tenant = $1) s WHERE id = $2", {"equal": {"tenant"}}),
    ('SELECT 1 FROM "Orders" WHERE id = $1', {"equal": {"id"}, "used": {"id"}, "is_plain": True}),
)  # fmt: skip


@pytest.mark.parametrize(("query", "expected"), READ, ids=[query[:60] for query, _ in READ])
def test_what_a_statement_reads_by(query: str, expected: dict[str, Any]) -> None:
    access = _only(query)
    got: dict[str, Any] = {
        "equal": {*access.equal}, "joined": {*access.joined}, "ranges": {*access.ranges},
        "both_bounds": {*access.both_bounds}, "tests": access.tests, "order": [str(key) for key in access.order],
        "is_limited": access.is_limited, "is_plain": access.is_plain,
        "used": None if access.used is None else {*access.used}, "loops": access.loops,
    }  # fmt: skip
    blank: dict[str, Any] = {
        "equal": set(), "joined": set(), "ranges": set(), "both_bounds": set(), "tests": {}, "order": [],
        "is_limited": False, "is_plain": False, "used": got["used"], "loops": 1.0,
    }  # fmt: skip
    assert got == blank | expected


@pytest.mark.parametrize(
    "query",
    ["SELECT 1 FROM other.t WHERE id = $1", "WITH t AS (SELECT 1) SELECT * FROM t WHERE id = $1", "VACUUM t",
     "INSERT INTO t VALUES ($1)", "SELECT 1 FROM orders WHERE id = $1", 'SELECT 1 FROM old."Orders" WHERE id = $1'],
)  # fmt: skip
def test_other_tables_are_not_taken_for_ours(query: str) -> None:
    read = read_statement(_statement(query), KNOWN)
    assert read is not None
    assert read.accesses == ()


def test_the_sieve_and_what_is_not_understood() -> None:
    names = frozenset({"t", "Orders"})
    assert [may_read(text, names) for text in ("SELECT 1 FROM T", 'FROM "Orders"', "FROM t1, at", "FROM a.t;")] == [
        True, True, False, True,
    ]  # fmt: skip
    assert read_statement(_statement("SELECT FROM WHERE t"), KNOWN) is None
    read = read_statement(_statement('UPDATE "Orders" SET total = $1, status = $2 WHERE id = $3'), KNOWN)
    assert read is not None
    assert read.sets == {(2, "total"), (2, "status")}
    other = Known(tables=KNOWN.tables, columns=KNOWN.columns, unique={}, path=("old", "app"))
    assert other.tables[1] not in {
        access.table for access in (read_statement(_statement('SELECT 1 FROM "Orders"'), other) or read).accesses
    }


# --- which index ------------------------------------------------------------------------------------------


def _column(number: int, name: str, distinct: float | None, null_share: float | None = 0.0) -> Column:
    return Column(
        table_oid=1, number=number, name=name, width_bytes=COLUMNS[name], is_not_null=False, is_sortable=True,
        is_builtin=True, is_visible=True, distinct_values=distinct, null_share=null_share,
        common_values=["f", "t"] if name == "Flag" else None, common_shares=[0.99, 0.01] if name == "Flag" else None,
    )  # fmt: skip


STATISTICS = {
    "id": _column(1, "id", -1.0), "tenant": _column(2, "tenant", 500.0), "status": _column(3, "status", 4.0),
    "at": _column(4, "at", -0.9), "Flag": _column(5, "Flag", 2.0), "gone_at": _column(6, "gone_at", -0.01, 0.99),
    "total": _column(7, "total", 20_000.0),
}  # fmt: skip


def _index(*keys: str, test: tuple[str, Test] | None = None, method: str = "btree", unique: bool = False) -> Index:
    return Index(
        table_oid=1, oid=9, schema="public", name="i", method=method, is_unique=unique, keys=list(keys),
        options=[0] * len(keys), is_default=True, included=[], is_partial=test is not None,
        tested_column=test[0] if test else None, test=test[1] if test else None, pages=100, is_constraint=False,
    )  # fmt: skip


def _chosen(*queries: str, indexes: tuple[Index, ...] = (), **given: Any) -> list[str]:
    ground = Ground(table=T, columns=STATISTICS, indexes=(_index("id", unique=True), *indexes), page_bytes=8192)
    accesses = [access for query in queries for access in (read_statement(_statement(query, **given), KNOWN)
                or pytest.fail(query)).accesses]  # fmt: skip
    found = choose({1: ground}, accesses, Limit(times=10, saved_share=0.001), 1000.0)
    return [str(choice.wanted) for choice in found]


MANY = {"rows": 10**9}
CHOSEN: tuple[tuple[tuple[str, ...], tuple[Index, ...], dict[str, Any], list[str]], ...] = (
    (("SELECT * FROM t WHERE total = $1",), (), {}, ["(total)"]),
    # Time that matters: of one statement, or of several that want the same.
    (("SELECT * FROM t WHERE total = $1",), (), {"total_ms": 600.0}, []),
    (("SELECT * FROM t WHERE total = $1", "SELECT id FROM t WHERE total = $1"), (), {"total_ms": 600.0}, ["(total)"]),
    # What is there already, in whatever form, serves.
    (("SELECT * FROM t WHERE total = $1",), (_index("total", "at"),), {}, []),
    (("SELECT * FROM t WHERE total = $1",), (_index("total", method="hash"),), {}, []),
    (("SELECT * FROM t WHERE total = $1",), (_index("total", test=("total", "not null")),), {}, []),
    (("SELECT * FROM t WHERE total = $1",), (_index("total", test=("status", "not null")),), {}, ["(total)"]),
    (("SELECT * FROM t WHERE total = $1",), (_index("at", "total"),), {}, ["(total)"]),
    (("SELECT * FROM t WHERE at > $1 AND at < $2",), (_index("at", method="brin"),), {}, []),
    # Nothing is counted that was not read.
    (("SELECT * FROM t WHERE total = $1",), (), {"blocks": 500}, []),
    # A column that chooses little comes with nothing, one that chooses enough comes alone.
    (("SELECT sum(total) FROM t WHERE status = $1",), (), {}, []),
    (("SELECT count(*) FROM t WHERE status = $1",), (), {}, ["(status)"]),  # answers alone
    (("SELECT count(*) FROM t WHERE status = $1 AND id = $2",), (), {}, []),
    (("SELECT * FROM t WHERE status = $1 AND total = $2 AND tenant = $3",), (), {}, ["(total, tenant)"]),
    # But what came back says that the values were rare ones.
    (("SELECT * FROM t WHERE status = $1",), (), {"rows": 300}, ["(status)"]),
    (("SELECT * FROM t WHERE status = $1",), (), MANY, []),
    (("SELECT count(*) FROM t WHERE tenant = $1 AND at > $2 AND at < $3",), (), {}, ["(tenant, at)"]),
    (("SELECT sum(total) FROM t WHERE at > $1",), (), {}, []),
    (("SELECT * FROM t WHERE at > $1",), (), {"rows": 1000}, ["(at)"]),
    (("SELECT * FROM t WHERE tenant = $1 ORDER BY at DESC LIMIT 10",), (), {}, ["(tenant, at)"]),
    (("SELECT * FROM t WHERE tenant = $1 ORDER BY at DESC NULLS LAST, id LIMIT 10",), (), {},
     ["(tenant, at NULLS FIRST, id DESC)"]),
    (("SELECT * FROM t ORDER BY at LIMIT 10",), (), {}, ["(at)"]),
    (("SELECT * FROM t ORDER BY at LIMIT 10",), (_index("at"),), {}, []),
    (("SELECT * FROM t WHERE tenant = $1 ORDER BY at LIMIT 10",), (_index("at"),), {}, ["(tenant, at)"]),
    (("SELECT * FROM t WHERE status = $1 ORDER BY at LIMIT 10",), (_index("at"),), {}, []),
    (('SELECT count(*) FROM t WHERE "Flag"',), (), {}, ['(id) WHERE "Flag"']),
    (('SELECT count(*) FROM t WHERE NOT "Flag"',), (), {}, []),
    (('SELECT * FROM t WHERE "Flag" AND gone_at IS NULL ORDER BY at LIMIT 5',), (), {}, ['(at) WHERE "Flag"']),
    (("SELECT * FROM t WHERE gone_at IS NULL AND total = $1",), (), {}, ["(total)"]),
    (("SELECT * FROM t WHERE gone_at IS NOT NULL AND total = $1",), (), {}, ["(total) WHERE gone_at IS NOT NULL"]),
    (("SELECT * FROM t WHERE gone_at IS NOT NULL AND total = $1", "SELECT * FROM t WHERE total = $1"), (), {},
     ["(total)"]),
    # One for all, whose key begins with what they share.
    (("SELECT * FROM t WHERE total = $1 AND status = $2",
      "SELECT count(*) FROM t WHERE tenant = $1 AND at > $2 AND at < $3",
      "SELECT * FROM t WHERE tenant = $1"), (), {"rows": 5000}, ["(tenant, at)", "(total)"]),
    (("SELECT count(*) FROM t WHERE total = $1 AND tenant = $2", "SELECT * FROM t WHERE tenant = $1"), (),
     {"rows": 5000}, ["(tenant, total)"]),
    # Joins: worth it where few rows come from the other side.
    (("SELECT t.id FROM u JOIN t ON t.total = u.id WHERE u.name = $1",), (), {}, ["(total)"]),
    (("SELECT t.id FROM u JOIN t ON t.total = u.id",), (), {}, []),
)  # fmt: skip


@pytest.mark.parametrize(("queries", "indexes", "given", "expected"), CHOSEN)
def test_which_index_is_chosen(
    queries: tuple[str, ...], indexes: tuple[Index, ...], given: dict[str, Any], expected: list[str]
) -> None:
    assert sorted(_chosen(*queries, indexes=indexes, **given)) == sorted(expected)
