"""`pgscale bench`: call the room, say the answer for a person and as JSON."""

from __future__ import annotations

from pgscale.core.model import Report, Watch
from pgscale.core.units import format_count
from pgscale.write import ladder
from pgscale.write.ladder import Ladder, Rung


def write(dsn: str | None, table: str, watch: Watch, *, rows: int, rounds: int) -> Report:
    """Measure the ways of writing rows into a copy of the table."""
    found = ladder.measure(dsn, table, rows=rows, rounds=rounds, watch=watch)
    return Report(data=found.to_json(), text=_text(found))


def _text(found: Ladder) -> str:
    width = max(len(rung.name) for rung in found.rungs)
    most = max((rung.rate or 0.0 for rung in found.rungs), default=0.0)
    rounds = format_count(found.rounds, "round")
    return "\n".join(
        [
            f"{found.table}, {format_count(found.columns, 'column')}, on {found.server}:"
            f" {found.rows:,} of its rows into a scratch copy; the median of {rounds}",
            *(f"  {rung.name:<{width}}  {_rate(rung, most)}" for rung in found.rungs),
            "The copy had the table's indexes and checks, not its triggers and foreign keys; it was dropped.",
        ]
    )


def _rate(rung: Rung, most: float) -> str:
    if rung.rate is None:
        return f"not measured: {rung.reason}"
    return f"{rung.rate:>11,.0f} rows/s  {'█' * round(30 * rung.rate / most) if most else ''}"
