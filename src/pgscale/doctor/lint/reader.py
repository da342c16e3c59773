"""Read what relations are, as the session that runs the migration sees them. Only SELECTs."""

from __future__ import annotations

from typing import Any

from pgscale.doctor.lint.model import Column, Constraint, Relation
from pgscale.doctor.lint.scratch import QUERIES, Connection


def read_catalog(session: Connection, only: set[int] | None = None) -> dict[int, Relation]:
    """Return relations by their numbers: some, or all."""
    query = QUERIES.get("read_relations", session.info.server_version)
    rows = session.execute(query, {"all": only is None, "oids": sorted(only or ())}).fetchall()
    return {row[0]: _relation(row) for row in rows}


def _relation(row: tuple[Any, ...]) -> Relation:
    oid, schema, name, kind, filenode, tablespace, is_partition, table, is_unique, is_constraint, *rest = row
    definition, bound, parents, triggers, columns, constraints = rest
    return Relation(
        oid=oid,
        schema=schema,
        name=name,
        kind=kind,
        filenode=filenode,
        tablespace=tablespace,
        is_partition=is_partition,
        table=table,
        is_unique=is_unique,
        is_constraint=is_constraint,
        definition=definition,
        bound=bound,
        parents=tuple(parents),
        triggers=tuple(triggers),
        columns=tuple(
            Column(number=n, name=c, type=t, not_null=nn, default=d, is_identity=i, is_generated=g)
            for n, c, t, nn, d, i, g in columns or ()
        ),
        constraints=tuple(
            Constraint(
                oid=int(o),
                name=c,
                kind=k,
                validated=v,
                definition=text,
                is_inherited=inherited,
                index=int(index),
                other_table=int(other),
            )
            for o, c, k, v, text, inherited, index, other in constraints or ()
        ),
    )
