"""What a split cannot carry exactly is refused here, by name, before anything changes. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pgscale.catalog.model import TableFacts
from pgscale.core.model import QName, quote_ident
from pgscale.partition.checks import column_reasons, table_reasons
from pgscale.partition.keys import Keys
from pgscale.partition.model import By, Options
from pgscale.partition.splitting.model import Parent, Place


def refuse_parent(parent: Parent) -> str | None:
    """Return why the partitions of this table cannot be divided, None when they can."""
    name = parent.qname
    if parent.kind != "p":
        return f"{name} is not partitioned, and no partition of another table."
    if parent.is_partition:
        return f"{name} is a partition of another table itself; only the partitions of a topmost table are divided."
    if parent.strategy == "h":
        return f"{name} is partitioned by hash: its partitions cannot be divided one by one."
    if parent.column is None:
        return f"{name} is partitioned by several columns or by an expression; only a key of one column is divided."
    if not parent.key_is_plain:
        return f"{name} compares its partition key by another operator class or collation than the column's own."
    return None


def find_reasons(
    facts: TableFacts, above: TableFacts, place: Place, by: By, options: Options, keys: Keys
) -> tuple[str, ...]:
    """Return every reason to refuse, each a sentence that names the object; empty when the partition can be divided.

    Args:
        facts: the partition; above: its parent.
    """
    return (
        *table_reasons(facts, by, options, keys),
        *column_reasons(facts, by, options, keys),
        *_family(facts, above, place),
        *_keys(facts, place, keys),
        *_constraints(facts),
        *_dependents(facts),
        *_publications(facts, above),
        *_foreign_keys(above, place),
    )


def _family(facts: TableFacts, above: TableFacts, place: Place) -> Iterator[str]:
    leaf, parent = place.leaf, place.parent
    kinds = {"p": "partitioned itself", "f": "a foreign table"}
    if leaf.kind != "r":
        yield f"{leaf.qname} is {kinds.get(leaf.kind, 'no ordinary table')}."
    if facts.table.persistence != "p":
        yield f"{leaf.qname} is unlogged: a crash empties it, so nothing about it can be promised."
    if facts.table.owner != parent.owner:
        yield f"{leaf.qname} belongs to {facts.table.owner}, and {parent.qname} to {parent.owner}."
    for child in (leaf, *place.siblings):
        if child.is_pending:
            yield f"{child.qname} is being detached; end that with DETACH PARTITION … FINALIZE first."
    for relation in (above.table, facts.table):
        if relation.schema.startswith("pgscale") or relation.schema in ("pg_catalog", "information_schema"):
            yield f"{relation.qname} belongs to the system or to pgscale itself."
    if above.table.is_subscribed:
        yield f"{parent.qname} is filled by a subscription, whose writes fire no statement triggers."
    if above.table.force_row_security and not above.table.owner_bypasses_rls:
        yield f"{parent.qname} has FORCE ROW LEVEL SECURITY, so its owner {above.table.owner} cannot read every row."
    if place.default is not None and place.default.kind != "r":
        yield f"{place.default.qname}, the DEFAULT partition, is {kinds.get(place.default.kind, 'no ordinary table')}."
    if above.table.has_rules:
        yield f"{parent.qname} has rules, which rewrite statements before triggers can see them."
    for trigger in above.triggers:
        if trigger.name.startswith("_pgscale_"):
            yield f"Trigger {quote_ident(trigger.name)} is left over from a run; abort or finish that run first."
    if "$pgscale$" in place.condition:
        yield f"The bound of {leaf.qname} contains $pgscale$, which pgscale quotes with."
    for name in place.own_triggers:
        yield f"Trigger {quote_ident(name)} stands on the partition alone; move it to {parent.qname} first."


def _keys(facts: TableFacts, place: Place, keys: Keys) -> Iterator[str]:
    column = place.parent.column
    if keys.identity_index is None:
        yield (
            f"{facts.table.qname} has no key that names a row: no primary key and no unique index on NOT NULL"
            " columns. Add one first."
        )
    for name in place.lacking_indexes:
        yield f"Index {quote_ident(name)} of {place.parent.qname} has no counterpart on {facts.table.qname}."
    for index in facts.indexes:
        name = quote_ident(index.name)
        if not index.is_valid:
            yield f"Index {name} is invalid; drop it or REINDEX it first."
        if index.is_exclusion:
            yield f"Exclusion constraint {name} would be built anew under a lock when partitions are attached."
        elif index.is_unique and index.oid in place.own_indexes and column not in index.key_columns:
            yield (
                f"Unique index {name} of the partition alone does not contain {quote_ident(column or '')}: it would"
                " hold within each new partition only. Drop it first."
            )


def _constraints(facts: TableFacts) -> Iterator[str]:
    for constraint in facts.constraints:
        name = quote_ident(constraint.name)
        if constraint.is_temporal:
            yield f"Constraint {name} is temporal (WITHOUT OVERLAPS or PERIOD)."
        if not constraint.is_enforced:
            yield f"Constraint {name} is NOT ENFORCED."
        if constraint.kind == "c" and constraint.no_inherit:
            yield f"CHECK constraint {name} is NO INHERIT."
        if constraint.kind == "c" and not constraint.is_validated:
            yield f"CHECK constraint {name} is NOT VALID; validate it first."
        if constraint.kind == "f":
            yield f"Foreign key {name} stands on the partition alone."
        if constraint.name.startswith("_pgscale_"):
            yield f"Constraint {name} is left over from a run."


def _dependents(facts: TableFacts) -> Iterator[str]:
    table = facts.table.qname
    for view in facts.views:
        kind = "Materialized view" if view.kind == "m" else "View"
        yield f"{kind} {QName(schema=view.schema, name=view.name)} reads {table} by its own name."
    for foreign in facts.incoming:
        yield f"Foreign key {quote_ident(foreign.name)} of {foreign.schema}.{foreign.table_name} references {table}."
    for function in facts.functions:
        name = f"{QName(schema=function.schema, name=function.name)}({function.arguments})"
        yield f"Function {name} names {table} or its row type."
    for policy in facts.policies:
        if policy.mentions_table:
            yield (
                f"Policy {quote_ident(policy.name)} of {table} reads {table} by its own name. DROP POLICY there first:"
                " who comes through the table the partition belongs to meets that table's policies."
            )
    for description in facts.row_type_users:
        yield f"The row type of {table} is used by {description}."
    for description in facts.other_dependents:
        yield f"{table} is used by {description}."
    for statistics in facts.statistics:
        if statistics.owner != facts.table.owner:
            yield f"Statistics object {quote_ident(statistics.name)} is owned by {statistics.owner}."
    for sequence in facts.sequences:
        if not sequence.is_identity:
            yield (
                f"Sequence {quote_ident(sequence.name)} is owned by a column of the partition and would go with it;"
                " ALTER SEQUENCE … OWNED BY the same column of the parent first."
            )


def _publications(facts: TableFacts, above: TableFacts) -> Iterator[str]:
    for publication in facts.publications:
        name = quote_ident(publication.name)
        if publication.for_all_tables:
            yield f"Publication {name} is FOR ALL TABLES: it would publish the copy while it is made."
        elif publication.for_schema:
            yield f"Publication {name} publishes the whole schema: it would publish the copy while it is made."
        else:
            yield f"Publication {name} names the partition, and its subscribers know it by that name."
    for publication in above.publications:
        if publication.is_member and not publication.via_root:
            yield (
                f"Publication {quote_ident(publication.name)} sends rows of {above.table.qname} under the names of"
                " partitions; SET (publish_via_partition_root = true) first."
            )


def _foreign_keys(above: TableFacts, place: Place) -> Iterator[str]:
    """They are dropped and made again in the cut-over: a DETACH or ATTACH would read whole tables under its lock."""
    for foreign in above.incoming:
        name = f"{quote_ident(foreign.name)} of {foreign.schema}.{foreign.table_name}"
        if foreign.table_oid == above.table.oid:
            continue
        if not foreign.is_owner:
            yield f"Foreign key {name} must be made again, and {foreign.owner} owns that table."
        if foreign.kind == "p":
            yield f"Foreign key {name} belongs to a partitioned table and cannot be made again without a scan."
    if not any(c.kind == "f" for c in above.constraints):
        return
    for child in place.siblings:
        if child.kind != "r":
            yield (
                f"{above.table.qname} has foreign keys, which must be made again for each partition, and"
                f" {child.qname} is no ordinary table."
            )
