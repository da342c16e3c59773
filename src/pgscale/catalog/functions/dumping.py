"""What it takes to make a directory say what the catalog has (pure), and doing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from pgscale.catalog.functions.checking import read_compared
from pgscale.catalog.functions.files import read_sources, remove_file, write_file
from pgscale.catalog.functions.model import Compared, Pair, Source, Stored
from pgscale.catalog.functions.naming import paths_for
from pgscale.sql.statements import split


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """A file that is to be written.

    Args:
        path: relative to the directory.
        text: all of it.
        functions: those that are new or other in it.
    """

    path: str
    text: str
    functions: tuple[str, ...]
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """A file with functions that the catalog no longer has; it can be removed when it holds nothing else."""

    path: str
    functions: tuple[str, ...]
    removable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """What a dump does; `unchanged` counts functions, `aggregates` those that PostgreSQL does not write."""

    changes: tuple[FileChange, ...]
    gone: tuple[Gone, ...]
    pruned: tuple[str, ...]
    unchanged: int
    aggregates: int


def plan_dump(compared: Compared, sources: Sequence[Source], *, prune: bool) -> Dump:
    """Decide which files change: only those that do not say what the catalog has. Formatting stays as it is.

    In a file that has a function, its CREATE statement is exchanged and all around it stays. A function without a file
    gets one of its own.
    """
    gone = _gone(compared, sources)
    pruned = tuple(each.path for each in gone if prune and each.removable)
    return Dump(
        changes=(*_rewritten(compared.drifted), *_added(compared, sources)),
        gone=gone,
        pruned=pruned,
        unchanged=len(compared.pairs) - len(compared.drifted),
        aggregates=compared.aggregates,
    )


def _rewritten(drifted: Sequence[Pair]) -> list[FileChange]:
    by_source: dict[str, list[Pair]] = {}
    for pair in drifted:
        by_source.setdefault(pair.source.path, []).append(pair)
    found: list[FileChange] = []
    for path, pairs in by_source.items():
        text = pairs[0].source.text
        # From the last to the first: the places of those before stay what they are.
        for pair in sorted(pairs, key=_start, reverse=True):
            assert pair.written is not None, "what has drifted was read"
            text = text[: pair.written.start] + _definition(pair.stored) + text[pair.written.end :]
        names = tuple(pair.stored.shown for pair in pairs)
        found.append(FileChange(path=path, text=text, functions=names, is_new=False))
    return found


def _start(pair: Pair) -> int:
    return pair.written.start if pair.written is not None else 0


def _added(compared: Compared, sources: Sequence[Source]) -> list[FileChange]:
    every = (*(pair.stored for pair in compared.pairs), *compared.extra)
    paths = paths_for(compared.extra, every, [source.path for source in sources])
    return [
        FileChange(path=paths[each.oid], text=f"{_definition(each)};\n", functions=(each.shown,), is_new=True)
        for each in compared.extra
    ]


def _definition(stored: Stored) -> str:
    assert stored.definition is not None, "aggregates are left out before"
    return stored.definition.rstrip("\n")


def _gone(compared: Compared, sources: Sequence[Source]) -> tuple[Gone, ...]:
    by_path: dict[str, list[str]] = {}
    for written in compared.missing:
        by_path.setdefault(written.file, []).append(written.shown)
    texts = {source.path: source.text for source in sources}
    return tuple(
        Gone(
            path=path,
            functions=tuple(functions),
            removable=len(split(texts[path], path, skip_meta=True)) == len(functions),
        )
        for path, functions in by_path.items()
    )


def dump_functions(
    connection: psycopg.Connection[object],
    directory: Path,
    *,
    schemas: Sequence[str] | None = None,
    prune: bool = False,
) -> Dump:
    """Write every stored function of a database into a directory; a second time changes nothing.

    A file whose function is the catalog's but for formatting stays as it is.

    Args:
        connection: as assert_functions.
        schemas: as assert_functions.
        prune: remove files whose functions are gone and that hold nothing else.

    Raises:
        UsageError: a file there cannot be read, or two have the same function; there is no such schema.
        RunFailedError: a file cannot be written.

    Lock: as assert_functions.
    """
    sources = read_sources(directory) if directory.exists() else ()
    dump = plan_dump(read_compared(connection, sources, schemas), sources, prune=prune)
    for change in dump.changes:
        write_file(directory / change.path, change.text)
    for path in dump.pruned:
        remove_file(directory / path)
    return dump
