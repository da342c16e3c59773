"""What earlier runs did and how fast, in a small file a database: to estimate, and to repeat nothing in vain."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from pgscale.doctor.maintenance.model import Kind, Task
from pgscale.doctor.samples import state_directory

FORMAT = 1
KEPT = 1_000
# What is so short is all overhead.
LEAST_MEASURED_S = 1.0


class History:
    """A JSON file a database, replaced as a whole; two machines have two.

    Args:
        directory: made when something is noted, for its owner only; None: the user's state directory.
        database: the key of the database and its cluster.
        keeps: False: nothing is read or written.
    """

    def __init__(self, directory: Path | None, database: str, *, keeps: bool = True) -> None:
        self._file = (directory if directory is not None else state_directory() / "maintenance") / f"{database}.json"
        self._keeps = keeps
        nothing: Mapping[str, Any] = {}
        document = _read(self._file) if keeps else nothing
        self._rates: dict[str, float] = {
            str(name): float(value) for name, value in _mapping(document, "rates").items() if _is_positive(value)
        }
        self._done: dict[str, str] = {
            str(key): str(value) for key, value in _mapping(document, "done").items() if isinstance(value, str)
        }

    def rate(self, kind: Kind, pace: str) -> float | None:
        """Bytes a second, as measured; None before."""
        return self._rates.get(f"{kind} {pace}")

    def ago_s(self, key: str, now: datetime) -> float | None:
        """How long ago a task was done, seconds; None when that is not known.

        Args:
            now: by this machine's clock.
        """
        with contextlib.suppress(KeyError, ValueError):
            return max(0.0, (now - datetime.fromisoformat(self._done[key])) / timedelta(seconds=1))
        return None

    def note(self, task: Task, took_s: float, pace: str) -> str:
        """Keep that a task was done; return why that was not possible, as a sentence, else nothing."""
        self._done[task.key] = datetime.now(UTC).isoformat()
        if took_s >= LEAST_MEASURED_S:
            name, measured = f"{task.kind} {pace}", task.bytes / took_s
            self._rates[name] = (measured + self._rates.get(name, measured)) / 2
        newest = sorted(self._done.items(), key=lambda each: each[1])[-KEPT:]
        return _write(self._file, {"format": FORMAT, "rates": self._rates, "done": dict(newest)}) if self._keeps else ""


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and value > 0


def _mapping(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}


def _read(file: Path) -> Mapping[str, Any]:
    try:
        document: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # Missing or not ours: nothing is known then, and note() says what it cannot write.
        return {}
    known = isinstance(document, dict) and cast("dict[str, Any]", document).get("format") == FORMAT
    return cast("Mapping[str, Any]", document) if known else {}


def _write(file: Path, document: Mapping[str, Any]) -> str:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(document, stream, separators=(",", ":"))
            Path(scratch).replace(file)
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise
    except OSError as error:
        return f"What was done could not be kept for the next run: {error}. Name another place by --state."
    return ""
