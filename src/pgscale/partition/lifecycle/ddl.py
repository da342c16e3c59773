"""Compose what makes, moves, retires and reads partitions. Pure: facts in, SQL text out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import LiteralString

from psycopg import sql

from pgscale.catalog.model import TableFacts
from pgscale.core.model import QName
from pgscale.livecopy.ddl import ident, names, qualified, text, trusted
from pgscale.partition.bounds import Namer
from pgscale.partition.ddl import (
    alter,
    column_statistics,
    grants,
    leaf_index_name,
    leaf_index_statements,
    revokes,
    storage_options,
)
from pgscale.partition.keys import Keys
from pgscale.partition.lifecycle.model import (
    Action,
    Create,
    CreateDefault,
    Detach,
    Drop,
    Finalize,
    MoveFromDefault,
    Parent,
    RemoveDefault,
    Sibling,
)
from pgscale.partition.model import Leaf

# An index of one partition need not have the partition key.
_NO_KEYS = Keys(identity_index=None, identity=(), placement=(), grown={})
_ENABLE: dict[str, LiteralString] = {"O": "ENABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


def statements(  # noqa: PLR0911 because one case a kind of action reads well
    parent: Parent, sibling: Sibling | None, action: Action
) -> tuple[str, ...]:
    """Return the main statements of an action, as a dry run shows them; none for files and the ledger."""
    match action:
        case Create():
            return (*create(parent, sibling, action.leaf), attach(parent, action.leaf, action.low, action.high))
        case CreateDefault():
            return (*create(parent, sibling, action.leaf), attach_default(parent, action.leaf))
        case MoveFromDefault():
            return (
                *create(parent, sibling, action.leaf),
                lock_writers(action.default),
                move_rows(parent, action, ()),
                attach(parent, action.leaf, action.low, action.high),
            )
        case Finalize():
            return (detach(parent.qname, action.leaf, "finalize"),)
        case Detach():
            return (detach(parent.qname, action.leaf, "concurrently" if action.concurrently else "plain"),)
        case RemoveDefault():
            return (detach(parent.qname, action.leaf, "plain"), drop(action.leaf))
        case Drop():
            return (drop(action.leaf),)
        case _:
            return ()


def create(parent: Parent, sibling: Sibling | None, leaf: QName) -> tuple[str, ...]:
    """Return what makes the table that becomes a partition: the parent's columns, the newest sibling's settings.

    CREATE … LIKE and ATTACH, not PARTITION OF: that would lock the parent against readers and writers.
    """
    facts = sibling.facts if sibling else None
    method = parent.access_method or (facts.table.access_method if facts else None)
    unlogged = facts is not None and facts.table.persistence == "u"
    made = sql.SQL("CREATE {}TABLE {} (LIKE {} {}){}{}{}").format(
        sql.SQL("UNLOGGED " if unlogged else ""),
        qualified(leaf),
        qualified(parent.qname),
        sql.SQL("INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE INCLUDING COMPRESSION INCLUDING GENERATED"),
        sql.SQL(" USING {}").format(ident(method)) if method else sql.SQL(""),
        storage_options(facts.table) if facts else sql.SQL(""),
        sql.SQL(" TABLESPACE {}").format(ident(parent.tablespace)) if parent.tablespace else sql.SQL(""),
    )
    if sibling is None:
        return (text(made),)
    return (text(made), *_settings(sibling.facts, leaf), *_own_indexes(sibling, leaf))


def _own_indexes(sibling: Sibling, leaf: QName) -> Iterator[str]:
    """What the sibling has beyond the indexes of the table: the table cannot hand it down."""
    facts, namer = sibling.facts, Namer(sibling.facts.taken_names)
    made = Leaf(name=leaf.name, bound="")
    for index in sibling.own_indexes:
        name = leaf_index_name(namer, made, facts, index)
        if index.is_exclusion:
            constraint = next(c for c in facts.constraints if c.index_oid == index.oid)
            yield alter(leaf, sql.SQL("ADD CONSTRAINT {} {}").format(ident(name), trusted(constraint.definition)))
        else:
            yield from leaf_index_statements(facts, _NO_KEYS, made, index, name)


def _settings(sibling: TableFacts, leaf: QName) -> Iterator[str]:
    yield from revokes(sibling, leaf)
    yield from grants(sibling.table, sibling.grants, leaf)
    for column in sibling.columns:
        yield from column_statistics(column, leaf)
    if sibling.table.replica_identity in ("f", "n"):
        word = sql.SQL("FULL" if sibling.table.replica_identity == "f" else "NOTHING")
        yield alter(leaf, sql.SQL("REPLICA IDENTITY {}").format(word))
    if sibling.table.row_security:
        # Without the sibling's policies: rows are read through the parent, and nobody gets more than before.
        yield alter(leaf, sql.SQL("ENABLE ROW LEVEL SECURITY"))


def replica_identity(leaf: QName, index: str) -> str:
    return alter(leaf, sql.SQL("REPLICA IDENTITY USING INDEX {}").format(ident(index)))


def _bound(value: str) -> sql.Composable:
    return trusted(value) if value in ("MINVALUE", "MAXVALUE") else sql.Literal(value)


def attach(parent: Parent, leaf: QName, low: str, high: str) -> str:
    return alter(
        parent.qname,
        sql.SQL("ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(qualified(leaf), _bound(low), _bound(high)),
    )


def attach_default(parent: Parent, leaf: QName) -> str:
    return alter(parent.qname, sql.SQL("ATTACH PARTITION {} DEFAULT").format(qualified(leaf)))


def lock_writers(table: QName) -> str:
    return text(sql.SQL("LOCK TABLE ONLY {} IN SHARE ROW EXCLUSIVE MODE").format(qualified(table)))


def lock_all(table: QName) -> str:
    return text(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(qualified(table)))


def lock_share(table: QName) -> str:
    return text(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(qualified(table)))


def in_range(column: str, low: str, high: str) -> sql.Composed:
    parts: list[sql.Composable] = []
    if low != "MINVALUE":
        parts.append(sql.SQL("{} >= {}").format(ident(column), sql.Literal(low)))
    if high != "MAXVALUE":
        parts.append(sql.SQL("{} < {}").format(ident(column), sql.Literal(high)))
    return sql.SQL(" AND ").join(parts)


def move_rows(parent: Parent, action: MoveFromDefault, columns: Sequence[str]) -> str:
    """Return the statement that moves the rows of a range out of DEFAULT; generated columns are computed anew."""
    listed = names(columns) if columns else sql.SQL("…")
    return text(
        sql.SQL(
            "WITH moved AS (DELETE FROM ONLY {} WHERE {} RETURNING {}) INSERT INTO {} ({}) SELECT {} FROM moved"
        ).format(
            qualified(action.default),
            in_range(parent.column or "", action.low, action.high),
            listed,
            qualified(action.leaf),
            listed,
            listed,
        )
    )


def disable_trigger(table: QName, name: str) -> str:
    return alter(table, sql.SQL("DISABLE TRIGGER {}").format(ident(name)), only=True)


def enable_trigger(table: QName, name: str, enabled: str) -> str:
    return alter(table, sql.SQL("{} TRIGGER {}").format(sql.SQL(_ENABLE[enabled]), ident(name)), only=True)


def count_in_range(table: QName, column: str, low: str, high: str, most: int) -> str:
    """Return the query that counts rows of a range, up to a number."""
    return text(
        sql.SQL("SELECT pg_catalog.count(*) FROM (SELECT FROM ONLY {} WHERE {} LIMIT {}) t").format(
            qualified(table), in_range(column, low, high), sql.Literal(most)
        )
    )


def has_rows(table: QName) -> str:
    return text(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(qualified(table)))


def highest(table: QName, column: str, *, is_numeric: bool) -> str:
    """Return the query for the largest finite value of a number key, answered from the end of its index."""
    finite = sql.SQL(" WHERE {} < 'Infinity'").format(ident(column)) if is_numeric else sql.SQL("")
    return text(sql.SQL("SELECT pg_catalog.max({})::text FROM {}{}").format(ident(column), qualified(table), finite))


def refers(referring: QName, columns: Sequence[str], referenced: Sequence[str], leaf: QName) -> str:
    """Return the query that tells whether any row refers to a row of the partition."""
    pairs = sql.SQL(" AND ").join(
        sql.SQL("r.{} = p.{}").format(ident(a), ident(b)) for a, b in zip(columns, referenced, strict=True)
    )
    return text(
        sql.SQL("SELECT EXISTS (SELECT FROM {} r JOIN {} p ON {})").format(qualified(referring), qualified(leaf), pairs)
    )


def detach(parent: QName, leaf: QName, how: str) -> str:
    words: dict[str, LiteralString] = {"plain": "", "concurrently": " CONCURRENTLY", "finalize": " FINALIZE"}
    return alter(parent, sql.SQL("DETACH PARTITION {}{}").format(qualified(leaf), sql.SQL(words[how])))


def drop(table: QName) -> str:
    return text(sql.SQL("DROP TABLE {}").format(qualified(table)))


def partman_row(config: QName) -> str:
    """Return the query for a table's row of part_config as JSON: its columns differ between versions."""
    return text(sql.SQL("SELECT pg_catalog.to_jsonb(c) FROM {} c WHERE c.parent_table = $1").format(qualified(config)))


def partman_sub(config: QName) -> str:
    """Return the query that tells whether partitions of a table are to be partitioned themselves."""
    sub = QName(schema=config.schema, name="part_config_sub")
    return text(sql.SQL("SELECT EXISTS (SELECT FROM {} s WHERE s.sub_parent = $1)").format(qualified(sub)))


def partman_switch(config: QName, parent_table: str, value: LiteralString) -> str:
    """Return the statement that switches pg_partman's automatic maintenance of a table."""
    return text(
        sql.SQL("UPDATE {} SET automatic_maintenance = {} WHERE parent_table = {}").format(
            qualified(config), sql.Literal(value), sql.Literal(parent_table)
        )
    )


def fingerprint(table: QName) -> str:
    """Return the query for the number of rows and an order-independent checksum: two hashes, summed."""
    return text(
        sql.SQL(
            "SELECT pg_catalog.count(*), pg_catalog.concat_ws(':',"
            " COALESCE(pg_catalog.sum(pg_catalog.hashtextextended(t::text, 0)::numeric), 0),"
            " COALESCE(pg_catalog.sum(pg_catalog.hashtextextended(t::text, 1)::numeric), 0)) FROM {} t"
        ).format(qualified(table))
    )
