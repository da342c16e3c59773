"""Compare every row of both tables while writes go on.

In any one snapshot a key either stands alike in both tables or waits in the log: the applier takes a key from the
log in the same transaction that makes its rows alike. So each chunk is judged by itself, in its own snapshot.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString, TypeAlias

import psycopg

from pgscale.connect.session import WORKER, Session
from pgscale.core.model import QName
from pgscale.errors import MismatchError
from pgscale.ledger import store
from pgscale.livecopy import ddl
from pgscale.livecopy.chunks import ChunkSize, PageQueue
from pgscale.livecopy.model import Pair
from pgscale.livecopy.work import Rate, Work, execute, in_parallel, progress, tid

LEAST_PAGES, LEAST_ROWS = 8, 1000

Answer: TypeAlias = "psycopg.Cursor[tuple[Any, ...]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One pass of the comparison: the ledger's phase, the table whose pages it walks, the statement."""

    phase: str
    table: QName
    statement: str
    counts_rows: bool


def verify_rows(work: Work, pair: Pair, leaves: Sequence[QName], workers: int) -> int:
    """Compare every source row with the target, and look up every target row in the source.

    Returns:
        Rows of the source compared.

    Raises:
        MismatchError: rows that differ and wait for nothing; their keys are named.

    Locks: ACCESS SHARE on both tables, for one chunk at a time.
    """
    passes = [Pass(phase="verify:source", table=pair.source, statement=ddl.verify_source(pair), counts_rows=True)]
    passes += [
        Pass(phase=f"verify:{i}", table=leaf, statement=ddl.verify_target(pair, leaf), counts_rows=False)
        for i, leaf in enumerate(leaves)
    ]
    queues: list[PageQueue] = []
    checked = 0
    with work.open(WORKER) as session:
        for one in passes:
            row = execute(session, ddl.pages_of(one.table)).fetchone()
            chunks = store.read_chunks(session, work.run_id, one.phase)
            checked += sum(rows for _, _, rows in chunks)
            queues.append(PageQueue(int(row[0]) if row else 0, [(f, last) for f, last, _ in chunks]))
    total = sum(queue.total for queue in queues)
    counts, rate = [checked] + [0] * workers, Rate()

    def body(number: int) -> None:
        with work.open(WORKER) as session:
            _look_up_by_key(session)
            for one, queue in zip(passes, queues, strict=True):
                size = ChunkSize(work.throttle.chunk_s, least=LEAST_PAGES)
                while not work.stop.is_set():
                    work.throttle.wait(work.stop)
                    chunk = queue.take(size.pages)
                    if chunk is None:
                        break
                    started = time.monotonic()
                    counts[number] += _chunk(work, pair, session, one, *chunk)
                    size.learn(chunk[1] - chunk[0], time.monotonic() - started)
                    queue.finish(chunk[1] - chunk[0])
                    done = sum(q.finished for q in queues)
                    progress(work, "verify", done, total, rate, unit="pages", workers=workers)
                    work.throttle.worked(started, work.stop)

    in_parallel(work, [lambda n=n: body(n) for n in range(1, workers + 1)])
    return sum(counts)


Key: TypeAlias = tuple[str, ...]


class _KeyWalk:
    """Hands out consecutive key ranges; together they cover everything, rows that are still to come too."""

    def __init__(self, pair: Pair, session: Session) -> None:
        self._pair, self._session = pair, session
        self._at: Key | None = None
        self._ended = False
        self._lock = threading.Lock()

    def take(self, rows: int) -> tuple[Key | None, Key | None] | None:
        """Return the limits of the next range of about `rows` rows (None: no limit), None when all is handed out."""
        with self._lock:
            if self._ended:
                return None
            low = self._at
            statement = ddl.next_key(self._pair, low=low is not None)
            found = execute(self._session, statement, *(low or ()), max(1, rows), again=low is not None).fetchone()
            self._at = None if found is None else tuple(str(v) for v in found)
            self._ended = found is None
            return low, self._at


def verify_by_keys(work: Work, pair: Pair, rows_expected: int, workers: int) -> int:
    """Compare both tables range by range of their key, in one pass for both directions.

    For tables whose rows lie about in the order of their key: then each range reads neighbouring pages. It is
    several times faster than looking every row up.

    Args:
        rows_expected: for the progress only.

    Returns, Raises, Locks: as verify_rows.
    """
    counts, rate = [0] * (workers + 1), Rate()
    with work.open(WORKER) as boundary:
        _avoid(boundary, "seqscan", "sort")
        walk = _KeyWalk(pair, boundary)

        def body(number: int) -> None:
            size = ChunkSize(work.throttle.chunk_s, least=LEAST_ROWS)
            with work.open(WORKER) as session:
                # Both sides come in the order of their indexes and are merged: nothing is sorted, hashed or spilled.
                _avoid(session, "seqscan", "hashjoin", "bitmapscan", "sort")
                while not work.stop.is_set():
                    work.throttle.wait(work.stop)
                    limits = walk.take(size.pages)
                    if limits is None:
                        return
                    started, asked = time.monotonic(), size.pages
                    with session.pipeline(), session.transaction():
                        _begin(session, pair)
                        truncated = execute(session, ddl.is_truncated(pair))
                        found, counted = _compare_range(session, pair, *limits)
                    counts[number] += _result(work, pair, truncated, found, counted)
                    size.learn(asked, time.monotonic() - started)
                    progress(work, "verify", sum(counts), max(rows_expected, sum(counts)), rate, workers=workers)
                    work.throttle.worked(started, work.stop)

        in_parallel(work, [lambda n=n: body(n) for n in range(1, workers + 1)])
    return sum(counts)


def _compare_range(session: Session, pair: Pair, low: Key | None, high: Key | None) -> tuple[Answer, Answer]:
    has_low, has_high = low is not None, high is not None
    params = (*(low or ()), *(high or ()))
    found = execute(session, ddl.verify_keys(pair, low=has_low, high=has_high), *params, again=has_low and has_high)
    counted = execute(session, ddl.count_keys(pair, low=has_low, high=has_high), *params, again=has_low and has_high)
    return found, counted


def _chunk(work: Work, pair: Pair, session: Session, one: Pass, first: int, last: int) -> int:
    rows = 0
    with session.transaction():
        with session.pipeline():
            _begin(session, pair)
            truncated = execute(session, ddl.is_truncated(pair))
            found = execute(session, one.statement, tid(first), tid(last))
            counted = execute(session, ddl.count_pages(one.table), tid(first), tid(last))
        rows = _result(work, pair, truncated, found, counted)
        if not one.counts_rows:
            rows = 0
        store.execute(session, "insert_chunk", run_id=work.run_id, phase=one.phase, first=first, last=last, rows=rows)
    return rows


def _result(work: Work, pair: Pair, truncated: Answer, found: Answer, counted: Answer) -> int:
    """Return the rows counted; after a TRUNCATE that is still to be applied nothing was compared."""
    marked = truncated.fetchone()
    if marked and marked[0]:
        return 0
    _judge(work, pair, found.fetchall())
    row = counted.fetchone()
    return int(row[0]) if row else 0


def _avoid(session: Session, *methods: LiteralString) -> None:
    for method in methods:
        session.execute(ddl.disable(method))


def _look_up_by_key(session: Session) -> None:
    """Statistics of a fresh copy may be missing; looking rows up by key must never read whole tables."""
    _avoid(session, "seqscan", "hashjoin", "mergejoin")


def _begin(session: Session, pair: Pair) -> None:
    """Keep TRUNCATE away from both tables, which does not respect snapshots: always the source first."""
    session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    execute(session, ddl.lock_to_read(pair.source))
    execute(session, ddl.lock_to_read(pair.target))


def _judge(work: Work, pair: Pair, keys: Sequence[tuple[object, ...]]) -> None:
    if not keys:
        return
    names = ", ".join(k.name for k in pair.identity)
    shown = ", ".join(str(row[0]) for row in keys[:20])
    raise MismatchError(
        f"Verification of {work.table} found {len(keys)}{' or more' if len(keys) >= 1000 else ''} rows that differ"
        f" and wait for no change: ({names}) = {shown}{', …' if len(keys) > 20 else ''}.",
        consequence="The run stopped before the cut-over; the table itself is unharmed.",
        hint="`pgscale partition abort` removes the copy. Please report this with the keys.",
    )


def recheck(work: Work, pair: Pair, session: Session) -> int:
    """Compare once more, in the session's transaction, the keys that were waiting; return how many still wait."""
    for setting in ddl.PROBE_BY_KEY:
        session.execute(setting)
    _judge(work, pair, execute(session, ddl.recheck(pair)).fetchall())
    row = execute(session, ddl.count_recheck(pair)).fetchone()
    return int(row[0]) if row else 0


def recheck_until_few(work: Work, pair: Pair, catch_up: Callable[[], None], most: int = 500) -> None:
    """Compare waiting keys again and again until few are left; those are compared under the cut-over's lock."""
    with work.open(WORKER) as session:
        for _ in range(100):
            with session.transaction():
                _begin(session, pair)
                truncated = execute(session, ddl.is_truncated(pair)).fetchone()
                left = most if truncated and truncated[0] else recheck(work, pair, session)
            if left < most:
                return
            work.check()
            catch_up()
