"""The catalog as values and as SQLAlchemy models: right, on every version, and without a lock."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, undefer

from pgscale import catalog
from pgscale.catalog import models
from pgscale.errors import UsageError
from support.cli import pgscale
from support.servers import Database
from support.waiting_sessions import until_true

SCENE = """
    CREATE SCHEMA "Shop"; CREATE SCHEMA other; SET search_path = "Shop";
    CREATE TABLE customer (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email varchar(80) COLLATE "C" UNIQUE,
        note text DEFAULT 'it''s', born date, shout text GENERATED ALWAYS AS (upper(note)) STORED)
        WITH (fillfactor = 90);
    COMMENT ON TABLE customer IS 'who buys'; COMMENT ON COLUMN customer.note IS 'kept';
    ALTER TABLE customer DROP COLUMN born, ENABLE ROW LEVEL SECURITY;
    CREATE TABLE "order" (id bigint, at date NOT NULL, customer_id bigint REFERENCES customer ON DELETE CASCADE
        DEFERRABLE INITIALLY DEFERRED, n int CONSTRAINT positive CHECK (n > 0), PRIMARY KEY (at, id))
        PARTITION BY RANGE (at);
    CREATE TABLE order_2024 PARTITION OF "order" FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    CREATE TABLE order_rest PARTITION OF "order" DEFAULT PARTITION BY LIST (at);
    CREATE TABLE other.mixed (id int) PARTITION BY HASH (id, (id + 1));
    CREATE INDEX by_mail ON customer (lower(email) text_pattern_ops DESC NULLS LAST, id) INCLUDE (note) WHERE id > 7;
    CREATE VIEW seen AS SELECT id FROM customer; CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM customer;
    CREATE UNLOGGED TABLE other.staged (id int);
    CREATE FUNCTION total(a int, b text DEFAULT 'x') RETURNS SETOF int LANGUAGE sql STABLE STRICT SECURITY DEFINER
        SET work_mem = '64MB' AS 'SELECT a';
    CREATE FUNCTION first_order() RETURNS date RETURN (SELECT min(at) FROM "order");
    CREATE PROCEDURE other.p() LANGUAGE sql AS '';
    INSERT INTO customer (email) SELECT n::text FROM generate_series(1, 100) n;
    INSERT INTO "order" VALUES (1, '2024-02-01', 1, 1);
    VACUUM (ANALYZE) customer;
    ANALYZE "order";
    UPDATE customer SET note = 'x' WHERE id <= 10;
"""
SHOP = ["Shop"]
READERS: dict[str, tuple[Callable[..., tuple[Any, ...]], Any]] = {
    "tables": (catalog.read_tables, models.Table),
    "columns": (catalog.read_columns, models.Column),
    "indexes": (catalog.read_indexes, models.Index),
    "constraints": (catalog.read_constraints, models.Constraint),
    "functions": (catalog.read_functions, models.Function),
    "partitions": (catalog.read_partitions, models.Partition),
    "freshness": (catalog.read_freshness, models.Freshness),
}
DEFINED = {"columns", "indexes", "constraints", "functions"}


@pytest.fixture
def connection(database: Database) -> psycopg.Connection[Any]:
    connection = database.connect()
    for statement in SCENE.split(";\n"):
        connection.execute(statement.encode())
    if connection.info.server_version >= 150000:
        connection.execute("SELECT pg_stat_force_next_flush()")
    # Before 15 another process collects what was done.
    until_true(connection, "SELECT pg_stat_get_last_vacuum_time('customer'::regclass) IS NOT NULL")
    return connection


def _engine(database: Database) -> sa.Engine:
    return sa.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(database.dsn), poolclass=sa.NullPool
    )


def _picked(facts: tuple[Any, ...], *fields: str) -> list[tuple[Any, ...]]:
    return [tuple(getattr(fact, field) for field in fields) for fact in facts]


@pytest.mark.versions("all")
def test_facts_are_those_of_the_server_and_of_the_models(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    version = connection.info.server_version // 10_000
    tables = catalog.read_tables(connection, schemas=SHOP)
    fields = ("name", "kind", "is_partition", "partition_strategy", "partition_columns", "estimated_rows")
    assert _picked(tables, *fields) == [
        ("counted", "materialized view", False, None, None, None),
        ("customer", "table", False, None, None, 100),
        ("order", "partitioned table", False, "range", ["at"], 1),
        ("order_2024", "table", True, None, None, 1),
        ("order_rest", "partitioned table", True, "list", ["at"], None),
        ("seen", "view", False, None, None, None),
    ]  # fmt: skip
    customer = tables[1]
    assert (customer.owner, customer.options, customer.comment) == (database.owner, ["fillfactor=90"], "who buys")
    assert (customer.row_security, customer.persistence, customer.extension) == (True, "permanent", None)
    sizes = "SELECT pg_relation_size(%(oid)s::oid), pg_indexes_size(%(oid)s::oid)"
    assert (customer.heap_bytes, customer.index_bytes) == connection.execute(sizes, {"oid": customer.oid}).fetchone()
    others = catalog.read_tables(connection, schemas=["other"])
    assert _picked(others, "name", "persistence", "partition_strategy", "partition_columns") == [
        ("mixed", "permanent", "hash", ["id", None]),
        ("staged", "unlogged", None, None),
    ]

    columns = [each for each in catalog.read_columns(connection, schemas=SHOP) if each.table_oid == customer.oid]
    fields = ("number", "name", "type", "not_null", "default_sql", "generated", "identity", "collation", "comment")
    assert _picked(tuple(columns), *fields) == [
        (1, "id", "bigint", True, None, None, "always", None, None),
        (2, "email", "character varying(80)", False, None, None, None, "C", None),
        (3, "note", "text", False, "'it''s'::text", None, None, None, "kept"),
        (5, "shout", "text", False, None, "stored", None, None, None),
    ]  # fmt: skip

    indexes = [each for each in catalog.read_indexes(connection, schemas=SHOP) if each.table_oid == customer.oid]
    assert _picked(
        tuple(indexes), "name", "is_unique", "is_primary", "is_partial", "columns", "included", "operator_classes",
        "is_descending", "definition",
    ) == [
        ("by_mail", False, False, True, [None, "id"], ["note"], ["text_pattern_ops", "int8_ops"], [True, False], None),
        ("customer_email_key", True, False, False, ["email"], [], ["text_ops"], [False], None),
        ("customer_pkey", True, True, False, ["id"], [], ["int8_ops"], [False], None),
    ]  # fmt: skip
    assert (indexes[0].bytes, indexes[0].estimated_rows) == (16_384, 93)

    constraints = [
        each
        for each in catalog.read_constraints(connection, schemas=SHOP)
        if each.table_name == "order" and each.kind != "not null"
    ]
    (foreign, primary, check) = sorted(constraints, key=lambda each: "fpc".index(each.kind[0]))
    assert (foreign.columns, foreign.references_schema, foreign.references_table) == (
        ["customer_id"],
        "Shop",
        "customer",
    )
    assert (foreign.references_columns, foreign.on_delete, foreign.on_update) == (["id"], "cascade", "no action")
    assert (foreign.is_deferrable, foreign.is_deferred, foreign.is_validated, foreign.is_enforced) == (True,) * 4
    assert (foreign.definition or "").startswith("FOREIGN KEY (customer_id) REFERENCES ")
    assert (primary.columns, primary.definition, primary.on_delete) == (["at", "id"], "PRIMARY KEY (at, id)", None)
    assert (check.name, check.columns, check.definition) == ("positive", ["n"], None)
    kinds = {each.kind for each in catalog.read_constraints(connection)}
    assert kinds == {"primary key", "unique", "foreign key", "check", *(["not null"] if version >= 18 else [])}

    functions = catalog.read_functions(connection)
    assert _picked(functions, "schema", "name", "kind", "input_types", "result", "volatility", "settings", "body") == [
        ("Shop", "first_order", "function", "", "date", "volatile", None, None),
        ("Shop", "total", "function", "integer, text", "SETOF integer", "stable", ["work_mem=64MB"], "SELECT a"),
        ("other", "p", "procedure", "", None, "volatile", None, ""),
    ]
    assert functions[1].arguments == "a integer, b text DEFAULT 'x'::text"
    assert [(each.definition or "")[:26] for each in functions] == [
        "",
        "CREATE OR REPLACE FUNCTION",
        "CREATE OR REPLACE PROCEDUR",
    ]

    assert _picked(
        catalog.read_partitions(connection), "parent_name", "name", "bound", "is_default", "is_partitioned"
    ) == [
        ("order", "order_2024", "FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')", False, False),
        ("order", "order_rest", "DEFAULT", True, True),
    ]

    with connection.transaction():
        fresh = {each.name: each for each in catalog.read_freshness(connection)}
        columns_of_view = (
            "n_live_tup, n_dead_tup, n_mod_since_analyze, n_ins_since_vacuum, last_vacuum, last_autovacuum,"
            " last_analyze, last_autoanalyze FROM pg_stat_all_tables WHERE relid = %s"
        )
        row = connection.execute(f"SELECT {columns_of_view}".encode(), (customer.oid,)).fetchone()
    bought = fresh["customer"]
    assert dataclasses.astuple(bought)[3:] == row
    assert (bought.vacuumed_at, bought.analyzed_at) == (bought.last_vacuum, bought.last_analyze)
    assert bought.vacuumed_at is not None
    assert (fresh["staged"].analyzed_at, "seen" in fresh) == (None, False)
    assert version == 14 or bought.dead_rows == 10

    # The models are the same queries: each gives what its reader gives, with definitions where these are asked for.
    with Session(_engine(database)) as session:
        session.execute(sa.text("""SET search_path = "Shop" """))
        for name, (read, model) in READERS.items():
            facts = read(connection, **({"definitions": True} if name in DEFINED else {}))
            assert facts, name
            fields = [field.name for field in dataclasses.fields(facts[0])]
            rows = session.scalars(sa.select(model).options(undefer("*"))).all()
            assert sorted(map(repr, _picked(tuple(rows), *fields))) == sorted(map(repr, _picked(facts, *fields))), name
    defined = catalog.read_indexes(connection, schemas=SHOP, definitions=True)
    assert "lower((email)::text)" in next(each.definition or "" for each in defined if each.name == "by_mail")


def test_models_are_joined_and_filtered_by_the_server(database: Database, connection: psycopg.Connection[Any]) -> None:
    with Session(_engine(database)) as session:
        joined = (
            sa.select(models.Table.name, models.Index.name)
            .join(models.Table.indexes)
            .where(models.Table.schema == "Shop", models.Index.is_primary)
            .order_by(models.Table.name)
        )
        assert [tuple(row) for row in session.execute(joined)] == [
            ("customer", "customer_pkey"),
            ("order", "order_pkey"),
            ("order_2024", "order_2024_pkey"),
            ("order_rest", "order_rest_pkey"),
        ]
        table = session.scalars(sa.select(models.Table).where(models.Table.name == "order")).one()
        assert [each.name for each in table.columns] == ["id", "at", "customer_id", "n"]
        assert [(each.table.name, each.parent is table) for each in table.partitions] == [
            ("order_2024", True),
            ("order_rest", True),
        ]
        foreign = next(each for each in table.constraints if each.kind == "foreign key")
        assert foreign.references is not None
        assert (foreign.references.name, [each.name for each in foreign.references.indexes]) == (
            "customer",
            ["by_mail", "customer_email_key", "customer_pkey"],
        )
        assert foreign.references.freshness is not None
        assert foreign.references.freshness.last_vacuum is not None
        for change in (lambda: session.add(models.Partition()), lambda: session.delete(table)):
            change()
            with pytest.raises(UsageError, match="models of the catalog are read-only"):
                session.flush()
            session.rollback()
        table.name = "renamed"
        with pytest.raises(UsageError, match="models of the catalog are read-only"):
            session.commit()


@pytest.mark.versions(14, 18)
def test_facts_wait_for_no_lock_but_those_that_were_asked_for(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    holder = database.connect(autocommit=False)
    holder.execute('LOCK "Shop".customer, "Shop"."order" IN ACCESS EXCLUSIVE MODE')
    connection.execute("SET lock_timeout = '100ms'")
    for name, (read, _) in READERS.items():
        assert read(connection), name
        if name in DEFINED:
            with pytest.raises(psycopg.errors.LockNotAvailable):
                read(connection, definitions=True)
    with Session(_engine(database)) as session:
        session.execute(sa.text("SET lock_timeout = '100ms'"))
        for name, (_, model) in READERS.items():
            assert session.scalars(sa.select(model)).all(), name
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            session.scalars(sa.select(models.Index.definition)).all()


def test_facts_are_printed_as_asked(database: Database, connection: psycopg.Connection[Any]) -> None:
    call = ("--schema", "Shop", "--dsn", database.dsn)
    data = json.loads(pgscale("catalog", "freshness", *call, "--json").out)
    assert [each["name"] for each in data] == ["counted", "customer", "order", "order_2024", "order_rest"]
    assert data[1]["last_analyze"].startswith("20")
    printed = pgscale("catalog", "columns", *call, "--csv").out.splitlines()
    assert printed[0].startswith("table_oid,schema,table_name,number,name,type,type_oid,not_null,default_sql,")
    assert any(",note,text,25,false,'it''s'::text,,," in line for line in printed)
    shown = pgscale("catalog", "indexes", *call)
    assert shown.exit_code == 0
    assert shown.out.splitlines()[0].split() == ["table", "index", "method", "columns", "unique", "valid", "bytes"]
    assert shown.out.splitlines()[2].split()[:5] == ["customer", "by_mail", "btree", "(expression),", "id"]
    assert "lower" in pgscale("catalog", "indexes", *call, "--definitions", "--csv").out
    for what in READERS:
        assert pgscale("catalog", what, *call).exit_code == 0, what
    refused = pgscale("catalog", "tables", "--definitions", "--dsn", database.dsn)
    assert (refused.exit_code, "--definitions goes with" in refused.err) == (2, True)
