"""Read what the choice of a strategy rests on: free disk, statements in use, the rate of writes."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from pgscale import sql as named
from pgscale.catalog.model import TableFacts
from pgscale.connect.session import Session
from pgscale.core.units import format_bytes
from pgscale.livecopy.sampler import local_data_directory
from pgscale.partition import evidence, workload
from pgscale.partition.choosing import Circumstances, Disk, Statements
from pgscale.partition.estimate import estimate
from pgscale.partition.keys import decide_keys
from pgscale.partition.model import By, Options
from pgscale.partition.workload_reader import NotReadableError, read_statements

QUERIES = named.load("pgscale.partition")
# Sessions tell their counters once a second at most (PGSTAT_MIN_INTERVAL in src/backend/utils/activity/pgstat.c).
SAMPLE_S = 2.0
# Only its indexes' first pages depend on it.
_SOME_LEAVES = 100


def _row(session: Session, query: str, /, **params: object) -> tuple[Any, ...] | None:
    return session.execute(QUERIES.get(query, session.info.server_version), params or None).fetchone()


def read_circumstances(
    session: Session, facts: TableFacts, by: By, options: Options, available: frozenset[str]
) -> Circumstances:
    """Return what the choice rests on. Watches the write counters for SAMPLE_S; takes no lock on the table."""
    keys = decide_keys(facts, by)
    made = estimate(
        facts,
        options,
        options.partitions or _SOME_LEAVES,
        measured=evidence.read_measured_copy(session, facts),
        logs_hint_bits=evidence.logs_hint_bits(session),
    )
    statements, why = _statements(session, facts)
    table = facts.table
    return Circumstances(
        by=by,
        pace=options.pace,
        table_bytes=table.heap_bytes + table.toast_bytes + table.index_bytes,
        index_bytes=table.index_bytes,
        copy_bytes=made.disk_bytes,
        longest_s=made.duration_s,
        disk=_disk(session, facts, options),
        grown=tuple(i.name for i in facts.indexes if i.oid in keys.grown),
        grown_bytes=sum(i.bytes for i in facts.indexes if i.oid in keys.grown),
        incoming=len(facts.incoming),
        statements=statements,
        why_no_statements=why,
        writes_per_s=_writes_per_s(session, facts),
        available=available,
    )


def _disk(session: Session, facts: TableFacts, options: Options) -> Disk:
    if options.free_disk_bytes is not None:
        return Disk(free_bytes=options.free_disk_bytes, source=f"--free-disk {format_bytes(options.free_disk_bytes)}")
    data = local_data_directory(session)
    if data is None:
        return Disk(
            free_bytes=None,
            source="the server is on another machine, or its data directory is shown only to roles with"
            " pg_read_all_settings",
        )
    row = _row(session, "tablespace_location", oid=facts.table.oid)
    place = Path(str(row[0])) if row and row[0] else data
    try:
        usage = os.statvfs(place)
    except OSError as error:
        return Disk(free_bytes=None, source=f"{place} cannot be looked at ({error.strerror})")
    return Disk(free_bytes=usage.f_bavail * usage.f_frsize, source=f"on the file system of {place}")


def _statements(session: Session, facts: TableFacts) -> tuple[Statements | None, str]:
    """Return how often what a view does not carry is called, or why that is not known."""
    columns = frozenset(c.name for c in facts.columns)
    try:
        counted = read_statements(session, facts.table.qname, ())
        uses = workload.find_uses(facts.table.qname, columns, counted.statements)
    except NotReadableError as error:
        return None, str(error)
    except workload.ParserMissingError:
        return None, "sqlglot, which reads their text, is not installed"
    return Statements(
        on_conflict=sum(u.statement.calls for u in uses if u.on_conflict),
        row_locks=sum(u.statement.calls for u in uses if u.locks_rows),
        truncates=sum(u.statement.calls for u in uses if u.truncates),
        hidden=counted.hidden,
    ), ""


def _writes_per_s(session: Session, facts: TableFacts) -> float | None:
    """Return the larger of the rate of this moment and the mean since the counters were reset, where that is known."""
    before = _row(session, "written_rows", oid=facts.table.oid)
    if before is None:
        return None
    threading.Event().wait(SAMPLE_S)
    after = _row(session, "written_rows", oid=facts.table.oid)
    now = max(0, int(after[0]) - int(before[0])) / SAMPLE_S if after is not None else 0.0
    counted_s = before[1]
    return max(now, int(before[0]) / float(counted_s) if counted_s else 0.0)
