"""Cutting a CSV: every cut is at the end of a record as the server sees records, and nothing is lost."""

from __future__ import annotations

import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pgscale.errors import RefusedError
from pgscale.write.loading import lines
from pgscale.write.loading.lines import Style, cut, find_end_marker, find_newline, index_records, last_boundary
from pgscale.write.loading.model import Done
from pgscale.write.loading.store import gaps

CSV = st.lists(
    st.sampled_from(
        [
            b'"',
            b'""',
            b"\n",
            b"\r\n",
            b",",
            b"a",
            b'"a\nb"',
            b'"\n"',
            "é".encode(),
            b"\\",
            b'\\"',
            b'"\\"\n"',
            b"]",
            b"^",
        ]
    ),
    max_size=60,
).map(b"".join)
# Quote and escape; the escape may be anything but the end of a line, also what means something to a regex.
STYLES = st.sampled_from(
    [(b'"', b""), (b"a", b""), (b"", b""), (b'"', b"\\"), (b'"', b"a"), (b'"', b","), (b"]", b"^"), (b"^", b"\\")]
)


def _ends(data: bytes, quote: bytes, escape: bytes) -> list[int]:
    """Where records end: the server's own rule (CopyReadLineText), a byte at a time."""
    ends: list[int] = []
    in_quotes = was_escape = False
    for at in range(len(data)):
        byte = data[at : at + 1]
        if in_quotes and byte == escape:
            was_escape = not was_escape
        if byte == quote and not was_escape:
            in_quotes = not in_quotes
        if byte != escape:
            was_escape = False
        if byte == b"\n" and not in_quotes:
            ends.append(at + 1)
    return ends


@settings(max_examples=600, deadline=None)
@given(CSV, st.integers(1, 25), STYLES)
@example(b'"a\n"\nb\n', 3, (b'"', b""))
@example(b'"\\"\n\\\\"\n"\\\n"\n', 3, (b'"', b"\\"))
def test_every_cut_is_the_end_of_a_record(data: bytes, part_bytes: int, how: tuple[bytes, bytes]) -> None:
    style = Style(quote=how[0], escape=how[1])
    ends = _ends(data, *how)
    assert last_boundary(data, style) == (ends[-1] if ends else 0)
    with pytest.MonkeyPatch.context() as patch:
        # Looked through bit by bit it is the same.
        patch.setattr(lines, "_TURN_BYTES", part_bytes)
        assert last_boundary(data, style) == (ends[-1] if ends else 0)
    pieces = list(cut(io.BytesIO(data), style, part_bytes, at=5, line=3, with_crc=True))
    assert b"".join(p.data for p in pieces) == data
    at, line = 5, 3
    for piece in pieces:
        assert (piece.first, piece.first_line) == (at, line)
        assert piece.data
        assert piece.end - 5 in ends or piece.end - 5 == len(data)
        at, line = piece.end, line + piece.lines
    index = index_records(data, style)
    whole = ends if not data or ends[-1:] == [len(data)] else [*ends, len(data)]
    assert index.ends == whole
    assert index.starts == [0, *whole][:-1]
    for start, end, last in zip(index.starts, index.ends, index.last_lines, strict=True):
        assert last == data[:end].count(b"\n") + (not data[:end].endswith(b"\n"))
        assert start < end


@settings(max_examples=200, deadline=None)
@given(CSV, st.integers(1, 25), st.integers(1, 25), st.data())
def test_what_is_left_is_cut_anew(data: bytes, first_size: int, second_size: int, draw: st.DataObject) -> None:
    """A load that goes on, with parts of another size, has every byte once."""
    style = Style(quote=b'"')
    pieces = list(cut(io.BytesIO(data), style, first_size))
    kept = [pieces[n] for n in draw.draw(st.sets(st.sampled_from(range(len(pieces)))))] if pieces else []
    done = sorted(
        (Done(first=p.first, end=p.end, first_line=p.first_line, lines=p.lines, crc=p.crc) for p in kept),
        key=lambda d: d.first,
    )
    found = {d.first: data[d.first : d.end] for d in done}
    stream = io.BytesIO(data)
    for at, line, until in gaps(done, 0, 1):
        stream.seek(at)
        for piece in cut(stream, style, second_size, at=at, line=line, until=until):
            assert piece.first not in found
            assert piece.first_line == data[: piece.first].count(b"\n") + 1
            found[piece.first] = piece.data
    assert b"".join(found[at] for at in sorted(found)) == data


def test_the_first_piece_is_soon_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "FIRST_BYTES", 20)
    monkeypatch.setattr(lines, "_TURN_BYTES", 7)
    pieces = list(cut(io.BytesIO(b'a,"\n"\n' * 200), Style(quote=b'"'), 100))
    assert [len(p.data) for p in pieces[:3]] == [18, 96, 96]
    assert [p.lines for p in pieces[:3]] == [6, 32, 32]


def test_how_lines_end() -> None:
    for head, newline in (
        (b"a\nb", b"\n"),
        (b"a\r\nb", b"\n"),
        (b"a\rb\n", b"\r"),
        (b'"\r"\n', b"\n"),
        (b"a", b"\n"),
        (b"a\r", b"\n"),
    ):
        assert find_newline(head, Style(quote=b'"')) == newline, head
    escaped = Style(quote=b'"', escape=b"\\")
    for head, newline in ((b'"\\"\n\\\\"\rb\n', b"\r"), (b'\\"\r"\n', b"\n"), (b'"\\"\r\n"', b"\n"), (b'"\\', b"\n")):
        assert find_newline(head, escaped) == newline, head


def test_a_pipe_gives_what_it_has() -> None:
    class Pipe(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 3))

    data = b"".join(b"%d,x\n" % n for n in range(500))
    pieces = list(cut(Pipe(data), Style(quote=b'"'), 100))
    assert b"".join(p.data for p in pieces) == data
    assert all(80 < len(p.data) <= 100 for p in pieces[:-1])


def test_a_quote_that_is_never_closed_ends_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MOST_RECORD_BYTES", 1000)
    with pytest.raises(RefusedError, match="line 2 has not ended"):
        list(cut(io.BytesIO(b'a\n"' + b"b\n" * 5000), Style(quote=b'"'), 100))


def test_the_marker_at_which_old_servers_stop() -> None:
    for data, at in (
        (b"\\.\na", 0),
        (b"a\n\\.\n", 2),
        (b"a\r\n\\.", 3),
        (b"a\\.\n", None),
        (b"\\.a\n", None),
        (b'"\\."\n', None),
    ):
        assert find_end_marker(data) == at, data
