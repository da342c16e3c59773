"""When Ctrl-C may arrive: at once in work, after the start of a server, never while it is cleared away."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def as_interrupts() -> Generator[None]:
    """Ctrl-C, a plain `kill` and a closed terminal all raise KeyboardInterrupt in the main thread."""
    with _handled_by(_interrupt):
        yield


@contextmanager
def deferred() -> Generator[None]:
    """Hold an interrupt back until the block has ended: a server is then there or it is not, never half.

    Raises:
        KeyboardInterrupt: at the end of the block, instead of whatever the interrupt made fail in it.
    """
    pending = threading.Event()
    try:
        with _handled_by(lambda _number, _frame: pending.set()):
            yield
    finally:
        if pending.is_set():
            raise KeyboardInterrupt


@contextmanager
def ignored() -> Generator[None]:
    """Let nothing interrupt the block, nor the programs it starts, which inherit that."""
    with _handled_by(signal.SIG_IGN):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Generator[None]:
    # Python lets only the main thread set handlers, and only there do they run.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [(number, signal.getsignal(number)) for number in _STOPS]
    for number in _STOPS:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before:
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
