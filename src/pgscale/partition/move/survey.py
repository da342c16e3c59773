"""Read everything a plan of this strategy is made from, refuse what it cannot carry, and make the plan."""

from __future__ import annotations

from pgscale import sql as named
from pgscale.catalog import reader as catalog
from pgscale.catalog.model import Index, TableFacts
from pgscale.connect.session import Session
from pgscale.errors import RefusedError
from pgscale.partition import bounds, reader
from pgscale.partition.keys import Keys, decide_keys
from pgscale.partition.model import By, Options
from pgscale.partition.move.checks import find_reasons
from pgscale.partition.move.model import KeyPart, MovePlan, UniqueKey
from pgscale.partition.move.plan import make_plan
from pgscale.partition.move.statements import Obstacle, find_in_functions, find_in_statements
from pgscale.partition.planning import check_request, make_leaves
from pgscale.partition.survey import check_lock_table, check_rights
from pgscale.partition.workload_reader import MOST_STATEMENTS, NotReadableError, read_statements

QUERIES = named.load("pgscale.partition.move")


def plan_move(session: Session, oid: int, options: Options) -> MovePlan:
    """Return the whole run as data; changes nothing and takes no lock but ACCESS SHARE.

    Raises:
        UsageError, PermissionDeniedError; RefusedError: with every reason, statements of the application included.
    """
    by = bounds.parse_by(options.by)
    facts = catalog.read_table(session, oid)
    obstacles, unchecked = _read_obstacles(session, facts)
    keys = _check(facts, by, options, obstacles)
    check_rights(facts)
    found = reader.read_key_values(session, facts, by, options.values)
    leaves = make_leaves(facts, by, options, found)
    check_lock_table(session, facts, len(leaves))
    unique = {i.oid: _unique_key(session, i) for i in facts.indexes if i.is_unique and not i.is_exclusion}
    return make_plan(facts, by, options, keys, leaves, found, unique, unchecked)


def _check(facts: TableFacts, by: By, options: Options, obstacles: tuple[Obstacle, ...]) -> Keys:
    reasons: tuple[str, ...] = ()
    try:
        keys = check_request(facts, by, options)
    except RefusedError as error:
        if not error.reasons:
            raise
        reasons, keys = error.reasons, decide_keys(facts, by)
    reasons += find_reasons(facts, by, keys)
    reasons += tuple(f"The application uses {obstacle}." for obstacle in obstacles)
    if reasons:
        raise RefusedError(
            f"{facts.table.qname} is not moved: {len(reasons)} thing{'s stand' if len(reasons) > 1 else ' stands'}"
            " in the way.",
            reasons=reasons,
            consequence="Nothing was changed.",
            hint="`--strategy mirror` leaves a table in place and carries more, with twice the disk. Statements are"
            " those that pg_stat_statements counted since its last reset.",
        )
    return keys


def _read_obstacles(session: Session, facts: TableFacts) -> tuple[tuple[Obstacle, ...], tuple[str, ...]]:
    """Return what of the application a view cannot serve, and what could not be looked at."""
    table, version = facts.table.qname, facts.server_version
    sources = session.execute(QUERIES.get("function_sources", version), {"name": table.name}).fetchall()
    obstacles = find_in_functions(table, [(str(r[0]), str(r[1])) for r in sources], version)
    obstacles += tuple(
        Obstacle(
            what="session_replication_role = replica, with which writes to a view are lost without an error",
            where=f"role {role}" if role else "every session",
        )
        for (role,) in session.execute(QUERIES.get("replica_roles", version)).fetchall()
    )
    try:
        counted = read_statements(session, table, ())
    except NotReadableError as error:
        return obstacles, (
            "Whether the application uses what a view cannot serve (ON CONFLICT, FOR UPDATE, TRUNCATE, COPY TO) was"
            f" not checked, because {error}. FOR UPDATE would lock nothing, without an error.",
        )
    unchecked: list[str] = []
    if counted.hidden:
        unchecked.append(
            f"{counted.hidden} statements of other roles were not looked at for what a view cannot serve, because"
            " their text is hidden; GRANT pg_read_all_stats shows it."
        )
    if counted.found > len(counted.statements):
        unchecked.append(
            f"{counted.found - MOST_STATEMENTS} statements on the table were not looked at for what a view cannot"
            " serve, because all others take more time."
        )
    seen = find_in_statements(table, (s.text for s in counted.statements), version)
    return (*seen, *obstacles), tuple(unchecked)


def _unique_key(session: Session, index: Index) -> UniqueKey:
    row = session.execute(QUERIES.get("key_expressions", session.info.server_version), {"oid": index.oid}).fetchone()
    assert row is not None
    parts = zip(index.key_columns, row[0], index.key_operators, strict=True)
    return UniqueKey(
        name=index.constraint_name or index.name,
        parts=tuple(KeyPart(column=c, expression=str(e), equals=o) for c, e, o in parts),
        predicate=index.predicate,
        nulls_not_distinct=index.nulls_not_distinct,
    )
