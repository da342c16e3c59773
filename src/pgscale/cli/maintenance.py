"""`pgscale maintenance`: one handler a verb."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pgscale.cli.options import DURATION, common, render
from pgscale.cli.progress import watching

if TYPE_CHECKING:
    from pgscale.doctor.maintenance.runner import Options

F = TypeVar("F", bound=Callable[..., Any])
KINDS = ("clean", "freeze", "vacuum", "analyze", "reindex")


def choosing(function: F) -> F:
    """The options that say what is done and how, shared by plan and run."""
    decorators = (
        click.option(
            "--only", multiple=True, type=click.Choice(KINDS), help="This kind of work; may be repeated. Default: all."
        ),
        click.option(
            "--pace",
            type=click.Choice(["gentle", "normal", "fast"]),
            default="normal",
            show_default=True,
            help="The pauses of VACUUM: as one worker of autovacuum, ten times as fast, none.",
        ),
        click.option(
            "--state", metavar="DIR|none", help="Where is kept what was done; by default your state directory."
        ),
        click.option(
            "--config", type=click.Path(dir_okay=False, path_type=Path), help="Default: pgscale.toml in this directory."
        ),
    )
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def _options(given: dict[str, Any], *, window: float | None, lag_s: float = 10.0, active: int | None = None) -> Options:
    from pgscale.doctor.maintenance.gate import GateLimits  # noqa: PLC0415 because `--help` need not load it
    from pgscale.doctor.maintenance.runner import Options  # noqa: PLC0415 because `--help` need not load it

    state = given["state"]
    return Options(
        window_s=window,
        pace=given["pace"],
        gate=GateLimits(replica_lag_s=lag_s, active=active),
        only=given["only"] or KINDS,
        state=None if state in (None, "none") else Path(state),
        keeps_state=state != "none",
    )


@click.group(invoke_without_command=True)
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="As of `plan`.")
@common
@click.pass_context
def maintenance(context: click.Context, config: Path | None, dsn: str | None, as_json: bool) -> None:
    """VACUUM, ANALYZE and REINDEX CONCURRENTLY of what the doctor's checks find in need of it, and of nothing else.

    Without a verb it shows the plan. Reads and writes go on meanwhile.

    \b
    Example:
      pgscale maintenance
      pgscale maintenance run --window 2h --pace gentle
      pgscale maintenance run --until 06:00 --only vacuum --only analyze
    """
    if context.invoked_subcommand is not None:
        if dsn is not None or as_json or config is not None:
            raise click.UsageError(
                f"Options go behind the verb: pgscale maintenance {context.invoked_subcommand} --dsn …"
            )
    else:
        from pgscale.commands import maintenance as commands  # noqa: PLC0415 because `--help` need not load it

        options = _options({"only": (), "pace": "normal", "state": None}, window=None)
        render(commands.plan(dsn, options, config), as_json)


@maintenance.command()
@choosing
@common
def plan(dsn: str | None, as_json: bool, config: Path | None, **given: Any) -> None:
    """Show what would be done, why, with which SQL, and how long it takes, about. Changes nothing.

    Example: pgscale maintenance plan --only reindex
    """
    from pgscale.commands import maintenance as commands  # noqa: PLC0415 because `--help` need not load it

    render(commands.plan(dsn, _options(given, window=None), config), as_json)


@maintenance.command()
@choosing
@click.option("--window", type=DURATION, help="Begin nothing that does not end within this time, and end by then.")
@click.option("--until", metavar="HH:MM", help="The same, until this time of day on this machine.")
@click.option(
    "--max-replica-lag", type=DURATION, default="10s", show_default=True, help="Begin nothing above this lag."
)
@click.option("--max-active", type=click.IntRange(min=0), help="Begin nothing while more sessions are at work.")
@common
def run(
    dsn: str | None,
    as_json: bool,
    config: Path | None,
    window: float | None,
    until: str | None,
    max_replica_lag: float,
    max_active: int | None,
    **given: Any,
) -> None:
    """Do it, until it is done or the window is over; what runs then is cancelled and cleared away.

    It can be killed at any moment and run again: it goes on with what is still needed. Exit code 1 when something was
    left for lack of time or of a lock, 5 when something failed.

    \b
    Example:
      pgscale maintenance run --window 2h
      pgscale maintenance run --until 06:00 --pace gentle --max-active 20
    """
    from pgscale.commands import maintenance as commands  # noqa: PLC0415 because `--help` need not load it

    if window is not None and until is not None:
        raise click.UsageError("--window and --until are two ways to say the same; choose one.")
    if until is not None:
        window = commands.window_until(until, datetime.now().astimezone())
    options = _options(given, window=window, lag_s=max_replica_lag, active=max_active)
    with watching() as watch:
        report = commands.run(dsn, options, config, watch, lambda said: click.echo(said, err=True))
    render(report, as_json)
