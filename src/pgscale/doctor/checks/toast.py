"""TOAST: long values outside their rows: how they are compressed, what else would serve, and how much of it is read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from pgscale.core.finding import Answer, Finding, Findings, Remedy, Severity, Well
from pgscale.core.model import Json
from pgscale.core.units import format_bytes, format_duration
from pgscale.doctor import ddl
from pgscale.doctor.facts import SETTINGS, Counters, Facts, NotReadableError, Section
from pgscale.doctor.limits import Limits
from pgscale.doctor.model import Check
from pgscale.doctor.toast.model import AS_STORED, STORAGES, Form, Sample, ToastColumn
from pgscale.doctor.toast.sampler import sample_column

SHOWN = 5
# Columns that a remedy names, and that are sampled.
NAMED = 10
# The LIMIT of the query.
KEPT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Methods:
    """What this build of the server can compress with, beside pglz."""

    has_lz4: bool


COLUMNS = Section(area="toast", query="columns", row=ToastColumn)
METHODS = Section(area="toast", query="methods", row=Methods)
READS = Counters(area="toast", query="reads")


def _tables(facts: Facts, least_bytes: int) -> list[list[ToastColumn]]:
    """The columns of each table with so much outside its rows, the largest table first."""
    tables = [list(columns) for _, columns in groupby(facts.rows(COLUMNS), key=lambda each: each.oid)]
    return [each for each in tables if each[0].toast_pages * facts.server.block_bytes >= least_bytes]


# How it is stored


def judge_compression(facts: Facts, limits: Limits) -> Answer:
    """Report columns whose long values could be stored better: by what is set, or by what a sample shows."""
    if facts.server.is_in_recovery:
        raise NotReadableError("what a standby has is stored by its primary", "Ask there.")
    least = limits.toast.least_bytes
    tables = _tables(facts, least)
    if not tables:
        return Well(f"No table has {format_bytes(least)} or more outside its rows.")
    return _sampled(facts, limits, tables) if facts.may_sample else _unsampled(facts, tables)


def _unsampled(facts: Facts, tables: list[list[ToastColumn]]) -> Answer:
    default = facts.setting("default_toast_compression").value
    if not facts.row(METHODS).has_lz4:
        return Well("Long values are compressed by pglz; this build of the server has nothing else.")
    by_pglz = [[each for each in table if each.is_compressed and each.method(default) == "pglz"] for table in tables]
    by_pglz = [each for each in by_pglz if each]
    if not by_pglz:
        return Well("New long values are compressed by lz4, or not at all.")
    first = by_pglz[0][0]
    size = format_bytes(first.toast_pages * facts.server.block_bytes)
    others = f" So are {len(by_pglz) - 1:,} more tables." if len(by_pglz) > 1 else ""
    columns = [each for table in by_pglz for each in table]
    remedies = [
        Remedy(
            text=f"pgscale doctor --only {COMPRESSION.id} --sample",
            kind="shell",
            why="Measures first, on a sample: which columns it is, and what each way to store them takes and how long"
            " it takes to read. The role needs SELECT on the columns.",
        ),
        _set_lz4(columns[:NAMED], ""),
        *_anew(first),
    ]
    finding = Finding(
        check=COMPRESSION.id,
        severity="info",
        subject=str(first.table),
        fact=f"{size} of {first.table} lie outside its rows, and what is new there is compressed by pglz.{others}",
        evidence={
            "default_toast_compression": default,
            "columns": [_of_statistics(facts, each, default) for each in columns[:SHOWN]],
        },
        cost="lz4 is decompressed several times as fast, and takes about the same room: every read of such a value"
        " waits for it.",
        remedies=tuple(remedies),
    )
    return Findings((finding,))


def _of_statistics(facts: Facts, column: ToastColumn, default: str) -> dict[str, Json]:
    page = facts.server.block_bytes
    return {
        "column": f"{column.table}.{column.name}",
        "type": column.type_name,
        "storage": STORAGES[column.storage],
        "compression": column.method(default),
        "mean_in_row_bytes": column.width,
        "toast_of_table_bytes": column.toast_pages * page,
        # Full chunks go four to a page.
        "of_that_in_use_at_most_bytes": min(column.toast_pages, -(-int(column.chunks) // 4)) * page,
    }


def _sampled(facts: Facts, limits: Limits, tables: list[list[ToastColumn]]) -> Answer:
    """Judge by samples; where nothing is found, it is told what could not be read."""
    has_lz4 = facts.row(METHODS).has_lz4
    default = facts.setting("default_toast_compression").value
    findings: list[Finding] = []
    refused: list[NotReadableError] = []
    read: list[str] = []
    for column in [each for table in tables for each in table][:NAMED]:
        try:
            sample = facts.sampled(
                f"{column.oid} {column.name}",
                lambda session, column=column: sample_column(
                    session, column, limits.toast.sample_rows, has_lz4=has_lz4
                ),
            )
        except NotReadableError as error:
            refused.append(error)
            continue
        if sample.not_compared:
            because = f"{column.table}.{column.name} could not be stored in other ways: {sample.not_compared}"
            refused.append(NotReadableError(because, sample.hint))
        read.append(
            f"{column.table}.{column.name}: {format_bytes(sample.total_bytes(column.rows))},"
            f" {format_bytes(sample.mean_bytes)} a value"
        )
        if (finding := _of_sample(limits, column, sample, default)) is not None:
            findings.append(finding)
    if findings:
        findings.sort(key=lambda each: int(str(each.evidence["stored_bytes"])), reverse=True)
        return Findings(tuple(findings))
    if refused:
        raise refused[0]
    return Well(f"By a sample no other way to store them is better: {'; '.join(read[:SHOWN])}.")


def _of_sample(limits: Limits, column: ToastColumn, sample: Sample, default: str) -> Finding | None:
    """Say which way would be better, if one is."""
    stored, pglz, lz4, external = (sample.form(name) for name in (AS_STORED, "pglz", "lz4", "external"))
    thresholds = limits.toast
    if stored is None or pglz is None or external is None:
        return None
    best = min(form.bytes for form in (pglz, lz4) if form is not None)
    target = f"{column.table}.{column.name}"
    remedies: tuple[Remedy, ...] = ()
    if column.is_compressed and best >= external.bytes * (1 - thresholds.least_saving_share):
        fact = f"Compression saves {1 - best / external.bytes:.0%} of {target}: its values cannot be made smaller."
        cost = "Every write tries to compress them in vain."
        remedies = (_set_storage(column, "EXTERNAL", external, stored), *_side_table(column))
    elif not column.is_compressed and best <= external.bytes / 2:
        better = lz4 if lz4 is not None and lz4.bytes == best else pglz
        fact = f"{target} is stored uncompressed, and compression would save {1 - best / external.bytes:.0%} of it."
        cost = "It takes disk and cache, unless parts of values are read: only uncompressed ones can be cut from."
        remedies = (_set_storage(column, "EXTENDED", better, stored), *_anew(column))
    elif sample.pglz * 2 > sample.values or (column.is_compressed and column.method(default) == "pglz"):
        if lz4 is None or not _is_better(limits, lz4, pglz):
            return None
        fact = (
            f"{target} is compressed by pglz; by lz4 its long values take {_times(lz4.bytes, pglz.bytes)} the room,"
            f" and are read in {_times(lz4.read_s, pglz.read_s)} the time."
        )
        cost = "Every read of such a value waits until it is decompressed."
        is_set = column.method(default) == "lz4"
        remedies = (
            *(() if is_set else (_set_lz4([column], _compared(lz4, stored)),)),
            *_anew(column),
            *_side_table(column),
        )
    else:
        return None
    return Finding(
        check=COMPRESSION.id,
        severity="info",
        subject=target,
        fact=fact,
        evidence={
            **sample.to_json(column),
            "long_values": sample.long_values,
            "compared": [
                {"stored": form.name, "size_bytes": form.bytes, "read_s": form.read_s} for form in sample.forms
            ],
        },
        cost=cost,
        remedies=remedies,
    )


def _is_better(limits: Limits, new: Form, old: Form) -> bool:
    """Smaller by a share that counts, or quicker by enough and not much larger."""
    saving = 1 - new.bytes / max(1, old.bytes)
    is_quicker = new.read_s * limits.toast.faster_times <= old.read_s
    return saving >= limits.toast.least_saving_share or (is_quicker and -saving <= limits.toast.most_larger_share)


def _times(new: float, old: float) -> str:
    return f"{new / old:.2f} times" if old else "the same"


def _compared(new: Form, old: Form) -> str:
    return (
        f" In the sample: {format_bytes(old.bytes)} before, {format_bytes(new.bytes)} after; read in"
        f" {format_duration(old.read_s)} before, {format_duration(new.read_s)} after."
    )


# What to do


def _set_lz4(columns: list[ToastColumn], measured: str) -> Remedy:
    return Remedy(
        text=ddl.set_compression([(each.table, each.name) for each in columns], "lz4"),
        why=f"For values that are written from now on; those that are there stay as they are.{measured} Locks out"
        " everybody for a moment.",
    )


def _set_storage(column: ToastColumn, storage: str, new: Form, old: Form) -> Remedy:
    why = "Not compressed any more: cheaper to write, and parts of a value are read without the rest."
    if storage == "EXTENDED":
        why = "Compressed from now on."
    text = ddl.set_column_storage(column.table, column.name, "EXTERNAL" if storage == "EXTERNAL" else "EXTENDED")
    return Remedy(text=text, why=f"{why} Values that are there stay as they are.{_compared(new, old)}")


def _anew(column: ToastColumn) -> tuple[Remedy, ...]:
    """Write what is there anew; materialized views are refreshed instead."""
    if column.is_materialized:
        text = ddl.refresh(column.table)
        why = (
            "Computes it anew. What is computed is compressed as is set now; what is taken from a table as it is keeps"
            " the compression it has there. Nobody reads the view meanwhile."
        )
        return (Remedy(text=text, why=why),)
    text = ddl.write_anew(column)
    return (
        Remedy(
            text=text,
            why="Writes 1,000 values anew, which then are stored as is set now; repeat until it updates none. VACUUM"
            " FULL, pg_repack and UPDATEs of other columns leave values as they are. Triggers fire, and dead rows come"
            " of it: VACUUM now and then.",
        ),
    )


def _side_table(column: ToastColumn) -> tuple[Remedy, ...]:
    """Move the column to a table of its own; needs a key, and an application that knows."""
    if not column.key or column.is_materialized or column.name in column.key:
        return ()
    return (
        Remedy(
            text=ddl.side_table(column.table, column.key, column.name),
            why="A table of its own, for an application that cannot leave the column out of what it selects. It must"
            " know beforehand; nobody writes meanwhile; the room comes back when the rows are written anew.",
        ),
    )


# How much is read


def judge_reads(facts: Facts, limits: Limits) -> Answer:
    """Report tables of which much is read outside the rows."""
    thresholds = limits.toast
    delta = facts.delta(READS)
    before = [
        each
        for each in facts.earlier(READS)
        if abs((facts.server.read_at - each.taken_at).total_seconds() - delta.seconds) < 0.5
    ]
    # Of what an earlier run left out it is not known what had been read by then.
    known = before[0].rows.keys() if before and len(before[0].rows) >= KEPT else delta.rows.keys()
    heavy: list[tuple[str, float, float, float]] = []
    for key, row in delta.rows.items():
        share = row["fetched"] / max(1.0, row["fetched"] + row["row_fetched"])
        per_s = row["fetched"] / delta.seconds
        if key in known and per_s >= thresholds.least_pages_per_s and share >= thresholds.least_read_share:
            heavy.append((key, per_s, (row["fetched"] - row["hits"]) / delta.seconds, share))
    if not heavy:
        return Well(f"Little is read outside the rows of tables {delta.basis}.")
    heavy.sort(key=lambda each: each[1], reverse=True)
    key, per_s, missed_per_s, share = heavy[0]
    oid, _, name = key.partition(" ")
    columns = [each for each in facts.rows(COLUMNS) if each.oid == int(oid)]
    severity: Severity = "warning" if missed_per_s >= thresholds.warning_disk_pages_per_s else "info"
    others = f" So it is with {len(heavy) - 1:,} more." if len(heavy) > 1 else ""
    default = facts.setting("default_toast_compression").value
    finding = Finding(
        check=READING.id,
        severity=severity,
        subject=name,
        fact=f"{share:.0%} of the pages read of {name} hold long values outside its rows:"
        f" {format_bytes(per_s * facts.server.block_bytes)} a second.{others}",
        evidence={
            "measured": delta.basis,
            "tables": [
                {
                    "table": each.partition(" ")[2],
                    "toast_pages_per_second": asked,
                    "of_them_not_in_shared_buffers": missed,
                    "toast_share": part,
                }
                for each, asked, missed, part in heavy[:SHOWN]
            ],
            "columns": [_of_statistics(facts, each, default) for each in columns[:SHOWN]],
        },
        cost="Long values are fetched for columns that are selected, and only then: SELECT * fetches them all."
        " EXPLAIN does not show it (17: EXPLAIN (ANALYZE, SERIALIZE) does).",
        remedies=_read_less(facts, name, columns, default),
    )
    return Findings((finding,))


def _read_less(facts: Facts, name: str, columns: list[ToastColumn], default: str) -> tuple[Remedy, ...]:
    remedies: list[Remedy] = []
    statements = facts.extension("pg_stat_statements")
    if statements is not None:
        plain = columns[0].table_name if columns else name
        remedies.append(
            Remedy(
                text=ddl.statements_naming(statements.schema, plain),
                why="Who reads it? Name the columns that are needed instead of *, and do not select the long ones.",
            )
        )
    by_pglz = [each for each in columns if each.is_compressed and each.method(default) == "pglz"]
    if by_pglz and facts.row(METHODS).has_lz4 and not facts.server.is_in_recovery:
        remedies.append(_set_lz4(by_pglz[:NAMED], ""))
    for each in [each for each in columns if each.is_compressed][:1]:
        text = ddl.set_column_storage(each.table, each.name, "EXTERNAL")
        why = (
            "When parts of values are read (substr): of uncompressed ones only those pages are fetched. For values that"
            " are written from now on; they take more room."
        )
        remedies.append(Remedy(text=text, why=why))
    for each in columns[:1]:
        remedies += _side_table(each)
    return tuple(remedies)


_CHAPTER = "PostgreSQL, TOAST (Out-of-Line, On-Disk TOAST Storage)"

COMPRESSION = Check(
    id="toast.compression",
    title="Long values",
    question="Could long values be stored better?",
    about=(
        "A row of more than about 2 kB has its longest values compressed and, when that is not enough, moved to the"
        " TOAST table. By pglz, unless default_toast_compression or the column says lz4. What is there says nothing of"
        " what is set: values keep the compression they were written with, also through VACUUM FULL, INSERT … SELECT"
        " and UPDATEs of other columns. The statistics know the size of all a table has outside, of which columns they"
        " do not. With --sample some rows of each column are read (ACCESS SHARE, no wait for a lock above 100 ms, 10 s"
        " at most) and their long values stored by pglz, by lz4 and uncompressed, in temporary tables that are rolled"
        " back: sizes, and times to read them."
    ),
    source=(
        f"{_CHAPTER}; ALTER TABLE (SET COMPRESSION, SET STORAGE). Below 256 MB outside the rows there is little to"
        " gain. By a sample lz4 is called better when it saves a tenth, or reads in 1/1.3 of the time and takes no more"
        " than a quarter more; compression is called vain when it saves less than a tenth. It is never worse than info:"
        " nothing is wrong, something could be better."
    ),
    judge=judge_compression,
    reads=(COLUMNS, METHODS, SETTINGS),
)

READING = Check(
    id="toast.reads",
    title="Long values read",
    question="Is much read outside the rows of tables?",
    about=(
        "A long value outside its row costs when its column is selected, and nothing otherwise: then its chunks are"
        " looked up by an index, fetched and decompressed. Reported are tables most of whose pages read are such, and"
        " many a second, between two runs. Who selects them, no statistics tell: pg_stat_statements shows statements"
        " that name the table. pg_dump and VACUUM read them, too."
    ),
    source=(
        f"{_CHAPTER}; The Cumulative Statistics System (pg_statio_all_tables). 1,000 pages a second are 8 MB to copy"
        " and decompress; a warning when 100 of them are not found in shared_buffers, as for cache.hits."
    ),
    judge=judge_reads,
    reads=(READS, COLUMNS, METHODS, SETTINGS),
)

CHECKS = (COMPRESSION, READING)
