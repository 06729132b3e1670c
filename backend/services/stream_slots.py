"""Counts open streams against the limits, wakes those that wait for news, and ends them all when the gateway stops."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from backend.errors import SaudaError


class StreamsExhaustedError(SaudaError):
    """This process has no room for another stream, or is about to stop."""

    status, code, title = 503, "streams_exhausted", "Service unavailable"


class TooManyStreamsError(SaudaError):
    """This client address has all the streams it may have."""

    status, code, title = 429, "too_many_streams", "Too many streams"


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """How many streams may be open at once; `channels_max` is how many different ones of each kind, fewer than the sets
    that the quote board keeps."""

    streams_per_process_max: int = 2000
    streams_per_address_max: int = 20
    channels_max: int = 48


class News:
    """Something to wait for that happens again and again: each waiting task wakes once per occurrence."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        """Wake everybody who waits now."""
        told, self._event = self._event, asyncio.Event()
        told.set()

    async def wait(self, timeout_s: float) -> bool:
        """Whether there was news within `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        return True


class StreamSlots:
    """The open streams of one process. Runs on one event loop."""

    def __init__(self, limits: StreamLimits | None = None) -> None:
        self.limits = limits or StreamLimits()
        self.closing = False
        self._of_address: Counter[str] = Counter()
        self._freed = News()

    @property
    def open(self) -> int:
        """How many streams are open."""
        return self._of_address.total()

    @contextmanager
    def held(self, address: str) -> Iterator[None]:
        """A stream's place for as long as the block runs.

        Raises:
            StreamsExhaustedError: none is free, or the gateway stops.
            TooManyStreamsError: `address` holds as many as it may.
        """
        if self.closing or self.open >= self.limits.streams_per_process_max:
            raise StreamsExhaustedError("There is no room for another stream: try again in a few seconds.")
        if self._of_address[address] >= self.limits.streams_per_address_max:
            raise TooManyStreamsError(
                f"Your address has {self.limits.streams_per_address_max} streams open, as many as it may: close one."
            )
        self._of_address[address] += 1
        try:
            yield
        finally:
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]
            self._freed.tell()

    async def emptied(self, timeout_s: float) -> None:
        """Wait until no stream is open, `timeout_s` seconds at most."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.open:
                    await self._freed.wait(timeout_s)
        except TimeoutError:
            return
