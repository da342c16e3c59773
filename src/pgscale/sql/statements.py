"""Take a file of SQL apart into its statements, as psql would. Pure.

Where a statement ends is all that is found out here: quotes (standard_conforming_strings is on), dollar quotes,
nested comments, parentheses and the bodies of SQL functions (BEGIN ATOMIC … END) are respected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pgscale.errors import UsageError

_TOKEN = re.compile(
    r"""
    (?P<line>--[^\n]*)
    | (?P<block>/\*)
    | (?P<string>[eE]'(?:[^'\\]|\\.|'')*' | (?:[uU]&|[bBxXnN])?'(?:[^']|'')*')
    | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")*")
    | (?P<dollar>\$(?:[^\W\d]\w*)?\$)
    | (?P<open>[eE]?'|")
    | (?P<word>[^\W\d][\w$]*)
    | (?P<number>\d[\w.]*|\$\d+)
    | (?P<sign>\S)
    """,
    re.VERBOSE | re.DOTALL,
)
_EDGE = re.compile(r"/\*|\*/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement of a file.

    Args:
        text: without its semicolon, with the comments before it, which may be hints.
        start: of the text in the file, in characters; first: of its first word; line: of that, from 1.
        words: its names and keywords: upper case, or as they stand in quotes; strings are `''`.
    """

    text: str
    start: int
    first: int
    line: int
    words: tuple[str, ...]

    @property
    def shown(self) -> str:
        """The text without the comments before it."""
        return self.text[self.first - self.start :]


@dataclass(slots=True)
class _Open:
    start: int = -1
    first: int = -1
    line: int = 0
    words: list[str] = field(default_factory=list[str])
    depth: int = 0
    atomic: int = 0


def split(text: str, file: str) -> tuple[Statement, ...]:
    """Return the statements of a file in their order.

    Args:
        file: its name, for messages.

    Raises:
        UsageError: a command of psql, or a quote or comment that does not end; with file and line.
    """
    return tuple(_statements(text, file))


def line_at(text: str, at: int) -> int:
    """Return the line, from 1, of a character."""
    return text.count("\n", 0, at) + 1


def _statements(text: str, file: str) -> Iterator[Statement]:
    now = _Open()
    for kind, start, piece in _tokens(text, file):
        if piece == ";" and now.depth <= 0 and not now.atomic:
            if now.line:
                yield _made(text, now, start)
            now = _Open()
            continue
        if now.start < 0:
            now.start = start
        if kind in {"line", "block"}:
            continue
        if now.first < 0:
            now.first, now.line = start, line_at(text, start)
        _follow(now, kind, piece)
    if now.line:
        yield _made(text, now, len(text))


def _made(text: str, now: _Open, end: int) -> Statement:
    whole = text[now.start : end].rstrip()
    return Statement(text=whole, start=now.start, first=now.first, line=now.line, words=tuple(now.words))


def _follow(now: _Open, kind: str, piece: str) -> None:
    if kind == "sign":
        now.depth += {"(": 1, ")": -1}.get(piece, 0)
    elif kind == "word":
        word = piece.upper()
        if word == "ATOMIC" and now.words[-1:] == ["BEGIN"] and _makes_routine(now.words):
            now.atomic = 1
        elif now.atomic:
            now.atomic += {"CASE": 1, "END": -1}.get(word, 0)
        now.words.append(word)
    elif kind == "quoted":
        now.words.append(piece)
    elif kind == "string":
        now.words.append("''")


def _makes_routine(words: list[str]) -> bool:
    rest = [word for word in words[:4] if word not in {"OR", "REPLACE"}]
    return rest[0] == "CREATE" and rest[1:2] in (["FUNCTION"], ["PROCEDURE"])


def _tokens(text: str, file: str) -> Iterator[tuple[str, int, str]]:
    at = 0
    while found := _TOKEN.search(text, at):
        kind, start, at = str(found.lastgroup), found.start(), found.end()
        if kind == "block":
            at = _comment_end(text, start)
        elif kind == "dollar":
            kind, end = "string", text.find(found[0], at)
            at = -1 if end < 0 else end + len(found[0])
        if kind == "open" or at < 0:
            what = "comment" if kind == "block" else "quote"
            raise UsageError(f"{file}:{line_at(text, start)}: a {what} begins and does not end.")
        if found[0] == "\\":
            command = text[start:].split(maxsplit=1)[0]
            raise UsageError(
                f"{file}:{line_at(text, start)}: {command} is a command of psql, not SQL.",
                hint="psql runs such files; here stands SQL alone.",
            )
        yield kind, start, text[start:at]


def _comment_end(text: str, start: int) -> int:
    depth = 0
    for edge in _EDGE.finditer(text, start):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return -1
