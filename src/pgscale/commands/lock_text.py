"""The lock tree for people: lines of pieces with a role each, so that a terminal can colour them. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pgscale.core.units import format_count, format_duration
from pgscale.doctor.locks.model import Backend, Key, Node, Prepared, Tree, Wait
from pgscale.doctor.locks.modes import mode_name

Role = Literal["plain", "root", "waiter", "state", "wait", "query", "frees", "faint"]
Line: TypeAlias = "tuple[tuple[Role, str], ...]"

HIDDEN = "hidden: needs pg_read_all_stats"
_SHOWN_CHARS = 120
# A long queue for one lock is one after the other the same; JSON has them all.
_SHOWN_CHILDREN = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One session with what is to be said of it, and those who are shown under it."""

    lines: tuple[Line, ...]
    children: tuple[Branch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What `pgscale locks` shows: a headline, the trees, and notes."""

    headline: str
    branches: tuple[Branch, ...] = ()
    notes: tuple[str, ...] = ()


def draw(tree: Tree) -> Picture:
    """Return the picture of a tree; a headline alone when nobody waits."""
    notes = (*tree.look.notes, *_hidden(tree))
    if not tree.waiting:
        return Picture(headline="Nobody waits for a lock.", notes=notes)
    first = tree.nodes[tree.roots[0]]
    longest = max(node.waited_s for node in tree.waiting)
    count = len(tree.waiting)
    headline = (
        f"{format_count(count, 'session')} wait{'s' if count == 1 else ''} for a lock"
        f"{', the longest' if count > 1 else ''} for {format_duration(longest)};"
        f" {', '.join(name(key) for key in tree.roots[:5])}{', …' if len(tree.roots) > 5 else ''}"
        f" hold{'s' if len(tree.roots) == 1 else ''} {'it' if count == 1 else 'them'} up."
    )
    if first.frees:
        notes = (
            *notes,
            f"`pgscale locks resolve {_target(first.key)}` would free {format_count(first.frees, 'session')}.",
        )
    return Picture(headline=headline, branches=tuple(_branch(tree, key) for key in tree.roots), notes=notes)


def plain(picture: Picture) -> str:
    """Return the picture as lines of text."""
    lines = [picture.headline]
    for branch in picture.branches:
        lines += ["", *_plain(branch)]
    if picture.notes:
        lines += [*([""] if picture.branches else []), *picture.notes]
    return "\n".join(lines)


def _plain(root: Branch) -> Iterator[str]:
    todo = [(root, "", "")]
    while todo:
        branch, first, rest = todo.pop()
        bar = "│  " if branch.children else "   "
        for place, line in enumerate(branch.lines):
            yield (first if place == 0 else rest + bar) + "".join(text for _, text in line)
        last = len(branch.children) - 1
        todo += [
            (child, rest + ("└─ " if place == last else "├─ "), rest + ("   " if place == last else "│  "))
            for place, child in reversed(list(enumerate(branch.children)))
        ]


def _branch(tree: Tree, key: Key) -> Branch:
    """Return the branch of a session and all below it; a chain can be longer than Python's calls are deep."""
    made: dict[Key, Branch] = {}
    todo = [key]
    while todo:
        children = tree.children.get(todo[-1], ())
        if missing := [c for c in children[:_SHOWN_CHILDREN] if c not in made]:
            todo += missing
            continue
        here = todo.pop()
        below = tuple(made[c] for c in children[:_SHOWN_CHILDREN])
        if len(children) > _SHOWN_CHILDREN:
            left = format_count(len(children) - _SHOWN_CHILDREN, "session")
            below = (*below, Branch(lines=((("faint", f"and {left} more; --json has them all"),),)))
        made[here] = Branch(lines=tuple(_lines(tree, tree.nodes[here])), children=below)
    return made[key]


def _lines(tree: Tree, node: Node) -> Iterator[Line]:
    yield _who(node)
    for wait in node.waits:
        yield (("wait", say_wait(node, wait)),)
    if node.deadlocked:
        yield (("wait", "in a deadlock: the server ends one of its sessions after deadlock_timeout"),)
    if isinstance(node.who, Backend) and node.who.doing is not None and node.who.doing.query:
        yield (("query", shorten(node.who.doing.query)),)
    if others := tree.others.get(node.key):
        shown = ", ".join(name(key) for key in others[:10])
        yield (("faint", f"also in the way of {shown}{', …' if len(others) > 10 else ''}, shown elsewhere"),)


def _who(node: Node) -> Line:
    role: Role = "waiter" if node.waits else "root"
    pieces: list[tuple[Role, str]] = [(role, name(node.key))]
    if isinstance(node.who, Prepared):
        of = f" of {node.who.owner} in {node.who.database}, prepared {format_duration(node.who.prepared_s)} ago"
        pieces.append(("plain", printable(of)))
    else:
        pieces.append(("plain", f"  {printable(_label(node.who))}"))
        pieces.append(("state", f"  {say_state(node.who)}"))
    if node.behind:
        rest = f" of {node.behind:,} behind it" if node.behind != node.frees else ""
        pieces.append(("frees", f"  its end frees {node.frees:,}{rest}"))
    return tuple(pieces)


def name(key: Key) -> str:
    """Return `1234`, or `prepared transaction 'gid'` as SQL would write it."""
    return str(key) if isinstance(key, int) else "prepared transaction '" + printable(key).replace("'", "''") + "'"


def _target(key: Key) -> str:
    """Return what `resolve` takes, as a shell wants it."""
    if isinstance(key, int):
        return str(key)
    return f"{'--prepared ' if key.isdecimal() else ''}{shlex.quote(printable(key))}"


def _label(backend: Backend) -> str:
    doing = backend.doing
    kind = doing.kind if doing is not None and doing.kind != "client backend" else ""
    of = f"{backend.user or ''}{'@' if backend.user and backend.database else ''}{backend.database or ''}"
    return "  ".join(part for part in (kind, of, backend.application) if part)


def say_state(backend: Backend) -> str:
    """Return its state and for how long, and how old its transaction is; or that it is hidden."""
    doing = backend.doing
    if doing is None:
        return HIDDEN
    parts: list[str] = []
    if doing.state is not None:
        parts.append(doing.state + (f" for {format_duration(doing.state_s)}" if doing.state_s is not None else ""))
    if doing.transaction_s is not None:
        parts.append(f"transaction {format_duration(doing.transaction_s)} old")
    return ", ".join(parts) or "no state"


def say_wait(node: Node, wait: Wait) -> str:
    """Return for what and how long it waits, and what those in the way hold or asked for."""
    worker = f"its parallel worker {wait.pid} " if wait.pid != node.key else ""
    long = f" for {format_duration(wait.waited_s)}" if wait.waited_s is not None else ""
    text = f"{worker}waits{long}: {mode_name(wait.mode)} on {wait.what}"
    holders = [b for b in wait.blockers if b.kind == "holds"]
    queued = [b for b in wait.blockers if b.kind == "queue"]
    # The parent first; its modes say why this one waits.
    holders.sort(key=lambda b: b.key != node.parent)
    queued.sort(key=lambda b: b.key != node.parent)
    if holders:
        text += "; held by " + _some([f"{name(b.key)}{_modes(b.modes)}" for b in holders])
    if queued:
        text += "; in the queue behind " + _some([f"{name(b.key)}{_modes(b.modes)}" for b in queued])
    return printable(text)


def _modes(modes: tuple[str, ...]) -> str:
    return f" ({', '.join(modes)})" if modes else ""


def _some(parts: list[str], most: int = 3) -> str:
    left = f" and {len(parts) - most:,} more" if len(parts) > most else ""
    return ", ".join(parts[:most]) + left


def _hidden(tree: Tree) -> tuple[str, ...]:
    count = sum(1 for node in tree.nodes.values() if isinstance(node.who, Backend) and node.who.doing is None)
    if not count:
        return ()
    return (
        f"State, times and query of {format_count(count, 'session')} of other roles are hidden:"
        f" GRANT pg_read_all_stats (or pg_monitor) TO {printable(tree.look.role)}.",
    )


def shorten(query: str, most: int = _SHOWN_CHARS) -> str:
    """Return a statement on one line, its beginning only."""
    line = " ".join(printable(query).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def printable(text: str) -> str:
    """Return the text without what would steer a terminal: a query can hold any character."""
    return "".join(c if c.isprintable() else " " for c in text)
