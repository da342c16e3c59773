"""Compare a directory with a catalog: what is asked of the server, and what comes of it. Sync and async, read-only."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from pgscale import sql as named
from pgscale.catalog.functions.comparing import Types, changes, unified_diff
from pgscale.catalog.functions.files import read_sources
from pgscale.catalog.functions.model import Compared, Difference, Pair, Source, Stored, TypeName, Written
from pgscale.catalog.functions.parsing import read_routine
from pgscale.connect.profiles.entering import Ask, Steps, drive, drive_async
from pgscale.errors import MismatchError, PermissionDeniedError, RefusedError, UsageError
from pgscale.sql.statements import split

QUERIES = named.load("pgscale.catalog.functions")
_ENDS = " \t\r\n;"
_SHOWN = 20


class FunctionDriftError(MismatchError):
    """Functions on disk are not those of the catalog.

    Args:
        differences: every one.
    """

    def __init__(self, directory: str, differences: tuple[Difference, ...]) -> None:
        lines = [f"  {difference.headline}" for difference in differences[:_SHOWN]]
        if len(differences) > _SHOWN:
            lines.append(f"  … and {len(differences) - _SHOWN:,} more")
        count = len(differences)
        super().__init__(
            f"{count:,} stored function{'' if count == 1 else 's'} of this database {'is' if count == 1 else 'are'} not"
            f" as {directory} has {'it' if count == 1 else 'them'}:\n" + "\n".join(lines) + "\n",
            consequence="What is called may not be what was tested.",
            hint=f"`pgscale functions check {directory}` shows what differs;"
            f" apply the files, or take the catalog's with `pgscale functions dump {directory}`.",
        )
        self.differences = differences


def assert_functions(
    connection: psycopg.Connection[Any], directory: Path | str, *, schemas: Collection[str] | None = None
) -> None:
    """Return when the stored functions of a database are those in a directory: a check for the start of an application.

    It reads the catalog in a read-only transaction, or in a savepoint of the one that is open, and leaves the
    connection as it was. The role needs no rights on the functions, only USAGE on the schemas of types.

    Args:
        connection: whose search_path says where functions and types are that a file names without a schema.
        schemas: only these; by default all but PostgreSQL's and pgscale's own.

    Raises:
        FunctionDriftError: some are missing, extra or drifted; each is named.
        UsageError: a file cannot be read; there is no such schema.
        RefusedError: a table that an SQL-standard body reads stays locked for 5 seconds.
        PermissionDeniedError: the role has no USAGE on the schema of a type that a file names.

    Lock: none; ACCESS SHARE on what SQL-standard bodies (BEGIN ATOMIC) name.
    """
    _refuse_drift(directory, check_functions(connection, directory, schemas=schemas))


async def aassert_functions(
    connection: psycopg.AsyncConnection[Any], directory: Path | str, *, schemas: Collection[str] | None = None
) -> None:
    """As assert_functions, on an async connection."""
    sources = read_sources(Path(directory))
    async with connection.transaction(force_rollback=True):
        compared = await drive_async(compare(sources, schemas), connection)
    _refuse_drift(directory, tuple(differences(compared)))


def check_functions(
    connection: psycopg.Connection[Any], directory: Path | str, *, schemas: Collection[str] | None = None
) -> tuple[Difference, ...]:
    """Return what assert_functions would name."""
    return tuple(differences(read_compared(connection, read_sources(Path(directory)), schemas)))


def read_compared(
    connection: psycopg.Connection[Any], sources: Sequence[Source], schemas: Collection[str] | None
) -> Compared:
    """Compare files with the catalog, in a transaction or savepoint of its own that is rolled back."""
    with connection.transaction(force_rollback=True):
        return drive(compare(sources, schemas), connection)


def _refuse_drift(directory: Path | str, found: tuple[Difference, ...]) -> None:
    if found:
        raise FunctionDriftError(str(directory), found)


def differences(compared: Compared) -> Iterator[Difference]:
    """Yield what differs: missing, then drifted, then extra."""
    for written in compared.missing:
        lacking = compared.unresolved.get((written.file, written.line))
        yield Difference(
            kind="missing",
            function=written.shown,
            file=written.file,
            line=written.line,
            note=f"cannot be in the catalog: there is no type {lacking}" if lacking else "",
        )
    for pair in compared.drifted:
        assert pair.written is not None, "what is equal to the letter has not drifted"
        yield Difference(
            kind="drifted",
            function=pair.stored.shown,
            file=pair.written.file,
            line=pair.written.line,
            changes=pair.changes,
            diff=unified_diff(pair.written, pair.stored),
        )
    for stored in compared.extra:
        yield Difference(kind="extra", function=stored.shown)


def compare(sources: Sequence[Source], schemas: Collection[str] | None) -> Steps[Compared]:
    """Compare files with the catalog, within a transaction that is rolled back.

    Raises:
        UsageError: a file cannot be read, or two have the same function; there is no such schema.
    """
    wanted = None if schemas is None else sorted(schemas)
    before, default_schema, *_ = (yield Ask(QUERIES.get("begin", 0)))[0]
    if wanted is not None:
        lacking = [str(row[0]) for row in (yield Ask(QUERIES.get("missing_schemas", 0), {"schemas": wanted}))]
        if lacking:
            raise UsageError(f"There is no schema {', '.join(lacking)}.")
    try:
        rows = yield Ask(QUERIES.get("functions", 0), {"schemas": wanted})
    except psycopg.errors.LockNotAvailable as error:
        raise RefusedError(
            "A table that an SQL-standard function body reads has been locked for 5 seconds.",
            consequence="The body cannot be written out meanwhile. Nothing was compared.",
            hint="`pgscale locks` shows who holds it.",
        ) from error
    every = tuple(_stored(row) for row in rows)
    stored = tuple(each for each in every if each.definition is not None)
    equal, rest = _equal(sources, stored)
    place = _Place(default_schema or "", wanted)
    written = tuple(routine for source in rest for routine in read_routines(source) if place.holds(routine))
    types: dict[TypeName, int | None] = {}
    if written:
        yield Ask(QUERIES.get("restore", 0), {"search_path": before})
        types = yield from _read_types(written)
    pairs, missing = _paired(equal, rest, written, types, stored, place)
    met = {pair.stored.oid for pair in pairs}
    return Compared(
        pairs=pairs,
        missing=missing,
        extra=tuple(each for each in stored if each.oid not in met),
        aggregates=len(every) - len(stored),
        unresolved={(each.file, each.line): lack for each in missing if (lack := _lacking(each, types))},
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a function goes that is written without a schema, and which schemas are looked at; None is all."""

    default_schema: str
    schemas: list[str] | None

    def schema_of(self, written: Written) -> str:
        return written.schema if written.schema is not None else self.default_schema

    def holds(self, written: Written) -> bool:
        return self.schemas is None or self.schema_of(written) in self.schemas


def read_routines(source: Source) -> Iterator[Written]:
    """Yield the functions and procedures that a file makes; other statements, and commands of psql, are passed over."""
    for statement in split(source.text, source.path, skip_meta=True):
        written = read_routine(statement)
        if written is not None:
            yield written


def _equal(sources: Sequence[Source], stored: Sequence[Stored]) -> tuple[list[Pair], list[Source]]:
    """Pair the files that are one definition to the letter, which need not be read; return the others."""
    by_text = {(each.definition or "").rstrip(_ENDS): each for each in stored}
    pairs: list[Pair] = []
    rest: list[Source] = []
    for source in sources:
        found = by_text.get(source.text.rstrip(_ENDS))
        if found is None:
            rest.append(source)
        else:
            pairs.append(Pair(stored=found, source=source, written=None))
    return pairs, rest


def _paired(
    equal: Sequence[Pair],
    sources: Sequence[Source],
    written: Sequence[Written],
    types: Types,
    stored: Sequence[Stored],
    place: _Place,
) -> tuple[tuple[Pair, ...], tuple[Written, ...]]:
    by_key = {each.key: each for each in stored}
    by_path = {source.path: source for source in sources}
    places: dict[tuple[str, str, tuple[int | None, ...]], str] = {}
    for pair in equal:
        _once(places, pair.stored.key, pair.stored.shown, f"{pair.source.path}:1")
    pairs = list(equal)
    missing: list[Written] = []
    for each in written:
        schema = place.schema_of(each)
        inputs = tuple(types[argument.type] for argument in each.inputs)
        if None not in inputs:
            _once(places, (schema, each.name, inputs), each.shown, f"{each.file}:{each.line}")
        found = by_key.get((schema, each.name, tuple(oid for oid in inputs if oid is not None)))
        if found is None or None in inputs:
            missing.append(each)
        else:
            differing = changes(each, types, found)
            pairs.append(Pair(stored=found, source=by_path[each.file], written=each, changes=differing))
    return tuple(pairs), tuple(missing)


def _once(
    places: dict[tuple[str, str, tuple[int | None, ...]], str],
    key: tuple[str, str, tuple[int | None, ...]],
    shown: str,
    where: str,
) -> None:
    before = places.setdefault(key, where)
    if before != where:
        raise UsageError(f"{shown} is in {before} and again in {where}.", hint="Keep one of them.")


def _lacking(written: Written, types: Types) -> str:
    return next((argument.type.shown for argument in written.inputs if types[argument.type] is None), "")


def _read_types(written: Sequence[Written]) -> Steps[dict[TypeName, int | None]]:
    wanted = list(dict.fromkeys(type_name for each in written for type_name in _types_of(each)))
    params = {"names": [each.text for each in wanted], "columns": [each.column for each in wanted]}
    try:
        rows = yield Ask(QUERIES.get("types", 0), params)
    except (psycopg.errors.SyntaxError, psycopg.DataError, psycopg.errors.InvalidName) as error:
        raise UsageError(
            f"The server cannot read a type that a file names: {error.diag.message_primary or error}.",
            hint="Types are written as in CREATE FUNCTION: integer, text[], app.money.",
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise PermissionDeniedError(
            f"The role may not find out which types the files name: {error.diag.message_primary or error}.",
            hint="GRANT USAGE ON SCHEMA … TO the role: of the schemas whose types functions take and return.",
        ) from error
    return {type_name: row[0] for type_name, row in zip(wanted, rows, strict=True)}


def _types_of(written: Written) -> Iterator[TypeName]:
    for argument in written.arguments:
        yield argument.type
    if written.returns is not None:
        yield written.returns


def _stored(row: tuple[Any, ...]) -> Stored:
    return Stored(
        oid=row[0],
        schema=row[1],
        name=row[2],
        kind=row[3],
        inputs=row[4],
        input_names=row[5],
        types=row[6],
        modes=row[7],
        names=row[8],
        result=row[9],
        returns_set=row[10],
        shown_inputs=row[11],
        definition=row[12],
    )
