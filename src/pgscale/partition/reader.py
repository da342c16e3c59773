"""Look at the rows a bound depends on, in page chunks, so that no snapshot is held for long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgscale.catalog.model import TableFacts
from pgscale.connect.session import Session
from pgscale.errors import PermissionDeniedError
from pgscale.livecopy.ddl import ident, qualified, trusted
from pgscale.partition.bounds import TIME_TYPES, Extent
from pgscale.partition.model import By

PAGES_PER_LOOK = 32_768
MOST_VALUES = 1_000

# src/include/catalog/partition.h HASH_PARTITION_SEED, and hash_combine64's constant in src/include/common/hashfn.h.
HASH_PARTITION_SEED = 0x7A5B22367996DCFD
HASH_COMBINE = 0x49A0F4DD15E5A8E3


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValues:
    """What occurs in the partition key.

    Args:
        extent: smallest and largest finite value (range only).
        values: distinct non-NULL values as text (list only), None when there are more than MOST_VALUES.
        has_null: whether NULL occurs in any key column.
    """

    extent: Extent
    values: tuple[str, ...] | None
    has_null: bool


def read_key_values(session: Session, facts: TableFacts, by: By) -> KeyValues:
    """Read what the bounds depend on. With an index on a range key this is instant, else one pass by chunks."""
    column = facts.column(by.columns[0])
    assert column is not None
    nullable = [c.name for c in facts.columns if c.name in by.columns and not c.not_null]
    extent, values, has_null = Extent(lowest=None, highest=None), None, False
    indexed = any(
        i.key_columns[:1] == [column.name] and i.is_valid and not i.is_partial and " btree " in f" {i.tail} "
        for i in facts.indexes
    )
    try:
        if by.method == "range":
            extent = _extent(session, facts, column.name, column.type, whole=indexed)
        if by.method == "list":
            values = _values(session, facts, column.name)
        if nullable:
            has_null = _has_null(session, facts, nullable)
    except psycopg.errors.InsufficientPrivilege as error:
        raise PermissionDeniedError(
            f"{facts.table.qname} cannot be read: {str(error).splitlines()[0]}.",
            consequence="Nothing was changed.",
            hint="Connect as the table's owner.",
        ) from None
    return KeyValues(extent=extent, values=values, has_null=has_null)


def _looks(facts: TableFacts) -> Iterator[tuple[str, str]]:
    pages = max(1, facts.table.heap_bytes // facts.table.block_bytes)
    for first in range(0, pages, PAGES_PER_LOOK):
        last = first + PAGES_PER_LOOK
        yield f"({first},0)", f"({last if last < pages else 4_294_967_295},0)"


def _extent(session: Session, facts: TableFacts, column: str, type_name: str, *, whole: bool) -> Extent:
    name = ident(column)
    base = type_name.split("(", maxsplit=1)[0].strip()
    if base in TIME_TYPES or type_name.startswith("timestamp"):
        finite = sql.SQL("pg_catalog.isfinite({})").format(name)
    elif base == "numeric":
        finite = sql.SQL("{}::text NOT IN ('NaN', 'Infinity', '-Infinity')").format(name)
    else:
        finite = sql.SQL("true")
    # Compared as the column's type, not as text: the chunks' results meet in a VALUES list on the server.
    query = sql.SQL("SELECT pg_catalog.min({c})::text, pg_catalog.max({c})::text FROM {t} WHERE {finite}").format(
        c=name, t=qualified(facts.table.qname), finite=finite
    )
    if whole:
        row = session.execute(query).fetchone()
        return Extent(lowest=row[0], highest=row[1]) if row else Extent(lowest=None, highest=None)
    found: list[str] = []
    for first, last in _looks(facts):
        row = session.execute(
            sql.SQL("{} AND ctid >= {}::tid AND ctid < {}::tid").format(query, first, last)
        ).fetchone()
        if row:
            found += [v for v in row if v is not None]
    if not found:
        return Extent(lowest=None, highest=None)
    merged = session.execute(
        sql.SQL(
            "SELECT pg_catalog.min(v::{t})::text, pg_catalog.max(v::{t})::text FROM pg_catalog.unnest({v}::text[]) v"
        ).format(t=trusted(type_name), v=sql.Literal(found))
    ).fetchone()
    assert merged is not None
    return Extent(lowest=merged[0], highest=merged[1])


def _values(session: Session, facts: TableFacts, column: str) -> tuple[str, ...] | None:
    values: set[str] = set()
    for first, last in _looks(facts):
        rows = session.execute(
            sql.SQL(
                "SELECT DISTINCT {c}::text FROM {t} WHERE {c} IS NOT NULL AND ctid >= {f}::tid AND ctid < {l}::tid"
                " LIMIT {n}"
            ).format(c=ident(column), t=qualified(facts.table.qname), f=first, l=last, n=MOST_VALUES + 1)
        )
        values.update(str(row[0]) for row in rows)
        if len(values) > MOST_VALUES:
            return None
    return tuple(sorted(values))


def _has_null(session: Session, facts: TableFacts, columns: list[str]) -> bool:
    anyone = sql.SQL(" OR ").join(sql.SQL("{} IS NULL").format(ident(c)) for c in columns)
    for first, last in _looks(facts):
        row = session.execute(
            sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE ({}) AND ctid >= {}::tid AND ctid < {}::tid)").format(
                qualified(facts.table.qname), anyone, first, last
            )
        ).fetchone()
        if row and row[0]:
            return True
    return False


def hash_remainders(session: Session, type_name: str, values: list[str], modulus: int) -> list[int] | None:
    """Return the remainder each value of a one-column hash key falls to; None when the type has no hash function.

    The same computation as compute_partition_hash_value() in src/backend/partitioning/partbounds.c.
    """
    row = session.execute(
        "SELECT pg_catalog.format('%%I.%%I', n.nspname, p.proname) FROM pg_catalog.pg_type y"
        " JOIN pg_catalog.pg_opclass o ON o.opcmethod = 405 AND o.opcdefault AND o.opcintype ="
        " CASE WHEN y.typname = 'varchar' THEN 25 ELSE y.oid END"
        " JOIN pg_catalog.pg_amproc ap ON ap.amprocfamily = o.opcfamily AND ap.amprocnum = 2"
        " AND ap.amproclefttype = o.opcintype AND ap.amprocrighttype = o.opcintype"
        " JOIN pg_catalog.pg_proc p ON p.oid = ap.amproc JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace"
        " WHERE y.oid = pg_catalog.to_regtype(%s)",
        (type_name.split("(", maxsplit=1)[0],),
    ).fetchone()
    if row is None:
        return None
    rows = session.execute(
        sql.SQL("SELECT {}(v::{}, {}) FROM pg_catalog.unnest({}::text[]) WITH ORDINALITY u(v, n) ORDER BY n").format(
            trusted(row[0]), trusted(type_name), sql.Literal(HASH_PARTITION_SEED), sql.Literal(values)
        )
    ).fetchall()
    return [((int(r[0]) + HASH_COMBINE) % 2**64) % modulus for r in rows]
