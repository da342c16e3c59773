"""Load a file: one reader cuts it into parts, workers bring them into the table, each part with the note of it."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import psycopg

from pgscale.connect.dsn import resolve_dsn
from pgscale.connect.session import CONTROL, Profile, Session, open_session
from pgscale.core.model import Progress, Watch, ignore_progress
from pgscale.errors import (
    ConnectError,
    InterruptedRunError,
    PgscaleError,
    RefusedError,
    RunFailedError,
    UsageError,
)
from pgscale.livecopy.rate import Rate
from pgscale.write.destination import read_destination, read_unique_keys
from pgscale.write.effects import drive
from pgscale.write.loading import ddl, store
from pgscale.write.loading.csv_parts import check_style
from pgscale.write.loading.failures import kill_point, translated
from pgscale.write.loading.landing import Lander
from pgscale.write.loading.model import Counts, DamagedFileError, Done, LoadedRowError, LoadOptions, LoadResult, Part
from pgscale.write.loading.opening import STDIN, Input, open_input
from pgscale.write.loading.reading import Source, open_source
from pgscale.write.loading.rejects import RejectsFile
from pgscale.write.loading.targets import check_table, choose_columns, is_order_free, make_target, warnings_of
from pgscale.write.loading.threads import Reading, Room, Shared, cancel, guarded, sleep, take, wait_for, wait_for_room
from pgscale.write.loading.writing import Target
from pgscale.write.model import Destination
from pgscale.write.sources import Rows

# A part takes as long as it takes; Ctrl-C cancels it. A row that another transaction holds is waited for. COMMIT
# need not wait for the disk: the note of a part is lost with its rows, and the last COMMIT of all waits.
LOADER = Profile(purpose="load", statement_timeout_ms=0, lock_timeout_ms=60_000, durable=False)

# Large enough that a transaction costs nothing beside its rows, small enough to be loaded again and to lie in memory.
MOST_PART_BYTES, LEAST_PART_BYTES = 16 * 1024 * 1024, 256 * 1024
STREAM_PART_BYTES = 8 * 1024 * 1024
WORTH_A_WORKER_BYTES = 32 * 1024 * 1024
MOST_WORKERS = 4
TELL_EVERY_S = 0.2


def load(
    dsn: str | None,
    table: str,
    file: str,
    options: LoadOptions | None = None,
    watch: Watch = ignore_progress,
) -> LoadResult:
    """Bring the rows of a file into a table.

    The file is loaded in parts, each in a transaction that notes it: a load that was killed goes on with
    `resume=True` and loads nothing twice. Lines that do not fit go to the rejects file, or end the load.

    Args:
        table: as SQL names it; file: a path, or `-` for standard input.

    Raises:
        UsageError: no such file, or wrong options; RefusedError: the file does not fit the table, or a load of it was
            not finished; ConnectError, PermissionDeniedError. Nothing was written.
        LoadedRowError, RunFailedError, InterruptedRunError: the load stopped; what is in the table is said.

    Locks: ROW EXCLUSIVE on the table, for a part at a time.
    """
    wanted = options or LoadOptions()
    _check(wanted)
    given = open_input(file, wanted)
    escape = None if wanted.escape == wanted.quote else wanted.escape
    wanted = replace(wanted, format=given.format, escape=escape)
    if given.format == "csv":
        check_style(wanted)
    conninfo = resolve_dsn(dsn)
    try:
        source = open_source(given, wanted)
    except RunFailedError as error:
        # It does not get as far as its first line.
        raise RefusedError(error.fact, consequence="Nothing was written.") from error
    reading = Reading(source.close)
    try:
        with _open(conninfo, CONTROL) as control:
            return _Loading(conninfo, table, given, source, wanted, control, watch, reading).run()
    except psycopg.Error as error:
        made = translated(error, conninfo, ConnectError)
        made.consequence = made.consequence or "Nothing was written."
        raise made from error
    finally:
        reading.end()


def _check(options: LoadOptions) -> None:
    if options.workers is not None and options.workers < 1:
        raise UsageError(f"--workers is at least 1, not {options.workers}.")
    if options.resume and options.restart:
        raise UsageError("--resume and --restart exclude each other.")
    if options.rules and not options.key:
        raise UsageError("A rule is for --upsert, which names the key.")
    if len(set(options.columns)) != len(options.columns):
        raise UsageError("--columns names a column twice.")


def _open(conninfo: str, profile: Profile) -> Session:
    session = open_session(conninfo, profile)
    session.execute(ddl.settings_of_the_login())
    return session


class _Loading:
    """One load, from looking at the table to its end."""

    def __init__(
        self,
        conninfo: str,
        table: str,
        given: Input,
        source: Source,
        options: LoadOptions,
        control: Session,
        watch: Watch,
        reading: Reading,
    ) -> None:
        self._reading = reading
        self._conninfo, self._given, self._source, self._options = conninfo, given, source, options
        self._control, self._watch = control, watch
        self._began = time.monotonic()
        info = control.info
        self._destination: Destination = drive(read_destination(info, table), control, Rows(()))
        oid = self._destination.oid
        kind, is_unlogged, may_insert = _facts(control, oid)
        self._is_unlogged = is_unlogged
        check_table(self._destination, kind, may_insert=may_insert, merges=bool(options.key))
        names = choose_columns(self._destination, source.names, given.name, is_csv=given.format == "csv")
        source.prepare(self._destination, names, info.server_version)
        keys = drive(read_unique_keys(info, oid), control, Rows(())) if options.key else ()
        self._target: Target
        self._target, self._rules = make_target(self._destination, names, keys, options)
        self._stored_options = _stored(options, names)
        self._workers = self._choose_workers()
        self._load_id = 0
        self._is_finished = False
        self._counts = Counts()
        self._parts = self._resumed = 0
        self._landed = 0
        self._rate = Rate()
        self._speed = Rate()
        self._told_at = 0.0

    # -- before and after ------------------------------------------------------------------------------------------

    def run(self) -> LoadResult:
        self._enter()
        if self._is_finished:
            if self._given.source == STDIN:
                # It has no name and no size: only its bytes tell whether it is what was loaded.
                self._source.compare(self._done()[0])
            return self._result(was_complete=True)
        done, counts = self._done()
        self._counts, self._parts, self._resumed = counts, len(done), len(done)
        self._landed = sum(part.end - part.first for part in done)
        self._rate, self._speed = Rate(done=counts.rows), Rate(done=self._landed)
        rejects = None
        try:
            if self._options.rejects is not None:
                rejects = RejectsFile(self._options.rejects, done, resumes=self._options.resume)
            self._work(done, rejects)
            kill_point("load:ended")
            store.finish(self._control, self._load_id, self._counts, self._parts)
        except BaseException as error:
            raise self._explained(error) from error
        finally:
            if rejects is not None:
                rejects.close()
        kill_point("load:finished")
        self._watch(Progress(table=self._target.shown, phase="done", done=self._counts.rows))
        return self._result()

    def _result(self, *, was_complete: bool = False) -> LoadResult:
        return LoadResult(
            table=self._target.shown,
            source=self._given.name,
            format=self._given.format,
            counts=self._counts,
            parts=self._parts,
            resumed=self._resumed,
            workers=self._workers,
            seconds=time.monotonic() - self._began,
            rejects=str(self._options.rejects) if self._options.rejects is not None else None,
            warnings=self._warnings(),
            was_complete=was_complete,
        )

    def _warnings(self) -> tuple[str, ...]:
        is_merge = self._target.merge is not None
        found = warnings_of(self._rules, self._destination, self._workers, is_merge=is_merge)
        if self._given.has_changed():
            found += (
                f"{self._given.name} was changed while it was loaded: the last line that was read may be half of one,"
                " and what came after it is not in the table.",
            )
        return found

    def _choose_workers(self) -> int:
        if self._options.workers is not None:
            return self._options.workers
        if self._target.merge is not None and not is_order_free(self._rules):
            return 1
        size = self._given.size_bytes
        if size is None:
            return min(2, os.cpu_count() or 1)
        return max(1, min(MOST_WORKERS, os.cpu_count() or 1, size // WORTH_A_WORKER_BYTES))

    def _part_bytes(self) -> int:
        if self._options.part_bytes is not None:
            return max(1, self._options.part_bytes)
        size = self._given.size_bytes
        if size is None or self._given.compression:
            return STREAM_PART_BYTES
        return min(MOST_PART_BYTES, max(LEAST_PART_BYTES, size // (self._workers * 8)))

    def _enter(self) -> None:
        """Find or make the load's row and own it; it may be finished already."""
        control, options, given = self._control, self._options, self._given
        oid, source = self._destination.oid, given.source
        ranks = self._rank() if source == STDIN and options.resume else {}
        with control.transaction():
            store.create(control)
            store.execute(control, "forget_old_loads")
            store.execute(control, "forget_old_witnesses")
            for row in sorted(store.find_loads(control, oid, source), key=lambda row: ranks.get(row.load_id, 1)):
                if not row.is_done and not store.scalar(control, "try_own", load_id=row.load_id):
                    if source == STDIN:
                        continue
                    raise RefusedError(
                        f"{given.name} is being loaded into {self._target.shown} by another process.",
                        consequence="Nothing was written.",
                    )
                if source == STDIN and not options.resume:
                    break
                if row.is_done and options.resume:
                    self._check_same(row)
                    self._load_id, self._counts = row.load_id, row.counts
                    self._parts = self._resumed = row.parts
                    self._is_finished = True
                    return
                if not row.is_done:
                    # Workers of a process that was killed may be committing still.
                    store.execute(control, "wait_for_orphans", load_id=row.load_id)
                    parts, counts = store.read_parts(control, row.load_id)
                    if options.resume:
                        self._check_same(row)
                        self._load_id = row.load_id
                        return
                    if parts and not options.restart:
                        raise RefusedError(
                            f"A load of {given.name} into {self._target.shown} was not finished:"
                            f" {counts.rows:,} rows of it are in the table.",
                            consequence="Nothing was written.",
                            hint="--resume goes on with it; --restart forgets it and begins anew, and its rows stay.",
                        )
                store.execute(control, "delete_load", load_id=row.load_id)
            if options.resume:
                raise RefusedError(
                    f"There is no load of {given.name} into {self._target.shown} to go on with.",
                    consequence="Nothing was written.",
                    hint="Without --resume it begins.",
                )
            self._load_id = store.insert(control, oid, source, given.identity, self._stored_options)
            store.scalar(control, "try_own", load_id=self._load_id)
            if self._is_unlogged:
                store.execute(control, "insert_witness", load_id=self._load_id)
        kill_point("load:entered")

    def _rank(self) -> dict[int, int]:
        """Tell which of the loads of standard input is the one that this input goes on with: the least is.

        They have no names. What begins like a load's first part is that load; one of which no part is there may be it,
        when no other is. Before any lock is taken, for the input may be slow.
        """
        if not store.scalar(self._control, "exists"):
            return {}
        ranks: dict[int, int] = {}
        for row in store.find_loads(self._control, self._destination.oid, STDIN):
            begins_like = self._source.begins_like(store.read_parts(self._control, row.load_id)[0])
            ranks[row.load_id] = 1 if begins_like is None else 0 if begins_like else 2
            if row.options != self._stored_options:
                ranks[row.load_id] = 3
        return ranks

    def _check_same(self, row: store.LoadRow) -> None:
        """Raise when the file or the options are not those the load began with.

        Raises:
            RefusedError
        """
        if row.identity != self._given.identity:
            raise RefusedError(
                f"{self._given.name} was changed since the load began.",
                consequence="What is in the table stays; nothing was added.",
                hint="--restart loads the file from its beginning.",
            )
        before, now = json.loads(row.options), json.loads(self._stored_options)
        if changed := [name for name in now if now[name] != before.get(name)]:
            raise RefusedError(
                f"The load began with other options: {', '.join(f'{n} was {before.get(n)!r}' for n in changed)}.",
                consequence="Nothing was written.",
                hint="Give the same ones.",
            )
        if self._is_unlogged and not store.scalar(self._control, "has_witness", load_id=row.load_id):
            raise RefusedError(
                f"The server crashed since, and with that emptied {self._target.shown}, which is unlogged.",
                consequence="Nothing was written.",
                hint="--restart loads the file from its beginning.",
            )

    def _done(self) -> tuple[tuple[Done, ...], Counts]:
        return store.read_parts(self._control, self._load_id)

    # -- the work --------------------------------------------------------------------------------------------------

    def _work(self, done: Sequence[Done], rejects: RejectsFile | None) -> None:
        # A part for each worker, and one that is ready.
        shared = Shared(room=threading.Semaphore(self._workers + 1))
        bodies: list[Callable[[], None]] = [lambda: self._read(shared, done)]
        bodies += [lambda: self._bring(shared, rejects)] * self._workers
        threads = [threading.Thread(target=guarded, args=(body, shared), daemon=True) for body in bodies]
        for thread in threads:
            thread.start()
        try:
            for _ in threads:
                wait_for(shared.ended)
                if shared.failures:
                    # Not for the reader: it may wait for a pipe for ever, and it writes nothing.
                    for thread in threads[1:]:
                        while thread.is_alive():
                            thread.join(1.0)
                    break
        except BaseException:
            cancel(shared)
            for thread in threads[1:]:
                thread.join(10.0)
            raise
        if shared.failures:
            raise shared.failures[0]

    def _read(self, shared: Shared, done: Sequence[Done]) -> None:
        parts: Iterator[Part] = self._source.parts(done, self._part_bytes())
        try:
            with self._reading.under_way():
                while wait_for_room(shared) and (part := next(parts, None)) is not None:
                    shared.parts.put(part)
        finally:
            for _ in range(self._workers):
                shared.parts.put(None)

    def _bring(self, shared: Shared, rejects: RejectsFile | None) -> None:
        with _open(self._conninfo, LOADER) as session:
            with shared.lock:
                shared.sessions.append(session)
            store.execute(session, "lock_work", load_id=self._load_id)
            lander = Lander(session, self._load_id, self._target, rejects, kill_point, lambda s: sleep(shared, s))
            while not shared.stop.is_set():
                part = take(shared)
                if part is None:
                    return
                room = Room(shared)
                counts = lander.land(part, room.give)
                room.give()
                with shared.lock:
                    self._counts += counts
                    self._parts += 1
                    self._landed += part.end - part.first
                    self._tell()

    def _tell(self) -> None:
        total, done = self._source.total, self._source.taken(self._landed)
        self._rate.add(self._counts.rows + self._counts.rejected)
        self._speed.add(done)
        now = time.monotonic()
        if now - self._told_at < TELL_EVERY_S:
            return
        self._told_at = now
        self._watch(
            Progress(
                table=self._target.shown,
                phase="load",
                done=min(done, total) if total is not None else self._counts.rows,
                total=total,
                rate=self._rate.per_second,
                eta_s=None if total is None else self._speed.eta_s(max(0, total - done)),
                workers=self._workers,
            )
        )

    # -- what went wrong -------------------------------------------------------------------------------------------

    def _explained(self, error: BaseException) -> BaseException:
        """Return an error that says what is in the table and how to go on."""
        if isinstance(error, psycopg.Error):
            error = translated(error, self._conninfo)
        elif isinstance(error, KeyboardInterrupt):
            error = InterruptedRunError("The load was interrupted.")
        if not isinstance(error, PgscaleError):
            return error
        kept = self._kept()
        if kept:
            error.consequence = f"{error.consequence} {kept} are in the table and stay.".strip()
            if isinstance(error, LoadedRowError):
                error.hint = "`--resume --rejects FILE` goes on after them."
            elif not isinstance(error, DamagedFileError):
                error.hint = f"{error.hint} `--resume` goes on after them.".strip()
        elif not error.consequence:
            error.consequence = "Nothing was written."
        return error

    def _kept(self) -> str:
        """Tell what is in the table; forget the load when nothing is."""
        try:
            parts, counts = self._done()
            if not parts:
                store.execute(self._control, "delete_load", load_id=self._load_id)
        except psycopg.Error:
            # The server is gone; what its workers heard of last is what is known.
            counts = self._counts
        return f"{counts.rows:,} rows" if counts.rows or counts.rejected else ""


def _facts(session: Session, oid: int) -> tuple[str, bool, bool]:
    row = store.execute(session, "read_table_facts", oid=oid).fetchone()
    if row is None:
        raise RefusedError("The table was dropped a moment ago.", consequence="Nothing was written.")
    return str(row[0]), bool(row[1]), bool(row[2])


def _stored(options: LoadOptions, names: Sequence[str]) -> str:
    """What must be the same when a load goes on."""
    return json.dumps(
        {
            "format": options.format,
            "columns": list(names),
            "header": options.header,
            "delimiter": options.delimiter,
            "quote": options.quote,
            "escape": options.escape,
            "null": options.null,
            "encoding": options.encoding,
            "upsert": list(options.key),
            "rules": dict(options.rules),
        },
        sort_keys=True,
    )
