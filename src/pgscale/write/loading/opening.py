"""Open what is to be loaded: a file or standard input, compressed or not, in any encoding."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import os
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from pgscale.errors import PgscaleError, RefusedError, RunFailedError, UsageError
from pgscale.write.loading.lines import Readable, read_fully
from pgscale.write.loading.model import DamagedFileError, Format, Identity, LoadOptions

STDIN = "-"
_PROBE_BYTES = 65_536
_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}


class Closable(Readable, Protocol):
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """What is loaded.

    Args:
        name: as the user called it; source: what tells it from others, `-` or an absolute path.
        identity: of a file; None of standard input.
        size_bytes: of the file as it lies there; None when not known.
        compression: gzip, zstd, zip or nothing.
        is_plain: bytes of the file are bytes of the text, so it can be begun anywhere.
        head: its first bytes, uncompressed and in UTF-8 when it is text.
        open: gives the text from its beginning, and what tells how many bytes of the file were taken.
    """

    name: str
    source: str
    identity: Identity | None
    size_bytes: int | None
    format: Format
    compression: str
    is_plain: bool
    path: Path | None
    open: Callable[[], tuple[Closable, Callable[[], int]]]

    def has_changed(self) -> bool:
        """Tell whether a file is another one by now, as its size and time say."""
        if self.path is None or self.identity is None:
            return False
        try:
            facts = self.path.stat()
        except OSError:
            return False
        return (facts.st_size, facts.st_mtime_ns) != (self.identity.size_bytes, self.identity.modified_ns)


def open_input(file: str, options: LoadOptions) -> Input:
    """Look at what is to be loaded, without reading it.

    Raises:
        UsageError: there is no such file, or it is not to be read; RefusedError: it is damaged or of no use.
    """
    encoding = _codec(options.encoding)
    if file == STDIN:
        # Its bytes can be had once only: what is looked at here is given out again.
        # Unbuffered: a thread that waits for a pipe would hold the buffer's lock when the process ends.
        peeked = _Peeked(io.FileIO(sys.stdin.fileno(), closefd=False), is_ours=False)
        return _described("standard input", STDIN, None, None, None, peeked.head, lambda: peeked, options, encoding)
    path = Path(file)
    try:
        facts = path.stat()
        if path.is_dir():
            raise UsageError(f"{file} is a directory.", consequence="Nothing was written.", hint="Name one file.")
        if not path.is_file():
            pipe = _Peeked(path.open("rb", buffering=0), is_ours=True)
            return _described(file, STDIN, None, None, None, pipe.head, lambda: pipe, options, encoding)
        with path.open("rb") as opened:
            head = opened.read(_PROBE_BYTES)
            opened.seek(max(0, facts.st_size - _PROBE_BYTES))
            tail = opened.read(_PROBE_BYTES)
    except FileNotFoundError:
        raise UsageError(f"There is no file {file}.", consequence="Nothing was written.") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.", consequence="Nothing was written.") from None
    identity = Identity(
        size_bytes=facts.st_size,
        modified_ns=facts.st_mtime_ns,
        fingerprint=hashlib.sha256(head + tail).hexdigest(),
    )
    source = str(path.resolve())
    return _described(file, source, path, identity, facts.st_size, head, lambda: path.open("rb"), options, encoding)


def _described(
    name: str,
    source: str,
    path: Path | None,
    identity: Identity | None,
    size: int | None,
    head: bytes,
    raw: Callable[[], Any],
    options: LoadOptions,
    encoding: str,
) -> Input:
    compression = next((kind for magic, kind in _COMPRESSIONS.items() if head.startswith(magic)), "")
    kind = options.format or _format(name, head, compression)
    if kind == "parquet" and (path is None or compression):
        raise UsageError(
            "Parquet is read from a file that lies there as it is.",
            hint="Save or decompress it first: its index is at the end.",
        )
    is_text = kind in ("csv", "ndjson")
    if is_text and encoding == "utf-8" and not compression and head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise RefusedError(
            f"{name} begins like UTF-16.", consequence="Nothing was written.", hint="Say --encoding utf-16."
        )

    def opened() -> tuple[Closable, Callable[[], int]]:
        counted = _Counted(raw(), name)
        text: Closable = counted
        if compression:
            text = _Guarded(counted, compression, name)
        if is_text and encoding != "utf-8":
            text = _Transcoded(text, encoding)
        return text, counted.tell

    return Input(
        name=name,
        source=source,
        identity=identity,
        size_bytes=size,
        format=kind,
        compression=compression,
        is_plain=path is not None and not compression and (encoding == "utf-8" or not is_text),
        path=path,
        open=opened,
    )


def _format(name: str, head: bytes, compression: str) -> Format:
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"ARROW1"):
        return "arrow"
    suffixes = [s.lower() for s in Path(name).suffixes]
    if suffixes and suffixes[-1] in (".gz", ".zst", ".zip"):
        suffixes.pop()
    if suffixes and suffixes[-1] in _SUFFIXES:
        return _SUFFIXES[suffixes[-1]]
    if compression:
        return "csv"
    return "ndjson" if head.lstrip()[:1] == b"{" else "csv"


def _codec(name: str) -> str:
    try:
        info = codecs.lookup(name)
        # Not so base64, rot13 and their like, which are codecs, too.
        if not getattr(info, "_is_text_encoding", True):
            raise LookupError
        found = info.name
    except LookupError:
        raise UsageError(
            f"There is no encoding {name!r}.", hint="As Python names them: utf-8, latin-1, cp1252 …"
        ) from None
    return "utf-8" if found in ("utf-8", "ascii", "utf-8-sig") else found


class _Peeked:
    """A stream whose first bytes were looked at.

    Args:
        is_ours: to close; standard input is not.
    """

    def __init__(self, raw: Closable, *, is_ours: bool) -> None:
        self._raw, self._is_ours = raw, is_ours
        self.head = read_fully(raw, _PROBE_BYTES)
        self._left = self.head

    def read(self, size: int, /) -> bytes:
        if self._left:
            given, self._left = self._left[:size], self._left[size:]
            return given
        return self._raw.read(size)

    def close(self) -> None:
        if self._is_ours:
            self._raw.close()


class _Counted(io.RawIOBase):
    """Counts what was read of a file, and says in our words when reading fails."""

    def __init__(self, raw: Any, name: str) -> None:
        super().__init__()
        self._raw, self._name, self._count = raw, name, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return hasattr(self._raw, "seek")

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._count = self._raw.seek(offset, whence)
        return self._count

    def read(self, size: int = -1) -> bytes:  # pyright: ignore[reportIncompatibleMethodOverride] because it never answers None
        try:
            block: bytes = self._raw.read(size)
        except OSError as error:
            raise RunFailedError(f"{self._name} could not be read on: {error.strerror}.") from error
        self._count += len(block)
        return block

    def readinto(self, buffer: Any) -> int:
        block = self.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)

    def tell(self) -> int:
        return self._count

    def close(self) -> None:
        super().close()
        self._raw.close()


class _Guarded:
    """Says in our words that a compressed file is damaged."""

    def __init__(self, raw: Any, compression: str, name: str) -> None:
        self._raw, self._name = raw, name
        try:
            self._stream = _decompressed(raw, compression, name)
        except BaseException:
            raw.close()
            raise

    def read(self, size: int, /) -> bytes:
        try:
            return self._stream.read(size)
        except PgscaleError:
            raise
        except (EOFError, OSError, ValueError, zlib.error, zipfile.BadZipFile) as error:
            raise damaged(self._name, error) from error
        except Exception as error:
            # The class of errors depends on which of the libraries for zstd is there.
            if "zst" not in type(error).__name__.lower():
                raise
            raise damaged(self._name, error) from error

    def close(self) -> None:
        self._stream.close()
        self._raw.close()


def damaged(name: str, error: object) -> PgscaleError:
    """Return an error for a file that ends too early, or is none."""
    return DamagedFileError(
        f"{name} is damaged or cut short: {error}.",
        hint="Get the file anew, and load it with --restart when the rows of this one are out of the table.",
    )


class _Transcoded:
    """Gives text of another encoding as UTF-8; bytes that are no text of it stay, for the server to refuse by line."""

    def __init__(self, stream: Closable, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
        self._left = b""
        self._ended = False

    def read(self, size: int, /) -> bytes:
        while len(self._left) < size and not self._ended:
            block = self._stream.read(max(65_536, size // 2))
            self._ended = not block
            try:
                text = self._decoder.decode(block, not block)
            except UnicodeDecodeError as error:
                raise RunFailedError(
                    f"The input is not in the encoding that was named: {error.reason} ({error.encoding})."
                ) from error
            self._left += text.encode("utf-8", "surrogateescape")
        given, self._left = self._left[:size], self._left[size:]
        return given

    def close(self) -> None:
        self._stream.close()


def _decompressed(raw: Any, compression: str, name: str) -> Any:
    if compression == "gzip":
        return gzip.GzipFile(fileobj=raw)
    if compression == "zip":
        if not raw.seekable():
            raise UsageError("A zip cannot be read from standard input.", hint=f"unzip -p {name} | pgscale load …")
        try:
            archive = zipfile.ZipFile(cast("Any", io.BufferedReader(raw)))
        except zipfile.BadZipFile as error:
            raise damaged(name, error) from error
        members = [m for m in archive.infolist() if not m.is_dir()]
        if len(members) != 1:
            raise RefusedError(
                f"{name} holds {len(members)} files, where one is wanted.",
                consequence="Nothing was written.",
                hint="unzip it and load them one by one.",
            )
        try:
            return archive.open(members[0])
        except (RuntimeError, NotImplementedError) as error:
            raise RefusedError(
                f"{name} cannot be unpacked: {str(error).rstrip('.')}.",
                consequence="Nothing was written.",
                hint=f"unzip -p {name} | pgscale load …",
            ) from error
    return _zstd(raw)


def _zstd(raw: Any) -> Any:
    for module in ("compression.zstd", "backports.zstd"):
        try:
            return import_module(module).ZstdFile(raw)
        except ImportError:
            continue
    try:
        zstandard: Any = import_module("zstandard")
    except ImportError:
        raise UsageError(
            "The input is compressed with zstd, which Python before 3.14 cannot read by itself.",
            consequence="Nothing was written.",
            hint="pip install 'pgscale[zstd]', or: zstd -dc FILE | pgscale load TABLE -",
        ) from None
    return _Zstd(raw, zstandard.ZstdDecompressor())


class _Zstd:
    """Frames of zstd, one after another; a last one that is cut short is an error, not an end."""

    def __init__(self, raw: Any, made: Any) -> None:
        self._raw, self._made = raw, made
        self._frame: Any = None
        self._input = b""
        self._left = b""

    def read(self, size: int, /) -> bytes:
        parts = [self._left]
        have = len(self._left)
        while have < size:
            block = self._input or self._raw.read(262_144)
            self._input = b""
            if not block:
                if self._frame is not None:
                    raise EOFError("the last frame has no end")
                break
            if self._frame is None:
                self._frame = self._made.decompressobj()
            part: bytes = self._frame.decompress(block)
            if self._frame.eof:
                self._input, self._frame = self._frame.unused_data, None
            parts.append(part)
            have += len(part)
        data = b"".join(parts)
        self._left = data[size:]
        return data[:size]

    def close(self) -> None:
        self._raw.close()
