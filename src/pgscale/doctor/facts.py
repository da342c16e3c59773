"""What checks know: one read-only session, read section by section, each at most once.

A check never waits for the application, so no query here may lock a relation of the user's. Beside reading the tables
that forbids (each was seen to wait behind ACCESS EXCLUSIVE, on 14 to 18) pg_relation_size and its kin; pg_get_indexdef,
pg_get_constraintdef, pg_get_expr, pg_get_partkeydef, pg_get_triggerdef, pg_get_viewdef, pg_get_ruledef and
pg_get_statisticsobjdef, which open the table to name its columns, and so the columns of pg_indexes, pg_views and
pg_policies that call them; pg_partition_tree; pg_sequence_last_value and pg_sequences.last_value. Sizes are relpages ×
block size. Nothing is locked by regclass::text, has_table_privilege, row_security_active, pg_stats, the functions
pg_stat_get_… and the views pg_stat_all_….
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar, cast

import psycopg
from psycopg.rows import class_row, dict_row

from pgscale import sql as named
from pgscale.connect.session import Profile, Session
from pgscale.core.model import quote_ident
from pgscale.core.units import parse_bytes, parse_duration_s
from pgscale.doctor.samples import Delta, NoSamples, Reading, Samples, difference, since_reset
from pgscale.errors import ConnectError

Row = TypeVar("Row")
Kept = TypeVar("Kept")

STATEMENT_TIMEOUT_MS = 10_000
DOCTOR = Profile(purpose="doctor", statement_timeout_ms=STATEMENT_TIMEOUT_MS, lock_timeout_ms=100, read_only=True)

# Shorter, and a burst or a pause of the application is taken for its habit.
LEAST_DELTA_S = 60.0
# Counters since a reset tell of what was, too; of less than this they tell nothing.
LEAST_SINCE_RESET_S = 3_600.0


class NotReadableError(Exception):
    """Something cannot be known; the runner makes NotChecked of it.

    Args:
        because: why, to stand after "not checked, because"; without a full stop.
        hint: what would make it readable.
    """

    def __init__(self, because: str, hint: str = "") -> None:
        super().__init__(because)
        self.because = because
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Section(Generic[Row]):
    """Rows that one named query gives.

    Args:
        area: the file, `doctor/queries/<area>.sql`.
        query: its name there.
        row: a frozen dataclass with a field a column.
        needs_statistics: without pg_read_all_stats its rows would be wrong or empty, so they are not read then.
        extension: whose views it reads; since and until of its variants are then the extension's version, 11100 for
            1.11, and its schema is in the search path.
    """

    area: str
    query: str
    row: type[Row]
    needs_statistics: bool = False
    extension: str = ""

    @property
    def name(self) -> str:
        return f"{self.area}.{self.query}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """A group of counters, whose differences between runs are judged.

    Args:
        area, query: as in Section. Every column is a number that only grows, but for `reset_at` (timestamptz, when
            they began at zero; NULL where unknown; may be missing) and `key` (text; may be missing: then there is one
            row).
        needs_statistics, extension: as in Section.
    """

    area: str
    query: str
    needs_statistics: bool = False
    extension: str = ""

    @property
    def name(self) -> str:
        return f"{self.area}.{self.query}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What every check may ask.

    Args:
        version: as server_version_num.
        version_text: as the server shows it.
        database_oid: of the database examined.
        sees_all_statistics: the login has pg_read_all_stats, which pg_monitor brings.
        sees_all_settings: it has pg_read_all_settings, likewise.
        block_bytes: size of a page.
        read_at: now, by the server's clock.
        statistics_reset_at: of this database; None when they never were.
    """

    version: int
    version_text: str
    database: str
    database_oid: int
    role: str
    is_superuser: bool
    sees_all_statistics: bool
    sees_all_settings: bool
    is_in_recovery: bool
    block_bytes: int
    started_at: datetime
    read_at: datetime
    statistics_reset_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting, as a new session of the login gets it.

    Args:
        value, unit, kind, context, default_value, least, most, source: as pg_settings has them; the default is the one
            PostgreSQL is built with. `source` is `session` for what every session of ours sets.
        is_pending_restart: the file says otherwise, and the server waits for its restart.
    """

    name: str
    value: str
    unit: str | None
    kind: str
    context: str
    default_value: str | None
    least: str | None
    most: str | None
    source: str
    is_pending_restart: bool

    @property
    def is_on(self) -> bool:
        return self.value == "on"

    @property
    def number(self) -> float:
        """The value in its own unit."""
        return float(self.value)

    @property
    def bytes(self) -> int:
        """The value of a size; -1 stays -1."""
        return int(self.value) if self.number < 0 else int(self.number * _factor(self.unit or "B", parse_bytes))

    @property
    def seconds(self) -> float:
        """The value of a duration; -1 stays -1."""
        return self.number if self.number < 0 else self.number * _factor(self.unit or "ms", parse_duration_s)


def _factor(unit: str, parse: Callable[[str], float]) -> float:
    # "8kB", "MB", "min".
    return parse(unit if unit[0].isdigit() else f"1{unit}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """An extension of this database; not `is_usable`: the login may not look into its schema."""

    name: str
    version: str
    schema: str
    is_usable: bool

    @property
    def version_parts(self) -> tuple[int, ...]:
        """To compare: (1, 10) is above (1, 9)."""
        return tuple(int(part) for part in self.version.split(".") if part.isdigit())

    @property
    def version_number(self) -> int:
        """As named queries have it: 11100 for 1.11."""
        major, minor = (*self.version_parts, 0, 0)[:2]
        return major * 10_000 + minor * 100


@dataclass(frozen=True, slots=True, kw_only=True)
class _SystemIdentifier:
    system_identifier: str


_SERVER = Section(area="server", query="server", row=ServerFacts)
SETTINGS = Section(area="server", query="settings", row=Setting)
_EXTENSIONS = Section(area="server", query="extensions", row=Extension)
_SYSTEM_IDENTIFIER = Section(area="server", query="system_identifier", row=_SystemIdentifier)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A standby that was named.

    Args:
        name: host and port, as given.
        facts: None when it could not be reached.
        because: why not; without a full stop.
    """

    name: str
    facts: Facts | None
    because: str = ""


class Facts:
    """What is known of one database, read when it is asked for.

    What could not be read once is not tried again: every check that needs it is told the same.

    Args:
        session: of profile DOCTOR.
        samples: where counters are kept from run to run.
        may_sample: the user wants rows to be read, where a check can tell more by them.

    Attributes:
        replicas: standbys of the database that were named, for checks that must ask them, too.
    """

    def __init__(self, session: Session, samples: Samples | None = None, *, may_sample: bool = False) -> None:
        self._session = session
        self.may_sample = may_sample
        self._role = quote_ident(session.info.user)
        self._samples: Samples = samples if samples is not None else NoSamples()
        self._kept: dict[str, object] = {}
        self._readings: dict[str, Reading] = {}
        self.replicas: tuple[Replica, ...] = ()
        self.server: ServerFacts = self.row(_SERVER)
        self._samples.open(self.database_key)

    @property
    def database_key(self) -> str:
        """Name the database, and its cluster: the same from run to run, another for each."""
        return f"{self._cluster()}-{self.server.database_oid}"

    @property
    def grant_monitor(self) -> str:
        """The statement that gives the login the rights checks need."""
        return f"GRANT pg_monitor TO {self._role};"

    @property
    def grant_read(self) -> str:
        """The statement that shows the login the statistics of every column, and all rows with them."""
        return f"GRANT pg_read_all_data TO {self._role};"

    def rows(self, section: Section[Row]) -> tuple[Row, ...]:
        """Return the rows of a section.

        Raises:
            NotReadableError: they cannot be read, or not wholly.
            ConnectError: the connection is gone.
        """
        return self._once(section.name, lambda: self._read_rows(section))

    def row(self, section: Section[Row]) -> Row:
        """Return the only row of a section; raises as rows()."""
        (row,) = self.rows(section)
        return row

    def setting(self, name: str) -> Setting:
        """Return a setting by its name.

        Raises:
            NotReadableError: the login may not see it, or this version has none of that name.
        """
        found = self.settings().get(name)
        if found is None:
            hidden = not self.server.sees_all_settings
            raise NotReadableError(
                f"role {self._role} does not see the setting {name}"
                if hidden
                else f"this server has no setting {name}",
                self.grant_monitor if hidden else "",
            )
        return found

    def settings(self) -> Mapping[str, Setting]:
        """Return all settings the login may see, by name."""
        return self._once("settings by name", lambda: {each.name: each for each in self.rows(SETTINGS)})

    def extension(self, name: str) -> Extension | None:
        """Return an extension of this database, None when it has not got it."""
        return next((each for each in self.rows(_EXTENSIONS) if each.name == name), None)

    def need_statistics(self, what: str) -> None:
        """Go on only when nothing is hidden from the login.

        Args:
            what: what would be hidden, as in "{what} is hidden from role x".

        Raises:
            NotReadableError: it has no pg_read_all_stats.
        """
        if not self.server.sees_all_statistics:
            raise NotReadableError(f"{what} hidden from role {self._role}", self.grant_monitor)

    def reading(self, counters: Counters) -> Reading:
        """Return counters as they stand; they are kept for later runs. Raises as rows()."""
        reading = self._once(counters.name, lambda: self._read_counters(counters))
        self._readings[counters.name] = reading
        return reading

    def earlier(self, counters: Counters) -> tuple[Reading, ...]:
        """Return what earlier runs kept of a group, the oldest first; the server may have been restarted since."""
        return tuple(sorted(self._samples.earlier(counters.name), key=lambda each: each.taken_at))

    def delta(
        self, counters: Counters, *, least_s: float = LEAST_DELTA_S, least_since_reset_s: float = LEAST_SINCE_RESET_S
    ) -> Delta:
        """Return what counters counted since an earlier run, else since they were reset.

        Args:
            least_s: a shorter time between runs says nothing, seconds.
            least_since_reset_s: likewise, since the reset.

        Raises:
            NotReadableError: as rows(); or there is no earlier sample, and the reset is too recent or unknown.
        """
        now = self.reading(counters)
        delta = difference(now, self._samples.earlier(counters.name), least_s=least_s)
        delta = delta or since_reset(now, least_s=least_since_reset_s)
        if delta is None:
            raise NotReadableError(
                "there is no earlier sample to compare with",
                f"Run it again after {least_s:.0f} seconds, as the same user and without --samples none.",
            )
        return delta

    def sampled(self, name: str, read: Callable[[Session], Kept]) -> Kept:
        """Return what a reader of rows finds; only to be asked where `may_sample` is.

        Args:
            name: under which it is kept, so that it is read once.
            read: leaves the session as it was, whatever it raises.

        Raises:
            NotReadableError, ConnectError: as rows().
        """

        def reading() -> Kept:
            try:
                return read(self._session)
            except psycopg.Error as error:
                raise self.not_readable(error) from error

        return self._once(f"sample {name}", reading)

    def keep_samples(self) -> str:
        """Keep the counters that were read; return why that was not possible, else nothing."""
        return self._samples.keep(self._readings)

    def keep(self, name: str, read: Callable[[], Kept]) -> Kept:
        """Return what is made of facts, made once for all checks that ask; raises as `read` does."""
        return self._once(name, read)

    @property
    def session(self) -> Session:
        """The read-only session, for what no section says: how the planner would plan."""
        return self._session

    def _once(self, name: str, read: Callable[[], Kept]) -> Kept:
        if name not in self._kept:
            try:
                self._kept[name] = read()
            except NotReadableError as error:
                self._kept[name] = error
        kept = self._kept[name]
        if isinstance(kept, NotReadableError):
            raise NotReadableError(kept.because, kept.hint)
        return cast("Kept", kept)

    def _read_rows(self, section: Section[Row]) -> tuple[Row, ...]:
        if section.needs_statistics:
            self.need_statistics("what others do is")
        with self._reading(section) as text, self._session.cursor(row_factory=class_row(section.row)) as cursor:
            return tuple(cursor.execute(text).fetchall())

    def _read_counters(self, counters: Counters) -> Reading:
        if counters.needs_statistics:
            self.need_statistics("what is counted is")
        with self._reading(counters) as text, self._session.cursor(row_factory=dict_row) as cursor:
            found: list[dict[str, Any]] = cursor.execute(text).fetchall()
        resets = {row.pop("reset_at", None) for row in found}
        return Reading(
            taken_at=self.server.read_at,
            started_at=self.server.started_at,
            reset_at=resets.pop() if len(resets) == 1 else None,
            rows={
                str(row.pop("key", "")): {name: _plain(value) for name, value in row.items() if value is not None}
                for row in found
            },
        )

    @contextmanager
    def _reading(self, what: Section[Any] | Counters) -> Generator[bytes]:
        """Give the text of a query to execute, in the search path it needs.

        Raises:
            NotReadableError: the extension is missing, or the query fails.
            ConnectError: the connection is gone.
        """
        extension = self._need_extension(what.extension) if what.extension else None
        text = self._text(what, extension)
        try:
            if extension is not None:
                self._search(f"pg_catalog, {quote_ident(extension.schema)}")
            try:
                yield text
            finally:
                if extension is not None and not self._session.closed:
                    self._search("pg_catalog")
        except psycopg.Error as error:
            raise self.not_readable(error) from error

    def _text(self, what: Section[Any] | Counters, extension: Extension | None) -> bytes:
        if extension is None:
            return queries_of(what).get(what.query, self._session.info.server_version)
        try:
            return queries_of(what).get(what.query, extension.version_number)
        except named.QueryFileError as error:
            old = f"the extension {extension.name} is of version {extension.version}, which is too old"
            raise NotReadableError(old, f"ALTER EXTENSION {extension.name} UPDATE;") from error

    def _search(self, path: str) -> None:
        self._session.execute("SELECT pg_catalog.set_config('search_path', %s, false)", (path,))

    def _need_extension(self, name: str) -> Extension:
        extension = self.extension(name)
        if extension is None:
            raise NotReadableError(
                f"the extension {name} is not installed in this database",
                f"CREATE EXTENSION {name}; the server must have it in shared_preload_libraries (needs a restart).",
            )
        if not extension.is_usable:
            schema = quote_ident(extension.schema)
            raise NotReadableError(
                f"role {self._role} may not look into schema {schema}, where the extension {name} is",
                f"GRANT USAGE ON SCHEMA {schema} TO {self._role};",
            )
        return extension

    def not_readable(self, error: psycopg.Error) -> NotReadableError:
        """Say why a query failed.

        Raises:
            ConnectError: because the connection is gone, and with it every further answer.
        """
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        if self._session.closed or self._session.broken:
            raise ConnectError(f"The connection was lost: {said}.", hint="Try again.") from error
        if isinstance(error, psycopg.errors.ObjectNotInPrerequisiteState):
            return NotReadableError(f"the server has not loaded what it needs ({said})", "It needs a restart.")
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return NotReadableError(f"role {self._role} may not read what it needs ({said})", self.grant_monitor)
        if isinstance(error, psycopg.errors.LockNotAvailable):
            return NotReadableError("somebody holds a lock on the system catalog it reads", "Run it again later.")
        if isinstance(error, psycopg.errors.QueryCanceled):
            took = f"its query took longer than {STATEMENT_TIMEOUT_MS / 1000:.0f} s"
            return NotReadableError(took, "Run it again when the server is less busy.")
        return NotReadableError(f"its query failed ({said})")

    def system_identifier(self) -> str | None:
        """Return what a server and its standbys have in common; None where that is hidden, as by some services."""
        try:
            return self.row(_SYSTEM_IDENTIFIER).system_identifier
        except NotReadableError:
            return None

    def _cluster(self) -> str:
        # Where it is hidden: a server that was replaced behind its name has another start time.
        host = f"{self._session.info.host}_{self._session.info.port}"
        return self.system_identifier() or "".join(c if c.isalnum() else "_" for c in host)


def queries_of(what: Section[Any] | Counters) -> named.Queries:
    """Return the queries of the file that a section or a group of counters is read by."""
    return named.load("pgscale.doctor", f"queries/{what.area}.sql")


def _plain(value: Any) -> float:
    # numeric comes as Decimal; integers stay exact.
    return value if isinstance(value, int) else float(value)
