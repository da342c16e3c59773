"""What a view in the table's place cannot carry is refused here, by name, before anything changes. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pgscale.catalog.model import TableFacts
from pgscale.core.model import QName, quote_ident
from pgscale.partition.keys import Keys
from pgscale.partition.model import By

_NEEDED_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRIGGER")


def find_reasons(facts: TableFacts, by: By, keys: Keys) -> tuple[str, ...]:
    """Return every reason to refuse this strategy beyond those of every strategy, each a sentence with the name."""
    return tuple(
        reason for check in (_table, _dependents, _indexes, _foreign_keys) for reason in check(facts, by, keys)
    )


def _table(facts: TableFacts, by: By, keys: Keys) -> Iterator[str]:
    del by, keys
    table = facts.table
    if table.row_security or facts.policies:
        yield f"{table.qname} has row-level security, which a view in its place would not apply."
    for trigger in facts.triggers:
        yield f"Trigger {quote_ident(trigger.name)} would fire for rows that only move, and not as it does now."
    for publication in facts.publications:
        if publication.is_member:
            yield f"Publication {quote_ident(publication.name)} would send every row that moves."
    if table.has_acl:
        own = {g.privilege for g in facts.grants if g.kind == "table" and g.grantee == table.owner}
        missing = [right for right in _NEEDED_RIGHTS if right not in own]
        if missing:
            yield f"The owner {table.owner} has taken {', '.join(missing)} on {table.qname} from itself."
    for constraint in facts.constraints:
        if not constraint.is_validated and constraint.kind in "cf":
            yield f"Constraint {quote_ident(constraint.name)} is NOT VALID; rows that break it could not be moved."
        if constraint.kind == "x":
            yield f"Exclusion constraint {quote_ident(constraint.name)} cannot hold over two tables."


def _dependents(facts: TableFacts, by: By, keys: Keys) -> Iterator[str]:
    del by, keys
    for foreign in facts.incoming:
        yield (
            f"Foreign key {quote_ident(foreign.name)} of {foreign.schema}.{foreign.table_name} references the table;"
            " a view cannot be referenced."
        )
    for matview in facts.matviews:
        yield f"Materialized view {matview.qname} reads the table; the view in its place would have to be followed."
    for view in facts.views:
        if view.needs_primary_key and view.kind != "m":
            yield (
                f"View {QName(schema=view.schema, name=view.name)} relies on the primary key (GROUP BY), which a view"
                " has not."
            )


def _indexes(facts: TableFacts, by: By, keys: Keys) -> Iterator[str]:
    generated = [c.name for c in facts.columns if c.generated]
    for index in facts.indexes:
        if not index.is_unique or index.is_exclusion:
            continue
        name = quote_ident(index.name)
        if not index.is_immediate:
            yield f"Unique key {name} is DEFERRABLE; over two tables it can only be enforced at once."
        if any(index.own_collation):
            yield f"Unique key {name} compares a column by another collation than the column's."
        if not all(index.key_operators):
            yield f"Unique key {name} has no equality operator that is known."
        for column in generated:
            if column in index.key_columns or re.search(rf'(?<![\w"]){re.escape(column)}(?![\w"])', index.tail):
                yield f"Unique key {name} contains the generated column {quote_ident(column)}."
    grown = bool(keys.grown)
    for name in by.columns:
        column = facts.column(name)
        in_identity = any(k.name == name for k in keys.identity)
        placed = next((k for k in keys.placement if k.name == name), None)
        if grown and column is not None and not in_identity and placed is not None and placed.nullable:
            yield f"Column {quote_ident(name)} may be NULL, and the key that names rows would grow by it."


def _foreign_keys(facts: TableFacts, by: By, keys: Keys) -> Iterator[str]:
    del by, keys
    for constraint in facts.constraints:
        if constraint.kind != "f" or constraint.references_oid == facts.table.oid:
            continue
        if re.search(r"\bON (UPDATE (CASCADE|SET )|DELETE SET )", constraint.definition):
            yield (
                f"Foreign key {quote_ident(constraint.name)} changes rows of the table by itself"  # noqa: S608 because it is a sentence, not SQL
                " (ON UPDATE CASCADE, SET NULL or SET DEFAULT)."
            )
