"""`pgscale assess`: the phase of a database and its next step, for a person and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from pgscale.connect.session import open_session
from pgscale.core.model import Json, Report
from pgscale.core.units import format_bytes
from pgscale.doctor.facts import DOCTOR, NotReadableError
from pgscale.doctor.phase.judging import assess as conclude
from pgscale.doctor.phase.judging import describe_days
from pgscale.doctor.phase.model import PHASES, Assessment, Measured, Step
from pgscale.doctor.phase.reading import measure
from pgscale.doctor.samples import FileSamples, NoSamples
from pgscale.errors import PermissionDeniedError

WIDTH = 110


def assess(dsn: str | None, *, samples: str | None, watch_s: float) -> Report:
    """Measure, and conclude.

    Args:
        samples: the directory of earlier runs' counters; `none`; None for the user's own.
        watch_s: how long to watch when nothing says what happened before, seconds.

    Raises:
        ConnectError: there is no connection, or it was lost.
        PermissionDeniedError: the login may not see what is needed.
    """
    kept = NoSamples() if samples == "none" else FileSamples(Path(samples) if samples else None)
    with open_session(dsn, DOCTOR) as session:
        try:
            measured, note = measure(session, kept, watch_s)
        except NotReadableError as error:
            raise PermissionDeniedError(f"It cannot be assessed: {error.because}.", hint=error.hint) from error
    found = conclude(measured)
    data: dict[str, Json] = {**found.to_json(), "notes": [note] if note else []}
    return Report(data=data, text="\n".join([*_lines(found), *(["", f"Note: {note}"] if note else [])]))


def _lines(found: Assessment) -> Iterator[str]:
    measured = found.measured
    number = PHASES.index(found.phase) + 1
    yield from _wrapped(
        "", f"Phase {number} of {len(PHASES)}: {found.phase.name}, for its {found.reached_by}. {found.phase.means}"
    )
    if found.next_phase_days is not None:
        days = describe_days(found.next_phase_days)
        yield from _wrapped("", f"At {measured.growth_per_s * 86_400:,.0f} rows a day the next phase is {days} away.")
    yield ""
    yield from _figures(measured)
    yield ""
    if found.next_step is None:
        yield "Next: nothing. No step would bring anything yet; run `pgscale doctor` for what is wrong today."
    else:
        yield from _step("Next: ", found.next_step)
    for step in found.later:
        yield ""
        yield from _step("Then: ", step)
    if found.premature:
        yield ""
        yield "Premature, with how far it is to where it begins to pay:"
        wide = max(len(step.title) for step in found.premature)
        for step in found.premature:
            yield from _wrapped(f"  {step.title:<{wide}}  {step.pressure:>4.0%}  ", step.evidence)
    for fit in found.fits:
        yield ""
        yield from _wrapped("", f"{fit.table} would suit a {fit.kind} database: {fit.because}.")
        yield from _wrapped("  But: ", fit.still)


def _figures(measured: Measured) -> Iterator[str]:
    clients = "hidden" if measured.connections is None else f"{measured.connections:,}, {measured.idle:,} of them idle"
    unknown = "not known: too little happened"
    rows = {
        "rows": f"{measured.rows:,.0f} in {len(measured.tables):,} tables, {format_bytes(measured.total_bytes)}",
        "transactions": f"{measured.tps:,.1f} a second, {measured.writes_per_s:,.1f} rows written, {measured.basis}",
        "read share": unknown
        if measured.read_share is None
        else f"{measured.read_share:.0%} of the rows touched, or more",
        "found in buffers": unknown if measured.hit_share is None else f"{measured.hit_share:.1%}",
        "connections": clients,
        "replicas": f"{measured.surroundings.replicas:,}",
    }
    for name, text in rows.items():
        yield from _wrapped(f"  {name:<17} ", text)


def _step(word: str, step: Step) -> Iterator[str]:
    yield from _wrapped(word, f"{step.title}. {step.evidence} {step.why}")
    yield f"    {step.command}" if step.command else "    (pgscale has no command for it yet)"


def _wrapped(first: str, sentence: str) -> list[str]:
    return textwrap.wrap(
        sentence,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
