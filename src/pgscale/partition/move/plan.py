"""Turn facts into a MovePlan: every step with its SQL, lock, longest wait, undo and reason. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from psycopg import sql

from pgscale.catalog.model import Constraint, TableFacts
from pgscale.core.model import QName, Step, quote_ident
from pgscale.errors import RefusedError
from pgscale.livecopy.ddl import ident, qualified, text, trusted
from pgscale.livecopy.model import KeyColumn
from pgscale.livecopy.throttle import PACES
from pgscale.partition import bounds, ddl
from pgscale.partition.consequences import find_changes, nullable, primary_grows
from pgscale.partition.estimate import BEST, SURE_WORKERS, WORST, estimate
from pgscale.partition.keys import Keys
from pgscale.partition.model import By, Estimate, Leaf, Options, Phase
from pgscale.partition.move.ddl.moving import lane
from pgscale.partition.move.ddl.triggers import Direction
from pgscale.partition.move.ddl.view import Swaps
from pgscale.partition.move.model import KeyPart, MovePlan, UniqueKey
from pgscale.partition.planning import Schemas
from pgscale.partition.reader import KeyValues

# One worker at work, VACUUM and the rebuilding of indexes included: docs/benchmarks/move.md.
MOVE_S_PER_ROW, MOVE_BYTES_PER_S = 20e-6, 40_000_000
# A row that leaves is locked and deleted: two records of 54 bytes each.
DELETE_WAL_BYTES = 108

CHANGES = (
    "While rows move, the table's name is a view: an UPDATE or DELETE of a row that another transaction changed"
    " meanwhile raises 40001, at every isolation level; run that transaction again.",
    "While rows move, ON CONFLICT, TRUNCATE, COPY … TO, CREATE INDEX and ALTER TABLE fail, GROUP BY of the primary key"
    " alone does not imply the other columns, and SELECT … FOR UPDATE locks nothing.",
    "While rows move, what a session writes with session_replication_role = replica is lost without an error: no"
    " trigger of a view fires there.",
    "While rows move, a duplicate key that was inserted at the same moment is reported (23505) under the partition's"
    " name for the constraint, as afterwards.",
)


def make_plan(
    facts: TableFacts,
    by: By,
    options: Options,
    keys: Keys,
    leaves: tuple[Leaf, ...],
    found: KeyValues,
    unique: dict[int, UniqueKey],
    unchecked: tuple[str, ...],
) -> MovePlan:
    """Return the whole run as data.

    Args:
        leaves: the partitions; found: what occurs in the partition key.
        unique: every unique key of the table by its index's oid.
        unchecked: what could not be looked at.
    """
    if any(c in nullable(facts) for c in by.columns) and found.has_null and primary_grows(facts, keys):
        raise RefusedError(
            f"The primary key would grow by {', '.join(by.columns)}, which holds NULL.",
            consequence="Nothing was changed.",
            hint="Give such rows a value first.",
        )
    table, schemas = facts.table.qname, Schemas.of(facts.table.oid)
    old, stage = QName(schema=schemas.old, name=table.name), QName(schema=schemas.new, name=table.name)
    forward, back = _directions(facts, keys, unique, old, stage)
    swaps = Swaps(facts, forward, back)
    stored = tuple(c.name for c in facts.stored_columns)
    leaf_names = (QName(schema=table.schema, name=leaf.name) for leaf in leaves)
    plan = MovePlan(
        table=table,
        table_oid=facts.table.oid,
        owner=facts.table.owner,
        server_version=facts.server_version,
        options=options,
        leaves=leaves,
        steps=(),
        old=old,
        stage=stage,
        forward=lane(old, stage, stored, "moved"),
        back=tuple(lane(name, old, stored, f"returned:{name.name}") for name in leaf_names),
        statements=swaps.statements(),
        fingerprint=facts.fingerprint,
        total_bytes=facts.table.heap_bytes + facts.table.toast_bytes + facts.table.index_bytes,
        changes=(*CHANGES, *_changes(facts, old), *find_changes(facts, by, keys)),
        warnings=(),
        estimate=_estimate(facts, options, len(leaves)),
        unchecked=unchecked,
    )
    return replace(plan, steps=_steps(plan, facts, by, keys, schemas, swaps))


def _changes(facts: TableFacts, old: QName) -> Iterator[str]:
    """Yield what a view in this table's place does otherwise."""
    for sequence in facts.sequences:
        if sequence.is_identity:
            yield (
                f"While rows move, the sequence of identity column {quote_ident(sequence.column_name)} is"
                f" {QName(schema=old.schema, name=sequence.name)}: who calls it by its name, or asks"
                " pg_get_serial_sequence(), does not find it."
            )
    special = [c.name for c in facts.columns if c.generated or c.identity == "a"]
    if special:
        listed = ", ".join(map(quote_ident, special))
        yield f"While rows move, COPY … FROM must name its columns, and leave out {listed}."


def _directions(
    facts: TableFacts, keys: Keys, unique: dict[int, UniqueKey], old: QName, stage: QName
) -> tuple[Direction, Direction]:
    """Return the way to the partitioned table, where keys hold as they have grown, and the way back, as they were."""
    sequences = tuple((s.column_name, QName(schema=old.schema, name=s.name)) for s in facts.sequences if s.is_identity)
    grown = tuple(_grow(facts, key, keys.grown.get(oid, ())) for oid, key in unique.items())
    # What names one row in both tables: the identity, and the partition key where the identity grows by it.
    row_key: tuple[KeyColumn, ...] = (*keys.identity, *keys.placement)

    def make(name: str, home: QName, away: QName, held: tuple[UniqueKey, ...]) -> Direction:
        return Direction(
            name="forward" if name == "forward" else "back",
            table=facts.table.qname,
            schema=old.schema,
            home=home,
            away=away,
            columns=facts.columns,
            key=row_key,
            identity=keys.identity,
            unique=held,
            sequences=sequences,
        )

    return make("forward", stage, old, grown), make("back", old, stage, tuple(unique.values()))


def _grow(facts: TableFacts, key: UniqueKey, missing: tuple[str, ...]) -> UniqueKey:
    more = tuple(
        KeyPart(column=c.name, expression=text(ident(c.name)), equals=c.equals)
        for c in facts.columns
        if c.name in missing
    )
    return replace(key, parts=(*key.parts, *more))


def _estimate(facts: TableFacts, options: Options, leaves: int) -> Estimate:
    """Return what the run is expected to need; what the application changes meanwhile is not counted.

    The disk is what is needed beyond the table: one more set of indexes, and what has moved and is not given back yet.
    """
    copy, limits = estimate(facts, options, leaves), PACES[options.pace]
    table = facts.table
    heap = table.heap_bytes + table.toast_bytes
    workers = min(options.workers or limits.workers, SURE_WORKERS)
    work_s = (copy.rows * MOVE_S_PER_ROW + heap / MOVE_BYTES_PER_S) / workers
    prepare = next(p for p in copy.phases if p.name == "prepare")
    move = Phase(name="move", least_s=work_s * BEST / limits.most_duty, most_s=work_s * WORST / limits.least_duty)
    more_wal = copy.rows * DELETE_WAL_BYTES
    return replace(
        copy,
        disk_bytes=table.index_bytes + max(heap // 16, 64 * table.block_bytes),
        least_wal_bytes=copy.least_wal_bytes + more_wal,
        wal_bytes=copy.wal_bytes + more_wal,
        phases=(prepare, move),
        least_duration_s=prepare.least_s + move.least_s,
        duration_s=prepare.most_s + move.most_s,
        basis=f"assumed from docs/benchmarks/move.md; pace {options.pace} lets {workers} worker"
        f"{'s' if workers > 1 else ''} work {limits.least_duty:.0%} to {limits.most_duty:.0%} of the time;"
        " transactions that are waited for, and what the application changes meanwhile, are not counted",
    )


def _foreign_keys(facts: TableFacts) -> tuple[Constraint, ...]:
    return tuple(c for c in facts.constraints if c.kind == "f")


def _steps(plan: MovePlan, facts: TableFacts, by: By, keys: Keys, schemas: Schemas, swaps: Swaps) -> tuple[Step, ...]:
    statements, stage = plan.statements, plan.stage
    lock = f"{plan.options.lock_timeout_s * 1000:.0f} ms for the lock, then tried again"
    steps = [
        Step(
            id="prepare",
            title=f"Make the empty partitioned table with {len(plan.leaves)} partitions and their indexes",
            kind="sql",
            sql=(
                *(s for schema in (schemas.new, schemas.old) for s in ddl.make_schema(facts, schema)),
                *ddl.table_statements(facts, by, keys, stage),
                *(s for leaf in plan.leaves for s in ddl.leaf_statements(facts, leaf, stage)),
                *_indexes(plan, facts, keys),
                *ddl.finishing_statements(facts, stage, plan.leaves),
                *swaps.objects(),
            ),
            lock="none",
            longest_wait="no one waits",
            undo=statements.drop_new,
            reason="Its unique keys are enforced from the first row on, so its indexes exist from the beginning.",
        )
    ]
    for constraint in _foreign_keys(facts):
        steps.append(_foreign_key_step(constraint, stage, lock))
    steps.append(
        Step(
            id="probe",
            title="Try whether rows can be moved, and take that back",
            kind="probe",
            sql=(statements.probe,),
            lock="ACCESS SHARE",
            longest_wait="no one waits",
            undo=(),
            reason="A CHECK or an index that finds its functions by the search_path would fail behind the view.",
        )
    )
    steps += [
        Step(
            id="view",
            title="Put a view over both tables in the table's place",
            kind="view",
            sql=(statements.lock_table, *statements.raise_view),
            lock="ACCESS EXCLUSIVE",
            longest_wait=lock,
            undo=(*statements.turn, *statements.restore, *swaps.redirect(), statements.drop_view),
            reason="From now on new and changed rows go to the partitioned table; none is ever added to the old one.",
        ),
        Step(
            id="move",
            title="Move the rows from the end of the old table, and give the empty tail back",
            kind="move",
            sql=(plan.forward.statement, plan.forward.vacuum, statements.analyze),
            lock="SHARE UPDATE EXCLUSIVE, and ACCESS EXCLUSIVE for a moment while the tail is cut off, if it is free",
            longest_wait="a chunk, for who changes one of its rows",
            undo=tuple(s for each in plan.back for s in (each.statement, each.vacuum)),
            reason="VACUUM gives back only what is empty at the end, so rows leave from there.",
        ),
        Step(
            id="cutover",
            title="Take the view away: the partitioned table takes the name",
            kind="cutover",
            sql=(statements.lock_view, *statements.settle, *swaps.redirect(), statements.drop_view),
            lock="ACCESS EXCLUSIVE",
            longest_wait=lock,
            undo=(statements.lock_view, *statements.undo),
            reason="When the old table is empty, and no transaction is left that could see a row in it.",
        ),
    ]
    return tuple(steps)


def _indexes(plan: MovePlan, facts: TableFacts, keys: Keys) -> tuple[str, ...]:
    stage = plan.stage
    namer = bounds.Namer(facts.taken_names | {leaf.name for leaf in plan.leaves})
    ordered = sorted(facts.indexes, key=lambda i: (not i.is_primary, i.name))
    made: list[str] = []
    attach: list[str] = []
    for leaf in plan.leaves:
        for index in ordered:
            name = ddl.leaf_index_name(namer, leaf, facts, index)
            made += ddl.leaf_index_statements(facts, keys, leaf, index, name)
            attach.append(ddl.attach_index(stage, index, plan.table.schema, name))
    parents = (s for i in ordered for s in ddl.parent_index_statements(facts, keys, i, stage))
    return (*made, *parents, *attach)


def _foreign_key_step(constraint: Constraint, stage: QName, lock: str) -> Step:
    add = text(
        sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(
            qualified(stage), ident(constraint.name), trusted(constraint.definition)
        )
    )
    comment = (
        (ddl.constraint_comment(constraint.name, stage, constraint.comment),) if constraint.comment is not None else ()
    )
    return Step(
        id=f"foreign:{constraint.name}",
        title=f"Give the partitioned table the foreign key {constraint.name}",
        kind="locked",
        sql=(add, *comment),
        lock="SHARE ROW EXCLUSIVE on the referenced table",
        longest_wait=lock,
        undo=(),
        reason="The table is empty, so nothing is read; from then on every row that comes in is checked.",
    )
