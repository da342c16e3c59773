"""Which statements and functions of the application a view cannot serve. Pure: texts in, what stands in the way out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pgscale.core.model import QName

MOST_TEXT = 160

_NOISE = re.compile(
    r"--[^\n]*|/\*.*?\*/|\$(\w*)\$.*?\$\1\$|'(?:[^']|'')*'",
    re.DOTALL,
)
# How a foreign key of another table looks at this one: seen where such a key was there before.
_OF_A_FOREIGN_KEY = re.compile(r"^select 1 from only .* for key share of x$", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """A statement that a view cannot serve: what it does, and the text (or the function it is in)."""

    what: str
    where: str

    def __str__(self) -> str:
        return f"{self.what}: {self.where}"


def find_in_statements(table: QName, texts: Iterable[str], server_version: int) -> tuple[Obstacle, ...]:
    """Return the statements of pg_stat_statements that would fail on a view, or do less than they do now."""
    return tuple(
        Obstacle(what=what, where=_shown(text))
        for text in texts
        for what in _judge(table, _clean(text), server_version)
    )


def find_in_functions(table: QName, sources: Iterable[tuple[str, str]], server_version: int) -> tuple[Obstacle, ...]:
    """Return the functions with such a statement, judged by their source text, one statement at a time.

    Args:
        sources: name and source of each.
    """
    return tuple(
        dict.fromkeys(
            Obstacle(what=what, where=f"function {name}")
            for name, source in sources
            for statement in _clean(source).split(";")
            for what in _judge(table, statement.strip(), server_version, anchored=False)
        )
    )


def _clean(text: str) -> str:
    """Return the text in lower case, without comments and strings, with single spaces."""
    return " ".join(_NOISE.sub(" '' ", text).lower().split()).strip("; ")


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MOST_TEXT else f"{line[: MOST_TEXT - 1]}…"


def _judge(table: QName, text: str, server_version: int, *, anchored: bool = True) -> Iterator[str]:
    name = _name_pattern(table)
    begin = "^" if anchored else r"\b"

    def found(pattern: str) -> bool:
        return re.search(pattern, text, re.DOTALL) is not None

    # Behind one of these a name is a table's, not an alias (the application's own look into the catalog).
    read = rf"(?:\b(?:from|join|into|update|using|truncate|table|copy|only)|,) ?\(? ?(?:only )?{name}(?!\.)"
    if not found(read) or (anchored and _OF_A_FOREIGN_KEY.search(text)):
        return
    if found(rf"\binsert into {name}.*\bon conflict\b"):
        yield "INSERT … ON CONFLICT, which a view refuses"
    if found(r"\bselect\b.*\bfor (no key update|update|key share|share)\b"):
        yield "SELECT … FOR UPDATE or SHARE, which locks nothing through a view"
    if found(rf"{begin}truncate (table )?.*{name}"):
        yield "TRUNCATE, which a view refuses"
    if server_version < 170000 and found(rf"\bmerge into (only )?{name}"):
        yield "MERGE, which a view with triggers refuses before PostgreSQL 17"
    if found(rf"{begin}copy {name}( ?\([^)]*\))? to\b"):
        yield "COPY … TO, which a view refuses"
    if found(r"\bwhere current of\b"):
        yield "WHERE CURRENT OF, which a view refuses"
    if found(rf"\binsert into {name}.*\boverriding (system|user) value\b"):
        yield "OVERRIDING … VALUE, which a view does not know"
    if found(r"(?<![\w\".])(\w+\.)?(ctid|xmin|xmax|cmin|cmax|tableoid)(?![\w\"])"):
        yield "a system column, which a view has not"


def _name_pattern(table: QName) -> str:
    """Return what matches the table's name as it can be written; an unqualified name is taken for the table's."""

    def one(name: str) -> str:
        quoted = re.escape('"' + name.replace('"', '""').lower() + '"')
        plain = re.escape(name.lower())
        return f"(?:{quoted}|{plain})" if re.fullmatch(r"[a-z_][a-z0-9_$]*", name) else quoted

    return rf'(?<![\w$".])(?:{one(table.schema)}\.)?{one(table.name)}(?![\w$"])'
