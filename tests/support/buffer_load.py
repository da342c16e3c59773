"""Producers and drainers as processes of their own, to be killed; and what must be true afterwards.

    python -m support.buffer_load put   WHERE RUN THREADS EVENTS
    python -m support.buffer_load drain WHERE DSN

A producer's thread puts its events one after the other, and says each on stdout when its put has returned. So of every
thread exactly a prefix may be in the table, in its order, once: what was acknowledged, and at most one event more, or
one call's worth, whose put never returned.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import psycopg

from pgscale.errors import ConnectError
from pgscale.write.buffer import Buffer, Drainer, SpoolOptions, open_log

TABLE = "CREATE TABLE event (run integer, thread text, n bigint, note text, seq bigserial)"
OPTIONS = SpoolOptions(segment_bytes=1 << 16)
BATCH = 50
EVERY = 10  # each so manieth put is of a whole batch
STARTS_WITHIN_S = 60.0

T = TypeVar("T")


def open_buffer(where: str, **options: object) -> Buffer:
    if where.startswith("redis"):
        return Buffer("public.event", level="redis", url=where, key=("run", "thread"), lanes=3, **options)
    return Buffer("public.event", path=where, key=("run", "thread"), lanes=3, options=OPTIONS, **options)


def put(where: str, run: int, threads: int, events: int) -> None:
    """Put events from threads until there are enough, or somebody ends it."""

    def work(thread: int) -> None:
        n = 0
        while n < events:
            count = BATCH if n % (EVERY * BATCH) == 0 else 1
            rows = [{"run": run, "thread": str(thread), "n": n + i, "note": "x" * (n % 50)} for i in range(count)]
            if count > 1:
                buffer.put_many(rows)
            else:
                buffer.put(rows[0])
            n += count
            os.write(1, f"{run} {thread} {n}\n".encode())

    with _once_there(lambda: open_buffer(where)) as buffer:
        many = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for one in many:
            one.start()
        for one in many:
            one.join()


def drain(where: str, dsn: str) -> None:
    Drainer(_once_there(lambda: open_log(where)), batch=500).run(dsn)


def _once_there(open_it: Callable[[], T]) -> T:
    """A process may be started while its Redis is being started again: it asks until that is there."""
    until = time.monotonic() + STARTS_WITHIN_S
    while True:
        try:
            return open_it()
        except ConnectError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


@dataclass
class Acknowledged:
    """How many events of each thread are acknowledged, by run and thread."""

    counts: dict[tuple[int, str], int] = field(default_factory=dict)

    def hear(self, text: str) -> None:
        for line in text.split("\n")[:-1]:
            run, thread, n = line.split()
            self.counts[int(run), thread] = int(n)


def start(verb: str, *arguments: object, kill_at: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "support.buffer_load", verb, *map(str, arguments)],
        env={**os.environ, "PGSCALE_KILL_AT": kill_at, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def drain_rest(where: str, dsn: str) -> None:
    """Land what is left."""
    log = open_log(where)
    try:
        Drainer(log).run(dsn, until_empty=True)
        assert log.backlog(_positions(dsn)).events == 0
    finally:
        log.close()


def _positions(dsn: str) -> dict[int, int]:
    with psycopg.connect(dsn) as connection:
        return {lane: int(at) for lane, at in connection.execute("SELECT lane, position FROM pgscale.buffer_lane")}


def check(dsn: str, acknowledged: Acknowledged, *, at_most: int = BATCH) -> int:
    """Compare the table with what was acknowledged; return how many events are in it."""
    found: dict[tuple[int, str], list[int]] = defaultdict(list)
    with psycopg.connect(dsn) as connection:
        for run, thread, n in connection.execute("SELECT run, thread, n FROM event ORDER BY seq"):
            found[run, thread].append(n)
        dead = connection.execute("SELECT to_regclass('pgscale.dead_letter')").fetchone()
        assert dead == (None,), "no event was bad"
    for key in found.keys() | acknowledged.counts.keys():
        landed, known = found[key], acknowledged.counts.get(key, 0)
        assert landed == list(range(len(landed))), f"{key}: not each once and in order"
        assert known <= len(landed) <= known + at_most, f"{key}: {len(landed)} landed, {known} acknowledged"
    return sum(map(len, found.values()))


if __name__ == "__main__":
    if sys.argv[1] == "put":
        put(sys.argv[2], *map(int, sys.argv[3:6]))
    else:
        drain(sys.argv[2], sys.argv[3])
