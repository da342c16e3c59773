"""What indexes of partitioned tables need: there is no CREATE or DROP INDEX CONCURRENTLY for the whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pgscale.core.model import QName
from pgscale.doctor import ddl
from pgscale.doctor.facts import Facts, Section

# Of an identifier, in bytes (NAMEDATALEN - 1).
LONGEST_NAME = 63
OWNER = "The owner of the table may."


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition of a table, at any level.

    Args:
        attached_to: the indexes of its parent that one of its own is a partition of.
    """

    parent_oid: int
    oid: int
    schema: str
    name: str
    is_partitioned: bool
    attached_to: list[int]

    @property
    def qname(self) -> QName:
        return QName(schema=self.schema, name=self.name)


PARTITIONS = Section(area="indexes", query="partitions", row=Partition)


def how_dropped(are_partitioned: Iterable[bool]) -> str:
    """Say what cannot be dropped without a lock, to stand behind "without blocking anybody"."""
    if not any(are_partitioned):
        return ""
    return "; those of partitioned tables under ACCESS EXCLUSIVE, for which they wait 2 s at most"


def build_index(facts: Facts, table_oid: int, table: QName, columns: Sequence[str]) -> list[str]:
    """Return the statements that index a partitioned table, each short or without a lock that blocks writes.

    Raises:
        NotReadableError: its partitions cannot be read.
    """
    name = _name(table, columns, table_oid)
    return [
        ddl.create_parent_index(table, columns, name),
        *complete_index(facts, table_oid, None, name, columns, unique=False),
    ]


def complete_index(
    facts: Facts, table_oid: int, index_oid: int | None, index: QName, columns: Sequence[str], *, unique: bool
) -> list[str]:
    """Return the statements that make and attach the index of each partition that has none.

    Args:
        index_oid: None when it is still to be made.
        unique: of sub-partitioned tables it is not: those are left out.

    Raises:
        NotReadableError: the partitions cannot be read.
    """
    lines: list[str] = []
    for each in facts.rows(PARTITIONS):
        if each.parent_oid != table_oid or index_oid in each.attached_to:
            continue
        name = _name(each.qname, columns, each.oid)
        if not each.is_partitioned:
            lines.append(ddl.create_index(each.qname, columns, name=name, unique=unique))
        elif unique:
            continue
        else:
            lines += build_index(facts, each.oid, each.qname, columns)
        lines.append(ddl.attach_index(index, name))
    return lines


def _name(table: QName, columns: Sequence[str], oid: int) -> QName:
    whole = f"{table.name}_{'_'.join(columns)}_idx"
    if len(whole.encode()) > LONGEST_NAME:
        end = f"_{oid}_idx"
        whole = whole.encode()[: LONGEST_NAME - len(end)].decode(errors="ignore") + end
    return QName(schema=table.schema, name=whole)
