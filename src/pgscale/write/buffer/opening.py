"""Find a buffer by where it is: a directory, or a name in a Redis."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl

from pgscale.errors import UsageError
from pgscale.write.buffer.model import Log
from pgscale.write.buffer.spool.log import SpoolLog

SCHEMES = ("redis://", "rediss://", "unix://")
HINT = "redis://host:6379/0?buffer=NAME, rediss://… or unix://…"


def open_log(where: str | Path) -> Log:
    """Open a buffer that is there, for a drainer or to look at it.

    Args:
        where: the spool's directory, or redis://host:6379/0?buffer=NAME.

    Raises:
        RefusedError: there is none; UsageError: it is a URL of something else.
    """
    if isinstance(where, str) and where.startswith(SCHEMES):
        from pgscale.write.buffer.streams.log import StreamLog  # noqa: PLC0415 because it needs the extra `redis`

        return StreamLog(where)
    if isinstance(where, str) and "://" in where:
        # Not a word of it: there may be a password in it.
        raise UsageError("A buffer is a directory or in Redis, and this is a URL of something else.", hint=HINT)
    return SpoolLog(Path(where))


def shown(where: str) -> str:
    """Return where a buffer is without what nobody is to see: of a URL the host and the buffer's name."""
    scheme, is_url, rest = where.partition("://")
    if not is_url:
        return where
    # A password may hold any character of a URL: what stands before the last @ is not shown.
    place, _, query = rest.rpartition("@")[2].partition("?")
    names = [value for name, value in parse_qsl(query) if name == "buffer"]
    return f"{scheme}://{place}" + (f"?buffer={names[0]}" if names else "")
