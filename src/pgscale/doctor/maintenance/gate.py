"""Says when not to begin: standbys that are behind, too many sessions at work, old transactions, a full disk."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import psycopg

from pgscale.connect.session import Session
from pgscale.core.units import format_bytes, format_count, format_duration
from pgscale.doctor.maintenance.model import Task
from pgscale.doctor.maintenance.reader import QUERIES
from pgscale.livecopy.sampler import QUERIES as PRESSURE
from pgscale.livecopy.sampler import ReplayClock, local_data_directory

# An index is not rebuilt while a transaction is older: it would have to wait for its end.
OLD_TRANSACTION_S = 60.0
# Of the disk that must stay free.
SPARE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLimits:
    """When no task is begun.

    Args:
        replica_lag_s: what a standby may be behind, seconds.
        active: sessions of others that may be at work; None: any number.
    """

    replica_lag_s: float = 10.0
    active: int | None = None


class Gate:
    """Looks at the server before every task, over a session that is used for nothing else at the time."""

    def __init__(self, session: Session, limits: GateLimits) -> None:
        self._session, self._limits = session, limits
        self._clock = ReplayClock()
        self._directory = local_data_directory(session)

    def held(self) -> str:
        """Return why nothing may begin now; nothing when it may."""
        try:
            return self._lagging() or self._busy()
        except psycopg.errors.QueryCanceled:
            return "the server does not answer within 10 s"

    def hinders(self, task: Task) -> str:
        """Return why this one may not begin, though others may; nothing when it may."""
        if task.kind != "reindex":
            return ""
        query = QUERIES.get("oldest", self._session.info.server_version)
        row = self._session.execute(query, {"least_s": OLD_TRANSACTION_S, "table": task.table_oid}).fetchone()
        if row is not None:
            pid, role, age_s = row
            return (
                f"it would wait for the transaction of process {pid} (role {role}), open for {format_duration(age_s)}"
            )
        return self._short_of_disk(task)

    def _lagging(self) -> str:
        query = PRESSURE.get("pressure", self._session.info.server_version)
        row = self._session.execute(query, {"oid": 0}).fetchone()
        assert row is not None
        _, _, written, standbys, _, _ = row
        if not standbys:
            return ""
        name, lag_s, _ = max(standbys, key=lambda standby: standby[1])
        slowest, _, replayed = min(standbys, key=lambda standby: standby[2])
        own_s = self._clock.lag_s(time.monotonic(), written, replayed)
        if own_s > lag_s:
            name, lag_s = slowest, own_s
        if lag_s <= self._limits.replica_lag_s:
            return ""
        return f"standby {name!r} is {lag_s:.1f} s behind (--max-replica-lag {self._limits.replica_lag_s:g} s)"

    def _busy(self) -> str:
        if self._limits.active is None:
            return ""
        row = self._session.execute(QUERIES.get("busy", self._session.info.server_version), {}).fetchone()
        assert row is not None
        if row[0] <= self._limits.active:
            return ""
        are = "is" if row[0] == 1 else "are"
        return f"{format_count(row[0], 'session')} {are} at work (--max-active {self._limits.active})"

    def _short_of_disk(self, task: Task) -> str:
        """Know it where the server is on this machine; of an index in a tablespace of its own it is not known."""
        if self._directory is None:
            return ""
        try:
            usage = os.statvfs(self._directory)
        except OSError:
            return ""
        free = usage.f_bavail * usage.f_frsize
        if free >= task.room_bytes + SPARE_BYTES:
            return ""
        return f"it needs {format_bytes(task.room_bytes)} of disk for a time, and {format_bytes(free)} are free"


def progress_of(session: Session, pid: int) -> tuple[str, int, int | None]:
    """Return the phase of a VACUUM, ANALYZE or index build, the pages done and those there are."""
    try:
        row = session.execute(QUERIES.get("progress", session.info.server_version), {"pid": pid}).fetchone()
    except psycopg.errors.QueryCanceled:
        row = None
    return (str(row[0]), int(row[1]), int(row[2]) or None) if row is not None else ("", 0, None)
