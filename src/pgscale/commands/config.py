"""Read pgscale.toml: unknown keys and wrong values are errors that name the key."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cattrs
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError

from pgscale.errors import PgscaleError, UsageError
from pgscale.partition import PartitionSet

FILE_NAME = "pgscale.toml"
_EXAMPLE = '[[partitions]]\ntable = "public.events"\nperiod = "month"\nretention = "13 months"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What pgscale.toml says.

    Args:
        storage: what the volume gives, as `--storage` has it; for the estimates of `plan`, `run` and `rehearse`.
    """

    storage: str | None = None
    partitions: tuple[PartitionSet, ...] = ()


def read_config(path: Path | None = None) -> Config:
    """Read the file, by default pgscale.toml of the working directory.

    Raises:
        UsageError: there is no such file, or a key or value in it is wrong.
    """
    file = path or Path(FILE_NAME)
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"There is no {file}.", hint=f"Name one with --config, or make it:\n{_EXAMPLE}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}.") from None
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


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind in _WORDS:
        converter.register_structure_hook(kind, _is_exactly(kind))
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
    return converter


_CONVERTER = _make_converter()
