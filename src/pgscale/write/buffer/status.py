"""How a buffer stands: what waits, since when, how fast it lands, and what is wrong."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from pgscale.core.model import Json
from pgscale.errors import RefusedError
from pgscale.write.buffer import positions
from pgscale.write.buffer.model import SURVIVES, Backlog, Durability, Level, Log
from pgscale.write.buffer.positions import LaneRow, read_lanes
from pgscale.write.buffer.spool.log import SpoolLog
from pgscale.write.effects import Fetch, Steps, drive, drive_async
from pgscale.write.sources import AsyncRows, Rows

# A lane that landed nothing for so long has no rate.
RECENT_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferStatus:
    """A buffer at a moment.

    Args:
        depth: events put and not landed; oldest_age_s: of the first of them, by this machine's clock.
        bytes: that the buffer takes, landed events that are still kept included.
        landed, dead, retries: since the buffer was made; rate_per_s: events landed in the last seconds.
        last_error: why the drainer does not go on, empty while it does.
        notes: what was found wrong with the buffer itself.
        is_known: whether the database has landed anything of it.
    """

    buffer: str
    table: str
    level: Level
    durability: Durability
    lanes: int
    depth: int
    oldest_age_s: float | None
    bytes: int
    landed: int
    dead: int
    retries: int
    rate_per_s: float
    last_error: str
    notes: tuple[str, ...]
    is_known: bool

    def to_json(self) -> Mapping[str, Json]:
        return {
            "buffer": self.buffer,
            "table": self.table,
            "level": self.level,
            "durability": self.durability,
            "survives": SURVIVES[self.durability],
            "lanes": self.lanes,
            "depth": self.depth,
            "oldest_age_s": self.oldest_age_s,
            "bytes": self.bytes,
            "landed": self.landed,
            "dead": self.dead,
            "retries": self.retries,
            "rate_per_s": self.rate_per_s,
            "last_error": self.last_error,
            "notes": list(self.notes),
            "is_known": self.is_known,
        }


def status(log: Log, connection: psycopg.Connection[Any]) -> BufferStatus:
    """Read how a buffer stands, from its log and from the database that it lands in. Takes no lock."""
    lanes = drive(read_lanes(log.buffer), connection, Rows(()))
    return _put_together(log, lanes, log.backlog({row.lane: row.position for row in lanes}))


async def astatus(log: Log, connection: psycopg.AsyncConnection[Any]) -> BufferStatus:
    """As status; the log is read in between, which takes a moment when much waits."""
    lanes = await drive_async(read_lanes(log.buffer), connection, AsyncRows(()))
    return _put_together(log, lanes, log.backlog({row.lane: row.position for row in lanes}))


def _put_together(log: Log, lanes: tuple[LaneRow, ...], backlog: Backlog) -> BufferStatus:
    recent = [row for row in lanes if row.landed_ago_s is not None and row.landed_ago_s < RECENT_S]
    return BufferStatus(
        buffer=str(log.buffer),
        table=log.target.table,
        level=log.level,
        durability=log.durability,
        lanes=log.target.lanes,
        depth=backlog.events,
        oldest_age_s=None if backlog.oldest_at is None else max(0.0, time.time() - backlog.oldest_at),
        bytes=backlog.bytes,
        landed=sum(row.landed for row in lanes),
        dead=sum(row.dead for row in lanes),
        retries=max((row.retries for row in lanes), default=0),
        rate_per_s=sum(row.rate_per_s for row in recent),
        last_error=next((row.last_error for row in lanes if row.last_error), ""),
        notes=backlog.notes,
        is_known=bool(lanes),
    )


def rewind(log: SpoolLog, connection: psycopg.Connection[Any], since_s: float | None) -> int:
    """Have the events that are kept landed again, from a moment on; return how many.

    Args:
        since_s: when the first of them was put, seconds since 1970; None: all that are kept.

    Raises:
        RefusedError: the database has landed nothing of this buffer.
    """
    at = log.reader.oldest_position() if since_s is None else log.reader.position_at(since_s)
    return drive(_rewind(log, at), connection, Rows(()))


def _rewind(log: SpoolLog, at: int) -> Steps[int]:
    before = yield from read_lanes(log.buffer)
    if not before:
        raise RefusedError(
            "This database has landed nothing of this buffer, so there is nothing to land again.",
            consequence="Nothing was changed.",
        )
    yield Fetch(positions.query("rewind"), {"buffer": log.buffer, "position": at})
    after = yield from read_lanes(log.buffer)
    was = log.backlog({row.lane: row.position for row in before}).events
    return log.backlog({row.lane: row.position for row in after}).events - was
