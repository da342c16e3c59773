"""What is known of the tables of a plan beside the plan. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pgscale.doctor.explain.model import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column.

    Args:
        width_bytes, distinct_values: as pg_stats has them; None without statistics, or without the right to see them.
        target: of its statistics, None where it is the default.
    """

    table_oid: int
    name: str
    type: str
    width_bytes: int | None
    distinct_values: float | None
    has_statistics: bool
    target: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index.

    Args:
        keys: columns as they are quoted, and expressions, as pg_get_indexdef has them; classes: of operators.
    """

    table_oid: int
    schema: str
    name: str
    method: str
    is_valid: bool
    is_partial: bool
    keys: list[str]
    classes: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendedStatistics:
    """Statistics of columns together, or of expressions."""

    table_oid: int
    name: str
    columns: list[str]
    expressions: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table of the plan.

    Args:
        rows: as of the last VACUUM or ANALYZE; -1 when there never was one.
        changed_rows: since the last ANALYZE. live_rows: as counted.
        root: the oid of the partitioned table it is a partition of, at any level; 0 where it is none.
    """

    oid: int
    schema: str
    name: str
    kind: str
    rows: float
    pages: int
    visible_pages: int
    changed_rows: int
    live_rows: int
    root: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Partitioned:
    """A partitioned table.

    Args:
        leaf_schemas, leaf_names: of its partitions that hold rows; None when it has none.
        key_columns: of its own key and those of its partitions'; has_expression: not all of it are columns.
    """

    oid: int
    schema: str
    name: str
    leaf_schemas: list[str] | None
    leaf_names: list[str] | None
    key_columns: list[str]
    has_expression: bool

    @property
    def leaves(self) -> frozenset[tuple[str, str]]:
        return frozenset(zip(self.leaf_schemas or (), self.leaf_names or (), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """A cast between types: `is_relabel` when nothing is computed, `is_immutable` when an index may hold it."""

    source: str
    target: str
    is_relabel: bool
    is_immutable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    """A foreign key whose trigger fired; the table and the columns that refer."""

    name: str
    schema: str
    table_name: str
    pages: int
    is_partitioned: bool
    columns: list[str]
    is_indexed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting as the query met it, with where it comes from (pg_settings.source)."""

    name: str
    value: str
    unit: str | None
    source: str
    default_value: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """All of it; empty where no server was asked.

    Args:
        is_known: a server was asked.
        unknown: why some of it could not be read; empty when all was.
    """

    is_known: bool = False
    version: int = 0
    version_text: str = ""
    database: str = ""
    role: str = ""
    block_bytes: int = 8192
    unknown: str = ""
    settings: Mapping[str, Setting] = field(default_factory=dict[str, Setting])
    relations: tuple[Relation, ...] = ()
    columns: tuple[Column, ...] = ()
    indexes: tuple[Index, ...] = ()
    statistics: tuple[ExtendedStatistics, ...] = ()
    partitioned: tuple[Partitioned, ...] = ()
    casts: tuple[Cast, ...] = ()
    immutable_functions: frozenset[str] = frozenset()
    foreign_keys: tuple[ForeignKey, ...] = ()

    def relation(self, node: Node) -> Relation | None:
        """Return the table that a node reads."""
        return next((each for each in self.relations if (each.schema, each.name) == node.relation), None)

    def column(self, relation: Relation, name: str) -> Column | None:
        return next((each for each in self.columns if (each.table_oid, each.name) == (relation.oid, name)), None)

    def indexes_of(self, relation: Relation) -> tuple[Index, ...]:
        return tuple(each for each in self.indexes if each.table_oid == relation.oid and each.is_valid)

    def statistics_of(self, relation: Relation) -> tuple[ExtendedStatistics, ...]:
        return tuple(each for each in self.statistics if each.table_oid == relation.oid)

    def root_of(self, relation: Relation) -> Partitioned | None:
        """Return the partitioned table that a relation is, or is a partition of."""
        return next((each for each in self.partitioned if each.oid in (relation.root, relation.oid)), None)

    def setting(self, name: str) -> str | None:
        found = self.settings.get(name)
        return None if found is None else found.value
