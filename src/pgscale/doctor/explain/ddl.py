"""SQL that is composed: the EXPLAIN of a text of the user's, and what findings give to paste."""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString

from psycopg import sql

# A statement of ours, where GENERIC_PLAN does not exist.
PREPARED = "_pgscale_explain"


def explain(options: Sequence[str], text: str) -> bytes:
    """Put EXPLAIN before a text, which is the user's own to run."""
    return f"EXPLAIN ({', '.join(options)})\n{text}".encode()


def prepare(text: str) -> bytes:
    return f"PREPARE {PREPARED} AS\n{text}".encode()


def execute_prepared(count: int) -> str:
    """Execute it with NULLs, which a generic plan does not look at."""
    nulls = f" ({', '.join(['NULL'] * count)})" if count else ""
    return f"EXECUTE {PREPARED}{nulls}"


def set_local(name: str, value: str) -> sql.Composed:
    return sql.SQL("SET LOCAL {} = {}").format(sql.Identifier(name), sql.Literal(value))


def statement_text(schema: str) -> sql.Composed:
    """Select the text of a statement of this database by its id; with what is hidden from the login counted."""
    return sql.SQL(
        "SELECT (SELECT s.query FROM {view} s WHERE s.queryid = %(id)s AND s.dbid = d.oid"
        " LIMIT 1),"
        " (SELECT pg_catalog.count(*) FROM {view} s WHERE s.queryid IS NULL AND s.dbid = d.oid),"
        " (SELECT pg_catalog.count(*) FROM {view} s WHERE s.queryid = %(id)s)"
        " FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()"
    ).format(view=sql.Identifier(schema, "pg_stat_statements"))


# To paste


def _say(statement: LiteralString, **parts: sql.Composable) -> str:
    return sql.SQL(statement).format(**parts).as_string(None)


def ident(*names: str) -> str:
    """Quote a name; an empty schema before it is left out."""
    return sql.Identifier(*(each for each in names if each)).as_string(None)


def create_index(
    table: str, keys: Sequence[str], *, method: str = "", index: str = "", concurrently: bool = True
) -> str:
    """Make an index.

    Args:
        table, keys: quoted; expressions in parentheses, operator classes behind them.
        index: its name, quoted; without one PostgreSQL finds one.
    """
    how = " CONCURRENTLY" if concurrently else ""
    using = f" USING {method}" if method else ""
    return f"CREATE INDEX{how}{f' {index}' if index else ''} ON {table}{using} ({', '.join(keys)});"


def set_here(setting: LiteralString, value: str) -> str:
    """Set something for the session."""
    statement: LiteralString = "SET " + setting + " = {value};"
    return _say(statement, value=sql.Literal(value))


def reset_setting(setting: str, source: str, database: str, role: str) -> str:
    """Take a setting back where it was made."""
    what = sql.Identifier(setting)
    match source:
        case "database":
            return _say("ALTER DATABASE {who} RESET {what};", who=sql.Identifier(database), what=what)
        case "user":
            return _say("ALTER ROLE {who} RESET {what};", who=sql.Identifier(role), what=what)
        case "database user":
            return _say(
                "ALTER ROLE {who} IN DATABASE {where} RESET {what};",
                who=sql.Identifier(role),
                where=sql.Identifier(database),
                what=what,
            )
        case "configuration file":
            return _say("ALTER SYSTEM RESET {what};\nSELECT pg_reload_conf();", what=what)
        case _:
            return _say("RESET {what};", what=what)


def create_statistics(table: str, statistics: str, items: Sequence[str], kinds: str = "") -> str:
    """Keep statistics of columns together, or of an expression, and gather them."""
    return f"CREATE STATISTICS {statistics}{kinds} ON {', '.join(items)} FROM {table};\nANALYZE {table};"


def set_target(table: str, column: str, target: int) -> str:
    """Let ANALYZE keep more of a column."""
    return f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS {target};\nANALYZE {table};"


def alter_workers(count: int) -> str:
    """Let all sessions together have so many parallel workers."""
    return _say("ALTER SYSTEM SET max_parallel_workers = {count};\nSELECT pg_reload_conf();", count=sql.Literal(count))
