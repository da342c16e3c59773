"""`pgscale dead-letters`: one handler a verb."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pgscale.cli.options import common, render
from pgscale.cli.partition import DURATION
from pgscale.cli.progress import watching
from pgscale.write.dead_letters.reader import Filter

F = TypeVar("F", bound=Callable[..., Any])


def chosen(function: F) -> F:
    """Which letters: every condition that is given has to hold."""
    decorators = (
        click.argument("ids", type=click.IntRange(min=1), nargs=-1, metavar="[ID]..."),
        click.option("--table", help="Of this table, with its schema or without."),
        click.option("--source", help="Of this source, as its writer called itself."),
        click.option("--sqlstate", help="With this SQLSTATE: 23503 for rows whose parent was missing."),
        click.option("--older-than", type=DURATION, help="Kept before so long: 1h, 7d."),
        click.option("--newer-than", type=DURATION, help="Kept within so long."),
    )
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def _filter(given: dict[str, Any]) -> Filter:
    return Filter(
        ids=given["ids"],
        table=given["table"],
        source=given["source"],
        sqlstate=given["sqlstate"],
        older_than_s=given["older_than"],
        newer_than_s=given["newer_than"],
    )


@click.group("dead-letters")
def dead_letters() -> None:
    """Look after rows that could not be written: table pgscale.dead_letter."""


@dead_letters.command("list")
@chosen
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="Show so many, oldest first.")
@common
def list_letters(dsn: str | None, as_json: bool, limit: int, **given: Any) -> None:
    """Show letters: table, row, column, reason, and the row itself.

    Example: pgscale dead-letters list --table public.events --newer-than 1d
    """
    from pgscale.commands import dead_letters as commands  # noqa: PLC0415 because only this verb needs it

    render(commands.list_letters(dsn, _filter(given), limit), as_json)


EVERY = click.option("--all", "every", is_flag=True, help="All letters there are.")


@dead_letters.command()
@chosen
@EVERY
@common
def retry(dsn: str | None, as_json: bool, every: bool, **given: Any) -> None:
    """Write the rows of letters again, once the reason is gone.

    Each letter goes in the transaction that writes its row, so a row is never there twice and never nowhere. One that
    fails again stays, with its new reason. Rows of an upsert are merged by the same rules. Exit code 1: some failed.

    Example: pgscale dead-letters retry --table public.events --sqlstate 23503
    """
    from pgscale.commands import dead_letters as commands  # noqa: PLC0415 because only this verb needs it

    with watching() as watch:
        report = commands.retry(dsn, _filter(given), watch, every=every)
    render(report, as_json)


@dead_letters.command()
@chosen
@EVERY
@common
def drop(dsn: str | None, as_json: bool, every: bool, **given: Any) -> None:
    """Delete letters, and the rows they keep, for good.

    Example: pgscale dead-letters drop --older-than 30d
    """
    from pgscale.commands import dead_letters as commands  # noqa: PLC0415 because only this verb needs it

    render(commands.drop(dsn, _filter(given), every=every), as_json)
