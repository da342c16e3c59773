"""Turn facts into a MirrorPlan: every step with its SQL, lock, longest wait, undo and reason. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from psycopg import sql

from pgscale.catalog.model import TableFacts
from pgscale.core.model import QName, Step, quote_ident
from pgscale.errors import RefusedError, UsageError
from pgscale.livecopy import ddl as live
from pgscale.livecopy.model import Pair
from pgscale.livecopy.throttle import Pace
from pgscale.partition import bounds, ddl, locks, matviews
from pgscale.partition.checks import find_reasons, refuse_kind, refuse_nonfinite
from pgscale.partition.consequences import find_changes, find_warnings, nullable, primary_grows
from pgscale.partition.estimate import estimate
from pgscale.partition.keys import Keys, decide_keys
from pgscale.partition.model import MOST_LEAVES, By, Leaf, MirrorPlan, Options, Skew
from pgscale.partition.reader import MOST_VALUES, KeyValues, NamedValues
from pgscale.partition.swap import Swap

# Below this correlation a range of keys touches a page for almost every row; a table as small as this is read
# from memory anyway.
WALK_CORRELATION = 0.9
SMALL_TABLE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Schemas:
    """Where the copy waits and where the old table is kept: one pair of schemas a table."""

    new: str
    old: str

    @staticmethod
    def of(oid: int) -> Schemas:
        return Schemas(new=f"pgscale_new_{oid}", old=f"pgscale_old_{oid}")


def check_request(facts: TableFacts, by: By, options: Options) -> Keys:
    """Refuse what cannot be done with this table, before its rows are looked at.

    Raises:
        UsageError: a column that does not exist, a number out of range; RefusedError: with every reason.
    """
    kind = refuse_kind(facts)
    if kind is not None:
        raise RefusedError(kind, consequence="Nothing was changed.", reasons=())
    for name in by.columns:
        if facts.column(name) is None:
            known = ", ".join(quote_ident(c.name) for c in facts.columns[:20])
            raise UsageError(
                f"{facts.table.qname} has no column {quote_ident(name)}.", hint=f"Its columns are {known}."
            )
    if by.method == "hash":
        if options.partitions is None:
            raise UsageError("--by hash needs --partitions N.")
        if not 1 <= options.partitions <= MOST_LEAVES:
            raise UsageError(
                f"{options.partitions} partitions cannot be made; give a number from 1 to {MOST_LEAVES}.",
                hint="Tens to a few hundred serve well: every unpruned query locks each of them.",
            )
    elif options.partitions is not None:
        raise UsageError(f"--partitions is for hash; a {by.method} makes as many as its key needs.")
    if options.values and by.method != "list":
        raise UsageError(f"--values is for list, not for {by.method}.")
    keys = decide_keys(facts, by)
    reasons = find_reasons(facts, by, options, keys)
    if reasons:
        raise RefusedError(
            f"{facts.table.qname} is not partitioned: {len(reasons)} thing"
            f"{'s stand' if len(reasons) > 1 else ' stands'} in the way.",
            reasons=reasons,
            consequence="Nothing was changed.",
        )
    return keys


def make_leaves(facts: TableFacts, by: By, options: Options, found: KeyValues) -> tuple[Leaf, ...]:
    """Return the partitions for what occurs in the key.

    Raises:
        RefusedError: rows that no partition would take.
    """
    name, namer = facts.table.name, bounds.Namer(facts.taken_names)
    column = facts.column(by.columns[0])
    assert column is not None
    if by.method == "hash":
        assert options.partitions is not None
        return bounds.hash_leaves(name, options.partitions, namer)
    nullable = not column.not_null
    if by.method == "range":
        if found.has_null:
            raise RefusedError(
                f"Column {quote_ident(column.name)} holds NULL, which has no place in a range.",
                consequence="Nothing was changed.",
                hint="Give such rows a value first, or partition by hash or list.",
            )
        refuse_nonfinite(found, by, options)
        leaves = bounds.range_leaves(name, plain_type(column.type), by.step, found.extent, namer)
    else:
        if found.values is None:
            raise RefusedError(
                f"Column {quote_ident(column.name)} holds more than {MOST_VALUES} different values.",
                consequence="Nothing was changed.",
                hint="A list is for few values; partition by hash or range.",
            )
        refuse_named(column.name, column.type, found.named)
        assert found.named is not None or not options.values
        values = found.named.values if found.named is not None else found.values
        leaves = bounds.list_leaves(name, values, namer, with_null=nullable)
    if options.default_partition or not leaves:
        leaves += (bounds.default_leaf(name, namer),)
    return leaves


def refuse_named(column: str, type_name: str, named: NamedValues | None) -> None:
    """Refuse `--values` that name a value twice, or not every value that rows hold."""
    if named is None:
        return
    if named.repeated:
        texts = named.repeated[0]
        alike = f"{', '.join(map(repr, texts))} are equal as {type_name}" if len(set(texts)) > 1 else repr(texts[0])
        raise UsageError(
            f"--values names one value of column {quote_ident(column)} more than once: {alike}.",
            hint="Each value has one partition: name it once.",
        )
    if missed := named.missing:
        shown = ", ".join(repr(v) for v in missed[:10])
        raise RefusedError(
            f"Rows hold {len(missed)} value{'s' if len(missed) > 1 else ''} of {quote_ident(column)}"
            f" that --values does not name: {shown}{', …' if len(missed) > 10 else ''}.",
            consequence="Nothing was changed.",
            hint="Name them too, or leave --values out to give each its partition.",
        )


def plain_type(type_name: str) -> str:
    """Return the type without its modifier: `timestamp(3) with time zone` → `timestamp with time zone`."""
    head, _, tail = type_name.partition("(")
    rest = tail.partition(")")[2]
    return (head + rest).strip()


def make_plan(
    facts: TableFacts,
    by: By,
    options: Options,
    keys: Keys,
    found: KeyValues,
    skew: Skew | None,
    *,
    key_correlation: float | None = None,
) -> MirrorPlan:
    """Return the whole run as data.

    Args:
        facts: the table; by, options: what was asked; keys: from check_request.
        found: what occurs in the partition key.
        skew: expected evenness, None when there are no statistics.
        key_correlation: pg_stats.correlation of the identity's first column; decides how rows are compared.
    """
    if any(c in nullable(facts) for c in by.columns) and found.has_null and primary_grows(facts, keys):
        raise RefusedError(
            f"The primary key would grow by {', '.join(by.columns)}, which holds NULL.",
            consequence="Nothing was changed.",
            hint="Give such rows a value first.",
        )
    leaves = make_leaves(facts, by, options, found)
    table, schemas = facts.table.qname, Schemas.of(facts.table.oid)
    stage = QName(schema=schemas.new, name=table.name)
    retained = QName(schema=schemas.old, name=table.name)
    stored = tuple(c.name for c in facts.stored_columns)
    everything = tuple(c.name for c in facts.columns)
    leaf_names = tuple(QName(schema=table.schema, name=leaf.name) for leaf in leaves)
    forward = Pair(
        source=table,
        target=stage,
        work_schema=schemas.new,
        identity=keys.identity,
        placement=keys.placement,
        columns=stored,
        all_columns=everything,
    )
    reverse = Pair(
        source=table,
        target=retained,
        work_schema=schemas.old,
        identity=keys.identity,
        placement=(),
        columns=stored,
        all_columns=everything,
        source_leaves=leaf_names,
    )
    swap = Swap(facts, forward, reverse, leaves)
    statements = swap.statements()
    plan = MirrorPlan(
        table=table,
        table_oid=facts.table.oid,
        owner=facts.table.owner,
        server_version=facts.server_version,
        options=options,
        leaves=leaves,
        steps=(),
        forward=forward,
        reverse=reverse,
        statements=statements,
        fingerprint=facts.fingerprint,
        warnings=find_warnings(facts, options, skew, len(leaves)),
        changes=find_changes(facts, by, keys),
        estimate=estimate(facts, options, len(leaves)),
        skew=skew,
        walks_keys=walks_keys(facts, forward, key_correlation),
        matviews=swap.matviews.places,
    )
    steps = _steps(plan, facts, by, keys, schemas, swap.matviews.create())
    return replace(plan, steps=steps)


def walks_keys(facts: TableFacts, pair: Pair, correlation: float | None) -> bool:
    """Tell whether rows are compared by ranges of their key: where these lie together on disk, or fit in memory."""
    if not live.can_walk_keys(pair):
        return False
    small = facts.table.heap_bytes <= SMALL_TABLE_BYTES
    return small or (correlation is not None and abs(correlation) >= WALK_CORRELATION)


def analyze(table: QName, leaves: int, pace: Pace) -> tuple[str, ...]:
    """Return the statements that analyze a partitioned table and its leaves, each in a transaction of its own.

    Each leaf is sampled less the more there are: together they are sampled as well as one table. Columns with a
    target of their own keep it, and autovacuum analyzes in full later.
    """
    target = max(10, min(100, round(100 / leaves**0.6)))
    rests = () if pace == "fast" else ("SET vacuum_cost_delay = '2ms'",)
    return (
        f"SET default_statistics_target = {target}",
        *rests,
        live.text(sql.SQL("ANALYZE {}").format(live.qualified(table))),
    )


def _matviews_step(statements: tuple[str, ...]) -> Step:
    return Step(
        id="matviews",
        title="Make the materialized views again over the copy, without rows",
        kind="sql",
        sql=statements,
        lock="none",
        longest_wait="no one waits",
        undo=(),
        reason="A materialized view cannot be redirected: it is made again, with all that hangs on it.",
    )


def _refresh_steps(plan: MirrorPlan) -> tuple[Step, ...]:
    if not plan.matviews:
        return ()
    return (
        Step(
            id="refresh",
            title="Compute the new materialized views over the copy",
            kind="refresh",
            sql=tuple(matviews.refresh(place.staged, with_data=True) for place in plan.matviews),
            lock="ACCESS SHARE",
            longest_wait="no one waits",
            undo=(),
            reason="As late as can be without a lock, from one snapshot; those without rows stay so.",
        ),
    )


def _steps(
    plan: MirrorPlan, facts: TableFacts, by: By, keys: Keys, schemas: Schemas, views: tuple[str, ...]
) -> tuple[Step, ...]:
    pair, stage, table = plan.forward, plan.forward.target, plan.table
    namer = bounds.Namer(facts.taken_names | {leaf.name for leaf in plan.leaves})
    lock = f"{plan.options.lock_timeout_s * 1000:.0f} ms for the lock, then free"
    none = "no one waits"
    make_schemas = tuple(s for schema in (schemas.new, schemas.old) for s in ddl.make_schema(facts, schema))
    steps = [
        Step(
            id="prepare",
            title=f"Make the empty partitioned copy with {len(plan.leaves)} partitions",
            kind="sql",
            sql=(
                *make_schemas,
                *ddl.table_statements(facts, by, keys, stage),
                *(s for leaf in plan.leaves for s in ddl.leaf_statements(facts, leaf, stage)),
                *live.capture_objects(pair),
            ),
            lock="none",
            longest_wait=none,
            undo=plan.statements.drop_new,
            reason="The copy has no indexes yet: building them after the copy is faster and makes better indexes.",
        ),
        Step(
            id="capture",
            title="Begin to log the keys of changed rows",
            kind="locked",
            sql=live.capture_triggers(pair, table),
            lock="SHARE ROW EXCLUSIVE",
            longest_wait=lock,
            undo=plan.statements.abort_triggers,
            reason="Waits for open writers, in short attempts, so that no write escapes the log.",
        ),
        Step(
            id="copy",
            title="Copy the rows by page ranges",
            kind="copy",
            sql=(live.copy(pair),),
            lock="ACCESS SHARE",
            longest_wait=none,
            undo=(),
            reason="Short transactions, each with its ledger row; sequential reads, no index needed.",
        ),
        Step(
            id="scrub",
            title="Remove copied rows that changed meanwhile",
            kind="scrub",
            sql=tuple(live.scrub(pair, QName(schema=table.schema, name=leaf.name)) for leaf in plan.leaves),
            lock="none",
            longest_wait=none,
            undo=(),
            reason="A row updated during the copy may have been copied twice; apply brings it back as it is.",
        ),
    ]
    attach: list[str] = []
    ordered = sorted(facts.indexes, key=lambda i: (not i.is_primary, i.name))
    parents = tuple(s for i in ordered for s in ddl.parent_index_statements(facts, keys, i, stage))
    for leaf in plan.leaves:
        statements: list[str] = []
        for index in (i for i in ordered if not i.is_exclusion):
            name = ddl.leaf_index_name(namer, leaf, facts, index)
            statements += ddl.leaf_index_statements(facts, keys, leaf, index, name)
            attach.append(ddl.attach_index(stage, index, table.schema, name))
        steps.append(
            Step(
                id=f"index:{leaf.name}",
                title=f"Build the indexes of {leaf.name}",
                kind="index",
                sql=tuple(statements),
                lock="none",
                longest_wait=none,
                undo=(),
                reason="Leaves are built in parallel.",
            )
        )
    steps += [
        Step(
            id="attach",
            title="Complete the copy: parent indexes, constraints, statistics objects",
            kind="sql",
            sql=(*parents, *attach, *ddl.finishing_statements(facts, stage, plan.leaves)),
            lock="none",
            longest_wait=none,
            undo=(),
            reason="A parent index becomes valid when every leaf's is attached; no row is read.",
        ),
        Step(
            id="analyze",
            title="Give the planner statistics of the copy",
            kind="analyze",
            sql=analyze(stage, len(plan.leaves), plan.options.pace),
            lock="none",
            longest_wait=none,
            undo=(),
            reason="Without statistics the first queries after the cut-over would be planned blindly.",
        ),
        Step(
            id="apply",
            title="Bring what changed since the copy began",
            kind="apply",
            sql=live.apply(pair),
            lock="ACCESS SHARE",
            longest_wait=none,
            undo=(),
            reason="Keys are taken from the log and their rows brought as they stand now: order does not matter.",
        ),
    ]
    if plan.options.verify == "full":
        steps.append(
            Step(
                id="verify",
                title="Compare every row, byte for byte",
                kind="verify",
                sql=(live.verify_keys(pair, low=True, high=True) if plan.walks_keys else live.verify_source(pair),),
                lock="ACCESS SHARE",
                longest_wait=none,
                undo=(),
                reason="A row that differs must be waiting in the log; anything else stops the run.",
            )
        )
    if views:
        # Before the rows are brought up: what cannot be made over the copy is known before the long part.
        at = next(number for number, step in enumerate(steps) if step.id == "analyze")
        steps.insert(at, _matviews_step(views))
    steps += [
        Step(
            id="reverse",
            title="Prepare the way back",
            kind="sql",
            sql=plan.statements.cutover_before,
            lock="none",
            longest_wait=none,
            undo=(),
            reason="From the cut-over on, changed keys are logged for undo.",
        ),
        *(_refresh_steps(plan)),
        Step(
            id="cutover",
            title="Drain the log to zero and exchange the tables",
            kind="cutover",
            sql=(plan.statements.lock_forward, *plan.statements.cutover),
            lock=locks.cutover_lock(facts),
            longest_wait=locks.cutover_wait(facts, plan.options.max_block_s, plan.options.lock_timeout_s),
            undo=(plan.statements.lock_reverse, *plan.statements.undo),
            reason="One short transaction; when it would pass the limit it is rolled back.",
        ),
    ]
    for number, settled in enumerate(plan.statements.settle):
        steps.append(
            Step(
                id=f"settle:{number}",
                title="Prove a foreign key",
                kind="settle",
                sql=settled,
                lock=locks.settle_lock(facts, settled) or "SHARE UPDATE EXCLUSIVE or SHARE ROW EXCLUSIVE",
                longest_wait=lock,
                undo=(),
                reason="Foreign keys were enforced from the cut-over on; this makes them validated again.",
            )
        )
    return tuple(steps)
