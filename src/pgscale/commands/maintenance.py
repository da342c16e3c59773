"""`pgscale maintenance`: what the checks find needed, as a plan and as a run; for a person and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from pgscale.commands import FILE_NAME
from pgscale.commands.config import read_config
from pgscale.core.model import Json, Report, Watch
from pgscale.core.units import format_bytes, format_count, format_duration
from pgscale.doctor.limits import Limits
from pgscale.doctor.maintenance import runner
from pgscale.doctor.maintenance.model import Left, MaintenancePlan, Outcome, Task
from pgscale.doctor.maintenance.runner import Options
from pgscale.errors import UsageError

WIDTH = 110


def plan(dsn: str | None, options: Options, config: Path | None) -> Report:
    """Show what a run would do, and why; changes nothing."""
    planned = runner.plan(dsn, _limits(config), options)
    data: dict[str, Json] = {
        "tasks": [task.to_json() for task in planned.tasks],
        "estimate_s": round(planned.estimate_s, 1),
        "left": [each.to_json() for each in planned.left],
        "notes": list(planned.notes),
    }
    return Report(data=data, text="\n".join(_plan_page(planned)))


def run(dsn: str | None, options: Options, config: Path | None, watch: Watch, told: Callable[[str], None]) -> Report:
    """Do it; exit code 1 when something was left for lack of time or of a lock, 5 when something failed.

    Args:
        told: a line of what is going to be done.
    """

    def tell(planned: MaintenancePlan) -> None:
        if planned.tasks:
            told(f"{runner.describe(planned.tasks)} at pace {options.pace}.")

    outcome = runner.run(dsn, _limits(config), options, watch, tell)
    data: dict[str, Json] = {
        "done": [each.to_json() for each in outcome.done],
        "failed": [each.to_json() for each in outcome.failed],
        "left": [each.to_json() for each in outcome.left],
        "notes": list(outcome.plan.notes),
        "took_s": round(outcome.took_s, 3),
    }
    unfinished = [each for each in outcome.left if each not in outcome.plan.left]
    exit_code = 5 if outcome.failed else 1 if unfinished else 0
    return Report(data=data, text="\n".join(_outcome_page(outcome)), exit_code=exit_code)


def window_until(clock: str, now: datetime) -> float:
    """Return the seconds until a time of day, `06:00`: today's, else tomorrow's.

    Args:
        now: with the time zone in which the time of day is meant.

    Raises:
        UsageError: it is no time of day.
    """
    try:
        wanted = datetime.strptime(clock, "%H:%M").time()
    except ValueError:
        raise UsageError(f"{clock!r} is no time of day.", hint="Write it as 06:00 or 23:30.") from None
    # By the calendar: on the day a clock is set forward or back the night is shorter or longer.
    naive = now.replace(tzinfo=None)
    then = datetime.combine(naive.date(), wanted)
    if then <= naive:
        then += timedelta(days=1)
    return (then.astimezone() - now).total_seconds()


def _limits(config: Path | None) -> Limits:
    if config is None and not Path(FILE_NAME).exists():
        return Limits()
    return read_config(config).doctor


def _plan_page(planned: MaintenancePlan) -> Iterator[str]:
    if planned.tasks:
        yield f"{runner.describe(planned.tasks)}; reads and writes go on meanwhile."
    else:
        yield "Nothing needs maintenance." if not planned.left else "There is nothing to do now."
    for number, task in enumerate(planned.tasks, 1):
        yield ""
        yield from _task(number, task)
    yield from _left(planned.left)
    yield from _notes(planned.notes)
    if planned.tasks:
        yield ""
        yield "Do it: pgscale maintenance run --window 2h"


def _task(number: int, task: Task) -> Iterator[str]:
    room = f", needs {format_bytes(task.room_bytes)} of disk for a time" if task.room_bytes else ""
    yield f"{number}. {task.step.title}: about {format_duration(task.estimate_s)}, {format_bytes(task.bytes)}{room}"
    yield from _wrapped(f"     {task.check}: ", task.why)
    yield f"     {task.step.sql[0]};"


def _outcome_page(outcome: Outcome) -> Iterator[str]:
    if not outcome.done and not outcome.failed and not outcome.left:
        yield "Nothing needs maintenance."
    elif outcome.done:
        yield f"{format_count(len(outcome.done), 'task')} done in {format_duration(outcome.took_s)}:"
        for each in outcome.done:
            yield f"  {each.task.step.title} in {format_duration(each.took_s)}"
    else:
        yield "Nothing was done."
    if outcome.failed:
        yield "Failed:"
        for failed in outcome.failed:
            yield from _wrapped(f"  {failed.task.step.title}: ", failed.error)
    yield from _left(outcome.left)
    yield from _notes(outcome.plan.notes)


def _left(left: Iterable[Left]) -> Iterator[str]:
    for number, each in enumerate(left):
        if number == 0:
            yield "Left:"
        yield from _wrapped(f"  {each.subject} ({each.check}): ", f"{each.reason}.")


def _notes(notes: Iterable[str]) -> Iterator[str]:
    for note in notes:
        yield from _wrapped("Note: ", note)


def _wrapped(first: str, sentence: str) -> list[str]:
    return textwrap.wrap(
        sentence,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * 8,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first.rstrip()]
