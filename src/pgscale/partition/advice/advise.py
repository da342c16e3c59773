"""Advise on a table: read, then decide. Changes nothing."""

from __future__ import annotations

from pathlib import Path

from pgscale.catalog import reader as catalog
from pgscale.connect.session import READER, open_session
from pgscale.errors import RefusedError
from pgscale.partition.advice.model import Advice
from pgscale.partition.advice.plan import advise_from
from pgscale.partition.advice.reader import read_evidence
from pgscale.partition.checks import refuse_kind
from pgscale.partition.failures import translated


@translated
def advise(dsn: str | None, table: str, queries: Path | None = None) -> Advice:
    """Return whether to partition the table and by which key, each candidate with its reasons and figures.

    Any role that may connect can ask; what it may not see is named in `unchecked`.

    Args:
        dsn: None means PGSCALE_DSN, DATABASE_URL, or libpq's own environment.
        table: written as in SQL.
        queries: a file of SQL statements that stands for the workload, instead of pg_stat_statements.

    Raises:
        UsageError: the file cannot be read; RefusedError: there is no such table, or it is no ordinary one;
        ConnectError.

    Locks: none but ACCESS SHARE, on a READ ONLY session; no row of the table is read.
    """
    with open_session(dsn, READER) as session:
        oid, _ = catalog.find_table(session, table)
        facts = catalog.read_table(session, oid)
        kind = refuse_kind(facts)
        if kind is not None:
            raise RefusedError(kind, consequence="Nothing was changed.")
        return advise_from(read_evidence(session, facts, queries))
