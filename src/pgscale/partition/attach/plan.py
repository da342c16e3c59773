"""Turn facts into an AttachPlan: every step with its SQL, lock, longest wait, undo and reason. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from pgscale.catalog.model import Column, TableFacts
from pgscale.core.model import QName, Step, quote_ident
from pgscale.errors import RefusedError
from pgscale.partition import bounds, locks
from pgscale.partition.attach import bounds as first_bounds
from pgscale.partition.attach.ddl import AttachSwap, analyze, make_pairs
from pgscale.partition.attach.estimate import estimate
from pgscale.partition.attach.model import AttachPlan, Bound
from pgscale.partition.consequences import find_changes, find_warnings, primary_grows
from pgscale.partition.keys import Keys
from pgscale.partition.model import By, Leaf, Options
from pgscale.partition.periods import Grid
from pgscale.partition.planning import Schemas, plain_type, refuse_named
from pgscale.partition.reader import MOST_VALUES, KeyValues

NO_ONE = "no one waits"


def make_leaves(
    facts: TableFacts, by: By, options: Options, keys: Keys, found: KeyValues, now: datetime
) -> tuple[Bound, tuple[Leaf, ...]]:
    """Return the first partition's bound, and the partitions, the first of which is the table.

    Args:
        found: what occurs in the key; now: aware, by the server's clock.

    Raises:
        RefusedError: rows that the first partition could not take; UsageError: a wrong step or value.
    """
    column = facts.column(by.columns[0])
    assert column is not None
    if found.has_null and primary_grows(facts, keys):
        raise RefusedError(
            f"The primary key would grow by {quote_ident(column.name)}, which holds NULL.",
            consequence="Nothing was changed.",
            hint="Give such rows a value first.",
        )
    table, namer = facts.table.name, bounds.Namer(facts.taken_names)
    name = namer.name(table, "_p_first")
    if by.method == "range":
        bound, later = _range(column, by, found, now, table, namer)
    else:
        bound, later = _list(column, options, found), ()
    leaves = (Leaf(name=name, bound=bound.sql), *later)
    if options.default_partition and not bound.sql.endswith("(MAXVALUE)"):
        leaves += (bounds.default_leaf(table, namer),)
    return bound, leaves


def _range(
    column: Column, by: By, found: KeyValues, now: datetime, table: str, namer: bounds.Namer
) -> tuple[Bound, tuple[Leaf, ...]]:
    name = quote_ident(column.name)
    if found.has_null:
        raise RefusedError(
            f"Column {name} holds NULL, which has no place in a range.",
            consequence="Nothing was changed.",
            hint="Give such rows a value first, or partition by list.",
        )
    if found.has_nonfinite:
        raise RefusedError(
            f"Column {name} holds infinity, -infinity or NaN, for which the table as one partition has no place.",
            consequence="Nothing was changed.",
            hint="Give such rows a finite value first, or use --strategy mirror.",
        )
    grid = Grid(type_name=plain_type(column.type), step=by.step)
    bound, periods = first_bounds.range_bound(column, grid, found.extent, now)
    return bound, first_bounds.later_leaves(table, periods, grid, namer)


def _list(column: Column, options: Options, found: KeyValues) -> Bound:
    name = quote_ident(column.name)
    if found.values is None:
        raise RefusedError(
            f"Column {name} holds more than {MOST_VALUES} different values.",
            consequence="Nothing was changed.",
            hint="A list is for few values; partition by range.",
        )
    refuse_named(column.name, column.type, found.named)
    assert found.named is not None or not options.values
    return first_bounds.list_bound(column, found.named.values if found.named is not None else found.values)


def make_plan(
    facts: TableFacts, by: By, options: Options, keys: Keys, bound: Bound, leaves: tuple[Leaf, ...]
) -> AttachPlan:
    """Return the whole run as data.

    Args:
        facts: the table; by, options: what was asked; keys: which grow; bound, leaves: from make_leaves.
    """
    schemas = Schemas.of(facts.table.oid)
    swap = AttachSwap(facts, by, keys, bound, leaves, *make_pairs(facts, schemas.new, schemas.old))
    forward, back = swap.key_builds("k", back=False), swap.key_builds("b", back=True)
    plan = AttachPlan(
        table=facts.table.qname,
        table_oid=facts.table.oid,
        owner=facts.table.owner,
        server_version=facts.server_version,
        options=options,
        leaves=leaves,
        steps=(),
        first=swap.first,
        bound=bound,
        keys=forward,
        back=back,
        statements=swap.attach_statements(back),
        fingerprint=facts.fingerprint,
        estimate=estimate(facts, keys),
        warnings=tuple(_warnings(facts, by, options, leaves)),
        changes=tuple(_changes(facts, by, keys, bound, swap.first)),
    )
    return replace(plan, steps=(*_before(plan, swap), _cutover(plan, facts), *_after(plan, facts)))


def _changes(facts: TableFacts, by: By, keys: Keys, bound: Bound, first: QName) -> Iterator[str]:
    key = quote_ident(by.columns[0])
    yield (
        f"From the step `check` until the swap, a row is refused (23514) unless {bound.shown}."
        + (
            " Name values that may come meanwhile with --values."
            if by.method == "list"
            else " That leaves room for what comes during the run; rows further in the future must wait."
        )
    )
    yield (
        f"All rows there are stay together in {first}: conditions on {key} spare the later partitions, not a part of"
        " that one."
    )
    yield from find_changes(facts, by, keys)


def _warnings(facts: TableFacts, by: By, options: Options, leaves: tuple[Leaf, ...]) -> Iterator[str]:
    if by.method == "range" and len(leaves) == 1:
        yield "The first partition takes everything there can be, so no later partition can be made beside it."
    yield from find_warnings(facts, options, None, len(leaves))


def _before(plan: AttachPlan, swap: AttachSwap) -> Iterator[Step]:
    lock = f"{plan.options.lock_timeout_s * 1000:.0f} ms for the lock, then free"
    later = len(plan.leaves) - 1
    yield Step(
        id="prepare",
        title=f"Make the new parent with {later} empty partition{'' if later == 1 else 's'} beside the table",
        kind="sql",
        sql=swap.prepare(),
        lock="none",
        longest_wait=NO_ONE,
        undo=plan.statements.drop_new,
        reason="Whatever can be made before the swap is made before it.",
    )
    if swap.references():
        yield Step(
            id="references",
            title="Give the empty partitions their foreign keys",
            kind="locked",
            sql=swap.references(),
            lock="none on the table; SHARE ROW EXCLUSIVE on the tables it references",
            longest_wait=lock,
            undo=(),
            reason="When every partition has a foreign key, the parent's is a matter of the catalog.",
        )
        yield Step(
            id="references:prove",
            title="Validate the foreign keys of the empty partitions",
            kind="sql",
            sql=swap.prove_references(),
            lock="none on the table; ROW SHARE on the tables it references",
            longest_wait=NO_ONE,
            undo=(),
            reason="Apart from adding them: no writer waits while the server looks.",
        )
    yield Step(
        id="probe",
        title="Try with an empty table that the CHECK spares ATTACH PARTITION the reading of rows",
        kind="probe",
        sql=plan.statements.probe,
        lock="ACCESS SHARE",
        longest_wait=NO_ONE,
        undo=(),
        reason="In a transaction that is rolled back. If rows had to be read, it would be under the lock of the swap.",
    )
    for number, built in enumerate(plan.keys):
        yield Step(
            id=f"key:{number}",
            title=f"Build what {quote_ident(built.of)} will be",
            kind="key",
            sql=(built.create,),
            lock="SHARE UPDATE EXCLUSIVE",
            longest_wait="no one but other DDL and VACUUM",
            undo=(built.drop,),
            reason="A unique key must contain the partition key. Built beside the old one, writers go on.",
        )
    yield Step(
        id="check",
        title="Add the CHECK of the first partition's bound, for new rows",
        kind="check",
        sql=(
            *plan.statements.calm,
            f"SET LOCAL lock_timeout = '{plan.options.lock_timeout_s * 1000:.0f}ms'",
            swap.add_check(),
        ),
        lock="ACCESS EXCLUSIVE",
        longest_wait=lock,
        undo=(plan.statements.drop_check,),
        reason="NOT VALID: no row is read. New rows are checked from here on.",
    )
    yield Step(
        id="validate",
        title="Validate the CHECK",
        kind="validate",
        sql=(swap.validate_check(),),
        lock="SHARE UPDATE EXCLUSIVE",
        longest_wait="no one but other DDL and VACUUM",
        undo=(),
        reason="Reads every row once while writers go on; proven here, ATTACH PARTITION need not look.",
    )


def _cutover(plan: AttachPlan, facts: TableFacts) -> Step:
    options = plan.options
    return Step(
        id="cutover",
        title=f"The table becomes {plan.first}, the first partition of the new {plan.table}",
        kind="cutover",
        sql=(*plan.statements.calm, plan.statements.lock, *plan.statements.swap),
        lock=locks.cutover_lock(facts),
        longest_wait=locks.cutover_wait(facts, options.max_block_s, options.lock_timeout_s),
        undo=(plan.statements.lock_back, *plan.statements.detach, plan.statements.move, *plan.statements.restore),
        reason="One short transaction in the catalog alone; when it would pass the limit it is rolled back.",
    )


def _after(plan: AttachPlan, facts: TableFacts) -> Iterator[Step]:
    lock = f"{plan.options.lock_timeout_s * 1000:.0f} ms for the lock, then free"
    for number, settled in enumerate(plan.statements.settle):
        yield Step(
            id=f"settle:{number}",
            title="Prove a foreign key",
            kind="settle",
            sql=settled,
            lock=locks.settle_lock(facts, settled) or "SHARE UPDATE EXCLUSIVE or SHARE ROW EXCLUSIVE",
            longest_wait=lock,
            undo=(),
            reason="Foreign keys were enforced from the swap on; this makes them validated again.",
        )
    yield Step(
        id="analyze",
        title="Give the planner statistics of the whole",
        kind="settle",
        sql=(analyze(plan.table),),
        lock="SHARE UPDATE EXCLUSIVE",
        longest_wait="no one but other DDL and VACUUM",
        undo=(),
        reason="The first partition has its own already; those of the parent are sampled from all.",
    )
