"""The application of the demo and the benchmark: a real pgbench process with its own TPC-B script."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pgscale.core.model import Json
from pgscale.core.signals import deferred
from pgscale.demo.latency import Latency, LogTail, Sample, latency_of, longest_gap_ms
from pgscale.errors import RunFailedError

TRAILING_S = 2.0

_PROCESSED = re.compile(r"^number of transactions actually processed: (\d+)", re.MULTILINE)
_FAILED = re.compile(r"^number of failed transactions: (\d+)", re.MULTILINE)
_TPS = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)
_ABORTED = re.compile(r"^pgbench: error: client \d+ .*aborted.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the application feels now.

    Args:
        served: transactions served since the start.
        failed: transactions that failed, and clients that gave up, since the start.
        tps: transactions a second over the trailing two seconds.
        latency: of the trailing two seconds.
        longest_gap_ms: the longest time since the start in which nothing was served.
        running: whether pgbench still runs.
        error: the first client that it gave up, else the first line it complained with; empty when it did not.
    """

    served: int
    failed: int
    tps: float
    latency: Latency
    longest_gap_ms: float
    running: bool
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What the application felt from start to end.

    Args:
        processed: transactions served, as pgbench itself reports them.
        failed: transactions that failed and were not served, as pgbench itself reports them.
        aborted_clients: clients that met an error they could not go on from.
        tps: as pgbench itself reports it.
        latency: of every served transaction, from the log.
        longest_gap_ms: the longest time in which no transaction was served.
        exit_code: of pgbench.
        error: what it wrote to stderr.
    """

    processed: int
    failed: int
    aborted_clients: int
    tps: float
    latency: Latency
    longest_gap_ms: float
    exit_code: int
    error: str

    @property
    def ok(self) -> bool:
        return self.exit_code == 0 and self.failed == 0 and self.aborted_clients == 0

    def to_json(self) -> dict[str, Json]:
        return {
            "processed": self.processed,
            "failed": self.failed,
            "aborted_clients": self.aborted_clients,
            "tps": round(self.tps, 1),
            "latency": self.latency.to_json(),
            "longest_gap_ms": round(self.longest_gap_ms, 1),
            "exit_code": self.exit_code,
            "error": self.error,
        }


def initialize(pgbench: Path, dsn: str, *, scale: int) -> None:
    """Create and fill pgbench's four tables, without foreign keys, which is its own default.

    Raises:
        RunFailedError: pgbench could not.
    """
    done = subprocess.run(
        [str(pgbench), "--initialize", "--quiet", f"--scale={scale}", dsn],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    if done.returncode != 0:
        raise RunFailedError(f"pgbench could not create its tables: {done.stderr.strip()}")


class Load:
    """A pgbench process between `start` and `stop`; its log tells what every transaction felt.

    It runs in a session of its own, so a Ctrl-C in the terminal reaches only us, and we end it by its id.
    Leaving the `with` block ends it whatever happened. It ends by itself after `limit_s`.

    Args:
        pgbench: the client program.
        dsn: a conninfo string or URL.
        directory: an existing directory of ours, for the log and what pgbench prints.
        clients: how many connections.
        rate: transactions a second to be due, evenly random (Poisson); None for as many as it can.
        protocol: `simple`, `extended` or `prepared`.
        limit_s: seconds after which it ends by itself.
    """

    def __init__(
        self,
        pgbench: Path,
        dsn: str,
        directory: Path,
        *,
        clients: int = 8,
        rate: float | None = None,
        protocol: str = "simple",
        limit_s: int = 3600,
    ) -> None:
        self._logs = directory / "log"
        self._stdout = directory / "stdout"
        self._stderr = directory / "stderr"
        # One thread serves eight clients with ease, and its one log is in order of time. No retries: the
        # application of the demo is one that never expected an error.
        self._command = [
            str(pgbench), "--no-vacuum", f"--client={clients}", "--jobs=1", f"--time={limit_s}",
            f"--protocol={protocol}", "--max-tries=1", "--log", f"--log-prefix={self._logs / 'tx'}",
            *([] if rate is None else [f"--rate={rate:g}"]), dsn,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._tail = LogTail(self._logs)
        self._lock = threading.Lock()
        self._samples: list[Sample] = []
        self._recent: deque[Sample] = deque()
        self._served = 0
        self._failed = 0
        self._gap_ms = 0.0
        self._last_s: float | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int | None:
        """The process id, None before the start."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start pgbench; it serves its first transactions within moments."""
        self._logs.mkdir()
        with deferred(), self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
            )

    def snapshot(self) -> Snapshot:
        """What the application feels now; safe to call from any thread, cheap enough for a screen."""
        with self._lock:
            self._follow()
            now_s = time.time()
            # What pgbench has not written yet is not a pause; what it has not written for a second is.
            if self._last_s is not None and now_s - self._last_s < 1.0:
                now_s = self._last_s
            while self._recent and self._recent[0].at_s < now_s - TRAILING_S:
                self._recent.popleft()
            latency = latency_of(self._recent)
            error = self._stderr.read_text(encoding="utf-8", errors="replace")
            return Snapshot(
                served=self._served,
                failed=self._failed + len(_ABORTED.findall(error)),
                tps=latency.count / TRAILING_S,
                latency=latency,
                longest_gap_ms=self._gap_ms,
                running=self._process is not None and self._process.poll() is None,
                error=(_ABORTED.findall(error) or error.splitlines() or [""])[0],
            )

    def samples(self) -> list[Sample]:
        """Every transaction read so far, in order of time."""
        with self._lock:
            self._follow()
            return sorted(self._samples)

    def stop(self) -> LoadReport:
        """Let every client end its transaction, end pgbench, and report.

        pgbench ends a timed run on SIGALRM, its own timer: the one way to have its final report early.
        """
        process = self._process
        if process is None:
            raise RuntimeError("stop() comes after start()")
        if process.poll() is None:
            process.send_signal(signal.SIGALRM)
        try:
            exit_code = process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            exit_code = process.wait()
        samples = self.samples()
        self._tail.close()
        report = self._stdout.read_text(encoding="utf-8", errors="replace")
        error = self._stderr.read_text(encoding="utf-8", errors="replace").strip()
        return LoadReport(
            processed=int(_first(_PROCESSED, report) or 0),
            failed=int(_first(_FAILED, report) or 0),
            aborted_clients=len(_ABORTED.findall(error)),
            tps=float(_first(_TPS, report) or 0.0),
            latency=latency_of(samples),
            longest_gap_ms=longest_gap_ms(samples),
            exit_code=exit_code,
            error=error,
        )

    def kill(self) -> None:
        """End pgbench at once, if it runs; nothing happens otherwise."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._tail.close()

    def _follow(self) -> None:
        for sample in self._tail.read():
            self._samples.append(sample)
            self._recent.append(sample)
            if sample.failed:
                self._failed += 1
                continue
            self._served += 1
            if self._last_s is not None:
                self._gap_ms = max(self._gap_ms, (sample.at_s - self._last_s) * 1000.0)
            self._last_s = max(sample.at_s, self._last_s or 0.0)


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found.group(1) if found else None
