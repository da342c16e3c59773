"""Looks at the server a few times a second and tells the throttle; reads only what any role may see."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psycopg

from pgscale import sql as named
from pgscale.connect.session import PROBE, Session
from pgscale.livecopy.throttle import Pressure
from pgscale.livecopy.work import Work

QUERIES = named.load("pgscale.livecopy")

# Half of the 2^31 at which transaction ids run out; autovacuum_freeze_max_age is 200 million by default.
OLDEST_XMIN_AGE = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldLimits:
    """When work stops altogether until things are better.

    Args:
        replica_lag_s: a standby's replay lag, seconds.
        slot_retained_bytes: WAL a replication slot keeps on the primary's disk, beyond what it kept at the start.
        free_disk_bytes: free space on the data directory's file system, where it can be known.
    """

    replica_lag_s: float
    slot_retained_bytes: float = 16 * 1024**3
    free_disk_bytes: float = 2 * 1024**3


class Sampler:
    """A thread with a session of its own; the latency of its own small queries is the probe."""

    # Twenty looks a second cost the application a third of its p99 on two cores; five do not.
    PERIOD_S = 0.2
    LOOK_EVERY = 3

    def __init__(self, work: Work, limits: HoldLimits) -> None:
        self.work, self.limits = work, limits
        self._end = threading.Event()
        self._session: Session = work.open(PROBE)
        self._data_directory = local_data_directory(self._session)
        self._first_retained: float | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join(5.0)
        self._session.close()

    def _run(self) -> None:
        query = QUERIES.get("pressure", self._session.info.server_version)
        round_number, waiting_lock, held = 0, 0, ""
        while not self._end.wait(self.PERIOD_S):
            try:
                started = time.monotonic()
                # A commit that must be flushed, as the application's: it feels what our WAL makes others wait for.
                self._session.execute("SELECT pg_catalog.pg_logical_emit_message(true, 'pgscale', '')")
                latency_ms = (time.monotonic() - started) * 1000
                if round_number % self.LOOK_EVERY == 0:
                    row = self._session.execute(query, {"oid": self.work.oid}).fetchone()
                    assert row is not None
                    waiting_lock, lag_s, retained, xmin_age = row
                    held = self._held(lag_s, retained, xmin_age)
            except psycopg.errors.QueryCanceled:
                continue
            except psycopg.Error:
                # The server is gone; the workers meet the same error and report it.
                return
            round_number += 1
            self.work.throttle.observe(Pressure(latency_ms=latency_ms, waiting_lock=waiting_lock, held=held))

    def _held(self, lag_s: float, retained: float, xmin_age: int) -> str:
        if self._first_retained is None:
            self._first_retained = retained
        if lag_s > self.limits.replica_lag_s:
            return f"a standby is {lag_s:.0f} s behind (--max-replica-lag {self.limits.replica_lag_s:g} s)"
        if retained - self._first_retained > self.limits.slot_retained_bytes:
            return f"a replication slot keeps {retained / 1024**3:.0f} GB of WAL"
        if xmin_age > OLDEST_XMIN_AGE:
            return f"the oldest snapshot is {xmin_age:,} transactions old"
        if self._data_directory is not None:
            usage = os.statvfs(self._data_directory)
            free = usage.f_bavail * usage.f_frsize
            if free < self.limits.free_disk_bytes:
                return f"only {free / 1024**3:.1f} GB of disk are free"
        return ""


def local_data_directory(session: Session) -> Path | None:
    """Return the data directory when the server runs on this machine and the role may know it."""
    if session.info.host not in ("", "localhost", "127.0.0.1", "::1") and not session.info.host.startswith("/"):
        return None
    try:
        row = session.execute("SELECT pg_catalog.current_setting('data_directory')").fetchone()
        path = Path(str(row[0])) if row else None
        return path if path is not None and path.is_dir() else None
    except (psycopg.errors.InsufficientPrivilege, OSError):
        return None
