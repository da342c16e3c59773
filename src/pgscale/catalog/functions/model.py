"""Functions as files have them, as the catalog has them, and what differs. Values only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pgscale.core.model import Json, QName, quote_ident

Tokens: TypeAlias = tuple[str, ...]
_TIGHT = re.compile(r" ?([.\[\](,]|\)) ?")
DifferenceKind: TypeAlias = Literal["missing", "extra", "drifted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeName:
    """A type as a file names it; the server finds out which it is.

    Args:
        text: without SETOF; for `orders.id%TYPE` the relation, and `column` the column.
    """

    text: str
    column: str | None = None

    @property
    def shown(self) -> str:
        text = _TIGHT.sub(lambda found: found[1], self.text)
        return text if self.column is None else f"{text}.{self.column}%TYPE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One parameter, or one column of RETURNS TABLE.

    Args:
        mode: as pg_proc.proargmodes: i, o, b (INOUT), v (VARIADIC), t (TABLE).
        name: empty when it has none.
        default: its tokens.
    """

    mode: str
    name: str
    type: TypeName
    default: Tokens | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A CREATE FUNCTION or CREATE PROCEDURE, read.

    Args:
        file, line: where it stands; start, end: its characters there, without the semicolon.
        schema: None where the search_path decides.
        returns: None where its arguments say it (OUT, TABLE), and for procedures.
        options: those that are not the default, by their name in messages.
        settings: of its SET clauses, in lower case; None for FROM CURRENT.
        body: of AS, as the server stores it; link: the second string of AS, of C functions.
        sql_body: the tokens of an SQL-standard body, RETURN … or BEGIN ATOMIC …
    """

    file: str
    line: int
    start: int
    end: int
    text: str
    kind: Literal["function", "procedure"]
    schema: str | None
    name: str
    arguments: tuple[Argument, ...]
    returns: TypeName | None
    returns_set: bool
    language: str
    options: Mapping[str, str]
    settings: Mapping[str, Tokens | None]
    body: str | None
    link: str | None
    sql_body: Tokens | None

    @property
    def inputs(self) -> tuple[Argument, ...]:
        """The arguments that tell it from others of its name."""
        return tuple(argument for argument in self.arguments if argument.mode in "ibv")

    @property
    def shown(self) -> str:
        """Its name and the types of its inputs, as written."""
        types = ", ".join(argument.type.shown for argument in self.inputs)
        schema = f"{quote_ident(self.schema)}." if self.schema is not None else ""
        return f"{schema}{quote_ident(self.name)}({types})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A function of the catalog.

    Args:
        kind: pg_proc.prokind.
        inputs: OIDs of the types that tell it from others of its name; input_names: what pg_type calls them.
        types, modes, names: of all its arguments, OUT and TABLE included; modes and names None where all are
            plain or none has a name.
        shown_inputs: `integer, text`.
        definition: of pg_get_functiondef; None for aggregates, which it does not write.
    """

    oid: int
    schema: str
    name: str
    kind: str
    inputs: list[int]
    input_names: list[str]
    types: list[int]
    modes: list[str] | None
    names: list[str] | None
    result: int
    returns_set: bool
    shown_inputs: str
    definition: str | None

    @property
    def key(self) -> tuple[str, str, tuple[int, ...]]:
        return self.schema, self.name, tuple(self.inputs)

    @property
    def shown(self) -> str:
        return f"{QName(schema=self.schema, name=self.name)}({self.shown_inputs})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file of a directory; `path` is relative to it."""

    path: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing in which a function differs, on both sides in words."""

    what: str
    file: str
    catalog: str

    def to_json(self) -> dict[str, Json]:
        return {"what": self.what, "file": self.file, "catalog": self.catalog}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A function that is not the same on disk and in the catalog.

    Args:
        kind: missing from the catalog, extra there, or drifted.
        function: its name and the types of its inputs.
        file, line: where it stands on disk; None when it does not.
        note: why it is taken for missing, where that is not plain.
        diff: from the file to the catalog, in the unified format; for what drifted.
    """

    kind: DifferenceKind
    function: str
    file: str | None = None
    line: int | None = None
    changes: tuple[Change, ...] = ()
    note: str = ""
    diff: str = ""

    @property
    def headline(self) -> str:
        where = f" ({self.file}:{self.line})" if self.file is not None else ""
        if self.kind == "missing":
            said = self.note or "is on disk and not in the catalog"
        elif self.kind == "extra":
            said = "is in the catalog and not on disk"
        else:
            said = "differs in " + ", ".join(change.what for change in self.changes)
        return f"{self.kind}: {self.function}{where} {said}"

    @property
    def lines(self) -> tuple[str, ...]:
        """All of it, for a person."""
        said = (f"    {change.what}: {change.file} → {change.catalog}" for change in self.changes)
        return (self.headline, *said, *(f"    {line}" for line in self.diff.splitlines()))

    def to_json(self) -> dict[str, Json]:
        return {
            "kind": self.kind,
            "function": self.function,
            "file": self.file,
            "line": self.line,
            "changes": [change.to_json() for change in self.changes],
            "note": self.note,
            "diff": self.diff,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A function that is in both; `written` is None when a file is the catalog's text to the letter."""

    stored: Stored
    source: Source
    written: Written | None
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A directory against a catalog.

    Args:
        unresolved: of `missing`, types that do not exist, by file and line.
        aggregates: how many were left out.
    """

    pairs: tuple[Pair, ...]
    missing: tuple[Written, ...]
    extra: tuple[Stored, ...]
    aggregates: int
    unresolved: Mapping[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])

    @property
    def drifted(self) -> tuple[Pair, ...]:
        return tuple(pair for pair in self.pairs if pair.changes)
