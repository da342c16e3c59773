"""Look at the rows a bound depends on, in page chunks, so that no snapshot is held for long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgscale.catalog.model import Column, TableFacts
from pgscale.connect.session import Session
from pgscale.core.model import quote_ident
from pgscale.errors import PermissionDeniedError, UsageError
from pgscale.livecopy.ddl import ident, qualified, text, trusted
from pgscale.livecopy.work import execute
from pgscale.partition.bounds import Extent
from pgscale.partition.model import By
from pgscale.partition.periods import TIME_TYPES

PAGES_PER_LOOK = 32_768
MOST_VALUES = 1_000

# src/include/catalog/partition.h HASH_PARTITION_SEED, and hash_combine64's constant in src/include/common/hashfn.h.
HASH_PARTITION_SEED = 0x7A5B22367996DCFD
HASH_COMBINE = 0x49A0F4DD15E5A8E3


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedValues:
    """What `--values` names, as the column's type and collation tell values apart.

    Args:
        values: one text for each, as the server prints it, in the order given.
        repeated: values that were named more than once: the texts given for each.
        missing: values of rows that are not named.
    """

    values: tuple[str, ...]
    repeated: tuple[tuple[str, ...], ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValues:
    """What occurs in the partition key.

    Args:
        extent: smallest and largest finite value (range only).
        values: non-NULL values as text, distinct by the column's type and collation (list only); None when
            there are more than MOST_VALUES.
        has_null: whether NULL occurs in any key column.
        has_nonfinite: whether infinity, -infinity or NaN occurs in a range column.
        named: what `--values` names (list only); None when it names nothing.
    """

    extent: Extent
    values: tuple[str, ...] | None
    has_null: bool
    has_nonfinite: bool
    named: NamedValues | None = None


def read_key_values(session: Session, facts: TableFacts, by: By, given: tuple[str, ...] = ()) -> KeyValues:
    """Read what the bounds depend on. With an index on a range key this is instant, else one pass by chunks.

    Args:
        given: the texts of `--values`, for a list.

    Raises:
        UsageError: one of them is no value of the column; PermissionDeniedError: the table cannot be read.
    """
    column = facts.column(by.columns[0])
    assert column is not None
    nullable = [c.name for c in facts.columns if c.name in by.columns and not c.not_null]
    extent, values, has_null, has_nonfinite = Extent(lowest=None, highest=None), None, False, False
    named: NamedValues | None = None
    indexed = any(
        i.key_columns[:1] == [column.name] and i.is_valid and not i.is_partial and " btree " in f" {i.tail} "
        for i in facts.indexes
    )
    try:
        if by.method == "range":
            extent, has_nonfinite = _extent(session, facts, column.name, column.type, whole=indexed)
        if by.method == "list":
            if given:
                # Before the rows are looked at: a word that is no value is known at once.
                _refuse_uncastable(session, column, given)
            values = _values(session, facts, column)
            if given:
                named = _named(session, column, given, values or ())
        if nullable:
            has_null = _has_null(session, facts, nullable)
    except psycopg.errors.InsufficientPrivilege as error:
        raise PermissionDeniedError(
            f"{facts.table.qname} cannot be read: {str(error).splitlines()[0]}.",
            consequence="Nothing was changed.",
            hint="Connect as the table's owner.",
        ) from None
    return KeyValues(extent=extent, values=values, has_null=has_null, has_nonfinite=has_nonfinite, named=named)


def _looks(facts: TableFacts) -> Iterator[tuple[str, str]]:
    pages = max(1, facts.table.heap_bytes // facts.table.block_bytes)
    for first in range(0, pages, PAGES_PER_LOOK):
        last = first + PAGES_PER_LOOK
        yield f"({first},0)", f"({last if last < pages else 4_294_967_295},0)"


def _extent(session: Session, facts: TableFacts, column: str, type_name: str, *, whole: bool) -> tuple[Extent, bool]:
    """Return the finite extent, and whether there are values beyond it."""
    name, table = ident(column), qualified(facts.table.qname)
    base = type_name.split("(", maxsplit=1)[0].strip()
    if base in TIME_TYPES or type_name.startswith("timestamp"):
        nonfinite = sql.SQL("{} IN ('infinity', '-infinity')").format(name)
    elif base == "numeric":
        nonfinite = sql.SQL("{} IN ('NaN', 'Infinity', '-Infinity')").format(name)
    else:
        nonfinite = sql.SQL("false")
    if whole:
        # Each by itself is answered from the ends of the index.
        row = session.execute(
            sql.SQL(
                "SELECT (SELECT pg_catalog.min({c}) FROM {t} WHERE NOT {n})::text,"
                " (SELECT pg_catalog.max({c}) FROM {t} WHERE NOT {n})::text, EXISTS (SELECT FROM {t} WHERE {n})"
            ).format(c=name, t=table, n=nonfinite)
        ).fetchone()
        assert row is not None
        return Extent(lowest=row[0], highest=row[1]), bool(row[2])
    found: list[str] = []
    has_nonfinite = False
    for first, last in _looks(facts):
        row = session.execute(
            sql.SQL(
                "SELECT pg_catalog.min({c}) FILTER (WHERE NOT {n})::text,"
                " pg_catalog.max({c}) FILTER (WHERE NOT {n})::text, COALESCE(pg_catalog.bool_or({n}), false)"
                " FROM {t} WHERE ctid >= {f}::tid AND ctid < {l}::tid"
            ).format(c=name, n=nonfinite, t=table, f=first, l=last)
        ).fetchone()
        assert row is not None
        found += [v for v in row[:2] if v is not None]
        has_nonfinite = has_nonfinite or bool(row[2])
    if not found:
        return Extent(lowest=None, highest=None), has_nonfinite
    # Compared as the column's type, not as text: the chunks' results meet on the server.
    merged = session.execute(
        sql.SQL(
            "SELECT pg_catalog.min(v::{t})::text, pg_catalog.max(v::{t})::text FROM pg_catalog.unnest({v}::text[]) v"
        ).format(t=trusted(type_name), v=sql.Literal(found))
    ).fetchone()
    assert merged is not None
    return Extent(lowest=merged[0], highest=merged[1]), has_nonfinite


def _values(session: Session, facts: TableFacts, column: Column) -> tuple[str, ...] | None:
    values: set[str] = set()
    for first, last in _looks(facts):
        # What is equal can have several texts (1.0 and 1.00); the least of them stands for all, on every reading.
        rows = session.execute(
            sql.SQL(
                'SELECT pg_catalog.min({c}::text COLLATE pg_catalog."C") FROM {t}'
                " WHERE {c} IS NOT NULL AND ctid >= {f}::tid AND ctid < {l}::tid GROUP BY {c} LIMIT {n}"
            ).format(c=ident(column.name), t=qualified(facts.table.qname), f=first, l=last, n=MOST_VALUES + 1)
        ).fetchall()
        values = _distinct(session, column, values | {str(row[0]) for row in rows})
        if len(values) > MOST_VALUES:
            return None
    return tuple(sorted(values))


def _distinct(session: Session, column: Column, values: set[str]) -> set[str]:
    """Return the values that differ as the column's type and collation tell them apart."""
    collate = sql.SQL(" COLLATE {}").format(trusted(column.collation)) if column.collation else sql.SQL("")
    rows = session.execute(
        sql.SQL(
            'SELECT pg_catalog.min(v COLLATE pg_catalog."C") FROM pg_catalog.unnest({v}::text[]) v'
            " GROUP BY v::{t}{collate}"
        ).format(v=sql.Literal(sorted(values)), t=trusted(column.type), collate=collate)
    ).fetchall()
    return {str(row[0]) for row in rows}


def _refuse_uncastable(session: Session, column: Column, given: tuple[str, ...]) -> None:
    """Raise when the server would not take one of the texts as a bound of the column, naming the first."""
    # An explicit cast cuts strings to their length where a bound is an error (typcategory S, and V of bit strings);
    # a domain has the category of its base type.
    statement = text(
        sql.SQL(
            "SELECT u.v, u.v::{}::text, (SELECT y.typcategory IN ('S', 'V') FROM pg_catalog.pg_type y"
            " WHERE y.oid = $2::int8::oid) FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY u(v, n) ORDER BY u.n"
        ).format(trusted(column.type))
    )
    try:
        rows = execute(session, statement, list(given), column.type_oid).fetchall()
    except (psycopg.OperationalError, psycopg.errors.InsufficientPrivilege):
        raise
    except psycopg.Error as error:
        if len(given) > 1:
            for value in given:
                _refuse_uncastable(session, column, (value,))
        reason = str(error).partition("\n")[0]
        raise _no_value(column, "".join(given[:1]), f": {reason}") from None
    for value, stored, is_string in rows:
        if is_string and value.rstrip(" ") != stored.rstrip(" "):
            raise _no_value(column, value, ": it does not fit")


def _no_value(column: Column, given: str, reason: str) -> UsageError:
    return UsageError(
        f"--values names {given!r}, which is no value of column {quote_ident(column.name)} ({column.type}){reason}.",
        hint="Write values as in SQL, without quotes, separated by commas.",
    )


def _named(session: Session, column: Column, given: tuple[str, ...], held: tuple[str, ...]) -> NamedValues:
    """Match what is named with what the rows hold, as a unique key of the column would."""
    collate = sql.SQL(" COLLATE {}").format(trusted(column.collation)) if column.collation else sql.SQL("")
    # GROUP BY takes the type's own equality; an operator would have to be found by a search_path.
    statement = text(
        sql.SQL(
            "SELECT pg_catalog.array_agg(u.n ORDER BY u.n), (pg_catalog.array_agg(u.v::text ORDER BY u.n))[1]"
            " FROM (SELECT w.n, w.v::{t} AS v FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY w(v, n)) u"
            " GROUP BY u.v{collate} ORDER BY pg_catalog.min(u.n)"
        ).format(t=trusted(column.type), collate=collate)
    )
    values: list[str] = []
    repeated: list[tuple[str, ...]] = []
    missing: list[str] = []
    rows: list[tuple[list[int], str]] = execute(session, statement, [*given, *held]).fetchall()
    for numbers, first in rows:
        names = tuple(given[n - 1] for n in numbers if n <= len(given))
        if not names:
            missing.append(first)
            continue
        values.append(first)
        if len(names) > 1:
            repeated.append(names)
    return NamedValues(values=tuple(values), repeated=tuple(repeated), missing=tuple(sorted(missing)))


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
