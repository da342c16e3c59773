"""Durable buffers: an event is safe when its put returns, and lands in PostgreSQL exactly once.

>>> from pgscale.write.buffer import Buffer, Drainer, open_log                # doctest: +SKIP
>>> with Buffer("public.events", path="/var/lib/shop/events", key="user_id") as buffer:  # doctest: +SKIP
...     buffer.put({"user_id": 1, "type": "click"})
"""

from pgscale.write.buffer.buffers import AsyncBuffer, Buffer
from pgscale.write.buffer.draining import Drained, Drainer
from pgscale.write.buffer.landing import Landed
from pgscale.write.buffer.model import (
    LEVELS,
    SURVIVES,
    Backlog,
    BufferDamagedError,
    BufferFailedError,
    BufferFullError,
    Durability,
    Level,
    Log,
    Merge,
    Receipt,
    Target,
)
from pgscale.write.buffer.opening import open_log
from pgscale.write.buffer.spool.log import SpoolLog
from pgscale.write.buffer.spool.meta import SpoolOptions

__all__ = [
    "LEVELS",
    "SURVIVES",
    "AsyncBuffer",
    "Backlog",
    "Buffer",
    "BufferDamagedError",
    "BufferFailedError",
    "BufferFullError",
    "Drained",
    "Drainer",
    "Durability",
    "Landed",
    "Level",
    "Log",
    "Merge",
    "Receipt",
    "SpoolLog",
    "SpoolOptions",
    "Target",
    "open_log",
]
