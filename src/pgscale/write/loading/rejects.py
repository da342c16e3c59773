"""The file of lines that did not fit: one JSON object each."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from pgscale.core.durable import sync_directory
from pgscale.core.model import Json
from pgscale.errors import RefusedError, RunFailedError, UsageError
from pgscale.write.loading.model import Done, Reject


class RejectsFile:
    """Takes what a part rejects, before the part is committed: nothing that is not in the table is lost.

    A part that was not committed after all is loaded again, so its lines are taken out when the load goes on.

    Args:
        kept: the parts that are in the table; lines of others are dropped.

    Raises:
        RefusedError: it is there and not empty, and this is no load that goes on.
        UsageError: it cannot be written.
    """

    def __init__(self, path: Path, kept: Sequence[Done], *, resumes: bool) -> None:
        self._path = path
        self._lock = threading.Lock()
        # Parts that were written of in this run: one that is tried again writes its lines anew.
        self._parts: set[int] = set()
        try:
            if path.exists() and path.stat().st_size:
                if not resumes:
                    raise RefusedError(
                        f"{path} is there already and not empty.",
                        consequence="Nothing was written.",
                        hint="Move it away, or name another file for rejects.",
                    )
                known = {part.first for part in kept}
                self._keep(lambda first: first in known)
            self._file = path.open("ab", buffering=0)
            sync_directory(path.absolute().parent)
        except OSError as error:
            raise UsageError(
                f"{path} cannot be written: {error.strerror}.", consequence="Nothing was written."
            ) from None

    def add(self, rejects: Sequence[Reject]) -> None:
        """Write the lines of one part and flush them to disk, in place of those that an earlier attempt wrote.

        Raises:
            RunFailedError: the disk is full, or worse.
        """
        text = b"".join(_line(one) for one in rejects)
        part = rejects[0].first
        with self._lock:
            try:
                if part in self._parts:
                    self._file.close()
                    self._keep(lambda first: first != part)
                    self._file = self._path.open("ab", buffering=0)
                self._parts.add(part)
                _append(self._file.fileno(), text)
            except OSError as error:
                raise RunFailedError(
                    f"{self._path} could not be written: {error.strerror}.",
                    consequence="The part that these lines are of was not loaded.",
                    hint="Make room, then --resume.",
                ) from error

    def close(self) -> None:
        self._file.close()

    def _keep(self, is_wanted: Callable[[int], bool]) -> None:
        """Leave only lines of parts that are wanted; whole and durable, or as it was."""
        lines = self._path.read_bytes().splitlines(keepends=True)
        kept: list[bytes] = []
        for line in lines:
            try:
                # A torn last line is of a part that was not committed.
                if line.endswith(b"\n") and is_wanted(json.loads(line)["part"]):
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                raise RefusedError(
                    f"{self._path} holds something else than rejects of a load.",
                    consequence="Nothing was written.",
                    hint="Name the file that the load began with.",
                ) from None
        beside = self._path.with_name(f"{self._path.name}.new")
        with beside.open("wb") as file:
            file.write(b"".join(kept))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
        sync_directory(self._path.absolute().parent)


def _append(fd: int, text: bytes) -> None:
    """Write and flush to disk, all of it or nothing: the lines of others come after it."""
    before = os.fstat(fd).st_size
    try:
        left = memoryview(text)
        while left:
            left = left[os.write(fd, left) :]
        os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, before)
        raise


def _line(one: Reject) -> bytes:
    document: dict[str, Json] = {
        "line": one.line,
        "column": one.column,
        "sqlstate": one.sqlstate,
        "reason": one.reason,
    }
    try:
        document["text"] = one.text.decode()
    except UnicodeDecodeError:
        document["base64"] = base64.b64encode(one.text).decode()
    document["part"] = one.first
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"
