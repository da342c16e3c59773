"""Measure buffers against committing row by row, in one run.

    python tools/bench_buffer.py [--version 15] [--rounds 3] [--events 200000]

Three measurements, each round: rows a second of one connection that commits each; puts a second of 64 producers (as
threads, as tasks) on a spool with their latencies; and events a second from put to visible row, with a producer process
and a drainer process beside each other. The server runs with fsync on. Figures are medians of the rounds.
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
from collections.abc import Callable
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import servers

from pgscale.embedded import Server, ServerBinaries
from pgscale.write.buffer import AsyncBuffer, Buffer, Drainer, open_log

TABLE = "CREATE TABLE events (id bigserial PRIMARY KEY, user_id bigint, type text, data jsonb, at timestamptz)"
PRODUCERS = 64
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=200_000)
    given = parser.parse_args()
    found = servers.find()[given.version]
    directory = Path(tempfile.mkdtemp(prefix="pgscale-bench-"))
    directory.chmod(0o755)
    server = Server(ServerBinaries(found.bin_dir, given.version), directory / "data", settings={"fsync": "on"}).start()
    results: dict[str, list[tuple[float, ...]]] = {}
    try:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute(TABLE)

        def measure(name: str, function: Callable[[Path], tuple[float, ...]]) -> None:
            spool = directory / "spool"
            results.setdefault(name, []).append(function(spool))
            shutil.rmtree(spool, ignore_errors=True)

        for _ in range(given.rounds):
            measure("row by row, a COMMIT each", lambda _: (row_by_row(server.dsn(), 3),))
            measure("put, 64 threads", lambda spool: put_by_threads(spool, given.events))
            measure("put, 64 tasks", lambda spool: put_by_tasks(spool, given.events))
            measure("end to end", lambda spool: (end_to_end(server.dsn(), spool, 3 * given.events),))
    finally:
        server.stop("immediate")
        shutil.rmtree(directory, ignore_errors=True)
    floor = statistics.median(row[0] for row in results["row by row, a COMMIT each"])
    for name, rows in results.items():
        middle = [statistics.median(column) for column in zip(*rows, strict=True)]
        line = f"{name:<28}{middle[0]:>10,.0f}/s {middle[0] / floor:>7.1f} x"
        print(line + (f"   p50 {middle[1]:.2f} ms, p99 {middle[2]:.2f} ms" if len(middle) > 1 else ""))


if __name__ == "__main__":
    main()
