"""What rows are written to: read once a call, and the encoder made for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from pgscale import sql as named
from pgscale.core.model import QName
from pgscale.errors import RefusedError, UsageError
from pgscale.write.composing import NotEncodableError, encoder_of
from pgscale.write.effects import Fetch, Steps
from pgscale.write.encoding import Encoder, make_encoder
from pgscale.write.failures import WriteFailedError
from pgscale.write.model import ColumnFact, Destination, TypeFact, UniqueKey

QUERIES = named.load("pgscale.write")


def is_in_a_transaction(info: psycopg.ConnectionInfo) -> bool:
    """Tell whether the connection is in a transaction of the caller's already; asked before the first statement."""
    return info.transaction_status != psycopg.pq.TransactionStatus.IDLE


def read_destination(info: psycopg.ConnectionInfo, table: str) -> Steps[Destination]:
    """Read what a table's columns are made of.

    Raises:
        RefusedError: there is no such table; UsageError: the connection's encoding is not UTF-8.
    """
    if info.encoding != "utf-8":
        raise UsageError(f"The connection's client_encoding is {info.encoding}.", hint="SET client_encoding TO UTF8.")
    version = info.server_version
    found = yield Fetch(QUERIES.get("read_table", version), {"name": table})
    if not found:
        raise RefusedError(f"There is no table {table}.", consequence="Nothing was written.")
    oid, schema, name, kind, may_stage, row_type_oid = found[0]
    columns = tuple(
        ColumnFact(
            name=row[0],
            type_oid=row[1],
            type_name=row[2],
            is_not_null=row[3],
            is_generated=row[4],
            is_text_only=row[5],
            collation=row[6],
            is_deterministic=row[7],
        )
        for row in (yield Fetch(QUERIES.get("read_columns", version), {"oid": oid}))
    )
    types = yield Fetch(QUERIES.get("read_types", version), {"oids": [c.type_oid for c in columns]})
    facts = (
        TypeFact(
            oid=row[0],
            name=row[1],
            schema=row[2],
            kind=row[3],
            element_oid=row[4],
            base_oid=row[5],
            part_oid=row[6],
            labels=tuple(row[7]),
            field_names=tuple(row[8]),
            field_oids=tuple(row[9]),
        )
        for row in types
    )
    return Destination(
        oid=oid,
        table=QName(schema=schema, name=name),
        kind=kind,
        may_stage=may_stage,
        row_type_oid=row_type_oid,
        columns=columns,
        types={f.oid: f for f in facts},
    )


def refuse_if_altered(destination: Destination, table: str) -> Steps[None]:
    """Raise when a column of a table no longer has the type that values were encoded for.

    To be asked after the rows are written and before they are committed: from their COPY on nobody can alter the table,
    but it may have waited for somebody who did.

    Raises:
        WriteFailedError: what was written may be garbage, and is to be rolled back.
    """
    now: dict[str, int] = dict((yield Fetch(QUERIES.get("read_layout", 0), {"name": table})))
    for column in destination.columns:
        if now.get(column.name, column.type_oid) != column.type_oid:
            raise WriteFailedError(
                f"Column {column.name} of {destination.table} was given another type while rows were written to it.",
                consequence="Nothing of this call was written.",
                hint="Write them again.",
            )


def encoder_for(destination: Destination, names: Sequence[str] | None) -> Encoder:
    """Return the encoder of these columns, of all that are not generated when None.

    Raises:
        RefusedError: a column that is not there, is named twice or is generated; a type without a binary form.
    """
    if names is None:
        names = [c.name for c in destination.columns if not c.is_generated]
    table = destination.table
    reasons: list[str] = []
    chosen: list[ColumnFact] = []
    for name in names:
        column = destination.column(name)
        if column is None:
            reasons.append(f"{table} has no column {name}.")
        elif column.is_generated:
            reasons.append(f"Column {name} is generated: it takes no values.")
        elif column in chosen:
            reasons.append(f"Column {name} is named twice.")
        else:
            chosen.append(column)
    reasons += [
        f"Column {c.name} has type {c.type_name}, which the server reads as text only: no binary COPY into {table}."
        for c in destination.columns
        if c.is_text_only and c not in chosen
    ]
    encoders: list[Any] = []
    for column in chosen:
        try:
            encoders.append(encoder_of(column.type_oid, destination.types))
        except NotEncodableError as error:
            reasons.append(f"Column {column.name} has type {column.type_name}: no binary form is known for {error}.")
    if reasons or not chosen:
        raise RefusedError(
            f"Rows cannot be written to {table}.", reasons=tuple(reasons), consequence="Nothing was written."
        )
    return make_encoder(chosen, encoders)


def read_unique_keys(info: psycopg.ConnectionInfo, oid: int) -> Steps[tuple[UniqueKey, ...]]:
    """Read the unique indexes of a table."""
    rows = yield Fetch(QUERIES.get("read_unique_keys", info.server_version), {"oid": oid})
    return tuple(
        UniqueKey(
            name=row[0],
            is_immediate=row[1],
            is_valid=row[2],
            is_partial=row[3],
            nulls_are_equal=row[4],
            columns=tuple(row[5]),
        )
        for row in rows
    )
