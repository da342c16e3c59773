"""Measures writing: copies, upserts and loads against the other libraries and the limit. `make bench-write`.

    python tools/bench_write.py                         everything, into docs/benchmarks/
    python tools/bench_write.py --part load             one part; the others on the page stay as they are
    python tools/bench_write.py --quick                 small sizes, to see that it works; writes nothing

It starts a server of its own in the temporary directory (TMPDIR; about 6 GB for 10,000,000 rows). asyncpg, pgpq and
adbc-driver-postgresql are compared with where they are installed (pip install -e '.[bench]').
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from partition_bench.ground import SETTINGS, binaries_of, describe
from write_bench.copying import measure_arrow, measure_copy
from write_bench.files import measure_load, measure_sizes
from write_bench.isolating import measure_bad
from write_bench.merging import measure_upsert
from write_bench.model import Results
from write_bench.report import render

from pgscale.embedded import Server

DOCS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
KEPT = DOCS / "write.json"
PARTS = ("copy", "arrow", "upsert", "load", "bad", "sizes")


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def measure(server: Server, psql: Path, part: str, results: Results, *, rows: int, rounds: int, quick: bool) -> None:
    """Measure one part, into the results."""
    say(f"{part}: {rows:,} rows, {rounds} rounds")
    if part == "copy":
        results["copy"] = measure_copy(server, rows=rows, rounds=rounds, say=say)
    elif part == "arrow":
        results["arrow"] = measure_arrow(server, rows=rows, rounds=rounds, say=say)
    elif part == "upsert":
        results["upsert"] = measure_upsert(server, rows=rows, rounds=rounds, say=say)
    elif part == "load":
        results["load"] = measure_load(server, psql, rows=4 * rows, rounds=rounds, say=say)
    elif part == "bad":
        results["bad"] = measure_bad(server, rows=2 * rows, rounds=rounds, say=say)
    else:
        sizes = (10_000, 50_000) if quick else (10_000, 100_000, 1_000_000, 10_000_000)
        results["sizes"] = measure_sizes(server, sizes=sizes, say=say)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--major", type=int, choices=(15, 16, 18), default=15, help="15: Debian's; else the wheel's")
    parser.add_argument(
        "--rows", type=int, help="of each way (250,000; four times as many in part load, twice in part bad)"
    )
    parser.add_argument("--rounds", type=int, help="of each way (7)")
    parser.add_argument("--quick", action="store_true", help="small sizes, everything to stdout")
    given = parser.parse_args(arguments)
    quick: bool = given.quick
    rows: int = given.rows or (10_000 if quick else 250_000)
    rounds: int = given.rounds or (1 if quick else 7)
    results: Results = {}
    if not quick and KEPT.exists():
        results = cast("Results", json.loads(KEPT.read_text(encoding="utf-8")))
    binaries = binaries_of(given.major)
    with Server(binaries, settings=SETTINGS) as server:
        results["ground"] = describe(server)
        for part in PARTS if given.part == "all" else (given.part,):
            measure(server, binaries.bin_dir / "psql", part, results, rows=rows, rounds=rounds, quick=quick)
            if not quick:
                # A part that fails does not take the finished ones with it.
                KEPT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
                (DOCS / "write.md").write_text(render(results), encoding="utf-8")
    print(render(results))
    if quick:
        print(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
