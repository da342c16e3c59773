"""Shows the demo to a person: live panels on a terminal, plain lines elsewhere, the proof at the end."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Protocol, Self

from rich.box import ROUNDED, SIMPLE
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pgscale.core.model import Progress
from pgscale.demo.latency import Latency
from pgscale.demo.load import Load, Snapshot
from pgscale.demo.proof import DemoResult

_FRAMES_PER_S = 4
_PLAIN_EVERY_S = 2.0
_BAR_WIDTH = 20


class Screen(Protocol):
    """Where the demo shows itself; leaving the `with` block leaves the last picture standing."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def say(self, line: str) -> None:
        """Say what happens now."""
        ...

    def expect(self, table: str, goal: str) -> None:
        """Announce a table and what becomes of it; the latest announced is the one in work."""
        ...

    def watch(self, progress: Progress) -> None:
        """Take a moment of a run; from any thread."""
        ...

    def follow(self, load: Load | None) -> None:
        """Show what this load feels from now on; None: no longer."""
        ...


def open_screen(console: Console) -> Screen:
    """The screen that fits the console: live on a terminal, lines on anything else."""
    return LiveScreen(console) if console.is_terminal else PlainScreen(console)


@dataclass(slots=True)
class _Phase:
    """A phase so far; a phase may come back (`apply` does), and then goes on counting."""

    last: Progress
    spent_s: float = 0.0
    since_s: float | None = None

    def pause(self, now_s: float) -> None:
        if self.since_s is not None:
            self.spent_s += now_s - self.since_s
            self.since_s = None


@dataclass(slots=True)
class _TableView:
    goal: str
    phases: dict[str, _Phase] = field(default_factory=dict[str, _Phase])
    current: str = ""

    def take(self, progress: Progress) -> bool:
        """Remember the moment; True when a phase begins with it. Waiting belongs to the phase that waits."""
        now_s = time.monotonic()
        if progress.phase == "waiting" and self.current:
            phase = self.phases[self.current]
            phase.last = replace(phase.last, rate=0.0, eta_s=None, note=f"waiting for {progress.note}")
            return False
        begins = progress.phase != self.current
        if begins and self.current:
            self.phases[self.current].pause(now_s)
        phase = self.phases.setdefault(progress.phase, _Phase(progress))
        phase.last = progress
        if begins and progress.phase != "done":
            phase.since_s = now_s
        self.current = progress.phase
        return begins

    @property
    def done(self) -> bool:
        return "done" in self.phases

    @property
    def spent_s(self) -> float:
        return sum(phase.spent_s for phase in self.phases.values())


class LiveScreen:
    """Panels, redrawn four times a second: one a table with its phases, one for the application."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._tables: dict[str, _TableView] = {}
        self._load: Load | None = None
        self._seen: Snapshot | None = None
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=_FRAMES_PER_S, screen=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        self._console.print(Text(line))

    def expect(self, table: str, goal: str) -> None:
        with self._lock:
            self._tables[table] = _TableView(goal)

    def watch(self, progress: Progress) -> None:
        with self._lock:
            _view_of(self._tables, progress).take(progress)

    def follow(self, load: Load | None) -> None:
        with self._lock:
            self._load = load

    def _render(self) -> RenderableType:
        with self._lock:
            if self._load is not None:
                self._seen = self._load.snapshot()
            panels = [_table_panel(name, view) for name, view in self._tables.items()]
            if self._seen is not None:
                panels.append(_load_panel(self._seen))
        return Group(*panels)


class PlainScreen:
    """A line when a phase begins, and one every two seconds while it lasts."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._tables: dict[str, _TableView] = {}
        self._load: Load | None = None
        self._next_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

    def expect(self, table: str, goal: str) -> None:
        self._tables[table] = _TableView(goal)
        self.say(f"{table}: {goal}")

    def watch(self, progress: Progress) -> None:
        with self._lock:
            first = _view_of(self._tables, progress).take(progress)
            now_s = time.monotonic()
            if not first and now_s < self._next_s:
                return
            self._next_s = now_s + _PLAIN_EVERY_S
            parts = [f"{_name_of(progress)}: {progress.phase}", _done(progress), _pace(progress)]
            parts += [progress.throttled, progress.note]
            if self._load is not None:
                parts.append(f"the application: {_felt(self._load.snapshot())}")
            self.say("; ".join(part for part in parts if part))

    def follow(self, load: Load | None) -> None:
        self._load = load


def render_result(result: DemoResult) -> RenderableType:
    """The proof as a table for a terminal or a file."""
    proof = Table(box=SIMPLE, show_header=False, pad_edge=False)
    proof.add_column(style="bold")
    proof.add_column(justify="right")
    proof.add_column(overflow="fold")
    for table in result.tables:
        unchanged = "exactly the rows it had" if table.before == table.after else "ROWS DIFFER"
        what = f"{table.partitions} partitions by {table.key}" if table.key else "NOT PARTITIONED"
        proof.add_row(table.table, f"{table.after.rows:,}", f"rows, {what}; {unchanged}")
    proof.add_row("rows checked", f"{result.rows_checked:,}", "every row of both tables, by the runs themselves")
    proof.add_row("mismatches", *_verdict(result.mismatches == 0, f"{result.mismatches:,}"))
    proof.add_row(
        "transactions served",
        *_verdict(result.nothing_lost, f"{result.load.processed:,}"),
    )
    proof.add_row("failed transactions", *_verdict(result.failed == 0, f"{result.failed:,}"))
    proof.add_row("longest block", f"{result.blocked_ms:,.1f} ms", "while a table was swapped")
    holds = result.tpc_b.holds
    proof.add_row("TPC-B invariant", *_verdict(holds, str(holds).lower()))
    for title, latency in (("latency before", result.before), ("latency during", result.during)):
        proof.add_row(title, f"{latency.p99_ms:,.1f} ms", f"p99; {_percentiles(latency)}")
    lines: list[RenderableType] = [proof]
    if result.load.error:
        lines.append(Text(result.load.error, style="red"))
    if result.kept_dsn:
        lines.append(
            Text(
                f"The server is kept: psql '{result.kept_dsn}'\n"
                f"To end it: kill -INT {result.kept_pid}, then delete {result.kept_directory}"
            )
        )
    verdict = "Proved" if result.ok else "NOT proved"
    lines.append(Text(f"{verdict} on PostgreSQL {result.server} in {result.duration_s:.0f} s.", style="bold"))
    return Group(*lines)


def _verdict(good: bool, value: str) -> tuple[Text, Text]:
    return (Text(value), Text("✓", style="green")) if good else (Text(value, style="red"), Text("✗", style="red"))


def _view_of(tables: dict[str, _TableView], progress: Progress) -> _TableView:
    """The announced table the moment belongs to; runs may name it with its schema."""
    return tables.setdefault(_name_of(progress), _TableView(""))


def _name_of(progress: Progress) -> str:
    return progress.table.removeprefix("public.")


def _table_panel(name: str, view: _TableView) -> Panel:
    title = f"[bold]{name}[/] {view.goal}"
    if view.done:
        return Panel(
            Text(f"partitioned, after {view.spent_s:.1f} s", style="green"),
            title=title,
            title_align="left",
            box=ROUNDED,
        )
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(min_width=8, no_wrap=True)
    grid.add_column(min_width=_BAR_WIDTH)
    grid.add_column(ratio=1, overflow="ellipsis", no_wrap=True)
    for phase in view.phases.values():
        grid.add_row(phase.last.phase, _bar(phase), _phase_text(phase))
    if not view.phases:
        grid.add_row("starts", "", "")
    return Panel(grid, title=title, title_align="left", box=ROUNDED)


def _bar(phase: _Phase) -> ProgressBar:
    if phase.since_s is None:
        return ProgressBar(total=1, completed=1, width=_BAR_WIDTH)
    last = phase.last
    if not last.total:
        return ProgressBar(total=None, width=_BAR_WIDTH, pulse=True)
    return ProgressBar(total=last.total, completed=min(last.done, last.total), width=_BAR_WIDTH)


def _phase_text(phase: _Phase) -> Text:
    if phase.since_s is None:
        done = f"  {phase.last.done:,} {phase.last.unit}" if phase.last.done else ""
        return Text(f"{phase.spent_s:.1f} s{done}", style="dim")
    last = phase.last
    text = Text("  ".join(part for part in (_done(last), _pace(last), last.note) if part))
    return text.append(f"  {last.throttled}", style="yellow") if last.throttled else text


def _done(progress: Progress) -> str:
    if progress.total:
        return f"{100 * progress.done / progress.total:.0f}%"
    return f"{progress.done:,} {progress.unit}" if progress.done else ""


def _pace(progress: Progress) -> str:
    parts: list[str] = []
    if progress.rate:
        parts.append(f"{progress.rate:,.0f} {progress.unit}/s")
    if progress.eta_s is not None:
        parts.append(f"{progress.eta_s:.0f} s left")
    return ", ".join(parts)


def _load_panel(seen: Snapshot) -> Panel:
    line = Text(_felt(seen))
    if seen.error:
        line.append(f"\n{seen.error}", style="red")
    style = "red" if seen.failed or seen.error else "green"
    title = "[bold]the application[/] pgbench, TPC-B"
    return Panel(line, title=title, title_align="left", box=ROUNDED, border_style=style)


def _felt(seen: Snapshot) -> str:
    state = "" if seen.running else " (ended)"
    return (
        f"{seen.served:,} served{state}, {seen.tps:,.0f} tps, {_percentiles(seen.latency)}, "
        f"failed {seen.failed:,}, longest pause {seen.longest_gap_ms:,.0f} ms"
    )


def _percentiles(latency: Latency) -> str:
    return f"p50 {latency.p50_ms:.1f} p95 {latency.p95_ms:.1f} p99 {latency.p99_ms:.1f} ms"
