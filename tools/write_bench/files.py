"""Parts `load` and `sizes`: a CSV against psql's \\copy; and what a row costs as their number grows."""

from __future__ import annotations

import csv
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from pgscale import write
from pgscale.embedded import Server
from pgscale.write import loading
from pgscale.write.loading import LoadOptions
from write_bench.copying import emptied
from write_bench.events import COLUMNS, TABLE, connect, make_rows
from write_bench.model import AbsentError, Part, Ready, Say, Size, in_turn

PSQL = r"psql \copy"


def measure_load(server: Server, psql: Path, *, rows: int, rounds: int, say: Say) -> Part:
    """Of a CSV with a header; the file is in the page cache for all alike."""
    with tempfile.TemporaryDirectory() as directory, connect(server) as connection:
        path, packed = Path(directory) / "events.csv", Path(directory) / "events.csv.gz"
        with path.open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out)
            writer.writerow(COLUMNS)
            writer.writerows(make_rows(rows))
        packed.write_bytes(gzip.compress(path.read_bytes(), 6))
        connection.execute(b"DROP TABLE IF EXISTS events")
        connection.execute(TABLE)
        dsn = server.dsn()

        def by_psql() -> None:
            if not psql.exists():
                raise AbsentError("the server's binaries have no psql")
            command = rf"\copy events ({', '.join(COLUMNS)}) FROM '{path}' WITH (FORMAT csv, HEADER)"
            subprocess.run([psql, "-qX", dsn, "-c", command], check=True)

        def by_pgscale(workers: int, file: Path) -> None:
            loading.load(dsn, "events", str(file), LoadOptions(workers=workers))

        ways: dict[str, tuple[Ready, int]] = {
            PSQL: (lambda: by_psql, rows),
            "pgscale load, 1 worker": (lambda: lambda: by_pgscale(1, path), rows),
            "pgscale load, 2 workers": (lambda: lambda: by_pgscale(2, path), rows),
            "pgscale load, gzip, 2 workers": (lambda: lambda: by_pgscale(2, packed), rows),
        }
        return in_turn("load", ways, rows=rows, base=PSQL, rounds=rounds, before=emptied(connection), say=say)


def measure_sizes(server: Server, *, sizes: tuple[int, ...], say: Say) -> list[Size]:
    """Each in a process of its own: its peak of memory is that of the copy."""
    found: list[Size] = []
    with connect(server) as connection:
        connection.execute(b"DROP TABLE IF EXISTS events")
        connection.execute(TABLE)
        for rows in sizes:
            emptied(connection)()
            done = subprocess.run(
                [sys.executable, "-m", "write_bench.files", server.dsn(), str(rows)],
                cwd=Path(__file__).parent.parent,
                capture_output=True,
                text=True,
                check=True,
            )
            found.append(json.loads(done.stdout))
            say(f"  {rows:,} rows: {found[-1]['us_per_row']:.2f} µs a row")
    return found


def _child(dsn: str, rows: int) -> Size:
    import psycopg  # noqa: PLC0415 because only the child needs it here

    sample = make_rows(10_000)
    with psycopg.connect(dsn, autocommit=True) as connection:
        began = time.perf_counter()
        endless = (row for _ in range(rows // len(sample) + 1) for row in sample)
        write.copy(connection, "events", islice(endless, rows), COLUMNS)
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"rows": rows, "us_per_row": seconds / rows * 1e6, "peak_rss_bytes": peak}


if __name__ == "__main__":
    print(json.dumps(_child(sys.argv[1], int(sys.argv[2]))))
