"""Autovacuum: whether it may work, what it is behind with, and whether its workers can keep up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import LiteralString

from pgscale.core.finding import Answer, Finding, Findings, Remedy, Severity, Well
from pgscale.core.model import Json
from pgscale.core.units import format_bytes, format_count, format_duration
from pgscale.doctor import ddl
from pgscale.doctor.facts import SETTINGS, Facts, NotReadableError, Section
from pgscale.doctor.limits import AutovacuumLimits, Limits
from pgscale.doctor.model import Check

SHOWN = 5
# More tables than these are not named one by one in a remedy.
NAMED = 20
# What PostgreSQL takes for a cost limit at most, and its own delay.
MOST_COST_LIMIT, DEFAULT_DELAY_S = 10_000, 0.002
NEEDED: tuple[LiteralString, ...] = ("autovacuum", "track_counts")


@dataclass(frozen=True, slots=True, kw_only=True)
class VacuumedTable:
    """A table, a materialized view or a TOAST table that autovacuum should look after.

    Args:
        owner: the table that a TOAST table belongs to.
        is_disabled: autovacuum_enabled is off for it.
        rows, pages: as of its last VACUUM or ANALYZE.
        dead_rows, inserted_rows: since its last VACUUM; at vacuum_at or insert_at (None: never) it is due for one.
        modified_rows: since its last ANALYZE; at analyze_at it is due for one.
        vacuumed_s, analyzed_s: how long ago it was, seconds; None: never since the statistics were reset.
        vacuumed_by: the process of a VACUUM that runs now.
    """

    oid: int
    name: str
    owner: str | None
    is_disabled: bool
    rows: float
    pages: int
    dead_rows: int
    vacuum_at: float
    inserted_rows: int
    insert_at: float | None
    modified_rows: int
    analyze_at: float
    is_never_analyzed: bool
    vacuumed_s: float | None
    analyzed_s: float | None
    vacuumed_by: int | None

    @property
    def shown(self) -> str:
        return f"TOAST of {self.owner}" if self.owner else self.name

    @property
    def target(self) -> str:
        """What VACUUM is asked for: a TOAST table goes with its table."""
        return self.owner or self.name

    def due(self, thresholds: AutovacuumLimits) -> tuple[float, float, str]:
        """How many times due, of dead rows and of any rows, and which those are; 0 for few rows, or not for long."""
        factors = self.factors(thresholds)
        most, what = max(factors, key=lambda each: each[0])
        return factors[0][0], most, what

    def factors(self, thresholds: AutovacuumLimits) -> list[tuple[float, str]]:
        """How many times due by dead rows, by inserted rows (both for VACUUM) and by changed rows (for ANALYZE).

        What a session wrote before its own VACUUM or ANALYZE is counted only after it, so it tells little at first.
        """
        changed = 0 if self.is_never_analyzed else self.modified_rows
        factors: list[tuple[float, str]] = []
        for rows, at, ago_s, what in (
            (self.dead_rows, self.vacuum_at, self.vacuumed_s, "dead rows"),
            (self.inserted_rows, self.insert_at, self.vacuumed_s, "rows inserted since its last VACUUM"),
            (changed, self.analyze_at, self.analyzed_s, "rows changed since its last ANALYZE"),
        ):
            is_late = rows >= thresholds.least_rows and (ago_s is None or ago_s >= thresholds.least_wait_s)
            factors.append((rows / max(1.0, at) if is_late and at is not None else 0.0, f"{rows:,} {what}"))
        return factors


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """A partitioned table that was never analyzed, with the rows of its partitions."""

    oid: int
    name: str
    rows: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker of autovacuum, in any database; `table` and what follows are None when it analyzes or looks around."""

    pid: int
    database: str | None
    table: str | None
    phase: str | None
    scanned_share: float | None
    age_s: float | None


TABLES = Section(area="autovacuum", query="tables", row=VacuumedTable)
PARENTS = Section(area="autovacuum", query="parents", row=Parent)
WORKERS = Section(area="autovacuum", query="workers", row=Worker, needs_statistics=True)


def _only_on_a_primary(facts: Facts) -> None:
    if facts.server.is_in_recovery:
        raise NotReadableError("what a standby has is vacuumed by its primary", "Ask there.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast the workers may go, all together.

    Args:
        delay_s: of the pause when the limit is reached; 0: no limit.
        page_cost: of a page that is read and changed.
    """

    limit: int
    delay_s: float
    page_cost: float

    def pass_s(self, pages: int) -> float:
        """How long the pauses of one pass over a heap last at least, seconds."""
        return pages * self.page_cost / self.limit * self.delay_s

    def limit_for(self, pages: int, seconds: float) -> int:
        """The cost limit at which the pauses of a pass last no longer, as far as PostgreSQL goes."""
        needed = pages * self.page_cost * self.delay_s / seconds if seconds > 0 else math.inf
        return math.ceil(min(MOST_COST_LIMIT, needed))


def read_pace(facts: Facts) -> Pace:
    """Read the cost settings; -1 stands for those of VACUUM."""
    delay_s = facts.setting("autovacuum_vacuum_cost_delay").seconds
    limit = facts.setting("autovacuum_vacuum_cost_limit").number
    return Pace(
        limit=int(limit if limit > 0 else facts.setting("vacuum_cost_limit").number),
        delay_s=delay_s if delay_s >= 0 else facts.setting("vacuum_cost_delay").seconds,
        page_cost=facts.setting("vacuum_cost_page_miss").number + facts.setting("vacuum_cost_page_dirty").number,
    )


# Whether it may work


def judge_enabled(facts: Facts, limits: Limits) -> Answer:
    """Report autovacuum that is off, for the server or for tables."""
    del limits
    _only_on_a_primary(facts)
    findings: list[Finding] = []
    off: list[LiteralString] = [name for name in NEEDED if not facts.setting(name).is_on]
    if off:
        finding = Finding(
            check=ENABLED.id,
            severity="critical",
            subject="autovacuum",
            fact=f"Autovacuum does nothing: {' and '.join(off)} {'is' if len(off) == 1 else 'are'} off.",
            evidence={"settings": {name: facts.setting(name).value for name in NEEDED}},
            cost="Dead rows stay, tables grow, plans go by old statistics, until ids near their end force a VACUUM.",
            remedies=tuple(
                Remedy(
                    text=ddl.alter_system(name, "on"),
                    kind="setting",
                    why="At once. What has waited meanwhile is vacuumed first: see autovacuum.behind.",
                )
                for name in off
            ),
        )
        findings.append(finding)
    disabled = [each for each in facts.rows(TABLES) if each.is_disabled]
    if disabled:
        # As the table has it, its TOAST table has it too, unless that has options of its own.
        lines: list[str] = []
        for each in disabled[:NAMED]:
            lines.append(ddl.reset_option(each.target, "autovacuum_enabled"))
            if each.owner:
                lines.append(ddl.reset_option(each.target, "toast.autovacuum_enabled"))
        finding = Finding(
            check=ENABLED.id,
            severity="warning",
            subject=disabled[0].shown,
            fact=f"Autovacuum is off for {disabled[0].shown}"
            + (f" and {format_count(len(disabled) - 1, 'other table')}." if len(disabled) > 1 else "."),
            evidence={"tables": [_row(facts, each) for each in disabled[:SHOWN]]},
            cost="Nobody removes their dead rows or keeps their statistics, unless the application does so itself.",
            remedies=(
                Remedy(
                    text="\n".join(dict.fromkeys(lines)),
                    kind="setting",
                    why="Waits for DDL and VACUUM of the table, not for reads or writes. Not while a load or move has"
                    " turned it off.",
                ),
            ),
        )
        findings.append(finding)
    return Findings(tuple(findings)) if findings else Well("Autovacuum is on, and for every table.")


# What it is behind with


def find_behind(facts: Facts, limits: Limits) -> list[tuple[float, float, str, VacuumedTable]]:
    """Return the tables that wait, the worst first: times due by dead rows, by any rows, which those are, the table."""
    thresholds = limits.autovacuum
    due = [(*each.due(thresholds), each) for each in facts.rows(TABLES)]
    late = [each for each in due if each[1] >= thresholds.warning_due_factor]
    return sorted(late, key=lambda each: (each[0] >= thresholds.critical_due_factor, each[1]), reverse=True)


def judge_behind(facts: Facts, limits: Limits) -> Answer:
    """Report tables that autovacuum should have vacuumed or analyzed long since."""
    _only_on_a_primary(facts)
    thresholds = limits.autovacuum
    behind = find_behind(facts, limits)
    if not behind:
        return Well("No table waits long for autovacuum.")
    dead_factor, factor, what, first = behind[0]
    others = f" So have {format_count(len(behind) - 1, 'other table')}." if len(behind) > 1 else ""
    severity: Severity = "critical" if dead_factor >= thresholds.critical_due_factor else "warning"
    finding = Finding(
        check=BEHIND.id,
        severity=severity,
        subject=first.shown,
        fact=f"{first.shown} has waited too long for autovacuum: {what}, {factor:.1f} times as many as make it"
        f" due.{others}",
        evidence={
            "tables": [{**_row(facts, each), "due_factor": round(factor, 2)} for _, factor, _, each in behind[:SHOWN]]
        },
        cost="Dead rows are read by every scan; what is not analyzed is planned wrongly.",
        remedies=_catch_up(facts, limits, [each for *_, each in behind]),
    )
    return Findings((finding,))


def _catch_up(facts: Facts, limits: Limits, behind: list[VacuumedTable]) -> tuple[Remedy, ...]:
    names = list(dict.fromkeys(each.target for each in behind))
    running = [each for each in behind if each.vacuumed_by is not None]
    waits = f" A VACUUM of {running[0].shown} is running: let it end first." if running else ""
    rest = f" {len(names) - NAMED} more are not named." if len(names) > NAMED else ""
    remedies = [
        Remedy(
            text=ddl.vacuum_analyze(names[:NAMED]),
            why=f"Now, without the pauses that autovacuum makes; reads and writes go on.{waits}{rest} Dead rows that"
            " stay are still seen by somebody: see horizon.held.",
        )
    ]
    pace = read_pace(facts)
    most_s = limits.autovacuum.most_pass_s
    slow = [each for each in behind if not each.owner and pace.delay_s > 0 and pace.pass_s(each.pages) > most_s]
    lines = [
        ddl.set_option(each.name, "autovacuum_vacuum_cost_limit", proposed)
        for each in slow[:SHOWN]
        if (proposed := pace.limit_for(each.pages, most_s)) > pace.limit
    ]
    if lines:
        why = (
            f"From the next time on: at {pace.limit} every {format_duration(pace.delay_s)} the pauses alone last"
            f" {format_duration(pace.pass_s(slow[0].pages))} for {slow[0].name}. The disk must bear it."
        )
        remedies.append(Remedy(text="\n".join(lines), kind="setting", why=why))
    return tuple(remedies)


# What was never analyzed


def find_never_analyzed(facts: Facts, limits: Limits) -> list[tuple[VacuumedTable | Parent, float]]:
    """Return tables with enough rows that were never analyzed, and about how many rows those are; the largest first."""
    never: list[tuple[VacuumedTable | Parent, float]] = [
        (each, max(each.rows, float(each.modified_rows))) for each in facts.rows(TABLES) if each.is_never_analyzed
    ]
    never += [(each, each.rows) for each in facts.rows(PARENTS)]
    least = limits.autovacuum.least_unknown_rows
    return sorted((each for each in never if each[1] >= least), key=lambda each: each[1], reverse=True)


def judge_analyzed(facts: Facts, limits: Limits) -> Answer:
    """Report tables with rows of which the planner has no statistics."""
    _only_on_a_primary(facts)
    least = limits.autovacuum.least_unknown_rows
    never = [(each.name, rows, isinstance(each, Parent)) for each, rows in find_never_analyzed(facts, limits)]
    if not never:
        return Well(f"Every table of {least:,} rows or more has been analyzed.")
    name, rows, _ = never[0]
    parents = any(is_parent for *_, is_parent in never)
    others = f" So were {format_count(len(never) - 1, 'other table')}." if len(never) > 1 else ""
    hint = (
        " Autovacuum does not analyze partitioned tables: repeat it for those, by cron for instance." if parents else ""
    )
    finding = Finding(
        check=ANALYZED.id,
        severity="info" if all(is_parent for *_, is_parent in never) else "warning",
        subject=name,
        fact=f"{name} was never analyzed, and has about {rows:,.0f} rows.{others}",
        evidence={
            "tables": [
                {"table": each, "rows": int(count), "partitioned": parent} for each, count, parent in never[:SHOWN]
            ]
        },
        cost="The planner guesses how many rows a condition leaves, and joins the wrong way.",
        remedies=(
            Remedy(text=ddl.analyze([each for each, *_ in never[:NAMED]]), why=f"Reads a sample of each.{hint}"),
        ),
    )
    return Findings((finding,))


# Whether its workers keep up


def judge_workers(facts: Facts, limits: Limits) -> Answer:
    """Report workers that are all busy while tables wait."""
    _only_on_a_primary(facts)
    workers = facts.rows(WORKERS)
    most = int(facts.setting("autovacuum_max_workers").number)
    waiting = [each for *_, each in find_behind(facts, limits) if not each.is_disabled and each.vacuumed_by is None]
    if len(workers) < most or not waiting:
        busy = f"{format_count(len(workers), 'worker')} of {most} {'is' if len(workers) == 1 else 'are'} busy"
        return Well(f"Autovacuum keeps up: {busy}, and {format_count(len(waiting), 'table')} of this database wait.")
    pace = read_pace(facts)
    written = facts.server.block_bytes * pace.limit / max(1.0, pace.page_cost) / pace.delay_s if pace.delay_s else None
    at_most = f", which together may change {format_bytes(written)} a second" if written is not None else ""
    finding = Finding(
        check=WORKING.id,
        severity="warning",
        subject="autovacuum",
        fact=f"{f'All {most} workers' if most > 1 else 'The only worker'} of autovacuum"
        f" {'are' if most > 1 else 'is'} busy{at_most}, while"
        f" {format_count(len(waiting), 'table')} of this database"
        f" {'waits' if len(waiting) == 1 else 'wait'}.",
        evidence={
            "cost_limit": pace.limit,
            "cost_delay_s": pace.delay_s,
            "workers": [
                {
                    "pid": each.pid, "database": each.database, "table": each.table, "phase": each.phase,
                    "scanned_share": each.scanned_share, "age_s": each.age_s,
                }
                for each in workers[:SHOWN]
            ],
            "waiting": [_row(facts, each) for each in waiting[:SHOWN]],
        },
        cost="Dead rows come faster than they are removed; more workers alone would share the same cost limit.",
        remedies=(_faster(facts, limits, pace, most, sum(each.pages for each in waiting)),),
    )  # fmt: skip
    return Findings((finding,))


def _faster(facts: Facts, limits: Limits, pace: Pace, workers: int, pages: int) -> Remedy:
    if pace.delay_s > DEFAULT_DELAY_S or (pace.delay_s and pace.limit < MOST_COST_LIMIT):
        usual = Pace(limit=pace.limit, delay_s=min(pace.delay_s, DEFAULT_DELAY_S), page_cost=pace.page_cost)
        wanted = max(2 * pace.limit, 200 * workers, usual.limit_for(pages, max(1.0, limits.autovacuum.most_pass_s)))
        proposed = min(MOST_COST_LIMIT, wanted)
        lines = [ddl.alter_system("autovacuum_vacuum_cost_limit", str(proposed))]
        if pace.delay_s > DEFAULT_DELAY_S:
            lines.insert(0, ddl.alter_system("autovacuum_vacuum_cost_delay", "2ms"))
        written = facts.server.block_bytes * proposed / max(1.0, pace.page_cost) / usual.delay_s
        when = "at once" if facts.server.version >= 160000 else "from the next table of each worker on"
        why = f"All workers together may then change {format_bytes(written)} a second, {when}. The disk must bear it."
        return Remedy(text="\n".join(lines), kind="setting", why=why)
    slots = facts.settings().get("autovacuum_worker_slots")
    proposed = 2 * workers
    restart = slots is None or proposed > slots.number
    if slots is not None and restart and workers < slots.number:
        proposed, restart = int(slots.number), False
    text = ddl.alter_system("autovacuum_max_workers", str(proposed))
    if slots is not None and restart:
        text = f"{ddl.alter_system('autovacuum_worker_slots', str(proposed))}\n{text}"
    why = "The cost limit is no hindrance: more workers are. Each takes autovacuum_work_mem."
    return Remedy(text=text, kind="setting", why=why, restart=restart)


def _row(facts: Facts, each: VacuumedTable) -> dict[str, Json]:
    return {
        "table": each.shown, "rows": int(each.rows), "size_bytes": each.pages * facts.server.block_bytes,
        "dead": each.dead_rows, "vacuum_at": int(each.vacuum_at), "inserted": each.inserted_rows,
        "insert_at": int(each.insert_at) if each.insert_at is not None else None, "changed": each.modified_rows,
        "analyze_at": int(each.analyze_at), "vacuumed_ago_s": each.vacuumed_s, "analyzed_ago_s": each.analyzed_s,
        "vacuumed_by": each.vacuumed_by,
    }  # fmt: skip


_CHAPTER = "PostgreSQL, Routine Vacuuming (The Autovacuum Daemon) and Vacuuming (Automatic Vacuuming, Cost-based Delay)"

ENABLED = Check(
    id="autovacuum.enabled",
    title="Autovacuum off",
    question="Is autovacuum off, for the server or for a table?",
    about=(
        "Autovacuum removes dead rows and keeps the statistics the planner goes by. It needs autovacuum and"
        " track_counts; a table may be left out by its storage parameter autovacuum_enabled. Off, it still"
        " freezes tables near the end of the ids, all at once and at the worst time."
    ),
    source=f"{_CHAPTER}: both settings are on by default.",
    judge=judge_enabled,
    reads=(SETTINGS, TABLES),
)

BEHIND = Check(
    id="autovacuum.behind",
    title="Autovacuum behind",
    question="Are there tables that autovacuum should have vacuumed or analyzed long since?",
    about=(
        "A table is due when its dead rows exceed threshold + scale factor × rows (from 18 on no more than a maximum),"
        " likewise rows inserted since its last VACUUM (from 18 on of what is not frozen) and rows changed since its"
        " last ANALYZE; tables have their own parameters, TOAST tables too. Those well past it were not reached: it is"
        " off, its workers are busy or slow (autovacuum.workers), it is cancelled by locks, or rows cannot be removed"
        " yet (horizon.held). A table just loaded is reported until its turn has come: VACUUM (ANALYZE) does it good."
    ),
    source=(
        f"{_CHAPTER}. Autovacuum comes by every minute (autovacuum_naptime); at twice the due number it has missed its"
        " time, at ten times most of a table with the default scale factor is dead. Fewer than 10,000 rows do no harm;"
        " what was vacuumed less than five minutes ago has not waited."
    ),
    judge=judge_behind,
    reads=(TABLES,),
)

ANALYZED = Check(
    id="autovacuum.analyzed",
    title="Never analyzed",
    question="Are there tables that were never analyzed?",
    about=(
        "Without ANALYZE the planner knows neither how many values a column has nor which are frequent. Autovacuum"
        " analyzes tables it is allowed to and whose changes were counted, but never partitioned tables: their"
        " partitions, yes; the statistics of the whole are made by hand only."
    ),
    source="PostgreSQL, ANALYZE (Notes) and Populating a Database. Of less than 1,000 rows a guess does no harm.",
    judge=judge_analyzed,
    reads=(TABLES, PARENTS),
)

WORKING = Check(
    id="autovacuum.workers",
    title="Autovacuum's workers",
    question="Are all workers of autovacuum busy while tables wait?",
    about=(
        "autovacuum_max_workers work at a time, in all databases together, and share one cost limit: after so many"
        " pages each pauses. More workers under the same limit are each as much slower. So the limit, or a delay above"
        " the default of 2 ms that an old configuration brought along, comes first; workers when there are no pauses."
    ),
    source=(
        f"{_CHAPTER}. Proposed is the limit at which what waits takes at most an hour of pauses, at least twice today's"
        " and 200 a worker."
    ),
    judge=judge_workers,
    reads=(TABLES, WORKERS),
)

CHECKS = (ENABLED, BEHIND, ANALYZED, WORKING)
