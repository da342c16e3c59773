"""Profiles and environments of pgscale.toml: wrong keys and values are errors that name the key."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from pgscale.connect.profiles.model import Entry, Environment, Profiles, Section
from pgscale.core.units import parse_bytes
from pgscale.errors import UsageError

FILE_NAME = "pgscale.toml"
T = TypeVar("T")
_OURS = ("profiles", "environments")
_CLOSE = 0.75


def read_profiles(path: Path | None = None) -> Profiles:
    """Read the profiles of a file, by default of pgscale.toml in the working directory where there is one.

    What else stands in the file is left to whom it belongs.

    Raises:
        UsageError: the file named is not there, or a key or value of profiles is wrong.
    """
    file = path or Path(FILE_NAME)
    if path is None and not file.exists():
        return Profiles()
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file} is not TOML: {error}.") from None
    for key in data.keys() - set(_OURS):
        # Another section is none of ours, but a misspelt one would silently give its profiles away.
        if near := difflib.get_close_matches(key, _OURS, n=1, cutoff=_CLOSE):
            raise UsageError(f"{file}: unknown key `{key}`.", hint=f"`{near[0]}` was meant?")
    try:
        return Profiles(
            profiles=_sections(data.get("profiles", {}), "profiles"),
            environments={
                name: to_environment(each, f"environments.{name}")
                for name, each in _table(data.get("environments", {}), "environments").items()
            },
            origin=str(file),
        )
    except ValueError as error:
        raise UsageError(f"{file}: {error}.") from None


def _sections(given: object, at: str) -> dict[str, Section]:
    return {name: to_section(each, _below(at, name)) for name, each in _table(given, at).items()}


def to_environment(given: object, at: str = "") -> Environment:
    """Return one `[environments.NAME]`.

    Args:
        given: as TOML has it; at: its key, for messages.

    Raises:
        ValueError: something in it is wrong; the key is named.
    """
    table = _table(given, at, {"ram", "live", "profiles"})
    ram: Any = table.get("ram")
    live: Any = table.get("live")
    if ram is not None:
        try:
            ram = parse_bytes(_exactly(str, ram, _below(at, "ram")))
        except ValueError as error:
            raise ValueError(f"`{_below(at, 'ram')}`: {error}") from None
    return Environment(
        ram_bytes=ram,
        live=None if live is None else _exactly(bool, live, _below(at, "live")),
        profiles=_sections(table.get("profiles", {}), _below(at, "profiles")),
    )


def to_section(given: object, at: str = "") -> Section:
    """Return one `[profiles.NAME]`.

    Raises:
        ValueError: as to_environment().
    """
    table = _table(given, at, {"purpose", "connections", "nodes", "settings"})
    purpose = table.get("purpose")
    settings = _table(table.get("settings", {}), _below(at, "settings"))
    _refuse_twice(settings, _below(at, "settings"))
    return Section(
        purpose=None if purpose is None else _exactly(str, purpose, _below(at, "purpose")),
        connections=_count(table.get("connections"), _below(at, "connections")),
        nodes=_count(table.get("nodes"), _below(at, "nodes")),
        settings={name.lower(): _entry(each, _below(at, f"settings.{name}")) for name, each in settings.items()},
    )


def _refuse_twice(settings: Mapping[str, object], at: str) -> None:
    seen: dict[str, str] = {}
    for name in settings:
        if name.lower() in seen:
            raise ValueError(f"`{at}.{name}` is the same setting as `{seen[name.lower()]}`")
        seen[name.lower()] = name


def _entry(given: object, at: str) -> Entry:
    if not isinstance(given, dict):
        return Entry(value=_value(given, at))
    table = _table(cast("object", given), at, {"value", "reason", "since", "leave"})
    leaves = _exactly(bool, table.get("leave", False), _below(at, "leave"))
    if leaves == ("value" in table):
        raise ValueError(f"`{at}` needs one of `value` and `leave = true`; a name with a dot stands in quotes")
    return Entry(
        value=None if leaves else _value(table["value"], _below(at, "value")),
        reason=_exactly(str, table.get("reason", ""), _below(at, "reason")).strip(),
        since=_exactly(int, table.get("since", 0), _below(at, "since")),
    )


def _value(given: object, at: str) -> str:
    if isinstance(given, bool):
        return "on" if given else "off"
    if isinstance(given, (int, float, str)):
        return str(given)
    raise ValueError(f"`{at}` = {given!r} is no value of a setting")


def _count(given: object, at: str) -> int | None:
    if given is None:
        return None
    count = _exactly(int, given, at)
    if count < 1:
        raise ValueError(f"`{at}` = {count} is below 1")
    return count


_WORDS: Mapping[type, str] = {str: "text", int: "whole number", bool: "true or false"}


def _exactly(kind: type[T], given: object, at: str) -> T:
    if type(given) is not kind:
        raise ValueError(f"`{at}` = {given!r} is no {_WORDS[kind]}")
    return given


def _below(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key


def _table(given: object, at: str, keys: set[str] | None = None) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ValueError(f"`{at}` is no table; write [{at}]" if at else f"{given!r} is no table")
    table = cast("dict[str, Any]", given)
    for key in table:
        if keys is not None and key not in keys:
            near = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
            meant = f"; `{near[0]}` was meant?" if near else f"; there are {', '.join(sorted(keys))}"
            raise ValueError(f"unknown key `{_below(at, key)}`{meant}")
    return table
