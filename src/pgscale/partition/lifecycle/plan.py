"""Decide what a set of partitions needs: facts and a moment in, actions and findings out. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from itertools import islice, pairwise

from pgscale.core.model import QName
from pgscale.core.units import format_bytes
from pgscale.errors import UsageError
from pgscale.partition.bounds import Namer
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
    Severity,
    Span,
)
from pgscale.partition.periods import NUMBER_TYPES, Grid, Period, Value, before

_BOUND = re.compile(r"^FOR VALUES FROM \((?P<low>.+?)\) TO \((?P<high>.+)\)$")
_INTEGER_LIMITS = {
    "smallint": (-(2**15), 2**15 - 1),
    "integer": (-(2**31), 2**31 - 1),
    "bigint": (-(2**63), 2**63 - 1),
}
# A drop destroys more than an archive, and an archive more than a detach: of two promises the milder one holds.
_DESTROYS: dict[Promise, int] = {"detach": 0, "archive": 1, "drop": 2}
MOST_NAMED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What is wished, before anything that stands in its way was looked at."""

    grid: Grid
    spans: tuple[Span, ...]
    missing: tuple[Missing, ...]
    due: tuple[Span, ...]
    findings: tuple[Finding, ...]


def refuse(facts: SetFacts) -> Finding | None:
    """Return why this table has no life to look after; None when it has."""
    return next(_refusals(facts), None)


def _refusals(facts: SetFacts) -> Iterator[Finding]:
    parent = facts.parent
    name = str(parent.qname)
    if parent.kind != "p":
        yield _finding(
            facts,
            "not-partitioned",
            "error",
            f"{name} is not a partitioned table, so there is nothing to look after.",
            remedy="`pgscale partition run` makes it one; or take it out of pgscale.toml.",
        )
    if parent.key_count > 1:
        yield _finding(
            facts,
            "multi-column-key",
            "error",
            f"{name} is partitioned by {parent.key_count} columns; periods need a key of one.",
            evidence={"columns": parent.key_count},
            remedy="Take it out of pgscale.toml and make its partitions yourself.",
        )
    if parent.strategy != "r":
        method = {"l": "list", "h": "hash"}.get(parent.strategy or "", "another method")
        yield _finding(
            facts,
            "not-by-range",
            "error",
            f"{name} is partitioned by {method}; periods need a range.",
            remedy="Take it out of pgscale.toml.",
        )
    if parent.column is None:
        yield _finding(
            facts,
            "expression-key",
            "error",
            f"{name} is partitioned by an expression; periods need a column.",
            remedy="Take it out of pgscale.toml and make its partitions yourself.",
        )
    if not parent.is_owner:
        yield _finding(
            facts,
            "not-owner",
            "error",
            f"{name} belongs to {parent.owner}, and this login is not a member of that role.",
            remedy=f"Connect as {parent.owner}, or GRANT {parent.owner} TO this login.",
        )
    if facts.open_run:
        yield _finding(
            facts,
            "run-not-finished",
            "error",
            f"A run of `pgscale partition` on {name} is not finished ({facts.open_run}); a partition made or retired"
            " now would bar its way back.",
            remedy="`pgscale partition finish` or `undo` first.",
        )


def outline(facts: SetFacts, wanted: PartitionSet, now: datetime) -> Outline:
    """Return which ranges are missing and which partitions are due, whatever stands in the way.

    Args:
        now: aware; which period is the present one.

    Raises:
        UsageError: the period or the retention does not fit the column's type.
    """
    grid = Grid(type_name=facts.parent.type_name or "", step=wanted.period, zone=wanted.time_zone)
    spans = tuple(
        sorted(
            (s for c in facts.children if not c.is_pending and (s := _span(grid, c)) is not None),
            # Below both MINVALUE and '-infinity' nothing lies that Python could compare.
            key=lambda s: (s.low is not None, s.low if s.low is not None else 0),
        )
    )
    findings: list[Finding] = []
    position, age_of = _positions(grid, facts, wanted, now, spans, findings)
    missing: tuple[Missing, ...] = ()
    if position is not None:
        missing = _missing(grid, facts, wanted, position, spans)
        if spans and spans[-1].high is None and len(spans) == 1 and spans[0].low is None:
            findings.append(_open_ended(facts, spans[-1]))
    due: tuple[Span, ...] = ()
    cut: Value | None = None
    if wanted.retention is not None:
        distance = before(age_of, wanted.retention) if age_of is not None else None
        cut = distance
        due = tuple(s for s in spans if cut is not None and s.high is not None and _le(s.high, cut))
    findings += _gaps(grid, facts, spans, position, cut)
    findings += _misaligned(grid, facts, [s for s in spans if s not in due])
    return Outline(grid=grid, spans=spans, missing=missing, due=due, findings=tuple(findings))


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


def _span(grid: Grid, child: Child) -> Span | None:
    match = _BOUND.match(child.bound)
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
            _finding(
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
            _finding(
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
    least, most = _INTEGER_LIMITS.get(parent.type_name or "", (None, None))
    found: list[Missing] = []
    for period in islice(grid.periods(position), wanted.ahead + 1):
        for low, high in _uncovered(period, spans):
            if most is not None and not _le(low, Decimal(most)):
                return tuple(found)
            leaf = QName(schema=parent.schema, name=namer.name(parent.name, f"_p{period.label}"))
            found.append(
                Missing(
                    leaf=leaf,
                    low="MINVALUE" if least is not None and not _le(Decimal(least), low) else grid.show(low),
                    high="MAXVALUE" if most is not None and not _le(high, Decimal(most)) else grid.show(high),
                )
            )
    return tuple(found)


def _uncovered(period: Period, spans: Iterable[Span]) -> list[tuple[Value, Value]]:
    """Return the parts of a period that no partition covers, in order."""
    parts: list[tuple[Value, Value]] = []
    at = period.low
    for span in spans:
        if span.high is not None and _le(span.high, at):
            continue
        if span.low is not None and _le(period.high, span.low):
            break
        if span.low is not None and not _le(span.low, at):
            parts.append((at, span.low))
        if span.high is None:
            return parts
        at = span.high
    if not _le(period.high, at):
        parts.append((at, period.high))
    return parts


def _le(one: Value, other: Value) -> bool:
    """Compare two values of one key: they are of one type."""
    if isinstance(one, datetime) and isinstance(other, datetime):
        return one <= other
    if isinstance(one, Decimal) and isinstance(other, Decimal):
        return one <= other
    raise TypeError(f"{one!r} and {other!r} are no values of one key")


# -- findings --------------------------------------------------------------------------------------------


def _finding(
    facts: SetFacts,
    name: str,
    severity: Severity,
    message: str,
    *,
    evidence: dict[str, bool | int | float | str | None] | None = None,
    remedy: str = "",
) -> Finding:
    return Finding(
        id=name,
        severity=severity,
        table=str(facts.parent.qname),
        message=message,
        evidence={**(evidence or {})},
        remedy=remedy,
    )


def _open_ended(facts: SetFacts, span: Span) -> Finding:
    return _finding(
        facts,
        "open-ended-partition",
        "warning",
        f"{span.child.qname} takes every value, so no partition can be made beside it.",
        remedy="Detach it and attach it with a bound.",
    )


def _gaps(
    grid: Grid, facts: SetFacts, spans: tuple[Span, ...], position: Value | None, cut: Value | None
) -> list[Finding]:
    """Name the ranges before the present period that no partition covers though earlier ones exist."""
    if position is None or not spans:
        return []
    present = grid.period(position).low
    holes: list[tuple[Value, Value]] = []
    for one, other in pairwise(spans):
        if one.high is not None and other.low is not None and not _le(other.low, one.high):
            holes.append((one.high, other.low))
    if spans[-1].high is not None:
        holes.append((spans[-1].high, present))
    found: list[Finding] = []
    for low, high in holes:
        end = high if _le(high, present) else present
        if _le(end, low) or (cut is not None and _le(end, cut)):
            continue
        into = "its rows go to DEFAULT" if facts.default is not None else "rows for it are refused"
        found.append(
            _finding(
                facts,
                "gap-in-the-past",
                "warning",
                f"No partition covers [{grid.show(low)}, {grid.show(end)}): {into}.",
                evidence={"low": grid.show(low), "high": grid.show(end)},
                remedy=f"CREATE TABLE … (LIKE {facts.parent.qname}), then ALTER TABLE {facts.parent.qname} ATTACH"
                f" PARTITION … FOR VALUES FROM ('{grid.show(low)}') TO ('{grid.show(end)}').",
            )
        )
    return found


def _misaligned(grid: Grid, facts: SetFacts, spans: list[Span]) -> list[Finding]:
    """Name the partitions whose bounds are no edges of the grid."""
    crooked = [s for s in spans if _is_crooked(grid, s)]
    if not crooked:
        return []
    names = ", ".join(f"{s.child.qname} {s.child.bound.removeprefix('FOR VALUES ')}" for s in crooked[:MOST_NAMED])
    more = f" and {len(crooked) - MOST_NAMED} more" if len(crooked) > MOST_NAMED else ""
    return [
        _finding(
            facts,
            "misaligned-partition",
            "info",
            f"Bounds that no {grid.step} of {grid.zone} begins or ends with: {names}{more}.",
            evidence={"partitions": len(crooked), "first": str(crooked[0].child.qname)},
            remedy="Nothing breaks: the uncovered part of a period gets its own partition. Check period and time_zone.",
        )
    ]


def _is_crooked(grid: Grid, span: Span) -> bool:
    for edge in (span.low, span.high):
        if edge is None or edge in (datetime.min, datetime.max):
            continue
        if isinstance(edge, Decimal) and not edge.is_finite():
            continue
        if grid.period(edge).low != edge:
            return True
    return False


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
            _finding(
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
            _finding(
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
        problem = _unmovable(facts, missing, rows, default, obstacles, limits)
        if problem is not None:
            findings.append(problem)
            continue
        yield MoveFromDefault(leaf=missing.leaf, low=missing.low, high=missing.high, default=default.qname, rows=rows)


def _unmovable(
    facts: SetFacts, missing: Missing, rows: int, default: Child, obstacles: Obstacles, limits: Limits
) -> Finding | None:
    where = f"[{missing.low}, {missing.high})"
    if obstacles.default_references:
        return _finding(
            facts,
            "default-rows-referenced",
            "error",
            f"{default.qname} holds rows of {where}, and moving them would fire"
            f" {', '.join(obstacles.default_references)}: ON DELETE acts on the rows that refer to them.",
            evidence={"low": missing.low, "high": missing.high, "rows": rows},
            remedy="Drop these foreign keys, maintain, and add them again.",
        )
    if obstacles.default_publications:
        return _finding(
            facts,
            "default-rows-published",
            "error",
            f"{default.qname} holds rows of {where}, and publications {', '.join(obstacles.default_publications)} would"
            " send their deletion but not their arrival in a table that is no partition yet.",
            evidence={"low": missing.low, "high": missing.high, "rows": rows},
            remedy="Take the table out of the publication, maintain, and add it again with a refresh.",
        )
    if rows > limits.move_rows:
        return _finding(
            facts,
            "default-rows-too-many",
            "error",
            f"{default.qname} holds more than {limits.move_rows:,} rows of {where}: too many to move under a lock.",
            evidence={"low": missing.low, "high": missing.high, "limit_rows": limits.move_rows},
            remedy="Allow more with --max-move-rows when it is quiet.",
        )
    return None


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
                _finding(
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
                _finding(
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
    match = _BOUND.match(child.bound)
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
                _finding(
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
            before(Decimal(0), wanted.retention)
    except UsageError as error:
        raise UsageError(
            f"`period` = {wanted.period!r} does not fit {wanted.table}: {error.fact}", hint=error.hint
        ) from None
