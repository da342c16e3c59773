"""The demo: two tables become partitioned under a live load, on a server that is there only for it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import psycopg
from rich.console import Console

from pgscale import partition
from pgscale.core.signals import as_interrupts, deferred, ignored
from pgscale.demo.flights import FLIGHTS_ROWS, find_flights, load_flights
from pgscale.demo.latency import between, latency_of
from pgscale.demo.load import Load, initialize
from pgscale.demo.proof import DemoResult, read_contents, read_table_proof, read_tpc_b
from pgscale.demo.screen import Screen, open_screen, render_result
from pgscale.embedded import Server, wheel_binaries
from pgscale.errors import InterruptedRunError, PgscaleError, RunFailedError
from pgscale.partition import Options, RunResult
from pgscale.partition.model import Pace

_MAJOR = 18
_ROLE = "demo"
_TRIAL_S = 1.5
_BEFORE_S = 3.0
_AFTER_S = 1.0


class DemoStoppedError(PgscaleError):
    """The person watching stopped the demo; everything it started has ended."""

    exit_code: ClassVar[int] = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class _Demo:
    """What the steps of the demo share: a database, a program, a directory, a screen, the wishes."""

    server: Server
    dsn: str
    pgbench: Path
    directory: Path
    screen: Screen
    clients: int
    pace: Pace
    workers: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Goal:
    """A table and what it becomes."""

    table: str
    words: str
    options: Options


_GOALS = (
    _Goal(
        table="pgbench_accounts",
        words="into 16 partitions by hash of aid",
        options=Options(by="hash:aid", partitions=16),
    ),
    _Goal(
        table="flights",
        words="into a partition a month by time_hour",
        options=Options(by="range:time_hour:month"),
    ),
)


# The demo's server is minutes younger than any in production: give it WAL segments to use again.
_SETTINGS = {"min_wal_size": "2GB", "max_wal_size": "4GB"}
_AGED_SEGMENTS = 96


def run_demo(
    *,
    keep: bool = False,
    scale: int = 10,
    clients: int = 8,
    rate: float | None = None,
    pace: Pace = "normal",
    workers: int | None = None,
    flights_limit: int | None = None,
    as_json: bool = False,
    console: Console | None = None,
) -> DemoResult:
    """Partition `pgbench_accounts` by hash and `flights` by month while pgbench runs, and prove it.

    Starts an embedded PostgreSQL 18 in a temporary directory and works in it as a role without any
    privilege but its own database. Whatever happens, the load and the server have ended when this
    returns or raises, and their directory is deleted.

    Args:
        keep: leave the server and its directory for a look around; the result says where they are.
        scale: of pgbench: 100,000 accounts each.
        clients: connections of the load.
        rate: transactions a second of the load; None for a quarter of what a short trial served.
        pace: of the runs.
        workers: of the runs; None for what the pace has.
        flights_limit: load only so many flights.
        as_json: leave stdout to the caller, who prints the result; else the proof is printed there.
        console: where a person watches; None for stderr.

    Returns:
        The proof; its `ok` is False when anything in it is not as it must be.

    Raises:
        DemoStoppedError: Ctrl-C, or a signal to end.
        PgscaleError: a run failed, or something the demo needs is missing.
    """
    find_flights()
    started_s = time.monotonic()
    try:
        with as_interrupts(), _server(keep=keep) as (server, directory):
            with open_screen(console or Console(stderr=True)) as screen:
                screen.say(f"Starting PostgreSQL {_MAJOR} in {directory}")
                with deferred():
                    server.start()
                version = _create_database(server.dsn())
                demo = _Demo(
                    server=server,
                    dsn=server.dsn(dbname=_ROLE, user=_ROLE),
                    pgbench=server.binaries.bin_dir / "pgbench",
                    directory=directory,
                    screen=screen,
                    clients=clients,
                    pace=pace,
                    workers=workers,
                )
                result = _show(demo, version=version, scale=scale, rate=rate, flights_limit=flights_limit)
            if keep:
                result = replace(result, kept_dsn=demo.dsn, kept_directory=str(directory), kept_pid=server.pid)
    except (KeyboardInterrupt, InterruptedRunError) as error:
        raise DemoStoppedError(
            "Stopped. The load and the server have ended, their files are deleted, nothing is left running."
        ) from error
    result = replace(result, duration_s=time.monotonic() - started_s)
    if not as_json:
        Console().print(render_result(result))
    return result


@contextmanager
def _server(*, keep: bool) -> Generator[tuple[Server, Path]]:
    """A server, not yet started, in a new directory; both are gone after the block.

    Args:
        keep: leave them when the block ends without an error.
    """
    binaries = wheel_binaries(_MAJOR)
    directory = Path(tempfile.mkdtemp(prefix="pgscale-demo-"))
    server: Server | None = None
    kept = False
    try:
        directory.chmod(0o755)  # root's server runs as another user
        server = Server(binaries, directory / "server", settings=_SETTINGS)
        yield server, directory
        kept = keep
    finally:
        if not kept:
            with ignored():
                try:
                    if server is not None:
                        server.close()
                finally:
                    shutil.rmtree(directory, ignore_errors=True)


def _show(demo: _Demo, *, version: str, scale: int, rate: float | None, flights_limit: int | None) -> DemoResult:
    screen = demo.screen
    # All at once: one waits for the disk, one for pgbench, one unpacks a file.
    with ThreadPoolExecutor(max_workers=2) as pool:
        aged = pool.submit(demo.server.age_wal, _AGED_SEGMENTS)
        screen.say(f"Creating pgbench's tables: {scale * 100_000:,} accounts")
        created = pool.submit(initialize, demo.pgbench, demo.dsn, scale=scale)
        screen.say(f"Loading the flights that left New York in 2013: {flights_limit or FLIGHTS_ROWS:,}")
        with psycopg.connect(demo.dsn) as connection:
            load_flights(connection, limit=flights_limit)
        for each in (aged, created):
            each.result()
    with psycopg.connect(demo.dsn) as connection:
        contents = read_contents(connection)
    trial = 0
    if rate is None:
        rate, trial = _try_out(demo)
    screen.say(f"The application: {demo.clients} clients, {rate:,.0f} transactions a second, no retries")
    logs = _fresh(demo.directory, "load")
    with Load(demo.pgbench, demo.dsn, logs, clients=demo.clients, rate=rate) as load:
        screen.follow(load)
        _let_run(load, _BEFORE_S)
        began_s = time.time()
        runs = tuple(_partition(demo, goal) for goal in _GOALS)
        ended_s = time.time()
        _let_run(load, _AFTER_S)
        report = load.stop()
        screen.follow(None)
        samples = load.samples()
    screen.say("The load has ended. Reading everything back in plain SQL")
    with psycopg.connect(demo.dsn) as connection:
        return DemoResult(
            server=version,
            rate=rate,
            duration_s=0.0,
            runs=runs,
            tables=tuple(read_table_proof(connection, table, before) for table, before in contents.items()),
            tpc_b=read_tpc_b(connection),
            load=report,
            trial=trial,
            before=latency_of(between(samples, began_s - _BEFORE_S, began_s)),
            during=latency_of(between(samples, began_s, ended_s)),
        )


def _create_database(dsn: str) -> str:
    """Create the demo's role and the database it owns; returns the server's version.

    The departures of the flights are New York's: in its time zone they fall into twelve months, not thirteen.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE ROLE demo LOGIN")
        connection.execute("CREATE DATABASE demo OWNER demo")
        connection.execute("ALTER DATABASE demo SET timezone = 'America/New_York'")
        return connection.execute("SHOW server_version").fetchall()[0][0]


def _try_out(demo: _Demo) -> tuple[float, int]:
    """Let the load do what it can for a moment.

    Returns:
        A quarter of the transactions a second it was served, and how many that were in all.
    """
    with Load(demo.pgbench, demo.dsn, _fresh(demo.directory, "trial"), clients=demo.clients) as load:
        _let_run(load, _TRIAL_S)
        report = load.stop()
    if not report.ok:
        raise RunFailedError(f"pgbench could not run: {report.error}")
    demo.screen.say(f"This machine serves {report.tps:,.0f} transactions a second; the load takes a quarter")
    return report.tps / 4, report.processed


def _partition(demo: _Demo, goal: _Goal) -> RunResult:
    demo.screen.expect(goal.table, goal.words)
    options = replace(goal.options, pace=demo.pace, workers=demo.workers)
    return partition.run(demo.dsn, goal.table, options, watch=demo.screen.watch)


def _let_run(load: Load, seconds: float) -> None:
    """Wait, watching that the load goes on.

    Raises:
        RunFailedError: pgbench has ended.
    """
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0:
        time.sleep(min(left_s, 0.2))
        seen = load.snapshot()
        if not seen.running:
            raise RunFailedError(f"pgbench has ended before its time: {seen.error}")


def _fresh(directory: Path, name: str) -> Path:
    path = directory / name
    path.mkdir()
    return path
