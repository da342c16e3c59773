"""What a rule is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pgscale.core.finding import Finding, Remedy, Severity
from pgscale.core.model import Json
from pgscale.doctor.lint.view import View

Judge: TypeAlias = Callable[[View], Iterator[Finding]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule; `id` is `area.thing` and never changes.

    Args:
        title: what it finds, in a few words.
        about: why that matters, for --explain.
        judge: yields what is wrong with one statement.
    """

    id: str
    title: str
    about: str
    judge: Judge

    def finding(
        self,
        severity: Severity,
        subject: str,
        fact: str,
        *,
        why: str,
        evidence: Mapping[str, Json],
        remedies: tuple[Remedy, ...] = (),
    ) -> Finding:
        return Finding(
            check=self.id,
            severity=severity,
            subject=subject,
            fact=fact,
            evidence=evidence,
            cost=why,
            remedies=remedies,
        )
