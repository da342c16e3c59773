"""Turn facts into a SplitPlan: every step with its SQL, lock, longest wait, undo and reason. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pgscale.catalog.model import TableFacts
from pgscale.core.model import QName, Step, quote_ident
from pgscale.livecopy import ddl as live
from pgscale.livecopy.model import Pair
from pgscale.partition import locks
from pgscale.partition.bounds import Namer
from pgscale.partition.ddl import make_schema
from pgscale.partition.estimate import estimate
from pgscale.partition.keys import Keys
from pgscale.partition.model import By
from pgscale.partition.planning import Schemas, analyze, walks_keys
from pgscale.partition.splitting.ddl import Division
from pgscale.partition.splitting.model import Piece, Place, SplitOptions, SplitPlan

NO_ONE = "no one waits"
# One DETACH and one ATTACH of a partition with a few indexes, and one foreign key of one partition: rounded up.
EXCHANGE_S, FOREIGN_KEY_S = 0.005, 0.002


def make_plan(
    facts: TableFacts,
    above: TableFacts,
    place: Place,
    by: By,
    asked: SplitOptions,
    keys: Keys,
    pieces: tuple[Piece, ...],
    signatures: Callable[[bool], str],
    *,
    key_correlation: float | None = None,
) -> SplitPlan:
    """Return the whole split as data.

    Args:
        facts: the partition; above: its parent; place: where it hangs.
        by: the parent's key, with the period for a range.
        keys: of the partition; pieces: what it becomes.
        signatures: tells the digest of what the swap rests on, of all partitions or of this one.
        key_correlation: pg_stats.correlation of the identity's first column; decides how rows are compared.
    """
    schemas = Schemas.of(facts.table.oid)
    stored, everything = tuple(c.name for c in facts.stored_columns), tuple(c.name for c in facts.columns)
    forward = Pair(
        source=facts.table.qname,
        target=QName(schema=schemas.new, name="_pgscale_stage"),
        work_schema=schemas.new,
        identity=keys.identity,
        placement=keys.placement,
        columns=stored,
        all_columns=everything,
        written_through=(above.table.qname,),
        only_where=place.condition,
    )
    reverse = Pair(
        source=above.table.qname,
        target=QName(schema=schemas.old, name=facts.table.name),
        work_schema=schemas.old,
        identity=keys.identity,
        placement=(),
        columns=stored,
        all_columns=everything,
        source_leaves=tuple(p.name for p in pieces),
        only_where=place.condition,
    )
    division = Division(facts, above, place, pieces, forward, reverse)
    options = asked.as_options(describe_by(by))
    made = SplitPlan(
        table=facts.table.qname,
        table_oid=facts.table.oid,
        parent=above.table.qname,
        parent_oid=above.table.oid,
        owner=facts.table.owner,
        server_version=facts.server_version,
        asked=asked,
        by=options.by,
        bound=place.leaf.bound,
        pieces=pieces,
        steps=(),
        forward=forward,
        reverse=reverse,
        statements=division.statements(),
        undo_before=tuple(division.undo_before()),
        fingerprint=facts.fingerprint,
        signature=signatures(division.rests_on_all),
        watches_all=division.rests_on_all,
        warnings=tuple(_warnings(facts, division, asked)),
        changes=tuple(_changes(facts, place)),
        estimate=estimate(facts, options, len(pieces)),
        walks_keys=walks_keys(facts, forward, key_correlation),
    )
    steps = tuple(_steps(made, facts, above, place, by, keys, schemas, division))
    return SplitPlan(**{f: getattr(made, f) for f in made.__dataclass_fields__ if f != "steps"}, steps=steps)


def describe_by(by: By) -> str:
    """Return the division as `--by` says it."""
    column = quote_ident(by.columns[0])
    return f"range:{column}:{by.step}" if by.method == "range" else f"list:{column}"


def _changes(facts: TableFacts, place: Place) -> Iterator[str]:
    table = facts.table.qname
    if not place.leaf.is_default:
        yield f"{table} is no longer there under its own name: who reads or writes it by that name uses the parent."
    yield (
        "An UPDATE that moves a row from one of the new partitions to another, which stayed where it was before, can"
        " meet a concurrent change of that row with error 40001: retry it."
    )
    if any(s.is_identity for s in facts.sequences):
        yield "The partition's own identity is not given to the new ones: direct INSERTs into them name that column."


def _warnings(facts: TableFacts, division: Division, asked: SplitOptions) -> Iterator[str]:
    partitions = len(division.siblings) + len(division.names)
    needed_s = len(division.names) * EXCHANGE_S + len(division.outgoing) * partitions * FOREIGN_KEY_S
    if needed_s > asked.max_block_s / 2:
        yield (
            f"The cut-over changes the places of {len(division.names)} partitions, which may take some"
            f" {needed_s * 1000:.0f} ms; it is given up when it takes longer than --max-block"
            f" {asked.max_block_s * 1000:.0f} ms. Name a longer period, or allow more."
        )
    if division.outgoing:
        yield (
            f"{division.parent} has foreign keys: a partition cannot be attached with them without a scan under the"
            " lock, so they are made again unproved and then proved, which reads all its partitions once."
        )
    if division.incoming:
        yield (
            f"Foreign keys reference {division.parent}: a partition cannot leave with them without a scan under the"
            " lock, so they are made again unproved and then proved, which reads the referencing tables once."
        )
    if not facts.table.sees_all_sessions:
        yield (
            "Other roles' transactions cannot be seen: one that took its snapshot before the cut-over can read"
            " the table as it was moments earlier (its writes get 40001). GRANT pg_read_all_stats lets the"
            " cut-over wait for them. Without it the replica lag of standbys cannot be seen either, and"
            " --max-replica-lag is not checked."
        )


def _steps(
    made: SplitPlan,
    facts: TableFacts,
    above: TableFacts,
    place: Place,
    by: By,
    keys: Keys,
    schemas: Schemas,
    division: Division,
) -> Iterator[Step]:
    pair, statements = made.forward, made.statements
    namer = Namer(facts.taken_names | {p.name.name for p in made.pieces})
    wait = f"{made.options.lock_timeout_s * 1000:.0f} ms for the lock, then free"
    make_schemas = tuple(s for schema in (schemas.new, schemas.old) for s in make_schema(facts, schema))
    yield _step(
        "prepare",
        f"Make {len(made.pieces)} empty partitions beside the old one",
        "sql",
        (*make_schemas, *division.create(by, keys)),
        undo=statements.drop_new,
        reason="They hang under a copy of the parent until the cut-over, so that each row finds its place.",
    )
    yield _step(
        "capture",
        "Begin to log the keys of changed rows",
        "locked",
        (*live.capture_triggers(pair, made.parent), *live.capture_triggers(pair, made.table)),
        lock=f"SHARE ROW EXCLUSIVE on {made.parent} and {made.table}",
        wait=wait,
        undo=statements.abort_triggers,
        reason="On both, because a statement fires the triggers of the table it names; on the parent only keys of"
        " this partition are logged.",
    )
    yield _step(
        "copy",
        "Copy the rows by page ranges",
        "copy",
        (live.copy(pair),),
        lock="ACCESS SHARE",
        reason="Short transactions, each with its ledger row; sequential reads, no index needed.",
    )
    yield _step(
        "scrub",
        "Remove copied rows that changed meanwhile",
        "scrub",
        tuple(live.scrub(pair, p.staged) for p in made.pieces),
        reason="A row updated during the copy may have been copied twice; apply brings it back as it is.",
    )
    for piece, built in division.indexes(keys, namer):
        yield _step(
            f"index:{piece.name.name}",
            f"Build the indexes of {piece.name.name}",
            "index",
            built,
            reason="As the parent's are, so that it takes them over when the partition is attached.",
        )
    if found := tuple(division.statistics(namer)):
        yield _step("statistics", "Make the statistics objects", "sql", found, reason="The old partition has them.")
    yield _step(
        "analyze",
        "Give the planner statistics of the new partitions",
        "analyze",
        analyze(pair.target, len(made.pieces), made.options.pace),
        reason="Without statistics the first queries after the cut-over would be planned blindly.",
    )
    yield from _apart(division, place, statements.abort_triggers, wait)
    yield _step(
        "apply",
        "Bring what changed since the copy began",
        "apply",
        live.apply(pair),
        lock="ACCESS SHARE",
        reason="Keys are taken from the log and their rows brought as they stand now: order does not matter.",
    )
    if made.options.verify == "full":
        yield _step(
            "verify",
            "Compare every row, byte for byte",
            "verify",
            (live.verify_keys(pair, low=True, high=True) if made.walks_keys else live.verify_source(pair),),
            lock="ACCESS SHARE",
            reason="A row that differs must be waiting in the log; anything else stops the run.",
        )
    yield _step(
        "reverse",
        "Prepare the way back",
        "sql",
        statements.cutover_before,
        reason="From the cut-over on, changed keys are logged for undo.",
    )
    yield _step(
        "cutover",
        "Drain the log to zero and exchange the partitions",
        "cutover",
        (statements.lock_forward, *statements.cutover),
        lock=locks.cutover_lock(above),
        wait=locks.cutover_wait(above, made.options.max_block_s, made.options.lock_timeout_s),
        undo=(statements.lock_reverse, *statements.undo),
        reason="One short transaction, in which no row of the old, new or DEFAULT partition is read.",
    )
    for number, settled in enumerate(statements.settle):
        yield _step(
            f"settle:{number}",
            "Prove a foreign key",
            "settle",
            settled,
            lock=locks.settle_lock(above, settled) or "SHARE UPDATE EXCLUSIVE or SHARE ROW EXCLUSIVE",
            wait=wait,
            reason="Foreign keys were enforced from the cut-over on; this makes them validated again.",
        )


def _apart(division: Division, place: Place, undo: tuple[str, ...], wait: str) -> Iterator[Step]:
    parted = division.part_default()
    if parted is None or place.default is None:
        return
    default = place.default.qname
    yield _step(
        "apart",
        "Let the DEFAULT partition say that it holds none of these rows",
        "locked",
        parted[0],
        lock=f"ACCESS EXCLUSIVE on {default}",
        wait=wait,
        undo=undo,
        reason="Otherwise each ATTACH would read the DEFAULT partition under the cut-over's lock.",
    )
    yield _step(
        "apart-proof",
        "Prove that",
        "sql",
        parted[1],
        lock=f"SHARE UPDATE EXCLUSIVE on {default}",
        reason="It reads the DEFAULT partition once, while others read and write.",
    )


def _step(
    step_id: str,
    title: str,
    kind: str,
    statements: tuple[str, ...],
    *,
    reason: str,
    lock: str = "none",
    wait: str = NO_ONE,
    undo: tuple[str, ...] = (),
) -> Step:
    return Step(
        id=step_id, title=title, kind=kind, sql=statements, lock=lock, longest_wait=wait, undo=undo, reason=reason
    )
