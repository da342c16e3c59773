"""Which strategy fits a table and what is asked, and why: what `--strategy auto` decides. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pgscale.core.model import quote_ident
from pgscale.core.units import format_bytes, format_count, format_duration
from pgscale.livecopy.sampler import HoldLimits
from pgscale.partition.model import By, Pace

# Every strategy that there is stands here, or `auto` would never choose it.
PREFERENCE = ("mirror", "attach", "move")
# A run holds when less than this is free; what it needs comes on top.
RESERVE_BYTES = int(HoldLimits(replica_lag_s=0.0).free_disk_bytes)
# What the application writes meanwhile lies in the log and grows the copy.
MEANWHILE = 1.1
# `move` gives the old table's tail back as it goes: beside its rows a small part of them, and the new indexes.
MOVE_SHARE = 0.15
# docs/benchmarks/partition.md: a mirror kept up with 1,543 changed rows a second. Beyond three times that it is not
# known whether it does.
MOST_WRITES_PER_S = 5_000.0
# A mirror that may take longer than this is better done without copying, where that is possible.
LONGEST_S = 3 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """Free space where the copy would lie, bytes; None when it is not known.

    Args:
        source: what says so, or why it is not known, to stand after `because`.
    """

    free_bytes: int | None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Statements:
    """Calls of statements that a view in the table's place would not carry, as pg_stat_statements counts them."""

    on_conflict: int
    row_locks: int
    truncates: int
    hidden: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What the choice is made from.

    Args:
        table_bytes: the table with its indexes and TOAST; index_bytes: its indexes alone.
        copy_bytes, longest_s: what a mirror needs at most, by the plan's own estimate.
        grown: unique keys that would have to take in the partition key; grown_bytes: what they take now.
        incoming: foreign keys of other tables (or itself) that reference this one.
        statements: None when they could not be read; `why_no_statements` says why.
        writes_per_s: rows inserted, updated and deleted a second; None when not known.
        available: the strategies that there are.
    """

    by: By
    pace: Pace
    table_bytes: int
    index_bytes: int
    copy_bytes: int
    longest_s: float
    disk: Disk
    grown: tuple[str, ...]
    grown_bytes: int
    incoming: int
    statements: Statements | None
    why_no_statements: str
    writes_per_s: float | None
    available: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The strategies that fit, the best first, and why.

    Args:
        reasons: what was looked at, each a sentence with its numbers.
        picked_because: for each strategy in `order`, why it is (or would be) the one.
        excluded: why each other strategy does not fit.
    """

    order: tuple[str, ...]
    reasons: tuple[str, ...]
    picked_because: tuple[str, ...]
    excluded: tuple[str, ...]


def decide(c: Circumstances) -> Decision:
    """Return the strategies that fit, best first; none when nothing fits.

    A mirror comes first where it fits: every row is compared, all rows lie in their partitions, and `undo` loses
    nothing. Attaching comes first where copying is too much; moving only where nothing else fits.
    """
    excluded: dict[str, str] = {}
    for name, why in _exclusions(c):
        if name in c.available:
            excluded.setdefault(name, why)
    fitting = [name for name in PREFERENCE if name in c.available and name not in excluded]
    burden = _burden(c)
    if burden and "attach" in fitting and "mirror" in fitting:
        fitting.remove("mirror")
        fitting.insert(fitting.index("attach") + 1, "mirror")
    return Decision(
        order=tuple(fitting),
        reasons=tuple(_facts(c)),
        picked_because=tuple(_why(name, fitting, excluded, burden) for name in fitting),
        excluded=tuple(f"{name}: {why}" for name, why in excluded.items()),
    )


def _why(name: str, fitting: list[str], excluded: dict[str, str], burden: str) -> str:
    if name == "mirror":
        if "attach" in excluded or "attach" not in fitting:
            return "mirror copies beside the live table and can go back with every write."
        return (
            "mirror puts every row into its partition and can go back with every write;"
            " attach would leave the old rows in one."
        )
    if name == "attach":
        instead = excluded.get("mirror") or burden
        return f"attach moves no row{f'; for mirror, {instead}' if instead else ''}"
    others = "; ".join(f"{other}: {why}" for other, why in excluded.items())
    return f"move needs the least disk{f' ({others})' if others else ''}"


def needed_bytes(c: Circumstances, strategy: str) -> int:
    """Return the free disk that a strategy needs before it begins."""
    match strategy:
        case "mirror":
            return round(c.copy_bytes * MEANWHILE) + RESERVE_BYTES
        case "move":
            return c.index_bytes + round(c.table_bytes * MOVE_SHARE) + RESERVE_BYTES
        case _:
            # Attaching builds nothing but the keys that grow.
            return round(c.grown_bytes * MEANWHILE) + RESERVE_BYTES if c.grown else 0


def _exclusions(c: Circumstances) -> Iterator[tuple[str, str]]:
    """Yield what cannot be, the first reason a strategy."""
    free = c.disk.free_bytes
    if c.by.method == "hash":
        yield "attach", "a hash has no partition that could hold the table as it is."
    for name in ("mirror", "attach", "move"):
        needed = needed_bytes(c, name)
        if free is not None and free < needed:
            yield name, f"it needs {format_bytes(needed)} of free disk, and there are {format_bytes(free)}."
    yield from _move_exclusions(c)


def _move_exclusions(c: Circumstances) -> Iterator[tuple[str, str]]:
    if c.incoming:
        yield "move", f"{format_count(c.incoming, 'foreign key')} could not reference a view."
    if c.statements is None:
        yield "move", f"whether ON CONFLICT is in use is not known, because {c.why_no_statements}."
        return
    used = [
        f"{format_count(calls, 'call')} of {what}"
        for calls, what in (
            (c.statements.on_conflict, "INSERT … ON CONFLICT (42P10)"),
            (c.statements.row_locks, "SELECT … FOR UPDATE or SHARE"),
            (c.statements.truncates, "TRUNCATE"),
        )
        if calls
    ]
    if used:
        yield "move", f"while it moves, a view stands in for the table, which does not carry {', '.join(used)}."
    elif c.statements.hidden:
        yield (
            "move",
            f"the text of {format_count(c.statements.hidden, 'statement')} of other roles is hidden from this login.",
        )


def _burden(c: Circumstances) -> str:
    """Return why copying is a burden though it is possible; empty when it is none."""
    if c.longest_s > LONGEST_S:
        return f"copying takes some {format_duration(c.longest_s)} at worst at pace {c.pace}."
    if c.writes_per_s is not None and c.writes_per_s > MOST_WRITES_PER_S:
        return (
            f"{c.writes_per_s:,.0f} rows a second would be written a second time; it is known to keep up with"
            f" {MOST_WRITES_PER_S:,.0f}."
        )
    return ""


def _facts(c: Circumstances) -> Iterator[str]:
    key = ", ".join(map(quote_ident, c.by.columns))
    could = "; the table as it is could be attached as one partition" if "attach" in c.available else ""
    yield f"Key: {c.by.method} by {key}{could if c.by.method != 'hash' else ''}."
    copy, free = format_bytes(needed_bytes(c, "mirror")), c.disk.free_bytes
    if free is None:
        yield (
            f"Disk: a copy needs {copy} free; how much is free is not known, because {c.disk.source}."
            " Look, or tell it with --free-disk."
        )
    else:
        enough = "enough" if free >= needed_bytes(c, "mirror") else "too little"
        yield (
            f"Disk: the table has {format_bytes(c.table_bytes)}; a copy needs {copy} free;"
            f" {format_bytes(free)} are free ({c.disk.source}): {enough}."
        )
    if c.statements is None:
        yield f"ON CONFLICT, FOR UPDATE, TRUNCATE: not known, because {c.why_no_statements}."
    else:
        s = c.statements
        yield (
            f"Statements: {format_count(s.on_conflict, 'call')} with ON CONFLICT,"
            f" {s.row_locks:,} with FOR UPDATE or SHARE, {s.truncates:,} TRUNCATE"
            + (
                f"; the text of {format_count(s.hidden, 'statement')} of other roles is hidden from this login."
                if s.hidden
                else "."
            )
        )
    yield f"Foreign keys that reference the table: {c.incoming}."
    grown = ", ".join(map(quote_ident, c.grown))
    yield f"Unique keys that must grow by the partition key: {grown or 'none'}."
    rate = "not known" if c.writes_per_s is None else f"{c.writes_per_s:,.1f} rows a second"
    yield f"Writes: {rate}; copying takes some {format_duration(c.longest_s)} at worst at pace {c.pace}."
