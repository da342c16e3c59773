"""Read everything a split's plan is made from, choose the partition, refuse what cannot be done, and make the plan."""

from __future__ import annotations

from pgscale.catalog import reader as catalog
from pgscale.catalog.model import TableFacts
from pgscale.connect.session import Session
from pgscale.errors import RefusedError, UsageError
from pgscale.partition.keys import decide_keys
from pgscale.partition.lifecycle.model import Child
from pgscale.partition.model import By
from pgscale.partition.periods import PERIODS, Grid
from pgscale.partition.planning import Schemas
from pgscale.partition.reader import KeyValues, read_key_values
from pgscale.partition.splitting.checks import find_reasons, refuse_parent
from pgscale.partition.splitting.model import Parent, Piece, Place, SplitOptions, SplitPlan
from pgscale.partition.splitting.pieces import find_step, list_pieces, range_pieces
from pgscale.partition.splitting.plan import describe_by, make_plan
from pgscale.partition.splitting.reader import parent_of, read_family, read_place, read_signature
from pgscale.partition.survey import check_lock_table, check_rights


def plan_split(session: Session, oid: int, asked: SplitOptions) -> SplitPlan:
    """Return the whole split as data; changes nothing and takes no lock but ACCESS SHARE.

    Args:
        oid: of the partitioned table, or of the partition itself.

    Raises:
        UsageError: a wrong argument; RefusedError: what cannot be done, every reason named.
    """
    above_oid = parent_of(session, oid)
    named = oid if above_oid is not None else None
    parent, children = read_family(session, oid if above_oid is None else above_oid)
    refused = refuse_parent(parent)
    if refused is not None:
        raise RefusedError(refused, consequence="Nothing was changed.")
    if asked.partition is not None:
        named = catalog.find_table(session, asked.partition)[0]
    chosen = _choose(session, parent, children, asked, named)
    facts, place, by, pieces = chosen
    above = catalog.read_table(session, parent.oid)
    keys = decide_keys(facts, by)
    reasons = find_reasons(facts, above, place, by, asked.as_options(describe_by(by)), keys)
    if reasons:
        raise RefusedError(
            f"{facts.table.qname} is not divided: {len(reasons)} thing"
            f"{'s stand' if len(reasons) > 1 else ' stands'} in the way.",
            reasons=reasons,
            consequence="Nothing was changed.",
        )
    check_rights(facts)
    check_lock_table(session, facts, len(pieces))
    statistics = catalog.read_column_statistics(session, facts.table.qname, keys.identity[0].name)
    return make_plan(
        facts,
        above,
        place,
        by,
        asked,
        keys,
        pieces,
        lambda every: read_signature(session, parent.oid, (facts.table.oid,), every=every),
        key_correlation=statistics.correlation if statistics else None,
    )


Chosen = tuple[TableFacts, Place, By, tuple[Piece, ...]]


def _choose(
    session: Session, parent: Parent, children: tuple[Child, ...], asked: SplitOptions, named: int | None
) -> Chosen:
    """Return the named partition, or the largest that is more than one part, and what it becomes."""
    if named is not None:
        leaf = next((c for c in children if c.oid == named), None)
        if leaf is None:
            raise UsageError(f"{asked.partition} is no partition of {parent.qname}.")
        return _divide(session, parent, children, leaf, asked)
    why = "it has no partitions"
    for leaf in sorted((c for c in children if c.kind == "r"), key=lambda c: -c.bytes):
        try:
            return _divide(session, parent, children, leaf, asked, worthwhile=True)
        except RefusedError as error:
            why = error.fact
    raise RefusedError(
        f"No partition of {parent.qname} can be divided; of the last one looked at: {why}",
        consequence="Nothing was changed.",
        hint="Name one with --partition.",
    )


def _divide(
    session: Session,
    parent: Parent,
    children: tuple[Child, ...],
    leaf: Child,
    asked: SplitOptions,
    *,
    worthwhile: bool = False,
) -> Chosen:
    """Return the partition and what it becomes.

    Args:
        worthwhile: refuse where all rows would land in one part, though the bound reaches over several.
    """
    place = read_place(session, parent, children, leaf)
    by, grid = _by(place, asked)
    if leaf.kind != "r" or leaf.is_pending:
        kind = "being detached" if leaf.is_pending else "no ordinary table"
        raise RefusedError(f"{leaf.qname} is {kind}.", consequence="Nothing was changed.")
    facts = catalog.read_table(session, leaf.oid)
    found = read_key_values(session, facts, by, asked.values)
    if worthwhile and not leaf.is_default and _is_one_part(grid, found):
        what = "value" if grid is None else f"period ({grid.step})"
        raise RefusedError(f"All rows of {leaf.qname} belong to one {what}.", consequence="Nothing was changed.")
    return facts, place, by, _pieces(facts, place, grid, found, asked)


def _by(place: Place, asked: SplitOptions) -> tuple[By, Grid | None]:
    parent = place.parent
    assert parent.column is not None
    assert parent.type_name is not None
    if parent.strategy == "l":
        if asked.every is not None:
            raise UsageError(f"--every is for a range; {parent.qname} is partitioned by list.", hint="Use --values.")
        return By(method="list", columns=(parent.column,)), None
    if asked.values:
        raise UsageError(f"--values is for a list; {parent.qname} is partitioned by range.", hint="Use --every.")
    step = asked.every or find_step(place, asked.time_zone)
    if step is None:
        raise UsageError(
            f"The other partitions of {parent.qname} have no common period.",
            hint=f"Name one with --every: {', '.join(PERIODS)}, an interval such as '6 hours', or a number.",
        )
    grid = Grid(type_name=parent.type_name, step=step, zone=asked.time_zone)
    return By(method="range", columns=(parent.column,), step=step), grid


def _is_one_part(grid: Grid | None, found: KeyValues) -> bool:
    if grid is None:
        return found.values is not None and len(found.values) + found.has_null < 2
    lowest, highest = found.extent.lowest, found.extent.highest
    if lowest is None or highest is None:
        return True
    try:
        return grid.period(grid.parse(lowest)).low == grid.period(grid.parse(highest)).low
    except ValueError:
        # A key outside the calendar: that is refused by name later.
        return False


def _pieces(
    facts: TableFacts, place: Place, grid: Grid | None, found: KeyValues, asked: SplitOptions
) -> tuple[Piece, ...]:
    schema = Schemas.of(place.leaf.oid).new
    if grid is None:
        return list_pieces(place, found, asked.values, facts.taken_names, schema)
    return range_pieces(place, grid, found, facts.taken_names, schema)
