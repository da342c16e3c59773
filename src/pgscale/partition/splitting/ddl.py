"""Compose the SQL of a split: the copy and its partitions, the swap, the ways back. Pure: facts in, SQL text out.

The copy is a partitioned table in `pgscale_new_<oid>` with the same key as the parent, and the new partitions hang
under it until the cut-over: so rows find their place, and all that copies, applies and compares is what other
strategies use. In the cut-over they change parents: they leave the copy, the old partition leaves its place, and they
are attached there, without a scan, because validated CHECKs imply their bounds, and without building an index.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import LiteralString

from psycopg import sql

from pgscale.catalog.model import Index, TableFacts
from pgscale.core.model import QName
from pgscale.livecopy import ddl as live
from pgscale.livecopy.ddl import ident, qualified, text, trusted
from pgscale.livecopy.model import Pair
from pgscale.partition.bounds import Namer
from pgscale.partition.ddl import (
    alter,
    column_comments,
    comment_on,
    grants,
    leaf_index_name,
    leaf_index_statements,
    leaf_statements,
    statistics_statements,
    table_statements,
)
from pgscale.partition.foreign_keys import (
    add_unproved,
    drop_foreign_key,
    drop_incoming,
    prove_incoming,
    prove_outgoing,
    table_of,
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
from pgscale.partition.keys import Keys
from pgscale.partition.model import By, Leaf, Statements
from pgscale.partition.policies import row_security
from pgscale.partition.splitting.model import Piece, Place
from pgscale.partition.swap import takes_unproved_foreign_keys

# What implies a bound, so that ATTACH reads no row: of the partition itself, of a new DEFAULT partition's place among
# the others, and of the DEFAULT partition beside it.
BOUND: LiteralString = "_pgscale_bound"
PLACE: LiteralString = "_pgscale_place"
APART: LiteralString = "_pgscale_apart"


class Division:
    """All statements of one split.

    Args:
        facts: the partition; above: its parent; both as they are now.
        forward: partition → copy; reverse: parent's new partitions → the retained partition.
    """

    def __init__(
        self,
        facts: TableFacts,
        above: TableFacts,
        place: Place,
        pieces: tuple[Piece, ...],
        forward: Pair,
        reverse: Pair,
    ) -> None:
        self.facts, self.place, self.pieces = facts, place, pieces
        self.leaf, self.parent = facts.table.qname, above.table.qname
        self.stage, self.retained = forward.target, reverse.target
        self.forward, self.reverse = forward, reverse
        self.names = tuple(p.name for p in pieces)
        self.siblings = tuple(c.qname for c in place.siblings)
        self.default = place.default.qname if place.default is not None else None
        self.outgoing = tuple(c for c in above.constraints if c.kind == "f")
        self.incoming = tuple(f for f in above.incoming if f.table_oid != above.table.oid)
        self._parent_first = takes_unproved_foreign_keys(above)
        # A foreign key is made again for each partition by name, and a DEFAULT partition's place depends on each.
        self.rests_on_all = place.leaf.is_default or bool(self.outgoing)

    def statements(self) -> Statements:
        return Statements(
            cutover_before=tuple(self._reverse_objects()),
            cutover=tuple(self._cutover()),
            settle=tuple(self._prove((*self.siblings, *self.names))),
            undo=tuple(self._undo()),
            undo_settle=tuple(self._prove((*self.siblings, self.leaf))),
            undo_unguard=(drop_guard(self.parent, UNDO_GUARD),),
            drop_new=tuple(self._drop_new()),
            abort_triggers=(
                *live.drop_capture_triggers(self.parent),
                *live.drop_capture_triggers(self.leaf),
                *self._rejoin(),
            ),
            finish_triggers=tuple(self._finish_triggers()),
            finish=(text(sql.SQL("DROP TABLE IF EXISTS {}").format(qualified(self.retained))), *self._drop_new()),
            lock_forward=self._lock(self.leaf),
            lock_reverse=self._lock(*self.names),
        )

    # -- the copy ---------------------------------------------------------------------------------------

    def create(self, by: By, keys: Keys) -> Iterator[str]:
        """Yield what makes the empty copy and its partitions, which look as the old one does."""
        # Its own identity sequence stays with it; numbers come from the parent.
        yield from table_statements(replace(self.facts, sequences=()), by, keys, self.stage)
        for piece in self.pieces:
            yield from self._piece(piece)
        yield from live.capture_objects(self.forward)

    def _as_of(self, piece: Piece) -> TableFacts:
        """The old partition's facts, as if it stood where the piece is staged."""
        return replace(self.facts, table=replace(self.facts.table, schema=piece.staged.schema))

    def _piece(self, piece: Piece) -> Iterator[str]:
        facts, name = self._as_of(piece), piece.staged
        yield from leaf_statements(facts, Leaf(name=name.name, bound=piece.bound), self.stage)
        yield from grants(facts.table, facts.grants, name)
        yield from row_security(facts, name)
        if facts.table.comment is not None:
            yield comment_on(sql.SQL("TABLE {}").format(qualified(name)), facts.table.comment)
        yield from column_comments(facts.columns, name)
        if facts.table.replica_identity in ("f", "n"):
            word = sql.SQL("FULL" if facts.table.replica_identity == "f" else "NOTHING")
            yield alter(name, sql.SQL("REPLICA IDENTITY {}").format(word))
        yield _check_bound(name)
        if piece.is_default:
            yield alter(name, _check(PLACE, self.place.condition))

    def indexes(self, keys: Keys, namer: Namer) -> Iterator[tuple[Piece, tuple[str, ...]]]:
        """Yield what builds the indexes of each new partition. The copy itself has none: ATTACH finds the parent's."""
        ordered = sorted(self.facts.indexes, key=lambda i: (not i.is_primary, i.name))
        for piece in self.pieces:
            yield piece, tuple(s for i in ordered for s in self._index(piece, keys, namer, i))

    def _index(self, piece: Piece, keys: Keys, namer: Namer, index: Index) -> Iterator[str]:
        facts, leaf = self._as_of(piece), Leaf(name=piece.staged.name, bound=piece.bound)
        name = index.name if piece.staged != piece.name else leaf_index_name(namer, leaf, facts, index)
        yield from leaf_index_statements(facts, keys, leaf, index, name)
        if index.comment is not None:
            on = sql.SQL("INDEX {}").format(sql.Identifier(piece.staged.schema, name))
            yield comment_on(on, index.comment)

    def statistics(self, namer: Namer) -> Iterator[str]:
        """Yield what makes the partition's extended statistics on each new one, under new names."""
        for piece in self.pieces:
            for each in self.facts.statistics:
                name = namer.name(piece.name.name, f"_{each.name}"[:24])
                yield from statistics_statements(replace(each, name=name), piece.staged)

    def part_default(self) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Return what lets the DEFAULT partition say that it holds none of these rows: a lock, then a scan without."""
        if self.default is None:
            return None
        return (self._keep_apart(self.default), (alter(self.default, _validate(APART)),))

    def _keep_apart(self, default: QName) -> tuple[str, ...]:
        check = sql.SQL("ADD CONSTRAINT {} CHECK (NOT ({})) NOT VALID").format(
            ident(APART), trusted(self.place.condition)
        )
        return (_drop_check(default, APART), alter(default, check))

    def _rejoin(self) -> Iterator[str]:
        if self.default is not None:
            yield _drop_check(self.default, APART)

    # -- the swap ---------------------------------------------------------------------------------------

    def _lock(self, *partitions: QName) -> str:
        others = dict.fromkeys(table_of(f) for f in self.incoming)
        default = () if self.default is None else (self.default,)
        tables = sql.SQL(", ").join(
            sql.SQL("ONLY {}").format(qualified(t)) for t in (self.parent, *partitions, *default, *others)
        )
        return text(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(tables))

    def _reverse_objects(self) -> Iterator[str]:
        yield from live.capture_objects(self.reverse)
        yield from guard_objects(self.reverse.work_schema)
        for piece in self.pieces:
            yield from live.capture_triggers(self.reverse, piece.staged)

    def _cutover(self) -> Iterator[str]:
        yield from live.drop_capture_triggers(self.parent)
        yield from live.drop_capture_triggers(self.leaf)
        yield from drop_incoming(self.incoming)
        for constraint in self.outgoing:
            yield drop_foreign_key(self.parent, constraint.name)
        for piece in self.pieces:
            yield _detach(self.stage, piece.staged)
        yield _detach(self.parent, self.leaf)
        yield _move(self.leaf, self.retained.schema)
        # A new DEFAULT first: what it must not hold is then what the old one did not hold, word for word.
        for piece in sorted(self.pieces, key=lambda p: not p.is_default):
            if piece.staged != piece.name:
                yield _move(piece.staged, piece.name.schema)
            yield _attach(self.parent, piece.name, piece.bound)
        for piece in self.pieces:
            yield _drop_check(piece.name, BOUND)
            if piece.is_default:
                yield _drop_check(piece.name, PLACE)
        yield from self._rejoin()
        yield from self._unproved((*self.siblings, *self.names))
        yield from live.capture_triggers(self.reverse, self.parent)
        yield from set_guard(self.parent, self.reverse.work_schema, GUARD, MARK)

    def _unproved(self, partitions: tuple[QName, ...]) -> Iterator[str]:
        yield from add_unproved(self.parent, partitions, self.outgoing, self.incoming, parent_first=self._parent_first)

    def _prove(self, partitions: tuple[QName, ...]) -> Iterator[tuple[str, ...]]:
        yield from prove_outgoing(self.parent, partitions, self.outgoing, parent_first=self._parent_first)
        yield from prove_incoming(self.incoming)

    # -- the ways back ----------------------------------------------------------------------------------

    def undo_before(self) -> Iterator[tuple[str, ...]]:
        """Yield transactions that prove what lets the old partition be attached again without a scan.

        The retained partition is read under a lock that nobody else waits for.
        """
        yield (_drop_check(self.retained, BOUND), alter(self.retained, _check(BOUND, self.place.condition)))
        if self.default is not None:
            yield self._keep_apart(self.default)
            yield (alter(self.default, _validate(APART)),)

    def _undo(self) -> Iterator[str]:
        yield from live.drop_capture_triggers(self.parent)
        yield drop_guard(self.parent, GUARD)
        yield from drop_incoming(self.incoming)
        for constraint in self.outgoing:
            # Before it has settled it may stand on the partitions only.
            for table in (self.parent, *self.siblings, *self.names):
                yield drop_foreign_key(table, constraint.name)
        for piece in self.pieces:
            yield _detach(self.parent, piece.name)
            yield _move(piece.name, self.stage.schema)
        yield _move(self.retained, self.leaf.schema)
        yield _attach(self.parent, self.leaf, self.place.leaf.bound)
        yield _drop_check(self.leaf, BOUND)
        yield from self._rejoin()
        yield from self._unproved((*self.siblings, self.leaf))
        yield from set_guard(self.parent, self.reverse.work_schema, UNDO_GUARD, UNDO_MARK)

    def _drop_new(self) -> Iterator[str]:
        """Drop the copy with the partitions that hang under it or were put back beside it, and what is ours."""
        tables = (self.stage, *(QName(schema=self.stage.schema, name=p.name.name) for p in self.pieces))
        yield text(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.SQL(", ").join(qualified(t) for t in tables)))
        yield from drop_guard_objects(self.reverse.work_schema)
        for pair in (self.reverse, self.forward):
            yield from live.drop_capture_objects(pair)
        for schema in (self.reverse.work_schema, self.forward.work_schema):
            yield text(sql.SQL("DROP SCHEMA IF EXISTS {}").format(ident(schema)))

    def _finish_triggers(self) -> Iterator[tuple[str, ...]]:
        # An undo that was begun and refused leaves the DEFAULT partition's CHECK behind.
        yield (*live.drop_capture_triggers(self.parent), drop_guard(self.parent, GUARD), *self._rejoin())
        for name in self.names:
            yield live.drop_capture_triggers(name)


def _check_bound(table: QName) -> str:
    """Return what makes a partition's bound a CHECK of its own, in the server's words."""
    name = sql.Literal(text(qualified(table)))
    return text(
        sql.SQL(
            "DO $pgscale$BEGIN EXECUTE 'ALTER TABLE ' || {} || ' ADD CONSTRAINT {} CHECK (' ||"
            " pg_catalog.pg_get_partition_constraintdef({}::pg_catalog.regclass) || ')'; END$pgscale$"
        ).format(name, ident(BOUND), name)
    )


def _check(name: LiteralString, condition: str) -> sql.Composed:
    return sql.SQL("ADD CONSTRAINT {} CHECK ({})").format(ident(name), trusted(condition))


def _validate(name: LiteralString) -> sql.Composed:
    return sql.SQL("VALIDATE CONSTRAINT {}").format(ident(name))


def _drop_check(table: QName, name: LiteralString) -> str:
    return text(sql.SQL("ALTER TABLE IF EXISTS {} DROP CONSTRAINT IF EXISTS {}").format(qualified(table), ident(name)))


def _detach(parent: QName, partition: QName) -> str:
    return alter(parent, sql.SQL("DETACH PARTITION {}").format(qualified(partition)))


def _attach(parent: QName, partition: QName, bound: str) -> str:
    return alter(parent, sql.SQL("ATTACH PARTITION {} {}").format(qualified(partition), trusted(bound)))


def _move(table: QName, schema: str) -> str:
    return alter(table, sql.SQL("SET SCHEMA {}").format(ident(schema)))
