"""Read facts of one table. Only SELECTs, on a read-only session; takes no lock on the table itself."""

from __future__ import annotations

from collections import deque
from graphlib import TopologicalSorter
from typing import Any, TypeVar

import psycopg
from psycopg.rows import class_row

from pgscale import sql as named
from pgscale.catalog import model
from pgscale.connect.session import Session
from pgscale.core.model import QName
from pgscale.errors import RefusedError, UsageError

T = TypeVar("T")

QUERIES = named.load("pgscale.catalog")


def _query(session: Session, name: str) -> bytes:
    return QUERIES.get(name, session.info.server_version)


def _all(session: Session, kind: type[T], name: str, **params: object) -> tuple[T, ...]:
    with session.cursor(row_factory=class_row(kind)) as cursor:
        return tuple(cursor.execute(_query(session, name), params).fetchall())


def scalar(session: Session, query: str, /, **params: object) -> Any:
    """Return the first column of the first row of a named catalog query, None when there is none."""
    row = session.execute(_query(session, query), params).fetchone()
    return None if row is None else row[0]


def find_table(session: Session, name: str) -> tuple[int, QName]:
    """Resolve a table name as SQL would (quotes, schema, search_path of the login role).

    Raises:
        RefusedError: there is no such table; UsageError: the name cannot be parsed.
    """
    with session.transaction():
        # Sessions run with search_path = pg_catalog; an unqualified name means the user's own path.
        session.execute("SET LOCAL search_path TO DEFAULT")
        try:
            row = session.execute(_query(session, "find_table"), {"name": name}).fetchone()
        except psycopg.Error as error:
            raise UsageError(
                f"{name!r} is not a table name: {str(error).splitlines()[0]}.",
                hint='Write it as in SQL: schema.table, "Quoted".table.',
            ) from None
    if row is None:
        raise RefusedError(
            f"There is no table {name}.",
            consequence="Nothing was changed.",
            hint="Name it with its schema, as in SQL, and check the database in the DSN.",
        )
    return int(row[0]), QName(schema=row[1], name=row[2])


def read_table(session: Session, oid: int) -> model.TableFacts:
    """Read everything the catalog says about a table, in one snapshot.

    Args:
        session: any session; the reading happens in a REPEATABLE READ, READ ONLY transaction.
        oid: the table's pg_class.oid.
    """
    with session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        tables = _all(session, model.Table, "table", oid=oid)
        if not tables:
            raise RefusedError("The table was dropped a moment ago.", consequence="Nothing was changed.")
        table = tables[0]
        sequences = _all(session, model.OwnedSequence, "owned_sequences", oid=oid)
        sequence_grants: list[model.Grant] = []
        for sequence in sequences:
            sequence_grants += _all(session, model.Grant, "grants", oid=sequence.oid)
        relations = session.execute(_query(session, "schema_relations"), {"schema": table.schema})
        views = _all(session, model.View, "dependent_views", oid=oid)
        return model.TableFacts(
            server_version=session.info.server_version,
            table=table,
            columns=_all(session, model.Column, "columns", oid=oid),
            grants=_all(session, model.Grant, "grants", oid=oid),
            default_grantees=_all(session, model.DefaultGrantee, "default_grantees", oid=oid),
            constraints=_all(session, model.Constraint, "constraints", oid=oid),
            incoming=_all(session, model.IncomingForeignKey, "incoming_foreign_keys", oid=oid),
            indexes=_all(session, model.Index, "indexes", oid=oid),
            triggers=_all(session, model.Trigger, "triggers", oid=oid),
            policies=_all(session, model.Policy, "policies", oid=oid),
            statistics=_all(session, model.StatisticsObject, "statistics_objects", oid=oid),
            publications=_all(session, model.Publication, "publications", oid=oid),
            views=views,
            matviews=_matviews(session, oid, views),
            functions=_all(session, model.Function, "dependent_functions", oid=oid),
            row_type_users=_texts(session, "row_type_users", oid),
            other_dependents=_texts(session, "other_dependents", oid),
            sequences=sequences,
            sequence_grants=tuple(sequence_grants),
            taken_names=frozenset(row[0] for row in relations),
            fingerprint=read_fingerprint(session, oid),
        )


def read_followed(session: Session, oid: int) -> model.Followed:
    """Return who has rights on a relation and what is defined by it, in the caller's transaction."""
    return model.Followed(
        relation=_all(session, model.Table, "table", oid=oid)[0],
        columns=_all(session, model.Column, "columns", oid=oid),
        grants=_all(session, model.Grant, "grants", oid=oid),
        views=_all(session, model.View, "dependent_views", oid=oid),
        functions=_all(session, model.Function, "dependent_functions", oid=oid),
    )


def _texts(session: Session, name: str, oid: int) -> tuple[str, ...]:
    return tuple(str(row[0]) for row in session.execute(_query(session, name), {"oid": oid}))


def _matviews(session: Session, oid: int, views: tuple[model.View, ...]) -> tuple[model.Matview, ...]:
    """Read the materialized views among the views, and those that read these, each after what it reads."""
    found: dict[int, model.Matview] = {}
    reads: dict[int, set[int]] = {}
    # Those that read the table itself come first: only their view knows whether they need the table's key.
    queue = deque((oid, view) for view in views if view.kind == "m")
    while queue:
        read, view = queue.popleft()
        reads.setdefault(view.oid, set()).add(read)
        if view.oid not in found:
            found[view.oid] = matview = _matview(session, oid, view)
            queue += ((view.oid, other) for other in matview.dependents if other.kind == "m")
    return tuple(found[each] for each in TopologicalSorter(reads).static_order() if each in found)


def _matview(session: Session, table_oid: int, view: model.View) -> model.Matview:
    oid = view.oid
    return model.Matview(
        view=view,
        relation=_all(session, model.Table, "table", oid=oid)[0],
        state=_all(session, model.MatviewState, "matview_state", oid=oid, table_oid=table_oid)[0],
        columns=_all(session, model.Column, "columns", oid=oid),
        grants=_all(session, model.Grant, "grants", oid=oid),
        indexes=_all(session, model.Index, "indexes", oid=oid),
        statistics=_all(session, model.StatisticsObject, "statistics_objects", oid=oid),
        dependents=_all(session, model.View, "dependent_views", oid=oid),
        functions=_all(session, model.Function, "dependent_functions", oid=oid),
        row_type_users=_texts(session, "row_type_users", oid),
        other_dependents=_texts(session, "other_dependents", oid),
    )


def read_fingerprint(session: Session, oid: int) -> str:
    """Return a digest of the table's definition: it changes whenever DDL changed something we carry over."""
    return str(scalar(session, "fingerprint", oid=oid))


def read_column_statistics(session: Session, table: QName, column: str) -> model.ColumnStatistics | None:
    """Return the planner's statistics of one column, None when never analyzed or not readable."""
    rows = _all(
        session,
        model.ColumnStatistics,
        "column_statistics",
        schema=table.schema,
        table=table.name,
        column=column,
    )
    return rows[0] if rows else None


def read_histogram(session: Session, table: QName, column: str) -> list[str]:
    """Return the bounds of the planner's equal-depth histogram as text, none when there is none."""
    found = scalar(session, "histogram", schema=table.schema, table=table.name, column=column)
    return [str(v) for v in found] if found else []
