"""`pgscale bench`: one handler a verb."""

from __future__ import annotations

import click

from pgscale.cli.options import common, render
from pgscale.cli.progress import watching


@click.group()
def bench() -> None:
    """Measure on your own server and tables."""


@bench.command()
@click.argument("table")
@click.option("--rows", type=click.IntRange(1), default=20_000, show_default=True, help="Of the table, at most.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Each way so often, in turn.")
@common
def write(table: str, rows: int, rounds: int, dsn: str | None, as_json: bool) -> None:
    """Measure how fast rows can be written into a copy of TABLE, from row by row to COPY over two connections.

    Rows of the table itself are written into a scratch copy (LIKE … INCLUDING ALL), which is dropped at the end.
    The table is only read.

    Example: pgscale bench write public.events
    """
    from pgscale.commands import bench as commands  # noqa: PLC0415 because only this verb needs it

    with watching() as watch:
        report = commands.write(dsn, table, watch, rows=rows, rounds=rounds)
    render(report, as_json)
