"""What the database keeps of loads: which there are, and which parts of each are in the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import psycopg

from pgscale import sql as named
from pgscale.connect.session import Session
from pgscale.errors import PermissionDeniedError
from pgscale.ledger.closing import closed
from pgscale.ledger.store import lock_ledger
from pgscale.write.loading.model import Counts, Done, Identity, Part

QUERIES = named.load("pgscale.write.loading")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRow:
    """A load as the database has it."""

    load_id: int
    identity: Identity | None
    options: str
    is_done: bool
    counts: Counts
    parts: int


def execute(session: Session, query: str, /, **params: object) -> psycopg.Cursor[tuple[Any, ...]]:
    """Run a named query in the session's current transaction."""
    return session.execute(QUERIES.get(query, session.info.server_version), params or None)


def scalar(session: Session, query: str, /, **params: object) -> Any:
    row = execute(session, query, **params).fetchone()
    return None if row is None else row[0]


def create(session: Session) -> None:
    """Make the tables where they are not there yet, in the caller's transaction.

    Raises:
        PermissionDeniedError: the role may not.
    """
    lock_ledger(session)
    if scalar(session, "exists"):
        return
    text = resources.files("pgscale.write.loading").joinpath("schema.sql").read_bytes()
    try:
        session.execute(closed(text))
    except psycopg.errors.InsufficientPrivilege as error:
        raise PermissionDeniedError(
            f"The tables that make a load resumable (schema pgscale) cannot be made: {str(error).splitlines()[0]}.",
            consequence="Nothing was written.",
            hint="GRANT CREATE ON DATABASE … TO the role, or let the owner of schema pgscale GRANT ALL on it.",
        ) from None


def find_loads(session: Session, oid: int, source: str) -> tuple[LoadRow, ...]:
    """Return the loads of a file into a table, newest first; of standard input there may be several."""
    return tuple(
        LoadRow(
            load_id=row[0],
            identity=None if row[1] is None else Identity(size_bytes=row[1], modified_ns=row[2], fingerprint=row[3]),
            options=row[4],
            is_done=row[5] == "done",
            counts=Counts(rows=row[6], inserted=row[7], updated=row[8], rejected=row[9]),
            parts=row[10],
        )
        for row in execute(session, "find_load", oid=oid, source=source)
    )


def insert(session: Session, oid: int, source: str, identity: Identity | None, options: str) -> int:
    return int(
        scalar(
            session,
            "insert_load",
            oid=oid,
            source=source,
            size=None if identity is None else identity.size_bytes,
            modified=None if identity is None else identity.modified_ns,
            fingerprint=None if identity is None else identity.fingerprint,
            options=options,
        )
    )


def read_parts(session: Session, load_id: int) -> tuple[tuple[Done, ...], Counts]:
    """Return the parts that are in the table, in the order of the file, and what they came to."""
    done: list[Done] = []
    counts = Counts()
    for row in execute(session, "read_parts", load_id=load_id):
        done.append(Done(first=row[0], end=row[1], first_line=row[2], lines=row[3], crc=row[4]))
        counts += Counts(rows=row[5], inserted=row[6], updated=row[7], rejected=row[8])
    return tuple(done), counts


def mark(session: Session, load_id: int, part: Part, counts: Counts) -> None:
    """Note, in the transaction that writes a part's rows, that they are written."""
    execute(
        session,
        "insert_part",
        load_id=load_id,
        first=part.first,
        next=part.end,
        first_line=part.first_line,
        lines=part.lines,
        crc=part.crc,
        rows=counts.rows,
        inserted=counts.inserted,
        updated=counts.updated,
        rejected=counts.rejected,
    )


def finish(session: Session, load_id: int, counts: Counts, parts: int) -> None:
    """Note that all of it is in the table. It is the COMMIT that waits for the WAL of all before it."""
    with session.transaction():
        execute(
            session,
            "finish_load",
            load_id=load_id,
            rows=counts.rows,
            inserted=counts.inserted,
            updated=counts.updated,
            rejected=counts.rejected,
            parts=parts,
        )
        execute(session, "delete_parts", load_id=load_id)


def gaps(done: Sequence[Done], at: int, line: int) -> list[tuple[int, int, int | None]]:
    """Return (where it begins, its first line, where it ends) of all that is not done; the last has no end.

    Args:
        at, line: where the first record is.
    """
    found: list[tuple[int, int, int | None]] = []
    for part in done:
        if part.first > at:
            found.append((at, line, part.first))
        at, line = part.end, part.first_line + part.lines
    found.append((at, line, None))
    return found
