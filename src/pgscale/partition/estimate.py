"""What a run will need: disk, WAL and time, each from best to worst, with what that rests on. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pgscale.catalog.model import TableFacts
from pgscale.livecopy.throttle import PACES
from pgscale.partition.model import Estimate, Options, Pace, Phase

# What one worker took for docs/benchmarks/partition.md (two cores, PostgreSQL 15): rows of 400 bytes and of 130 bytes
# together give a cost a row and a cost a byte.
COPY_S_PER_ROW, COPY_BYTES_PER_S = 1.0e-6, 120_000_000
VERIFY_S_PER_ROW, VERIFY_BYTES_PER_S = 0.5e-6, 270_000_000
INDEX_BYTES_PER_S = 50_000_000
# Other disks and processors, and other load: from two thirds of that time to three times as much.
BEST, WORST = 1 / 1.5, 3.0
# A measured copy varies with what else the server does.
MEASURED_SPREAD = 1.5
# More workers than this help only where there are processors and disks for them.
SURE_WORKERS = 4
LONGEST_REST_S = 2.0
GUESSED_ROW_BYTES = 150
LEAF_S = (0.01, 0.05)

# An inserted row's WAL record is its data and 56 bytes (src/include/access/xlogrecord.h, heapam_xlog.h); on the page
# it takes its data and 28 (a tuple header and a line pointer).
WAL_BYTES_PER_ROW = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCopy:
    """The copy of an earlier run in this database, finished by one process.

    Args:
        table: the table that was copied.
        heap_bytes: its pages.
        took_s: from the first chunk to the last, rests included.
        pace, workers: how it was run.
    """

    table: str
    heap_bytes: int
    took_s: float
    pace: Pace
    workers: int


def estimate(
    facts: TableFacts,
    options: Options,
    leaves: int,
    *,
    measured: MeasuredCopy | None = None,
    logs_hint_bits: bool = True,
) -> Estimate:
    """Return what the run is expected to need; what the application changes meanwhile is not counted.

    Args:
        leaves: the number of partitions.
        measured: an earlier copy; without one the time rests on assumptions, which the basis states.
        logs_hint_bits: data checksums or wal_log_hints are on, so that a page's first reading can log it once more.
    """
    table, rows = facts.table, max(0, round(facts.table.reltuples))
    heap = table.heap_bytes + table.toast_bytes
    known = facts.table.reltuples >= 0
    rows = rows if known else heap // GUESSED_ROW_BYTES
    pages = leaves * (1 + len(facts.indexes)) * table.block_bytes
    disk = heap + table.index_bytes + pages
    wal = disk + rows * WAL_BYTES_PER_ROW
    limits = PACES[options.pace]
    workers = options.workers or limits.workers
    copy = _copy(heap, rows, options.pace, workers, measured)
    copy_work = rows * COPY_S_PER_ROW + heap / COPY_BYTES_PER_S
    verify_work = rows * VERIFY_S_PER_ROW + heap / VERIFY_BYTES_PER_S
    phases = [
        Phase(
            name="prepare",
            least_s=limits.listen_s + leaves * LEAF_S[0],
            most_s=limits.listen_s + 1 + leaves * LEAF_S[1],
        ),
        Phase(name="copy", least_s=copy[0], most_s=copy[1]),
        Phase(
            name="index",
            least_s=_index_s(table.index_bytes * BEST, leaves, workers, limits.most_duty),
            most_s=_index_s(table.index_bytes * WORST, leaves, min(workers, SURE_WORKERS), limits.least_duty),
        ),
    ]
    if options.verify == "full":
        share = verify_work / copy_work if copy_work else 0.0
        phases.append(Phase(name="verify", least_s=copy[0] * share, most_s=copy[1] * share))
    return Estimate(
        rows=rows,
        disk_bytes=disk,
        least_wal_bytes=wal,
        wal_bytes=wal + (heap if logs_hint_bits else 0),
        least_duration_s=sum(p.least_s for p in phases),
        duration_s=sum(p.most_s for p in phases),
        phases=tuple(phases),
        basis=_basis(heap, rows, options.pace, workers, measured)
        + ("" if known else f"; never analyzed, so rows are guessed at {GUESSED_ROW_BYTES} bytes each"),
    )


def _copy(heap: int, rows: int, pace: Pace, workers: int, measured: MeasuredCopy | None) -> tuple[float, float]:
    """Return the seconds of the copy, at best and at worst."""
    limits, sure = PACES[pace], min(workers, SURE_WORKERS)
    if measured is None:
        work = rows * COPY_S_PER_ROW + heap / COPY_BYTES_PER_S
        return work * BEST / workers / limits.most_duty, work * WORST / sure / limits.least_duty
    alike = heap / (measured.heap_bytes / measured.took_s)
    if (measured.pace, measured.workers) == (pace, workers):
        return alike / MEASURED_SPREAD, alike * MEASURED_SPREAD
    # How much of the time its workers worked is known only as a range.
    then, sure_then = PACES[measured.pace], min(measured.workers, SURE_WORKERS)
    return (
        alike * sure_then * then.least_duty / (workers * limits.most_duty) / MEASURED_SPREAD,
        alike * measured.workers * then.most_duty / (sure * limits.least_duty) * MEASURED_SPREAD,
    )


def _index_s(index_bytes: float, leaves: int, workers: int, duty: float) -> float:
    """A leaf's indexes are built in one go; the worker rests after it, at most LONGEST_REST_S."""
    leaf_s = index_bytes / INDEX_BYTES_PER_S / max(1, leaves)
    rest_s = min(LONGEST_REST_S, leaf_s * (1 - duty) / duty)
    return (leaf_s + rest_s) * leaves / min(workers, max(1, leaves))


def _basis(heap: int, rows: int, pace: Pace, workers: int, measured: MeasuredCopy | None) -> str:
    limits = PACES[pace]
    who = f"{workers} worker{'s' if workers > 1 else ''}"
    if limits.least_duty == limits.most_duty:
        works = f"pace {pace} lets {who} work all the time"
    else:
        works = f"pace {pace} lets {who} work {limits.least_duty:.0%} to {limits.most_duty:.0%} of the time"
    if measured is not None:
        rate = measured.heap_bytes / measured.took_s / 1e6
        rests = (
            f"measured: {measured.table} was copied at {rate:.3g} MB/s at pace {measured.pace} with"
            f" {measured.workers} worker{'s' if measured.workers > 1 else ''}"
        )
    else:
        work = rows * COPY_S_PER_ROW + heap / COPY_BYTES_PER_S
        mid = heap / work / 1e6 if work else COPY_BYTES_PER_S / 1e6
        rests = (
            f"assumed, as no run was measured here: a worker copies {mid / WORST:.0f} to {mid / BEST:.0f} MB/s at work"
        )
    return f"{rests}; {works}; what the application changes meanwhile is not counted"
