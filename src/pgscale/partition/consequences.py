"""What a run will mean: what changes for the application, and what the operator should know before. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pgscale.catalog.model import TableFacts
from pgscale.core.model import quote_ident
from pgscale.partition.keys import Keys
from pgscale.partition.model import By, Options, Skew
from pgscale.partition.skew import describe_unevenness
from pgscale.partition.swap import self_reference_s


def nullable(facts: TableFacts) -> frozenset[str]:
    """The columns that may hold NULL."""
    return frozenset(c.name for c in facts.columns if not c.not_null)


def primary_grows(facts: TableFacts, keys: Keys) -> bool:
    """Whether the primary key must take in the partition key."""
    return any(i.is_primary and i.oid in keys.grown for i in facts.indexes)


def find_changes(facts: TableFacts, by: By, keys: Keys) -> tuple[str, ...]:
    """What the application will notice after the cut-over."""
    key = ", ".join(quote_ident(c) for c in by.columns)
    changes = [f"Queries without a condition on {key} read every partition, and lock each of them."]
    for index in facts.indexes:
        missing = keys.grown.get(index.oid)
        if missing:
            old = ", ".join(quote_ident(c) for c in index.key_columns)
            new = ", ".join(quote_ident(c) for c in (*index.key_columns, *missing))
            changes.append(
                f"{quote_ident(index.name)} becomes unique on ({new}): ({old}) alone may repeat, cannot be"
                f" referenced by a foreign key, and INSERT … ON CONFLICT ({old}) must name ({new})."
            )
    forced = [c for c in by.columns if primary_grows(facts, keys) and c in nullable(facts)]
    if forced:
        changes.append(f"Column {', '.join(map(quote_ident, forced))} becomes NOT NULL as part of the primary key.")
    changes.append(
        f"An UPDATE of {key} that moves a row to another partition can meet a concurrent change of that row"
        " with error 40001: retry it."
    )
    for trigger in facts.triggers:
        if trigger.is_row and any(
            word in trigger.source.lower() for word in ("tg_table_name", "tg_relid", "tg_relname")
        ):
            changes.append(
                f"Trigger {quote_ident(trigger.name)} reads TG_TABLE_NAME or TG_RELID, which will be the partition."
            )
    for matview in facts.matviews:
        changes.append(
            f"Materialized view {matview.qname} is made again: it shows the rows of the moment before the cut-over,"
            " as after a REFRESH, and has another oid."
        )
    for publication in facts.publications:
        if publication.is_member and not publication.via_root:
            changes.append(
                f"Publication {quote_ident(publication.name)} is set to publish_via_partition_root, so that"
                " subscribers keep seeing one table."
            )
    return tuple(changes)


def find_warnings(facts: TableFacts, options: Options, skew: Skew | None, leaves: int) -> tuple[str, ...]:
    """What the operator should know before the run."""
    warnings: list[str] = []
    uneven = describe_unevenness(skew)
    if uneven is not None:
        warnings.append(uneven)
    if not facts.table.sees_all_sessions:
        warnings.append(
            "Other roles' transactions cannot be seen: one that took its snapshot before the cut-over can read"
            " the table as it was moments earlier (its writes get 40001). GRANT pg_read_all_stats lets the"
            " cut-over wait for them. Without it the replica lag of standbys cannot be seen either, and"
            " --max-replica-lag is not checked."
        )
    return (*warnings, *_self_reference(facts, options, leaves))


def _self_reference(facts: TableFacts, options: Options, leaves: int) -> Iterator[str]:
    """Warn of a lock that grows with the square of the leaves (before PostgreSQL 18), where it can be felt."""
    needed_s = self_reference_s(facts, leaves)
    if needed_s < options.max_block_s / 10:
        return
    also = (
        f" That is beyond --max-block {options.max_block_s * 1000:.0f} ms, so it would be given up."
        if needed_s >= options.max_block_s
        else ""
    )
    yield (
        f"The table references itself: before PostgreSQL 18 its foreign key needs about {needed_s * 1000:.0f} ms of the"
        f" cut-over's lock with {leaves} partitions, the square of their number, and writers wait about as long again"
        f" when it is settled.{also} Make fewer partitions."
    )
