"""Name the locks that the cut-over and what follows it take on tables other than the partitioned one. Pure.

Sources: ATExecDropConstraint() and dropconstraint_internal() take ACCESS EXCLUSIVE on the referenced table, because
its triggers go; ATAddForeignKeyConstraint() takes SHARE ROW EXCLUSIVE on it; ATExecValidateConstraint() ROW SHARE
(src/backend/commands/tablecmds.c).
"""

from __future__ import annotations

import re

from psycopg import sql

from pgscale.catalog.model import Constraint, TableFacts
from pgscale.core.model import QName

_REFERENCES = re.compile(r"\) REFERENCES ((?:\"(?:[^\"]|\"\")*\"|[^\"(])+)\(")


def cutover_lock(facts: TableFacts) -> str:
    """Return the cut-over's locks in words: on the table, and on each table at the other end of a foreign key."""
    ends = list(dict.fromkeys((*_referencing(facts), *_referenced(facts))))
    if not ends:
        return "ACCESS EXCLUSIVE"
    parts = [f"ACCESS EXCLUSIVE on {facts.table.qname}"]
    if referencing := _referencing(facts):
        parts.append(f"ACCESS EXCLUSIVE on {_list(referencing)}, whose foreign keys move")
    if referenced := tuple(t for t in _referenced(facts) if t not in referencing):
        parts.append(f"ACCESS EXCLUSIVE on {_list(referenced)}, which the table's foreign keys reference")
    return "; ".join(parts)


def cutover_wait(facts: TableFacts, max_block_s: float, lock_timeout_s: float) -> str:
    """Return how long others can wait for the cut-over, in words with a number."""
    at_most = f"{max_block_s * 1000:.0f} ms at most, then given up and tried again"
    if not _referencing(facts) and not _referenced(facts):
        return at_most
    return f"{at_most}; the same for the other tables, each of whose locks is awaited {lock_timeout_s * 1000:.0f} ms"


def settle_lock(facts: TableFacts, statements: tuple[str, ...]) -> str | None:
    """Return the locks of one settling transaction in words, None when it proves no foreign key of the table."""
    table = facts.table.qname
    for foreign in facts.incoming:
        other = QName(schema=foreign.schema, name=foreign.table_name)
        if foreign.table_oid != facts.table.oid and _is_about(statements, "VALIDATE", other, foreign.name):
            return f"SHARE UPDATE EXCLUSIVE on {other}, ROW SHARE on {table}"
    for constraint in (c for c in facts.constraints if c.kind == "f"):
        referenced = _target(facts, constraint)
        reads = f", ROW SHARE on {referenced}" if referenced else ""
        if _is_about(statements, "ADD", table, constraint.name):
            return f"SHARE ROW EXCLUSIVE on {table} and its partitions{f', and on {referenced}' if referenced else ''}"
        if _is_about(statements, "VALIDATE", table, constraint.name):
            return f"SHARE UPDATE EXCLUSIVE on {table} and its partitions{reads}"
        if any(f"VALIDATE CONSTRAINT {_ident(constraint.name)}" in s for s in statements):
            return f"SHARE UPDATE EXCLUSIVE on one partition{reads}"
    if all(s.startswith("COMMENT ON CONSTRAINT") for s in statements):
        return "SHARE UPDATE EXCLUSIVE"
    return None


def _is_about(statements: tuple[str, ...], verb: str, table: QName, constraint: str) -> bool:
    name = sql.Identifier(table.schema, table.name).as_string(None)
    return any(f" {name} {verb} CONSTRAINT {_ident(constraint)}" in s for s in statements)


def _ident(name: str) -> str:
    return sql.Identifier(name).as_string(None)


def _referencing(facts: TableFacts) -> tuple[str, ...]:
    others = (f for f in facts.incoming if f.table_oid != facts.table.oid)
    return tuple(dict.fromkeys(str(QName(schema=f.schema, name=f.table_name)) for f in others))


def _referenced(facts: TableFacts) -> tuple[str, ...]:
    found = (_target(facts, c) for c in facts.constraints if c.kind == "f")
    return tuple(dict.fromkeys(name for name in found if name is not None))


def _target(facts: TableFacts, constraint: Constraint) -> str | None:
    """Return the other table, as pg_get_constraintdef() names it: qualified, as sessions have no other search_path."""
    found = _REFERENCES.search(constraint.definition)
    return found[1] if found is not None and constraint.references_oid != facts.table.oid else None


def _list(tables: tuple[str, ...]) -> str:
    return ", ".join(tables)
