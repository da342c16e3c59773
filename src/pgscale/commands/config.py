"""Read pgscale.toml, where unknown keys and wrong values are errors that name the key; append a set to it."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import cattrs
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError

from pgscale.commands import FILE_NAME
from pgscale.connect.profiles.configuring import to_environment, to_section
from pgscale.connect.profiles.model import Environment, Profiles, Section
from pgscale.doctor.limits import Limits
from pgscale.errors import PgscaleError, RefusedError, UsageError
from pgscale.partition import PartitionSet

_EXAMPLE = '[[partitions]]\ntable = "public.events"\nperiod = "month"\nretention = "13 months"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What pgscale.toml says.

    Args:
        storage: what the volume gives, as `--storage` has it; for the estimates of `plan`, `run` and `rehearse`.
        doctor: the thresholds of `pgscale doctor`.
        profiles, environments: of transactions, for `pgscale exec` and applications.
    """

    storage: str | None = None
    partitions: tuple[PartitionSet, ...] = ()
    doctor: Limits = field(default_factory=Limits)
    profiles: Mapping[str, Section] = field(default_factory=dict[str, Section])
    environments: Mapping[str, Environment] = field(default_factory=dict[str, Environment])


def read_config(path: Path | None = None) -> Config:
    """Read the file, by default pgscale.toml of the working directory.

    Raises:
        UsageError: there is no such file, or a key or value in it is wrong.
    """
    file = path or Path(FILE_NAME)
    if not file.exists():
        raise UsageError(f"There is no {file}.", hint=f"Name one with --config, or make it:\n{_EXAMPLE}")
    return _structure(_read(file), file)


def read_all_profiles(path: Path | None = None) -> Profiles:
    """Return the profiles of the file, by default of pgscale.toml in the working directory where there is one.

    Raises:
        UsageError: as read_config(), for anything in the file.
    """
    if path is None and not Path(FILE_NAME).exists():
        return Profiles()
    config = read_config(path)
    return Profiles(profiles=config.profiles, environments=config.environments, origin=str(path or FILE_NAME))


def to_toml(wanted: PartitionSet) -> str:
    """Return a set as a `[[partitions]]` of pgscale.toml, without what is the default anyway."""
    lines = ["[[partitions]]"]
    for each in fields(wanted):
        value = getattr(wanted, each.name)
        if value is not None and (each.default is MISSING or value != each.default):
            lines.append(f"{each.name} = {_toml_value(value)}")
    return "\n".join(lines) + "\n"


def _toml_value(value: str | int | bool) -> str:
    # What JSON escapes TOML escapes alike, but for one character that JSON lets through.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def missing_from(path: Path, wanted: PartitionSet) -> bool:
    """Tell whether a set can be appended to a file: False where it stands there already, alike.

    Raises:
        RefusedError: the file has another set for the table, or nothing can be appended to it;
        UsageError: it is wrong as it is.
    """
    if not path.exists():
        return True
    text = _read(path)
    for there in _structure(text, path).partitions:
        if there == replace(wanted, table=there.table) and names_same(wanted.table, there.table):
            return False
        if names_same(wanted.table, there.table):
            raise RefusedError(
                f"{path} has another set for {there.table}.",
                consequence="Nothing was changed.",
                hint=f"Remove it, or make it this:\n{to_toml(wanted)}",
            )
    try:
        _structure(_appended(text, wanted), path)
    except UsageError:
        raise RefusedError(
            f"A [[partitions]] cannot be appended to {path}, which writes them another way.",
            consequence="Nothing was changed.",
            hint=f"Add this yourself:\n{to_toml(wanted)}",
        ) from None
    return True


def append_set(path: Path, wanted: PartitionSet) -> bool:
    """Append a set to pgscale.toml, or make the file; what is in it stays as it is. Return whether it was missing.

    Raises:
        RefusedError, UsageError: as missing_from().
    """
    if not missing_from(path, wanted):
        return False
    # A link keeps pointing at the file; the file is the old one or the new one, never half of either.
    file = path.resolve()
    scratch = file.with_name(f".{file.name}.part")
    try:
        with scratch.open("w", encoding="utf-8") as stream:
            stream.write(_appended(_read(file) if file.exists() else "", wanted))
            stream.flush()
            os.fsync(stream.fileno())
        if file.exists():
            shutil.copymode(file, scratch)
        scratch.replace(file)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise UsageError(f"{path} cannot be written: {error}.") from None
    return True


def names_same(configured: str, given: str) -> bool:
    """Without a schema, a name means the table of that name in whichever schema the other one has."""
    if "." in configured and "." in given:
        return configured == given
    return configured.rpartition(".")[2] == given.rpartition(".")[2]


def _appended(text: str, wanted: PartitionSet) -> str:
    if not text:
        return to_toml(wanted)
    return text + ("" if text.endswith("\n") else "\n") + "\n" + to_toml(wanted)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}.") from None


def _structure(text: str, file: Path) -> Config:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file} is not TOML: {error}.") from None
    try:
        config = _CONVERTER.structure(data, Config)
    except ClassValidationError as error:
        raise UsageError(
            f"{file}: {'; '.join(cattrs.transform_error(error, path='', format_exception=_say))}."
        ) from None
    _refuse_twice(file, config)
    return config


def _refuse_twice(file: Path, config: Config) -> None:
    seen: set[str] = set()
    for entry in config.partitions:
        if entry.table in seen:
            raise UsageError(f"{file}: `table` = {entry.table!r} stands there twice.", hint="Keep one entry a table.")
        seen.add(entry.table)


def _say(error: BaseException, kind: type | None) -> str:
    del kind
    if isinstance(error, ForbiddenExtraKeysError):
        names = ", ".join(f"`{name}`" for name in sorted(error.extra_fields))
        return f"unknown key {names}"
    if isinstance(error, KeyError):
        return f"the key `{error.args[0]}` is missing"
    if isinstance(error, PgscaleError):
        return str(error).rstrip(".")
    return str(error)


def _is_exactly(kind: type) -> Any:
    def check(value: Any, _: Any) -> Any:
        # cattrs would make 3 of "3" and True of 1: whoever wrote that meant something else.
        if type(value) is not kind:
            raise TypeError(f"{value!r} is no {_WORDS[kind]}")
        return value

    return check


_WORDS: dict[type, str] = {str: "text", int: "whole number", bool: "true or false"}


def _number(value: Any, _: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind in _WORDS:
        converter.register_structure_hook(kind, _is_exactly(kind))
    converter.register_structure_hook(float, _number)
    plain = cattrs.gen.make_dict_structure_fn(PartitionSet, converter, _cattrs_forbid_extra_keys=True)

    def partition_set(value: Any, kind: type[PartitionSet]) -> PartitionSet:
        if not isinstance(value, dict):
            raise TypeError("`partitions` is no list of tables; write [[partitions]]")
        # Distances of number keys may be written as numbers.
        given = dict(cast("dict[str, Any]", value))
        for name in ("period", "retention"):
            if type(given.get(name)) in (int, float):
                given[name] = str(given[name])
        return plain(given, kind)

    converter.register_structure_hook(PartitionSet, partition_set)
    # Applications read these without cattrs, by the same rules.
    converter.register_structure_hook(Section, lambda value, _: to_section(value))
    converter.register_structure_hook(Environment, lambda value, _: to_environment(value))
    return converter


_CONVERTER = _make_converter()
