"""Run a migration in the scratch database, one statement after the other, and look at what each holds.

The locks are those that the server has in pg_locks after the statement, while its transaction is open. A statement that
cannot run in a transaction lets go of them before anybody could look; it is made to wait for the tables it names, and
the lock it asks for is read from the queue.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.pq import ExecStatus, TransactionStatus

from pgscale.doctor.lint import ddl
from pgscale.doctor.lint.model import (
    Catalog,
    FileSeen,
    Lock,
    Relation,
    Seen,
    ServerSays,
    TransactionMode,
)
from pgscale.doctor.lint.reader import read_catalog
from pgscale.doctor.lint.scratch import QUERIES, STATEMENT_TIMEOUT_MS, Connection, Scratch
from pgscale.errors import RunFailedError
from pgscale.sql.statements import Statement

# What cannot run in a transaction block, and what would end it: a procedure that commits.
ALONE = ("25001", "2D000")
NO_RIGHT = "42501"
UNKNOWN_OBJECT = "42704"
NOT_SUPPORTED = "0A000"

_BEGIN = {"BEGIN", "START"}
_COMMIT = {"COMMIT", "END"}
_ROLLBACK = {"ROLLBACK", "ABORT"}
# What belongs to the whole server: a scratch database cannot hold it.
_WIDE = {"ROLE", "USER", "GROUP", "DATABASE", "TABLESPACE", "SYSTEM", "SUBSCRIPTION"}
_ALONE = (
    ("CREATE", "INDEX", "CONCURRENTLY"),
    ("CREATE", "UNIQUE", "INDEX", "CONCURRENTLY"),
    ("DROP", "INDEX", "CONCURRENTLY"),
    ("VACUUM",),
)
_TAG_NUMBERS = re.compile(r"(?: \d+)+$")


@dataclass(slots=True)
class _State:
    """Where the run stands.

    Args:
        locks: of the open transaction, by relation and mode, the line that took them.
    """

    catalog: dict[int, Relation]
    transaction: int = 0
    locks: dict[tuple[int, str], int] = field(default_factory=dict[tuple[int, str], int])


@dataclass(slots=True)
class _Scans:
    """How often the transaction has begun to read tables, from the first row on or by an index."""

    tables: dict[int, int] = field(default_factory=dict[int, int])
    by_index: dict[int, int] = field(default_factory=dict[int, int])


def _more(before: dict[int, int], now: dict[int, int]) -> dict[int, int]:
    return {oid: count - before.get(oid, 0) for oid, count in now.items() if count > before.get(oid, 0)}


def run_files(
    scratch: Scratch,
    files: Iterable[tuple[str, tuple[Statement, ...]]],
    mode: TransactionMode,
    lock_timeout_ms: int = 0,
) -> tuple[FileSeen, ...]:
    """Run files in order, each in a new session, in one scratch database.

    Args:
        lock_timeout_ms: what the login has without setting it.

    Raises:
        RunFailedError: the connection to the scratch server was lost.
    """
    try:
        with scratch.connect() as observer:
            return tuple(_run_file(scratch, observer, *each, mode, lock_timeout_ms) for each in files)
    except psycopg.OperationalError as error:
        raise RunFailedError(
            f"The scratch server failed: {' '.join(str(error).split())}.", consequence="Nothing else was touched."
        ) from error


def _run_file(
    scratch: Scratch,
    observer: Connection,
    file: str,
    statements: tuple[Statement, ...],
    mode: TransactionMode,
    lock_timeout_ms: int,
) -> FileSeen:
    whole, note = _division(statements, mode)
    with scratch.connect(lock_timeout_ms) as session:
        state = _State(read_catalog(session))
        existing = dict(state.catalog)
        run = _Run(scratch, session, observer, state)
        seen: list[Seen] = []
        if whole:
            run.begin("BEGIN")
        for statement in statements:
            seen.append(run.statement(statement))
        if run.is_open and statements:
            failed = run.end("COMMIT", statements[-1])
            if failed is not None:
                seen.append(failed)
    return FileSeen(file=file, existing=existing, statements=tuple(seen), note=note)


def _division(statements: tuple[Statement, ...], mode: TransactionMode) -> tuple[bool, str]:
    """Decide whether a file is one transaction, and say so where the file does not."""
    if any(statement.words[:1] and statement.words[0] in _BEGIN for statement in statements):
        return False, ""
    if mode == "per-file":
        return True, "taken as one transaction, as told"
    if mode == "per-statement":
        return False, "each statement is taken by itself, as told"
    alone = [s for s in statements if any(s.starts(*words) for words in _ALONE) or "CONCURRENTLY" in s.words]
    alone = [s for s in alone if not s.starts("REFRESH")]
    if alone:
        return False, f"each statement is taken by itself, since line {alone[0].line} cannot run in a transaction"
    return True, "taken as one transaction, as most tools run a file that has no BEGIN"


class _Run:
    def __init__(self, scratch: Scratch, session: Connection, observer: Connection, state: _State) -> None:
        self._scratch = scratch
        self._session = session
        self._observer = observer
        self._state = state

    @property
    def is_open(self) -> bool:
        return self._session.info.transaction_status is not TransactionStatus.IDLE

    # Transactions

    def begin(self, text: str) -> ServerSays | None:
        self._state.transaction += 1
        return self._say(text)[1]

    def end(self, text: str, statement: Statement) -> Seen | None:
        """End the transaction; None when all went well."""
        error = self._say(text)[1]
        if self.is_open:
            self._say("ROLLBACK")
        number = self._state.transaction
        if error is not None or text.split(maxsplit=1)[0].upper() in _ROLLBACK:
            self._state.catalog = read_catalog(self._session)
        self._state.locks = {}
        if error is None:
            return None
        return Seen(statement=statement, tag="", transaction=number, error=error)

    # Statements

    def statement(self, statement: Statement) -> Seen:
        """Run one and look."""
        word = statement.words[0] if statement.words else ""
        if word in _BEGIN:
            error = self.begin(statement.text) if not self.is_open else None
            return self._plain(statement, "BEGIN", error)
        if word in _COMMIT or (word in _ROLLBACK and "TO" not in statement.words[:3]):
            if not self.is_open:
                return self._plain(statement, word, None)
            number = self._state.transaction
            failed = self.end(statement.text, statement)
            return failed or Seen(statement=statement, tag=word, transaction=number)
        if word in {"SAVEPOINT", "RELEASE"} or word in _ROLLBACK:
            return self._savepoint(statement, word)
        because = _why_skipped(statement)
        if because:
            return Seen(statement=statement, tag="", transaction=self._state.transaction, skipped=because)
        return self._look(statement)

    def _savepoint(self, statement: Statement, word: str) -> Seen:
        error = self._say(statement.text)[1]
        seen = self._plain(statement, word, error)
        if self._session.info.transaction_status is TransactionStatus.INERROR:
            # Of what follows at least the locks are to be seen.
            self.end("ROLLBACK", statement)
            self.begin("BEGIN")
        elif error is None and word in _ROLLBACK:
            self._state.catalog = read_catalog(self._session)
            kept = {(relation, mode) for relation, mode, _ in self._locks_now()}
            self._state.locks = {key: line for key, line in self._state.locks.items() if key in kept}
        return seen

    def _plain(self, statement: Statement, tag: str, error: ServerSays | None) -> Seen:
        return Seen(statement=statement, tag=tag, transaction=self._state.transaction, error=error)

    def _look(self, statement: Statement) -> Seen:
        mine = not self.is_open
        if mine:
            self.begin("BEGIN")
        seen = self._inside(statement)
        if seen.error is not None and seen.error.sqlstate in ALONE and not mine:
            # So that what follows finds what it makes, it runs all the same, between two transactions.
            self.end("COMMIT", statement)
            seen = self._outside(statement, in_block=True)
            self.begin("BEGIN")
            return seen
        if mine:
            if seen.error is not None and seen.error.sqlstate in ALONE:
                self.end("ROLLBACK", statement)
                return self._outside(statement, in_block=False)
            failed = self.end("ROLLBACK" if seen.error is not None else "COMMIT", statement)
            return failed or seen
        return seen

    def _inside(self, statement: Statement) -> Seen:
        scans = self._scans()
        tag, error = "", None
        for attempt in range(5):
            self._say("SAVEPOINT pgscale_lint")
            if attempt:
                # A session learns what others have made when it takes a lock that it does not hold.
                self._say("SELECT FROM pg_catalog.pg_ts_parser LIMIT 0")
            tag, error = self._say(statement.text)
            if error is None:
                break
            self._say("ROLLBACK TO SAVEPOINT pgscale_lint")
            if not self._scratch.has_helped(error.message, only_extensions=True):
                break
        number = self._state.transaction
        if error is not None:
            self._say("RELEASE SAVEPOINT pgscale_lint")
            because = _why_not_possible(error)
            if because:
                return Seen(statement=statement, tag="", transaction=number, skipped=because)
            return Seen(statement=statement, tag="", transaction=number, error=error)
        rows = self._locks_now()
        timeout_ms = self._lock_timeout_ms()
        self._say("RELEASE SAVEPOINT pgscale_lint")
        old = set(self._state.locks)
        for relation, mode, _granted in rows:
            self._state.locks.setdefault((relation, mode), statement.line)
        locks = tuple(
            Lock(
                relation=relation,
                mode=mode,
                since=self._state.locks[relation, mode],
                is_new=(relation, mode) not in old,
            )
            for relation, mode, _ in rows
        )
        before, after = self._refresh({lock.relation for lock in locks})
        now = self._scans()
        return Seen(
            statement=statement,
            tag=tag,
            transaction=number,
            locks=locks,
            before=before,
            after=after,
            scans=_more(scans.tables, now.tables),
            index_scans=_more(scans.by_index, now.by_index),
            lock_timeout_ms=timeout_ms,
        )

    def _refresh(self, locked: set[int]) -> tuple[Catalog, Catalog]:
        """Read again what is locked, which is all that can have changed; return it as it was and as it is."""
        was = {oid: self._state.catalog[oid] for oid in locked if oid in self._state.catalog}
        now = read_catalog(self._session, locked)
        for oid in was.keys() - now.keys():
            del self._state.catalog[oid]
        self._state.catalog.update(now)
        return was, now

    # Outside a transaction

    def _outside(self, statement: Statement, *, in_block: bool) -> Seen:
        self._state.transaction += 1
        number = self._state.transaction
        timeout_ms = self._lock_timeout_ms()
        targets = self._targets(statement)
        before = dict(self._state.catalog)
        with ExitStack() as stack:
            gates = {oid: stack.enter_context(self._scratch.connect()) for oid in targets}
            for oid, gate in gates.items():
                gate.execute("BEGIN")
                gate.execute(ddl.hold(targets[oid]))
            # It waits for us, not for others: that must not fail, however slow we are.
            self._say("SET lock_timeout = 0")
            self._session.pgconn.send_query_params(statement.text.encode(), None)
            met = self._pass(gates)
            tag, error = self._result()
            self._say(f"SET lock_timeout = {timeout_ms}")
        self._state.catalog = read_catalog(self._session)
        if error is not None:
            return Seen(statement=statement, tag="", transaction=number, alone=True, in_block=in_block, error=error)
        return Seen(
            statement=statement,
            tag=tag,
            transaction=number,
            alone=True,
            in_block=in_block,
            locks=tuple(Lock(relation=oid, mode=mode, since=statement.line, awaited=True) for oid, mode in met),
            before={oid: row for oid, row in before.items() if self._state.catalog.get(oid) != row or oid in targets},
            after={oid: row for oid, row in self._state.catalog.items() if before.get(oid) != row or oid in targets},
            lock_timeout_ms=timeout_ms,
        )

    def _targets(self, statement: Statement) -> dict[int, Relation]:
        """Find the tables that a statement names; for an index, its table."""
        found = self._session.execute(
            QUERIES.get("read_resolved", self._scratch.version), {"names": _names(statement)}
        ).fetchall()
        tables: dict[int, Relation] = {}
        for (oid,) in found:
            relation = self._state.catalog.get(oid)
            if relation is not None and relation.is_index:
                relation = self._state.catalog.get(relation.table)
            # LOCK TABLE takes tables only.
            if relation is not None and relation.kind in "rp":
                tables[relation.oid] = relation
        return tables

    def _pass(self, gates: dict[int, Connection]) -> list[tuple[int, str]]:
        """Let the statement through gate by gate; return what it asked for at each."""
        met: list[tuple[int, str]] = []
        until = time.monotonic() + STATEMENT_TIMEOUT_MS / 1000
        closed = dict(gates)
        while closed and self._is_busy() and time.monotonic() < until:
            for relation, mode, granted in self._locks_now():
                if not granted and relation in closed:
                    met.append((relation, mode))
                    closed.pop(relation).execute("ROLLBACK")
                    break
            else:
                time.sleep(0.002)
        for gate in closed.values():
            gate.execute("ROLLBACK")
        return met

    def _is_busy(self) -> bool:
        self._session.pgconn.consume_input()
        return bool(self._session.pgconn.is_busy())

    def _result(self) -> tuple[str, ServerSays | None]:
        answer: tuple[str, ServerSays | None] = ("", None)
        while (result := self._session.pgconn.get_result()) is not None:
            answer = self._read(result)
        return answer

    # The server

    def _say(self, text: str) -> tuple[str, ServerSays | None]:
        """Send one statement of the file as it is; the extended protocol refuses two in one."""
        return self._read(self._session.pgconn.exec_params(text.encode(), None))

    def _read(self, result: Any) -> tuple[str, ServerSays | None]:
        if result.status in (ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE):
            error = psycopg.errors.error_from_result(result)
            if self._session.pgconn.status != psycopg.pq.ConnStatus.OK:
                raise psycopg.OperationalError(str(error))
            diag = error.diag
            return "", ServerSays(
                sqlstate=error.sqlstate or "",
                message=diag.message_primary or "",
                detail=diag.message_detail or "",
                hint=diag.message_hint or "",
            )
        return _TAG_NUMBERS.sub("", (result.command_status or b"").decode()), None

    def _locks_now(self) -> list[tuple[int, str, bool]]:
        query = QUERIES.get("read_locks", self._scratch.version)
        return self._observer.execute(query, {"pid": self._session.info.backend_pid}).fetchall()

    def _scans(self) -> _Scans:
        rows = self._session.execute(QUERIES.get("read_scans", self._scratch.version)).fetchall()
        found = _Scans()
        for table, by_index, count in rows:
            (found.by_index if by_index else found.tables)[table] = count
        return found

    def _lock_timeout_ms(self) -> int:
        row = self._session.execute(QUERIES.get("read_lock_timeout", self._scratch.version)).fetchone()
        assert row is not None
        return row[0]


def _why_skipped(statement: Statement) -> str:
    words = statement.words
    if words[:1] in (("CREATE",), ("ALTER",), ("DROP",)) and len(words) > 1 and words[1] in _WIDE:
        if words[1] in {"USER", "ROLE"} and words[2:3] == ("MAPPING",):
            return ""
        return f"{words[0]} {words[1]} is about the whole server"
    if statement.starts("SET", "TRANSACTION"):
        return "lint has looked at the transaction before; the locks are the same"
    if statement.starts("PREPARE", "TRANSACTION"):
        return "it would stay prepared in the scratch server"
    return ""


def _why_not_possible(error: ServerSays) -> str:
    """Say of a failure that is the scratch server's, not the migration's, what it is."""
    if error.sqlstate == NO_RIGHT and not error.message.startswith("must be owner"):
        return f"it needs a right that nobody has in the scratch copy ({error.message})"
    is_role = error.sqlstate == UNKNOWN_OBJECT and error.message.startswith("role ")
    if is_role or (error.sqlstate == NOT_SUPPORTED and error.message.startswith("extension ")):
        return f"the scratch server lacks something ({error.message})"
    return ""


def _names(statement: Statement) -> list[str]:
    """Return what can be the name of a relation, as to_regclass takes it: words, alone or with a schema."""
    names: list[str] = []
    run: list[str] = []
    for token in (*statement.tokens, None):
        if token is not None and token.kind in {"word", "quoted"}:
            run.append(token.text)
        elif token is None or token.text != ".":
            run = []
        if run:
            names.append(run[-1])
        if len(run) == 2:
            names.append(".".join(run))
    return list(dict.fromkeys(names))
