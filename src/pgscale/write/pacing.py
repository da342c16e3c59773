"""How many rows the next batch has, so that a commit takes about as long as was asked for. Pure."""

from __future__ import annotations

FIRST_ROWS = 500
# A batch at most doubles or halves: one slow commit (a checkpoint, a lock) says little about the next one.
_MOST_CHANGE = 2.0


class Pacer:
    """Follows a target time.

    Args:
        target_s: of a batch from its first row's encoding to the end of its COMMIT; most_rows: of a batch.
    """

    def __init__(self, target_s: float, most_rows: int) -> None:
        self._target_s, self._most_rows = target_s, most_rows
        self.rows = min(FIRST_ROWS, most_rows)

    def note(self, rows: int, elapsed_s: float) -> None:
        """Learn from a batch that is done."""
        change = self._target_s / max(elapsed_s, 1e-6)
        if change > 1 and rows < self.rows:
            # The source had no more: that a small batch was quick says nothing about a large one.
            return
        change = min(max(change, 1 / _MOST_CHANGE), _MOST_CHANGE)
        self.rows = min(max(1, int(min(rows, self.rows) * change)), self._most_rows)
