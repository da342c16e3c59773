"""Compose what moves rows from one table to the other, and what gives the empty tail back. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from pgscale.core.model import QName
from pgscale.livecopy.ddl import names, qualified, text
from pgscale.partition.move.model import Lane


def lane(source: QName, target: QName, columns: Sequence[str], phase: str) -> Lane:
    """Return what moves rows from the end of `source` to `target`.

    A row that another transaction has locked is left for a later pass: whoever moves rows never waits for the
    application while it holds rows itself. The rows and their count in the ledger are one transaction.
    """
    statement = sql.SQL(
        "WITH gone AS (DELETE FROM {source} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {source}"
        " WHERE ctid >= $1::tid AND ctid < $2::tid FOR UPDATE SKIP LOCKED)) RETURNING {columns}),"
        " moved AS (INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM gone RETURNING 1),"
        " counted AS (SELECT pg_catalog.count(*) AS n FROM moved)"
        " UPDATE pgscale.chunk SET row_count = row_count + n FROM counted"
        " WHERE run_id = $3::int8 AND phase = {phase} AND first_page = $4::int8 RETURNING n"
    ).format(source=qualified(source), target=qualified(target), columns=names(columns), phase=sql.Literal(phase))
    vacuum = sql.SQL("VACUUM (INDEX_CLEANUP ON, TRUNCATE ON) {}").format(qualified(source))
    return Lane(source=source, phase=phase, statement=text(statement), vacuum=text(vacuum))


# So many rows are tried: one might take the branch of a CHECK that fails.
TRIED_ROWS = 100


def try_rows(source: QName, target: QName, columns: Sequence[str]) -> str:
    """Return what puts a few rows of one table into the other, to be rolled back."""
    statement = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} LIMIT {}")
    listed = names(columns)
    return text(statement.format(qualified(target), listed, listed, qualified(source), sql.Literal(TRIED_ROWS)))


def is_empty(table: QName) -> str:
    """Return the statement that tells whether no row is left."""
    return text(sql.SQL("SELECT NOT EXISTS (SELECT FROM {})").format(qualified(table)))


def analyze(table: QName) -> str:
    return text(sql.SQL("ANALYZE {}").format(qualified(table)))


def reindex(index: QName) -> str:
    """Return the statement that builds an index anew beside itself; nobody waits for it."""
    return text(sql.SQL("REINDEX INDEX CONCURRENTLY {}").format(qualified(index)))


def drop_index(index: QName) -> str:
    return text(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(qualified(index)))
