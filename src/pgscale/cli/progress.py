"""Show a run's progress on stderr: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from pgscale.core.model import Progress as Moment
from pgscale.core.model import Watch
from pgscale.core.units import format_duration, format_eta

LINE_EVERY_S = 5.0


@contextmanager
def watching() -> Generator[Watch]:
    """Yield a watcher that draws on stderr for as long as the block runs."""
    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[detail]}"),
            console=console,
        ) as bars:
            yield _Bars(bars)
    else:
        yield _Lines()


def describe(moment: Moment) -> str:
    """Return rate, time left and the reason of any throttling, in one line."""
    parts: list[str] = []
    if moment.rate:
        parts.append(f"{moment.rate:,.0f} {moment.unit}/s")
    if moment.total and (eta := _eta(moment)):
        parts.append(eta)
    if moment.total is None and moment.done:
        parts.append(f"{moment.done:,} {moment.unit}")
    if moment.throttled:
        parts.append(f"slowed: {moment.throttled}")
    if moment.note:
        parts.append(moment.note)
    return " · ".join(parts)


def _eta(moment: Moment) -> str:
    """Return the range while it is known, else what the present rate says."""
    if moment.eta_least_s is None:
        return f"{format_duration(moment.eta_s)} left" if moment.eta_s is not None else ""
    return format_eta(moment.eta_least_s, moment.eta_most_s)


class _Bars:
    """One bar a phase; finished phases stay, full."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._current = ""
        self._lock = threading.Lock()

    def __call__(self, moment: Moment) -> None:
        with self._lock:
            phase = self._current if moment.phase == "waiting" and self._current else moment.phase
            if phase != self._current:
                if self._current in self._tasks:
                    self._bars.update(self._tasks[self._current], total=1, completed=1)
                self._current = phase
            if phase == "done":
                return
            if phase not in self._tasks:
                self._tasks[phase] = self._bars.add_task(phase, total=None, detail="")
            self._bars.update(self._tasks[phase], total=moment.total, completed=moment.done, detail=describe(moment))


class _Lines:
    """A line at every new phase or note, else every few seconds."""

    def __init__(self) -> None:
        self._last = ("", "")
        self._at = 0.0
        self._lock = threading.Lock()

    def __call__(self, moment: Moment) -> None:
        with self._lock:
            now, key = time.monotonic(), (moment.phase, moment.note)
            if key == self._last and now - self._at < LINE_EVERY_S:
                return
            self._last, self._at = key, now
            share = f" {moment.done / moment.total:.0%}" if moment.total else ""
            detail = describe(moment)
            click.echo(f"{moment.table} {moment.phase}{share}{': ' if detail else ''}{detail}", err=True)
            sys.stderr.flush()
