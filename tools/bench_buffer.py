"""Measures buffers against committing row by row, in one run. `make bench-buffer`.

    python tools/bench_buffer.py                         into docs/benchmarks/buffer.md
    python tools/bench_buffer.py --quick                 few events, to see that it works; writes nothing

Each round: rows a second of one connection that commits each; puts a second of 64 producers (as threads, as tasks) on
a spool with their latencies; and events a second from put to visible row. The server runs with fsync on.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import psycopg
from partition_bench.ground import SETTINGS, binaries_of, describe
from partition_bench.model import Ground

from pgscale.embedded import Server
from pgscale.write.buffer import AsyncBuffer, Buffer, Drainer, open_log

TABLE = "CREATE TABLE events (id bigserial PRIMARY KEY, user_id bigint, type text, data jsonb, at timestamptz)"
PRODUCERS = 64
PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "buffer.md"
DATA = json.dumps({"path": "/products/1234", "ms": 12, "ok": True})


def event(number: int) -> dict[str, object]:
    return {"user_id": number % 10_000, "type": "click", "data": DATA, "at": dt.datetime.now(dt.UTC)}


def row_by_row(dsn: str, seconds: float) -> float:
    """Rows a second of one connection, a COMMIT each."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            connection.execute(
                "INSERT INTO events (user_id, type, data, at) VALUES (%(user_id)s, %(type)s, %(data)s, %(at)s)",
                event(count),
            )
            count += 1
        return count / (time.perf_counter() - began)


Puts = tuple[float, float, float]


def _figures(latencies: list[float], took_s: float) -> Puts:
    latencies.sort()
    return len(latencies) / took_s, latencies[len(latencies) // 2] * 1e3, latencies[int(len(latencies) * 0.99)] * 1e3


def put_by_threads(spool: Path, events: int) -> Puts:
    """Puts a second, p50 and p99 in milliseconds."""
    latencies: list[float] = []
    with Buffer("public.events", path=spool, key="user_id") as buffer:

        def work() -> None:
            mine: list[float] = []
            for number in range(events // PRODUCERS):
                began = time.perf_counter()
                buffer.put(event(number))
                mine.append(time.perf_counter() - began)
            latencies.extend(mine)

        threads = [threading.Thread(target=work) for _ in range(PRODUCERS)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return _figures(latencies, time.perf_counter() - began)


def put_by_tasks(spool: Path, events: int) -> Puts:
    async def all_of_them() -> Puts:
        latencies: list[float] = []
        async with AsyncBuffer("public.events", path=spool, key="user_id") as buffer:

            async def work() -> None:
                for number in range(events // PRODUCERS):
                    began = time.perf_counter()
                    await buffer.put(event(number))
                    latencies.append(time.perf_counter() - began)

            began = time.perf_counter()
            await asyncio.gather(*(work() for _ in range(PRODUCERS)))
            return _figures(latencies, time.perf_counter() - began)

    return asyncio.run(all_of_them())


def _produce(spool: str, events: int, threads: int, at_once: int) -> None:
    with Buffer("public.events", path=spool, key="user_id") as buffer:

        def work() -> None:
            for number in range(0, events // threads, at_once):
                buffer.put_many([event(n) for n in range(number, number + at_once)])

        many = [threading.Thread(target=work) for _ in range(threads)]
        for thread in many:
            thread.start()
        for thread in many:
            thread.join()


def end_to_end(dsn: str, spool: Path, events: int) -> float:
    """Events a second, from the first put to the last row that is visible; a producer and a drainer side by side."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE events")
        connection.execute("DROP TABLE IF EXISTS pgscale.buffer_lane")
    Buffer("public.events", path=spool, key="user_id").close()
    context = multiprocessing.get_context("spawn")
    producer = context.Process(target=_produce, args=(str(spool), events, 4, 100))
    log = open_log(spool)
    drainer = Drainer(log)
    stop = threading.Event()

    def watch(drained: object) -> None:
        del drained
        if drainer.events >= events:
            stop.set()

    producer.start()
    # Not the start of the process: from when there is something in the buffer.
    while not log.has_events(dict.fromkeys(range(log.target.lanes), log.first_position())):
        time.sleep(0.001)
    began = time.perf_counter()
    drainer.run(dsn, stop, watch=watch)
    took = time.perf_counter() - began
    producer.join()
    log.close()
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (events,)
    return events / took


class Way(NamedTuple):
    """One measured way: its name, and a row a round of (events a second[, p50 ms, p99 ms])."""

    name: str
    measure: Callable[[Server, Path, int], tuple[float, ...]]
    asked: str


def _row_by_row(server: Server, spool: Path, events: int) -> tuple[float, ...]:
    del spool, events
    return (row_by_row(server.dsn(), 3),)


def _threads(server: Server, spool: Path, events: int) -> tuple[float, ...]:
    del server
    return put_by_threads(spool, events)


def _tasks(server: Server, spool: Path, events: int) -> tuple[float, ...]:
    del server
    return put_by_tasks(spool, events)


def _end_to_end(server: Server, spool: Path, events: int) -> tuple[float, ...]:
    return (end_to_end(server.dsn(), spool, 3 * events),)


WAYS = (
    Way("row by row, a COMMIT each", _row_by_row, ""),
    Way("put, 64 threads", _threads, "20 ×, p99 < 10 ms"),
    Way("put, 64 tasks", _tasks, "20 ×, p99 < 10 ms"),
    Way("end to end: put → visible row", _end_to_end, "50,000/s"),
)
Rounds = dict[str, list[tuple[float, ...]]]


def measure(server: Server, directory: Path, rounds: int, events: int) -> Rounds:
    """Measure every way once a round, in turn and then back again."""
    results: Rounds = {way.name: [] for way in WAYS}
    for number in range(rounds):
        for way in WAYS if number % 2 == 0 else WAYS[::-1]:
            spool = directory / "spool"
            figures = way.measure(server, spool, events)
            results[way.name].append(figures)
            shutil.rmtree(spool, ignore_errors=True)
            print(f"{time.strftime('%H:%M:%S')} round {number + 1}: {way.name} {figures[0]:,.0f}/s", file=sys.stderr)
    return results


def render(results: Rounds, ground: Ground, events: int) -> str:
    """Return the page in Markdown."""
    settings = ", ".join(f"{name} {value}" for name, value in ground["settings"].items())
    lines = [
        "# The buffer, measured",
        "",
        f"`{ground['command']}` on {ground['date']}: {ground['server']}, Python {ground['python']},"
        f" {ground['processor']}, {ground['cores']} cores for server, producers and drainer together; {settings}.",
        "",
        f"Each round {PRODUCERS} concurrent producers put {events:,} events on a spool (a put returns when its event is"
        f" on disk), and {3 * events:,} through the spool into a table, by a producer and a drainer process beside"
        " each other. The ratio is a round's own, to one connection that commits each row. Medians of the rounds, with"
        " the least and the most.",
        "",
        "| | events/s | ratio | asked | p50, ms | p99, ms |",
        "|---|---|---|---|---|---|",
    ]
    floor = [row[0] for row in results[WAYS[0].name]]
    for way in WAYS:
        rows = results[way.name]
        rates = [row[0] for row in rows]
        ratios = [rate / base for rate, base in zip(rates, floor, strict=True)]
        latencies = [_spread([row[n] for row in rows], ".2f") for n in range(1, len(rows[0]))] or ["", ""]
        cells = [way.name, _spread(rates, ",.0f"), _spread(ratios, ".1f"), way.asked, *latencies]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _spread(figures: list[float], shape: str) -> str:
    return f"{statistics.median(figures):{shape}} ({min(figures):{shape}} – {max(figures):{shape}})"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--major", type=int, choices=(15, 16, 18), default=15, help="15: Debian's; else the wheel's")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--events", type=int, default=200_000, help="of each way; three times as many end to end")
    parser.add_argument("--quick", action="store_true", help="few events, everything to stdout")
    given = parser.parse_args(arguments)
    quick: bool = given.quick
    rounds, events = (1, 6_400) if quick else (int(given.rounds), int(given.events))
    directory = Path(tempfile.mkdtemp(prefix="pgscale-bench-"))
    try:
        with Server(binaries_of(given.major), settings=SETTINGS) as server:
            with psycopg.connect(server.dsn(), autocommit=True) as connection:
                connection.execute(TABLE)
            page = render(measure(server, directory, rounds, events), describe(server), events)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if not quick:
        PAGE.write_text(page, encoding="utf-8")
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
