"""Thresholds, with their units in their names. `[doctor.<area>]` of pgscale.toml overrides them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from pgscale.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaLimits:
    """The thresholds of one area: numbers that are not negative, no warning_… above its critical_….

    Of `…_left_s`, a time that is left, less is worse.
    """

    def __post_init__(self) -> None:
        values: dict[str, float] = {each.name: getattr(self, each.name) for each in fields(self)}
        for name, value in values.items():
            if value < 0:
                raise UsageError(f"`{name}` = {value} is below zero")
            critical = name.replace("warning_", "critical_", 1)
            other = values.get(critical, value)
            is_left = name.endswith("_left_s")
            if name.startswith("warning_") and (value < other if is_left else value > other):
                raise UsageError(f"`{name}` = {value} is {'below' if is_left else 'above'} `{critical}` = {other}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HorizonLimits(AreaLimits):
    """How long VACUUM may be held back.

    Args:
        warning_age_s, critical_age_s: the age of what holds it, seconds.
        least_age_xids: nothing younger is reported for its age in time: little has been written since.
        warning_age_xids, critical_age_xids: its age in transaction ids, whatever its age in time.
    """

    warning_age_s: float = 900.0
    critical_age_s: float = 21_600.0
    least_age_xids: int = 1_000
    warning_age_xids: int = 10_000_000
    critical_age_xids: int = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionsLimits(AreaLimits):
    """How sessions may behave.

    Args:
        warning_idle_in_transaction_s, critical_idle_in_transaction_s: since a transaction's last statement, seconds.
        warning_connections_share, critical_connections_share: connections in use, of those that may be; 0 to 1.
        long_idle_s: a session that has asked for nothing for so long is not needed now, seconds.
        pooler_connections, pooler_idle_share: a pooler pays from so many connections on, of which such a share is idle.
    """

    warning_idle_in_transaction_s: float = 300.0
    critical_idle_in_transaction_s: float = 3_600.0
    warning_connections_share: float = 0.8
    critical_connections_share: float = 0.95
    long_idle_s: float = 600.0
    pooler_connections: int = 200
    pooler_idle_share: float = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointsLimits(AreaLimits):
    """How checkpoints may come, and how much WAL may wait.

    Args:
        least_checkpoints: of fewer no share is told.
        warning_forced_share: of all checkpoints; 0 to 1.
        critical_interval_s: between one checkpoint and the next, when they are forced, seconds.
        least_timeout_s, least_completion_target: settings below are reported.
        warning_waiting_s, critical_waiting_s: of the oldest WAL file that waits for the archiver, seconds.
        warning_retained_bytes, critical_retained_bytes: WAL that a slot keeps.
        warning_unused_retained_bytes: likewise, of a slot that nobody uses.
    """

    least_checkpoints: int = 4
    warning_forced_share: float = 0.3
    critical_interval_s: float = 30.0
    least_timeout_s: float = 300.0
    least_completion_target: float = 0.7
    warning_waiting_s: float = 300.0
    critical_waiting_s: float = 3_600.0
    warning_retained_bytes: int = 10 << 30
    critical_retained_bytes: int = 50 << 30
    warning_unused_retained_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class WraparoundLimits(AreaLimits):
    """How old what is not frozen may be.

    Args:
        warning_limit_share: of autovacuum_freeze_max_age, or of its multixact twin; 1 is where autovacuum begins.
        critical_failsafe_share: of vacuum_failsafe_age, or its twin.
        critical_left_s: until no id is left at the present rate, of what is above the warning; seconds.
    """

    warning_limit_share: float = 1.5
    critical_failsafe_share: float = 0.75
    critical_left_s: float = 604_800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AutovacuumLimits(AreaLimits):
    """How far autovacuum may be behind.

    Args:
        warning_due_factor, critical_due_factor: dead rows (for the warning inserted or changed ones, too), as a
            multiple of those at which autovacuum begins.
        least_rows: fewer that are dead, inserted or changed do no harm.
        least_wait_s: of a table vacuumed or analyzed later than so long ago it is not told that it waits, seconds.
        least_unknown_rows: tables of fewer need no statistics.
        most_pass_s: that autovacuum may take for one table because of its cost limit, seconds.
    """

    warning_due_factor: float = 2.0
    critical_due_factor: float = 10.0
    least_rows: int = 10_000
    least_wait_s: float = 300.0
    least_unknown_rows: int = 1_000
    most_pass_s: float = 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BloatLimits(AreaLimits):
    """How much of tables and indexes may be empty.

    Args:
        warning_share: of its pages; 0 to 1.
        least_bytes: less bloat is not told.
        warning_bytes: less of it is told as information.
    """

    warning_share: float = 0.5
    least_bytes: int = 64 << 20
    warning_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class SequencesLimits(AreaLimits):
    """How much of a key may be used up.

    Args:
        warning_used_share, critical_used_share: of the values of its type, or of its sequence; 0 to 1.
        warning_left_s, critical_left_s: until none is left at the present rate, seconds.
        least_used_share: nothing below is reported for the time that is left.
    """

    warning_used_share: float = 0.7
    critical_used_share: float = 0.9
    warning_left_s: float = 15_552_000.0
    critical_left_s: float = 2_592_000.0
    least_used_share: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLimits(AreaLimits):
    """How often pages should be found in shared_buffers.

    Args:
        least_hit_share: of all pages that were asked for; 0 to 1.
        least_pages: of fewer that were asked for no share is told.
        least_reads_per_s: fewer pages that had to be read do no harm, whatever their share.
        most_cached_read_s: a mean read that is quicker did not come from a disk, seconds.
    """

    least_hit_share: float = 0.95
    least_pages: int = 10_000
    least_reads_per_s: float = 100.0
    most_cached_read_s: float = 0.0001


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicasLimits(AreaLimits):
    """How far standbys may be behind.

    Args:
        warning_lag_s, critical_lag_s: until what was committed is replayed, seconds.
        warning_lag_bytes, critical_lag_bytes: WAL that is not replayed yet.
        warning_unused_s: a slot for a standby that nobody uses, seconds.
        warning_conflicts_per_hour: queries that replay cancelled on a standby.
    """

    warning_lag_s: float = 60.0
    critical_lag_s: float = 600.0
    warning_lag_bytes: int = 1 << 30
    critical_lag_bytes: int = 16 << 30
    warning_unused_s: float = 300.0
    warning_conflicts_per_hour: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexesLimits(AreaLimits):
    """What indexes may cost.

    Args:
        unused_s: an index that nobody used for so long is unused, seconds.
        least_unused_bytes, least_redundant_bytes: a smaller index is not worth a word.
        least_referencing_bytes: a smaller table is read as a whole as fast as by an index.
        least_brin_table_bytes: likewise, for BRIN.
        brin_correlation: of a column's values with the order of the rows, at least; 0 to 1.
        brin_changed_share: rows updated and deleted, of those the table has, at most.
        least_missing_table_bytes: a smaller table is read as a whole as fast as by an index.
        missing_times: pages a statement reads now, of those it would read by an index, at least.
        least_saved_share, warning_saved_share: time of statements that an index saves, of the time that passed.
        least_partial_saved_bytes: of an index, without what it need not hold.
        partial_null_share: of NULLs in a column whose index may do without them; 0 to 1.
        covering_bytes: that INCLUDE may add to an entry.
    """

    unused_s: float = 3_024_000.0
    least_unused_bytes: int = 10 << 20
    least_redundant_bytes: int = 1 << 20
    least_referencing_bytes: int = 10 << 20
    least_brin_table_bytes: int = 1 << 30
    brin_correlation: float = 0.99
    brin_changed_share: float = 0.01
    least_missing_table_bytes: int = 10 << 20
    missing_times: float = 10.0
    least_saved_share: float = 0.002
    warning_saved_share: float = 0.05
    least_partial_saved_bytes: int = 64 << 20
    partial_null_share: float = 0.5
    covering_bytes: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class QueriesLimits(AreaLimits):
    """What statements may take.

    Args:
        least_counted_s: counted for a shorter time, statements are not judged, seconds.
        least_calls: with fewer, a mean says nothing.
        large_share, small_share: of what all statements take together; 0 to 1.
        busy_sessions: sessions that a statement keeps busy, on average.
        slow_mean_s: of a statement with the small share of time, seconds.
        read_bytes_per_s, temp_bytes_per_s, wal_bytes_per_s: on average.
        slower_times: as long as before.
        slower_lost_share: time lost to it, of the time that passed; of one session.
        warning_running_s, critical_running_s: a statement that runs now, seconds.
        maintenance_running_s: likewise, of VACUUM, DDL, COPY and backups.
    """

    least_counted_s: float = 3_600.0
    least_calls: int = 50
    large_share: float = 0.25
    small_share: float = 0.05
    busy_sessions: float = 0.5
    slow_mean_s: float = 1.0
    read_bytes_per_s: int = 20 << 20
    temp_bytes_per_s: int = 5 << 20
    wal_bytes_per_s: int = 5 << 20
    slower_times: float = 2.0
    slower_lost_share: float = 0.01
    warning_running_s: float = 900.0
    critical_running_s: float = 21_600.0
    maintenance_running_s: float = 21_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionsLimits(AreaLimits):
    """When a table wants partitions, and partitions care.

    Args:
        least_table_bytes: a smaller table, with indexes and TOAST, is left alone.
        large_table_bytes: a larger one is reported even where it fits into memory.
        deleted_share: rows deleted, of those inserted, that look like a retention.
        changed_share: rows updated and deleted, of those inserted, with which rows only come in.
        dead_share: dead rows, of those there are, that make VACUUM worth a word.
        least_default_rows: fewer rows in a DEFAULT partition are none.
    """

    least_table_bytes: int = 10 << 30
    large_table_bytes: int = 100 << 30
    deleted_share: float = 0.2
    changed_share: float = 0.01
    dead_share: float = 0.1
    least_default_rows: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ToastLimits(AreaLimits):
    """When long values are worth a word.

    Args:
        least_bytes: less outside the rows of a table is left alone.
        sample_rows: to read of a column, about, with --sample.
        least_saving_share: of the bytes, that makes a way to store them better; 0 to 1.
        faster_times: how many times as fast to read makes it better.
        most_larger_share: that it may take more then; 0 to 1.
        least_pages_per_s: fewer pages of long values read are left alone; least_read_share: of all pages read of the
            table; 0 to 1.
        warning_disk_pages_per_s: of them not found in shared_buffers.
    """

    least_bytes: int = 256 << 20
    sample_rows: int = 1_000
    least_saving_share: float = 0.1
    faster_times: float = 1.3
    most_larger_share: float = 0.25
    least_pages_per_s: float = 1_000.0
    least_read_share: float = 0.5
    warning_disk_pages_per_s: float = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every threshold.

    Args:
        ignore: ids and areas of checks that are left out, as with --ignore.
    """

    ignore: tuple[str, ...] = ()
    horizon: HorizonLimits = field(default_factory=HorizonLimits)
    sessions: SessionsLimits = field(default_factory=SessionsLimits)
    checkpoints: CheckpointsLimits = field(default_factory=CheckpointsLimits)
    wraparound: WraparoundLimits = field(default_factory=WraparoundLimits)
    autovacuum: AutovacuumLimits = field(default_factory=AutovacuumLimits)
    bloat: BloatLimits = field(default_factory=BloatLimits)
    sequences: SequencesLimits = field(default_factory=SequencesLimits)
    cache: CacheLimits = field(default_factory=CacheLimits)
    replicas: ReplicasLimits = field(default_factory=ReplicasLimits)
    indexes: IndexesLimits = field(default_factory=IndexesLimits)
    queries: QueriesLimits = field(default_factory=QueriesLimits)
    partitions: PartitionsLimits = field(default_factory=PartitionsLimits)
    toast: ToastLimits = field(default_factory=ToastLimits)
