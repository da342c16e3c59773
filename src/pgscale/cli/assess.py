"""`pgscale assess`: one handler."""

from __future__ import annotations

import click

from pgscale.cli.options import DURATION, common, render


@click.command()
@click.option(
    "--watch",
    "watch_s",
    type=DURATION,
    default="5s",
    show_default=True,
    help="How long to watch where no earlier run and no statistics say what happened.",
)
@click.option(
    "--samples", metavar="DIR|none", help="Where counters are kept from run to run; by default in your state directory."
)
@common
def assess(watch_s: float, samples: str | None, dsn: str | None, as_json: bool) -> None:
    """Say which phase a database is in, the one next step that would bring most, and what is premature.

    One instance, replicas, partitioning and caching, shards: by its rows, growth and transactions, by what is read
    and written, and by its memory. Reads only, over one connection, and waits for no lock of the application. The role
    needs pg_monitor.

    \b
    Example:
      pgscale assess --dsn postgresql://monitor@db/shop
      pgscale assess --watch 1min --json
    """
    from pgscale.commands import assess as commands  # noqa: PLC0415 because only this verb needs it

    render(commands.assess(dsn, samples=samples, watch_s=watch_s), as_json)
