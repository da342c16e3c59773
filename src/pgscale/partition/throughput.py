"""What a run reads and writes, and how long the storage takes for that. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pgscale.catalog.model import TableFacts
from pgscale.core.storage import Bucket, Storage, Stretch, total_s
from pgscale.core.units import format_duration
from pgscale.livecopy.rate import Traffic
from pgscale.partition.model import Phase

# An inserted row's WAL record is its data and 56 bytes (src/include/access/xlogrecord.h, heapam_xlog.h); on the page
# it takes its data and 28 (a tuple header and a line pointer).
WAL_BYTES_PER_ROW = 28
# Below this the fall is not worth a warning: it lies within the range anyway.
WORTH_SAYING = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What an estimate needs to know of a table.

    Args:
        rows: None when it was never analyzed.
        heap_bytes: with its TOAST; index_bytes: of all its indexes together.
    """

    rows: int | None
    heap_bytes: int
    index_bytes: int
    indexes: int
    block_bytes: int = 8192

    @staticmethod
    def of(facts: TableFacts) -> Sizes:
        table = facts.table
        return Sizes(
            rows=round(table.reltuples) if table.reltuples >= 0 else None,
            heap_bytes=table.heap_bytes + table.toast_bytes,
            index_bytes=table.index_bytes,
            indexes=len(facts.indexes),
            block_bytes=table.block_bytes,
        )


def find_traffic(sizes: Sizes, rows: int, *, logs_hint_bits: bool) -> dict[str, Traffic]:
    """Return what each phase reads and writes, WAL included, by phase.

    At least: what must be read is read once. At most: nothing stays in memory from one reading to the next, every
    index is sorted on disk, and the first reading of the copy sets hint bits, which writes it again, and logs it
    once more where the server logs hint bits.

    Args:
        rows: as counted or guessed.
    """
    heap, index = sizes.heap_bytes, sizes.index_bytes
    wal = heap + rows * WAL_BYTES_PER_ROW
    again = heap * (2 if logs_hint_bits else 1)
    passes = max(1, sizes.indexes)
    return {
        "copy": Traffic(least_bytes=2 * heap + wal, most_bytes=2 * heap + wal + heap),
        "index": Traffic(least_bytes=heap + 2 * index, most_bytes=passes * heap + again + 4 * index),
        "verify": Traffic(least_bytes=2 * heap, most_bytes=2 * heap + index),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Passage:
    seconds: list[float]
    stretches: list[Stretch]


def _pass(storage: Storage, phases: Iterable[Phase], *, at_worst: bool) -> _Passage:
    """Let the phases pass one after the other, each with the credit that the ones before have left."""
    passage, credits = _Passage(seconds=[], stretches=[]), storage.full()
    for phase in phases:
        amount, work_s = (phase.most_bytes, phase.most_s) if at_worst else (phase.least_bytes, phase.least_s)
        io_bytes = storage.least_io_bytes if at_worst else storage.most_io_bytes
        if amount <= 0 or work_s <= 0:
            credits = storage.spend(credits, 0.0, work_s, io_bytes)
            stretches: tuple[Stretch, ...] = (Stretch(seconds=work_s, bytes_per_s=0.0),)
        else:
            stretches, credits = storage.move(
                amount, io_bytes=io_bytes, credits=credits, demand_bytes_per_s=amount / work_s
            )
        passage.seconds.append(total_s(stretches))
        passage.stretches.extend(stretches)
    return passage


def pass_storage(storage: Storage, phases: list[Phase]) -> tuple[list[Phase], str]:
    """Return the phases as long as the storage makes them, and what to say of its fall; '' when it matters little."""
    best, worst = _pass(storage, phases, at_worst=False), _pass(storage, phases, at_worst=True)
    made = [
        replace(
            phase,
            least_s=least_s,
            most_s=most_s,
            limit="storage" if most_s > phase.most_s * 1.01 else "work",
        )
        for phase, least_s, most_s in zip(phases, best.seconds, worst.seconds, strict=True)
    ]
    return made, _describe_fall(storage, phases, worst)


def _describe_fall(storage: Storage, phases: list[Phase], worst: _Passage) -> str:
    announced_s = total_s(_pass(storage.never_falling(), phases, at_worst=True).stretches)
    expected_s = total_s(worst.stretches)
    at_s = 0.0
    for stretch in worst.stretches:
        at_s += stretch.seconds
        if stretch.emptied is not None and expected_s > announced_s * WORTH_SAYING:
            return (
                f"Storage {storage.name}: {_describe(storage.buckets[stretch.emptied], at_s)}. By the rate of the"
                f" first minutes the run would take {format_duration(announced_s)}; with the fall it takes up to"
                f" {format_duration(expected_s)}."
            )
    return ""


def _describe(bucket: Bucket, at_s: float) -> str:
    if bucket.unit == "io":
        rates = f"{bucket.burst:,.0f} IOPS", f"{bucket.baseline:,.0f}"
    else:
        rates = f"{bucket.burst / 1e6:,.0f} MB/s", f"{bucket.baseline / 1e6:,.0f}"
    return f"{bucket.of} gives up to {rates[0]} for the first {format_duration(at_s)}, then {rates[1]}"
