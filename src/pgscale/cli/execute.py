"""`pgscale exec`: parse, call the command, render."""

from __future__ import annotations

from pathlib import Path

import click

from pgscale.cli.options import SIZE, common, render


@click.command("exec")
@click.argument("file", required=False)
@click.option("--profile", help="Whose settings the transaction has: --list shows them.")
@click.option(
    "--list", "lists", is_flag=True, help="Show the profiles, with where each value comes from; asks no server."
)
@click.option("--environment", help="Else PGSCALE_ENVIRONMENT, else development.")
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="Default: pgscale.toml in this directory."
)
@click.option("--ram", type=SIZE, help="Memory of the server, where pgscale.toml does not say: 16GB.")
@click.option("--dry-run", is_flag=True, help="Show the settings as this server takes them; run nothing.")
@common
def execute(
    file: str | None,
    profile: str | None,
    lists: bool,
    environment: str | None,
    config: Path | None,
    ram: int | None,
    dry_run: bool,
    dsn: str | None,
    as_json: bool,
) -> None:
    """Run the statements of a FILE, or of standard input (-), in one transaction with the settings of a profile.

    All of them or none: what cannot be in a transaction is refused before anything runs. Says the rows and the
    duration of each; rows that a SELECT returns are counted, not shown.

    \b
    Examples:
      pgscale exec --list --environment production
      pgscale exec --profile promote promote.sql --environment production --dry-run
      pgscale exec --profile create - < tables.sql
    """
    from pgscale.commands import execute as commands  # noqa: PLC0415 because only this verb needs it

    if lists:
        if file or profile or dry_run:
            raise click.UsageError("--list takes no file, no --profile and no --dry-run.")
        render(commands.list_profiles(environment, config), as_json)
        return
    if file is None or profile is None:
        raise click.UsageError("Name a FILE and a --profile, or ask for --list.")
    choice = commands.Choice(profile=profile, environment=environment, config=config, ram_bytes=ram)
    render(commands.execute(dsn, file, choice, dry_run=dry_run), as_json)
