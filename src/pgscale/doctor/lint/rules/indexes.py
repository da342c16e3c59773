"""Indexes that are built, rebuilt or dropped while writers wait."""

from __future__ import annotations

from collections.abc import Iterator

from pgscale.core.finding import Finding, Remedy
from pgscale.doctor.lint.model import Relation
from pgscale.doctor.lint.rewriting import concurrently, ident, name_of, sql, with_word_after
from pgscale.doctor.lint.rules.rule import Rule
from pgscale.doctor.lint.view import View

_ALONE = "It runs outside a transaction: give it a migration of its own, without BEGIN."


def _not_concurrent(view: View) -> Iterator[Finding]:
    if view.seen.alone:
        return
    constraints = {c.index for table in view.seen.after.values() for c in table.constraints if c.index}
    made = {
        oid: index
        for oid, index in view.seen.after.items()
        if index.is_index and oid not in view.seen.before and index.table in view.existing and oid not in constraints
    }
    for oid, index in made.items():
        table = view.existing[index.table]
        # ALTER TYPE makes indexes again under new numbers; it has its own rule.
        again = any(old.is_index and old.name == index.name for old in view.seen.before.values())
        if again or any(parent in made for parent in index.parents):
            continue
        if table.kind == "p" and not any(oid in other.parents for other in made.values()):
            continue
        seconds = view.writing_s(table)
        yield NOT_CONCURRENT.finding(
            "info" if view.is_small(table) else "critical",
            table.shown,
            f"CREATE INDEX {index.shown} {view.held(table)} {view.takes('the index is built', seconds)}.".replace(
                "for as long as the index is built takes", "while the index is built"
            ),
            why="Every INSERT, UPDATE and DELETE of the table waits until it is built and the transaction has ended.",
            evidence=view.evidence(table, "build index", seconds),
            remedies=_gently(view, table, index),
        )


def _gently(view: View, table: Relation, index: Relation) -> tuple[Remedy, ...]:
    statement = view.seen.statement
    if table.kind != "p":
        text = index.definition if view.seen.tag != "CREATE INDEX" else ""
        gentle = concurrently(text) if text else with_word_after(statement, ("INDEX",), "CONCURRENTLY")
        return (sql(gentle, why=f"{_ALONE} If it fails it leaves an invalid index: drop that and repeat."),)
    only = concurrently(index.definition).replace("CONCURRENTLY ", "")
    parts = [part for part in view.existing.values() if table.oid in part.parents]
    lines = [only if " ON ONLY " in only else only.replace(" ON ", " ON ONLY ", 1)]
    how = index.definition.partition(" USING ")[2]
    for part in parts:
        name = ident(f"{part.name}_{index.name}")
        lines.append(f"CREATE INDEX CONCURRENTLY {name} ON {name_of(part)} USING {how}")
        schema = "" if part.schema == "public" else f"{ident(part.schema)}."
        lines.append(f"ALTER INDEX {name_of(index)} ATTACH PARTITION {schema}{name}")
    return (sql(*lines, why=f"A partitioned table has no CONCURRENTLY; each of its partitions has. {_ALONE}"),)


NOT_CONCURRENT = Rule(
    id="index.not_concurrent",
    title="CREATE INDEX without CONCURRENTLY",
    about="CREATE INDEX holds SHARE on the table while it reads and sorts all of it: readers go on, writers wait."
    " CONCURRENTLY takes SHARE UPDATE EXCLUSIVE, reads the table twice, and lets writers go on.",
    judge=_not_concurrent,
)


def _drop(view: View) -> Iterator[Finding]:
    if view.seen.alone or view.seen.tag != "DROP INDEX":
        return
    for pair in view.pairs(lambda was, now: was.is_index and now is None):
        table = view.existing.get(pair.was.table)
        if table is None or table.oid not in view.seen.after:
            continue
        gentle = sql(f"DROP INDEX CONCURRENTLY {name_of(pair.was)}", why=_ALONE)
        yield DROP.finding(
            "warning",
            table.shown,
            f"DROP INDEX {pair.was.shown} {view.held(table)}.",
            why="It waits for every transaction that has used the table, and everybody, readers too, waits behind it.",
            evidence=view.evidence(table, "drop index"),
            remedies=() if pair.was.kind == "I" else (gentle,),
        )


DROP = Rule(
    id="index.drop_not_concurrent",
    title="DROP INDEX without CONCURRENTLY",
    about="DROP INDEX is quick, but takes ACCESS EXCLUSIVE on the table: it waits for long transactions, and all others"
    " wait behind it. CONCURRENTLY takes SHARE UPDATE EXCLUSIVE.",
    judge=_drop,
)


def _reindex(view: View) -> Iterator[Finding]:
    if view.seen.tag != "REINDEX" or "CONCURRENTLY" in view.seen.statement.words:
        return
    tables = {
        pair.was.table for pair in view.pairs(lambda was, now: now is not None and was.kind == "i" and was != now)
    }
    for oid in sorted(tables & view.existing.keys()):
        table = view.existing[oid]
        seconds = view.writing_s(table)
        gentle = with_word_after(
            view.seen.statement, ("INDEX", "TABLE", "SCHEMA", "DATABASE", "SYSTEM"), "CONCURRENTLY"
        )
        yield REINDEX.finding(
            "info" if view.is_small(table) else "critical",
            table.shown,
            f"REINDEX {view.held(table)} {view.takes('building the indexes again', seconds)}.",
            why="Writers of the table wait, and whoever would read by the index waits too.",
            evidence=view.evidence(table, "build index", seconds),
            remedies=(sql(gentle, why=_ALONE),),
        )


REINDEX = Rule(
    id="index.reindex_not_concurrent",
    title="REINDEX without CONCURRENTLY",
    about="REINDEX holds SHARE on the table and ACCESS EXCLUSIVE on the index while it builds it."
    " CONCURRENTLY builds a second one beside it and takes SHARE UPDATE EXCLUSIVE.",
    judge=_reindex,
)

RULES = (NOT_CONCURRENT, DROP, REINDEX)
