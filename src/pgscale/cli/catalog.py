"""`pgscale catalog`: parse, call the command, render."""

from __future__ import annotations

import click

from pgscale.cli.options import common, render

KINDS = ("tables", "columns", "indexes", "constraints", "functions", "partitions", "freshness")
DEFINED = ("columns", "indexes", "constraints", "functions")


@click.command()
@click.argument("what", type=click.Choice(KINDS))
@click.option("--schema", "schemas", multiple=True, help="Only this schema; may be repeated.")
@click.option("--definitions", is_flag=True, help="Also what is written out with ACCESS SHARE on each table.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with every field.")
@common
def catalog(
    what: str, schemas: tuple[str, ...], definitions: bool, as_csv: bool, dsn: str | None, as_json: bool
) -> None:
    """Print what the catalog has: one query, no rights on the tables needed, none of them locked.

    Rows and sizes are those of the last VACUUM or ANALYZE. Views count as tables.

    \b
    Examples:
      pgscale catalog tables --schema shop
      pgscale catalog indexes --definitions --csv > indexes.csv
    """
    from pgscale.commands import catalog as commands  # noqa: PLC0415 because only this verb needs it

    if as_csv and as_json:
        raise click.UsageError("--csv and --json are two formats; choose one.")
    if definitions and what not in DEFINED:
        raise click.UsageError(f"--definitions goes with {', '.join(DEFINED)} only.")
    render(commands.read(dsn, what, schemas=schemas, definitions=definitions, as_csv=as_csv), as_json)
