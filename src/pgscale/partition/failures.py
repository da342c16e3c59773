"""What a database error becomes where it leaves the room."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import psycopg

from pgscale.connect.dsn import redact
from pgscale.errors import ConnectError, PermissionDeniedError, PgscaleError, RefusedError, RunFailedError

P = ParamSpec("P")
T = TypeVar("T")


def translated(action: Callable[P, T]) -> Callable[P, T]:
    """Let no database error leave the room as it is: each becomes one of ours, with what to do."""

    @functools.wraps(action)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return action(*args, **kwargs)
        except psycopg.Error as error:
            raise _translate(error) from error

    return wrapper


def _translate(error: psycopg.Error) -> PgscaleError:
    first = redact(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
    if error.sqlstate == "42501":
        return PermissionDeniedError(
            f"The role lacks a right: {first}.",
            hint="Connect as the table's owner; the owner of schema pgscale can grant its rights.",
        )
    if error.sqlstate in ("55P03", "57014"):
        return RefusedError(
            f"Another session holds a lock that this needs: {first}.",
            consequence="Nothing was changed.",
            hint="Try again when it has ended.",
        )
    if error.sqlstate == "25006":
        return RefusedError(
            "The server is read-only: a standby, or default_transaction_read_only.",
            consequence="Nothing was changed.",
            hint="Connect to the primary.",
        )
    if isinstance(error, psycopg.OperationalError) and error.sqlstate in (None, "57P01", "57P02", "57P03"):
        return ConnectError(f"The connection was lost: {first}.", hint="`status` shows how the run stands.")
    return RunFailedError(f"The database reported: {first}.", hint="`status` shows how the run stands.")
