"""Run the chosen checks on one database."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from pgscale.connect.session import open_session
from pgscale.core.finding import Answer, Findings, NotChecked, Severity, worst
from pgscale.doctor.facts import DOCTOR, Facts, NotReadableError, ServerFacts
from pgscale.doctor.limits import Limits
from pgscale.doctor.model import Check
from pgscale.doctor.samples import Samples
from pgscale.doctor.standbys import open_replicas
from pgscale.errors import PermissionDeniedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """What the checks answered.

    Args:
        answers: in the order of the checks.
        took_s: wall time, from the connection to the last answer, seconds.
        notes: what else the user should know, sentences.
    """

    server: ServerFacts
    answers: tuple[tuple[Check, Answer], ...]
    took_s: float
    notes: tuple[str, ...] = ()

    @property
    def worst(self) -> Severity | None:
        """The worst severity found; None when nothing was."""
        return worst(answer.severity for _, answer in self.answers if isinstance(answer, Findings))


def run_checks(
    dsn: str | None,
    checks: Sequence[Check],
    limits: Limits,
    samples: Samples,
    replicas: Sequence[str] = (),
    *,
    may_sample: bool = False,
) -> Checkup:
    """Ask every check, over one read-only connection that waits for no lock longer than 100 ms.

    Args:
        may_sample: checks may read some rows of tables, too.
        replicas: DSNs of standbys to ask, too, each over one connection more.

    Raises:
        ConnectError: there is no connection, or it was lost.
        PermissionDeniedError: the login may not even read what every check needs.
        UsageError: a replica is none of this database.
    """
    began = time.monotonic()
    with open_session(dsn, DOCTOR) as session:
        try:
            facts = Facts(session, samples, may_sample=may_sample)
        except NotReadableError as error:
            raise PermissionDeniedError(f"Nothing can be checked: {error.because}.", hint=error.hint) from error
        with open_replicas(replicas, facts) as facts.replicas:
            answers = tuple((check, _answer(check, facts, limits)) for check in checks)
        notes = [f"Replica {each.name} could not be asked: {each.because}." for each in facts.replicas if each.because]
        if note := facts.keep_samples():
            notes.append(note)
    return Checkup(
        server=facts.server,
        answers=answers,
        took_s=time.monotonic() - began,
        notes=tuple(notes),
    )


def _answer(check: Check, facts: Facts, limits: Limits) -> Answer:
    try:
        return check.judge(facts, limits)
    except NotReadableError as error:
        return NotChecked(error.because, error.hint)
