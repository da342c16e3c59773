"""Part `bad`: what a bad row in every 10,000 costs a write that goes on without them."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import LiteralString

from pgscale import write
from pgscale.embedded import Server
from pgscale.write import loading
from pgscale.write.loading import LoadOptions
from write_bench.copying import emptied
from write_bench.events import connect
from write_bench.model import Part, Ready, Say, in_turn

EVERY = 10_000
COLUMNS = ("id", "place", "stars", "said")
TABLES: LiteralString = (
    "DROP TABLE IF EXISTS events, places; CREATE TABLE places (id bigint PRIMARY KEY);"
    " INSERT INTO places SELECT pg_catalog.generate_series(0, 99);"
    " CREATE TABLE events (id bigint PRIMARY KEY, place bigint NOT NULL, stars integer NOT NULL, said text)"
)
Visit = tuple[int, int, int, str]
# What refuses rows, and such a row.
KINDS: dict[str, tuple[LiteralString, Callable[[int], Visit]]] = {
    "a CHECK": ("ALTER TABLE events ADD CHECK (stars > 0)", lambda n: (n, n % 100, 0, "none")),
    "a foreign key": ("ALTER TABLE events ADD FOREIGN KEY (place) REFERENCES places", lambda n: (n, 100 + n, 1, "")),
}
Do = Callable[[Sequence[Visit], Path], object]


def measure_bad(server: Server, *, rows: int, rounds: int, say: Say) -> list[Part]:
    """Each way of writing against itself without bad rows, for each of what refuses them."""
    good: list[Visit] = [(n, n % 100, 1 + n % 5, "It was what it was; we would go again.") for n in range(rows)]
    parts: list[Part] = []
    with connect(server) as connection, tempfile.TemporaryDirectory() as directory:
        letters, dsn, rejects = write.DeadLetters(), server.dsn(), Path(directory) / "rejects.ndjson"

        def load(path: Path) -> object:
            rejects.unlink(missing_ok=True)
            return loading.load(dsn, "events", str(path), LoadOptions(workers=1, rejects=rejects))

        doing: dict[str, Do] = {
            "write.copy": lambda rows, _: write.copy(connection, "events", rows, COLUMNS, letters),
            "write.insert": lambda rows, _: write.insert(connection, [("events", rows)], dead_letters=letters),
            "write.upsert": lambda rows, _: write.upsert(connection, "events", rows, ["id"], None, COLUMNS, letters),
            "pgscale load": lambda _, path: load(path),
        }
        for kind, (constraint, bad_row) in KINDS.items():
            bad = good.copy()
            for n in range(EVERY // 2, rows, EVERY):
                bad[n] = bad_row(n)
            connection.execute(TABLES)
            connection.execute(constraint)
            given = {
                "none bad": (good, _written(directory, good)),
                f"1 in {EVERY:,} bad": (bad, _written(directory, bad)),
            }
            for name, do in doing.items():
                ways = {way: (_ready(do, *rows_and_file), rows) for way, rows_and_file in given.items()}
                say(f"  {name}, {kind}")
                title, before = f"{name}, {kind}", emptied(connection)
                found = in_turn(title, ways, rows=rows, base="none bad", rounds=rounds, before=before, say=say)
                parts.append(found)
        connection.execute(b"DROP TABLE events, places")
    return parts


def _written(directory: str, rows: Sequence[Visit]) -> Path:
    with tempfile.NamedTemporaryFile("w", dir=directory, suffix=".csv", delete=False, newline="") as out:
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return Path(out.name)


def _ready(do: Do, rows: Sequence[Visit], path: Path) -> Ready:
    return lambda: lambda: do(rows, path)
