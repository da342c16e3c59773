"""Measure the ways of writing rows on a server and a table of one's own: the ladder of the field."""

from pgscale.write.ladder.model import Ladder, Rung
from pgscale.write.ladder.runner import measure

__all__ = ["Ladder", "Rung", "measure"]
