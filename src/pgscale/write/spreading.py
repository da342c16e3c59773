"""How thinly bad rows are spread, and so how many rows the next COPY should have. Pure."""

from __future__ import annotations

import math

# What a COPY in a savepoint costs beside its rows, in rows: beginning and ending both. About 200 over a local
# connection to an idle server, several times that over a network; twice too much costs next to nothing.
COST_ROWS = 400
# Fewer rows than this gain nothing: the COPYs themselves would be what takes the time.
LEAST_ROWS = 64
# What is thought of the first bad row: not that every row is like it, should it come at once.
_FIRST_GAP = 1_000
_WEIGHT = 0.25


class Spread:
    """Follows how many good rows there are for a bad one.

    A COPY that meets a bad row is undone, so the rows before it are sent twice. With a bad row in every g rows, and a
    COPY that costs as much as c rows, COPYs of n rows cost c / n + n / 2g more for each row: least where
    n² = 2 c g.

    Args:
        most_rows: of a COPY; cost_rows: what one costs beside its rows, in rows.
    """

    def __init__(self, most_rows: int, cost_rows: float | None = None) -> None:
        self._most_rows = most_rows
        self._cost_rows = COST_ROWS if cost_rows is None else cost_rows
        self._gap: float | None = None
        self._run = 0

    @property
    def has_bad(self) -> bool:
        return self._gap is not None

    @property
    def gap(self) -> float:
        """Rows for a bad one: as they were, or more when it is longer since the last."""
        return math.inf if self._gap is None else max(self._gap, self._run)

    def rows(self) -> int:
        """Return how many rows the next COPY should have."""
        gap = self.gap
        if gap == math.inf:
            return self._most_rows
        wanted = int(math.sqrt(2 * self._cost_rows * gap))
        return min(max(wanted, LEAST_ROWS), self._most_rows)

    def note_good(self, rows: int) -> None:
        """Learn of rows that were taken."""
        self._run += rows

    def note_bad(self) -> None:
        """Learn of a row that was not."""
        if self._gap is None:
            self._gap = float(max(self._run, _FIRST_GAP))
        else:
            self._gap += _WEIGHT * (self._run - self._gap)
        self._run = 0
