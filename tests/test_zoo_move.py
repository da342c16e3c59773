"""Every animal of the zoo is moved behind a view, and comes back, or is refused by name before anything changes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from pgscale import partition
from pgscale.errors import PermissionDeniedError, RefusedError
from support import parity
from support.cage import Cage, Snapshot, caged, run_until
from support.parity import TableName
from support.servers import Database
from support.zoo import Shape
from support.zoo_by_strategy import cases, moved, options_of

# What a view does not serve, which a run looks for among the application's statements; and looks into the catalog.
NOT_ON_A_VIEW = re.compile(r"ON CONFLICT|TRUNCATE|pg_attribute|pg_typeof")


@pytest.fixture
def cage(shape: Shape, database: Database) -> Iterator[Cage]:
    yield from caged(shape, database)


@pytest.mark.sampled(20)
@pytest.mark.parametrize(("shape", "pg_version"), list(cases(moved)), indirect=["pg_version"])
def test_moves_with_parity_and_comes_back_or_is_refused(shape: Shape, cage: Cage) -> None:
    before = cage.snapshot()
    dsn, options = cage.database.dsn, options_of(shape, strategy="move")
    storage = None
    try:
        storage = parity.read_storage(cage.admin, cage.name)
        run_until("move", dsn, shape.table, options)
    except (RefusedError, PermissionDeniedError) as error:
        if shape.expect == "converts":
            raise
        cage.assert_refused(before, error)
        return
    assert shape.expect != "refused"
    assert storage is not None
    _assert_the_view_serves(cage, before)
    partition.abort(dsn, shape.table)
    cage.assert_untouched(before)

    partition.run(dsn, shape.table, options)
    cage.assert_carried(before, storage)
    partition.undo(dsn, shape.table)
    cage.assert_untouched(before)
    if shape.core:
        partition.run(dsn, shape.table, options)
        partition.finish(dsn, shape.table)
        cage.assert_carried(before, storage)
        assert parity.traces(cage.admin) == []


def _assert_the_view_serves(cage: Cage, before: Snapshot) -> None:
    """With every row still in the old table: all are there through the view, and answers are those of the table."""
    stage = cage.admin.execute(
        "SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind = 'p' AND n.nspname LIKE 'pgscale\\_new\\_%'"
    ).fetchall()
    assert len(stage) == 1
    leaves = {leaf.name for leaf in parity.leaves_of(cage.admin, TableName(stage[0][0], cage.name.name))}
    assert parity.read_all_rows(cage.admin, leaves) == before.rows
    asked = [(p, a) for p, a in zip(cage.shape.probes, before.probes, strict=True) if not NOT_ON_A_VIEW.search(p)]
    assert cage.answers(p for p, _ in asked) == tuple(a for _, a in asked)
