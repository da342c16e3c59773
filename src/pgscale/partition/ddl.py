"""Compose the DDL of the partitioned copy: the table, its leaves, its indexes. Pure: facts in, SQL text out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psycopg import sql

from pgscale.catalog.model import (
    Column,
    Constraint,
    Grant,
    Index,
    OwnedSequence,
    StatisticsObject,
    Table,
    TableFacts,
)
from pgscale.core.model import QName
from pgscale.livecopy.ddl import ident, names, qualified, text, trusted
from pgscale.partition.bounds import Namer
from pgscale.partition.keys import Keys
from pgscale.partition.model import By, Leaf

STORAGE = {"p": "PLAIN", "e": "EXTERNAL", "m": "MAIN", "x": "EXTENDED"}
COMPRESSION = {"p": "pglz", "l": "lz4"}


def alter(table: QName, action: sql.Composable, *, only: bool = False) -> str:
    return text(sql.SQL("ALTER TABLE {}{} {}").format(sql.SQL("ONLY " if only else ""), qualified(table), action))


def comment_on(kind: sql.Composable, comment: str | None) -> str:
    return text(sql.SQL("COMMENT ON {} IS {}").format(kind, sql.Literal(comment)))


def table_statements(facts: TableFacts, by: By, keys: Keys, stage: QName) -> tuple[str, ...]:
    """Return what makes the empty partitioned parent, in its staging schema, under the table's own name."""
    forced = forced_not_null(facts, by, keys)
    columns = sql.SQL(", ").join(_column(c, not_null=c.not_null or c.name in forced) for c in facts.columns)
    checks = [c for c in facts.constraints if c.kind == "c" and c.is_validated]
    parts = [columns] + [sql.SQL("CONSTRAINT {} {}").format(ident(c.name), trusted(c.definition)) for c in checks]
    create = sql.SQL("CREATE TABLE {} ({}) PARTITION BY {} ({}){}").format(
        qualified(stage),
        sql.SQL(", ").join(parts),
        sql.SQL(by.method),
        names(by.columns),
        sql.SQL(" TABLESPACE {}").format(ident(facts.table.tablespace)) if facts.table.tablespace else sql.SQL(""),
    )
    return (
        text(create),
        *revokes(facts, stage),
        *(s for c in facts.columns for s in column_settings(c, stage)),
        *identities(facts, stage),
        *_parent_comments(facts, stage),
        *grants(facts.table, facts.grants, stage),
        *_not_null_comments(facts, stage),
    )


def forced_not_null(facts: TableFacts, by: By, keys: Keys) -> frozenset[str]:
    """Return the partition-key columns that become NOT NULL because the primary key grows by them."""
    grows = any(i.is_primary and i.oid in keys.grown for i in facts.indexes)
    return frozenset(by.columns) if grows else frozenset()


def _column(column: Column, *, not_null: bool) -> sql.Composed:
    parts: list[sql.Composable] = [ident(column.name), trusted(column.type)]
    if column.collation is not None:
        parts.append(sql.SQL("COLLATE {}").format(trusted(column.collation)))
    if column.generated:
        kind = "STORED" if column.generated == "s" else "VIRTUAL"
        parts.append(sql.SQL("GENERATED ALWAYS AS ({}) {}").format(trusted(column.default_sql or ""), trusted(kind)))
    elif column.default_sql is not None and not column.identity:
        parts.append(sql.SQL("DEFAULT {}").format(trusted(column.default_sql)))
    if not_null:
        if column.not_null_name is not None:
            parts.append(sql.SQL("CONSTRAINT {}").format(ident(column.not_null_name)))
        parts.append(sql.SQL("NOT NULL"))
    return sql.SQL(" ").join(parts)


def column_settings(column: Column, table: QName) -> Iterator[str]:
    """Yield the statements for storage, compression, statistics target and options of a column."""
    name = ident(column.name)
    if column.storage != column.type_storage and column.storage in STORAGE:
        yield alter(table, sql.SQL("ALTER COLUMN {} SET STORAGE {}").format(name, trusted(STORAGE[column.storage])))
    if column.compression in COMPRESSION:
        method = trusted(COMPRESSION[column.compression])
        yield alter(table, sql.SQL("ALTER COLUMN {} SET COMPRESSION {}").format(name, method))
    yield from column_statistics(column, table)


def column_statistics(column: Column, table: QName) -> Iterator[str]:
    """Return the statements for targets and n_distinct options: leaves do not inherit them."""
    name = ident(column.name)
    if column.statistics_target is not None:
        yield alter(
            table,
            sql.SQL("ALTER COLUMN {} SET STATISTICS {}").format(name, sql.Literal(column.statistics_target)),
            only=True,
        )
    if column.options:
        yield alter(table, sql.SQL("ALTER COLUMN {} SET ({})").format(name, parameters(column.options)), only=True)


def parameters(reloptions: Sequence[str], prefix: str = "") -> sql.Composed:
    """Return `key = value` of each storage parameter."""
    parts: list[sql.Composable] = []
    for option in reloptions:
        key, _, value = option.partition("=")
        parts.append(sql.SQL("{} = {}").format(trusted(prefix + key), sql.Literal(value)))
    return sql.SQL(", ").join(parts)


def with_options(reloptions: Sequence[str] | None) -> sql.Composable:
    return sql.SQL(" WITH ({})").format(parameters(reloptions)) if reloptions else sql.SQL("")


def make_schema(facts: TableFacts, name: str) -> Iterator[str]:
    """Yield what makes a schema that nobody else may look into, whatever ALTER DEFAULT PRIVILEGES gives: rows and keys
    lie in its tables without the rights and policies of the table."""
    yield text(sql.SQL("CREATE SCHEMA {}").format(ident(name)))
    for default in facts.default_grantees:
        if default.kind == "n":
            yield text(sql.SQL("REVOKE ALL ON SCHEMA {} FROM {}").format(ident(name), role(default.grantee)))


def revokes(facts: TableFacts, table: QName) -> Iterator[str]:
    """Take away what ALTER DEFAULT PRIVILEGES gave: the copy has exactly the grants of the table."""
    for default in facts.default_grantees:
        if default.kind == "r":
            yield text(sql.SQL("REVOKE ALL ON TABLE {} FROM {}").format(qualified(table), role(default.grantee)))


def role(name: str) -> sql.Composable:
    return ident(name) if name else sql.SQL("PUBLIC")


def grant_statement(grant: Grant, on: sql.Composable) -> str:
    column = (
        sql.SQL(" ({})").format(ident(grant.column_name))
        if grant.kind == "column" and grant.column_name
        else sql.SQL("")
    )
    return text(
        sql.SQL("GRANT {}{} ON {} TO {}{}").format(
            trusted(grant.privilege),
            column,
            on,
            role(grant.grantee),
            sql.SQL(" WITH GRANT OPTION" if grant.grantable else ""),
        )
    )


def grants(relation: Table, given: Sequence[Grant], name: QName) -> Iterator[str]:
    """Yield what gives the relation of that name exactly the rights that were given on another."""
    on = sql.SQL("TABLE {}").format(qualified(name))
    owner = relation.owner
    if relation.has_acl:
        yield text(sql.SQL("REVOKE ALL ON {} FROM {}").format(on, ident(owner)))
    for grant in given:
        if grant.kind == "column" or relation.has_acl:
            # An owner's own rights are grantable without saying so.
            plain = grant.grantee == owner
            yield text(
                sql.SQL("GRANT {}{} ON {} TO {}{}").format(
                    trusted(grant.privilege),
                    sql.SQL(" ({})").format(ident(grant.column_name)) if grant.kind == "column" else sql.SQL(""),
                    on,
                    role(grant.grantee),
                    sql.SQL(" WITH GRANT OPTION" if grant.grantable and not plain else ""),
                )
            )


def identities(facts: TableFacts, stage: QName) -> Iterator[str]:
    for sequence in facts.sequences:
        column = facts.column(sequence.column_name)
        if not sequence.is_identity or column is None:
            continue
        kind = "ALWAYS" if column.identity == "a" else "BY DEFAULT"
        name = QName(schema=stage.schema, name=sequence.name)
        yield alter(
            stage,
            sql.SQL("ALTER COLUMN {} ADD GENERATED {} AS IDENTITY (SEQUENCE NAME {} {})").format(
                ident(sequence.column_name), trusted(kind), qualified(name), _sequence_options(sequence)
            ),
        )
        on = sql.SQL("SEQUENCE {}").format(qualified(name))
        for default in facts.default_grantees:
            if default.kind == "S":
                yield text(sql.SQL("REVOKE ALL ON {} FROM {}").format(on, role(default.grantee)))
        if sequence.has_acl:
            yield text(sql.SQL("REVOKE ALL ON {} FROM {}").format(on, ident(facts.table.owner)))
            for grant in facts.sequence_grants:
                if grant.oid == sequence.oid:
                    yield grant_statement(grant, on)
        if sequence.comment is not None:
            yield comment_on(on, sequence.comment)


def _sequence_options(sequence: OwnedSequence) -> sql.Composed:
    return sql.SQL("START WITH {} INCREMENT BY {} MINVALUE {} MAXVALUE {} CACHE {} {}").format(
        trusted(sequence.start),
        trusted(sequence.increment),
        trusted(sequence.minimum),
        trusted(sequence.maximum),
        trusted(sequence.cache),
        sql.SQL("CYCLE" if sequence.cycles else "NO CYCLE"),
    )


def _parent_comments(facts: TableFacts, stage: QName) -> Iterator[str]:
    if facts.table.comment is not None:
        yield comment_on(sql.SQL("TABLE {}").format(qualified(stage)), facts.table.comment)
    yield from column_comments(facts.columns, stage)
    for constraint in facts.constraints:
        if constraint.kind == "c" and constraint.is_validated and constraint.comment is not None:
            yield constraint_comment(constraint.name, stage, constraint.comment)


def column_comments(columns: Sequence[Column], relation: QName) -> Iterator[str]:
    for column in columns:
        if column.comment is not None:
            name = sql.Identifier(relation.schema, relation.name, column.name)
            yield comment_on(sql.SQL("COLUMN {}").format(name), column.comment)


def _not_null_comments(facts: TableFacts, stage: QName) -> Iterator[str]:
    for column in facts.columns:
        if column.not_null_comment is not None and column.not_null_name is not None:
            yield constraint_comment(column.not_null_name, stage, column.not_null_comment)


def constraint_comment(name: str, table: QName, comment: str) -> str:
    return comment_on(sql.SQL("CONSTRAINT {} ON {}").format(ident(name), qualified(table)), comment)


def storage_options(relation: Table) -> sql.Composable:
    """Return ` WITH (…)` of the relation's storage parameters, those of its TOAST table included."""
    options: list[sql.Composable] = []
    if relation.reloptions:
        options.append(parameters(relation.reloptions))
    if relation.toast_reloptions:
        options.append(parameters(relation.toast_reloptions, "toast."))
    return sql.SQL(" WITH ({})").format(sql.SQL(", ").join(options)) if options else sql.SQL("")


def leaf_statements(facts: TableFacts, leaf: Leaf, stage: QName) -> tuple[str, ...]:
    """Return what makes one empty leaf in the table's own schema: storage settings live here, not on the parent."""
    table = facts.table
    name = QName(schema=table.schema, name=leaf.name)
    create = sql.SQL("CREATE TABLE {} PARTITION OF {} {}{}{}{}").format(
        qualified(name),
        qualified(stage),
        trusted(leaf.bound),
        sql.SQL(" USING {}").format(ident(table.access_method)) if table.access_method else sql.SQL(""),
        storage_options(table),
        sql.SQL(" TABLESPACE {}").format(ident(table.tablespace)) if table.tablespace else sql.SQL(""),
    )
    return (
        text(create),
        *revokes(facts, name),
        *(s for c in facts.columns for s in column_statistics(c, name)),
    )


def index_tail(index: Index, keys: Keys | None = None) -> str:
    """Return `USING …` of the index, its key grown by the partition columns where it must, in its tablespace."""
    tail, where = index.tail, ""
    if index.predicate is not None and tail.endswith(f" WHERE {index.predicate}"):
        where = f" WHERE {index.predicate}"
        tail = tail.removesuffix(where)
    missing = keys.grown.get(index.oid, ()) if keys is not None else ()
    if missing:
        close = _closing_paren(tail)
        tail = tail[:close] + ", " + text(names(missing)) + tail[close:]
        included = [c for c in index.included_columns if c not in missing]
        if len(included) < len(index.included_columns):
            old = f" INCLUDE ({', '.join(_quoted(index.included_columns))})"
            tail = tail.replace(old, text(sql.SQL(" INCLUDE ({})").format(names(included))) if included else "", 1)
    if index.tablespace is not None:
        tail += text(sql.SQL(" TABLESPACE {}").format(ident(index.tablespace)))
    return tail + where


def _quoted(columns: Sequence[str]) -> list[str]:
    """Quote as the server's deparser does, to find a piece of its own output again."""
    return [c if c.isidentifier() and c == c.lower() and c.isascii() else text(ident(c)) for c in columns]


def _closing_paren(tail: str) -> int:
    """Return where the key list of `USING am (…)` closes, quotes and nested calls respected."""
    depth, quote = 0, ""
    for position, char in enumerate(tail):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
            if depth == 0:
                return position
    raise AssertionError(tail)


def leaf_index_name(namer: Namer, leaf: Leaf, facts: TableFacts, index: Index) -> str:
    """Name a leaf's index after the leaf and what is left of the index's name behind the table's."""
    base = facts.table.name
    rest = index.name[len(base) :] if index.name.startswith(base) else "_" + index.name
    return namer.name(leaf.name, rest if len(rest.encode()) <= 40 else rest[:12])


def leaf_index_statements(facts: TableFacts, keys: Keys, leaf: Leaf, index: Index, name: str) -> tuple[str, ...]:
    """Return what builds one index of one leaf, with its constraint where it has one."""
    table = QName(schema=facts.table.schema, name=leaf.name)
    constraint = next((c for c in facts.constraints if c.index_oid == index.oid and c.kind in "pux"), None)
    statements = [
        text(
            sql.SQL("CREATE {}INDEX {} ON {} {}").format(
                sql.SQL("UNIQUE " if index.is_unique else ""),
                ident(name),
                qualified(table),
                trusted(index_tail(index, keys)),
            )
        )
    ]
    if constraint is not None:
        kind = "PRIMARY KEY" if constraint.kind == "p" else "UNIQUE"
        statements.append(
            alter(
                table,
                sql.SQL("ADD CONSTRAINT {} {} USING INDEX {}{}").format(
                    ident(name),
                    trusted(kind),
                    ident(name),
                    deferrable(constraint),
                ),
            )
        )
    qualified_name = QName(schema=table.schema, name=name)
    statements += index_targets(index, qualified_name)
    if index.is_clustered:
        statements.append(alter(table, sql.SQL("CLUSTER ON {}").format(ident(name))))
    if index.is_replica_identity:
        statements.append(alter(table, sql.SQL("REPLICA IDENTITY USING INDEX {}").format(ident(name))))
    return tuple(statements)


def deferrable(constraint: Constraint) -> sql.SQL:
    if not constraint.is_deferrable:
        return sql.SQL("")
    return sql.SQL(" DEFERRABLE INITIALLY DEFERRED" if constraint.is_deferred else " DEFERRABLE")


def index_targets(index: Index, name: QName) -> Iterator[str]:
    for number, target in zip(index.target_columns, index.targets, strict=True):
        yield text(
            sql.SQL("ALTER INDEX {} ALTER COLUMN {} SET STATISTICS {}").format(
                qualified(name), sql.Literal(number), sql.Literal(target)
            )
        )


def parent_index_statements(facts: TableFacts, keys: Keys, index: Index, stage: QName) -> tuple[str, ...]:
    """Return what makes the parent's index, under the name the table's index has; leaves are attached after."""
    constraint = next((c for c in facts.constraints if c.index_oid == index.oid and c.kind in "pux"), None)
    name = QName(schema=stage.schema, name=index.name)
    statements: list[str] = []
    if constraint is None:
        statements.append(
            text(
                sql.SQL("CREATE {}INDEX {} ON ONLY {} {}").format(
                    sql.SQL("UNIQUE " if index.is_unique else ""),
                    ident(index.name),
                    qualified(stage),
                    trusted(index_tail(index, keys)),
                )
            )
        )
    else:
        statements.append(
            alter(
                stage,
                sql.SQL("ADD CONSTRAINT {} {}").format(
                    ident(constraint.name), _key_definition(constraint, index, keys)
                ),
                # PostgreSQL cannot attach an exclusion index: there the parent builds those of its leaves.
                only=not index.is_exclusion,
            )
        )
        if constraint.comment is not None:
            statements.append(constraint_comment(constraint.name, stage, constraint.comment))
    statements += index_targets(index, name)
    if index.comment is not None:
        statements.append(comment_on(sql.SQL("INDEX {}").format(qualified(name)), index.comment))
    if index.is_replica_identity:
        statements.append(alter(stage, sql.SQL("REPLICA IDENTITY USING INDEX {}").format(ident(index.name))))
    return tuple(statements)


def _key_definition(constraint: Constraint, index: Index, keys: Keys) -> sql.Composable:
    if constraint.kind == "x":
        return trusted(constraint.definition)
    key = (*index.key_columns, *keys.grown.get(index.oid, ()))
    included = [c for c in index.included_columns if c not in key]
    return sql.SQL("{}{} ({}){}{}{}{}").format(
        sql.SQL("PRIMARY KEY" if constraint.kind == "p" else "UNIQUE"),
        sql.SQL(" NULLS NOT DISTINCT" if index.nulls_not_distinct else ""),
        names(key),
        sql.SQL(" INCLUDE ({})").format(names(included)) if included else sql.SQL(""),
        with_options(index.reloptions),
        sql.SQL(" USING INDEX TABLESPACE {}").format(ident(index.tablespace)) if index.tablespace else sql.SQL(""),
        deferrable(constraint),
    )


def attach_index(stage: QName, index: Index, leaf_schema: str, leaf_index: str) -> str:
    return text(
        sql.SQL("ALTER INDEX {} ATTACH PARTITION {}").format(
            sql.Identifier(stage.schema, index.name), sql.Identifier(leaf_schema, leaf_index)
        )
    )


def finishing_statements(facts: TableFacts, stage: QName, leaves: tuple[Leaf, ...]) -> tuple[str, ...]:
    """Return what completes the copy before its rows are compared: late checks, statistics objects, identity."""
    statements: list[str] = []
    for constraint in facts.constraints:
        if constraint.kind == "c" and not constraint.is_validated:
            statements.append(
                alter(
                    stage,
                    sql.SQL("ADD CONSTRAINT {} {}").format(ident(constraint.name), trusted(constraint.definition)),
                )
            )
            if constraint.comment is not None:
                statements.append(constraint_comment(constraint.name, stage, constraint.comment))
    for statistics in facts.statistics:
        statements += statistics_statements(statistics, stage)
    if facts.table.replica_identity in ("f", "n"):
        word = sql.SQL("FULL" if facts.table.replica_identity == "f" else "NOTHING")
        for name in (stage, *(QName(schema=facts.table.schema, name=leaf.name) for leaf in leaves)):
            statements.append(alter(name, sql.SQL("REPLICA IDENTITY {}").format(word)))
    return tuple(statements)


def statistics_statements(statistics: StatisticsObject, relation: QName) -> Iterator[str]:
    """Yield what makes a statistics object on another relation, in that relation's schema."""
    name = QName(schema=relation.schema, name=statistics.name)
    # The definition ends in `FROM schema.table`, and begins with the object's own name.
    head, _, _ = statistics.definition.rpartition(" FROM ")
    body = trusted(_after_name(head))
    yield text(sql.SQL("CREATE STATISTICS {} {} FROM {}").format(qualified(name), body, qualified(relation)))
    on = sql.SQL("STATISTICS {}").format(qualified(name))
    if statistics.target is not None:
        yield text(sql.SQL("ALTER {} SET STATISTICS {}").format(on, sql.Literal(statistics.target)))
    if statistics.comment is not None:
        yield comment_on(on, statistics.comment)


def _after_name(head: str) -> str:
    """Skip `CREATE STATISTICS schema.name`, quoted or not, and return the rest."""
    position, quoted = len("CREATE STATISTICS "), False
    while position < len(head) and (quoted or head[position] != " "):
        quoted ^= head[position] == '"'
        position += 1
    return head[position + 1 :]
