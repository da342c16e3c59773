"""Read what tuning needs to know of a server: its settings with their limits, and who may change them. Only SELECTs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import psycopg

from pgscale.connect.session import Profile, Session
from pgscale.doctor.tuning.model import Kind, Running, Server, Setting
from pgscale.sql import load

# Two SELECTs of views in memory; they wait for no lock on anybody's table.
LOOKER = Profile(purpose="tune", statement_timeout_ms=10_000, lock_timeout_ms=100, read_only=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What the role may do for --apply.

    Args:
        settings: those that it may ALTER SYSTEM.
        reload: it may call pg_reload_conf().
    """

    role: str
    superuser: bool
    reload: bool
    settings: frozenset[str]


def read_server(session: Session) -> Server:
    """Read settings and circumstances."""
    settings = read_settings(session)
    found = _all(session, "read_server")[0]
    directory = settings.get("data_directory")
    return Server(
        version=session.info.server_version,
        settings=settings,
        in_recovery=found[0],
        backend_pid=found[1],
        backend_start_s=found[2],
        socket=found[3],
        standbys=found[4],
        data_directory=directory.now if directory else None,
    )


def read_settings(session: Session) -> dict[str, Running]:
    """Read every setting of the server and what new sessions get."""
    return {row[0]: _running(row) for row in _all(session, "read_settings")}


def _running(row: tuple[Any, ...]) -> Running:
    name, kind, unit, least, most, words, default, context, now, source, pending = row
    numeric = kind in {"integer", "real"}
    setting = Setting(
        name=name,
        kind=cast("Kind", kind),
        unit=unit,
        minimum=float(least) if numeric and least is not None else None,
        maximum=float(most) if numeric and most is not None else None,
        values=tuple(words or ()),
        default=default,
        context=context,
    )
    return Running(setting=setting, now=now or "", source=source, pending_restart=pending)


def read_rights(session: Session, names: tuple[str, ...]) -> Rights:
    """Read which of some settings the role may change for the whole server."""
    row = _all(session, "read_rights", {"names": list(names)})[0]
    return Rights(role=row[0], superuser=row[1], reload=row[2], settings=frozenset(row[3]))


def read_auto_conf(session: Session, names: tuple[str, ...]) -> dict[str, str] | None:
    """Read what ALTER SYSTEM has set so far; None where the role may not."""
    try:
        return dict(_all(session, "read_auto_conf", {"names": list(names)}))
    except psycopg.errors.InsufficientPrivilege:
        return None


def _all(session: Session, name: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
    text = load(__package__ or "").get(name, session.info.server_version)
    return session.execute(text, parameters).fetchall()
