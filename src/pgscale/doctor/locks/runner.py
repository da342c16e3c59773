"""End what holds others up: cancel, then terminate, or roll back what is prepared; and look again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psycopg

from pgscale.connect.session import Profile, Session, open_session
from pgscale.core.model import Step
from pgscale.doctor.locks import ddl
from pgscale.doctor.locks.model import Doing, Key, Prepared, Tree
from pgscale.doctor.locks.plan import Resolution, plan_backend, plan_prepared
from pgscale.doctor.locks.reader import QUERIES, read_look, read_prepared, read_rights
from pgscale.doctor.locks.tree import build_tree
from pgscale.errors import ConnectError, PermissionDeniedError, PgscaleError, RefusedError, RunFailedError, UsageError

# A rollback of what is prepared may have many files to delete.
RESOLVE = Profile(purpose="locks", statement_timeout_ms=60_000, lock_timeout_ms=1_000)
# How long those who are freed are given to go on, before they are counted.
SETTLE_S = 1.0
_LOOK_EVERY_S = 0.1
_LARGEST_PID = (1 << 31) - 1

Confirm = Callable[[Resolution, Tree], None]
"""Shown what is going to be done; raises RefusedError to stop it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What was done, and how it stands now.

    Args:
        done: the ids of the steps that were carried out, in order.
        ended: whether it holds up nobody any more of those whom it held up.
        freed: of those who waited behind it, who waits for nothing now; still: who does.
        after: the tree as it is now; before it, for a dry run.
    """

    plan: Resolution
    done: tuple[str, ...]
    ended: bool
    freed: tuple[Key, ...]
    still: tuple[Key, ...]
    after: Tree


def resolve(
    dsn: str | None,
    target: str,
    confirm: Confirm,
    *,
    wait_s: float = 5.0,
    force: bool = False,
    prepared: bool = False,
    dry_run: bool = False,
) -> Resolved:
    """End one backend's blocking, or one prepared transaction.

    Args:
        target: a pid; a gid where it is no number, or `prepared` is set.
        confirm: asked once, before anything is signalled.
        wait_s: how long a cancelled statement, and then a terminated backend, is given to end.
        force: also what nobody waits for, and processes that are no client's.

    Raises:
        RefusedError, PermissionDeniedError, UsageError: nothing was signalled.
        ConnectError: the connection could not be made, or was lost.
        RunFailedError: the server refused what it should have allowed.
    """
    with open_session(dsn, RESOLVE) as session:
        before, plan = _plan(session, target, force=force, prepared=prepared)
        if dry_run:
            return Resolved(plan=plan, done=(), ended=False, freed=(), still=plan.behind, after=before)
        confirm(plan, before)
        done: list[str] = []
        # Whoever was asked may have thought for a while.
        tree = _look(session, plan)
        for step in plan.steps:
            if not _is_pending(tree, plan):
                break
            if _carry_out(session, step, plan, tree):
                done.append(step.id)
                tree = _await(session, plan, wait_s)
        ended = not _is_pending(tree, plan)
        tree = _settle(session, plan) if ended else tree
    still = tuple(key for key in plan.behind if _waits(key, tree))
    freed = tuple(key for key in plan.behind if key not in still)
    return Resolved(plan=plan, done=tuple(done), ended=ended, freed=freed, still=still, after=tree)


def _plan(session: Session, target: str, *, force: bool, prepared: bool) -> tuple[Tree, Resolution]:
    pid = None if prepared or not target.isdecimal() else int(target)
    if pid is not None and not 0 < pid <= _LARGEST_PID:
        raise UsageError(f"{target} is no pid.", hint="A GID that is a number needs --prepared.")
    tree = build_tree(read_look(session, pid))
    rights = read_rights(session, pid or 0)
    if pid is not None:
        return tree, plan_backend(tree, pid, rights, force=force)
    return tree, plan_prepared(tree, target, rights, force=force)


def _look(session: Session, plan: Resolution) -> Tree:
    return build_tree(read_look(session, plan.key if isinstance(plan.key, int) else None))


def _is_pending(tree: Tree, plan: Resolution) -> bool:
    """Tell whether it is still there, and still causes one of the waits that it caused."""
    if not _is_there(tree, plan):
        return False
    if not plan.victims:
        return True
    now = [w for node in tree.waiting for w in node.waits if any(b.key == plan.key for b in w.blockers)]
    return any(one.is_same(other) for one in now for other in plan.victims)


def _is_there(tree: Tree, plan: Resolution) -> bool:
    if isinstance(plan.who, Prepared):
        return _find_prepared(tree.look.prepared, plan.who)
    before, now = plan.who.doing, _doing(tree, plan.who.pid)
    if before is None or now is None or now.started != before.started:
        return False
    # Where nobody waits for it, it is this transaction that was meant, and no later one.
    return bool(plan.victims) or now.transaction_started == before.transaction_started


def _doing(tree: Tree, pid: int) -> Doing | None:
    backend = tree.look.backends.get(pid)
    return None if backend is None else backend.doing


def _find_prepared(some: Iterable[Prepared], wanted: Prepared) -> bool:
    return any((p.gid, p.transaction) == (wanted.gid, wanted.transaction) for p in some)


def _carry_out(session: Session, step: Step, plan: Resolution, tree: Tree) -> bool:
    """Return whether it was done; False when what it was meant for has changed in the very last moment."""
    try:
        if isinstance(plan.who, Prepared):
            # No statement can look and roll back at once: a gid that was used anew within this instant is hit.
            if not _find_prepared(read_prepared(session), plan.who):
                return False
            session.execute(ddl.rollback_prepared(plan.who.gid))
            return True
        doing = _doing(tree, plan.who.pid)
        assert doing is not None, "it was there and visible"
        row = session.execute(
            QUERIES.get(step.kind, session.info.server_version),
            {"pid": plan.who.pid, "started": doing.started, "transaction_started": doing.transaction_started},
        ).fetchone()
        return row is not None and bool(row[0])
    except psycopg.Error as error:
        raise _failure(session, step, plan, error) from error


def _failure(session: Session, step: Step, plan: Resolution, error: psycopg.Error) -> PgscaleError:
    reason = (error.diag.message_primary or str(error)).strip()
    if error.sqlstate == "42501":
        return PermissionDeniedError(
            f"The server does not let this role {step.title}: {reason}.",
            consequence="It still holds the others up.",
            hint=error.diag.message_detail or error.diag.message_hint or "Connect as a superuser.",
        )
    if error.sqlstate == "42704":  # somebody else has just ended it
        return RefusedError(f"{plan.key} has ended by itself: {reason}.", consequence="Nothing was rolled back.")
    if session.closed or error.sqlstate is None:
        return ConnectError(f"The connection was lost while trying to {step.title}.", hint="Look again: pgscale locks.")
    return RunFailedError(f"It was not possible to {step.title}: {reason}.", hint="Look again: pgscale locks.")


def _await(session: Session, plan: Resolution, wait_s: float) -> Tree:
    """Look until it holds up nobody any more, or the time is over."""
    until = time.monotonic() + wait_s
    while _is_pending(tree := _look(session, plan), plan) and time.monotonic() < until:
        time.sleep(_LOOK_EVERY_S)
    return tree


def _settle(session: Session, plan: Resolution) -> Tree:
    """Look until all who are freed have gone on, or long enough."""
    until = time.monotonic() + SETTLE_S
    while True:
        tree = _look(session, plan)
        if time.monotonic() > until or not any(_waits(key, tree) for key in plan.frees):
            return tree
        time.sleep(_LOOK_EVERY_S)


def _waits(key: Key, tree: Tree) -> bool:
    node = tree.nodes.get(key)
    return node is not None and bool(node.waits)
