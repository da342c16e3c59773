"""Say what lint has found, for a person."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from pgscale.core.model import shorten
from pgscale.core.units import format_bytes, format_count, format_duration
from pgscale.doctor.lint.model import Placed
from pgscale.doctor.lint.result import FileResult, Result, shown_locks
from pgscale.doctor.lint.view import READ_BYTES_S, WRITE_BYTES_S, View
from pgscale.doctor.locks.modes import mode_name

WIDTH = 118
MARKS = {"critical": "✗", "warning": "!", "info": "·"}


def page(result: Result) -> str:
    """Return the whole answer: a line a statement with its locks, then the findings, then what it rests on."""
    return "\n".join(_lines(result))


def _lines(result: Result) -> Iterator[str]:
    for each in result.files:
        yield each.seen.file + (f" ({each.seen.note})" if each.seen.note else "")
        yield from _statements(each)
        for placed in each.findings:
            yield from _finding(placed)
        yield ""
    yield from _rests_on(result)
    yield _sum(result)


def _statements(each: FileResult) -> Iterator[str]:
    for view in each.views:
        seen = view.seen
        if seen.tag in {"BEGIN", "COMMIT", "END", "SET", "ROLLBACK"} and not seen.locks and seen.error is None:
            continue
        yield f"  {seen.statement.line:>4}  {shorten(seen.statement.text, 100)}"
        if seen.skipped:
            yield from _wrapped("          not run, because ", seen.skipped)
        for relation, lock, is_new in shown_locks(view):
            what = ", new" if is_new else _work(view, relation.oid)
            name = relation.shown if is_new else view.named(relation)
            yield f"          {mode_name(lock.mode)} on {name}{what}{' (asked for)' if lock.awaited else ''}"


def _work(view: View, oid: int) -> str:
    relation = view.seen.before.get(oid)
    if relation is None:
        return ""
    now = view.seen.after.get(oid)
    if view.is_rewritten(relation, now):
        return ", written anew"
    if now is not None and view.built_indexes(now):
        return ", index built"
    return ", read from first to last row" if oid in view.seen.scans else ""


def _finding(placed: Placed) -> Iterator[str]:
    finding = placed.finding
    yield from _wrapped(f"{MARKS[finding.severity]} {placed.file}:{placed.line}: {finding.check}: ", finding.fact)
    if finding.cost:
        yield from _wrapped("    ", finding.cost)
    for number, remedy in enumerate(finding.remedies):
        if remedy.why:
            yield from _wrapped("    Or: " if number else "    Instead: ", remedy.why)
        yield from (f"      {line}" for line in remedy.text.splitlines())


def _rests_on(result: Result) -> Iterator[str]:
    for note in result.notes:
        yield from _wrapped("Note: ", note)
    live = result.live
    major = result.scratch_version // 10_000
    if not live.is_known:
        yield from _wrapped(
            "",
            f"Seen on PostgreSQL {major}, in a scratch database with what the files make. Sizes are not known, and"
            " every"
            " table that was there before its file is taken for a large one in use; --dsn tells.",
        )
        return
    other = f" (it is PostgreSQL {live.version // 10_000})" if live.version // 10_000 != major else ""
    yield from _wrapped(
        "",
        f"Seen on PostgreSQL {major}, in a scratch copy of the schema of {live.database}{other}. Times are for"
        f" {format_bytes(READ_BYTES_S)}/s read and {format_bytes(WRITE_BYTES_S)}/s written, and no wait for locks.",
    )
    for holder in live.holders[:5]:
        who = holder.state if holder.pid is None else f"{holder.pid} ({holder.state})"
        yield (
            f"In the way now: {who} has held {mode_name(holder.mode)} on {holder.table} in a transaction of"
            f" {format_duration(holder.age_s)}."
        )


def _sum(result: Result) -> str:
    found = result.findings
    if not found:
        return f"{format_count(len(result.files), 'file')}: nothing is wrong."
    critical = sum(placed.finding.severity == "critical" for placed in found)
    return f"{format_count(len(found), 'finding')}, {critical} of them critical."


def _wrapped(head: str, text: str) -> Iterator[str]:
    indent = " " * (len(head) - len(head.lstrip()) + 4)
    yield from textwrap.wrap(
        text, WIDTH, initial_indent=head, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
