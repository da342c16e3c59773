"""The only retry: short attempts, exponential backoff with jitter, for named SQLSTATEs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
import tenacity

T = TypeVar("T")

LOCK_NOT_AVAILABLE = "55P03"
SERIALIZATION_FAILURE = "40001"
DEADLOCK_DETECTED = "40P01"

# Two transactions in each other's way; either may go again at once.
CONFLICTS = frozenset({SERIALIZATION_FAILURE, DEADLOCK_DETECTED})
TRANSIENT = frozenset({LOCK_NOT_AVAILABLE, SERIALIZATION_FAILURE, DEADLOCK_DETECTED})


def has_sqlstate(error: BaseException | None, states: frozenset[str]) -> bool:
    return isinstance(error, psycopg.Error) and error.sqlstate in states


def retrying(
    action: Callable[[], T],
    *,
    states: frozenset[str] = TRANSIENT,
    give_up_after_s: float = 600.0,
    first_wait_s: float = 0.05,
    longest_wait_s: float = 5.0,
    on_retry: Callable[[int, BaseException], None] | None = None,
    sleep: Callable[[float], None] | None = None,
) -> T:
    """Run the action until it succeeds, fails with another error, or the time is over.

    Args:
        action: one whole transaction; it must leave the session clean when it fails.
        states: SQLSTATEs worth another attempt.
        give_up_after_s: seconds after which the last error is raised as it is.
        on_retry: told the number of the failed attempt and its error.
        sleep: waits between attempts; may raise to stop.
    """

    retry = tenacity.Retrying(
        **_policy(states, give_up_after_s, first_wait_s, longest_wait_s, on_retry), sleep=sleep or tenacity.nap.sleep
    )
    return retry(action)


async def aretrying(
    action: Callable[[], Awaitable[T]],
    *,
    states: frozenset[str] = TRANSIENT,
    give_up_after_s: float = 600.0,
    first_wait_s: float = 0.05,
    longest_wait_s: float = 5.0,
    on_retry: Callable[[int, BaseException], None] | None = None,
) -> T:
    """As retrying, for an async action."""
    retry = tenacity.AsyncRetrying(**_policy(states, give_up_after_s, first_wait_s, longest_wait_s, on_retry))
    return await retry(action)


def _policy(
    states: frozenset[str],
    give_up_after_s: float,
    first_wait_s: float,
    longest_wait_s: float,
    on_retry: Callable[[int, BaseException], None] | None,
) -> dict[str, Any]:
    def told(state: tenacity.RetryCallState) -> None:
        outcome = state.outcome
        error = outcome.exception() if outcome else None
        if on_retry is not None and error is not None:
            on_retry(state.attempt_number, error)

    return {
        "retry": tenacity.retry_if_exception(lambda error: has_sqlstate(error, states)),
        "wait": tenacity.wait_random_exponential(multiplier=first_wait_s, max=longest_wait_s, min=first_wait_s),
        "stop": tenacity.stop_after_delay(give_up_after_s),
        "before_sleep": told,
        "reraise": True,
    }
