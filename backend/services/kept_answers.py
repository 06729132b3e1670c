"""Answers that many ask for and that change seldom: fetched once, by whoever asks first, and kept for seconds."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class KeptAnswers(Generic[T]):
    """By key, for `kept_s` real seconds, the newest `entries_max`. A failure is told to those who wait, never kept."""

    def __init__(self, kept_s: float, entries_max: int, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._kept_s = kept_s
        self._entries_max = entries_max
        self._monotonic = monotonic
        self._entries: OrderedDict[Hashable, tuple[float, asyncio.Future[T]]] = OrderedDict()

    async def get(self, key: Hashable, fetch: Callable[[], Awaitable[T]]) -> T:
        """The answer for `key`; whoever gives up waiting for it does not take it from the others. Raises as `fetch`."""
        found, now = self._entries.get(key), self._monotonic()
        if found is None or now - found[0] >= self._kept_s:
            found = (now, asyncio.ensure_future(fetch()))
            self._entries.pop(key, None)
            self._entries[key] = found
            found[1].add_done_callback(lambda done: self._forget_failure(key, done))
            while len(self._entries) > self._entries_max:
                self._entries.popitem(last=False)
        return await asyncio.shield(found[1])

    def _forget_failure(self, key: Hashable, done: "asyncio.Future[T]") -> None:
        found = self._entries.get(key)
        if found is not None and found[1] is done and (done.cancelled() or done.exception() is not None):
            del self._entries[key]
