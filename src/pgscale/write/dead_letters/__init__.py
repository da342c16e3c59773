"""Dead letters: rows that could not be written, kept with index, column, SQLSTATE and reason."""

from pgscale.write.dead_letters.model import WHOLE, DeadLetter
from pgscale.write.dead_letters.storing import ensure_table, save

__all__ = ["WHOLE", "DeadLetter", "ensure_table", "save"]
