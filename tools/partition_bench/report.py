"""The benchmark's results as Markdown: medians with the least and the most of the rounds. Reads only JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Literal

from partition_bench.model import ChildRun, Comparison, Ground, LoadRun, PartA, PartB, PartC, Results, Round, Window

COPY_AND_INDEX = ("copy", "scrub", "index")


def render(results: Results, *, chart: str = "") -> str:
    """Write the page.

    Args:
        chart: the file name of the chart; empty for none.
    """
    lines = ["# Partitioning: how fast, and what the application feels", ""]
    if "a" in results:
        lines += _part_a(results["a"])
    if "b" in results:
        lines += _part_b(results["b"], chart)
    if "c" in results:
        lines += _part_c(results["c"])
    return "\n".join(lines).rstrip() + "\n"


def phase_s(run: ChildRun, *phases: str) -> float:
    """Seconds spent in the phases."""
    return sum(span["end_s"] - span["start_s"] for span in run["spans"] if span["phase"] in phases)


def copy_and_index_s(run: ChildRun) -> float:
    """Seconds of everything the floor does too, and the scrub that only a live copy needs."""
    return phase_s(run, *COPY_AND_INDEX)


def _part_a(part: PartA) -> list[str]:
    rounds = part["rounds"]

    def row(name: str, seconds: Callable[[Round], float], bound: str = "") -> str:
        took = [seconds(r) for r in rounds]
        ratios = [seconds(r) / r["floor_s"] for r in rounds]
        return f"| {name} | {_spread(took, 2)} | {_spread(ratios, 2)} | {bound} |"

    lines = [
        "## Without a load",
        "",
        f"A table of {part['rows']:,} rows ({part['heap_bytes'] / 1e6:,.0f} MB heap; primary key "
        f"`(id)`, unique `(uid, type, payload_hash)`) into {part['partitions']} hash partitions by `uid`. "
        f"{_rounds(len(rounds))}, the methods alternated, each on its own copy of the database after "
        "a checkpoint; median (least to most). Ratios are taken within a round.",
        "",
        "| | seconds | ratio to the floor | at most |",
        "|---|---|---|---|",
        row("floor: one INSERT … SELECT, then the indexes", lambda r: r["floor_s"]),
        row(
            f"pgscale, everything included, {part['workers']} workers",
            lambda r: r["pgscale"]["process_s"],
            "1.25",
        ),
        row("pgscale, copy and indexes alone", lambda r: copy_and_index_s(r["pgscale"]), "1.0"),
        row("one INSERT … SELECT into the indexed table", lambda r: r["indexed_s"]),
    ]
    if all("batches_s" in r for r in rounds):
        lines.append(
            row(
                "batches by id range, DELETE … RETURNING into the indexed table",
                lambda r: r.get("batches_s", 0.0),
            )
        )
    lines += ["", "Where pgscale's time goes:", "", "| phase | seconds |", "|---|---|"]
    for phase in dict.fromkeys(span["phase"] for r in rounds for span in r["pgscale"]["spans"]):
        lines.append(f"| {phase} | {_spread([phase_s(r['pgscale'], phase) for r in rounds], 2)} |")
    lines += [
        f"| reading the catalog, planning, ending | {_spread([_between_s(r['pgscale']) for r in rounds], 2)} |",
        f"| Python's start and end | {_spread([_python_s(r['pgscale']) for r in rounds], 2)} |",
        "",
        f"The floor is {_spread([r['floor_copy_s'] for r in rounds], 2)} s of copying and "
        f"{_spread([r['floor_index_s'] for r in rounds], 2)} s of indexes; it verifies "
        "nothing and captures nothing. "
        f"Peak memory of the pgscale process: {_spread([_rss_mb(r['pgscale']) for r in rounds], 0)} MB.",
        "",
    ]
    return lines + _ground(part["ground"])


def _part_b(part: PartB, chart: str) -> list[str]:
    lines = [
        "## Under load",
        "",
        f"pgbench, its own TPC-B script, {part['clients']} clients, limited to {part['rate']:,.0f} "
        f"transactions a second: a third of the {part['max_tps']:,.0f} this server can do. "
        f"Scale {part['scale']} ({part['scale'] * 100_000:,} accounts) into {part['partitions']} hash "
        "partitions. Latency counts from the moment a transaction was due. "
        "Before: the same load right before the run. Median of the rounds (least to most).",
        "",
        "| pace | rounds | run, s | p50 before → during, ms | p95, ms | p99, ms | p99 ratio | blocked, ms | failed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    paces = {
        pace: [r for r in part["runs"] if r["pace"] == pace] for pace in dict.fromkeys(r["pace"] for r in part["runs"])
    }
    lines += [_pace_row(pace, runs) for pace, runs in paces.items()]
    exact = sum(run["invariant"] and run["nothing_lost"] for run in part["runs"])
    lines += [
        "",
        f"Exact in {exact} of {len(part['runs'])} runs: the TPC-B sums are equal, and the history holds "
        "as many rows as pgbench was told are committed. Bounds: 0 failed, blocked at most 100 ms, "
        "p99 ratio at most 1.5 at the default pace, normal.",
        "",
    ]
    lines += _part_b_quiet(part.get("controls", []), paces)
    if chart:
        lines += [f"![The load's latency through a run]({chart})", ""]
    return lines + _ground(part["ground"])


def _part_b_quiet(controls: Sequence[Comparison], paces: Mapping[str, Sequence[Comparison]]) -> list[str]:
    """The same without the moments in which the machine stood still, and what no run at all looks like."""
    if not controls or not all("before_quiet" in run for run in controls):
        return []
    return [
        "**The machine's own noise.** A shared machine is taken off its processors for moments at a time. A real-time "
        "process on each processor notes them, and for how much of the time. Where that nears 1 %, the p99 of all "
        "transactions says mostly how many such moments a window held: the row *no run* compares two windows of the "
        "same load with nothing between them. The right half leaves out the transactions that met one.",
        "",
        "| pace | machine stalled, % of the time | p99 of all, ms | ratio | p95 without stalls, ms | ratio "
        "| p99 without stalls, ms | ratio |",
        "|---|---|---|---|---|---|---|---|",
        *(_quiet_row(name, runs) for name, runs in {"no run": controls, **paces}.items()),
        "",
    ]


def _quiet_row(name: str, runs: Sequence[Comparison]) -> str:
    stalled = [100 * run.get(key, 0.0) for run in runs for key in ("before_stalled_share", "during_stalled_share")]
    cells = [name, _spread(stalled, 1), *_change([(r["before"], r["during"]) for r in runs], "p99_ms")]
    quiet = [(r["before_quiet"], r["during_quiet"]) for r in runs if "before_quiet" in r and "during_quiet" in r]
    return f"| {' | '.join([*cells, *_change(quiet, 'p95_ms'), *_change(quiet, 'p99_ms')])} |"


def _change(pairs: Sequence[tuple[Window, Window]], key: Literal["p95_ms", "p99_ms"]) -> tuple[str, str]:
    ratios = [during[key] / before[key] for before, during in pairs if before[key]]
    before, during = [pair[0][key] for pair in pairs], [pair[1][key] for pair in pairs]
    return f"{median(before):.1f} → {_spread(during, 1)}", _spread(ratios, 2)


def _pace_row(pace: str, runs: Sequence[LoadRun]) -> str:
    ratios = [run["during"]["p99_ms"] / run["before"]["p99_ms"] for run in runs if run["before"]["p99_ms"]]
    blocked = [float(run["run"]["result"]["cutover"]["blocked_ms"]) for run in runs]
    percentiles: list[str] = []
    for key in ("p50_ms", "p95_ms", "p99_ms"):
        before, during = [run["before"][key] for run in runs], [run["during"][key] for run in runs]
        percentiles.append(f"{median(before):.1f} → {_spread(during, 1)}")
    cells = [
        pace,
        str(len(runs)),
        _spread([run["run"]["run_s"] for run in runs], 1),
        *percentiles,
        _spread(ratios, 2),
        _spread(blocked, 1),
        f"{sum(run['failed'] for run in runs)} of {sum(run['processed'] for run in runs):,}",
    ]
    return f"| {' | '.join(cells)} |"


def _part_c(part: PartC) -> list[str]:
    lines = ["## Memory", "", "| rows | peak of the pgscale process, MB |", "|---|---|"]
    lines += [f"| {point['rows']:,} | {point['peak_rss_bytes'] / 1e6:.1f} |" for point in part["points"]]
    return [*lines, "", *_ground(part["ground"])]


def _ground(ground: Ground) -> list[str]:
    settings = ", ".join(f"`{name}` {value}" for name, value in ground["settings"].items())
    aged = ""
    if segments := ground.get("aged_segments"):
        aged = (
            f" {segments} WAL segments were written and recycled first: a server that was just born fills each new one "
            "with zeros, which neither side should pay for."
        )
    return [
        f"`{ground['command']}`, {ground['date']}: {ground['server']}, {ground['cores']} cores "
        f"({ground['processor']}) shared by the server, pgscale and the load, Python {ground['python']}. "
        f"{settings}; everything else default.{aged}",
        "",
    ]


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return "–"
    middle = f"{median(values):,.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def _between_s(run: ChildRun) -> float:
    return run["run_s"] - sum(span["end_s"] - span["start_s"] for span in run["spans"])


def _python_s(run: ChildRun) -> float:
    return run["process_s"] - run["run_s"]


def _rss_mb(run: ChildRun) -> float:
    return max(run["peak_rss_bytes"], run["children_peak_rss_bytes"]) / 1e6


def _rounds(count: int) -> str:
    return "1 round" if count == 1 else f"{count} rounds"
