"""Take the conditions apart that EXPLAIN prints: which columns of a table they are about, and how. Pure.

PostgreSQL prints an operator with both its sides in parentheses, casts as `(column)::type`, and with VERBOSE, or where
there are several tables, columns with their table: that is what is read here. What is not understood is of kind
`other`, and nothing is concluded from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pgscale.doctor.explain.model import Node
from pgscale.errors import UsageError
from pgscale.sql.statements import Token, split

Kind = Literal["equal", "range", "null", "boolean", "prefix", "pattern", "contains", "other"]

_SYMBOLS = frozenset("+-*/<>=~!@#%^&|`?:")
_RANGE = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_CONTAINS = ("@>", "<@", "&&", "@@", "?", "?|", "?&")
_PATTERNS = ("~~", "~~*", "~", "~*")
# What stands without a table before it and is no column.
_WORDS = frozenset(
    {
        *("AND", "OR", "NOT", "IS", "NULL", "TRUE", "FALSE", "UNKNOWN", "ANY", "ALL", "ARRAY", "ROW", "EXISTS"),
        *("CASE", "WHEN", "THEN", "ELSE", "END", "DISTINCT", "FROM", "COLLATE", "AT", "TIME", "ZONE", "OPERATOR"),
        *("CURRENT_DATE", "CURRENT_TIMESTAMP", "CURRENT_TIME", "LOCALTIMESTAMP", "LOCALTIME", "CURRENT_USER"),
        *("SESSION_USER", "NULLIF", "COALESCE", "GREATEST", "LEAST", "INTERVAL", "HASHED", "SUBPLAN", "INITPLAN"),
    }
)
# Under these names nodes keep what decides about rows.
CONDITIONS = ("Index Cond", "Recheck Cond", "Filter", "TID Cond")


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One of the conditions that AND joins.

    Args:
        text: as printed.
        kind: `equal` also of = ANY (…); `prefix` of LIKE 'abc%'; `contains` of what GIN and GiST serve.
        column: the column its left side is, unquoted, if it is one and nothing else; with a cast, see `casts`.
        expression: its left side as printed, without the table's name.
        columns: those of the table that are in it, on either side.
        casts: of plain columns: the column and the type.
        functions: that stand around columns.
        is_served: the other side has no column of the table, so that an index on the left one could serve it.
    """

    text: str
    kind: Kind = "other"
    operator: str = ""
    column: str | None = None
    expression: str = ""
    columns: frozenset[str] = frozenset()
    casts: tuple[tuple[str, str], ...] = ()
    functions: tuple[str, ...] = ()
    is_served: bool = False


def terms_of(node: Node, *names: str) -> tuple[Term, ...]:
    """Return the terms of a scan's conditions, by default of all of them."""
    return tuple(
        term for name in names or CONDITIONS if name in node.texts for term in read_terms(node.texts[name], node.alias)
    )


def read_terms(condition: str, alias: str) -> tuple[Term, ...]:
    """Take a condition apart.

    Args:
        alias: of the table whose columns are looked for, unquoted.
    """
    try:
        statements = split(condition, "condition", skip_meta=True)
    except UsageError:
        return ()
    if len(statements) != 1:
        return ()
    tokens = _merged(statements[0].tokens)
    return tuple(_term(each, condition, alias) for each in _conjuncts(tokens))


def _merged(tokens: Sequence[Token]) -> tuple[Token, ...]:
    """Put the characters of operators together."""
    made: list[Token] = []
    for token in tokens:
        before = made[-1] if made else None
        if (
            before is not None
            and token.kind == "other"
            and token.text in _SYMBOLS
            and set(before.text) <= _SYMBOLS
            and before.end == token.start
        ):
            made[-1] = Token(kind="other", text=before.text + token.text, start=before.start, line=before.line)
        else:
            made.append(token)
    return tuple(made)


def _conjuncts(tokens: tuple[Token, ...]) -> Iterator[tuple[Token, ...]]:
    inner = _stripped(tokens)
    parts = _split_at(inner, "AND")
    if len(parts) == 1 or len(_split_at(inner, "OR")) > 1:
        yield inner
        return
    for part in parts:
        yield from _conjuncts(part)


def _depths(tokens: Sequence[Token]) -> Iterator[tuple[int, Token, int]]:
    """Yield each token with its place and how deep in parentheses or brackets it stands."""
    depth = 0
    for place, token in enumerate(tokens):
        if token.kind == "other" and token.text in ")]":
            depth -= 1
        yield place, token, depth
        if token.kind == "other" and token.text in "([":
            depth += 1


def _stripped(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
    """Take the parentheses away that are around the whole."""
    while len(tokens) > 1 and tokens[0].text == "(":
        closing = next(
            (place for place, token, depth in _depths(tokens) if place and not depth and token.text == ")"), -1
        )
        if closing != len(tokens) - 1:
            break
        tokens = tokens[1:-1]
    return tokens


def _split_at(tokens: tuple[Token, ...], word: str) -> list[tuple[Token, ...]]:
    parts: list[tuple[Token, ...]] = []
    start = 0
    for place, token, depth in _depths(tokens):
        if not depth and token.kind == "word" and token.text.upper() == word:
            parts.append(tokens[start:place])
            start = place + 1
    return [*parts, tokens[start:]]


def _term(tokens: tuple[Token, ...], condition: str, alias: str) -> Term:
    text = _text(tokens, condition)
    columns = frozenset(_columns(tokens, alias))
    if any(not depth and token.text.upper() == "OR" for _, token, depth in _depths(tokens)):
        return Term(text=text, columns=columns)
    words = [token.text.upper() for token in tokens if token.kind == "word"]
    if words[-2:] == ["IS", "NULL"] and tokens[-1].text.upper() == "NULL":
        return _served("null", "IS NULL", tokens[:-2], (), text, condition, alias)
    negated = tokens[0].text.upper() == "NOT" if tokens else False
    bare = _stripped(tokens[1:]) if negated else tokens
    if _column(bare, alias) is not None:
        return _served("boolean", "NOT" if negated else "", bare, (), text, condition, alias)
    place = next(
        (
            place
            for place, token, depth in _depths(tokens)
            if not depth and place and token.kind == "other" and set(token.text) <= _SYMBOLS and token.text != "::"
        ),
        None,
    )
    if place is None or words[:1] in (["NOT"], ["ANY"]):
        return Term(text=text, columns=columns)
    left, operator, right = tokens[:place], tokens[place].text, tokens[place + 1 :]
    if not set(_columns(left, alias)) and operator in ("=", *_RANGE):
        left, right, operator = right, left, _RANGE.get(operator, operator)
    return _served(_kind(operator, right), operator, left, right, text, condition, alias)


def _kind(operator: str, right: tuple[Token, ...]) -> Kind:
    if right and right[0].text.upper() == "ALL":
        return "other"
    if operator == "=":
        return "equal"
    if operator in _RANGE:
        return "range" if not right or right[0].text.upper() != "ANY" else "other"
    if operator == "~~" and right and right[0].kind == "string":
        return "prefix" if re.match(r"'[^%_\\]", right[0].text) else "pattern"
    if operator in _PATTERNS:
        return "pattern"
    return "contains" if operator in _CONTAINS else "other"


def _served(
    kind: Kind,
    operator: str,
    left: tuple[Token, ...],
    right: tuple[Token, ...],
    text: str,
    condition: str,
    alias: str,
) -> Term:
    mine = frozenset(_columns(left, alias))
    theirs = frozenset(_columns(right, alias))
    side = _stripped(left)
    column, casts = _column(side, alias), _casts(side, alias)
    if column is None and len(casts) == 1 and _cast_target(side, alias) is not None:
        column = casts[0][0]
    return Term(
        text=text,
        kind=kind if mine else "other",
        operator=operator,
        column=column,
        expression=_unqualified(side, condition, alias),
        columns=mine | theirs,
        casts=casts,
        functions=tuple(_functions(side)),
        is_served=bool(mine) and not theirs,
    )


def _column(tokens: tuple[Token, ...], alias: str) -> str | None:
    """Return the column that these tokens are and nothing else."""
    tokens = _stripped(tokens)
    found = list(_columns(tokens, alias))
    return found[0] if len(found) == 1 and len(tokens) in (1, 3) and tokens[-1].kind in ("word", "quoted") else None


def _cast_target(tokens: tuple[Token, ...], alias: str) -> tuple[str, str] | None:
    """Return the column and the type of `(column)::type`, if they are that as a whole."""
    places = [place for place, token, depth in _depths(tokens) if not depth and token.text == "::"]
    if len(places) != 1:
        return None
    (place,) = places
    rest = tokens[place + 1 :]
    if not all(token.kind in ("word", "quoted", "number") or token.text in "(),[]." for token in rest):
        return None
    column = _column(tokens[:place], alias)
    return (
        None
        if column is None
        else (column, " ".join(token.text for token in rest).replace(" ( ", "(").replace(" )", ")"))
    )


def _casts(tokens: tuple[Token, ...], alias: str) -> tuple[tuple[str, str], ...]:
    """Return the casts of plain columns at any depth."""
    found: list[tuple[str, str]] = []
    whole = _cast_target(tokens, alias)
    if whole is not None:
        return (whole,)
    for place, token in enumerate(tokens):
        if token.text != "::" or place < 3 or tokens[place - 1].text != ")":
            continue
        start = next((at for at in range(place - 1, -1, -1) if tokens[at].text == "("), 0)
        end = place + 1
        while end < len(tokens) and tokens[end].kind in ("word", "quoted"):
            end += 1
        inside = _cast_target(tokens[start:end], alias)
        if inside is not None:
            found.append(inside)
    return tuple(found)


def _columns(tokens: Sequence[Token], alias: str) -> Iterator[str]:
    """Yield the columns of the table: with its alias before them, or with nothing where EXPLAIN names no tables."""
    for place, token in enumerate(tokens):
        if token.kind not in ("word", "quoted"):
            continue
        before = tokens[place - 1].text if place else ""
        after = tokens[place + 1].text if place + 1 < len(tokens) else ""
        if before == ".":
            if (
                place >= 2
                and _name(tokens[place - 2]) == alias
                and (place < 3 or tokens[place - 3].text not in (".", ")"))
            ):
                yield _name(token)
        elif (
            after not in (".", "(")
            and before != "::"
            and (token.kind == "quoted" or token.text.upper() not in _WORDS)
            and not _in_type(tokens, place)
        ):
            yield _name(token)


def _in_type(tokens: Sequence[Token], place: int) -> bool:
    """Tell whether a word is a later one of a type: `::timestamp without time zone`, `::double precision`."""
    while place and tokens[place - 1].kind == "word":
        place -= 1
    return bool(place) and tokens[place - 1].text == "::"


def _functions(tokens: Sequence[Token]) -> Iterator[str]:
    for place, token in enumerate(tokens[:-1]):
        if (
            tokens[place + 1].text == "("
            and token.kind in ("word", "quoted")
            and token.text.upper() not in _WORDS
            and not (place and tokens[place - 1].text == "::")
        ):
            yield _name(token)


def _name(token: Token) -> str:
    return token.text[1:-1].replace('""', '"') if token.kind == "quoted" else token.text


def _text(tokens: Sequence[Token], condition: str) -> str:
    return condition[tokens[0].start : tokens[-1].end] if tokens else ""


def _unqualified(tokens: Sequence[Token], condition: str, alias: str) -> str:
    """Return what was printed without the table before its columns."""
    made, at = "", tokens[0].start if tokens else 0
    for place, token in enumerate(tokens):
        if (
            place + 2 < len(tokens)
            and tokens[place + 1].text == "."
            and token.kind in ("word", "quoted")
            and _name(token) == alias
            and not (place and tokens[place - 1].text == ".")
        ):
            made += condition[at : token.start]
            at = tokens[place + 2].start
    return made + condition[at : tokens[-1].end] if tokens else ""
