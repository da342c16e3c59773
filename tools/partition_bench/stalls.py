"""Moments in which the machine itself stood still: no process ran on a processor, whatever it wanted to do.

A shared virtual machine is taken off its processors for 5 to 80 ms at a time. Where that is 1 % of the time and
more, it decides what the p99 is and hides what a run does. A process of the highest real-time priority on every
processor sleeps for two milliseconds at a time: when it wakes much later, nothing in the machine could have kept it
from running. Neither pgscale nor the load is to blame, so the report shows both: every transaction, and those that
met no such moment.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from pgscale.demo.latency import Sample

SLEEP_S, STALL_S = 0.002, 0.0045
# The longest that was seen is 0.1 s; a transaction due before it began and served after it ended is looked for so far.
LONGEST_S = 0.5
# What waited for the machine is served one after the other when it is back.
AFTERMATH_S = 0.005

_CHILD = f"""
import os, sys, time
os.sched_setaffinity(0, {{int(sys.argv[1])}})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(90))
before = time.time()
while os.getppid() == int(sys.argv[2]):
    time.sleep({SLEEP_S})
    now = time.time()
    if now - before > {STALL_S}:
        print(before, now, flush=True)
    before = now
"""


class Stall(NamedTuple):
    """When a processor stood still, Unix time in seconds."""

    start_s: float
    end_s: float


class StallWatch:
    """Watches every processor between enter and exit; knows nothing where real-time priority is not permitted."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self._children: list[subprocess.Popen[bytes]] = []
        self.watches = sys.platform == "linux" and os.geteuid() == 0

    def __enter__(self) -> Self:
        if self.watches:
            for cpu in sorted(os.sched_getaffinity(0)):
                with (Path(self._directory.name) / str(cpu)).open("wb") as out:
                    command = [sys.executable, "-c", _CHILD, str(cpu), str(os.getpid())]
                    self._children.append(subprocess.Popen(command, stdout=out))
        return self

    def __exit__(self, *exc: object) -> None:
        for child in self._children:
            child.kill()
            child.wait()
        self._directory.cleanup()

    def stalls(self) -> list[Stall]:
        """Every moment so far, in order of time.

        Raises:
            RuntimeError: a watching process ended: what it did not see must not count as quiet.
        """
        if any(child.poll() is not None for child in self._children):
            raise RuntimeError("a process that watches for stalls of the machine ended")
        lines = [line for file in Path(self._directory.name).iterdir() for line in file.read_text().splitlines(True)]
        return sorted(Stall(*map(float, line.split())) for line in lines if line.endswith("\n"))


def without_stalls(samples: Sequence[Sample], stalls: Sequence[Stall]) -> list[Sample]:
    """The transactions during which no processor stood still."""
    starts = [stall.start_s for stall in stalls]

    def met_one(sample: Sample) -> bool:
        due_s = sample.at_s - sample.latency_ms / 1000
        for stall in stalls[bisect_left(starts, due_s - LONGEST_S) :]:
            if stall.start_s > sample.at_s:
                return False
            if stall.end_s + AFTERMATH_S > due_s:
                return True
        return False

    return [sample for sample in samples if not met_one(sample)]


def stalled_share(stalls: Sequence[Stall], start_s: float, end_s: float) -> float:
    """The share of [start_s, end_s) in which a processor stood still, 0 to 1; two at once count once."""
    total, until = 0.0, start_s
    for stall in stalls:
        left, right = max(stall.start_s, until), min(stall.end_s, end_s)
        if right > left:
            total += right - left
            until = right
    return total / (end_s - start_s) if end_s > start_s else 0.0
