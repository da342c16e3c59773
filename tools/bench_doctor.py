"""Measures `pgscale doctor` on a database of many tables and indexes. `make bench-doctor`.

    python tools/bench_doctor.py                          10,000 tables, 40,000 indexes, into docs/benchmarks/doctor.md
    python tools/bench_doctor.py --against DIR            beside the queries of another tool: files NAME.sql in DIR
    python tools/bench_doctor.py --quick                  100 tables, to see that it works; writes nothing

Each round runs the whole command as a user does, as a process of its own, over a role with pg_monitor and
pg_read_all_data; then, in one session, each query of the other tool that asks what a check of ours asks (SHARED), and
those checks alone. The order of the two alternates. The tables have rows, statistics, dead rows and scans.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg
from partition_bench.ground import binaries_of, describe
from partition_bench.model import Ground

from pgscale.connect.session import open_session
from pgscale.doctor import registry
from pgscale.doctor.facts import DOCTOR, Facts, NotReadableError
from pgscale.doctor.limits import Limits
from pgscale.embedded import Server

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "doctor.md"
INDEXES_A_TABLE = 4
BATCH = 200
# Names of python-pg-extras' queries, and the area or check of ours that asks the same and more.
SHARED = {
    "cache_hit": "cache.hits",
    "index_cache_hit": "cache.hits",
    "table_cache_hit": "cache.hits",
    "unused_indexes": "indexes",
    "duplicate_indexes": "indexes",
    "missing_fk_indexes": "indexes",
    "null_indexes": "indexes",
    "long_running_queries": "queries",
    "vacuum_stats": "autovacuum",
    "bloat": "bloat",
    "connections": "sessions.connections",
}


def fill(server: Server, tables: int) -> None:
    """Create the tables, 200 a transaction, with four indexes, some rows and some dead ones each."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("CREATE ROLE doctor LOGIN IN ROLE pg_monitor, pg_read_all_data")
        for first in range(0, tables, BATCH):
            connection.execute(
                f"""DO $$ BEGIN FOR i IN {first}..{min(first + BATCH, tables) - 1} LOOP
                    EXECUTE format('CREATE TABLE t%s (id bigint PRIMARY KEY, a int, b text, at timestamptz)', i);
                    EXECUTE format('CREATE INDEX ON t%s (a)', i);
                    EXECUTE format('CREATE INDEX ON t%s (b, a)', i);
                    EXECUTE format('CREATE INDEX ON t%s (at)', i);
                    EXECUTE format('INSERT INTO t%s SELECT g, g, g::text, now() FROM generate_series(1, 20) g', i);
                    EXECUTE format('DELETE FROM t%s WHERE id %% 4 = 0', i);
                END LOOP; END $$""".encode()
            )
        connection.execute("ANALYZE")


def whole(server: Server) -> tuple[float, float]:
    """The command, as a process of its own: seconds, and the peak of its memory in MB."""
    command = [
        sys.executable, "-c",
        "import resource, sys; from pgscale.cli import main\n"
        "try: main()\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)",
        "doctor", "--samples", "none", "--dsn", server.dsn(user="doctor"),
    ]  # fmt: skip
    began = time.perf_counter()
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    took_s = time.perf_counter() - began
    if ran.returncode not in (0, 1):
        raise SystemExit(ran.stderr)
    return took_s, int(ran.stderr.split()[-1]) / 1024


def checks_alone(server: Server, names: Sequence[str]) -> float:
    """Seconds of these checks in one session that is open already."""
    checks = registry.choose(names)
    with open_session(server.dsn(user="doctor"), DOCTOR) as session:
        facts, limits = Facts(session), Limits()
        began = time.perf_counter()
        for check in checks:
            try:
                check.judge(facts, limits)
            except NotReadableError as error:
                print(f"  {check.id}: not checked, because {error.because}", file=sys.stderr)
        return time.perf_counter() - began


def queries_alone(server: Server, files: Sequence[Path]) -> float:
    """Seconds of the other tool's queries in one session."""
    with psycopg.connect(server.dsn(user="doctor"), autocommit=True) as connection:
        began = time.perf_counter()
        for file in files:
            connection.execute(file.read_bytes()).fetchall()
        return time.perf_counter() - began


def measure(server: Server, against: Path | None, rounds: int) -> dict[str, list[float]]:
    known = {check.id for check in registry.CHECKS} | {check.area for check in registry.CHECKS}
    shared = {name: ours for name, ours in SHARED.items() if ours in known}
    files = [file for name in shared if against is not None and (file := against / f"{name}.sql").exists()]
    names = sorted({shared[file.stem] for file in files})
    found: dict[str, list[float]] = {"whole": [], "memory": []}
    if files:
        print(f"Shared: {', '.join(file.stem for file in files)}; ours: {', '.join(names)}")
        found |= {"ours": [], "theirs": []}
    for number in range(rounds):
        took_s, memory = whole(server)
        found["whole"].append(took_s)
        found["memory"].append(memory)
        if files:
            ways = [("ours", lambda: checks_alone(server, names)), ("theirs", lambda: queries_alone(server, files))]
            for key, way in ways if number % 2 else ways[::-1]:
                found[key].append(way())
        print(", ".join(f"{key} {values[-1]:.2f}" for key, values in found.items()), flush=True)
    return found


def render(found: dict[str, list[float]], ground: Ground, tables: int) -> str:
    """Return the page in Markdown."""
    rows = [
        ("`pgscale doctor`, the whole process, s", found["whole"], "3"),
        ("its peak of memory, MB", found["memory"], "100"),
    ]
    if "ours" in found:
        ratios = [ours / theirs for ours, theirs in zip(found["ours"], found["theirs"], strict=True)]
        rows += [
            ("the shared checks, s", found["ours"], ""),
            ("the other tool's queries for them, s", found["theirs"], ""),
            ("ratio, within a round", ratios, "0.5"),
        ]
    lines = [
        "# The doctor, measured",
        "",
        f"`{ground['command']}` on {ground['date']}: {ground['server']}, {ground['cores']} cores"
        f" ({ground['processor']}), Python {ground['python']}. {tables:,} tables with {INDEXES_A_TABLE} indexes each,"
        f" {len(registry.CHECKS)} checks. Median (least to most) of {len(found['whole'])} rounds.",
        "",
        "| | measured | at most |",
        "|---|---|---|",
    ]
    for name, values, bound in rows:
        lines.append(f"| {name} | {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}) | {bound} |")
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--major", type=int, choices=(15, 16, 18), default=18, help="15: Debian's; else the wheel's")
    parser.add_argument("--tables", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, help="directory of NAME.sql, python-pg-extras' for instance")
    parser.add_argument("--quick", action="store_true", help="few tables, everything to stdout")
    given = parser.parse_args(arguments)
    tables: int = 100 if given.quick else given.tables
    settings = {"shared_buffers": "256MB", "max_locks_per_transaction": "256", "autovacuum": "off", "fsync": "off"}
    with Server(binaries_of(given.major), settings=settings) as server:
        fill(server, tables)
        ground = describe(server)
        if given.against is not None:
            # Where it lies on this machine is nobody's business.
            ground["command"] = ground["command"].replace(str(given.against), "DIR")
        page = render(measure(server, given.against, 1 if given.quick else given.rounds), ground, tables)
    if not given.quick:
        PAGE.write_text(page, encoding="utf-8")
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
