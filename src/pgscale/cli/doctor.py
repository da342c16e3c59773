"""`pgscale doctor`: one handler."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pgscale.cli.options import common, render
from pgscale.core.finding import Severity
from pgscale.core.model import Report


@click.command()
@click.option("--only", multiple=True, metavar="ID", help="Run this check, or this area; may be repeated.")
@click.option("--ignore", multiple=True, metavar="ID", help="Leave this check or area out; may be repeated.")
@click.option(
    "--fail-on",
    type=click.Choice(["warning", "critical"]),
    default="warning",
    show_default=True,
    help="Exit code 1 for findings as bad as this.",
)
@click.option("--explain", metavar="ID", help="Say what a check means, its query and its thresholds; asks no server.")
@click.option(
    "--samples", metavar="DIR|none", help="Where counters are kept from run to run; by default in your state directory."
)
@click.option("--sample", is_flag=True, help="Also read some rows of tables, where a check can tell more (toast).")
@click.option(
    "--replica",
    "replicas",
    multiple=True,
    metavar="DSN",
    help="A standby of the same database: an index that it uses is not unused; may be repeated.",
)
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="Default: pgscale.toml in this directory."
)
@common
def doctor(
    *,
    only: tuple[str, ...],
    ignore: tuple[str, ...],
    fail_on: Severity,
    explain: str | None,
    samples: str | None,
    sample: bool,
    config: Path | None,
    replicas: tuple[str, ...],
    dsn: str | None,
    as_json: bool,
) -> None:
    """Say where a database stands, what holds it back, and what to do: one line a check, SQL to paste for findings.

    Reads only, over one connection, and waits for no lock of the application. The role needs pg_monitor; what it may
    not see is said. Some checks compare with an earlier run: run it now and then.

    \b
    Example:
      pgscale doctor --dsn postgresql://monitor@db/shop
      pgscale doctor --only horizon --fail-on critical --json
      pgscale doctor --dsn postgresql://monitor@db/shop --replica postgresql://monitor@replica/shop
      pgscale doctor --explain horizon.held
    """
    from pgscale.commands import doctor as commands  # noqa: PLC0415 because only this verb needs it

    if explain is not None:
        render(commands.explain(explain, config), as_json)
        return
    report = commands.examine(
        dsn,
        only=only,
        ignore=ignore,
        fail_on=fail_on,
        samples=samples,
        config=config,
        may_sample=sample,
        replicas=replicas,
    )
    render(_coloured(report), as_json)


_STYLES = {"✓": "green", "!": "yellow", "✗": "red", "–": "bright_black", "·": "blue"}


def _coloured(report: Report) -> Report:
    """Colour the marks; click takes the colours out again where the output is no terminal."""
    if os.environ.get("NO_COLOR"):
        return report
    lines = [
        click.style(line[0], fg=_STYLES[line[0]], bold=True) + line[1:] if line[:1] in _STYLES else line
        for line in report.text.splitlines()
    ]
    return Report(data=report.data, text="\n".join(lines), exit_code=report.exit_code)
