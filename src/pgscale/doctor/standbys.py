"""Replicas that were named: each is asked over a session of its own, and must be one of the database examined."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from psycopg.conninfo import conninfo_to_dict

from pgscale.connect.dsn import resolve_dsn
from pgscale.connect.session import open_session
from pgscale.doctor.facts import DOCTOR, Facts, NotReadableError, Replica, Section
from pgscale.errors import ConnectError, PermissionDeniedError, RefusedError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table of the user's, to recognize a database by."""

    oid: int
    name: str


OLDEST = Section(area="server", query="oldest_tables", row=Relation)


@contextmanager
def open_replicas(dsns: Sequence[str], primary: Facts) -> Generator[tuple[Replica, ...]]:
    """Give the replicas, each with its own read-only session; one that cannot be reached says why.

    Raises:
        UsageError: a server is no standby, or not one of this database, or the database examined is on a standby.
    """
    if dsns and primary.server.is_in_recovery:
        raise UsageError(
            "The database examined is on a standby, which has no replicas to ask.",
            hint="Give the primary as --dsn, and this one as --replica.",
        )
    with ExitStack() as opened:
        yield tuple(_open(opened, dsn, primary) for dsn in dsns)


def _open(opened: ExitStack, dsn: str, primary: Facts) -> Replica:
    name = _named(dsn)
    try:
        facts = Facts(opened.enter_context(open_session(dsn, DOCTOR)))
    except (ConnectError, PermissionDeniedError, RefusedError) as error:
        return Replica(name=name, facts=None, because=error.fact.rstrip(".?"))
    except NotReadableError as error:
        return Replica(name=name, facts=None, because=error.because)
    _check(name, facts, primary)
    return Replica(name=name, facts=facts)


def _named(dsn: str) -> str:
    given = conninfo_to_dict(resolve_dsn(dsn))
    host = given.get("host") or given.get("hostaddr") or "local"
    return f"{host}:{given['port']}" if given.get("port") else str(host)


def _check(name: str, replica: Facts, primary: Facts) -> None:
    """Let only a standby of this very database pass.

    Raises:
        UsageError: it is another.
    """
    if not replica.server.is_in_recovery:
        raise UsageError(
            f"--replica {name} is no standby: it is not in recovery.",
            hint="Name replicas that stream from the server of --dsn; a logical subscriber is a server of its own.",
        )
    mine, its = primary.system_identifier(), replica.system_identifier()
    if mine and its and mine != its:
        raise UsageError(
            f"--replica {name} is a standby of another server: its system identifier is {its}, not {mine}.",
            hint="Name replicas that stream from the server of --dsn, directly or through another.",
        )
    here, there = primary.server, replica.server
    if (here.database, here.database_oid) != (there.database, there.database_oid):
        raise UsageError(
            f"--replica {name} leads to database {there.database}, not to {here.database}.",
            hint="Name the same database in both.",
        )
    if not (mine and its) and not _are_alike(primary, replica):
        raise UsageError(
            f"--replica {name} has other tables than the database examined: it is a standby of another server.",
            hint="Name replicas that stream from the server of --dsn, directly or through another.",
        )


def _are_alike(primary: Facts, replica: Facts) -> bool:
    """Where the system identifier is hidden: most of the oldest tables are the same, for a replica lags."""
    try:
        mine, its = set(primary.rows(OLDEST)), set(replica.rows(OLDEST))
    except NotReadableError:
        return False
    return 2 * len(mine & its) >= max(len(mine), len(its))
