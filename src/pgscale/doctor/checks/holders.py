"""Who holds the horizon that VACUUM may not remove rows past, and since when.

By ComputeXidHorizons() (src/backend/storage/ipc/procarray.c, 14 to 18) a row of an ordinary table stays while it may be
visible to a transaction of this database (its snapshot or its own id), to a prepared one, to a standby that sends
feedback, or to the xmin of a slot. catalog_xmin of a slot keeps rows of system catalogs only; a snapshot in another
database keeps rows there and in the shared catalogs. A transaction id in another database is different: every snapshot
taken anywhere meanwhile reaches back to it, and so, wherever queries run, does VACUUM.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from pgscale.core.units import format_count, format_duration
from pgscale.doctor.facts import Counters, Facts, Section


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
TRANSACTION_IDS = Counters(area="horizon", query="transaction_ids")

Who: TypeAlias = HoldingSession | PreparedTransaction | Slot
# From what concerns this database least to what concerns it most.
Reach = Literal["elsewhere", "catalogs", "rows"]
REACHES: tuple[Reach, ...] = ("elsewhere", "catalogs", "rows")


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Whoever holds the horizon, of any kind.

    Args:
        reach: what it keeps: `rows` of this database, its `catalogs` only, or what is `elsewhere`.
        age_s: of the transaction; of slots and feedback how old what they hold is at least. None where not known.
    """

    who: Who
    reach: Reach
    age_xids: int
    age_s: float | None

    @property
    def endures(self) -> bool:
        """It does not end by itself."""
        return isinstance(self.who, PreparedTransaction) or (isinstance(self.who, Slot) and not self.who.is_active)

    @property
    def is_hidden(self) -> bool:
        return isinstance(self.who, HoldingSession) and self.who.is_hidden

    @property
    def name(self) -> str:
        who = self.who
        if isinstance(who, PreparedTransaction):
            return f'prepared transaction "{who.gid}"'
        if isinstance(who, Slot):
            return f"replication slot {who.name} ({'in use' if who.is_active else 'not in use'})"
        if who.is_standby:
            return f"the feedback of standby {who.application}{f' at {who.client}' if who.client else ''}"
        known = (who.role, who.application, who.state or ("state hidden" if who.is_hidden else None))
        return f"session {who.pid} ({', '.join(part for part in known if part)})"

    @property
    def age(self) -> str:
        """How far it reaches back, to stand in a sentence."""
        xids = format_count(self.age_xids, "transaction")
        return xids if self.age_s is None else f"{format_duration(self.age_s)} and {xids}"


def read_holders(facts: Facts) -> tuple[Holder, ...]:
    """Return all who hold rows now; on a standby its sessions only, whose snapshots its feedback sends on."""
    facts.reading(TRANSACTION_IDS)  # kept for later runs, whoever is found

    def bounds(age_xids: int) -> tuple[float, float | None]:
        return age_bounds_s(facts, age_xids)

    holders = [
        _of_session(s, bounds(s.age_xids), in_recovery=facts.server.is_in_recovery) for s in facts.rows(SESSIONS)
    ]
    if facts.server.is_in_recovery:
        return tuple(holders)
    # A prepared transaction always has an id: snapshots everywhere reach back to it.
    holders += [Holder(who=p, reach="rows", age_xids=p.age_xids, age_s=p.age_s) for p in facts.rows(PREPARED)]
    for slot in facts.rows(SLOTS):
        ages: tuple[tuple[Reach, int | None], ...] = (
            ("rows", slot.xmin_age_xids),
            ("catalogs", slot.catalog_xmin_age_xids),
        )
        holders += [
            Holder(who=slot, reach=reach, age_xids=age, age_s=max(slot.inactive_s or 0.0, bounds(age)[0]) or None)
            for reach, age in ages
            if age is not None
        ]
    return tuple(holders)


def _of_session(session: HoldingSession, bounds: tuple[float, float | None], *, in_recovery: bool) -> Holder:
    holds_here = session.is_standby or session.is_here or session.has_xid or in_recovery
    least_s, most_s = bounds
    # A transaction may be older than the snapshot it holds: READ COMMITTED takes one for each statement.
    age_s = least_s or None if session.is_standby else session.age_s
    if age_s is not None and most_s is not None:
        age_s = min(age_s, most_s)
    return Holder(who=session, reach="rows" if holds_here else "elsewhere", age_xids=session.age_xids, age_s=age_s)


def age_bounds_s(facts: Facts, age_xids: int) -> tuple[float, float | None]:
    """Between how many and how many seconds ago a transaction id was given, by what earlier runs saw.

    Args:
        age_xids: as age() tells.

    Returns:
        the least, 0 when nothing is known; the most, None when nothing is known.

    Raises:
        NotReadableError: as Facts.reading().
    """
    xid = int(facts.reading(TRANSACTION_IDS).rows[""]["next_xid"]) - age_xids
    least_s, most_s = 0.0, None
    for reading in facts.earlier(TRANSACTION_IDS):
        ago_s = (facts.server.read_at - reading.taken_at).total_seconds()
        if reading.rows[""]["next_xid"] > xid:
            least_s = max(least_s, ago_s)
        else:
            most_s = ago_s if most_s is None else min(most_s, ago_s)
    return least_s, most_s
