"""Ask the planner whether it would use an index that does not exist, by HypoPG where that is installed.

Planned is the reading of the one table by the statement's conditions, with parameters whose values are not known: not
the statement's own text, whose functions planning would call with the rights of the login.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

import psycopg
from psycopg import sql

from pgscale.connect.session import Session
from pgscale.doctor.facts import Facts
from pgscale.doctor.indexing import ddl
from pgscale.doctor.indexing.choosing import Choice
from pgscale.doctor.indexing.estimating import Ground
from pgscale.doctor.indexing.model import Access

EXTENSION = "hypopg"
# Statements of one index that the planner is asked about.
MOST_ASKED = 3
# A generic plan expects the average value; of one so much rarer it knows nothing.
RARER = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What the planner said of an index.

    Args:
        is_used: None when it could not be asked.
        cost_now, cost_then: of reading the table once by the conditions of the statement.
        because: why it could not be asked; without a full stop.
    """

    is_used: bool | None
    cost_now: float | None = None
    cost_then: float | None = None
    because: str = ""


def prove(facts: Facts, choice: Choice) -> Proof:
    """Plan what the index is for without and with it; takes ACCESS SHARE on the table, waiting 100 ms at most.

    Raises:
        ConnectError: the connection is gone.
    """
    extension = facts.extension(EXTENSION)
    if extension is None:
        return Proof(is_used=None, because=f"the extension {EXTENSION} is not installed in this database")
    if choice.wanted.table.is_partitioned:
        return Proof(is_used=None, because="the table is partitioned")
    asked = [each.access for each in choice.served if _can_be_asked(choice.ground, each.access)]
    if not asked:
        return Proof(is_used=None, because="what the plan is depends on the values, or on operators of your own")
    proof = Proof(is_used=None)
    for access in asked[:MOST_ASKED]:
        try:
            proof = _ask(facts.session, extension.schema, choice, access)
        except psycopg.Error as error:
            return Proof(is_used=None, because=_because(facts, error))
        if proof.is_used:
            break
    return proof


def _because(facts: Facts, error: psycopg.Error) -> str:
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return "somebody holds a lock on the table"
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return f"role {facts.server.role} may not read the table or call HypoPG"
    return facts.not_readable(error).because


def _can_be_asked(ground: Ground, access: Access) -> bool:
    named = access.equal | access.joined | access.ranges | {key.column for key in access.order}
    if not all(ground.columns[name].is_builtin for name in named):
        return False
    shares = [ground.share_of_value(name) or 0.0 for name in access.equal | access.joined]
    expected = min(shares, default=0.0) * ground.table.rows
    return not access.is_plain or expected <= RARER * max(1.0, access.statement.rows_a_call)


def _ask(session: Session, schema: str, choice: Choice, access: Access) -> Proof:
    probe, count = ddl.probe(access)
    try:
        with session.transaction():
            session.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            now = plan_generic(session, probe, count)
            row = session.execute(ddl.pretend(schema, ddl.create_index(choice.wanted, concurrently=False))).fetchone()
            assert row is not None
            then = plan_generic(session, probe, count)
    finally:
        # What was pretended outlives the transaction.
        if not session.closed:
            session.execute(ddl.forget(schema))
            session.execute("DEALLOCATE ALL")
    return Proof(
        is_used=str(row[1]) in json.dumps(then),
        cost_now=float(now["Total Cost"]),
        cost_then=float(then["Total Cost"]),
    )


def plan_generic(session: Session, probe: sql.Composed, count: int) -> dict[str, Any]:
    """Return the plan of a statement whose parameters have any values; before 16 with plan_cache_mode set for that."""
    if session.info.server_version >= 160000:
        rows = session.execute(ddl.explain_generic(probe)).fetchall()
    else:
        session.execute(ddl.prepare(probe))
        rows = session.execute(ddl.explain_prepared(count)).fetchall()
        session.execute("DEALLOCATE ALL")
    return cast("dict[str, Any]", rows[0][0][0]["Plan"])
