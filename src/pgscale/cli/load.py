"""`pgscale load`: parse, call the command, render."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from pgscale.cli.options import SIZE, common, render
from pgscale.cli.progress import watching

if TYPE_CHECKING:
    # The room is loaded when a file is: every other command starts without it.
    from pgscale.write import Rule
    from pgscale.write.loading import LoadOptions

FORMATS = ("csv", "ndjson", "parquet", "arrow")


class Names(click.ParamType[tuple[str, ...]]):
    """`a,b,c`: names of columns."""

    name = "col,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return cast("tuple[str, ...]", value)
        names = tuple(name.strip() for name in str(value).split(","))
        if not all(names):
            self.fail(f"{value!r} names a column without a name", param, ctx)
        return names


class ColumnRule(click.ParamType["tuple[str, Rule]"]):
    """`views=add`: a column and its rule."""

    name = "col=rule"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Rule]:
        from pgscale.write import RULES  # noqa: PLC0415 because only a load with rules needs it

        if isinstance(value, tuple):
            return cast("tuple[str, Rule]", value)
        column, _, rule = str(value).partition("=")
        if not column.strip() or rule.strip() not in RULES:
            self.fail(f"{value!r} is no column=rule; rules are {', '.join(RULES)}", param, ctx)
        return column.strip(), cast("Rule", rule.strip())


_DELIMITERS: dict[str, str] = {"tab": "\t", "\\t": "\t"}


@click.command()
@click.argument("table")
@click.argument("file")
@click.option("--format", "kind", type=click.Choice(FORMATS), help="By the file's name or first bytes when not given.")
@click.option("--upsert", "key", type=Names(), default=(), help="Merge rows by this unique key instead of inserting.")
@click.option(
    "--rule", "rules", type=ColumnRule(), multiple=True, help="What a column becomes; repeatable. Else `set`."
)
@click.option("--workers", type=int, help="Connections; by the size of the file when not given.")
@click.option("--part-size", type=SIZE, help="Of a transaction; by the size of the file when not given.")
@click.option("--rejects", type=click.Path(dir_okay=False, path_type=Path), help="Put lines that do not fit here.")
@click.option("--resume", is_flag=True, help="Go on with a load that was not finished; nothing is loaded twice.")
@click.option("--restart", is_flag=True, help="Forget such a load and begin anew; its rows stay in the table.")
@click.option("--columns", type=Names(), default=(), help="The file's columns, in place of a header or of keys.")
@click.option("--header/--no-header", default=True, help="Whether a CSV's first line names its columns.")
@click.option("--delimiter", default=",", show_default=True, help="Of a CSV; `tab` too.")
@click.option("--quote", default='"', show_default=True, help="Of a CSV.")
@click.option("--escape", help="Of a CSV: stands before a quote within quotes, or before itself.  [default: the quote]")
@click.option("--null", default="", help="What stands for NULL in a CSV, unquoted.  [default: nothing at all]")
@click.option("--encoding", default="utf-8", show_default=True, help="Of CSV and NDJSON: latin-1, cp1252, utf-16 …")
@common
def load(table: str, file: str, dsn: str | None, as_json: bool, **given: Any) -> None:
    """Load a FILE, or standard input (-), into a TABLE: CSV, NDJSON, Parquet, Arrow; plain, gzip, zstd or zip.

    Columns go by the names in the file. The file is loaded in parts, each one transaction, over several connections;
    a load that was killed goes on with --resume. Exit code 1: all is loaded but what is in the rejects file.

    \b
    Examples:
      pgscale load public.events events.csv.gz --rejects rejects.ndjson
      pgscale load public.page pages.ndjson --upsert url --rule views=add --rule last_seen=greatest
    """
    from pgscale.commands import load as commands  # noqa: PLC0415 because only this verb needs it

    with watching() as watch:
        report = commands.load(dsn, table, file, _options(given), watch)
    render(report, as_json)


def _options(given: dict[str, Any]) -> LoadOptions:
    from pgscale.write.loading import LoadOptions  # noqa: PLC0415 because only a load needs it

    delimiter = str(given["delimiter"])
    return LoadOptions(
        format=given["kind"],
        columns=given["columns"],
        header=given["header"],
        delimiter=_DELIMITERS.get(delimiter, delimiter),
        quote=given["quote"],
        escape=given["escape"],
        null=given["null"],
        encoding=given["encoding"],
        key=given["key"],
        rules=dict(given["rules"]),
        workers=given["workers"],
        rejects=given["rejects"],
        resume=given["resume"],
        restart=given["restart"],
        part_bytes=given["part_size"],
    )
