"""Judge what stands in the way of a table's partitions: facts in, findings out. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from itertools import pairwise

from pgscale.partition.lifecycle.model import (
    Child,
    Finding,
    Limits,
    Missing,
    Obstacles,
    SetFacts,
    Severity,
    Span,
)
from pgscale.partition.periods import Grid, Value, le

MOST_NAMED = 10


def refuse(facts: SetFacts) -> Finding | None:
    """Return why this table has no life to look after; None when it has."""
    return next(_refusals(facts), None)


def _refusals(facts: SetFacts) -> Iterator[Finding]:
    parent = facts.parent
    name = str(parent.qname)
    if parent.kind != "p":
        yield finding(
            facts,
            "not-partitioned",
            "error",
            f"{name} is not a partitioned table, so there is nothing to look after.",
            remedy="`pgscale partition run` makes it one; or take it out of pgscale.toml.",
        )
    if parent.key_count > 1:
        yield finding(
            facts,
            "multi-column-key",
            "error",
            f"{name} is partitioned by {parent.key_count} columns; periods need a key of one.",
            evidence={"columns": parent.key_count},
            remedy="Take it out of pgscale.toml and make its partitions yourself.",
        )
    if parent.strategy != "r":
        method = {"l": "list", "h": "hash"}.get(parent.strategy or "", "another method")
        yield finding(
            facts,
            "not-by-range",
            "error",
            f"{name} is partitioned by {method}; periods need a range.",
            remedy="Take it out of pgscale.toml.",
        )
    if parent.column is None:
        yield finding(
            facts,
            "expression-key",
            "error",
            f"{name} is partitioned by an expression; periods need a column.",
            remedy="Take it out of pgscale.toml and make its partitions yourself.",
        )
    if not parent.is_owner:
        yield finding(
            facts,
            "not-owner",
            "error",
            f"{name} belongs to {parent.owner}, and this login is not a member of that role.",
            remedy=f"Connect as {parent.owner}, or GRANT {parent.owner} TO this login.",
        )
    if facts.open_run:
        yield finding(
            facts,
            "run-not-finished",
            "error",
            f"A run of `pgscale partition` on {name} is not finished ({facts.open_run}); a partition made or retired"
            " now would bar its way back.",
            remedy="`pgscale partition finish` or `undo` first.",
        )


def finding(
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


def open_ended(facts: SetFacts, span: Span) -> Finding:
    return finding(
        facts,
        "open-ended-partition",
        "warning",
        f"{span.child.qname} takes every value, so no partition can be made beside it.",
        remedy="Detach it and attach it with a bound.",
    )


def gaps(
    grid: Grid, facts: SetFacts, spans: tuple[Span, ...], position: Value | None, cut: Value | None
) -> list[Finding]:
    """Name the ranges before the present period that no partition covers though earlier ones exist."""
    if position is None or not spans:
        return []
    present = grid.period(position).low
    holes: list[tuple[Value, Value]] = []
    for one, other in pairwise(spans):
        if one.high is not None and other.low is not None and not le(other.low, one.high):
            holes.append((one.high, other.low))
    if spans[-1].high is not None:
        holes.append((spans[-1].high, present))
    found: list[Finding] = []
    for low, high in holes:
        end = high if le(high, present) else present
        if le(end, low) or (cut is not None and le(end, cut)):
            continue
        into = "its rows go to DEFAULT" if facts.default is not None else "rows for it are refused"
        found.append(
            finding(
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


def misaligned(grid: Grid, facts: SetFacts, spans: list[Span]) -> list[Finding]:
    """Name the partitions whose bounds are no edges of the grid."""
    crooked = [s for s in spans if _is_crooked(grid, s)]
    if not crooked:
        return []
    names = ", ".join(f"{s.child.qname} {s.child.bound.removeprefix('FOR VALUES ')}" for s in crooked[:MOST_NAMED])
    more = f" and {len(crooked) - MOST_NAMED} more" if len(crooked) > MOST_NAMED else ""
    return [
        finding(
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


def unmovable(
    facts: SetFacts, missing: Missing, rows: int, default: Child, obstacles: Obstacles, limits: Limits
) -> Finding | None:
    where = f"[{missing.low}, {missing.high})"
    if obstacles.default_references:
        return finding(
            facts,
            "default-rows-referenced",
            "error",
            f"{default.qname} holds rows of {where}, and moving them would fire"
            f" {', '.join(obstacles.default_references)}: ON DELETE acts on the rows that refer to them.",
            evidence={"low": missing.low, "high": missing.high, "rows": rows},
            remedy="Drop these foreign keys, maintain, and add them again.",
        )
    if obstacles.default_publications:
        return finding(
            facts,
            "default-rows-published",
            "error",
            f"{default.qname} holds rows of {where}, and publications {', '.join(obstacles.default_publications)} would"
            " send their deletion but not their arrival in a table that is no partition yet.",
            evidence={"low": missing.low, "high": missing.high, "rows": rows},
            remedy="Take the table out of the publication, maintain, and add it again with a refresh.",
        )
    if rows > limits.move_rows:
        return finding(
            facts,
            "default-rows-too-many",
            "error",
            f"{default.qname} holds more than {limits.move_rows:,} rows of {where}: too many to move under a lock.",
            evidence={"low": missing.low, "high": missing.high, "limit_rows": limits.move_rows},
            remedy="Allow more with --max-move-rows when it is quiet.",
        )
    return None
