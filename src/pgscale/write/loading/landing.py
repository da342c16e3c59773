"""Bring one part into the table: its rows and the note of it in one transaction, whatever does not fit set aside."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from pgscale.connect.retry import retrying
from pgscale.connect.session import Session
from pgscale.errors import PgscaleError
from pgscale.write.destination import refuse_if_altered
from pgscale.write.effects import drive
from pgscale.write.isolating import read_guards
from pgscale.write.loading import ddl, store
from pgscale.write.loading.model import BadRecordError, Counts, LoadedRowError, Part, Reject
from pgscale.write.loading.rejects import RejectsFile
from pgscale.write.loading.writing import COST_OF_MERGE, MOST_RECORDS, Target, is_rows_fault, isolate, write
from pgscale.write.sources import Rows
from pgscale.write.spreading import Spread


class Lander:
    """Brings parts into the table, one after the other, and learns how thinly bad records are spread.

    Args:
        rejects: takes the records that do not fit; without it the first of them fails the load.
        kill_point: where the crash tests end the process; sleep: waits, and raises when the load is being stopped.
    """

    def __init__(
        self,
        session: Session,
        load_id: int,
        target: Target,
        rejects: RejectsFile | None,
        kill_point: Callable[[str], None],
        sleep: Callable[[float], None],
    ) -> None:
        self._session, self._load_id, self._target, self._rejects = session, load_id, target, rejects
        self._kill_point, self._sleep = kill_point, sleep
        self._spread = Spread(MOST_RECORDS, COST_OF_MERGE if target.merge else None)
        self._refers_to_itself: bool | None = None

    def land(self, part: Part, sent: Callable[[], None]) -> Counts:
        """Bring a part into the table and note it, in one transaction.

        A deadlock with another writer is tried again.

        Args:
            sent: is told when all bytes are, and the server works on them.

        Raises:
            LoadedRowError: a record does not fit, and there is no file for rejects. Nothing of the part is in the
                table.
        """
        return retrying(lambda: self._once(part, sent), sleep=self._sleep)

    def _once(self, part: Part, sent: Callable[[], None]) -> Counts:
        error = None
        if not self._spread.has_bad or self._refers_to_itself:
            try:
                return self._whole(part, sent)
            except (psycopg.Error, BadRecordError) as failed:
                if not is_rows_fault(failed):
                    raise
                error = failed
        return self._without_bad(part, error)

    def _whole(self, part: Part, sent: Callable[[], None]) -> Counts:
        with self._session.transaction():
            counts = write(self._session, self._target, part, 0, None, sent)
            _check_types(self._session, self._target)
            self._kill_point("load:copied")
            store.mark(self._session, self._load_id, part, counts)
            self._kill_point("load:marked")
        self._kill_point("load:committed")
        self._spread.note_good(counts.rows)
        return counts

    def _without_bad(self, part: Part, error: psycopg.Error | BadRecordError | None) -> Counts:
        session, rejects = self._session, self._rejects
        with session.transaction():
            session.execute(ddl.all_constraints_now())
            if self._refers_to_itself is None:
                guards = drive(read_guards(session.info, self._target.oid), session, Rows(()))
                self._refers_to_itself = guards.refers_to_itself
            counts, bad = isolate(
                session,
                self._target,
                part,
                self._spread,
                error,
                stop_at_first=rejects is None,
                refers_to_itself=self._refers_to_itself,
            )
            _check_types(session, self._target)
            if rejects is None and bad:
                raise _no_rejects(self._target, bad[0])
            self._kill_point("load:copied")
            if rejects is not None and bad:
                rejects.add(bad)
            self._kill_point("load:rejected")
            counts += Counts(rejected=len(bad))
            store.mark(session, self._load_id, part, counts)
            self._kill_point("load:marked")
        self._kill_point("load:committed")
        return counts


def _check_types(session: Session, target: Target) -> None:
    """Raise when values were encoded for columns that have other types by now."""
    if target.encoded_for is not None:
        drive(refuse_if_altered(target.encoded_for, target.shown), session, Rows(()))


def _no_rejects(target: Target, one: Reject) -> PgscaleError:
    where = f"{target.unit.capitalize()} {one.line:,}" + (f", column {one.column}" if one.column else "")
    state = f" ({one.sqlstate})" if one.sqlstate else ""
    return LoadedRowError(
        f"{where}: {one.reason}{state}.",
        line=one.line,
        column=one.column,
        sqlstate=one.sqlstate,
        consequence=f"Nothing of the part it is in was written to {target.shown}.",
    )
