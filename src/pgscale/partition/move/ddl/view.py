"""Compose the view that stands in the table's place, and the swaps that put it there and take it away. Pure.

The old table waits in `pgscale_old_<oid>`, the partitioned one in `pgscale_new_<oid>`, both under the table's own
name; whichever ends up in its place does so by a change of schema, as in the strategy `mirror`.
"""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from pgscale.catalog.model import OwnedSequence, TableFacts
from pgscale.core.model import QName
from pgscale.livecopy.ddl import ident, names, qualified, text, trusted
from pgscale.partition import ddl
from pgscale.partition.move.ddl import following, triggers
from pgscale.partition.move.ddl.moving import analyze, is_empty, try_rows
from pgscale.partition.move.ddl.triggers import Direction
from pgscale.partition.move.model import MoveStatements
from pgscale.partition.swap import move_statistics

# What autovacuum must not do while rows leave the table: its truncation would take turns with ours.
_QUIET = ("autovacuum_enabled", "toast.autovacuum_enabled")


class Swaps:
    """All statements around the view of one table.

    Args:
        facts: the table as it is now.
        forward, back: the two directions of writes.
    """

    def __init__(self, facts: TableFacts, forward: Direction, back: Direction) -> None:
        self.facts = facts
        self.table = facts.table.qname
        self.forward, self.back = forward, back
        self.old, self.stage = forward.away, forward.home
        self.serials = tuple(s for s in facts.sequences if not s.is_identity)
        self.identities = tuple(s for s in facts.sequences if s.is_identity)

    def statements(self) -> MoveStatements:
        return MoveStatements(
            lock_table=self._lock(sql.SQL("ONLY ")),
            raise_view=tuple(self._raise_view()),
            lock_view=self._lock(sql.SQL("")),
            settle=tuple(self._settle()),
            turn=(*triggers.drop_triggers(self.table), *triggers.triggers(self.back, self.table)),
            undo=tuple(self._undo()),
            restore=tuple(self._restore()),
            drop_new=tuple(self._drop_new()),
            finish=tuple(self._finish()),
            analyze=analyze(self.stage),
            drop_view=text(sql.SQL("DROP VIEW {}").format(qualified(self._aside()))),
            is_empty=is_empty(self.old),
            is_emptied=is_empty(self.stage),
            probe=try_rows(self.table, self.stage, [c.name for c in self.facts.stored_columns]),
            gate=ddl.alter(self.table, sql.SQL("SET (security_barrier = false)")),
        )

    def objects(self) -> tuple[str, ...]:
        """Return what makes the functions of both directions; nothing of it touches the table."""
        return (
            *triggers.guard_objects(self.forward.schema),
            *triggers.notes(self.forward),
            *triggers.functions(self.forward),
            *triggers.functions(self.back),
            *(s for sequence in self._by_default() for s in self._next_function(sequence)),
        )

    def _lock(self, only: sql.Composable) -> str:
        # Of a view this locks the two tables behind it as well, in the order in which the application does.
        return text(sql.SQL("LOCK TABLE {}{} IN ACCESS EXCLUSIVE MODE").format(only, qualified(self.table)))

    # -- the way there ------------------------------------------------------------------------------------------

    def _raise_view(self) -> Iterator[str]:
        yield from self._release_serials()
        yield ddl.alter(self.table, sql.SQL("SET SCHEMA {}").format(ident(self.old.schema)))
        yield from self._view(self.forward)

    def _settle(self) -> Iterator[str]:
        aside = self._aside()
        yield from self._release_serials()
        yield from self._copy_identities(frm=self.old.schema, to=self.stage.schema)
        yield from self._put_aside(aside)
        yield ddl.alter(self.stage, sql.SQL("SET SCHEMA {}").format(ident(self.table.schema)))
        yield from self._bind_serials()
        for statistics in self.facts.statistics:
            yield move_statistics(QName(schema=statistics.schema, name=statistics.name), self.old.schema)
            yield move_statistics(QName(schema=self.stage.schema, name=statistics.name), statistics.schema)

    # -- the way back -------------------------------------------------------------------------------------------

    def _undo(self) -> Iterator[str]:
        yield from self._release_serials()
        yield from self._copy_identities(frm=self.table.schema, to=self.old.schema)
        for statistics in self.facts.statistics:
            yield move_statistics(QName(schema=statistics.schema, name=statistics.name), self.stage.schema)
            yield move_statistics(QName(schema=self.old.schema, name=statistics.name), statistics.schema)
        yield ddl.alter(self.table, sql.SQL("SET SCHEMA {}").format(ident(self.stage.schema)))
        yield from self._view(self.back)

    def _restore(self) -> Iterator[str]:
        aside = self._aside()
        yield from self._release_serials()
        yield from self._put_aside(aside)
        yield from self._autovacuum(quiet=False)
        yield ddl.alter(self.old, sql.SQL("SET SCHEMA {}").format(ident(self.table.schema)))
        yield from self._bind_serials()

    def _drop_new(self) -> Iterator[str]:
        yield text(sql.SQL("DROP TABLE IF EXISTS {}").format(qualified(self.stage)))
        yield from self._drop_work()

    def _finish(self) -> Iterator[str]:
        yield text(sql.SQL("DROP TABLE IF EXISTS {}").format(qualified(self.old)))
        yield from self._drop_work()

    def _drop_work(self) -> Iterator[str]:
        schema = self.forward.schema
        yield from triggers.drop_functions(schema, (self.forward.name, self.back.name))
        for sequence in self._by_default():
            yield text(sql.SQL("DROP FUNCTION IF EXISTS {} ()").format(self._next_name(sequence)))
        for each in dict.fromkeys((self.old.schema, self.stage.schema)):
            yield text(sql.SQL("DROP SCHEMA IF EXISTS {}").format(ident(each)))

    # -- parts --------------------------------------------------------------------------------------------------

    def _view(self, direction: Direction) -> Iterator[str]:
        """Put the view over both tables in the table's place: its rights, defaults and dependents come along."""
        columns = names(c.name for c in self.facts.columns)
        yield from self._autovacuum(quiet=True)
        yield text(
            sql.SQL("CREATE VIEW {} ({}) AS SELECT {} FROM {} UNION ALL SELECT {} FROM {}").format(
                qualified(self.table), columns, columns, qualified(self.old), columns, qualified(self.stage)
            )
        )
        yield from triggers.triggers(direction, self.table)
        yield from self._defaults()
        yield from self._bind_serials()
        if self.facts.table.comment is not None:
            yield ddl.comment_on(sql.SQL("VIEW {}").format(qualified(self.table)), self.facts.table.comment)
        yield from ddl.column_comments(self.facts.columns, self.table)
        yield from ddl.revokes(self.facts, self.table)
        yield from ddl.grants(self.facts.table, self.facts.grants, self.table)
        yield from self.redirect()

    def _defaults(self) -> Iterator[str]:
        for column in self.facts.columns:
            if column.default_sql is not None and not column.generated and not column.identity:
                yield self._set_default(column.name, trusted(column.default_sql))
        for sequence in self._by_default():
            yield self._set_default(sequence.column_name, sql.SQL("{} ()").format(self._next_name(sequence)))

    def _set_default(self, column: str, expression: sql.Composable) -> str:
        return text(
            sql.SQL("ALTER VIEW {} ALTER COLUMN {} SET DEFAULT {}").format(
                qualified(self.table), ident(column), expression
            )
        )

    def _by_default(self) -> tuple[OwnedSequence, ...]:
        columns = {c.name: c for c in self.facts.columns}
        return tuple(s for s in self.identities if columns[s.column_name].identity == "d")

    def _next_name(self, sequence: OwnedSequence) -> sql.Identifier:
        return sql.Identifier(self.forward.schema, f"_pgscale_next_{self._number(sequence)}")

    def _number(self, sequence: OwnedSequence) -> int:
        return next(c.number for c in self.facts.columns if c.name == sequence.column_name)

    def _next_function(self, sequence: OwnedSequence) -> Iterator[str]:
        """An identity column needs no right to its sequence; the default of a view's column would."""
        yield text(
            sql.SQL(
                "CREATE FUNCTION {} () RETURNS int8 LANGUAGE plpgsql SECURITY DEFINER"
                " SET search_path = pg_catalog, pg_temp AS $pgscale$BEGIN RETURN nextval({}::regclass); END$pgscale$"
            ).format(self._next_name(sequence), sql.Literal(text(sql.Identifier(self.old.schema, sequence.name))))
        )
        # Default privileges may have taken it away. Nobody can name the function: its schema is closed.
        yield text(sql.SQL("GRANT EXECUTE ON FUNCTION {} () TO PUBLIC").format(self._next_name(sequence)))

    def _release_serials(self) -> Iterator[str]:
        for sequence in self.serials:
            yield text(
                sql.SQL("ALTER SEQUENCE {} OWNED BY NONE").format(sql.Identifier(sequence.schema, sequence.name))
            )

    def _bind_serials(self) -> Iterator[str]:
        for sequence in self.serials:
            yield text(
                sql.SQL("ALTER SEQUENCE {} OWNED BY {}").format(
                    sql.Identifier(sequence.schema, sequence.name),
                    sql.Identifier(self.table.schema, self.table.name, sequence.column_name),
                )
            )

    def _copy_identities(self, *, frm: str, to: str) -> Iterator[str]:
        for sequence in self.identities:
            yield text(
                sql.SQL("SELECT pg_catalog.setval({}::pg_catalog.regclass, last_value, is_called) FROM {}").format(
                    sql.Literal(text(sql.Identifier(to, sequence.name))), sql.Identifier(frm, sequence.name)
                )
            )

    def _autovacuum(self, *, quiet: bool) -> Iterator[str]:
        """Hold autovacuum off the old table, or give its settings back as they were."""
        here = self.old
        if quiet:
            action = sql.SQL("SET ({})").format(
                sql.SQL(", ").join(sql.SQL("{} = false").format(trusted(name)) for name in _QUIET)
            )
            yield ddl.alter(here, action)
            return
        table = self.facts.table
        before = (*(table.reloptions or ()), *(f"toast.{o}" for o in table.toast_reloptions or ()))
        options = [(name, value) for name, _, value in (o.partition("=") for o in before)]
        absent = [name for name in _QUIET if name not in dict(options)]
        if absent:
            yield ddl.alter(here, sql.SQL("RESET ({})").format(sql.SQL(", ").join(trusted(name) for name in absent)))
        if len(absent) < len(_QUIET):
            # All of them, because what is set goes to the end: so they stand in their order again.
            each = (sql.SQL("{} = {}").format(trusted(name), sql.Literal(value)) for name, value in options)
            yield ddl.alter(here, sql.SQL("SET ({})").format(sql.SQL(", ").join(each)))

    def redirect(self) -> tuple[str, ...]:
        """Return what lets views and functions mean what has the table's name now."""
        return tuple(following.redirect(self.facts.views, self.facts.functions))

    def _aside(self) -> QName:
        return QName(schema=self.table.schema, name=f"_pgscale_view_{self.facts.table.oid}")

    def _put_aside(self, aside: QName) -> Iterator[str]:
        yield text(sql.SQL("ALTER VIEW {} RENAME TO {}").format(qualified(self.table), ident(aside.name)))
