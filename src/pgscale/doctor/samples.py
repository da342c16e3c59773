"""Counters of earlier runs, kept in a small file a database, so that a check can judge what happened in between."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, cast

from pgscale.core.units import format_duration

KEPT = 200
FORMAT = 1

Rows = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A group of counters at one moment.

    Args:
        taken_at: by the server's clock.
        started_at: when the server started.
        reset_at: when the counters began at zero; None where the server does not say.
        rows: the counters by name; of groups that count many things by the key of each, else under "".
    """

    taken_at: datetime
    started_at: datetime
    reset_at: datetime | None
    rows: Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What a group of counters counted in some time.

    Args:
        seconds: how long; above zero.
        basis: since when, to say in the evidence.
        rows: as in Reading, the differences.
    """

    seconds: float
    basis: str
    rows: Rows

    def __getitem__(self, name: str) -> float:
        """The difference of a counter of a group that has no keys."""
        return self.rows[""][name]

    def per_s(self, name: str) -> float:
        return self[name] / self.seconds


def difference(now: Reading, earlier: Iterable[Reading], *, least_s: float) -> Delta | None:
    """Return what was counted since the newest earlier reading that can be compared; None when there is none.

    Comparable is what is at least so old, of the same start of the server and the same beginning of the counters, and
    not above today's. In a group with keys a key that went back, or is new, counts from zero.

    Args:
        least_s: a shorter time says nothing, seconds.
    """
    for before in sorted(earlier, key=lambda each: each.taken_at, reverse=True):
        seconds = (now.taken_at - before.taken_at).total_seconds()
        if seconds < least_s or (before.started_at, before.reset_at) != (now.started_at, now.reset_at):
            continue
        rows = {key: _subtract(row, before.rows.get(key)) for key, row in now.rows.items()}
        alone = rows.get("")
        if alone is not None and any(value < 0 for value in alone.values()):
            continue
        basis = f"since the run of {before.taken_at:%Y-%m-%d %H:%M:%S} UTC, {format_duration(seconds)} before this one"
        whole = {key: now.rows[key] if any(v < 0 for v in row.values()) else row for key, row in rows.items()}
        return Delta(seconds=seconds, basis=basis, rows=whole)
    return None


def since_reset(now: Reading, *, least_s: float) -> Delta | None:
    """Return what was counted since the counters began; None when that is not known or not long enough."""
    if now.reset_at is None:
        return None
    seconds = (now.taken_at - now.reset_at).total_seconds()
    if seconds < least_s:
        return None
    basis = f"since the statistics were reset at {now.reset_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return Delta(seconds=seconds, basis=f"{basis}, {format_duration(seconds)} ago", rows=now.rows)


def _subtract(row: Mapping[str, float], before: Mapping[str, float] | None) -> dict[str, float]:
    # A counter that an older version of ours did not keep counts as going back.
    return {name: value - (before.get(name, value + 1) if before is not None else 0) for name, value in row.items()}


class Samples(Protocol):
    """Where readings are kept from run to run."""

    def open(self, database: str) -> None:
        """Name the database, before anything else: its cluster's identifier and its OID."""
        ...

    def earlier(self, group: str) -> Iterator[Reading]:
        """Readings of earlier runs, in no order."""
        ...

    def keep(self, readings: Mapping[str, Reading]) -> str:
        """Keep this run's readings. Returns why that was not possible, as a sentence, else nothing."""
        ...


class NoSamples:
    """Nothing is kept: `--samples none`."""

    def open(self, database: str) -> None:
        del database

    def earlier(self, group: str) -> Iterator[Reading]:
        del group
        return iter(())

    def keep(self, readings: Mapping[str, Reading]) -> str:
        del readings
        return ""


class FileSamples:
    """A JSON file a database: the last 200 runs. It is replaced as a whole, so it is never half of one.

    Two runs at the same time: the reading of one of them is lost, which is no loss.

    Args:
        directory: made at the first `keep`, for its owner only; None: `pgscale/doctor` of the user's state directory.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory if directory is not None else state_directory()
        self._file: Path | None = None
        self._runs: list[dict[str, Any]] = []

    def open(self, database: str) -> None:
        self._file = self._directory / f"{database}.json"
        self._runs = _read_runs(self._file)

    def earlier(self, group: str) -> Iterator[Reading]:
        for run in self._runs:
            # What somebody edited, or a version of ours to come wrote otherwise, is no earlier sample.
            with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
                if group in run["groups"]:
                    yield _from_json(run, run["groups"][group])

    def keep(self, readings: Mapping[str, Reading]) -> str:
        assert self._file is not None, "open() comes first"
        if not readings:
            return ""
        first = next(iter(readings.values()))
        run: dict[str, Any] = {
            "taken_at": first.taken_at.isoformat(),
            "started_at": first.started_at.isoformat(),
            "groups": {
                name: {"reset_at": reading.reset_at.isoformat() if reading.reset_at else None, "rows": reading.rows}
                for name, reading in readings.items()
            },
        }
        document = {"format": FORMAT, "runs": [*self._runs, run][-KEPT:]}
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            # mkstemp makes it readable for its owner only.
            handle, scratch = tempfile.mkstemp(prefix=f".{self._file.name}.", dir=self._directory)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as stream:
                    json.dump(document, stream, separators=(",", ":"))
                Path(scratch).replace(self._file)
            except BaseException:
                Path(scratch).unlink(missing_ok=True)
                raise
        except OSError as error:
            return f"This run's counters could not be kept for the next one: {error}. Name another place by --samples."
        return ""


def state_directory() -> Path:
    """Return where the user's programs keep what they know from run to run."""
    from platformdirs import user_state_path  # noqa: PLC0415 because only a run that keeps samples needs it

    return user_state_path("pgscale", appauthor=False) / "doctor"


def _read_runs(file: Path) -> list[dict[str, Any]]:
    try:
        document: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # Missing, unreadable or not ours: there is no earlier sample then, and keep() says what it cannot write.
        return []
    if not isinstance(document, dict) or cast("dict[str, Any]", document).get("format") != FORMAT:
        return []
    runs: Any = cast("dict[str, Any]", document).get("runs")
    return cast("list[dict[str, Any]]", runs) if isinstance(runs, list) else []


def _from_json(run: Mapping[str, Any], group: Mapping[str, Any]) -> Reading:
    reset_at = group["reset_at"]
    return Reading(
        taken_at=datetime.fromisoformat(run["taken_at"]),
        started_at=datetime.fromisoformat(run["started_at"]),
        reset_at=datetime.fromisoformat(reset_at) if reset_at else None,
        rows={str(key): {str(name): value + 0 for name, value in row.items()} for key, row in group["rows"].items()},
    )
