"""`pgscale partition advise`: call the room, say the answer for a person and as JSON."""

from __future__ import annotations

import textwrap
from pathlib import Path

from pgscale import partition
from pgscale.core.model import Report
from pgscale.core.units import format_bytes
from pgscale.partition import Advice, Candidate

MOST_CANDIDATES_SHOWN = 3
WIDTH = 110
_WORTH = {
    "worthwhile": "partitioning is worthwhile",
    "premature": "partitioning is premature",
    "useless": "partitioning would not help",
    "unknown": "whether partitioning helps is not known",
}


def advise(dsn: str | None, table: str, queries: Path | None, *, verbose: bool) -> Report:
    """Show which keys come into question and why, best first."""
    advice = partition.advise(dsn, table, queries)
    return Report(data=advice.to_json(), text=_text(advice, verbose=verbose))


def _text(advice: Advice, *, verbose: bool) -> str:
    rows = f"{advice.rows:,} rows, " if advice.rows else ""
    lines = [
        f"{advice.table}: {_WORTH[advice.worth]}",
        f"  {rows}{format_bytes(advice.table_bytes)} with indexes; workload: {advice.source or 'not checked'};"
        f" a partition should have some {format_bytes(advice.target_bytes)}",
        *(_wrapped("  - ", b) for b in advice.because),
    ]
    if advice.blockers:
        lines += ["", "Refused whatever the key", *(_wrapped("  ! ", b) for b in advice.blockers)]
    shown = advice.candidates if verbose else advice.candidates[:MOST_CANDIDATES_SHOWN]
    for number, candidate in enumerate(shown, start=1):
        lines += ["", *_candidate(number, candidate)]
    if len(advice.candidates) > len(shown):
        left = ", ".join(f"{c.by} {c.score:.0f}" for c in advice.candidates[len(shown) :])
        lines += ["", _wrapped("", f"Also judged, with their scores: {left} (--verbose says why)")]
    if advice.unchecked:
        lines += ["", "Not checked", *(_wrapped("  ? ", u) for u in advice.unchecked)]
    lines += [
        "",
        f"Next: {advice.best.command}" if advice.best else "No candidate can be carried out.",
        "Nothing was changed.",
    ]
    return "\n".join(lines)


def _candidate(number: int, candidate: Candidate) -> list[str]:
    parts = ", ".join(f"{p.name} {p.got:.0f}{f'/{p.most:.0f}' if p.most else ''}" for p in candidate.points)
    refused = "refused" if candidate.blockers else f"{candidate.score:.0f} of 100"
    return [
        f"{number}. {candidate.by}: {refused} ({parts})",
        _wrapped("   ", f"{candidate.proposal.sizing[:1].upper()}{candidate.proposal.sizing[1:]}."),
        *(_wrapped("   - ", reason) for reason in candidate.reasons),
        *(_wrapped("   ! ", blocker) for blocker in candidate.blockers),
    ]


def _wrapped(mark: str, sentence: str) -> str:
    indent = " " * len(mark)
    return textwrap.fill(
        sentence, WIDTH, initial_indent=mark, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
