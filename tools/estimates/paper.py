"""Plans on paper: what `plan` says of tables that nobody here has."""

from __future__ import annotations

from collections.abc import Sequence

from pgscale.core.units import format_duration
from pgscale.partition.estimate import estimate_sizes
from pgscale.partition.model import Estimate, Options
from pgscale.partition.throughput import Sizes

GB, TB = 10**9, 10**12
ROW_BYTES = 250
WORKERS = (1, 4, 8)
LEAVES = 64

# Volumes that hold such a table, its copy and its WAL.
STORAGES = {
    TB: (
        "gp2:3TB",
        "gp3:3TB",
        "gp3:iops=12000,throughput=500MB",
        "gp3:iops=12000,throughput=500MB,instance=m5.large",
        "io2-block-express:iops=64000",
        "azure-p50",
        "azure-premium-v2:iops=20000,throughput=600MB",
        "pd-ssd:3TB",
        "st1:3TB",
    ),
    10 * TB: (
        "gp3:iops=16000,throughput=1000MB",
        "io2-block-express:iops=64000",
        "io2-block-express:iops=64000,instance=r5b.2xlarge",
        "azure-p80",
        "azure-premium-v2:iops=80000,throughput=1200MB",
        "pd-ssd:30TB",
    ),
}

# The trap: a table on a volume whose application takes most of what is left when the credit is used up.
TRAP_STORAGE = "gp2:500GB,used=1160"
TRAP_HEAP_BYTES = 153 * GB


def sizes_of(heap_bytes: int) -> Sizes:
    """Return a table with a primary key and one more index, a quarter of its heap together."""
    return Sizes(rows=heap_bytes // ROW_BYTES, heap_bytes=heap_bytes, index_bytes=heap_bytes // 4, indexes=2)


def plan(heap_bytes: int, storage: str | None, workers: int) -> Estimate:
    """Return the estimate at the pace fast; others rest most of the time, which storage then matters less for."""
    options = Options(by="hash:id", partitions=LEAVES, pace="fast", workers=workers, storage=storage)
    return estimate_sizes(sizes_of(heap_bytes), options, LEAVES)


def table_of(heap_bytes: int) -> str:
    """Return the Markdown table of one size: storages down, workers across."""
    rows = [
        [f"`{storage}`", *(_cell(plan(heap_bytes, storage, w)) for w in WORKERS)] for storage in STORAGES[heap_bytes]
    ]
    rows.append(["not described", *(_cell(plan(heap_bytes, None, w)) for w in WORKERS)])
    return markdown(["storage", *(f"{w} worker{'s' if w > 1 else ''}" for w in WORKERS)], rows)


def _cell(made: Estimate) -> str:
    falls = " †" if made.burst_trap else ""
    return f"{_short(made.least_duration_s)} to {_short(made.duration_s)}{falls}"


def _short(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} d"


def trap_table() -> str:
    """Return what `plan` says of the trap, with the size of an I/O known and not."""
    rows: list[list[str]] = []
    for storage in (TRAP_STORAGE, f"{TRAP_STORAGE},io=8kB", f"{TRAP_STORAGE},io=64kB"):
        made = plan(TRAP_HEAP_BYTES, storage, 4)
        span = f"{format_duration(made.least_duration_s)} to {format_duration(made.duration_s)}"
        rows.append([f"`{storage}`", span, made.burst_trap.partition(": ")[2] or "nothing"])
    return markdown(["`--storage`", "the run takes", "the warning"], rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
