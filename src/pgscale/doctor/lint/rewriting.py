"""Write the safer SQL: names quoted, statements edited token by token. Texts to paste; lint runs none. Pure."""

from __future__ import annotations

from pgscale.core.finding import Remedy
from pgscale.core.model import quote_ident
from pgscale.doctor.lint.model import Column, Relation
from pgscale.sql.statements import Statement

# The words that PostgreSQL takes for no name (catcode R and T of pg_get_keywords(), 14 to 18).
_RESERVED = frozenset(
    """
    all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate collation
    column concurrently constraint create cross current_catalog current_date current_role current_schema
    current_time current_timestamp current_user default deferrable desc distinct do else end except false fetch for
    foreign freeze from full grant group having ilike in initially inner intersect into is isnull join lateral
    leading left like limit localtime localtimestamp natural not notnull null offset on only or order outer overlaps
    placing primary references returning right select session_user similar some symmetric system_user table
    tablesample then to trailing true union unique user using variadic verbose when where window with
    """.split()  # noqa: SIM905 because it reads better
)


def ident(name: str) -> str:
    """Quote a name where it must be."""
    return f'"{name}"' if name in _RESERVED else quote_ident(name)


def name_of(relation: Relation) -> str:
    """Return the name to write: with its schema, unless that is public."""
    own = ident(relation.name)
    return own if relation.schema == "public" else f"{ident(relation.schema)}.{own}"


def with_word_after(statement: Statement, after: tuple[str, ...], word: str) -> str:
    """Return the statement with a word put behind the first of some others; as it is where it has none of them."""
    for token in statement.tokens:
        if token.kind == "word" and token.text.upper() in after:
            at = token.end - statement.first
            return f"{statement.text[:at]} {word}{statement.text[at:]}".strip()
    return statement.text


def concurrently(text: str) -> str:
    """Return a CREATE INDEX of pg_get_indexdef() with CONCURRENTLY."""
    head, found, rest = text.partition("INDEX ")
    return f"{head}{found}CONCURRENTLY {rest}" if found else text


def column_of(column: Column) -> str:
    """Return a column as ADD COLUMN takes it."""
    default = f" DEFAULT {column.default}" if column.default else ""
    return f"{ident(column.name)} {column.type}{default}{' NOT NULL' if column.not_null else ''}"


def sql(*statements: str, why: str = "") -> Remedy:
    """Return a remedy of statements, a line each, with their semicolons."""
    return Remedy(text="\n".join(f"{each.rstrip().removesuffix(';')};" for each in statements), kind="sql", why=why)
