"""What was tried and did not succeed, as findings. Pure."""

from __future__ import annotations

import psycopg

from pgscale.connect.dsn import redact
from pgscale.errors import PgscaleError
from pgscale.partition.lifecycle.model import Action, Detach, Finalize, Finding, Severity, describe


def first_line(error: psycopg.Error) -> str:
    """What the server said first, without secrets."""
    said = str(error).strip()
    return redact(said.splitlines()[0] if said else type(error).__name__)


def busy_finding(table: str) -> Finding:
    return Finding(
        id="already-maintained",
        severity="info",
        table=table,
        message=f"Another `maintain` is looking after {table} at this moment, so this one changed nothing.",
    )


def refused_finding(table: str, error: PgscaleError) -> Finding:
    return Finding(id="refused", severity="error", table=table, message=error.fact, remedy=error.hint)


def no_file_finding(table: str, action: Action, error: OSError) -> Finding:
    return Finding(
        id="archive-failed",
        severity="error",
        table=table,
        message=f"{action.leaf} could not be archived: {error}.",
        remedy="Make the directory writable with enough room; the next `maintain` goes on.",
    )


def failed_finding(table: str, action: Action | None, error: psycopg.Error) -> Finding:
    name, severity, what = "action-failed", "error", f"could not {describe(action)}" if action else "could not be read"
    remedy = "The next `maintain` tries again."
    if isinstance(action, Detach | Finalize) and error.sqlstate in ("55P03", "57014"):
        name, severity = "detach-waits", "warning"
        remedy = "A transaction that used the table is still open; the next `maintain` finishes the detach."
    elif error.sqlstate in ("55P03", "57014"):
        name, remedy = "lock-not-available", "Other sessions hold locks; the next `maintain` tries again."
    elif error.sqlstate == "23503":
        name, remedy = "foreign-key-in-the-way", "Retire or delete the referring rows first."
    level: Severity = "warning" if severity == "warning" else "error"
    return Finding(
        id=name,
        severity=level,
        table=table,
        message=f"{table}: {what}: {first_line(error)}.",
        evidence={"sqlstate": error.sqlstate},
        remedy=remedy,
    )
