"""Look up what is known of a plan's tables, and the texts of counted statements. Only SELECTs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import psycopg
from psycopg.rows import class_row

from pgscale import sql as named
from pgscale.connect.session import Session
from pgscale.core.model import quote_ident
from pgscale.doctor.explain import conditions, ddl
from pgscale.doctor.explain.facts import (
    Cast,
    Column,
    ExtendedStatistics,
    ForeignKey,
    Index,
    Partitioned,
    Relation,
    Setting,
    Surroundings,
)
from pgscale.doctor.explain.model import Plan
from pgscale.errors import PermissionDeniedError, UsageError

QUERIES = named.load(__package__ or "")
Row = TypeVar("Row")


def read_statement(session: Session, query_id: int) -> str:
    """Return the text of a statement that pg_stat_statements has counted in this database.

    Raises:
        UsageError: it has none of that id, or there is no pg_stat_statements.
        PermissionDeniedError: the login may not see it.
    """
    row = session.execute(_query(session, "statements_schema")).fetchone()
    if row is None:
        raise UsageError(
            "The extension pg_stat_statements is not installed in this database, so an id means nothing.",
            hint="Give the query itself, or: CREATE EXTENSION pg_stat_statements; (its library must be preloaded)",
        )
    schema, is_usable = str(row[0]), bool(row[1])
    role = quote_ident(session.info.user)
    if not is_usable:
        raise PermissionDeniedError(
            f"Role {role} may not look into schema {quote_ident(schema)}, where pg_stat_statements is.",
            hint=f"GRANT USAGE ON SCHEMA {quote_ident(schema)} TO {role};",
        )
    try:
        found = session.execute(ddl.statement_text(schema), {"id": query_id}).fetchone()
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        raise UsageError(
            "The server has not loaded pg_stat_statements, so an id means nothing.",
            hint="Add it to shared_preload_libraries and restart the server, or give the query itself.",
        ) from error
    assert found is not None
    text, hidden, elsewhere = found
    if text is None:
        fact = f"pg_stat_statements has no statement {query_id} of this database"
        if hidden:
            raise PermissionDeniedError(
                f"{fact} that role {role} may see; {hidden} of others are hidden.",
                hint=f"GRANT pg_read_all_stats TO {role};",
            )
        where = " It has one of another database: connect there." if elsewhere else ""
        raise UsageError(f"{fact}.{where}", hint="`pgscale doctor --only queries` shows the ids of heavy ones.")
    return str(text)


def read_settings(session: Session) -> Mapping[str, Setting]:
    """Return the settings that plans depend on, as they are in this transaction."""
    return {each.name: each for each in _rows(session, "settings", Setting, {})}


def read_surroundings(session: Session, plan: Plan, settings: Mapping[str, Setting]) -> Surroundings:
    """Return what is known of the tables of a plan; what cannot be read is said in it."""
    row = session.execute(_query(session, "server")).fetchone()
    assert row is not None
    known = Surroundings(
        is_known=True,
        version=session.info.server_version,
        version_text=str(row[0]).split(" ")[0],
        database=str(row[1]),
        role=str(row[2]),
        block_bytes=int(row[3]),
        settings=settings,
    )
    try:
        return _read_tables(session, plan, known)
    except psycopg.Error as error:
        if session.closed or session.broken:
            raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        return replace(known, unknown=f"The tables of the plan could not be looked up: {said}.")


def _read_tables(session: Session, plan: Plan, known: Surroundings) -> Surroundings:
    wanted = sorted({node.relation for node in plan.nodes if node.relation is not None and node.relation[0]})
    keys = sorted({trigger.constraint for trigger in plan.triggers if trigger.constraint})
    names = {"schemas": [schema for schema, _ in wanted], "names": [name for _, name in wanted]}
    relations = _rows(session, "relations", Relation, names)
    roots = sorted(
        {each.root for each in relations if each.root} | {each.oid for each in relations if each.kind == "p"}
    )
    oids = {"oids": sorted({*(each.oid for each in relations), *roots})}
    known = replace(
        known,
        relations=relations,
        columns=_rows(session, "columns", Column, oids),
        indexes=_rows(session, "indexes", Index, oids),
        statistics=_rows(session, "statistics", ExtendedStatistics, oids),
        partitioned=_rows(session, "partitioned", Partitioned, {"oids": roots}) if roots else (),
        foreign_keys=_rows(session, "foreign_keys", ForeignKey, {"names": keys}) if keys else (),
    )
    casts, functions = _wrapping(plan, known)
    named_functions = (
        session.execute(_query(session, "functions"), {"names": functions}).fetchall() if functions else []
    )
    sources = {"sources": [source for source, _ in casts], "targets": [target for _, target in casts]}
    return replace(
        known,
        casts=_rows(session, "casts", Cast, sources) if casts else (),
        immutable_functions=frozenset(str(name) for name, is_immutable in named_functions if is_immutable),
    )


def _wrapping(plan: Plan, known: Surroundings) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the casts and the functions that stand around columns in conditions."""
    casts: set[tuple[str, str]] = set()
    functions: set[str] = set()
    for node in plan.nodes:
        relation = known.relation(node)
        if relation is None:
            continue
        for term in conditions.terms_of(node):
            functions.update(term.functions)
            for name, target in term.casts:
                column = known.column(relation, name)
                if column is not None:
                    casts.add((column.type, target))
    return sorted(casts), sorted(functions)


def _rows(session: Session, name: str, row: type[Row], values: Mapping[str, Any]) -> tuple[Row, ...]:
    with session.cursor(row_factory=class_row(row)) as cursor:
        # Without values the text is sent as it stands, per cent signs and all.
        return tuple(cursor.execute(_query(session, name), values or None).fetchall())


def _query(session: Session, name: str) -> bytes:
    return QUERIES.get(name, session.info.server_version)
