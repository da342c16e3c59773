"""`pgscale catalog tables|columns|…`: the facts of the catalog as a table, CSV or JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import fields
from datetime import datetime
from typing import Any, cast

from pgscale.catalog import facts
from pgscale.connect.session import READER, open_session
from pgscale.core.model import Json, Report

READERS: dict[str, tuple[type[Any], Callable[..., tuple[Any, ...]]]] = {
    "tables": (facts.Table, facts.read_tables),
    "columns": (facts.Column, facts.read_columns),
    "indexes": (facts.Index, facts.read_indexes),
    "constraints": (facts.Constraint, facts.read_constraints),
    "functions": (facts.Function, facts.read_functions),
    "partitions": (facts.Partition, facts.read_partitions),
    "freshness": (facts.Freshness, facts.read_freshness),
}
# Whose definitions are written out with a lock.
DEFINED = frozenset({"columns", "indexes", "constraints", "functions"})
# What a person is shown; CSV and JSON have everything. A heading is its fact's name unless it says otherwise.
SHOWN = {
    "tables": "schema table=name kind rows=estimated_rows heap_bytes toast_bytes index_bytes owner",
    "columns": "schema table=table_name column=name type not_null default=default_sql",
    "indexes": "schema table=table_name index=name method columns unique=is_unique valid=is_valid bytes",
    "constraints": "schema table=table_name constraint=name kind columns references=references_table"
    " validated=is_validated",
    "functions": "schema function=name inputs=input_types result kind language volatility",
    "partitions": "schema table=parent_name partition=name bound rows=estimated_rows heap_bytes",
    "freshness": "schema table=name live_rows dead_rows changed=changed_since_analyze"
    " vacuumed=vacuumed_at analyzed=analyzed_at",
}


def read(
    dsn: str | None, what: str, *, schemas: tuple[str, ...] = (), definitions: bool = False, as_csv: bool = False
) -> Report:
    """Read one kind of facts.

    Args:
        what: a key of READERS.
        definitions: as its reader; of those in DEFINED only.

    Raises:
        ConnectError, PermissionDeniedError: no session.
    """
    kind, reader = READERS[what]
    asked: dict[str, Any] = {"schemas": schemas or None}
    if what in DEFINED:
        asked["definitions"] = definitions
    with open_session(dsn, READER) as session:
        found = reader(session, **asked)
    names = [field.name for field in fields(kind)]
    data: list[Json] = [{name: _json(getattr(fact, name)) for name in names} for fact in found]
    return Report(
        data=data, text=_csv(names, found) if as_csv else _table(found, SHOWN[what].split(), len(set(schemas)) == 1)
    )


def _json(value: Any) -> Json:
    return value.isoformat() if isinstance(value, datetime) else value


def _csv(names: list[str], found: tuple[Any, ...]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for fact in found:
        writer.writerow(_csv_value(_json(getattr(fact, name))) for name in names)
    return text.getvalue().removesuffix("\n")


def _csv_value(value: Json) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(_csv_value, value)) if isinstance(value, list) else str(value)


def _table(found: tuple[Any, ...], shown: list[str], in_one_schema: bool) -> str:
    wanted = [each.rpartition("=") for each in shown if not (in_one_schema and each == "schema")]
    lines = [[heading or field for heading, _, field in wanted]]
    lines += [[_cell(getattr(fact, field)) for _, _, field in wanted] for fact in found]
    if not found:
        return "None."
    widths = [max(len(line[place]) for line in lines) for place in range(len(wanted))]
    rows = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    first, *rest = rows
    return "\n".join((first, "  ".join("-" * width for width in widths), *rest))


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, list):
        parts = cast("list[str | None]", value)
        return ", ".join("(expression)" if each is None else each for each in parts)
    return " ".join(str(value).split())
