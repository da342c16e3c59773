"""Connections against their limits, and when a pooler pays."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from pgscale.core.finding import Answer, Finding, Findings, Remedy, Severity, Well, rank
from pgscale.core.model import Json
from pgscale.core.units import format_count, format_duration
from pgscale.doctor import ddl
from pgscale.doctor.checks.sessions import CLIENTS, Client, read_clients
from pgscale.doctor.facts import Facts, Section
from pgscale.doctor.limits import Limits
from pgscale.doctor.model import Check

SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimit:
    """CONNECTION LIMIT of a `database` or a `role`."""

    kind: str
    name: str
    most: int


CONNECTION_LIMITS = Section(area="sessions", query="connection_limits", row=ConnectionLimit)


def judge_connections(facts: Facts, limits: Limits) -> Answer:
    """Report limits that are nearly reached, and many connections of which few are busy."""
    clients = read_clients(facts)
    most = int(facts.setting("max_connections").number) - _reserved(facts)
    findings: list[Finding] = []
    for kind, name, limit, mine in _limited(facts, clients, most):
        severity = _nearness(len(mine), limit, limits)
        if severity is not None:
            findings.append(_near(facts, limits, severity, kind, name, limit, mine))
    if findings:
        findings.sort(key=lambda each: rank(each.severity), reverse=True)
        return Findings(tuple(findings))
    idle = [each for each in clients if each.state == "idle"]
    thresholds = limits.sessions
    if len(clients) >= thresholds.pooler_connections and len(idle) >= len(clients) * thresholds.pooler_idle_share:
        finding = Finding(
            check=CONNECTIONS.id,
            severity="info",
            subject="",
            fact=f"{len(idle):,} of {format_count(len(clients), 'connection')} are idle.",
            evidence=_counts(clients, most),
            cost="Each connection is a process with some MB of its own, and a burst makes them all busy at once.",
            remedies=(_pooler(facts, clients),),
        )
        return Findings((finding,))
    return Well(f"{len(clients):,} of {most:,} connections are in use, {len(idle):,} of them idle.")


def _reserved(facts: Facts) -> int:
    names = ["superuser_reserved_connections"] + ["reserved_connections"] * (facts.server.version >= 160000)
    return sum(int(facts.setting(name).number) for name in names)


def _limited(facts: Facts, clients: tuple[Client, ...], most: int) -> list[tuple[str, str, int, tuple[Client, ...]]]:
    """Every limit: its kind, whose it is, how many it lets in, and who is in."""
    limited: list[tuple[str, str, int, tuple[Client, ...]]] = [("server", "", most, clients)]
    for limit in facts.rows(CONNECTION_LIMITS):
        mine = tuple(c for c in clients if limit.name == (c.database if limit.kind == "database" else c.role))
        limited.append((limit.kind, limit.name, limit.most, mine))
    return limited


def _nearness(count: int, limit: int, limits: Limits) -> Severity | None:
    share = count / limit if limit > 0 else 1.0
    if share >= limits.sessions.critical_connections_share:
        return "critical"
    return "warning" if share >= limits.sessions.warning_connections_share else None


def _near(
    facts: Facts, limits: Limits, severity: Severity, kind: str, name: str, limit: int, clients: tuple[Client, ...]
) -> Finding:
    whose = "that clients may have" if kind == "server" else f"that {kind} {name} may have"
    idle = sum(each.state == "idle" for each in clients)
    long_idle_s = limits.sessions.long_idle_s
    long_idle = sum(each.state == "idle" and (each.state_s or 0.0) >= long_idle_s for each in clients)
    remedies: list[Remedy] = []
    if long_idle:
        of = {"datname": name if kind == "database" else None, "usename": name if kind == "role" else None}
        why = f"Ends the {long_idle:,} that were idle for {format_duration(long_idle_s)}; clients connect again."
        remedies.append(Remedy(text=ddl.terminate_idle("state = 'idle'", long_idle_s, **of), why=why))
    more = Remedy(
        text=ddl.alter_system("max_connections", str(round((limit + _reserved(facts)) * 1.5)))
        if kind == "server"
        else ddl.limit_connections(kind, name, round(limit * 1.5 + 0.5)),
        kind="setting",
        why="Lets more in. More busy sessions than the processors and the disks can serve make all of them slower.",
        restart=kind == "server",
    )
    remedies += [_pooler(facts, clients), more] if idle * 2 >= len(clients) else [more, _pooler(facts, clients)]
    return Finding(
        check=CONNECTIONS.id,
        severity=severity,
        subject="" if kind == "server" else f"{kind} {name}",
        fact=f"{len(clients):,} of the {limit:,} connections {whose} are in use, {idle:,} of them idle.",
        evidence=_counts(clients, limit),
        cost="When none is left, the next client is refused: FATAL, too many clients (53300).",
        remedies=tuple(remedies),
    )


def _counts(clients: tuple[Client, ...], limit: int) -> Mapping[str, Json]:
    groups: defaultdict[tuple[str, str, str], list[Client]] = defaultdict(list)
    for each in clients:
        groups[each.application, each.role, each.database].append(each)
    largest = sorted(groups.items(), key=lambda item: len(item[1]), reverse=True)[:SHOWN]
    return {
        "connections": len(clients),
        "limit": limit,
        "busy": sum(each.state == "active" for each in clients),
        "idle": sum(each.state == "idle" for each in clients),
        "by_application": [
            {
                "application": application, "role": role, "database": database, "connections": len(members),
                "busy": sum(each.state == "active" for each in members),
                "idle": sum(each.state == "idle" for each in members),
                "longest_idle_s": max((each.state_s or 0.0 for each in members if each.state == "idle"), default=None),
            }
            for (application, role, database), members in largest
        ],
    }  # fmt: skip


def _pooler(facts: Facts, clients: tuple[Client, ...]) -> Remedy:
    # Twice those that are busy now, so that a burst has room.
    size = max(10, 2 * sum(each.state == "active" for each in clients))
    port = facts.setting("port").value
    database = facts.server.database
    name = f'"{database}"' if re.search(r"\W", database) else database
    return Remedy(
        text=f"[databases]\n{name} = host=127.0.0.1 port={port}\n\n[pgbouncer]\nlisten_port = 6432\n"
        f"pool_mode = transaction\ndefault_pool_size = {size}\nmax_client_conn = {max(1000, 4 * len(clients))}",
        kind="file",
        why="In pgbouncer.ini: PgBouncer serves many clients with few connections. Session state (SET, LISTEN, advisory"
        " locks, temporary tables) does not survive between transactions there.",
    )


CONNECTIONS = Check(
    id="sessions.connections",
    title="Connections",
    question="Are the connections running out?",
    about=(
        "Beyond max_connections, less superuser_reserved_connections and (from 16 on) reserved_connections, clients are"
        " refused; so they are beyond the CONNECTION LIMIT of their role or database. Counted are sessions of clients:"
        " neither walsenders nor workers take from these. A connection that is idle costs memory and stands by to make"
        " a burst worse: a pooler shares few connections among many clients."
    ),
    source=(
        "PostgreSQL, Connections and Authentication (max_connections), which needs a restart to be raised: hence the"
        " warning at 80 %. Throughput falls when more sessions are busy than processors and disks can serve."
    ),
    judge=judge_connections,
    reads=(CLIENTS, CONNECTION_LIMITS),
)

CHECKS = (CONNECTIONS,)
