"""Find a buffer by where it is: a directory, or a name in a Redis."""

from __future__ import annotations

from pathlib import Path

from pgscale.write.buffer.model import Log
from pgscale.write.buffer.spool.log import SpoolLog

SCHEMES = ("redis://", "rediss://", "unix://")


def open_log(where: str | Path) -> Log:
    """Open a buffer that is there, for a drainer or to look at it.

    Args:
        where: the spool's directory, or redis://host:6379/0?buffer=NAME.

    Raises:
        RefusedError: there is none.
    """
    if isinstance(where, str) and where.startswith(SCHEMES):
        from pgscale.write.buffer.streams.log import StreamLog  # noqa: PLC0415 because it needs the extra `redis`

        return StreamLog(where)
    return SpoolLog(Path(where))
