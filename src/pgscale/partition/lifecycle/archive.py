"""Write a retired table to a file that says what it holds, read it back, and compare.

The description (`<file>.json`) is renamed into place before the file: a description without a file is an archive
that was never finished, and a file is never without its description.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from psycopg import sql

from pgscale import sql as named
from pgscale.connect.session import Session
from pgscale.core.killing import kill_point
from pgscale.core.model import Json, QName
from pgscale.errors import MismatchError, RefusedError
from pgscale.livecopy.ddl import ident, qualified
from pgscale.livecopy.work import execute
from pgscale.partition.lifecycle import ddl
from pgscale.partition.lifecycle.model import ArchiveFormat

BATCH_ROWS = 20_000
_SUFFIX: dict[ArchiveFormat, str] = {"csv": ".csv.gz", "parquet": ".parquet"}
_QUERIES = named.load("pgscale.partition.lifecycle")

Tell = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is archived: the detached table, and the table and bounds it was a partition of."""

    table: QName
    leaf: QName
    oid: int
    low: str
    high: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """An archive that was read back. `fingerprint` is the table's, `sha256` the file's."""

    file: Path
    sha256: str
    rows: int
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    name: str
    type: str
    base: str
    numeric_precision: int | None
    numeric_scale: int | None
    is_builtin: bool


@dataclass(slots=True)
class _Sum:
    """A number of records and an order-independent checksum of them."""

    rows: int = 0
    total: int = 0

    def add(self, record: bytes) -> None:
        self.rows += 1
        self.total = (self.total + int.from_bytes(hashlib.blake2b(record, digest_size=16).digest())) % 2**128

    @property
    def checksum(self) -> str:
        return f"{self.total:032x}"


def write(session: Session, subject: Subject, directory: str, form: ArchiveFormat, tell: Tell) -> Written:
    """Archive a table that the caller's transaction keeps from being written; return what can be relied on.

    Raises:
        MismatchError: what was read back differs; RefusedError: pyarrow is missing; OSError.
    """
    folder = Path(directory).expanduser()
    _make_folder(folder)
    file = _place(folder, subject, form, str(session.info.dbname))
    scratch = file.with_name(f".{file.name}.part")
    with session.cursor() as cursor:
        cursor.execute(_QUERIES.get("archive_columns", session.info.server_version), {"oid": subject.oid})
        columns = [
            _Column(name=r[0], type=r[1], base=r[2], numeric_precision=r[3], numeric_scale=r[4], is_builtin=r[5])
            for r in cursor
        ]
    counted = execute(session, ddl.fingerprint(subject.leaf)).fetchone()
    assert counted is not None
    if form == "csv":
        wrote, stored = _write_csv(session, subject.leaf, scratch, tell), ["csv"] * len(columns)
        back = _sum_csv(scratch)
    else:
        kinds = _kinds(session, subject.leaf, columns)
        wrote, stored = _write_parquet(session, subject.leaf, columns, kinds, scratch, tell), kinds
        back = _sum_parquet(scratch)
    kill_point("maintain:archive-scratch")
    if (wrote.rows, wrote.checksum) != (back.rows, back.checksum) or wrote.rows != counted[0]:
        raise MismatchError(
            f"The archive of {subject.leaf} does not hold what was written: {back.rows:,} of {counted[0]:,} rows read.",
            consequence="The table stays; the file was not put in place.",
            hint="Check the disk; the next `maintain` archives it again.",
        )
    digest = _sha256(scratch)
    about: dict[str, Json] = {
        "table": str(subject.table),
        "partition": str(subject.leaf),
        "oid": subject.oid,
        "database": str(session.info.dbname),
        "low": subject.low,
        "high": subject.high,
        "format": form,
        "row_count": wrote.rows,
        "sha256": digest,
        "checksum": wrote.checksum,
        "checksum_of": "csv records" if form == "csv" else "rows",
        "table_fingerprint": counted[1],
        "columns": [{"name": c.name, "type": c.type, "stored_as": s} for c, s in zip(columns, stored, strict=True)],
        "server_version": session.info.server_version,
        "archived_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    note = scratch.with_name(f"{scratch.name}.json")
    note.write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _sync(note)
    _sync(scratch)
    note.replace(_description(file))
    kill_point("maintain:archive-described")
    scratch.replace(file)
    _sync(folder)
    return Written(file=file.absolute(), sha256=digest, rows=wrote.rows, fingerprint=counted[1])


def _make_folder(folder: Path) -> None:
    """Make a directory so that a power failure does not take it, and the archive in it, away again."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def is_intact(file: str | None, sha256: str | None) -> bool:
    """Tell whether an archive is there, described, and byte for byte what was written."""
    if file is None or sha256 is None:
        return False
    with suppress(OSError):
        return _description(Path(file)).exists() and _sha256(Path(file)) == sha256
    return False


def _place(folder: Path, subject: Subject, form: ArchiveFormat, database: str) -> Path:
    """Return the file's path; never that of another table's archive."""
    stem = f"{subject.leaf.schema}.{subject.leaf.name}".replace(os.sep, "_").replace("\0", "_")
    file = folder / f"{stem}{_SUFFIX[form]}"
    if not file.exists() and not _description(file).exists():
        return file
    with suppress(OSError, ValueError, AttributeError):
        about = json.loads(_description(file).read_text(encoding="utf-8"))
        if (about.get("oid"), about.get("database")) == (subject.oid, database):
            return file
    return folder / f"{stem}-{database}-{subject.oid}{_SUFFIX[form]}"


def _description(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Make a file's contents, or a directory's names, survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- CSV -------------------------------------------------------------------------------------------------


def _write_csv(session: Session, leaf: QName, scratch: Path, tell: Tell) -> _Sum:
    statement = sql.SQL("COPY (SELECT * FROM {}) TO STDOUT (FORMAT csv, HEADER)").format(qualified(leaf))

    def blocks() -> Iterator[bytes]:
        # The time stamp is left out of the file: equal tables make equal archives.
        with gzip.GzipFile(scratch, "wb", mtime=0) as file, session.cursor() as cursor, cursor.copy(statement) as copy:
            for block in copy:
                file.write(block)
                yield bytes(block)

    return _sum_records(blocks(), tell)


def _sum_csv(scratch: Path) -> _Sum:
    def blocks() -> Iterator[bytes]:
        with gzip.open(scratch, "rb") as file:
            while block := file.read(1 << 20):
                yield block

    return _sum_records(blocks(), lambda _: None)


def _sum_records(blocks: Iterator[bytes], tell: Tell) -> _Sum:
    """Sum the records of CSV text, without its header. A line break inside quotes is no end of a record."""
    found = _Sum(rows=-1)
    pending = bytearray()
    is_quoted = has_header = False
    for block in blocks:
        for line in _lines(block):
            pending += line
            is_quoted ^= line.count(b'"') % 2 == 1
            if line.endswith(b"\n") and not is_quoted:
                if not has_header:
                    has_header = True
                    found.rows = 0
                else:
                    found.add(bytes(pending))
                    if found.rows % BATCH_ROWS == 0:
                        tell(found.rows)
                pending.clear()
    found.rows = max(found.rows, 0)
    if pending:
        found.add(bytes(pending))
    return found


def _lines(block: bytes) -> list[bytes]:
    """Split behind line feeds only: a carriage return may stand in a value."""
    parts = block.split(b"\n")
    return [p + b"\n" for p in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


# -- Parquet ---------------------------------------------------------------------------------------------


def _arrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise RefusedError(
            "Parquet archives need pyarrow, which is not installed.",
            consequence="The table stays.",
            hint="pip install 'pgscale[archive]', or archive_format = \"csv\".",
        ) from None


# What a Parquet type holds without loss; everything else is stored as the server's text.
_PLAIN = {
    "bool": "bool",
    "int2": "int16",
    "int4": "int32",
    "int8": "int64",
    "float4": "float32",
    "float8": "float64",
    "text": "string",
    "varchar": "string",
    # Not by way of ::text, which takes its blanks.
    "bpchar": "string",
    "bytea": "binary",
    "date": "date",
    "timestamp": "timestamp",
    "timestamptz": "timestamptz",
}


def _kinds(session: Session, leaf: QName, columns: list[_Column]) -> list[str]:
    kinds = [_kind(c) for c in columns]
    doubtful = [(n, _doubt(c, k)) for n, (c, k) in enumerate(zip(columns, kinds, strict=True)) if _doubt(c, k)]
    if doubtful:
        row = session.execute(
            sql.SQL("SELECT {} FROM {}").format(
                sql.SQL(", ").join(
                    sql.SQL("COALESCE(pg_catalog.bool_or({}), false)").format(test) for _, test in doubtful if test
                ),
                qualified(leaf),
            )
        ).fetchone()
        assert row is not None
        for (number, _), has_strange in zip(doubtful, row, strict=True):
            if has_strange:
                kinds[number] = "text"
    return kinds


def _kind(column: _Column) -> str:
    if not column.is_builtin:
        return "text"
    precision, scale = column.numeric_precision, column.numeric_scale
    if column.base == "numeric" and precision is not None and scale is not None:
        return f"decimal({precision},{scale})" if precision <= 38 and 0 <= scale <= precision else "text"
    return _PLAIN.get(column.base, "text")


def _doubt(column: _Column, kind: str) -> sql.Composable | None:
    """Return the test for values that the Parquet type, or Python on the way, cannot hold: infinity, BC, NaN."""
    name = ident(column.name)
    if kind in ("date", "timestamp", "timestamptz"):
        return sql.SQL("NOT ({} >= '0001-01-03' AND {} < '9999-12-30')").format(name, name)
    if kind.startswith("decimal"):
        return sql.SQL("{} = 'NaN'").format(name)
    return None


def _field(pa: Any, kind: str) -> Any:
    if kind.startswith("decimal"):
        precision, scale = kind.removeprefix("decimal(").removesuffix(")").split(",")
        return pa.decimal128(int(precision), int(scale))
    named_otherwise = {
        "bool": pa.bool_(),
        "text": pa.string(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us"),
        "timestamptz": pa.timestamp("us", tz="UTC"),
    }
    return named_otherwise[kind] if kind in named_otherwise else getattr(pa, kind)()


def _write_parquet(
    session: Session, leaf: QName, columns: list[_Column], kinds: list[str], scratch: Path, tell: Tell
) -> _Sum:
    pa, parquet = _arrow()
    schema = pa.schema([(c.name, _field(pa, k)) for c, k in zip(columns, kinds, strict=True)])
    selected = sql.SQL(", ").join(
        sql.SQL("{}::text").format(ident(c.name)) if k == "text" else ident(c.name)
        for c, k in zip(columns, kinds, strict=True)
    )
    statement = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT binary)").format(selected, qualified(leaf))
    found = _Sum()
    with parquet.ParquetWriter(scratch, schema, compression="zstd") as writer, session.cursor() as cursor:
        with cursor.copy(statement) as copy:
            copy.set_types(["text" if k == "text" else c.base for c, k in zip(columns, kinds, strict=True)])
            batch: list[tuple[Any, ...]] = []
            for row in copy.rows():
                found.add(_canonical(row))
                batch.append(row)
                if len(batch) == BATCH_ROWS:
                    writer.write_batch(_batch(pa, schema, batch))
                    tell(found.rows)
                    batch = []
        if batch:
            writer.write_batch(_batch(pa, schema, batch))
    return found


def _batch(pa: Any, schema: Any, rows: list[tuple[Any, ...]]) -> Any:
    arrays = [pa.array(values, type=field.type) for values, field in zip(zip(*rows, strict=True), schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)


def _sum_parquet(scratch: Path) -> _Sum:
    _, parquet = _arrow()
    found = _Sum()
    file = parquet.ParquetFile(scratch)
    try:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                found.add(_canonical(row))
    finally:
        file.close()
    return found


def _canonical(row: tuple[Any, ...]) -> bytes:
    """Write a row so that equal values are equal bytes, whichever library they came from."""
    return "\x1f".join(_shown(value) for value in row).encode("utf-8", "surrogatepass")


def _shown(value: Any) -> str:
    match value:
        case datetime():
            at = value.astimezone(UTC) if value.tzinfo is not None else value
            return f"t{at.isoformat()}"
        case date():
            return f"d{value.isoformat()}"
        case Decimal():
            return f"n{value.normalize():f}" if value else "n0"
        case bytes():
            return f"b{value.hex()}"
        case _:
            return repr(value)
