"""Read where a partition hangs. Only SELECTs."""

from __future__ import annotations

from typing import Any, TypeVar

import psycopg
from psycopg.rows import class_row

from pgscale import sql as named
from pgscale.connect.session import Session
from pgscale.core.model import QName
from pgscale.errors import RefusedError
from pgscale.livecopy.ddl import qualified, text
from pgscale.partition.lifecycle.model import Child
from pgscale.partition.splitting.model import Parent, Place

QUERIES = named.load("pgscale.partition.splitting")

T = TypeVar("T")


def query(session: Session, name: str, /, **params: object) -> psycopg.Cursor[tuple[Any, ...]]:
    """Run a named query of this room."""
    return session.execute(QUERIES.get(name, session.info.server_version), params)


def _all(session: Session, kind: type[T], name: str, **params: object) -> tuple[T, ...]:
    with session.cursor(row_factory=class_row(kind)) as cursor:
        return tuple(cursor.execute(QUERIES.get(name, session.info.server_version), params).fetchall())


def _texts(session: Session, name: str, **params: object) -> tuple[Any, ...]:
    return tuple(row[0] for row in query(session, name, **params))


def parent_of(session: Session, oid: int) -> int | None:
    """Return the oid of the table that this one is a partition of, None when it is no partition."""
    row = query(session, "partition_of", oid=oid).fetchone()
    return None if row is None else int(row[0])


def read_family(session: Session, oid: int) -> tuple[Parent, tuple[Child, ...]]:
    """Return a partitioned table and its partitions.

    Raises:
        RefusedError: it is gone.
    """
    found = _all(session, Parent, "parent", oid=oid)
    if not found:
        raise RefusedError("The table was dropped a moment ago.", consequence="Nothing was changed.")
    return found[0], _all(session, Child, "children", oid=oid)


def read_place(session: Session, parent: Parent, children: tuple[Child, ...], leaf: Child) -> Place:
    """Return everything about the partition's place that the plan looks at."""
    row = query(session, "condition", oid=leaf.oid).fetchone()
    return Place(
        parent=parent,
        leaf=leaf,
        siblings=tuple(c for c in children if c.oid != leaf.oid),
        condition=str(row[0]) if row is not None and row[0] is not None else "true",
        own_triggers=_texts(session, "own_triggers", oid=leaf.oid),
        own_indexes=_texts(session, "own_indexes", oid=leaf.oid),
        lacking_indexes=_texts(session, "lacking_indexes", oid=leaf.oid, parent=parent.oid),
    )


def read_signature(session: Session, parent_oid: int, partitions: tuple[int, ...], *, every: bool) -> str:
    """Return a digest of the parent and of these partitions' places.

    Args:
        every: of all partitions: what a DEFAULT partition may hold depends on each.
    """
    return str(_texts(session, "signature", parent=parent_oid, partitions=list(partitions), all=every)[0])


def read_oids(session: Session, names: tuple[QName, ...]) -> tuple[int, ...]:
    """Return the oids of those of the tables that exist."""
    return tuple(_texts(session, "oids_of", names=[text(qualified(n)) for n in names])[0])


def columns_differ(session: Session, one: QName, other: QName) -> bool:
    return bool(_texts(session, "columns_differ", one=text(qualified(one)), other=text(qualified(other)))[0])
