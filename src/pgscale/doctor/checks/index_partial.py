"""Indexes that hold mostly NULLs, which nobody looks for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pgscale.core.finding import Answer, Finding, Findings, Remedy, Well
from pgscale.core.units import format_bytes, format_count
from pgscale.doctor import ddl as dropping
from pgscale.doctor.checks.partition_indexes import OWNER
from pgscale.doctor.facts import Facts, NotReadableError
from pgscale.doctor.indexing import ddl
from pgscale.doctor.indexing.estimating import Ground
from pgscale.doctor.indexing.model import Access, Index, Wanted
from pgscale.doctor.indexing.workload import COLUMNS, INDEXES, STATEMENTS, TABLES, Workload, read_grounds, read_workload
from pgscale.doctor.limits import IndexesLimits, Limits
from pgscale.doctor.model import Check

SHOWN = 10


def judge_partial(facts: Facts, limits: Limits) -> Answer:
    """Report indexes that would be much smaller without the NULLs they hold."""
    thresholds = limits.indexes
    grounds = read_grounds(facts, thresholds.least_partial_saved_bytes)
    workload: Workload | None = None
    doubt = ""
    try:
        workload = read_workload(facts, limits)
    except NotReadableError as error:
        doubt = f" Whether statements look for NULLs is not known, because {error.because}."
    found = [each for ground in grounds.values() for each in _mostly_null(ground, workload, thresholds)]
    found.sort(key=lambda each: each[3], reverse=True)
    least = format_bytes(thresholds.least_partial_saved_bytes)
    if not found:
        hidden = [
            str(ground.table.qname) for ground in grounds.values() for index in ground.indexes
            if any(name is not None and not ground.columns[name].is_visible for name in index.keys)
        ]  # fmt: skip
        if hidden:
            raise NotReadableError(
                f"the statistics of {format_count(len({*hidden}), 'large table')} are hidden from this login, those of"
                f" {hidden[0]} for one",
                facts.grant_read,
            )
        return Well(f"No index would be smaller by {least} or more without its NULLs.")
    shown, page = found[:SHOWN], facts.server.block_bytes
    made = [wanted for ground, _, wanted, _ in shown if not _is_there(ground, wanted)]
    remedies: list[Remedy] = []
    if made:
        text = "\n".join(map(ddl.create_index, made))
        remedies.append(Remedy(text=text, why=f"Makes those without NULLs, and blocks no writer. {OWNER}"))
    remedies.append(
        Remedy(
            text=dropping.drop_indexes([(index.qname, False) for _, index, _, _ in shown]),
            why=f"{'Afterwards, drops' if made else 'Drops'} those with NULLs, having shown their definitions. {OWNER}",
        )
    )
    finding = Finding(
        check=PARTIAL.id,
        severity="info",
        subject=str(shown[0][1].qname) if len(found) == 1 else "",
        fact=f"{format_count(len(found), 'index').replace('indexs', 'indexes')}"
        f" {'holds' if len(found) == 1 else 'hold'} mostly NULLs: {format_bytes(sum(each[3] for each in found))} less"
        " without them.",
        evidence={
            "which": [
                {
                    "index": str(index.qname), "table": str(ground.table.qname), "column": index.keys[0],
                    "null_share": ground.columns[wanted.columns[0]].null_share, "size_bytes": index.pages * page,
                    "without_nulls_at_most_bytes": ground.index_bytes(wanted),
                }
                for ground, index, wanted, _ in shown
            ],
        },
        cost=f"Every row writes its entry, though what is compared with a value is never NULL.{doubt}",
        remedies=tuple(remedies),
    )  # fmt: skip
    return Findings((finding,))


def _mostly_null(
    ground: Ground, workload: Workload | None, limits: IndexesLimits
) -> Iterable[tuple[Ground, Index, Wanted, int]]:
    """Yield such indexes, what each would be, and the bytes it would save at least."""
    if ground.table.is_partitioned:
        return
    for index in ground.indexes:
        keys = index.plain_keys()
        if keys is None or len(keys) != 1 or index.is_partial or index.is_unique or index.is_constraint:
            continue
        name = keys[0].column
        share = ground.columns[name].null_share or 0.0
        if share < limits.partial_null_share:
            continue
        wanted = Wanted(table=ground.table, keys=keys, included=tuple(index.included), tested=(name, "not null"))
        saved = index.pages * ground.page_bytes - ground.index_bytes(wanted)
        if saved < limits.least_partial_saved_bytes:
            continue
        accesses = workload.naming([name])[0] if workload is not None else ()
        if not any(access.table.oid == ground.table.oid and _needs_nulls(access, name) for access in accesses):
            yield ground, index, wanted, saved


def _needs_nulls(access: Access, name: str) -> bool:
    is_bounded = name in access.equal | access.joined | access.ranges or access.tests.get(name) == "not null"
    return not is_bounded and (name in access.tests or any(key.column == name for key in access.order))


def _is_there(ground: Ground, wanted: Wanted) -> bool:
    return any(
        replace(wanted, keys=keys) == wanted and (index.tested_column, index.test) == wanted.tested
        for index in ground.indexes
        if (keys := index.plain_keys()) is not None
    )


PARTIAL = Check(
    id="indexes.partial",
    title="Indexes of NULLs",
    question="Do indexes hold mostly NULLs?",
    about=(
        "A B-tree holds an entry for every row, also where the column is NULL; who looks for a value never reads those."
        " An index WHERE the column IS NOT NULL is as much smaller as there are NULLs, and rows without a value do not"
        " write to it. Reported are plain indexes of one column that no statement in pg_stat_statements reads for its"
        " NULLs or sorts by. Unique ones, constraints and partitioned tables are left out."
    ),
    source=(
        "PostgreSQL, Indexes (Partial Indexes), and pg_stats.null_frac. What is saved is the present size less that of"
        " the rest without deduplication; below 64 MB it is not worth a change."
    ),
    judge=judge_partial,
    reads=(TABLES, COLUMNS, INDEXES, STATEMENTS),
)

CHECKS = (PARTIAL,)
