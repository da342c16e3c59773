"""Constraints that are proved while nobody may write."""

from __future__ import annotations

from collections.abc import Iterator

from pgscale.core.finding import Finding, Remedy
from pgscale.doctor.lint.model import Constraint, Relation
from pgscale.doctor.lint.rewriting import column_of, ident, name_of, sql
from pgscale.doctor.lint.rules.rule import Rule
from pgscale.doctor.lint.view import View

_TWO = "Two transactions: NOT VALID is a moment, VALIDATE reads while writers go on."


def _new(view: View, kinds: str) -> Iterator[tuple[Relation, Constraint]]:
    """Yield the constraints that existing tables got, those of a tree of partitions once."""
    for pair in view.pairs(lambda was, now: now is not None and was.constraints != now.constraints):
        assert pair.now is not None, "chosen so"
        old = {constraint.oid for constraint in pair.was.constraints}
        for constraint in pair.now.constraints:
            if constraint.kind in kinds and constraint.oid not in old and not constraint.is_inherited:
                yield pair.now, constraint


def _is_again(view: View, table: Relation, constraint: Constraint) -> bool:
    """Tell whether a constraint of that name was there: a change of type makes it again."""
    was = view.seen.before.get(table.oid)
    return was is not None and any(c.name == constraint.name and c.kind == constraint.kind for c in was.constraints)


def _columns(view: View, table: Relation) -> list[str]:
    """Return the statements that add what columns the table got with the constraint."""
    was = view.seen.before[table.oid]
    old = {column.number for column in was.columns}
    return [f"ALTER TABLE {name_of(table)} ADD COLUMN {column_of(c)}" for c in table.columns if c.number not in old]


def _not_valid(view: View, table: Relation, constraint: Constraint) -> tuple[Remedy, ...]:
    name, what = name_of(table), ident(constraint.name)
    return (
        sql(
            *_columns(view, table),
            f"ALTER TABLE {name} ADD CONSTRAINT {what} {constraint.definition} NOT VALID",
            f"ALTER TABLE {name} VALIDATE CONSTRAINT {what}",
            why=_TWO,
        ),
    )


def _foreign_key(view: View) -> Iterator[Finding]:
    for table, constraint in _new(view, "f"):
        if not constraint.validated or _is_again(view, table, constraint) or not view.is_read(table):
            continue
        other = view.seen.after.get(constraint.other_table)
        seconds = view.reading_s(table)
        both = (
            f" and {view.held(other).removeprefix('holds ')}"
            if other is not None and other.oid in view.existing and other != table
            else ""
        )
        remedies = _not_valid(view, table, constraint)
        if table.kind == "p" and view.version < 180000:
            remedies = ()
        yield FOREIGN_KEY.finding(
            "info" if view.is_small(table) else "critical",
            table.shown,
            f"Foreign key {constraint.name} {view.held(table)}{both}"
            f" {view.takes(f'comparing every row of {table.shown}', seconds)}.",
            why="Writers of both tables wait meanwhile.",
            evidence=view.evidence(table, "scan", seconds),
            remedies=remedies,
        )


FOREIGN_KEY = Rule(
    id="constraint.foreign_key",
    title="A foreign key without NOT VALID",
    about="ADD FOREIGN KEY holds SHARE ROW EXCLUSIVE on both tables while every row is looked up. NOT VALID holds it"
    " for"
    " a moment; VALIDATE then takes SHARE UPDATE EXCLUSIVE on the one and ROW SHARE on the other.",
    judge=_foreign_key,
)


def _check(view: View) -> Iterator[Finding]:
    for table, constraint in _new(view, "c"):
        was = view.seen.before[table.oid]
        if not constraint.validated or not view.is_scanned(table) or view.is_rewritten(was, table):
            continue
        if _is_again(view, table, constraint):
            continue
        seconds = view.reading_s(table)
        yield CHECK.finding(
            "info" if view.is_small(table) else "critical",
            table.shown,
            f"Constraint {constraint.name} {view.held(table)} {view.takes('reading the table', seconds)}.",
            why="Nobody reads or writes the table meanwhile.",
            evidence=view.evidence(table, "scan", seconds),
            remedies=_not_valid(view, table, constraint),
        )


CHECK = Rule(
    id="constraint.check",
    title="A CHECK without NOT VALID",
    about="ADD CHECK reads the whole table under ACCESS EXCLUSIVE. NOT VALID reads nothing; VALIDATE reads under SHARE"
    " UPDATE EXCLUSIVE, while writers go on.",
    judge=_check,
)


def _unique(view: View) -> Iterator[Finding]:
    for table, constraint in _new(view, "pux"):
        if constraint.index in view.seen.before or _is_again(view, table, constraint):
            continue
        seconds = view.writing_s(table)
        kind = {"p": "Primary key", "u": "Unique constraint", "x": "Exclusion constraint"}[constraint.kind]
        yield UNIQUE.finding(
            "info" if view.is_small(table) else "critical",
            table.shown,
            f"{kind} {constraint.name} {view.held(table)} {view.takes('building its index', seconds)}.",
            why="Nobody reads or writes the table meanwhile."
            + (" An exclusion constraint cannot be made in another way." if constraint.kind == "x" else ""),
            evidence=view.evidence(table, "build index", seconds),
            remedies=_using_index(view, table, constraint),
        )


def _using_index(view: View, table: Relation, constraint: Constraint) -> tuple[Remedy, ...]:
    index = view.seen.after.get(constraint.index)
    if constraint.kind == "x" or index is None or table.kind == "p":
        return ()
    kind = "PRIMARY KEY" if constraint.kind == "p" else "UNIQUE"
    columns = index.definition.partition(" USING ")[2]
    lines = [
        *_columns(view, table),
        f"CREATE UNIQUE INDEX CONCURRENTLY {ident(index.name)} ON {name_of(table)} USING {columns}",
        f"ALTER TABLE {name_of(table)} ADD CONSTRAINT {ident(constraint.name)} {kind} USING INDEX {ident(index.name)}",
    ]
    why = "The index outside a transaction; the constraint is a moment"
    return (sql(*lines, why=f"{why}, if the columns are NOT NULL already." if kind == "PRIMARY KEY" else f"{why}."),)


UNIQUE = Rule(
    id="constraint.unique",
    title="A unique constraint or primary key that builds its index",
    about="The index is built under ACCESS EXCLUSIVE. CREATE UNIQUE INDEX CONCURRENTLY builds it while all go on, and"
    " USING INDEX makes a constraint of it in a moment.",
    judge=_unique,
)

RULES = (FOREIGN_KEY, CHECK, UNIQUE)
