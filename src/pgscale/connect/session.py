"""Sessions: one place that opens connections, each with a profile, so that no statement runs without a timeout."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import LiteralString, TypeAlias

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from pgscale.connect.dsn import redact, resolve_dsn
from pgscale.connect.pooler import check_pooling
from pgscale.errors import ConnectError, PermissionDeniedError, PgscaleError, RefusedError

Session: TypeAlias = "psycopg.Connection[TupleRow]"

OLDEST_VERSION = 140000


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a session is for and how long it may take.

    Args:
        purpose: shown in application_name, `pgscale/<purpose>`.
        statement_timeout_ms: 0 only with a reason beside it where the profile is made.
        lock_timeout_ms: longest wait for a lock, and so the longest queue behind it.
        read_only: the server refuses every write.
        durable: False lets COMMIT return before its WAL is flushed; only for work that the ledger repeats
            after a crash (the ledger row travels in the same transaction).
    """

    purpose: str
    statement_timeout_ms: int
    lock_timeout_ms: int
    read_only: bool = False
    durable: bool = True
    role: str | None = None

    def as_role(self, role: str | None) -> Profile:
        return replace(self, role=role)


READER = Profile(purpose="reader", statement_timeout_ms=60_000, lock_timeout_ms=1_000, read_only=True)
CONTROL = Profile(purpose="control", statement_timeout_ms=60_000, lock_timeout_ms=5_000)
# Index builds and validations of a large table take hours; they are cancelled by the run, not by a clock.
WORKER = Profile(purpose="worker", statement_timeout_ms=0, lock_timeout_ms=10_000, durable=False)
APPLIER = Profile(purpose="applier", statement_timeout_ms=600_000, lock_timeout_ms=10_000, durable=False)
PROBE = Profile(purpose="probe", statement_timeout_ms=10_000, lock_timeout_ms=1_000)

# Every name in our statements is qualified, so nothing may be found by accident; row_security=off turns a
# policy that would hide rows from the copy into an error; JIT costs 0.7 s of compiling for a chunk of 0.2 s.
_SETTINGS: tuple[tuple[LiteralString, LiteralString], ...] = (
    ("search_path", "pg_catalog"),
    ("row_security", "off"),
    ("jit", "off"),
    ("client_min_messages", "warning"),
    ("timezone", "UTC"),
    ("datestyle", "ISO, YMD"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("xmloption", "content"),
    ("default_tablespace", ""),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("client_connection_check_interval", "1s"),
)


def open_session(dsn: str | None, profile: Profile) -> Session:
    """Open an autocommit session with the profile's limits set.

    The settings are sent as SET statements, not as startup options, because poolers refuse the latter.

    Raises:
        ConnectError: the server cannot be reached or rejects the login.
        PermissionDeniedError: the profile's role may not be assumed.
        RefusedError: the server is older than PostgreSQL 14, or a pooler in transaction mode is in front of it.
    """
    conninfo = resolve_dsn(dsn)
    try:
        session = psycopg.connect(
            conninfo,
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=10,
            # Not SET: the names in the first statements must be understood already. Poolers track this one.
            client_encoding="UTF8",
            application_name=f"pgscale/{profile.purpose}",
        )
    except psycopg.OperationalError as error:
        reason = redact(" ".join(str(error).split()), conninfo)
        raise ConnectError(
            f"Cannot connect: {reason}.", hint="Check host, port, database, user and password (--dsn)."
        ) from None
    except psycopg.ProgrammingError as error:
        raise ConnectError(f"Cannot connect: {redact(' '.join(str(error).split()), conninfo)}.") from None
    if session.info.server_version < OLDEST_VERSION:
        version = session.info.server_version
        session.close()
        raise RefusedError(
            f"The server is PostgreSQL {version // 10000}; pgscale needs 14 or later.",
            hint="Upgrade the server first.",
        )
    try:
        check_pooling(session, conninfo)
        _apply(session, profile)
    except PgscaleError:
        session.close()
        raise
    except psycopg.Error as error:
        session.close()
        reason = redact(str(error).strip(), conninfo)
        if error.sqlstate == "42501":
            raise PermissionDeniedError(
                f"The login may not act as role {profile.role}: {reason}.",
                hint="Connect as the table's owner or as a member of its role.",
            ) from None
        raise ConnectError(f"The session could not be set up: {reason}.") from error
    return session


def renew(session: Session, profile: Profile) -> None:
    """Give a session that was used the settings of its profile again, as if it had just been opened, in one round trip.

    Its role, its advisory locks and what it prepared stay; it must be outside a transaction.
    """
    session.isolation_level = None
    session.prepare_threshold = None
    session.execute(sql.SQL("; ").join([sql.SQL("RESET ALL"), *_set(session, profile)]))


def _apply(session: Session, profile: Profile) -> None:
    if profile.role is not None:
        session.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(profile.role)))
    # One round trip: simple-query protocol takes many statements when there are no parameters.
    session.execute(sql.SQL("; ").join(_set(session, profile)))


def _set(session: Session, profile: Profile) -> list[sql.Composed]:
    settings: list[tuple[str, str]] = list(_SETTINGS)
    settings += [
        ("statement_timeout", str(profile.statement_timeout_ms)),
        ("lock_timeout", str(profile.lock_timeout_ms)),
        ("synchronous_commit", "on" if profile.durable else "off"),
        ("default_transaction_read_only", "on" if profile.read_only else "off"),
    ]
    if session.info.server_version >= 170000:
        settings.append(("transaction_timeout", "0"))
    return [sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value)) for name, value in settings]
