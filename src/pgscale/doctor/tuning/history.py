"""Settings that PostgreSQL removed, renamed or gave another default, by version, each with what stands for it today.

Versions are numbered as by server_version_num: 90500 is 9.5, 130000 is 13. Taken from "Migration to Version …" of
the release notes (Appendix E of the documentation). Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from pgscale.doctor.tuning.model import Setting
from pgscale.doctor.tuning.values import MEMORY, parse_number, parse_value

WAL_SEGMENT_BYTES = 16 << 20
INITDB_SHARED_BUFFERS = "16384"  # 128MB: initdb writes it into the file, or less on a machine that has no more

Lines = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """A setting that a version no longer has.

    Args:
        since: the first server_version_num without it.
        now: names and values that say the same today, from the old value; empty when nothing is to be said.
        why: what became of it, as a sentence.
        taken: the server still understands the old name, with these values; empty for any value.
    """

    since: int
    why: str
    now: Callable[[str], Lines] = lambda _: ()
    taken: frozenset[str] | None = None


_ANY: frozenset[str] = frozenset()


def _same(name: str) -> Callable[[str], Lines]:
    return lambda value: ((name, value),)


def _count(value: str) -> int:
    plain = Setting(
        name="", kind="integer", unit=None, minimum=0, maximum=2**31 - 1, values=(), default=None, context="sighup"
    )
    return int(parse_number(plain, value))


def _checkpoint_segments(value: str) -> Lines:
    # Release notes of 9.5: max_wal_size = (3 * checkpoint_segments) * 16MB.
    return (("max_wal_size", _megabytes(3 * _count(value))),)


def _wal_keep_segments(value: str) -> Lines:
    # Release notes of 13: wal_keep_size = wal_keep_segments * wal_segment_size (typically 16MB).
    return (("wal_keep_size", _megabytes(_count(value))),)


def _megabytes(segments: int) -> str:
    return f"{segments * WAL_SEGMENT_BYTES // MEMORY['MB']}MB"


_SEGMENTS = "; one segment is counted as 16MB, which is right unless initdb was told --wal-segsize"

GONE: Mapping[str, Gone] = MappingProxyType(
    {
        "tcpip_socket": Gone(
            since=80000,
            why="8.0 replaced it by listen_addresses.",
            now=lambda value: (
                ("listen_addresses", "*" if value.lower() in {"true", "on", "1", "yes"} else "localhost"),
            ),
        ),
        "virtual_host": Gone(since=80000, why="8.0 renamed it.", now=_same("listen_addresses")),
        "sort_mem": Gone(since=80000, why="8.0 renamed it.", now=_same("work_mem"), taken=_ANY),
        "vacuum_mem": Gone(since=80000, why="8.0 renamed it.", now=_same("maintenance_work_mem"), taken=_ANY),
        "preload_libraries": Gone(since=80200, why="8.2 renamed it.", now=_same("shared_preload_libraries")),
        "australian_timezones": Gone(since=80200, why="8.2 replaced it by timezone_abbreviations = 'Australia'."),
        "redirect_stderr": Gone(since=80300, why="8.3 renamed it.", now=_same("logging_collector")),
        "stats_command_string": Gone(since=80300, why="8.3 renamed it.", now=_same("track_activities")),
        "stats_row_level": Gone(since=80300, why="8.3 merged it into track_counts, which is on."),
        "stats_block_level": Gone(since=80300, why="8.3 merged it into track_counts, which is on."),
        "stats_start_collector": Gone(since=80300, why="Statistics are always collected since 8.3."),
        "stats_reset_on_server_start": Gone(since=80300, why="8.3 removed it; pg_stat_reset() does it when asked."),
        "bgwriter_all_percent": Gone(since=80300, why="8.3 removed it: checkpoints are spread over time instead."),
        "bgwriter_all_maxpages": Gone(since=80300, why="8.3 removed it: checkpoints are spread over time instead."),
        "bgwriter_lru_percent": Gone(
            since=80300, why="8.3 replaced it by bgwriter_lru_multiplier, which has a default."
        ),
        "max_fsm_pages": Gone(since=80400, why="The free space map lies on disk and sizes itself since 8.4."),
        "max_fsm_relations": Gone(since=80400, why="The free space map lies on disk and sizes itself since 8.4."),
        "explain_pretty_print": Gone(since=80400, why="8.4 removed it: nothing depends on it any more."),
        "add_missing_from": Gone(since=90000, why="9.0 removed it; queries must name their tables in FROM."),
        "regex_flavor": Gone(
            since=90000, why="9.0 removed it; regular expressions are advanced ones, (?b) makes others."
        ),
        "custom_variable_classes": Gone(since=90200, why="Any name with a dot may be set since 9.2."),
        "silent_mode": Gone(since=90200, why="9.2 removed it; pg_ctl -l or systemd detach the server."),
        "wal_sender_delay": Gone(since=90200, why="Walsenders are woken by new WAL since 9.2."),
        "replication_timeout": Gone(since=90300, why="9.3 renamed it.", now=_same("wal_sender_timeout")),
        "unix_socket_directory": Gone(since=90300, why="9.3 renamed it.", now=_same("unix_socket_directories")),
        "krb_srvname": Gone(since=90400, why="9.4 removed it with Kerberos 5 authentication; GSSAPI takes its place."),
        "checkpoint_segments": Gone(
            since=90500,
            why=f"9.5 replaced it by max_wal_size = 3 × checkpoint_segments × 16MB{_SEGMENTS}.",
            now=_checkpoint_segments,
        ),
        "ssl_renegotiation_limit": Gone(
            since=90500, why="Renegotiation is gone since 9.5.", taken=frozenset({"0", "0kb", "0mb"})
        ),
        "sql_inheritance": Gone(
            since=100000, why="10 removed it; queries always include child tables, ONLY leaves them out."
        ),
        "min_parallel_relation_size": Gone(
            since=100000, why="10 renamed it.", now=_same("min_parallel_table_scan_size")
        ),
        "replacement_sort_tuples": Gone(
            since=110000, why="11 removed it: replacement selection was slower than quicksort."
        ),
        "default_with_oids": Gone(
            since=120000,
            why="12 removed tables WITH OIDS.",
            taken=frozenset({"off", "of", "false", "f", "no", "n", "0"}),
        ),
        "standby_mode": Gone(
            since=120000,
            why="recovery.conf is no more since 12: an empty file standby.signal in the data directory says it.",
        ),
        "trigger_file": Gone(
            since=120000,
            why="12 renamed it to promote_trigger_file and 16 removed that: use pg_ctl promote or pg_promote().",
        ),
        "wal_keep_segments": Gone(
            since=130000,
            why=f"13 replaced it by wal_keep_size = wal_keep_segments × 16MB{_SEGMENTS}.",
            now=_wal_keep_segments,
        ),
        "operator_precedence_warning": Gone(since=140000, why="14 removed it: it warned of a change in 9.5."),
        "vacuum_cleanup_index_scale_factor": Gone(since=140000, why="14 removed it: it had no effect since 13.3."),
        "stats_temp_directory": Gone(since=150000, why="Statistics live in shared memory since 15."),
        "force_parallel_mode": Gone(since=160000, why="16 renamed it.", now=_same("debug_parallel_query")),
        "promote_trigger_file": Gone(since=160000, why="16 removed it: use pg_ctl promote or pg_promote()."),
        "vacuum_defer_cleanup_age": Gone(
            since=160000, why="16 removed it: hot_standby_feedback or a replication slot protects queries on standbys."
        ),
        "lc_collate": Gone(since=160000, why="It could never be set here, and each database has its own."),
        "lc_ctype": Gone(since=160000, why="It could never be set here, and each database has its own."),
        "old_snapshot_threshold": Gone(
            since=170000,
            why="17 removed it; transaction_timeout and idle_in_transaction_session_timeout end old snapshots.",
        ),
        "db_user_namespace": Gone(since=170000, why="17 removed it; roles are the cluster's."),
        "trace_recovery_messages": Gone(since=170000, why="17 removed it: log_min_messages serves."),
        "ssl_ecdh_curve": Gone(since=180000, why="18 renamed it.", now=_same("ssl_groups"), taken=_ANY),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A value that a version no longer takes."""

    since: int
    now: str
    why: str


_MD5 = "was another word for md5 and is no longer taken since 14; scram-sha-256 is the default."
WORDS: Mapping[tuple[str, str], Word] = MappingProxyType(
    {
        **{
            ("password_encryption", word): Word(since=140000, now="scram-sha-256", why=f"`{word}` {_MD5}")
            for word in ("on", "true", "yes", "1")
        },
        ("password_encryption", "off"): Word(
            since=100000, now="scram-sha-256", why="Passwords are always encrypted since 10."
        ),
        ("dynamic_shared_memory_type", "none"): Word(since=120000, now="posix", why="12 removed `none`."),
        ("wal_level", "archive"): Word(
            since=90600, now="replica", why="9.6 merged archive and hot_standby into replica."
        ),
        ("wal_level", "hot_standby"): Word(
            since=90600, now="replica", why="9.6 merged archive and hot_standby into replica."
        ),
    }
)

Side = Literal["below", "above", "is"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDefault:
    """A default that a version changed for the better; a file from before can undo that without saying so.

    Args:
        former: what the default was.
        side: which values are worse than today's default: those below it, above it, or only `former` itself.
        why: what the change brought.
    """

    since: int
    former: str
    side: Side
    why: str


DEFAULTS: Mapping[str, tuple[NewDefault, ...]] = MappingProxyType(
    {
        "default_statistics_target": (
            NewDefault(since=80400, former="10", side="below", why="plans rest on ten times the samples"),
        ),
        "wal_buffers": (
            NewDefault(since=90100, former="64kB", side="is", why="it follows shared_buffers, up to a segment of WAL"),
        ),
        "shared_buffers": (NewDefault(since=90300, former="32MB", side="below", why="machines have grown"),),
        "work_mem": (NewDefault(since=90400, former="1MB", side="below", why="machines have grown"),),
        "maintenance_work_mem": (NewDefault(since=90400, former="16MB", side="below", why="machines have grown"),),
        "effective_cache_size": (NewDefault(since=90400, former="128MB", side="is", why="machines have grown"),),
        "max_wal_size": (
            NewDefault(since=90500, former="144MB", side="below", why="three segments made checkpoints far too often"),
        ),
        "wal_level": (
            NewDefault(
                since=100000, former="minimal", side="is", why="base backups and standbys work without a restart"
            ),
        ),
        "max_wal_senders": (
            NewDefault(since=100000, former="0", side="below", why="standbys and base backups find a free walsender"),
        ),
        "max_replication_slots": (
            NewDefault(since=100000, former="0", side="below", why="slots can be made without a restart"),
        ),
        "hot_standby": (NewDefault(since=100000, former="off", side="is", why="standbys answer queries"),),
        "log_line_prefix": (NewDefault(since=100000, former="", side="is", why="log lines carry time and process"),),
        "autovacuum_vacuum_cost_delay": (
            NewDefault(since=120000, former="20ms", side="above", why="autovacuum may do ten times as much"),
        ),
        "extra_float_digits": (
            NewDefault(since=120000, former="0", side="is", why="floats are printed exactly, and faster"),
        ),
        "recovery_target_timeline": (
            NewDefault(since=120000, former="current", side="is", why="standbys follow a fail-over"),
        ),
        "ssl_min_protocol_version": (
            NewDefault(since=130000, former="TLSv1", side="below", why="TLS before 1.2 is broken"),
        ),
        "checkpoint_completion_target": (
            NewDefault(since=140000, former="0.5", side="below", why="writes of a checkpoint are spread evenly"),
        ),
        "vacuum_cost_page_miss": (
            NewDefault(
                since=140000, former="10", side="above", why="reading a page costs VACUUM less than dirtying one"
            ),
        ),
        "password_encryption": (
            NewDefault(since=140000, former="md5", side="is", why="md5 can be broken, and 18 warns that it will go"),
        ),
        "log_checkpoints": (
            NewDefault(since=150000, former="off", side="is", why="the log tells what checkpoints cost"),
        ),
        "log_autovacuum_min_duration": (
            NewDefault(since=150000, former="-1", side="is", why="the log tells of slow autovacuums"),
        ),
        "hash_mem_multiplier": (
            NewDefault(since=150000, former="1.0", side="below", why="hashes spill to disk later than sorts"),
        ),
        "vacuum_buffer_usage_limit": (
            NewDefault(since=170000, former="256kB", side="below", why="VACUUM writes its WAL less often"),
        ),
        "effective_io_concurrency": (
            NewDefault(since=180000, former="1", side="below", why="reads are started ahead"),
        ),
        "maintenance_io_concurrency": (
            NewDefault(since=180000, former="10", side="below", why="reads are started ahead"),
        ),
    }
)


def name_version(since: int) -> str:
    """Return `9.5` or `13`."""
    return str(since // 10_000) if since >= 100_000 else f"{since // 10_000}.{since // 100 % 100}"


def lowers_default(setting: Setting, plain: str, version: int) -> NewDefault | None:
    """Return the change of a default that a value takes back on a version; None when it takes nothing back.

    Args:
        plain: as pg_settings prints it.
        version: as server_version_num.
    """
    for change in DEFAULTS.get(setting.name, ()):
        if change.since <= version and _is_worse(setting, plain, change):
            return change
    return None


def default_of(setting: Setting) -> str:
    """Return the default that a server has after initdb, in the setting's unit."""
    return INITDB_SHARED_BUFFERS if setting.name == "shared_buffers" else (setting.default or "")


def _is_worse(setting: Setting, plain: str, change: NewDefault) -> bool:
    default = default_of(setting)
    if change.side == "is":
        return plain == parse_value(setting, change.former) != default
    if setting.kind == "enum":
        return setting.values.index(plain) < setting.values.index(default)
    # A negative number leaves the choice to the server.
    return 0 <= float(plain) < float(default) if change.side == "below" else float(plain) > float(default)
