"""What pg_partman's configuration of a table means here: its row in, a PartitionSet or reasons out. Pure.

Source: run_maintenance(), create_partition_time(), drop_partition_time(), drop_partition_id() and
inherit_template_properties() of pg_partman 4.7 and 5.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pgscale.core.model import QName
from pgscale.errors import UsageError
from pgscale.partition.lifecycle.checks import MOST_NAMED, finding, refuse
from pgscale.partition.lifecycle.model import Finding, PartitionSet, Promise, SetFacts, Span
from pgscale.partition.lifecycle.plan import spans_of
from pgscale.partition.periods import NUMBER_TYPES, TIME_TYPES, ZONED, Grid

# How far both ways to step are compared: more than a year of days meets every change of the clocks.
_STEPS = 400
_SAME_NAMES = frozenset({"YYYY", "YYYY_MM", "YYYY_MM_DD"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """An interval as the server splits it: what the calendar counts, and seconds."""

    months: int
    days: int
    seconds: float

    @property
    def is_one_unit(self) -> bool:
        parts = (self.months, self.days, self.seconds)
        return min(parts) >= 0 and sum(p != 0 for p in parts) == 1 and self.seconds == int(self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartmanSet:
    """What pg_partman knows of one table: its row of part_config, of whichever version, and what it points at.

    Args:
        config: part_config, with the schema of the extension.
        width: the interval of a time set; retention_width: its retention; None where it is none.
        template_lacks: indexes of the template that neither the table nor its newest partition has.
        zones: time zones that sessions of this database have, this login's first.
    """

    config: QName
    version: str
    parent_table: str
    kind: str
    control: str
    interval: str
    premake: int
    epoch: str
    datetime_string: str | None
    is_automatic: bool
    is_infinite: bool
    is_undone: bool
    has_sub_partitions: bool
    retention: str | None
    retention_schema: str | None
    keeps_table: bool
    keeps_index: bool
    cascades: bool
    constraint_columns: tuple[str, ...]
    publications: tuple[str, ...]
    subscription: str | None
    coder: str | None
    template: str | None
    template_lacks: tuple[str, ...] = ()
    width: Width | None = None
    retention_width: Width | None = None
    zones: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """The set that does the same here; None where one of the findings is an error."""

    wanted: PartitionSet | None
    findings: tuple[Finding, ...]


def translate(there: PartmanSet, facts: SetFacts) -> Translation:
    """Say what pg_partman does for a table as a PartitionSet; what cannot be said is a finding of severity error."""
    refusals = list(_refusals(there, facts))
    if refusals:
        return Translation(wanted=None, findings=tuple(refusals))
    try:
        retention = _retention(there, facts)
        grid, crooked = _grid(there, facts)
        promise: Promise = "detach" if there.keeps_table or retention is None else "drop"
        wanted = PartitionSet(
            table=str(facts.parent.qname),
            period=grid.step,
            time_zone=grid.zone,
            ahead=there.premake,
            retention=retention,
            on_retention=promise,
        )
    except _UntranslatableError as reason:
        return Translation(wanted=None, findings=(reason.finding,))
    except UsageError as error:
        refused = finding(facts, "not-expressible", "error", f"{error.fact}", remedy=error.hint)
        return Translation(wanted=None, findings=(refused,))
    return Translation(wanted=wanted, findings=tuple(_notes(there, facts, grid, crooked)))


class _UntranslatableError(Exception):
    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


# -- what cannot be taken over ---------------------------------------------------------------------------


def _refusals(there: PartmanSet, facts: SetFacts) -> Iterator[Finding]:
    name = str(facts.parent.qname)

    def no(name: str, message: str, remedy: str) -> Finding:
        return finding(facts, name, "error", message, remedy=remedy)

    if there.kind == "list":
        yield no("not-by-range", f"{name} is partitioned by list; periods need a range.", "Leave it to pg_partman.")
        return
    if there.kind not in ("native", "range"):
        yield no(
            "trigger-based",
            f"pg_partman keeps {name} by inheritance and triggers ({there.kind}), not by declarative partitioning.",
            "Migrate it to declarative partitioning first: pg_partman's documentation has a guide.",
        )
        return
    problem = refuse(facts)
    if problem is not None:
        yield problem
        return
    if there.has_sub_partitions or any(c.kind == "p" for c in facts.children):
        yield no(
            "sub-partitioned",
            f"Partitions of {name} are partitioned themselves; one set here is one level.",
            "Leave it to pg_partman.",
        )
    if facts.parent.is_partition:
        yield no(
            "sub-partitioned", f"{name} is itself a partition of another table.", "Leave the whole set to pg_partman."
        )
    if there.is_undone:
        yield no("undo-in-progress", f"pg_partman is undoing the partitioning of {name}.", "Let it finish first.")
    if there.control != facts.parent.column:
        yield no(
            "control-differs",
            f"pg_partman's control column of {name} is {there.control}, its partition key {facts.parent.column}.",
            "Correct part_config first.",
        )
    yield from _refuse_key(there, facts, name)
    if there.retention_schema is not None:
        yield no(
            "retention-schema",
            f"Old partitions of {name} move to schema {there.retention_schema}; pgscale detaches, archives or drops.",
            "UPDATE part_config SET retention_schema = NULL, and choose one of these.",
        )
    if there.publications:
        yield no(
            "publications",
            f"pg_partman adds each new partition of {name} to publication {', '.join(there.publications)}; pgscale"
            " does not.",
            "Add the partitioned table itself to it (its partitions follow), then SET publications = NULL.",
        )
    if there.subscription is not None:
        yield no(
            "subscription-refresh",
            f"pg_partman refreshes subscription {there.subscription} after each maintenance of {name}; pgscale"
            " does not.",
            "Schedule ALTER SUBSCRIPTION … REFRESH PUBLICATION, then SET subscription_refresh = NULL.",
        )


def _refuse_key(there: PartmanSet, facts: SetFacts, name: str) -> Iterator[Finding]:
    type_name = facts.parent.type_name
    if there.coder is not None:
        yield finding(
            facts,
            "custom-time-functions",
            "error",
            f"The key of {name} is read by {there.coder}; pgscale reads dates, timestamps and numbers.",
            remedy="Leave it to pg_partman.",
        )
    elif there.epoch != "none":
        yield finding(
            facts,
            "epoch-key",
            "error",
            f"{there.control} of {name} holds {there.epoch} since 1970 in a number; pgscale would count them as"
            " numbers, without a calendar.",
            remedy="Leave it to pg_partman, or give the table a key of a time type.",
        )
    elif type_name not in TIME_TYPES | NUMBER_TYPES:
        yield finding(
            facts,
            "key-type",
            "error",
            f"{there.control} of {name} is {type_name}; periods need a date, timestamp or number.",
            remedy="Leave it to pg_partman.",
        )


# -- what it is called here ------------------------------------------------------------------------------


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def _seconds_as_text(seconds: float) -> str:
    whole = int(seconds)
    for unit, size in (("hour", 3600), ("minute", 60)):
        if whole % size == 0:
            return _counted(whole // size, unit)
    return _counted(whole, "second")


def _retention(there: PartmanSet, facts: SetFacts) -> str | None:
    if there.retention is None:
        return None
    if facts.parent.type_name in NUMBER_TYPES:
        return there.retention.strip()
    width = there.retention_width
    if width is None or not width.is_one_unit:
        raise _UntranslatableError(
            finding(
                facts,
                "retention-mixed",
                "error",
                f"The retention {there.retention} is not of one unit.",
                remedy="Write it as months, as days or as hours in part_config first.",
            )
        )
    if width.months:
        return _counted(width.months // 12, "year") if width.months % 12 == 0 else _counted(width.months, "month")
    return _counted(width.days, "day") if width.days else _seconds_as_text(width.seconds)


def _steps(width: Width) -> tuple[str, ...]:
    """Return what a period of this width may be called, the calendar's own word first."""
    if not width.is_one_unit:
        return ()
    if width.months:
        named = {1: "month", 3: "quarter", 12: "year"}.get(width.months)
        return (named,) if named else ()
    if width.days:
        return {1: ("day",), 7: ("week", "7 days")}.get(width.days, (f"{width.days} days",))
    return (_seconds_as_text(width.seconds),)


def _grid(there: PartmanSet, facts: SetFacts) -> tuple[Grid, int]:
    """Find the grid on which pg_partman's next partitions lie, and how many of the present ones do not.

    pg_partman steps from its last partition by the interval, in the time zone of its session. So the last
    partition must be a period of the grid, and stepping on must never leave it.
    """
    type_name = facts.parent.type_name or ""
    if type_name in NUMBER_TYPES:
        grids = [Grid(type_name=type_name, step=there.interval.strip())]
    else:
        steps = _steps(there.width) if there.width is not None else ()
        if not steps:
            raise _UntranslatableError(
                finding(
                    facts,
                    "interval-not-a-period",
                    "error",
                    f"The interval {there.interval} is no period here.",
                    remedy="Periods are a day, week, month, quarter or year, or so many days, hours or minutes.",
                )
            )
        zones = tuple(_known(there.zones)) or ("UTC",)
        grids = [Grid(type_name=type_name, step=s, zone=z) for z in zones for s in steps]
    fitting: list[tuple[int, Grid]] = []
    for grid in grids:
        spans = spans_of(grid, facts)
        if spans and not (_is_period(grid, spans[-1]) and _stays(grid, spans[-1], there.width)):
            continue
        fitting.append((sum(not _is_period(grid, s) for s in spans), grid))
    if not fitting:
        last = spans_of(grids[0], facts)[-1].child
        tried = ", ".join(dict.fromkeys(f"{g.step} of {g.zone}" if g.is_time else g.step for g in grids))
        raise _UntranslatableError(
            finding(
                facts,
                "not-on-the-grid",
                "error",
                f"{last.qname} {last.bound.removeprefix('FOR VALUES ')} is no period, so the partitions that pg_partman"
                f" makes next would not be either (tried: {tried}).",
                remedy="Weeks begin on Monday, hours at midnight UTC, numbers at multiples of the step. Leave it to"
                " pg_partman; or connect with the time zone its maintenance runs in (PGTZ).",
            )
        )
    crooked, grid = min(fitting, key=lambda f: f[0])
    return grid, crooked


def _known(zones: Sequence[str]) -> Iterator[str]:
    for zone in dict.fromkeys(zones):
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            continue
        yield zone


def _is_period(grid: Grid, span: Span) -> bool:
    low, high = span.low, span.high
    if low is None or high is None or datetime.min in (low, high) or datetime.max in (low, high):
        return False
    if isinstance(low, Decimal) and not (low.is_finite() and isinstance(high, Decimal) and high.is_finite()):
        return False
    period = grid.period(low)
    return (period.low, period.high) == (low, high)


def _stays(grid: Grid, last: Span, width: Width | None) -> bool:
    """Tell whether steps of the interval from the last partition are the grid's periods, for more than a year."""
    at, ours = last.low, grid.periods(last.low) if last.low is not None else iter(())
    if not isinstance(at, datetime) or width is None:
        return True
    for _, period in zip(range(_STEPS), ours, strict=False):
        if period.low != at:
            return False
        at = grid.moved(at, months=width.months, days=width.days, seconds=width.seconds)
    return True


# -- what is different from now on -----------------------------------------------------------------------


def _notes(there: PartmanSet, facts: SetFacts, grid: Grid, crooked: int) -> Iterator[Finding]:
    name = facts.parent.qname

    def note(name: str, message: str, remedy: str = "") -> Finding:
        return finding(facts, name, "info", message, remedy=remedy)

    def warn(name: str, message: str, remedy: str) -> Finding:
        return finding(facts, name, "warning", message, remedy=remedy)

    yield note(
        "called-by-name",
        f"A scheduled run_maintenance('{there.parent_table}') that names the table goes on: pg_partman heeds"
        " automatic_maintenance only when it is called without a name.",
        "Take such calls out of cron and pg_cron.",
    )
    if grid.is_time and not there.is_infinite:
        yield note(
            "by-the-clock",
            "pg_partman counts ahead from the newest row; pgscale counts from the clock, so partitions come also when"
            " no rows do.",
        )
    if grid.is_time and there.is_infinite:
        yield note(
            "rounds",
            f"pg_partman rounds: in the second half of a period it is {there.premake + 1} ahead, in the first"
            f" {there.premake}; pgscale is always {there.premake} ahead.",
        )
    if grid.is_time and there.datetime_string not in _SAME_NAMES:
        example = next(grid.periods(datetime(2024, 7, 1))).label
        yield note(
            "names-differ",
            f"New partitions are called {name.name}_p{example}, not by pg_partman's pattern {there.datetime_string};"
            " partitions are known by their bounds, not by names.",
            "pg_partman reads names: before going back, rename those made meanwhile.",
        )
    if crooked:
        yield note("misaligned", f"{crooked} older partitions are no {grid.step}; they stay as they are.")
    if there.template is not None:
        yield note(
            "template-table",
            f"The template {there.template} is not read: a new partition gets the storage parameters, rights, replica"
            " identity and own indexes of the newest partition.",
        )
    if there.template_lacks:
        yield warn(
            "template-indexes",
            f"The newest partition lacks indexes of the template: {', '.join(there.template_lacks[:MOST_NAMED])}.",
            "Make them on the newest partition, or on the table.",
        )
    if there.constraint_columns:
        yield warn(
            "constraint-columns",
            f"pg_partman adds CHECK constraints on {', '.join(there.constraint_columns)} to older partitions; pgscale"
            " does not.",
            "Those that exist stay.",
        )
    if there.retention is not None and there.keeps_table and not there.keeps_index:
        yield note("indexes-stay", "retention_keep_index is off; pgscale leaves a detached table its indexes.")
    if there.retention is not None and there.cascades:
        yield warn(
            "no-cascade",
            "drop_cascade_fk is on; pgscale does not retire a partition to whose rows others refer.",
            "Retire or delete the referring rows first.",
        )
    if facts.default is not None:
        yield note(
            "default-partition",
            f"{facts.default.qname} stays; rows in it that belong to a new partition are moved there.",
        )
    if not facts.children or all(c.is_default for c in facts.children):
        yield note("no-partitions", "There is no partition yet, so the time zone could not be compared with bounds.")
    if grid.is_time and grid.type_name != ZONED and grid.zone != "UTC":
        yield note("time-zone", f"Which day it is now is taken from {grid.zone}, as this login's sessions have it.")
