"""Which statement is to be explained, and whether it can be. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pgscale.errors import UsageError
from pgscale.sql.statements import Statement, split

READING = ("SELECT", "WITH", "VALUES", "TABLE")
WRITING = ("INSERT", "UPDATE", "DELETE", "MERGE")
_INSIDE = {
    "EXPLAIN": "Leave EXPLAIN and its options out: pgscale chooses them; --analyze executes the query.",
    "CREATE": "Of CREATE TABLE … AS, or of a view, explain the SELECT.",
    "REFRESH": "Explain the SELECT of the materialized view.",
    "DECLARE": "Explain the SELECT of the cursor.",
    "EXECUTE": "Explain the statement that was prepared, with --param for its $1, $2, ….",
    "COPY": "Of COPY (SELECT …) TO, explain the SELECT.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One statement that has a plan.

    Args:
        text: without its semicolon, with its comments, which may be hints.
        parameters: the greatest n of its $n; 0 where it has none.
        is_writing: it is an INSERT, UPDATE, DELETE or MERGE. Others may write, too: WITH, and functions.
    """

    text: str
    parameters: int
    is_writing: bool


def read_query(text: str, name: str) -> Query:
    """Return the one statement of a text.

    Args:
        name: of the text, for messages.

    Raises:
        UsageError: there is none, there are several, or it is one without a plan; a quote that does not end.
    """
    statements = split(text, name)
    if len(statements) != 1:
        raise _not_one(statements, name)
    statement = statements[0]
    first = _first_word(statement)
    if first not in READING + WRITING:
        raise UsageError(
            f"{first} has no plan to explain."
            if first
            else f"{name[:1].upper()}{name[1:]} is no statement with a plan.",
            hint=_INSIDE.get(first, f"Those that have are {', '.join(READING + WRITING)}."),
        )
    numbers = [int(token.text[1:]) for token in statement.tokens if token.kind == "parameter"]
    return Query(text=statement.whole, parameters=max(numbers, default=0), is_writing=first in WRITING)


def _not_one(statements: tuple[Statement, ...], name: str) -> UsageError:
    if not statements:
        return UsageError(f"There is no statement in {name}.")
    places = ", ".join(str(each.line) for each in statements[:5])
    return UsageError(
        f"There are {len(statements)} statements in {name} (lines {places}{', …' if len(statements) > 5 else ''}).",
        hint="One query has one plan: give one of them.",
    )


def _first_word(statement: Statement) -> str:
    for token in statement.tokens:
        if token.text != "(":
            return token.text.upper() if token.kind == "word" else ""
    return ""
