"""Compare every row of both tables while writes go on.

In any one snapshot a key either stands alike in both tables or waits in the log: the applier takes a key from the
log in the same transaction that makes its rows alike. So each chunk is judged by itself, in its own snapshot.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString, TypeAlias

import psycopg
from psycopg import IsolationLevel

from pgscale.connect.session import WORKER, Session
from pgscale.core.model import QName
from pgscale.errors import MismatchError
from pgscale.ledger import store
from pgscale.livecopy import ddl
from pgscale.livecopy.chunks import ChunkSize, PageQueue
from pgscale.livecopy.model import Pair
from pgscale.livecopy.work import Rate, Work, execute, in_parallel, progress, tid

LEAST_PAGES, LEAST_ROWS = 8, 500

Answer: TypeAlias = "psycopg.Cursor[tuple[Any, ...]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One pass of the comparison: the ledger's phase, the table whose pages it walks, the statement."""

    phase: str
    table: QName
    statement: str
    counts_rows: bool


def nothing() -> None:
    """Do nothing."""


def verify_rows(
    work: Work, pair: Pair, leaves: Sequence[QName], workers: int, first: Callable[[], None] = nothing
) -> int:
    """Compare every source row with the target, and look up every target row in the source.

    Args:
        first: what one of the workers does before it compares, while the others do already.

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
    with work.session(WORKER) as session:
        for one in passes:
            row = execute(session, ddl.pages_of(one.table)).fetchone()
            chunks = store.read_chunks(session, work.run_id, one.phase)
            checked += sum(rows for _, _, rows in chunks)
            queues.append(PageQueue(int(row[0]) if row else 0, [(f, last) for f, last, _ in chunks]))
    total = sum(queue.total for queue in queues)
    counts, rate = [checked] + [0] * workers, Rate(done=sum(queue.finished for queue in queues))

    def body(number: int) -> None:
        if number == 1:
            first()
        with _open(work) as session:
            _look_up_by_key(session)
            for one, queue in zip(passes, queues, strict=True):
                size = ChunkSize(work.throttle.chunk_s, least=LEAST_PAGES)
                while not work.stop.is_set():
                    work.throttle.wait(work.stop)
                    chunk = queue.take(size.pages)
                    if chunk is None:
                        break
                    with work.throttle.turn():
                        started = time.monotonic()
                        counts[number] += _chunk(work, pair, session, one, *chunk)
                        took_s = work.throttle.took(started)
                    size.learn(chunk[1] - chunk[0], took_s)
                    queue.finish(chunk[1] - chunk[0])
                    done = sum(q.finished for q in queues)
                    progress(work, "verify", done, total, rate, unit="pages", workers=workers)
                    work.throttle.rest(took_s, work.stop)

    in_parallel(work, [lambda n=n: body(n) for n in range(1, workers + 1)])
    return sum(counts)


Key: TypeAlias = tuple[str, ...]
# Whether a range has a limit.
LIMITS = (False, True)


class _KeyWalk:
    """Hands out consecutive key ranges; together they cover everything, rows that are still to come too.

    Several limits are looked up at once while ranges are small: a round trip each would cost more than comparing.
    """

    MOST_KEYS, ROWS_AHEAD = 16, 4_000

    def __init__(self, pair: Pair, session: Session) -> None:
        self._session = session
        self._statements = {low: ddl.next_keys(pair, low=low) for low in LIMITS}
        self._at: Key | None = None
        self._known: deque[tuple[Key, int]] = deque()
        self._last_known = False
        self._ended = False
        self._lock = threading.Lock()

    def take(self, rows: int) -> tuple[Key | None, Key | None, int] | None:
        """Return the limits of the next range (None: no limit) and about how many rows it has: about `rows`.

        None when all is handed out.
        """
        with self._lock:
            if self._ended:
                return None
            if not self._known and not self._last_known:
                self._look_ahead(max(1, rows))
            low = self._at
            if not self._known:
                self._ended = True
                return low, None, rows
            self._at, found = self._known.popleft()
            return low, self._at, found

    def _look_ahead(self, rows: int) -> None:
        wanted = min(max(self.ROWS_AHEAD // rows, 1), self.MOST_KEYS)
        low, statement = self._at, self._statements[self._at is not None]
        found = execute(self._session, statement, *(low or ()), rows, wanted, again=low is not None).fetchall()
        self._known.extend((tuple(str(v) for v in key), rows) for key in found)
        self._last_known = len(found) < wanted


def verify_by_keys(
    work: Work, pair: Pair, rows_expected: int, workers: int, first: Callable[[], None] = nothing
) -> int:
    """Compare both tables range by range of their key, in one pass for both directions.

    For tables whose rows lie about in the order of their key: then each range reads neighbouring pages. It is
    several times faster than looking every row up.

    Args:
        rows_expected: for the progress only.
        first: as verify_rows.

    Returns, Raises, Locks: as verify_rows.
    """
    counts, rate = [0] * (workers + 1), Rate()
    with work.session(WORKER) as boundary:
        _avoid(boundary, "seqscan", "sort")
        walk = _KeyWalk(pair, boundary)

        compare = _InBursts if work.throttle.in_bursts else _AtOnce

        def body(number: int) -> None:
            if number == 1:
                first()
            with _open(work) as session:
                # Both sides come in the order of their indexes and are merged: nothing is sorted, hashed or spilled.
                _avoid(session, "seqscan", "hashjoin", "bitmapscan", "sort")
                method = compare(work, pair, session)
                while not work.stop.is_set():
                    work.throttle.wait(work.stop)
                    with work.throttle.turn():
                        taken = walk.take(method.rows_wanted)
                    if taken is None:
                        return
                    counts[number] += method.compare(*taken)
                    progress(work, "verify", sum(counts), max(rows_expected, sum(counts)), rate, workers=workers)

        in_parallel(work, [lambda n=n: body(n) for n in range(1, workers + 1)])
    return sum(counts)


class _AtOnce:
    """Compares a range in one statement."""

    def __init__(self, work: Work, pair: Pair, session: Session) -> None:
        self._work, self._pair, self._session = work, pair, session
        self._statements = {(low, high): ddl.verify_keys(pair, low=low, high=high) for low in LIMITS for high in LIMITS}
        self._size = ChunkSize(work.throttle.chunk_s, least=LEAST_ROWS)

    @property
    def rows_wanted(self) -> int:
        """About how many rows the next range should have."""
        return self._size.pages

    def compare(self, low: Key | None, high: Key | None, asked: int) -> int:
        """Compare the range and return how many rows of the source are in it."""
        started = time.monotonic()
        inner = low is not None and high is not None
        statement = self._statements[low is not None, high is not None]
        with self._session.pipeline(), self._session.transaction():
            _lock(self._session, self._pair)
            found = execute(self._session, statement, *(low or ()), *(high or ()), again=inner)
        rows = _result(self._work, self._pair, found)
        took_s = self._work.throttle.took(started)
        self._size.learn(asked, took_s)
        self._work.throttle.rest(took_s, self._work.stop)
        return rows


class _InBursts:
    """Compares a range a burst at a time, in one snapshot, through a cursor.

    To start a statement that reads every partition costs as much as comparing a thousand rows: bursts that are short
    enough for the application would be mostly that, were each a statement of its own.
    """

    # To find the end of a range is a burst as well: so many rows at most. Where more keys differ (an application's
    # own bulk change that waits to be applied) one statement judges the range: each costs a round trip here.
    LEAST_RANGE, MOST_RANGE, LEAST_BURST, MOST_DIFFERING = 1_000, 10_000, 100, 200

    def __init__(self, work: Work, pair: Pair, session: Session) -> None:
        self._work, self._pair, self._session = work, pair, session
        self._judge = ddl.verify_streamed(pair)
        self._whole = {(low, high): ddl.verify_keys(pair, low=low, high=high) for low in LIMITS for high in LIMITS}
        self._range = ChunkSize(work.throttle.snapshot_s, least=self.LEAST_RANGE, most=self.MOST_RANGE)
        self._burst = ChunkSize(work.throttle.chunk_s, least=self.LEAST_BURST)

    @property
    def rows_wanted(self) -> int:
        """About how many rows the next range should have."""
        return self._range.pages

    def compare(self, low: Key | None, high: Key | None, asked: int) -> int:
        """Compare the range and return how many rows of the source are in it.

        Raises:
            InterruptedRunError: the run was stopped in the middle of it.
        """
        session, stop, throttle = self._session, self._work.stop, self._work.throttle
        began, rows, ends, differing, burst = time.monotonic(), 0, False, list[str](), self._burst.pages
        with session.transaction():
            with throttle.turn(), session.pipeline() as pipeline:
                started = time.monotonic()
                _lock(session, self._pair)
                truncated = execute(session, ddl.is_truncated(self._pair), again=True)
                execute(session, ddl.stream_keys(self._pair, low, high, burst).as_string(session))
                pipeline.sync()
                if truncated.fetchone() == (True,):
                    return 0
            throttle.worked(started, stop)
            while not ends and len(differing) < self.MOST_DIFFERING:
                self._work.check()
                with throttle.turn():
                    started = time.monotonic()
                    found = execute(session, "FETCH NEXT FROM _pgscale_compared", again=True).fetchone()
                    took_s = throttle.took(started)
                if found is None:
                    break
                key, rows, ends = found
                if key is not None:
                    differing.append(key)
                elif not ends:
                    self._burst.learn(burst, took_s)
                throttle.rest(took_s, stop)
            with throttle.turn():
                if len(differing) < self.MOST_DIFFERING:
                    answer = execute(session, self._judge, differing, again=True)
                else:
                    limits = (*(low or ()), *(high or ()))
                    answer = execute(session, self._whole[low is not None, high is not None], *limits)
                    rows = None
                counted = _result(self._work, self._pair, answer)
        self._range.learn(asked, time.monotonic() - began)
        return counted if rows is None else int(rows)


def _chunk(work: Work, pair: Pair, session: Session, one: Pass, first: int, last: int) -> int:
    with session.transaction():
        with session.pipeline():
            _lock(session, pair)
            found = execute(session, one.statement, tid(first), tid(last))
        rows = _result(work, pair, found)
        store.execute(session, "insert_chunk", run_id=work.run_id, phase=one.phase, first=first, last=last, rows=rows)
    return rows


def _result(work: Work, pair: Pair, answer: Answer) -> int:
    """Return the rows counted; after a TRUNCATE that is still to be applied nothing was compared."""
    row = answer.fetchone()
    assert row is not None, "the statement has no FROM: it returns one row"
    truncated, rows, differing = row
    if truncated:
        return 0
    _judge(work, pair, differing)
    return int(rows)


def _open(work: Work) -> Session:
    """Open a session that compares: each transaction in one snapshot."""
    session = work.open(WORKER)
    session.isolation_level = IsolationLevel.REPEATABLE_READ
    session.execute("SET work_mem = '32MB'")
    return session


def _avoid(session: Session, *methods: LiteralString) -> None:
    for method in methods:
        session.execute(ddl.disable(method))


def _look_up_by_key(session: Session) -> None:
    """Statistics of a fresh copy may be missing; looking rows up by key must never read whole tables."""
    _avoid(session, "seqscan", "hashjoin", "mergejoin")


def _lock(session: Session, pair: Pair) -> None:
    """Keep TRUNCATE away from both tables, which does not respect snapshots: always the source first."""
    execute(session, ddl.lock_to_read(pair.source, pair.target), again=True)


def _judge(work: Work, pair: Pair, keys: Sequence[str]) -> None:
    if not keys:
        return
    names = ", ".join(k.name for k in pair.identity)
    shown = ", ".join(keys[:20])
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
    _result(work, pair, execute(session, ddl.recheck(pair)))
    row = execute(session, ddl.count_recheck(pair)).fetchone()
    return int(row[0]) if row else 0


def recheck_until_few(work: Work, pair: Pair, catch_up: Callable[[], None], most: int = 500) -> None:
    """Compare waiting keys again and again until few are left; those are compared under the cut-over's lock."""
    with _open(work) as session:
        for _ in range(100):
            with session.transaction():
                _lock(session, pair)
                truncated = execute(session, ddl.is_truncated(pair)).fetchone()
                left = most if truncated and truncated[0] else recheck(work, pair, session)
            if left < most:
                return
            work.check()
            catch_up()
