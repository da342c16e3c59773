"""What is wrong with a configuration file for a version of PostgreSQL, and what ought to stand there. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pgscale.core.finding import Severity
from pgscale.doctor.tuning import history, known
from pgscale.doctor.tuning.conf import Conf, Entry
from pgscale.doctor.tuning.model import LineFinding, Problem, Setting
from pgscale.doctor.tuning.values import BadValueError, distance, format_value, parse_value, quote

# The server refuses to start with it, or to take the file at a reload.
STOPS: frozenset[Problem] = frozenset(
    {"syntax", "include", "removed", "misspelt", "unknown", "internal", "value", "unit", "range", "conflict"}
)
_DOES_NOT_START = "the server does not start with it"

# By name and value: what follows.
DANGEROUS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("fsync", "off"): "a crash of the machine can leave the database beyond repair",
        ("full_page_writes", "off"): "a crash of the machine can leave torn pages, which nothing repairs",
        ("synchronous_commit", "off"): "a crash loses commits that were confirmed; set it in the sessions that may",
        ("autovacuum", "off"): "tables bloat, statistics age, and at last the server stops for fear of wraparound",
        ("track_counts", "off"): "autovacuum cannot see what changed, and does nothing",
        ("zero_damaged_pages", "on"): "damaged pages are emptied, and their rows are gone",
        ("ignore_checksum_failure", "on"): "damaged pages are read as if they were whole",
        ("ignore_invalid_pages", "on"): "recovery goes on past damage",
        ("ignore_system_indexes", "on"): "every look into the catalog reads whole tables",
        ("data_sync_retry", "on"): "a failed flush is tried again, although the kernel may have dropped the data",
        ("allow_system_table_mods", "on"): "one wrong statement can break the catalog",
        ("allow_in_place_tablespaces", "on"): "it is for tests of the server only",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    problem: Problem
    fact: str
    replacement: tuple[str, ...] = ()
    severity: Severity | None = None


def judge(conf: Conf, version: int) -> tuple[LineFinding, ...]:
    """Return what is wrong with a file, in its order; at most one finding a line.

    Args:
        version: major version of the server it is for.

    Raises:
        UsageError: that version is not known.
    """
    return tuple(_Judge(conf, version).findings())


class _Judge:
    """One file against one version."""

    def __init__(self, conf: Conf, version: int) -> None:
        self._entries = conf.entries
        # Names may be written in any case; three of them (DateStyle, IntervalStyle, TimeZone) have capitals.
        self._settings = {name.lower(): setting for name, setting in known.settings_of(version).items()}
        self._major = version
        self._version = version * 10_000
        # Of equal names the last counts.
        self._last = {entry.name: entry for entry in conf.entries if entry.what == "setting"}
        self._values = self._effective()

    def findings(self) -> Iterator[LineFinding]:
        for entry in self._entries:
            verdict = self._verdict(entry)
            if verdict is None:
                continue
            severity: Severity = "critical" if verdict.problem in STOPS else "warning"
            yield LineFinding(
                problem=verdict.problem,
                severity=verdict.severity or severity,
                file=entry.file,
                line=entry.line,
                name=entry.name,
                text=entry.text,
                fact=verdict.fact,
                replacement=verdict.replacement,
            )

    def _effective(self) -> dict[str, str]:
        values = {name: history.default_of(setting) for name, setting in self._settings.items()}
        for name, entry in self._last.items():
            if name in self._settings:
                try:
                    values[name] = parse_value(self._settings[name], entry.value)
                except BadValueError:
                    continue
        return values

    # One line

    def _verdict(self, entry: Entry) -> _Verdict | None:  # noqa: PLR0911 because each kind of line has its own
        if entry.what == "syntax":
            return self._syntax(entry)
        if entry.what == "include":
            return _Verdict(problem="include", fact=f"{entry.why[:1].upper()}{entry.why[1:]}; {_DOES_NOT_START}.")
        if (last := self._last[entry.name]) is not entry:
            where = f"line {last.line}" if last.file == entry.file else f"line {last.line} of {last.file}"
            return _Verdict(problem="duplicate", fact=f"It has no effect: {where} sets {entry.name} again.")
        setting = self._settings.get(entry.name)
        if setting is not None:
            return self._judge_value(setting, entry.value)
        if (gone := history.GONE.get(entry.name)) is not None:
            return self._gone(gone, entry)
        if "." in entry.name or entry.name in known.UNSHOWN:
            return None
        return self._stranger(entry)

    def _syntax(self, entry: Entry) -> _Verdict:
        fact = f"The line cannot be read: {entry.why}; {_DOES_NOT_START}."
        setting = self._settings.get(entry.name)
        if setting is None or entry.name in self._last:
            return _Verdict(problem="syntax", fact=fact)
        return _Verdict(problem="syntax", fact=fact, replacement=self._line(setting, entry.value))

    def _judge_value(self, setting: Setting, value: str) -> _Verdict | None:  # noqa: PLR0911 because each fault of a value has its own answer
        name = setting.name
        if setting.context == "internal":
            return _Verdict(problem="internal", fact=f"{name} tells what the server is; it cannot be set.")
        word = history.WORDS.get((name, value.lower()))
        if word is not None and word.since <= self._version:
            stops = not _is_taken(setting, value)
            return _Verdict(
                problem="value" if stops else "renamed",
                fact=f"{word.why} {_DOES_NOT_START.capitalize() if stops else 'The server still takes the old word'}.",
                replacement=self._line(setting, word.now),
            )
        try:
            plain = parse_value(setting, value)
        except BadValueError as error:
            return _Verdict(
                problem=error.problem,
                fact=f"{error.fact}; {_DOES_NOT_START}.",
                replacement=self._line(setting, error.better) if error.better is not None else (),
            )
        if (conflict := self._conflict(name, plain)) is not None:
            return conflict
        if (harm := DANGEROUS.get((name, plain))) is not None:
            return _Verdict(problem="dangerous", severity="critical", fact=f"{name} = {plain}: {harm}.")
        if (change := history.lowers_default(setting, plain, self._version)) is not None:
            default = format_value(setting, history.default_of(setting))
            shown = format_value(setting, plain) or "''"
            return _Verdict(
                problem="lowers-default",
                severity="info",
                fact=f"{shown} is worse than today's default {default}, which came after"
                f" {history.name_version(change.since)} or with it: {change.why}.",
            )
        return None

    def _gone(self, gone: history.Gone, entry: Entry) -> _Verdict:
        fact = gone.why
        replacement: list[str] = []
        try:
            pairs = gone.now(entry.value)
        except BadValueError as error:
            pairs, fact = (), f"{fact} Its value {error.fact}."
        for name, value in pairs:
            setting = self._settings[name]
            if (there := self._last.get(name)) is not None:
                fact += f" {name} is set at line {there.line} already, and that stays."
                continue
            verdict = self._judge_value(setting, value)
            if verdict is not None and verdict.problem in {"lowers-default", "dangerous"}:
                fact += f" Today it would be {name} = {value}: {verdict.fact}"
            replacement += self._line(setting, value)
        if gone.taken is not None and (not gone.taken or entry.value.lower() in gone.taken):
            return _Verdict(
                problem="renamed", fact=f"{fact} The server still takes it.", replacement=tuple(replacement)
            )
        return _Verdict(
            problem="removed", fact=f"{fact} {_DOES_NOT_START.capitalize()}.", replacement=tuple(replacement)
        )

    def _stranger(self, entry: Entry) -> _Verdict:
        for version in range(self._major + 1, known.NEWEST + 1):
            if entry.name in known.settings_of(version):
                fact = f"{entry.name} came with PostgreSQL {version}; {self._major} does not start with it."
                return _Verdict(problem="unknown", fact=fact)
        near = nearest(entry.name, self._settings)
        if not near:
            return _Verdict(problem="unknown", fact=f"No version of PostgreSQL has {entry.name}; {_DOES_NOT_START}.")
        line = self._line(self._settings[near[0]], entry.value) if len(near) == 1 and near[0] not in self._last else ()
        return _Verdict(
            problem="misspelt",
            fact=f"There is no {entry.name}, but there is {' and '.join(near)}; {_DOES_NOT_START}.",
            replacement=line,
        )

    def _line(self, setting: Setting, value: str) -> tuple[str, ...]:
        """Return a line that sets a value, or what was most likely meant by it; none if that would be wrong as well."""
        try:
            plain = parse_value(setting, value)
        except BadValueError as error:
            return () if error.better is None else self._line(setting, error.better)
        if (setting.name.lower(), plain) in DANGEROUS or history.lowers_default(setting, plain, self._version):
            return ()
        # As it was written; words as the server spells them.
        return (f"{setting.name} = {quote(plain if setting.kind in {'bool', 'enum'} else value)}",)

    # Lines that contradict one another

    def _conflict(self, name: str, plain: str) -> _Verdict | None:
        value = self._values
        if name == "wal_level" and plain == "minimal":
            needing = [
                f"{other} = {value[other]}"
                for other, quiet in (("max_wal_senders", "0"), ("archive_mode", "off"), ("summarize_wal", "off"))
                if value.get(other, quiet) != quiet
            ]
            if needing:
                return _Verdict(
                    problem="conflict",
                    fact=f"wal_level = minimal cannot go with {' and '.join(needing)}; {_DOES_NOT_START}.",
                )
        reserved = int(value["superuser_reserved_connections"]) + int(value.get("reserved_connections", "0"))
        if name == "max_connections" and int(plain) <= reserved:
            return _Verdict(
                problem="conflict",
                fact=f"All of max_connections = {plain} would be reserved ({reserved}); {_DOES_NOT_START}.",
                replacement=(f"max_connections = {reserved + 1}",),
            )
        if name in {"min_wal_size", "max_wal_size"} and int(plain) < 32:
            fact = f"{name} must be two segments of WAL at least, usually 32MB; {_DOES_NOT_START}."
            return _Verdict(
                problem="range", fact=fact, replacement=("min_wal_size = 32MB",) if name == "min_wal_size" else ()
            )
        return None


def nearest(name: str, names: Mapping[str, object]) -> tuple[str, ...]:
    """Return the names that one or a few wrong letters may stand for, at most three, all equally near."""
    most = 1 if len(name) < 8 else 2 if len(name) < 16 else 3
    by_distance = sorted((distance(name, other), other) for other in names if abs(len(other) - len(name)) <= most)
    best = [other for far, other in by_distance if far <= most and far == by_distance[0][0]]
    return tuple(best[:3])


def _is_taken(setting: Setting, value: str) -> bool:
    try:
        parse_value(setting, value)
    except BadValueError:
        return False
    return True
