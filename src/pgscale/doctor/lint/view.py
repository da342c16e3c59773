"""What rules ask of a statement: which tables it changed and how, what it holds on them, for how long. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pgscale.core.model import Json, QName
from pgscale.core.units import format_bytes, format_duration
from pgscale.doctor.lint.live import Live, LiveTable
from pgscale.doctor.lint.model import Catalog, Lock, Relation, Seen
from pgscale.doctor.locks.modes import mode_name

# Those that writers wait for.
HEAVY = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")
_ORDER = ("AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock", *HEAVY)

# Of a disk of today and a server that has other things to do; the estimate is of the order of magnitude.
READ_BYTES_S = 200 << 20
WRITE_BYTES_S = 50 << 20
# Reading or writing it again is over before a queue is felt.
SMALL_BYTES = 8 << 20

# Tables in which tools note what has run: a row or a few hundred.
BOOKKEEPING = {
    "alembic_version",
    "django_migrations",
    "flyway_schema_history",
    "goose_db_version",
    "knex_migrations",
    "pgmigrations",
    "schema_migrations",
    "schema_version",
    "databasechangelog",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A relation before and after a statement; `now` is None when it was dropped."""

    was: Relation
    now: Relation | None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One statement among the others of its file.

    Args:
        existing: what was there when the file began.
        origins: the names that relations had when the run began, which are those of the real database.
        earlier, later: the other statements of its transaction.
        version: of the server it is for.
    """

    seen: Seen
    existing: Catalog
    origins: Catalog
    live: Live
    version: int
    earlier: tuple[Seen, ...] = ()
    later: tuple[Seen, ...] = ()

    @property
    def in_transaction(self) -> bool:
        return bool(self.earlier or self.later)

    # What it changed

    def pairs(self, changed: Callable[[Relation, Relation | None], bool]) -> Iterator[Pair]:
        """Yield what existed and was changed so; of a tree of partitions or of inheritance, the top only."""
        found = {
            oid: Pair(was=was, now=self.seen.after.get(oid))
            for oid, was in self.seen.before.items()
            if oid in self.existing and changed(was, self.seen.after.get(oid))
        }
        for pair in found.values():
            if not any(parent in found for parent in pair.was.parents):
                yield pair

    def is_rewritten(self, was: Relation, now: Relation | None) -> bool:
        """Tell whether a table, or a partition of it, got new files."""
        if now is not None and was.is_table and was.filenode != now.filenode and was.filenode:
            return True
        return any(
            was.oid in child.parents and self.is_rewritten(child, self.seen.after.get(oid))
            for oid, child in self.seen.before.items()
        )

    def is_scanned(self, table: Relation) -> bool:
        """Tell whether the rows of a table, or of a partition of it, were read from the first to the last."""
        return table.oid in self.seen.scans or any(
            table.oid in child.parents and self.is_scanned(child)
            for oid, child in self.seen.after.items()
            if oid in self.existing
        )

    def is_read(self, table: Relation) -> bool:
        """Tell whether its rows were read in whatever way: the planner may compare two tables by their indexes."""
        tables = {table.oid} | {oid for oid, child in self.seen.after.items() if table.oid in child.parents}
        return self.is_scanned(table) or bool(tables & self.seen.index_scans.keys())

    def built_indexes(self, table: Relation) -> tuple[Relation, ...]:
        """Return the indexes made for a table or its partitions, and those made again."""
        tables = {table.oid} | {oid for oid, child in self.seen.after.items() if table.oid in child.parents}
        old = {(index.table, index.name): index.filenode for index in self.seen.before.values() if index.kind == "i"}
        files = {index.filenode for index in self.seen.before.values() if index.kind == "i"}
        return tuple(
            index
            for index in self.seen.after.values()
            if index.kind == "i"
            and index.table in tables
            and index.filenode not in files
            and old.get((index.table, index.name)) != index.filenode
        )

    # What it holds

    def lock(self, oid: int) -> Lock | None:
        """Return its strongest lock on a relation."""
        held = [lock for lock in self.seen.locks if lock.relation == oid]
        return max(held, key=lambda lock: strength(lock.mode), default=None)

    def heavy(self) -> Iterator[tuple[Relation, Lock]]:
        """Yield the tables that existed and that writers wait for; of a tree of partitions the top."""
        held = {
            lock.relation: lock
            for lock in sorted(self.seen.locks, key=lambda lock: strength(lock.mode))
            if lock.mode in HEAVY and lock.relation in self.existing and self.existing[lock.relation].is_table
        }
        for oid, lock in held.items():
            if not any(parent in held for parent in self.existing[oid].parents):
                yield self.existing[oid], lock

    def heavy_since(self, table: Relation) -> int | None:
        """Return the line since which writers of a table waited before the statement; None where they did not."""
        held = (lock for lock in self.seen.locks if lock.relation == table.oid and lock.mode in HEAVY)
        return min((lock.since for lock in held if not lock.is_new), default=None)

    def held(self, table: Relation) -> str:
        """Return `holds ACCESS EXCLUSIVE on orders (12 GB, 80,000,000 rows)`, with the line if another one took it."""
        lock = self.lock(table.oid)
        if lock is None:
            return f"is about {self.named(table)}"
        since = "" if lock.is_new else f" since line {lock.since}"
        verb = "waits for" if lock.awaited else "holds"
        return f"{verb} {mode_name(lock.mode)} on {self.named(table)}{since}"

    def named(self, table: Relation) -> str:
        """Return its name, with size and rows where they are known."""
        there = self.table(table)
        if there is None:
            return table.shown
        rows = "rows not known" if there.rows is None else f"{there.rows:,} rows"
        return f"{table.shown} ({format_bytes(there.table_bytes)}, {rows})"

    # How long it takes

    def table(self, table: Relation) -> LiveTable | None:
        """Return what the real database has of it."""
        origin = self.origins.get(table.oid)
        return None if origin is None else self.live.tables.get(QName(schema=origin.schema, name=origin.name))

    def is_small(self, table: Relation) -> bool:
        """Tell whether it is known to be small; what is not known is not small."""
        there = self.table(table)
        return there is not None and there.rows is not None and there.table_bytes + there.index_bytes <= SMALL_BYTES

    def reading_s(self, table: Relation) -> float | None:
        there = self.table(table)
        return None if there is None else there.table_bytes / READ_BYTES_S

    def writing_s(self, table: Relation) -> float | None:
        there = self.table(table)
        return None if there is None else (there.table_bytes + there.index_bytes) / WRITE_BYTES_S

    def takes(self, what: str, seconds: float | None) -> str:
        """Return how long, in words: of a table of known size with the number."""
        if seconds is None:
            return f"for as long as {what} takes"
        return f"for as long as {what} takes (about {format_duration(max(seconds, 0.01))})"

    def evidence(self, table: Relation, work: str, seconds: float | None = None) -> dict[str, Json]:
        lock, there = self.lock(table.oid), self.table(table)
        found: dict[str, Json] = {
            "table": table.shown,
            "lock": None if lock is None else mode_name(lock.mode),
            "locked_since_line": None if lock is None else lock.since,
            "work": work,
        }
        if there is not None:
            found |= {"table_bytes": there.table_bytes, "index_bytes": there.index_bytes, "rows": there.rows}
        if seconds is not None:
            found["work_s"] = round(seconds, 2)
        return found


def strength(mode: str) -> int:
    """Return the place of a mode in the order of strength; -1 for others than those of tables."""
    return _ORDER.index(mode) if mode in _ORDER else -1
