"""Read what advice is made from: the catalog, statistics, settings and statements. No row of the table is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

from pgscale import sql as named
from pgscale.catalog import reader as catalog
from pgscale.catalog.model import Column, TableFacts
from pgscale.connect.session import Session
from pgscale.errors import UsageError
from pgscale.partition import evidence as forecast
from pgscale.partition import reader as rows
from pgscale.partition.advice.candidates import may_be_key
from pgscale.partition.advice.model import ColumnEvidence, Evidence, Memory, StatementSource
from pgscale.partition.advice.statements import parse_statements
from pgscale.partition.skew import Combinations
from pgscale.partition.workload_reader import NotReadableError, read_statements

QUERIES = named.load("pgscale.partition")
# `hash_remainders` divides by this; the whole hash is left, to be divided by any number of partitions.
_WHOLE_HASH = 2**64


def _rows(session: Session, query: str, /, **params: object) -> list[tuple[Any, ...]]:
    return session.execute(QUERIES.get(query, session.info.server_version), params or None).fetchall()


def read_evidence(session: Session, facts: TableFacts, queries: Path | None) -> Evidence:
    """Return everything advice is made from.

    Args:
        queries: a file of statements in place of pg_stat_statements.

    Raises:
        UsageError: the file cannot be read.

    Locks: ACCESS SHARE for the moments in which the catalog functions look at the table.
    """
    unchecked: list[str] = []
    keys = tuple(c for c in facts.columns if may_be_key(c))
    columns = tuple(c for c in (_column(session, facts, c) for c in keys) if c is not None)
    without = tuple(c.name for c in keys if all(c.name != known.name for known in columns))
    if without and (not columns or _may_not_see(session, facts, without)):
        which = "The columns' statistics were" if not columns else f"The statistics of {', '.join(without)} were"
        unchecked.append(
            f"{which} not checked, because {forecast.explain_missing_statistics(session, facts, without)}."
        )
    source: StatementSource | None = None
    if queries is not None:
        source = _from_file(facts, queries)
    else:
        try:
            source = _from_server(session, facts)
        except NotReadableError as error:
            unchecked.append(f"The workload was not checked, because {error}. --queries FILE names statements instead.")
    return Evidence(
        facts=facts,
        columns=columns,
        combinations=_combinations(session, facts),
        memory=_memory(session),
        source=source,
        unchecked=tuple(unchecked),
    )


def _may_not_see(session: Session, facts: TableFacts, columns: tuple[str, ...]) -> bool:
    return bool(_rows(session, "hidden_columns", oid=facts.table.oid, columns=list(columns)))


def _column(session: Session, facts: TableFacts, column: Column) -> ColumnEvidence | None:
    statistics = catalog.read_column_statistics(session, facts.table.qname, column.name)
    if statistics is None:
        return None
    hashes: list[int] | None = None
    if statistics.values and column.has_hash_opclass:
        try:
            with session.transaction():
                hashes = rows.hash_remainders(session, column.type, statistics.values, _WHOLE_HASH)
        except psycopg.Error:
            # A type whose input or hash function this login may not call; then its evenness is not known.
            hashes = None
    return ColumnEvidence(
        name=column.name,
        statistics=statistics,
        histogram=tuple(catalog.read_histogram(session, facts.table.qname, column.name)),
        hashes=tuple(hashes or ()),
    )


def _combinations(session: Session, facts: TableFacts) -> tuple[tuple[frozenset[str], Combinations], ...]:
    groups = {frozenset(i.key_columns) for i in facts.indexes if i.is_unique and len(i.key_columns) > 1}
    found = ((g, forecast.read_combinations(session, facts, tuple(sorted(g)))) for g in groups)
    return tuple((group, counted) for group, counted in found if counted is not None)


def _memory(session: Session) -> Memory:
    ((cache_bytes, is_default),) = _rows(session, "cache_size")
    return Memory(cache_bytes=int(cache_bytes), is_default=bool(is_default))


def _from_server(session: Session, facts: TableFacts) -> StatementSource:
    counted = read_statements(session, facts.table.qname, tuple(dict.fromkeys(v.name for v in facts.views)))
    return StatementSource(
        name="pg_stat_statements",
        statements=counted.statements,
        since=counted.since,
        hidden=counted.hidden,
        via_views=counted.via_views,
        left_out=counted.found - len(counted.statements),
    )


def _from_file(facts: TableFacts, path: Path) -> StatementSource:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"The file of statements {path} cannot be read: {reason}.") from None
    found = parse_statements(text, facts.table.qname)
    return StatementSource(name=path.name, statements=found.statements, is_timed=found.is_timed)
