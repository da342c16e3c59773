"""What cannot be carried over exactly is refused here, by name, before anything changes. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pgscale.catalog.model import Index, Matview, TableFacts, Trigger
from pgscale.core.model import QName, quote_ident
from pgscale.errors import RefusedError, UsageError
from pgscale.partition.keys import Keys
from pgscale.partition.matviews import reads_only
from pgscale.partition.model import SCRATCH_PREFIX, By, Options
from pgscale.partition.periods import NUMBER_TYPES, TIME_TYPES
from pgscale.partition.reader import KeyValues

_KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "p": "partitioned already",
    "S": "a sequence",
    "i": "an index",
    "I": "an index",
    "c": "a composite type",
    "t": "a TOAST table",
}


def refuse_kind(facts: TableFacts) -> str | None:
    """Return why this relation is no ordinary permanent table, None when it is one."""
    table = facts.table
    name = str(table.qname)
    if table.kind != "r":
        hint = " A partitioned table needs no run." if table.kind == "p" else ""
        return f"{name} is {_KINDS.get(table.kind, 'not a table')}; only ordinary tables are partitioned.{hint}"
    if table.persistence == "t":
        return f"{name} is a temporary table, which only its own session can see."
    if table.persistence == "u":
        return f"{name} is unlogged: a crash empties it, so nothing about it can be promised. SET LOGGED first."
    if table.is_partition:
        return f"{name} is a partition of another table."
    ours = table.schema.startswith("pgscale") and not table.schema.startswith(SCRATCH_PREFIX)
    if table.schema in ("pg_catalog", "information_schema", "pg_toast") or ours:
        return f"{name} belongs to the system or to pgscale itself."
    return None


def find_reasons(facts: TableFacts, by: By, options: Options, keys: Keys) -> tuple[str, ...]:
    """Return every reason to refuse, each a sentence that names the object; empty when the table can be carried.

    Raises:
        UsageError: a range over a column whose type has no steps.
    """
    _refuse_stepless(facts, by)
    return tuple(
        reason
        for check in (
            table_reasons,
            column_reasons,
            _partition_key,
            _keys,
            _constraints,
            _triggers,
            _dependents,
            _matviews,
        )
        for reason in check(facts, by, options, keys)
    )


def _refuse_stepless(facts: TableFacts, by: By) -> None:
    column = facts.column(by.columns[0])
    # A type without an order is a reason of its own, named with the others.
    if by.method != "range" or column is None or not column.has_btree_opclass:
        return
    if re.sub(r"\(.*?\)", "", column.type) not in NUMBER_TYPES | TIME_TYPES:
        raise UsageError(
            f"A range by a step needs a date, timestamp or number; column {quote_ident(column.name)} is {column.type}.",
            hint="Use --by list:COL or --by hash:COL for this column.",
        )


def refuse_nonfinite(found: KeyValues, by: By, options: Options) -> None:
    """Refuse values that no range takes, where there is no default partition for them.

    Raises:
        RefusedError: naming the column.
    """
    if by.method == "range" and found.has_nonfinite and not options.default_partition:
        raise RefusedError(
            f"Column {quote_ident(by.columns[0])} holds infinity, -infinity or NaN, which only a default"
            " partition takes.",
            consequence="Nothing was changed.",
            hint="Leave --no-default out, or give such rows a finite value first.",
        )


def table_reasons(facts: TableFacts, by: By, options: Options, keys: Keys) -> Iterator[str]:
    """Yield why the table as a whole cannot be copied under live writes."""
    del by, options, keys
    table = facts.table
    if table.inherits or table.has_children:
        yield f"{table.qname} takes part in inheritance."
    if table.is_typed:
        yield f"{table.qname} is a typed table (CREATE TABLE … OF)."
    if table.has_rules:
        yield f"{table.qname} has rules, which rewrite statements before triggers can see them."
    if table.has_security_label:
        yield f"{table.qname} has a security label."
    if table.is_subscribed:
        yield f"{table.qname} is filled by a subscription, whose writes fire no statement triggers."
    if table.extension:
        yield f"{table.qname} belongs to the extension {table.extension}."
    if table.force_row_security and not table.owner_bypasses_rls:
        yield (
            f"{table.qname} has FORCE ROW LEVEL SECURITY, so its owner {table.owner} cannot read every row;"
            " lift it for the run, or give the owner BYPASSRLS."
        )
    for grant in facts.grants:
        if grant.grantor != table.owner:
            yield (
                f"{grant.privilege} on {table.qname} was granted to {grant.grantee or 'PUBLIC'} by"
                f" {grant.grantor}, who is not the owner; grant it again as {table.owner}."
            )


def column_reasons(facts: TableFacts, by: By, options: Options, keys: Keys) -> Iterator[str]:
    """Yield which columns the copy cannot have as they are."""
    del by, options, keys
    for column in facts.columns:
        if not column.not_null_is_plain:
            yield f"The NOT NULL constraint of column {quote_ident(column.name)} is NOT VALID or NO INHERIT."
        if column.name.startswith("_pgscale_"):
            yield f"Column {quote_ident(column.name)} has a name reserved for pgscale."
    if not facts.stored_columns:
        yield "The table has no columns that could be written."


def _partition_key(facts: TableFacts, by: By, options: Options, keys: Keys) -> Iterator[str]:
    del options
    for name in by.columns:
        column = facts.column(name)
        if column is None:
            continue
        if column.generated:
            yield f"Column {quote_ident(name)} is generated, and a generated column cannot be a partition key."
        if by.method == "hash" and not column.has_hash_opclass and column.is_builtin_type:
            bases = ("[]",)
            if column.type_kind == "b" and not column.type.endswith(bases) and "char" not in column.type:
                yield f"Type {column.type} of column {quote_ident(name)} has no hash operator class."
        if by.method != "hash" and not column.has_btree_opclass:
            yield (
                f"Type {column.type} of column {quote_ident(name)} has no default btree operator class, which a"
                f" {by.method} needs."
            )
    if len(set(by.columns)) != len(by.columns):
        yield "A column is named twice in the partition key."
    grows_primary = any(i.is_primary and i.oid in keys.grown for i in facts.indexes)
    if grows_primary:
        for name in by.columns:
            column = facts.column(name)
            if column is not None and column.type_kind == "d" and not column.not_null:
                yield (
                    f"The primary key would grow by {quote_ident(name)}, whose domain allows NULL;"
                    " set the column NOT NULL first."
                )


def _compared_otherwise(index: Index, by: By) -> Iterator[str]:
    """Name the partition-key columns that a unique key contains under other collations only.

    As DefineIndex() in src/backend/commands/indexcmds.c matches the key of a partitioned table.
    """
    if not index.is_unique and not index.is_exclusion:
        return
    for name in by.columns:
        places = [own for key, own in zip(index.key_columns, index.own_collation, strict=True) if key == name]
        if places and all(places):
            yield name


def _keys(facts: TableFacts, by: By, options: Options, keys: Keys) -> Iterator[str]:
    if keys.identity_index is None and options.strategy != "attach":
        # A copy needs to know which row is which; a table that is attached as it stands does not.
        yield (
            f"{facts.table.qname} has no key that names a row: no primary key and no unique index on NOT NULL"
            " columns. Add one (CREATE UNIQUE INDEX CONCURRENTLY) first."
        )
    grown_columns: list[set[str]] = []
    for index in facts.indexes:
        if not index.is_valid:
            yield f"Index {quote_ident(index.name)} is invalid; drop it or REINDEX it first."
        for name in _compared_otherwise(index, by):
            yield (
                f"Unique index {quote_ident(index.name)} compares {quote_ident(name)} by another collation than"
                " the column's, which a partitioned table cannot have for its partition key."
            )
        missing = keys.grown.get(index.oid)
        if missing is None:
            continue
        grown_columns.append(set(index.key_columns))
        if not options.accept_key_change:
            what = "Primary key" if index.is_primary else "Unique key"
            more = ", ".join(quote_ident(c) for c in (*index.key_columns, *missing))
            yield (
                f"{what} {quote_ident(index.name)} does not contain the partition key; it would become"
                f" ({more}), so its own columns alone would no longer be unique."
                " Accept that with --accept-key-change, or choose a partition key inside the key."
            )
    by_set = set(by.columns)
    for foreign in facts.incoming:
        if set(foreign.referenced_columns) in grown_columns or not by_set <= set(foreign.referenced_columns):
            yield (
                f"Foreign key {quote_ident(foreign.name)} of {foreign.schema}.{foreign.table_name} references"
                f" ({', '.join(foreign.referenced_columns)}), which does not contain the partition key."
            )


def _constraints(facts: TableFacts, by: By, options: Options, keys: Keys) -> Iterator[str]:
    del options, keys
    for constraint in facts.constraints:
        name = quote_ident(constraint.name)
        if constraint.is_temporal:
            yield f"Constraint {name} is temporal (WITHOUT OVERLAPS or PERIOD)."
        if not constraint.is_enforced:
            yield f"Constraint {name} is NOT ENFORCED."
        if constraint.kind == "c" and constraint.no_inherit:
            yield f"CHECK constraint {name} is NO INHERIT, which a partitioned table cannot have."
        if constraint.kind == "x":
            if facts.server_version < 170000:
                yield f"Exclusion constraint {name} cannot stand on a partitioned table before PostgreSQL 17."
            elif not set(by.columns) <= set(constraint.columns):
                yield f"Exclusion constraint {name} does not contain the partition key."
        if constraint.kind == "f" and not constraint.is_validated and facts.server_version < 180000:
            yield f"Foreign key {name} is NOT VALID, which a partitioned table cannot have before 18."
    constraint_indexes = {c.index_oid for c in facts.constraints}
    for index in facts.indexes:
        if index.is_exclusion and index.oid not in constraint_indexes:
            yield f"Index {quote_ident(index.name)} is an exclusion index without a constraint."


def _sets_key(trigger: Trigger, by: By) -> str | None:
    for name in by.columns:
        if re.search(rf'\bnew\s*\.\s*"?{re.escape(name)}"?\s*:?=(?!=)', trigger.source, re.IGNORECASE):
            return name
    return None


def _triggers(facts: TableFacts, by: By, options: Options, keys: Keys) -> Iterator[str]:
    del options, keys
    for trigger in facts.triggers:
        name = quote_ident(trigger.name)
        if trigger.name.startswith("_pgscale_"):
            yield f"Trigger {name} is left over from a run; abort or finish that run first."
        if trigger.is_row and trigger.has_transition_tables:
            yield f"Trigger {name} is a row trigger with transition tables, which partitions cannot have."
        if trigger.is_row and trigger.is_before and (column := _sets_key(trigger, by)):
            yield (
                f"Trigger {name} sets the partition key {quote_ident(column)} before the row is stored;"
                " a BEFORE trigger cannot move a row to another partition."
            )


def _dependents(facts: TableFacts, by: By, options: Options, keys: Keys) -> Iterator[str]:
    del by, options
    grows = bool(keys.grown)
    for view in facts.views:
        name = QName(schema=view.schema, name=view.name)
        kind = "Materialized view" if view.kind == "m" else "View"
        if view.is_rule:
            yield f"A rule on {name} mentions the table."
        elif view.kind != "m" and not view.is_owner:
            yield f"View {name} must be redirected, and its owner {view.owner} is another role."
        elif view.needs_primary_key and grows:
            yield f"{kind} {name} relies on the primary key (GROUP BY), which would grow."
        if not view.is_rule and reads_only(view.definition, facts.table.qname):
            yield f"{kind} {name} reads FROM ONLY the table; of a partitioned table that is no row."
    for foreign in facts.incoming:
        name = f"{quote_ident(foreign.name)} of {foreign.schema}.{foreign.table_name}"
        if not foreign.is_owner:
            yield f"Foreign key {name} must be redirected, and {foreign.owner} owns that table."
        if foreign.kind == "p" and foreign.table_oid != facts.table.oid:
            yield f"Foreign key {name} belongs to a partitioned table and cannot be redirected without a scan."
    for function in facts.functions:
        name = f"{QName(schema=function.schema, name=function.name)}({function.arguments})"
        if function.uses_row_type:
            yield f"Function {name} uses the table's row type."
        elif function.definition is None:
            yield f"Aggregate {name} depends on the table."
        elif not function.is_owner:
            yield f"Function {name} must be redirected and is owned by another role."
    for description in facts.row_type_users:
        yield f"The table's row type is used by {description}."
    for description in facts.other_dependents:
        yield f"The table is used by {description}, which cannot be redirected."
    for publication in facts.publications:
        name = quote_ident(publication.name)
        if publication.for_all_tables:
            yield f"Publication {name} is FOR ALL TABLES: it would publish the copy while it is made."
        elif publication.for_schema:
            yield f"Publication {name} publishes the whole schema: it would publish the copy while it is made."
        elif not publication.is_owner:
            yield f"Publication {name} must be changed and is owned by another role."
    for statistics in facts.statistics:
        if statistics.owner != facts.table.owner:
            yield f"Statistics object {quote_ident(statistics.name)} is owned by {statistics.owner}."
    for sequence in facts.sequences:
        if sequence.persistence != "p":
            yield f"Sequence {quote_ident(sequence.name)} is not permanent."


def _matviews(facts: TableFacts, by: By, options: Options, keys: Keys) -> Iterator[str]:
    del by, options, keys
    table = facts.table
    for matview in facts.matviews:
        relation, name = matview.relation, f"Materialized view {matview.qname}"
        if not matview.state.may_own:
            yield f"{name} must be made again, and its owner {relation.owner} is another role."
        if not matview.state.may_create:
            yield (
                f"{name} must be made again, and {table.owner} may not create in its schema;"
                f" GRANT CREATE ON SCHEMA {quote_ident(relation.schema)} TO {quote_ident(table.owner)}."
            )
        if relation.extension:
            yield f"{name} belongs to the extension {relation.extension}."
        if relation.has_security_label:
            yield f"{name} has a security label."
        if table.row_security and relation.owner != table.owner and not relation.owner_bypasses_rls:
            yield f"{name} is owned by {relation.owner}, for whom the table's row-level security hides rows."
        for grant in matview.grants:
            if grant.grantor != relation.owner:
                yield (
                    f"{grant.privilege} on {matview.qname} was granted to {grant.grantee or 'PUBLIC'} by"
                    f" {grant.grantor}, who is not the owner; grant it again as {relation.owner}."
                )
        for index in matview.indexes:
            if not index.is_valid:
                yield f"Index {quote_ident(index.name)} of {matview.qname} is invalid; drop it or REINDEX it first."
        for statistics in matview.statistics:
            if statistics.owner != relation.owner or statistics.schema != relation.schema:
                yield (
                    f"Statistics object {quote_ident(statistics.name)} of {matview.qname} has another owner or schema."
                )
        yield from _matview_dependents(matview)


def _matview_dependents(matview: Matview) -> Iterator[str]:
    of = matview.qname
    for view in matview.dependents:
        name = QName(schema=view.schema, name=view.name)
        if view.is_rule:
            yield f"A rule on {name} mentions materialized view {of}."
        elif view.kind != "m" and not view.is_owner:
            yield f"View {name} must be redirected, and its owner {view.owner} is another role."
    for function in matview.functions:
        name = f"{QName(schema=function.schema, name=function.name)}({function.arguments})"
        if function.uses_row_type:
            yield f"Function {name} uses the row type of materialized view {of}."
        elif function.definition is None:
            yield f"Aggregate {name} depends on materialized view {of}."
        elif not function.is_owner:
            yield f"Function {name} must be redirected and is owned by another role."
    for description in matview.row_type_users:
        yield f"The row type of materialized view {of} is used by {description}."
    for description in matview.other_dependents:
        yield f"Materialized view {of} is used by {description}, which cannot be redirected."
