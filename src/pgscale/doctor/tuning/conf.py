"""postgresql.conf as the server reads it: quotes, escapes, comments, includes. Reads files; knows no settings.

The grammar is that of src/backend/utils/misc/guc-file.l: `name [=] value [# comment]`, one a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pgscale.errors import UsageError

MOST_NESTED = 10  # CONF_FILE_MAX_DEPTH

_LETTER = r"[A-Za-z_\x80-\U0010ffff]"
_WORD = rf"{_LETTER}(?:{_LETTER}|[0-9$])*"
_NAME = re.compile(rf"{_WORD}(?:\.{_WORD})?")
_STRING = re.compile(r"'(?:[^'\\]|\\.|'')*'")
# The longest of them that matches is taken, as flex does; an integer may have a unit, a real number may not.
_BARE = (
    re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|\d+)[a-zA-Z]*"),
    re.compile(r"[+-]?\d*\.\d*(?:[Ee][+-]?\d+)?"),
    re.compile(rf"{_LETTER}(?:{_LETTER}|[0-9$._:/-])*"),
)
_END = re.compile(r"\s*(#.*)?")
_COMMENT = re.compile(r"(^|\s)#.*$")
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_INCLUDES = ("include", "include_if_exists", "include_dir")

What = Literal["setting", "syntax", "include"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line that says something.

    Args:
        what: a setting; a line that cannot be read; an include that leads nowhere.
        file: the file as the reader names it; `line` counts from 1.
        text: the line as it stands.
        name: in lower case. Empty for a line that cannot be read.
        value: without quotes and escapes; of a line that cannot be read, what stands after its name.
        why: of the last two, what is wrong.
        comment: what stands behind the value, with its #.
        main: stands in the file that was given, not in an included one.
    """

    what: What
    file: str
    line: int
    text: str
    name: str
    value: str
    why: str = ""
    comment: str = ""
    main: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Conf:
    """A file with all that it includes, in the order in which the server reads it; of equal names the last counts."""

    path: str
    lines: tuple[str, ...]
    entries: tuple[Entry, ...]
    files: tuple[str, ...]


def read_conf(path: Path) -> Conf:
    """Read a file and what it includes.

    Raises:
        UsageError: the file itself cannot be read.
    """
    lines = _lines(path)
    files: list[str] = []
    entries = tuple(_entries(path, str(path), lines, files, depth=0))
    return Conf(path=str(path), lines=tuple(lines), entries=entries, files=tuple(files))


def parse_text(text: str, *, name: str = "postgresql.conf") -> Conf:
    """Read settings from a text; what it includes is looked for in the working directory."""
    lines = _split(text)
    files: list[str] = []
    entries = tuple(_entries(Path(name), name, lines, files, depth=0))
    return Conf(path=name, lines=tuple(lines), entries=entries, files=tuple(files))


def _lines(path: Path) -> list[str]:
    try:
        # Whatever the encoding, the grammar is ASCII, and what is written back must be the same bytes.
        return _split(path.read_bytes().decode("utf-8", errors="surrogateescape").removeprefix("\ufeff"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None


def _split(text: str) -> list[str]:
    # Not splitlines(): the server ends lines at \n only, and form feeds stand in comments.
    lines = text.split("\n")
    return lines[:-1] if lines and not lines[-1] else lines


def _entries(path: Path, shown: str, lines: list[str], files: list[str], depth: int) -> Iterator[Entry]:
    files.append(shown)
    for number, line in enumerate(lines, start=1):
        entry = _entry(line.removesuffix("\r"), shown, number, main=depth == 0)
        if entry is None:
            continue
        if entry.what != "setting" or entry.name not in _INCLUDES:
            yield entry
            continue
        yield from _included(path, entry, files, depth)


def _included(path: Path, entry: Entry, files: list[str], depth: int) -> Iterator[Entry]:
    if depth >= MOST_NESTED:
        yield _astray(entry, f"files include one another more than {MOST_NESTED} deep")
        return
    target = path.parent / entry.value
    if entry.name == "include_dir":
        try:
            found = sorted(each for each in target.iterdir() if _is_conf(each))
        except OSError as error:
            yield _astray(entry, f"directory {target} cannot be read: {error.strerror}")
            return
    else:
        found = [target]
    for each in found:
        try:
            lines = _lines(each)
        except UsageError as error:
            if entry.name == "include_if_exists" and not each.exists():
                continue
            yield _astray(entry, error.fact.rstrip("."))
            continue
        yield from _entries(each, str(each), lines, files, depth + 1)


def _is_conf(path: Path) -> bool:
    return path.name.endswith(".conf") and not path.name.startswith(".") and not path.is_dir()


def _astray(entry: Entry, why: str) -> Entry:
    return Entry(
        what="include", file=entry.file, line=entry.line, text=entry.text, name=entry.name, value=entry.value, why=why,
        main=entry.main,
    )  # fmt: skip


def _entry(line: str, file: str, number: int, *, main: bool) -> Entry | None:
    """Read one line; None where it says nothing."""
    rest = line.lstrip()
    if not rest or rest.startswith("#"):
        return None
    found = _NAME.match(rest)

    def unreadable(name: str, value: str, why: str) -> Entry:
        return Entry(what="syntax", file=file, line=number, text=line, name=name, value=value, why=why, main=main)

    if found is None:
        return unreadable("", "", f"no setting begins with {rest[0]!r}")
    name = found[0].lower()
    after = rest[found.end() :]
    value = after.lstrip()
    if equals := value.startswith("="):
        value = value[1:].lstrip()
    raw = _COMMENT.sub("", value).strip()
    if not raw:
        return unreadable(name, "", "there is no value")
    token = _token(value)
    if not token and value.startswith("'"):
        return unreadable(name, raw[1:], "the quote is not closed")
    end = _END.fullmatch(value, len(token)) if token else None
    if end is None or not (equals or after[:1].isspace() or token.startswith("'")):
        rest = raw.removeprefix(token).strip()
        why = f"{rest!r} follows the value {token}" if token and rest else f"{raw.split()[0]} must stand in quotes"
        return unreadable(name, raw, why)
    return Entry(
        what="setting",
        file=file,
        line=number,
        text=line,
        name=name,
        value=_unquote(token) if token.startswith("'") else token,
        comment=end[1] or "",
        main=main,
    )


def _token(text: str) -> str:
    if text.startswith("'"):
        found = _STRING.match(text)
        return found[0] if found else ""
    return max((match[0] for each in _BARE if (match := each.match(text))), key=len, default="")


def _unquote(token: str) -> str:
    """Take off the quotes as DeescapeQuotedString does."""
    made: list[str] = []
    body = token[1:-1]
    position = 0
    while position < len(body):
        letter = body[position]
        if letter == "\\":
            octal = re.compile(r"[0-7]{1,3}").match(body, position + 1)
            following = body[position + 1]
            made.append(chr(int(octal[0], 8) & 0xFF) if octal else _ESCAPES.get(following, following))
            position += 1 + (len(octal[0]) if octal else 1)
        else:
            made.append(letter)
            position += 2 if letter == "'" else 1
    return "".join(made)
