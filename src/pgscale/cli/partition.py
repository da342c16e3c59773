"""`pgscale partition`: one handler a verb."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from pgscale.cli.options import DURATION, SIZE, common
from pgscale.cli.options import render as _render
from pgscale.cli.progress import watching
from pgscale.commands import partition as commands
from pgscale.commands import schedule as schedules
from pgscale.commands.schedule import KINDS, Kind
from pgscale.connect.dsn import redact
from pgscale.core.model import Report
from pgscale.errors import PgscaleError
from pgscale.partition import STRATEGY_NAMES, Options

F = TypeVar("F", bound=Callable[..., Any])


def tuning(function: F) -> F:
    """The options that say how it is done: pace and limits."""
    decorators = (
        click.option("--workers", type=int, help="Parallel copy workers; the pace decides when not given."),
        click.option(
            "--pace",
            type=click.Choice(["gentle", "normal", "fast"]),
            default="normal",
            show_default=True,
            help="How much the application may feel.",
        ),
        click.option("--max-block", type=DURATION, default="1s", show_default=True, help="Longest cut-over lock."),
        click.option(
            "--lock-timeout",
            type=DURATION,
            default="100ms",
            show_default=True,
            help="Longest wait for a lock.",
        ),
        click.option("--max-replica-lag", type=DURATION, default="10s", show_default=True, help="Hold above this lag."),
        click.option(
            "--chunk-target",
            type=DURATION,
            default="250ms",
            show_default=True,
            help="Longest time of a chunk.",
        ),
        click.option(
            "--verify",
            type=click.Choice(["full", "none"]),
            default="full",
            show_default=True,
            help="Compare every row before the cut-over.",
        ),
    )
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def goal(function: F) -> F:
    """The options that say what is wanted, shared by plan and run."""
    decorators = (
        click.option(
            "--by",
            required=True,
            help="hash:COL[,COL], range:COL:day|week|month|quarter|year|STEP, or list:COL.",
        ),
        click.option("--partitions", type=int, help="Number of hash partitions."),
        click.option(
            "--strategy",
            type=click.Choice(STRATEGY_NAMES),
            default="mirror",
            show_default=True,
            help="mirror copies the table; attach makes it the first partition (range, list); move needs little disk,"
            " behind a view; auto chooses and says why.",
        ),
        click.option("--free-disk", type=SIZE, help="Free disk where the copy would lie, for auto."),
        click.option("--values", help="List values with a partition of their own, comma-separated."),
        tuning,
        click.option("--accept-key-change", is_flag=True, help="Unique keys may grow by the partition key."),
        click.option(
            "--storage",
            metavar="WHAT",
            help="What the volume gives, for the estimate: gp2:500GB, gp3:iops=6000,throughput=500MB, azure-p20 …,"
            " baseline=…,burst=…,credit=…, or measured. See docs/estimates.md.",
        ),
        click.option("--no-default", is_flag=True, help="Make no DEFAULT partition for rows outside all bounds."),
    )
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def _options(given: dict[str, Any], *, cutover: bool = True) -> Options:
    values = given["values"]
    return Options(
        by=given["by"],
        partitions=given["partitions"],
        values=tuple(v.strip() for v in values.split(",")) if values else (),
        workers=given["workers"],
        pace=given["pace"],
        max_block_s=given["max_block"],
        lock_timeout_s=given["lock_timeout"],
        max_replica_lag_s=given["max_replica_lag"],
        chunk_target_s=given["chunk_target"],
        verify=given["verify"],
        accept_key_change=given["accept_key_change"],
        cutover=cutover,
        default_partition=not given["no_default"],
        strategy=given["strategy"],
        storage=given["storage"],
        free_disk_bytes=given["free_disk"],
    )


@click.group()
def partition() -> None:
    """Turn a live table into a partitioned one: nobody stopped, nothing lost.

    \b
    Example:
      pgscale partition plan public.events --by range:created_at:month
      pgscale partition run  public.events --by range:created_at:month
      pgscale partition finish public.events
    """


@partition.command()
@click.argument("table")
@click.option(
    "--queries",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file of SQL statements instead of pg_stat_statements; `-- calls: N` before one says how often it runs.",
)
@click.option("--verbose", is_flag=True, help="Every candidate.")
@common
def advise(table: str, queries: Path | None, verbose: bool, dsn: str | None, as_json: bool) -> None:
    """Say whether to partition a table, and by which key: range, list or hash. Changes nothing.

    It reads column statistics and the statements that really run. For each candidate: the share of statements
    that prune, how even the partitions would be, keys that must grow, and how old rows can be retired.

    Example: pgscale partition advise public.events --queries workload.sql
    """
    from pgscale.commands import advice  # noqa: PLC0415 because only this verb needs it

    _render(advice.advise(dsn, table, queries, verbose=verbose), as_json)


@partition.command()
@click.argument("table")
@goal
@click.option("--verbose", is_flag=True, help="Every statement of every step.")
@common
def plan(table: str, dsn: str | None, as_json: bool, verbose: bool, **given: Any) -> None:
    """Show every step with its SQL, lock, longest wait, undo and reason. Changes nothing.

    Also: time, disk and WAL from best to worst, how even the partitions would be, and which statements in
    pg_stat_statements would not be pruned. What could not be checked is said with the reason.

    Example: pgscale partition plan public.accounts --by hash:id --partitions 16
    """
    _render(commands.plan(dsn, table, _options(given), verbose=verbose), as_json)


@partition.command()
@click.argument("table")
@goal
@click.option("--no-cutover", is_flag=True, help="Stop before the swap and keep applying until `cutover`.")
@common
def run(table: str, dsn: str | None, as_json: bool, no_cutover: bool, **given: Any) -> None:
    """Prepare, copy, apply, verify every row, cut over. With --strategy attach no row moves.

    \b
    Example:
      pgscale partition run public.events --by range:created_at:month --workers 4
      pgscale partition run public.events --by range:created_at:month --strategy attach
      pgscale partition run public.events --by hash:id --partitions 16 --strategy move
    """
    options = _options(given, cutover=not no_cutover)
    with watching() as watch:
        report = commands.run(dsn, table, options, watch)
    _render(report, as_json)


@partition.command()
@click.argument("table")
@goal
@click.option("--rows", default="1%", show_default=True, help="How much of it: a share of the pages, or rows.")
@click.option("--no-keep", is_flag=True, help="Do not leave the figures in the ledger for `plan`.")
@common
def rehearse(table: str, dsn: str | None, as_json: bool, rows: str, no_keep: bool, **given: Any) -> None:
    """Measure a run on a scratch copy: a share of the rows, in a schema of its own, dropped in the end.

    The table is read by short transactions and nothing else. What a killed rehearsal leaves, the next one removes.

    Example: pgscale partition rehearse public.events --by range:created_at:month --rows 1%
    """
    options = _options(given)
    with watching() as watch:
        report = commands.rehearse(dsn, table, options, watch, rows=rows, keep=not no_keep)
    _render(report, as_json)


@partition.command()
@click.argument("table")
@click.option("--partition", "leaf", help="Which partition; by default the largest that is more than one part.")
@click.option("--every", help="day, week, month, quarter, year, an interval or a number; by default as the others.")
@click.option("--values", help="Of a list: those that get a partition of their own, comma-separated.")
@click.option("--time-zone", default="UTC", show_default=True, help="Whose midnight begins a period.")
@tuning
@click.option("--no-cutover", is_flag=True, help="Stop before the swap and keep applying until `cutover`.")
@click.option("--dry-run", is_flag=True, help="Show every step with its SQL, lock, undo and reason; change nothing.")
@click.option("--verbose", is_flag=True, help="With --dry-run: every statement of every step.")
@common
def split(
    table: str,
    leaf: str | None,
    every: str | None,
    values: str | None,
    time_zone: str,
    no_cutover: bool,
    dry_run: bool,
    verbose: bool,
    dsn: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Divide one big partition of a partitioned table into proper ones, while it is being written.

    `status`, `pause`, `resume`, `cutover`, `abort`, `undo` and `finish` steer it, by the table's name or the
    partition's.

    Example: pgscale partition split public.events --every month --dry-run
    """
    from pgscale.partition import SplitOptions  # noqa: PLC0415 because only this verb needs it

    options = SplitOptions(
        partition=leaf,
        every=every,
        values=tuple(v.strip() for v in values.split(",")) if values else (),
        time_zone=time_zone,
        workers=given["workers"],
        pace=given["pace"],
        max_block_s=given["max_block"],
        lock_timeout_s=given["lock_timeout"],
        max_replica_lag_s=given["max_replica_lag"],
        chunk_target_s=given["chunk_target"],
        verify=given["verify"],
        cutover=not no_cutover,
    )
    with watching() as watch:
        report = commands.split(dsn, table, options, watch, dry_run=dry_run, verbose=verbose)
    _render(report, as_json)


def _verb(name: str, command: Callable[..., Report], doc: str, *, watched: bool = True) -> None:
    @click.argument("table")
    @common
    def handler(table: str, dsn: str | None, as_json: bool) -> None:
        if watched:
            with watching() as watch:
                report = command(dsn, table, watch)
        else:
            report = command(dsn, table)
        _render(report, as_json)

    handler.__doc__ = f"{doc}\n\nExample: pgscale partition {name} public.events"
    partition.command(name)(cast("Callable[..., None]", handler))


_verb("cutover", commands.cutover, "Order the swap of a run started with --no-cutover.")
_verb("pause", commands.pause, "Hold a live run after its present chunk.", watched=False)
_verb("resume", commands.resume, "Let a paused run go on, or take over a run whose process died.")
_verb("abort", commands.abort, "Before the cut-over: the table as it was, no trace.")
_verb("finish", commands.finish, "After the cut-over: end the way back; drop the retained table and all traces.")


@partition.command()
@click.argument("table")
@click.option("--max-block", type=DURATION, help="Longest lock of the way back; by default as the run was given.")
@common
def undo(table: str, max_block: float | None, dsn: str | None, as_json: bool) -> None:
    """After the cut-over: back to the old table with every write made since.

    Example: pgscale partition undo public.events
    """
    with watching() as watch:
        report = commands.undo(dsn, table, watch, max_block_s=max_block)
    _render(report, as_json)


@partition.command()
@click.argument("table", required=False)
@common
def status(table: str | None, dsn: str | None, as_json: bool) -> None:
    """Show the runs of the database, or of one table.

    Example: pgscale partition status public.events --json
    """
    _render(commands.status(dsn, table), as_json)


CONFIG = click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="Default: pgscale.toml in this directory."
)


@partition.command()
@click.argument("table", required=False)
@CONFIG
@click.option("--dry-run", is_flag=True, help="Show what would be done, with its SQL; change nothing.")
@click.option("--loop", type=DURATION, help="Do it again and again, so long apart; Ctrl-C ends it.")
@click.option(
    "--max-default-scan",
    type=click.IntRange(min=0),
    default=256,
    show_default=True,
    metavar="MB",
    help="Largest DEFAULT partition to scan under a lock.",
)
@click.option(
    "--max-move-rows",
    type=click.IntRange(min=0),
    default=100_000,
    show_default=True,
    help="Most rows to move out of DEFAULT in one transaction.",
)
@common
def maintain(
    table: str | None,
    config: Path | None,
    dry_run: bool,
    loop: float | None,
    max_default_scan: int,
    max_move_rows: int,
    dsn: str | None,
    as_json: bool,
) -> None:
    """Make partitions ahead of time and retire old ones, as pgscale.toml says.

    With --loop and --json it prints one document a round.

    Example: pgscale partition maintain public.events --dry-run
    """
    from pgscale.commands import lifecycle  # noqa: PLC0415 because only this verb needs it
    from pgscale.partition import Limits  # noqa: PLC0415 because only this verb needs it

    limits = Limits(default_scan_bytes=max_default_scan * 1024 * 1024, move_rows=max_move_rows)

    def once() -> None:
        with watching() as watch:
            report = lifecycle.maintain(dsn, table, watch, config=config, dry_run=dry_run, limits=limits)
        _render(report, as_json)

    if loop is None:
        once()
    else:
        _repeat(once, loop)


@partition.command()
@click.argument("table")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The pgscale.toml to append the set to; without it, it is only printed.",
)
@click.option("--dry-run", is_flag=True, help="Show it and what `maintain` would do; change nothing.")
@common
def adopt(table: str, config: Path | None, dry_run: bool, dsn: str | None, as_json: bool) -> None:
    """Take a table over from pg_partman (4.7 or later, declarative partitioning).

    Prints what pg_partman does for it as a [[partitions]] of pgscale.toml, what is different from now on, and what
    `maintain` would do; then sets automatic_maintenance off, so that two do not do the same, and prints the way back.
    What cannot be said here is refused by name.

    Example: pgscale partition adopt public.events --config pgscale.toml --dry-run
    """
    from pgscale.commands import adopt as adopting  # noqa: PLC0415 because only this verb needs it

    _render(adopting.adopt(dsn, table, config=config, dry_run=dry_run), as_json)


@partition.command()
@click.option("--every", type=DURATION, default="1h", show_default=True, help="How often to maintain.")
@click.option("--kind", "kinds", type=click.Choice(KINDS), multiple=True, help="Only these; all when not given.")
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON document.")
def schedule(every: float, kinds: tuple[Kind, ...], config: Path | None, as_json: bool) -> None:
    """Print schedules for `maintain`, ready to install: systemd, cron, Kubernetes. Changes nothing.

    Example: pgscale partition schedule --every 1h --kind systemd
    """
    _render(schedules.schedule(every, kinds, config), as_json)


def _repeat(once: Callable[[], None], every_s: float) -> None:
    """Do it until Ctrl-C: bad news and a lost connection are said and not the end."""
    while True:
        try:
            once()
        except SystemExit:
            pass
        except PgscaleError as error:
            if error.exit_code == 2:
                raise
            click.echo(f"pgscale: {redact(str(error))}", err=True)
        sys.stdout.flush()
        time.sleep(every_s)
