"""Read and write the ledger. Every write joins the caller's transaction, so a step and its row are one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any, TypeVar

import psycopg
from psycopg.rows import class_row

from pgscale import sql as named
from pgscale.connect.session import Session
from pgscale.errors import PermissionDeniedError
from pgscale.ledger.closing import closed

QUERIES = named.load("pgscale.ledger")

# Two-key advisory locks: the class says what the lock is for, the object is the table's oid.
OWNER_LOCK = 1_885_827_442
WORK_LOCK = 1_885_827_443
LIFE_LOCK = 1_885_827_444
REHEARSAL_LOCK = 1_885_827_460

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """A run as the ledger has it. `plan` is JSON; `heartbeat_age_s` is by the server's clock.

    The ETA is of the phase, as of the heartbeat.
    """

    run_id: int
    table_oid: int
    table_schema: str
    table_name: str
    strategy: str
    state: str
    phase: str
    plan: str
    request: str | None
    note: str
    new_oid: int | None
    new_fingerprint: str | None
    rows_copied: int
    rows_applied: int
    rows_checked: int
    mismatches: int
    attempts: int
    blocked_ms: float
    busy_s: float
    started_at: datetime
    heartbeat_at: datetime
    heartbeat_age_s: float
    owner_pid: int | None
    eta_least_s: float | None
    eta_most_s: float | None


def execute(session: Session, query: str, /, **params: object) -> psycopg.Cursor[tuple[Any, ...]]:
    """Run a named ledger query in the session's current transaction."""
    return session.execute(QUERIES.get(query, session.info.server_version), params)


def scalar(session: Session, query: str, /, **params: object) -> Any:
    row = execute(session, query, **params).fetchone()
    return None if row is None else row[0]


def exists(session: Session) -> bool:
    return bool(scalar(session, "exists"))


def create(session: Session) -> None:
    """Create the ledger's schema and tables where they do not exist yet, in the caller's transaction.

    Raises:
        PermissionDeniedError: the role may not create schemas, or another role owns the ledger.
    """
    text = resources.files("pgscale.ledger").joinpath("schema.sql").read_bytes()
    try:
        session.execute(closed(text))
    except psycopg.errors.InsufficientPrivilege as error:
        raise PermissionDeniedError(
            f"The ledger (schema pgscale) cannot be made or used: {str(error).splitlines()[0]}.",
            consequence="Nothing was changed.",
            hint="GRANT CREATE ON DATABASE … TO the role, or let the owner of schema pgscale GRANT ALL on it.",
        ) from None


def bring_up_to_date(session: Session) -> None:
    """Add what the ledger of an older version lacks. Nothing happens where it lacks nothing, or where there is none.

    Raises:
        PermissionDeniedError: as `create`.

    Locks: ACCESS EXCLUSIVE on the table of runs, for a moment.
    """
    if not exists(session) or scalar(session, "is_current"):
        return
    with session.transaction():
        lock_ledger(session)
        if exists(session):
            create(session)


def read_runs(session: Session, oid: int | None = None) -> tuple[RunRow, ...]:
    """Return the runs of one table (by its old or new oid), or all of them; none when there is no ledger."""
    if not exists(session):
        return ()
    with session.cursor(row_factory=class_row(RunRow)) as cursor:
        query = QUERIES.get("select_runs", session.info.server_version)
        try:
            return tuple(cursor.execute(query, {"oid": oid}).fetchall())
        except psycopg.errors.UndefinedTable:
            # The last run of the database was taken back a moment ago, and the ledger with it.
            return ()


def read_retired(session: Session, oid: int, kind: type[T]) -> tuple[T, ...]:
    """Return the promises for partitions of one table; none where the ledger has no such table."""
    if not scalar(session, "has_retired"):
        return ()
    with session.cursor(row_factory=class_row(kind)) as cursor:
        query = QUERIES.get("select_retired", session.info.server_version)
        return tuple(cursor.execute(query, {"oid": oid}).fetchall())


def read_rehearsal(session: Session, oid: int) -> str | None:
    """Return what a rehearsal of the table measured, as JSON; None without one."""
    return scalar(session, "select_rehearsal", oid=oid) if scalar(session, "has_rehearsals") else None


def forget_rehearsal(session: Session, oid: int) -> None:
    if scalar(session, "has_rehearsals"):
        execute(session, "forget_rehearsal", oid=oid)


def try_rehearse(session: Session, oid: int) -> bool:
    """Take the rehearsal of a table for this session; False while another one has it."""
    row = session.execute(
        "SELECT pg_catalog.pg_try_advisory_lock(%s::int4, %s::int4)", (REHEARSAL_LOCK, _as_int4(oid))
    ).fetchone()
    return bool(row and row[0])


def _has_rehearsals(session: Session) -> bool:
    if not scalar(session, "has_rehearsals"):
        return False
    row = session.execute("SELECT EXISTS (SELECT FROM pgscale.rehearsal)").fetchone()
    return bool(row and row[0])


def _has_promises(session: Session) -> bool:
    if not scalar(session, "has_retired"):
        return False
    row = session.execute("SELECT EXISTS (SELECT FROM pgscale.retired)").fetchone()
    return bool(row and row[0])


def try_look_after(session: Session, oid: int) -> bool:
    """Take the life of a table's partitions for this session; False while another one has it."""
    row = session.execute(
        "SELECT pg_catalog.pg_try_advisory_lock(%s::int4, %s::int4)", (LIFE_LOCK, _as_int4(oid))
    ).fetchone()
    return bool(row and row[0])


def stop_looking_after(session: Session, oid: int) -> None:
    session.execute("SELECT pg_catalog.pg_advisory_unlock(%s::int4, %s::int4)", (LIFE_LOCK, _as_int4(oid)))


def try_own(session: Session, oid: int) -> bool:
    """Take the run of a table for this session; False while another live process has it."""
    row = session.execute(
        "SELECT pg_catalog.pg_try_advisory_lock(%s::int4, %s::int4)",
        (OWNER_LOCK, _as_int4(oid)),
    ).fetchone()
    return bool(row and row[0])


def has_live_owner(session: Session, oid: int) -> bool:
    """Tell whether a live session owns the run of the table."""
    row = session.execute(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.locktype = 'advisory' AND l.classid::int8 = %s::int8"
        " AND l.objid::int8 = %s::int8 AND l.objsubid = 2 AND l.granted AND l.database ="
        " (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))",
        (OWNER_LOCK, oid),
    ).fetchone()
    return bool(row and row[0])


def lock_work(session: Session, oid: int) -> None:
    """Held (shared) for the life of every session that works for the run, so that orphans can be waited for."""
    session.execute("SELECT pg_catalog.pg_advisory_lock_shared(%s::int4, %s::int4)", (WORK_LOCK, _as_int4(oid)))


def wait_for_orphans(session: Session, oid: int) -> None:
    """Wait until no session of a dead owner's workers is left; they end within seconds of its death."""
    with session.transaction():
        session.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s::int4, %s::int4)", (WORK_LOCK, _as_int4(oid)))


def _as_int4(oid: int) -> int:
    """An oid is unsigned; advisory keys are signed 32-bit numbers with the same bits."""
    return oid - (1 << 32) if oid >= 1 << 31 else oid


def done_steps(session: Session, run_id: int) -> frozenset[str]:
    return frozenset(row[0] for row in execute(session, "done_steps", run_id=run_id))


def read_chunks(session: Session, run_id: int, phase: str) -> list[tuple[int, int, int]]:
    """Return (first page, page after the last, rows) of every finished chunk of a phase."""
    return [(r[0], r[1], r[2]) for r in execute(session, "select_chunks", run_id=run_id, phase=phase)]


def drop_if_empty(session: Session) -> None:
    """Drop the whole ledger when it holds no run, so that nothing of it is left behind."""
    try:
        with session.transaction():
            lock_ledger(session)
            # Whoever had the lock before may have dropped it.
            row = session.execute("SELECT EXISTS (SELECT FROM pgscale.run)").fetchone() if exists(session) else None
            if row and not row[0] and not _has_promises(session) and not _has_rehearsals(session):
                session.execute("DROP TABLE pgscale.chunk, pgscale.step, pgscale.applied, pgscale.run")
                session.execute("DROP TABLE IF EXISTS pgscale.retired, pgscale.rehearsal")
                # Dead letters and what else other rooms keep there are no business of the ledger's.
                with suppress(psycopg.errors.DependentObjectsStillExist), session.transaction():
                    session.execute("DROP SCHEMA pgscale")
    except psycopg.errors.InsufficientPrivilege:
        # Another role made the ledger; it is that role's to drop.
        return


def lock_ledger(session: Session) -> None:
    """Until the end of the transaction, keep others from making or dropping the ledger."""
    session.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s::int4, 0)", (WORK_LOCK,))
