"""Group commit: who waits, who writes, and that nobody is forgotten."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from typing import Any

import pytest

from pgscale.write.buffer import BufferFailedError, BufferFullError
from pgscale.write.buffer.committing import GroupCommit


def _many(function: Any, count: int) -> list[threading.Thread]:
    threads = [threading.Thread(target=function, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a put never returned"


def test_many_share_a_write_and_keep_their_order() -> None:
    groups: list[list[bytes]] = []

    def store(records: list[bytes], deadline: float) -> None:
        groups.append(list(records))
        time.sleep(0.001)

    group = GroupCommit(store)

    def work(number: int) -> None:
        for n in range(50):
            group.commit([b"%d %d" % (number, n)], 30)

    async def tasks() -> None:
        async def task(number: int) -> None:
            for n in range(50):
                await group.acommit([b"%d %d" % (number, n)], 30)

        await asyncio.gather(*(task(100 + number) for number in range(16)))

    threads = _many(work, 16)
    asyncio.run(tasks())
    _join(threads)
    group.close()
    stored = [tuple(map(int, record.split())) for records in groups for record in records]
    assert len(stored) == 32 * 50
    assert len(groups) < len(stored) / 4, "they share"
    for number in [*range(16), *range(100, 116)]:
        assert [n for who, n in stored if who == number] == [*range(50)]


def test_a_group_is_no_larger_than_it_should_be() -> None:
    sizes: list[int] = []
    gate = threading.Event()

    def store(records: list[bytes], deadline: float) -> None:
        gate.wait(30)
        sizes.append(sum(map(len, records)))

    group = GroupCommit(store, most_bytes=100)
    threads = _many(lambda number: group.commit([b"x" * (300 if number == 5 else 30)], 30), 20)
    time.sleep(0.1)
    gate.set()
    _join(threads)
    assert sum(sizes) == 19 * 30 + 300
    assert max(size for size in sizes if size != 300) <= 100


def test_an_error_is_for_its_group_alone() -> None:
    def store(records: list[bytes], deadline: float) -> None:
        if b"bad" in records:
            raise BufferFullError("full")

    group = GroupCommit(store, most_bytes=1)
    told: list[str] = []

    def work(number: int) -> None:
        try:
            group.commit([b"bad" if number % 3 == 0 else b"good"], 30)
        except BufferFullError:
            told.append("bad")
        else:
            told.append("good")

    _join(_many(work, 30))
    assert sorted(told) == ["bad"] * 10 + ["good"] * 20


def test_a_leader_that_breaks_hands_the_lead_on() -> None:
    calls: list[int] = []
    gate = threading.Event()

    def store(records: list[bytes], deadline: float) -> None:
        gate.wait(30)
        calls.append(len(records))
        if len(calls) == 1:
            raise ZeroDivisionError

    group = GroupCommit(store, most_bytes=1)
    errors: list[type[BaseException]] = []

    def work(number: int) -> None:
        try:
            group.commit([b"x"], 30)
        except BaseException as error:  # noqa: BLE001 because it is looked at
            errors.append(type(error))

    threads = _many(work, 5)
    gate.set()
    _join(threads)
    assert errors == [ZeroDivisionError]
    assert len(calls) == 5


def test_an_interrupted_put_leaves_nobody_waiting() -> None:
    """Ctrl-C reaches the main thread while it waits: as one in a row to be woken, and as the next to lead."""
    gate, inside = threading.Event(), threading.Event()

    def store(records: list[bytes], deadline: float) -> None:
        inside.set()
        gate.wait(30)

    for most_bytes in (1, 1_000):
        gate.clear()
        inside.clear()
        group = GroupCommit(store, most_bytes=most_bytes)
        first = _many(lambda _, group=group: group.commit([b"first"], 30), 1)
        assert inside.wait(30)
        later: list[threading.Thread] = []

        def interrupt(group: GroupCommit = group, later: list[threading.Thread] = later) -> None:
            later += _many(lambda _: group.commit([b"later"], 30), 4)
            while len(group._waiting) < 5:
                time.sleep(0.001)
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)

        timer = threading.Timer(0.1, interrupt)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            group.commit([b"mine"], 30)
        gate.set()
        timer.join()
        _join([*first, *later])


def test_a_break_is_told_to_those_that_were_in_it() -> None:
    gate = threading.Event()

    def store(records: list[bytes], deadline: float) -> None:
        gate.wait(30)
        if len(records) > 1:
            raise ZeroDivisionError

    group = GroupCommit(store)
    errors: list[type[BaseException]] = []

    def work(number: int) -> None:
        try:
            group.commit([b"x"], 30)
        except BaseException as error:  # noqa: BLE001 because it is looked at
            errors.append(type(error))

    threads = _many(work, 6)
    while len(group._waiting) < 5:
        time.sleep(0.001)
    gate.set()
    _join(threads)
    assert sorted(e.__name__ for e in errors) == ["BufferFailedError"] * 4 + ["ZeroDivisionError"]
    assert BufferFailedError in errors


def test_a_break_leaves_no_coroutine_waiting() -> None:
    """Nobody's own thread leads for coroutines: when it breaks, those that wait are still led for."""
    gate, calls = threading.Event(), []

    def store(records: list[bytes], deadline: float) -> None:
        gate.wait(30)
        calls.append(len(records))
        if len(calls) == 1:
            raise ZeroDivisionError

    async def work() -> list[BaseException | None]:
        group = GroupCommit(store, most_bytes=1)
        puts = [asyncio.create_task(group.acommit([b"x"], 30)) for _ in range(5)]
        while len(group._waiting) < 4:
            await asyncio.sleep(0.001)
        gate.set()
        found = await asyncio.wait_for(asyncio.gather(*puts, return_exceptions=True), 30)
        await asyncio.wait_for(group.acommit([b"x"], 30), 30)
        group.close()
        return found

    found = asyncio.run(work())
    assert [type(error) for error in found] == [BufferFailedError, *[type(None)] * 4]
    assert isinstance(found[0].__cause__, ZeroDivisionError)
    assert len(calls) == 6
