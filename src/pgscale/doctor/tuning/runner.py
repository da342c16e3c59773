"""Change the server's settings by ALTER SYSTEM, and say how to take that back."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgscale.connect.session import Profile, Session
from pgscale.doctor.tuning import reader
from pgscale.doctor.tuning.ddl import alter_system, conf_line, pasted, reset_system
from pgscale.doctor.tuning.model import Proposal, Running
from pgscale.errors import PermissionDeniedError, RefusedError, RunFailedError
from pgscale.sql import load

CHANGER = Profile(purpose="tune", statement_timeout_ms=30_000, lock_timeout_ms=5_000)
# The postmaster reads the file and tells every backend; ours sees it at its next statement.
SEEN_WITHIN_S = 10.0
_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of the proposals.

    Args:
        in_force: settings that run with the new value.
        pending_restart: settings that will, after a restart.
        overruled: settings that something else decides, with what: the command line, the database or the role.
        undo: statements that give back what was, in order; the last one reloads.
    """

    in_force: tuple[str, ...]
    pending_restart: tuple[str, ...]
    overruled: tuple[tuple[str, str], ...]
    undo: tuple[str, ...]


def apply(session: Session, proposals: tuple[Proposal, ...]) -> Applied:
    """Write every proposal to postgresql.auto.conf and reload; when one is refused, take back those before it.

    Raises:
        PermissionDeniedError: the role may not; nothing was changed, and the hint has the lines to paste.
        RefusedError: the server forbids ALTER SYSTEM altogether; the same.
        RunFailedError: the server refused one; those before it were taken back.
    """
    names = tuple(proposal.name for proposal in proposals)
    _refuse_without_rights(session, proposals, names)
    former = _former(session, proposals)
    done: list[str] = []
    try:
        for proposal in proposals:
            session.execute(alter_system(proposal.name, proposal.value))
            done.append(proposal.name)
    except psycopg.Error as error:
        for name in reversed(done):
            session.execute(former[name])
        raise RunFailedError(
            f"The server refused {proposals[len(done)].name}: {str(error).strip()}.",
            consequence="What was set before it was taken back; nothing was reloaded.",
            hint="Set what you want of it by hand:\n" + paste(proposals),
        ) from error
    _reload(session)
    states = _wait(session, proposals)
    pending = tuple(p.name for p in proposals if states[p.name].pending_restart)
    force = tuple(p.name for p in proposals if p.name not in pending and states[p.name].now == p.number)
    return Applied(
        in_force=force,
        pending_restart=pending,
        overruled=tuple((name, states[name].source) for name in names if name not in pending and name not in force),
        undo=(*(pasted(former[name]) for name in names), "SELECT pg_reload_conf();"),
    )


def paste(proposals: tuple[Proposal, ...]) -> str:
    """Return the proposals as lines of postgresql.conf, or of a cloud's parameter group."""
    return "\n".join(f"  {conf_line(proposal)}" for proposal in proposals)


def _refuse_without_rights(session: Session, proposals: tuple[Proposal, ...], names: tuple[str, ...]) -> None:
    lines = f"Put these into postgresql.conf, or into the parameter group of your cloud:\n{paste(proposals)}"
    state = reader.read_settings(session).get("allow_alter_system")
    if state is not None and state.now == "off":
        raise RefusedError(
            "The server forbids ALTER SYSTEM (allow_alter_system = off): something else manages its settings.",
            consequence="Nothing was changed.",
            hint=lines,
        )
    rights = reader.read_rights(session, names)
    missing = [name for name in names if name not in rights.settings]
    if not missing and rights.reload:
        return
    what = f"ALTER SYSTEM for {', '.join(missing)}" if missing else "call pg_reload_conf()"
    grants = [
        *([f"GRANT ALTER SYSTEM ON PARAMETER {', '.join(missing)} TO {rights.role};"] if missing else []),
        *([] if rights.reload else [f"GRANT EXECUTE ON FUNCTION pg_reload_conf() TO {rights.role};"]),
    ]
    allowed = f"\nA superuser can allow it: {' '.join(grants)}" if session.info.server_version >= 150_000 else ""
    raise PermissionDeniedError(
        f"The role {rights.role} may not {what}.", consequence="Nothing was changed.", hint=f"{lines}{allowed}"
    )


def _former(session: Session, proposals: tuple[Proposal, ...]) -> dict[str, sql.Composed]:
    written = reader.read_auto_conf(session, tuple(proposal.name for proposal in proposals))
    if written is None:
        # Whether ALTER SYSTEM set it before cannot be seen; setting what ran gives the same effect.
        return {proposal.name: alter_system(proposal.name, proposal.now) for proposal in proposals}
    return {
        name: alter_system(name, written[name]) if name in written else reset_system(name)
        for name in (proposal.name for proposal in proposals)
    }


def _reload(session: Session) -> None:
    session.execute(load(__package__ or "").get("reload", session.info.server_version))


def _wait(session: Session, proposals: tuple[Proposal, ...]) -> dict[str, Running]:
    """Wait until each runs, waits for a restart, or is decided elsewhere."""
    end = time.monotonic() + SEEN_WITHIN_S
    while True:
        states = reader.read_settings(session)
        seen = all(
            states[p.name].pending_restart
            or states[p.name].now == p.number
            or states[p.name].source in {"command line", "database", "user", "database user"}
            for p in proposals
        )
        if seen or time.monotonic() > end:
            return states
        time.sleep(_PAUSE_S)
