"""Have a query explained as its login would run it, in a transaction with its own limits that is always rolled back."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import psycopg
from psycopg import RawCursor

from pgscale.connect.session import Profile, Session
from pgscale.core.model import Json
from pgscale.core.units import format_duration
from pgscale.doctor.explain import ddl, reader
from pgscale.doctor.explain.facts import Setting
from pgscale.doctor.explain.model import Plan
from pgscale.doctor.explain.parsing import parse_plan
from pgscale.doctor.explain.statement import Query
from pgscale.errors import ConnectError, PermissionDeniedError, PgscaleError, RefusedError, UsageError

LOCK_TIMEOUT_MS = 1_000
# Of our own looks; the query's limit is its caller's.
EXPLAIN = Profile(purpose="explain", statement_timeout_ms=10_000, lock_timeout_ms=LOCK_TIMEOUT_MS, read_only=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How to explain.

    Args:
        analyze: execute the query.
        write: in a transaction that may write.
        params: the values of $1, $2, … as text; the server reads them as the types the query needs.
    """

    analyze: bool = False
    write: bool = False
    timeout_s: float = 10.0
    params: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A plan with the settings it was made by.

    Args:
        is_generic: made without the values of $1, $2, ….
        notes: what is to be known of how it was made.
    """

    plan: Plan
    settings: Mapping[str, Setting]
    is_generic: bool
    notes: tuple[str, ...] = ()


def explain(session: Session, query: Query, wish: Wish) -> Explained:
    """Return the plan of a query; with `analyze` what it did, and nothing of that remains.

    Takes the locks that planning takes (ACCESS SHARE, of what is written ROW EXCLUSIVE), with `analyze` those of the
    query, until the rollback.

    Raises:
        UsageError: the server does not take the query; it lacks values.
        RefusedError: it would write, did not end in time, or waited too long for a lock.
        PermissionDeniedError, ConnectError: likewise.
    """
    _refuse_early(query, wish)
    try:
        with _transaction(session, wish):
            notes = _see_io(session) if wish.analyze else ()
            is_generic = query.parameters > 0 and not wish.params
            if is_generic:
                document = _explain_generic(session, query)
            else:
                # Without executing first: it fills the caches of this new session; planning would be charged with it.
                document = _ask(session, ddl.explain(_options(session, analyze=False), query.text), wish.params)
            if wish.analyze:
                options = _options(session, analyze=True)
                document = _ask(session, ddl.explain(options, query.text), wish.params)
            settings = reader.read_settings(session)
    except psycopg.Error as error:
        raise _said(session, error, query, wish) from error
    return Explained(plan=parse_plan(document), settings=settings, is_generic=is_generic, notes=notes)


def _refuse_early(query: Query, wish: Wish) -> None:
    if wish.params and len(wish.params) != query.parameters:
        raise UsageError(
            f"The query has {query.parameters} parameters, and {len(wish.params)} values were given.",
            hint="Give a --param for each of $1, $2, …, in their order.",
        )
    if wish.analyze and query.parameters and not wish.params:
        raise UsageError(
            f"The query cannot be executed without values for its $1{' …' if query.parameters > 1 else ''}.",
            hint=f"Give --param {query.parameters} times, in their order; or leave --analyze out for the generic plan.",
        )
    if wish.analyze and query.is_writing and not wish.write:
        raise RefusedError(
            "The statement writes.",
            consequence="It was not executed.",
            hint="--analyze --write executes it and rolls it back: until then it holds its locks, its triggers fire,"
            " and what no rollback undoes (sequences, calls to the outside, bloat, WAL) stays. Without --analyze its"
            " plan is shown as expected.",
        )


@contextmanager
def _transaction(session: Session, wish: Wish) -> Generator[None]:
    with session.transaction(force_rollback=True):
        if wish.analyze and wish.write:
            session.execute("SET TRANSACTION READ WRITE")
        # Back to what the login, the database and the DSN set: the search_path and the planner's settings are the
        # query's. It ends with the transaction, as whatever is SET in one that is rolled back.
        session.execute("RESET ALL")
        for name, value in (
            ("statement_timeout", f"{max(1, round(wish.timeout_s * 1000))}ms"),
            ("lock_timeout", f"{LOCK_TIMEOUT_MS}ms"),
            ("idle_in_transaction_session_timeout", "60s"),
            # Of a client that was killed the server hears before the query's end.
            ("client_connection_check_interval", "1s"),
            ("client_min_messages", "error"),
            # As the scanner read it: one statement.
            ("standard_conforming_strings", "on"),
        ):
            session.execute(ddl.set_local(name, value))
        yield


def _see_io(session: Session) -> tuple[str, ...]:
    """Have the time of reads and writes measured, where the login may ask for it."""
    try:
        with session.transaction():
            session.execute(ddl.set_local("track_io_timing", "on"))
    except psycopg.errors.InsufficientPrivilege:
        row = session.execute("SELECT pg_catalog.current_setting('track_io_timing')").fetchone()
        if row is not None and row[0] == "off":
            return ("track_io_timing is off, and this login may not set it: how long reads took is not known.",)
    return ()


def _options(session: Session, *, analyze: bool) -> list[str]:
    version = session.info.server_version
    options = ["FORMAT JSON", "VERBOSE", "SETTINGS", "SUMMARY"]
    if analyze:
        options += ["ANALYZE", "BUFFERS", "WAL", "TIMING"]
        # What is TOASTed is fetched when it is sent, which EXPLAIN does not do otherwise.
        options += ["SERIALIZE TEXT", "MEMORY"] if version >= 170000 else []
    return options


def _explain_generic(session: Session, query: Query) -> Json:
    options = _options(session, analyze=False)
    if session.info.server_version >= 160000:
        return _ask(session, ddl.explain([*options, "GENERIC_PLAN"], query.text), (), is_generic=True)
    session.execute(ddl.set_local("plan_cache_mode", "force_generic_plan"))
    session.execute(ddl.prepare(query.text))
    try:
        row = session.execute(
            "SELECT pg_catalog.cardinality(p.parameter_types) FROM pg_catalog.pg_prepared_statements p"
            " WHERE p.name = %s",
            (ddl.PREPARED,),
        ).fetchone()
        assert row is not None
        return _ask(session, ddl.explain(options, ddl.execute_prepared(int(row[0]))), ())
    finally:
        # What was prepared outlives a rollback. In a failed transaction nothing can be said; the session ends anyway.
        if session.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
            session.execute(f"DEALLOCATE {ddl.PREPARED}".encode())


def _ask(session: Session, text: bytes, params: tuple[str, ...], *, is_generic: bool = False) -> Json:
    # Results in binary ask for the extended protocol, by which the server takes one statement and no more. It would
    # also take $1 of a generic plan for parameters it lacks.
    with RawCursor(session) as cursor:
        rows = cursor.execute(text, params or None, binary=not is_generic).fetchall()
    if len(rows) != 1:
        raise UsageError(
            "The query has no plan of its own.",
            hint="A rule (CREATE RULE) on its table puts nothing, or more, in its place.",
        )
    return cast("Json", rows[0][0])


def _said(session: Session, error: psycopg.Error, query: Query, wish: Wish) -> PgscaleError:
    said = (error.diag.message_primary or " ".join(str(error).split())).rstrip(".")
    code = f" ({error.sqlstate})" if error.sqlstate else ""
    detail = " ".join(part for part in (error.diag.message_detail, error.diag.message_hint) if part)
    unchanged = "Nothing was changed."
    if session.closed or session.broken or error.sqlstate is None:
        return ConnectError(f"The connection was lost: {said}.", hint="Try again.")
    match error.sqlstate:
        case "57014":
            return RefusedError(
                f"The query did not end within {format_duration(wish.timeout_s)}: {said}.",
                consequence=f"It was cancelled. {unchanged}",
                hint="Give it more with --timeout 5min, or leave --analyze out.",
            )
        case "55P03":
            return RefusedError(
                f"Somebody holds a lock that the query waits for: {said}.",
                consequence=f"It was given up after {LOCK_TIMEOUT_MS} ms, for whoever waits behind it. {unchanged}",
                hint="`pgscale locks` shows who holds it.",
            )
        case "25006":
            return RefusedError(
                f"The query writes: {said}.",
                consequence=f"It was executed in a read-only transaction and refused there. {unchanged}",
                hint="--analyze --write executes it and rolls it back; what no rollback undoes (sequences, calls to the"
                " outside) stays. A standby takes no writes at all.",
            )
        case "42501":
            return PermissionDeniedError(f"{said}{code}.", hint=detail or "Connect as the role that runs the query.")
        case _:
            return UsageError(f"The server does not take the query: {said}{code}.", hint=detail or _hint(error, query))


def _hint(error: psycopg.Error, query: Query) -> str:
    if error.sqlstate in ("42P01", "42883", "3F000"):
        return (
            "Names are looked up as this login does: another search_path goes into the DSN, options=-csearch_path=shop."
        )
    if query.parameters and error.sqlstate in ("42601", "42P18", "42804", "42725"):
        return "A text in which constants were replaced cannot always be read back: give the query with its values."
    return ""
