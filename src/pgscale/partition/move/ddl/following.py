"""Compose what lets everything that hangs on the view hang on the table that takes its name. Pure.

Rows move for hours, and the application lives on meanwhile: a right is taken away, a view is replaced, a default is
changed. None of it may come undone because the plan was made before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psycopg import sql

from pgscale.catalog.model import Followed, Function, View
from pgscale.core.model import QName
from pgscale.livecopy.ddl import ident, qualified, text, trusted
from pgscale.partition import ddl
from pgscale.partition.swap import replace_view


def redirect(views: Sequence[View], functions: Sequence[Function]) -> Iterator[str]:
    """Yield what makes views and functions anew, by their own text."""
    for view in views:
        if view.kind == "v":
            yield replace_view(view)
    for function in functions:
        if function.definition is not None:
            yield function.definition


def follow(view: Followed, table: Followed, name: QName) -> Iterator[str]:
    """Yield what gives a table rights, defaults, views and functions of the view whose name it has taken.

    Args:
        view: as it was just before; table: as it is; name: of both.
    """
    if _rights(view) != _rights(table):
        owner = table.relation.owner
        for grantee in dict.fromkeys(g.grantee for g in table.grants if g.grantee != owner):
            yield text(sql.SQL("REVOKE ALL ON TABLE {} FROM {}").format(qualified(name), ddl.role(grantee)))
        yield from ddl.grants(view.relation, view.grants, name)
    defaults = {c.name: c.default_sql for c in view.columns}
    for column in table.columns:
        if column.identity or column.generated or defaults.get(column.name) == column.default_sql:
            continue
        default = defaults.get(column.name)
        action = sql.SQL("DROP DEFAULT") if default is None else sql.SQL("SET DEFAULT {}").format(trusted(default))
        yield ddl.alter(name, sql.SQL("ALTER COLUMN {} {}").format(ident(column.name), action))
    yield from redirect(view.views, view.functions)


def _rights(of: Followed) -> frozenset[tuple[str, str, str, str, bool]]:
    """Return what others than the owner may do, whoever gave it."""
    return frozenset(
        (g.kind, g.column_name, g.grantee, g.privilege, g.grantable)
        for g in of.grants
        if g.grantee != of.relation.owner
    )
