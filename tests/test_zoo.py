"""Every animal of the zoo converts with parity, and comes back, or is refused before anything changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pgscale import partition
from pgscale.errors import InterruptedRunError, PermissionDeniedError, RefusedError
from pgscale.partition import Options
from support import parity
from support.cage import Cage, caged
from support.servers import Database
from support.waiting import WaitingRun
from support.zoo import SHAPES, Shape
from support.zoo_by_strategy import COMPLETE_ON, EVERYTHING_ON, attached, cases, options_of

DOZEN_ON = (14, 17)

# What a run leaves on the table until `finish`: the capture that makes `undo` possible.
UNTIL_FINISH = (r"^\+CREATE TRIGGER _?pgscale", r"^\+ALTER TABLE .* ENABLE ALWAYS TRIGGER _?pgscale")


def _cases(*, back: bool) -> Iterator[Any]:
    for shape in SHAPES:
        if back and (not shape.core or shape.expect != "converts"):
            continue
        if shape.needs:
            yield pytest.param(shape, COMPLETE_ON, id=f"{shape.name}-pg{COMPLETE_ON}")
            continue
        for version in (18,) if back else (*EVERYTHING_ON, *DOZEN_ON):
            fits = shape.min_version <= version <= shape.max_version
            # What 18 does not show is shown where it exists: exclusion constraints are refused on 14.
            wanted = version in EVERYTHING_ON or shape.core or shape.max_version < 18
            if fits and wanted:
                yield pytest.param(shape, version, id=f"{shape.name}-pg{version}")


@pytest.fixture
def cage(shape: Shape, database: Database) -> Iterator[Cage]:
    yield from caged(shape, database)


@pytest.mark.sampled(8)
@pytest.mark.parametrize(("shape", "pg_version"), list(_cases(back=False)), indirect=["pg_version"])
def test_converts_with_parity_or_is_refused(shape: Shape, cage: Cage) -> None:
    before = cage.snapshot()
    dsn = cage.database.dsn
    if shape.expect == "refused":
        with pytest.raises((RefusedError, PermissionDeniedError)) as refused:
            partition.run(dsn, shape.table, options_of(shape))
        cage.assert_refused(before, refused.value)
        return
    storage = parity.read_storage(cage.admin, cage.name)
    try:
        result = partition.run(dsn, shape.table, options_of(shape))
    except RefusedError as error:
        if shape.expect == "converts":
            raise
        cage.assert_refused(before, error)
        return
    assert result.mismatches == 0
    if shape.probes or shape.core:
        cage.assert_carried(before, storage, UNTIL_FINISH)
    partition.finish(dsn, shape.table)
    cage.assert_carried(before, storage)
    assert parity.traces(cage.admin) == []


@pytest.mark.sampled(8)
@pytest.mark.parametrize(("shape", "pg_version"), list(_cases(back=True)), indirect=["pg_version"])
def test_abort_and_undo_bring_back_the_very_same(shape: Shape, cage: Cage) -> None:
    before = cage.snapshot()
    dsn = cage.database.dsn
    with WaitingRun(dsn, shape.table, options_of(shape)) as run:
        partition.abort(dsn, shape.table)
        run.join()
    assert isinstance(run.error, InterruptedRunError)
    cage.assert_untouched(before)

    partition.run(dsn, shape.table, options_of(shape))
    partition.undo(dsn, shape.table)
    cage.assert_restored(before)


@pytest.mark.sampled(9)
@pytest.mark.parametrize(("shape", "pg_version"), list(cases(attached)), indirect=["pg_version"])
def test_attaches_with_parity_and_comes_back_or_is_refused(shape: Shape, cage: Cage) -> None:
    before = cage.snapshot()
    dsn, options = cage.database.dsn, options_of(shape, strategy="attach")
    storage = None
    try:
        storage = parity.read_storage(cage.admin, cage.name)
        partition.run(dsn, shape.table, options)
    except (RefusedError, PermissionDeniedError) as error:
        if shape.expect == "converts":
            raise
        cage.assert_refused(before, error)
        return
    assert shape.expect != "refused"
    assert storage is not None
    cage.assert_carried(before, storage)
    partition.undo(dsn, shape.table)
    cage.assert_untouched(before)
    if shape.core:
        partition.run(dsn, shape.table, options)
        partition.finish(dsn, shape.table)
        cage.assert_carried(before, storage)
        assert parity.traces(cage.admin) == []


def test_a_refusal_names_every_reason_at_once(database: Database) -> None:
    """Three obstacles, three reasons: nobody should have to find them one run at a time."""
    with database.connect() as conn:
        conn.execute(
            "CREATE TABLE t (id int PRIMARY KEY, mail text UNIQUE,"
            " CONSTRAINT mine CHECK (id > 0) NO INHERIT);"
            "CREATE RULE keep AS ON DELETE TO t DO INSTEAD NOTHING"
        )
    with pytest.raises(RefusedError) as refused:
        partition.run(database.dsn, "public.t", Options(by="hash:id", partitions=4))
    said = "\n".join(refused.value.reasons)
    for name in ("t_mail_key", "mine", "rule"):
        assert name in said
