"""Read who waits for which lock, and everybody concerned. Only SELECTs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import psycopg

from pgscale.connect.session import Profile, Session
from pgscale.doctor.locks.model import Backend, Doing, LockRow, Look, Prepared, Rights, Tag
from pgscale.errors import ConnectError, PgscaleError
from pgscale.sql import load

QUERIES = load(__package__ or "pgscale.doctor.locks")

# It shows what hangs, so it must not hang itself: somebody may hold a catalog.
LOOK = Profile(purpose="locks", statement_timeout_ms=10_000, lock_timeout_ms=1_000, read_only=True)

_NAMES_UNREAD = "Names of relations could not be read: {reason}."


class LocksNotReadableError(PgscaleError):
    """The lock table could not be read in time."""

    exit_code = 3


def read_look(session: Session, pid: int | None = None) -> Look:
    """Read the locks that somebody waits for, and who is concerned.

    The lock table, the sessions and the names are read one after the other: who has gone meanwhile is missing.

    Args:
        pid: a backend to read even when it has nothing to do with any wait.

    Raises:
        LocksNotReadableError: a catalog is locked, or the server took more than ten seconds.
        ConnectError: the connection was lost.
    """
    version = session.info.server_version
    try:
        moment = session.execute(QUERIES.get("read_moment", version)).fetchone()
        assert moment is not None, "a SELECT without FROM is one row"
        locks = tuple(_lock(row) for row in session.execute(QUERIES.get("read_locks", version)))
        pids = {lock.pid for lock in locks if lock.pid is not None} | {b for lock in locks for b in lock.blockers}
        backends = _read_backends(session, pids if pid is None else pids | {pid})
        prepared = read_prepared(session)
    except psycopg.Error as error:
        raise _failure(session, error) from error
    relations, objects, notes = _read_names(session, locks, moment[1])
    return Look(
        at=moment[0],
        database=moment[1],
        role=moment[2],
        locks=locks,
        backends=backends,
        prepared=prepared,
        relations=relations,
        objects=objects,
        notes=notes,
    )


def _failure(session: Session, error: psycopg.Error) -> PgscaleError:
    if session.closed or error.sqlstate is None:
        return ConnectError("The connection was lost.", hint="Check that the server is up.")
    return LocksNotReadableError(
        f"The lock table could not be read: {' '.join(str(error).split())}.",
        consequence="Either the server is very busy, or somebody holds a system catalog (VACUUM FULL, REINDEX, LOCK).",
        hint="Try again; a session that is already open can still call pg_blocking_pids(pid).",
    )


def _lock(row: tuple[Any, ...]) -> LockRow:
    kind, database, relation, page, tuple_, virtual, transaction, class_id, object_id, sub_id, *rest = row
    mode, granted, pid, prepared, since, waited_s, blockers = rest
    tag = Tag(
        kind=kind,
        database=database,
        relation=relation,
        page=page,
        tuple=tuple_,
        virtual=virtual,
        transaction=transaction,
        class_id=class_id,
        object_id=object_id,
        object_sub_id=sub_id,
    )
    return LockRow(
        tag=tag,
        mode=mode,
        granted=granted,
        pid=pid,
        prepared=prepared,
        since=since,
        waited_s=waited_s,
        # A process is named once for each lock that it, or a worker of it, holds.
        blockers=tuple(dict.fromkeys(blockers or ())),
    )


def _read_backends(session: Session, pids: Iterable[int]) -> dict[int, Backend]:
    query = QUERIES.get("read_backends", session.info.server_version)
    rows: list[tuple[Any, ...]] = session.execute(query, {"pids": sorted(pids)}).fetchall()
    return {row[0]: _backend(*row) for row in rows}


def _backend(
    pid: int, user: str | None, database: str | None, application: str, kind: str | None, started: datetime, *rest: Any
) -> Backend:
    doing = None
    if kind is not None:
        leader_pid, transaction_started, state, state_s, transaction_s, query = rest
        doing = Doing(
            kind=kind,
            started=started,
            leader_pid=leader_pid,
            transaction_started=transaction_started,
            state=state,
            state_s=state_s,
            transaction_s=transaction_s,
            query=query,
        )
    return Backend(pid=pid, user=user, database=database, application=application, doing=doing)


def read_prepared(session: Session) -> tuple[Prepared, ...]:
    """Read the prepared transactions of the whole cluster."""
    rows: list[tuple[Any, ...]] = session.execute(QUERIES.get("read_prepared", session.info.server_version)).fetchall()
    return tuple(
        Prepared(gid=gid, transaction=transaction, prepared_s=prepared_s, owner=owner, database=database)
        for gid, transaction, prepared_s, owner, database in rows
    )


def _read_names(
    session: Session, locks: Iterable[LockRow], database: str
) -> tuple[dict[int, str], dict[tuple[int, int], str], tuple[str, ...]]:
    """Return names of relations by oid and of objects by class and id; what is locked itself stays a number."""
    version = session.info.server_version
    tags = {lock.tag for lock in locks if lock.tag.database in (None, database)}
    oids = sorted({tag.relation for tag in tags if tag.relation is not None})
    ids = sorted({(tag.class_id or 0, tag.object_id or 0) for tag in tags if tag.kind == "object"})
    relations: dict[int, str] = {}
    objects: dict[tuple[int, int], str] = {}
    try:
        if oids:
            relations = dict(session.execute(QUERIES.get("read_relations", version), {"oids": oids}).fetchall())
        if ids:
            params = {"classes": [c for c, _ in ids], "objects": [o for _, o in ids]}
            found = session.execute(QUERIES.get("read_objects", version), params).fetchall()
            objects = {(class_id, object_id): name for class_id, object_id, name in found if name is not None}
    except psycopg.Error as error:
        if session.closed:
            raise _failure(session, error) from error
        # A class of objects this server cannot describe, or somebody holds a catalog: numbers serve, too.
        return relations, objects, (_NAMES_UNREAD.format(reason=str(error).splitlines()[0]),)
    return relations, objects, ()


def read_rights(session: Session, pid: int) -> Rights:
    """Read what the session's role may signal, above all the process of that pid.

    Raises:
        LocksNotReadableError, ConnectError: as `read_look`.
    """
    query = QUERIES.get("read_rights", session.info.server_version)
    try:
        row: tuple[Any, ...] | None = session.execute(query, {"pid": pid}).fetchone()
    except psycopg.Error as error:
        raise _failure(session, error) from error
    is_superuser, may_signal, has_role, target_is_superuser, may_signal_autovacuum = row or (False,) * 5
    return Rights(
        is_superuser=is_superuser,
        may_signal=may_signal,
        has_role=has_role,
        target_is_superuser=target_is_superuser,
        may_signal_autovacuum=may_signal_autovacuum,
    )
