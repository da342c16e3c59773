"""`maintain` killed at every point, and continued by the next call."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pgscale import partition
from pgscale.embedded import Server
from pgscale.errors import ConnectError
from support.lifecycle import (
    NOW,
    aged_events,
    bounds_of,
    done_in,
    maintain_child,
    retiring,
    scalar,
    wait_until,
)
from support.servers import Database

POINTS = (
    "maintain:before-create",
    "maintain:in-create",
    "maintain:after-create",
    "maintain:before-note",
    "maintain:noted",
    "maintain:detached",
    "maintain:archive-scratch",
    "maintain:archive-described",
    "maintain:archive-written",
    "maintain:archived",
    "maintain:in-drop",
    "maintain:dropped",
)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("default", [False, True], ids=["plain", "default"])
@pytest.mark.parametrize("point", POINTS)
def test_killed_and_continued(database: Database, tmp_path: Path, point: str, default: bool) -> None:
    conn = aged_events(database, default=default)
    conn.execute("INSERT INTO events SELECT '2024-07-02', 99, 'late' WHERE %s", (default,))
    rows = scalar(conn, "SELECT count(*) FROM events")
    killed = maintain_child(database.dsn, tmp_path, point)
    assert killed.returncode == -9, killed.stderr
    done = maintain_child(database.dsn, tmp_path, "")
    for _ in range(50):
        # The killed one's session may live on for a moment, with its lock.
        if "events_p2024_01" not in bounds_of(conn) and scalar(conn, "SELECT to_regclass('events_p2024_01') IS NULL"):
            break
        time.sleep(0.2)
        done = maintain_child(database.dsn, tmp_path, "")
    assert done.returncode == 0, done.stderr
    ranged = sorted(n for n in bounds_of(conn) if n != "d")
    assert ranged == [f"events_p2024_{m:02d}" for m in range(2, 9)]
    assert scalar(conn, "SELECT count(*) FROM events") == rows - 3
    if default:
        assert scalar(conn, "SELECT count(*) FROM events_p2024_07") == 1
    old = tmp_path / "old"
    about = json.loads((old / "public.events_p2024_01.csv.gz.json").read_text())
    assert about["row_count"] == 3
    assert gzip.decompress((old / "public.events_p2024_01.csv.gz").read_bytes()).count(b"2024-01-01") == 3
    assert sorted(p.name for p in old.iterdir()) == [
        "public.events_p2024_01.csv.gz",
        "public.events_p2024_01.csv.gz.json",
    ]
    again = partition.maintain(database.dsn, [retiring(tmp_path)], now=NOW)
    assert [s.actions for s in again.sets] == [()]
    assert conn.execute("SELECT to_regnamespace('pgscale')").fetchone() == (None,)


# -- the server crashes ----------------------------------------------------------------------------------


@pytest.mark.versions(16)
def test_a_server_that_crashes_anywhere(
    private_server: Callable[..., Server],
    database_factory: Callable[..., Database],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = private_server()
    for number, point in enumerate(POINTS):
        reached: list[str] = []

        def crash(name: str, point: str = point, reached: list[str] = reached) -> None:
            if name == point and not reached:
                reached.append(name)
                own.restart("immediate")

        for module in ("runner", "retiring", "archive"):
            monkeypatch.setattr(f"pgscale.partition.lifecycle.{module}.kill_point", crash)
        database = database_factory(server=own)
        aged_events(database, default=number % 2 == 0).close()
        folder = tmp_path / str(number)
        wanted = replace(retiring(folder), ahead=2)
        try:
            partition.maintain(database.dsn, [wanted], now=NOW)
        except ConnectError:
            pass
        else:
            # Behind the last statement of an action nothing is asked of the session before the tidying.
            assert point in ("maintain:dropped",), point
        assert reached == [point]
        result = partition.maintain(database.dsn, [wanted], now=NOW)
        assert not result.findings, (point, result.findings)
        with database.connect() as conn:
            assert sorted(n for n in bounds_of(conn) if n != "d") == [f"events_p2024_{m:02d}" for m in range(2, 9)]
            assert scalar(conn, "SELECT count(*) FROM events") == 15, point
            assert conn.execute("SELECT to_regclass('events_p2024_01'), to_regnamespace('pgscale')").fetchone() == (
                None,
                None,
            ), point
        file = folder / "old" / "public.events_p2024_01.csv.gz"
        assert gzip.decompress(file.read_bytes()).count(b"2024-01-01") == 3
        assert sorted(p.name for p in file.parent.iterdir()) == [file.name, f"{file.name}.json"]


@pytest.mark.sampled(2)
@pytest.mark.versions(14, 18)
def test_a_server_that_crashes_amid_a_detach(
    private_server: Callable[..., Server], database_factory: Callable[..., Database], tmp_path: Path
) -> None:
    own = private_server()
    database = database_factory(server=own)
    conn = aged_events(database)
    old = database.connect(autocommit=False)
    old.execute("SELECT count(*) FROM events")
    errors: list[BaseException] = []

    def run() -> None:
        try:
            partition.maintain(database.dsn, [retiring(tmp_path)], now=NOW)
        except ConnectError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: bool(scalar(conn, "SELECT count(*) FROM pg_inherits WHERE inhdetachpending")))
    own.restart("immediate")
    thread.join(30)
    assert len(errors) == 1
    with database.connect() as after:
        assert scalar(after, "SELECT count(*) FROM pg_inherits WHERE inhdetachpending") == 1
        result = partition.maintain(database.dsn, [retiring(tmp_path)], now=NOW)
        assert [k for k, _, _ in done_in(result)] == ["finalize", "archive", "drop"]
        assert not result.findings
        assert scalar(after, "SELECT count(*) FROM events") == 15
