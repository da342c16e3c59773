"""`pgscale locks`: one handler a verb."""

from __future__ import annotations

import sys

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text
from rich.tree import Tree

from pgscale.cli.options import DURATION, common, render
from pgscale.commands.lock_text import Branch, Line, Picture, plain
from pgscale.errors import RefusedError, UsageError

_STYLES = {
    "plain": "",
    "root": "bold red",
    "waiter": "bold yellow",
    "state": "cyan",
    "wait": "yellow",
    "query": "dim",
    "frees": "green",
    "faint": "dim",
}


@click.group(invoke_without_command=True)
@click.option(
    "--watch",
    "every_s",
    type=DURATION,
    is_flag=False,
    flag_value="2s",
    metavar="[SECONDS]",
    help="Look again every so often (2s) until Ctrl-C.",
)
@common
@click.pass_context
def locks(context: click.Context, every_s: float | None, dsn: str | None, as_json: bool) -> None:
    """Show who waits for a lock, and who holds it up: a tree with the roots first, prepared transactions too.

    Each session with its state, what it waits for and how long, what its blocker holds, its query, and how many its end
    would free. It changes nothing and waits for nobody.

    \b
    Example:
      pgscale locks
      pgscale locks --watch 1s
      pgscale locks resolve 1234 --dry-run
    """
    from pgscale.commands import locks as commands  # noqa: PLC0415 because `--help` need not load it

    if context.invoked_subcommand is not None:
        if every_s is not None:
            raise UsageError("--watch shows the tree; it has no meaning with a verb.")
        context.obj = dsn, as_json
    elif every_s is None:
        shown = commands.show(dsn)
        _draw(shown.picture) if sys.stdout.isatty() and not as_json else render(shown.report, as_json)
    elif as_json:
        raise UsageError("--json prints exactly one document, and --watch never ends.", hint="Call --json repeatedly.")
    else:
        _watch(dsn, every_s)


def _watch(dsn: str | None, every_s: float) -> None:
    """Draw until Ctrl-C, which is how it is meant to end: exit code 0."""
    from pgscale.commands import locks as commands  # noqa: PLC0415 because `--help` need not load it

    try:
        if not sys.stdout.isatty():
            for picture in commands.watch(dsn, every_s):
                click.echo(plain(picture) + "\n")
            return
        with Live(console=Console(), auto_refresh=False, vertical_overflow="ellipsis") as live:
            for picture in commands.watch(dsn, every_s):
                live.update(_renderable(picture), refresh=True)
    except KeyboardInterrupt:
        return


def _draw(picture: Picture) -> None:
    Console().print(_renderable(picture))


def _renderable(picture: Picture) -> RenderableType:
    parts: list[RenderableType] = [Text(picture.headline, style="bold" if picture.branches else "green")]
    for branch in picture.branches:
        tree = Tree(_text(branch.lines), guide_style="dim")
        _grow(tree, branch)
        parts += [Text(), tree]
    parts += [Text(note, style="dim") for note in picture.notes]
    return Group(*parts)


def _grow(tree: Tree, branch: Branch) -> None:
    """Add what is below; a chain can be longer than calls are deep."""
    todo = [(tree, branch)]
    while todo:
        under, here = todo.pop()
        todo += [(under.add(_text(child.lines)), child) for child in here.children]


def _text(lines: tuple[Line, ...]) -> Text:
    # Pieces, never markup: a query may hold any brackets.
    made = [Text.assemble(*((text, _STYLES[role]) for role, text in line)) for line in lines]
    return Text("\n", no_wrap=True, overflow="ellipsis").join(made)


@locks.command()
@click.argument("target", metavar="PID|GID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also what nobody waits for, and processes that are no client's.")
@click.option("--dry-run", is_flag=True, help="Show what would be done and who would be freed; signal nothing.")
@click.option("--wait", "wait_s", type=DURATION, default="5s", show_default=True, help="Time for a cancel to help.")
@click.option("--prepared", is_flag=True, help="The target is a GID, though it looks like a pid.")
@common
@click.pass_context
def resolve(
    context: click.Context,
    target: str,
    yes: bool,
    force: bool,
    dry_run: bool,
    wait_s: float,
    prepared: bool,
    dsn: str | None,
    as_json: bool,
) -> None:
    """End what one session holds up: cancel its statement, and if that does not help in time, terminate it.

    A session that is idle in its transaction is terminated at once: a cancel does nothing to it. A prepared transaction
    is rolled back. It shows who would be freed and asks first. The session is signalled only while it is still the same
    (pid, start and transaction). Exit code 5: it still holds others up.

    Example: pgscale locks resolve 1234 --dry-run
    """
    from pgscale.commands import locks as commands  # noqa: PLC0415 because only this verb needs it

    group_dsn, group_json = context.obj
    report = commands.resolve(
        dsn or group_dsn,
        target,
        None if yes else _ask,
        wait_s=wait_s,
        force=force,
        prepared=prepared,
        dry_run=dry_run,
    )
    render(report, as_json or group_json)


def _ask(plan: str) -> None:
    click.echo(plan, err=True)
    if not sys.stdin.isatty():
        raise RefusedError(
            "There is no terminal to ask on.", consequence="Nothing was signalled.", hint="--yes says yes beforehand."
        )
    if not click.confirm("Do it?", err=True):
        raise RefusedError("You said no.", consequence="Nothing was signalled.")
