"""Compose what locks a whole table or looks at its file."""

from __future__ import annotations

from psycopg import sql

from pgscale.core.model import QName
from pgscale.livecopy.ddl.quoting import qualified, text
from pgscale.livecopy.model import Pair


def lock_to_read(table: QName, *more: QName) -> str:
    """Return the statement that keeps TRUNCATE away for one transaction; it freezes no snapshot.

    Of further tables only the parent is locked, not every partition: those are ours, and we TRUNCATE the parent.
    """
    also = sql.SQL("").join(sql.SQL(", ONLY {}").format(qualified(t)) for t in more)
    return text(sql.SQL("LOCK TABLE {}{} IN ACCESS SHARE MODE").format(qualified(table), also))


def lock_against_writers(pair: Pair) -> str:
    """Return the statement that keeps writers and row lockers of the source out, but not readers.

    Where the source is a part of a partitioned table only that part is locked, after what it is written through, as
    writers do.
    """
    if not pair.only_where:
        return text(sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(qualified(pair.source)))
    tables = sql.SQL(", ").join(
        sql.SQL("ONLY {}").format(qualified(t)) for t in (*pair.written_through, pair.source, *pair.source_leaves)
    )
    return text(sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(tables))


def pages_of(table: QName) -> str:
    """Return the statement that tells a table's size in pages."""
    return text(
        sql.SQL(
            "SELECT pg_catalog.pg_relation_size({}::pg_catalog.regclass)"
            " / pg_catalog.current_setting('block_size')::int8"
        ).format(sql.Literal(text(qualified(table))))
    )


def file_of(table: QName) -> str:
    """Return the statement that tells the table's file: another one after VACUUM FULL, CLUSTER or TRUNCATE."""
    return text(
        sql.SQL("SELECT pg_catalog.pg_relation_filenode({}::pg_catalog.regclass)::int8").format(
            sql.Literal(text(qualified(table)))
        )
    )
