"""Values of dead letters: a row that could not be written, with what is needed to judge it and to try again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# A row without names (a tuple of the wrong length, an int) is kept whole under a name no column can have.
WHOLE = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A row that could not be written.

    Args:
        table: as displayed and as SQL, with its schema.
        row: what the caller gave, by column; a row that has no names is the one value under WHOLE. Values are
            Python's own; how they are kept as JSON, `tagging` says.
        index: of the row among those given, from 0; None when it is not known.
        column: the column at fault, where it is known.
        sqlstate: the server's; None when the row was found bad before it was sent.
        reason: why, in a few words.
        source: who wrote it, a name of the caller's for filters; may be empty.
        merge: `{"key": [...], "rules": {...}}` when the row was upserted, None when it was inserted.
    """

    table: str
    row: Mapping[str, Any]
    index: int | None
    column: str | None
    sqlstate: str | None
    reason: str
    source: str
    merge: Mapping[str, Any] | None = None
