"""Compose what attach does to the table, the swap, and the way back. Pure: facts in, SQL text out.

The new parent waits in `pgscale_new_<oid>` under the table's own name, with the later partitions and without indexes:
an index of the parent that is there before ATTACH PARTITION can make the server build one on the table, under the lock.
"""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from pgscale.catalog.model import Constraint, Index, TableFacts
from pgscale.core.model import QName
from pgscale.livecopy.ddl import ident, names, qualified, text, trusted
from pgscale.livecopy.model import Pair
from pgscale.partition import ddl
from pgscale.partition.attach.model import CHECK_NAME, AttachStatements, Bound, IndexBuild
from pgscale.partition.bounds import Namer
from pgscale.partition.ddl import alter
from pgscale.partition.foreign_keys import add_foreign_key, add_parent_foreign_key, prove_incoming, validate
from pgscale.partition.guard import UNDO_GUARD, UNDO_MARK, drop_guard, guard_objects, set_guard
from pgscale.partition.keys import Keys
from pgscale.partition.model import By, Leaf
from pgscale.partition.policies import row_security
from pgscale.partition.swap import (
    Swap,
    change_publication,
    move_statistics,
    publication_member,
    replace_view,
    takes_unproved_foreign_keys,
)


def make_pairs(facts: TableFacts, new_schema: str, old_schema: str) -> tuple[Pair, Pair]:
    """Return where the parent waits and where what the swap puts aside is kept, in the form that Swap takes."""
    table = facts.table.qname
    columns = tuple(c.name for c in facts.stored_columns)
    everything = tuple(c.name for c in facts.columns)
    places = (
        (QName(schema=new_schema, name=table.name), new_schema),
        (QName(schema=old_schema, name=table.name), old_schema),
    )
    forward, reverse = (
        Pair(
            source=table,
            target=target,
            work_schema=schema,
            identity=(),
            placement=(),
            columns=columns,
            all_columns=everything,
        )
        for target, schema in places
    )
    return forward, reverse


class AttachSwap(Swap):
    """All statements of one attach.

    Args:
        facts: the table as it is now; by, keys: what it is partitioned by, and which keys grow.
        bound: what the first partition takes.
        leaves: the partitions, the first of which is the table.
        forward, reverse: from make_pairs.
    """

    def __init__(
        self,
        facts: TableFacts,
        by: By,
        keys: Keys,
        bound: Bound,
        leaves: tuple[Leaf, ...],
        forward: Pair,
        reverse: Pair,
    ) -> None:
        super().__init__(facts, forward, reverse, leaves)
        self.by, self.keys, self.bound = by, keys, bound
        self.later = leaves[1:]
        self.first = self.leaves[0]
        # A foreign key to another table stays on its partition; one to the table itself must reference the parent.
        self.own = tuple(c for c in self.outgoing if c.references_oid == facts.table.oid)
        self.out = tuple(c for c in self.outgoing if c.references_oid != facts.table.oid)
        self.indexes = tuple(sorted(facts.indexes, key=lambda i: (not i.is_primary, i.name)))
        namer = Namer(facts.taken_names | {leaf.name for leaf in leaves})
        self.index_names = {
            (leaf.name, index.oid): ddl.leaf_index_name(namer, leaf, facts, index)
            for leaf in leaves
            for index in self.indexes
        }
        self.grown = tuple(i for i in self.indexes if i.oid in keys.grown)

    # -- before the swap --------------------------------------------------------------------------------

    def prepare(self) -> tuple[str, ...]:
        """Return what makes the parent and its later partitions, empty; nothing of it touches the table."""
        create: list[str] = [
            statement
            for schema in (self.forward.work_schema, self.reverse.work_schema)
            for statement in ddl.make_schema(self.facts, schema)
        ]
        create += ddl.table_statements(self.facts, self.by, self.keys, self.stage)
        for leaf in self.later:
            create += ddl.leaf_statements(self.facts, leaf, self.stage)
            for index in self.indexes:
                name = self.index_names[leaf.name, index.oid]
                create += ddl.leaf_index_statements(self.facts, self.keys, leaf, index, name)
        create += ddl.finishing_statements(self.facts, self.stage, self.later)
        create += guard_objects(self.reverse.work_schema, ((UNDO_GUARD, UNDO_MARK),))
        return tuple(create)

    def references(self) -> tuple[str, ...]:
        """Return what gives the later partitions their foreign keys: the parent's is then a matter of the catalog."""
        return tuple(
            add_foreign_key(table, constraint.name, constraint.definition)
            for constraint in self.out
            for table in self.leaves[1:]
        )

    def prove_references(self) -> tuple[str, ...]:
        return tuple(
            validate(table, constraint.name)
            for constraint in self.out
            if constraint.is_validated
            for table in self.leaves[1:]
        )

    def key_builds(self, prefix: str, *, back: bool) -> tuple[IndexBuild, ...]:
        """Return the builds of the keys that grow; `back`: as they are now."""
        builds: list[IndexBuild] = []
        on = self.first if back else self.table
        for number, index in enumerate(self.grown):
            name = QName(schema=self.table.schema, name=f"_pgscale_{self.facts.table.oid}_{prefix}{number}")
            create = sql.SQL("CREATE UNIQUE INDEX CONCURRENTLY {} ON {} {}").format(
                ident(name.name), qualified(on), trusted(ddl.index_tail(index, None if back else self.keys))
            )
            drop = sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(qualified(name))
            builds.append(IndexBuild(name=name, create=text(create), drop=text(drop), of=index.name))
        return tuple(builds)

    def calm(self) -> tuple[str, ...]:
        """Return what makes autovacuum give way: it does for a lock that is awaited for a second (deadlock_timeout).

        This lock keeps out neither readers nor writers, so that nobody queues behind it but DDL.
        """
        lock = sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE").format(qualified(self.table))
        return ("SET LOCAL statement_timeout = 0", "SET LOCAL lock_timeout = '3s'", text(lock))

    def add_check(self) -> str:
        """Return the statement that adds the CHECK for new rows; one left by a validation that failed goes."""
        body = sql.SQL("DROP CONSTRAINT IF EXISTS {n}, ADD CONSTRAINT {n} CHECK ({p}) NOT VALID")
        return alter(self.table, body.format(n=ident(CHECK_NAME), p=trusted(self._predicate())))

    def _predicate(self) -> str:
        """The bound, and NOT NULL where a primary key grows by the column: then neither reads a row again."""
        forced = ddl.forced_not_null(self.facts, self.by, self.keys)
        parts = [self.bound.predicate]
        parts += [text(sql.SQL("{} IS NOT NULL").format(ident(c))) for c in sorted(forced)]
        return " AND ".join(dict.fromkeys(parts))

    def validate_check(self) -> str:
        return validate(self.table, CHECK_NAME)

    def drop_check(self) -> str:
        # The table may have been dropped under its run.
        statement = sql.SQL("ALTER TABLE IF EXISTS {} DROP CONSTRAINT IF EXISTS {}")
        return text(statement.format(qualified(self.table), ident(CHECK_NAME)))

    # -- the swap ---------------------------------------------------------------------------------------

    def attach_statements(self, back: tuple[IndexBuild, ...]) -> AttachStatements:
        probe = QName(schema=self.forward.work_schema, name="_pgscale_probe")
        return AttachStatements(
            calm=self.calm(),
            lock=self._lock(only=True),
            swap=tuple(self._swap()),
            settle=tuple(self._settle_all()),
            probe=tuple(self._probe(probe)),
            probe_name=probe,
            drop_check=self.drop_check(),
            lock_back=self._lock(only=False),
            detach=tuple(self._detach()),
            move=self._move_rows(),
            restore=tuple(self._restore(back)),
            back_settle=tuple(self._back_settle()),
            unguard=drop_guard(self.table, UNDO_GUARD),
            drop_new=tuple(self._drop_new()),
            finish=tuple(self._finish_attached()),
        )

    def _probe(self, probe: QName) -> Iterator[str]:
        """An empty table with the same CHECK shows whether ATTACH PARTITION would read rows."""
        create = sql.SQL(
            "CREATE TABLE {} (LIKE {} INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE,"
            " CONSTRAINT {} CHECK ({}))"
        )
        # Not by ALTER TABLE, which would read the table, and that is what is counted.
        yield text(
            create.format(
                qualified(probe), qualified(self.table), ident(CHECK_NAME + "_proof"), trusted(self._predicate())
            )
        )
        for column in sorted(ddl.forced_not_null(self.facts, self.by, self.keys)):
            yield alter(probe, sql.SQL("ALTER COLUMN {} SET NOT NULL").format(ident(column)))
        yield self._attach(self.stage, probe)

    def _attach(self, parent: QName, partition: QName) -> str:
        return alter(parent, sql.SQL("ATTACH PARTITION {} {}").format(qualified(partition), trusted(self.bound.sql)))

    def _swap(self) -> Iterator[str]:
        yield from self._set_aside()
        for index in self.grown:
            yield from self._grow(index)
        for index in self.indexes:
            if index.oid not in self.keys.grown:
                yield self._rename_index(index.name, self.index_names[self.first.name, index.oid])
        yield alter(self.table, sql.SQL("RENAME TO {}").format(ident(self.first.name)))
        yield alter(self.stage, sql.SQL("SET SCHEMA {}").format(ident(self.table.schema)))
        yield from self._owned_serials(self.table)
        yield self._attach(self.table, self.first)
        yield alter(self.first, sql.SQL("DROP CONSTRAINT {}").format(ident(CHECK_NAME)))
        for index in self.indexes:
            yield from ddl.parent_index_statements(self.facts, self.keys, index, self.table)
            for leaf in self.leaves:
                yield ddl.attach_index(self.table, index, leaf.schema, self.index_names[leaf.name, index.oid])
        for constraint in self.out:
            # Every partition has it already, so no row is read.
            yield add_parent_foreign_key(self.table, constraint)
            if constraint.comment is not None:
                yield ddl.constraint_comment(constraint.name, self.table, constraint.comment)
        for constraint in self.own:
            for table in (self.table,) if self._parent_first else self.leaves:
                yield add_foreign_key(table, constraint.name, constraint.definition, only=not self._parent_first)
        yield from self._followers()
        yield from self._publish_via_root(enable=True)
        yield from self._triggers()
        yield from row_security(self.facts, self.table)
        for grantee in dict.fromkeys(g.grantee for g in self.facts.grants if g.grantee != self.facts.table.owner):
            # Rights are the parent's now: one taken from it later must not live on here.
            yield text(sql.SQL("REVOKE ALL ON TABLE {} FROM {}").format(qualified(self.first), ddl.role(grantee)))

    def _set_aside(self) -> Iterator[str]:
        """Take from the table what the parent has in its place, or what a partition may not have."""
        for publication in self._member_publications():
            yield change_publication(publication, sql.SQL("DROP TABLE {}").format(qualified(self.table)))
        yield from self._drop_incoming()
        for constraint in self.own:
            yield alter(self.table, sql.SQL("DROP CONSTRAINT {}").format(ident(constraint.name)))
        for trigger in self.facts.triggers:
            yield text(sql.SQL("DROP TRIGGER {} ON {}").format(ident(trigger.name), qualified(self.table)))
        for sequence in self.facts.sequences:
            name = QName(schema=sequence.schema, name=sequence.name)
            if sequence.is_identity:
                yield _set_sequence(QName(schema=self.stage.schema, name=sequence.name), name)
                yield alter(self.table, sql.SQL("ALTER COLUMN {} DROP IDENTITY").format(ident(sequence.column_name)))
            else:
                yield text(sql.SQL("ALTER SEQUENCE {} OWNED BY NONE").format(qualified(name)))
        for statistics in self.facts.statistics:
            yield move_statistics(QName(schema=statistics.schema, name=statistics.name), self.retained.schema)
            yield move_statistics(QName(schema=self.stage.schema, name=statistics.name), statistics.schema)

    def _grow(self, index: Index) -> Iterator[str]:
        built = self.key_builds("k", back=False)[self.grown.index(index)]
        yield from self._exchange_key(
            self.table, index, index.name, built, self.index_names[self.first.name, index.oid]
        )

    def _exchange_key(self, table: QName, index: Index, old: str, built: IndexBuild, new: str) -> Iterator[str]:
        """Replace a key of the table by the one that was built for it."""
        constraint = self._constraint_of(index)
        if constraint is None:
            yield text(sql.SQL("DROP INDEX {}").format(sql.Identifier(table.schema, old)))
            yield self._rename_index(built.name.name, new)
        else:
            yield alter(table, sql.SQL("DROP CONSTRAINT {}").format(ident(old)))
            yield alter(
                table,
                sql.SQL("ADD CONSTRAINT {} {} USING INDEX {}{}").format(
                    ident(new),
                    sql.SQL("PRIMARY KEY" if constraint.kind == "p" else "UNIQUE"),
                    ident(built.name.name),
                    ddl.deferrable(constraint),
                ),
            )
        yield from ddl.index_targets(index, QName(schema=table.schema, name=new))
        if index.is_clustered:
            yield alter(table, sql.SQL("CLUSTER ON {}").format(ident(new)))
        if index.is_replica_identity:
            yield alter(table, sql.SQL("REPLICA IDENTITY USING INDEX {}").format(ident(new)))

    def _constraint_of(self, index: Index) -> Constraint | None:
        return next((c for c in self.facts.constraints if c.index_oid == index.oid and c.kind in "pux"), None)

    def _rename_index(self, old: str, new: str) -> str:
        return text(sql.SQL("ALTER INDEX {} RENAME TO {}").format(sql.Identifier(self.table.schema, old), ident(new)))

    def _owned_serials(self, table: QName) -> Iterator[str]:
        for sequence in self.facts.sequences:
            if not sequence.is_identity:
                column = sql.Identifier(table.schema, table.name, sequence.column_name)
                name = sql.Identifier(sequence.schema, sequence.name)
                yield text(sql.SQL("ALTER SEQUENCE {} OWNED BY {}").format(name, column))

    def _drop_incoming(self) -> Iterator[str]:
        for foreign in self.incoming:
            other = QName(schema=foreign.schema, name=foreign.table_name)
            yield alter(other, sql.SQL("DROP CONSTRAINT {}").format(ident(foreign.name)), only=True)

    def _followers(self) -> Iterator[str]:
        """What means the table by its name, or must: views, functions, publications, foreign keys of others."""
        for view in self.matviews.redirected_views():
            yield replace_view(view)
        for function in self.matviews.redirected_functions():
            if function.definition is not None:
                yield function.definition
        for publication in self._member_publications():
            yield change_publication(publication, publication_member(publication, self.table))
        for foreign in self.incoming:
            other = QName(schema=foreign.schema, name=foreign.table_name)
            yield add_foreign_key(other, foreign.name, foreign.definition)

    def _settle_all(self) -> Iterator[tuple[str, ...]]:
        for constraint in self.own:
            if constraint.is_validated:
                for leaf in self.leaves:
                    yield (validate(leaf, constraint.name),)
            statements: list[str] = []
            if not takes_unproved_foreign_keys(self.facts):
                statements.append(add_parent_foreign_key(self.table, constraint))
            elif constraint.is_validated:
                statements.append(validate(self.table, constraint.name, only=False))
            if constraint.comment is not None:
                statements.append(ddl.constraint_comment(constraint.name, self.table, constraint.comment))
            if statements:
                yield tuple(statements)
        yield from prove_incoming(self.incoming)

    # -- the ways back ----------------------------------------------------------------------------------

    def _detach(self) -> Iterator[str]:
        for publication in self._member_publications():
            yield change_publication(publication, sql.SQL("DROP TABLE {}").format(qualified(self.table)))
        yield from self._publish_via_root(enable=False)
        yield from self._drop_incoming()
        for constraint in self.own:
            for table in (self.table, *self.leaves):
                yield alter(table, sql.SQL("DROP CONSTRAINT IF EXISTS {}").format(ident(constraint.name)))
        yield alter(self.table, sql.SQL("DETACH PARTITION {}").format(qualified(self.first)))
        if self.facts.triggers:
            # The rows only move.
            yield alter(self.table, sql.SQL("DISABLE TRIGGER USER"))
        # Checks that wait for COMMIT would bar the ALTER TABLE that follows the move.
        yield "SET CONSTRAINTS ALL IMMEDIATE"

    def _move_rows(self) -> str:
        """Return what moves the rows of the other partitions: copies left there would hold what they reference until
        the last older transaction has ended and they are dropped."""
        columns = names(c.name for c in self.facts.stored_columns)
        return text(
            sql.SQL(
                "WITH gone AS (DELETE FROM {} RETURNING {}) INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE"
                " SELECT {} FROM gone"
            ).format(qualified(self.table), columns, qualified(self.first), columns, columns)
        )

    def _restore(self, back: tuple[IndexBuild, ...]) -> Iterator[str]:
        """The table under its own name again, with everything that was set aside."""
        facts = self.facts
        for sequence in facts.sequences:
            if not sequence.is_identity:
                name = sql.Identifier(sequence.schema, sequence.name)
                yield text(sql.SQL("ALTER SEQUENCE {} OWNED BY NONE").format(name))
        for statistics in facts.statistics:
            yield move_statistics(QName(schema=statistics.schema, name=statistics.name), self.stage.schema)
            yield move_statistics(QName(schema=self.retained.schema, name=statistics.name), statistics.schema)
        yield alter(self.table, sql.SQL("SET SCHEMA {}").format(ident(self.stage.schema)))
        for index, built in zip(self.grown, back, strict=True):
            yield from self._shrink(index, built)
        forced = ddl.forced_not_null(facts, self.by, self.keys)
        for column in facts.columns:
            if column.name in forced and not column.not_null:
                yield alter(self.first, sql.SQL("ALTER COLUMN {} DROP NOT NULL").format(ident(column.name)))
        for index in self.indexes:
            if index.oid not in self.keys.grown:
                yield self._rename_index(self.index_names[self.first.name, index.oid], index.name)
        yield alter(self.first, sql.SQL("RENAME TO {}").format(ident(self.table.name)))
        yield from ddl.identities(facts, self.table)
        for sequence in facts.sequences:
            if sequence.is_identity:
                name = QName(schema=self.table.schema, name=sequence.name)
                yield _set_sequence(name, QName(schema=self.stage.schema, name=sequence.name))
        yield from self._owned_serials(self.table)
        yield from ddl.grants(facts.table, facts.grants, self.table)
        for constraint in self.own:
            yield add_foreign_key(self.table, constraint.name, constraint.definition)
        yield from self._followers()
        yield from self._triggers()
        yield from set_guard(self.table, self.reverse.work_schema, UNDO_GUARD, UNDO_MARK)

    def _shrink(self, index: Index, built: IndexBuild) -> Iterator[str]:
        yield from self._exchange_key(
            self.first, index, self.index_names[self.first.name, index.oid], built, index.name
        )
        constraint = self._constraint_of(index)
        if constraint is not None and constraint.comment is not None:
            yield ddl.constraint_comment(constraint.name, self.first, constraint.comment)
        if index.comment is not None:
            on = sql.SQL("INDEX {}").format(sql.Identifier(self.table.schema, index.name))
            yield ddl.comment_on(on, index.comment)

    def _back_settle(self) -> Iterator[tuple[str, ...]]:
        for constraint in self.own:
            if constraint.is_validated:
                yield (validate(self.table, constraint.name),)
            if constraint.comment is not None:
                yield (ddl.constraint_comment(constraint.name, self.table, constraint.comment),)
        yield from prove_incoming(self.incoming)

    def _finish_attached(self) -> Iterator[str]:
        for statistics in self.facts.statistics:
            name = sql.Identifier(self.retained.schema, statistics.name)
            yield text(sql.SQL("DROP STATISTICS IF EXISTS {}").format(name))
        yield from self._drop_work()


def _set_sequence(target: QName, source: QName) -> str:
    """Let one sequence stand where another stands."""
    return text(
        sql.SQL("SELECT pg_catalog.setval({}::pg_catalog.regclass, last_value, is_called) FROM {}").format(
            sql.Literal(text(qualified(target))), qualified(source)
        )
    )


def analyze(table: QName) -> str:
    return text(sql.SQL("ANALYZE {}").format(qualified(table)))
