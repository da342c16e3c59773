"""The pure plan of range partitions over a simulated decade: a clock, and nothing else."""

from __future__ import annotations

import itertools
from calendar import monthrange
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from pgscale.errors import UsageError
from pgscale.partition import PartitionSet
from pgscale.partition.lifecycle.model import (
    Child,
    Create,
    Detach,
    Drop,
    Highest,
    Obstacles,
    Parent,
    Retired,
    SetFacts,
    kind_of,
)
from pgscale.partition.lifecycle.partman import PartmanSet, Width, translate
from pgscale.partition.lifecycle.plan import plan_set
from pgscale.partition.periods import Grid


def _facts(type_name: str, children: dict[str, tuple[str, str]], highest: str | None = None) -> SetFacts:
    parent = Parent(
        oid=1,
        schema="public",
        name="events",
        kind="p",
        owner="o",
        is_owner=True,
        strategy="r",
        key_count=1,
        column="at",
        type_name=type_name,
        tablespace=None,
        access_method=None,
    )
    made = tuple(
        Child(
            oid=100 + n,
            schema="public",
            name=name,
            kind="r",
            bound=f"FOR VALUES FROM ('{low}') TO ({high if high == 'MAXVALUE' else repr(high)})",
            is_pending=False,
            bytes=0,
        )
        for n, (name, (low, high)) in enumerate(children.items())
    )
    return SetFacts(parent=parent, children=made, highest=Highest(regular=highest), taken_names=frozenset(children))


def _live(type_name: str, wanted: PartitionSet, moments: list[datetime | int]) -> list[dict[str, tuple[str, str]]]:
    """Apply the plan of every moment to a pretended table; return its partitions after each."""
    there: dict[str, tuple[str, str]] = {}
    history: list[dict[str, tuple[str, str]]] = []
    for moment in moments:
        is_time = isinstance(moment, datetime)
        facts = _facts(type_name, there, None if is_time else str(moment))
        now = moment if is_time else datetime(2024, 1, 1, tzinfo=UTC)
        made = plan_set(facts, wanted, now, Obstacles())
        assert not made.findings, (moment, made.findings)
        for action in made.actions:
            if isinstance(action, Create):
                assert action.leaf.name not in there
                there[action.leaf.name] = (action.low, action.high)
            elif isinstance(action, Detach):
                del there[action.leaf.name]
            else:
                assert isinstance(action, Drop)
        bounds = (
            sorted(there.values(), key=lambda b: Decimal(b[0]) if not is_time else Decimal(0))
            if not is_time
            else sorted(there.values())
        )
        assert all(one[1] == other[0] for one, other in itertools.pairwise(bounds)), (moment, bounds)
        # Whatever happens, this moment's row has a home, and so has one in each period ahead.
        at = str(moment) if not is_time else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
        if is_time:
            assert any(low[:19] <= at < high[:19] or low[:10] <= at[:10] < high[:10] for low, high in bounds), at
        else:
            assert any(int(low) <= int(at) < int(high) for low, high in bounds)
        history.append(dict(there))
    return history


def _days(first: datetime, count: int, hours: int = 24) -> list[datetime | int]:
    return [first + timedelta(hours=hours * n) for n in range(count)]


def test_a_decade_of_months() -> None:
    wanted = PartitionSet(table="events", period="month", ahead=3, retention="12 months", on_retention="drop")
    history = _live("date", wanted, _days(datetime(2015, 1, 31, 12, tzinfo=UTC), 3_653))
    last = history[-1]
    assert sorted(last) == [
        *(f"events_p2024_{m:02d}" for m in range(1, 13)),
        *(f"events_p2025_{m:02d}" for m in range(1, 5)),
    ]
    assert last["events_p2024_02"] == ("2024-02-01", "2024-03-01")
    # On the last day of February 2016 (a leap year) January 2015 is not yet twelve months old at its end.
    day = dict(zip(_days(datetime(2015, 1, 31, 12, tzinfo=UTC), 3_653), history, strict=True))
    assert "events_p2015_01" in day[datetime(2016, 1, 31, 12, tzinfo=UTC)]
    assert "events_p2015_01" not in day[datetime(2016, 2, 1, 12, tzinfo=UTC)]
    assert "events_p2015_02" in day[datetime(2016, 2, 29, 12, tzinfo=UTC)]
    assert "events_p2015_02" not in day[datetime(2016, 3, 1, 12, tzinfo=UTC)]


def test_a_decade_of_days_in_berlin() -> None:
    wanted = PartitionSet(table="events", period="day", time_zone="Europe/Berlin", ahead=2, retention="7 days")
    history = _live("timestamp with time zone", wanted, _days(datetime(2015, 1, 1, 22, 30, tzinfo=UTC), 3_653))
    made = {name: bounds for there in history for name, bounds in there.items()}
    assert made["events_p2024_03_31"] == ("2024-03-30 23:00:00+00", "2024-03-31 22:00:00+00")  # 23 hours
    assert made["events_p2024_10_27"] == ("2024-10-26 22:00:00+00", "2024-10-27 23:00:00+00")  # 25 hours
    assert made["events_p2024_02_29"] == ("2024-02-28 23:00:00+00", "2024-02-29 23:00:00+00")
    assert len(made) == 3_653 + 2
    assert max(len(there) for there in history) <= 7 + 1 + 1 + 2


def test_a_decade_of_weeks() -> None:
    wanted = PartitionSet(table="events", period="week", ahead=4, retention="8 weeks")
    history = _live("timestamp without time zone", wanted, _days(datetime(2015, 1, 1, tzinfo=UTC), 3_653))
    made = {name: bounds for there in history for name, bounds in there.items()}
    assert made["events_p2015_w53"] == ("2015-12-28 00:00:00", "2016-01-04 00:00:00")
    assert made["events_p2020_w53"] == ("2020-12-28 00:00:00", "2021-01-04 00:00:00")
    assert all((datetime.fromisoformat(b) - datetime.fromisoformat(a)).days == 7 for a, b in made.values())


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("period", "type_name", "zone", "retention", "count"),
    [
        ("quarter", "date", "UTC", "2 years", 4 * 11 + 4),
        ("quarter", "timestamp with time zone", "America/New_York", "18 months", 4 * 11 + 4),
        ("year", "timestamp without time zone", "Asia/Kolkata", "3 years", 11 + 3),
        ("year", "timestamp with time zone", "Pacific/Kiritimati", "1 year", 11 + 3),
        ("month", "timestamp with time zone", "Australia/Lord_Howe", "6 months", 12 * 11 + 3),
        ("week", "timestamp with time zone", "America/Havana", "4 weeks", 3 + 574),
    ],
)
def test_a_decade_elsewhere(period: str, type_name: str, zone: str, retention: str, count: int) -> None:
    wanted = PartitionSet(table="events", period=period, time_zone=zone, ahead=3, retention=retention)
    moments = _days(datetime(2015, 1, 1, 20, tzinfo=UTC), 4_018)
    history = _live(type_name, wanted, moments)
    made = {name: bounds for there in history for name, bounds in there.items()}
    assert abs(len(made) - count) <= 1
    assert len({low for low, _ in made.values()}) == len(made)


def test_a_year_of_six_hours() -> None:
    wanted = PartitionSet(table="events", period="6 hours", time_zone="Europe/Berlin", ahead=2, retention="3 days")
    history = _live("timestamp with time zone", wanted, _days(datetime(2024, 1, 1, 1, tzinfo=UTC), 2_000, hours=5))
    made = {name: bounds for there in history for name, bounds in there.items()}
    widths = {datetime.fromisoformat(b[:19]) - datetime.fromisoformat(a[:19]) for a, b in made.values()}
    assert widths == {timedelta(hours=6)}
    assert "events_p20240229_180000" in made


def test_a_day_that_a_place_left_out_takes_no_other_with_it() -> None:
    # Samoa went from the 29th to the 31st of December 2011.
    grid = Grid(type_name="timestamp with time zone", step="day", zone="Pacific/Apia")
    days = list(itertools.islice(grid.periods(datetime(2011, 12, 29)), 6))
    assert all(one.high == other.low for one, other in itertools.pairwise(days))
    assert [d.label for d in days] == [f"2011_12_{n}" for n in (28, 29, 30, 31)] + ["2012_01_01", "2012_01_02"]
    assert [d.low == d.high for d in days] == [False, False, True, False, False, False]


def test_a_month_before_is_a_month_of_the_place() -> None:
    # 23:00 of the 29th of February in New York is the 1st of March in UTC.
    now = datetime(2024, 3, 1, 4)
    there = Grid(type_name="timestamp with time zone", step="day", zone="America/New_York")
    assert there.before(now, "1 month") == datetime(2024, 1, 30, 4)
    assert there.before(now, "1 day") == datetime(2024, 2, 29, 4)
    assert there.before(datetime(2024, 3, 11, 4), "2 days") == datetime(2024, 3, 9, 5)  # one of them has 23 hours
    assert there.before(datetime(2024, 3, 11, 4), "48 hours") == datetime(2024, 3, 9, 4)
    with pytest.raises(UsageError, match="year 1"):
        there.before(now, "3000 years")


def test_nothing_is_younger_than_its_retention_when_it_goes() -> None:
    wanted = PartitionSet(
        table="events", period="day", time_zone="America/New_York", ahead=1, retention="1 month", on_retention="drop"
    )
    moments = _days(datetime(2023, 1, 1, 4, tzinfo=UTC), 800)
    place = ZoneInfo("America/New_York")
    for moment, there in zip(moments, _live("timestamp with time zone", wanted, moments), strict=True):
        assert isinstance(moment, datetime)
        today = moment.astimezone(place).date()
        year, month = (today.year, today.month - 1) if today.month > 1 else (today.year - 1, 12)
        kept = date(year, month, min(today.day, monthrange(year, month)[1]))
        if kept >= date(2023, 1, 1):
            assert f"events_p{kept:%Y_%m_%d}" in there, moment


def test_numbers_that_grow_for_a_decade() -> None:
    wanted = PartitionSet(table="events", period="1000", ahead=2, retention="5000")
    history = _live("bigint", wanted, [n * 137 for n in range(1, 1_500)])
    assert sorted(int(low) for low, _ in history[-1].values())[0] == (1_499 * 137 - 5_000) // 1000 * 1000


def test_the_end_of_an_integer_is_open() -> None:
    facts = _facts("integer", {}, str(2**31 - 5))
    made = plan_set(facts, PartitionSet(table="t", period="1000000", ahead=9), datetime.now(UTC), Obstacles())
    assert [(a.low, a.high) for a in made.actions if isinstance(a, Create)] == [("2147000000", "MAXVALUE")]


def test_only_the_uncovered_part_of_a_period_is_made() -> None:
    facts = _facts("date", {"events_p2024_01": ("2024-01-05", "2024-01-20"), "odd": ("2024-02-01", "2024-03-11")})
    wanted = PartitionSet(table="events", period="month", ahead=2)
    made = plan_set(facts, wanted, datetime(2024, 1, 10, tzinfo=UTC), Obstacles())
    assert [(a.leaf.name, a.low, a.high) for a in made.actions if isinstance(a, Create)] == [
        ("events_p2024_01_1", "2024-01-01", "2024-01-05"),
        ("events_p2024_01_2", "2024-01-20", "2024-02-01"),
        ("events_p2024_03", "2024-03-11", "2024-04-01"),
    ]
    assert [f.id for f in made.findings] == ["misaligned-partition"]


def test_names_fit_and_do_not_collide() -> None:
    parent = _facts("date", {}).parent
    long = "ä" * 31
    facts = SetFacts(
        parent=Parent(**{f: getattr(parent, f) for f in parent.__slots__} | {"name": long}), taken_names=frozenset()
    )
    wanted = PartitionSet(table="t", period="month", ahead=3)
    made = plan_set(facts, wanted, datetime(2024, 1, 1, tzinfo=UTC), Obstacles())
    names = [a.leaf.name for a in made.actions]
    assert len(set(names)) == 4
    assert all(len(n.encode()) <= 63 and n.endswith(f"_p2024_{m:02d}") for m, n in enumerate(names, start=1))


def test_a_gap_in_the_past_is_found_and_not_filled() -> None:
    facts = _facts("date", {"a": ("2023-01-01", "2023-02-01"), "b": ("2023-03-01", "2023-04-01")})
    wanted = PartitionSet(table="events", period="month", ahead=0)
    made = plan_set(facts, wanted, datetime(2023, 6, 10, tzinfo=UTC), Obstacles())
    assert [(f.id, f.evidence["low"], f.evidence["high"]) for f in made.findings] == [
        ("gap-in-the-past", "2023-02-01", "2023-03-01"),
        ("gap-in-the-past", "2023-04-01", "2023-06-01"),
    ]
    assert [kind_of(a) for a in made.actions] == ["create"]


def test_a_gap_that_is_over_its_age_is_no_finding() -> None:
    facts = _facts("date", {"a": ("2022-01-01", "2022-02-01"), "b": ("2023-03-01", "2023-07-01")})
    wanted = PartitionSet(table="events", period="month", ahead=0, retention="4 months")
    made = plan_set(facts, wanted, datetime(2023, 6, 10, tzinfo=UTC), Obstacles())
    # Of [2022-02-01, 2023-03-01) February 2023 is younger than that.
    assert [f.id for f in made.findings if f.id == "gap-in-the-past"] == ["gap-in-the-past"]
    longer = PartitionSet(table="events", period="month", ahead=0, retention="3 months")
    late = plan_set(facts, longer, datetime(2023, 6, 10, tzinfo=UTC), Obstacles())
    assert [f.id for f in late.findings if f.id == "gap-in-the-past"] == []


def test_one_wild_id_in_default_retires_nothing() -> None:
    base = _facts("bigint", {f"p{n}": (str(n * 1000), str(n * 1000 + 1000)) for n in range(3)}, "2500")
    default = Child(oid=9, schema="public", name="d", kind="r", bound="DEFAULT", is_pending=False, bytes=8192)
    facts = SetFacts(
        parent=base.parent,
        children=(*base.children, default),
        highest=Highest(regular="2500", default="9000000000"),
    )
    wanted = PartitionSet(table="events", period="1000", ahead=1, retention="1600", on_retention="drop")
    made = plan_set(facts, wanted, datetime.now(UTC), Obstacles())
    assert [f.id for f in made.findings] == ["default-outlier"]
    assert [(a.low, a.high) for a in made.actions if isinstance(a, Create)] == [("3000", "4000")]
    assert [a.leaf.name for a in made.actions if isinstance(a, Detach)] == []


def test_one_wild_id_in_a_partition_without_an_end_retires_nothing() -> None:
    facts = _facts("bigint", {"p0": ("0", "1000"), "p1": ("1000", "2000"), "rest": ("2000", "MAXVALUE")}, "9000000000")
    wanted = PartitionSet(table="events", period="1000", ahead=1, retention="1500", on_retention="drop")
    made = plan_set(facts, wanted, datetime.now(UTC), Obstacles())
    assert made.actions == ()
    later = PartitionSet(table="events", period="1000", ahead=1, retention="500", on_retention="drop")
    assert [a.leaf.name for a in plan_set(facts, later, datetime.now(UTC), Obstacles()).actions] == ["p0", "p0"]


def test_a_promise_waits_while_ages_are_not_known() -> None:
    base = _facts("bigint", {"p1": ("1000", "2000")})
    noted = Retired(
        leaf_oid=7,
        leaf_schema="public",
        leaf_name="p0",
        low="0",
        high="1000",
        promise="drop",
        archive_dir=None,
        archive_format="csv",
        state="noted",
        file=None,
        sha256=None,
        row_count=None,
        fingerprint=None,
        now_schema="public",
        now_name="p0",
    )
    wanted = PartitionSet(table="events", period="1000", ahead=0, retention="500", on_retention="drop")
    unknown = SetFacts(parent=base.parent, children=base.children, retired=(noted,), highest=Highest(unknown="why"))
    assert plan_set(unknown, wanted, datetime.now(UTC), Obstacles()).actions == ()
    known = SetFacts(parent=base.parent, children=base.children, retired=(noted,), highest=Highest(regular="1700"))
    assert [kind_of(a) for a in plan_set(known, wanted, datetime.now(UTC), Obstacles()).actions] == ["drop"]
    young = SetFacts(parent=base.parent, children=base.children, retired=(noted,), highest=Highest(regular="1400"))
    assert [kind_of(a) for a in plan_set(young, wanted, datetime.now(UTC), Obstacles()).actions] == ["forget"]


def test_the_zone_that_all_partitions_were_made_in_is_chosen() -> None:
    """In winter London has UTC, so the last partition alone does not tell; of zones alike, the first one counts."""
    lows = ["2024-09-30 23:00:00+00", "2024-11-01 00:00:00+00", "2024-12-01 00:00:00+00", "2025-01-01 00:00:00+00"]
    facts = _facts("timestamp with time zone", {f"p{n}": pair for n, pair in enumerate(itertools.pairwise(lows))})
    there = PartmanSet(
        config=facts.parent.qname,
        version="4.7.2",
        parent_table="public.events",
        kind="native",
        control="at",
        interval="1 mon",
        premake=4,
        epoch="none",
        datetime_string="YYYY_MM",
        is_automatic=True,
        is_infinite=True,
        is_undone=False,
        has_sub_partitions=False,
        retention=None,
        retention_schema=None,
        keeps_table=True,
        keeps_index=True,
        cascades=False,
        constraint_columns=(),
        publications=(),
        subscription=None,
        coder=None,
        template=None,
        width=Width(months=1, days=0, seconds=0.0),
        zones=("UTC", "Europe/London", "Mars/Olympus", "Europe/Lisbon"),
    )
    made = translate(there, facts)
    assert made.wanted is not None
    assert (made.wanted.period, made.wanted.time_zone) == ("month", "Europe/London")
    only = translate(replace(there, zones=("UTC",)), facts)
    assert only.wanted is not None
    assert (only.wanted.time_zone, "misaligned" in {f.id for f in only.findings}) == ("UTC", True)
    coded = translate(replace(there, coder="uuid_time"), facts)
    assert (coded.wanted, [f.id for f in coded.findings]) == (None, ["custom-time-functions"])
    listed = translate(replace(there, kind="list"), facts)
    assert (listed.wanted, [f.id for f in listed.findings]) == (None, ["not-by-range"])
