"""A directory with functions: read, and written file by file, each whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from pgscale.catalog.functions.model import Source
from pgscale.errors import RunFailedError, UsageError


def read_sources(directory: Path) -> tuple[Source, ...]:
    """Return every `*.sql` in a directory and below it, in the order of their paths; hidden ones are left out.

    Raises:
        UsageError: there is no such directory, or a file cannot be read or is not UTF-8.
    """
    if not directory.is_dir():
        raise UsageError(
            f"There is no directory {directory}.", hint="`pgscale functions dump DIR` makes it and fills it."
        )
    found: list[Source] = []
    for path in sorted(directory.rglob("*.sql")):
        relative = path.relative_to(directory)
        if any(part.startswith(".") for part in relative.parts) or not path.is_file():
            continue
        try:
            # Not in text mode: a body keeps the line ends that it has.
            found.append(Source(path=relative.as_posix(), text=path.read_bytes().decode("utf-8-sig")))
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}.") from None
    return tuple(found)


def write_file(path: Path, text: str) -> None:
    """Put a file in its place, whole: whoever reads it meanwhile sees the old one or the new one.

    Raises:
        RunFailedError: it cannot be written; what was there is there.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
        # Its name ends so that nothing takes a leftover for a function.
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        raise _not_changed(path, "written", error) from None


def remove_file(path: Path) -> None:
    """Remove a file.

    Raises:
        RunFailedError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _not_changed(path, "removed", error) from None


def _not_changed(path: Path, done: str, error: OSError) -> RunFailedError:
    return RunFailedError(
        f"{path} cannot be {done}: {error.strerror}.",
        consequence="It is as it was; files before it may be new already.",
        hint="Then dump again: what is right already is left as it is.",
    )


def _umask() -> int:
    # There is no way to read it but to set it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
