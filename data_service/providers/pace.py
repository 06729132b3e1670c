"""Keeps calls apart as a provider's terms ask, on a clock that tests can move."""

import asyncio
import time
from collections.abc import Awaitable, Callable


class Pace:
    """At most `per_s` calls a second, evenly apart: a burst would be counted against the limit's window.

    Where that window is long, `at_once` calls that were not made before may come without any distance.
    """

    def __init__(
        self,
        per_s: float,
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        *,
        at_once: int = 1,
    ) -> None:
        self._interval_s, self._monotonic_s, self._sleep = 1 / per_s, monotonic_s, sleep
        self._saved_s = (at_once - 1) * self._interval_s
        self._next_s = float("-inf")

    async def wait(self) -> None:
        """Returns when this call may be made; calls are let through in the order in which they came."""
        now_s = self._monotonic_s()
        turn_s = max(now_s, self._next_s - self._saved_s)
        self._next_s = max(now_s, self._next_s) + self._interval_s
        if turn_s > now_s:
            await self._sleep(turn_s - now_s)
