"""The horizon: whether anything keeps VACUUM from removing dead rows, and the fix for exactly that."""

from __future__ import annotations

from pgscale.core.finding import Answer, Finding, Findings, NotChecked, Remedy, Severity, Well, rank
from pgscale.core.model import Json, shorten
from pgscale.core.units import format_count, format_duration
from pgscale.doctor import ddl
from pgscale.doctor.checks.holders import (
    DEAD_ROWS,
    PREPARED,
    REACHES,
    SESSIONS,
    SLOTS,
    TRANSACTION_IDS,
    Holder,
    HoldingSession,
    PreparedTransaction,
    Slot,
    Who,
    read_holders,
)
from pgscale.doctor.facts import Facts
from pgscale.doctor.limits import HorizonLimits, Limits
from pgscale.doctor.model import Check

NEXT_SHOWN = 3


def judge_held(facts: Facts, limits: Limits) -> Answer:
    """Name the one that holds the horizon back the most, when that is too long."""
    if facts.server.is_in_recovery and not facts.setting("hot_standby_feedback").is_on:
        return Well("This standby sends no feedback: nothing here holds back VACUUM.")
    holders = read_holders(facts)
    judged: list[tuple[Severity, Holder]] = []
    for holder in holders:
        severity = _severity(holder, limits.horizon)
        if severity is not None:
            judged.append((severity, holder))
    if judged:
        # Of equals (a snapshot reaches back to the transaction it saw running) the one that was there first, and before
        # it what never ends by itself.
        severity, culprit = max(
            judged,
            key=lambda each: (
                rank(each[0]), REACHES.index(each[1].reach), each[1].age_xids, each[1].endures, each[1].age_s or 0.0
            ),
        )  # fmt: skip
        others = [each for _, each in judged if each is not culprit]
        return Findings((_report(facts, severity, culprit, others),))
    hidden = sum(each.is_hidden for each in holders)
    if hidden:
        return NotChecked(
            f"since when {format_count(hidden, 'transaction')} of other roles {'is' if hidden == 1 else 'are'} open is"
            " hidden from this login",
            facts.grant_monitor,
        )
    if not holders:
        return Well("No transaction holds back VACUUM.")
    oldest = max(holders, key=lambda each: (each.age_xids, each.age_s or 0.0))
    return Well(f"Nothing holds back VACUUM for long; the oldest is {oldest.name}: {oldest.age}.")


def _severity(holder: Holder, limits: HorizonLimits) -> Severity | None:
    age_s = holder.age_s if holder.age_s is not None and holder.age_xids >= limits.least_age_xids else -1.0
    if holder.age_xids >= limits.critical_age_xids or age_s >= limits.critical_age_s:
        return "critical"
    if holder.age_xids >= limits.warning_age_xids or age_s >= limits.warning_age_s:
        return "warning"
    return None


def _report(facts: Facts, severity: Severity, culprit: Holder, others: list[Holder]) -> Finding:
    evidence: dict[str, Json] = {
        "holder": culprit.name,
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
            count = format_count(total, "dead row")
            cost = f"{count} {'waits' if total == 1 else 'wait'} to be removed, most in {dead[0].name}. {cost}"
    if others:
        others.sort(key=lambda each: (REACHES.index(each.reach), each.age_xids), reverse=True)
        evidence["next_in_line"] = [
            {"holder": each.name, "age_xids": each.age_xids, "age_s": each.age_s} for each in others[:NEXT_SHOWN]
        ]
    name = culprit.name[:1].upper() + culprit.name[1:]
    return Finding(
        check=HELD.id,
        severity=severity,
        subject=culprit.name,
        fact=f"{name} holds back VACUUM{_where(facts, culprit)}: {_since(culprit)}.",
        evidence=evidence,
        cost=cost,
        remedies=remedies_of(culprit.who),
    )


def _where(facts: Facts, holder: Holder) -> str:
    if facts.server.is_in_recovery:
        return " on the primary"
    if holder.reach == "catalogs":
        return " of the system catalogs"
    if holder.reach == "elsewhere":
        assert not isinstance(holder.who, Slot)
        return f" in database {holder.who.database}"
    return ""


def _since(holder: Holder) -> str:
    back = f"reaches back {format_count(holder.age_xids, 'transaction')}"
    if holder.age_s is None:
        return f"it {back}"
    age = format_duration(holder.age_s)
    if isinstance(holder.who, PreparedTransaction):
        return f"prepared {age} ago, it {back}"
    if isinstance(holder.who, HoldingSession) and not holder.who.is_standby:
        return f"its transaction, {age} old, {back}"
    return f"it {back}, at least {age}"


def _details(who: Who) -> dict[str, Json]:
    if isinstance(who, PreparedTransaction):
        return {"database": who.database, "owner": who.role}
    if isinstance(who, Slot):
        return {
            "kind": who.kind, "plugin": who.plugin, "database": who.database,
            "consumer": who.application, "client": who.client, "not_used_for_s": who.inactive_s,
        }  # fmt: skip
    if who.is_standby:
        return {"standby": who.application, "client": who.client}
    return {
        "pid": who.pid, "database": who.database, "role": who.role, "application": who.application,
        "client": who.client, "state": who.state, "state_since_s": who.state_s, "query": shorten(who.query or ""),
    }  # fmt: skip


END_OLDEST_QUERY = (
    "SELECT CASE state WHEN 'active' THEN pg_cancel_backend(pid) ELSE pg_terminate_backend(pid) END"
    " FROM pg_stat_activity WHERE backend_type = 'client backend'"
    " AND xact_start = (SELECT min(xact_start) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL);"
)


def remedies_of(who: Who) -> tuple[Remedy, ...]:
    """What removes somebody who holds the horizon."""
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
        why = f"On standby {who.application}: ends its oldest query, which the feedback protects."
        return (Remedy(text=END_OLDEST_QUERY, why=why),)
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
        why = f"On standby {slot.application or slot.name}: ends its oldest query, which the feedback protects."
        return (Remedy(text=END_OLDEST_QUERY, why=why),)
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
    reads=(SESSIONS, PREPARED, SLOTS, DEAD_ROWS, TRANSACTION_IDS),
)

CHECKS = (HELD,)
