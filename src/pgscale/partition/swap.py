"""Compose the swap, what follows it, and the ways back. Pure: facts in, SQL text out.

The copy waits in `pgscale_new_<oid>` under the table's own name and with its own index names; the old table is
kept in `pgscale_old_<oid>`. So nothing is renamed: objects change schemas, and names stay what they were.
"""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from pgscale.catalog.model import Publication, TableFacts, View
from pgscale.core.model import QName
from pgscale.livecopy import ddl as live
from pgscale.livecopy.ddl import ident, names, qualified, text, trusted
from pgscale.livecopy.model import Pair
from pgscale.partition.ddl import alter, comment_on, constraint_comment
from pgscale.partition.foreign_keys import (
    add_foreign_key,
    add_unproved,
    drop_foreign_key,
    drop_incoming,
    prove_incoming,
    prove_outgoing,
    table_of,
    validate,
)
from pgscale.partition.guard import (
    GUARD,
    MARK,
    UNDO_GUARD,
    UNDO_MARK,
    drop_guard,
    drop_guard_objects,
    guard_objects,
    set_guard,
)
from pgscale.partition.matviews import Matviews
from pgscale.partition.model import Leaf, Statements
from pgscale.partition.policies import row_security

# PostgreSQL 14 to 17: a leaf's foreign key to a partitioned table makes a constraint and two triggers a partition.
# Measured for the pairs of 8, 16, 32 and 64 leaves, without the rest of the swap.
PAIR_S = 0.0003


def takes_unproved_foreign_keys(facts: TableFacts) -> bool:
    """Tell whether a partitioned table can have a NOT VALID foreign key, so that one statement makes all leaves'."""
    return facts.server_version >= 180000


def self_reference_s(facts: TableFacts, leaves: int) -> float:
    """Estimate how long the self-referencing foreign keys of so many leaves keep the table locked, in seconds."""
    if takes_unproved_foreign_keys(facts):
        return 0.0
    count = sum(c.kind == "f" and c.references_oid == facts.table.oid for c in facts.constraints)
    return count * leaves**2 * PAIR_S


class Swap:
    """All statements around the swap of one table.

    Args:
        facts: the table as it is now.
        forward: old → new; reverse: new → old.
        leaves: the partitions, in the table's own schema.
    """

    def __init__(self, facts: TableFacts, forward: Pair, reverse: Pair, leaves: tuple[Leaf, ...]) -> None:
        self.facts = facts
        self.table = facts.table.qname
        self.stage = forward.target
        self.retained = reverse.target
        self.forward = forward
        self.reverse = reverse
        self.leaves = tuple(QName(schema=self.table.schema, name=leaf.name) for leaf in leaves)
        self.outgoing = tuple(c for c in facts.constraints if c.kind == "f")
        self.incoming = tuple(f for f in facts.incoming if f.table_oid != facts.table.oid)
        self._parent_first = takes_unproved_foreign_keys(facts)
        self.matviews = Matviews(facts, self.stage, self.retained)

    def statements(self) -> Statements:
        return Statements(
            cutover_before=self._reverse_objects(),
            cutover=tuple(self._cutover()),
            settle=tuple(self._settle()),
            undo=tuple(self._undo()),
            undo_settle=tuple(self._undo_settle()),
            undo_unguard=(drop_guard(self.table, UNDO_GUARD),),
            drop_new=tuple(self._drop_new()),
            abort_triggers=live.drop_capture_triggers(self.table),
            finish_triggers=tuple(self._finish_triggers()),
            finish=tuple(self._finish()),
            lock_forward=self._lock(only=True),
            lock_reverse=self._lock(only=False),
        )

    def _lock(self, *, only: bool) -> str:
        others = dict.fromkeys(table_of(f) for f in self.incoming)
        tables = [sql.SQL("{}{}").format(sql.SQL("ONLY " if only else ""), qualified(self.table))]
        tables += [sql.SQL("ONLY {}").format(qualified(other)) for other in others]
        lock = text(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.SQL(", ").join(tables)))
        # As readers and REFRESH take them: the views before the table.
        first = tuple(self.matviews.locks())
        if not first:
            return lock
        body = sql.SQL("; ").join(trusted(statement) for statement in (*first, lock))
        return text(sql.SQL("DO $pgscale$BEGIN {}; END$pgscale$").format(body))

    def _reverse_objects(self) -> tuple[str, ...]:
        """Made before the swap, because nothing of it touches the table the application uses."""
        create = list(live.capture_objects(_as_stage(self.reverse, self.stage)))
        create += guard_objects(self.reverse.work_schema)
        for leaf in self.leaves:
            create += live.capture_triggers(self.reverse, leaf)
        return tuple(create)

    def _cutover(self) -> Iterator[str]:
        yield from live.drop_capture_triggers(self.table)
        yield from self._exchange(out_to=self.retained, in_from=self.stage)
        yield from self._publish_via_root(enable=True)
        if self.facts.triggers:
            yield alter(self.retained, sql.SQL("DISABLE TRIGGER USER"), only=True)
        yield from self._triggers()
        yield from row_security(self.facts, self.table)
        yield from add_unproved(self.table, self.leaves, self.outgoing, self.incoming, parent_first=self._parent_first)
        yield from live.capture_triggers(self.reverse, self.table)
        yield from set_guard(self.table, self.reverse.work_schema, GUARD, MARK)

    def _exchange(self, *, out_to: QName, in_from: QName) -> Iterator[str]:
        """Move the present table away and the other one in, with everything that follows the name."""
        for publication in self._member_publications():
            yield change_publication(publication, sql.SQL("DROP TABLE {}").format(qualified(self.table)))
        yield from drop_incoming(self.incoming)
        for constraint in self.outgoing:
            # On the new table the constraint may still stand on its leaves only (before it has settled).
            yield drop_foreign_key(self.table, constraint.name)
        serials = [s for s in self.facts.sequences if not s.is_identity]
        for sequence in serials:
            yield text(
                sql.SQL("ALTER SEQUENCE {} OWNED BY NONE").format(sql.Identifier(sequence.schema, sequence.name))
            )
        for sequence in self.facts.sequences:
            if sequence.is_identity:
                yield text(
                    sql.SQL("SELECT pg_catalog.setval({}::pg_catalog.regclass, last_value, is_called) FROM {}").format(
                        sql.Literal(text(sql.Identifier(in_from.schema, sequence.name))),
                        sql.Identifier(sequence.schema, sequence.name),
                    )
                )
        yield from self._move(self.table, out_to.schema)
        yield from self._move(in_from, self.table.schema)
        for sequence in serials:
            yield text(
                sql.SQL("ALTER SEQUENCE {} OWNED BY {}").format(
                    sql.Identifier(sequence.schema, sequence.name),
                    sql.Identifier(self.table.schema, self.table.name, sequence.column_name),
                )
            )
        for statistics in self.facts.statistics:
            yield move_statistics(QName(schema=statistics.schema, name=statistics.name), out_to.schema)
            yield move_statistics(QName(schema=in_from.schema, name=statistics.name), statistics.schema)
        yield from self.matviews.exchange(forward=out_to == self.retained)
        for view in self.matviews.redirected_views():
            yield replace_view(view)
        for function in self.matviews.redirected_functions():
            if function.definition is not None:
                yield function.definition
        for publication in self._member_publications():
            yield change_publication(publication, publication_member(publication, self.table))

    def _publish_via_root(self, *, enable: bool) -> Iterator[str]:
        """Subscribers know the table, not its leaves."""
        for publication in self._member_publications():
            if not publication.via_root:
                word = sql.SQL("true" if enable else "false")
                yield change_publication(publication, sql.SQL("SET (publish_via_partition_root = {})").format(word))

    def _move(self, table: QName, schema: str) -> Iterator[str]:
        yield alter(table, sql.SQL("SET SCHEMA {}").format(ident(schema)), only=False)

    def _member_publications(self) -> tuple[Publication, ...]:
        return tuple(p for p in self.facts.publications if p.is_member)

    def _triggers(self) -> Iterator[str]:
        for trigger in self.facts.triggers:
            yield trigger.definition
            if trigger.enabled != "O":
                yield alter(self.table, _enabled(trigger.name, trigger.enabled))
            if trigger.comment is not None:
                on = sql.SQL("TRIGGER {} ON {}").format(ident(trigger.name), qualified(self.table))
                yield comment_on(on, trigger.comment)

    def _settle(self) -> Iterator[tuple[str, ...]]:
        """After the swap, one transaction each: prove the foreign keys without holding anything up."""
        yield from prove_outgoing(self.table, self.leaves, self.outgoing, parent_first=self._parent_first)
        yield from prove_incoming(self.incoming)

    def _undo(self) -> Iterator[str]:
        yield from live.drop_capture_triggers(self.table)
        yield drop_guard(self.table, GUARD)
        yield from self._exchange(out_to=self.stage, in_from=self.retained)
        for constraint in self.outgoing:
            for leaf in self.leaves:
                yield drop_foreign_key(leaf, constraint.name)
        yield from self._publish_via_root(enable=False)
        for trigger in self.facts.triggers:
            if trigger.enabled != "D":
                yield alter(self.table, _enabled(trigger.name, trigger.enabled), only=True)
        for constraint in self.outgoing:
            yield add_foreign_key(self.table, constraint.name, constraint.definition)
        for foreign in self.incoming:
            yield add_foreign_key(table_of(foreign), foreign.name, foreign.definition)
        yield from set_guard(self.table, self.reverse.work_schema, UNDO_GUARD, UNDO_MARK)

    def _undo_settle(self) -> Iterator[tuple[str, ...]]:
        for constraint in self.outgoing:
            if constraint.is_validated:
                yield (validate(self.table, constraint.name),)
            if constraint.comment is not None:
                yield (constraint_comment(constraint.name, self.table, constraint.comment),)
        yield from prove_incoming(self.incoming)

    def _drop_new(self) -> Iterator[str]:
        """Drop the partitioned copy and both directions' objects; the table itself is not touched."""
        yield from self.matviews.drop_staged()
        yield text(sql.SQL("DROP TABLE IF EXISTS {}").format(qualified(self.stage)))
        yield from self._drop_work()

    def _drop_work(self) -> Iterator[str]:
        schema = self.reverse.work_schema
        yield from drop_guard_objects(schema)
        for pair in (self.reverse, self.forward):
            yield from live.drop_capture_objects(pair)
        yield from self.matviews.drop_schemas()
        for schema in (self.reverse.work_schema, self.forward.work_schema):
            yield text(sql.SQL("DROP SCHEMA IF EXISTS {}").format(ident(schema)))

    def _finish_triggers(self) -> Iterator[tuple[str, ...]]:
        yield (
            *live.drop_capture_triggers(self.table),
            drop_guard(self.table, GUARD),
        )
        for leaf in self.leaves:
            yield live.drop_capture_triggers(leaf)

    def _finish(self) -> Iterator[str]:
        yield from self.matviews.drop_retained()
        yield text(sql.SQL("DROP TABLE IF EXISTS {}").format(qualified(self.retained)))
        yield from self._drop_work()


def _as_stage(reverse: Pair, stage: QName) -> Pair:
    """The same direction while the new table still waits in its staging schema."""
    return Pair(
        source=stage,
        target=reverse.target,
        work_schema=reverse.work_schema,
        identity=reverse.identity,
        placement=reverse.placement,
        columns=reverse.columns,
        all_columns=reverse.all_columns,
        source_leaves=reverse.source_leaves,
    )


def _enabled(trigger: str, enabled: str) -> sql.Composed:
    words = {"D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS", "O": "ENABLE"}
    return sql.SQL("{} TRIGGER {}").format(trusted(words[enabled]), ident(trigger))


def move_statistics(name: QName, schema: str) -> str:
    return text(sql.SQL("ALTER STATISTICS {} SET SCHEMA {}").format(qualified(name), ident(schema)))


def replace_view(view: View) -> str:
    """Replace the view by its own text: names resolve anew, and the view keeps its oid, grants and dependents."""
    options: list[sql.Composable] = []
    for option in view.reloptions or []:
        key, _, value = option.partition("=")
        options.append(sql.SQL("{} = {}").format(trusted(key), sql.Literal(value)))
    return text(
        sql.SQL("CREATE OR REPLACE VIEW {} ({}){} AS {}").format(
            sql.Identifier(view.schema, view.name),
            names(view.columns),
            sql.SQL(" WITH ({})").format(sql.SQL(", ").join(options)) if options else sql.SQL(""),
            trusted(view.definition.rstrip().rstrip(";")),
        )
    )


def change_publication(publication: Publication, action: sql.Composable) -> str:
    return text(sql.SQL("ALTER PUBLICATION {} {}").format(ident(publication.name), action))


def publication_member(publication: Publication, table: QName) -> sql.Composed:
    member = sql.SQL("ADD TABLE {}").format(qualified(table))
    if publication.columns:
        member += sql.SQL(" ({})").format(names(publication.columns))
    if publication.where_sql is not None:
        member += sql.SQL(" WHERE ({})").format(trusted(publication.where_sql))
    return member
