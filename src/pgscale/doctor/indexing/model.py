"""What is known of tables, columns, indexes and statements, and what is found out from them. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pgscale.core.model import QName, quote_ident

Test = Literal["null", "not null", "true", "false"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What one statement has done in this database, by all roles.

    Args:
        query: its text with $1 for constants.
        rows: returned or changed; blocks: of shared buffers, asked for.
        counted_s: since when, at least.
    """

    query_id: str
    query: str
    calls: int
    total_ms: float
    rows: int
    blocks: int
    counted_s: float | None

    @property
    def rows_a_call(self) -> float:
        return self.rows / max(1, self.calls)

    @property
    def blocks_a_call(self) -> float:
        return self.blocks / max(1, self.calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table, with its partitions where it has any.

    Args:
        written_rows: that made entries in every index, and sequential_scans: since counted_s seconds.
        namesakes: schemas with another table or view of the same name.
    """

    oid: int
    schema: str
    name: str
    is_partitioned: bool
    pages: int
    rows: float
    visible_pages: int
    written_rows: int
    sequential_scans: int
    counted_s: float
    namesakes: list[str] = field(hash=False)

    @property
    def qname(self) -> QName:
        return QName(schema=self.schema, name=self.name)

    @property
    def visible_share(self) -> float:
        return min(1.0, self.visible_pages / self.pages) if self.pages else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column and its statistics, None where there are none or they are hidden.

    Args:
        is_sortable: its type has a B-tree operator class.
        is_builtin: its type is PostgreSQL's, or an enum: its operators are found in pg_catalog.
        is_visible: the login may see its statistics.
        distinct_values: as pg_stats has them, negative for a share of the rows.
        common_values: only where there are 20 different ones at most.
    """

    table_oid: int
    number: int
    name: str
    width_bytes: int
    is_not_null: bool
    is_sortable: bool
    is_builtin: bool
    is_visible: bool
    distinct_values: float | None
    null_share: float | None
    common_values: list[str] | None
    common_shares: list[float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A column of an index, or of an ORDER BY."""

    column: str
    is_descending: bool = False
    nulls_first: bool = False

    @property
    def turned(self) -> Key:
        """As a scan from the other end gives it."""
        return Key(column=self.column, is_descending=not self.is_descending, nulls_first=not self.nulls_first)

    def __str__(self) -> str:
        nulls = {(False, True): " NULLS FIRST", (True, False): " NULLS LAST"}
        down = " DESC" if self.is_descending else ""
        return f"{quote_ident(self.column)}{down}{nulls.get((self.is_descending, self.nulls_first), '')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A valid index.

    Args:
        keys: None stands for an expression; options: bit 0 descending, bit 1 NULLs first.
        is_default: operator classes and collations are those of the columns.
        tested_column, test: what a partial index is restricted to, where that is a single test.
    """

    table_oid: int
    oid: int
    schema: str
    name: str
    method: str
    is_unique: bool
    keys: list[str | None]
    options: list[int]
    is_default: bool
    included: list[str]
    is_partial: bool
    tested_column: str | None
    test: Test | None
    pages: int
    is_constraint: bool

    @property
    def qname(self) -> QName:
        return QName(schema=self.schema, name=self.name)

    def plain_keys(self) -> tuple[Key, ...] | None:
        """Return the key of a B-tree of columns with their own operator classes, else None."""
        named = [name for name in self.keys if name is not None]
        if self.method != "btree" or not self.is_default or len(named) < len(self.keys):
            return None
        return tuple(
            Key(column=name, is_descending=bool(option & 1), nulls_first=bool(option & 2))
            for name, option in zip(named, self.options, strict=True)
        )


def _no_tests() -> dict[str, Test]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How a statement reads a table in one place.

    Args:
        equal: columns compared with values; ranges: bounded by values; both_bounds: of them, on both sides.
        joined: columns that equal something of other tables.
        tests: columns that must be NULL, or not, or a boolean.
        order: what the rows are asked in the order of, when by columns of this table alone.
        is_limited: only the first of them are wanted.
        used: columns that are asked for, None for all or where a row is changed.
        is_plain: no other table, grouping or condition: the statement's rows are those that match.
        loops: how often it is read a call, as far as is known.
    """

    statement: Statement
    table: Table
    equal: frozenset[str] = frozenset()
    joined: frozenset[str] = frozenset()
    ranges: frozenset[str] = frozenset()
    both_bounds: frozenset[str] = frozenset()
    tests: dict[str, Test] = field(default_factory=_no_tests)
    order: tuple[Key, ...] = ()
    is_limited: bool = False
    used: frozenset[str] | None = None
    is_plain: bool = False
    loops: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An index to be made.

    Args:
        tested: the column and the test of its predicate.
        included: columns of INCLUDE.
    """

    table: Table
    keys: tuple[Key, ...]
    included: tuple[str, ...] = ()
    tested: tuple[str, Test] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(key.column for key in self.keys)

    def __str__(self) -> str:
        text = f"({', '.join(map(str, self.keys))})"
        if self.included:
            text += f" INCLUDE ({', '.join(map(quote_ident, self.included))})"
        return text + (f" WHERE {said(*self.tested)}" if self.tested is not None else "")


def said(column: str, test: Test) -> str:
    """Return a test as it is shown."""
    name = quote_ident(column)
    return {"null": f"{name} IS NULL", "not null": f"{name} IS NOT NULL", "true": name, "false": f"NOT {name}"}[test]
