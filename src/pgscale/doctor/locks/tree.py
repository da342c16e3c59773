"""Build the tree of who waits for whom out of one look. Pure.

Each session is shown once, under one that holds what it waits for; when nobody holds it, under one that asked before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter

from pgscale.doctor.locks.model import Blocker, BlockKind, Key, LockRow, Look, Node, Tag, Tree, Wait, order
from pgscale.doctor.locks.modes import is_conflict, mode_name
from pgscale.doctor.locks.objects import describe

Edges = Mapping[Key, frozenset[Key]]


def build_tree(look: Look) -> Tree:
    """Return who waits for whom. Costs about as much as there are pairs of a waiter and a blocker."""
    waits = _read_waits(look)
    keys = {*waits, *(b.key for each in waits.values() for w in each for b in w.blockers)}
    blockers = {key: _blockers(waits.get(key, ())) for key in keys}
    sorted_keys, acyclic, deadlocked = _sort(blockers)
    after, frees = _count(sorted_keys, acyclic)
    parents = {
        key: min(_candidates(waits[key], acyclic[key]), key=lambda b: (-after[b], order(b)))
        for key in sorted_keys
        if acyclic[key]
    }
    prepared = {p.gid: p for p in look.prepared}
    nodes = {
        key: Node(
            key=key,
            who=prepared[key] if isinstance(key, str) else look.backends[key],
            waits=waits.get(key, ()),
            parent=parents.get(key),
            behind=after[key],
            frees=frees[key],
            deadlocked=key in deadlocked,
        )
        for key in sorted_keys
    }

    def by_weight(some: Iterable[Key]) -> tuple[Key, ...]:
        return tuple(sorted(some, key=lambda k: (-nodes[k].behind, -nodes[k].waited_s, order(k))))

    children: dict[Key, list[Key]] = defaultdict(list)
    others: dict[Key, list[Key]] = defaultdict(list)
    for key, parent in parents.items():
        children[parent].append(key)
        for holder in _holders(waits[key]) - {parent}:
            others[holder].append(key)
    tree = Tree(
        look=look,
        nodes=nodes,
        roots=by_weight(key for key in sorted_keys if key not in parents),
        children={key: by_weight(some) for key, some in children.items()},
        others={key: by_weight(some) for key, some in others.items()},
    )
    # In a circle everybody's end frees the others; the sorted graph knows that of one of them only.
    for key in deadlocked:
        nodes[key] = replace(nodes[key], behind=len(behind(tree, key)), frees=len(freed_by(tree, key)))
    return tree


def behind(tree: Tree, key: Key) -> frozenset[Key]:
    """Return everybody who waits for somebody, or for one that does."""
    waiters = _waiters(tree)
    found: set[Key] = set()
    todo = [key]
    while todo:
        new = waiters.get(todo.pop(), set()) - found
        found |= new
        todo += new
    return frozenset(found - {key})


def freed_by(tree: Tree, key: Key) -> frozenset[Key]:
    """Return who can go on, sooner or later, once somebody has ended: who waits for nobody else.

    It is supposed that those who are freed first end in their time and so free the next.
    """
    waiters = _waiters(tree)
    left = {k: set(_blockers(node.waits)) for k, node in tree.nodes.items()}
    freed: set[Key] = set()
    todo = [key]
    while todo:
        ended = todo.pop()
        for waiter in waiters.get(ended, ()):
            left[waiter].discard(ended)
            if not left[waiter] and waiter not in freed and waiter != key:
                freed.add(waiter)
                todo.append(waiter)
    return frozenset(freed)


def _waiters(tree: Tree) -> dict[Key, set[Key]]:
    waiters: dict[Key, set[Key]] = defaultdict(set)
    for key, node in tree.nodes.items():
        for blocker in _blockers(node.waits):
            waiters[blocker].add(key)
    return waiters


# Who waits for what


def _read_waits(look: Look) -> dict[Key, tuple[Wait, ...]]:
    """Return by session what it waits for; parallel workers count as their leader."""
    held: dict[Tag, dict[Key, list[str]]] = defaultdict(lambda: defaultdict(list))
    asked: dict[Tag, dict[Key, list[str]]] = defaultdict(lambda: defaultdict(list))
    rows: dict[Key, list[Tag]] = defaultdict(list)
    gids = {p.transaction: p.gid for p in look.prepared}
    for lock in look.locks:
        key = gids.get(lock.prepared or 0) if lock.pid is None else _leader(lock.pid, look)
        if key is None:
            continue
        modes = (held if lock.granted else asked)[lock.tag][key]
        if lock.mode not in modes:
            modes.append(lock.mode)
        if lock.granted and lock.tag.kind == "tuple":
            rows[key].append(lock.tag)
    waits: dict[Key, list[Wait]] = defaultdict(list)
    for lock in look.locks:
        if lock.granted or lock.pid is None or lock.pid not in look.backends:
            continue
        key = _leader(lock.pid, look)
        blockers = tuple(_name_blockers(lock, key, look, held[lock.tag], asked[lock.tag]))
        if blockers:
            waits[key].append(
                Wait(
                    pid=lock.pid,
                    tag=lock.tag,
                    mode=lock.mode,
                    what=_what(lock.tag, rows[key], look),
                    since=lock.since,
                    waited_s=lock.waited_s,
                    blockers=blockers,
                )
            )
    return {key: tuple(each) for key, each in waits.items()}


def _leader(pid: int, look: Look) -> int:
    backend = look.backends.get(pid)
    leader = backend.doing.leader_pid if backend is not None and backend.doing is not None else None
    return leader if leader in look.backends and leader is not None else pid


def _name_blockers(
    lock: LockRow, waiter: Key, look: Look, held: Mapping[Key, list[str]], asked: Mapping[Key, list[str]]
) -> Iterable[Blocker]:
    """Yield each blocker once; one that has gone since the locks were read is left out, as it holds nothing."""
    met: set[Key] = {waiter}
    for pid in lock.blockers:
        # pg_blocking_pids() does not say which prepared transaction it means by 0; the lock table does.
        named: Iterable[Key] = (k for k in held if isinstance(k, str)) if pid == 0 else [_leader(pid, look)]
        for key in named:
            if key in met or (isinstance(key, int) and key not in look.backends):
                continue
            conflicting = any(is_conflict(mode, lock.mode) for mode in held.get(key, ()))
            if pid == 0 and not conflicting:
                continue
            met.add(key)
            # One that is neither seen holding nor asking got or gave up the lock between two reads.
            kind: BlockKind = "queue" if not conflicting and key in asked else "holds"
            modes = (held if kind == "holds" else asked).get(key, [])
            yield Blocker(key=key, kind=kind, modes=tuple(mode_name(mode) for mode in modes))


def _what(tag: Tag, rows: list[Tag], look: Look) -> str:
    what = describe(tag, look)
    # Who waits for a transaction because of a row has locked that row for itself, as the first in its queue.
    return f"{what}, which holds {describe(rows[0], look)}" if tag.kind == "transactionid" and rows else what


def _blockers(waits: Iterable[Wait]) -> frozenset[Key]:
    return frozenset(b.key for w in waits for b in w.blockers)


def _holders(waits: Iterable[Wait]) -> frozenset[Key]:
    return frozenset(b.key for w in waits for b in w.blockers if b.kind == "holds")


def _candidates(waits: Iterable[Wait], allowed: frozenset[Key]) -> frozenset[Key]:
    return (_holders(waits) & allowed) or allowed


# Order and numbers


def _sort(blockers: Edges) -> tuple[list[Key], dict[Key, frozenset[Key]], frozenset[Key]]:
    """Return everybody after those they wait for, the edges that order rests on, and who waits in a circle.

    A circle lasts until the server's deadlock_timeout; it is cut where its lowest pid waits, which becomes a root.
    """
    acyclic = dict(blockers)
    deadlocked: set[Key] = set()
    while True:
        try:
            return list(TopologicalSorter(acyclic).static_order()), acyclic, frozenset(deadlocked)
        except CycleError as error:
            circle: list[Key] = error.args[1]
            deadlocked.update(circle)
            acyclic[min(circle, key=order)] = frozenset()


def _count(sorted_keys: list[Key], blockers: Edges) -> tuple[dict[Key, int], dict[Key, int]]:
    """Return by session how many wait behind it, and how many its end alone would free.

    Sets are bits of one integer: a long queue for one lock has as many edges as pairs. Whose end frees a waiter are its
    dominators in the graph (Lengauer and Tarjan, 1979): what all the ways from the roots to it have in common.
    """
    bits = {key: 1 << place for place, key in enumerate(sorted_keys)}
    dominators: dict[Key, int] = {}
    after: dict[Key, int] = dict.fromkeys(sorted_keys, 0)
    frees: dict[Key, int] = dict.fromkeys(sorted_keys, -1)
    for key in sorted_keys:
        common = -1
        for blocker in blockers[key]:
            common &= dominators[blocker]
        dominators[key] = bits[key] | (common if blockers[key] else 0)
        left = dominators[key]
        while left:
            lowest = left & -left
            frees[sorted_keys[lowest.bit_length() - 1]] += 1
            left ^= lowest
    for key in reversed(sorted_keys):
        for blocker in blockers[key]:
            after[blocker] |= bits[key] | after[key]
    return {key: after[key].bit_count() for key in sorted_keys}, frees
