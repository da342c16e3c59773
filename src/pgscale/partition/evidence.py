"""Read what a forecast rests on: extended statistics, rights to see statistics, settings, an earlier run's copy."""

from __future__ import annotations

import json
from typing import Any, cast

import cattrs
import psycopg

from pgscale import sql as named
from pgscale.catalog import reader as catalog
from pgscale.catalog.model import ColumnStatistics, TableFacts
from pgscale.connect.session import Session
from pgscale.ledger import store
from pgscale.livecopy.throttle import PACES
from pgscale.partition.estimate import MeasuredCopy
from pgscale.partition.model import Pace
from pgscale.partition.skew import Combinations

QUERIES = named.load("pgscale.partition")


def _rows(session: Session, query: str, /, **params: object) -> list[tuple[Any, ...]]:
    return session.execute(QUERIES.get(query, session.info.server_version), params or None).fetchall()


def read_statistics(session: Session, facts: TableFacts, columns: tuple[str, ...]) -> dict[str, ColumnStatistics]:
    """Return the statistics of those columns that have any which this login may see."""
    found = {c: catalog.read_column_statistics(session, facts.table.qname, c) for c in columns}
    return {c: s for c, s in found.items() if s is not None}


def read_combinations(session: Session, facts: TableFacts, columns: tuple[str, ...]) -> Combinations | None:
    """Return how many combinations of the columns there are, where CREATE STATISTICS (ndistinct) had it counted."""
    numbers = {c.number for c in facts.columns if c.name in columns}
    for name, text in _rows(session, "extended_statistics", schema=facts.table.schema, table=facts.table.name):
        for group, count in _ndistinct(str(text)):
            if group == numbers:
                return Combinations(count=count, source=f"the extended statistics {name}")
    return None


def _ndistinct(text: str) -> list[tuple[set[int], float]]:
    """Parse pg_ndistinct's text: {"1, 2": 11} up to 18, [{"attributes": [1, 2], "ndistinct": 11}] after."""
    parsed = json.loads(text)
    if isinstance(parsed, dict):
        pairs = cast("dict[str, float]", parsed)
        return [({int(n) for n in group.split(",")}, float(count)) for group, count in pairs.items()]
    items = cast("list[dict[str, Any]]", parsed)
    return [(set(item["attributes"]), float(item["ndistinct"])) for item in items]


def explain_missing_statistics(session: Session, facts: TableFacts, columns: tuple[str, ...]) -> str:
    """Return why there are no statistics to judge by, to stand after `because`."""
    hidden = [str(row[0]) for row in _rows(session, "hidden_columns", oid=facts.table.oid, columns=list(columns))]
    if hidden:
        return f"there is no SELECT right on {', '.join(hidden)}"
    if facts.table.row_security and _rows(session, "hides_rows", oid=facts.table.oid)[0][0]:
        return f"the row-level security of {facts.table.qname} hides them from this login"
    if facts.table.reltuples < 0:
        return f"{facts.table.qname} was never analyzed (ANALYZE {facts.table.qname})"
    if facts.table.reltuples == 0:
        return f"{facts.table.qname} was empty when it was last looked at (ANALYZE {facts.table.qname})"
    return f"there are no statistics of {', '.join(columns)} that tell (ANALYZE {facts.table.qname})"


def logs_hint_bits(session: Session) -> bool:
    """Tell whether a page's first change of hint bits after a checkpoint writes the page to WAL."""
    return bool(_rows(session, "logs_hint_bits")[0][0])


def read_rehearsal(session: Session, facts: TableFacts) -> MeasuredCopy | None:
    """Return what a rehearsal of this table measured; None without one, or where the ledger may not be read."""
    try:
        found = store.read_rehearsal(session, facts.table.oid)
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable):
        return None
    return None if found is None else cattrs.structure(json.loads(found), MeasuredCopy)


def read_measured_copy(session: Session, facts: TableFacts) -> MeasuredCopy | None:
    """Return what a rehearsal of the table measured, else the largest copy that the ledger of this database knows and
    that may be read; None without one.
    """
    rehearsed = read_rehearsal(session, facts)
    if rehearsed is not None:
        return rehearsed
    try:
        rows = _rows(session, "measured_copies") if store.exists(session) else []
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable):
        return None
    if not rows:
        return None
    table, pages, took_s, pace, workers = rows[0]
    if pace not in PACES or pages <= 0:
        return None
    known: Pace = pace
    return MeasuredCopy(
        table=str(table),
        heap_bytes=int(pages) * facts.table.block_bytes,
        took_s=float(took_s),
        pace=known,
        workers=int(workers) if workers is not None else PACES[known].workers,
    )
