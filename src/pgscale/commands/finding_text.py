"""Findings for people: a mark, the fact, the evidence as aligned columns, the cost, and what to paste."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence

from pgscale.core.finding import Finding, Remedy
from pgscale.core.model import Json
from pgscale.core.units import format_bytes, format_duration

WIDTH = 110
MARKS: Mapping[str, str] = {"well": "✓", "info": "·", "warning": "!", "critical": "✗", "not checked": "–"}


def section(finding: Finding, heading: str = "") -> Iterator[str]:
    """Yield the lines of a finding: what is so, the evidence, what it costs, and what to do.

    Args:
        heading: behind the mark; the id of the check by default.
    """
    yield from wrapped(f"{MARKS[finding.severity]} {heading or finding.check}: ", finding.fact)
    yield from _evidence(finding.evidence)
    if finding.cost:
        yield from wrapped("  Cost: ", finding.cost)
    for number, remedy in enumerate(finding.remedies):
        yield from _remedy(remedy, "Do" if number == 0 else "Or")


def _remedy(remedy: Remedy, word: str) -> Iterator[str]:
    restart = " Needs a restart of the server." if remedy.restart else ""
    yield from wrapped(f"  {word}: ", f"{remedy.why}{restart}".strip() or "this.")
    for line in remedy.text.splitlines():
        yield f"    {line}"


def _evidence(evidence: Mapping[str, Json]) -> Iterator[str]:
    """Numbers and texts as aligned pairs; lists of objects as tables below them."""
    shown: dict[str, str] = {}
    for name, value in evidence.items():
        if isinstance(value, dict):
            # Names of settings and the like: as they are.
            shown |= {inner: _show("", one) for inner, one in value.items()}
        elif not isinstance(value, list):
            shown[_label(name)] = _show(name, value)
    wide = max((len(label) for label, text in shown.items() if text), default=0)
    for label, text in shown.items():
        if text:
            yield f"    {label:<{wide}}  {text}"
    for name, value in evidence.items():
        if isinstance(value, list) and value:
            yield f"    {_label(name)}"
            yield from _table([row if isinstance(row, dict) else {"": row} for row in value])


def _table(rows: Sequence[Mapping[str, Json]]) -> Iterator[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_label(name) for name in names], *([_show(name, row.get(name)) for name in names] for row in rows)]
    numeric = [all(isinstance(row.get(name), (int, float, type(None))) for row in rows) for name in names]
    wide = [max(len(line[column]) for line in cells) for column in range(len(names))]
    for line in cells[0 if any(names) else 1 :]:
        padded = (
            f"{text:>{width}}" if right else f"{text:<{width}}"
            for text, width, right in zip(line, wide, numeric, strict=True)
        )
        yield f"      {'  '.join(padded)}".rstrip()


# The unit of a number is the end of its name.
_UNITS: Mapping[str, Callable[[float], str]] = {
    "_s": format_duration,
    "_bytes": format_bytes,
    "_share": lambda value: f"{value:.1%}",
    "pid": lambda value: f"{value:.0f}",
}


def _label(name: str) -> str:
    for unit in ("_s", "_bytes", "_share"):
        name = name.removesuffix(unit)
    return name.replace("_xids", " in transactions").replace("_", " ")


def _show(name: str, value: Json) -> str:
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    if isinstance(value, (int, float)):
        unit = next((show for end, show in _UNITS.items() if name.endswith(end)), None)
        if unit is not None:
            return unit(value)
        return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
    return str(value)


def wrapped(first: str, sentence: str) -> list[str]:
    """Return a sentence in lines of the page's width, hanging behind its beginning."""
    return textwrap.wrap(
        sentence,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first.rstrip()]
