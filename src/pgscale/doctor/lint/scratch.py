"""A database to run migrations in: made on a server given for it, filled with a schema, dropped at the end."""

from __future__ import annotations

import re
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from pgscale.connect.dsn import redact
from pgscale.connect.session import Profile, Session, open_session
from pgscale.core.model import shorten
from pgscale.doctor.lint import ddl
from pgscale.doctor.lint.live import ExtensionFunction
from pgscale.doctor.lint.splitting import split
from pgscale.errors import ConnectError, PermissionDeniedError, RefusedError
from pgscale.sql import load
from pgscale.sql.statements import Statement

QUERIES = load(__package__ or "pgscale.doctor.lint")

# It makes and drops databases, whose files a busy disk takes its time for.
KEEPER = Profile(purpose="lint", statement_timeout_ms=120_000, lock_timeout_ms=30_000)
STATEMENT_TIMEOUT_MS = 60_000
# Statements of a dump that are run together: each table is locked until the last has run.
CHUNK = 100

Connection: TypeAlias = "psycopg.Connection[TupleRow]"

# Of uuid-ossp; what is there is not known where no database was given.
UUID_FUNCTIONS = tuple(
    ExtensionFunction(schema="public", name=name, arguments="", result="uuid", volatility="VOLATILE")
    for name in ("uuid_generate_v1", "uuid_generate_v1mc", "uuid_generate_v4")
)
EXTENSION_TYPES = frozenset(
    {"citext", "cube", "geography", "geometry", "halfvec", "hstore", "ltree", "raster", "sparsevec", "vector"}
)

_MISSING_ROLE = re.compile(r'role "(.+)" does not exist')
_MISSING_FUNCTION = re.compile(r"function (?:\w+\.)?(\w+)\(.*\) does not exist")
_MISSING_TYPE = re.compile(r'type "(?:(\w+)\.)?(\w+)(?:\[\])?" does not exist')


@dataclass(slots=True)
class Scratch:
    """A scratch database.

    Args:
        dsn: to log in as the role that runs migrations; never a superuser's.
        admin: a session of the given login in that database, for what only it may do; the migration's never.
        disposable: the whole server is ours, so roles may be made in it.
        role: who runs migrations.
        functions: those of the real database's extensions, which the scratch server may lack.
        notes: what could not be copied, in sentences.
    """

    dsn: str
    admin: Session
    disposable: bool
    role: str
    version: int
    functions: tuple[ExtensionFunction, ...] = ()
    notes: list[str] = field(default_factory=list[str])

    def connect(self, lock_timeout_ms: int = 0) -> Connection:
        """Open a session as an application has it, with the time of a statement limited.

        Raises:
            ConnectError: the role made for it cannot log in.
        """
        options = f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={lock_timeout_ms}"
        try:
            return psycopg.connect(
                self.dsn, autocommit=True, prepare_threshold=None, client_encoding="UTF8", options=options
            )
        except psycopg.Error as error:
            reason = redact(" ".join(str(error).split()), self.dsn)
            raise ConnectError(
                f"The scratch database was made, but {self.role} cannot log in to it: {reason}.",
                hint="Give --scratch a role that has CREATEDB and is no superuser: it runs the migration itself then.",
            ) from None

    def has_helped(self, message: str, *, only_extensions: bool = False) -> bool:
        """Make what a message of the server misses, where that can be done; tell whether the statement may succeed now.

        Args:
            only_extensions: of types, make those of well-known extensions only: another one may be misspelt.
        """
        role = _MISSING_ROLE.search(message)
        if role is not None and self.disposable:
            with suppress(psycopg.errors.DuplicateObject):
                self.admin.execute(ddl.create_role_for(role[1], self.role))
            return True
        function = _MISSING_FUNCTION.search(message)
        if function is not None:
            return self._has_function(function[1])
        found = _MISSING_TYPE.search(message)
        if found is not None and (found[2] in EXTENSION_TYPES or not only_extensions):
            return self._has_type(found[1] or "public", found[2])
        return False

    def _has_function(self, name: str) -> bool:
        """Make functions that return NULL for those of a name that an extension of the real database has."""
        made = 0
        for function in self.functions or UUID_FUNCTIONS:
            if function.name != name:
                continue
            try:
                with self.connect() as session:
                    session.execute(ddl.create_function_stand_in(function))
            except psycopg.Error:
                continue
            made += 1
        if made:
            self.notes.append(f"Function {name} is not on the scratch server: one that returns NULL stands in for it.")
        return made > 0

    def _has_type(self, schema: str, name: str) -> bool:
        """Make a domain over text for a type that is missing, mostly an extension's; no lock depends on it."""
        try:
            with self.connect() as session:
                session.execute(ddl.create_stand_in(schema, name))
        except psycopg.Error:
            return False
        self.notes.append(f"Type {schema}.{name} is not on the scratch server: text stands in for it.")
        return True


@contextmanager
def open_scratch(dsn: str, *, disposable: bool) -> Generator[Scratch]:
    """Make a database on a server, and drop it at the end with the role made for it.

    A superuser's login only makes them: migrations run as a role without rights, so that they reach no file, program
    or other database of the server.

    Args:
        disposable: the server is ours alone.

    Raises:
        ConnectError: it cannot be reached.
        PermissionDeniedError: the login may not create databases.
        RefusedError: the server does not count scans.
    """
    name = f"pgscale_lint_{secrets.token_hex(6)}"
    with open_session(dsn, KEEPER) as keeper:
        row = keeper.execute(QUERIES.get("read_login", keeper.info.server_version)).fetchone()
        assert row is not None
        superuser, version, counts = row
        if not counts:
            raise RefusedError(
                "The scratch server has track_counts off, so what is read could not be seen.",
                hint="Turn it on there, or leave --scratch out.",
            )
        password = secrets.token_urlsafe(24)
        login = name if superuser else None
        try:
            if superuser:
                keeper.execute(ddl.create_login(name, password))
            try:
                keeper.execute(ddl.create_database(name, login))
            except psycopg.errors.InsufficientPrivilege:
                raise PermissionDeniedError(
                    "The login of --scratch may not create a database.", hint="ALTER ROLE … CREATEDB gives the right."
                ) from None
            inside = make_conninfo(dsn, dbname=name)
            with open_session(inside, KEEPER) as admin:
                # For CREATE EXTENSION without a schema.
                admin.execute("SET search_path TO public")
                yield Scratch(
                    dsn=make_conninfo(inside, user=login, password=password) if login else inside,
                    admin=admin,
                    disposable=disposable,
                    role=login or keeper.info.user,
                    version=version,
                )
        finally:
            # The connection may be what failed.
            with suppress(psycopg.Error):
                keeper.execute(ddl.drop_database(name))
                if superuser:
                    keeper.execute(ddl.drop_role(name))


def load_schema(scratch: Scratch, text: str, name: str, *, is_dump: bool) -> None:
    """Run a schema in the scratch database; what fails is left out and said in its notes.

    Args:
        text: SQL, of pg_dump --schema-only or of a file.
        name: of the file, for messages.

    Raises:
        UsageError: as split().
    """
    statements = split(text, name, skip_meta=is_dump)
    with scratch.connect() as session:
        for start in range(0, len(statements), CHUNK):
            some = statements[start : start + CHUNK]
            if not (is_dump and _ran_together(session, some)):
                for statement in some:
                    _run(scratch, session, statement)
        if session.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
            session.execute("COMMIT")


def _ran_together(session: Connection, statements: tuple[Statement, ...]) -> bool:
    """Run statements in one round trip and one transaction; tell whether they ran. If not, nothing of them is there."""
    text = ";\n".join(statement.text for statement in statements)
    return session.pgconn.exec_(text.encode()).status != psycopg.pq.ExecStatus.FATAL_ERROR


def _run(scratch: Scratch, session: Connection, statement: Statement) -> None:
    for _ in range(20):
        try:
            _execute(scratch, session, statement)
        except psycopg.Error as error:
            if session.info.transaction_status is psycopg.pq.TransactionStatus.INERROR:
                session.execute("ROLLBACK")
            message = " ".join(str(error.diag.message_primary or error).split())
            if scratch.has_helped(message):
                continue
            # A newer pg_dump sets what an older server does not know, and schema public is there.
            if statement.starts("SET") or error.sqlstate == "42P06":
                return
            scratch.notes.append(f"Not in the scratch copy: {shorten(statement.text, 80)}: {message}.")
        return


def _execute(scratch: Scratch, session: Connection, statement: Statement) -> None:
    # The extended protocol refuses two statements in one: what is split wrongly is told, not run.
    result = session.pgconn.exec_params(statement.text.encode(), None)
    if result.status != psycopg.pq.ExecStatus.FATAL_ERROR:
        return
    error = psycopg.errors.error_from_result(result)
    if error.sqlstate == "42501" and statement.starts("CREATE", "EXTENSION"):
        # Untrusted ones are a superuser's to make; the statement is this one and no other.
        scratch.admin.execute(statement.text.encode(), prepare=False)
        return
    raise error
