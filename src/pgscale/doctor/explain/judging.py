"""What is found in a plan, the worst first. Pure."""

from __future__ import annotations

from pgscale.core.finding import Finding, rank
from pgscale.doctor.explain import beside, estimates, memory, scans, shapes
from pgscale.doctor.explain.case import Case

JUDGES = (scans.judge, memory.judge, estimates.judge, shapes.judge, beside.judge)


def judge(case: Case) -> tuple[Finding, ...]:
    """Return the findings about a plan; those of the same severity in the order of the judges."""
    found = [finding for judged in JUDGES for finding in judged(case)]
    return tuple(sorted(found, key=lambda finding: -rank(finding.severity)))
