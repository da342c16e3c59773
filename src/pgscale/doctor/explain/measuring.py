"""Where the time of a plan went: each node's own, without what is below it. Pure.

EXPLAIN gives averages of one execution with the children included. Four things make the own time more than a
difference: what InitPlans and CTEs take is contained in the node that first asks for them, not in the one they hang
at; a CTE is computed piece by piece by all that scan it; below a Gather the processes run at the same time, so their
times are not to be added; and what was never executed took nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pgscale.doctor.explain.model import INIT_PLAN, SUB_PLAN, Node, Plan

GATHERS = ("Gather", "Gather Merge")
# One process makes the bitmap; the others wait for it.
_BITMAPS = ("Bitmap Index Scan", "BitmapAnd", "BitmapOr")
_LEADER = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Time or, where none was measured, cost of a plan's nodes.

    Args:
        is_time: milliseconds that passed; else the planner's units, expected.
        total: of the whole execution.
        own, inclusive: by the number of the node.
        parents: likewise; None for the root.
    """

    is_time: bool
    total: float
    own: Mapping[int, float]
    inclusive: Mapping[int, float]
    parents: Mapping[int, Node | None]

    def own_share(self, node: Node) -> float:
        return self.own[node.number] / self.total if self.total > 0 else 0.0

    def share(self, node: Node) -> float:
        """Of the node with all below it."""
        return min(1.0, self.inclusive[node.number] / self.total) if self.total > 0 else 0.0

    def ancestors(self, node: Node) -> Iterable[Node]:
        """Yield its parent and so on, up to the root."""
        above = self.parents[node.number]
        while above is not None:
            yield above
            above = self.parents[above.number]

    def path(self, node: Node) -> str:
        """From the root down to it, in words."""
        return " → ".join([*reversed([each.label for each in self.ancestors(node)]), node.label])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    """The process below a Gather whose time counts: the one that took longest; `number` is None where they are not told
    apart, and of `count` processes the average is taken."""

    number: int | None
    count: float


def measure(plan: Plan) -> Measure:
    """Return where the time went, or where it is expected to go by cost."""
    is_time = any(node.actual is not None and node.actual.ms is not None for node in plan.nodes)
    inclusive: dict[int, float] = {}
    parents: dict[int, Node | None] = {plan.root.number: None}
    for node in plan.nodes:
        for child in node.children:
            parents[child.number] = node
    if is_time:
        _time(plan.root, None, inclusive)
    else:
        _cost(plan.root, plan.root.expected.cost, inclusive)
    own = {
        node.number: max(
            0.0,
            inclusive[node.number]
            - sum(inclusive[child.number] for child in node.children if child.relationship != INIT_PLAN),
        )
        for node in plan.nodes
    }
    outside = 0.0
    for node in plan.nodes:
        if node.relationship == INIT_PLAN:
            outside += _take(node, plan, own, inclusive, parents, is_time=is_time)
    whole = inclusive[plan.root.number] + outside
    total = max(whole, plan.execution_ms or 0.0) if is_time else whole
    return Measure(is_time=is_time, total=total, own=own, inclusive=inclusive, parents=parents)


def _time(node: Node, process: _Process | None, inclusive: dict[int, float]) -> None:
    inclusive[node.number] = _passed(node, process)
    for child in node.children:
        below = process
        if node.kind in GATHERS and child.relationship != INIT_PLAN and child.actual is not None:
            below = _longest(child, node)
        _time(child, below, inclusive)
        if below is not None:
            inclusive[child.number] = min(inclusive[child.number], inclusive[node.number])


def _cost(node: Node, part: float, inclusive: dict[int, float]) -> None:
    """Costs are those of one whole execution: of a LIMIT's child a part is reached, of an inner side there are many."""
    inclusive[node.number] = part
    scale = part / node.expected.cost if node.expected.cost > 0 else 0.0
    left = part
    for child in node.children:
        whole = child.expected.cost * scale
        if child.relationship == SUB_PLAN:
            whole *= max(1.0, node.expected.rows)
        elif child.relationship == "Inner" and node.kind == "Nested Loop":
            whole *= max(1.0, node.plain_children[0].expected.rows)
        reached = min(whole, left if child.relationship != INIT_PLAN else part)
        left -= reached if child.relationship != INIT_PLAN else 0.0
        _cost(child, reached, inclusive)


def _longest(child: Node, gather: Node) -> _Process:
    assert child.actual is not None
    loops = gather.actual.loops if gather.actual is not None else 1.0
    count = max(1.0, child.actual.loops / max(1.0, loops))
    times = {each.number: each.actual.all_ms for each in child.workers if each.actual is not None}
    if not times:
        return _Process(number=None, count=count)
    times[_LEADER] = child.actual.all_ms - sum(times.values())
    return _Process(number=max(times, key=lambda number: times[number]), count=count)


def _passed(node: Node, process: _Process | None) -> float:
    if node.actual is None:
        return 0.0
    workers = {each.number: each.actual.all_ms for each in node.workers if each.actual is not None}
    if process is None:
        return node.actual.all_ms
    if process.number is None or (node.kind in _BITMAPS and process.number not in workers):
        return node.actual.all_ms / max(1.0, min(process.count, node.actual.loops))
    if process.number == _LEADER:
        return max(0.0, node.actual.all_ms - sum(workers.values()))
    return workers.get(process.number, 0.0)


def _take(
    init: Node,
    plan: Plan,
    own: dict[int, float],
    inclusive: Mapping[int, float],
    parents: Mapping[int, Node | None],
    *,
    is_time: bool,
) -> float:
    """Take the time of an InitPlan or CTE out of the nodes that waited for it; return what none of them did."""
    inside = {each.number for each in init.walk()}
    holder = parents[init.number]
    asking = [each for each in plan.nodes if each.number not in inside and _asks(each, init)] if is_time else []
    if init.is_cte:
        asking.sort(key=lambda each: own[each.number], reverse=True)
    elif holder is not None:
        asking.append(holder)
    if not is_time and holder is not None:
        asking = [holder]
    rest = inclusive[init.number]
    for each in asking:
        taken = min(own[each.number], rest)
        own[each.number] -= taken
        rest -= taken
    # What EXPLAIN rounds away is not outside.
    return rest if init.is_cte and is_time and not asking else 0.0


def _asks(node: Node, init: Node) -> bool:
    if init.is_cte:
        return node.kind == "CTE Scan" and f"CTE {node.texts.get('CTE Name')}" == init.subplan
    # 17 writes (InitPlan 1).col1, before it is $0, as the name of the subplan says.
    params = re.findall(r"\$\d+", init.subplan)
    pattern = "|".join(rf"{re.escape(each)}(?!\d)" for each in params) or rf"\({re.escape(init.subplan)}\)\."
    found = re.compile(pattern)
    return any(found.search(text) for name, text in node.texts.items() if name != "Subplan Name") or any(
        found.search(item) for items in node.lists.values() for item in items
    )
