"""Columns whose values may lie in a TOAST table, and what a sample of them showed. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pgscale.core.model import Json, QName

Method = Literal["pglz", "lz4"]
STORAGES = {"x": "EXTENDED", "e": "EXTERNAL", "m": "MAIN", "p": "PLAIN"}
AS_STORED = "as stored"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToastColumn:
    """A column, with the table it is of.

    Args:
        rows: of the table, as of the last VACUUM or ANALYZE; -1 before the first.
        toast_pages, chunks: of its TOAST table, which is that of all its columns; likewise. A chunk has 1,996 bytes.
        type_name: with its modifier, quoted; base: the name of the type, of its base type where it is a domain.
        category: of the type, as pg_type has it; A: an array.
        storage, compression: as pg_attribute has them; without compression it is the server's.
        width: mean as the row has it, in which a value outside counts 18 bytes; None where that is hidden or not known.
        key: columns of the primary key.
    """

    oid: int
    schema: str
    table_name: str
    is_materialized: bool
    rows: float
    toast_pages: int
    chunks: float
    name: str
    type_name: str
    base: str
    category: str
    storage: str
    compression: str
    width: int | None
    null_share: float | None
    may_select: bool
    key: list[str]

    @property
    def table(self) -> QName:
        return QName(schema=self.schema, name=self.table_name)

    def method(self, default: str) -> str:
        """What compresses its new values.

        Args:
            default: default_toast_compression.
        """
        return {"p": "pglz", "l": "lz4"}.get(self.compression, default)

    @property
    def is_compressed(self) -> bool:
        """New values are, when they are long."""
        return self.storage in ("x", "m")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The long values of a sample, stored in one way.

    Args:
        name: `as stored`, `pglz`, `lz4` or `external`.
        bytes: of all of them.
        read_s: to read and decompress them all, seconds; the quickest of some.
    """

    name: str
    bytes: int
    read_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a sample of a column's rows showed.

    Args:
        rows, values: read; with a value.
        stored_bytes: of all values, as they are stored.
        outside: values in the TOAST table; None before 17, which tells.
        pglz, lz4: values compressed so.
        long_values: those that were stored in other ways, too; forms: how that went, `as stored` first; empty when
            there is no long value, or `not_compared` says why not, and `hint` what would help.
    """

    rows: int
    values: int
    stored_bytes: int
    outside: int | None
    pglz: int
    lz4: int
    long_values: int = 0
    forms: tuple[Form, ...] = ()
    not_compared: str = ""
    hint: str = ""

    def form(self, name: str) -> Form | None:
        return next((each for each in self.forms if each.name == name), None)

    @property
    def mean_bytes(self) -> float:
        """Of a value."""
        return self.stored_bytes / max(1, self.values)

    def total_bytes(self, table_rows: float) -> float:
        """What the column takes in the whole table, by the sample."""
        return self.stored_bytes / max(1, self.rows) * max(float(self.rows), table_rows)

    def to_json(self, column: ToastColumn) -> dict[str, Json]:
        return {
            "column": column.name,
            "stored_bytes": int(self.total_bytes(column.rows)),
            "mean_bytes": round(self.mean_bytes),
            "outside_share": None if self.outside is None else self.outside / max(1, self.values),
            "pglz_share": self.pglz / max(1, self.values),
            "lz4_share": self.lz4 / max(1, self.values),
            "rows_read": self.rows,
        }
