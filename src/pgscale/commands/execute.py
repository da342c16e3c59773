"""`pgscale exec`: a file's statements in one transaction with a profile; what profiles there are."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from pgscale.commands.config import read_all_profiles
from pgscale.connect.profiles import scripts
from pgscale.connect.profiles.counting import RowByRowWarning
from pgscale.connect.profiles.database import Database
from pgscale.connect.profiles.model import Checked, ResolvedProfile
from pgscale.connect.profiles.scripts import Ran, Script
from pgscale.connect.session import open_session
from pgscale.core.model import Json, Report
from pgscale.core.units import format_count, format_duration
from pgscale.doctor.tuning.machine import Given, read_machine
from pgscale.doctor.tuning.reader import LOOKER, read_server
from pgscale.errors import ConnectError, RefusedError, UsageError
from pgscale.sql.statements import split


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which profile, as it is where.

    Args:
        config: None takes pgscale.toml of the working directory, if there is one.
        ram_bytes: of the server; None takes what the file says, or what is seen where the server is local.
    """

    profile: str
    environment: str | None = None
    config: Path | None = None
    ram_bytes: int | None = None


def list_profiles(environment: str | None, config: Path | None) -> Report:
    """Say every profile of an environment, each value with where it comes from. Asks no server."""
    database = Database(environment=environment, config=read_all_profiles(config))
    found = database.profiles()
    lines = [f"Profiles of environment {database.environment}"]
    for profile in found:
        lines += ["", *_profile_lines(profile)]
    data: dict[str, Json] = {
        "environment": database.environment,
        "profiles": [profile.to_json() for profile in found],
    }
    return Report(data=data, text="\n".join(lines))


def execute(dsn: str | None, file: str, choice: Choice, *, dry_run: bool) -> Report:
    """Run a file in one transaction with a profile; a dry run sets the profile, rolls back and runs nothing.

    Args:
        file: its path; `-` is standard input.

    Raises:
        UsageError: there is no such file, nothing in it, or something is wrong with the profile.
        RefusedError: a statement of it cannot be in a transaction, or the profile is dangerous.
        StatementFailedError, PermissionDeniedError: the server refused a statement; nothing remains.
    """
    script = _read(file)
    scripts.refuse_untransactional(script)
    config = read_all_profiles(choice.config)
    database = Database(dsn, environment=choice.environment, config=config, ram_bytes=choice.ram_bytes)
    if database.resolve(choice.profile).ram_bytes is None:
        seen = _see_ram(dsn)
        database = Database(dsn, environment=choice.environment, config=config, ram_bytes=seen)
    try:
        if dry_run:
            return _dry(database.check(choice.profile), script)
        return _run(database, choice.profile, script)
    except psycopg.Error as error:
        # Not of a statement, and not of COMMIT: while the block was entered.
        raise ConnectError(f"The block could not be entered: {' '.join(str(error).split())}.") from error


def _run(database: Database, name: str, script: Script) -> Report:
    block = database.profile(name)
    ran: list[Ran] = []
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RowByRowWarning)
        is_through = False
        try:
            with block as connection:
                ran.extend(scripts.run(connection, script, block.checked.profile))
                is_through = True
        except psycopg.Error as error:
            if not is_through:
                raise
            raise scripts.at_commit(error, script) from error
    seconds = time.perf_counter() - started
    said = [str(each.message) for each in caught if issubclass(each.category, RowByRowWarning)]
    for each in caught:
        if not issubclass(each.category, RowByRowWarning):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    data: dict[str, Json] = {
        "file": script.file,
        "dry_run": False,
        **block.checked.to_json(),
        "statements": [each.to_json() for each in ran],
        "seconds": round(seconds, 6),
        "warnings": list(said),
    }
    done = f"{format_count(len(ran), 'statement')} in {format_duration(seconds)}, committed."
    lines = [*_ran_lines(script, ran), done, *(f"Warning: {warning}" for warning in said)]
    return Report(data=data, text="\n".join(lines))


def _dry(checked: Checked, script: Script) -> Report:
    statements: list[Json] = [{"line": each.line, "statement": each.shown} for each in script.statements]
    data: dict[str, Json] = {"file": script.file, "dry_run": True, **checked.to_json(), "statements": statements}
    lines = [*_head(checked.profile)]
    wide = max((len(each.setting.name) for each in checked.settings), default=0)
    for each in checked.settings:
        was = "not set" if each.before is None else (each.before or "''")
        lines.append(f"  {each.setting.name:<{wide}} = {each.value}   (was {was}; {each.setting.source})")
    lines += [*checked.notes, ""]
    count = format_count(len(script.statements), "statement")
    lines.append(f"{count} of {script.file} would run in one transaction; nothing was run.")
    return Report(data=data, text="\n".join(lines))


def _ran_lines(script: Script, ran: list[Ran]) -> Iterator[str]:
    cells = [
        (
            f"{script.file}:{each.line}",
            each.command,
            "" if each.rows is None else format_count(each.rows, "row"),
            format_duration(each.seconds),
        )
        for each in ran
    ]
    wide = [max(len(row[column]) for row in cells) for column in range(4)]
    for place, command, rows, seconds in cells:
        yield f"{place:<{wide[0]}}  {command:<{wide[1]}}  {rows:>{wide[2]}}  {seconds:>{wide[3]}}"


def _profile_lines(profile: ResolvedProfile) -> Iterator[str]:
    yield from _head(profile)
    wide = max((len(each.name) for each in profile.settings), default=0)
    for each in profile.settings:
        since = f", from PostgreSQL {each.since}" if each.since else ""
        reason = f": {each.reason}" if each.reason else ""
        yield f"  {each.name:<{wide}} = {each.value}   ({each.source}{since}{reason})"


def _head(profile: ResolvedProfile) -> Iterator[str]:
    at_once = f"{format_count(profile.connections, 'connection')}, {format_count(profile.nodes, 'node')} a query"
    purpose = f" {profile.purpose}" if profile.purpose else ""
    yield f"{profile.name} in {profile.environment} ({at_once}).{purpose}"


def _read(file: str) -> Script:
    name = "standard input" if file == "-" else file
    try:
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        text = raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name} cannot be read: {error}.") from None
    statements = split(text, name)
    if not statements:
        raise UsageError(f"There is no statement in {name}.")
    return Script(file=name, text=text, statements=statements)


def _see_ram(dsn: str | None) -> int | None:
    """Return the memory of the server where its processes are seen from here."""
    try:
        with open_session(dsn, LOOKER) as session:
            return read_machine(read_server(session), Given(cpus=1)).ram_bytes
    except (UsageError, RefusedError):
        return None
