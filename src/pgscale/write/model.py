"""Values of writing: the columns and types of a table as COPY sees them, and what a value did not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pgscale.core.model import QName
from pgscale.errors import PgscaleError

# base, domain, enum, composite, range, multirange, pseudo, array
Kind = Literal["b", "d", "e", "c", "r", "m", "p", "a"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFact:
    """One column: its type as pg_attribute has it, and whether rows may bring a value for it.

    Args:
        is_text_only: the server cannot read its type in binary, and so takes no binary COPY into the table at all.
        collation: as SQL names it, where it is another than its type's; else empty.
        is_deterministic: texts that are equal by its collation are the same.
    """

    name: str
    type_oid: int
    type_name: str
    is_not_null: bool
    is_generated: bool
    is_text_only: bool
    collation: str
    is_deterministic: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeFact:
    """One type and what it is made of.

    Args:
        element_oid: of an array; base_oid: of a domain; part_oid: the subtype of a range, the range of a multirange.
        labels: of an enum; field_names, field_oids: of a composite. Zero or empty elsewhere.
    """

    oid: int
    name: str
    schema: str
    kind: Kind
    element_oid: int
    base_oid: int
    part_oid: int
    labels: tuple[str, ...]
    field_names: tuple[str, ...]
    field_oids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A table that rows are written to: its columns in the order of the table, and every type they are made of."""

    oid: int
    table: QName
    kind: str
    may_stage: bool
    row_type_oid: int
    columns: tuple[ColumnFact, ...]
    types: Mapping[int, TypeFact]

    def column(self, name: str) -> ColumnFact | None:
        return next((c for c in self.columns if c.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class UniqueKey:
    """A unique index: what ON CONFLICT can rest on, or why it cannot. Expressions are None among the columns."""

    name: str
    is_immediate: bool
    is_valid: bool
    is_partial: bool
    nulls_are_equal: bool
    columns: tuple[str | None, ...]


class NotFittingError(ValueError):
    """A value does not fit its type; the message is the reason, without row and column."""


class RowError(PgscaleError):
    """A row does not fit the table.

    Args:
        row: its index among the rows given, from 0.
        column: the column's name; None when the row as a whole is wrong.
        reason: why, in a few words.
        table: told where rows of several tables are written.
    """

    exit_code = 1

    def __init__(self, row: int, column: str | None, reason: str, table: str | None = None) -> None:
        where = f"Row {row}" if table is None else f"Row {row} of {table}"
        where = where if column is None else f"{where}, column {column}"
        super().__init__(f"{where}: {reason}.", consequence="Nothing of this call was written.")
        self.row = row
        self.column = column
        self.reason = reason
        self.table = table
