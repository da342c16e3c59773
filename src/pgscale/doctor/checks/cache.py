"""The cache: how often pages are found in shared_buffers, and which tables and indexes are read instead."""

from __future__ import annotations

from dataclasses import dataclass

from pgscale.core.finding import Answer, Finding, Findings, Remedy, Severity, Well
from pgscale.core.model import Json
from pgscale.core.units import format_bytes, format_duration
from pgscale.doctor import ddl
from pgscale.doctor.facts import Counters, Facts, NotReadableError, Section
from pgscale.doctor.limits import Limits
from pgscale.doctor.model import Check
from pgscale.doctor.samples import Delta

SHOWN = 5
# As many relations the query gives at most.
KEPT = 50
MB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Pages of all tables and indexes, as of the last VACUUM or ANALYZE of each."""

    pages: int


DATABASE = Counters(area="cache", query="database")
RELATIONS = Counters(area="cache", query="relations")
SIZE = Section(area="cache", query="size", row=Size)


def judge_hits(facts: Facts, limits: Limits) -> Answer:
    """Report a database that reads many pages from outside shared_buffers.

    Raises:
        NotReadableError: too little was asked for to tell a share.
    """
    thresholds = limits.cache
    facts.reading(RELATIONS)  # kept for the next run, even when there is nothing to compare with now
    counted = facts.delta(DATABASE)
    asked = counted["hits"] + counted["reads"]
    if asked < thresholds.least_pages:
        because = f"only {asked:,.0f} pages were asked for {counted.basis}, too few to tell a share"
        raise NotReadableError(because, "Run it again when there is more to do.")
    share = counted["hits"] / asked
    per_s = counted.per_s("reads")
    if share >= thresholds.least_hit_share or per_s < thresholds.least_reads_per_s:
        few = "" if share >= thresholds.least_hit_share else f" The others are few, {per_s:,.1f} a second."
        return Well(f"{share:.1%} of the pages asked for were in shared_buffers {counted.basis}.{few}")
    mean_s = counted["read_s"] / counted["reads"] if facts.setting("track_io_timing").is_on else None
    quick = mean_s is not None and mean_s < thresholds.most_cached_read_s
    severity: Severity = "info" if quick else "warning"
    if mean_s is None:
        cost = "A page that is not there comes from the disk, or at best from the operating system's cache."
    else:
        cost = f"A page that is not there takes {format_duration(mean_s)} to read" + (
            ": it comes from the operating system's cache." if quick else "."
        )
    finding = Finding(
        check=HITS.id,
        severity=severity,
        subject="shared_buffers",
        fact=f"{1 - share:.1%} of the pages asked for were not in shared_buffers: {per_s:,.0f} a second are read.",
        evidence={
            "hit_share": share,
            "pages_read_per_second": per_s,
            "mean_read_s": mean_s,
            "shared_buffers_bytes": facts.setting("shared_buffers").bytes,
            "database_bytes": facts.row(SIZE).pages * facts.server.block_bytes,
            "measured": counted.basis,
            **_most_read(facts),
        },
        cost=cost,
        remedies=_remedies(facts),
    )
    return Findings((finding,))


def _most_read(facts: Facts) -> dict[str, Json]:
    """The tables and the indexes of which most was read."""
    try:
        delta = facts.delta(RELATIONS)
    except NotReadableError:
        return {}
    found: dict[str, list[Json]] = {"tables": [], "indexes": []}
    for key, reads, share in sorted(_counted(facts, delta), key=lambda each: each[1], reverse=True):
        kind, _, name = key.split(" ", 2)
        shown = found["indexes" if kind == "i" else "tables"]
        if len(shown) < SHOWN:
            shown.append({"name": name, "pages_read": int(reads), "hit_share": share})
    return {kind: rows for kind, rows in found.items() if rows}


def _counted(facts: Facts, delta: Delta) -> list[tuple[str, float, float]]:
    """What was read of each since, at least, and the share that was found.

    A relation that the earlier run did not keep had been read no more than those that it kept.
    """
    ago = (
        each
        for each in facts.earlier(RELATIONS)
        if abs((facts.server.read_at - each.taken_at).total_seconds() - delta.seconds) < 0.5
    )
    before = next(ago, None)
    least = 0.0
    if before is not None and len(before.rows) >= KEPT:
        least = min(row["fetched"] - row["hits"] for row in before.rows.values())
    counted: list[tuple[str, float, float]] = []
    for key, row in delta.rows.items():
        is_new = before is not None and key not in before.rows
        reads = row["fetched"] - row["hits"] - (least if is_new else 0.0)
        if reads > 0:
            counted.append((key, reads, row["hits"] / row["fetched"]))
    return counted


def _remedies(facts: Facts) -> tuple[Remedy, ...]:
    present = facts.setting("shared_buffers").bytes
    database = facts.row(SIZE).pages * facts.server.block_bytes
    tune = Remedy(
        text="pgscale tune",
        kind="shell",
        why="On the server's machine: proposes shared_buffers and all that hangs on it by the memory there is.",
    )
    # No more than the database, and not all at once: the machine's memory cannot be seen from here.
    proposed = -(-min(4 * present, database * 5 // 4) // MB)
    if proposed << 20 <= present:
        return (tune,)
    raise_it = Remedy(
        text=ddl.alter_system("shared_buffers", f"{proposed}MB"),
        kind="setting",
        why=f"When {format_bytes(proposed << 20)} are at most a quarter of the machine's memory.",
        restart=True,
    )
    return (raise_it, tune)


HITS = Check(
    id="cache.hits",
    title="Cache",
    question="Are many pages read from outside shared_buffers?",
    about=(
        "A page that is not in shared_buffers is read from the operating system: from its cache, or from the disk."
        " track_io_timing tells which, by the time it takes. The share of pages that were found is that of this"
        " database, since an earlier run; beside it stand the tables and indexes of which most was read. A scan of a"
        " table that is larger than all caches reads it, whatever shared_buffers is: look at such queries first."
    ),
    source=(
        "PostgreSQL, Resource Consumption (shared_buffers: a quarter of the memory to start with). The share is a"
        " habit of those who run databases for transactions, who see 99 %; what counts is how much is read: fewer than"
        " 100 pages a second no disk notices, and of fewer than 10,000 pages no share is told."
    ),
    judge=judge_hits,
    reads=(DATABASE, RELATIONS, SIZE),
)

CHECKS = (HITS,)
