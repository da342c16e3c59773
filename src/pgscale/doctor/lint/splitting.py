"""Split migrations and schemas into statements; what lint cannot run is refused. Pure."""

from __future__ import annotations

from pgscale.errors import UsageError
from pgscale.sql import statements
from pgscale.sql.statements import Statement


def split(text: str, file: str, *, skip_meta: bool = False) -> tuple[Statement, ...]:
    """Return the statements of a file in their order.

    Args:
        file: its name, for messages.
        skip_meta: as statements.split().

    Raises:
        UsageError: a psql command, COPY with its data, or a quote or comment without an end; with file and line.
    """
    return statements.split(text, file, skip_meta=skip_meta, refuse=_refuse_copy)


def _refuse_copy(statement: Statement) -> None:
    if statement.starts("COPY") and {"STDIN", "STDOUT"} & set(statement.words):
        raise UsageError(
            f"{statement.file}:{statement.line}: COPY with its data in the file is psql's, not SQL.",
            hint="Lint the statements around it; a load takes ROW EXCLUSIVE only.",
        )
