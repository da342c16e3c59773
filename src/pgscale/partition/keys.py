"""Which unique keys a partitioned copy can have, and which key names its rows. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pgscale.catalog.model import Index, TableFacts
from pgscale.livecopy.model import KeyColumn
from pgscale.partition.model import By


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The identity of rows, the placement columns beyond it, and the keys that must grow.

    Args:
        identity_index: the unique index that names rows; None when there is none.
        grown: for each unique index that lacks partition-key columns, those columns, by index oid.
    """

    identity_index: Index | None
    identity: tuple[KeyColumn, ...]
    placement: tuple[KeyColumn, ...]
    grown: dict[int, tuple[str, ...]]


def decide_keys(facts: TableFacts, by: By) -> Keys:
    """Choose the identity (the primary key, else the narrowest NOT NULL unique index) and what must grow."""
    not_null = {c.name for c in facts.columns if c.not_null}

    def names_rows(index: Index) -> bool:
        return (
            index.is_unique
            and index.is_valid
            and not index.is_partial
            and not index.has_expressions
            and not index.is_exclusion
            and all(index.key_operators)
            and set(index.key_columns) <= not_null
        )

    candidates = sorted(
        (i for i in facts.indexes if names_rows(i)),
        key=lambda i: (not i.is_primary, not i.is_immediate, len(i.key_columns), i.bytes, i.name),
    )
    chosen = candidates[0] if candidates else None
    identity: tuple[KeyColumn, ...] = ()
    if chosen is not None:
        types = {c.name: c.type for c in facts.columns}
        identity = tuple(
            KeyColumn(name=name, equals=operator, type=types[name])
            for name, operator in zip(chosen.key_columns, chosen.key_operators, strict=False)
        )
    named = {k.name for k in identity}
    columns = {c.name: c for c in facts.columns}
    primary = next((i for i in facts.indexes if i.is_primary), None)
    # A primary key that grows makes the partition key NOT NULL.
    forced = set(by.columns) if primary is not None else set[str]()
    placement = tuple(
        KeyColumn(
            name=name,
            equals=columns[name].equals,
            nullable=not (columns[name].not_null or name in forced),
        )
        for name in by.columns
        if name not in named and name in columns
    )
    grown: dict[int, tuple[str, ...]] = {}
    for index in facts.indexes:
        missing = tuple(c for c in by.columns if c not in index.key_columns)
        if index.is_unique and index.is_valid and not index.is_exclusion and missing:
            grown[index.oid] = missing
    return Keys(identity_index=chosen, identity=identity, placement=placement, grown=grown)
