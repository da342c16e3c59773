"""Counters of earlier runs: what can be compared, and the file they are kept in."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pgscale.connect.session import open_session
from pgscale.doctor.checks.holders import TRANSACTION_IDS
from pgscale.doctor.facts import DOCTOR, Facts, NotReadableError
from pgscale.doctor.samples import KEPT, FileSamples, NoSamples, Reading, difference, since_reset
from support.servers import Database

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
RESET = NOW - timedelta(days=1)
READING = Reading(taken_at=NOW, started_at=RESET, reset_at=RESET, rows={"": {"a": 100, "b": 2.5}})


def _before(seconds: float, **rows: float) -> Reading:
    return replace(READING, taken_at=NOW - timedelta(seconds=seconds), rows={"": rows})


def test_the_newest_comparable_sample_counts():
    old, newer, too_new = _before(900, a=10, b=0.5), _before(60, a=40, b=2.5), _before(59, a=90, b=2.5)
    delta = difference(READING, [old, too_new, newer], least_s=60)
    assert delta is not None
    assert (delta.seconds, delta["a"], delta["b"], delta.per_s("a")) == (60, 60, 0, 1)
    assert "2026-01-31 11:59:00 UTC" in delta.basis
    for stranger in (
        replace(newer, started_at=NOW),
        replace(newer, reset_at=NOW - timedelta(hours=1)),
        replace(newer, reset_at=None),
        _before(60, a=101, b=2.5),  # a counter that went back
        _before(60, a=40),  # one that was not kept then
    ):
        again = difference(READING, [old, stranger], least_s=60)
        assert again is not None
        assert (again.seconds, again["a"]) == (900, 90), stranger
        assert difference(READING, [stranger], least_s=60) is None


def test_groups_with_keys():
    now = replace(READING, rows={"q1": {"calls": 10}, "q2": {"calls": 3}, "q3": {"calls": 7}})
    before = replace(_before(100), rows={"q1": {"calls": 4}, "q2": {"calls": 5}, "gone": {"calls": 1}})
    delta = difference(now, [before], least_s=60)
    assert delta is not None
    assert delta.rows == {"q1": {"calls": 6}, "q2": {"calls": 3}, "q3": {"calls": 7}}


def test_since_reset():
    delta = since_reset(READING, least_s=3600)
    assert delta is not None
    assert (delta.seconds, delta["a"]) == (86400, 100)
    assert "since the statistics were reset at 2026-01-30 12:00 UTC, 24 h 0 min ago" in delta.basis
    assert since_reset(READING, least_s=86401) is None
    assert since_reset(replace(READING, reset_at=None), least_s=0) is None


def test_the_file(tmp_path: Path):
    directory = tmp_path / "state" / "doctor"

    def opened() -> FileSamples:
        samples = FileSamples(directory)
        samples.open("1-2")
        return samples

    assert list(opened().earlier("g")) == []
    assert opened().keep({}) == ""
    assert not directory.exists()
    assert opened().keep({"g": READING}) == ""
    file = directory / "1-2.json"
    assert (file.stat().st_mode & 0o777, directory.stat().st_mode & 0o777) == (0o600, 0o700)
    assert list(opened().earlier("g")) == [READING]
    assert list(opened().earlier("other")) == []
    document = json.loads(file.read_text())
    document["runs"] *= KEPT
    file.write_text(json.dumps(document))
    assert opened().keep({"g": replace(READING, taken_at=NOW + timedelta(hours=1))}) == ""
    kept = list(opened().earlier("g"))
    assert (len(kept), kept[-1].taken_at) == (KEPT, NOW + timedelta(hours=1))
    assert [path.name for path in directory.iterdir()] == ["1-2.json"]

    # What somebody else wrote is no sample, and no traceback.
    document = json.loads(file.read_text())
    document["runs"] = document["runs"][-2:]
    document["runs"][0]["groups"]["g"]["rows"] = {"": {"a": "many"}}
    file.write_text(json.dumps(document))
    assert list(opened().earlier("g")) == kept[-1:]
    for damage in ("", "[]", '{"format": 1, "runs": 5}', '{"format": 2, "runs": []}', '{"format": 1, "runs": [7, {}]}'):
        file.write_text(damage)
        assert list(opened().earlier("g")) == [], damage
        assert opened().keep({"g": READING}) == ""
        assert list(opened().earlier("g")) == [READING], damage

    directory = tmp_path / "state" / "doctor" / "1-2.json"  # a file where a directory should be
    assert "could not be kept" in opened().keep({"g": READING})


def test_facts_compare(database: Database, tmp_path: Path):
    """Counters of a real server: nothing to compare with at first, then what passed since."""
    with open_session(database.dsn, DOCTOR) as session:
        first = Facts(session, FileSamples(tmp_path))
        with pytest.raises(NotReadableError, match="no earlier sample"):
            first.delta(TRANSACTION_IDS)
        assert first.keep_samples() == ""
        with database.connect() as writer:
            writer.execute("CREATE TABLE t ()")
        second = Facts(session, FileSamples(tmp_path))
        assert second.earlier(TRANSACTION_IDS)[0].rows == first.reading(TRANSACTION_IDS).rows
        delta = second.delta(TRANSACTION_IDS, least_s=0)
        assert delta["next_xid"] >= 1
        with pytest.raises(NotReadableError, match="no earlier sample"):
            second.delta(TRANSACTION_IDS)  # too short a time
        with pytest.raises(NotReadableError, match="no earlier sample"):
            Facts(session, NoSamples()).delta(TRANSACTION_IDS, least_s=0)
