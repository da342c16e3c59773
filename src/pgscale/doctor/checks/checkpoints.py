"""Checkpoints: whether WAL forces them, and the `max_wal_size` that would not."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pgscale.core.finding import Answer, Finding, Findings, Remedy, Well
from pgscale.core.model import Json
from pgscale.core.units import format_bytes, format_count, format_duration
from pgscale.doctor import ddl
from pgscale.doctor.facts import SETTINGS as SERVER_SETTINGS
from pgscale.doctor.facts import Counters, Facts, NotReadableError, Section
from pgscale.doctor.limits import Limits
from pgscale.doctor.model import Check
from pgscale.doctor.samples import Delta

# Less than half an hour holds too few checkpoints to speak of a share.
LEAST_S = 1_800.0
# What is measured is a mean; an application has busier minutes.
PEAK = 1.5
GB = 1 << 30
# Below it, proposals go in steps of MB.
STEPS_BYTES = (64 << 20, GB)
# From so much of the WAL on, compressing whole pages is worth naming.
FULL_PAGES_SHARE = 0.3

TIMEOUT, TARGET, MAX_WAL = "checkpoint_timeout", "checkpoint_completion_target", "max_wal_size"


@dataclass(frozen=True, slots=True, kw_only=True)
class WalDirectory:
    files: int
    bytes: int


CHECKPOINTS = Counters(area="checkpoints", query="checkpoints")
WAL = Counters(area="checkpoints", query="wal")
WAL_DIRECTORY = Section(area="checkpoints", query="wal_directory", row=WalDirectory)


def wal_rate(facts: Facts) -> Delta | None:
    """What was written to the WAL lately, None when that is not known: `bytes` and `full_pages`."""
    try:
        return facts.delta(WAL)
    except NotReadableError:
        return None


# Forced checkpoints


def judge_forced(facts: Facts, limits: Limits) -> Answer:
    """Report checkpoints that WAL forces before their time, and the max_wal_size that would end that."""
    if facts.server.is_in_recovery:
        return Well("This is a standby: its restartpoints follow the checkpoints of its primary.")
    thresholds = limits.checkpoints
    facts.reading(WAL)  # kept for the next run, even when the other cannot be compared
    counted = facts.delta(CHECKPOINTS, least_s=LEAST_S)
    wal = facts.delta(WAL, least_s=LEAST_S)
    timeout_s = facts.setting(TIMEOUT).seconds
    distance = _distance_bytes(facts, facts.setting(MAX_WAL).bytes)
    requested, total = int(counted["requested"]), int(counted["requested"] + counted["timed"])
    if total < thresholds.least_checkpoints:
        return Well(f"There were too few checkpoints to judge, {total:,} {counted.basis}.")
    share = requested / total
    if share < thresholds.warning_forced_share:
        return Well(f"{share:.0%} of {format_count(total, 'checkpoint')} came before their time {counted.basis}.")
    if wal.per_s("bytes") * timeout_s <= distance:
        # CHECKPOINT, base backups and CREATE DATABASE ask for checkpoints, too; or max_wal_size was raised meanwhile.
        return Well(
            f"WAL forces no checkpoints: at {format_bytes(wal.per_s('bytes'))}/s {MAX_WAL} lasts"
            f" {_lasts(distance, wal)}. {requested:,} of {total:,} checkpoints were asked for {counted.basis}."
        )
    every_s = counted.seconds / total
    finding = Finding(
        check=FORCED.id,
        severity="critical" if every_s < thresholds.critical_interval_s else "warning",
        subject=MAX_WAL,
        fact=(
            f"{share:.0%} of the checkpoints were forced by WAL, {requested:,} of {total:,}; one came every"
            f" {format_duration(every_s)}, where {TIMEOUT} is {format_duration(timeout_s)}."
        ),
        evidence=_evidence(facts, counted, wal, distance),
        cost=(
            "After each checkpoint the first change of every page writes the whole page to the WAL, so the more"
            " checkpoints, the more WAL and the sooner the next; and their writes come in bursts."
        ),
        remedies=_remedies(facts, wal, timeout_s),
    )
    return Findings((finding,))


def _distance_bytes(facts: Facts, max_wal_bytes: float) -> float:
    """How much WAL forces a checkpoint: as CalculateCheckpointSegments() in xlog.c has it, 14 to 18."""
    return max_wal_bytes / (1 + facts.setting(TARGET).number)


def _lasts(distance: float, wal: Delta) -> str:
    rate = wal.per_s("bytes")
    return f"for {format_duration(distance / rate)}" if rate else "for ever"


def _full_pages_share(facts: Facts, wal: Delta) -> float:
    # At most: pages are written without their hole, and perhaps compressed.
    return min(1.0, wal["full_pages"] * facts.server.block_bytes / wal["bytes"]) if wal["bytes"] else 0.0


def _evidence(facts: Facts, counted: Delta, wal: Delta, distance: float) -> dict[str, Json]:
    try:
        directory = facts.row(WAL_DIRECTORY).bytes
    except NotReadableError:  # it takes pg_monitor, and is not needed to judge
        directory = None
    return {
        "forced": int(counted["requested"]),
        "timed": int(counted["timed"]),
        "wal_per_second_bytes": wal.per_s("bytes"),
        "wal_that_forces_one_bytes": distance,
        "most_full_pages_share": _full_pages_share(facts, wal),
        "pg_wal_now_bytes": directory,
        "measured": counted.basis,
        "settings": {
            MAX_WAL: format_bytes(facts.setting(MAX_WAL).bytes),
            TIMEOUT: format_duration(facts.setting(TIMEOUT).seconds),
            TARGET: facts.setting(TARGET).value,
        },
    }


def _remedies(facts: Facts, wal: Delta, timeout_s: float) -> tuple[Remedy, ...]:
    wanted = wal.per_s("bytes") * timeout_s * PEAK * (1 + facts.setting(TARGET).number)
    step = STEPS_BYTES[wanted > GB]
    proposed = math.ceil(wanted / step) * step
    present = facts.setting(MAX_WAL).bytes
    remedies = [
        Remedy(
            text=ddl.alter_system(MAX_WAL, f"{proposed >> 20}MB"),
            kind="setting",
            why=(
                f"Room for {PEAK:g} times the WAL of a {TIMEOUT}. The disk of pg_wal needs {format_bytes(proposed)} for"
                f" it, {format_bytes(proposed - present)} more than now, and what slots and wal_keep_size keep; after"
                f" a crash up to {format_bytes(_distance_bytes(facts, proposed))} are replayed."
            ),
        )
    ]
    if facts.setting("wal_compression").value == "off" and _full_pages_share(facts, wal) >= FULL_PAGES_SHARE:
        why = "Whole pages are compressed in the WAL, for some processor time; it helps besides."
        remedies.append(Remedy(text=ddl.alter_system("wal_compression", "on"), kind="setting", why=why))
    return tuple(remedies)


# Settings


def judge_settings(facts: Facts, limits: Limits) -> Answer:
    """Report a checkpoint_timeout or a checkpoint_completion_target that makes checkpoints too many or too sudden."""
    thresholds = limits.checkpoints
    timeout_s, target = facts.setting(TIMEOUT).seconds, facts.setting(TARGET).number
    findings: list[Finding] = []
    if timeout_s < thresholds.least_timeout_s:
        wanted = f"{thresholds.least_timeout_s:.0f}s"
        findings.append(
            Finding(
                check=SETTINGS.id,
                severity="info",
                subject=TIMEOUT,
                fact=f"{TIMEOUT} is {format_duration(timeout_s)}: checkpoints come that often, even with room for WAL.",
                evidence={"settings": {TIMEOUT: format_duration(timeout_s)}},
                cost="After each one the first change of every page writes the whole page to the WAL.",
                remedies=(
                    Remedy(
                        text=ddl.alter_system(TIMEOUT, wanted),
                        kind="setting",
                        why="PostgreSQL's default is 5 minutes; recovery after a crash replays up to so much WAL.",
                    ),
                ),
            )
        )
    if target < thresholds.least_completion_target:
        findings.append(
            Finding(
                check=SETTINGS.id,
                severity="info",
                subject=TARGET,
                fact=f"{TARGET} is {target:g}: a checkpoint writes in {target:.0%} of the time it has.",
                evidence={"settings": {TARGET: target, TIMEOUT: format_duration(timeout_s)}},
                cost="Its writes come in a burst, for which commits and reads wait.",
                remedies=(
                    Remedy(
                        text=ddl.alter_system(TARGET, "0.9"),
                        kind="setting",
                        why="PostgreSQL's default since 14: spread over nearly the whole time.",
                    ),
                ),
            )
        )
    if findings:
        return Findings(tuple(findings))
    return Well(f"{TIMEOUT} is {format_duration(timeout_s)}, {TARGET} {target:g}.")


FORCED = Check(
    id="checkpoints.forced",
    title="Checkpoints",
    question="Does WAL force checkpoints before their time?",
    about=(
        "A checkpoint comes when checkpoint_timeout has passed, or when max_wal_size / (1 +"
        " checkpoint_completion_target) of WAL was written, whichever is first. Forced ones are counted together with"
        " those that CHECKPOINT, base backups and CREATE DATABASE ask for; it is WAL that forces them when the"
        " measured WAL of a checkpoint_timeout is more than that. The size proposed holds 1.5 times that WAL."
    ),
    source=(
        "PostgreSQL, WAL Configuration: max_wal_size should be so large that checkpoints come by time; its"
        " checkpoint_warning speaks up at 30 seconds. A few forced ones, during a bulk load, do no harm: hence 30 %."
    ),
    judge=judge_forced,
    reads=(CHECKPOINTS, WAL, WAL_DIRECTORY),
)

SETTINGS = Check(
    id="checkpoints.settings",
    title="Checkpoint settings",
    question="Are checkpoints set to come too often or all at once?",
    about=(
        "checkpoint_timeout is the longest time between checkpoints: a shorter one shortens the recovery after a crash"
        " and costs WAL all day. checkpoint_completion_target is the share of that time over which a checkpoint spreads"
        " its writes."
    ),
    source=(
        "PostgreSQL, Write Ahead Log (Checkpoints): the defaults are 5 minutes and 0.9, and lowering the completion"
        " target is not recommended there."
    ),
    judge=judge_settings,
    reads=(SERVER_SETTINGS,),
)

CHECKS = (FORCED, SETTINGS)
