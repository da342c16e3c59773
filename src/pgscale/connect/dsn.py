"""Where to connect: the DSN from flag, environment or libpq, and how it may be shown."""

from __future__ import annotations

import os
import re

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from pgscale.errors import UsageError

_SECRET = re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)|(://[^:/@\s]*:)([^@\s]*)(@)", re.IGNORECASE)


def resolve_dsn(dsn: str | None) -> str:
    """Return the connection string to use: the argument, else PGSCALE_DSN, else DATABASE_URL, else libpq's own.

    Raises:
        UsageError: the string is not a libpq conninfo or URL; nothing of it appears in the error.
    """
    value = dsn or os.environ.get("PGSCALE_DSN") or os.environ.get("DATABASE_URL") or ""
    # SQLAlchemy and Django spell the scheme with a driver; libpq does not know that form.
    value = re.sub(r"^postgres(ql)?\+\w+://", "postgresql://", value)
    if not _is_parsed(value):
        raise UsageError(
            "The DSN is not a connection string that libpq can parse.",
            hint="Use postgresql://user@host:5432/dbname or 'host=… dbname=… user=…'."
            " In a URL, `%`, `@`, `:` and `/` in a password must be percent-encoded (%25, %40, %3A, %2F).",
        )
    return value


def _is_parsed(conninfo: str) -> bool:
    # libpq's message quotes the part it stumbled over, often the password; so it is not even chained.
    try:
        conninfo_to_dict(conninfo)
    except ProgrammingError:
        return False
    return True


def redact(text: str, conninfo: str = "") -> str:
    """Return the text with every password replaced by ***.

    Args:
        text: what may hold a conninfo or URL.
        conninfo: a string from resolve_dsn; its passwords are removed wherever they stand.
    """
    text = _SECRET.sub(lambda m: f"{m[1]}***" if m[1] else f"{m[3]}***{m[5]}", text)
    given = conninfo_to_dict(conninfo) if conninfo else {}
    for name in ("password", "sslpassword"):
        if secret := given.get(name):
            text = text.replace(str(secret), "***")
    return text
