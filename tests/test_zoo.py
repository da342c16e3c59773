"""Every animal of the zoo converts with parity, and comes back, or is refused before anything changes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgscale import partition
from pgscale.errors import InterruptedRunError, PermissionDeniedError, PgscaleError, RefusedError
from pgscale.partition import Options
from support import parity
from support.parity import TableName
from support.servers import Database
from support.waiting import WaitingRun
from support.zoo import SHAPES, Shape

# Every shape goes through 18; the core of the zoo through every version. `make soak` runs all on 15 and 16 too.
EVERYTHING_ON = (15, 16, 18) if os.environ.get("ZOO_EVERYWHERE") else (18,)
DOZEN_ON = (14, 17)
# Of the servers tested, the one built with all that a shape may need; on 18 these would only ever be skipped.
COMPLETE_ON = 15
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


# A hash has no first partition: these keys are attached by list, the others by range of their number.
LISTED = (
    "bytea_key",
    "uuid_key",
    "bpchar_key",
    "nondeterministic_collation_key",
    "citext_key",
    "text_key_that_needs_escapes",
    "key_type_without_hash",
    "without_overlaps",
)
# What mirror refuses for want of a key, attach carries, and what it would have to build or compute anew it refuses.
NEEDS_NO_KEY = ("no_key", "unique_but_nullable", "partial_unique_only")


def _attached(shape: Shape) -> Shape:
    """The same animal, for attach."""
    by, expect, reason = shape.by, shape.expect, shape.reason
    method, _, columns = by.partition(":")
    first = columns.partition(",")[0]
    if method == "hash":
        by = f"list:{first}" if shape.name in LISTED else f"range:{first}:1000"
    if shape.name in NEEDS_NO_KEY:
        expect = "converts"
    if "materialized_view" in shape.name and expect == "converts":
        expect, reason = "refused", "(?i)materialized view .* made again"
    if shape.name.startswith("exclusion"):
        expect, reason = "refused", "(?i)exclusion constraint"
    changed = {"by": by, "partitions": None, "expect": expect, "reason": reason, **ATTACHED.get(shape.name, {})}
    return replace(shape, **changed)


ATTACHED: dict[str, dict[str, Any]] = {
    "user_types": {"by": "list:id", "expect": "refused", "reason": "more than 100 values"},
    "hash_null_key": {"by": "list:k"},
    "exclusion_with_the_key": {"by": "list:k"},
    "numeric_key_scales": {"expect": "refused", "reason": "(?i)nan"},
    "bytea_key": {"expect": "refused", "reason": "300 values|302 values"},
    "uuid_key": {"expect": "refused", "reason": "300 values"},
    "unique_but_nullable": {"expect": "refused", "reason": "(?i)null"},
}


def _options(shape: Shape, **rest: Any) -> Options:
    return Options(
        by=shape.by,
        partitions=shape.partitions,
        values=shape.values,
        accept_key_change=shape.accept_key_change,
        workers=2,
        pace="fast",
        **rest,
    )


@dataclass(frozen=True)
class Snapshot:
    """Everything that a conversion must keep."""

    dump: str
    rows: dict[str, Any]
    sequences: dict[str, tuple[Any, ...]]
    probes: tuple[Any, ...]


class Cage:
    """One shape set up in a database of its own."""

    def __init__(self, shape: Shape, database: Database) -> None:
        self.shape = shape
        self.database = database
        self.name = TableName(shape.schema, shape.relation)
        self.admin = psycopg.connect(database.superuser_dsn, autocommit=True)
        for feature in shape.needs:
            if not _has(self.admin, feature):
                self.admin.close()
                pytest.skip(f"this server is built without {feature}")
        with psycopg.connect(database.dsn, autocommit=True) as owner:
            for who, statements in (
                (self.admin, shape.before),
                (owner, shape.setup),
                (self.admin, shape.late),
                (owner, shape.fill),
            ):
                _execute(who, statements)
        self.admin.execute("RESET ALL")

    def leaf_names(self) -> set[str]:
        return {leaf.name for leaf in parity.leaves_of(self.admin, self.name)}

    def snapshot(self, leaf_names: set[str] | None = None) -> Snapshot:
        """Take everything, and leave it as it was: what the probes do is rolled back."""
        sequences = parity.read_sequences(self.admin)
        probes = tuple(self._probe(text) for text in self.shape.probes)
        self._restore(sequences)
        return Snapshot(
            dump=parity.dump_schema(self.database.superuser_dsn),
            rows=parity.read_all_rows(self.admin, leaf_names or ()),
            sequences=sequences,
            probes=probes,
        )

    def _probe(self, text: str) -> Any:
        """The last result set of some statements, or the SQLSTATE; rolled back."""
        with psycopg.connect(self.database.dsn) as conn:
            try:
                cur = conn.execute(text)
                rows: Any = None
                while True:
                    rows = cur.fetchall() if cur.description else cur.rowcount
                    if not cur.nextset():
                        break
                conn.execute("SET CONSTRAINTS ALL IMMEDIATE")
            except psycopg.Error as error:
                return error.sqlstate
            finally:
                conn.rollback()
            return rows

    def _restore(self, sequences: dict[str, tuple[Any, ...]]) -> None:
        now = parity.read_sequences(self.admin)
        for name, (last, called, _) in sequences.items():
            if now[name][:2] != (last, called):
                qualified = sql.Identifier(*name.split(".", 1)).as_string(self.admin)
                self.admin.execute("SELECT setval(%s::regclass, %s, %s)", [qualified, last, called])

    def close(self) -> None:
        if self.shape.cleanup:
            with psycopg.connect(self.database.superuser_dsn, autocommit=True) as admin:
                _execute(admin, self.shape.cleanup.replace("CURRENT_OWNER", self.database.owner))
        self.admin.close()


def _execute(conn: psycopg.Connection[Any], statements: str) -> None:
    for part in statements.split("\n        --\n"):
        if part:
            conn.execute(part)


def _has(conn: psycopg.Connection[Any], feature: str) -> bool:
    question = {
        "icu": "SELECT count(*) > 0 FROM pg_collation WHERE collprovider = 'i' AND collname LIKE 'en%'",
        "lz4": "SELECT 'lz4' = ANY(enumvals) FROM pg_settings WHERE name = 'default_toast_compression'",
        "contrib": "SELECT count(*) > 0 FROM pg_available_extensions WHERE name = 'citext'",
    }
    if feature == "xml":
        try:
            conn.execute("SELECT '<a/>'::xml")
        except psycopg.errors.FeatureNotSupported:
            return False
        return True
    row = conn.execute(question[feature]).fetchone()
    assert row is not None
    return bool(row[0])


@pytest.fixture
def cage(shape: Shape, database: Database) -> Iterator[Cage]:
    made = Cage(shape, database)
    yield made
    made.close()


def _assert_carried(cage: Cage, before: Snapshot, storage: parity.LeafStorage, allowed: tuple[str, ...]) -> None:
    leaf_names = cage.leaf_names()
    after = cage.snapshot(leaf_names)
    parity.assert_parity(
        before.dump,
        after.dump,
        table=cage.name,
        leaf_names=leaf_names,
        allowed=(*allowed, *cage.shape.allowed),
    )
    if cage.shape.leaf_check:
        parity.assert_leaves(cage.admin, storage, cage.name)
    assert after.rows == before.rows
    assert after.sequences == before.sequences
    assert after.probes == before.probes


def _assert_untouched(cage: Cage, before: Snapshot) -> None:
    after = cage.snapshot()
    parity.assert_identical(before.dump, after.dump)
    assert after == Snapshot(after.dump, before.rows, before.sequences, before.probes)
    assert parity.traces(cage.admin) == []


def _assert_refused(cage: Cage, before: Snapshot, error: PgscaleError) -> None:
    said = str(error)
    assert re.search(cage.shape.reason, said), f"the refusal names something else: {said}"
    _assert_untouched(cage, before)


@pytest.mark.parametrize(("shape", "pg_version"), list(_cases(back=False)), indirect=["pg_version"])
def test_converts_with_parity_or_is_refused(shape: Shape, cage: Cage) -> None:
    before = cage.snapshot()
    dsn = cage.database.dsn
    if shape.expect == "refused":
        with pytest.raises((RefusedError, PermissionDeniedError)) as refused:
            partition.run(dsn, shape.table, _options(shape))
        _assert_refused(cage, before, refused.value)
        return
    storage = parity.read_storage(cage.admin, cage.name)
    try:
        result = partition.run(dsn, shape.table, _options(shape))
    except RefusedError as error:
        if shape.expect == "converts":
            raise
        _assert_refused(cage, before, error)
        return
    assert result.mismatches == 0
    if shape.probes or shape.core:
        _assert_carried(cage, before, storage, UNTIL_FINISH)
    partition.finish(dsn, shape.table)
    _assert_carried(cage, before, storage, ())
    assert parity.traces(cage.admin) == []


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("shape", "pg_version"), list(_cases(back=True)), indirect=["pg_version"])
def test_abort_and_undo_bring_back_the_very_same(shape: Shape, cage: Cage) -> None:
    before = cage.snapshot()
    dsn = cage.database.dsn
    with WaitingRun(dsn, shape.table, _options(shape)) as run:
        partition.abort(dsn, shape.table)
        run.join()
    assert isinstance(run.error, InterruptedRunError)
    _assert_untouched(cage, before)

    partition.run(dsn, shape.table, _options(shape))
    partition.undo(dsn, shape.table)
    after = cage.snapshot()
    parity.assert_identical(before.dump, after.dump)
    assert after == Snapshot(after.dump, before.rows, before.sequences, before.probes)


def _attach_cases() -> Iterator[Any]:
    for shape in map(_attached, SHAPES):
        versions = (COMPLETE_ON,) if shape.needs else (*EVERYTHING_ON, 14) if shape.core else EVERYTHING_ON
        for version in versions:
            if shape.min_version <= version <= shape.max_version:
                yield pytest.param(shape, version, id=f"{shape.name}-pg{version}")


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("shape", "pg_version"), list(_attach_cases()), indirect=["pg_version"])
def test_attaches_with_parity_and_comes_back_or_is_refused(shape: Shape, cage: Cage) -> None:
    before = cage.snapshot()
    dsn, options = cage.database.dsn, _options(shape, strategy="attach")
    storage = None
    try:
        storage = parity.read_storage(cage.admin, cage.name)
        partition.run(dsn, shape.table, options)
    except (RefusedError, PermissionDeniedError) as error:
        if shape.expect == "converts":
            raise
        _assert_refused(cage, before, error)
        return
    assert shape.expect != "refused"
    assert storage is not None
    _assert_carried(cage, before, storage, ())
    partition.undo(dsn, shape.table)
    after = cage.snapshot()
    parity.assert_identical(before.dump, after.dump)
    assert after == Snapshot(after.dump, before.rows, before.sequences, before.probes)
    assert parity.traces(cage.admin) == []
    if shape.core:
        partition.run(dsn, shape.table, options)
        partition.finish(dsn, shape.table)
        _assert_carried(cage, before, storage, ())
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
