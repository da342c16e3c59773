"""Compose the functions and triggers behind the view: every write goes to one of two tables, and none is lost. Pure.

An INSTEAD OF trigger is given the row as the statement's snapshot saw it and nobody looks again. So each function
looks again: it changes a row only where it still is, byte for byte, as it was given, and raises 40001 otherwise.
All of them look into `away` first and into `home` after: rows go from `away` to `home` only, so a row that is in
neither is gone. In READ COMMITTED each look has a snapshot of its own, taken after the look before; in the stricter
levels the server itself raises 40001 for what changed since the snapshot.

As a function of the owner it runs with a fixed search_path: what names things without their schema in a CHECK fails,
and the plan's first try finds that out before the view stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from pgscale.catalog.model import Column
from pgscale.core.model import QName
from pgscale.livecopy.ddl import ident, names, qualified, text, trusted
from pgscale.livecopy.ddl.quoting import equal
from pgscale.livecopy.model import KeyColumn
from pgscale.partition.move.model import KeyPart, UniqueKey

GUARD: LiteralString = "_pgscale_guard"
MARK: LiteralString = "_pgscale_mark"
RENAMED: LiteralString = "_pgscale_renamed"
ROW: LiteralString = "_pgscale_t"
EVENTS: tuple[LiteralString, ...] = ("insert", "update", "delete")

_HEAD = sql.SQL(
    "CREATE FUNCTION {} () RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
    " AS $pgscale$\n#variable_conflict use_column\nDECLARE _pgscale_k record; _pgscale_xid int8; _pgscale_own int8;\n"
    "BEGIN\n{}\nEND$pgscale$"
)
_CHANGED = sql.SQL(
    "RAISE EXCEPTION USING ERRCODE = 'serialization_failure',"
    " MESSAGE = 'could not serialize access due to concurrent update',"
    " DETAIL = 'The table is being partitioned: the row was changed after the statement began.',"
    " HINT = 'The transaction might succeed if retried.';"
)
# A version that is visible to us while its transaction is in progress is our own.
_OWN = sql.SQL(
    "_pgscale_own := pg_current_xact_id()::text::int8;\n"
    "_pgscale_xid := _pgscale_own / 4294967296 * 4294967296 + _pgscale_xid;\n"
    "IF _pgscale_xid > _pgscale_own + 2147483648 THEN _pgscale_xid := _pgscale_xid - 4294967296; END IF;\n"
    "IF pg_xact_status(_pgscale_xid::text::xid8) = 'in progress' THEN RETURN NULL; END IF;\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """Which of the two tables rows go to, and what its functions must know of the table.

    Args:
        name: `forward` or `back`.
        table: as the application knows it; schema: of our own, where the functions live.
        home: where rows go; away: where they come from, and nothing is ever added.
        columns: all, in their order; key: what names one row in both tables.
        identity: the part of it that named a row before.
        unique: the keys that hold over both.
        sequences: of each identity column its sequence, by the column's name.
    """

    name: LiteralString
    table: QName
    schema: str
    home: QName
    away: QName
    columns: tuple[Column, ...]
    key: tuple[KeyColumn, ...]
    identity: tuple[KeyColumn, ...]
    unique: tuple[UniqueKey, ...]
    sequences: tuple[tuple[str, QName], ...]

    def function(self, event: str) -> sql.Identifier:
        return sql.Identifier(self.schema, f"_pgscale_{self.name}_{event}")


def functions(direction: Direction) -> tuple[str, ...]:
    """Return what makes the three functions of a direction."""
    bodies = {"insert": _insert(direction), "update": _update(direction), "delete": _delete(direction)}
    return tuple(text(_HEAD.format(direction.function(event), bodies[event])) for event in EVENTS)


def notes(direction: Direction) -> Iterator[str]:
    """Return what makes the table that knows under which keys rows were before an UPDATE changed their key.

    A row that is gone was deleted, and as on a table there is nothing to do; or it has another key now, and then a
    change of it would be lost.
    """
    table = sql.Identifier(direction.schema, RENAMED)
    columns = names(k.name for k in direction.identity)
    yield text(
        sql.SQL(
            "CREATE UNLOGGED TABLE {} AS SELECT {}, pg_catalog.pg_current_xact_id() AS {} FROM {} WITH NO DATA"
        ).format(table, columns, ident("_pgscale_by"), qualified(direction.home))
    )
    if all(c.has_btree_opclass for c in direction.columns if c.name in {k.name for k in direction.identity}):
        yield text(sql.SQL("CREATE INDEX ON {} ({})").format(table, columns))


def guard_objects(schema: str) -> tuple[str, ...]:
    """Return what makes the guard: a transaction whose snapshot is older than the swap cannot see every key, so its
    writes could miss a duplicate. 40001 is what it must expect and retry anyway."""
    mark = sql.Identifier(schema, MARK)
    return (
        text(sql.SQL("CREATE TABLE {} (direction text NOT NULL)").format(mark)),
        text(
            sql.SQL(
                "CREATE FUNCTION {} () RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
                " SET search_path = pg_catalog, pg_temp AS $pgscale$BEGIN"
                " IF NOT EXISTS (SELECT FROM {} WHERE direction = TG_ARGV[0]) THEN"
                " RAISE EXCEPTION USING ERRCODE = 'serialization_failure',"
                " MESSAGE = 'could not serialize access: the table was exchanged after this transaction took its"
                " snapshot'; END IF; RETURN NULL; END$pgscale$"
            ).format(sql.Identifier(schema, GUARD), mark)
        ),
    )


def triggers(direction: Direction, view: QName) -> Iterator[str]:
    """Yield what makes the view write in this direction, from this transaction on."""
    mark = sql.Identifier(direction.schema, MARK)
    yield text(sql.SQL("DELETE FROM {}").format(mark))
    yield text(sql.SQL("INSERT INTO {} VALUES ({})").format(mark, sql.Literal(direction.name)))
    yield text(
        sql.SQL(
            "CREATE TRIGGER {} BEFORE INSERT OR UPDATE OR DELETE ON {} FOR EACH STATEMENT EXECUTE FUNCTION {} ({})"
        ).format(ident(GUARD), qualified(view), sql.Identifier(direction.schema, GUARD), sql.Literal(direction.name))
    )
    for event in EVENTS:
        yield text(
            sql.SQL("CREATE TRIGGER {} INSTEAD OF {} ON {} FOR EACH ROW EXECUTE FUNCTION {} ()").format(
                ident(f"_pgscale_{event}"), sql.SQL(event.upper()), qualified(view), direction.function(event)
            )
        )


def drop_triggers(view: QName) -> Iterator[str]:
    for name in (GUARD, *(f"_pgscale_{event}" for event in EVENTS)):
        yield text(sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(ident(name), qualified(view)))


def drop_functions(schema: str, directions: Sequence[LiteralString]) -> Iterator[str]:
    for name in (GUARD, *(f"_pgscale_{d}_{event}" for d in directions for event in EVENTS)):
        yield text(sql.SQL("DROP FUNCTION IF EXISTS {} ()").format(sql.Identifier(schema, name)))
    for table in (MARK, RENAMED):
        yield text(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(schema, table)))


# -- the bodies ------------------------------------------------------------------------------------------------


def _stored(direction: Direction) -> tuple[str, ...]:
    return tuple(c.name for c in direction.columns if not c.generated)


def _row(columns: Sequence[str], of: str) -> sql.Composed:
    return sql.SQL("ROW({})").format(names(columns, of))


def _is_as_given(direction: Direction) -> sql.Composed:
    """Return the condition for the very row that was given: its key finds it, its image proves it."""
    stored = _stored(direction)
    return sql.SQL("{} AND record_image_eq({}, {})").format(
        equal(direction.key, ROW, "old"), _row(stored, ROW), _row(stored, "old")
    )


def _returning(direction: Direction) -> sql.Composed:
    return sql.SQL("RETURNING {} INTO new").format(names((c.name for c in direction.columns), ROW))


def _put(direction: Direction) -> sql.Composed:
    stored = _stored(direction)
    return sql.SQL("INSERT INTO {} AS {} ({}) OVERRIDING SYSTEM VALUE VALUES ({}) {};\n").format(
        qualified(direction.home), ident(ROW), names(stored), names(stored, "new"), _returning(direction)
    )


def _insert(direction: Direction) -> sql.Composed:
    parts: list[sql.Composable] = [*_insert_generated(direction)]
    for key in direction.unique:
        parts += (_refuse_duplicate(direction, key, table) for table in (direction.away, direction.home))
    parts += (_put(direction), sql.SQL("RETURN new;"))
    return sql.Composed(parts)


def _update(direction: Direction) -> sql.Composed:
    parts: list[sql.Composable] = [*_update_generated(direction)]
    for key in direction.unique:
        checks = sql.Composed(
            [_refuse_duplicate(direction, key, table, but_old=True) for table in (direction.away, direction.home)]
        )
        if key.is_plain:
            columns = [p.column for p in key.parts]
            checks = sql.SQL("IF record_image_ne({}, {}) THEN\n{}END IF;\n").format(
                _row(columns, "old"), _row(columns, "new"), checks
            )
        parts.append(checks)
    note = _note_key(direction)
    always = {c.name for c in direction.columns if c.identity == "a"}
    settings = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(ident(c), sql.Identifier("new", c)) for c in _stored(direction) if c not in always
    )
    parts += (
        sql.SQL("DELETE FROM {} AS {} WHERE {};\nIF FOUND THEN\n{}{}RETURN new;\nEND IF;\n").format(
            qualified(direction.away), ident(ROW), _is_as_given(direction), _put(direction), note
        ),
        sql.SQL("UPDATE {} AS {} SET {} WHERE {} {};\nIF FOUND THEN\n{}RETURN new;\nEND IF;\n").format(
            qualified(direction.home), ident(ROW), settings, _is_as_given(direction), _returning(direction), note
        ),
        _explain_missing(direction),
    )
    return sql.Composed(parts)


def _delete(direction: Direction) -> sql.Composed:
    parts: list[sql.Composable] = [
        sql.SQL("DELETE FROM {} AS {} WHERE {};\nIF FOUND THEN RETURN old; END IF;\n").format(
            qualified(table), ident(ROW), _is_as_given(direction)
        )
        for table in (direction.away, direction.home)
    ]
    return sql.Composed([*parts, _explain_missing(direction)])


def _note_key(direction: Direction) -> sql.Composed:
    columns = tuple(k.name for k in direction.identity)
    return sql.SQL(
        "IF record_image_ne({}, {}) THEN INSERT INTO {} VALUES ({}, pg_current_xact_id()); END IF;\n"
    ).format(
        _row(columns, "old"),
        _row(columns, "new"),
        sql.Identifier(direction.schema, RENAMED),
        names(columns, "old"),
    )


def _explain_missing(direction: Direction) -> sql.Composed:
    """The row is not as it was given. A statement that meets a row twice skips it the second time, and one that was
    deleted meanwhile, as on a table; above READ COMMITTED nothing else can have happened, as the server has raised
    40001 before."""
    # What has grown the key may have changed, and the row is still the same.
    keys = dict.fromkeys((direction.key, direction.identity))
    looks = sql.Composed(
        [
            sql.SQL(
                "SELECT {}.xmin::text::int8 INTO _pgscale_xid FROM {} AS {} WHERE {};\nIF FOUND THEN\n{}{}END IF;\n"
            ).format(ident(ROW), qualified(direction.home), ident(ROW), equal(key, ROW, "old"), _OWN, _CHANGED)
            for key in keys
        ]
    )
    return sql.SQL(
        "IF current_setting('transaction_isolation') NOT LIKE 'read %' THEN RETURN NULL; END IF;\n{}"
        "PERFORM 1 FROM {} AS {} WHERE {} AND {} <> pg_current_xact_id();\nIF FOUND THEN\n{}END IF;\nRETURN NULL;"
    ).format(
        looks,
        sql.Identifier(direction.schema, RENAMED),
        ident(ROW),
        equal(direction.identity, ROW, "old"),
        sql.Identifier(ROW, "_pgscale_by"),
        _CHANGED,
    )


def _leave_if_missing(direction: Direction) -> sql.Composed:
    given = _is_as_given(direction)
    return sql.SQL(
        "PERFORM 1 FROM {} AS {} WHERE {};\nIF NOT FOUND THEN\nPERFORM 1 FROM {} AS {} WHERE {};\n"
        "IF NOT FOUND THEN\n{}\nEND IF;\nEND IF;\n"
    ).format(
        qualified(direction.away),
        ident(ROW),
        given,
        qualified(direction.home),
        ident(ROW),
        given,
        _explain_missing(direction),
    )


def _insert_generated(direction: Direction) -> Iterator[sql.Composable]:
    sequences = dict(direction.sequences)
    for column in direction.columns:
        if not column.generated and column.identity != "a":
            continue
        kind = "a generated column" if column.generated else "an identity column defined as GENERATED ALWAYS"
        yield sql.SQL("IF new.{c} IS NOT NULL THEN {error} END IF;\n").format(
            c=ident(column.name),
            error=_raise_generated("cannot insert a non-DEFAULT value into column", column.name, kind),
        )
        if not column.generated:
            yield sql.SQL("new.{} := nextval({}::regclass);\n").format(
                ident(column.name), sql.Literal(text(qualified(sequences[column.name])))
            )


def _update_generated(direction: Direction) -> Iterator[sql.Composable]:
    for column in direction.columns:
        if not column.generated and column.identity != "a":
            continue
        kind = "a generated column" if column.generated else "an identity column defined as GENERATED ALWAYS"
        # What is set to DEFAULT arrives as NULL.
        unless_null = sql.SQL("new.{} IS NOT NULL AND ").format(ident(column.name)) if column.generated else sql.SQL("")
        yield sql.SQL("IF {}record_image_ne({}, {}) THEN {} END IF;\n").format(
            unless_null,
            _row([column.name], "new"),
            _row([column.name], "old"),
            _raise_generated("column", column.name, kind, " can only be updated to DEFAULT"),
        )


def _raise_generated(before: str, column: str, kind: str, after: str = "") -> sql.Composed:
    return sql.SQL("RAISE EXCEPTION USING ERRCODE = 'generated_always', MESSAGE = {}, DETAIL = {};").format(
        sql.Literal(f'{before} "{column}"{after}'), sql.Literal(f'Column "{column}" is {kind}.')
    )


# -- unique keys over both tables ------------------------------------------------------------------------------


def _refuse_duplicate(direction: Direction, key: UniqueKey, table: QName, *, but_old: bool = False) -> sql.Composed:
    """Raise 23505 where a row of the table has the new row's key.

    FOR KEY SHARE waits for whoever is taking such a row away, as a unique index does. To `away` no row is ever added,
    so what is not there now will not be; in `home` the index has the last word, and this only names the constraint.
    """
    but = sql.SQL(" AND NOT ({})").format(equal(direction.key, ROW, "old")) if but_old else sql.SQL("")
    error = sql.SQL(
        "IF FOUND THEN\n{}RAISE EXCEPTION USING ERRCODE = 'unique_violation', MESSAGE = {}, SCHEMA = {}, TABLE = {},"
        " CONSTRAINT = {}; END IF;\n"
    ).format(
        # A statement that meets a row twice finds the key that it gave it itself.
        _leave_if_missing(direction) if but_old else sql.SQL(""),
        sql.Literal(f'duplicate key value violates unique constraint "{key.name}"'),
        sql.Literal(direction.table.schema),
        sql.Literal(direction.table.name),
        sql.Literal(key.name),
    )
    if key.is_plain:
        where = sql.SQL(" AND ").join(
            _alike(key, part, sql.Identifier(ROW, part.column), sql.Identifier("new", part.column))
            for part in key.parts
        )
        return sql.SQL("PERFORM 1 FROM {} AS {} WHERE {}{} FOR KEY SHARE;\n{}").format(
            qualified(table), ident(ROW), where, but, error
        )
    stored = _stored(direction)
    values = sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(trusted(f"({part.expression})"), ident(f"k{number}"))
        for number, part in enumerate(key.parts)
    )
    holds = sql.SQL(" WHERE {}").format(trusted(key.predicate)) if key.predicate is not None else sql.SQL("")
    also = sql.SQL(" AND {}").format(trusted(key.predicate)) if key.predicate is not None else sql.SQL("")
    where = sql.SQL(" AND ").join(
        _alike(key, part, trusted(f"({part.expression})"), sql.Identifier("_pgscale_k", f"k{number}"))
        for number, part in enumerate(key.parts)
    )
    return sql.SQL(
        "SELECT {values} INTO _pgscale_k FROM (SELECT {row}) AS _pgscale_r{holds};\nIF FOUND THEN\n"
        "PERFORM 1 FROM {table} AS {alias} WHERE {where}{also}{but} FOR KEY SHARE;\n{error}END IF;\n"
    ).format(
        values=values,
        row=sql.SQL(", ").join(sql.SQL("{} AS {}").format(sql.Identifier("new", c), ident(c)) for c in stored),
        holds=holds,
        table=qualified(table),
        alias=ident(ROW),
        where=where,
        also=also,
        but=but,
        error=error,
    )


def _alike(key: UniqueKey, part: KeyPart, ours: sql.Composable, given: sql.Composable) -> sql.Composed:
    plain = sql.SQL("{} {} {}").format(ours, trusted(part.equals), given)
    if not key.nulls_not_distinct:
        return plain
    return sql.SQL("({} OR ({} IS NULL AND {} IS NULL))").format(plain, ours, given)
