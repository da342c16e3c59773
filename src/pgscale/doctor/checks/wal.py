"""WAL that cannot be removed: what waits for the archiver, and what replication slots keep."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal

from pgscale.core.finding import Answer, Finding, Findings, Remedy, Severity, Well, rank
from pgscale.core.model import Json
from pgscale.core.units import format_bytes, format_count, format_duration
from pgscale.doctor import ddl
from pgscale.doctor.checks.checkpoints import GB, MAX_WAL, WAL, WAL_DIRECTORY, wal_rate
from pgscale.doctor.facts import Facts, NotReadableError, Section
from pgscale.doctor.limits import CheckpointsLimits, Limits
from pgscale.doctor.model import Check

BOUND = "max_slot_wal_keep_size"


@dataclass(frozen=True, slots=True, kw_only=True)
class Archiver:
    """What it did since its counters were reset; `…_ago_s` in seconds, None when it never did."""

    archived: int
    failed: int
    last_archived_wal: str | None
    last_failed_wal: str | None
    archived_ago_s: float | None
    failed_ago_s: float | None

    @property
    def fails(self) -> bool:
        """Its last attempt failed."""
        return self.failed_ago_s is not None and (
            self.archived_ago_s is None or self.failed_ago_s < self.archived_ago_s
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Files that wait for the archiver: how many, the first of them, and for how long."""

    files: int
    first: str | None
    oldest_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetainingSlot:
    """A replication slot, temporary ones excepted.

    Args:
        wal_status, safe_bytes: as pg_replication_slots has them: `lost` is past help, `unreserved` nearly.
        retained_bytes: WAL since the oldest it may still ask for; None when it has not reserved any.
        inactive_s: since when nobody uses it, from 17 on.
        invalid_because: why it was given up, from 17 on.
    """

    name: str
    kind: Literal["physical", "logical"]
    plugin: str | None
    database: str | None
    is_active: bool
    wal_status: str | None
    safe_bytes: int | None
    retained_bytes: int | None
    inactive_s: float | None
    invalid_because: str | None
    application: str | None
    client: str | None


ARCHIVER = Section(area="checkpoints", query="archiver", row=Archiver)
WAITING = Section(area="checkpoints", query="waiting", row=Waiting)
RETAINING_SLOTS = Section(area="checkpoints", query="slots", row=RetainingSlot)


# Archiving


def judge_archiving(facts: Facts, limits: Limits) -> Answer:
    """Report an archiver that fails, is behind, or has been told nothing to do."""
    mode = facts.setting("archive_mode").value
    if mode == "off":
        return Well("WAL is not archived: archive_mode is off.")
    if facts.server.is_in_recovery and mode != "always":
        return Well("This standby does not archive: archive_mode is not always.")
    command = facts.setting("archive_command").value
    library = facts.setting("archive_library").value if facts.server.version >= 150000 else ""
    waiting = facts.row(WAITING)
    if not command and not library:
        return Findings((_no_command(waiting),))
    archiver = facts.row(ARCHIVER)
    oldest_s = waiting.oldest_s or 0.0
    is_behind = waiting.files > 0 and oldest_s >= limits.checkpoints.warning_waiting_s
    if not archiver.fails and not is_behind:
        done = f"{format_count(archiver.archived, 'file')} archived, {format_count(waiting.files, 'file')} waiting"
        return Well(f"WAL is archived without failures: {done}.")
    if archiver.fails:
        fact = f"Archiving of {archiver.last_failed_wal} fails; {format_count(waiting.files, 'file')} of WAL wait"
    else:
        fact = f"Archiving is behind: {format_count(waiting.files, 'file')} of WAL wait"
    finding = Finding(
        check=ARCHIVING.id,
        severity="critical" if oldest_s >= limits.checkpoints.critical_waiting_s else "warning",
        subject="archiver",
        fact=f"{fact}, the oldest for {format_duration(oldest_s)}.",
        evidence={
            "waiting_files": waiting.files,
            "waiting_bytes": waiting.files * facts.setting("wal_segment_size").bytes,
            "oldest_waits_s": waiting.oldest_s,
            "archived": archiver.archived,
            "failed": archiver.failed,
            "last_archived": archiver.last_archived_wal,
            "last_archived_before_s": archiver.archived_ago_s,
            "last_failed": archiver.last_failed_wal,
            "last_failed_before_s": archiver.failed_ago_s,
            "by": library or command,
        },
        cost=(
            "The server keeps what is not archived until its disk is full, and then stops; meanwhile a recovery from"
            " the archive cannot reach the present."
        ),
        remedies=(_try_it(facts, library, command, waiting.first or archiver.last_failed_wal or ""),),
    )
    return Findings((finding,))


def _no_command(waiting: Waiting) -> Finding:
    return Finding(
        check=ARCHIVING.id,
        severity="critical",
        subject="archive_command",
        fact=f"archive_mode is on, but nothing archives: {format_count(waiting.files, 'file')} of WAL wait.",
        evidence={"waiting_files": waiting.files, "oldest_waits_s": waiting.oldest_s},
        cost="The server keeps all its WAL for an archive until its disk is full, and then stops.",
        remedies=(
            Remedy(
                text=ddl.alter_system("archive_mode", "off"),
                kind="setting",
                why="When there is to be no archive. Else set archive_command, which takes a reload only.",
                restart=True,
            ),
        ),
    )


def _try_it(facts: Facts, library: str, command: str, file: str) -> Remedy:
    if library:
        why = f"The server's log says why {library} fails, beside these settings of it."
        return Remedy(text=ddl.settings_of(library), why=why)
    known = {"%p": f"pg_wal/{file}", "%f": file, "%%": "%"}
    parts: list[str] = []
    rest = command
    while rest:
        pair = rest[:2]
        parts.append(known.get(pair, rest[0]))
        rest = rest[2:] if pair in known else rest[1:]
    return Remedy(
        text=f"cd {shlex.quote(facts.setting('data_directory').value)} && {''.join(parts)}",
        kind="shell",
        why=(
            "On the server, as its user: what the archiver does for the file that waits, with the error or the time it"
            " takes. When that works the archiver goes on by itself within a minute."
        ),
    )


# Slots


def judge_slots(facts: Facts, limits: Limits) -> Answer:
    """Report slots that keep much WAL, are about to lose it or have lost it, and slots that nothing bounds."""
    slots = facts.rows(RETAINING_SLOTS)
    if not slots:
        return Well("No replication slot keeps WAL.")
    bound = facts.setting(BOUND)
    findings: list[Finding] = []
    for slot in slots:
        severity = _severity(slot, bound.bytes, limits.checkpoints)
        if severity is not None:
            findings.append(_slot_finding(facts, severity, slot))
    findings.sort(key=lambda each: rank(each.severity), reverse=True)
    if not findings and bound.bytes < 0:
        findings.append(_unbounded(facts, slots))
    if findings:
        return Findings(tuple(findings))
    most = max(slot.retained_bytes or 0 for slot in slots)
    count = format_count(len(slots), "replication slot")
    return Well(f"{count} {'keeps' if len(slots) == 1 else 'keep'} up to {format_bytes(most)} of WAL.")


def _severity(slot: RetainingSlot, bound_bytes: int, limits: CheckpointsLimits) -> Severity | None:
    if slot.wal_status == "lost":
        return "warning"
    retained = slot.retained_bytes or 0
    if slot.wal_status == "unreserved" or retained >= limits.critical_retained_bytes:
        return "critical"
    if retained >= (limits.warning_retained_bytes if slot.is_active else limits.warning_unused_retained_bytes):
        return "warning"
    # Four fifths of what it may keep.
    return "warning" if bound_bytes > 0 and retained >= bound_bytes * 0.8 else None


def _slot_finding(facts: Facts, severity: Severity, slot: RetainingSlot) -> Finding:
    retained = format_bytes(slot.retained_bytes or 0)
    use = "in use" if slot.is_active else "not in use"
    if slot.wal_status == "lost":
        because = f" ({slot.invalid_because.replace('_', ' ')})" if slot.invalid_because else ""
        fact = f"Replication slot {slot.name} is lost{because}: what its consumer needs is gone."
        cost = "Its consumer cannot go on, and must begin anew with a copy of the data."
    else:
        fact = f"Replication slot {slot.name} ({use}) keeps {retained} of WAL."
        cost = "WAL piles up until its consumer has it or the disk is full; then the server stops."
        if slot.wal_status == "unreserved":
            fact = f"{fact[:-1]}, more than {BOUND}: it will be lost at the next checkpoint."
            cost = "Its consumer could not go on then, and would have to begin anew with a copy of the data."
    evidence: dict[str, Json] = {
        "kind": slot.kind, "plugin": slot.plugin, "database": slot.database,
        "wal_status": slot.wal_status, "retained_bytes": slot.retained_bytes, "safe_bytes": slot.safe_bytes,
        "not_used_for_s": None if slot.is_active else slot.inactive_s,
        "consumer": slot.application, "client": slot.client,
        "wal_per_second_bytes": _per_s(facts), "pg_wal_now_bytes": _directory(facts),
        "settings": {BOUND: _shown(facts.setting(BOUND).bytes)},
    }  # fmt: skip
    return Finding(
        check=RETAINED.id,
        severity=severity,
        subject=f"replication slot {slot.name}",
        fact=fact,
        evidence=evidence,
        cost=cost,
        remedies=_slot_remedies(facts, slot),
    )


def _slot_remedies(facts: Facts, slot: RetainingSlot) -> tuple[Remedy, ...]:
    drop = Remedy(
        text=ddl.drop_slot(slot.name),
        why="When its consumer will not come back: it would have to begin anew. Else start the consumer again.",
    )
    if slot.wal_status == "lost":
        return (Remedy(text=drop.text, why="It is of no use any more. The consumer must begin anew."),)
    remedies = [drop]
    if slot.is_active:
        # A slot in use cannot be dropped.
        asks = (
            "SELECT * FROM pg_stat_subscription;" if slot.kind == "logical" else "SELECT * FROM pg_stat_wal_receiver;"
        )
        why = f"At the consumer ({slot.application or 'unknown'}), which does not keep up: what it received, and when."
        remedies = [Remedy(text=asks, why=why)]
    if slot.wal_status == "unreserved":
        wanted = 2 * (slot.retained_bytes or 0)
        why = "Keeps what it needs for now, when the disk has the room."
        remedies.insert(0, Remedy(text=ddl.alter_system(BOUND, _in_mb(wanted)), kind="setting", why=why))
    elif facts.setting(BOUND).bytes < 0:
        remedies.append(_bound(facts))
    return tuple(remedies)


def _unbounded(facts: Facts, slots: tuple[RetainingSlot, ...]) -> Finding:
    return Finding(
        check=RETAINED.id,
        severity="info",
        subject=BOUND,
        fact=f"Nothing bounds the WAL that {format_count(len(slots), 'replication slot')} may keep: {BOUND} is -1.",
        evidence={
            "slots": [
                {"slot": each.name, "kind": each.kind, "in_use": each.is_active, "retained_bytes": each.retained_bytes}
                for each in sorted(slots, key=lambda each: each.retained_bytes or 0, reverse=True)[:5]
            ],
            "wal_per_second_bytes": _per_s(facts),
            "pg_wal_now_bytes": _directory(facts),
        },
        cost="A consumer that stops fills the disk of pg_wal, and the server stops.",
        remedies=(_bound(facts),),
    )


def _bound(facts: Facts) -> Remedy:
    per_s = _per_s(facts) or 0.0
    # A night and a day to notice, where the rate is known.
    wanted = max(10 * GB, 4 * facts.setting(MAX_WAL).bytes, int(per_s * 86_400))
    lasts = f" At the present rate it is reached in {format_duration(wanted / per_s)}." if per_s else ""
    return Remedy(
        text=ddl.alter_system(BOUND, _in_mb(wanted)),
        kind="setting",
        why=(
            "A slot that is further behind is given up instead, and its consumer must begin anew: choose it below the"
            f" free space of the disk.{lasts}"
        ),
    )


def _per_s(facts: Facts) -> float | None:
    rate = wal_rate(facts)
    return None if rate is None else rate.per_s("bytes")


def _directory(facts: Facts) -> int | None:
    try:
        return facts.row(WAL_DIRECTORY).bytes
    except NotReadableError:  # it takes pg_monitor, and is not needed to judge
        return None


def _in_mb(count: int) -> str:
    return f"{-(-count // (1 << 20))}MB"


def _shown(count: int) -> str:
    return "-1" if count < 0 else format_bytes(count)


ARCHIVING = Check(
    id="checkpoints.archiving",
    title="Archiving",
    question="Does the archiver fail, or fall behind?",
    about=(
        "With archive_mode on every WAL file is kept until archive_command or archive_library has stored it. When that"
        " fails, PostgreSQL tries again for ever and keeps more and more. It is failing when its last failure is newer"
        " than its last success, and behind when a finished file has been waiting for long."
    ),
    source=(
        "PostgreSQL, Continuous Archiving and Point-in-Time Recovery. A file is archived within seconds of its end;"
        " five minutes are long past that, and an hour is what a recovery from the archive would lose."
    ),
    judge=judge_archiving,
    reads=(ARCHIVER, WAITING),
)

RETAINED = Check(
    id="checkpoints.slots",
    title="WAL kept by slots",
    question="Do replication slots keep too much WAL?",
    about=(
        "A replication slot keeps all WAL that its consumer has not confirmed, without limit unless"
        " max_slot_wal_keep_size sets one; past that limit the slot is given up at the next checkpoint, and is lost."
        " idle_replication_slot_timeout (18) gives up slots that nobody uses. What slots keep of dead rows is told by"
        " horizon.held."
    ),
    source=(
        "PostgreSQL, Replication (max_slot_wal_keep_size) and the view pg_replication_slots (wal_status). 1 GB without"
        " anybody to read it and 10 GB in spite of a reader are more than a restart of the consumer explains."
    ),
    judge=judge_slots,
    reads=(RETAINING_SLOTS, WAL, WAL_DIRECTORY),
)

CHECKS = (ARCHIVING, RETAINED)
