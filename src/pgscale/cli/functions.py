"""`pgscale functions`: parse, call the command, render."""

from __future__ import annotations

from pathlib import Path

import click

from pgscale.cli.options import common, render

DIRECTORY = click.Path(file_okay=False, path_type=Path)


@click.group()
def functions() -> None:
    """Keep stored functions on disk, and see where the catalog has others."""


@functions.command()
@click.argument("directory", type=DIRECTORY, metavar="DIR")
@click.option("--schema", "schemas", multiple=True, help="Only this schema; may be repeated.")
@click.option("--prune", is_flag=True, help="Remove files whose functions the catalog no longer has.")
@common
def dump(directory: Path, schemas: tuple[str, ...], prune: bool, dsn: str | None, as_json: bool) -> None:
    """Write stored functions and procedures into DIR, each into a file of its own: DIR/schema/name.sql.

    A file that says what the catalog has, however it is formatted, stays as it is; a second dump changes nothing. In a
    file that says otherwise the CREATE statement alone is exchanged. What belongs to extensions is left out, and
    aggregates are.

    \b
    Example: pgscale functions dump db/functions --dsn postgresql://app@db/shop
    """
    from pgscale.commands import functions as commands  # noqa: PLC0415 because only this verb needs it

    render(commands.dump(dsn, directory, schemas=schemas, prune=prune), as_json)


@functions.command()
@click.argument("directory", type=DIRECTORY, metavar="DIR")
@click.option("--schema", "schemas", multiple=True, help="Only this schema; may be repeated.")
@click.option("--create", is_flag=True, help="Have the server read what it alone can; see above.")
@common
def check(directory: Path, schemas: tuple[str, ...], create: bool, dsn: str | None, as_json: bool) -> None:
    """Compare DIR with the catalog: what is missing there, extra there, or drifted in its signature or body.

    White space, comments and the case of words do not count; strings do, to the letter. Reads only, and needs no rights
    on the functions. Exit code 1: something differs.

    Defaults and SQL-standard bodies (RETURN, BEGIN ATOMIC) are kept by the server in words of its own. With --create
    those that are written otherwise are made in a transaction that is rolled back, to see whether they mean the same;
    this needs the functions' owner.

    \b
    Example: pgscale functions check db/functions --dsn postgresql://app@db/shop
    """
    from pgscale.commands import functions as commands  # noqa: PLC0415 because only this verb needs it

    render(commands.check(dsn, directory, schemas=schemas, create=create), as_json)
