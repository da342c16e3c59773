"""The grid of a range key: where periods begin, in calendar time or in numbers, and what they are called. Pure.

A value of the key is a `datetime` (naive; of a `timestamp with time zone` column: in UTC), a `date`, or a `Decimal`.
Calendar periods of a `timestamp with time zone` column begin at midnight of a time zone, so they are 23 or 25 hours
or 28 to 31 days long, and their bounds are written in UTC.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_FLOOR, Decimal, InvalidOperation
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pgscale.errors import UsageError

PERIODS = ("day", "week", "month", "quarter", "year")
INTEGER_TYPES = frozenset({"smallint", "integer", "bigint"})
NUMBER_TYPES = INTEGER_TYPES | {"numeric"}
INTEGER_LIMITS = {
    "smallint": (-(2**15), 2**15 - 1),
    "integer": (-(2**31), 2**31 - 1),
    "bigint": (-(2**63), 2**63 - 1),
}
ZONED = "timestamp with time zone"
TIME_TYPES = frozenset({"date", "timestamp without time zone", ZONED})

Value = datetime | Decimal

_INTERVAL = re.compile(r"^(\d+)\s*(second|minute|hour|day|week)s?$")
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}
_EPOCH = datetime(1970, 1, 1)
_MONTHS = {"month": 1, "quarter": 3, "year": 12}
_DAYS = {"day": 1, "week": 7}
_AGE = re.compile(r"^(\d+)\s*(second|minute|hour|day|week|month|quarter|year)s?$")


def le(one: Value, other: Value) -> bool:
    """Compare two values of one key: they are of one type."""
    if isinstance(one, datetime) and isinstance(other, datetime):
        return one <= other
    if isinstance(one, Decimal) and isinstance(other, Decimal):
        return one <= other
    raise TypeError(f"{one!r} and {other!r} are no values of one key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """One period [low, high) and the label its partition's name ends with."""

    low: Value
    high: Value
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Where periods begin.

    Args:
        type_name: the key column's type as format_type prints it, without modifier.
        step: `day`, `week`, `month`, `quarter`, `year`, an interval such as `6 hours`, or a number.
        zone: the time zone whose midnight begins a calendar period; only for `timestamp with time zone`.
    """

    type_name: str
    step: str
    zone: str = "UTC"

    def __post_init__(self) -> None:
        if self.type_name in NUMBER_TYPES:
            self._width()
            return
        if self.type_name not in TIME_TYPES:
            raise UsageError(
                f"Periods need a date, timestamp or number; the column is {self.type_name}.",
                hint="Use list or hash partitions for this column.",
            )
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise UsageError(f"There is no time zone {self.zone!r}.", hint="Name it as in Europe/Berlin.") from None
        if self.step not in PERIODS:
            self._interval()

    @property
    def is_time(self) -> bool:
        return self.type_name in TIME_TYPES

    # -- values and their text --------------------------------------------------------------------------

    def parse(self, value: str) -> Value:
        """Read a value as the server prints it in an ISO session whose time zone is UTC.

        Raises:
            ValueError: it is no finite value of this type in the years 1 to 9999.
        """
        if self.is_time:
            return datetime.fromisoformat(value.removesuffix("+00"))
        number = Decimal(value)
        if not number.is_finite():
            raise ValueError(value)
        return number

    def show(self, value: Value) -> str:
        """Write a value as a literal the server reads back, whatever the session's settings."""
        if isinstance(value, Decimal):
            return f"{value:f}"
        if self.type_name == "date":
            return value.date().isoformat()
        return value.isoformat(sep=" ") + ("+00" if self.type_name == ZONED else "")

    def at(self, now: datetime) -> Value:
        """The key's value of this moment, for time columns; `now` is aware."""
        if self.type_name == ZONED:
            return now.astimezone(UTC).replace(tzinfo=None)
        return now.astimezone(ZoneInfo(self.zone)).replace(tzinfo=None)

    # -- periods ----------------------------------------------------------------------------------------

    def period(self, value: Value) -> Period:
        """The period a value lies in."""
        if isinstance(value, Decimal):
            width = self._width()
            low = (value / width).to_integral_value(ROUND_FLOOR) * width
            return Period(low=low, high=low + width, label=_number_label(low))
        if self.step not in PERIODS:
            width = self._interval()
            start = _EPOCH + (value - _EPOCH) // width * width
            return Period(low=start, high=start + width, label=f"{start:%Y%m%d_%H%M%S}")
        first = self._floor(self._to_local(value).date())
        return self._calendar_period(first)

    def periods(self, first: Value) -> Iterator[Period]:
        """The period of `first` and those that follow, without end or until the year 9999 is over."""
        try:
            if isinstance(first, datetime) and self.step in PERIODS:
                # By days of the calendar alone: an hour that occurs twice, or a day that a place leaves out, must
                # not lead astray.
                day = self._floor(self._to_local(first).date())
                while True:
                    yield self._calendar_period(day)
                    day = self._next(day)
            period = self.period(first)
            while True:
                yield period
                period = self.period(period.high)
        except (OverflowError, ValueError):
            return

    # -- ages -------------------------------------------------------------------------------------------

    def moved(self, value: datetime, *, months: int = 0, days: int = 0, seconds: float = 0) -> datetime:
        """The value so many months and days of the calendar, in the grid's time zone, and then seconds later.

        A day that the month does not have becomes its last.

        Raises:
            OverflowError, ValueError: it leaves the years 1 to 9999.
        """
        if months or days:
            local = self._to_local(value)
            index = local.year * 12 + local.month - 1 + months
            year, month = index // 12, index % 12 + 1
            last = monthrange(year, month)[1]
            value = self._from_local(local.replace(year=year, month=month, day=min(local.day, last)) + timedelta(days))
        return value + timedelta(seconds=seconds)

    def before(self, value: Value, age: str) -> Value:
        """The value that lies an age before another: `18 months`, `90 days`, or a number for number columns.

        Raises:
            UsageError: the age does not fit the type, or leaves the years 1 to 9999.
        """
        if isinstance(value, Decimal):
            return value - distance(age)
        match = _AGE.match(age.strip())
        if match is None:
            raise UsageError(f"{age!r} is not an age.", hint="Write it as in '13 months', '90 days' or '6 weeks'.")
        count, unit = int(match[1]), match[2]
        try:
            if unit in _MONTHS:
                return self.moved(value, months=-count * _MONTHS[unit])
            if unit in _DAYS:
                return self.moved(value, days=-count * _DAYS[unit])
            return self.moved(value, seconds=-count * _SECONDS[unit])
        except (OverflowError, ValueError):
            raise UsageError(f"{age!r} leads before the year 1.", hint="Leave it out to keep for ever.") from None

    def _calendar_period(self, first: date) -> Period:
        return Period(
            low=self._midnight(first), high=self._midnight(self._next(first)), label=_calendar_label(self.step, first)
        )

    def _to_local(self, value: datetime) -> datetime:
        if self.type_name != ZONED:
            return value
        return value.replace(tzinfo=UTC).astimezone(ZoneInfo(self.zone)).replace(tzinfo=None)

    def _midnight(self, day: date) -> datetime:
        """The moment a day begins. Where clocks leap over midnight, that is the moment they leap; where midnight
        comes twice, the first one."""
        return self._from_local(datetime.combine(day, time()))

    def _from_local(self, value: datetime) -> datetime:
        if self.type_name != ZONED:
            return value
        return value.replace(tzinfo=ZoneInfo(self.zone), fold=0).astimezone(UTC).replace(tzinfo=None)

    def _floor(self, day: date) -> date:
        if self.step == "day":
            return day
        if self.step == "week":
            # ISO weeks begin on Monday.
            return day - timedelta(days=day.weekday())
        months = _MONTHS[self.step]
        return day.replace(month=(day.month - 1) // months * months + 1, day=1)

    def _next(self, first: date) -> date:
        if self.step in ("day", "week"):
            return first + timedelta(days=1 if self.step == "day" else 7)
        index = first.year * 12 + first.month - 1 + _MONTHS[self.step]
        return first.replace(year=index // 12, month=index % 12 + 1)

    def _width(self) -> Decimal:
        try:
            width = Decimal(self.step)
        except InvalidOperation:
            raise UsageError(
                f"{self.step!r} is not a step for a numeric column.", hint="Give a number, such as 1000000."
            ) from None
        whole = self.type_name in INTEGER_TYPES
        if not width.is_finite() or width <= 0 or (whole and width != width.to_integral_value()):
            raise UsageError(f"The step {self.step} must be a positive {'whole ' if whole else ''}number.")
        return width

    def _interval(self) -> timedelta:
        match = _INTERVAL.match(self.step)
        if match is None or int(match[1]) == 0:
            raise UsageError(
                f"{self.step!r} is not a step for a {self.type_name} column.",
                hint=f"Use {', '.join(PERIODS)}, or an interval such as '6 hours'.",
            )
        width = timedelta(seconds=int(match[1]) * _SECONDS[match[2]])
        if self.type_name == "date" and width % timedelta(days=1):
            raise UsageError(f"A date column cannot be divided by {self.step}.", hint="Use whole days.")
        return width


def _number_label(low: Decimal) -> str:
    return f"{low:f}".replace("-", "m").replace(".", "_")


def _calendar_label(step: str, first: date) -> str:
    match step:
        case "year":
            return f"{first:%Y}"
        case "quarter":
            return f"{first:%Y}_q{(first.month + 2) // 3}"
        case "month":
            return f"{first:%Y_%m}"
        case "week":
            year, week, _ = first.isocalendar()
            return f"{year:04d}_w{week:02d}"
        case _:
            return f"{first:%Y_%m_%d}"


def distance(age: str) -> Decimal:
    """Read a distance of numbers.

    Raises:
        UsageError: it is none.
    """
    try:
        return Decimal(age)
    except InvalidOperation:
        raise UsageError(f"{age!r} is not a distance of numbers.", hint="Give a number.") from None
