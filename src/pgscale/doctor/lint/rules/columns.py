"""Columns: added, made NOT NULL, given another type, renamed, dropped."""

from __future__ import annotations

from collections.abc import Iterator

from pgscale.core.finding import Finding, Remedy
from pgscale.doctor.lint.model import Column, Relation
from pgscale.doctor.lint.rewriting import ident, name_of, sql
from pgscale.doctor.lint.rules.rule import Rule
from pgscale.doctor.lint.view import Pair, View

_BATCHES = "Then fill it in batches, each a transaction of its own, from outside the migration."


def _changed(view: View) -> Iterator[tuple[Pair, Relation, dict[int, Column]]]:
    """Yield the tables whose columns are not what they were, with the columns that were."""
    for pair in view.pairs(lambda was, now: now is not None and was.kind in "rpf" and was.columns != now.columns):
        assert pair.now is not None, "chosen so"
        yield pair, pair.now, {column.number: column for column in pair.was.columns}


def _not_null(view: View) -> Iterator[Finding]:
    for pair, now, old in _changed(view):
        keys = " ".join(c.definition for c in now.constraints if c.kind == "p" and c not in pair.was.constraints)
        for column in now.columns:
            was = old.get(column.number)
            if was is None or was.not_null or not column.not_null or keys or not view.is_scanned(now):
                continue
            seconds = view.reading_s(now)
            yield NOT_NULL.finding(
                "info" if view.is_small(now) else "critical",
                f"{now.shown}.{ident(column.name)}",
                f"SET NOT NULL on {column.name} {view.held(now)} {view.takes('reading the table', seconds)}.",
                why="Nobody reads or writes the table meanwhile. With a valid CHECK (… IS NOT NULL) nothing is read.",
                evidence=view.evidence(now, "scan", seconds),
                remedies=(_gentle_not_null(view, now, column),),
            )


def _gentle_not_null(view: View, table: Relation, column: Column) -> Remedy:
    name, what = name_of(table), ident(column.name)
    constraint = ident(f"{table.name}_{column.name}_not_null")
    if view.version >= 180000:
        return sql(
            f"ALTER TABLE {name} ADD CONSTRAINT {constraint} NOT NULL {what} NOT VALID",
            f"ALTER TABLE {name} VALIDATE CONSTRAINT {constraint}",
            why="Two transactions: the first is a moment, the second reads the table while writers go on.",
        )
    return sql(
        f"ALTER TABLE {name} ADD CONSTRAINT {constraint} CHECK ({what} IS NOT NULL) NOT VALID",
        f"ALTER TABLE {name} VALIDATE CONSTRAINT {constraint}",
        f"ALTER TABLE {name} ALTER COLUMN {what} SET NOT NULL",
        f"ALTER TABLE {name} DROP CONSTRAINT {constraint}",
        why="The first, the second, and the last two are a transaction each; only VALIDATE reads, and writers go on.",
    )


NOT_NULL = Rule(
    id="column.not_null",
    title="SET NOT NULL that reads the table",
    about="SET NOT NULL reads the whole table under ACCESS EXCLUSIVE, unless a valid CHECK constraint already proves"
    " it.",
    judge=_not_null,
)


def _added(view: View) -> Iterator[tuple[Relation, Column]]:
    for _, now, old in _changed(view):
        for column in now.columns:
            if column.number not in old and now.kind in "rp":
                yield now, column


def _added_not_null(view: View) -> Iterator[Finding]:
    for table, column in _added(view):
        if not column.not_null or column.is_filled:
            continue
        name, what = name_of(table), ident(column.name)
        yield ADDED_NOT_NULL.finding(
            "critical",
            f"{table.shown}.{what}",
            f"Column {column.name} is added NOT NULL and without a default: that fails if {view.named(table)} has a"
            " row.",
            why=f"The scratch copy is empty, so it passed there. It {view.held(table)}.",
            evidence=view.evidence(table, "none"),
            remedies=(
                sql(
                    f"ALTER TABLE {name} ADD COLUMN {what} {column.type} NOT NULL DEFAULT …",
                    why="A constant default is kept in the catalog: no row is written.",
                ),
                sql(
                    f"ALTER TABLE {name} ADD COLUMN {what} {column.type}",
                    why=f"{_BATCHES} NOT NULL comes last: see column.not_null.",
                ),
            ),
        )


ADDED_NOT_NULL = Rule(
    id="column.added_not_null",
    title="ADD COLUMN NOT NULL without a default",
    about="Rows that are there would have NULL in it, so the server refuses, unless the table is empty.",
    judge=_added_not_null,
)


def _added_rewrite(view: View) -> Iterator[Finding]:
    for table, column in _added(view):
        was = view.seen.before.get(table.oid)
        if was is None or not column.is_filled or not view.is_rewritten(was, table):
            continue
        seconds = view.writing_s(table)
        kind = (
            "its identity"
            if column.is_identity
            else "what it is generated from"
            if column.is_generated
            else "its default"
        )
        yield ADDED_REWRITE.finding(
            "info" if view.is_small(table) else "critical",
            f"{table.shown}.{ident(column.name)}",
            f"Adding column {column.name} {view.held(table)} {view.takes('writing the table anew', seconds)}:"
            f" {kind} is computed for each row.",
            why="Nobody reads or writes the table meanwhile, and it needs the space twice.",
            evidence=view.evidence(table, "rewrite", seconds),
            remedies=_gentle_default(table, column),
        )


def _gentle_default(table: Relation, column: Column) -> tuple[Remedy, ...]:
    name, what = name_of(table), ident(column.name)
    add = f"ALTER TABLE {name} ADD COLUMN {what} {column.type}"
    if column.is_generated:
        return (sql(add, why=f"Keep it by a trigger instead. {_BATCHES}"),)
    if column.is_identity or column.default.startswith("nextval("):
        schema = "" if table.schema == "public" else f"{ident(table.schema)}."
        sequence = schema + ident(f"{table.name}_{column.name}_seq")
        default = f"ALTER TABLE {name} ALTER COLUMN {what} SET DEFAULT nextval('{sequence}')"
        return (sql(add, f"CREATE SEQUENCE {sequence} OWNED BY {name}.{what}", default, why=_BATCHES),)
    default = f"ALTER TABLE {name} ALTER COLUMN {what} SET DEFAULT {column.default}"
    return (sql(add, default, why=f"SET DEFAULT is for rows to come and writes none. {_BATCHES}"),)


ADDED_REWRITE = Rule(
    id="column.added_rewrite",
    title="ADD COLUMN that writes every row",
    about="A default that is not constant, an identity, serial or a stored generated column is computed for each row:"
    " the"
    " table is written anew under ACCESS EXCLUSIVE. A constant default is only noted in the catalog.",
    judge=_added_rewrite,
)


def _type(view: View) -> Iterator[Finding]:
    for pair, now, old in _changed(view):
        changed = [c for c in now.columns if c.number in old and c.type != old[c.number].type]
        if not changed:
            continue
        if view.is_rewritten(pair.was, now):
            work, what, seconds = "rewrite", "writing the table and its indexes anew", view.writing_s(now)
        elif built := view.built_indexes(now):
            names = ", ".join(index.shown for index in built)
            work, what, seconds = "build index", f"building {names} again", view.writing_s(now)
        elif view.is_scanned(now):
            work, what, seconds = "scan", "reading the table", view.reading_s(now)
        else:
            continue
        for column in changed:
            yield TYPE.finding(
                "info" if view.is_small(now) else "critical",
                f"{now.shown}.{ident(column.name)}",
                f"Changing {column.name} from {old[column.number].type} to {column.type} {view.held(now)}"
                f" {view.takes(what, seconds)}.",
                why="Nobody reads or writes the table meanwhile.",
                evidence=view.evidence(now, work, seconds),
                remedies=(
                    sql(
                        f"ALTER TABLE {name_of(now)} ADD COLUMN {ident(column.name + '_new')} {column.type}",
                        why="Keep it equal by a trigger, fill it in batches, then change the names in one transaction.",
                    ),
                ),
            )


TYPE = Rule(
    id="column.type",
    title="A change of type that writes or reads the table",
    about="Most changes of type write the table and its indexes anew under ACCESS EXCLUSIVE. Some only change the"
    " catalog"
    " (a longer varchar, varchar to text, a numeric of higher precision): whether this one does was seen.",
    judge=_type,
)


def _rename(view: View) -> Iterator[Finding]:
    for pair in view.pairs(lambda was, now: now is not None and was.kind in "rpfvm" and was.columns != now.columns):
        assert pair.now is not None, "chosen so"
        new = {column.number: column.name for column in pair.now.columns}
        if pair.was.kind == "v" and view.seen.tag != "ALTER VIEW":
            continue
        for column in pair.was.columns:
            name = new.get(column.number, column.name)
            if name == column.name:
                continue
            yield RENAME.finding(
                "warning",
                f"{pair.was.shown}.{ident(column.name)}",
                f"Column {column.name} of {pair.was.shown} becomes {name}: what runs now asks for the old name.",
                why=f"Every statement that names it fails from COMMIT until the application is changed."
                f" It {view.held(pair.was)}.",
                evidence=view.evidence(pair.was, "none"),
                remedies=(
                    sql(
                        f"ALTER TABLE {name_of(pair.was)} ADD COLUMN {ident(name)} …",
                        why="Write both, fill the new one in batches, read the new one, and drop the old one at last.",
                    ),
                ),
            )


RENAME = Rule(
    id="column.rename",
    title="A column gets another name",
    about="The application of before and the one of after cannot both run: add the new column and keep both for a"
    " while.",
    judge=_rename,
)


def _drop(view: View) -> Iterator[Finding]:
    for pair, now, _ in _changed(view):
        left = {column.number for column in now.columns}
        for column in pair.was.columns:
            if column.number in left:
                continue
            yield DROP.finding(
                "warning",
                f"{now.shown}.{ident(column.name)}",
                f"Column {column.name} of {view.named(now)} is dropped, and what it holds is gone.",
                why="What still names it fails from COMMIT on; an ORM names every column it knows."
                f" It {view.held(now)}.",
                evidence=view.evidence(now, "none"),
                remedies=(
                    sql(
                        f"ALTER TABLE {name_of(now)} ALTER COLUMN {ident(column.name)} DROP NOT NULL",
                        why="First release an application that does not know the column; drop it in a later migration"
                        " and say `-- pgscale:ignore column.drop` there.",
                    ),
                )
                if column.not_null
                else (),
            )


DROP = Rule(
    id="column.drop",
    title="DROP COLUMN",
    about="It is quick (the space stays until rows are written anew), and cannot be taken back.",
    judge=_drop,
)

RULES = (NOT_NULL, ADDED_NOT_NULL, ADDED_REWRITE, TYPE, RENAME, DROP)
