"""Compose what makes, fills and drops the scratch copy. Pure: values in, SQL text out."""

from __future__ import annotations

from psycopg import sql

from pgscale.catalog.model import TableFacts
from pgscale.core.model import QName
from pgscale.livecopy.ddl import ident, names, qualified, text
from pgscale.partition.ddl import make_schema, storage_options


def create(facts: TableFacts, scratch: QName) -> tuple[str, ...]:
    """Return what makes the schema and the empty table: with its keys, checks and indexes, without its defaults,
    which may call functions and sequences of the application, and without foreign keys and triggers.
    """
    table = facts.table
    like = sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL EXCLUDING DEFAULTS EXCLUDING COMMENTS){}{}{}").format(
        qualified(scratch),
        qualified(table.qname),
        sql.SQL(" USING {}").format(ident(table.access_method)) if table.access_method else sql.SQL(""),
        storage_options(table),
        sql.SQL(" TABLESPACE {}").format(ident(table.tablespace)) if table.tablespace else sql.SQL(""),
    )
    return (*make_schema(facts, scratch.schema), text(like))


def fill(facts: TableFacts, scratch: QName) -> str:
    """Return the statement that copies the rows of a page range; parameters: its first TID, the one after its last."""
    columns = names(tuple(c.name for c in facts.stored_columns))
    return text(
        sql.SQL(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM ONLY {}"
            " WHERE ctid >= $1::tid AND ctid < $2::tid"
        ).format(qualified(scratch), columns, columns, qualified(facts.table.qname))
    )


def analyze(scratch: QName) -> str:
    return text(sql.SQL("ANALYZE {}").format(qualified(scratch)))


def drop_schema(schema: str) -> str:
    """Return the statement that drops the schema of a scratch copy with all that is in it."""
    return text(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(ident(schema)))
