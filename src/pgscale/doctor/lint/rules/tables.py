"""Whole tables: rewritten, renamed, dropped, emptied, moved, made partitions; triggers and materialized views."""

from __future__ import annotations

from collections.abc import Iterator

from pgscale.core.finding import Finding, Remedy
from pgscale.doctor.lint.model import Relation
from pgscale.doctor.lint.rewriting import ident, name_of, sql
from pgscale.doctor.lint.rules.rule import Rule
from pgscale.doctor.lint.view import BOOKKEEPING, View

_REWRITES = {"VACUUM": "VACUUM FULL", "CLUSTER": "CLUSTER"}


def _rewrite(view: View) -> Iterator[Finding]:
    if view.seen.tag in {"TRUNCATE TABLE", "REFRESH MATERIALIZED VIEW"}:
        return
    for pair in view.pairs(lambda was, now: was.kind in "rp" and view.is_rewritten(was, now)):
        was, now = pair.was, pair.now
        # These have rules of their own.
        if now is None or was.columns != now.columns or was.tablespace != now.tablespace:
            continue
        what = _REWRITES.get(view.seen.tag, view.seen.tag)
        seconds = view.writing_s(now)
        remedies: tuple[Remedy, ...] = ()
        if view.seen.tag in _REWRITES:
            remedies = (
                sql(
                    f"VACUUM (ANALYZE) {name_of(now)}",
                    why="Space is used again by new rows. To give it back to the disk while all go on, use pg_repack or"
                    " pg_squeeze, or partition the table (`pgscale partition`).",
                ),
            )
        yield REWRITE.finding(
            "info" if view.is_small(now) else "critical",
            now.shown,
            f"{what} {view.held(now)} {view.takes('writing the table and its indexes anew', seconds)}.",
            why="Nobody reads or writes the table meanwhile, and it needs the space twice.",
            evidence=view.evidence(now, "rewrite", seconds),
            remedies=remedies,
        )


REWRITE = Rule(
    id="table.rewrite",
    title="A table is written anew",
    about="VACUUM FULL, CLUSTER, SET LOGGED, SET UNLOGGED and SET ACCESS METHOD write the table and its indexes anew"
    " under"
    " ACCESS EXCLUSIVE.",
    judge=_rewrite,
)


def _tablespace(view: View) -> Iterator[Finding]:
    for pair in view.pairs(
        lambda was, now: now is not None and was.filenode != now.filenode and was.tablespace != now.tablespace
    ):
        now = pair.now
        assert now is not None, "chosen so"
        table = view.existing.get(now.table, now)
        seconds = view.writing_s(table)
        yield TABLESPACE.finding(
            "info" if view.is_small(table) else "critical",
            now.shown,
            f"SET TABLESPACE {view.held(now)} {view.takes('copying its files', seconds)}.",
            why="Nobody reads or writes it meanwhile.",
            evidence=view.evidence(now, "rewrite", seconds),
            remedies=(
                sql(
                    f"REINDEX (TABLESPACE …) INDEX CONCURRENTLY {name_of(now)}",
                    why="Outside a transaction.",
                ),
            )
            if now.is_index
            else (),
        )


TABLESPACE = Rule(
    id="table.tablespace",
    title="SET TABLESPACE",
    about="The files are copied under ACCESS EXCLUSIVE. An index can be built elsewhere by REINDEX (TABLESPACE …)"
    " CONCURRENTLY.",
    judge=_tablespace,
)


def _truncate(view: View) -> Iterator[Finding]:
    if view.seen.tag != "TRUNCATE TABLE":
        return
    for table, _ in view.heavy():
        yield TRUNCATE.finding(
            "critical",
            table.shown,
            f"TRUNCATE {view.held(table)}; its rows are gone.",
            why="It waits for whoever reads the table, and all others wait behind it. Transactions with an older"
            " snapshot"
            " see the table empty.",
            evidence=view.evidence(table, "none"),
            remedies=(
                sql(
                    f"DELETE FROM {name_of(table)} WHERE …",  # noqa: S608 because it is shown, not run
                    why="In batches, each a transaction of its own, if the table is in use.",
                ),
            ),
        )


TRUNCATE = Rule(
    id="table.truncate",
    title="TRUNCATE",
    about="It is quick and takes ACCESS EXCLUSIVE on the table and on those that CASCADE reaches; it cannot be taken"
    " back.",
    judge=_truncate,
)

_KINDS = {"r": "Table", "p": "Table", "f": "Foreign table", "v": "View", "m": "Materialized view"}


def _drop(view: View) -> Iterator[Finding]:
    for pair in view.pairs(lambda was, now: was.kind in _KINDS and now is None):
        yield DROP.finding(
            "warning",
            pair.was.shown,
            f"{_KINDS[pair.was.kind]} {view.named(pair.was)} is dropped, and what it holds is gone.",
            why=f"What still names it fails from COMMIT on. The statement {view.held(pair.was)}.",
            evidence=view.evidence(pair.was, "none"),
        )


DROP = Rule(
    id="table.drop",
    title="DROP TABLE or VIEW",
    about="It is quick, cannot be taken back, and takes ACCESS EXCLUSIVE also on the tables that its foreign keys"
    " refer to."
    " Release an application that does not know it first; drop it in a later migration.",
    judge=_drop,
)


def _rename(view: View) -> Iterator[Finding]:
    for pair in view.pairs(
        lambda was, now: now is not None and was.kind in _KINDS and (was.schema, was.name) != (now.schema, now.name)
    ):
        was, now = pair.was, pair.now
        assert now is not None, "chosen so"
        if _keeps_name(view, was):
            continue
        view_sql = f"CREATE VIEW {name_of(was)} AS SELECT * FROM {name_of(now)}"  # noqa: S608 because it is shown, not run
        yield RENAME.finding(
            "warning",
            was.shown,
            f"{_KINDS[was.kind]} {was.shown} becomes {now.shown}: what runs now asks for the old name.",
            why=f"Every statement that names it fails from COMMIT until the application is changed. It"
            f" {view.held(was)}.",
            evidence=view.evidence(was, "none"),
            remedies=(
                sql(
                    view_sql,
                    why="In the same transaction: a view of one table can be written to, too"
                    " (ON CONFLICT works; triggers and COPY TO do not see it).",
                ),
            ),
        )


def _keeps_name(view: View, was: Relation) -> bool:
    """Tell whether the same transaction makes a view of the old name."""
    made = (relation for each in view.later for relation in each.after.values() if relation.kind == "v")
    return any((relation.schema, relation.name) == (was.schema, was.name) for relation in made)


RENAME = Rule(
    id="table.rename",
    title="A table gets another name or schema",
    about="The application of before and the one of after cannot both run, unless a view keeps the old name.",
    judge=_rename,
)


def _became_partition(was: Relation, now: Relation | None) -> bool:
    return now is not None and now.is_partition and not was.is_partition


def _attach(view: View) -> Iterator[Finding]:
    for pair in view.pairs(_became_partition):
        now = pair.now
        assert now is not None, "chosen so"
        others = [
            other
            for oid, other in view.existing.items()
            if oid != now.oid and oid in view.seen.scans and set(other.parents) & set(now.parents)
        ]
        for table in ([now] if view.is_scanned(now) else []) + others:
            seconds = view.reading_s(table)
            bound = now.bound if table is now else f"NOT ({now.bound})"
            name = ident(f"{table.name}_bound")
            yield ATTACH.finding(
                "info" if view.is_small(table) else "critical",
                table.shown,
                f"ATTACH PARTITION {now.shown} {view.held(table)} {view.takes(f'reading {table.shown}', seconds)}.",
                why="Nobody reads or writes it meanwhile. With a valid CHECK that implies the bound nothing is read.",
                evidence=view.evidence(table, "scan", seconds),
                remedies=(
                    sql(
                        f"ALTER TABLE {name_of(table)} ADD CONSTRAINT {name} CHECK ({bound}) NOT VALID",
                        f"ALTER TABLE {name_of(table)} VALIDATE CONSTRAINT {name}",
                        view.seen.statement.text,
                        f"ALTER TABLE {name_of(table)} DROP CONSTRAINT {name}",
                        why="A transaction each; only VALIDATE reads, and writers go on.",
                    ),
                ),
            )


ATTACH = Rule(
    id="partition.attach_scan",
    title="ATTACH PARTITION that reads a table",
    about="The rows of the new partition, and those of a DEFAULT partition, are held against the bound under ACCESS"
    " EXCLUSIVE, unless a valid CHECK constraint implies that they are right.",
    judge=_attach,
)


def _create_of(view: View) -> Iterator[Finding]:
    if view.seen.tag != "CREATE TABLE":
        return
    for oid, now in view.seen.after.items():
        if oid in view.existing or not now.is_partition:
            continue
        for parent in (view.existing[p] for p in now.parents if p in view.existing):
            lock = view.lock(parent.oid)
            if lock is None or lock.mode != "AccessExclusiveLock":
                continue
            yield CREATE_OF.finding(
                "warning",
                parent.shown,
                f"CREATE TABLE {now.shown} PARTITION OF {view.held(parent)}.",
                why="It waits for whoever uses the partitioned table, and everybody waits behind it.",
                evidence=view.evidence(parent, "none"),
                remedies=(
                    sql(
                        f"CREATE TABLE {name_of(now)} (LIKE {name_of(parent)} INCLUDING ALL)",
                        f"ALTER TABLE {name_of(parent)} ATTACH PARTITION {name_of(now)} FOR VALUES …",
                        why="ATTACH takes SHARE UPDATE EXCLUSIVE on the partitioned table.",
                    ),
                ),
            )


CREATE_OF = Rule(
    id="partition.create_of",
    title="CREATE TABLE … PARTITION OF",
    about="It takes ACCESS EXCLUSIVE on the partitioned table; a table that is made first and then attached does not.",
    judge=_create_of,
)


def _detach(view: View) -> Iterator[Finding]:
    for pair in view.pairs(lambda was, now: now is not None and was.is_partition and not now.is_partition):
        for parent in (view.existing[p] for p in pair.was.parents if p in view.existing):
            lock = view.lock(parent.oid)
            if lock is None or lock.mode != "AccessExclusiveLock":
                continue
            detach = f"ALTER TABLE {name_of(parent)} DETACH PARTITION {name_of(pair.was)} CONCURRENTLY"
            yield DETACH.finding(
                "warning",
                parent.shown,
                f"DETACH PARTITION {pair.was.shown} {view.held(parent)}.",
                why="It waits for whoever uses the partitioned table, and everybody waits behind it.",
                evidence=view.evidence(parent, "none"),
                remedies=(sql(detach, why="Outside a transaction, and not where there is a DEFAULT partition."),),
            )


DETACH = Rule(
    id="partition.detach",
    title="DETACH PARTITION without CONCURRENTLY",
    about="It takes ACCESS EXCLUSIVE on the partitioned table; CONCURRENTLY takes SHARE UPDATE EXCLUSIVE.",
    judge=_detach,
)


def _trigger(view: View) -> Iterator[Finding]:
    for pair in view.pairs(lambda was, now: now is not None and bool(set(now.triggers) - set(was.triggers))):
        now = pair.now
        assert now is not None, "chosen so"
        names = ", ".join(sorted(set(now.triggers) - set(pair.was.triggers)))
        yield TRIGGER.finding(
            "info",
            now.shown,
            f"CREATE TRIGGER {names} {view.held(now)}.",
            why="It waits for open writers, and new ones wait behind it; from COMMIT on every write runs the trigger.",
            evidence=view.evidence(now, "none"),
        )


TRIGGER = Rule(
    id="trigger.create",
    title="CREATE TRIGGER",
    about="It takes SHARE ROW EXCLUSIVE for a moment. What the trigger costs is paid by every write.",
    judge=_trigger,
)


def _refresh(view: View) -> Iterator[Finding]:
    if view.seen.tag != "REFRESH MATERIALIZED VIEW":
        return
    for table, lock in view.heavy():
        if table.kind != "m" or lock.mode != "AccessExclusiveLock":
            continue
        unique = any(index.is_unique for index in view.existing.values() if index.table == table.oid)
        text = f"REFRESH MATERIALIZED VIEW CONCURRENTLY {name_of(table)}"
        need = f"CREATE UNIQUE INDEX CONCURRENTLY ON {name_of(table)} (…)"
        yield REFRESH.finding(
            "warning",
            table.shown,
            f"REFRESH {view.held(table)} {view.takes('its query', None)}.",
            why="Nobody reads the materialized view meanwhile.",
            evidence=view.evidence(table, "rewrite"),
            remedies=(sql(text) if unique else sql(need, text, why="It needs a unique index of plain columns."),),
        )


REFRESH = Rule(
    id="matview.refresh",
    title="REFRESH MATERIALIZED VIEW without CONCURRENTLY",
    about="It takes ACCESS EXCLUSIVE while the query runs; CONCURRENTLY takes EXCLUSIVE, which readers do not feel.",
    judge=_refresh,
)


def _whole(view: View) -> Iterator[Finding]:
    if view.seen.tag not in {"UPDATE", "DELETE"} or _has_where(view):
        return
    for lock in view.seen.locks:
        table = view.existing.get(lock.relation)
        if table is None or not table.is_table or lock.mode != "RowExclusiveLock" or not lock.is_new:
            continue
        if table.name in BOOKKEEPING or any(parent in view.existing for parent in table.parents):
            continue
        seconds = view.writing_s(table)
        verb = view.seen.tag
        yield WHOLE.finding(
            "info" if view.is_small(table) else "critical",
            table.shown,
            f"{verb} of every row of {view.named(table)}, in one transaction ({view.takes('writing them', seconds)}).",
            why="Each row stays locked until COMMIT, every old version is dead weight until VACUUM, and standbys fall"
            " behind.",
            evidence=view.evidence(table, "rewrite", seconds),
            remedies=(
                sql(
                    f"{view.seen.statement.text} WHERE … BETWEEN … AND …",
                    why="In batches of some thousand rows by the primary key, each a transaction of its own, from"
                    " outside"
                    " the migration.",
                ),
            ),
        )


def _has_where(view: View) -> bool:
    depth = 0
    for token in view.seen.statement.tokens:
        if token.kind == "other":
            depth += {"(": 1, ")": -1}.get(token.text, 0)
        elif token.kind == "word" and token.text.upper() == "WHERE" and depth == 0:
            return True
    return False


WHOLE = Rule(
    id="data.whole_table",
    title="UPDATE or DELETE of a whole table",
    about="It locks every row until COMMIT and leaves a dead version of each. Batches are short and can be stopped.",
    judge=_whole,
)

RULES = (
    REWRITE,
    TABLESPACE,
    TRUNCATE,
    DROP,
    RENAME,
    ATTACH,
    CREATE_OF,
    DETACH,
    TRIGGER,
    REFRESH,
    WHOLE,
)
