"""Measures partitioning: against the physical floor, under load, and in memory. `make bench-partition`.

    python tools/bench_partition.py                     everything, into docs/benchmarks/
    python tools/bench_partition.py --part b            one part; the others on the page stay as they are
    python tools/bench_partition.py --part chart        draws the chart again from the kept measurements
    python tools/bench_partition.py --quick             small sizes, to see that it works; writes nothing

Every part starts a server of its own in the temporary directory (TMPDIR; about 6 GB for 2,000,000 rows).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from partition_bench.chart import draw
from partition_bench.copying import measure_a, measure_c
from partition_bench.ground import SETTINGS, binaries_of
from partition_bench.model import PartB, Results
from partition_bench.report import render
from partition_bench.underload import measure_b

from pgscale.embedded import Server

DOCS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
KEPT = DOCS / "partition.json"
PACES = ("gentle", "normal", "fast")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the command line asks for."""

    part: str
    major: int
    rows: int
    rounds: int
    scale: int
    paces: tuple[str, ...]
    before_s: float
    trial_s: float
    batches: bool
    quick: bool


def parse(arguments: Sequence[str]) -> Wishes:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("a", "b", "c", "chart", "all"), default="all")
    parser.add_argument("--major", type=int, choices=(15, 16, 18), default=15, help="15: Debian's; else the wheel's")
    parser.add_argument("--rows", type=int, help="of the table of parts a and c (2,000,000)")
    parser.add_argument("--rounds", type=int, help="of parts a and b (3)")
    parser.add_argument("--scale", type=int, help="of pgbench in part b: 100,000 accounts each (20)")
    parser.add_argument("--pace", action="append", choices=PACES, help="of part b; repeatable (all three)")
    parser.add_argument("--no-batches", action="store_true", help="leave out the batches by id range in part a")
    parser.add_argument("--quick", action="store_true", help="small sizes, everything to stdout")
    given = parser.parse_args(arguments)
    quick: bool = given.quick
    return Wishes(
        part=given.part,
        major=given.major,
        rows=given.rows or (100_000 if quick else 2_000_000),
        rounds=given.rounds or (1 if quick else 3),
        scale=given.scale or (2 if quick else 20),
        paces=tuple(given.pace or PACES),
        before_s=4.0 if quick else 20.0,
        trial_s=3.0 if quick else 10.0,
        batches=not given.no_batches,
        quick=quick,
    )


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def measure(part: str, wishes: Wishes, results: Results) -> None:
    """Measure one part on a new server, into the results."""
    with Server(binaries_of(wishes.major), settings=SETTINGS) as server:
        if part == "a":
            results["a"] = measure_a(server, rows=wishes.rows, rounds=wishes.rounds, batches=wishes.batches, say=say)
        elif part == "b":
            results["b"] = measure_b(
                server,
                scale=wishes.scale,
                paces=wishes.paces,
                rounds=wishes.rounds,
                trial_s=wishes.trial_s,
                before_s=wishes.before_s,
                say=say,
            )
        else:
            results["c"] = measure_c(server, sizes=(wishes.rows // 10, wishes.rows), say=say)


def draw_chart(part: PartB, directory: Path) -> Path:
    """Draw the run whose p99 is the median of its pace, the default one if it was measured."""
    runs = [run for run in part["runs"] if run["pace"] == "normal"] or part["runs"]
    chosen = sorted(runs, key=lambda run: run["during"]["p99_ms"])[len(runs) // 2]
    target = directory / "partition-latency"
    png, svg = draw(chosen, server=part["ground"]["server"], rate=part["rate"], target=target)
    say(f"{png.name} {png.stat().st_size:,} bytes, {svg.name} {svg.stat().st_size:,} bytes")
    return png


def save(results: Results) -> str:
    """Write everything into the documentation; returns the page."""
    DOCS.mkdir(parents=True, exist_ok=True)
    chart = draw_chart(results["b"], DOCS).name if "b" in results else ""
    KEPT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    page = render(results, chart=chart)
    (DOCS / "partition.md").write_text(page, encoding="utf-8")
    return page


def main(arguments: Sequence[str]) -> int:
    wishes = parse(arguments)
    parts = {"all": ("a", "b", "c"), "chart": ()}.get(wishes.part, (wishes.part,))
    results: Results = {}
    if wishes.quick:
        for part in parts:
            measure(part, wishes, results)
        with tempfile.TemporaryDirectory() as directory:
            chart = draw_chart(results["b"], Path(directory)).name if "b" in results else ""
        print(render(results, chart=chart))
        print(json.dumps(results, indent=1))
        return 0
    if KEPT.exists():
        results = cast("Results", json.loads(KEPT.read_text(encoding="utf-8")))
    if wishes.part == "chart" and "b" not in results:
        print("There are no measurements to draw: run --part b first.", file=sys.stderr)
        return 2
    for part in parts:
        measure(part, wishes, results)
        save(results)  # a part that fails does not take the finished ones with it
    print(save(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
