"""Read everything an attach is planned from, refuse what cannot be done, and make the plan."""

from __future__ import annotations

from datetime import datetime

from pgscale import sql as named
from pgscale.catalog import reader as catalog
from pgscale.connect.session import Session
from pgscale.partition import bounds, reader
from pgscale.partition.attach.checks import refuse_hash, refuse_unattachable
from pgscale.partition.attach.model import AttachPlan
from pgscale.partition.attach.plan import make_leaves, make_plan
from pgscale.partition.model import Options
from pgscale.partition.planning import check_request
from pgscale.partition.survey import check_lock_table, check_rights

QUERIES = named.load("pgscale.partition.attach")


def plan_attach(session: Session, oid: int, options: Options) -> AttachPlan:
    """Return the whole run as data; changes nothing and takes no lock but ACCESS SHARE."""
    by = bounds.parse_by(options.by)
    refuse_hash(by)
    facts = catalog.read_table(session, oid)
    keys = check_request(facts, by, options)
    refuse_unattachable(facts)
    check_rights(facts)
    found = reader.read_key_values(session, facts, by, options.values)
    row = session.execute(QUERIES.get("now", session.info.server_version)).fetchone()
    assert row is not None
    now: datetime = row[0]
    bound, leaves = make_leaves(facts, by, options, keys, found, now)
    check_lock_table(session, facts, len(leaves))
    return make_plan(facts, by, options, keys, bound, leaves)
