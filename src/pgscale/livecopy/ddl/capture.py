"""Compose what captures changed keys: the log's tables, the trigger functions and the triggers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import LiteralString

from psycopg import sql

from pgscale.core.model import QName
from pgscale.livecopy.ddl.quoting import ident, identity_of, keys_of, names, qualified, text, trusted
from pgscale.livecopy.model import Pair

HASHED_AND_SORTED = frozenset(
    (
        *(
            "smallint",
            "integer",
            "bigint",
            "numeric",
            "text",
            "character varying",
            "character",
            "uuid",
            "date",
            "bytea",
        ),
        *("timestamp without time zone", "timestamp with time zone", "boolean", "oid", "inet", "interval"),
    )
)

CAPTURE_EVENTS: tuple[tuple[LiteralString, LiteralString, LiteralString], ...] = (
    ("_pgscale_i", "INSERT", "REFERENCING NEW TABLE AS pgscale_new "),
    ("_pgscale_u", "UPDATE", "REFERENCING OLD TABLE AS pgscale_old NEW TABLE AS pgscale_new "),
    ("_pgscale_d", "DELETE", "REFERENCING OLD TABLE AS pgscale_old "),
    ("_pgscale_t", "TRUNCATE", ""),
)


def capture_objects(pair: Pair) -> tuple[str, ...]:
    """Return the log tables and trigger functions of one direction.

    The functions are SECURITY DEFINER: the application's role needs no right on our schema.
    """
    keys = names(keys_of(pair))
    log, truncated, source = qualified(pair.log), qualified(pair.truncated), qualified(pair.source)
    # A condition's strings are written for this setting, and the application may have the other one.
    strings = sql.SQL(" SET standard_conforming_strings = on" if "\\" in pair.only_where else "")

    def function(name: LiteralString, body: sql.Composed) -> str:
        return text(
            sql.SQL(
                "CREATE FUNCTION {} () RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
                " SET search_path = pg_catalog, pg_temp{} AS $pgscale$BEGIN {}; RETURN NULL; END$pgscale$"
            ).format(sql.Identifier(pair.work_schema, name), strings, body)
        )

    insert = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM ").format(log, keys, keys)
    where = sql.SQL(" WHERE {}").format(trusted(pair.only_where)) if pair.only_where else sql.SQL("")
    return (
        text(sql.SQL("CREATE TABLE {} AS SELECT {} FROM {} WITH NO DATA").format(log, keys, source)),
        # Its tail is given back by us when it is empty, not by a VACUUM that would lock the application out.
        text(sql.SQL("ALTER TABLE {} SET (vacuum_truncate = off, autovacuum_vacuum_cost_delay = 0)").format(log)),
        text(sql.SQL("CREATE TABLE {} (at timestamptz DEFAULT pg_catalog.clock_timestamp())").format(truncated)),
        text(
            sql.SQL("CREATE TABLE {} AS SELECT {} FROM {} WITH NO DATA").format(
                qualified(pair.recheck), names(identity_of(pair)), source
            )
        ),
        function("_pgscale_i", insert + sql.SQL("pgscale_new{}").format(where)),
        function(
            "_pgscale_u",
            insert + sql.SQL("pgscale_old{} {} SELECT {} FROM pgscale_new{}").format(where, _union(pair), keys, where),
        ),
        function("_pgscale_d", insert + sql.SQL("pgscale_old{}").format(where)),
        _truncate_function(pair, function),
    )


def _union(pair: Pair) -> sql.SQL:
    """Most updates leave the key as it is: it is logged once, which costs the application no more than a second row.

    Types that cannot surely be both hashed and sorted are left as they come: an UPDATE must not fail for us.
    """
    types = (key.type.partition("(")[0] for key in (*pair.identity, *pair.placement))
    return sql.SQL("UNION" if all(name in HASHED_AND_SORTED for name in types) else "UNION ALL")


def _truncate_function(pair: Pair, function: Callable[[LiteralString, sql.Composed], str]) -> str:
    if not pair.source_leaves:
        return function("_pgscale_t", sql.SQL("INSERT INTO {} DEFAULT VALUES").format(qualified(pair.truncated)))
    # Of a partitioned source each leaf can be truncated by itself, so what goes is logged key by key, before it goes.
    keys = names(keys_of(pair))
    body = sql.SQL(
        "EXECUTE pg_catalog.format('INSERT INTO {} ({}) SELECT {} FROM %I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME)"
    )
    return function(
        "_pgscale_t",
        body.format(
            *(trusted(text(part).replace("'", "''").replace("%", "%%")) for part in (qualified(pair.log), keys, keys))
        ),
    )


def drop_capture_objects(pair: Pair) -> tuple[str, ...]:
    """Return the statements that drop the log tables and functions, where they exist."""
    functions = sql.SQL(", ").join(
        sql.SQL("{} ()").format(sql.Identifier(pair.work_schema, name)) for name, _, _ in CAPTURE_EVENTS
    )
    tables = sql.SQL(", ").join(qualified(t) for t in (pair.log, pair.truncated, pair.recheck))
    return (
        text(sql.SQL("DROP FUNCTION IF EXISTS {}").format(functions)),
        text(sql.SQL("DROP TABLE IF EXISTS {}").format(tables)),
    )


def capture_triggers(pair: Pair, table: QName) -> tuple[str, ...]:
    """Return the triggers that write the log; they fire whatever session_replication_role says.

    CREATE TRIGGER takes SHARE ROW EXCLUSIVE on the table: it waits for open writers.
    """
    events = CAPTURE_EVENTS
    if table in pair.written_through or (pair.source_leaves and table == pair.source):
        # TRUNCATE of a partitioned table fires the triggers of each partition.
        events = CAPTURE_EVENTS[:3]
    statements = [
        text(
            sql.SQL("CREATE TRIGGER {} {} {} ON {} {}FOR EACH STATEMENT EXECUTE FUNCTION {} ()").format(
                ident(name),
                sql.SQL("BEFORE" if event == "TRUNCATE" else "AFTER"),
                sql.SQL(event),
                qualified(table),
                sql.SQL(referencing),
                sql.Identifier(pair.work_schema, name),
            )
        )
        for name, event, referencing in events
    ]
    enables = sql.SQL(", ").join(sql.SQL("ENABLE ALWAYS TRIGGER {}").format(ident(name)) for name, _, _ in events)
    return (*statements, text(sql.SQL("ALTER TABLE ONLY {} {}").format(qualified(table), enables)))


def drop_capture_triggers(table: QName) -> tuple[str, ...]:
    """Return the statements that drop the capture triggers, where they exist. ACCESS EXCLUSIVE, for a moment."""
    return tuple(
        text(sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(ident(name), qualified(table)))
        for name, _, _ in CAPTURE_EVENTS
    )


def count_capture(tables: Sequence[QName]) -> str:
    """Return the statement that counts our capture triggers on the tables that fire always, as we made them.

    Whoever disabled and enabled them again (`DISABLE TRIGGER USER`) left another state behind.
    """
    return text(
        sql.SQL(
            "SELECT pg_catalog.count(*) FROM pg_catalog.pg_trigger t WHERE t.tgenabled = 'A' AND t.tgname IN ({})"
            " AND t.tgrelid IN ({})"
        ).format(
            sql.SQL(", ").join(sql.Literal(name) for name, _, _ in CAPTURE_EVENTS),
            sql.SQL(", ").join(
                sql.SQL("{}::pg_catalog.regclass").format(sql.Literal(text(qualified(t)))) for t in tables
            ),
        )
    )
