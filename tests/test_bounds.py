"""The partitions that `--by range:COL:STEP` makes: their bounds and names, to the letter."""

from __future__ import annotations

import itertools

import pytest

from pgscale.errors import PgscaleError, RefusedError, UsageError
from pgscale.partition.bounds import Extent, Namer, range_leaves

TIMESTAMPTZ = "timestamp with time zone"


def _leaves(type_name: str, step: str, lowest: str | None, highest: str | None) -> list[tuple[str, str]]:
    made = range_leaves("t", type_name, step, Extent(lowest=lowest, highest=highest), Namer(frozenset()))
    return [(leaf.name, leaf.bound) for leaf in made]


def _bound(low: str, high: str) -> str:
    return f"FOR VALUES FROM ({low}) TO ({high})"


@pytest.mark.parametrize(
    ("type_name", "step", "lowest", "highest", "first", "last", "count"),
    [
        (
            "date",
            "month",
            "2024-02-29",
            "2024-03-01",
            ("t_p2024_02", "'2024-02-01'", "'2024-03-01'"),
            ("t_p2024_06", "'2024-06-01'", "'2024-07-01'"),
            5,
        ),
        (
            "date",
            "quarter",
            "2024-12-31",
            None,
            ("t_p2024_q4", "'2024-10-01'", "'2025-01-01'"),
            ("t_p2025_q3", "'2025-07-01'", "'2025-10-01'"),
            4,
        ),
        (
            "date",
            "week",
            "2024-12-29",
            "2024-12-30",
            ("t_p2024_w52", "'2024-12-23'", "'2024-12-30'"),
            ("t_p2025_w04", "'2025-01-20'", "'2025-01-27'"),
            5,
        ),
        (
            "date",
            "10 days",
            "1970-01-01",
            "1970-01-12",
            ("t_p19700101_000000", "'1970-01-01'", "'1970-01-11'"),
            ("t_p19700210_000000", "'1970-02-10'", "'1970-02-20'"),
            5,
        ),
        (
            TIMESTAMPTZ,
            "year",
            "2023-12-31 23:59:59+00",
            "2024-01-01 00:00:00+00",
            ("t_p2023", "'2023-01-01 00:00:00+00'", "'2024-01-01 00:00:00+00'"),
            ("t_p2027", "'2027-01-01 00:00:00+00'", "'2028-01-01 00:00:00+00'"),
            5,
        ),
        (
            "timestamp without time zone",
            "6 hours",
            "1969-12-31 23:00:00",
            "1970-01-01 00:00:00",
            ("t_p19691231_180000", "'1969-12-31 18:00:00'", "'1970-01-01 00:00:00'"),
            ("t_p19700101_180000", "'1970-01-01 18:00:00'", "'1970-01-02 00:00:00'"),
            5,
        ),
        (
            "date",
            "year",
            "9998-06-01",
            "9998-06-01",
            ("t_p9998", "'9998-01-01'", "'9999-01-01'"),
            ("t_p9998", "'9998-01-01'", "'9999-01-01'"),
            1,
        ),
        ("bigint", "1000", "-1", "1000", ("t_pm1000", "'-1000'", "'0'"), ("t_p4000", "'4000'", "'5000'"), 6),
        (
            "smallint",
            "10000",
            "-32768",
            "32767",
            ("t_pm40000", "MINVALUE", "'-30000'"),
            ("t_p30000", "'30000'", "MAXVALUE"),
            8,
        ),
        ("numeric", "0.5", "0.7", "0.7", ("t_p0_5", "'0.5'", "'1.0'"), ("t_p2_0", "'2.0'", "'2.5'"), 4),
        ("bigint", "1e6", None, None, ("t_p0", "'0'", "'1000000'"), ("t_p3000000", "'3000000'", "'4000000'"), 4),
    ],
)
def test_the_first_and_the_last(
    type_name: str,
    step: str,
    lowest: str,
    highest: str,
    first: tuple[str, str, str],
    last: tuple[str, str, str],
    count: int,
) -> None:
    made = _leaves(type_name, step, lowest, highest)
    assert len(made) == count
    assert made[0] == (first[0], _bound(*first[1:]))
    assert made[-1] == (last[0], _bound(*last[1:]))
    for (_, one), (_, other) in itertools.pairwise(made):
        assert one.rpartition(" TO ")[2] == other.removeprefix("FOR VALUES FROM ").rpartition(" TO ")[0]


@pytest.mark.parametrize(
    ("type_name", "step", "lowest", "error", "said"),
    [
        ("uuid", "month", None, UsageError, "date, timestamp or number"),
        ("date", "6 hours", None, UsageError, "cannot be divided"),
        ("date", "fortnight", None, UsageError, "is not a step"),
        ("date", "0 days", None, UsageError, "is not a step"),
        ("bigint", "month", None, UsageError, "is not a step"),
        ("bigint", "0.5", None, UsageError, "whole"),
        ("bigint", "-5", None, UsageError, "positive"),
        ("bigint", "1", "0", RefusedError, "4096"),
        ("date", "day", "1900-01-01", RefusedError, "4096"),
        ("date", "day", "0044-03-15 BC", RefusedError, "0044-03-15 BC"),
        ("date", "year", "9999-06-01", UsageError, "9999"),
    ],
)
def test_what_no_partitions_come_of(
    type_name: str, step: str, lowest: str, error: type[PgscaleError], said: str
) -> None:
    highest = {"0": "5000", "1900-01-01": "2024-01-01"}.get(lowest or "", lowest)
    with pytest.raises(error, match=said):
        _leaves(type_name, step, lowest, highest)
