"""What statements do to each other: locks held over work, locks of several tables, waits without an end, failures."""

from __future__ import annotations

from collections.abc import Iterator

from pgscale.core.finding import Finding
from pgscale.core.model import Json
from pgscale.core.units import format_duration
from pgscale.doctor.lint.model import Relation
from pgscale.doctor.lint.rewriting import sql
from pgscale.doctor.lint.rules.rule import Rule
from pgscale.doctor.lint.view import BOOKKEEPING, View
from pgscale.doctor.locks.modes import is_conflict, mode_name

# A queue that stands longer than this is an outage to those in it.
LONGEST_TIMEOUT_MS = 60_000


def _new_heavy(view: View) -> list[tuple[Relation, str]]:
    """Return the tables that writers wait for since this statement."""
    return [(table, lock.mode) for table, lock in view.heavy() if lock.is_new]


def _timeout(view: View) -> Iterator[Finding]:
    taken = _new_heavy(view)
    if not taken or 0 < view.seen.lock_timeout_ms <= LONGEST_TIMEOUT_MS:
        return
    table, mode = taken[0]
    now = view.seen.lock_timeout_ms
    word = "SET LOCAL" if view.in_transaction else "SET"
    evidence = view.evidence(table, "none") | {"lock_timeout_ms": now}
    waiting = _in_the_way(view, table, mode)
    evidence |= {"in_the_way": waiting}
    there = ""
    if waiting:
        there = f" Now {len(waiting)} long transaction{'s' if len(waiting) != 1 else ''} would be waited for."
    elif view.live.oldest_s is not None:
        there = f" The oldest transaction is now {format_duration(view.live.oldest_s)} old."
    yield TIMEOUT.finding(
        "warning",
        table.shown,
        f"{mode_name(mode)} on {view.named(table)} is waited for"
        f" {'without an end' if now == 0 else 'up to ' + format_duration(now / 1000)}:"
        f" lock_timeout is {f'{now} ms' if now else 'not set'}.{there}",
        why="While it waits for one long transaction, every statement that comes after waits behind it.",
        evidence=evidence,
        remedies=(
            sql(
                f"{word} lock_timeout = '2s'",
                why="Before the statement; repeat the migration when it fails with 55P03.",
            ),
        ),
    )


def _in_the_way(view: View, table: Relation, mode: str) -> list[Json]:
    there = view.table(table)
    return [
        holder.to_json()
        for holder in view.live.holders
        if there is not None and holder.table == there.name and is_conflict(mode, holder.mode)
    ]


TIMEOUT = Rule(
    id="lock_timeout.missing",
    title="A lock is waited for without lock_timeout",
    about="A statement that waits for a strong lock makes everybody who comes after wait, readers too: one long"
    " transaction is enough. It is said once a file, at the first statement.",
    judge=_timeout,
)


def _held_before(view: View) -> list[tuple[Relation, int]]:
    """Return the tables that writers already waited for when the statement began, with the line since when."""
    found = ((table, view.heavy_since(table)) for table, _ in view.heavy())
    return sorted(((table, since) for table, since in found if since is not None), key=lambda each: each[1])


def _several(view: View) -> Iterator[Finding]:
    before = _held_before(view)
    held = {table.oid for table, _ in before}
    new = [(table, mode) for table, mode in _new_heavy(view) if table.oid not in held]
    # Said at the second table; a third adds nothing.
    if not new or len({since for _, since in before}) != 1:
        return
    first, since = before[0]
    table, mode = new[0]
    yield SEVERAL.finding(
        "warning",
        table.shown,
        f"The transaction holds a strong lock on {first.shown} since line {since}, and waits for"
        f" {mode_name(mode)} on {view.named(table)} too.",
        why=f"{first.shown} stands still while it waits; with an application that uses them in the other order it is a"
        " deadlock.",
        evidence={**view.evidence(table, "none"), "held": first.shown, "held_since_line": since},
        remedies=(sql("COMMIT", "BEGIN", why=f"Before line {view.seen.statement.line}: a transaction a table."),),
    )


SEVERAL = Rule(
    id="transaction.several_tables",
    title="Strong locks on several tables in one transaction",
    about="Locks are held until COMMIT: each table is blocked while the next one's lock is waited for.",
    judge=_several,
)


def _work(view: View) -> Iterator[Finding]:
    before = _held_before(view)
    if not before:
        return
    worked = _worked_on(view)
    if worked is None or all(view.is_small(table) for table in worked):
        return
    table, since = before[0]
    seconds = view.writing_s(worked[0]) if view.seen.tag in _DATA else view.reading_s(worked[0])
    lock = view.lock(table.oid)
    assert lock is not None, "it is held"
    yield WORK.finding(
        "critical",
        table.shown,
        f"{view.seen.tag} works on {view.named(worked[0])} while the transaction holds {mode_name(lock.mode)} on"
        f" {table.shown} since line {since}.",
        why=f"What would have been a moment's lock on {table.shown} lasts {view.takes('this statement', seconds)}.",
        evidence={**view.evidence(table, "scan", seconds), "worked_on": [each.shown for each in worked]},
        remedies=(sql("COMMIT", "BEGIN", why=f"Before line {view.seen.statement.line}, so that the lock is let go."),),
    )


_DATA = {"UPDATE", "DELETE", "MERGE", "INSERT"}


def _worked_on(view: View) -> list[Relation] | None:
    """Return the tables whose rows a statement goes through; None when it does not, or has a rule for that."""
    tag, words = view.seen.tag, view.seen.statement.words
    if tag in _DATA:
        if tag == "INSERT" and "SELECT" not in words:
            return None
        oids = {lock.relation for lock in view.seen.locks if lock.is_new} | set(view.seen.scans)
    elif tag == "ALTER TABLE" and "VALIDATE" in words:
        oids = set(view.seen.scans)
    else:
        return None
    tables = [view.existing[oid] for oid in sorted(oids) if oid in view.existing]
    return [table for table in tables if table.is_table and table.name not in BOOKKEEPING] or None


WORK = Rule(
    id="transaction.work_under_lock",
    title="Rows are read or written while a strong lock is held",
    about="A lock that is taken for a moment is held until COMMIT, over everything that comes after it in the"
    " transaction:"
    " an UPDATE, or VALIDATE CONSTRAINT, which alone would let writers go on.",
    judge=_work,
)


def _not_allowed(view: View) -> Iterator[Finding]:
    if not view.seen.in_block or not view.seen.alone:
        return
    text = " ".join(view.seen.statement.words[:3])
    yield NOT_ALLOWED.finding(
        "critical",
        "",
        f"{text} … cannot run inside a transaction, and the file has one around it: it fails.",
        why="PostgreSQL refuses it, and the transaction is rolled back.",
        evidence={"statement": view.seen.statement.text},
        remedies=(
            sql(
                "COMMIT",
                view.seen.statement.text,
                "BEGIN",
                why="Alembic: with op.get_context().autocommit_block(). Django: atomic = False. Others: a file of its"
                " own.",
            ),
        ),
    )


NOT_ALLOWED = Rule(
    id="transaction.not_allowed",
    title="CONCURRENTLY, VACUUM or a procedure that commits, inside a transaction",
    about="What commits by itself in between cannot run in a transaction block.",
    judge=_not_allowed,
)


def _enum(view: View) -> Iterator[Finding]:
    error = view.seen.error
    if error is None or error.sqlstate != "55P04":
        return
    yield ENUM.finding(
        "critical",
        "",
        f"It uses a value that ALTER TYPE … ADD VALUE has added in the same transaction: {error.message}.",
        why="A new value of an enum can be used after COMMIT only.",
        evidence={"sqlstate": error.sqlstate, "message": error.message},
        remedies=(sql("COMMIT", "BEGIN", why=f"Before line {view.seen.statement.line}, or a migration of its own."),),
    )


ENUM = Rule(
    id="enum.value_used",
    title="A new value of an enum is used in the transaction that adds it",
    about="ALTER TYPE … ADD VALUE may stand in a transaction, but the value may not be used before COMMIT.",
    judge=_enum,
)


def _failed(view: View) -> Iterator[Finding]:
    error = view.seen.error
    if error is None or error.sqlstate == "55P04":
        return
    unknown = error.sqlstate in {"42P01", "42704", "42703", "3F000", "42883"}
    base = "" if view.live.is_known or not unknown else " The scratch copy has only what the files make."
    how = "Give --dsn, or --schema with what is there before." if base else ""
    yield FAILED.finding(
        "critical",
        "",
        f"It fails in the scratch copy: {error.message}.{base}",
        why=" ".join(part for part in (error.detail, error.hint, how) if part)
        or "What follows was judged as if it had not been there.",
        evidence={"sqlstate": error.sqlstate, "message": error.message},
    )


FAILED = Rule(
    id="statement.failed",
    title="A statement fails",
    about="The server refused it in the scratch copy of the schema; what it would lock was not seen.",
    judge=_failed,
)

RULES = (NOT_ALLOWED, TIMEOUT, SEVERAL, WORK, ENUM, FAILED)
