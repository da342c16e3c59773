"""Sorts and hashes that did not fit into work_mem, and how much would do. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from pgscale.core.finding import Finding, Remedy
from pgscale.core.units import format_bytes, parse_bytes
from pgscale.doctor.explain import ddl
from pgscale.doctor.explain.case import Case
from pgscale.doctor.explain.model import Node
from pgscale.doctor.explain.thresholds import DEFAULT_WORK_MEM_BYTES, LEAST_SHARE, MUCH_MEMORY_BYTES

KB = 1024
# Of a row in a sort in memory: SortTuple, and the header its tuple has there and not on disk (tuplesort.c).
_SORT_ROW_BYTES, _TUPLE_HEADER_BYTES, _CHUNK_BYTES = 24, 10, 16
# Of a row in a hash join's table: HashJoinTupleData, a header, a bucket (hashjoin.h, ExecChooseHashTableSize).
_HASH_ROW_BYTES = 16 + 16 + 8
# What a hash aggregate writes are its narrow input rows; kept as groups they take some four times as much (nodeAgg.c).
_GROUP_TIMES = 4.0
# Memory is taken in steps that double.
_SPARE = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spill:
    """Something that did not fit.

    Args:
        share: of the time, of the nodes that read and write the files.
    """

    node: Node
    what: str
    fact: str
    written_bytes: float
    needed_bytes: float
    cost: str
    share: float
    hash_batches: int | None = None


def judge(case: Case) -> Iterator[Finding]:
    """Report what was written to temporary files for lack of memory; what is to be set holds all of it."""
    spills = list(_spills(case))
    most = max((spill.needed_bytes for spill in spills), default=0.0)
    for spill in spills:
        yield case.find(
            spill.what,
            spill.node,
            spill.fact,
            severity="warning" if spill.share >= LEAST_SHARE or not case.measure.is_time else "info",
            evidence={
                "work_mem_bytes": work_mem_bytes(case),
                "temporary_bytes": round(spill.written_bytes),
                "needed_bytes": round(spill.needed_bytes),
                "hash_batches": spill.hash_batches,
            },
            cost=spill.cost,
            remedies=(memory_remedy(case, most),),
        )


def _spills(case: Case) -> Iterator[_Spill]:
    stored: set[str] = set()
    for node in case.plan.nodes:
        if not node.is_executed:
            continue
        if node.kind == "Sort":
            yield from _sort(case, node)
        elif node.kind == "Hash":
            yield from _hash(case, node)
        elif node.kind == "Aggregate":
            yield from _aggregate(case, node)
        elif node.texts.get("Storage") == "Disk" and node.texts.get("CTE Name", node.label) not in stored:
            # All scans of a CTE share one store.
            stored.add(node.texts.get("CTE Name", node.label))
            yield from _stored(case, node)


def memory_remedy(case: Case, needed_bytes: float) -> Remedy:
    """Return the setting of work_mem that holds so much."""
    least = max(needed_bytes, work_mem_bytes(case) + 1)
    # To a whole MB; small ones, as in tests and tiny servers, to 64 kB.
    step = 1 << 20 if least > 1 << 20 else 64 * KB
    size = math.ceil(least / step) * step
    text = f"{size // KB}kB" if size % (1 << 20) else f"{size >> 20}MB"
    why = (
        "For this query alone, in its session or, by SET LOCAL, in its transaction: every sort and hash of every"
        " process may"
        " take as much."
    )
    if size > MUCH_MEMORY_BYTES:
        why += " That is much: fewer rows or columns, or an index in the order wanted, would be better."
    return Remedy(text=ddl.set_here("work_mem", text), kind="setting", why=why)


def work_mem_bytes(case: Case) -> int:
    """Return work_mem as the query had it."""
    found = case.known.settings.get("work_mem")
    if found is not None:
        return int(found.value) * KB
    given = case.plan.settings.get("work_mem")
    return parse_bytes(given) if given is not None else DEFAULT_WORK_MEM_BYTES


def _multiplier(case: Case) -> float:
    given = case.known.setting("hash_mem_multiplier") or case.plan.settings.get("hash_mem_multiplier")
    # 2 from PostgreSQL 15 on; 1 is safe where the version is not known.
    return float(given) if given is not None else 1.0


def _sort(case: Case, node: Node) -> Iterator[_Spill]:
    on_disk = [
        (figures.get("Sort Space Used", 0.0) * KB, actual.rows if actual is not None else 0.0)
        for figures, texts, actual in [
            (node.figures, node.texts, node.actual),
            *((worker.figures, worker.texts, worker.actual) for worker in node.workers),
        ]
        if texts.get("Sort Space Type") == "Disk"
    ]
    if not on_disk or node.actual is None:
        return
    used, rows = max(on_disk)
    rows = max(rows, node.actual.rows, 1.0)
    # On disk a row has its length and its values.
    in_memory = _chunk(used / rows + _TUPLE_HEADER_BYTES)
    needed = rows * (_SORT_ROW_BYTES + in_memory) * _SPARE
    total = sum(each for each, _ in on_disk)
    yield _Spill(
        node=node,
        what="sort_spill",
        fact=f"A sort of {rows:,.0f} rows wrote {format_bytes(total)} to temporary files.",
        written_bytes=total,
        needed_bytes=needed,
        cost="It sorts in pieces, writes them and reads them again to merge them.",
        share=case.measure.own_share(node),
    )


def _chunk(tuple_bytes: float) -> float:
    """Return what a tuple takes: up to 16 a power of two, with its header."""
    return 2.0 ** math.ceil(math.log2(max(tuple_bytes + _CHUNK_BYTES, 32.0)))


def _hash(case: Case, node: Node) -> Iterator[_Spill]:
    batches = node.figures.get("Hash Batches", 1.0)
    if batches <= 1:
        return
    peak = node.figures.get("Peak Memory Usage", 0.0) * KB
    planned = node.expected.rows * (node.expected.width_bytes + _HASH_ROW_BYTES)
    processes = case.processes(node) if "Parallel Aware" in node.flags else 1.0
    needed = max(peak * batches, planned * processes * _SPARE) / _multiplier(case) / processes
    written = node.figures.get("Temp Written Blocks", 0.0) * case.known.block_bytes
    join, share = case.measure.parents[node.number], case.measure.own_share(node)
    if join is not None:
        share += case.measure.own_share(join)
        written = max(written, join.figures.get("Temp Written Blocks", 0.0) * case.known.block_bytes)
    yield _Spill(
        node=node,
        what="hash_spill",
        fact=f"A hash table did not fit into memory and was divided into {batches:,.0f} batches.",
        written_bytes=written,
        needed_bytes=needed,
        cost="Rows of both sides of the join are written to temporary files and read again.",
        share=share,
        hash_batches=round(batches),
    )


def _aggregate(case: Case, node: Node) -> Iterator[_Spill]:
    disk = max(
        [node.figures.get("Disk Usage", 0.0), *(worker.figures.get("Disk Usage", 0.0) for worker in node.workers)]
    )
    if disk <= 0:
        return
    batches = max(
        [
            node.figures.get("HashAgg Batches", 1.0),
            *(worker.figures.get("HashAgg Batches", 1.0) for worker in node.workers),
        ]
    )
    peak = KB * max(
        [node.figures.get("Peak Memory Usage", 0.0), *(w.figures.get("Peak Memory Usage", 0.0) for w in node.workers)]
    )
    needed = min(peak * batches, peak + _GROUP_TIMES * disk * KB) * _SPARE / _multiplier(case)
    yield _Spill(
        node=node,
        what="aggregate_spill",
        fact=f"The groups of a hash aggregate did not fit into memory: {format_bytes(disk * KB)} went to disk.",
        written_bytes=disk * KB,
        needed_bytes=needed,
        cost="Rows of groups that have no place are written to temporary files and read again.",
        share=case.measure.own_share(node),
        hash_batches=round(batches),
    )


def _stored(case: Case, node: Node) -> Iterator[_Spill]:
    used = node.figures.get("Maximum Storage", 0.0) * KB
    rows = node.actual.rows if node.actual is not None else 0.0
    yield _Spill(
        node=node,
        what="store_spill",
        fact=f"{node.label} kept {format_bytes(used)} in temporary files.",
        written_bytes=used,
        needed_bytes=(used + rows * (_CHUNK_BYTES + _SORT_ROW_BYTES)) * _SPARE,
        cost="Rows that are read again are kept in a file.",
        share=case.measure.own_share(node),
    )
