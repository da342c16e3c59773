"""The horizon: what VACUUM may not remove rows past, and who holds it there.

By ComputeXidHorizons() (src/backend/storage/ipc/procarray.c, 14 to 18) a row of an ordinary table stays while it may be
visible to a transaction of this database (its snapshot or its own id), to a prepared one, to a standby that sends
feedback, or to the xmin of a slot. catalog_xmin of a slot keeps rows of system catalogs only; a snapshot in another
database keeps rows there and in the shared catalogs. A transaction id in another database is different: every snapshot
taken anywhere meanwhile reaches back to it, and so, wherever queries run, does VACUUM.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pgscale.core.finding import Answer, Finding, Findings, NotChecked, Remedy, Severity, Well, rank
from pgscale.core.model import Json
from pgscale.core.units import format_count, format_duration
from pgscale.doctor import ddl
from pgscale.doctor.facts import Facts, Section
from pgscale.doctor.limits import HorizonLimits, Limits
from pgscale.doctor.model import Check

NEXT_SHOWN = 3
QUERY_SHOWN = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldingSession:
    """A session that has a snapshot or a transaction id; on `is_standby` the walsender of a standby with feedback.

    Args:
        age_s: of its transaction; None where hidden, and of standbys.
        state_s: how long it has been in its state.
        is_hidden: the login sees neither what it does nor since when.
    """

    pid: int
    database: str | None
    is_here: bool | None
    role: str | None
    application: str
    client: str | None
    is_standby: bool
    has_xid: bool
    age_xids: int
    age_s: float | None
    is_hidden: bool
    state: str | None
    state_s: float | None
    query: str | None
    started_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedTransaction:
    gid: str
    database: str
    is_here: bool
    role: str
    age_xids: int
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A replication slot that holds rows.

    Args:
        kind: `physical` or `logical`.
        pid, application, client: of the walsender that serves it, None when nobody is connected.
        inactive_s: since when nobody is; from 17 on.
    """

    name: str
    kind: str
    plugin: str | None
    database: str | None
    is_active: bool
    is_temporary: bool
    pid: int | None
    xmin_age_xids: int | None
    catalog_xmin_age_xids: int | None
    inactive_s: float | None
    application: str | None
    client: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadRows:
    """One of the tables with most dead rows.

    Args:
        is_catalog: it is one of the system's own.
        all_dead_rows: of all tables that are catalogs, or are not, like this one.
    """

    is_catalog: bool
    name: str
    dead_rows: int
    all_dead_rows: int


SESSIONS = Section(area="horizon", query="sessions", row=HoldingSession)
PREPARED = Section(area="horizon", query="prepared", row=PreparedTransaction)
SLOTS = Section(area="horizon", query="slots", row=Slot)
DEAD_ROWS = Section(area="horizon", query="dead_rows", row=DeadRows)

Reach = Literal["elsewhere", "catalogs", "rows"]
_REACHES: tuple[Reach, ...] = ("elsewhere", "catalogs", "rows")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Holder:
    """Whoever holds the horizon, of any kind.

    Args:
        reach: what it keeps: `rows` of this database, its `catalogs` only, or what is `elsewhere`.
        age_s: None where it is not known.
    """

    who: HoldingSession | PreparedTransaction | Slot
    reach: Reach
    age_xids: int
    age_s: float | None

    @property
    def endures(self) -> bool:
        """It does not end by itself."""
        return not isinstance(self.who, HoldingSession)


def judge_held(facts: Facts, limits: Limits) -> Answer:
    """Name the one that holds the horizon back the most, when that is too long."""
    if facts.server.is_in_recovery and not facts.setting("hot_standby_feedback").is_on:
        return Well("This standby sends no feedback: nothing here holds back VACUUM.")
    holders = _read_holders(facts)
    judged: list[tuple[Severity, _Holder]] = []
    for holder in holders:
        severity = _severity(holder, limits.horizon)
        if severity is not None:
            judged.append((severity, holder))
    if judged:
        # Of equals (a snapshot reaches back to the transaction it saw running) the one that was there first, and before
        # it what never ends by itself.
        judged.sort(
            key=lambda each: (
                rank(each[0]), _REACHES.index(each[1].reach), each[1].age_xids, each[1].endures, each[1].age_s or 0.0
            ),
            reverse=True,
        )  # fmt: skip
        severity, culprit = judged[0]
        return Findings((_report(facts, severity, culprit, [holder for _, holder in judged[1:]]),))
    hidden = sum(isinstance(h.who, HoldingSession) and h.who.is_hidden for h in holders)
    if hidden:
        return NotChecked(
            f"since when {format_count(hidden, 'transaction')} of other roles {'is' if hidden == 1 else 'are'} open is"
            " hidden from this login",
            facts.grant_monitor,
        )
    if not holders:
        return Well("No transaction holds back VACUUM.")
    oldest = max(holders, key=lambda h: (h.age_xids, h.age_s or 0.0))
    return Well(f"Nothing holds back VACUUM for long; the oldest is {_name(oldest.who)}, {_age(oldest)} old.")


def _read_holders(facts: Facts) -> list[_Holder]:
    holders = [_of_session(s, in_recovery=facts.server.is_in_recovery) for s in facts.rows(SESSIONS)]
    if facts.server.is_in_recovery:
        return holders
    # A prepared transaction always has an id: snapshots everywhere reach back to it.
    holders += [_Holder(who=p, reach="rows", age_xids=p.age_xids, age_s=p.age_s) for p in facts.rows(PREPARED)]
    for slot in facts.rows(SLOTS):
        ages: tuple[tuple[Reach, int | None], ...] = (
            ("rows", slot.xmin_age_xids),
            ("catalogs", slot.catalog_xmin_age_xids),
        )
        holders += [
            _Holder(who=slot, reach=reach, age_xids=age, age_s=slot.inactive_s)
            for reach, age in ages
            if age is not None
        ]
    return holders


def _of_session(session: HoldingSession, *, in_recovery: bool) -> _Holder:
    holds_here = session.is_standby or session.is_here or session.has_xid or in_recovery
    return _Holder(
        who=session,
        reach="rows" if holds_here else "elsewhere",
        age_xids=session.age_xids,
        age_s=None if session.is_standby else session.age_s,
    )


def _severity(holder: _Holder, limits: HorizonLimits) -> Severity | None:
    age_s = holder.age_s if holder.age_s is not None and holder.age_xids >= limits.least_age_xids else -1.0
    if holder.age_xids >= limits.critical_age_xids or age_s >= limits.critical_age_s:
        return "critical"
    if holder.age_xids >= limits.warning_age_xids or age_s >= limits.warning_age_s:
        return "warning"
    return None


def _report(facts: Facts, severity: Severity, culprit: _Holder, others: list[_Holder]) -> Finding:
    evidence: dict[str, Json] = {
        "holder": _name(culprit.who),
        "age_xids": culprit.age_xids,
        "age_s": culprit.age_s,
        **_details(culprit.who),
    }
    cost = "Rows that were deleted or updated since stay: they take space, and every scan reads them."
    if culprit.reach != "elsewhere" and not facts.server.is_in_recovery:
        dead = [row for row in facts.rows(DEAD_ROWS) if row.is_catalog == (culprit.reach == "catalogs")]
        total = dead[0].all_dead_rows if dead else 0
        evidence["dead_rows"] = total
        evidence["most_dead_rows"] = [{"table": row.name, "dead_rows": row.dead_rows} for row in dead]
        if total:
            cost = f"{format_count(total, 'dead row')} wait to be removed, most in {dead[0].name}. {cost}"
    if others:
        evidence["next_in_line"] = [
            {"holder": _name(h.who), "age_xids": h.age_xids, "age_s": h.age_s} for h in others[:NEXT_SHOWN]
        ]
    return Finding(
        check=HELD.id,
        severity=severity,
        subject=_name(culprit.who),
        fact=f"{_name(culprit.who, capital=True)} has held back VACUUM{_of(facts, culprit)} for {_age(culprit)}.",
        evidence=evidence,
        cost=cost,
        remedies=_remedies(culprit.who),
    )


def _of(facts: Facts, holder: _Holder) -> str:
    if facts.server.is_in_recovery:
        return " on the primary"
    if holder.reach == "catalogs":
        return " of the system catalogs"
    if holder.reach == "elsewhere":
        assert not isinstance(holder.who, Slot)
        return f" in database {holder.who.database}"
    return ""


def _name(who: HoldingSession | PreparedTransaction | Slot, *, capital: bool = False) -> str:
    if isinstance(who, PreparedTransaction):
        name = f"prepared transaction {who.gid!r}"
    elif isinstance(who, Slot):
        name = f"replication slot {who.name}, {'in use' if who.is_active else 'not in use'},"
    elif who.is_standby:
        name = f"the feedback of standby {who.application}{f' at {who.client}' if who.client else ''}"
    else:
        by = ", ".join(part for part in (who.role, who.application) if part)
        name = f"session {who.pid} ({by}{', ' if by else ''}{who.state or 'state hidden'})"
    return name[:1].upper() + name[1:] if capital else name


def _age(holder: _Holder) -> str:
    xids = format_count(holder.age_xids, "transaction")
    return xids if holder.age_s is None else f"{format_duration(holder.age_s)} and {xids}"


def _details(who: HoldingSession | PreparedTransaction | Slot) -> dict[str, Json]:
    if isinstance(who, PreparedTransaction):
        return {"database": who.database, "owner": who.role}
    if isinstance(who, Slot):
        return {
            "kind": who.kind, "plugin": who.plugin, "database": who.database,
            "consumer": who.application, "client": who.client,
        }  # fmt: skip
    if who.is_standby:
        return {"standby": who.application, "client": who.client}
    query = " ".join((who.query or "").split())
    return {
        "pid": who.pid, "database": who.database, "role": who.role, "application": who.application,
        "client": who.client, "state": who.state, "state_since_s": who.state_s,
        "last_query": query if len(query) <= QUERY_SHOWN else query[: QUERY_SHOWN - 1] + "…",
    }  # fmt: skip


_ON_THE_STANDBY = (
    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    " AND xact_start = (SELECT min(xact_start) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL);"
)


def _remedies(who: HoldingSession | PreparedTransaction | Slot) -> tuple[Remedy, ...]:
    if isinstance(who, PreparedTransaction):
        where = "" if who.is_here else f" Run it in database {who.database}."
        why = (
            "When its transaction manager has forgotten it; ask there first, for it may have decided on"
            f" COMMIT PREPARED. Run it as {who.role} or a superuser.{where}"
        )
        return (Remedy(text=ddl.rollback_prepared(who.gid), why=why),)
    if isinstance(who, Slot):
        return _of_slot(who)
    if who.is_standby:
        why = f"On standby {who.application}: cancels its oldest query, which the feedback protects."
        return (Remedy(text=_ON_THE_STANDBY, why=why),)
    if who.state == "active":
        why = "Cancels its statement; the transaction ends with the error."
        return (Remedy(text=ddl.cancel(who.pid, who.started_at), why=why),)
    why = "Ends the session, and rolls its transaction back. A cancel would do nothing: no statement is running."
    return (Remedy(text=ddl.terminate(who.pid, who.started_at), why=why),)


def _of_slot(slot: Slot) -> tuple[Remedy, ...]:
    if not slot.is_active:
        why = "When its consumer will not come back: it would have to begin anew. Else start the consumer again."
        return (Remedy(text=ddl.drop_slot(slot.name), why=why),)
    if slot.kind == "physical":
        why = f"On standby {slot.application or slot.name}: cancels its oldest query, which the feedback protects."
        return (Remedy(text=_ON_THE_STANDBY, why=why),)
    why = f"At the consumer ({slot.application or 'unknown'}): what it last received and confirmed, and when."
    return (Remedy(text="SELECT * FROM pg_stat_subscription;", why=why),)


HELD = Check(
    id="horizon.held",
    title="Horizon",
    question="Does anything hold back VACUUM?",
    about=(
        "VACUUM removes a dead row only when nobody may still see it. One old transaction, prepared transaction,"
        " replication slot or standby with feedback keeps every row that died since, in all tables, and keeps the"
        " transaction ids from being frozen. The one that reaches back furthest is named: until it is gone, nothing"
        " else helps. A session that is idle between transactions, or idle in a READ COMMITTED transaction that wrote"
        " nothing and has no cursor open, holds nothing."
    ),
    source=(
        "PostgreSQL, Routine Vacuuming (Recovering Disk Space): dead rows can be removed only when no open transaction"
        " may see them. 15 minutes are longer than the transactions of an application last and shorter than tables"
        " take to bloat much; 100,000,000 transactions are half of autovacuum_freeze_max_age, past which VACUUM begins"
        " to freeze in vain."
    ),
    judge=judge_held,
    reads=(SESSIONS, PREPARED, SLOTS, DEAD_ROWS),
)

CHECKS = (HELD,)
