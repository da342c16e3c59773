"""What a run will need: disk, WAL and time, each from best to worst, with what that rests on. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from pgscale.catalog.model import TableFacts
from pgscale.core.storage import Storage
from pgscale.livecopy.rate import Outlook, Traffic
from pgscale.livecopy.throttle import PACES
from pgscale.partition.model import Estimate, Options, Pace, Phase
from pgscale.partition.throughput import WAL_BYTES_PER_ROW, Sizes, find_traffic, pass_storage
from pgscale.partition.volumes import parse_storage

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


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCopy:
    """What an earlier run in this database took, or a rehearsal; finished by one process.

    Args:
        table: the table that was copied, or rehearsed.
        heap_bytes: its pages; of a rehearsal, those of the scratch copy.
        took_s: the copy, from the first chunk to the last, rests included.
        pace, workers: how it was run.
        rows, index_s, verify_s, wal_bytes: further figures of a rehearsal.
        rehearsed: it was one, of this very table.
    """

    table: str
    heap_bytes: int
    took_s: float
    pace: Pace
    workers: int
    rows: int = 0
    index_s: float | None = None
    verify_s: float | None = None
    wal_bytes: int = 0
    rehearsed: bool = False


def estimate(
    facts: TableFacts,
    options: Options,
    leaves: int,
    *,
    measured: MeasuredCopy | None = None,
    logs_hint_bits: bool = True,
) -> Estimate:
    """Return what the run of this table is expected to need; see estimate_sizes."""
    return estimate_sizes(Sizes.of(facts), options, leaves, measured=measured, logs_hint_bits=logs_hint_bits)


def estimate_sizes(
    sizes: Sizes,
    options: Options,
    leaves: int,
    *,
    measured: MeasuredCopy | None = None,
    logs_hint_bits: bool = True,
) -> Estimate:
    """Return what the run is expected to need; what the application changes meanwhile is not counted.

    The work of a phase takes processors, round trips and the rests of the pace: that part shrinks with the number of
    workers. Its reads and writes pass the storage, as fast as that gives them, however many workers ask. A phase
    takes the longer of both, moment by moment: the storage may become the slower one when its credit is used up.

    Args:
        leaves: the number of partitions.
        measured: an earlier copy; without one the time rests on assumptions, which the basis states.
        logs_hint_bits: data checksums or wal_log_hints are on, so that a page's first reading can log it once more.
    """
    heap = sizes.heap_bytes
    rows = sizes.rows if sizes.rows is not None else heap // GUESSED_ROW_BYTES
    pages = leaves * (1 + sizes.indexes) * sizes.block_bytes
    disk = heap + sizes.index_bytes + pages
    wal = disk + rows * WAL_BYTES_PER_ROW
    work = _work(sizes, options, leaves, rows, measured)
    traffic = find_traffic(sizes, rows, logs_hint_bits=logs_hint_bits)
    phases = [
        replace(p, least_bytes=t.least_bytes, most_bytes=t.most_bytes) if (t := traffic.get(p.name)) else p
        for p in work
    ]
    storage = parse_storage(options.storage) if options.storage is not None else None
    trap = ""
    if storage is not None:
        phases, trap = pass_storage(storage, phases)
    return Estimate(
        rows=rows,
        disk_bytes=disk,
        least_wal_bytes=wal,
        wal_bytes=wal + (heap if logs_hint_bits else 0),
        least_duration_s=sum(p.least_s for p in phases),
        duration_s=sum(p.most_s for p in phases),
        phases=tuple(phases),
        storage=storage.name if storage is not None else "",
        burst_trap=trap,
        basis=_basis(heap, rows, options.pace, options.workers or PACES[options.pace].workers, measured)
        + (f"; storage {storage.name}, {_io_sizes(storage)}" if storage is not None else "")
        + (
            "" if sizes.rows is not None else f"; never analyzed, so rows are guessed at {GUESSED_ROW_BYTES} bytes each"
        ),
    )


def _io_sizes(storage: Storage) -> str:
    least, most = storage.least_io_bytes / 1024, storage.most_io_bytes / 1024
    return f"{least:.0f} kB an I/O" if least == most else f"{least:.0f} to {most:.0f} kB an I/O"


def make_outlook(options: Options, planned: Estimate | None) -> Outlook | None:
    """Return what a run knows of its storage; None where the operator did not describe it."""
    storage = parse_storage(options.storage) if options.storage is not None else None
    if storage is None or planned is None:
        return None
    known = {p.name: Traffic(least_bytes=p.least_bytes, most_bytes=p.most_bytes) for p in planned.phases}
    return Outlook(storage, {name: t for name, t in known.items() if t.most_bytes > 0})


def _work(sizes: Sizes, options: Options, leaves: int, rows: int, measured: MeasuredCopy | None) -> list[Phase]:
    """Return what the phases take on storage that is never waited for, or on the storage of the measurement."""
    limits, heap = PACES[options.pace], sizes.heap_bytes
    workers = options.workers or limits.workers
    copy = _copy(heap, rows, options.pace, workers, measured)
    copy_work = rows * COPY_S_PER_ROW + heap / COPY_BYTES_PER_S
    verify_work = rows * VERIFY_S_PER_ROW + heap / VERIFY_BYTES_PER_S
    alike = measured is not None and (measured.pace, measured.workers) == (options.pace, workers)
    if alike and measured is not None and measured.index_s is not None and measured.rows > 0:
        index = _scaled_index(measured.index_s, measured.rows, rows)
    else:
        index = (
            _index_s(sizes.index_bytes * BEST, leaves, workers, limits.most_duty),
            _index_s(sizes.index_bytes * WORST, leaves, min(workers, SURE_WORKERS), limits.least_duty),
        )
    phases = [
        Phase(
            name="prepare",
            least_s=limits.listen_s + leaves * LEAF_S[0],
            most_s=limits.listen_s + 1 + leaves * LEAF_S[1],
        ),
        Phase(name="copy", least_s=copy[0], most_s=copy[1]),
        Phase(name="index", least_s=index[0], most_s=index[1]),
    ]
    if options.verify == "full":
        if alike and measured is not None and measured.verify_s is not None:
            took_s = measured.verify_s * heap / max(1, measured.heap_bytes)
            verify = (took_s / MEASURED_SPREAD, took_s * MEASURED_SPREAD)
        else:
            share = verify_work / copy_work if copy_work else 0.0
            verify = (copy[0] * share, copy[1] * share)
        phases.append(Phase(name="verify", least_s=verify[0], most_s=verify[1]))
    return phases


def _scaled_index(took_s: float, measured_rows: int, rows: int) -> tuple[float, float]:
    """Sorting n rows takes n log n comparisons; what is not sorting grows with n alone."""
    linear = took_s * rows / measured_rows
    sorting = linear * math.log2(max(2, rows)) / math.log2(max(2, measured_rows))
    return linear / MEASURED_SPREAD, sorting * MEASURED_SPREAD


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
        what = f"a rehearsal of {measured.table}" if measured.rehearsed else measured.table
        rests = (
            f"measured: {what} was copied at {rate:.3g} MB/s at pace {measured.pace} with"
            f" {measured.workers} worker{'s' if measured.workers > 1 else ''}"
        )
    else:
        work = rows * COPY_S_PER_ROW + heap / COPY_BYTES_PER_S
        mid = heap / work / 1e6 if work else COPY_BYTES_PER_S / 1e6
        rests = (
            f"assumed, as no run was measured here: a worker copies {mid / WORST:.0f} to {mid / BEST:.0f} MB/s at work"
        )
    return f"{rests}; {works}; what the application changes meanwhile is not counted"
