"""Looks at the server a few times a second and tells the throttle; reads only what any role may see."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psycopg

from pgscale import sql as named
from pgscale.connect.session import PROBE, Session
from pgscale.core.units import format_bytes
from pgscale.errors import PgscaleError
from pgscale.livecopy.throttle import Pressure
from pgscale.livecopy.work import Work

QUERIES = named.load("pgscale.livecopy")


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldLimits:
    """When work stops altogether until things are better.

    Args:
        replica_lag_s: what a standby or subscriber may be behind, seconds.
        slot_retained_bytes: WAL a replication slot keeps on the primary's disk, beyond the least it has kept since
            the run, or the slot, began: a new one may reach back to the last checkpoint.
        oldest_xmin_age: transactions since the oldest snapshot was taken. By default half of the 2^31 at which
            transaction ids run out; autovacuum_freeze_max_age is 200 million by default.
        free_disk_bytes: free space on the data directory's file system, where it can be known.
    """

    replica_lag_s: float
    slot_retained_bytes: float = 16 * 1024**3
    oldest_xmin_age: int = 1_000_000_000
    free_disk_bytes: float = 2 * 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Standby:
    """What the server says of one that receives and replays its WAL.

    Args:
        name: its application_name.
        replay_lag_s: the server's own measure, as of the standby's last reply; 0 when there is none.
        replayed_bytes: the position it had replayed then.
    """

    name: str
    replay_lag_s: float
    replayed_bytes: int


class ReplayClock:
    """Tells by our own clock how long the slowest standby has left WAL unreplayed.

    pg_stat_replication.replay_lag is computed when a standby replies: of one that no longer does (its host hangs, the
    network is cut) the last small value stays until wal_sender_timeout ends the connection, or for ever without
    one. The position it has replayed stays too, and does not reach what was written since.
    """

    # Forty minutes of looks; after them it knows less finely how long, not less surely that.
    MOST_MARKS = 4096

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def lag_s(self, now: float, written_bytes: int, replayed_bytes: int) -> float:
        """Return the seconds since the oldest position that is not replayed was looked at.

        Args:
            now: time.monotonic.
            written_bytes: the server's WAL position; replayed_bytes: the slowest standby's.
        """
        while self._marks and self._marks[0][1] <= replayed_bytes:
            self._marks.popleft()
        if written_bytes > replayed_bytes and len(self._marks) < self.MOST_MARKS:
            self._marks.append((now, written_bytes))
        return now - self._marks[0][0] if self._marks else 0.0


class Sampler:
    """A thread with a session of its own; the latency of its own small queries is the probe.

    The session keeps the rights of the login: an administrator sees the standbys when the table's owner does not.
    """

    # Twenty looks a second cost the application a third of its p99 on two cores; five do not.
    PERIOD_S = 0.2
    LOOK_EVERY = 3

    def __init__(self, work: Work, limits: HoldLimits) -> None:
        self.work, self.limits = work, limits
        self._end = threading.Event()
        self._session: Session = work.open(PROBE, as_login=True)
        self._data_directory = local_data_directory(self._session)
        self._least_retained: dict[str, int] = {}
        self._clock = ReplayClock()
        self._told_hidden = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join(5.0)
        self._session.close()

    def _run(self) -> None:
        round_number, waiting_lock, held, told = 0, 0, "", ""
        while not self._end.wait(self.PERIOD_S):
            try:
                started = time.monotonic()
                # A commit that must be flushed, as the application's: it feels what our WAL makes others wait for.
                self._session.execute("SELECT pg_catalog.pg_logical_emit_message(true, 'pgscale', '')")
                committed = time.monotonic()
                latency_ms = (committed - started) * 1000
                self._session.execute("SELECT")
                round_trip_s = time.monotonic() - committed
                looks = round_number % self.LOOK_EVERY == 0
                if looks:
                    waiting_lock, held = self._look()
            except psycopg.errors.QueryCanceled:
                continue
            except psycopg.Error as error:
                if self._reopen(error):
                    continue
                return
            round_number += 1
            self.work.throttle.observe(
                Pressure(latency_ms=latency_ms, waiting_lock=waiting_lock, held=held, round_trip_s=round_trip_s)
            )
            # Workers that wait tell nothing: without this nobody would learn why nothing moves.
            holding = self.work.throttle.holding
            if holding != told or (holding and looks):
                self.work.tell.again(throttled=self.work.throttle.reason)
                told = holding

    def _reopen(self, error: psycopg.Error) -> bool:
        """Replace a session that was lost; False when that fails too, or a query cannot be run at all.

        Work goes on unwatched then: were it left held, nobody would ever let it go on.
        """
        if self._session.closed and not self._end.is_set():
            try:
                self._session = self.work.open(PROBE, as_login=True)
            except PgscaleError:
                # The server is gone; the workers meet the same error and report it.
                pass
            else:
                return True
        self.work.throttle.observe(Pressure(latency_ms=0.0, waiting_lock=0, held=""))
        if not self._end.is_set():
            reason = " ".join(str(error).split())
            self.work.tell.again(throttled=self.work.throttle.reason, note=f"load is no longer watched: {reason}")
        return False

    def _look(self) -> tuple[int, str]:
        """Return how many sessions wait for a lock on the table, and why work must be held, if it must."""
        query = QUERIES.get("pressure", self._session.info.server_version)
        row = self._session.execute(query, {"oid": self.work.oid}).fetchone()
        assert row is not None
        waiting_lock, xmin_age, written_bytes, standbys, hidden, retained = row
        if hidden and not self._told_hidden:
            self._told_hidden = True
            self.work.tell.again(throttled=self.work.throttle.reason, note=_hidden_note(hidden))
        seen = [Standby(name=name, replay_lag_s=lag, replayed_bytes=at) for name, lag, at in standbys]
        held = (
            self._lagging(seen, written_bytes)
            or self._retaining(retained)
            or self._aged(xmin_age)
            or self._short_of_disk()
        )
        return waiting_lock, held

    def _lagging(self, standbys: Sequence[Standby], written_bytes: int) -> str:
        if not standbys:
            return ""
        last = max(standbys, key=lambda standby: standby.replay_lag_s)
        slowest = min(standbys, key=lambda standby: standby.replayed_bytes)
        own_s = self._clock.lag_s(time.monotonic(), written_bytes, slowest.replayed_bytes)
        lag_s, name = max((last.replay_lag_s, last.name), (own_s, slowest.name))
        if lag_s <= self.limits.replica_lag_s:
            return ""
        return f"standby {name!r} is {lag_s:.1f} s behind (--max-replica-lag {self.limits.replica_lag_s:g} s)"

    def _retaining(self, retained: Mapping[str, int]) -> str:
        least = self._least_retained
        # Only of slots that are there: one that was dropped must not lend its name's past to another.
        self._least_retained = {name: min(kept, least.get(name, kept)) for name, kept in retained.items()}
        for name, kept in retained.items():
            if kept - self._least_retained[name] > self.limits.slot_retained_bytes:
                return f"replication slot {name} keeps {format_bytes(kept)} of WAL on the disk"
        return ""

    def _aged(self, xmin_age: int) -> str:
        if xmin_age <= self.limits.oldest_xmin_age:
            return ""
        return f"the oldest snapshot is {xmin_age:,} transactions old"

    def _short_of_disk(self) -> str:
        if self._data_directory is None:
            return ""
        try:
            usage = os.statvfs(self._data_directory)
        except OSError:
            self._data_directory = None
            return ""
        free_bytes = usage.f_bavail * usage.f_frsize
        if free_bytes >= self.limits.free_disk_bytes:
            return ""
        return f"only {format_bytes(free_bytes)} of disk are free"


def _hidden_note(count: int) -> str:
    which = "of a connected standby" if count == 1 else f"of {count} connected standbys"
    return (
        f"the replica lag {which} is not checked, because this login may not see it;"
        " GRANT pg_read_all_stats (or pg_monitor) to it"
    )


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
