"""The history test: a table converted under load ends as its untouched twin, and so it does after `undo`."""

from __future__ import annotations

import os
import random
import time

import pytest

from pgscale import partition
from pgscale.core.model import Progress
from pgscale.partition import Options
from pgscale.partition.model import StrategyName
from support.servers import Database
from support.twin import SCHEMES, Isolation, Load, is_partitioned

ISOLATIONS: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
CASES = [(name, isolation) for name in ("hash", "range", "list") for isolation in ISOLATIONS]
CASES += [("hash_null", "READ COMMITTED"), ("list_null", "REPEATABLE READ")]
CASES += [("attach_range", "READ COMMITTED"), ("attach_list", "SERIALIZABLE"), ("attach_null", "REPEATABLE READ")]
MORE_CASES = [*CASES, *(("attach_range", isolation) for isolation in ISOLATIONS[1:]), ("attach_null", "READ COMMITTED")]
MOVED = [
    ("hash", "READ COMMITTED"),
    ("range", "REPEATABLE READ"),
    ("list", "SERIALIZABLE"),
    ("range", "READ COMMITTED"),
]


def _settle(load: Load, seconds: float) -> None:
    """Let the load run a while, and until it has done everything in this phase."""
    until = time.monotonic() + seconds
    load.wait_for_every_kind(6)
    time.sleep(max(0.0, until - time.monotonic()))


def _assert_same(load: Load, when: str) -> None:
    shown = "\n".join(f"client {f.client}, {f.kind}: {f.what}\n    {f.statement}" for f in load.failures[:8])
    assert not load.failures, f"{len(load.failures)} failures {when} (seed {load.seed}):\n{shown}"
    differences = load.differences()
    assert not differences, f"the twins differ {when} (seed {load.seed}): {differences}"


def _history(
    database: Database,
    scheme_name: str,
    isolation: Isolation,
    seed: int,
    rows: int,
    strategy: StrategyName | None = None,
) -> Load:
    scheme = SCHEMES[scheme_name]
    strategy = strategy or scheme.strategy
    by_view = strategy == "move"
    load = Load(dsn=database.dsn, scheme=scheme, isolation=isolation, seed=seed, through_view=by_view)
    load.create(rows)
    patience_s = 6.0

    def watch(progress: Progress) -> None:
        # Hold the run where it holds nothing itself, until the load has done everything in its sight.
        nonlocal patience_s
        if progress.phase in ("copy", "apply", "check", "validate", "move") and patience_s > 0 and load.missing():
            began = time.monotonic()
            load.wait_for_every_kind(min(3.0 if strategy == "attach" else 0.5, patience_s))
            patience_s -= time.monotonic() - began

    options = Options(
        by=scheme.by,
        partitions=scheme.partitions,
        values=scheme.values,
        accept_key_change=scheme.nullable,
        workers=2,
        pace="fast",
        strategy=strategy,
    )
    load.enter("before")
    load.start()
    try:
        _settle(load, 0.5)
        load.enter("during")
        result = partition.run(database.dsn, "public.t", options, watch=watch)
        load.enter("after")
        _settle(load, 1.0)
    finally:
        load.stop()
    _assert_same(load, "after the conversion")
    assert is_partitioned(database.dsn, "public.t")
    assert result.mismatches == 0
    for phase in ("before", "during", "after"):
        missed = sorted(kind for kind in load.kinds() if not load.done[phase, kind])
        assert not missed, f"never happened {phase} the conversion: {missed}"

    back = Load(
        dsn=database.dsn,
        scheme=scheme,
        isolation=isolation,
        seed=seed + 1,
        clients=load.clients,
        phase="undo",
        through_view=by_view,
    )
    back.enter("undo")
    back.continue_from(load)
    back.start()
    try:
        back.wait_for_every_kind(2)
        partition.undo(database.dsn, "public.t")
        back.enter("undone")
        _settle(back, 0.5)
    finally:
        back.stop()
    _assert_same(back, "after undo")
    assert not is_partitioned(database.dsn, "public.t")
    return load


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("scheme_name", "isolation"), CASES)
def test_the_table_ends_as_its_untouched_twin(database: Database, scheme_name: str, isolation: Isolation) -> None:
    load = _history(database, scheme_name, isolation, seed=2013, rows=4000)
    assert load.committed > 50


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("scheme_name", "isolation"), MOVED)
def test_a_table_that_is_moved_ends_as_its_untouched_twin(
    database: Database, scheme_name: str, isolation: Isolation
) -> None:
    load = _history(database, scheme_name, isolation, seed=1996, rows=10000, strategy="move")
    assert load.committed > 50


@pytest.mark.sampled(2)
@pytest.mark.versions(14, 15, 16, 17)
def test_the_table_ends_as_its_untouched_twin_on_every_version(database: Database) -> None:
    _history(database, "hash", "READ COMMITTED", seed=14, rows=4000)


@pytest.mark.sampled(2)
@pytest.mark.versions(14, 16)
def test_an_attached_table_ends_as_its_untouched_twin_on_older_versions(database: Database) -> None:
    _history(database, "attach_range", "REPEATABLE READ", seed=15, rows=4000)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("scheme_name", "isolation", "strategy"), [*((*c, None) for c in MORE_CASES), *((*c, "move") for c in MOVED)]
)
def test_many_histories(
    database_factory, scheme_name: str, isolation: Isolation, strategy: StrategyName | None
) -> None:
    """`SOAK_ROUNDS` rounds, seeds drawn from `SOAK_SEED`; printed, so that a failure can be repeated."""
    rounds = int(os.environ.get("SOAK_ROUNDS", "10"))
    first = int(os.environ.get("SOAK_SEED", str(random.randrange(10**9))))
    seeds = random.Random(first)
    for number in range(rounds):
        seed = seeds.randrange(10**9)
        rows = seeds.choice((0, 100, 4000, 40000))
        print(
            f"history {scheme_name} {isolation} {strategy or ''}: round {number + 1}/{rounds},"
            f" SOAK_SEED={first}, seed={seed}, rows={rows}"
        )
        # A list or range needs rows to know its partitions by; a few rows have moved before every kind has happened.
        least = 4000 if strategy == "move" else 100
        _history(database_factory(), scheme_name, isolation, seed, max(rows, least), strategy)


def test_the_load_by_itself_keeps_the_twins_equal(database: Database) -> None:
    """Without any conversion the load must be innocent, or a failure would prove nothing."""
    for isolation in ISOLATIONS:
        scheme = SCHEMES["list_null"]
        with database.connect() as conn:
            conn.execute("DROP TABLE IF EXISTS t, t_twin")
        load = Load(dsn=database.dsn, scheme=scheme, isolation=isolation, seed=7)
        load.create(500)
        load.enter("alone")
        load.start()
        _settle(load, 0.8)
        load.stop()
        _assert_same(load, f"at {isolation}")
        assert not load.missing()


def test_a_lost_write_does_not_stay_hidden(database: Database) -> None:
    """A trigger that swallows one write in fifty must make the test fail, in the answers or in the rows."""
    scheme = SCHEMES["hash"]
    load = Load(dsn=database.dsn, scheme=scheme, isolation="READ COMMITTED", seed=7)
    load.create(500)
    with database.connect() as conn:
        conn.execute(
            "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF random() < 0.02 THEN RETURN NULL; END IF; RETURN NEW; END $$;"
            "CREATE TRIGGER swallow BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION swallow()"
        )
    load.enter("alone")
    load.start()
    _settle(load, 1.0)
    load.stop()
    with pytest.raises(AssertionError):
        _assert_same(load, "with a leak")
