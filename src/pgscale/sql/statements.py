"""Take files of SQL apart into their statements by the rules of psql's scanner. Pure.

Where a statement ends is all that is found out here; what it means is left to the server that runs it. Quotes (with
standard_conforming_strings on), dollar quotes, nested comments, parentheses and the bodies of SQL functions (BEGIN
ATOMIC … END) are psql's (src/fe_utils/psqlscan.l).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from pgscale.errors import UsageError

_PLAIN = re.compile(
    r"""
    (?P<space>\s+)
    | (?P<comment>--[^\n\r]*)
    | (?P<block>/\*)
    | (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*(?P<escaped_end>'|$))
    | (?P<string>(?:[uU]&|[bBxXnN])?'(?:[^']|'')*(?P<string_end>'|$))
    | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")*(?P<quoted_end>"|$))
    | (?P<word>[A-Za-z_\u0080-\U0010ffff][\w$\u0080-\U0010ffff]*)
    | (?P<number>0[xX][0-9A-Fa-f_]+|\d(?:\w|\.(?!\.))*(?:(?<=[eE])[-+]\d+)?)
    | (?P<parameter>\$\d+)
    | (?P<dollar>\$(?:[A-Za-z_\u0080-\U0010ffff][\w\u0080-\U0010ffff]*)?\$)
    | (?P<meta>\\[^\n]*)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_EDGE = re.compile(r"/\*|\*/")
_CLOSED = {"escaped": "escaped_end", "string": "string_end", "quoted": "quoted_end"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token of SQL, comments included.

    Args:
        kind: `word`, `quoted`, `string`, `number`, `parameter`, `comment` or `other`.
        start: its offset in the file, in characters; line: where it begins, from 1.
    """

    kind: str
    text: str
    start: int
    line: int

    @property
    def end(self) -> int:
        """The offset in the file behind its last character."""
        return self.start + len(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement of a file.

    Args:
        line, last_line: where its first token and its semicolon stand, from 1.
        whole: without its semicolon, with the comments before it, which may be hints, and those behind it.
        start: of the whole in the file, in characters; first, end: where its tokens begin and end.
        terms: its words in upper case, its quoted names as they stand in quotes, and `''` for each string.
        comments: those before it (after the last statement), in it, and behind it on its last line.
    """

    file: str
    line: int
    last_line: int
    whole: str
    start: int
    first: int
    end: int
    terms: tuple[str, ...]
    comments: tuple[str, ...]

    @property
    def text(self) -> str:
        """As written, from its first token to its last."""
        return self.whole[self.first - self.start : self.end - self.start]

    @property
    def shown(self) -> str:
        """The whole without the comments before it."""
        return self.whole[self.first - self.start :]

    @property
    def words(self) -> tuple[str, ...]:
        """Its unquoted words, in upper case, in order."""
        return tuple(term for term in self.terms if "'" not in term and '"' not in term)

    @property
    def tokens(self) -> tuple[Token, ...]:
        """Its tokens but for comments; they are read again, for those of all statements of a dump are many."""
        return tuple(self._tokens())

    @property
    def uncommented(self) -> str:
        """Its text, with a space for each comment."""
        parts: list[str] = []
        at = self.first
        for token in _tokens(self.text, self.file, skip_meta=True, offset=self.first, line=self.line):
            if token.kind == "comment":
                parts += [self.whole[at - self.start : token.start - self.start], " "]
                at = token.end
        return "".join([*parts, self.whole[at - self.start :]]).strip()

    def starts(self, *words: str) -> bool:
        return tuple(token.text.upper() for token in islice(self._tokens(), len(words))) == words

    def _tokens(self) -> Iterator[Token]:
        for token in _tokens(self.text, self.file, skip_meta=True, offset=self.first, line=self.line):
            if token.kind != "comment":
                yield token


@dataclass(slots=True)
class _Open:
    """The statement being read."""

    start: int = -1
    first: Token | None = None
    last: Token | None = None
    terms: list[str] = field(default_factory=list[str])
    comments: list[str] = field(default_factory=list[str])
    depth: int = 0
    atomic: int = 0


def split(
    text: str, file: str, *, skip_meta: bool = False, refuse: Callable[[Statement], None] | None = None
) -> tuple[Statement, ...]:
    """Return the statements of a file in their order.

    Args:
        file: its name, for messages.
        skip_meta: leave out lines that begin with a backslash instead of refusing them: pg_dump writes \\restrict.
        refuse: is given each statement before anything behind its semicolon is read, which may be no SQL, and raises.

    Raises:
        UsageError: a command of psql, or a quote or comment that does not end; with file and line.
    """
    return tuple(_statements(text, file, skip_meta=skip_meta, refuse=refuse))


def scan(text: str, file: str) -> Iterator[Token]:
    """Yield the tokens of a piece of SQL, comments included, wherever statements end.

    Args:
        file: its name, for messages.

    Raises:
        UsageError: as split().
    """
    return _tokens(text, file, skip_meta=False)


def line_at(text: str, at: int) -> int:
    """Return the line, from 1, of a character."""
    return text.count("\n", 0, at) + 1


def _statements(
    text: str, file: str, *, skip_meta: bool, refuse: Callable[[Statement], None] | None
) -> Iterator[Statement]:
    def made(last_line: int, end: int) -> Statement:
        statement = _made(text, file, now, last_line, end)
        if refuse is not None:
            refuse(statement)
        return statement

    now = _Open()
    ready: Statement | None = None
    for token in _tokens(text, file, skip_meta=skip_meta):
        if token.text == ";" and now.depth <= 0 and not now.atomic:
            if now.first is None:
                now.start = -1
                continue
            if ready is not None:
                yield ready
            ready = made(token.line, token.start)
            now = _Open()
            continue
        if now.start < 0:
            now.start = token.start
        if token.kind != "comment":
            _follow(now, token)
        elif ready is not None and token.line == ready.last_line:
            # What stands behind the semicolon on the same line is about the statement it ends.
            ready = replace(ready, comments=(*ready.comments, token.text))
        else:
            now.comments.append(token.text)
    if ready is not None:
        yield ready
    if now.last is not None:
        yield made(now.last.line, len(text))


def _made(text: str, file: str, now: _Open, last_line: int, end: int) -> Statement:
    assert now.first is not None
    assert now.last is not None
    return Statement(
        file=file,
        line=now.first.line,
        last_line=last_line,
        whole=text[now.start : end].rstrip(),
        start=now.start,
        first=now.first.start,
        end=now.last.end,
        terms=tuple(now.terms),
        comments=tuple(now.comments),
    )


def _follow(now: _Open, token: Token) -> None:
    """Take a token in; count parentheses and, in the body of an SQL function, CASE and END."""
    now.first = now.first or token
    now.last = token
    if token.kind == "other":
        now.depth += {"(": 1, ")": -1}.get(token.text, 0)
    elif token.kind == "word":
        word = token.text.upper()
        if now.atomic:
            now.atomic += {"CASE": 1, "END": -1}.get(word, 0)
        elif word == "ATOMIC" and now.terms[-1:] == ["BEGIN"] and _makes_routine(now.terms):
            now.atomic = 1
        now.terms.append(word)
    elif token.kind == "quoted":
        now.terms.append(token.text)
    elif token.kind == "string":
        now.terms.append("''")


def _makes_routine(terms: list[str]) -> bool:
    rest = terms[3:4] if terms[1:3] == ["OR", "REPLACE"] else terms[1:2]
    return terms[0] == "CREATE" and rest in (["FUNCTION"], ["PROCEDURE"])


def _tokens(text: str, file: str, *, skip_meta: bool, offset: int = 0, line: int = 1) -> Iterator[Token]:
    """Yield the tokens of a text that begins at an offset of its file, in a line."""
    at = 0
    while found := _PLAIN.match(text, at):
        kind, end = _kind_and_end(found)
        if end < 0:
            raise UsageError(f"{file}:{line}: {_described(kind, found[0])} does not end.")
        piece = text[at:end]
        if kind == "meta" and not skip_meta:
            raise UsageError(
                f"{file}:{line}: {piece.split()[0]} is a command of psql, not SQL.",
                hint="Give the SQL itself; variables and \\i are not followed.",
            )
        if kind not in {"space", "meta"}:
            yield Token(kind=kind, text=piece, start=offset + at, line=line)
        line += piece.count("\n")
        at = end


def _kind_and_end(found: re.Match[str]) -> tuple[str, int]:
    """Return the kind of a token and where it ends; -1 when it does not."""
    kind, end = str(found.lastgroup), found.end()
    match kind:
        case "block":
            return "comment", _comment_end(found.string, found.start())
        case "dollar":
            closing = found.string.find(found[0], end)
            return "string", -1 if closing < 0 else closing + len(found[0])
        case "escaped" | "string" | "quoted":
            return "quoted" if kind == "quoted" else "string", end if found[_CLOSED[kind]] else -1
        case _:
            return kind, end


def _described(kind: str, beginning: str) -> str:
    if kind == "string":
        return f"the string that {beginning} begins" if beginning.startswith("$") else "the string"
    return "the quoted name" if kind == "quoted" else "the comment"


def _comment_end(text: str, start: int) -> int:
    depth = 0
    for edge in _EDGE.finditer(text, start):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return -1
