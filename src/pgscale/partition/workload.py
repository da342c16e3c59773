"""Which statements of the application would not be pruned: the judging of all of them, and what is said. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pgscale.core.model import QName
from pgscale.partition.model import By, JudgedStatement, Verdict, Workload

MOST_SHOWN = 5
MOST_TEXT = 160


class ParserMissingError(Exception):
    """sqlglot is not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedStatement:
    """A row of pg_stat_statements, summed over users."""

    text: str
    calls: int
    total_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What a statement does to the table beside reading it by a condition, as far as its text tells.

    Args:
        on_conflict: it is an INSERT … ON CONFLICT into the table.
        arbiters: the sets of columns that its ON CONFLICT clauses name.
        locks_rows: SELECT … FOR UPDATE or SHARE.
        truncates: TRUNCATE.
        sets: columns whose values it changes.
        deletes_below: columns by whose upper bound it deletes rows (`DELETE … WHERE at < $1`).
    """

    statement: CountedStatement
    on_conflict: bool = False
    arbiters: frozenset[frozenset[str]] = frozenset()
    locks_rows: bool = False
    truncates: bool = False
    sets: frozenset[str] = frozenset()
    deletes_below: frozenset[str] = frozenset()


def judge(
    table: QName, columns: frozenset[str], by: By, statements: tuple[CountedStatement, ...]
) -> tuple[JudgedStatement, ...]:
    """Return each statement with its verdict; whatever cannot be read is `not understood`.

    Args:
        columns: all columns of the table; by: its key to be.

    Statements that only seemed to mention the table are left out.

    Raises:
        ParserMissingError: sqlglot is not installed.
    """
    return look_at(table, columns, (by,), statements).judged[0]


def find_uses(table: QName, columns: frozenset[str], statements: tuple[CountedStatement, ...]) -> tuple[Use, ...]:
    """Return what each statement does to the table beside reading it; those not understood are left out.

    Raises:
        ParserMissingError: sqlglot is not installed.
    """
    return look_at(table, columns, (), statements).uses


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a look at many statements found: for each key the judged statements, and what they do besides."""

    judged: tuple[tuple[JudgedStatement, ...], ...]
    uses: tuple[Use, ...]


def look_at(
    table: QName, columns: frozenset[str], keys: tuple[By, ...], statements: tuple[CountedStatement, ...]
) -> Look:
    """Judge each statement for each of several keys, and find what it does besides; every text is parsed once.

    Raises:
        ParserMissingError: sqlglot is not installed.
    """
    try:
        from pgscale.partition import pruning, uses  # noqa: PLC0415 because only this needs sqlglot
        from pgscale.sql import parsing  # noqa: PLC0415 because it loads sqlglot, too
    except ImportError:
        raise ParserMissingError from None
    judged: list[list[JudgedStatement]] = [[] for _ in keys]
    found: list[Use] = []
    targets = [pruning.Target(table=table, columns=columns, by=by) for by in keys]
    for statement in statements:
        parsed = parsing.parse_text(statement.text)
        use = uses.find_use(table, columns, statement, parsed)
        found += [use] if use is not None else []
        shown, lower = " ".join(statement.text.split()), statement.text.lower()
        # All keys that the text does not name fare alike, NATURAL joins included: one verdict will do.
        unnamed: list[Verdict | None] = []
        for target, kept in zip(targets, judged, strict=True):
            is_named = any(_as_quoted(c) in lower for c in target.by.columns)
            verdict: Verdict | None = pruning.judge(target, parsed) if is_named or not unnamed else unnamed[0]
            if not is_named:
                unnamed.append(verdict)
            if verdict is not None:
                kept.append(
                    JudgedStatement(text=shown, calls=statement.calls, total_ms=statement.total_ms, verdict=verdict)
                )
    return Look(judged=tuple(map(tuple, judged)), uses=tuple(found))


def _as_quoted(name: str) -> str:
    return name.replace('"', '""').lower()


def describe(workload: Workload, leaves: int) -> tuple[str, ...]:
    """Return the warnings: how many statements are not pruned, and those that take the most time."""
    unpruned = [s for s in workload.statements if s.verdict == "unpruned"]
    warnings: list[str] = []
    if unpruned:
        share = sum(map(workload.share, unpruned))
        has = "has" if len(unpruned) == 1 else "have"
        since = f" since {workload.since}" if workload.since else ""
        warnings.append(
            f"{len(unpruned)} of {len(workload.statements)} statements on this table {has} no condition on the"
            f" partition key, so each execution reads all {leaves} partitions:"
            f" {sum(s.calls for s in unpruned):,} calls, {share:.0%} of their time{since}."
        )
        for statement in unpruned[:MOST_SHOWN]:
            text = statement.text if len(statement.text) <= MOST_TEXT else f"{statement.text[: MOST_TEXT - 1]}…"
            warnings.append(
                f"Not pruned: {statement.calls:,} calls, mean {statement.mean_ms:.3g} ms,"
                f" {workload.share(statement):.0%} of the time: {text}"
            )
        if len(unpruned) > MOST_SHOWN:
            warnings.append(f"Not pruned: {len(unpruned) - MOST_SHOWN} more statements (--json names them all).")
    return tuple(warnings)


def summarize(workload: Workload) -> str:
    """Return one sentence that says how many statements were judged, and how."""
    count = workload.count
    return (
        f"Of {len(workload.statements)} statements on this table in pg_stat_statements {count('pruned')} are pruned,"
        f" {count('unpruned')} are not, {count('depends')} may be, by the plan of a join or subquery,"
        f" {count('no rows read')} read no rows by a condition, {count('not understood')} were not understood."
    )


def find_unjudged(workload: Workload) -> tuple[str, ...]:
    """Return what was not judged, each a sentence with its number."""
    found: list[str] = []
    if unclear := workload.count("not understood"):
        found.append(f"{_were(unclear, 'on this table')} not checked, because pgscale does not understand the text.")
    if workload.hidden:
        found.append(
            f"{_were(workload.hidden, 'of other roles')} not checked, because the text is hidden"
            " (<insufficient privilege>); GRANT pg_read_all_stats shows it."
        )
    if workload.via_views:
        reads = "it reads" if workload.via_views == 1 else "they read"
        found.append(f"{_were(workload.via_views)} not checked, because {reads} the table through a view.")
    if workload.left_out:
        found.append(f"{_were(workload.left_out)} not checked, because all others take more time.")
    return tuple(found)


def _were(count: int, which: str = "") -> str:
    words = ("statement", "was") if count == 1 else ("statements", "were")
    return " ".join(w for w in (f"{count:,}", words[0], which, words[1]) if w)
