"""pgbench while a table is attached, divided or moved, and brought back: what fails, and whether the sums are right."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter

import psycopg
import pytest

from pgscale import partition
from pgscale.partition import Options, RunResult, SplitOptions
from pgscale.partition.model import Pace, StrategyName
from support.clients import pgbench
from support.servers import Database

CLIENTS, EACH = 4, 150
ACCOUNTS = "pgbench_accounts"
FIGURES = {
    "processed": "transactions actually processed",
    "failed": "failed transactions",
    "retried": "transactions retried",
}


class Bench:
    """pgbench's TPC-B, a piece at a time without a pause, until the end of the `with`.

    Args:
        protocol: of pgbench; prepared statements outlive the exchange of what they are about.
        most_tries: 1: a serialization failure or a deadlock is a transaction that failed.
    """

    def __init__(self, dsn: str, protocol: str, most_tries: int) -> None:
        self.figures: Counter[str] = Counter()
        self.error: BaseException | None = None
        self._arguments = ("-n", "-c", str(CLIENTS), "-j", "2", "-t", str(EACH), "-M", protocol)
        self._arguments += (f"--max-tries={most_tries}",)
        self._dsn, self._end = dsn, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Bench:
        self._thread.start()
        self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(120)
        assert not self._thread.is_alive(), "pgbench does not end"

    def _run(self) -> None:
        try:
            while not self._end.is_set():
                said = pgbench(self._dsn, *self._arguments)
                # Retries are told only where there may be some.
                for name, line in FIGURES.items():
                    found = re.search(rf"^number of {line}: (\d+)", said, re.MULTILINE)
                    assert found or name == "retried", said
                    self.figures[name] += int(found[1]) if found else 0
                self.figures["pieces"] += 1
        except BaseException as error:  # noqa: BLE001 because it is looked at by the test
            self.error = error

    def go_on(self) -> None:
        """Return when a whole piece has begun and ended from now on."""
        wanted, until = self.figures["pieces"] + 2, time.monotonic() + 120
        while self.figures["pieces"] < wanted and self.error is None:
            assert time.monotonic() < until, "pgbench does not get on"
            time.sleep(0.02)


def _start(way: str, dsn: str, pace: Pace) -> RunResult:
    if way == "split":
        return partition.split(dsn, ACCOUNTS, SplitOptions(every="20000", pace=pace, workers=1))
    by, partitions = ("hash:aid", 4) if way == "move" else ("range:aid:100000", None)
    strategy: StrategyName = "move" if way == "move" else "attach"
    options = Options(by=by, partitions=partitions, strategy=strategy, pace=pace, workers=1)
    return partition.run(dsn, ACCOUNTS, options)


WAYS = [(way, protocol) for way in ("attach", "split", "move") for protocol in ("simple", "prepared")]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("way", "protocol"), [WAYS[0], WAYS[3], WAYS[4]])
def test_pgbench_goes_on(database: Database, way: str, protocol: str) -> None:
    _goes_on(database, way, protocol, "fast", again=way != "move")


@pytest.mark.soak
@pytest.mark.parametrize(("way", "protocol"), WAYS)
def test_pgbench_goes_on_at_the_normal_pace(database: Database, way: str, protocol: str) -> None:
    _goes_on(database, way, protocol, "normal", again=True)


def _goes_on(database: Database, way: str, protocol: str, pace: Pace, *, again: bool) -> None:
    dsn = database.dsn
    pgbench(dsn, "-i", "-s", "1", "-q")
    if way == "split":
        assert _start("attach", dsn, "fast").state == "cut-over"
        partition.finish(dsn, ACCOUNTS)
    with Bench(dsn, protocol, 1 if way != "move" else 10_000) as bench:
        assert _start(way, dsn, pace).state == "cut-over"
        bench.go_on()
        assert partition.undo(dsn, ACCOUNTS).state == "undone"
        bench.go_on()
        if again:
            assert _start(way, dsn, pace).state == "cut-over"
            assert partition.finish(dsn, ACCOUNTS).state == "finished"
            bench.go_on()
    assert bench.error is None, bench.error
    figures = bench.figures
    print(f"{way}, {protocol}: {dict(figures)}")
    assert figures["failed"] == 0
    assert figures["processed"] == figures["pieces"] * CLIENTS * EACH
    with psycopg.connect(dsn) as conn:
        sums = conn.execute(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),"
            " (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history),"
            " (SELECT count(*) FROM pgbench_history), (SELECT count(DISTINCT aid) FROM pgbench_accounts)"
        ).fetchone()
    assert sums is not None
    assert sums[:4] == (sums[0],) * 4
    assert sums[4:] == (figures["processed"], 100_000)
