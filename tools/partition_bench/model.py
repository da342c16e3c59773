"""What the benchmark measures, in the shape in which it is kept as JSON."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class Ground(TypedDict):
    """Where and how it was measured."""

    command: str
    date: str
    server: str
    cores: int
    processor: str
    python: str
    settings: dict[str, str]
    aged_segments: NotRequired[int]


class Span(TypedDict):
    """A phase of a run, in seconds of Unix time."""

    phase: str
    start_s: float
    end_s: float


class ChildRun(TypedDict):
    """One `partition.run` in a process of its own.

    `process_s` is from the start of the process to its end, `run_s` the call alone. The peaks are of
    resident memory, of the process and of the largest of its own children.
    """

    process_s: float
    run_s: float
    cpu_s: float
    peak_rss_bytes: int
    children_peak_rss_bytes: int
    started_s: float
    ended_s: float
    spans: list[Span]
    result: dict[str, Any]


class Round(TypedDict):
    """The methods once each, seconds; the floor also by its two halves."""

    floor_copy_s: float
    floor_index_s: float
    floor_s: float
    indexed_s: float
    batches_s: NotRequired[float]
    pgscale: ChildRun


class PartA(TypedDict):
    """Without a load."""

    ground: Ground
    rows: int
    heap_bytes: int
    partitions: int
    workers: int
    rounds: list[Round]


class Window(TypedDict):
    """What the served transactions of a window felt."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class Bucket(TypedDict):
    """A moment of the load: seconds since the run began, and what its transactions felt."""

    at_s: float
    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Comparison(TypedDict):
    """The load before and during a run, of every transaction and of those during which the machine did not stand still.

    The shares are of the time in which a processor stood still; the quiet windows are left out where that could
    not be watched.
    """

    before: Window
    during: Window
    before_quiet: NotRequired[Window]
    during_quiet: NotRequired[Window]
    before_stalled_share: NotRequired[float]
    during_stalled_share: NotRequired[float]


class LoadRun(Comparison):
    """One run under load."""

    pace: str
    processed: int
    failed: int
    error: str
    invariant: bool
    nothing_lost: bool
    longest_gap_ms: float
    run: ChildRun
    buckets: list[Bucket]


class PartB(TypedDict):
    """Under load."""

    ground: Ground
    scale: int
    partitions: int
    clients: int
    max_tps: float
    rate: float
    controls: NotRequired[list[Comparison]]
    runs: list[LoadRun]


class MemoryPoint(TypedDict):
    """The memory a run of so many rows needs."""

    rows: int
    peak_rss_bytes: int
    children_peak_rss_bytes: int


class PartC(TypedDict):
    """Memory against rows."""

    ground: Ground
    points: list[MemoryPoint]


class Results(TypedDict, total=False):
    """Everything that was measured, each part with its own ground."""

    a: PartA
    b: PartB
    c: PartC
