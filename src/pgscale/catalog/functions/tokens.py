"""SQL and PL/pgSQL as the server's scanner sees them: tokens, without white space, comments and letter case. Pure.

Strings, quoted names and hints (comments that begin with /*+) stay what they are, to the letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pgscale.catalog.functions.model import Tokens
from pgscale.errors import UsageError
from pgscale.sql.statements import Token, scan

# Languages whose tokens are those of SQL. In others white space may matter: Python's blocks.
SCANNED = frozenset({"sql", "plpgsql"})

_MARKS = re.compile(r"::|:=|\.\.|[~!@#^&|`?+\-*/%<>=]+|.", re.DOTALL)
_OPERATOR = frozenset("~!@#^&|`?+-*/%<>=")
# An operator of several characters ends in + or - only when it has one of these.
_LETS_END = frozenset("~!@#^&|`?%")
# Not str.lower(): the server folds other letters only in single-byte encodings.
_FOLD = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def fold(word: str) -> str:
    """Return a word without quotes as the server takes it for a name."""
    return word.translate(_FOLD)


def name_of(token: Token) -> str:
    """Return the name that a word or a quoted name is."""
    if token.kind != "quoted":
        return fold(token.text)
    if not token.text.startswith('"'):
        raise UsageError(f'{token.text} is a name with Unicode escapes; write it as "…".')
    return token.text[1:-1].replace('""', '"')


def significant(text: str, name: str) -> Tokens:
    """Return the tokens of a piece of SQL that mean something.

    Args:
        name: of the piece, for messages.

    Raises:
        UsageError: a quote or comment does not end, or a backslash stands where SQL has none.
    """
    return tuple(token.text for token in refined(scan(text, name)))


def refined(tokens: Iterator[Token]) -> Iterator[Token]:
    """Yield tokens: operators in one piece, words folded, strings of several lines as one, no comments but hints."""
    string: Token | None = None
    marks: Token | None = None
    last_line = 0  # of the string
    for token in tokens:
        if marks is not None and not (token.kind == "other" and token.start == marks.end):
            yield from _split(marks)
            marks = None
        if token.kind == "comment" and not token.text.startswith("/*+"):
            continue
        if string is not None:
            if token.kind == "string" and token.text[0] == "'" and token.line > last_line:
                string = Token(kind="string", text=f"{string.text}\n{token.text}", start=string.start, line=string.line)
                last_line = _last_line(token)
                continue
            yield string
            string = None
        if token.kind == "string" and not token.text.startswith("$"):
            string, last_line = token, _last_line(token)
        elif token.kind == "other":
            marks = token if marks is None else _joined(marks, token)
        elif token.kind in {"word", "number"}:
            yield Token(kind=token.kind, text=fold(token.text), start=token.start, line=token.line)
        else:
            yield token
    if string is not None:
        yield string
    if marks is not None:
        yield from _split(marks)


def _last_line(token: Token) -> int:
    return token.line + token.text.count("\n")


def _joined(one: Token, other: Token) -> Token:
    return Token(kind="other", text=one.text + other.text, start=one.start, line=one.line)


def _split(marks: Token) -> Iterator[Token]:
    for found in _MARKS.finditer(marks.text):
        start = marks.start + found.start()
        for piece in _operators(found[0]) if found[0][0] in _OPERATOR else (found[0],):
            yield Token(kind="other", text=piece, start=start, line=marks.line)
            start += len(piece)


def _operators(run: str) -> Iterator[str]:
    """Yield the operators that a run of their characters is, as scan.l takes it apart."""
    while run:
        piece = run
        while len(piece) > 1 and piece[-1] in "+-" and not _LETS_END.intersection(piece[:-1]):
            piece = piece[:-1]
        yield piece
        run = run[len(piece) :]


def body_key(body: str, language: str) -> Tokens:
    """Return what two bodies of a language have in common when they differ in their formatting only."""
    if language in SCANNED:
        try:
            return significant(body, "body")
        except UsageError:
            pass
    # No scanner of its language, or not its language: the letters, but for the line ends of a checkout.
    return (body.replace("\r\n", "\n"),)
