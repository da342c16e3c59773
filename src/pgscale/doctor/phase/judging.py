"""From figures to a phase, to the next step, and to what is premature. Pure.

Every step has a pressure: what was measured, as a multiple of where the step begins to pay. The step with the highest
pressure of at least 1 comes next; those below 1 are premature. A step that is cheaper goes first where two are as
urgent, which is why the order of `_STEPS` is one of cost: settings, a pooler, replicas, partitions, a cache, shards.
"""

from __future__ import annotations

import shlex

from pgscale.core.model import QName
from pgscale.core.units import format_bytes, format_duration
from pgscale.doctor.phase.model import PHASES, Assessment, Fit, Measured, Phase, Step, Table

# Below this hit ratio each hundredth page costs a read: PostgreSQL's own buffers are too small, or the work too large.
GOOD_HIT_SHARE = 0.99
# PostgreSQL's default, which no server that matters should run with (Resource Consumption, shared_buffers).
SMALL_BUFFERS_BYTES = 128 << 20
# As of sessions.connections.
POOLER_CONNECTIONS, POOLER_IDLE_SHARE = 200, 0.75
# A table beyond either is slow to vacuum, to index and to back up as one piece.
BIG_ROWS, BIG_BYTES = 100e6, 100 << 30
REPLICA_READS_PER_S = 1_000.0
CACHE_READS_PER_S = 10_000.0
SHARD_ROWS, SHARD_WRITES_PER_S = 1e9, 50_000.0

# What was inserted in a minute says nothing of a month.
LEAST_GROWTH_S = 3_600.0

# Smaller tables fit anywhere.
LEAST_FIT_ROWS, LEAST_FIT_SHARE = 100_000, 0.10


def assess(measured: Measured) -> Assessment:
    """Conclude the phase, the one next step, and what is premature."""
    phase, reached_by = _phase(measured)
    steps = sorted(_steps(measured), key=lambda step: -step.pressure)
    due = [step for step in steps if step.is_due]
    return Assessment(
        phase=phase,
        reached_by=reached_by,
        next_step=due[0] if due else None,
        later=tuple(due[1:]),
        premature=tuple(step for step in steps if not step.is_due),
        fits=tuple(_fits(measured)),
        next_phase_days=_days_left(measured, phase),
        measured=measured,
    )


def _phase(measured: Measured) -> tuple[Phase, str]:
    by_rows = max((p for p in PHASES if measured.rows >= p.rows), key=lambda p: p.rows)
    by_tps = max((p for p in PHASES if measured.tps >= p.tps), key=lambda p: p.tps)
    rows, tps = f"{measured.rows:,.0f} rows", f"{measured.tps:,.0f} transactions a second"
    if by_rows is by_tps:
        return by_rows, f"{rows} and {tps}"
    return (by_rows, rows) if by_rows.rows > by_tps.rows else (by_tps, tps)


def _days_left(measured: Measured, phase: Phase) -> float | None:
    further = [p.rows for p in PHASES if p.rows > max(measured.rows, phase.rows)]
    if not further or measured.growth_per_s <= 0 or measured.seconds < LEAST_GROWTH_S:
        return None
    return (further[0] - measured.rows) / measured.growth_per_s / 86_400


# -- steps -------------------------------------------------------------------------------------------------------------


def _steps(measured: Measured) -> list[Step]:
    return [
        step
        for step in (
            _tune(measured), _pool(measured), _replicas(measured), _partition(measured), _cache(measured),
            _shard(measured),
        )
        if step is not None
    ]  # fmt: skip


def _tune(measured: Measured) -> Step:
    buffers, total = measured.shared_buffers_bytes, measured.total_bytes
    hit = measured.hit_share
    misses = 0.0 if hit is None else (1.0 - hit) / (1.0 - GOOD_HIT_SHARE)
    # A database that does not fit into buffers nobody has ever set.
    unset = 1.0 if buffers <= SMALL_BUFFERS_BYTES and total > 2 * buffers else 0.0
    said = "too few pages were asked for to know the hit ratio" if hit is None else f"{hit:.1%} of pages were found"
    return Step(
        id="tune",
        title="Give the server the memory it has",
        # More memory makes no end of misses; whatever they are, it does not outweigh a table that cannot be vacuumed.
        pressure=min(max(misses, unset), 3.0) if total > buffers else 0.0,
        evidence=f"shared_buffers is {format_bytes(buffers)}, the database {format_bytes(total)}; {said} there.",
        why="It costs a restart, and is the cheapest of all.",
        command="pgscale tune",
    )


def _pool(measured: Measured) -> Step | None:
    if measured.connections is None or measured.idle is None:
        return None
    share = measured.idle / measured.connections if measured.connections else 0.0
    return Step(
        id="pooler",
        title="Put a pooler between the application and the server",
        pressure=min(measured.connections / POOLER_CONNECTIONS, share / POOLER_IDLE_SHARE),
        evidence=f"{measured.connections:,} connections, {measured.idle:,} of them idle.",
        why="Each connection is a process; a pooler serves many clients with few.",
        command="pgscale doctor --only sessions.connections",
    )


def _replicas(measured: Measured) -> Step:
    reads = measured.tps * (measured.read_share or 0.0)
    there = measured.surroundings.replicas
    share = "an unknown share" if measured.read_share is None else f"{measured.read_share:.0%}"
    return Step(
        id="replicas",
        title="Read from replicas" if not there else f"Read from the {there} replicas that are there, or from more",
        pressure=reads / (REPLICA_READS_PER_S * (1 + there)),
        evidence=f"{measured.tps:,.0f} transactions a second; of the rows they touch at least {share} are read.",
        why="Every replica serves reads beside the primary; writes stay where they are.",
        command="",
    )


def _partition(measured: Measured) -> Step:
    whole = [table for table in measured.tables if not table.is_partition]
    big = max(whole, key=lambda table: _bigness(measured, table), default=None)
    if big is None:
        evidence, command = "Every table is partitioned.", ""
    else:
        name = QName(schema=big.schema, name=big.name)
        size = format_bytes(measured.bytes_of(big))
        evidence = f"The largest table that is not divided is {name}: {big.rows:,.0f} rows, {size} with its indexes."
        command = f"pgscale partition advise {shlex.quote(str(name))}"
    return Step(
        id="partition",
        title="Divide the largest table",
        pressure=_bigness(measured, big) if big is not None else 0.0,
        evidence=evidence,
        why="VACUUM, indexes and backups work on pieces; queries that name the key read only theirs; old rows are"
        " dropped instead of deleted.",
        command=command,
    )


def _bigness(measured: Measured, table: Table) -> float:
    return max(table.rows / BIG_ROWS, measured.bytes_of(table) / BIG_BYTES)


def _cache(measured: Measured) -> Step:
    reads = measured.tps * (measured.read_share or 0.0)
    return Step(
        id="cache",
        title="Keep ready what is read again and again",
        pressure=reads / CACHE_READS_PER_S,
        evidence=f"About {reads:,.0f} reading transactions a second.",
        why="A materialized view or a cache answers what hardly changes, and the server computes it once.",
        command="",
    )


def _shard(measured: Measured) -> Step:
    spread = measured.surroundings.foreign_servers or measured.has_citus
    by_rows, by_writes = measured.rows / SHARD_ROWS, measured.writes_per_s / SHARD_WRITES_PER_S
    return Step(
        id="shards",
        title="Spread the rows over several servers" + (" further" if spread else ""),
        pressure=max(by_rows, by_writes),
        evidence=f"{measured.rows:,.0f} rows, {measured.writes_per_s:,.0f} of them written a second.",
        why="Only this gives writes more than one server; it costs joins, transactions and unique keys across shards.",
        # Before it, what one server can take when rows come in batches.
        command="pgscale bench write",
    )


# -- other kinds of databases ------------------------------------------------------------------------------------------


def _fits(measured: Measured) -> list[Fit]:
    total = max(measured.total_bytes, 1)
    large = [
        table
        for table in measured.tables
        if table.rows >= LEAST_FIT_ROWS and measured.bytes_of(table) / total >= LEAST_FIT_SHARE
    ]
    return [fit for table in sorted(large, key=measured.bytes_of, reverse=True) if (fit := _fit(table)) is not None]


def _fit(table: Table) -> Fit | None:
    name = str(QName(schema=table.schema, name=table.name))
    changed = table.updated + table.deleted
    if table.columns <= 6 and (table.keys_to_itself or table.most_keys_to_one >= 2):
        return Fit(
            table=name,
            kind="graph",
            because="its rows refer to rows of the same table"
            if table.keys_to_itself
            else f"its rows say which rows of one table belong together ({table.most_keys_to_one} foreign keys to it)",
            still="WITH RECURSIVE walks some levels well when both directions are indexed; a graph database pays where"
            " paths are long and of unknown length.",
        )
    if table.key_columns == 1 and table.columns <= 3 and table.blobs and table.index_scans > 100 * table.seq_scans:
        return Fit(
            table=name,
            kind="key-value",
            because=f"it has a key and {table.columns - 1} more columns, and is read by the key"
            f" ({table.index_scans:,} index scans, {table.seq_scans:,} others)",
            still="One index lookup is a fraction of a millisecond here, with transactions and backups; another store"
            " pays where values may be lost, or are more than memory holds and millions a second.",
        )
    if table.documents and table.columns - table.documents <= 4:
        return Fit(
            table=name,
            kind="document",
            because=f"{table.documents} of its {table.columns} columns hold documents",
            still="jsonb with GIN or expression indexes searches them, in transactions with everything else; what"
            " is asked for most belongs in columns.",
        )
    if table.times and table.inserted >= LEAST_FIT_ROWS and changed <= table.inserted / 100:
        return Fit(
            table=name,
            kind="time series",
            because=f"it has times and is only added to ({table.inserted:,} rows added, {changed:,} changed"
            " or deleted)",
            still="Range partitions by time with BRIN do what most need: pgscale partition advise"
            f" {shlex.quote(name)}.",
        )
    rows_a_scan = table.seq_rows / table.seq_scans if table.seq_scans else 0.0
    if table.columns >= 20 and rows_a_scan >= table.rows / 2 and table.seq_scans > table.index_scans:
        return Fit(
            table=name,
            kind="analytics",
            because=f"{table.columns} columns, read whole {table.seq_scans:,} times, by index"
            f" {table.index_scans:,} times",
            still="Materialized views, BRIN and parallel scans carry it for long; a columnar store reads only the"
            " columns that a query names.",
        )
    return None


def describe_days(days: float) -> str:
    """Say a number of days as people do."""
    return format_duration(days * 86_400) if days < 60 else f"{days / 30:,.0f} months" if days < 730 else (
        f"{days / 365:,.0f} years"
    )  # fmt: skip
