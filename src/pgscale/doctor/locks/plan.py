"""Decide how to end what holds others up: cancel, terminate or roll back, or refuse. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from pgscale.core.model import Step
from pgscale.doctor.locks import ddl
from pgscale.doctor.locks.model import Backend, Doing, Key, Prepared, Rights, Tree, Wait, order
from pgscale.doctor.locks.tree import behind, freed_by
from pgscale.errors import PermissionDeniedError, RefusedError

_UNCHANGED = "Nothing was signalled."
# pg_cancel_backend() and pg_terminate_backend() refuse these: they are not in the array of backends.
_NO_BACKENDS = frozenset({"startup", "checkpointer", "background writer", "walwriter", "archiver", "walreceiver"}) | {
    "walsummarizer",
    "io worker",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """What is going to be done about one session or prepared transaction, and whom that frees.

    Args:
        steps: `cancel` and `terminate`, each only as far as the one before did not help; or `rollback`.
        victims: the waits that it causes itself: when they are over, no further step is needed.
        behind: who waits for it, or for one that does; frees: those of them that wait for nobody else.
        warnings: what to think of before saying yes.
    """

    key: Key
    who: Backend | Prepared
    steps: tuple[Step, ...]
    victims: tuple[Wait, ...]
    behind: tuple[Key, ...]
    frees: tuple[Key, ...]
    warnings: tuple[str, ...]


def plan_backend(tree: Tree, pid: int, rights: Rights, *, force: bool) -> Resolution:
    """Return the steps that end what a backend holds up.

    Raises:
        RefusedError: there is no such backend, nobody waits for it, or it is one that must not be signalled blindly.
        PermissionDeniedError: the role may not see or not signal it.
    """
    backend = tree.look.backends.get(pid)
    if backend is None:
        raise RefusedError(
            f"No backend has the pid {pid}, or it is this very session.",
            consequence=_UNCHANGED,
            hint="`pgscale locks` shows who holds others up now; a GID that is a number needs --prepared.",
        )
    doing = backend.doing
    if doing is None:
        raise PermissionDeniedError(
            f"Role {tree.look.role} may not see when backend {pid} began, so a pid that another session gets meanwhile"
            " could be hit.",
            consequence=_UNCHANGED,
            hint=f"GRANT pg_monitor TO {tree.look.role}, or connect as {backend.user or 'a superuser'}.",
        )
    if doing.kind in _NO_BACKENDS:
        raise RefusedError(f"Process {pid} is the server's {doing.kind}: no signal ends it.", consequence=_UNCHANGED)
    _check_kind(pid, doing, force=force)
    _check_rights(tree, backend, doing, rights)
    return _resolution(tree, pid, backend, _signals(pid, doing), _backend_warnings(tree, pid), force=force)


def _check_kind(pid: int, doing: Doing, *, force: bool) -> None:
    if doing.kind == "client backend" or force:
        return
    if doing.kind == "parallel worker" and doing.leader_pid is not None:
        raise RefusedError(
            f"Process {pid} is a parallel worker of {doing.leader_pid}.",
            consequence=_UNCHANGED,
            hint=f"pgscale locks resolve {doing.leader_pid}",
        )
    fact, hint = f"Process {pid} is no client's but a {doing.kind}.", "--force signals it all the same."
    if is_against_wraparound(doing):
        fact = f"Process {pid} is an autovacuum worker that prevents transaction id wraparound."
        hint = (
            "Leave it: another one begins from the start at once, and without it the server takes no more writes one"
            " day. Better end what waits for it, or VACUUM the table by hand without cost limits. --force signals it."
        )
    elif doing.kind == "walsender":
        fact = f"Process {pid} is a walsender: a standby, a subscriber or a backup lives on it."
        hint = "It connects again at once, or a backup is lost. --force signals it."
    elif doing.kind == "autovacuum worker":
        hint = "It gives way by itself after deadlock_timeout. --force signals it."
    raise RefusedError(fact, consequence=_UNCHANGED, hint=hint)


def is_against_wraparound(doing: Doing) -> bool:
    """Tell a vacuum that no waiter can chase away."""
    return doing.kind == "autovacuum worker" and "(to prevent wraparound)" in doing.query


def _check_rights(tree: Tree, backend: Backend, doing: Doing, rights: Rights) -> None:
    role = tree.look.role
    if rights.is_superuser:
        return
    if rights.target_is_superuser or backend.user is None:
        if doing.kind == "autovacuum worker" and rights.may_signal_autovacuum:
            return
        whose = "a superuser" if rights.target_is_superuser else f"the server itself (a {doing.kind})"
        raise PermissionDeniedError(
            f"Backend {backend.pid} belongs to {whose}: only a superuser may signal it.",
            consequence=_UNCHANGED,
            hint="Connect as a superuser."
            + (" From 18 on pg_signal_autovacuum_worker serves." if doing.kind == "autovacuum worker" else ""),
        )
    if not (rights.has_role or rights.may_signal):
        raise PermissionDeniedError(
            f"Role {role} may not signal a backend of role {backend.user}.",
            consequence=_UNCHANGED,
            hint=f"GRANT pg_signal_backend TO {role}, or connect as {backend.user}.",
        )


def _signals(pid: int, doing: Doing) -> tuple[Step, ...]:
    helps = doing.state is None or not doing.state.startswith("idle")
    cancel = Step(
        id="cancel",
        title=f"cancel the statement of {pid}",
        kind="cancel",
        sql=(f"SELECT pg_cancel_backend({pid})",),
        lock="none",
        longest_wait="none",
        undo=(),
        reason="its transaction is rolled back, its connection stays; inside a savepoint it may keep its locks",
    )
    terminate = Step(
        id="terminate",
        title=f"terminate {pid}",
        kind="terminate",
        sql=(f"SELECT pg_terminate_backend({pid})",),
        lock="none",
        longest_wait="none",
        undo=(),
        reason="only if it still holds others up after that; its client loses the connection"
        if helps
        else f"it is {doing.state}: there is no statement to cancel; its client loses the connection",
    )
    return (cancel, terminate) if helps else (terminate,)


def _backend_warnings(tree: Tree, pid: int) -> tuple[str, ...]:
    node = tree.nodes.get(pid)
    if node is None or not node.waits:
        return ()
    holders = sorted({b.key for w in node.waits for b in w.blockers}, key=order)
    return (f"{pid} is not the root: it waits for {', '.join(map(str, holders))} itself.",)


def plan_prepared(tree: Tree, gid: str, rights: Rights, *, force: bool) -> Resolution:
    """Return the step that rolls a prepared transaction back.

    Raises:
        RefusedError: there is none of that name, it belongs to another database, or nobody waits for it.
        PermissionDeniedError: the role neither owns it nor is a superuser.
    """
    found = next((p for p in tree.look.prepared if p.gid == gid), None)
    if found is None:
        raise RefusedError(
            f"There is no prepared transaction {gid!r}.",
            consequence="Nothing was rolled back.",
            hint="`pgscale locks` shows who holds others up now; SELECT * FROM pg_prepared_xacts shows them all.",
        )
    if found.database != tree.look.database:
        raise RefusedError(
            f"Prepared transaction {gid!r} belongs to database {found.database}, this session to {tree.look.database}.",
            consequence="Nothing was rolled back.",
            hint=f"Connect to database {found.database} (--dsn): only there can it be ended.",
        )
    if found.owner != tree.look.role and not rights.is_superuser:
        raise PermissionDeniedError(
            f"Prepared transaction {gid!r} belongs to role {found.owner}: only it or a superuser may roll it back.",
            consequence="Nothing was rolled back.",
            hint=f"Connect as {found.owner} or as a superuser.",
        )
    step = Step(
        id="rollback",
        title=f"roll back prepared transaction {gid!r}",
        kind="rollback",
        sql=(ddl.rollback_prepared(gid).as_string(None),),
        lock="none",
        longest_wait="none",
        undo=(),
        reason="nobody is connected that could be signalled; its work is lost",
    )
    warning = (
        "If a transaction manager has decided to commit it, rolling it back breaks that promise: look in its log first;"
        " COMMIT PREPARED frees the others as well."
    )
    return _resolution(tree, gid, found, (step,), (warning,), force=force)


def _resolution(
    tree: Tree, key: Key, who: Backend | Prepared, steps: tuple[Step, ...], warnings: tuple[str, ...], *, force: bool
) -> Resolution:
    victims = tuple(w for node in tree.waiting for w in node.waits if any(b.key == key for b in w.blockers))
    if not victims and not force:
        raise RefusedError(
            f"Nobody waits for {key}.",
            consequence=_UNCHANGED if isinstance(key, int) else "Nothing was rolled back.",
            hint="`pgscale locks` shows who holds others up now; --force ends it all the same.",
        )
    return Resolution(
        key=key,
        who=who,
        steps=steps,
        victims=victims,
        behind=tuple(sorted(behind(tree, key), key=order)),
        frees=tuple(sorted(freed_by(tree, key), key=order)),
        warnings=warnings,
    )
