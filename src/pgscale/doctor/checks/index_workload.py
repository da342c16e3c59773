"""Indexes that statements want and that are missing, and those that would answer without the table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pgscale.core.finding import Answer, Finding, Findings, Remedy, Well
from pgscale.core.model import Json, quote_ident, shorten
from pgscale.core.units import format_bytes, format_count, format_duration
from pgscale.doctor import ddl as dropping
from pgscale.doctor.checks.partition_indexes import OWNER, PARTITIONS, build_index
from pgscale.doctor.facts import Facts, NotReadableError
from pgscale.doctor.indexing import ddl
from pgscale.doctor.indexing.choosing import Choice, Limit, choose, choose_among, pages_now
from pgscale.doctor.indexing.estimating import Ground
from pgscale.doctor.indexing.model import Access, Index, Wanted
from pgscale.doctor.indexing.proving import Proof, prove
from pgscale.doctor.indexing.workload import COLUMNS, INDEXES, STATEMENTS, TABLES, Workload, read_workload
from pgscale.doctor.limits import IndexesLimits, Limits
from pgscale.doctor.model import Check

SHOWN = 10
STATEMENTS_SHOWN = 3
# Pages that are read now, of those that would be read from the index alone.
COVERING_TIMES = 3.0
MOST_INCLUDED = 4
# Of an included column, for each time the index is read: each is a row that could not be updated in place.
MOST_SETS = 0.1


def judge_workload(facts: Facts, limits: Limits) -> Answer:
    """Report indexes by which statements would read a fraction of what they read now."""
    workload, thresholds = read_workload(facts, limits), limits.indexes
    limit = Limit(times=thresholds.missing_times, saved_share=thresholds.least_saved_share)
    choices = choose(workload.grounds, workload.accesses, limit, workload.counted_s)
    proved = [(choice, prove(facts, choice)) for choice in choices[:SHOWN]]
    found = [(choice, proof) for choice, proof in proved if proof.is_used is not False]
    if not found:
        hidden = _hidden(workload, limit)
        if hidden:
            raise NotReadableError(
                f"the statistics of {format_count(len(hidden), 'table')} that statements read much of are hidden from"
                f" this login, those of {hidden[0]} for one",
                facts.grant_read,
            )
        unread = f"; {_not_understood(workload)}" if workload.not_understood else ""
        refuted = len(proved) - len(found)
        no = f"; by HypoPG the planner would not use {format_count(refuted, 'candidate')}" if refuted else ""
        return Well(f"{_looked_at(workload)} wants an index it has not got{no}{unread}.")
    severity = "warning" if any(c.saved_share >= thresholds.warning_saved_share for c, _ in found) else "info"
    first, saved = found[0][0], sum(choice.saved_share for choice, _ in found)
    lines = [line for choice, _ in found for line in _create(facts, choice.wanted)]
    size = format_bytes(sum(choice.ground.index_bytes(choice.wanted) for choice, _ in found))
    finding = Finding(
        check=MISSING.id,
        severity=severity,
        subject=str(first.wanted.table.qname) if len(found) == 1 else "",
        fact=(
            f"An index of {first.wanted.table.qname} {first.wanted} is missing."
            if len(found) == 1
            else f"{len(found)} indexes are missing, the first of {first.wanted.table.qname} {first.wanted}."
        ),
        evidence=_evidence(found, workload),
        cost=(
            f"{_how_many(found)} {format_duration(saved * 3600)} of every hour on reading what an index would not"
            f" touch. {_proofs(found)}{f'{_not_understood(workload)}.' if workload.not_understood else ''}"
        ).strip(),
        remedies=(Remedy(text="\n".join(lines), why=f"Takes {size} at most, and blocks no writer. {OWNER}"),),
    )
    return Findings((finding,))


def judge_covering(facts: Facts, limits: Limits) -> Answer:
    """Report indexes that would answer statements alone, with a few columns more."""
    workload, thresholds = read_workload(facts, limits), limits.indexes
    limit = Limit(times=COVERING_TIMES, saved_share=thresholds.least_saved_share)
    replaced: dict[Wanted, Index] = {}
    choices: list[Choice] = []
    for oid, ground in workload.grounds.items():
        accesses = [access for access in workload.accesses if access.table.oid == oid]
        if ground.table.is_partitioned:
            continue
        wanted = {w: i for access in accesses for w, i in _with_more(ground, access, workload, thresholds)}
        replaced |= wanted
        choices += choose_among(ground, {*wanted}, accesses, limit, max(1.0, workload.counted_s))
    choices.sort(key=lambda choice: choice.saved_share, reverse=True)
    proved = [(choice, prove(facts, choice)) for choice in choices[:SHOWN]]
    found = [(choice, proof) for choice, proof in proved if proof.is_used is not False]
    if not found:
        return Well(f"{_looked_at(workload)} would be answered much better by an index with more columns.")
    first = found[0][0]
    text = "\n".join(ddl.create_index(choice.wanted) for choice, _ in found)
    size = format_bytes(sum(choice.ground.index_bytes(choice.wanted) for choice, _ in found))
    remedies = [Remedy(text=text, why=f"Takes {size} at most, and blocks no writer. {OWNER}")]
    old = {i.oid: i for choice, _ in found if not (i := replaced[choice.wanted]).is_constraint and not i.is_unique}
    if old:
        text = dropping.drop_indexes([(index.qname, False) for index in old.values()])
        remedies.append(Remedy(text=text, why="Afterwards, when the new one is used: drops what it replaces."))
    more = ", ".join(map(quote_ident, first.wanted.included))
    finding = Finding(
        check=COVERING.id,
        severity="info",
        subject=str(first.wanted.table.qname) if len(found) == 1 else "",
        fact=(
            f"{replaced[first.wanted].qname} would answer alone with {more} beside its key."
            if len(found) == 1
            else f"{len(found)} indexes would answer alone with a few columns more."
        ),
        evidence=_evidence(found, workload),
        cost=(
            "For each entry that is found a page of the table is read as well. Updates of included columns can no"
            f" longer be done in place. {_proofs(found)}"
        ).strip(),
        remedies=tuple(remedies),
    )
    return Findings((finding,))


def _with_more(
    ground: Ground, access: Access, workload: Workload, limits: IndexesLimits
) -> Iterable[tuple[Wanted, Index]]:
    """Yield what indexes there are would be with the columns that a statement asks for beside them."""
    if access.used is None:
        return
    for index in ground.indexes:
        keys = index.plain_keys()
        if keys is None or index.is_partial:
            continue
        more = sorted(access.used - {key.column for key in keys}, key=lambda name: ground.columns[name].number)
        width = sum(ground.columns[name].width_bytes for name in more)
        if set(more) <= {*index.included} or len(more) > MOST_INCLUDED or width > limits.covering_bytes:
            continue
        wanted = Wanted(table=ground.table, keys=keys, included=tuple(more))
        pages = ground.pages(access, wanted)
        if pages is None or pages * COVERING_TIMES > pages_now(ground, access):
            continue
        sets = workload.naming(more)[1]
        if all(sets.get((ground.table.oid, name), 0) <= MOST_SETS * access.statement.calls for name in more):
            yield wanted, index


def _create(facts: Facts, wanted: Wanted) -> list[str]:
    if wanted.table.is_partitioned:
        return build_index(facts, wanted.table.oid, wanted.table.qname, wanted.columns)
    return [ddl.create_index(wanted)]


def _evidence(found: Sequence[tuple[Choice, Proof]], workload: Workload) -> dict[str, Json]:
    return {
        "counted_for_s": workload.counted_s,
        "not_understood": workload.not_understood,
        "which": [
            {
                "table": str(choice.wanted.table.qname), "index": str(choice.wanted),
                "table_bytes": choice.wanted.table.pages * choice.ground.page_bytes,
                "index_at_most_bytes": choice.ground.index_bytes(choice.wanted),
                "sequential_scans": choice.wanted.table.sequential_scans,
                "entries_written_per_hour": round(
                    choice.wanted.table.written_rows / max(1.0, choice.wanted.table.counted_s) * 3600
                ),
                "saved_of_a_session_share": choice.saved_share,
                "shown_by": "HypoPG" if proof.is_used else "reasoning",
                "planned_cost_now": proof.cost_now, "planned_cost_then": proof.cost_then,
            }
            for choice, proof in found
        ],
        "statements": [
            {
                "index": str(choice.wanted), "query_id": each.access.statement.query_id,
                "calls": each.access.statement.calls,
                "mean_s": each.access.statement.total_ms / 1000 / each.access.statement.calls,
                "rows_a_call": each.access.statement.rows_a_call,
                "pages_a_call": round(each.pages_now), "pages_then": round(each.pages_then),
                "query": shorten(each.access.statement.query, 100),
            }
            for choice, _ in found
            for each in choice.served[:STATEMENTS_SHOWN]
        ],
    }  # fmt: skip


def _how_many(found: Sequence[tuple[Choice, Proof]]) -> str:
    count = len({each.access.statement.query_id for choice, _ in found for each in choice.served})
    return f"{format_count(count, 'statement')} {'spends' if count == 1 else 'spend'}"


def _proofs(found: Sequence[tuple[Choice, Proof]]) -> str:
    reasons = sorted({proof.because for _, proof in found if proof.is_used is None})
    planned = sum(proof.is_used is True for _, proof in found)
    said = f"HypoPG: the planner would use {planned} of {len(found)}. " if planned else ""
    return said + (f"By reasoning, because {'; '.join(reasons)}. " if reasons else "")


def _looked_at(workload: Workload) -> str:
    tables = format_count(len(workload.grounds), "large table")
    return f"None of {format_count(workload.statements, 'statement')} on {tables}"


def _not_understood(workload: Workload) -> str:
    count = workload.not_understood
    return f"{format_count(count, 'statement')} {'was' if count == 1 else 'were'} not understood"


def _hidden(workload: Workload, limit: Limit) -> list[str]:
    """Tables whose statistics are hidden, and of which some statement reads half or more."""
    return sorted(
        {
            str(access.table.qname)
            for access in workload.accesses
            for ground in (workload.grounds[access.table.oid],)
            if not all(column.is_visible for column in ground.columns.values())
            and access.statement.total_ms / 1000 / max(1.0, workload.counted_s) >= limit.saved_share
            and 2 * pages_now(ground, access) >= ground.table.pages
        }
    )


MISSING = Check(
    id="indexes.workload",
    title="Missing indexes",
    question="Do statements want an index that is missing?",
    about=(
        "The texts in pg_stat_statements tell by which columns rows of large tables are chosen: compared, joined,"
        " bounded, NULL, sorted for a LIMIT. With the statistics of the columns that gives how many pages a call would"
        " read by each index there is and by the one it wants; what it does read is counted. Reported are those by"
        " which the statements would read a tenth or less and save time that matters, where that is more than keeping"
        " the index up costs writers; several statements share one where its key can begin with what they share."
        " A condition that leaves few rows (deleted_at IS NULL) becomes the predicate of a partial index. Where HypoPG"
        " is installed the planner is asked, by the conditions on that one table with unknown values, and what it would"
        " not use is left out: that takes ACCESS SHARE for a moment, waits 100 ms for it at most, and needs SELECT on"
        " the table. Constants are not in pg_stat_statements: rare values are known by the rows that came back only."
    ),
    source=(
        "PostgreSQL, Indexes (Multicolumn Indexes, Partial Indexes, Indexes and ORDER BY) and Row Estimation Examples."
        " A tenth of the pages outweighs that they are read at random; 0.2 % of a session is 7 s an hour; a table of"
        " less than 10 MB is read in some milliseconds. Statements with fewer calls than least_calls of"
        " [doctor.queries], and fewer than least_counted_s of counting, say nothing."
    ),
    judge=judge_workload,
    reads=(STATEMENTS, TABLES, COLUMNS, INDEXES, PARTITIONS),
)

COVERING = Check(
    id="indexes.covering",
    title="Covering indexes",
    question="Would an index answer without the table, with a few columns more?",
    about=(
        "An index that holds every column a statement asks for answers alone (an index-only scan), where VACUUM has"
        " left the pages all-visible. Reported are indexes that would with at most four columns more by INCLUDE, where"
        " a statement fetches so many scattered rows by them that it would read a third of the pages or less. Columns"
        " that are updated are left alone: they would end updates in place. Proved by HypoPG as indexes.workload."
    ),
    source=(
        "PostgreSQL, Indexes (Index-Only Scans and Covering Indexes). Where a page is not all-visible the table is read"
        " all the same, which is counted. 32 bytes more an entry make the index of a number three times as large."
    ),
    judge=judge_covering,
    reads=(STATEMENTS, TABLES, COLUMNS, INDEXES),
)

CHECKS = (MISSING, COVERING)
