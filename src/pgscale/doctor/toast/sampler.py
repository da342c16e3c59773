"""Reads a sample of a column and stores it in other ways, in one short transaction that is rolled back."""

from __future__ import annotations

import time
from dataclasses import replace

import psycopg
from psycopg import sql

from pgscale.connect.session import Session
from pgscale.core.model import quote_ident
from pgscale.doctor.facts import NotReadableError
from pgscale.doctor.toast import ddl
from pgscale.doctor.toast.model import AS_STORED, Form, Sample, ToastColumn

# Enough to tell twice from half, little enough to be stored four times in a second.
LONG_VALUES, LONG_BYTES = 200, 4 << 20
READINGS = 3


def sample_column(session: Session, column: ToastColumn, rows: int, *, has_lz4: bool) -> Sample:
    """Read a sample of a column.

    It takes ACCESS SHARE on the table, waiting no longer than the session's lock_timeout, and makes temporary tables,
    which are gone when it returns.

    Args:
        session: of profile DOCTOR: read-only by default, which is lifted for the temporary tables.
        rows: to read, about.

    Raises:
        NotReadableError: the role may not read it, somebody holds it locked, or it takes too long.
        psycopg.Error: anything else.
    """
    percent = min(100.0, 100.0 * rows / column.rows) if column.rows > rows else 100.0
    try:
        row = session.execute(ddl.sizes(column, percent, 4 * rows, session.info.server_version)).fetchone()
    except psycopg.errors.LockNotAvailable as error:
        raise NotReadableError(f"somebody holds a lock on {column.table}", "Run it again later.") from error
    except psycopg.errors.InsufficientPrivilege as error:
        role = quote_ident(session.info.user)
        raise NotReadableError(
            f"role {role} may not read {column.table}", f"GRANT SELECT ON {column.table} TO {role};"
        ) from error
    except psycopg.errors.QueryCanceled as error:
        raise NotReadableError(f"reading a sample of {column.table} took too long", "Read fewer rows.") from error
    assert row is not None
    found = Sample(rows=row[0], values=row[1], stored_bytes=row[2], outside=row[3], pglz=row[4], lz4=row[5])
    try:
        session.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
        return _compare(session, column, found, percent, 4 * rows, has_lz4=has_lz4)
    except psycopg.errors.InsufficientPrivilege:
        database, role = quote_ident(session.info.dbname), quote_ident(session.info.user)
        return replace(
            found,
            not_compared=f"role {role} may not make temporary tables",
            hint=f"GRANT TEMPORARY ON DATABASE {database} TO {role};",
        )
    except psycopg.errors.LockNotAvailable:
        return replace(found, not_compared="somebody holds a lock on the table")
    except psycopg.errors.QueryCanceled:
        return replace(found, not_compared="it took too long")
    finally:
        if not session.closed:
            session.execute("ROLLBACK")


def _compare(
    session: Session, column: ToastColumn, found: Sample, percent: float, rows: int, *, has_lz4: bool
) -> Sample:
    for statement in ddl.keep_long(column, percent, rows, values=LONG_VALUES, most_bytes=LONG_BYTES):
        session.execute(statement)
    count, stored = _measure(session, column, AS_STORED, ddl.STORED)
    if count == 0:
        return found
    forms = [stored]
    for name, storage, method in (
        ("pglz", "EXTENDED", "pglz"),
        ("lz4", "EXTENDED", "lz4"),
        ("external", "EXTERNAL", None),
    ):
        if method != "lz4" or has_lz4:
            for statement in ddl.store_anew(column, storage, method):
                session.execute(statement)
            forms.append(_measure(session, column, name, ddl.ANEW)[1])
    return replace(found, long_values=count, forms=tuple(forms))


def _measure(session: Session, column: ToastColumn, name: str, stored: sql.Identifier) -> tuple[int, Form]:
    row = session.execute(ddl.weigh(stored)).fetchone()
    assert row is not None
    took: list[float] = []
    for _ in range(READINGS):
        began = time.perf_counter()
        session.execute(ddl.read(column, stored))
        took.append(time.perf_counter() - began)
    return row[0], Form(name=name, bytes=row[1], read_s=min(took))
