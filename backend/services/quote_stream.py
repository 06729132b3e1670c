"""Changes of the quote board as server-sent events: made once per change and set, however many listen."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import orjson
import structlog

from backend.errors import SaudaError
from backend.services.quote_board import Prepared, QuoteBoard
from backend.services.stream_slots import News, StreamsExhaustedError, StreamSlots

log = structlog.get_logger()

HEARTBEAT = b": still here\n\n"
"""A comment: clients ignore it, and what stands between keeps the connection."""


@dataclass(frozen=True, slots=True)
class QuoteStreamPace:
    """Real seconds: between looks at the board (`poll_s`; `retry_s` while data_service is away), and of silence before
    a heartbeat."""

    poll_s: float = 0.25
    retry_s: float = 1.0
    heartbeat_s: float = 15.0


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One event as it goes over the wire; `etag` is that of the quotes, None of what is no quotes."""

    wire: bytes
    etag: bytes | None


@dataclass(slots=True, eq=False)
class QuoteChannel:
    """One set of symbols: its newest event is all that is kept, so a slow listener skips what it was too late for."""

    symbols: tuple[str, ...]
    newest: Event | None = None
    listeners: int = 0
    news: News = field(default_factory=News)

    def publish(self, event: Event) -> None:
        """Replace the newest event and wake the listeners."""
        self.newest = event
        self.news.tell()


class QuoteStreams:
    """Channels by set of symbols, each followed on the board while somebody listens. Runs on one event loop."""

    def __init__(self, board: QuoteBoard, slots: StreamSlots, pace: QuoteStreamPace | None = None) -> None:
        self._board, self._slots, self._pace = board, slots, pace or QuoteStreamPace()
        self._channels: dict[tuple[str, ...], QuoteChannel] = {}
        self._followers: dict[tuple[str, ...], asyncio.Task[None]] = {}

    @contextmanager
    def subscribed(self, symbols: tuple[str, ...]) -> Iterator[QuoteChannel]:
        """The channel of `symbols`, kept current while the block runs.

        Raises:
            StreamsExhaustedError: too many different sets are streamed already.
        """
        channel = self._channels.get(symbols) or self._opened(symbols)
        channel.listeners += 1
        try:
            yield channel
        finally:
            channel.listeners -= 1
            if not channel.listeners:
                del self._channels[symbols]
                self._followers.pop(symbols).cancel()

    def _opened(self, symbols: tuple[str, ...]) -> QuoteChannel:
        if len(self._channels) >= self._slots.limits.channels_max:
            raise StreamsExhaustedError("Too many different sets of symbols are streamed: try again in a minute.")
        channel = self._channels[symbols] = QuoteChannel(symbols)
        self._followers[symbols] = asyncio.create_task(self._follow(channel), name="quote-stream")
        return channel

    async def listen(self, channel: QuoteChannel, last_etag: bytes | None = None) -> AsyncIterator[bytes]:
        """The channel's events from the present one on, as wire bytes, with heartbeats in between; it ends when the
        streams are closed. The first is left out where its quotes are those of `last_etag`."""
        seen: Event | None = None
        while not self._slots.closing:
            newest = channel.newest
            if newest is seen:
                if not await channel.news.wait(self._pace.heartbeat_s):
                    yield HEARTBEAT
                continue
            known = seen is None and newest is not None and newest.etag is not None and newest.etag == last_etag
            seen = newest
            if newest is not None and not known:
                yield newest.wire

    def wake(self) -> None:
        """Let every listener look whether it should go on."""
        for channel in self._channels.values():
            channel.news.tell()

    async def _follow(self, channel: QuoteChannel) -> None:
        while True:
            pause_s = self._pace.poll_s
            try:
                prepared = await self._board.answer(channel.symbols)
            except Exception as error:
                if not isinstance(error, SaudaError):
                    log.exception("quote_stream_failed")
                pause_s = self._pace.retry_s
                if channel.newest is None or channel.newest.etag is not None:
                    channel.publish(stale_event(reason_of(error)))
            else:
                if channel.newest is None or channel.newest.etag != prepared.etag:
                    channel.publish(quotes_event(prepared))
            await asyncio.sleep(pause_s)


def reason_of(error: Exception) -> str:
    """What to tell people of an error: its detail where it is one of ours."""
    return error.detail if isinstance(error, SaudaError) else "Something went wrong; it has been logged."


def quotes_event(prepared: Prepared) -> Event:
    """The board's own bytes, named by their ETag."""
    return Event(b"event: quotes\nid: " + prepared.etag + b"\ndata: " + prepared.body + b"\n\n", prepared.etag)


def stale_event(reason: str) -> Event:
    """The quotes sent before are no longer the market's; without an id, so that a client keeps the last one's."""
    return Event(b"event: stale\ndata: " + orjson.dumps({"reason": reason}) + b"\n\n", None)
