"""Where rows go: the columns they are for, and the statements that bring them there."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from pgscale.errors import PermissionDeniedError, RefusedError, UsageError
from pgscale.write import ddl as write_ddl
from pgscale.write.loading import ddl
from pgscale.write.loading.model import LoadOptions
from pgscale.write.loading.writing import Merge, Target
from pgscale.write.model import ColumnFact, Destination, UniqueKey
from pgscale.write.rules import ColumnRule, choose_rules, find_overwritten_counters
from pgscale.write.upserting import arbiter_of, in_the_order_of

# Rules by which the result does not depend on which of two rows comes first.
ORDER_FREE = frozenset({"add", "least", "greatest"})


def choose_columns(destination: Destination, names: Sequence[str], source: str, *, is_csv: bool) -> tuple[str, ...]:
    """Return the columns that the file's columns go to; all that are not generated when the file names none.

    Raises:
        RefusedError: a name is no column, is generated or comes twice.
    """
    if not names:
        return tuple(c.name for c in destination.columns if not c.is_generated)
    known = [c.name for c in destination.columns]
    reasons: list[str] = []
    for number, name in enumerate(names):
        column = destination.column(name)
        if column is None:
            near = difflib.get_close_matches(name, known, 1) or [k for k in known if k.lower() == name.strip().lower()]
            also = f" (there is {near[0]})" if near else ""
            reasons.append(f"{destination.table} has no column {name!r}{also}.")
        elif column.is_generated:
            reasons.append(f"Column {name} is generated: it takes no values.")
        elif name in names[:number]:
            reasons.append(f"Column {name} comes twice.")
    if reasons:
        hint = (
            "--columns a,b,… names the columns in place of the header; --no-header when there is none."
            if is_csv
            else ""
        )
        raise RefusedError(
            f"{source} does not fit {destination.table}.",
            reasons=tuple(reasons[:8]),
            consequence="Nothing was written.",
            hint=hint,
        )
    return tuple(names)


def check_table(destination: Destination, kind: str, *, may_insert: bool, merges: bool) -> None:
    """Raise when rows cannot be brought into what the name stands for.

    Raises:
        RefusedError, PermissionDeniedError
    """
    if kind not in ("r", "p", "f", "v") or (merges and kind not in ("r", "p")):
        raise RefusedError(f"{destination.table} takes no rows this way.", consequence="Nothing was written.")
    if not may_insert:
        raise PermissionDeniedError(
            f"The role may not insert into {destination.table}.",
            consequence="Nothing was written.",
            hint=f"GRANT INSERT ON {destination.table} TO the role.",
        )
    if merges and not destination.may_stage:
        raise PermissionDeniedError(
            "Merging stages its rows, which needs the right to make temporary tables.",
            consequence="Nothing was written.",
            hint="GRANT TEMPORARY ON DATABASE … TO this role.",
        )


def make_target(
    destination: Destination, names: Sequence[str], keys: Sequence[UniqueKey], options: LoadOptions
) -> tuple[Target, tuple[ColumnRule, ...]]:
    """Return where parts go, and the rules of a merge.

    Raises:
        RefusedError: the table has no such key; UsageError: a wrong rule, or no column for the key.
    """
    is_binary = options.format in ("parquet", "arrow")
    unit = "row" if is_binary else "line"
    if not options.key:
        copy = (
            write_ddl.copy_statement(destination.table, names)
            if is_binary
            else ddl.copy_lines(destination.table, names, options)
        )
        encoded_for = destination if is_binary else None
        target = Target(
            oid=destination.oid,
            shown=str(destination.table),
            unit=unit,
            copy=copy,
            merge=None,
            encoded_for=encoded_for,
        )
        return target, ()
    arbiter = arbiter_of(destination, tuple(keys), options.key)
    if missing := [name for name in options.key if name not in names]:
        raise UsageError(f"The file has no column {', '.join(missing)}, which is of the key.")
    columns = [c for name in names if (c := destination.column(name)) is not None]
    rules = choose_rules(columns, options.key, options.rules, destination.types)
    staging = write_ddl.staging_name(destination.oid, columns)
    statement = write_ddl.upsert(
        destination.table,
        write_ddl.staged(staging),
        _named(columns, in_the_order_of(destination, options.key)),
        rules,
        destination.types,
        nulls_are_equal=arbiter.nulls_are_equal,
        counts_updates=destination.kind == "p",
    )
    merge = Merge(
        staging=staging,
        create=write_ddl.create_staging(staging, columns),
        statement=statement,
        counts_updates=destination.kind == "p",
    )
    copy = write_ddl.copy_statement(staging, names) if is_binary else ddl.copy_lines(staging, names, options)
    return Target(oid=destination.oid, shown=str(destination.table), unit=unit, copy=copy, merge=merge), rules


def _named(columns: Sequence[ColumnFact], names: Sequence[str]) -> list[ColumnFact]:
    return [c for name in names for c in columns if c.name == name]


def warnings_of(
    rules: Sequence[ColumnRule], destination: Destination, workers: int, *, is_merge: bool
) -> tuple[str, ...]:
    """Return what looks like a mistake."""
    found = list(find_overwritten_counters(rules, destination.types))
    if is_merge and workers > 1 and not is_order_free(rules):
        found.append(
            f"{workers} workers merge parts of the file in any order: where a key comes twice in it, which row is the"
            " later one is not told. One worker keeps the order."
        )
    return tuple(found)


def is_order_free(rules: Sequence[ColumnRule]) -> bool:
    return all(one.rule in ORDER_FREE for one in rules)
