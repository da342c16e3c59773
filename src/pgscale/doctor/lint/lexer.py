"""Split SQL files into statements by the rules of psql's scanner. Pure.

It finds where statements end; what they mean is left to the server that runs them. Quotes, dollar quotes, nested
comments, parentheses and the bodies of BEGIN ATOMIC are psql's (src/fe_utils/psqlscan.l), with
standard_conforming_strings on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pgscale.doctor.lint.model import Statement, Token
from pgscale.errors import UsageError

_PLAIN = re.compile(
    r"""
    (?P<space>\s+)
    | (?P<comment>--[^\n\r]*)
    | (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*(?P<escaped_end>'|$))
    | (?P<string>(?:[uU]&|[bBxXnN])?'(?:[^']|'')*(?P<string_end>'|$))
    | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")*(?P<quoted_end>"|$))
    | (?P<word>[A-Za-z_\u0080-\U0010ffff][\w$\u0080-\U0010ffff]*)
    | (?P<number>\d[\w.]*)
    | (?P<parameter>\$\d+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_DOLLAR = re.compile(r"\$(?:[A-Za-z_\u0080-\U0010ffff][\w\u0080-\U0010ffff]*)?\$")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_CLOSED = {"escaped": "escaped_end", "string": "string_end", "quoted": "quoted_end"}


def split(text: str, file: str, *, skip_meta: bool = False) -> tuple[Statement, ...]:
    """Return the statements of a file, each with the comments that stand before, in and behind it on its last line.

    Args:
        file: its name, for messages.
        skip_meta: leave out lines that begin with a backslash instead of refusing them: pg_dump writes \\restrict.

    Raises:
        UsageError: a psql command, COPY with its data, or a quote or comment without an end; with file and line.
    """
    return tuple(_Splitter(text, file, skip_meta).statements())


@dataclass(slots=True)
class _Open:
    """The statement being read."""

    tokens: list[Token]
    comments: list[str]
    depth: int = 0
    atomic: int = 0


class _Splitter:
    def __init__(self, text: str, file: str, skip_meta: bool) -> None:
        self._text = text
        self._file = file
        self._skip_meta = skip_meta

    def statements(self) -> Iterator[Statement]:
        now = _Open([], [])
        ready: Statement | None = None
        for token in self._tokens():
            if token.kind == "comment":
                # What stands behind the semicolon on the same line is about the statement it ends.
                if ready is not None and token.line == ready.last_line:
                    ready = ready.with_comment(token.text)
                else:
                    now.comments.append(token.text)
                continue
            if token.text == ";" and token.kind == "other" and now.depth <= 0 and now.atomic == 0:
                if now.tokens:
                    if ready is not None:
                        yield ready
                    ready = self._statement(now, token.line)
                    now = _Open([], [])
                continue
            now.tokens.append(token)
            _follow(now, token)
        if ready is not None:
            yield ready
        if now.tokens:
            yield self._statement(now, now.tokens[-1].line)

    def _statement(self, now: _Open, last_line: int) -> Statement:
        first, last = now.tokens[0], now.tokens[-1]
        made = Statement(
            file=self._file,
            line=first.line,
            last_line=last_line,
            text=self._text[first.start : last.start + len(last.text)],
            tokens=tuple(now.tokens),
            comments=tuple(now.comments),
        )
        if made.starts("COPY") and {"STDIN", "STDOUT"} & set(made.words):
            raise UsageError(
                f"{self._file}:{made.line}: COPY with its data in the file is psql's, not SQL.",
                hint="Lint the statements around it; a load takes ROW EXCLUSIVE only.",
            )
        return made

    def _tokens(self) -> Iterator[Token]:
        text, at, line = self._text, 0, 1
        while at < len(text):
            end, kind = self._next(at, line)
            piece = text[at:end]
            if kind == "meta":
                if not self._skip_meta:
                    raise UsageError(
                        f"{self._file}:{line}: {piece.split()[0]} is a command of psql, not SQL.",
                        hint="Give the SQL itself; variables and \\i are not followed.",
                    )
            elif kind != "space":
                yield Token(kind=kind, text=piece, start=at, line=line)
            line += piece.count("\n")
            at = end

    def _next(self, at: int, line: int) -> tuple[int, str]:
        text = self._text
        if text.startswith("/*", at):
            return self._block_comment(at, line), "comment"
        if text[at] == "\\":
            end = text.find("\n", at)
            return (len(text) if end < 0 else end), "meta"
        dollar = _DOLLAR.match(text, at)
        if dollar is not None:
            end = text.find(dollar[0], dollar.end())
            if end < 0:
                raise self._endless(line, f"the string that {dollar[0]} begins")
            return end + len(dollar[0]), "string"
        found = _PLAIN.match(text, at)
        assert found is not None, "every character matches"
        kind = str(found.lastgroup)
        if kind.endswith("_end"):
            kind = kind.removesuffix("_end")
        if kind in _CLOSED and not found[_CLOSED[kind]]:
            raise self._endless(line, "the quoted name" if kind == "quoted" else "the string")
        return found.end(), "string" if kind == "escaped" else kind

    def _block_comment(self, at: int, line: int) -> int:
        depth = 0
        for edge in _COMMENT_EDGE.finditer(self._text, at):
            depth += 1 if edge[0] == "/*" else -1
            if depth == 0:
                return edge.end()
        raise self._endless(line, "the comment")

    def _endless(self, line: int, what: str) -> UsageError:
        return UsageError(f"{self._file}:{line}: {what} does not end.")


def _follow(now: _Open, token: Token) -> None:
    """Count parentheses and, in the body of an SQL function, BEGIN, CASE and END."""
    if token.kind == "other":
        now.depth += {"(": 1, ")": -1}.get(token.text, 0)
    elif token.kind == "word" and _makes_routine(now.tokens):
        word = token.text.upper()
        if word == "BEGIN" or (word == "CASE" and now.atomic):
            now.atomic += 1
        elif word == "END" and now.atomic:
            now.atomic -= 1


def _makes_routine(tokens: list[Token]) -> bool:
    words = [token.text.upper() for token in tokens[:4]]
    rest = words[3:] if words[1:3] == ["OR", "REPLACE"] else words[1:]
    return words[:1] == ["CREATE"] and rest[:1] in (["FUNCTION"], ["PROCEDURE"])
