"""One shape of the zoo in a database of its own: everything a conversion must keep, and whether it kept it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgscale import partition
from pgscale.core.model import Progress, Watch
from pgscale.errors import PgscaleError
from support import parity
from support.parity import TableName
from support.servers import Database
from support.zoo import Shape


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

    def snapshot(self, leaf_names: Iterable[str] = ()) -> Snapshot:
        """Take everything, and leave it as it was: what the probes do is rolled back."""
        sequences = parity.read_sequences(self.admin)
        probes = self.answers(self.shape.probes)
        return Snapshot(
            dump=parity.dump_schema(self.database.superuser_dsn),
            rows=parity.read_all_rows(self.admin, leaf_names),
            sequences=sequences,
            probes=probes,
        )

    def answers(self, probes: Iterable[str]) -> tuple[Any, ...]:
        """What the probes answer; what they change is rolled back, and sequences are put back where they were."""
        sequences = parity.read_sequences(self.admin, everywhere=True)
        found = tuple(self._probe(text) for text in probes)
        now = parity.read_sequences(self.admin, everywhere=True)
        for name, (last, called, _) in sequences.items():
            if now[name][:2] != (last, called):
                qualified = sql.Identifier(*name.split(".", 1)).as_string(self.admin)
                self.admin.execute("SELECT setval(%s::regclass, %s, %s)", [qualified, last, called])
        return found

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

    def close(self) -> None:
        if self.shape.cleanup:
            with psycopg.connect(self.database.superuser_dsn, autocommit=True) as admin:
                _execute(admin, self.shape.cleanup.replace("CURRENT_OWNER", self.database.owner))
        self.admin.close()

    # -- what must hold ---------------------------------------------------------------------------------

    def assert_carried(self, before: Snapshot, storage: parity.LeafStorage, allowed: tuple[str, ...] = ()) -> None:
        """Assert that the partitioned table says, holds and does what the ordinary one did."""
        leaf_names = self.leaf_names()
        after = self.snapshot(leaf_names)
        parity.assert_parity(
            before.dump,
            after.dump,
            table=self.name,
            leaf_names=leaf_names,
            allowed=(*allowed, *self.shape.allowed),
        )
        if self.shape.leaf_check:
            parity.assert_leaves(self.admin, storage, self.name)
        assert after.rows == before.rows
        assert after.sequences == before.sequences
        assert after.probes == before.probes

    def assert_restored(self, before: Snapshot) -> None:
        """Assert that everything is as it was, to the last statement of the dump."""
        after = self.snapshot()
        parity.assert_identical(before.dump, after.dump)
        assert after == Snapshot(after.dump, before.rows, before.sequences, before.probes)

    def assert_untouched(self, before: Snapshot) -> None:
        """Assert that everything is as it was, and nothing of pgscale's is there."""
        self.assert_restored(before)
        assert parity.traces(self.admin) == []

    def assert_refused(self, before: Snapshot, error: PgscaleError, reason: str | None = None) -> None:
        """Assert that a refusal names what it is about, and that nothing was changed."""
        wanted, said = self.shape.reason if reason is None else reason, str(error)
        assert re.search(wanted, said), f"the refusal names something else: {said}"
        self.assert_untouched(before)


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


class _StopError(Exception):
    """Raised by a watcher: the run ends where it is, as if its process had."""


def stop_at(phase: str) -> Watch:
    """Return what to watch a run with so that it ends when this phase begins."""

    def watch(progress: Progress) -> None:
        if progress.phase == phase:
            raise _StopError

    return watch


def caged(shape: Shape, database: Database) -> Iterator[Cage]:
    """The body of a fixture: the shape in its cage, closed afterwards."""
    made = Cage(shape, database)
    yield made
    made.close()


def run_until(phase: str, dsn: str, table: str, options: partition.Options) -> None:
    """Run, and stop when a phase begins."""
    with pytest.raises(_StopError):
        partition.run(dsn, table, options, watch=stop_at(phase))


def split_until(phase: str, dsn: str, table: str, asked: partition.SplitOptions) -> None:
    """Split, and stop when a phase begins."""
    with pytest.raises(_StopError):
        partition.split(dsn, table, asked, watch=stop_at(phase))
