"""`indexes.workload`, `.covering`, `.partial`: what real statements want, what is printed gives, and silence."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgscale.connect.session import open_session
from pgscale.core.finding import Findings
from pgscale.doctor.checks.index_workload import judge_workload
from pgscale.doctor.facts import DOCTOR, Facts
from pgscale.doctor.indexing.ddl import create_index, probe
from pgscale.doctor.indexing.model import Access, Key, Statement, Table, Wanted
from pgscale.doctor.indexing.proving import plan_generic
from pgscale.doctor.limits import IndexesLimits, Limits, QueriesLimits
from pgscale.embedded import Server
from support.clients import psql
from support.doctor import Doctor, plain_role_of
from support.servers import Database

WORKLOAD, COVERING, PARTIAL = "indexes.workload", "indexes.covering", "indexes.partial"
CALLS = 6
LIMITS: dict[str, dict[str, float]] = {
    "indexes": {"least_missing_table_bytes": 200_000, "least_saved_share": 1e-9, "least_partial_saved_bytes": 100_000},
    "queries": {"least_counted_s": 0, "least_calls": CALLS},
}

SCHEMA = """
CREATE TABLE orders (
  id integer PRIMARY KEY, customer_id integer, status text, total integer, note text, closed_at timestamptz);
INSERT INTO orders SELECT g, hashint4(g) % 1000, CASE WHEN g % 2000 = 0 THEN 'refused' ELSE 'done' END, g,
  repeat('x', 60), CASE WHEN g % 20 = 0 THEN now() END FROM generate_series(1, 20000) g;
CREATE TABLE items (order_id integer, place integer, sku text, PRIMARY KEY (place, order_id));
INSERT INTO items SELECT g, p, 'sku' || g FROM generate_series(1, 10000) g, generate_series(1, 3) p;
CREATE TABLE jobs (id integer PRIMARY KEY, run_at timestamptz, done boolean NOT NULL, locked_at timestamptz, data text);
INSERT INTO jobs SELECT g, to_timestamp(hashint4(g)), g % 100 <> 0, NULL, repeat('x', 60)
  FROM generate_series(1, 20000) g;
CREATE SCHEMA "S"; CREATE TABLE "S"."E v" (tenant integer, at timestamptz, kind text, "N" integer);
INSERT INTO "S"."E v" SELECT g % 50, to_timestamp(hashint4(g)), 'k' || g % 3, g FROM generate_series(1, 40000) g;
CREATE TABLE parts (x integer, y integer, pad text) PARTITION BY RANGE (x);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10000);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10000) TO (20001);
INSERT INTO parts SELECT g, g, repeat('x', 50) FROM generate_series(1, 20000) g;
VACUUM ANALYZE;
"""

# Each with the index that it wants.
WANTING = {
    "SELECT * FROM orders WHERE customer_id = {n}": "public.orders (customer_id)",
    "SELECT o.total, i.sku FROM orders o JOIN items i ON i.order_id = o.id WHERE o.id = {n}": "public.items (order_id)",
    "UPDATE orders SET total = 0 WHERE customer_id = {n} AND total < 0": "public.orders (customer_id)",
    "SELECT id FROM jobs WHERE NOT done AND locked_at IS NULL ORDER BY run_at DESC LIMIT 3":
        "public.jobs (run_at) WHERE NOT done",
    """SELECT count(*) FROM "S"."E v" WHERE tenant = {n} AND at BETWEEN '1970-01-01' AND '1970-01-02'""":
        '"S"."E v" (tenant, at)',
    """SELECT "N" FROM "S"."E v" e WHERE e.tenant = {n} ORDER BY at DESC LIMIT 2""": '"S"."E v" (tenant, at)',
    "SELECT count(*) FROM parts WHERE y = {n}": "public.parts (y)",
}  # fmt: skip

# Each is served by what there is, wants what no index gives, or is not worth one.
CONTENT = """
SELECT * FROM orders WHERE id = {n}
SELECT count(*) FROM orders
SELECT sum(total) FROM orders WHERE status = 'done'
SELECT * FROM orders WHERE status <> 'done' AND id < {n}
SELECT * FROM orders WHERE customer_id = {n}
SELECT * FROM orders WHERE customer_id IN ({n}, 2) AND status = 'done'
SELECT o.id FROM orders o WHERE o.customer_id = {n} ORDER BY o.total LIMIT 5
SELECT count(*) FROM orders o JOIN items i ON i.order_id = o.id
SELECT count(*) FROM items i LEFT JOIN orders o ON o.id = i.order_id WHERE i.place = 1
SELECT * FROM items WHERE place = 1 AND order_id = {n}
SELECT note FROM orders WHERE note LIKE '%y%'
SELECT count(*) FROM orders WHERE upper(status) = 'X'
SELECT status, count(*) FROM orders GROUP BY status ORDER BY 2 DESC LIMIT 3
SELECT * FROM orders WHERE id BETWEEN {n} AND {n} + 5 ORDER BY id
SELECT max(id) FROM orders
SELECT * FROM orders ORDER BY id DESC LIMIT 5
UPDATE orders SET total = total + 0 WHERE id = {n}
DELETE FROM items WHERE place = 4 AND order_id = {n}
SELECT count(*) FROM orders WHERE customer_id = {n} OR total = {n}
SELECT count(*) FROM orders WHERE id IN (SELECT order_id FROM items WHERE place = 2 AND order_id < {n})
WITH orders AS (SELECT 1 AS sku) SELECT count(*) FROM orders WHERE sku = {n}
"""


@pytest.fixture
def counted(
    private_server: Callable[..., Server], database_factory: Callable[..., Database], pg_version: int
) -> Database:
    """A database with SCHEMA and pg_stat_statements, on a server of its own; mark versions 14, 15 or 17."""
    settings = {"shared_preload_libraries": "pg_stat_statements", "autovacuum": "off"}
    database = database_factory(private_server(settings, version=pg_version))
    psql(database.superuser_dsn, "CREATE EXTENSION pg_stat_statements")
    psql(database.dsn, SCHEMA)
    return database


def _run(database: Database, *texts: str) -> None:
    """Run statements as an application does, and forget what went before; what wrote the tables is not counted."""
    with database.connect_superuser() as superuser:
        # A session tells what it wrote when it ends, which is after its client has gone.
        until = time.monotonic() + 30
        while superuser.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND backend_type = 'client backend'"
        ).fetchone() != (1,):
            assert time.monotonic() < until
            time.sleep(0.01)
        row = superuser.execute("SELECT clock_timestamp(), pg_stat_statements_reset(), pg_stat_reset()").fetchone()
        # 14 shows for half a second what was before.
        while superuser.execute(
            "SELECT stats_reset >= %s FROM pg_stat_database WHERE datname = current_database()", row[:1] if row else ()
        ).fetchone() != (True,):
            assert time.monotonic() < until
            time.sleep(0.01)
    with database.connect() as app:
        for text in texts:
            for number in range(1, CALLS + 1):
                app.execute(text.format(n=number).encode())


def _doctor(database: Database, tmp_path: Path, **indexes: float) -> Doctor:
    doctor = Doctor(database, tmp_path)
    doctor.limits(**{**LIMITS, "indexes": {**LIMITS["indexes"], **indexes}})
    return doctor


def _reads_all(database: Database, role: str) -> None:
    psql(database.superuser_dsn, f"GRANT pg_read_all_data TO {role}")


def _wanted(finding: dict[str, Any]) -> set[str]:
    return {f"{row['table']} {row['index']}" for row in finding["evidence"]["which"]}


@pytest.mark.versions(14, 17)
def test_missing_indexes(counted: Database, tmp_path: Path) -> None:
    database, doctor = counted, _doctor(counted, tmp_path)
    _run(database, *WANTING)
    # Without the statistics of columns only what came back tells, of statements that give all that match.
    finding = doctor.finding(WORKLOAD)
    assert _wanted(finding) == {"public.orders (customer_id, total)"}
    psql(database.dsn, "CREATE INDEX for_now ON orders (customer_id, total)")
    answer = doctor.answer(WORKLOAD)
    assert "statistics of 4 tables that statements read much of are hidden" in answer["because"], answer
    psql(database.dsn, "DROP INDEX for_now")
    psql(database.superuser_dsn, answer["hint"])

    finding = doctor.finding(WORKLOAD)
    assert finding["severity"] == "info" or finding["evidence"]["which"][0]["saved_of_a_session_share"] >= 0.05
    assert _wanted(finding) == set(WANTING.values())
    by_index: dict[str, set[str]] = {}
    for row in finding["evidence"]["statements"]:
        by_index.setdefault(row["index"], set()).add(row["query"].split()[0])
        assert row["calls"] == CALLS
        assert row["pages_a_call"] >= 10 * row["pages_then"]
    assert by_index["(customer_id)"] == {"SELECT", "UPDATE"}
    assert "By reasoning, because the extension hypopg is not installed" in finding["cost"]
    sizes = {row["index"]: row["index_at_most_bytes"] for row in finding["evidence"]["which"]}
    text = finding["remedies"][0]["text"]
    assert "CREATE INDEX CONCURRENTLY ON" in text
    assert 'CREATE INDEX "parts_y_idx" ON ONLY "public"."parts" ("y");' in text
    doctor.apply(finding)
    with database.connect() as connection:
        made: dict[str, int] = dict(
            connection.execute(
                "SELECT relname::text, pg_relation_size(oid) FROM pg_class WHERE relname IN"
                " ('orders_customer_id_idx', 'jobs_run_at_idx', 'E v_tenant_at_idx')"
            ).fetchall()
        )
    for name, index in zip(sorted(made), ("(tenant, at)", "(run_at) WHERE NOT done", "(customer_id)"), strict=True):
        assert made[name] <= sizes[index] <= 4 * made[name], (made, sizes)
    # Also while the counters of before stand.
    assert doctor.is_well(WORKLOAD), doctor.answer(WORKLOAD)
    _run(database, *WANTING)
    assert doctor.is_well(WORKLOAD)


@pytest.mark.versions(14, 17)
def test_content_statements_are_left_alone(counted: Database, tmp_path: Path) -> None:
    database, doctor = counted, _doctor(counted, tmp_path)
    psql(database.dsn, "CREATE INDEX ON orders (customer_id); CREATE INDEX ON items (order_id)")
    _reads_all(database, doctor.role)
    _run(database, *CONTENT.strip().splitlines())
    answer = doctor.answer(WORKLOAD)
    assert answer["answer"] == "well", answer
    assert answer["text"].startswith(f"None of {len(CONTENT.strip().splitlines())} statements on 5 large tables wants")


@pytest.mark.versions(17)
def test_what_is_not_worth_an_index(counted: Database, tmp_path: Path) -> None:
    """Rare values, writes that cost more, few calls, small tables, and one name in several schemas."""
    database, doctor = counted, _doctor(counted, tmp_path)
    _reads_all(database, doctor.role)
    rare, text = "SELECT * FROM orders WHERE status = 'refused'", "SELECT * FROM orders WHERE customer_id = {n}"
    _run(database, rare, "SELECT * FROM orders WHERE status = 'done' AND total > {n}")
    assert _wanted(doctor.finding(WORKLOAD)) == {"public.orders (status)"}

    _run(database, text)
    assert not doctor.is_well(WORKLOAD)
    doctor.limits(**{**LIMITS, "queries": {"least_counted_s": 0, "least_calls": CALLS + 1}})
    assert doctor.is_well(WORKLOAD)
    doctor.limits(**{**LIMITS, "queries": {"least_counted_s": 3600, "least_calls": 1}})
    assert "pg_stat_statements counts for" in doctor.answer(WORKLOAD)["because"]
    for name, value in (("least_saved_share", 10.0), ("least_missing_table_bytes", 10**9), ("missing_times", 1e6)):
        doctor.limits(**{**LIMITS, "indexes": {**LIMITS["indexes"], name: value}})
        assert doctor.is_well(WORKLOAD), name
    doctor.limits(**LIMITS)
    psql(database.dsn, 'CREATE TABLE "S".orders (customer_id integer)')
    assert _wanted(doctor.finding(WORKLOAD)) == {"public.orders (customer_id)"}
    psql(database.superuser_dsn, f'ALTER ROLE {doctor.role} SET search_path = "S", public')
    assert doctor.is_well(WORKLOAD)
    psql(database.superuser_dsn, f"ALTER ROLE {doctor.role} RESET search_path")
    psql(
        database.dsn,
        "INSERT INTO orders SELECT g, 0 FROM generate_series(20001, 60000) g; DELETE FROM orders WHERE id > 20000",
    )
    assert doctor.is_well(WORKLOAD)

    plain = Doctor(database, tmp_path, plain_role_of(database))
    assert plain.answer(WORKLOAD)["hint"] == f"GRANT pg_monitor TO {plain.role};"
    psql(database.superuser_dsn, "DROP EXTENSION pg_stat_statements")
    for check in (WORKLOAD, COVERING):
        assert "pg_stat_statements is not installed" in doctor.answer(check)["because"]


@pytest.mark.versions(15)
def test_the_planner_is_asked_by_hypopg(counted: Database, tmp_path: Path, hypopg: str) -> None:
    database, doctor = counted, _doctor(counted, tmp_path)
    psql(database.superuser_dsn, f'CREATE SCHEMA "H"; CREATE EXTENSION {hypopg} SCHEMA "H"')
    _run(database, "SELECT * FROM orders WHERE customer_id = {n}", *list(WANTING)[3:5])
    finding = doctor.finding(WORKLOAD)
    assert "may not read the table or call HypoPG" in finding["cost"]
    _reads_all(database, doctor.role)
    psql(database.superuser_dsn, f'GRANT USAGE ON SCHEMA "H" TO {doctor.role}')
    finding = doctor.finding(WORKLOAD)
    rows = finding["evidence"]["which"]
    assert [row["shown_by"] for row in rows] == ["HypoPG"] * 3
    assert all(row["planned_cost_then"] < row["planned_cost_now"] / 3 for row in rows), rows
    assert finding["cost"].endswith("HypoPG: the planner would use 3 of 3.")

    # Nothing that was pretended stays.
    with open_session(database.dsn_as(doctor.role), DOCTOR) as session:
        limits = Limits(
            indexes=IndexesLimits(least_missing_table_bytes=200_000, least_saved_share=1e-9),
            queries=QueriesLimits(least_counted_s=0, least_calls=CALLS),
        )
        assert isinstance(judge_workload(Facts(session), limits), Findings)
        assert session.execute('SELECT count(*) FROM "H".hypopg()').fetchone() == (0,)

    # It waits for nobody, and says so.
    with database.connect() as holder:
        holder.execute("BEGIN; LOCK TABLE jobs")
        began = time.monotonic()
        locked = doctor.finding(WORKLOAD)
        assert time.monotonic() - began < 30
        holder.execute("ROLLBACK")
    assert (
        "HypoPG: the planner would use 2 of 3. By reasoning, because somebody holds a lock on the table"
        in locked["cost"]
    )

    # What the planner would not use is not told.
    off = " ".join(
        f"ALTER ROLE {doctor.role} SET enable_{kind}scan = off;" for kind in ("index", "bitmap", "indexonly")
    )
    psql(database.superuser_dsn, off)
    assert "by HypoPG the planner would not use 3 candidates" in doctor.answer(WORKLOAD)["text"]
    psql(database.superuser_dsn, f"ALTER ROLE {doctor.role} RESET ALL")
    doctor.apply(finding)
    assert doctor.is_well(WORKLOAD)


@pytest.mark.versions(14, 18)
def test_plans_with_unknown_values(database: Database) -> None:
    """What HypoPG's index is planned with, here with a real one: 16 has an EXPLAIN for it, 14 has not."""
    psql(
        database.dsn,
        """
        CREATE TABLE t (id integer, "K" text, gone_at date, big text);
        INSERT INTO t SELECT g, g, CASE WHEN g > 100 THEN now() END, repeat('x', 200) FROM generate_series(1, 20000) g;
        ANALYZE t;
        """,
    )
    counted = Statement(query_id="1", query="", calls=1, total_ms=1, rows=1, blocks=1, counted_s=1)
    table = Table(
        oid=1, schema="public", name="t", is_partitioned=False, pages=1, rows=1, visible_pages=0, written_rows=0,
        sequential_scans=0, counted_s=1, namesakes=[],
    )  # fmt: skip
    access = Access(
        statement=counted, table=table, equal=frozenset({"K"}), ranges=frozenset({"id"}), both_bounds=frozenset({"id"}),
        tests={"gone_at": "null"}, order=(Key(column="id", is_descending=True),), is_limited=True,
    )  # fmt: skip
    with open_session(database.dsn, DOCTOR) as session:
        session.execute("SET plan_cache_mode = force_generic_plan")
        before = plan_generic(session, *probe(access))
        psql(database.dsn, create_index(Wanted(table=table, keys=(Key(column="K"),), tested=("gone_at", "null"))))
        after = plan_generic(session, *probe(access))
        assert session.execute("SELECT count(*) FROM pg_catalog.pg_prepared_statements").fetchone() == (0,)
    assert after["Total Cost"] < before["Total Cost"] / 3
    assert ("t_K_idx" in str(before), "t_K_idx" in str(after)) == (False, True)
    for said in ("gone_at IS NULL", "$1", "$2", "$3"):
        assert said in str(before), before


@pytest.mark.versions(14, 15)
def test_covering(counted: Database, tmp_path: Path, pg_version: int) -> None:
    database, doctor = counted, _doctor(counted, tmp_path)
    _reads_all(database, doctor.role)
    psql(
        database.dsn,
        "UPDATE orders SET customer_id = id % 100; CREATE INDEX old ON orders (customer_id); VACUUM orders",
    )
    wants = "SELECT total, status FROM orders WHERE customer_id = {n}"
    _run(database, "SELECT * FROM orders WHERE customer_id = {n}", "SELECT note FROM orders WHERE customer_id = {n}")
    assert doctor.is_well(COVERING), doctor.answer(COVERING)
    _run(database, wants, "UPDATE orders SET status = status WHERE id = {n}")
    assert doctor.is_well(COVERING)
    psql(database.dsn, "VACUUM orders")
    _run(database, wants)
    assert doctor.is_well(WORKLOAD)
    finding = doctor.finding(COVERING)
    assert _wanted(finding) == {"public.orders (customer_id) INCLUDE (status, total)"}
    assert finding["fact"] == "public.old would answer alone with status, total beside its key."
    psql(database.dsn, "UPDATE orders SET note = 'y' WHERE id % 4 = 0; ANALYZE orders")
    assert doctor.is_well(COVERING)  # too few pages are all-visible
    psql(database.dsn, "VACUUM orders")
    doctor.apply(finding)
    doctor.apply(finding, 1)
    assert doctor.is_well(COVERING)
    assert "Index Only Scan" in psql(database.dsn, f"VACUUM orders; EXPLAIN {wants.format(n=1)}")


@pytest.mark.versions(14, 18)
def test_partial(database: Database, tmp_path: Path) -> None:
    doctor = _doctor(database, tmp_path)
    psql(
        database.dsn,
        """
        CREATE TABLE t (id integer PRIMARY KEY, rare integer, often integer, one integer UNIQUE, "Both" integer);
        INSERT INTO t SELECT g, CASE WHEN g % 10 = 0 THEN g END, CASE WHEN g % 10 > 2 THEN g END, NULL,
          CASE WHEN g % 10 = 0 THEN g END FROM generate_series(1, 100000) g;
        CREATE INDEX rare ON t (rare); CREATE INDEX often ON t (often); CREATE INDEX "Both" ON t ("Both" DESC);
        CREATE INDEX both_now ON t ("Both" DESC) WHERE "Both" IS NOT NULL; CREATE INDEX two ON t (rare, id);
        ANALYZE t;
        """,
    )
    answer = doctor.answer(PARTIAL)
    assert "are hidden from this login" in answer["because"], answer
    psql(database.superuser_dsn, answer["hint"])
    finding = doctor.finding(PARTIAL)
    assert {row["index"] for row in finding["evidence"]["which"]} == {"public.rare", 'public."Both"'}
    assert "Whether statements look for NULLs is not known, because the extension" in finding["cost"]
    assert finding["remedies"][0]["text"] == (
        'CREATE INDEX CONCURRENTLY ON "public"."t" ("rare") WHERE "rare" IS NOT NULL;'
    )
    doctor.apply(finding)
    finding = doctor.finding(PARTIAL)
    assert len(finding["remedies"]) == 1
    doctor.apply(finding)
    assert doctor.is_well(PARTIAL)


@pytest.mark.versions(17)
def test_nulls_that_are_looked_for_stay(counted: Database, tmp_path: Path) -> None:
    database, doctor = counted, _doctor(counted, tmp_path, least_partial_saved_bytes=1)
    _reads_all(database, doctor.role)
    psql(database.dsn, "CREATE INDEX locked ON jobs (locked_at)")
    _run(database, "SELECT count(*) FROM jobs WHERE locked_at = now() AND id > {n}")
    finding = doctor.finding(PARTIAL)
    assert (finding["subject"], "is not known" in finding["cost"]) == ("public.locked", False)
    for text in (
        "SELECT 1 FROM jobs WHERE locked_at IS NULL AND id = {n}",
        "SELECT id FROM jobs ORDER BY locked_at LIMIT {n}",
    ):
        _run(database, text)
        assert doctor.is_well(PARTIAL), text
