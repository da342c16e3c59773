"""Standbys: how far they are behind, whether those that must be there are, and what replay does to their queries."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pgscale.core.finding import Answer, Finding, Findings, Remedy, Severity, Well, rank
from pgscale.core.model import Json
from pgscale.core.units import format_bytes, format_count, format_duration
from pgscale.doctor import ddl
from pgscale.doctor.checks.horizon import END_OLDEST_QUERY
from pgscale.doctor.checks.wal import RETAINING_SLOTS, RetainingSlot
from pgscale.doctor.facts import Counters, Facts, Section
from pgscale.doctor.limits import Limits, ReplicasLimits
from pgscale.doctor.model import Check

RESUME = "SELECT pg_wal_replay_resume();"
NAMES = "synchronous_standby_names"
DELAY = "max_standby_streaming_delay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standby:
    """Whoever receives WAL, subscribers too.

    Args:
        unsent_bytes, unflushed_bytes, behind_bytes: WAL that was not sent, is not on its disk, is not replayed.
        behind_s: between a commit and its replay, as last measured; None when it has caught up and nothing is written.
        replied_ago_s: since its last message.
    """

    pid: int
    application: str
    client: str | None
    state: str | None
    sync_state: str | None
    slot: str | None
    is_logical: bool | None
    unsent_bytes: int | None
    unflushed_bytes: int | None
    behind_bytes: int | None
    behind_s: float | None
    replied_ago_s: float | None

    @property
    def name(self) -> str:
        return f"{self.application or self.pid}{f' at {self.client}' if self.client else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a standby knows of itself.

    Args:
        pause_state: `not paused`, `pause requested` or `paused`.
        unreplayed_bytes: WAL that it has and has not replayed; None where it never streamed.
        replayed_until_s: how old the last commit is that it has replayed.
    """

    pause_state: str
    is_receiving: bool
    unreplayed_bytes: int | None
    replayed_until_s: float | None


STANDBYS = Section(area="replicas", query="standbys", row=Standby, needs_statistics=True)
REPLAY = Section(area="replicas", query="replay", row=Replay)
UNUSED_SLOTS = Counters(area="replicas", query="unused_slots")
CONFLICTS = Counters(area="replicas", query="conflicts")


def _severity(lag_s: float, lag_bytes: int, limits: ReplicasLimits) -> Severity | None:
    if lag_s >= limits.critical_lag_s or lag_bytes >= limits.critical_lag_bytes:
        return "critical"
    return "warning" if lag_s >= limits.warning_lag_s or lag_bytes >= limits.warning_lag_bytes else None


# Lag


def judge_lag(facts: Facts, limits: Limits) -> Answer:
    """Report standbys that are behind, and where."""
    standbys = facts.rows(STANDBYS)
    if not standbys:
        return Well("Nobody receives WAL from this server.")
    findings: list[Finding] = []
    for each in standbys:
        severity = _severity(each.behind_s or 0.0, each.behind_bytes or 0, limits.replicas)
        if severity is not None:
            findings.append(_lagging(severity, each))
    if findings:
        findings.sort(key=lambda each: rank(each.severity), reverse=True)
        return Findings(tuple(findings))
    most = max(each.behind_bytes or 0 for each in standbys)
    verb = "is" if len(standbys) == 1 else "are"
    return Well(f"{format_count(len(standbys), 'receiver')} of WAL {verb} at most {format_bytes(most)} behind.")


def _lagging(severity: Severity, standby: Standby) -> Finding:
    behind = standby.behind_bytes or 0
    unsent, unflushed = standby.unsent_bytes or 0, standby.unflushed_bytes or 0
    if unsent * 2 >= behind:
        where, what = "was not sent", "the network, or the load of this server"
    elif unflushed * 2 >= behind:
        where, what = "was sent and is not on its disk", "its disk, or the network"
    else:
        where, what = "is on its disk and not replayed", "its replay: a query in the way, one processor, or a pause"
    lag = f" and {format_duration(standby.behind_s)}" if standby.behind_s else ""
    if what.startswith("its replay") and not standby.is_logical:
        remedies = (
            Remedy(text=RESUME, why=f"On {standby.name}: lets replay go on, when it was paused."),
            Remedy(text=END_OLDEST_QUERY, why=f"On {standby.name}: ends its oldest query, which replay may wait for."),
        )
    else:
        sees = "SELECT * FROM pg_stat_subscription;" if standby.is_logical else "SELECT * FROM pg_stat_wal_receiver;"
        remedies = (Remedy(text=sees, why=f"On {standby.name}: what it received last, and when."),)
    return Finding(
        check=LAG.id,
        severity=severity,
        subject=standby.name,
        fact=f"{standby.name} is {format_bytes(behind)}{lag} behind; most of it {where}.",
        evidence={
            "state": standby.state, "sync_state": standby.sync_state, "slot": standby.slot,
            "behind_s": standby.behind_s, "behind_bytes": behind, "not_sent_bytes": unsent,
            "not_on_its_disk_bytes": unflushed, "last_message_before_s": standby.replied_ago_s,
        },
        cost=f"Its reads are old, and a fail-over to it would have to wait or lose that much. What is slow is {what}.",
        remedies=remedies,
    )  # fmt: skip


# Those that must be there


def judge_synchronous(facts: Facts, limits: Limits) -> Answer:
    """Report commits that wait for standbys that are not there."""
    del limits
    if facts.server.is_in_recovery:
        return Well("This is a standby: nothing is committed here.")
    names = facts.setting(NAMES).value.strip()
    if not names:
        return Well(f"Commits wait for no standby: {NAMES} is empty.")
    count = re.match(r"(?:(?:first|any)\s+)?(\d+)\s*\(", names, re.IGNORECASE)
    wanted = int(count[1]) if count else 1
    there = [e for e in facts.rows(STANDBYS) if e.sync_state in ("sync", "quorum") and e.state == "streaming"]
    if len(there) >= wanted:
        return Well(f"Commits wait for {wanted}, and {format_count(len(there), 'synchronous standby')} answer.")
    level = facts.setting("synchronous_commit").value
    waits = level not in ("off", "local")
    finding = Finding(
        check=SYNCHRONOUS.id,
        severity="critical" if waits else "info",
        subject=NAMES,
        fact=(
            f"Commits wait for {format_count(wanted, 'synchronous standby')}, but {len(there)}"
            f" {'is' if len(there) == 1 else 'are'} there."
        ),
        evidence={
            "settings": {NAMES: names, "synchronous_commit": level},
            "standbys": [
                {"standby": e.name, "state": e.state, "sync_state": e.sync_state} for e in facts.rows(STANDBYS)
            ],
        },
        cost="Every COMMIT waits until one comes back; what it wrote is there, but its client is not told.",
        remedies=(
            Remedy(
                text=ddl.alter_system(NAMES, ""),
                kind="setting",
                why=(
                    "Until the standby is back: frees what waits, at once. Commits are on this server only then, and"
                    " lost with it."
                ),
            ),
        ),
    )
    return Findings((finding,))


def judge_disconnected(facts: Facts, limits: Limits) -> Answer:
    """Report slots made for standbys that nobody uses."""
    facts.reading(UNUSED_SLOTS)
    slots = [each for each in facts.rows(RETAINING_SLOTS) if each.kind == "physical" and each.wal_status != "lost"]
    if not slots:
        return Well("There is no slot for a standby.")
    findings: list[Finding] = []
    for slot in slots:
        since_s = None if slot.is_active else _unused_s(facts, slot)
        if slot.is_active or (since_s is not None and since_s < limits.replicas.warning_unused_s):
            continue
        findings.append(_disconnected(slot, since_s))
    if findings:
        findings.sort(key=lambda each: rank(each.severity), reverse=True)
        return Findings(tuple(findings))
    return Well(f"{format_count(len(slots), 'slot')} for standbys, of which {sum(e.is_active for e in slots)} in use.")


def _unused_s(facts: Facts, slot: RetainingSlot) -> float | None:
    """Since when nobody uses it, at least; None when that is not known."""
    if slot.inactive_s is not None:
        return slot.inactive_s
    since_s = None
    for earlier in reversed(facts.earlier(UNUSED_SLOTS)):
        if slot.name not in earlier.rows:
            break
        since_s = (facts.server.read_at - earlier.taken_at).total_seconds()
    return since_s


def _disconnected(slot: RetainingSlot, since_s: float | None) -> Finding:
    retained: Json = slot.retained_bytes
    since = f" for {format_duration(since_s)}" if since_s is not None else "; since when is not known yet"
    return Finding(
        check=DISCONNECTED.id,
        severity="info" if since_s is None else "warning",
        subject=f"replication slot {slot.name}",
        fact=f"Nobody uses replication slot {slot.name}{since}: a standby is missing.",
        evidence={"not_used_for_s": since_s, "retained_bytes": retained, "wal_status": slot.wal_status},
        cost="There is one standby less to fail over to; and the slot keeps WAL for it, see checkpoints.slots.",
        remedies=(
            Remedy(
                text=ddl.drop_slot(slot.name),
                why="When the standby will not come back. Else start it, and look into its log.",
            ),
        ),
    )


# On a standby


def judge_replay(facts: Facts, limits: Limits) -> Answer:
    """Report a standby that does not replay, or not what it should."""
    if not facts.server.is_in_recovery:
        return Well("This is no standby.")
    replay = facts.row(REPLAY)
    unreplayed, until_s = replay.unreplayed_bytes or 0, replay.replayed_until_s
    evidence: dict[str, Json] = {
        "replay": replay.pause_state, "receives_wal": replay.is_receiving, "not_replayed_bytes": unreplayed,
        "replayed_until_before_s": until_s,
    }  # fmt: skip
    cost = "Its reads are old, and a fail-over to it would have to wait or lose that much."
    if replay.pause_state != "not paused":
        return _replay("warning", "Replay is paused", evidence, cost, Remedy(text=RESUME, why="Lets it go on."))
    if not replay.is_receiving and not facts.setting("restore_command").value:
        reads = "SELECT pg_reload_conf();"
        why = "Tries again with what primary_conninfo and primary_slot_name say now; its log says why it fails."
        return _replay("warning", "No WAL is received", evidence, cost, Remedy(text=reads, why=why))
    # Where all is replayed that came, an old commit is one of a primary that has nothing to do.
    severity = _severity((until_s or 0.0) if unreplayed else 0.0, unreplayed, limits.replicas)
    if severity is None:
        return Well(f"Replay is {format_bytes(unreplayed)} behind what was received.")
    fact = f"Replay is {format_bytes(unreplayed)} behind what was received"
    remedy = Remedy(text=END_OLDEST_QUERY, why="Ends the oldest query, which replay may wait for.")
    return _replay(severity, fact, evidence, cost, remedy)


def _replay(severity: Severity, said: str, evidence: dict[str, Json], cost: str, remedy: Remedy) -> Findings:
    until = evidence["replayed_until_before_s"]
    old = f"; the last commit replayed is {format_duration(until)} old" if isinstance(until, float) else ""
    finding = Finding(
        check=REPLAYING.id,
        severity=severity,
        subject="replay",
        fact=f"{said}{old}.",
        evidence=evidence,
        cost=cost,
        remedies=(remedy,),
    )
    return Findings((finding,))


def judge_conflicts(facts: Facts, limits: Limits) -> Answer:
    """Report queries on a standby that replay cancels."""
    if not facts.server.is_in_recovery:
        return Well("This is no standby.")
    delta = facts.delta(CONFLICTS)
    kinds = {name: int(value) for name, value in delta.rows[""].items() if value}
    total = sum(kinds.values())
    per_hour = total * 3_600 / delta.seconds
    if not total or per_hour < limits.replicas.warning_conflicts_per_hour:
        return Well(f"Replay cancelled {format_count(total, 'query').replace('querys', 'queries')} {delta.basis}.")
    feedback = facts.setting("hot_standby_feedback").is_on
    longer = Remedy(
        text=ddl.alter_system(DELAY, "5min"),
        kind="setting",
        why="On this standby: replay waits longer for queries, which lets it fall behind by as much.",
    )
    remedies = (longer,)
    if not feedback and kinds.get("snapshot", 0):
        why = (
            "On this standby: the primary keeps the rows that queries here still read, and horizon.held there sees it."
        )
        remedies = (
            Remedy(text=ddl.alter_system("hot_standby_feedback", "on"), kind="setting", why=why),
            longer,
        )
    finding = Finding(
        check=CONFLICTING.id,
        severity="warning",
        subject="replay",
        fact=f"Replay cancels queries on this standby: {total:,}, or {per_hour:,.1f} an hour.",
        evidence={
            "cancelled_by": dict(kinds),
            "measured": delta.basis,
            "settings": {
                "hot_standby_feedback": facts.setting("hot_standby_feedback").value,
                DELAY: format_duration(max(0, facts.setting(DELAY).seconds)),
            },
        },
        cost="They end with an error (40001), which the application must try again.",
        remedies=remedies,
    )
    return Findings((finding,))


LAG = Check(
    id="replicas.lag",
    title="Lag of standbys",
    question="Are standbys far behind?",
    about=(
        "Told by the primary: how much WAL each receiver has not been sent, has not on its disk, has not replayed; and"
        " how long a commit takes until it is replayed there, as last measured. While replay stands still that time"
        " stands still, too: the bytes tell then. Subscribers are receivers as well."
    ),
    source=(
        "PostgreSQL, Monitoring Statistics (pg_stat_replication). A standby in health is milliseconds behind; a minute"
        " is what users of a replica notice, ten minutes what a fail-over cannot wait for."
    ),
    judge=judge_lag,
    reads=(STANDBYS,),
)
SYNCHRONOUS = Check(
    id="replicas.synchronous",
    title="Synchronous standbys",
    question="Do commits wait for standbys that are not there?",
    about=(
        "With synchronous_standby_names every commit waits until as many of them have its WAL. When there are fewer,"
        " commits wait for ever, holding their locks."
    ),
    source="PostgreSQL, Log-Shipping Standby Servers (Synchronous Replication).",
    judge=judge_synchronous,
    reads=(STANDBYS,),
)
DISCONNECTED = Check(
    id="replicas.disconnected",
    title="Missing standbys",
    question="Is a standby missing that has a slot?",
    about=(
        "A physical replication slot is made for one standby. When nobody uses it, that standby is down or cut off."
        " Since when, PostgreSQL tells from 17 on; before, earlier runs do."
    ),
    source="Five minutes are longer than the restart of a standby takes.",
    judge=judge_disconnected,
    reads=(RETAINING_SLOTS, UNUSED_SLOTS),
)
REPLAYING = Check(
    id="replicas.replay",
    title="Replay",
    question="Does this standby not keep up?",
    about=(
        "Told by the standby: whether it receives WAL, and replays what it has. Replay stands still when it was paused,"
        " or while a query is in its way (see max_standby_streaming_delay)."
    ),
    source="PostgreSQL, System Administration Functions (Recovery Control Functions); thresholds as replicas.lag.",
    judge=judge_replay,
    reads=(REPLAY,),
)
CONFLICTING = Check(
    id="replicas.conflicts",
    title="Conflicts",
    question="Does replay cancel queries on this standby?",
    about=(
        "What VACUUM removed on the primary may still be read here, and ACCESS EXCLUSIVE locks are taken here, too:"
        " replay waits for max_standby_streaming_delay, then cancels the query. hot_standby_feedback lets the primary"
        " keep such rows."
    ),
    source="PostgreSQL, Hot Standby (Handling Query Conflicts). One an hour is more than an accident.",
    judge=judge_conflicts,
    reads=(CONFLICTS,),
)

CHECKS = (LAG, SYNCHRONOUS, DISCONNECTED, REPLAYING, CONFLICTING)
