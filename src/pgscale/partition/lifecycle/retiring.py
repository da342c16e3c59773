"""Retire a partition: note what is promised, detach, archive, drop; each so that it can be killed and continued."""

from __future__ import annotations

from pgscale.connect.session import Session
from pgscale.core.killing import kill_point
from pgscale.core.model import Progress, QName, Watch
from pgscale.errors import RefusedError
from pgscale.ledger import store
from pgscale.livecopy.work import execute
from pgscale.partition.lifecycle import archive, ddl, reader
from pgscale.partition.lifecycle.attempts import Attempts
from pgscale.partition.lifecycle.model import Archive, Detach, Drop, Finalize, Forget, Parent, Retired


class Retiring:
    """What one call retires of one table."""

    def __init__(self, attempts: Attempts, parent: Parent, watch: Watch) -> None:
        self.attempts = attempts
        self.session = attempts.session
        self.limits = attempts.limits
        self.parent = parent
        self.watch = watch

    def finalize(self, action: Finalize) -> None:
        self._concurrently(action.leaf, action.oid)

    def detach(self, action: Detach) -> None:
        if action.promise != "detach":
            kill_point("maintain:before-note")
            with self.session.transaction():
                store.lock_ledger(self.session)
                store.create(self.session)
                store.execute(
                    self.session,
                    "note_retired",
                    leaf_oid=action.oid,
                    table_oid=self.parent.oid,
                    schema=action.leaf.schema,
                    name=action.leaf.name,
                    low=action.low,
                    high=action.high,
                    promise=action.promise,
                    archive_dir=action.archive_dir,
                    archive_format=action.archive_format,
                )
            kill_point("maintain:noted")
        if action.concurrently:
            self._concurrently(action.leaf, action.oid)
        else:
            plain = ddl.detach(self.parent.qname, action.leaf, "plain")
            self.attempts.in_short(lambda: execute(self.session, plain))
        kill_point("maintain:detached")

    def _concurrently(self, leaf: QName, oid: int) -> None:
        """Detach concurrently, or finish such a detach; each attempt goes on where the last one stopped."""

        def once() -> None:
            row = reader.query(self.session, "is_pending", oid=oid, parent=self.parent.oid).fetchone()
            how = "finalize" if row is not None and row[0] else "concurrently"
            self.attempts.alone(ddl.detach(self.parent.qname, leaf, how))

        self.attempts.again(once, self.limits.detach_wait_s)

    def archive(self, action: Archive) -> str:
        with self.session.transaction():
            # A whole table is read, however large; only writers of this one, which is retired, wait.
            self.attempts.set_limits(self.limits.lock_timeout_s, 0)
            execute(self.session, ddl.lock_share(action.leaf))
            check_same(self.session, action.leaf, action.oid)
            written = archive.write(
                self.session,
                archive.Subject(
                    table=self.parent.qname,
                    leaf=action.leaf,
                    oid=action.oid,
                    low=action.low,
                    high=action.high,
                ),
                action.archive_dir,
                action.archive_format,
                lambda rows: self.watch(
                    Progress(table=str(action.leaf), phase="archive", done=rows, total=None, unit="rows")
                ),
            )
            kill_point("maintain:archive-written")
            store.execute(
                self.session,
                "set_archived",
                leaf_oid=action.oid,
                file=str(written.file),
                sha256=written.sha256,
                rows=written.rows,
                fingerprint=written.fingerprint,
            )
        kill_point("maintain:archived")
        return str(written.file)

    def drop(self, action: Drop) -> None:
        noted = next(
            (r for r in store.read_retired(self.session, self.parent.oid, Retired) if r.leaf_oid == action.oid),
            None,
        )
        if noted is None or noted.qname != action.leaf:
            raise RefusedError(f"Nobody promised to drop {action.leaf}.", consequence="It stays.")
        if action.archived and (noted.state != "archived" or not archive.is_intact(noted.file, noted.sha256)):
            with self.session.transaction():
                store.execute(self.session, "note_again", leaf_oid=action.oid)
            raise RefusedError(
                f"The archive of {action.leaf} ({noted.file}) is missing or differs from what was written.",
                consequence="The table stays.",
                hint="The next `maintain` archives it again.",
            )

        def attempt() -> None:
            self.attempts.set_limits(self.limits.lock_timeout_s, 0 if action.archived else self.limits.hold_s)
            execute(self.session, ddl.lock_all(action.leaf))
            check_same(self.session, action.leaf, action.oid)
            if action.archived:
                self._check_unchanged(action, noted)
            execute(self.session, ddl.drop(action.leaf))
            store.execute(self.session, "forget_retired", leaf_oid=action.oid)
            kill_point("maintain:in-drop")

        try:
            self.attempts.in_short(attempt)
        except _ChangedError as error:
            with self.session.transaction():
                store.execute(self.session, "note_again", leaf_oid=action.oid)
            raise error.refused from None
        kill_point("maintain:dropped")

    def _check_unchanged(self, action: Drop, noted: Retired) -> None:
        row = execute(self.session, ddl.fingerprint(action.leaf)).fetchone()
        assert row is not None
        if (row[0], row[1]) != (noted.row_count, noted.fingerprint):
            raise _ChangedError(
                RefusedError(
                    f"Rows of {action.leaf} were changed after it was archived.",
                    consequence="The table stays.",
                    hint="The next `maintain` archives it again.",
                )
            )

    def forget(self, action: Forget) -> None:
        with self.session.transaction():
            store.execute(self.session, "forget_retired", leaf_oid=action.oid)


class _ChangedError(Exception):
    """Rolls the drop back before the ledger is told."""

    def __init__(self, refused: RefusedError) -> None:
        super().__init__(str(refused))
        self.refused = refused


def check_same(session: Session, leaf: QName, oid: int) -> None:
    """Refuse a table that is not the one that was detached, or that is a partition again.

    Raises:
        RefusedError: it is another, or attached.
    """
    name = ddl.text(ddl.qualified(leaf))
    row = execute(session, "SELECT pg_catalog.to_regclass($1)::oid::int8", name).fetchone()
    if row is None or row[0] != oid:
        raise RefusedError(f"{leaf} is not the table that was retired (oid {oid}).", consequence="It is not touched.")
    now = reader.query(session, "relation_now", oid=oid).fetchone()
    if now is None or now[2]:
        raise RefusedError(f"{leaf} is a partition.", consequence="It is not touched.")
