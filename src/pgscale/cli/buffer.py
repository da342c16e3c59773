"""`pgscale buffer`: one handler a verb."""

from __future__ import annotations

from datetime import datetime

import click

from pgscale.cli.options import common, render

WHERE = click.argument("where")


@click.group()
def buffer() -> None:
    """Land buffered events in PostgreSQL, exactly once; see how a buffer stands.

    WHERE is the directory of a spool, or redis://host:port/db?buffer=NAME.

    \b
    Example:
      pgscale buffer drain /var/lib/shop/events
      pgscale buffer status /var/lib/shop/events --json
    """


@buffer.command()
@WHERE
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Connections side by side.")
@click.option("--until-empty", is_flag=True, help="End when nothing waits; by default go on for ever.")
@click.option(
    "--deliveries",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Tries of an event whose error may heal, before it is a dead letter.",
)
@click.option("--skip-damaged", is_flag=True, help="Give up what cannot be read; its bytes are kept.")
@click.option("--begin-here", is_flag=True, help="Land what is left of a buffer that another database has drained.")
@common
def drain(
    where: str,
    workers: int,
    until_empty: bool,
    deliveries: int,
    skip_damaged: bool,
    begin_here: bool,
    dsn: str | None,
    as_json: bool,
) -> None:
    """Land events batch by batch; any number of drainers may run at the same time.

    Lost connections and servers that start again are waited out. Events that do not fit go to dead letters.

    Example: pgscale buffer drain /var/lib/shop/events --workers 2
    """
    from pgscale.commands import buffer as commands  # noqa: PLC0415 because only this verb needs it

    report = commands.drain(
        dsn,
        where,
        lambda line: click.echo(line, err=True),
        workers=workers,
        until_empty=until_empty,
        deliveries=deliveries,
        skip_damaged=skip_damaged,
        begin_here=begin_here,
    )
    render(report, as_json)


@buffer.command()
@WHERE
@common
def status(where: str, dsn: str | None, as_json: bool) -> None:
    """Show depth, age of the oldest event, rate, retries, dead letters, and what is wrong.

    Example: pgscale buffer status /var/lib/shop/events --json
    """
    from pgscale.commands import buffer as commands  # noqa: PLC0415 because only this verb needs it

    render(commands.status(dsn, where), as_json)


@buffer.command()
@WHERE
@click.option("--since", type=click.DateTime(), help="Local time of the first put; by default all that is kept.")
@common
def replay(where: str, since: datetime | None, dsn: str | None, as_json: bool) -> None:
    """Have events landed once more that a spool still keeps (`keep_s`), after a table was lost.

    After a restore of the whole database this is not needed: it knows where it stood.

    Example: pgscale buffer replay /var/lib/shop/events --since 2026-01-31T12:00:00
    """
    from pgscale.commands import buffer as commands  # noqa: PLC0415 because only this verb needs it

    render(commands.replay(dsn, where, since), as_json)
