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
        UsageError: the string is not a libpq conninfo or URL; the password never appears in the error.
    """
    value = dsn or os.environ.get("PGSCALE_DSN") or os.environ.get("DATABASE_URL") or ""
    # SQLAlchemy and Django spell the scheme with a driver; libpq does not know that form.
    value = re.sub(r"^postgres(ql)?\+\w+://", "postgresql://", value)
    try:
        conninfo_to_dict(value)
    except ProgrammingError as error:
        raise UsageError(
            f"The DSN is not a PostgreSQL connection string: {redact(str(error).strip())}.",
            hint="Use postgresql://user@host:5432/dbname or 'host=… dbname=… user=…'.",
        ) from None
    return value


def redact(text: str) -> str:
    """Return the text with every password in a conninfo or URL replaced by ***."""
    return _SECRET.sub(lambda m: f"{m[1]}***" if m[1] else f"{m[3]}***{m[5]}", text)
