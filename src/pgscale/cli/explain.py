"""`pgscale explain`: one handler."""

from __future__ import annotations

import os
import re
from typing import Any

import click

from pgscale.cli.options import DURATION, common, render
from pgscale.core.finding import Severity
from pgscale.core.model import Report

_ID = re.compile(r"-\d+")
_WITH_VALUE = ("--param", "--timeout", "--file", "--fail-on", "--dsn")


class _TakesIds(click.Command):
    """Ids of statements may be negative, and click would take them for options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        before = ["", *args]
        return super().parse_args(
            ctx,
            [
                f" {each}" if _ID.fullmatch(each) and previous not in _WITH_VALUE else each
                for previous, each in zip(before, args, strict=False)
            ],
        )


@click.command(cls=_TakesIds)
@click.argument("query", required=False)
@click.option("--param", "params", multiple=True, metavar="VALUE", help="The value of $1; again for $2, and so on.")
@click.option("--analyze", is_flag=True, help="Execute the query, in a read-only transaction, and measure it.")
@click.option("--write", is_flag=True, help="With --analyze: let it write; everything is rolled back, but see above.")
@click.option(
    "--timeout", "timeout_s", type=DURATION, default="10s", show_default=True, help="Cancel the query after so long."
)
@click.option("--file", metavar="FILE|-", help="Read this output of EXPLAIN (FORMAT JSON); asks no server.")
@click.option(
    "--fail-on",
    type=click.Choice(["warning", "critical"]),
    default="warning",
    show_default=True,
    help="Exit code 1 for findings as bad as this.",
)
@common
def explain(
    query: str | None, file: str | None, fail_on: Severity, dsn: str | None, as_json: bool, **given: Any
) -> None:
    """Show the plan of one QUERY with where its time goes, and say what is wrong with it, with the SQL to paste.

    QUERY is its text, a file, - for standard input, or the ID of a statement as `pgscale doctor --only queries` has it.
    A query with $1 and no --param gets the generic plan. Nothing is executed without --analyze. With it the query runs
    in a read-only transaction: what writes is refused, unless --write lets it. That is rolled back, always; its locks
    are held until then. Not undone are values taken from sequences, what functions do outside of the transaction, dead
    rows and WAL.

    \b
    Examples:
      pgscale explain "SELECT * FROM orders WHERE status = 'open'" --dsn postgresql://app@db/shop
      pgscale explain -4819473290478 --param 42 --analyze
      pgscale explain update.sql --analyze --write --timeout 1min
      pgscale explain --file plan.json
    """
    from pgscale.commands import explain as commands  # noqa: PLC0415 because `--help` need not load it

    if file is not None:
        if query is not None or dsn is not None or given["analyze"] or given["write"] or given["params"]:
            raise click.UsageError(
                "--file asks no server: it takes no QUERY and no --dsn, --param, --analyze, --write."
            )
        render(_coloured(commands.read(file, fail_on=fail_on)), as_json)
        return
    if query is None:
        raise click.UsageError("Give a QUERY (in quotes), a file with one, - or an ID; or a plan with --file.")
    if given["write"] and not given["analyze"]:
        raise click.UsageError("--write goes with --analyze only: without it nothing is executed.")
    render(_coloured(commands.explain(dsn, query, commands.Wish(**given), fail_on=fail_on)), as_json)


_STYLES = {"✓": "green", "!": "yellow", "✗": "red", "·": "blue"}
_BAR = re.compile(r"[█▏▎▍▌▋▊▉]+ *\d*%?")


def _coloured(report: Report) -> Report:
    """Colour marks and bars; click takes the colours out again where the output is no terminal."""
    if os.environ.get("NO_COLOR"):
        return report
    lines = [
        click.style(line[0], fg=_STYLES[line[0]], bold=True) + line[1:] if line[:1] in _STYLES else line
        for line in (_BAR.sub(lambda bar: click.style(bar[0], fg="cyan"), line) for line in report.text.splitlines())
    ]
    return Report(data=report.data, text="\n".join(lines), exit_code=report.exit_code)
