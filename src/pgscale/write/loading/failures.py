"""What the database says, in our words; and where the crash tests end the process."""

from __future__ import annotations

import os
import signal

import psycopg

from pgscale.connect.dsn import redact
from pgscale.errors import PermissionDeniedError, PgscaleError, RefusedError, RunFailedError
from pgscale.write.failures import is_lost

_killed: dict[str, int] = {}


def kill_point(name: str) -> None:
    """Where the crash tests end this process: nothing happens unless PGSCALE_KILL_AT names the point and which time."""
    wanted, _, nth = os.environ.get("PGSCALE_KILL_AT", "").partition("#")
    if wanted == name:
        _killed[name] = _killed.get(name, 0) + 1
        if _killed[name] >= int(nth or 1):
            os.kill(os.getpid(), signal.SIGKILL)


def translated(error: psycopg.Error, conninfo: str, lost: type[PgscaleError] = RunFailedError) -> PgscaleError:
    """Return an error of the database as one of ours; `lost` is what a lost connection becomes."""
    text = str(error).strip()
    first = redact(text.splitlines()[0] if text else type(error).__name__, conninfo).rstrip(".")
    if error.sqlstate == "42501":
        return PermissionDeniedError(f"The role lacks a right: {first}.")
    if error.sqlstate == "25006":
        return RefusedError(
            "The server is read-only: a standby, or default_transaction_read_only.", hint="Connect to the primary."
        )
    if is_lost(error):
        return lost(f"The connection was lost: {first}.")
    return RunFailedError(f"The database stopped the load: {first}.")
