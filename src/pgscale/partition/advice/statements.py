"""Read a file of SQL statements: one after the other, each ended by `;`, with how often it runs. Pure.

    -- calls: 12000
    -- mean_ms: 1.5
    SELECT * FROM orders WHERE tenant = $1;

`calls` and `mean_ms` stand in comments of their own before the statement; without them it is called once, and a call
takes one millisecond. Values are constants or `$1`, as in pg_stat_statements.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pgscale.core.model import QName
from pgscale.errors import UsageError
from pgscale.partition.workload import CountedStatement

_TOKEN = re.compile(
    r"""(?P<line>--[^\n]*) | (?P<block>/\*) | (?P<end>;)
    | (?P<text>[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*")
    | (?P<tag>(?<![\w$])\$(?:[A-Za-z_]\w*)?\$)""",
    re.VERBOSE | re.DOTALL,
)
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
        UsageError: a number that is none, or no statement at all.
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


def _split(source: str) -> list[tuple[str, dict[str, float]]]:
    """Return each statement without its comments, and the numbers that stood before it."""
    statements: list[tuple[str, dict[str, float]]] = []
    parts: list[str] = []
    numbers: dict[str, float] = {}
    place = 0

    def close() -> None:
        text = "".join(parts).strip()
        if text:
            statements.append((text, dict(numbers)))
            numbers.clear()
        parts.clear()

    while (token := _TOKEN.search(source, place)) is not None:
        parts.append(source[place : token.start()])
        place = token.end()
        match token.lastgroup:
            case "line":
                named = _NUMBER.match(token[0])
                if named is not None and not "".join(parts).strip():
                    numbers[named[1].lower()] = _number(named[1], named[2])
                parts.append(" ")
            case "block":
                place = _end_of_block(source, place)
                parts.append(" ")
            case "tag":
                end = source.find(token[0], place)
                place = len(source) if end < 0 else end + len(token[0])
                parts.append(source[token.start() : place])
            case "end":
                close()
            case _:
                parts.append(token[0])
    parts.append(source[place:])
    close()
    return statements


def _number(name: str, text: str) -> float:
    try:
        value = float(text.replace("_", "").replace(",", ""))
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e15:
        raise UsageError(f"`-- {name}: {text}` in the file of statements is no number.", hint="Write `-- calls: 1200`.")
    return value


def _end_of_block(source: str, place: int) -> int:
    """Return where a block comment ends; they nest."""
    depth = 1
    while depth and (found := re.compile(r"/\*|\*/").search(source, place)) is not None:
        depth += 1 if found[0] == "/*" else -1
        place = found.end()
    return place if not depth else len(source)
