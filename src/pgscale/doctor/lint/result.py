"""What lint has found, file by file, as one JSON document. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from pgscale.core.model import Json
from pgscale.doctor.lint.live import Live
from pgscale.doctor.lint.model import FileSeen, Lock, Placed, Relation
from pgscale.doctor.lint.view import READ_BYTES_S, WRITE_BYTES_S, View, strength
from pgscale.doctor.locks.modes import mode_name


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResult:
    """A file, its statements one by one, and what is wrong with it."""

    seen: FileSeen
    views: tuple[View, ...]
    findings: tuple[Placed, ...]

    def to_json(self) -> dict[str, Json]:
        return {
            "file": self.seen.file,
            "note": self.seen.note,
            "statements": [statement_json(view) for view in self.views],
            "findings": [placed.to_json() for placed in self.findings],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The whole answer.

    Args:
        scratch_version: server_version_num of the scratch server.
        notes: what could not be copied.
    """

    files: tuple[FileResult, ...]
    live: Live
    scratch_version: int
    notes: tuple[str, ...]

    @property
    def findings(self) -> tuple[Placed, ...]:
        return tuple(placed for each in self.files for placed in each.findings)

    def to_json(self) -> dict[str, Json]:
        live = self.live
        return {
            "scratch_version": self.scratch_version,
            "database": {
                "name": live.database,
                "version": live.version,
                "lock_timeout_ms": live.lock_timeout_ms,
                "oldest_transaction_s": live.oldest_s,
                "holders": [holder.to_json() for holder in live.holders],
            }
            if live.is_known
            else None,
            "assumed": {"read_bytes_per_s": READ_BYTES_S, "write_bytes_per_s": WRITE_BYTES_S},
            "files": [each.to_json() for each in self.files],
            "notes": list(self.notes),
        }


def shown_locks(view: View) -> list[tuple[Relation, Lock, bool]]:
    """Return what a statement took on tables, views and sequences, each with its strongest mode, and whether it is new.

    What the transaction held before is left out; so are indexes, which follow their tables.
    """
    strongest: dict[int, Lock] = {}
    for lock in sorted(view.seen.locks, key=lambda each: strength(each.mode)):
        if lock.is_new:
            strongest[lock.relation] = lock
    found: list[tuple[Relation, Lock, bool]] = []
    for oid, lock in strongest.items():
        relation = view.existing.get(oid) or view.seen.after.get(oid) or view.seen.before.get(oid)
        if relation is not None and not relation.is_index:
            found.append((relation, lock, oid not in view.existing))
    return sorted(found, key=lambda each: (each[2], -strength(each[1].mode), each[0].shown))


def statement_json(view: View) -> dict[str, Json]:
    """Return one statement with what was seen."""
    seen = view.seen
    return {
        "line": seen.statement.line,
        "statement": seen.statement.text,
        "tag": seen.tag,
        "transaction": seen.transaction,
        "alone": seen.alone,
        "lock_timeout_ms": seen.lock_timeout_ms,
        "locks": [
            {
                "relation": relation.shown,
                "kind": relation.kind,
                "mode": mode_name(lock.mode),
                "new": is_new,
                "awaited": lock.awaited,
                "rewritten": view.is_rewritten(relation, seen.after.get(relation.oid)),
                "scanned": relation.oid in seen.scans,
                "built_indexes": [index.shown for index in view.built_indexes(relation)],
            }
            for relation, lock, is_new in shown_locks(view)
        ],
        "error": None if seen.error is None else {"sqlstate": seen.error.sqlstate, "message": seen.error.message},
        "skipped": seen.skipped or None,
    }
