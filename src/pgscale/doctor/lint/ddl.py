"""Compose the statements of the scratch database that hold a name."""

from __future__ import annotations

from psycopg import sql

from pgscale.doctor.lint.live import ExtensionFunction
from pgscale.doctor.lint.model import Relation


def create_database(name: str, owner: str | None) -> sql.Composed:
    """Return CREATE DATABASE from template0, so that nothing of the scratch server's own comes along."""
    made = sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name))
    return made if owner is None else made + sql.SQL(" OWNER {}").format(sql.Identifier(owner))


def drop_database(name: str) -> sql.Composed:
    """Return DROP DATABASE, which ends who is still connected."""
    return sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))


def create_login(name: str, password: str) -> sql.Composed:
    """Return CREATE ROLE for the one who runs migrations: it owns its database and nothing else."""
    return sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(password))


def drop_role(name: str) -> sql.Composed:
    """Return DROP ROLE."""
    return sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name))


def create_role_for(name: str, member: str) -> sql.Composed:
    """Return statements that make a role which the schema names, and let the migration act as it."""
    role = sql.Identifier(name)
    return sql.SQL("CREATE ROLE {}; GRANT {} TO {}").format(role, role, sql.Identifier(member))


def create_stand_in(schema: str, name: str) -> sql.Composed:
    """Return CREATE DOMAIN for a type that the scratch server lacks."""
    return sql.SQL("CREATE DOMAIN {}.{} AS pg_catalog.text").format(sql.Identifier(schema), sql.Identifier(name))


def create_function_stand_in(function: ExtensionFunction) -> bytes:
    """Return CREATE FUNCTION for one that the scratch server lacks; PL/pgSQL, so that no planner looks into it.

    Its arguments are the real server's own words; it is run by the role that migrations are run by, who may do nothing.
    """
    name = sql.Identifier(function.schema, function.name).as_string(None)
    return (
        f"CREATE FUNCTION {name}({function.arguments}) RETURNS {function.result}"
        f" LANGUAGE plpgsql {function.volatility} AS 'BEGIN RETURN NULL; END'"
    ).encode()


def hold(relation: Relation) -> sql.Composed:
    """Return LOCK TABLE in a mode that lets looks at the table pass, and that every change of it waits for."""
    return sql.SQL("LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE").format(
        sql.Identifier(relation.schema, relation.name)
    )
