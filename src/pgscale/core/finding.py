"""What a check answers: well, findings, or why it could not look. Values only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from pgscale.core.model import Json

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")

RemedyKind = Literal["sql", "shell", "setting", "file"]


def rank(severity: Severity) -> int:
    """Return 0 for info, 1 for warning, 2 for critical."""
    return SEVERITIES.index(severity)


def worst(severities: Iterable[Severity]) -> Severity | None:
    """Return the worst of some; None when there are none."""
    found = set(severities)
    return next((severity for severity in reversed(SEVERITIES) if severity in found), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """One thing to paste.

    Args:
        text: SQL (one statement a line, each with its semicolon), a command, or lines of a configuration file.
        kind: where it goes: `sql` and `setting` (SQL that changes the configuration) into psql, `shell` into a shell,
            `file` into the file that `why` names.
        why: what it does and what it costs, in one sentence; where to run it when that is not the database examined.
        restart: the server must be restarted before it has effect.
    """

    text: str
    kind: RemedyKind = "sql"
    why: str = ""
    restart: bool = False

    def to_json(self) -> dict[str, Json]:
        return {"text": self.text, "kind": self.kind, "why": self.why, "restart": self.restart}


def _nothing() -> dict[str, Json]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong.

    Args:
        check: the id of the check, `area.thing`.
        subject: what is ill: a table, an index, a session, a setting; empty for the whole database.
        fact: what is so, in one sentence with its numbers.
        evidence: the numbers it rests on, by name, in the order to show them in. The unit ends the name: `_s`,
            `_bytes`, `_share` (of one), `_xids`. A list of objects is a table; an object has names to be shown as they
            are, of settings for instance.
        cost: what it costs or will cost, in one sentence.
        remedies: what to do, the best first.
    """

    check: str
    severity: Severity
    subject: str
    fact: str
    evidence: Mapping[str, Json] = field(default_factory=_nothing)
    cost: str = ""
    remedies: tuple[Remedy, ...] = ()

    def to_json(self) -> dict[str, Json]:
        return {
            "check": self.check,
            "severity": self.severity,
            "subject": self.subject,
            "fact": self.fact,
            "evidence": dict(self.evidence),
            "cost": self.cost,
            "remedies": [remedy.to_json() for remedy in self.remedies],
        }


@dataclass(frozen=True, slots=True)
class Well:
    """Nothing is wrong; `text` says what was looked at and found good, as a sentence."""

    answer: ClassVar[str] = "well"
    text: str

    def to_json(self) -> dict[str, Json]:
        return {"answer": self.answer, "text": self.text}


@dataclass(frozen=True, slots=True)
class Findings:
    """What is wrong, the worst first; never empty.

    Args:
        text: one line for all of them; by default the fact of the only one, else how many there are.
    """

    answer: ClassVar[str] = "finding"
    items: tuple[Finding, ...]
    text: str = ""

    def __post_init__(self) -> None:
        if not self.items:
            raise ValueError("an answer without findings is Well or NotChecked")

    @property
    def severity(self) -> Severity:
        """The worst there is."""
        found = worst(item.severity for item in self.items)
        assert found is not None
        return found

    @property
    def summary(self) -> str:
        if self.text or len(self.items) == 1:
            return self.text or self.items[0].fact
        return f"{len(self.items)} findings, the first: {self.items[0].fact}"

    def to_json(self) -> dict[str, Json]:
        return {
            "answer": self.answer,
            "text": self.summary,
            "severity": self.severity,
            "findings": [item.to_json() for item in self.items],
        }


@dataclass(frozen=True, slots=True)
class NotChecked:
    """It could not be looked at.

    Args:
        because: why, to stand after "not checked, because"; without a full stop.
        hint: what would make it possible, often a GRANT to paste; empty when nothing would.
    """

    answer: ClassVar[str] = "not checked"
    because: str
    hint: str = ""

    def to_json(self) -> dict[str, Json]:
        return {"answer": self.answer, "because": self.because, "hint": self.hint}


Answer: TypeAlias = Well | Findings | NotChecked
