"""Read from pg_stat_statements which statements mention a table. Says why where it cannot."""

from __future__ import annotations

import re
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgscale import sql as named
from pgscale.connect.session import Session
from pgscale.core.model import QName
from pgscale.partition.workload import CountedStatement

QUERIES = named.load("pgscale.partition")

MOST_STATEMENTS = 500
HIDDEN = "<insufficient privilege>"
# What pgscale itself sends about a table: a run names its schemas, a plan's looks are by page or name every function.
_OWN = r"pgscale_(new|old)_[0-9]|_pgscale_|pg_catalog\.(min|max)\(|ctid >= [^ ]*::tid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What pg_stat_statements has of one table.

    Args:
        statements: those that mention the table, most total time first, at most MOST_STATEMENTS.
        found: how many mention it.
        hidden: statements of this database whose text is hidden from this login.
        via_views: statements that mention one of the views and not the table.
        since: when the counting began; empty when the extension's version does not tell.
    """

    statements: tuple[CountedStatement, ...]
    found: int
    hidden: int
    via_views: int
    since: str


class NotReadableError(Exception):
    """pg_stat_statements cannot be read; the message says why, to stand after `because`."""


def read_statements(session: Session, table: QName, views: tuple[str, ...]) -> Counted:
    """Return the statements of this database that mention the table, without pgscale's own.

    Raises:
        NotReadableError: there is no extension, it is not loaded, or the login has no right to it.
    """
    row = session.execute(QUERIES.get("statements_extension", session.info.server_version)).fetchone()
    if row is None:
        raise NotReadableError("the extension pg_stat_statements is not installed in this database")
    schema, version = str(row[0]), _version(str(row[1]))
    try:
        with session.transaction():
            return _read(session, schema, version, table, views)
    except psycopg.Error as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise NotReadableError(f"pg_stat_statements cannot be read ({first})") from error


def _read(session: Session, schema: str, version: tuple[int, ...], table: QName, views: tuple[str, ...]) -> Counted:
    view = sql.Identifier(schema, "pg_stat_statements")
    # 1.8 tells planning from execution (src: pg_stat_statements--1.7--1.8.sql); the extension's version counts, which
    # stays behind the server's until ALTER EXTENSION … UPDATE.
    total = sql.Identifier("total_exec_time" if version >= (1, 8) else "total_time")
    here = sql.SQL(
        "dbid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())"
    )
    mentions = _mentions(table.name)
    own = sql.SQL("query !~ {}").format(sql.Literal(_OWN))
    rows = session.execute(
        sql.SQL(
            "SELECT query, pg_catalog.sum(calls)::int8, pg_catalog.sum({total})::float8, pg_catalog.count(*) OVER ()"
            " FROM {view} WHERE {here} AND {mentions} AND {own}"
            " GROUP BY query ORDER BY 3 DESC, query LIMIT {most}"
        ).format(
            total=total,
            view=view,
            here=here,
            mentions=mentions,
            own=own,
            most=sql.Literal(MOST_STATEMENTS),
        )
    ).fetchall()
    through = sql.SQL(" OR ").join([sql.SQL("false"), *map(_mentions, views)])
    beside = session.execute(
        sql.SQL(
            "SELECT pg_catalog.count(*) FILTER (WHERE query = {hidden}),"
            " pg_catalog.count(*) FILTER (WHERE ({through}) AND NOT ({mentions}) AND {own}) FROM {view} WHERE {here}"
        ).format(hidden=sql.Literal(HIDDEN), through=through, mentions=mentions, own=own, view=view, here=here)
    ).fetchone()
    since = ""
    if version >= (1, 9):
        reset = session.execute(
            sql.SQL("SELECT pg_catalog.to_char(stats_reset, 'YYYY-MM-DD HH24:MI') FROM {}").format(
                sql.Identifier(schema, "pg_stat_statements_info")
            )
        ).fetchone()
        since = f"{reset[0]} UTC" if reset and reset[0] else ""
    return Counted(
        statements=tuple(CountedStatement(text=r[0], calls=int(r[1]), total_ms=float(r[2])) for r in rows),
        found=int(rows[0][3]) if rows else 0,
        hidden=int(beside[0]) if beside else 0,
        via_views=int(beside[1]) if beside else 0,
        since=since,
    )


def _mentions(name: str) -> sql.Composed:
    """A cheap sieve: the text contains the name as a word, in any case, as it would be quoted."""
    word = re.sub(r"(\W)", r"\\\1", name.replace('"', '""').lower())
    return sql.SQL("pg_catalog.lower(query) ~ {}").format(sql.Literal(rf"(^|[^\w$]){word}($|[^\w$])"))


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
