"""Read what the plan looks at. Only SELECTs, in READ ONLY transactions."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

import psycopg
from psycopg.rows import class_row

from pgscale import sql as named
from pgscale.catalog import reader as catalog
from pgscale.connect.session import Session
from pgscale.core.model import QName
from pgscale.ledger import store
from pgscale.livecopy.work import execute
from pgscale.partition.lifecycle import ddl
from pgscale.partition.lifecycle.model import (
    Child,
    Highest,
    Limits,
    Obstacles,
    Parent,
    PartitionSet,
    Retired,
    SetFacts,
    Sibling,
)
from pgscale.partition.lifecycle.plan import Outline
from pgscale.partition.periods import NUMBER_TYPES

QUERIES = named.load("pgscale.partition.lifecycle")
# A look at rows is given up rather than made long: what it could not see is then in the way.
LOOK_S = 10.0

T = TypeVar("T")


def query(session: Session, name: str, /, **params: object) -> psycopg.Cursor[tuple[Any, ...]]:
    """Run a named query of this room."""
    return session.execute(QUERIES.get(name, session.info.server_version), params)


def _all(session: Session, kind: type[T], name: str, **params: object) -> tuple[T, ...]:
    with session.cursor(row_factory=class_row(kind)) as cursor:
        return tuple(cursor.execute(QUERIES.get(name, session.info.server_version), params).fetchall())


def read_parent(session: Session, oid: int) -> Parent:
    return _all(session, Parent, "parent", oid=oid)[0]


def read_moment(session: Session) -> datetime:
    """Return the server's present moment."""
    row = session.execute("SELECT pg_catalog.clock_timestamp()").fetchone()
    assert row is not None
    return row[0]


def read_sibling(session: Session, oid: int) -> Sibling:
    """Read a partition as the one that others are made like."""
    facts = catalog.read_table(session, oid)
    own = {row[0] for row in query(session, "own_indexes", oid=oid)}
    return Sibling(facts=facts, own_indexes=tuple(i for i in facts.indexes if i.oid in own))


def read_facts(session: Session, oid: int) -> SetFacts:
    """Read the table, its partitions, its promises, in one snapshot; and the ends of a number key."""
    try:
        return _read_facts(session, oid)
    except (psycopg.errors.UndefinedTable, psycopg.errors.InFailedSqlTransaction):
        # Whoever emptied the ledger dropped it while we waited for it; once more, and it is not there.
        return _read_facts(session, oid)


def _read_facts(session: Session, oid: int) -> SetFacts:
    with session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        parent = read_parent(session, oid)
        children = _all(session, Child, "children", oid=oid) if parent.kind == "p" else ()
        open_run = next((f"{r.state}, phase {r.phase}" for r in store.read_runs(session, oid)), "")
        highest = Highest()
        if parent.type_name in NUMBER_TYPES and parent.strategy == "r" and parent.is_owner:
            highest = _read_highest(session, parent, children)
        return SetFacts(
            parent=parent,
            children=children,
            retired=tuple(_now(session, r) for r in store.read_retired(session, oid, Retired)),
            highest=highest,
            taken_names=frozenset(
                row[0]
                for row in session.execute(
                    catalog.QUERIES.get("schema_relations", session.info.server_version), {"schema": parent.schema}
                )
            ),
            open_run=open_run,
        )


def _now(session: Session, noted: Retired) -> Retired:
    row = query(session, "relation_now", oid=noted.leaf_oid).fetchone()
    if row is None:
        return noted
    return replace(noted, now_schema=row[0], now_name=row[1], now_attached=bool(row[2]))


def _read_highest(session: Session, parent: Parent, children: tuple[Child, ...]) -> Highest:
    found: dict[bool, list[str]] = {True: [], False: []}
    for child in children:
        if child.is_pending:
            continue
        row = query(session, "index_on", oid=child.oid, column=parent.column).fetchone()
        assert row is not None
        if row[1] and child.kind == "r":
            continue
        if not row[0]:
            return Highest(unknown=f"{child.qname} has no index that begins with it")
        statement = ddl.highest(child.qname, parent.column or "", is_numeric=parent.type_name == "numeric")
        value = execute(session, statement).fetchone()
        if value is not None and value[0] is not None:
            found[child.is_default].append(str(value[0]))
    regular, default = (max(found[k], key=Decimal, default=None) for k in (False, True))
    return Highest(regular=regular, default=default)


def read_obstacles(session: Session, facts: SetFacts, seen: Outline, wanted: PartitionSet, limits: Limits) -> Obstacles:
    """Look at what may stand in the way of the outline's wishes, and at nothing else."""
    default = facts.default
    rows: dict[str, int] = {}
    references: tuple[str, ...] = ()
    publications: tuple[str, ...] = ()
    is_empty: bool | None = None
    with session.transaction():
        session.execute("SET TRANSACTION READ ONLY")
        if default is not None and default.bytes <= limits.default_scan_bytes:
            for missing in seen.missing:
                statement = ddl.count_in_range(
                    default.qname, facts.parent.column or "", missing.low, missing.high, limits.move_rows + 1
                )
                row = execute(session, statement).fetchone()
                rows[missing.leaf.name] = int(row[0]) if row else 0
        if default is not None and any(rows.values()):
            references, publications = read_movers(session, default.oid)
        if default is not None and wanted.default is False:
            row = execute(session, ddl.has_rows(default.qname)).fetchone()
            is_empty = row is not None and not row[0]
    return Obstacles(
        default_rows=rows,
        default_references=references,
        default_publications=publications,
        default_is_empty=is_empty,
        references={s.child.oid: found for s in seen.due if (found := _references(session, s.child))},
    )


def read_movers(session: Session, oid: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the foreign keys and the publications for which rows of a table cannot be moved out of it."""
    foreign = tuple(
        f"{row[2]} of {QName(schema=row[0], name=row[1])}" for row in query(session, "references_to", oid=oid)
    )
    return foreign, tuple(row[0] for row in query(session, "publications", oid=oid))


def _references(session: Session, child: Child) -> tuple[str, ...]:
    """Return the foreign keys with rows that refer into the partition, or of which that cannot be known."""
    found: list[str] = []
    for schema, name, constraint, columns, referenced in query(session, "references_to", oid=child.oid).fetchall():
        referring = QName(schema=schema, name=name)
        try:
            with session.transaction():
                session.execute(
                    "SELECT pg_catalog.set_config('statement_timeout', %s::text, true)", (str(int(LOOK_S * 1000)),)
                )
                row = execute(session, ddl.refers(referring, columns, referenced, child.qname)).fetchone()
            if row is not None and row[0]:
                found.append(f"{constraint} of {referring}")
        except (psycopg.errors.QueryCanceled, psycopg.errors.InsufficientPrivilege, psycopg.errors.LockNotAvailable):
            found.append(f"{constraint} of {referring} (not known: it could not be looked at within {LOOK_S:g} s)")
    return tuple(found)
