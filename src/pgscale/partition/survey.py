"""Read everything a plan is made from, refuse what the role or the server has no room for, and make the plan."""

from __future__ import annotations

from pgscale.catalog import reader as catalog
from pgscale.catalog.model import TableFacts
from pgscale.connect.session import Session
from pgscale.errors import PermissionDeniedError, RefusedError
from pgscale.partition import bounds, reader, skew
from pgscale.partition.model import Leaf, MirrorPlan, Options, Skew
from pgscale.partition.planning import check_request, make_leaves, make_plan


def plan_table(session: Session, oid: int, options: Options) -> MirrorPlan:
    """Return the whole run as data; changes nothing and takes no lock but ACCESS SHARE."""
    by = bounds.parse_by(options.by)
    facts = catalog.read_table(session, oid)
    keys = check_request(facts, by, options)
    check_rights(facts)
    found = reader.read_key_values(session, facts, by, options.values)
    leaves = make_leaves(facts, by, options, found)
    check_lock_table(session, facts, len(leaves))
    statistics = catalog.read_column_statistics(session, facts.table.qname, keys.identity[0].name)
    return make_plan(
        facts,
        by,
        options,
        keys,
        found,
        _skew(session, facts, by, leaves),
        key_correlation=statistics.correlation if statistics else None,
    )


def check_rights(facts: TableFacts) -> None:
    """Refuse what this login, or the table's owner, may not do.

    Raises:
        PermissionDeniedError: with the GRANT that is missing.
    """
    table = facts.table
    if not table.is_owner:
        raise PermissionDeniedError(
            f"{table.qname} belongs to {table.owner}, and this login is not a member of that role.",
            consequence="Nothing was changed.",
            hint=f"Connect as {table.owner}, or GRANT {table.owner} TO this login.",
        )
    missing: list[str] = []
    if not table.owner_may_create_schema:
        missing.append(f"GRANT CREATE, TEMPORARY ON DATABASE … TO {table.owner}")
    elif not table.owner_may_create_temp:
        missing.append(f"GRANT TEMPORARY ON DATABASE … TO {table.owner}")
    if not table.owner_may_create_in_schema:
        missing.append(f"GRANT CREATE ON SCHEMA {table.schema} TO {table.owner}")
    if missing:
        raise PermissionDeniedError(
            f"The owner {table.owner} may not create what a run needs.",
            consequence="Nothing was changed.",
            hint="; ".join(missing) + ".",
        )


def check_lock_table(session: Session, facts: TableFacts, leaves: int) -> None:
    """Every leaf, its TOAST table and its indexes are locked in one transaction when the copy is made or dropped."""
    row = session.execute(
        "SELECT pg_catalog.current_setting('max_locks_per_transaction')::int8 *"
        " (pg_catalog.current_setting('max_connections')::int8"
        " + pg_catalog.current_setting('max_prepared_transactions')::int8)"
    ).fetchone()
    room = int(row[0]) if row else 0
    needed = leaves * (3 + len(facts.indexes))
    if needed > room * 0.6:
        raise RefusedError(
            f"{leaves} partitions need some {needed:,} locks at once; the server has room for {room:,}.",
            consequence="Nothing was changed.",
            hint="Make fewer partitions, or raise max_locks_per_transaction (needs a restart).",
        )


def _skew(session: Session, facts: TableFacts, by: bounds.By, leaves: tuple[Leaf, ...]) -> Skew | None:
    if len(by.columns) != 1:
        return None
    column = facts.column(by.columns[0])
    statistics = catalog.read_column_statistics(session, facts.table.qname, by.columns[0])
    rows = round(facts.table.reltuples)
    if column is None or statistics is None or rows <= 0:
        return None
    if by.method == "list":
        return skew.list_skew(leaves, rows, statistics)
    if by.method == "range":
        histogram = catalog.read_histogram(session, facts.table.qname, by.columns[0])
        return skew.range_skew(leaves, rows, histogram, statistics)
    remainders = reader.hash_remainders(session, column.type, statistics.values or [], len(leaves))
    return None if remainders is None else skew.hash_skew(leaves, rows, statistics, remainders)
