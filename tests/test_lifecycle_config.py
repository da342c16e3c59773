"""`pgscale.toml`, wrong calls of `maintain`, its schedules and its loop."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from pgscale import partition
from pgscale.commands.config import append_set, read_config, to_toml
from pgscale.errors import UsageError
from pgscale.partition import PartitionSet
from support.crash import pgscale
from support.lifecycle import NOW, bounds_of, maintain, make_events, wait_until
from support.servers import Database


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[[partitions]]\ntable = "t"\nperiod = "month"\nretain = "1 day"', "retain"),
        ('[[partitions]]\nperiod = "month"', "table"),
        ('[[partitions]]\ntable = "t"', "period"),
        ('[[partitions]]\ntable = "t"\nperiod = "fortnight"', "period"),
        ('[[partitions]]\ntable = "t"\nperiod = "month"\nahead = "3"', "ahead"),
        ('[[partitions]]\ntable = "t"\nperiod = "month"\nahead = true', "ahead"),
        ('[[partitions]]\ntable = "t"\nperiod = "month"\nahead = -1', "ahead"),
        ('[[partitions]]\ntable = "t"\nperiod = "month"\ntime_zone = "Mars"', "time_zone"),
        ('[[partitions]]\ntable = "t"\nperiod = "month"\nretention = "soon"', "retention"),
        ('[[partitions]]\ntable = "t"\nperiod = 100\nretention = "1 month"', "retention"),
        ('[[partitions]]\ntable = "t"\nperiod = "month"\non_retention = "shred"', "on_retention"),
        ('[[partitions]]\ntable = "t"\nperiod = "month"\non_retention = "archive"', "archive_dir"),
        ('[[partitions]]\ntable = "t"\nperiod = "month"\narchive_format = "zip"', "archive_format"),
        ('[[partitions]]\ntable = "t"\nperiod = "month"\ndefault = "yes"', "default"),
        ('[[partitions]]\ntable = "t"\nperiod = "day"\n[[partitions]]\ntable = "t"\nperiod = "day"', "table"),
        ('[partition]\ntable = "t"', "partition"),
        ("partitions = 3", "partitions"),
        ("partitions = [3]", "partitions"),
        ("partitions = [", "TOML"),
    ],
)
def test_a_wrong_configuration_names_the_key(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "pgscale.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=rf"pgscale.toml.*\b{named}\b"):
        read_config(file)


def test_a_whole_configuration_is_read(tmp_path: Path) -> None:
    file = tmp_path / "pgscale.toml"
    file.write_text(
        '[[partitions]]\ntable = "a"\nperiod = 1000\nretention = 5000\n'
        '[[partitions]]\ntable = "b"\nperiod = "6 hours"\ntime_zone = "Europe/Berlin"\nahead = 8\n'
        'retention = "13 months"\non_retention = "archive"\narchive_dir = "/x"\n'
        'archive_format = "csv"\ndefault = false\n'
    )
    first, second = read_config(file).partitions
    assert (first.period, first.retention, first.default, first.ahead) == ("1000", "5000", None, 3)
    assert (second.on_retention, second.archive_format, second.default) == ("archive", "csv", False)


@pytest.mark.parametrize(
    "wanted",
    [
        PartitionSet(table="public.events", period="month"),
        PartitionSet(table='"Ünter".""""', period="1000", retention="5000", on_retention="drop", default=False),
        PartitionSet(
            table="t",
            period="6 hours",
            time_zone="Europe/Berlin",
            ahead=0,
            retention="2 days",
            on_retention="archive",
            archive_dir="/a\\b\t\x7f\x01",
            archive_format="csv",
            default=True,
        ),
    ],
)
def test_a_set_that_is_written_is_read_again(tmp_path: Path, wanted: PartitionSet) -> None:
    file, link = tmp_path / "real.toml", tmp_path / "pgscale.toml"
    link.symlink_to(file)
    other = PartitionSet(table="other", period="day")
    assert append_set(link, other)
    file.chmod(0o640)
    assert append_set(link, wanted)
    assert not append_set(link, wanted)
    assert read_config(link).partitions == (other, wanted)
    assert to_toml(wanted) in file.read_text()
    assert (link.is_symlink(), file.stat().st_mode & 0o777) == (True, 0o640)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["pgscale.toml", "real.toml"]


def test_wrong_calls_exit_with_2(database: Database, tmp_path: Path) -> None:
    missing = pgscale(database.dsn, "maintain", "--config", str(tmp_path / "none.toml"))
    assert (missing.returncode, "none.toml" in missing.stderr) == (2, True)
    file = tmp_path / "pgscale.toml"
    file.write_text('[[partitions]]\ntable = "events"\nperiod = "month"\nahaed = 1\n')
    wrong = pgscale(database.dsn, "maintain", "--config", str(file))
    assert (wrong.returncode, "`ahaed`" in wrong.stderr) == (2, True)
    file.write_text('[[partitions]]\ntable = "events"\nperiod = "month"\n')
    unknown = pgscale(database.dsn, "maintain", "other", "--config", str(file))
    assert (unknown.returncode, "other" in unknown.stderr) == (2, True)
    found = pgscale(database.dsn, "maintain", "--config", str(file), "--json")
    assert found.returncode == 1
    assert json.loads(found.stdout)["sets"][0]["findings"][0]["id"] == "refused"


def test_a_period_that_does_not_fit_the_column_is_a_usage_error(database: Database) -> None:
    conn = make_events(database)
    conn.execute("CREATE TABLE other (at date) PARTITION BY RANGE (at)")
    sets = [PartitionSet(table="other", period="month"), PartitionSet(table="events", period="1000")]
    with pytest.raises(UsageError, match="period"):
        partition.maintain(database.dsn, sets, now=NOW)
    # A wrong file is wrong as a whole: the sets before the wrong one are not touched either.
    assert bounds_of(conn, "other") == {}


def test_now_must_know_its_time_zone(database: Database) -> None:
    with pytest.raises(UsageError, match="time zone"):
        maintain(database, PartitionSet(table="events", period="month"), datetime(2024, 1, 1))


# -- schedules -------------------------------------------------------------------------------------------


def _schedule(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pgscale", "partition", "schedule", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_schedules_are_ready() -> None:
    done = _schedule("--every", "6h", "--config", "/etc/50% off/pgscale.toml", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert list(made) == ["systemd", "cron", "kubernetes", "pg_cron"]
    assert "OnUnitActiveSec=21600s" in made["systemd"]["/etc/systemd/system/pgscale-maintain.timer"]
    assert '"/etc/50%% off/pgscale.toml"' in made["systemd"]["/etc/systemd/system/pgscale-maintain.service"]
    assert made["cron"]["crontab"].startswith("0 */6 * * * ")
    assert "'/etc/50\\% off/pgscale.toml'" in made["cron"]["crontab"]
    assert 'schedule: "0 */6 * * *"' in made["kubernetes"]["pgscale-maintain.yaml"]
    assert "cannot run this" in made["pg_cron"]["pg_cron"]


@pytest.mark.parametrize(("every", "times"), [("15min", "*/15 * * * *"), ("1h", "0 * * * *"), ("1d", "0 0 * * *")])
def test_cron_times(every: str, times: str) -> None:
    assert _schedule("--every", every, "--kind", "cron").stdout.splitlines()[1].startswith(f"{times} ")


def test_what_cron_cannot_say_systemd_can() -> None:
    assert _schedule("--every", "7min", "--kind", "cron").returncode == 2
    assert _schedule("--every", "5s").returncode == 2
    assert _schedule("--every", "7min", "--kind", "systemd").returncode == 0


def test_a_loop_goes_on_after_bad_news(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "pgscale.toml"
    file.write_text('[[partitions]]\ntable = "events"\nperiod = "month"\n')
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pgscale",
            "partition",
            "maintain",
            "--config",
            str(file),
            "--loop",
            "200ms",
            "--json",
            "--dsn",
            database.dsn,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline())["ok"] is False
        conn = make_events(database)
        wait_until(lambda: len(bounds_of(conn)) == 4)
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()
