"""Values of moving rows under live writes."""

from __future__ import annotations

from dataclasses import dataclass

from pgscale.core.model import QName


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyColumn:
    """A column of a key: its name, its equality operator and its type as SQL, and whether it may be NULL."""

    name: str
    equals: str
    nullable: bool = False
    type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two tables that hold the same rows: writes go to `source`, and are brought to `target`.

    Args:
        source: the table the application writes.
        target: the table that follows.
        work_schema: schema of our own that holds the capture log and functions of this direction.
        identity: the columns that name a row in both tables.
        placement: partition-key columns of `target` beyond the identity; with them a deleted row's old
            partition is known. Empty when the identity already holds them or the target is not partitioned.
        columns: every column an INSERT into the target names.
        all_columns: every column, generated ones too: what is compared.
        source_leaves: the partitions of the source, when it is partitioned: each needs its own triggers.
        written_through: the partitioned tables above the source, when it is a partition: whoever writes to one of
            them fires its statement triggers and not the partition's.
        only_where: where not all rows of the captured tables belong to the pair, the condition on those that do, as
            the server deparsed it. It must be a condition on the identity: no change takes a row in or out of it.
    """

    source: QName
    target: QName
    work_schema: str
    identity: tuple[KeyColumn, ...]
    placement: tuple[KeyColumn, ...]
    columns: tuple[str, ...]
    all_columns: tuple[str, ...]
    source_leaves: tuple[QName, ...] = ()
    written_through: tuple[QName, ...] = ()
    only_where: str = ""

    @property
    def log(self) -> QName:
        """Keys of changed rows, committed with the change."""
        return QName(schema=self.work_schema, name="_pgscale_log")

    @property
    def truncated(self) -> QName:
        """One row per TRUNCATE of the source."""
        return QName(schema=self.work_schema, name="_pgscale_truncated")

    @property
    def recheck(self) -> QName:
        """Keys that differed while a change of theirs was waiting to be applied."""
        return QName(schema=self.work_schema, name="_pgscale_recheck")
