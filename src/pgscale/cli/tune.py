"""`pgscale tune`: parse, call the command, render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pgscale.cli.options import SIZE, common, render

STORAGES = ("nvme", "ssd", "san", "hdd")
WORKLOADS = ("web", "oltp", "dw", "mixed", "bulk")
FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option("--ram", type=SIZE, help="Memory of the server: 16GB. Read where the server is local.")
@click.option("--cpus", type=click.IntRange(min=1), help="Its processors; read likewise.")
@click.option("--storage", type=click.Choice(STORAGES), help="Where its data lies; read likewise.")
@click.option("--workload", type=click.Choice(WORKLOADS), default="mixed", show_default=True, help="What it does.")
@click.option("--connections", type=click.IntRange(min=10), help="What max_connections is to be; else it stays.")
@click.option("--apply", is_flag=True, help="Set them by ALTER SYSTEM and reload; prints the undo.")
@click.option("--check", "file", type=FILE, help="Hold this postgresql.conf against a version; needs no server.")
@click.option("--for", "version", type=int, help="With --check: the major version it is for.")
@click.option("--fix", type=FILE, help="With --check: write the corrected file here; - prints it.")
@common
def tune(dsn: str | None, as_json: bool, file: Path | None, **given: Any) -> None:
    """Propose settings for this server's machine, work and version, as a diff against what runs; or check a file.

    Memory, processors and storage are read, with the limits of cgroups, when the server runs on this machine; otherwise
    say them. Nothing is changed without --apply. --check finds what a postgresql.conf has that PostgreSQL removed,
    does not know or does not take, what is dangerous and what undoes a better default. Exit code 1: it found something.

    \b
    Examples:
      pgscale tune --ram 16GB --cpus 4 --storage ssd --workload web
      pgscale tune --check old/postgresql.conf --for 18 --fix postgresql.conf
    """
    from pgscale.commands import tune as commands  # noqa: PLC0415 because only this verb needs it

    if file is not None:
        _refuse({name: given[name] for name in ("ram", "cpus", "storage", "connections", "apply")}, "without --check")
        render(commands.check(file, given["version"], given["fix"]), as_json)
        return
    _refuse({"for": given["version"], "fix": given["fix"]}, "with --check")
    machine = commands.Given(ram_bytes=given["ram"], cpus=given["cpus"], storage=given["storage"])
    wish = commands.Wish(machine=machine, workload=given["workload"], connections=given["connections"])
    render(commands.tune(dsn, wish, apply=given["apply"]), as_json)


def _refuse(given: dict[str, Any], where: str) -> None:
    for name, value in given.items():
        if value:
            raise click.UsageError(f"--{name} goes {where} only.")
