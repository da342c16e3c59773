"""Statements: which are out of line, which have become slower, and which run for too long just now."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pgscale.core.finding import Answer, Finding, Findings, Remedy, Severity, Well, rank
from pgscale.core.model import Json, shorten
from pgscale.core.units import format_bytes, format_count, format_duration
from pgscale.doctor import ddl
from pgscale.doctor.facts import LEAST_DELTA_S, Counters, Facts, NotReadableError, Section
from pgscale.doctor.limits import Limits, QueriesLimits
from pgscale.doctor.model import Check
from pgscale.doctor.samples import Reading

SHOWN = 5
STATEMENTS_EXTENSION = "pg_stat_statements"

Kind = Literal["statement", "maintenance"]
_MAINTENANCE = re.compile(
    r"\s*(VACUUM|ANALYZE|ANALYSE|CREATE\s|REINDEX|CLUSTER|REFRESH|COPY|ALTER|LOCK|CALL|REPACK)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What one statement has done in this database, by all roles.

    Args:
        query: its text with $1 for constants, the first 1,000 characters.
        total_ms: of execution.
        counted_s: since when, at least.
        all_ms, all_read_blocks, all_temp_blocks, all_wal_bytes: of all statements.
    """

    query_id: str
    query: str
    roles: str | None
    calls: int
    total_ms: float
    read_blocks: int
    temp_blocks: int
    wal_bytes: float
    counted_s: float | None
    all_ms: float
    all_read_blocks: int
    all_temp_blocks: int
    all_wal_bytes: float

    @property
    def mean_s(self) -> float:
        return self.total_ms / 1000 / max(1, self.calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A session of a client that executes a statement now; where `is_hidden`, that may."""

    pid: int
    database: str
    role: str
    application: str
    client: str | None
    is_hidden: bool
    runs_s: float | None
    waits_for: str | None
    query: str | None
    started_at: datetime | None

    @property
    def kind(self) -> Kind:
        if self.application in ("pg_dump", "pg_restore", "pg_basebackup"):
            return "maintenance"
        return "maintenance" if _MAINTENANCE.match(self.query or "") else "statement"


STATEMENTS = Section(
    area=STATEMENTS_EXTENSION,
    query="statements",
    row=Statement,
    needs_statistics=True,
    extension=STATEMENTS_EXTENSION,
)
PACE = Counters(area=STATEMENTS_EXTENSION, query="pace", needs_statistics=True, extension=STATEMENTS_EXTENSION)
RUNNING = Section(area="queries", query="running", row=Running)


# Out of line


def judge_heavy(facts: Facts, limits: Limits) -> Answer:
    """Report statements that take a large part of what the server does, where that is much."""
    thresholds, page = limits.queries, facts.server.block_bytes
    statements = [each for each in facts.rows(STATEMENTS) if each.calls]
    counted_s = max((each.counted_s or 0.0 for each in statements), default=0.0)
    if statements and counted_s < thresholds.least_counted_s:
        raise NotReadableError(
            f"pg_stat_statements counts for {format_duration(counted_s)} only",
            f"Run it again after {format_duration(thresholds.least_counted_s)}.",
        )
    judged = [(reasons, each) for each in statements if (reasons := _reasons(each, thresholds, page, counted_s))]
    if not judged:
        return Well(f"None of {format_count(len(statements), 'statement')} is out of line.")
    judged.sort(key=lambda each: each[1].total_ms, reverse=True)
    return Findings(tuple(_heavy(page, counted_s, reasons, each) for reasons, each in judged[:SHOWN]))


def _reasons(each: Statement, limits: QueriesLimits, page: int, counted_s: float) -> list[str]:
    seconds = max(counted_s, 1.0)
    time_share = each.total_ms / each.all_ms if each.all_ms else 0.0
    reasons: list[str] = []
    if each.total_ms / 1000 / seconds >= limits.busy_sessions and time_share >= limits.large_share:
        busy = each.total_ms / 1000 / seconds
        reasons.append(f"takes {time_share:.0%} of all time, {busy:.2f} sessions at every moment")
    if each.mean_s >= limits.slow_mean_s and each.calls >= limits.least_calls and time_share >= limits.small_share:
        reasons.append(f"takes {format_duration(each.mean_s)} on average and {time_share:.0%} of all time")
    for blocks, all_blocks, least, what in (
        (
            each.read_blocks,
            each.all_read_blocks,
            limits.read_bytes_per_s,
            "of all that is read from outside the buffers",
        ),
        (each.temp_blocks, each.all_temp_blocks, limits.temp_bytes_per_s, "of all temporary files"),
    ):
        share, rate = blocks / all_blocks if all_blocks else 0.0, blocks * page / seconds
        if blocks and rate >= least and share >= limits.large_share:
            reasons.append(f"makes {share:.0%} {what}, {format_bytes(rate)} a second")
    share, rate = each.wal_bytes / each.all_wal_bytes if each.all_wal_bytes else 0.0, each.wal_bytes / seconds
    if each.wal_bytes and rate >= limits.wal_bytes_per_s and share >= limits.large_share:
        reasons.append(f"writes {share:.0%} of all WAL, {format_bytes(rate)} a second")
    return reasons


def _heavy(page: int, counted_s: float, reasons: list[str], each: Statement) -> Finding:
    costs = ["Whatever makes this one statement cheaper is felt by all others."]
    remedies = [_explain(each.query_id), _show(each.query_id)]
    if each.temp_blocks and any("temporary" in reason for reason in reasons):
        per_call = each.temp_blocks * page / each.calls
        costs.append(f"Its sorts and hashes do not fit into work_mem: {format_bytes(per_call)} a call go to disk.")
    remedies.append(_count_anew(each.query_id))
    return Finding(
        check=HEAVY.id,
        severity="warning" if len(reasons) > 1 or "sessions at every" in reasons[0] else "info",
        subject=f"statement {each.query_id}",
        fact=f"A statement {'; it '.join(reasons)}: {shorten(each.query, 80)}",
        evidence={
            "query_id": each.query_id,
            "roles": each.roles,
            "calls": each.calls,
            "mean_s": each.mean_s,
            "total_s": each.total_ms / 1000,
            "time_share": each.total_ms / each.all_ms if each.all_ms else 0.0,
            "read_bytes": each.read_blocks * page,
            "temp_bytes": each.temp_blocks * page,
            "wal_bytes": each.wal_bytes,
            "counted_for_s": counted_s,
            "query": shorten(each.query, 400),
        },
        cost=" ".join(costs),
        remedies=tuple(remedies),
    )


def _show(query_id: str) -> Remedy:
    return Remedy(
        text=ddl.show_statement(query_id),
        why="Shows the whole text.",
    )


def _explain(query_id: str) -> Remedy:
    return Remedy(
        text=f"pgscale explain {query_id}",
        kind="shell",
        why="Reads its plan and says what is wrong with it; with --analyze and a --param for each of its values, as"
        " measured.",
    )


def _count_anew(query_id: str) -> Remedy:
    return Remedy(
        text=ddl.count_statement_anew(query_id),
        why="When it is mended: counts this statement anew, so that the next run sees what has come of it.",
    )


# Slower than before


def judge_slower(facts: Facts, limits: Limits) -> Answer:
    """Report statements that took longer since the last run than they did before."""
    now = facts.reading(PACE)
    before = _comparable(now, facts.earlier(PACE))
    if before is None:
        raise NotReadableError(
            "there is no earlier sample to compare with",
            f"Run it again after {LEAST_DELTA_S:.0f} seconds, as the same user and without --samples none.",
        )
    seconds = (now.taken_at - before.taken_at).total_seconds()
    thresholds = limits.queries
    slower: list[tuple[float, str, int, float, float]] = []
    for key, row in now.rows.items():
        old = before.rows.get(key)
        if old is None or old["calls"] < thresholds.least_calls:
            continue
        calls = row["calls"] - old["calls"]
        # What was forgotten in between and came back counts from zero.
        if calls < thresholds.least_calls or row["total_ms"] < old["total_ms"]:
            continue
        mean_ms, old_ms = (row["total_ms"] - old["total_ms"]) / calls, old["total_ms"] / old["calls"]
        lost_s = (mean_ms - old_ms) * calls / 1000
        if mean_ms >= old_ms * thresholds.slower_times and lost_s >= thresholds.slower_lost_share * seconds:
            slower.append((lost_s, key, int(calls), mean_ms / 1000, old_ms / 1000))
    compared = sum(key in before.rows for key in now.rows)
    if not slower:
        since = format_duration(seconds)
        return Well(f"None of {format_count(compared, 'statement')} became slower since the run {since} ago.")
    texts = {each.query_id: each.query for each in facts.rows(STATEMENTS)}
    slower.sort(reverse=True)
    return Findings(
        tuple(
            Finding(
                check=SLOWER.id,
                severity="warning",
                subject=f"statement {key}",
                fact=f"A statement takes {mean_s / max(old_s, 1e-9):.1f} times as long as before,"
                f" {format_duration(mean_s)} for {format_duration(old_s)}: {shorten(texts.get(key, ''), 80)}",
                evidence={
                    "query_id": key, "calls": calls, "mean_s": mean_s, "earlier_mean_s": old_s, "lost_s": lost_s,
                    "compared_over_s": seconds, "query": shorten(texts.get(key, ""), 400),
                },
                cost=f"It cost {format_duration(lost_s)} more in {format_duration(seconds)} than at its earlier pace:"
                " another plan (statistics, a lost index), more data, or a wait for locks or disks.",
                remedies=(_explain(key), _show(key), _count_anew(key)),
            )
            for lost_s, key, calls, mean_s, old_s in slower[:SHOWN]
        )
    )  # fmt: skip


def _comparable(now: Reading, earlier: tuple[Reading, ...]) -> Reading | None:
    """The newest reading old enough, of the same counting; it outlives a restart of the server."""
    for before in reversed(earlier):
        if (now.taken_at - before.taken_at).total_seconds() >= LEAST_DELTA_S and before.reset_at == now.reset_at:
            return before
    return None


# Running now


def judge_running(facts: Facts, limits: Limits) -> Answer:
    """Report statements of clients that have run for too long."""
    rows = facts.rows(RUNNING)
    hidden = sum(each.is_hidden for each in rows)
    if hidden:
        raise NotReadableError(
            f"what {format_count(hidden, 'session')} of other roles {'does' if hidden == 1 else 'do'} is hidden from"
            " this login",
            facts.grant_monitor,
        )
    thresholds = limits.queries
    long: list[tuple[Severity, Running]] = []
    for each in rows:
        severity = _too_long(each, thresholds)
        if severity is not None:
            long.append((severity, each))
    if not long:
        if not rows:
            return Well("No client runs a statement now.")
        longest = format_duration(max(each.runs_s or 0.0 for each in rows))
        return Well(
            f"{format_count(len(rows), 'statement')} of clients {_run(len(rows))} now, the longest for {longest}."
        )
    long.sort(key=lambda each: (rank(each[0]), each[1].runs_s or 0.0), reverse=True)
    shown = [each for _, each in long[:SHOWN]]
    first = shown[0]
    which: list[Json] = [
        {
            "pid": each.pid, "database": each.database, "role": each.role, "application": each.application,
            "client": each.client, "kind": each.kind, "runs_s": each.runs_s, "waits_for": each.waits_for,
            "query": shorten(each.query or "", 60),
        }
        for each in shown
    ]  # fmt: skip
    blocked = sum(each.waits_for == "Lock" for _, each in long)
    cost = "Each keeps its snapshot, and VACUUM from removing rows, and whatever locks it took."
    if blocked:
        cost = f"{blocked} of them {'waits' if blocked == 1 else 'wait'} for a lock: see `pgscale locks`. {cost}"
    cancel = "\n".join(ddl.cancel(each.pid, each.started_at) for each in shown)
    terminate = "\n".join(ddl.terminate(each.pid, each.started_at) for each in shown)
    finding = Finding(
        check=RUNNING_LONG.id,
        severity=long[0][0],
        subject=f"session {first.pid}" if len(long) == 1 else "",
        fact=(
            f"{format_count(len(long), 'statement')} {'has' if len(long) == 1 else 'have'} run for too long, the"
            f" longest for {format_duration(max(each.runs_s or 0.0 for _, each in long))}."
        ),
        evidence={"statements": len(long), "which": which},
        cost=cost,
        remedies=(
            Remedy(text=cancel, why="Cancels them; the clients get an error. Ask who waits for them first."),
            Remedy(text=terminate, why="When a cancel is not heard: ends the sessions."),
        ),
    )
    return Findings((finding,))


def _run(count: int) -> str:
    return "runs" if count == 1 else "run"


def _too_long(each: Running, limits: QueriesLimits) -> Severity | None:
    runs_s = each.runs_s or 0.0
    if each.kind == "maintenance":
        return "warning" if runs_s >= limits.maintenance_running_s else None
    if runs_s >= limits.critical_running_s:
        return "critical"
    return "warning" if runs_s >= limits.warning_running_s else None


_COUNTED = (
    " What is known comes from pg_stat_statements, of this database, without the statements that name pg_catalog"
    " (monitors, and this check)."
)

HEAVY = Check(
    id="queries.heavy",
    title="Heavy statements",
    question="Is a statement out of line?",
    about=(
        "The few statements that take most of the time, of the reads, of the temporary files or of the WAL are where an"
        " index, another form or more work_mem pays. Whatever the server does has a largest part: reported is only what"
        f" takes a large part of something that is much.{_COUNTED}"
    ),
    source=(
        "PostgreSQL, pg_stat_statements. A quarter of a resource is more than any one of many statements should take;"
        " half a session busy at every moment, a mean of a second, 20 MB read, 5 MB of temporary files or of WAL a"
        " second are felt on any machine. Less than an hour of counting may be one report."
    ),
    judge=judge_heavy,
    reads=(STATEMENTS,),
)

SLOWER = Check(
    id="queries.slower",
    title="Slower statements",
    question="Has a statement become slower?",
    about=(
        "Compared is the mean time of a statement's calls since the last run of the doctor, at least a minute ago, with"
        " its mean before that, for the 100 statements with most time in both. A plan that changed shows here first."
        f"{_COUNTED}"
    ),
    source=(
        "By reasoning: twice as long is more than the usual spread of a mean over 50 calls; what was lost must be 1 %"
        " of the time in between, or nobody felt it."
    ),
    judge=judge_slower,
    reads=(PACE, STATEMENTS),
)

RUNNING_LONG = Check(
    id="queries.running",
    title="Long statements",
    question="Does a statement run for too long?",
    about=(
        "A statement of a client that runs for long is a report on the wrong server, a query that lost its index, or"
        " one that waits for a lock. Maintenance (VACUUM, ANALYZE, DDL, COPY, pg_dump) may take its time and has a"
        " threshold of its own. Background processes are never named: neither walsenders nor autovacuum."
    ),
    source=(
        "By reasoning: nobody waits 15 minutes for an answer; six hours pass a night's window. PostgreSQL, Client"
        " Connection Defaults (statement_timeout) bounds them."
    ),
    judge=judge_running,
    reads=(RUNNING,),
)

CHECKS = (HEAVY, SLOWER, RUNNING_LONG)
