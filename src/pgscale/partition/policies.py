"""Compose row-level security: what switches it on, and its policies. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from pgscale.catalog.model import TableFacts
from pgscale.core.model import QName
from pgscale.livecopy.ddl import ident, qualified, text, trusted
from pgscale.partition.ddl import alter, comment_on, role

_COMMANDS = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE", "*": "ALL"}


def row_security(facts: TableFacts, table: QName) -> Iterator[str]:
    """Yield what gives the table of that name the row-level security that the facts' table has."""
    if facts.table.row_security:
        yield alter(table, sql.SQL("ENABLE ROW LEVEL SECURITY"))
    if facts.table.force_row_security:
        yield alter(table, sql.SQL("FORCE ROW LEVEL SECURITY"))
    for policy in facts.policies:
        statement = sql.SQL("CREATE POLICY {} ON {} AS {} FOR {} TO {}").format(
            ident(policy.name),
            qualified(table),
            sql.SQL("PERMISSIVE" if policy.is_permissive else "RESTRICTIVE"),
            trusted(_COMMANDS[policy.command]),
            sql.SQL(", ").join(role(name) for name in policy.roles),
        )
        if policy.using_sql is not None:
            statement += sql.SQL(" USING ({})").format(trusted(policy.using_sql))
        if policy.check_sql is not None:
            statement += sql.SQL(" WITH CHECK ({})").format(trusted(policy.check_sql))
        yield text(statement)
        if policy.comment is not None:
            on = sql.SQL("POLICY {} ON {}").format(ident(policy.name), qualified(table))
            yield comment_on(on, policy.comment)
