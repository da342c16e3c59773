"""`pgscale partition …`: call the room, say the answer for a person and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pgscale import partition
from pgscale.commands import FILE_NAME
from pgscale.core.model import Json, Report, Watch
from pgscale.core.units import format_bytes, format_duration, format_eta
from pgscale.errors import RefusedError
from pgscale.partition.model import Estimate, Options, RunResult, RunStatus
from pgscale.partition.strategies import RunPlan

if TYPE_CHECKING:
    from pgscale.partition import Rehearsal, SplitOptions

MOST_STEPS_SHOWN = 40


def plan(dsn: str | None, table: str, options: Options, *, verbose: bool) -> Report:
    """Show every step of a run; what would be refused is part of the answer and makes exit code 4."""
    try:
        options = with_storage(options)
        made = partition.plan(dsn, table, options)
    except RefusedError as error:
        if not error.reasons:
            raise
        data: Json = {"table": table, "options": options.to_json(), "refused": list(error.reasons)}
        lines = [error.fact, *(f"  - {reason}" for reason in error.reasons), "Nothing was changed."]
        return Report(data=data, text="\n".join(lines), exit_code=error.exit_code)
    reasons: Json = list(made.options.strategy_reasons)
    return Report(data={**made.to_json(), "strategy_reasons": reasons}, text=_plan_text(made, verbose=verbose))


def run(dsn: str | None, table: str, options: Options, watch: Watch) -> Report:
    return _report(partition.run(dsn, table, with_storage(options), watch))


def rehearse(dsn: str | None, table: str, options: Options, watch: Watch, *, rows: str, keep: bool) -> Report:
    """Partition a share of the rows in a schema of its own; doubtful figures are bad news."""
    amount = partition.Amount.parse(rows)
    found = partition.rehearse(dsn, table, with_storage(options), watch, amount=amount, keep=keep)
    return Report(data=found.to_json(), text=_rehearsal_text(found), exit_code=1 if found.doubt else 0)


def with_storage(options: Options) -> Options:
    """Return the options with the storage that pgscale.toml describes, where the call names none."""
    if options.storage is not None or not Path(FILE_NAME).exists():
        return options
    from pgscale.commands.config import read_config  # noqa: PLC0415 because few have such a file

    return replace(options, storage=read_config().storage)


def split(dsn: str | None, table: str, options: SplitOptions, watch: Watch, *, dry_run: bool, verbose: bool) -> Report:
    """Divide a big partition; with `dry_run`, show every step and change nothing."""
    if not dry_run:
        return _report(partition.split(dsn, table, options, watch))
    try:
        made = partition.plan_split(dsn, table, options)
    except RefusedError as error:
        if not error.reasons:
            raise
        data: Json = {"table": table, "refused": list(error.reasons)}
        lines = [error.fact, *(f"  - {reason}" for reason in error.reasons), "Nothing was changed."]
        return Report(data=data, text="\n".join(lines), exit_code=error.exit_code)
    text = _plan_text(made, verbose=verbose, again="`pgscale partition split` without --dry-run")
    return Report(data=made.to_json(), text=f"Partition of {made.parent}, {made.bound}\n{text}")


def resume(dsn: str | None, table: str, watch: Watch) -> Report:
    return _report(partition.resume(dsn, table, watch))


def cutover(dsn: str | None, table: str, watch: Watch) -> Report:
    return _report(partition.cutover(dsn, table, watch))


def pause(dsn: str | None, table: str) -> Report:
    return _report(partition.pause(dsn, table))


def abort(dsn: str | None, table: str, watch: Watch) -> Report:
    return _report(partition.abort(dsn, table, watch))


def undo(dsn: str | None, table: str, watch: Watch, *, max_block_s: float | None = None) -> Report:
    return _report(partition.undo(dsn, table, watch, max_block_s=max_block_s))


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
    "finished": "is partitioned for good; every trace of the run is gone.",
    "paused": "is paused after its present chunk; `resume` goes on.",
    "running": "goes on.",
}
_SPLIT_ENDINGS = {
    "cut-over": "is divided. The old partition is kept as {retained}: `finish` drops it, `undo` goes back to it.",
    "undone": "is the old partition again, with every write made since; nothing of the run is left.",
    "finished": "is divided for good; the old partition and every trace of the run are gone.",
}


def _report(result: RunResult) -> Report:
    endings = {**_ENDINGS, **(_SPLIT_ENDINGS if result.strategy == "split" else {})}
    ending = endings.get(result.state, f"is {result.state}.").format(retained=result.retained_table)
    if result.state == "cut-over" and result.retained_table is None:
        ending = "is partitioned; no row was moved. `undo` goes back, `finish` ends the way back."
    lines = [f"{result.table} {ending}"]
    if result.state == "cut-over":
        if result.retained_table is not None:
            lines += [
                f"  rows copied    {result.rows_copied:>14,}",
                f"  rows applied   {result.rows_applied:>14,}",
                f"  rows checked   {result.rows_checked:>14,}   mismatches {result.mismatches}",
            ]
        lines += [
            f"  longest block  {result.blocked_ms:>11.0f} ms   attempts {result.attempts}",
            f"  duration       {format_duration(result.duration_s):>14}",
        ]
    return Report(data=result.to_json(), text="\n".join(lines), exit_code=1 if result.mismatches else 0)


def _rehearsal_text(found: Rehearsal) -> str:
    lines = [
        f"Rehearsed {found.table}: {found.rows:,} rows ({found.share * 100:.3g}% of its pages),"
        f" {format_bytes(found.heap_bytes)} and {format_bytes(found.index_bytes)} of indexes,"
        f" into {found.partitions} partitions; all of it is dropped.",
        *(f"Removed first what a killed rehearsal had left: schema {name}." for name in found.leftovers),
        "",
        f"  {'phase':<10} {'took':>12} {'WAL':>10}",
        *(
            f"  {p.name:<10} {format_duration(p.took_s):>12} {format_bytes(p.wal_bytes):>10}"
            for p in found.phases
            if p.took_s >= 0.005 or p.wal_bytes >= 8192
        ),
        f"  {found.wal_bytes_per_row:,.0f} bytes of WAL a row, with what others wrote meanwhile;"
        f" the scratch copy was locked for {found.blocked_ms:.0f} ms",
        "",
        "The whole table:",
        *_estimate_lines(found.estimate),
        "  Copy and verify grow with the table, index builds with n log n of its rows. The scratch copy was in"
        " memory when it was read: --storage counts the reads of a table that is not.",
    ]
    if found.estimate.burst_trap:
        lines.append(f"  ! {found.estimate.burst_trap}")
    if found.skipped_chunks:
        lines.append(f"{found.skipped_chunks} chunks were left out: a row of theirs had moved and came twice.")
    if found.doubt:
        lines.append(f"Not to be relied on: {found.doubt}.")
    elif found.stored:
        lines.append("Kept in the ledger: `plan` rests on it until the table's run is finished or taken back.")
    return "\n".join(lines)


def _status_text(row: RunStatus) -> str:
    result = row.result
    share = f", {row.pages_copied / row.pages_total:.0%} copied" if row.pages_total else ""
    eta = f", {format_eta(row.eta_least_s, row.eta_most_s)}" if row.eta_least_s is not None else ""
    lines = [
        f"{result.table}: {result.state}, phase {row.phase}{share}{eta}",
        f"  {'a live process owns the run' if row.is_live else 'no process works on it'}"
        f"; run {result.run_id}, strategy {result.strategy}, {format_duration(result.duration_s)} of work",
        f"  {result.rows_copied:,} rows copied, {result.rows_applied:,} applied, {result.rows_checked:,} checked,"
        f" {result.mismatches} mismatches, {format_bytes(row.backlog_bytes)} of log",
        f"  next: {row.next_step}",
    ]
    if row.note:
        lines.insert(2, f"  {row.note}")
    return "\n".join(lines)


def _plan_text(made: RunPlan, *, verbose: bool, again: str = "`pgscale partition run` with the same arguments") -> str:
    lines = [
        f"Plan: {made.table} → {len(made.leaves)} partitions ({made.options.by}), strategy {made.strategy}",
        *(f"  {reason}" for reason in made.options.strategy_reasons),
        "",
    ]
    shown = made.leaves if verbose or len(made.leaves) <= 6 else (*made.leaves[:3], None, *made.leaves[-2:])
    for leaf in shown:
        lines.append(f"  {leaf.name}  {leaf.bound}" if leaf is not None else f"  … {len(made.leaves) - 5} more")
    if made.estimate is not None:
        lines += ["", *_estimate_lines(made.estimate, until="`finish`" if made.retained else "the cut-over")]
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
    lines += ["", f"Nothing was changed. {again} carries this out."]
    return "\n".join(lines)


def _estimate_lines(e: Estimate, until: str = "`finish`") -> list[str]:
    return [
        f"Needs up to {format_bytes(e.disk_bytes)} of disk until {until}, writes"
        f" {_span(e.least_wal_bytes, e.wal_bytes, format_bytes)} of WAL, and takes"
        f" {_span(e.least_duration_s, e.duration_s, format_duration)} for {e.rows:,} rows.",
        "  "
        + ", ".join(
            f"{p.name} {_span(p.least_s, p.most_s, format_duration)}{' (storage)' if p.limit == 'storage' else ''}"
            for p in e.phases
        ),
        f"  {e.basis}",
    ]


def _span(least: float, most: float, form: Callable[[float], str]) -> str:
    low, high = form(least), form(most)
    return low if low == high else f"{low} to {high}"


def _short(statement: str, verbose: bool) -> str:
    one_line = " ".join(statement.split())
    return one_line if verbose or len(one_line) <= 160 else one_line[:157] + "…"
