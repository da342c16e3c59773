"""`pgscale locks`: show who waits for whom; end what holds others up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pgscale.commands import lock_text
from pgscale.commands.lock_text import Picture
from pgscale.connect.session import open_session
from pgscale.core.model import Json, Report
from pgscale.core.units import format_count, format_duration
from pgscale.doctor.locks import runner
from pgscale.doctor.locks.model import Key, Node, Prepared, Tree
from pgscale.doctor.locks.modes import mode_name
from pgscale.doctor.locks.plan import Resolution
from pgscale.doctor.locks.reader import LOOK, LocksNotReadableError, read_look
from pgscale.doctor.locks.runner import Resolved
from pgscale.doctor.locks.tree import build_tree
from pgscale.errors import ConnectError

Ask = Callable[[str], None]
"""Shown what is going to be done; raises RefusedError to stop it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One look, for a terminal and for everything else."""

    picture: Picture
    report: Report


def show(dsn: str | None) -> Shown:
    """Look once."""
    with open_session(dsn, LOOK) as session:
        return _shown(build_tree(read_look(session)))


def watch(dsn: str | None, every_s: float) -> Iterator[Picture]:
    """Look again and again, for ever; a server that is away for a while is waited for."""
    session = open_session(dsn, LOOK)
    try:
        while True:
            try:
                if session.closed:
                    session = open_session(dsn, LOOK)
                tree = build_tree(read_look(session))
                picture = lock_text.draw(tree)
                yield Picture(
                    headline=f"{tree.look.at:%H:%M:%S}  {picture.headline}",
                    branches=picture.branches,
                    notes=picture.notes,
                )
            except (ConnectError, LocksNotReadableError) as error:
                yield Picture(headline=f"{error} Trying again.")
            time.sleep(every_s)
    finally:
        session.close()


def _shown(tree: Tree) -> Shown:
    picture = lock_text.draw(tree)
    data: dict[str, Json] = {
        "at": tree.look.at.isoformat(),
        "database": tree.look.database,
        "waiting": len(tree.waiting),
        "roots": [_key(key) for key in tree.roots],
        "sessions": [_node(node) for node in tree.nodes.values()],
        "notes": [*picture.notes],
    }
    return Shown(picture=picture, report=Report(data=data, text=lock_text.plain(picture)))


def _key(key: Key) -> Json:
    return {"pid": key} if isinstance(key, int) else {"gid": key}


def _node(node: Node) -> Json:
    waits: list[Json] = [
        {
            "pid": wait.pid,
            "type": wait.tag.kind,
            "object": wait.what,
            "mode": mode_name(wait.mode),
            "since": None if wait.since is None else wait.since.isoformat(),
            "waited_s": wait.waited_s,
            "blockers": [{**_pair(b.key), "kind": b.kind, "modes": [*b.modes]} for b in wait.blockers],
        }
        for wait in node.waits
    ]
    return {
        **_pair(node.key),
        **_who(node),
        "waits": waits,
        "shown_under": None if node.parent is None else _key(node.parent),
        "behind": node.behind,
        "frees": node.frees,
        "deadlocked": node.deadlocked,
    }


def _pair(key: Key) -> dict[str, Json]:
    return {"pid": key} if isinstance(key, int) else {"gid": key}


def _who(node: Node) -> dict[str, Json]:
    who = node.who
    if isinstance(who, Prepared):
        return {
            "transaction": who.transaction,
            "user": who.owner,
            "database": who.database,
            "prepared_s": who.prepared_s,
        }
    doing = who.doing
    shared: dict[str, Json] = {"user": who.user, "database": who.database, "application": who.application}
    if doing is None:
        return {**shared, "hidden": "needs pg_read_all_stats"}
    return {
        **shared,
        "type": doing.kind,
        "started": doing.started.isoformat(),
        "state": doing.state,
        "state_s": doing.state_s,
        "transaction_s": doing.transaction_s,
        "query": doing.query,
    }


def resolve(
    dsn: str | None,
    target: str,
    ask: Ask | None,
    *,
    wait_s: float,
    force: bool,
    prepared: bool,
    dry_run: bool,
) -> Report:
    """End what one session or prepared transaction holds up; exit code 5 when it still does."""

    def confirm(plan: Resolution, tree: Tree) -> None:
        if ask is not None:
            ask(_say_plan(plan, tree, wait_s))

    result = runner.resolve(dsn, target, confirm, wait_s=wait_s, force=force, prepared=prepared, dry_run=dry_run)
    plan = result.plan
    data: dict[str, Json] = {
        "target": _key(plan.key),
        "dry_run": dry_run,
        "steps": [step.to_json() for step in plan.steps],
        "warnings": [*plan.warnings],
        "would_free": [_key(key) for key in plan.frees],
        "done": [*result.done],
        "ended": result.ended,
        "freed": [_key(key) for key in result.freed],
        "still_waiting": [_node(result.after.nodes[key]) for key in result.still],
    }
    if dry_run:
        return Report(data=data, text=_say_plan(plan, result.after, wait_s))
    return Report(data=data, text=_say_result(result), exit_code=0 if result.ended else 5)


def _say_plan(plan: Resolution, tree: Tree, wait_s: float) -> str:
    who = plan.who
    if isinstance(who, Prepared):
        lines = [f"{lock_text.name(plan.key)} of {who.owner}, prepared {format_duration(who.prepared_s)} ago"]
    else:
        lines = [lock_text.printable(f"{who.pid}  {who.user or ''}  {who.application}  {lock_text.say_state(who)}")]
        if who.doing is not None and who.doing.query:
            lines.append(f"   {lock_text.shorten(who.doing.query)}")
    lines += [f"{number}. {step.title}: {step.reason}" for number, step in enumerate(plan.steps, start=1)]
    if len(plan.steps) > 1:
        lines.append(f"   {format_duration(wait_s)} are given for the first to help.")
    if plan.behind:
        others = len(plan.behind) - len(plan.frees)
        rest = (
            f"; {others} more of those behind it wait{'s' if others == 1 else ''} for somebody else too"
            if others
            else ""
        )
        lines.append(f"That frees {format_count(len(plan.frees), 'session')}{rest}.")
        lines += [f"   {_say_waiter(tree, key)}" for key in plan.frees[:10]]
        if len(plan.frees) > 10:
            lines.append(f"   and {len(plan.frees) - 10:,} more")
    else:
        lines.append("Nobody waits for it.")
    return "\n".join([*lines, *plan.warnings])


def _say_waiter(tree: Tree, key: Key) -> str:
    node = tree.nodes[key]
    return f"{lock_text.name(key)}  {'; '.join(lock_text.say_wait(node, wait) for wait in node.waits)}"


_DONE = {"cancel": "cancelled", "terminate": "terminated", "rollback": "rolled back"}


def _say_result(result: Resolved) -> str:
    plan = result.plan
    who = lock_text.name(plan.key)
    done = " and then ".join(_DONE[step] for step in result.done)
    if not result.ended:
        lines = [f"{who} was {done}, and still holds others up." if done else f"{who} could not be signalled."]
        lines.append("A process that does not react waits inside the system: look at its disk and network.")
    elif done:
        lines = [f"{who} was {done}."]
    else:
        lines = [f"{who} let the others go by itself: nothing was signalled."]
    if plan.behind:
        lines.append(
            f"{format_count(len(result.freed), 'session')} no longer wait{'' if len(result.freed) != 1 else 's'}."
        )
    if result.still:
        lines.append(f"Still waiting: {format_count(len(result.still), 'session')}.")
        lines += [f"   {_say_waiter(result.after, key)}" for key in result.still[:10]]
    return "\n".join(lines)
