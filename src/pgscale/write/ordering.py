"""In which order tables can be written when a foreign key cannot wait. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgscale.core.model import QName, quote_ident
from pgscale.errors import RefusedError


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    """A foreign key between two tables that are written together.

    Args:
        name, schema: of the constraint; table, parent: as it is declared, which for a partition is its parent.
        child_oid, parent_oid: the tables written.
    """

    name: str
    schema: str
    table: QName
    parent: QName
    child_oid: int
    parent_oid: int
    is_deferrable: bool
    is_deferred: bool

    @property
    def remedy(self) -> str:
        """The statement that lets it wait; it changes the catalogs only, but locks both tables while it does."""
        return f"ALTER TABLE {self.table} ALTER CONSTRAINT {quote_ident(self.name)} DEFERRABLE INITIALLY IMMEDIATE"

    def __str__(self) -> str:
        return f"Foreign key {quote_ident(self.name)} of {self.table} to {self.parent}"


def order_tables(oids: Sequence[int], keys: Sequence[ForeignKey]) -> tuple[int, ...]:
    """Return the places of the tables in an order in which no child comes before its parent; else as given.

    Args:
        oids: the tables as they were given, perhaps one several times.
        keys: the foreign keys that cannot wait. One within a table needs no order: it is checked when all rows of a
            COPY are there.

    Raises:
        RefusedError: there is none: foreign keys go round in a circle.
    """
    waits_for = _parents(oids, keys)
    left, order = list(dict.fromkeys(oids)), list[int]()
    while left:
        ready = next((oid for oid in left if waits_for[oid] <= set(order)), None)
        if ready is None:
            circle = _circle(left, waits_for)
            within = [
                k for k in keys if k.child_oid in circle and k.parent_oid in circle and k.child_oid != k.parent_oid
            ]
            raise RefusedError(
                "These tables refer to one another in a circle, and no order of writing them satisfies that.",
                reasons=tuple(f"{key} is checked at once." for key in within),
                consequence="Nothing was written.",
                hint=f"Let one wait for the end of the transaction: {'; or '.join(k.remedy for k in within)}.",
            )
        left.remove(ready)
        order.append(ready)
    return tuple(place for oid in order for place, one in enumerate(oids) if one == oid)


def group_tables(oids: Sequence[int], keys: Sequence[ForeignKey]) -> tuple[tuple[int, ...], ...]:
    """Return the places of the tables in groups, parents before their children; else as given.

    Tables that refer to one another in a circle are one group, and so are the places of one table.

    Args:
        oids: the tables as they were given, perhaps one several times.
    """
    parents = _parents(oids, keys)
    ancestors = {oid: _ancestors(oid, parents) for oid in oids}
    left, groups = list(dict.fromkeys(oids)), list[tuple[int, ...]]()
    while left:
        circles = ({oid} | {other for other in ancestors[oid] if oid in ancestors[other]} for oid in left)
        group = next(one for one in circles if not any((parents[oid] - one) & set(left) for oid in one))
        left = [oid for oid in left if oid not in group]
        groups.append(tuple(place for place, oid in enumerate(oids) if oid in group))
    return tuple(groups)


def keys_between(oids: Sequence[int], keys: Sequence[ForeignKey]) -> tuple[ForeignKey, ...]:
    """Return the keys from one of these tables to another of them."""
    return tuple(k for k in keys if k.child_oid != k.parent_oid and {k.child_oid, k.parent_oid} <= set(oids))


def refuse_circle(strict: Sequence[ForeignKey]) -> None:
    """Raise when keys between the tables of a circle cannot wait: then its bad rows cannot be found.

    Raises:
        RefusedError
    """
    if strict:
        raise RefusedError(
            "These tables refer to one another in a circle, in which bad rows are found only when every key can wait.",
            reasons=tuple(f"{key} is checked at once." for key in strict),
            consequence="Nothing was written.",
            hint=f"{'; '.join(k.remedy for k in strict)}. Or insert without dead letters.",
        )


def _parents(oids: Sequence[int], keys: Sequence[ForeignKey]) -> dict[int, set[int]]:
    return {
        oid: {k.parent_oid for k in keys if k.child_oid == oid and k.parent_oid != oid and k.parent_oid in oids}
        for oid in oids
    }


def _ancestors(oid: int, parents: dict[int, set[int]]) -> set[int]:
    found: set[int] = set()
    ahead = [oid]
    while ahead:
        new = parents[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def _circle(left: Sequence[int], waits_for: dict[int, set[int]]) -> set[int]:
    """Return the tables of one circle; each that is left waits for another that is left."""
    path = [left[0]]
    while True:
        ahead = next(oid for oid in left if oid in waits_for[path[-1]])
        if ahead in path:
            return set(path[path.index(ahead) :])
        path.append(ahead)
