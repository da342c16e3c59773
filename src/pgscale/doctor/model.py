"""What a check is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from pgscale.core.finding import Answer
from pgscale.doctor.facts import Counters, Facts, Section
from pgscale.doctor.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question about a database.

    Args:
        id: `area.thing`; never changes.
        title: two or three words for lists.
        question: what is asked, a yes of which is bad news.
        about: what it means and why it matters, for --explain; sentences.
        source: where the thresholds come from: the chapter of PostgreSQL's documentation, or the reasoning.
        judge: answers; reads nothing but facts, and raises NotReadableError only.
        reads: what it reads; --explain shows these queries.
    """

    id: str
    title: str
    question: str
    about: str
    source: str
    judge: Callable[[Facts, Limits], Answer]
    reads: tuple[Section[Any] | Counters, ...]

    @property
    def area(self) -> str:
        return self.id.partition(".")[0]

    def limits(self, limits: Limits) -> dict[str, float]:
        """The thresholds of its area by name; none where the area has none."""
        of_area = getattr(limits, self.area, None)
        return {} if of_area is None else {each.name: getattr(of_area, each.name) for each in fields(of_area)}
