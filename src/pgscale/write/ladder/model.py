"""Values of the ladder: a way of writing, and how fast it went."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from pgscale.core.model import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A way of writing rows.

    Args:
        rows: written in each round; rates: rows a second, a round each; empty when it could not be measured.
        reason: why it could not.
    """

    name: str
    rows: int
    rates: tuple[float, ...]
    reason: str = ""

    @property
    def rate(self) -> float | None:
        return median(self.rates) if self.rates else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """What was measured, slowest way first as in the field."""

    table: str
    server: str
    columns: int
    rows: int
    rounds: int
    rungs: tuple[Rung, ...]

    def to_json(self) -> dict[str, Json]:
        rungs: list[Json] = [
            {
                "name": rung.name,
                "rows": rung.rows,
                "rows_per_s": None if rung.rate is None else round(rung.rate),
                "rounds": [round(rate) for rate in rung.rates],
                "reason": rung.reason or None,
            }
            for rung in self.rungs
        ]
        return {
            "table": self.table,
            "server": self.server,
            "columns": self.columns,
            "rows": self.rows,
            "rounds": self.rounds,
            "rungs": rungs,
        }
