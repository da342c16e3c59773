"""`pgscale lint`: what a migration locks, seen in a scratch copy, joined to the real database; and safer SQL."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from pgscale.commands import lint_formats, lint_text
from pgscale.connect.session import open_session
from pgscale.core.finding import Severity, rank, worst
from pgscale.core.model import QName, Report
from pgscale.doctor.lint import registry
from pgscale.doctor.lint.dump import dump_schema
from pgscale.doctor.lint.judging import ignored_in, judge, views
from pgscale.doctor.lint.live import LIVE, ExtensionFunction, Live, read_extension_functions, read_live
from pgscale.doctor.lint.model import Catalog, FileSeen, TransactionMode
from pgscale.doctor.lint.result import FileResult, Result
from pgscale.doctor.lint.runner import run_files
from pgscale.doctor.lint.scratch import load_schema, open_scratch
from pgscale.doctor.lint.splitting import split
from pgscale.errors import UsageError
from pgscale.sql.statements import Statement

Format: TypeAlias = Literal["text", "github", "sarif"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A server to make the scratch database on.

    Args:
        disposable: it is ours alone.
        pg_dump: the program to read the schema with; at least as new as the database.
    """

    dsn: str
    disposable: bool
    pg_dump: Path | str = "pg_dump"


# Given the major version wanted, or 0 where none is.
Places: TypeAlias = Callable[[int], AbstractContextManager[Place]]


def lint(
    files: tuple[str, ...],
    places: Places,
    *,
    dsn: str | None = None,
    schema: tuple[Path, ...] = (),
    transaction: TransactionMode = "auto",
    output: Format = "text",
    fail_on: Severity = "warning",
) -> Report:
    """Run migrations in a scratch database and say what they lock; exit code 1 for findings as bad as `fail_on`.

    Args:
        files: paths in the order in which they would run; `-` is standard input.
        dsn: the real database: its schema is copied, its sizes and transactions are read. No statement of the files
            runs there.
        schema: SQL files that make what is there before; not judged.

    Raises:
        UsageError: a file cannot be read or split, or names a rule that does not exist.
        ConnectError, PermissionDeniedError: of the database, or of the scratch server.
    """
    read = [(_shown(name), _split(_shown(name), _read(name))) for name in files]
    before = [(path, _read(str(path))) for path in schema]
    base, functions = _base(dsn)
    with places(base.version // 10_000) as place:
        dumped = dump_schema(dsn, place.pg_dump) if dsn is not None else ""
        with open_scratch(place.dsn, disposable=place.disposable) as scratch:
            scratch.functions = functions
            load_schema(scratch, dumped, "schema", is_dump=True)
            for path, text in before:
                load_schema(scratch, text, str(path), is_dump=False)
            seen = run_files(scratch, read, transaction, base.lock_timeout_ms)
            notes, version = tuple(scratch.notes), scratch.version
    origins: Catalog = seen[0].existing if seen else {}
    live = _live(dsn, _locked(seen, origins))
    wanted = base.version or version
    results = tuple(
        FileResult(
            seen=each,
            findings=judge(each, origins, live, wanted),
            views=tuple(views(each, origins, live, wanted)),
        )
        for each in seen
    )
    result = Result(files=results, live=live, scratch_version=version, notes=notes)
    found = worst(placed.finding.severity for each in results for placed in each.findings)
    bad = found is not None and rank(found) >= rank(fail_on)
    say = {"text": lint_text.page, "github": lint_formats.github, "sarif": lint_formats.sarif}[output]
    return Report(data=result.to_json(), text=say(result), exit_code=1 if bad else 0)


def explain(rule_id: str) -> Report:
    """Say what a rule finds and why; `all` lists them."""
    rules = registry.RULES if rule_id == "all" else (registry.find(rule_id),)
    wide = max(len(rule.id) for rule in rules)
    lines = [f"{rule.id:<{wide}}  {rule.title}" for rule in rules]
    if rule_id != "all":
        lines += ["", rules[0].about]
    return Report(
        data=[{"rule": rule.id, "title": rule.title, "about": rule.about} for rule in rules], text="\n".join(lines)
    )


def _read(name: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}.") from None


def _shown(name: str) -> str:
    return "<stdin>" if name == "-" else name


def _split(name: str, text: str) -> tuple[Statement, ...]:
    statements = split(text, name)
    for statement in statements:
        # A misspelt comment is told before a server is started.
        ignored_in(statement)
    return statements


def _base(dsn: str | None) -> tuple[Live, tuple[ExtensionFunction, ...]]:
    if dsn is None:
        return Live(), ()
    with open_session(dsn, LIVE) as session:
        return read_live(session), read_extension_functions(session)


def _live(dsn: str | None, tables: tuple[QName, ...]) -> Live:
    if dsn is None:
        return Live()
    with open_session(dsn, LIVE) as session:
        return read_live(session, tables)


def _locked(seen: tuple[FileSeen, ...], origins: Catalog) -> tuple[QName, ...]:
    return tuple(dict.fromkeys(_names(seen, origins)))


def _names(seen: tuple[FileSeen, ...], origins: Catalog) -> Iterator[QName]:
    for each in seen:
        for statement in each.statements:
            for lock in statement.locks:
                table = origins.get(lock.relation)
                if table is not None and table.is_table:
                    yield QName(schema=table.schema, name=table.name)
