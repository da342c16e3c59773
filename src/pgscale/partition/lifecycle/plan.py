"""Decide what a set of partitions needs: facts and a moment in, actions and findings out. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from itertools import islice

from pgscale.core.model import QName
from pgscale.core.units import format_bytes
from pgscale.errors import UsageError
from pgscale.partition.bounds import Namer
from pgscale.partition.lifecycle.checks import finding, gaps, misaligned, open_ended, refuse, unmovable
from pgscale.partition.lifecycle.model import (
    Action,
    Archive,
    Child,
    Create,
    CreateDefault,
    Detach,
    Drop,
    Finalize,
    Finding,
    Forget,
    LifePlan,
    Limits,
    Missing,
    MoveFromDefault,
    Obstacles,
    PartitionSet,
    Promise,
    RemoveDefault,
    Retired,
    SetFacts,
    Span,
)
from pgscale.partition.periods import INTEGER_LIMITS, NUMBER_TYPES, Grid, Period, Value, distance, le

BOUND = re.compile(r"^FOR VALUES FROM \((?P<low>.+?)\) TO \((?P<high>.+)\)$")
# A drop destroys more than an archive, and an archive more than a detach: of two promises the milder one holds.
_DESTROYS: dict[Promise, int] = {"detach": 0, "archive": 1, "drop": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What is wished, before anything that stands in its way was looked at.

    Args:
        cut: what ends at it or before is over its age; None where nothing is, or where that is not known.
    """

    grid: Grid
    spans: tuple[Span, ...]
    missing: tuple[Missing, ...]
    due: tuple[Span, ...]
    cut: Value | None
    findings: tuple[Finding, ...]


def outline(facts: SetFacts, wanted: PartitionSet, now: datetime) -> Outline:
    """Return which ranges are missing and which partitions are due, whatever stands in the way.

    Args:
        now: aware; which period is the present one.

    Raises:
        UsageError: the period or the retention does not fit the column's type.
    """
    grid = Grid(type_name=facts.parent.type_name or "", step=wanted.period, zone=wanted.time_zone)
    spans = spans_of(grid, facts)
    findings: list[Finding] = []
    position, age_of = _positions(grid, facts, wanted, now, spans, findings)
    missing: tuple[Missing, ...] = ()
    if position is not None:
        missing = _missing(grid, facts, wanted, position, spans)
        if spans and spans[-1].high is None and len(spans) == 1 and spans[0].low is None:
            findings.append(open_ended(facts, spans[-1]))
    due: tuple[Span, ...] = ()
    cut: Value | None = None
    if wanted.retention is not None:
        cut = grid.before(age_of, wanted.retention) if age_of is not None else None
        due = tuple(s for s in spans if cut is not None and s.high is not None and le(s.high, cut))
    findings += gaps(grid, facts, spans, position, cut)
    findings += misaligned(grid, facts, [s for s in spans if s not in due])
    return Outline(grid=grid, spans=spans, missing=missing, due=due, cut=cut, findings=tuple(findings))


def plan_set(
    facts: SetFacts, wanted: PartitionSet, now: datetime, obstacles: Obstacles, limits: Limits | None = None
) -> LifePlan:
    """Decide what to do for one table: finalize, create, then retire; what cannot be done is a finding.

    Raises:
        UsageError: the period or the retention does not fit the column's type.
    """
    limits = limits or Limits()
    table = str(facts.parent.qname)
    refused = refuse(facts)
    if refused is not None:
        return LifePlan(table=table, findings=(refused,))
    seen = outline(facts, wanted, now)
    findings = list(seen.findings)
    actions: list[Action] = []
    # An interrupted detach keeps its range and its lock order: it goes first.
    actions += [Finalize(leaf=c.qname, oid=c.oid) for c in facts.children if c.is_pending]
    actions += _default(facts, wanted, obstacles, findings)
    default = facts.default if not any(isinstance(a, RemoveDefault) for a in actions) else None
    actions += _creates(facts, seen, obstacles, limits, default, findings)
    has_default = default is not None or any(isinstance(a, CreateDefault) for a in actions)
    actions += _retire(facts, wanted, seen, obstacles, findings, concurrently=not has_default)
    actions += _promised(facts, wanted, seen, findings)
    return LifePlan(table=table, actions=tuple(actions), findings=tuple(findings))


# -- where things stand ----------------------------------------------------------------------------------


def spans_of(grid: Grid, facts: SetFacts) -> tuple[Span, ...]:
    """Return the ranges of the partitions that are not being detached, lowest first; DEFAULT has none."""
    return tuple(
        sorted(
            (s for c in facts.children if not c.is_pending and (s := span_of(grid, c)) is not None),
            # Below both MINVALUE and '-infinity' nothing lies that Python could compare.
            key=lambda s: (s.low is not None, s.low if s.low is not None else 0),
        )
    )


def span_of(grid: Grid, child: Child) -> Span | None:
    match = BOUND.match(child.bound)
    if match is None:
        return None
    return Span(child=child, low=_edge(grid, match["low"], is_low=True), high=_edge(grid, match["high"], is_low=False))


def _edge(grid: Grid, written: str, *, is_low: bool) -> Value | None:
    """Read one side of a bound. What Python cannot hold (infinity, BC, the year 10000) is beyond every period."""
    if written in ("MINVALUE", "MAXVALUE"):
        return None
    raw = written.strip("'")
    try:
        return grid.parse(raw)
    except (ValueError, InvalidOperation):
        is_early = raw.startswith("-") or raw.endswith("BC")
        if is_early == is_low:
            return None
        if grid.is_time:
            return datetime.min if is_early else datetime.max
        return Decimal("-Infinity" if is_early else "Infinity")


def _positions(
    grid: Grid,
    facts: SetFacts,
    wanted: PartitionSet,
    now: datetime,
    spans: tuple[Span, ...],
    findings: list[Finding],
) -> tuple[Value | None, Value | None]:
    """Return the value whose period is the present one, and the value that ages are counted from."""
    if grid.is_time:
        at = grid.at(now)
        return at, at
    highest = facts.highest
    if highest.unknown:
        findings.append(
            finding(
                facts,
                "number-key-unknown",
                "error",
                f"The largest {facts.parent.column} of {facts.parent.qname} cannot be known without a scan:"
                f" {highest.unknown}.",
                remedy=f"CREATE INDEX ON {facts.parent.qname} ({facts.parent.column}).",
            )
        )
        return None, None
    lows = [s.low for s in spans if isinstance(s.low, Decimal) and s.low.is_finite()]
    regular = Decimal(highest.regular) if highest.regular is not None else None
    if regular is not None and spans and spans[-1].high is None and isinstance(spans[-1].low, Decimal):
        # A partition without an end takes every wild id: it says how far the keys are, but not how old others are.
        regular = min(regular, spans[-1].low)
    start = regular if regular is not None else (min(lows) if lows else Decimal(0))
    if highest.default is None:
        return start, regular
    stray = Decimal(highest.default)
    highs = [s.high for s in spans if isinstance(s.high, Decimal) and s.high.is_finite()]
    top = max(highs) if highs else None
    # One wild id must not carry the grid away and, by retention, everything else with it.
    reach = None if top is None else top + Decimal(wanted.period) * (wanted.ahead + 1)
    if reach is not None and stray >= reach:
        findings.append(
            finding(
                facts,
                "default-outlier",
                "warning",
                f"DEFAULT holds {facts.parent.column} = {stray:f}, far beyond the last partition ({top:f}); it is not"
                " taken for the present.",
                evidence={"highest_in_default": f"{stray:f}", "last_bound": f"{top:f}"},
                remedy="Correct that row, or make partitions up to it yourself.",
            )
        )
        return start, regular
    return max(start, stray), regular


def _missing(
    grid: Grid, facts: SetFacts, wanted: PartitionSet, position: Value, spans: tuple[Span, ...]
) -> tuple[Missing, ...]:
    namer = Namer(facts.taken_names)
    parent = facts.parent
    least, most = INTEGER_LIMITS.get(parent.type_name or "", (None, None))
    found: list[Missing] = []
    for period in islice(grid.periods(position), wanted.ahead + 1):
        for low, high in uncovered(period, spans):
            if most is not None and not le(low, Decimal(most)):
                return tuple(found)
            leaf = QName(schema=parent.schema, name=namer.name(parent.name, f"_p{period.label}"))
            found.append(
                Missing(
                    leaf=leaf,
                    low="MINVALUE" if least is not None and not le(Decimal(least), low) else grid.show(low),
                    high="MAXVALUE" if most is not None and not le(high, Decimal(most)) else grid.show(high),
                )
            )
    return tuple(found)


def uncovered(period: Period, spans: Iterable[Span]) -> list[tuple[Value, Value]]:
    """Return the parts of a period that no partition covers, in order."""
    parts: list[tuple[Value, Value]] = []
    at = period.low
    for span in spans:
        if span.high is not None and le(span.high, at):
            continue
        if span.low is not None and le(period.high, span.low):
            break
        if span.low is not None and not le(span.low, at):
            parts.append((at, span.low))
        if span.high is None:
            return parts
        at = span.high
    if not le(period.high, at):
        parts.append((at, period.high))
    return parts


# -- actions ---------------------------------------------------------------------------------------------


def _default(facts: SetFacts, wanted: PartitionSet, obstacles: Obstacles, findings: list[Finding]) -> Iterable[Action]:
    default, parent = facts.default, facts.parent
    if wanted.default is True and default is None:
        name = Namer(facts.taken_names).name(parent.name, "_default")
        return [CreateDefault(leaf=QName(schema=parent.schema, name=name))]
    if wanted.default is False and default is not None:
        if obstacles.default_is_empty:
            return [RemoveDefault(leaf=default.qname, oid=default.oid)]
        findings.append(
            finding(
                facts,
                "default-not-empty",
                "warning",
                f"{default.qname} holds rows, so the DEFAULT partition stays.",
                remedy="Give these rows partitions of their own, or remove them.",
            )
        )
    return []


def _creates(
    facts: SetFacts,
    seen: Outline,
    obstacles: Obstacles,
    limits: Limits,
    default: Child | None,
    findings: list[Finding],
) -> Iterable[Action]:
    if not seen.missing:
        return
    if default is not None and default.bytes > limits.default_scan_bytes:
        findings.append(
            finding(
                facts,
                "default-too-big",
                "error",
                f"{len(seen.missing)} partitions are missing, from {seen.missing[0].low} on; each would scan"
                f" {default.qname} ({format_bytes(default.bytes)}) while it is locked.",
                evidence={"default_bytes": default.bytes, "limit_bytes": limits.default_scan_bytes},
                remedy="Move its rows away, or allow the scan with --max-default-scan when it is quiet.",
            )
        )
        return
    for missing in seen.missing:
        rows = obstacles.default_rows.get(missing.leaf.name, 0) if default is not None else 0
        if not rows or default is None:
            yield Create(leaf=missing.leaf, low=missing.low, high=missing.high)
            continue
        problem = unmovable(facts, missing, rows, default, obstacles, limits)
        if problem is not None:
            findings.append(problem)
            continue
        yield MoveFromDefault(leaf=missing.leaf, low=missing.low, high=missing.high, default=default.qname, rows=rows)


def _promise(wanted: PartitionSet, noted: Retired | None) -> Promise:
    promise: Promise = wanted.on_retention if wanted.retention is not None else "detach"
    if noted is not None and _DESTROYS[noted.promise] < _DESTROYS[promise]:
        return noted.promise
    return promise


def _retire(
    facts: SetFacts,
    wanted: PartitionSet,
    seen: Outline,
    obstacles: Obstacles,
    findings: list[Finding],
    *,
    concurrently: bool,
) -> Iterable[Action]:
    for span in seen.due:
        child = span.child
        references = obstacles.references.get(child.oid, ())
        if references:
            findings.append(
                finding(
                    facts,
                    "foreign-key-in-the-way",
                    "error",
                    f"{child.qname} is due, but rows elsewhere refer to its rows: {', '.join(references)}.",
                    evidence={"partition": str(child.qname), "foreign_keys": ", ".join(references)},
                    remedy="Retire or delete the referring rows first.",
                )
            )
            continue
        low, high = _shown(child)
        promise: Promise = wanted.on_retention
        if child.kind == "f" and promise != "detach":
            findings.append(
                finding(
                    facts,
                    "foreign-table",
                    "warning",
                    f"{child.qname} is a foreign table: it is detached, and neither archived nor dropped.",
                )
            )
            promise = "detach"
        yield Detach(
            leaf=child.qname,
            oid=child.oid,
            low=low,
            high=high,
            promise=promise,
            concurrently=concurrently,
            archive_dir=wanted.archive_dir,
            archive_format=wanted.archive_format,
        )
        if promise == "archive":
            yield Archive(
                leaf=child.qname,
                oid=child.oid,
                low=low,
                high=high,
                archive_dir=wanted.archive_dir or "",
                archive_format=wanted.archive_format,
            )
        if promise != "detach":
            yield Drop(leaf=child.qname, oid=child.oid, archived=promise == "archive")


def _shown(child: Child) -> tuple[str, str]:
    match = BOUND.match(child.bound)
    assert match is not None
    return match["low"].strip("'"), match["high"].strip("'")


def _promised(facts: SetFacts, wanted: PartitionSet, seen: Outline, findings: list[Finding]) -> Iterable[Action]:
    """Continue what an earlier call promised and did not finish."""
    due = {s.child.oid for s in seen.due}
    pending = {c.oid for c in facts.children if c.is_pending}
    for noted in facts.retired:
        leaf, oid = noted.qname, noted.leaf_oid
        if noted.is_gone:
            yield Forget(leaf=leaf, oid=oid, reason="its table is gone")
        elif oid in due:
            continue
        elif noted.now_attached and oid not in pending:
            yield Forget(leaf=leaf, oid=oid, reason="it is a partition, and not due")
        elif noted.is_renamed:
            findings.append(
                finding(
                    facts,
                    "retired-renamed",
                    "warning",
                    f"{leaf} was renamed to {noted.now_schema}.{noted.now_name} after it was detached, so it is not"
                    f" touched; {noted.promise} was promised.",
                    remedy="Rename it back to have the promise kept, or drop it yourself.",
                )
            )
        else:
            promise = _promise(wanted, noted)
            if promise == "detach":
                yield Forget(leaf=leaf, oid=oid, reason="pgscale.toml keeps detached tables now")
                continue
            if seen.cut is None:
                continue
            end = _edge(seen.grid, noted.high, is_low=False)
            if end is None or not le(end, seen.cut):
                yield Forget(leaf=leaf, oid=oid, reason="pgscale.toml keeps it for longer now")
                continue
            if promise == "archive" and noted.state != "archived":
                yield Archive(
                    leaf=leaf,
                    oid=oid,
                    low=noted.low,
                    high=noted.high,
                    archive_dir=wanted.archive_dir or noted.archive_dir or "",
                    archive_format=wanted.archive_format if wanted.archive_dir else noted.archive_format,
                )
            yield Drop(leaf=leaf, oid=oid, archived=promise == "archive")


def check_period(wanted: PartitionSet, type_name: str) -> None:
    """Refuse a period that does not fit the key's type.

    Raises:
        UsageError: naming `period`.
    """
    is_number = type_name in NUMBER_TYPES
    try:
        Grid(type_name=type_name, step=wanted.period, zone=wanted.time_zone)
        if wanted.retention is not None and is_number:
            distance(wanted.retention)
    except UsageError as error:
        raise UsageError(
            f"`period` = {wanted.period!r} does not fit {wanted.table}: {error.fact}", hint=error.hint
        ) from None
