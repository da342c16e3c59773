"""Copy the rows by page ranges and remove those that changed meanwhile."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pgscale.connect.session import WORKER
from pgscale.ledger import store
from pgscale.livecopy import ddl
from pgscale.livecopy.chunks import ChunkSize, PageQueue
from pgscale.livecopy.model import Pair
from pgscale.livecopy.work import Rate, Work, execute, in_parallel, progress, tid

MOST_EXTENT_PAGES = 1024


def copy_rows(work: Work, statement: str, pages: int, workers: int) -> int:
    """Copy what the ledger does not have as copied yet; every chunk and its ledger row are one transaction.

    Args:
        statement: the plan's copy statement, $1 and $2 the page range's TIDs.
        pages: pages of the source when capture began; later rows are in the log.
        workers: parallel sessions.

    Returns:
        Rows copied in all, earlier attempts of this run included.

    Locks: ACCESS SHARE on the source, for one chunk at a time.
    """
    with work.session(WORKER) as session:
        chunks = store.read_chunks(session, work.run_id, "copy")
    queue = PageQueue(pages, [(first, last) for first, last, _ in chunks])
    counts = [sum(rows for _, _, rows in chunks)] + [0] * workers
    rate = Rate(done=queue.finished)

    def body(number: int) -> None:
        size = ChunkSize(work.throttle.chunk_s, least=8)
        with work.session(WORKER) as session:
            while not work.stop.is_set():
                extent = queue.take(min(max(size.pages * 8, 64), max(size.pages, MOST_EXTENT_PAGES)))
                if extent is None:
                    return
                first, end = extent
                # One ledger row an extent, which grows with every chunk: small chunks stay cheap.
                store.execute(
                    session, "insert_chunk", run_id=work.run_id, phase="copy", first=first, last=first, rows=0
                )
                at = first
                while at < end and not work.stop.is_set():
                    work.throttle.wait(work.stop)
                    last = min(at + size.pages, end)
                    with work.throttle.turn():
                        started = time.monotonic()
                        row = execute(
                            session, statement, tid(at), tid(last), work.run_id, first, last, again=True
                        ).fetchone()
                        took_s = work.throttle.took(started)
                    assert row is not None
                    size.learn(last - at, took_s)
                    queue.finish(last - at)
                    counts[number] += int(row[0])
                    at = last
                    progress(work, "copy", queue.finished, pages, rate, unit="pages", workers=workers)
                    work.throttle.rest(took_s, work.stop)

    in_parallel(work, [lambda n=n: body(n) for n in range(1, workers + 1)])
    return sum(counts)


def scrub(work: Work, pair: Pair, statements: Sequence[str], step_id: str, workers: int) -> None:
    """Remove from the unindexed copy every row whose key was captured; after a TRUNCATE, every row.

    One transaction a leaf, each marked in the ledger; nothing happens where no key was captured.
    """
    with work.session(WORKER) as session:
        done = store.done_steps(session, work.run_id)
        with session.transaction():
            if execute(session, ddl.take_truncated(pair)).rowcount:
                execute(session, ddl.truncate_target(pair))
        row = execute(session, ddl.has_log(pair)).fetchone()
    if not (row and row[0]):
        return
    queue = PageQueue(len(statements))
    rate = Rate()

    def body() -> None:
        with work.session(WORKER) as session:
            while not work.stop.is_set() and (item := queue.take(1)):
                work.throttle.wait(work.stop)
                mark = f"{step_id}:{item[0]}"
                started = time.monotonic()
                if mark not in done:
                    with session.transaction():
                        execute(session, statements[item[0]])
                        store.execute(session, "mark_step", run_id=work.run_id, step_id=mark, duration_s=0.0)
                queue.finish(1)
                progress(work, "scrub", queue.finished, len(statements), rate, unit="items")
                work.throttle.worked(started, work.stop)

    in_parallel(work, [body] * workers)
