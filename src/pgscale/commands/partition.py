"""`pgscale partition …`: call the room, say the answer for a person and as JSON."""

from __future__ import annotations

from collections.abc import Callable

from pgscale import partition
from pgscale.core.model import Json, Report, Watch
from pgscale.core.units import format_bytes, format_duration
from pgscale.errors import RefusedError
from pgscale.partition import Options, RunPlan, RunResult, RunStatus

MOST_STEPS_SHOWN = 40


def plan(dsn: str | None, table: str, options: Options, *, verbose: bool) -> Report:
    """Show every step of a run; what would be refused is part of the answer and makes exit code 4."""
    try:
        made = partition.plan(dsn, table, options)
    except RefusedError as error:
        if not error.reasons:
            raise
        data: Json = {"table": table, "options": options.to_json(), "refused": list(error.reasons)}
        lines = [error.fact, *(f"  - {reason}" for reason in error.reasons), "Nothing was changed."]
        return Report(data=data, text="\n".join(lines), exit_code=error.exit_code)
    return Report(data=made.to_json(), text=_plan_text(made, verbose=verbose))


def run(dsn: str | None, table: str, options: Options, watch: Watch) -> Report:
    return _report(partition.run(dsn, table, options, watch))


def resume(dsn: str | None, table: str, watch: Watch) -> Report:
    return _report(partition.resume(dsn, table, watch))


def cutover(dsn: str | None, table: str, watch: Watch) -> Report:
    return _report(partition.cutover(dsn, table, watch))


def pause(dsn: str | None, table: str) -> Report:
    return _report(partition.pause(dsn, table))


def abort(dsn: str | None, table: str, watch: Watch) -> Report:
    return _report(partition.abort(dsn, table, watch))


def undo(dsn: str | None, table: str, watch: Watch) -> Report:
    return _report(partition.undo(dsn, table, watch))


def finish(dsn: str | None, table: str, watch: Watch) -> Report:
    return _report(partition.finish(dsn, table, watch))


def status(dsn: str | None, table: str | None) -> Report:
    """List the runs of the database, or of one table."""
    rows = partition.status(dsn, table)
    text = "\n\n".join(_status_text(row) for row in rows) or "No runs."
    return Report(data={"runs": [row.to_json() for row in rows]}, text=text)


_ENDINGS = {
    "cut-over": "is partitioned. The old table is kept as {retained}: `finish` drops it, `undo` goes back to it.",
    "undone": "is the old table again, with every write made since; nothing of the run is left.",
    "aborted": "is as it was; nothing of the run is left.",
    "finished": "is partitioned for good; the old table and every trace of the run are gone.",
    "paused": "is paused after its present chunk; `resume` goes on.",
    "running": "goes on.",
}


def _report(result: RunResult) -> Report:
    ending = _ENDINGS.get(result.state, f"is {result.state}.").format(retained=result.retained_table)
    lines = [f"{result.table} {ending}"]
    if result.state == "cut-over":
        lines += [
            f"  rows copied    {result.rows_copied:>14,}",
            f"  rows applied   {result.rows_applied:>14,}",
            f"  rows checked   {result.rows_checked:>14,}   mismatches {result.mismatches}",
            f"  longest block  {result.blocked_ms:>11.0f} ms   attempts {result.attempts}",
            f"  duration       {format_duration(result.duration_s):>14}",
        ]
    return Report(data=result.to_json(), text="\n".join(lines), exit_code=1 if result.mismatches else 0)


def _status_text(row: RunStatus) -> str:
    result = row.result
    share = f", {row.pages_copied / row.pages_total:.0%} copied" if row.pages_total else ""
    lines = [
        f"{result.table}: {result.state}, phase {row.phase}{share}",
        f"  {'a live process owns the run' if row.is_live else 'no process works on it'}"
        f"; run {result.run_id}, {format_duration(result.duration_s)} of work",
        f"  {result.rows_copied:,} rows copied, {result.rows_applied:,} applied, {result.rows_checked:,} checked,"
        f" {result.mismatches} mismatches, {format_bytes(row.backlog_bytes)} of log",
        f"  next: {row.next_step}",
    ]
    if row.note:
        lines.insert(2, f"  {row.note}")
    return "\n".join(lines)


def _plan_text(made: RunPlan, *, verbose: bool) -> str:
    lines = [
        f"Plan: {made.table} → {len(made.leaves)} partitions ({made.options.by}), strategy {made.strategy}",
        "",
    ]
    shown = made.leaves if verbose or len(made.leaves) <= 6 else (*made.leaves[:3], None, *made.leaves[-2:])
    for leaf in shown:
        lines.append(f"  {leaf.name}  {leaf.bound}" if leaf is not None else f"  … {len(made.leaves) - 5} more")
    if made.estimate is not None:
        e = made.estimate
        lines += [
            "",
            f"Needs up to {format_bytes(e.disk_bytes)} of disk until `finish`, writes"
            f" {_span(e.least_wal_bytes, e.wal_bytes, format_bytes)} of WAL, and takes"
            f" {_span(e.least_duration_s, e.duration_s, format_duration)} for {e.rows:,} rows.",
            "  " + ", ".join(f"{p.name} {_span(p.least_s, p.most_s, format_duration)}" for p in e.phases),
            f"  {e.basis}",
        ]
    if made.skew is not None and made.skew.rows_per_leaf:
        rows = [count for _, count in made.skew.rows_per_leaf]
        lines.append(
            f"Rows per partition: {min(rows):,} to {max(rows):,}, largest {made.skew.largest_over_mean:.2f} × the mean"
            f" ({made.skew.basis})."
        )
    elif made.skew is not None:
        lines.append(
            f"Rows per partition: at most {made.skew.largest_rows:,} in the largest,"
            f" {made.skew.largest_over_mean:.2f} × the mean ({made.skew.basis})."
        )
    if made.workload is not None:
        lines.append(partition.summarize(made.workload))
    lines += ["", "Steps"]
    folded = 0
    for step in made.steps:
        if step.kind == "index" and not verbose:
            folded += 1
            if folded > 1:
                continue
        lines.append(f"  {step.id}: {step.title}")
        lines.append(f"      lock {step.lock}; waits: {step.longest_wait}; because: {step.reason}")
        limit = None if verbose else 3
        lines += [f"      | {_short(s, verbose)}" for s in step.sql[:limit]]
        if limit is not None and len(step.sql) > limit:
            lines.append(f"      | … {len(step.sql) - limit} more statements (--verbose)")
        if step.undo:
            lines.append(f"      undo: {_short(step.undo[0], verbose)}{' …' if len(step.undo) > 1 else ''}")
    if folded > 1:
        lines.append(f"  … and the indexes of {folded - 1} more partitions alike")
    if made.changes:
        lines += ["", "What changes for the application", *(f"  - {c}" for c in made.changes)]
    if made.unchecked:
        lines += ["", "Not checked", *(f"  ? {u}" for u in made.unchecked)]
    if made.warnings:
        lines += ["", "Warnings", *(f"  ! {w}" for w in made.warnings)]
    lines += ["", "Nothing was changed. `pgscale partition run` with the same arguments carries this out."]
    return "\n".join(lines)


def _span(least: float, most: float, form: Callable[[float], str]) -> str:
    low, high = form(least), form(most)
    return low if low == high else f"{low} to {high}"


def _short(statement: str, verbose: bool) -> str:
    one_line = " ".join(statement.split())
    return one_line if verbose or len(one_line) <= 160 else one_line[:157] + "…"
