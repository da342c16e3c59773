"""Read a file of SQL statements: one after the other, each ended by `;`, with how often it runs. Pure.

    -- calls: 12000
    -- mean_ms: 1.5
    SELECT * FROM orders WHERE tenant = $1;

`calls` and `mean_ms` stand in comments of their own before the statement; without them it is called once, and a call
takes one millisecond. Values are constants or `$1`, as in pg_stat_statements.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pgscale.core.model import QName
from pgscale.errors import UsageError
from pgscale.partition.workload import CountedStatement
from pgscale.sql.statements import scan, split

# As errors name it.
FILE = "the file of statements"
_NUMBER = re.compile(r"--\s*(calls|mean_ms)\s*:\s*(\S*)\s*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementFile:
    """What a file says.

    Args:
        is_timed: `mean_ms` is given for at least one of the statements.
    """

    statements: tuple[CountedStatement, ...]
    is_timed: bool


def parse_statements(source: str, table: QName) -> StatementFile:
    """Return the file's statements that mention the table, with its calls and times.

    Raises:
        UsageError: a number that is none, a quote that does not end, a command of psql, or no statement at all.
    """
    found: list[CountedStatement] = []
    is_timed = False
    total = 0
    for text, numbers in _split(source):
        total += 1
        calls = numbers.get("calls", 1.0)
        is_timed = is_timed or "mean_ms" in numbers
        if mentions(text, table.name):
            total_ms = calls * numbers.get("mean_ms", 1.0)
            found.append(CountedStatement(text=text, calls=round(calls), total_ms=total_ms))
    if not total:
        raise UsageError(
            "The file of statements holds none.", hint="Write SQL statements, each ended by `;`, with `-- calls: N`."
        )
    return StatementFile(statements=tuple(sorted(found, key=lambda s: -s.total_ms)), is_timed=is_timed)


def mentions(text: str, name: str) -> bool:
    """A cheap sieve: the text contains the name as a word, in any case, as it would be quoted."""
    word = re.escape(name.replace('"', '""').lower())
    return re.search(rf"(^|[^\w$]){word}($|[^\w$])", text.lower()) is not None


def _split(source: str) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield each statement without its comments, and the numbers that stood before it."""
    end = 0
    for statement in split(source, FILE):
        numbers: dict[str, float] = {}
        # What stands behind the semicolon before it is said of this one.
        for token in scan(source[end : statement.first], FILE):
            named = _NUMBER.match(token.text)
            if named is not None:
                numbers[named[1].lower()] = _number(named[1], named[2])
        end = statement.end
        yield statement.uncommented, numbers


def _number(name: str, text: str) -> float:
    try:
        value = float(text.replace("_", "").replace(",", ""))
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e15:
        raise UsageError(f"`-- {name}: {text}` in the file of statements is no number.", hint="Write `-- calls: 1200`.")
    return value
