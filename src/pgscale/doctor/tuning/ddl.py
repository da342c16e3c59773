"""ALTER SYSTEM, composed. It writes postgresql.auto.conf and locks no relation."""

from __future__ import annotations

from psycopg import sql

from pgscale.doctor.tuning.model import Proposal
from pgscale.doctor.tuning.values import quote


def alter_system(name: str, value: str) -> sql.Composed:
    """Return ALTER SYSTEM SET."""
    return sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value))


def reset_system(name: str) -> sql.Composed:
    """Return ALTER SYSTEM RESET: the line goes, and what the files say counts again."""
    return sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name))


def pasted(statement: sql.Composed) -> str:
    """Return a statement for people, with its semicolon."""
    return f"{statement.as_string(None)};"


def conf_line(proposal: Proposal) -> str:
    """Return a line of postgresql.conf."""
    return f"{proposal.name} = {quote(proposal.value)}"
