"""Part B: what the application feels while its table is partitioned."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from partition_bench.ground import AGED_SEGMENTS, connect, create_database, describe, fresh_copy, run_pgscale
from partition_bench.model import Bucket, Comparison, LoadRun, PartB, Window
from partition_bench.stalls import StallWatch, stalled_share, without_stalls
from pgscale.demo.latency import Sample, between, latency_of
from pgscale.demo.load import Load, initialize
from pgscale.demo.proof import read_tpc_b
from pgscale.embedded import Server

PARTITIONS = 16
CLIENTS = 8
BUCKET_S = 0.5

_SOURCE = "tpcb"
_SETTLE_S = 5.0
_AFTER_S = 3.0


def measure_b(
    server: Server,
    *,
    scale: int,
    paces: Sequence[str],
    rounds: int,
    trial_s: float,
    before_s: float,
    say: Callable[[str], None],
) -> PartB:
    """Measure the load without and with a run, for each pace in turn, `rounds` times.

    Args:
        trial_s: how long the load runs without a limit, to know what the server can do.
        before_s: how long the load is measured without a run, right before each.
    """
    create_database(server, _SOURCE)
    server.age_wal(AGED_SEGMENTS)
    initialize(server.binaries.bin_dir / "pgbench", server.dsn(_SOURCE), scale=scale)
    max_tps = _max_tps(server, trial_s)
    rate = max_tps / 3
    say(f"pgbench scale {scale}: {max_tps:,.0f} tps at most; the load is {rate:,.0f} tps")
    runs: list[LoadRun] = []
    controls: list[Comparison] = []
    for number in range(rounds):
        controls.append(_measure_nothing(server, rate=rate, before_s=before_s))
        say(f"round {number + 1}: no run, {_told(controls[-1])}")
        for pace in _turn(paces, number):
            run = _measure(server, pace=pace, rate=rate, before_s=before_s)
            runs.append(run)
            say(
                f"round {number + 1}: {pace} {run['run']['run_s']:.1f} s, {_told(run)}, "
                f"blocked {run['run']['result']['cutover']['blocked_ms']} ms, failed {run['failed']}"
            )
    return {
        "ground": describe(server, aged_segments=AGED_SEGMENTS),
        "scale": scale,
        "partitions": PARTITIONS,
        "clients": CLIENTS,
        "max_tps": max_tps,
        "rate": rate,
        "controls": controls,
        "runs": runs,
    }


def _turn(paces: Sequence[str], number: int) -> tuple[str, ...]:
    """The paces of a round, another one first each time; only the default one, which has a bound, in every round."""
    turn = number % len(paces)
    order = (*paces[turn:], *paces[:turn])
    return tuple(pace for pace in order if number % 3 == 0 or pace == "normal" or len(paces) == 1)


def _told(compared: Comparison) -> str:
    said = f"p99 {compared['before']['p99_ms']:.1f} -> {compared['during']['p99_ms']:.1f} ms"
    if "before_quiet" in compared and "during_quiet" in compared:
        quiet = f"{compared['before_quiet']['p99_ms']:.1f} -> {compared['during_quiet']['p99_ms']:.1f} ms"
        said += f" ({quiet} while the machine ran)"
    return said


def _max_tps(server: Server, seconds: float) -> float:
    with fresh_copy(server, _SOURCE) as database, tempfile.TemporaryDirectory() as directory:
        pgbench = server.binaries.bin_dir / "pgbench"
        with Load(pgbench, server.dsn(database), Path(directory), clients=CLIENTS) as load:
            time.sleep(seconds)
            return load.stop().tps


def _measure_nothing(server: Server, *, rate: float, before_s: float) -> Comparison:
    """The same load and the same windows without any run: what differs is the machine's noise."""
    pgbench = server.binaries.bin_dir / "pgbench"
    with (
        fresh_copy(server, _SOURCE) as database,
        tempfile.TemporaryDirectory() as directory,
        StallWatch() as watch,
        Load(pgbench, server.dsn(database), Path(directory), clients=CLIENTS, rate=rate) as load,
    ):
        time.sleep(_SETTLE_S + 2 * before_s + _AFTER_S)
        load.stop()
        samples = load.samples()
        ended_s = samples[-1].at_s - _AFTER_S
        return _compare(samples, watch, started_s=ended_s - before_s, ended_s=ended_s, before_s=before_s)


def _measure(server: Server, *, pace: str, rate: float, before_s: float) -> LoadRun:
    pgbench = server.binaries.bin_dir / "pgbench"
    options = {"by": "hash:aid", "partitions": PARTITIONS, "pace": pace}
    with (
        fresh_copy(server, _SOURCE) as database,
        tempfile.TemporaryDirectory() as directory,
        StallWatch() as watch,
    ):
        dsn = server.dsn(database)
        with Load(pgbench, dsn, Path(directory), clients=CLIENTS, rate=rate) as load:
            time.sleep(_SETTLE_S + before_s)
            run = run_pgscale(dsn, "public.pgbench_accounts", options)
            time.sleep(_AFTER_S)
            report = load.stop()
            samples = load.samples()
        with connect(server, database) as connection:
            tpc_b = read_tpc_b(connection)
        started_s, ended_s = run["started_s"], run["ended_s"]
        compared = _compare(samples, watch, started_s=started_s, ended_s=ended_s, before_s=before_s)
    shown = between(samples, started_s - before_s, ended_s + _AFTER_S)
    return {
        **compared,
        "pace": pace,
        "processed": report.processed,
        "failed": report.failed + report.aborted_clients,
        "error": report.error,
        "invariant": tpc_b.holds,
        "nothing_lost": tpc_b.transactions == report.processed,
        "longest_gap_ms": report.longest_gap_ms,
        "run": run,
        "buckets": _buckets(shown, started_s, before_s),
    }


def _compare(
    samples: Sequence[Sample], watch: StallWatch, *, started_s: float, ended_s: float, before_s: float
) -> Comparison:
    compared: Comparison = {
        "before": _window(between(samples, started_s - before_s, started_s)),
        "during": _window(between(samples, started_s, ended_s)),
    }
    if watch.watches:
        stalls = watch.stalls()
        quiet = without_stalls(samples, stalls)
        compared["before_quiet"] = _window(between(quiet, started_s - before_s, started_s))
        compared["during_quiet"] = _window(between(quiet, started_s, ended_s))
        compared["before_stalled_share"] = stalled_share(stalls, started_s - before_s, started_s)
        compared["during_stalled_share"] = stalled_share(stalls, started_s, ended_s)
    return compared


def _window(samples: Sequence[Sample]) -> Window:
    latency = latency_of(samples)
    return {
        "count": latency.count,
        "p50_ms": latency.p50_ms,
        "p95_ms": latency.p95_ms,
        "p99_ms": latency.p99_ms,
        "max_ms": latency.max_ms,
    }


def _buckets(samples: Sequence[Sample], started_s: float, before_s: float) -> list[Bucket]:
    """Summarize the samples by halves of a second; those in which nothing was served are left out."""
    buckets: list[Bucket] = []
    if not samples:
        return buckets
    number = 0
    while (start_s := started_s - before_s + number * BUCKET_S) <= samples[-1].at_s:
        latency = latency_of(between(samples, start_s, start_s + BUCKET_S))
        number += 1
        if latency.count:
            buckets.append(
                {
                    "at_s": round(start_s - started_s + BUCKET_S / 2, 3),
                    "count": latency.count,
                    "p50_ms": latency.p50_ms,
                    "p99_ms": latency.p99_ms,
                    "max_ms": latency.max_ms,
                }
            )
    return buckets
