"""Judge the keys that come into question, rank them, and say whether partitioning is worth it. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace

from pgscale.catalog.model import TableFacts
from pgscale.core.model import quote_ident
from pgscale.core.units import format_bytes, format_count, format_duration
from pgscale.errors import UsageError
from pgscale.partition import workload
from pgscale.partition.advice import sizes
from pgscale.partition.advice.candidates import find_proposals, is_time, known_rows
from pgscale.partition.advice.model import (
    Advice,
    Candidate,
    Evidence,
    GrownKey,
    Points,
    Proposal,
    Pruning,
    Worth,
)
from pgscale.partition.bounds import show_by
from pgscale.partition.checks import find_reasons
from pgscale.partition.keys import decide_keys
from pgscale.partition.model import JudgedStatement, Options
from pgscale.partition.skew import UNEVEN
from pgscale.partition.workload import Use

# How a score of 100 is made up. Pruning is what partitions are for, so it counts as much as all else together.
PRUNING, EVENNESS, KEYS, RETENTION, LOCALITY = 50.0, 15.0, 15.0, 15.0, 5.0
# Time says what the server does, calls what the application waits for.
TIME_WEIGHT, CALLS_WEIGHT = 0.75, 0.25
# A join that may prune does so in some plans only.
DEPENDS_WEIGHT = 0.5
# Below this share of time and calls nobody would notice that partitions are pruned.
NOTICEABLE = 0.1
# Growth is looked ahead this far: what passes the memory within it is worth partitioning while it is small.
AHEAD_S = 365.25 * 86_400
# Relations a backend locks without the shared lock table, before 18 (FP_LOCK_SLOTS_PER_BACKEND in
# src/include/storage/proc.h).
FAST_LOCKS = 16


def advise_from(evidence: Evidence) -> Advice:
    """Return the candidates, best first, and whether partitioning is worth its cost now."""
    facts = evidence.facts
    proposals = find_proposals(evidence)
    refused = [_refusals(facts, p) for p in proposals]
    # What is refused whatever the key is no fault of a candidate.
    common = tuple(r for r in refused[0] if all(r in each for each in refused)) if len(refused) > 1 else ()
    judged, uses, unchecked = _statements(evidence, proposals)
    candidates = [
        _judge(evidence, proposal, judged[number] if judged is not None else None, uses, reasons)
        for number, (proposal, reasons) in enumerate(
            (p, tuple(r for r in own if r not in common)) for p, own in zip(proposals, refused, strict=True)
        )
    ]
    candidates.sort(key=lambda c: (bool(c.blockers), -round(c.score, 1), c.proposal.partitions, c.by))
    advice = Advice(
        table=facts.table.qname,
        worth="unknown",
        because=(),
        rows=known_rows(facts),
        table_bytes=evidence.table_bytes,
        target_bytes=sizes.target_bytes(evidence.memory),
        source=_name(evidence) if judged is not None else "",
        candidates=tuple(candidates),
        blockers=common,
        unchecked=(*evidence.unchecked, *unchecked),
    )
    worth, because = _worth(evidence, advice, uses)
    return replace(advice, worth=worth, because=because)


def _name(evidence: Evidence) -> str:
    source = evidence.source
    if source is None:
        return ""
    return f"{source.name} since {source.since}" if source.since else source.name


def _refusals(facts: TableFacts, proposal: Proposal) -> tuple[str, ...]:
    by = proposal.by
    options = Options(by=show_by(by), accept_key_change=True)
    try:
        return find_reasons(facts, by, options, decide_keys(facts, by))
    except UsageError as error:
        return (error.fact,)


def _statements(
    evidence: Evidence, proposals: tuple[Proposal, ...]
) -> tuple[tuple[tuple[JudgedStatement, ...], ...] | None, tuple[Use, ...], tuple[str, ...]]:
    """Return the verdicts for each proposal, what else the statements do, and what could not be judged."""
    source, facts = evidence.source, evidence.facts
    if source is None or not proposals:
        return None, (), ()
    table, columns = facts.table.qname, frozenset(c.name for c in facts.columns)
    try:
        look = workload.look_at(table, columns, tuple(p.by for p in proposals), source.statements)
    except workload.ParserMissingError:
        return None, (), ("The workload was not checked, because sqlglot, which reads statements, is not installed.",)
    unjudged = workload.find_unjudged(
        workload.Workload(
            statements=look.judged[0],
            since=source.since,
            hidden=source.hidden,
            via_views=source.via_views,
            left_out=source.left_out,
        )
    )
    return look.judged, look.uses, unjudged


# -- one candidate ----------------------------------------------------------------------------------------


def _judge(
    evidence: Evidence,
    proposal: Proposal,
    judged: tuple[JudgedStatement, ...] | None,
    uses: tuple[Use, ...],
    refusals: tuple[str, ...],
) -> Candidate:
    facts = evidence.facts
    pruning = _pruning(judged) if judged is not None else None
    grown = _grown(facts, proposal, uses, known=judged is not None)
    points: list[Points] = []
    reasons: list[str] = []
    for part, said in (
        _judge_pruning(evidence, proposal, pruning, known=judged is not None),
        _judge_evenness(proposal),
        _judge_keys(grown),
        _judge_retention(evidence, proposal, uses, known=judged is not None),
        _judge_locality(evidence, proposal),
    ):
        points += [part] if part is not None else []
        reasons += said
    moved, said = _judge_moves(proposal, uses, judged)
    points += [moved] if moved is not None else []
    reasons += said
    reasons += _foreign_keys(facts, proposal)
    return Candidate(
        proposal=proposal,
        points=tuple(points),
        pruning=pruning,
        grown=grown,
        reasons=tuple(reasons),
        blockers=(*refusals, *_null_keys(evidence, proposal)),
        command=_command(facts, proposal, grown),
    )


def _pruning(judged: tuple[JudgedStatement, ...]) -> Pruning | None:
    """Return the shares over statements that read rows by a condition; None when there are none."""
    reading = [s for s in judged if s.verdict in ("pruned", "depends", "unpruned")]
    calls, time = sum(s.calls for s in reading), sum(s.total_ms for s in reading)
    if not reading or not calls:
        return None

    def shares(verdict: str) -> tuple[float, float]:
        those = [s for s in reading if s.verdict == verdict]
        by_calls = sum(s.calls for s in those) / calls
        return (sum(s.total_ms for s in those) / time if time > 0 else by_calls), by_calls

    (pruned_time, pruned_calls), (depends_time, depends_calls) = shares("pruned"), shares("depends")
    return Pruning(
        statements=len(reading),
        calls=calls,
        pruned_time=pruned_time,
        pruned_calls=pruned_calls,
        depends_time=depends_time,
        depends_calls=depends_calls,
        unpruned=tuple(s for s in reading if s.verdict == "unpruned"),
    )


Judged = tuple[Points | None, list[str]]


def _judge_pruning(evidence: Evidence, proposal: Proposal, pruning: Pruning | None, *, known: bool) -> Judged:
    if pruning is None:
        return None, ["No statement that reads this table by a condition was seen."] if known else []
    p = pruning
    timed = evidence.source is not None and evidence.source.is_timed
    share = (
        TIME_WEIGHT * (p.pruned_time + DEPENDS_WEIGHT * p.depends_time)
        + CALLS_WEIGHT * (p.pruned_calls + DEPENDS_WEIGHT * p.depends_calls)
        if timed
        else p.pruned_calls + DEPENDS_WEIGHT * p.depends_calls
    )
    time = f"{p.pruned_time:.0%} of the time and " if timed else ""
    said = [
        f"{p.statements - len(p.unpruned)} of {p.statements} statements can be pruned by it: {time}{p.pruned_calls:.0%}"
        f" of {format_count(p.calls, 'call')} for certain"
        + (f", {p.depends_calls:.0%} of the calls by the plan of a join or subquery." if p.depends_calls else ".")
    ]
    if p.unpruned:
        worst = max(p.unpruned, key=lambda s: s.total_ms)
        locks = proposal.partitions * (1 + len(evidence.facts.indexes))
        slow = (
            f", more than the {FAST_LOCKS} that are locked without the shared lock table before PostgreSQL 18"
            if locks > FAST_LOCKS and evidence.facts.server_version < 180000
            else ""
        )
        said.append(
            f"Not pruned: {format_count(sum(s.calls for s in p.unpruned), 'call')}, each of which opens"
            f" {proposal.partitions:,} partitions and may lock {locks:,} relations with their indexes{slow};"
            f" the most time: {_short(worst.text)}"
        )
    return Points(name="pruning", got=PRUNING * share, most=PRUNING), said


def _judge_evenness(proposal: Proposal) -> Judged:
    skew = proposal.skew
    if skew is None:
        return None, []
    ratio = max(1.0, skew.largest_over_mean)
    at_most = "" if skew.rows_per_leaf else "at most "
    uneven = " Uneven." if ratio > UNEVEN else ""
    said = f"The largest partition holds {at_most}{ratio:.1f} times the mean, {skew.largest_rows:,} rows.{uneven}"
    return Points(name="evenness", got=EVENNESS / ratio, most=EVENNESS), [said]


def _judge_keys(grown: tuple[GrownKey, ...]) -> Judged:
    said: list[str] = []
    for key in grown:
        old = ", ".join(map(quote_ident, key.columns))
        new = ", ".join(map(quote_ident, (*key.columns, *key.missing)))
        used = (
            f" {format_count(key.conflict_calls, 'call')} of INSERT … ON CONFLICT ({old}) must name ({new})."
            if key.conflict_calls
            else ""
        )
        what = "Primary key" if key.is_primary else "Unique key"
        said.append(
            f"{what} {quote_ident(key.name)} must grow: ({old}) becomes ({new}), so ({old}) alone may repeat.{used}"
        )
    if not grown:
        return Points(name="keys", got=KEYS, most=KEYS), ["No unique key must grow."]
    # A key whose columns alone may repeat gives something up; one that ON CONFLICT relies on breaks statements.
    lost = sum(0.5 + (1.0 if key.conflict_calls else 0.0) for key in grown)
    return Points(name="keys", got=KEYS * max(-1.0, 1 - lost), most=KEYS), said


def _judge_retention(evidence: Evidence, proposal: Proposal, uses: tuple[Use, ...], *, known: bool) -> Judged:
    """Old rows go with their partition where the key says how old they are."""
    (name, *_), is_range = proposal.by.columns, proposal.by.method == "range"
    column = evidence.facts.column(name)
    deletes = [u.statement for u in uses if name in u.deletes_below] if is_range else []
    everything = sum(u.statement.total_ms for u in uses)
    if deletes:
        share = sum(s.total_ms for s in deletes) / everything if everything > 0 else 0.0
        timed = evidence.source is not None and evidence.source.is_timed
        said = (
            f"Old rows are deleted by {quote_ident(name)}: {format_count(sum(s.calls for s in deletes), 'call')}"
            + (f", {share:.0%} of the time of all statements on the table" if timed else "")
            + ". Dropping a partition takes their place and leaves no dead rows."
        )
        got = RETENTION * min(1.0, 0.6 + share)
        return Points(name="retention", got=got, most=RETENTION), [said]
    if is_range and column is not None and is_time(column):
        said = f"Periods of {quote_ident(name)} can be dropped instead of deleted."
        unseen = " No DELETE by it was seen." if known else ""
        return Points(name="retention", got=RETENTION / 3, most=RETENTION), [said + unseen]
    return Points(name="retention", got=0.0, most=RETENTION), []


def _judge_locality(evidence: Evidence, proposal: Proposal) -> Judged:
    """New rows that come at the end of a range touch one partition and its small indexes."""
    found = evidence.column(proposal.by.columns[0])
    correlation = found.statistics.correlation if found is not None else None
    if proposal.by.method != "range":
        return Points(name="locality", got=0.0, most=LOCALITY), []
    if correlation is None:
        return None, []
    got = LOCALITY * max(0.0, correlation)
    name = quote_ident(proposal.by.columns[0])
    where = (
        "new rows go to the newest partition, whose indexes stay in memory"
        if correlation > 0.9
        else "new rows go to several partitions"
        if correlation < 0.5
        else "most new rows go to the newest partitions"
    )
    return Points(name="locality", got=got, most=LOCALITY), [
        f"Rows lie in the order of {name} (correlation {correlation:.2f}): {where}."
    ]


def _judge_moves(proposal: Proposal, uses: tuple[Use, ...], judged: object) -> Judged:
    """Rows whose key is changed move between partitions: twice the work, and 40001 where two meet."""
    if judged is None:
        return None, []
    moving = [u for u in uses if u.sets & set(proposal.by.columns)]
    calls = sum(u.statement.calls for u in moving)
    if not calls:
        return None, []
    share = calls / max(1, sum(u.statement.calls for u in uses))
    key = ", ".join(map(quote_ident, proposal.by.columns))
    said = (
        f"{format_count(calls, 'call')} ({share:.0%}) change {key}: such an UPDATE can move the row to"
        " another partition, which costs a DELETE and an INSERT and can fail with 40001."
    )
    return Points(name="moves", got=-20.0 * min(1.0, 2 * share) - 5.0, most=0.0), [said]


def _foreign_keys(facts: TableFacts, proposal: Proposal) -> Iterator[str]:
    key = set(proposal.by.columns)
    for constraint in facts.constraints:
        if constraint.kind == "f" and constraint.columns and key <= set(constraint.columns):
            yield (
                f"Foreign key {quote_ident(constraint.name)} contains the key: a DELETE or UPDATE of the referenced row"
                " looks into one partition."
            )
    unpruned = [
        k.name
        for k in facts.constraints
        if k.kind == "f" and k.columns and not key <= set(k.columns) and _is_indexed(facts, k.columns)
    ]
    if unpruned:
        count = f"{len(unpruned)} foreign keys" if len(unpruned) > 1 else f"Foreign key {quote_ident(unpruned[0])}"
        contain = "do" if len(unpruned) > 1 else "does"
        yield (
            f"{count} of this table {contain} not contain the key: a DELETE or UPDATE of a referenced row looks into"
            f" all {proposal.partitions:,} partitions."
        )


def _is_indexed(facts: TableFacts, columns: list[str]) -> bool:
    """Only who deletes referenced rows indexes the foreign key's columns."""
    return any(i.key_columns[: len(columns)] == columns for i in facts.indexes)


def _grown(facts: TableFacts, proposal: Proposal, uses: tuple[Use, ...], *, known: bool) -> tuple[GrownKey, ...]:
    keys = decide_keys(facts, proposal.by)
    return tuple(
        GrownKey(
            name=index.name,
            is_primary=index.is_primary,
            columns=tuple(index.key_columns),
            missing=keys.grown[index.oid],
            conflict_calls=sum(u.statement.calls for u in uses if frozenset(index.key_columns) in u.arbiters)
            if known
            else None,
        )
        for index in facts.indexes
        if index.oid in keys.grown
    )


def _null_keys(evidence: Evidence, proposal: Proposal) -> Iterator[str]:
    facts = evidence.facts
    forced = any(i.is_primary and not set(proposal.by.columns) <= set(i.key_columns) for i in facts.indexes)
    for name in proposal.by.columns:
        column, found = facts.column(name), evidence.column(name)
        share = found.statistics.null_frac if found is not None else 0.0
        if column is None or column.not_null or not share:
            continue
        if proposal.by.method == "range":
            yield f"Column {quote_ident(name)} is NULL in {share:.1%} of the rows, which has no place in a range."
        elif forced:
            yield f"The primary key would grow by {quote_ident(name)}, which is NULL in {share:.1%} of the rows."


def _command(facts: TableFacts, proposal: Proposal, grown: tuple[GrownKey, ...]) -> str:
    words = ["pgscale", "partition", "plan", str(facts.table.qname), "--by", show_by(proposal.by)]
    if proposal.by.method == "hash":
        words += ["--partitions", str(proposal.partitions)]
    if grown:
        words.append("--accept-key-change")
    return shlex.join(words)


def _short(text: str, most: int = 120) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


# -- whether at all ---------------------------------------------------------------------------------------


def _worth(evidence: Evidence, advice: Advice, uses: tuple[Use, ...]) -> tuple[Worth, tuple[str, ...]]:
    """Return whether partitioning pays now, and why."""
    memory, size = evidence.memory, evidence.table_bytes
    if not advice.candidates:
        return "useless", ("No column of this table makes a partition key.",)
    default = " (its default: set it to what this server has)" if memory.is_default else ""
    cache = f"effective_cache_size, {format_bytes(memory.cache_bytes)}{default}"
    usable = [c for c in advice.candidates if not c.blockers] or list(advice.candidates)
    prunes = max(
        (c.pruning.pruned_time + c.pruning.depends_time for c in usable if c.pruning is not None), default=None
    )
    by_calls = max((c.pruning.pruned_calls + c.pruning.depends_calls for c in usable if c.pruning), default=0.0)
    deletes = {u.statement: u for u in uses if u.deletes_below}
    retained = [u for u in deletes.values() if any(_is_time_name(evidence, n) for n in u.deletes_below)]
    because: list[str] = []
    if prunes is not None and max(prunes, by_calls) < NOTICEABLE and not retained:
        because.append(
            f"No candidate prunes more than {max(prunes, by_calls):.0%} of the time or calls of the statements that"
            " read the table: partitions would make them slower, not faster."
        )
        return "useless", tuple(because)
    if retained:
        calls = sum(u.statement.calls for u in retained)
        because.append(
            f"Old rows are deleted by time ({format_count(calls, 'call')}), which dropping partitions would replace."
        )
    until = _until(evidence, advice.candidates)
    outgrown = until is not None and until <= AHEAD_S
    if size < memory.cache_bytes and not outgrown:
        grows = f" At its recent rate it reaches that in {format_duration(until)}." if until is not None else ""
        because.insert(
            0,
            f"The table has {format_bytes(size)} with its indexes and fits into memory ({cache}): an index finds a row"
            f" as fast without partitions.{grows}",
        )
        if not retained:
            return "premature", tuple(because)
    elif size >= memory.cache_bytes:
        because.insert(0, f"The table has {format_bytes(size)} with its indexes, more than memory ({cache}).")
    elif until is not None:
        because.insert(
            0,
            f"The table has {format_bytes(size)} with its indexes; at its recent rate it outgrows memory ({cache}) in"
            f" {format_duration(until)}.",
        )
    if prunes is None:
        why = "were not checked" if not advice.source else "were not seen"
        because.append(f"Whether statements would be pruned is not known: those that read the table {why}.")
        return ("worthwhile" if retained else "unknown"), tuple(because)
    because.append(
        f"The best candidates prune up to {prunes:.0%} of the time and {by_calls:.0%} of the calls of the statements"
        " that read it."
    )
    return "worthwhile", tuple(because)


def _until(evidence: Evidence, candidates: tuple[Candidate, ...]) -> float | None:
    """Return the seconds until the table outgrows memory, by the growth that the best time column tells."""
    rate = next((c.proposal.growth_bytes_per_s for c in candidates if c.proposal.growth_bytes_per_s), None)
    left = evidence.memory.cache_bytes - evidence.table_bytes
    return left / rate if rate is not None and left > 0 else None


def _is_time_name(evidence: Evidence, name: str) -> bool:
    column = evidence.facts.column(name)
    return column is not None and is_time(column)
