"""The demo: its flights, its load, its screen, its proof, and that Ctrl-C leaves nothing behind."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pgscale.core import signals
from pgscale.core.model import Progress
from pgscale.demo.flights import FLIGHTS_ROWS, load_flights
from pgscale.demo.latency import LogTail, Sample, between, latency_of, longest_gap_ms, parse_sample
from pgscale.demo.load import Load, Snapshot, initialize
from pgscale.demo.proof import DemoResult, read_contents, read_table_proof, read_tpc_b
from pgscale.demo.run import run_demo
from pgscale.demo.screen import LiveScreen, PlainScreen, render_result
from pgscale.errors import RunFailedError
from support.servers import Database

DEMO = """
import sys
from pgscale.demo.run import run_demo
from pgscale.errors import PgscaleError
try:
    run_demo(scale=1, flights_limit=20_000, rate=200.0)
except PgscaleError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def pgbench(database: Database) -> Path:
    return database.server.binaries.bin_dir / "pgbench"


@pytest.fixture
def tpc_b(database: Database, pgbench: Path) -> Database:
    initialize(pgbench, database.dsn, scale=1)
    return database


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A temporary directory that a server's own user can reach, which pytest's is not."""
    path = Path(tempfile.mkdtemp(prefix="pgscale-test-demo-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


# The flights


def test_all_flights_arrive(database: Database) -> None:
    connection = database.connect(options="-c timezone=America/New_York")
    assert load_flights(connection) == FLIGHTS_ROWS == 336_776
    counts = connection.execute(
        "SELECT count(*), count(dep_time), count(tailnum), count(DISTINCT date_trunc('month', time_hour)),"
        " count(DISTINCT flight_id), count(*) FILTER (WHERE '' IN (carrier, tailnum, origin, dest)),"
        " count(*) FILTER (WHERE extract(hour FROM time_hour) <> hour)"
        " FROM flights"
    ).fetchone()
    assert counts == (336_776, 328_521, 334_264, 12, 336_776, 0, 0)


def test_some_flights(database: Database) -> None:
    assert load_flights(database.connect(), limit=1000) == 1000


# The load


def test_a_log_line_is_read() -> None:
    assert parse_sample("0 199 2241 0 1175850568 995598") == Sample(1175850568.995598, 2.241)
    assert parse_sample("3 0 failed 0 1499414498 84905") == Sample(1499414498.084905, 0.0, failed=True)
    assert parse_sample("3 0 serialization 0 1499414498 84905 9 2") == Sample(1499414498.084905, 0.0, failed=True)
    assert parse_sample("0 81 skipped 0 1412881037 915924 152.7") is None


@pytest.mark.parametrize("line", ["", "0 199 2241 0 1175850568", "0 199 fast 0 1175850568 995598"])
def test_what_is_no_log_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="pgbench log"):
        parse_sample(line)


def test_a_half_written_line_waits_for_its_other_half(tmp_path: Path) -> None:
    tail = LogTail(tmp_path)
    log = tmp_path / "tx.1"
    log.write_text("0 1 1000 0 100 0\n0 2 20")
    assert tail.read() == [Sample(100.0, 1.0)]
    with log.open("a") as file:
        file.write("00 0 101 500000\n")
    (tmp_path / "tx.1.1").write_text("1 1 3000 0 100 700000\n")
    assert tail.read() == [Sample(100.7, 3.0), Sample(101.5, 2.0)]
    assert tail.read() == []
    tail.close()


def test_percentiles_are_latencies_that_occurred() -> None:
    samples = [Sample(float(n), float(n)) for n in range(1, 201)] + [Sample(201.0, 0.0, failed=True)]
    latency = latency_of(samples)
    assert (latency.count, latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.max_ms) == (
        200, 100.0, 190.0, 198.0, 200.0,
    )  # fmt: skip
    assert latency_of([]).p99_ms == 0.0
    assert [s.at_s for s in between(samples, 5.0, 8.0)] == [5.0, 6.0, 7.0]
    assert longest_gap_ms([Sample(1.0, 1.0), Sample(1.5, 0.0, failed=True), Sample(3.0, 1.0)]) == 2000.0


@pytest.mark.versions(15, 18)
def test_the_log_tells_what_pgbench_reports(tpc_b: Database, pgbench: Path, tmp_path: Path) -> None:
    with Load(pgbench, tpc_b.dsn, tmp_path, rate=300) as load:
        time.sleep(2.5)
        seen = load.snapshot()
        report = load.stop()
        samples = load.samples()
        after = load.snapshot()
    assert seen.running
    assert seen.served > 100
    assert seen.error == ""
    assert 0 < seen.latency.p50_ms <= seen.latency.p99_ms <= seen.latency.max_ms
    assert report.ok
    assert report.failed == report.aborted_clients == 0
    assert report.processed == len(samples) == after.served == report.latency.count
    assert 150 < report.tps < 450
    assert samples == sorted(samples)
    assert not after.running
    found = read_tpc_b(tpc_b.connect())
    assert found.holds
    assert found.transactions == report.processed
    assert found.accounts != 0


def test_an_error_that_ends_a_client_is_a_failure(tpc_b: Database, pgbench: Path, tmp_path: Path) -> None:
    with Load(pgbench, tpc_b.dsn, tmp_path) as load:
        time.sleep(1)
        tpc_b.connect().execute(
            "SELECT pg_terminate_backend(min(pid)) FROM pg_stat_activity WHERE application_name = 'pgbench'"
        )
        until = time.monotonic() + 30
        while "aborted" not in (seen := load.snapshot()).error and time.monotonic() < until:
            time.sleep(0.05)
        report = load.stop()
    assert seen.failed == 1
    assert "aborted" in seen.error
    assert not report.ok
    assert report.aborted_clients == 1
    assert report.exit_code == 2


def test_leaving_the_block_ends_the_load(tpc_b: Database, pgbench: Path, tmp_path: Path) -> None:
    with Load(pgbench, tpc_b.dsn, tmp_path) as load:
        pid = load.pid
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_pgbench_that_cannot_is_told(database: Database, pgbench: Path) -> None:
    with pytest.raises(RunFailedError, match="nowhere"):
        initialize(pgbench, database.server.dsn("nowhere"), scale=1)


# The proof


def test_the_proof_sees_what_is_wrong(tpc_b: Database) -> None:
    connection = tpc_b.connect()
    load_flights(connection, limit=500)
    before = read_contents(connection)
    untouched = read_table_proof(connection, "flights", before["flights"])
    assert untouched.before == untouched.after
    assert (untouched.partitions, untouched.key, untouched.ok) == (0, "", False)
    connection.execute("UPDATE flights SET dest = 'XXX' WHERE flight_id = 7")
    assert read_table_proof(connection, "flights", before["flights"]).after.rows == 500
    assert not replace(read_table_proof(connection, "flights", before["flights"]), partitions=12).ok
    assert read_tpc_b(connection).holds
    connection.execute("UPDATE pgbench_accounts SET abalance = 1 WHERE aid = 1")
    assert not read_tpc_b(connection).holds


# Interrupts


def test_an_interrupt_waits_for_the_end_of_the_block() -> None:
    reached = False
    with pytest.raises(KeyboardInterrupt), signals.deferred():  # noqa: PT012 because the end must be reached
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        reached = True
    assert reached


def test_an_interrupt_wins_over_what_it_made_fail() -> None:
    with pytest.raises(KeyboardInterrupt), signals.deferred():  # noqa: PT012 because two errors must meet
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("initdb was interrupted, too")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("moment", ["Starting", "Loading", "The application", "pgbench_accounts: copy"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_demo_leaves_nothing(temporary: Path, moment: str, number: signal.Signals) -> None:
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [sys.executable, "-c", DEMO],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as demo:
        assert demo.stderr is not None
        lines: list[str] = []
        for line in demo.stderr:
            lines.append(line)
            if line.startswith(moment):
                # As a terminal does it: to every process of the group at once.
                os.killpg(demo.pid, number)
                break
        lines.append(demo.stderr.read())
        assert demo.wait(timeout=60) == 130, "".join(lines)
    said = "".join(lines)
    assert "nothing is left running" in said
    assert "Traceback" not in said
    assert list(temporary.iterdir()) == []
    processes = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert [process for process in processes.splitlines() if str(temporary) in process] == []


# The screen


def test_the_live_screen_shows_pace_and_throttle() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=110, height=40)
    with LiveScreen(console) as screen:
        screen.expect("flights", "into months")
        moment = Progress(table="public.flights", phase="copy", done=50, total=200, rate=1234.0, eta_s=9.0)
        screen.watch(replace(moment, phase="capture"))
        screen.watch(replace(moment, throttled="2 sessions wait for a lock"))
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert "flights into months" in shown
    assert "25%  1,234 rows/s, 9 s left  2 sessions wait for a lock" in shown


def test_the_plain_screen_says_every_phase_once_while_it_is_quick() -> None:
    out = io.StringIO()
    screen = PlainScreen(Console(file=out, width=80))
    for phase in ("capture", "copy", "copy", "copy", "done"):
        screen.watch(Progress(table="t", phase=phase, done=1, total=2, throttled="replica is 12 s behind"))
    assert [line.split(";")[0] for line in out.getvalue().splitlines()] == [
        "t: capture",
        "t: copy",
        "t: done",
    ]
    assert out.getvalue().count("replica is 12 s behind") == 3


def test_a_phase_that_waits_says_so_and_a_phase_that_returns_goes_on() -> None:
    out = io.StringIO()
    with LiveScreen(Console(file=out, force_terminal=True, width=110, height=40)) as screen:
        for phase, note in (("apply", ""), ("verify", ""), ("apply", ""), ("waiting", "session 7 to end")):
            screen.watch(Progress(table="t", phase=phase, note=note))
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue()).rpartition("╭")[2]
    assert [line.split()[1] for line in last.splitlines() if line.startswith("│")] == ["apply", "verify"]
    assert "waiting for session 7 to end" in last


def test_the_snapshot_of_a_load_is_in_the_panel(tpc_b: Database, pgbench: Path, tmp_path: Path) -> None:
    out = io.StringIO()
    with Load(pgbench, tpc_b.dsn, tmp_path, rate=200) as load:
        time.sleep(1)
        with LiveScreen(Console(file=out, force_terminal=True, width=110, height=40)) as screen:
            screen.follow(load)
        seen: Snapshot = load.snapshot()
        load.stop()
    assert seen.served > 0
    assert "the application" in out.getvalue()
    assert "failed 0" in out.getvalue()


# The whole


@pytest.fixture(scope="module")
def shown() -> tuple[DemoResult, str]:
    out = io.StringIO()
    # A server that nobody measures needs no WAL segments from an earlier life.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pgscale.demo.run._AGED_SEGMENTS", 4)
        result = run_demo(scale=1, flights_limit=20_000, rate=200.0, pace="fast", console=Console(file=out, width=200))
    return result, out.getvalue()


def test_the_demo_proves_what_it_says(shown: tuple[DemoResult, str]) -> None:
    result, _ = shown
    assert result.ok, result.to_json()
    assert result.mismatches == result.failed == 0
    assert result.rows_checked >= 120_000
    assert [(t.table, t.key, t.after.rows) for t in result.tables] == [
        ("pgbench_accounts", "HASH (aid)", 100_000),
        ("flights", "RANGE (time_hour)", 20_000),
    ]
    assert result.tables[0].partitions == 16
    assert result.load.processed == result.tpc_b.transactions > 0
    assert result.before.count > 0
    assert result.during.count > 0


def test_the_demo_is_watched(shown: tuple[DemoResult, str]) -> None:
    _, said = shown
    for part in ("pgbench_accounts: copy", "flights: copy", "pgbench_accounts: cutover", "tps", "p99"):
        assert part in said


def test_the_proof_is_rendered(shown: tuple[DemoResult, str]) -> None:
    result, _ = shown
    out = io.StringIO()
    Console(file=out, width=120).print(render_result(result))
    for part in (
        "rows checked",
        "mismatches",
        "failed transactions",
        "longest block",
        "TPC-B invariant",
        "Proved",
    ):
        assert part in out.getvalue()
    worse = replace(result, load=replace(result.load, failed=1))
    assert not worse.ok
    assert worse.to_json()["ok"] is False
