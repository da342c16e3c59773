"""Measure a database: what there is, and what happens in a while."""

from __future__ import annotations

import time
from dataclasses import replace

from pgscale.connect.session import Session
from pgscale.core.units import format_duration
from pgscale.doctor.checks.sessions import CLIENTS
from pgscale.doctor.facts import Counters, Facts, NotReadableError, Section
from pgscale.doctor.phase.model import Measured, Surroundings, Table
from pgscale.doctor.samples import Delta, Samples, difference

ACTIVITY = Counters(area="phase", query="activity")
TABLES = Section(area="phase", query="tables", row=Table)
SURROUNDINGS = Section(area="phase", query="surroundings", row=Surroundings)

# Fewer say nothing of a share.
LEAST_ROWS, LEAST_PAGES = 1_000, 10_000
# A backend tells the statistics what it did once a second.
LEAST_WATCH_S = 1.0


def measure(session: Session, samples: Samples, watch_s: float) -> tuple[Measured, str]:
    """Return the figures, and why this run's counters could not be kept, else nothing.

    Args:
        session: of profile DOCTOR.
        watch_s: how long to watch where neither an earlier run nor the statistics' reset say what happened, seconds.

    Raises:
        NotReadableError: the login may not read what is needed.
    """
    facts = Facts(session, samples)
    delta = _activity(session, facts, watch_s)
    tables = facts.rows(TABLES)
    block = facts.server.block_bytes
    read = max(delta["fetched"] - delta["updated"] - delta["deleted"], 0.0)
    written = delta["inserted"] + delta["updated"] + delta["deleted"]
    pages = delta["hits"] + delta["misses"]
    clients = facts.rows(CLIENTS)
    hidden = any(client.is_hidden for client in clients)
    measured = Measured(
        basis=delta.basis,
        seconds=delta.seconds,
        tables=tables,
        block_bytes=block,
        tps=delta.per_s("transactions"),
        writes_per_s=written / delta.seconds,
        growth_per_s=(delta["inserted"] - delta["deleted"]) / delta.seconds,
        read_share=read / (read + written) if read + written >= LEAST_ROWS else None,
        hit_share=delta["hits"] / pages if pages >= LEAST_PAGES else None,
        total_bytes=sum((table.pages + table.index_pages) * block for table in tables),
        shared_buffers_bytes=facts.setting("shared_buffers").bytes,
        connections=None if hidden else len(clients),
        idle=None if hidden else sum(client.state == "idle" for client in clients),
        surroundings=facts.row(SURROUNDINGS),
        has_citus=facts.extension("citus") is not None,
    )
    return measured, facts.keep_samples()


def _activity(session: Session, facts: Facts, watch_s: float) -> Delta:
    before = facts.reading(ACTIVITY)
    try:
        return facts.delta(ACTIVITY)
    except NotReadableError:
        time.sleep(max(watch_s, LEAST_WATCH_S))
        delta = difference(Facts(session).reading(ACTIVITY), [before], least_s=0.1)
        if delta is None:
            raise
        return replace(delta, basis=f"in the {format_duration(delta.seconds)} it was watched")
