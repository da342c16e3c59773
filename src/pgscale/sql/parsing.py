"""Read a statement's text once, and find where it names a table. Pure; needs sqlglot, so it is imported when used."""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlglot import exp

from pgscale.core.model import QName

_VOLATILE = frozenset({"random", "clock_timestamp", "timeofday", "nextval", "setval", "gen_random_uuid", "uuidv7"})
LONGEST_TEXT = 50_000
SCOPES = (exp.Select, exp.Update, exp.Delete, exp.Merge)

# sqlglot takes `$1,$` for the tag of a dollar-quoted string and does not know `date $1`; a string is read everywhere.
_PARAMETER = re.compile(r"""("(?:[^"]|"")*"|'(?:[^']|'')*')|\$\d+""")
# Reads every row by intent, or none: no condition would help.
_MAINTENANCE = frozenset(
    {
        "ALTER",
        "ANALYZE",
        "CLUSTER",
        "COMMENT",
        "COPY",
        "CREATE",
        "DROP",
        "GRANT",
        "LOCK",
        "REFRESH",
        "REINDEX",
        "REVOKE",
        "SECURITY",
        "TRUNCATE",
        "VACUUM",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A statement as it was read.

    Args:
        tree: None when it was not understood, or is maintenance.
        maintenance: its first word, when that is one of maintenance: `VACUUM`, `TRUNCATE` …; else empty.
    """

    tree: exp.Expr | None
    maintenance: str = ""


def parse_text(text: str) -> Parsed:
    """Return the statement's tree; never raises, whatever the text is."""
    first = text.split(maxsplit=1)[:1]
    if first and first[0].upper() in _MAINTENANCE:
        return Parsed(tree=None, maintenance=first[0].upper())
    if len(text) > LONGEST_TEXT:
        return Parsed(tree=None)
    try:
        with _quiet():
            parsed = sqlglot.parse(_PARAMETER.sub(lambda m: m[1] or "'p'", text), read="postgres")
    except Exception:  # noqa: BLE001 because a parser's fault must not stop a plan
        return Parsed(tree=None)
    return Parsed(tree=parsed[0] if len(parsed) == 1 else None)


@contextmanager
def _quiet() -> Generator[None]:
    """sqlglot logs what it cannot parse; here that is counted and said."""
    logger = logging.getLogger("sqlglot")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


class Reading:
    """A statement's tree, looked at for one table."""

    def __init__(self, table: QName, tree: exp.Expr) -> None:
        self.table, self.tree = table, tree

    def names_it(self) -> bool:
        """Tell whether the table is named anywhere."""
        return any(map(self.is_ours, self.tree.find_all(exp.Table)))

    def occurrences(self) -> Iterator[exp.Table]:
        """Yield the places where rows of the table are read."""
        for table in self.tree.find_all(exp.Table):
            if self.is_ours(table) and not self._is_insert_target(table):
                yield table

    def is_ours(self, table: exp.Table) -> bool:
        """An unqualified name is taken for the table's: the search_path of whoever ran it is not known."""
        schema = table.args.get("db")
        if not isinstance(table.this, exp.Identifier) or folded(table.this) != self.table.name:
            return False
        return folded(schema) == self.table.schema if schema is not None else not is_cte(table)

    def alias_of(self, table: exp.Table) -> str:
        """Return the name by which the scope's columns are qualified."""
        return folded(table.args["alias"].this) if table.args.get("alias") else self.table.name

    def _is_insert_target(self, table: exp.Table) -> bool:
        return isinstance(table.find_ancestor(exp.Insert, *SCOPES), exp.Insert)


def args(node: exp.Expr) -> dict[str, Any]:
    """Return the parts of a node by their names."""
    return node.args


def arg(node: exp.Expr, name: str) -> exp.Expr | None:
    """Return a part of a node; sqlglot writes `from_` and `with_` for what are words of Python."""
    parts = args(node)
    return parts.get(name) or parts.get(f"{name}_")


def joins(node: exp.Expr) -> list[exp.Join]:
    """Return the joins of a scope's FROM."""
    return list(args(node).get("joins") or [])


def folded(identifier: exp.Expr) -> str:
    """Return a name as the catalog has it: folded unless it was quoted."""
    name = identifier.name
    return name if identifier.args.get("quoted") else name.lower()


def bare(node: exp.Expr) -> exp.Expr:
    """Return what stands inside of parentheses."""
    while isinstance(node, exp.Paren):
        node = node.this
    return node


def column_name(node: exp.Expr) -> tuple[str, str] | None:
    """Return (alias or "", name) of a plain column, None for everything else."""
    node = bare(node)
    if not isinstance(node, exp.Column):
        return None
    table = node.args.get("table")
    return (folded(table) if table is not None else "", folded(node.this))


def conjuncts(node: exp.Expr) -> Iterator[exp.Expr]:
    """Yield the conditions that AND connects."""
    node = bare(node)
    if isinstance(node, exp.And):
        yield from conjuncts(node.this)
        yield from conjuncts(node.expression)
    else:
        yield node


def is_constant(node: exp.Expr) -> bool:
    """Tell whether the value is known when execution begins: no column, no volatile function.

    A scalar subquery is run first, and partitions are pruned by what it gives.
    """
    if isinstance(bare(node), exp.Subquery):
        return not any(_is_outer(column) for column in node.find_all(exp.Column))
    if isinstance(node, exp.Any) and node.find(exp.Select) is not None:
        return False
    names = {f.name.lower() for f in node.find_all(exp.Anonymous)} | {
        f.sql_name().lower() for f in node.find_all(exp.Func) if not isinstance(f, exp.Anonymous)
    }
    if names & _VOLATILE or node.find(exp.Rand) is not None:
        return False
    # ALL is a condition on every element, by which nothing is pruned.
    return node.find(exp.Column) is None and "all" not in names and not isinstance(node, exp.All)


def _is_outer(column: exp.Column) -> bool:
    """Tell whether a column inside a subquery names a table that is not in its FROM."""
    select = column.find_ancestor(exp.Select)
    if select is None or not column.table:
        return False
    inside = {t.alias_or_name for t in select.find_all(exp.Table)}
    return column.table not in inside


def conditions(scope: exp.Expr, table: exp.Table) -> Iterator[exp.Expr]:
    """Yield what must hold for every row of the table that the scope reads."""
    where = scope.args.get("where")
    if where is not None:
        yield from conjuncts(where.this)
    if isinstance(scope, exp.Merge):
        yield from conjuncts(scope.args["on"])
    sources = [arg(scope, "from"), scope.args.get("this")]
    sources += list(scope.args.get("using") or []) if isinstance(scope.args.get("using"), list) else []
    joined = joins(scope)
    for source in sources:
        if isinstance(source, exp.Expr):
            joined += [j for j in source.find_all(exp.Join) if j.find_ancestor(*SCOPES) is scope]
    seen: set[int] = set()
    for join in joined:
        on, side = join.args.get("on"), (join.side or "").upper()
        if on is None or id(join) in seen:
            continue
        seen.add(id(join))
        is_joined = join.this is table or table in list(join.this.find_all(exp.Table))
        if side == "" or (side == "LEFT" and is_joined) or (side == "RIGHT" and not is_joined):
            yield from conjuncts(on)


def is_cte(table: exp.Table) -> bool:
    """Tell whether a name is that of a common table expression."""
    ancestor = table.parent
    while ancestor is not None:
        with_ = arg(ancestor, "with")
        ctes = with_.expressions if with_ is not None else ()
        if any(folded(cte.args["alias"].this) == folded(table.this) for cte in ctes):
            return True
        ancestor = ancestor.parent
    return False
