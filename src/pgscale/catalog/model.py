"""pg_catalog as frozen facts. Names are unquoted; SQL texts are the server's own, fully qualified."""

from __future__ import annotations

from dataclasses import dataclass

from pgscale.core.model import QName


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """pg_class and what hangs on it. Byte sizes are of the moment of reading."""

    oid: int
    schema: str
    name: str
    kind: str
    persistence: str
    owner: str
    is_owner: bool
    owner_may_create_in_schema: bool
    owner_may_create_schema: bool
    owner_may_create_temp: bool
    owner_bypasses_rls: bool
    sees_all_sessions: bool
    tablespace: str | None
    access_method: str | None
    reloptions: list[str] | None
    toast_reloptions: list[str] | None
    replica_identity: str
    row_security: bool
    force_row_security: bool
    is_partition: bool
    inherits: bool
    has_children: bool
    is_typed: bool
    comment: str | None
    reltuples: float
    heap_bytes: int
    index_bytes: int
    toast_bytes: int
    block_bytes: int
    has_acl: bool
    has_rules: bool
    has_security_label: bool
    is_subscribed: bool
    extension: str | None

    @property
    def qname(self) -> QName:
        return QName(schema=self.schema, name=self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    number: int
    name: str
    type_oid: int
    type: str
    type_kind: str
    is_builtin_type: bool
    collation: str | None
    not_null: bool
    not_null_name: str | None
    not_null_is_plain: bool
    not_null_comment: str | None
    default_sql: str | None
    generated: str
    identity: str
    storage: str
    type_storage: str
    compression: str
    statistics_target: int | None
    options: list[str] | None
    comment: str | None
    equals: str
    has_hash_opclass: bool
    has_btree_opclass: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One privilege; an empty grantee is PUBLIC. `oid` is the table or sequence."""

    kind: str
    column_name: str
    oid: int
    grantor: str
    grantee: str
    privilege: str
    grantable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultGrantee:
    """A role that ALTER DEFAULT PRIVILEGES gives rights on new tables (r), sequences (S) or schemas (n)."""

    grantee: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    oid: int
    name: str
    kind: str
    definition: str
    is_validated: bool
    is_deferrable: bool
    is_deferred: bool
    no_inherit: bool
    columns: list[str]
    index_oid: int
    comment: str | None
    references_oid: int
    is_temporal: bool
    is_enforced: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class IncomingForeignKey:
    oid: int
    name: str
    definition: str
    schema: str
    table_name: str
    kind: str
    table_oid: int
    is_owner: bool
    owner: str
    is_validated: bool
    comment: str | None
    referenced_columns: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """`tail` is the definition from USING on; a key column that is an expression has the name ''.

    `own_collation` tells for each key column whether the index compares it by another collation than the column's.
    """

    oid: int
    name: str
    tail: str
    is_unique: bool
    is_primary: bool
    is_valid: bool
    is_exclusion: bool
    is_immediate: bool
    is_clustered: bool
    is_replica_identity: bool
    is_partial: bool
    predicate: str | None
    has_expressions: bool
    key_columns: list[str]
    included_columns: list[str]
    key_operators: list[str]
    own_collation: list[bool]
    reloptions: list[str] | None
    constraint_name: str | None
    nulls_not_distinct: bool
    tablespace: str | None
    comment: str | None
    target_columns: list[int]
    targets: list[int]
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    oid: int
    name: str
    definition: str
    enabled: str
    comment: str | None
    is_row: bool
    is_before: bool
    on_insert: bool
    on_update: bool
    has_transition_tables: bool
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    name: str
    command: str
    is_permissive: bool
    roles: list[str]
    using_sql: str | None
    check_sql: str | None
    comment: str | None
    mentions_table: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsObject:
    oid: int
    schema: str
    name: str
    definition: str
    target: int | None
    owner: str
    comment: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    name: str
    via_root: bool
    for_all_tables: bool
    for_schema: bool
    is_owner: bool
    columns: list[str]
    where_sql: str | None
    is_member: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    oid: int
    schema: str
    name: str
    kind: str
    definition: str
    reloptions: list[str] | None
    is_owner: bool
    owner: str
    columns: list[str]
    needs_primary_key: bool
    is_rule: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    oid: int
    schema: str
    name: str
    kind: str
    arguments: str
    definition: str | None
    is_owner: bool
    uses_row_type: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MatviewState:
    """What a run of the table's owner may do with a materialized view, and whether it holds rows."""

    is_populated: bool
    may_own: bool
    may_create: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Matview:
    """A materialized view that reads the table, or another such materialized view, directly.

    Args:
        view: its name, query and columns; `needs_primary_key` is of the table's key.
        relation: its row of pg_class, as for a table.
        dependents: what reads it directly, materialized views included.
    """

    view: View
    relation: Table
    state: MatviewState
    columns: tuple[Column, ...]
    grants: tuple[Grant, ...]
    indexes: tuple[Index, ...]
    statistics: tuple[StatisticsObject, ...]
    dependents: tuple[View, ...]
    functions: tuple[Function, ...]
    row_type_users: tuple[str, ...]
    other_dependents: tuple[str, ...]

    @property
    def qname(self) -> QName:
        return self.relation.qname


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedSequence:
    oid: int
    schema: str
    name: str
    column_name: str
    is_identity: bool
    start: str
    increment: str
    minimum: str
    maximum: str
    cache: str
    cycles: bool
    comment: str | None
    has_acl: bool
    persistence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A relation as far as a change of what has its name can be felt: rights, defaults, and what is defined by it."""

    relation: Table
    columns: tuple[Column, ...]
    grants: tuple[Grant, ...]
    views: tuple[View, ...]
    functions: tuple[Function, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """Everything the catalog says about one table, read in one snapshot.

    `matviews` are in an order in which each comes after those it reads.
    """

    server_version: int
    table: Table
    columns: tuple[Column, ...]
    grants: tuple[Grant, ...]
    default_grantees: tuple[DefaultGrantee, ...]
    constraints: tuple[Constraint, ...]
    incoming: tuple[IncomingForeignKey, ...]
    indexes: tuple[Index, ...]
    triggers: tuple[Trigger, ...]
    policies: tuple[Policy, ...]
    statistics: tuple[StatisticsObject, ...]
    publications: tuple[Publication, ...]
    views: tuple[View, ...]
    matviews: tuple[Matview, ...]
    functions: tuple[Function, ...]
    row_type_users: tuple[str, ...]
    other_dependents: tuple[str, ...]
    sequences: tuple[OwnedSequence, ...]
    sequence_grants: tuple[Grant, ...]
    taken_names: frozenset[str]
    fingerprint: str

    def column(self, name: str) -> Column | None:
        return next((c for c in self.columns if c.name == name), None)

    @property
    def stored_columns(self) -> tuple[Column, ...]:
        """The columns an INSERT may name: all but the generated ones."""
        return tuple(c for c in self.columns if not c.generated)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnStatistics:
    """A row of pg_stats; the frequencies are shares of all rows, the values their text form."""

    n_distinct: float
    null_frac: float
    correlation: float | None
    frequencies: list[float] | None
    values: list[str] | None
