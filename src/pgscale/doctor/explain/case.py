"""What a judge of plans is given, and how it says what it found. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pgscale.core.finding import Finding, Remedy, Severity
from pgscale.core.model import Json
from pgscale.doctor.explain.facts import Surroundings
from pgscale.doctor.explain.measuring import GATHERS, Measure
from pgscale.doctor.explain.model import Node, Plan
from pgscale.doctor.explain.thresholds import LARGE_SHARE, LEAST_SHARE

AREA = "explain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A plan, where its time went, and what is known beside.

    Args:
        query: its text; empty where only the plan is known.
        is_generic: planned without the values of its parameters.
    """

    plan: Plan
    measure: Measure
    known: Surroundings
    query: str = ""
    is_generic: bool = False

    @property
    def expects(self) -> str:
        """How figures that were not measured are introduced: nothing where they were."""
        return "" if self.plan.is_measured else "PostgreSQL expects that "

    def matters(self, node: Node) -> bool:
        """Tell whether a node's own part of the whole is worth a word; unknown times are."""
        if self.plan.is_measured and not self.measure.is_time:
            return node.is_executed
        return self.measure.own_share(node) >= LEAST_SHARE

    def severity(self, share: float) -> Severity:
        return "warning" if share >= LARGE_SHARE else "info"

    def processes(self, node: Node) -> float:
        """Return how many processes share in a node, as planned."""
        for above in self.measure.ancestors(node):
            if above.kind in GATHERS:
                return above.figures.get("Workers Planned", 0.0) + 1.0
        return 1.0

    def find(
        self,
        what: str,
        node: Node | None,
        fact: str,
        *,
        severity: Severity,
        evidence: Mapping[str, Json],
        cost: str,
        remedies: tuple[Remedy, ...] = (),
    ) -> Finding:
        """Return a finding about a node, or about the whole plan."""
        where: dict[str, Json] = {}
        if node is not None:
            where = {"node": f"#{node.number}", "path": self.measure.path(node)}
            share = self.measure.own_share(node)
            where["own_time_share" if self.measure.is_time else "own_cost_share"] = round(share, 4)
        return Finding(
            check=f"{AREA}.{what}",
            severity=severity,
            subject="" if node is None else f"#{node.number} {node.label}",
            fact=fact,
            evidence={**where, **evidence},
            cost=cost,
            remedies=remedies,
        )
