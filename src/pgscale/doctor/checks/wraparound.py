"""Wraparound: how old what is not frozen yet is, how long the ids last, and what keeps VACUUM from freezing."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pgscale.core.finding import Answer, Finding, Findings, Remedy, Severity, Well, rank
from pgscale.core.model import Json
from pgscale.core.units import format_count, format_duration
from pgscale.doctor import ddl
from pgscale.doctor.checks.holders import PREPARED, SESSIONS, SLOTS, TRANSACTION_IDS, Holder, read_holders
from pgscale.doctor.checks.horizon import remedies_of
from pgscale.doctor.facts import Counters, Facts, NotReadableError, Section
from pgscale.doctor.limits import Limits
from pgscale.doctor.model import Check

SHOWN = 5
# More tables than these are not named one by one: VACUUM without names takes all.
NAMED = 20
# Ids are compared by their distance, which has 31 bits; the last three million are refused to everybody but VACUUM.
USABLE = (1 << 31) - 3_000_000

Kind: TypeAlias = Literal["xids", "mxids"]
NOUN: dict[Kind, str] = {"xids": "transaction", "mxids": "multixact"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AgedDatabase:
    name: str
    is_here: bool
    may_connect: bool
    age_xids: int
    age_mxids: int

    def age(self, kind: Kind) -> int:
        return self.age_xids if kind == "xids" else self.age_mxids


@dataclass(frozen=True, slots=True, kw_only=True)
class AgedTable:
    """A table, a materialized view or a TOAST table.

    Args:
        owner, owner_oid: the table that a TOAST table belongs to; else no name and its own OID.
        pages: as of its last VACUUM or ANALYZE.
        most_xids, most_mxids: at what age autovacuum freezes it, whatever else there is to do.
        vacuumed_by, scanned_share: a VACUUM that runs now, and how far it has come.
    """

    oid: int
    name: str
    owner: str | None
    owner_oid: int
    is_temporary: bool
    pages: int
    age_xids: int
    most_xids: int
    age_mxids: int
    most_mxids: int
    vacuumed_by: int | None
    scanned_share: float | None

    @property
    def shown(self) -> str:
        return f"TOAST of {self.owner}" if self.owner else self.name

    def age(self, kind: Kind) -> int:
        return self.age_xids if kind == "xids" else self.age_mxids

    def most(self, kind: Kind) -> int:
        return self.most_xids if kind == "xids" else self.most_mxids


MULTIXACTS = Counters(area="wraparound", query="multixacts")
DATABASES = Section(area="wraparound", query="databases", row=AgedDatabase)
TABLES = Section(area="wraparound", query="tables", row=AgedTable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What ages of a kind are measured by.

    Args:
        most: where autovacuum begins to freeze whatever else there is to do.
        failsafe: where VACUUM leaves out everything else, indexes too.
        per_s: how many ids are used up; None when that is not known.
        basis: since when that was measured.
    """

    kind: Kind
    most: int
    failsafe: int
    per_s: float | None
    basis: str

    def left_s(self, age: int) -> float | None:
        return None if not self.per_s else max(0, USABLE - age) / self.per_s

    def severity(self, age: int, most: int, limits: Limits) -> Severity | None:
        """How bad an age is that autovacuum should have kept at `most`."""
        thresholds = limits.wraparound
        if age >= self.failsafe * thresholds.critical_failsafe_share:
            return "critical"
        if age < most * thresholds.warning_limit_share:
            return None
        left_s = self.left_s(age)
        return "critical" if left_s is not None and left_s < thresholds.critical_left_s else "warning"


def read_scale(facts: Facts, kind: Kind) -> Scale:
    """Read how ages are judged, and how fast they grow."""
    prefix = "multixact_" if kind == "mxids" else ""
    most = int(facts.setting(f"autovacuum_{prefix}freeze_max_age").number)
    # As vacuum_xid_failsafe_check() in vacuum.c has it, 14 to 18.
    failsafe = max(int(facts.setting(f"vacuum_{prefix}failsafe_age").number), int(most * 1.05))
    counters, column = (TRANSACTION_IDS, "next_xid") if kind == "xids" else (MULTIXACTS, "next_mxid")
    facts.reading(counters)
    try:
        delta = facts.delta(counters)
    except NotReadableError:
        return Scale(kind=kind, most=most, failsafe=failsafe, per_s=None, basis="")
    return Scale(kind=kind, most=most, failsafe=failsafe, per_s=delta.per_s(column), basis=delta.basis)


def _only_on_a_primary(facts: Facts) -> None:
    if facts.server.is_in_recovery:
        raise NotReadableError("what a standby has is frozen by its primary", "Ask there.")


# Databases


def judge_databases(facts: Facts, limits: Limits) -> Answer:
    """Report databases that should have been frozen, by transaction ids and by multixact ids."""
    _only_on_a_primary(facts)
    databases = facts.rows(DATABASES)
    scales = [read_scale(facts, kind) for kind in NOUN]
    findings: list[Finding] = []
    for scale in scales:
        aged: list[AgedDatabase] = []
        severities: list[Severity] = []
        for each in sorted(databases, key=lambda each: each.age(scale.kind), reverse=True):
            severity = scale.severity(each.age(scale.kind), scale.most, limits)
            if severity is not None:
                aged.append(each)
                severities.append(severity)
        if aged:
            findings.append(_databases(facts, limits, scale, severities[0], aged))
    if findings:
        findings.sort(key=lambda each: rank(each.severity), reverse=True)
        return Findings(tuple(findings))
    oldest = max(databases, key=lambda each: each.age_xids)
    left_s = scales[0].left_s(oldest.age_xids)
    lasts = f"; at the present rate the ids last {format_duration(left_s)}" if left_s is not None else ""
    return Well(f"The oldest database, {oldest.name}, is {format_count(oldest.age_xids, 'transaction')} old{lasts}.")


def _databases(facts: Facts, limits: Limits, scale: Scale, severity: Severity, aged: list[AgedDatabase]) -> Finding:
    oldest = aged[0]
    kind: Kind = scale.kind
    remedies: list[Remedy] = []
    holder = _holder(facts, limits, scale, min(each.age(kind) for each in aged))
    if any(each.is_here for each in aged):
        why = f"In database {facts.server.database}, which tables it is about says wraparound.tables. {_FREEZES}"
        remedies.append(Remedy(text=ddl.freeze(()), why=why))
    elsewhere = [each.name for each in aged if not each.is_here and each.may_connect]
    if elsewhere:
        lines = [f"vacuumdb --freeze --dbname={shlex.quote(name)}" for name in elsewhere]
        remedies.append(Remedy(text="\n".join(lines), kind="shell", why=f"As a superuser. {_FREEZES}"))
    if not remedies:
        # template0: autovacuum alone can go there.
        why = f"Nobody may connect to {oldest.name}: autovacuum alone freezes it, within minutes when it is on."
        remedies.append(Remedy(text=ddl.alter_system("autovacuum", "on"), kind="setting", why=why))
    return Finding(
        check=DATABASE_AGE.id,
        severity=severity,
        subject=f"database {oldest.name}",
        fact=f"Database {oldest.name} is {_old(scale, oldest.age(kind), scale.most)}.",
        evidence={
            **_measured(scale, oldest.age(kind)),
            "databases": [
                {"database": each.name, f"age_{kind}": each.age(kind), "left_s": scale.left_s(each.age(kind))}
                for each in aged[:SHOWN]
            ],
            **_held(holder),
        },
        cost=_COST[kind],
        remedies=(*_first(holder), *remedies),
    )


# Tables


def judge_tables(facts: Facts, limits: Limits) -> Answer:
    """Report tables of this database that should have been frozen, and why they are not."""
    _only_on_a_primary(facts)
    tables = facts.rows(TABLES)
    findings: list[Finding] = []
    for kind in NOUN:
        scale = read_scale(facts, kind)
        aged = find_aged(facts, limits, scale)
        if aged:
            findings.append(_tables(facts, limits, scale, aged[0][0], [each for _, each in aged]))
    if findings:
        findings.sort(key=lambda each: rank(each.severity), reverse=True)
        return Findings(tuple(findings))
    oldest = max(tables, key=lambda each: each.age_xids)
    return Well(f"The oldest table, {oldest.shown}, is {format_count(oldest.age_xids, 'transaction')} old.")


def find_aged(facts: Facts, limits: Limits, scale: Scale) -> list[tuple[Severity, AgedTable]]:
    """Return the tables that should have been frozen, the worst first."""
    kind: Kind = scale.kind
    aged: list[tuple[Severity, AgedTable]] = []
    for each in sorted(facts.rows(TABLES), key=lambda each: each.age(kind), reverse=True):
        severity = scale.severity(each.age(kind), each.most(kind), limits)
        if severity is not None:
            aged.append((severity, each))
    return sorted(aged, key=lambda each: rank(each[0]), reverse=True)


def _tables(facts: Facts, limits: Limits, scale: Scale, severity: Severity, aged: list[AgedTable]) -> Finding:
    kind: Kind = scale.kind
    first = aged[0]
    holder = _holder(facts, limits, scale, min(each.age(kind) for each in aged))
    count = f" So are {format_count(len(aged) - 1, 'other table')}." if len(aged) > 1 else ""
    return Finding(
        check=TABLE_AGE.id,
        severity=severity,
        subject=first.shown,
        fact=f"{first.shown} is {_old(scale, first.age(kind), first.most(kind))}.{count}",
        evidence={
            **_measured(scale, first.age(kind)),
            "tables": [
                {
                    "table": each.shown, f"age_{kind}": each.age(kind), "autovacuum_at": each.most(kind),
                    "size_bytes": each.pages * facts.server.block_bytes, "temporary": each.is_temporary,
                    "vacuumed_by": each.vacuumed_by, "scanned_share": each.scanned_share,
                }
                for each in aged[:SHOWN]
            ],
            **_held(holder),
        },
        cost=_COST[kind],
        remedies=(*_first(holder), *_of_tables(aged)),
    )  # fmt: skip


def _of_tables(aged: list[AgedTable]) -> Iterable[Remedy]:
    temporary = [each for each in aged if each.is_temporary]
    lasting = [each for each in aged if not each.is_temporary]
    if temporary:
        # No VACUUM but that of their session can reach them.
        lines = [f"DROP TABLE {each.owner or each.name};" for each in temporary[:NAMED]]
        why = "Temporary tables of other sessions: only those can freeze them, and autovacuum cannot. As a superuser."
        yield Remedy(text="\n".join(lines), why=why)
    if lasting:
        # A TOAST table is frozen with its table.
        names = list(dict.fromkeys(each.owner or each.name for each in lasting))
        running = [each for each in lasting if each.vacuumed_by is not None]
        waits = f" A VACUUM of {running[0].shown} is running: let it end first." if running else ""
        yield Remedy(text=ddl.freeze(names if len(names) <= NAMED else ()), why=f"{_FREEZES}{waits}")


# What both say


def _old(scale: Scale, age: int, most: int) -> str:
    noun = NOUN[scale.kind]
    said = f"{format_count(age, f'{noun} id')} old, {age / max(1, most):.1f} times the age where autovacuum freezes it"
    left_s = scale.left_s(age)
    return said if left_s is None else f"{said}; at the present rate the ids last {format_duration(left_s)}"


def _measured(scale: Scale, age: int) -> dict[str, Json]:
    return {
        f"age_{scale.kind}": age,
        "autovacuum_freezes_at": scale.most,
        "failsafe_at": scale.failsafe,
        "writes_end_at": USABLE,
        "ids_per_second": scale.per_s,
        "left_s": scale.left_s(age),
        "measured": scale.basis,
    }


def _holder(facts: Facts, limits: Limits, scale: Scale, least_age: int) -> Holder | None:
    """Whoever keeps VACUUM from freezing what is reported: it reaches back further than the youngest of it.

    Who keeps multixact ids cannot be seen, but it is an old transaction, too: one that holds the horizon for long.
    """
    holders = [
        each
        for each in read_holders(facts)
        if each.reach != "elsewhere"
        and (
            each.age_xids >= least_age
            if scale.kind == "xids"
            else each.age_s is not None and each.age_s >= limits.horizon.warning_age_s
        )
    ]
    return max(holders, key=lambda each: (each.age_xids, each.endures, each.age_s or 0.0), default=None)


def _held(holder: Holder | None) -> dict[str, Json]:
    return {} if holder is None else {"freezing_is_held_by": holder.name, "which_is_xids": holder.age_xids}


def _first(holder: Holder | None) -> tuple[Remedy, ...]:
    if holder is None:
        return ()
    name = holder.name[:1].upper() + holder.name[1:]
    return tuple(
        Remedy(
            text=each.text, kind=each.kind, restart=each.restart,
            why=f"First: {name} keeps VACUUM from freezing what came later. {each.why}",
        )
        for each in remedies_of(holder.who)
    )  # fmt: skip


_FREEZES = "Reads every page that is not frozen, and lets reads and writes go on."
_COST: dict[Kind, str] = {
    "xids": "When the ids run out the server refuses every write until it is frozen.",
    "mxids": (
        "When they run out the server refuses whatever needs a new one (rows locked by several transactions, foreign"
        " keys) until it is frozen."
    ),
}

_ABOUT = (
    "Rows carry the transaction id that made them, and ids are used again after 2 billion; so VACUUM must freeze old"
    " rows in time. Past autovacuum_freeze_max_age of a table autovacuum does so whatever else there is to do, even"
    " where it is off; a table well past that age is one where it fails, is held back or is too slow. Past"
    " vacuum_failsafe_age VACUUM leaves out all else; three million ids before the end writes are refused. Multixact"
    " ids (rows locked by several transactions) have ages, settings and an end of their own. How fast ids are used"
    " is measured between two runs."
)
_SOURCE = (
    "PostgreSQL, Routine Vacuuming (Preventing Transaction ID Wraparound Failures) and Vacuuming (Freezing). Half"
    " past its mark autovacuum has had its chance; three quarters of the failsafe are 1.2 billion ids."
)

DATABASE_AGE = Check(
    id="wraparound.databases",
    title="Wraparound",
    question="Does a database run out of transaction ids?",
    about=_ABOUT,
    source=_SOURCE,
    judge=judge_databases,
    reads=(DATABASES, TRANSACTION_IDS, MULTIXACTS, SESSIONS, PREPARED, SLOTS),
)

TABLE_AGE = Check(
    id="wraparound.tables",
    title="Wraparound of tables",
    question="Are there tables that autovacuum should have frozen?",
    about=_ABOUT,
    source=_SOURCE,
    judge=judge_tables,
    reads=(TABLES, TRANSACTION_IDS, MULTIXACTS, SESSIONS, PREPARED, SLOTS),
)

CHECKS = (DATABASE_AGE, TABLE_AGE)
