"""Rows that land or fail together, encoded, and cut where it takes; those that do not fit are known. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pgscale.write.encoding import Encoder
from pgscale.write.model import RowError
from pgscale.write.rows import Chunk, Shape

# So many rows are judged one by one; of more, each half is tried as a whole first.
FEW_ROWS = 16


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that has no binary form: its place in the piece, the column, the reason."""

    place: int
    column: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows, the form of those that fit for COPY, and the others."""

    rows: Sequence[Any]
    data: bytes
    faults: Sequence[Fault]


class Coder:
    """Makes pieces of rows, with the encoder of a call."""

    def __init__(self, encoder: Encoder, shape: Shape) -> None:
        self._encoder, self._shape = encoder, shape
        self._extract: Callable[[Chunk], Iterable[Sequence[Any]]] = shape.extractor(encoder.names)

    def piece(self, rows: Chunk) -> Piece:
        faults: list[Fault] = []
        return Piece(rows, self._encode(rows, 0, faults), faults)

    def _encode(self, rows: Chunk, at: int, faults: list[Fault]) -> bytes:
        try:
            return self._encoder.fast(self._extract(rows))
        except Exception:  # noqa: BLE001 because whatever went wrong, row by row is how it is found
            if len(rows) > FEW_ROWS:
                middle = len(rows) // 2
                left = self._encode(rows[:middle], at, faults)
                return left + self._encode(rows[middle:], at + middle, faults)
            return b"".join(self._judged(rows, at, faults))

    def _judged(self, rows: Chunk, at: int, faults: list[Fault]) -> Iterator[bytes]:
        for place, row in enumerate(rows, start=at):
            try:
                yield self._encoder.encode_one(row, self._shape, place)
            except RowError as error:
                faults.append(Fault(place, error.column, error.reason))
            except Exception as error:  # noqa: BLE001 because a row's own methods may raise anything, and only it is bad
                faults.append(Fault(place, None, f"{type(error).__name__}: {error}"))


class Batch:
    """Pieces in a row.

    Args:
        at: the index of the first row among those of the call.
    """

    def __init__(self, coder: Coder, at: int, pieces: Sequence[Piece] = ()) -> None:
        self._coder = coder
        self.at = at
        self.pieces = list(pieces)

    def __len__(self) -> int:
        return sum(len(piece.rows) for piece in self.pieces)

    def __add__(self, other: Batch) -> Batch:
        return Batch(self._coder, self.at, [*self.pieces, *other.pieces])

    @property
    def data(self) -> bytes:
        return b"".join(piece.data for piece in self.pieces)

    @property
    def size_bytes(self) -> int:
        return sum(len(piece.data) for piece in self.pieces)

    @property
    def rows(self) -> list[Any]:
        return [row for piece in self.pieces for row in piece.rows]

    def row(self, place: int) -> Any:
        for piece in self.pieces:
            if place < len(piece.rows):
                return piece.rows[place]
            place -= len(piece.rows)
        raise IndexError(place)

    def faults(self) -> Iterator[tuple[int, Any, Fault]]:
        """Yield index and row of those that do not fit, and why."""
        at = self.at
        for piece in self.pieces:
            for fault in piece.faults:
                yield at + fault.place, piece.rows[fault.place], fault
            at += len(piece.rows)

    def sent(self) -> list[int]:
        """Return the places of the rows that have a form, as they were sent."""
        wrong = {index - self.at for index, _, _ in self.faults()}
        return [place for place in range(len(self)) if place not in wrong]

    def split(self, rows: int) -> tuple[Batch, Batch]:
        """Return the pieces that have the first so many rows, or a few more, and the others."""
        size = count = 0
        while count < len(self.pieces) and size < rows:
            size += len(self.pieces[count].rows)
            count += 1
        return (
            Batch(self._coder, self.at, self.pieces[:count]),
            Batch(self._coder, self.at + size, self.pieces[count:]),
        )

    def between(self, low: int, high: int) -> Batch:
        """Return the rows from place `low` to before `high`; a piece that is cut is encoded again."""
        found: list[Piece] = []
        at = 0
        for piece in self.pieces:
            size = len(piece.rows)
            first, last = max(low - at, 0), min(high - at, size)
            if first < last:
                found.append(piece if last - first == size else self._coder.piece(list(piece.rows[first:last])))
            at += size
        return Batch(self._coder, self.at + low, found)
