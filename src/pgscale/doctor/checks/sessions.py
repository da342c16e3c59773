"""Sessions: transactions that clients have forgotten, and what would end them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pgscale.core.finding import Answer, Finding, Findings, Remedy, Well
from pgscale.core.model import quote_ident, shorten
from pgscale.core.units import format_count, format_duration
from pgscale.doctor import ddl
from pgscale.doctor.facts import Facts, NotReadableError, Section
from pgscale.doctor.limits import Limits
from pgscale.doctor.model import Check

SHOWN = 5
IDLE_TIMEOUT, TRANSACTION_TIMEOUT = "idle_in_transaction_session_timeout", "transaction_timeout"
PROPOSED_IDLE_TIMEOUT, PROPOSED_TRANSACTION_TIMEOUT = "10min", "1h"


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One session of a client, our own excepted.

    Args:
        is_hidden: the login may see who it is but not what it does.
        state_s: how long it has been in its state, seconds.
        transaction_s: how old its transaction is, seconds.
        holds_rows: it has a snapshot or a transaction id, so VACUUM keeps rows for it.
        query: the last one, of sessions that are idle in a transaction.
    """

    pid: int
    database: str
    role: str
    application: str
    client: str | None
    is_hidden: bool
    state: str | None
    state_s: float | None
    transaction_s: float | None
    holds_rows: bool
    query: str | None

    @property
    def idle_in_transaction_s(self) -> float:
        """0 when it is not."""
        return (self.state_s or 0.0) if (self.state or "").startswith("idle in transaction") else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSetting:
    """A setting of ALTER ROLE … IN DATABASE … SET: None is any role, or any database."""

    database: str | None
    role: str | None
    name: str
    value: str


CLIENTS = Section(area="sessions", query="clients", row=Client)
ROLE_SETTINGS = Section(area="sessions", query="role_settings", row=RoleSetting)


def read_clients(facts: Facts) -> tuple[Client, ...]:
    """Return all sessions of clients.

    Raises:
        NotReadableError: what some of them do is hidden.
    """
    clients = facts.rows(CLIENTS)
    hidden = sum(client.is_hidden for client in clients)
    if hidden:
        raise NotReadableError(
            f"what {format_count(hidden, 'session')} of other roles {'does' if hidden == 1 else 'do'} is hidden from"
            " this login",
            facts.grant_monitor,
        )
    return clients


# Idle in transaction


def judge_idle_in_transaction(facts: Facts, limits: Limits) -> Answer:
    """Report sessions that began a transaction and then asked for nothing more."""
    thresholds = limits.sessions
    idle = sorted(
        (each for each in read_clients(facts) if each.idle_in_transaction_s > 0),
        key=lambda each: each.idle_in_transaction_s,
        reverse=True,
    )
    long = [each for each in idle if each.idle_in_transaction_s >= thresholds.warning_idle_in_transaction_s]
    if not long:
        if not idle:
            return Well("No session is idle in a transaction.")
        longest = format_duration(idle[0].idle_in_transaction_s)
        return Well(f"No session is idle in a transaction for long; the longest for {longest}.")
    worst = long[0].idle_in_transaction_s
    limit = format_duration(thresholds.warning_idle_in_transaction_s)
    holding = sum(each.holds_rows for each in long)
    keeps = f" {holding} of them keep VACUUM from removing rows." if holding else ""
    finding = Finding(
        check=IDLE.id,
        severity="critical" if worst >= thresholds.critical_idle_in_transaction_s else "warning",
        subject=f"session {long[0].pid}" if len(long) == 1 else "",
        fact=(
            f"{format_count(len(long), 'session')} {'is' if len(long) == 1 else 'are'} idle in a transaction for more"
            f" than {limit}, the longest for {format_duration(worst)}."
        ),
        evidence={
            "sessions": len(long),
            "longest_s": worst,
            "which": [
                {
                    "pid": each.pid, "database": each.database, "role": each.role, "application": each.application,
                    "idle_s": each.idle_in_transaction_s, "transaction_s": each.transaction_s,
                    "last_query": shorten(each.query or "", 60),
                }
                for each in long[:SHOWN]
            ],
        },
        cost=f"They keep their locks, which DDL and others may wait for, and their connections.{keeps}",
        remedies=(
            Remedy(
                text=ddl.terminate_idle(
                    "state LIKE 'idle in transaction%'", thresholds.warning_idle_in_transaction_s
                ),
                why="Ends them, and rolls their transactions back. A cancel would do nothing: no statement is running.",
            ),
            _bound_idle(facts.server.database),
        ),
    )  # fmt: skip
    return Findings((finding,))


def _bound_idle(database: str) -> Remedy:
    return Remedy(
        text=ddl.alter_database(database, IDLE_TIMEOUT, PROPOSED_IDLE_TIMEOUT),
        kind="setting",
        why="Lets the server do so from now on, in new sessions. The owner of the database may.",
    )


# What bounds transactions


def judge_timeouts(facts: Facts, limits: Limits) -> Answer:
    """Report roles whose forgotten transactions nothing would ever end."""
    del limits
    names = [IDLE_TIMEOUT] + [TRANSACTION_TIMEOUT] * (facts.server.version >= 170000)
    database = facts.server.database
    connected = {each.role for each in facts.rows(CLIENTS) if each.database == database}
    settings = facts.rows(ROLE_SETTINGS)
    bases = {name: _for_everybody(facts, name) for name in names}

    def bounded(role: str | None) -> bool:
        return any(_is_set(_effective(settings, role, name, bases[name])) for name in names)

    unbounded = sorted(role for role in connected if not bounded(role))
    if not unbounded and bounded(None):
        said = ", ".join(
            f"{name} is {value}" for name in names if _is_set(value := _effective(settings, None, name, bases[name]))
        )
        return Well(f"A transaction that is forgotten is ended: {said}.")
    if connected and not unbounded:
        return Well("A transaction that is forgotten is ended, by the settings of each role that is connected.")
    zero = " and ".join(names)
    whom = f" for {format_count(len(unbounded), 'role')} that {'is' if len(unbounded) == 1 else 'are'} connected"
    finding = Finding(
        check=TIMEOUTS.id,
        severity="info",
        subject=f"database {database}",
        fact=f"Nothing ends a transaction that an application forgets: {zero} {'is' if len(names) == 1 else 'are'} 0"
        f"{whom if unbounded else ''}.",
        evidence={
            "settings": {name: _effective(settings, None, name, bases[name]) for name in names},
            "roles": [*unbounded],
        },
        cost="One lost client or one missing COMMIT keeps its locks, and keeps VACUUM from removing rows.",
        remedies=_bounds(facts, settings, unbounded),
    )
    return Findings((finding,))


def _bounds(facts: Facts, settings: tuple[RoleSetting, ...], unbounded: list[str]) -> tuple[Remedy, ...]:
    database = facts.server.database
    # What a role was given for itself is stronger than what its database has.
    exempt = [role for role in unbounded if any(each.role == role and each.name == IDLE_TIMEOUT for each in settings)]
    first = _bound_idle(database)
    lines = [first.text, *(ddl.alter_role(r, IDLE_TIMEOUT, PROPOSED_IDLE_TIMEOUT, database=database) for r in exempt)]
    remedies = [Remedy(text="\n".join(lines), kind="setting", why=first.why)]
    if facts.server.version >= 170000 and unbounded:
        busy = [
            ddl.alter_role(r, TRANSACTION_TIMEOUT, PROPOSED_TRANSACTION_TIMEOUT, database=database) for r in unbounded
        ]
        why = (
            "Ends busy transactions too, however long they may take: for roles of applications only, since backups"
            " and migrations would be ended as well."
        )
        remedies.append(Remedy(text="\n".join(busy), kind="setting", why=why))
    return tuple(remedies)


def _for_everybody(facts: Facts, name: str) -> str:
    """Return the value of the configuration file; no matter what where the database has its own.

    Raises:
        NotReadableError: a setting of our own role hides it.
    """
    if any(each.name == name and each.role == facts.server.role for each in facts.rows(ROLE_SETTINGS)):
        mine = quote_ident(facts.server.role)
        because = f"role {mine} has its own {name}, which hides what other roles get"
        raise NotReadableError(because, f"ALTER ROLE {mine} RESET {name};")
    setting = facts.setting(name)
    return setting.value if not _is_set(setting.value) else format_duration(setting.seconds)


def _effective(settings: tuple[RoleSetting, ...], role: str | None, name: str, base: str) -> str:
    """What a role gets in this database: a role's own setting wins over the database's, the most precise first."""
    mine = (each.value for each in settings if each.name == name and each.role in (None, role))
    return next(mine, base)


def _is_set(value: str) -> bool:
    """`0`, `0s` and `-1` are no timeout."""
    return re.match(r"\s*0*[1-9]", value) is not None


_FORGOTTEN = (
    "A session is idle in a transaction when its client has begun one and asks for nothing more: it computes, waits for"
    " something else, or has forgotten it. Meanwhile the transaction keeps every lock it took; and where it wrote, or"
    " has a snapshot, it keeps VACUUM from removing rows (see horizon.held)."
)

IDLE = Check(
    id="sessions.idle_in_transaction",
    title="Idle in transaction",
    question="Has a client begun a transaction and forgotten it?",
    about=_FORGOTTEN,
    source=(
        "PostgreSQL, Client Connection Defaults (idle_in_transaction_session_timeout). What an application does between"
        " two statements takes milliseconds; five minutes are a person at a prompt or a fault."
    ),
    judge=judge_idle_in_transaction,
    reads=(CLIENTS,),
)

TIMEOUTS = Check(
    id="sessions.timeouts",
    title="Timeouts",
    question="Would a forgotten transaction stay for ever?",
    about=(
        f"{_FORGOTTEN} idle_in_transaction_session_timeout ends such sessions; transaction_timeout (from 17 on) ends"
        " whatever lasts longer, busy or not. Judged is what new sessions of the roles that are connected get: the"
        " configuration, ALTER DATABASE and ALTER ROLE. What a client sets for itself cannot be seen."
    ),
    source=(
        "PostgreSQL, Client Connection Defaults. The chapter advises against transaction_timeout for all sessions:"
        " it would end backups, too."
    ),
    judge=judge_timeouts,
    reads=(CLIENTS, ROLE_SETTINGS),
)

CHECKS = (IDLE, TIMEOUTS)
