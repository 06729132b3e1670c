"""Bars as they finish and as they form: one look at the market for all symbols and intervals that anybody streams."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from backend.domain.calendar import IST
from backend.domain.market import StockClass
from backend.domain.sessions import Session
from backend.errors import SaudaError
from backend.services.bar_channel import PING, BarChannel, Cursor
from backend.services.forming_bar import Bar, Slot, last_ended, slot_at
from backend.services.market_calendar import MarketCalendar
from backend.services.market_data_client import MarketDataClient
from backend.services.quote_stream import reason_of
from backend.services.stream_slots import StreamsExhaustedError, StreamSlots
from contracts.common import Environment
from contracts.market import BarColumns, BarsReply, BarsRequest, Interval, Quote

log = structlog.get_logger()

Key = tuple[str, Interval]
SNAPSHOT_DAYS = 10
"""Calendar days in which the last session with bars is looked for: the longest closures are shorter."""


@dataclass(frozen=True, slots=True)
class BarStreamPace:
    """Real seconds: between looks at the market (`retry_s_max` at most for a bar that is late), and of silence before a
    ping."""

    poll_s: float = 1.0
    retry_s_max: float = 30.0
    heartbeat_s: float = 15.0


@dataclass(slots=True)
class Due:
    """When to ask for a channel's next bar: at once when it should have ended, then less and less often; `refused`
    while the last answer was an error."""

    wanted: datetime | None = None
    misses: int = 0
    ask_at: float = 0.0
    refused: bool = False

    def want(self, start: datetime) -> None:
        """A bar that starts at `start` should be there by now."""
        if start != self.wanted:
            self.wanted, self.misses, self.ask_at = start, 0, 0.0

    def missed(self, now: float, pace: BarStreamPace) -> None:
        """It was asked for at monotonic second `now` and was not there."""
        self.ask_at = now + min(pace.poll_s * 2**self.misses, pace.retry_s_max)
        self.misses = min(self.misses + 1, 30)


class BarStreams:
    """Channels by symbol and interval, all kept current by one task while there are any. Runs on one event loop."""

    def __init__(
        self,
        market_data: MarketDataClient,
        calendar: MarketCalendar,
        environment: Environment,
        slots: StreamSlots,
        pace: BarStreamPace | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._market_data, self._calendar, self._environment = market_data, calendar, environment
        self._slots, self._pace, self._monotonic = slots, pace or BarStreamPace(), monotonic
        self._channels: dict[Key, BarChannel] = {}
        self._due: dict[Key, Due] = {}
        self._newcomer = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def require(self, symbol: str) -> None:
        """See that there is such a share.

        Raises:
            NotFoundError: there is none.
            UpstreamError: data_service did not answer.
        """
        await self._market_data.require(symbol)

    @contextmanager
    def subscribed(self, symbol: str, interval: Interval) -> Iterator[BarChannel]:
        """The channel of a share's bars, kept current while the block runs.

        Raises:
            StreamsExhaustedError: too many different ones are streamed already.
        """
        key = (symbol, interval)
        channel = self._channels.get(key)
        if channel is None:
            if len(self._channels) >= self._slots.limits.channels_max:
                raise StreamsExhaustedError("Too many different bars are streamed: try again in a minute.")
            channel = self._channels[key] = BarChannel(symbol, interval, self._environment)
            self._due[key] = Due()
            self._newcomer.set()
        if self._task is None:
            self._task = asyncio.create_task(self._keep_current(), name="bar-stream")
        channel.listeners += 1
        try:
            yield channel
        finally:
            channel.listeners -= 1
            if not channel.listeners:
                del self._channels[key], self._due[key]
            if not self._channels and self._task is not None:
                self._task.cancel()
                self._task = None

    async def listen(self, channel: BarChannel) -> AsyncIterator[str]:
        """The channel's messages: what a newcomer needs, then what changes, with pings in between; it ends when the
        streams are closed. A slow listener gets every finished bar, and of the forming one its newest state."""
        cursor = Cursor()
        while not self._slots.closing:
            message = channel.next_for(cursor)
            if message is not None:
                yield message
            elif not await channel.news.wait(self._pace.heartbeat_s):
                yield PING

    def wake(self) -> None:
        """Let every listener look whether it should go on."""
        for channel in self._channels.values():
            channel.news.tell()

    async def _keep_current(self) -> None:
        while True:
            self._newcomer.clear()
            try:
                await self._look()
            except Exception as error:
                if not isinstance(error, SaudaError):
                    log.exception("bar_stream_failed")
                for channel in self._channels.values():
                    channel.go_stale(reason_of(error))
            await self._pause()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._pace.poll_s):
                await self._newcomer.wait()
        except TimeoutError:
            return

    async def _look(self) -> None:
        """One look at the market for all channels."""
        channels = dict(self._channels)
        batch = await self._market_data.quotes(sorted({symbol for symbol, _ in channels}), None)
        now, quotes = batch.reply.as_of, batch.reply.quotes
        forming = {key: self._forming_slot(key, quotes.get(key[0]), now) for key in channels}
        due = [key for key in channels if self._is_due(key, channels[key], now)]
        bare = [key for key, slot in forming.items() if slot and channels[key].lacks_minutes(slot, quotes[key[0]])]
        finished, minutes = await asyncio.gather(
            self._finished(channels, due, quotes, now), self._minutes({symbol for symbol, _ in bare}, now)
        )
        for key, channel in channels.items():
            if key in finished:
                self._take(key, channel, finished[key])
            if (known := self._due.get(key)) is None or known.refused:
                continue
            unseen = minutes is None and key in bare
            channel.look(None if unseen else forming[key], quotes.get(key[0]), (minutes or {}).get(key[0], ()))

    def _take(self, key: Key, channel: BarChannel, answer: BarsReply | SaudaError) -> None:
        due = self._due.get(key)
        if due is None:
            return  # nobody listens any more
        due.refused = isinstance(answer, SaudaError)
        if isinstance(answer, SaudaError):
            channel.go_stale(reason_of(answer))
        else:
            symbol = channel.symbol
            channel.take(bars_of(answer.series.get(symbol)), answer.provider, answer.missing.get(symbol))
        if due.refused or (due.wanted is not None and not channel.has(due.wanted)):
            due.missed(self._monotonic(), self._pace)

    def _session(self, day_of: datetime) -> Session | None:
        return self._calendar.session(day_of.astimezone(IST).date())

    def _stock_class(self, symbol: str) -> StockClass:
        known = self._market_data.instruments.get(symbol)
        return StockClass.NON_CAS if known is not None and not known.has_derivatives else StockClass.CAS

    def _forming_slot(self, key: Key, quote: Quote | None, now: datetime) -> Slot | None:
        """The slot that the quote is of, while it lasts."""
        session = self._session(quote.as_of) if quote is not None else None
        if quote is None or session is None:
            return None
        slot = slot_at(session, self._stock_class(key[0]), key[1], quote.as_of)
        return slot if slot is not None and now < slot.end else None

    def _is_due(self, key: Key, channel: BarChannel, now: datetime) -> bool:
        due, session = self._due.get(key), self._session(now)
        if due is None:
            return False  # nobody listens any more
        if not channel.ready or due.refused:
            return self._monotonic() >= due.ask_at
        ended = last_ended(session, self._stock_class(key[0]), key[1], now) if session is not None else None
        if ended is None or channel.has(ended.start):
            return False
        due.want(ended.start)
        return self._monotonic() >= due.ask_at

    async def _finished(
        self, channels: Mapping[Key, BarChannel], due: Sequence[Key], quotes: Mapping[str, Quote], now: datetime
    ) -> Mapping[Key, BarsReply | SaudaError]:
        """The bars of the channels that are due, one request per interval; newcomers, whose bars may have to be
        fetched from far away first, wait for theirs apart from the others, and each that was refused by itself."""

        async def asked(keys: Sequence[Key]) -> BarsReply | SaudaError:
            known = [channels[key].last_start for key in keys]
            newest = [quotes[symbol].as_of for symbol, _ in keys if symbol in quotes]
            since = [start or min([now, *newest]) - timedelta(days=SNAPSHOT_DAYS) for start in known]
            try:
                return await self._bars([symbol for symbol, _ in keys], keys[0][1], min(since), now)
            except SaudaError as error:
                return error

        groups: defaultdict[tuple[Interval, bool, str], list[Key]] = defaultdict(list)
        for key in due:
            known = self._due.get(key)
            alone = key[0] if known is not None and known.refused else ""
            groups[key[1], channels[key].ready, alone].append(key)
        answers = await asyncio.gather(*map(asked, groups.values()))
        return {key: answer for keys, answer in zip(groups.values(), answers, strict=True) for key in keys}

    async def _minutes(self, symbols: set[str], now: datetime) -> Mapping[str, Sequence[Bar]] | None:
        """The session's finished minutes; None where they cannot be had now."""
        if not symbols:
            return {}
        try:
            reply = await self._bars(sorted(symbols), Interval.MIN_1, now, now)
        except SaudaError:
            return None
        return {symbol: bars_of(columns) for symbol, columns in reply.series.items()}

    async def _bars(self, symbols: list[str], interval: Interval, since: datetime, now: datetime) -> BarsReply:
        first, last = (moment.astimezone(IST).date() for moment in (since, now))
        return await self._market_data.bars(
            BarsRequest(symbols=symbols, interval=interval, from_=first, through=last, as_of=now, adjusted=False)
        )


def bars_of(columns: BarColumns | None) -> list[Bar]:
    """Columns as bars, oldest first."""
    if columns is None:
        return []
    rows = zip(columns.start, columns.open, columns.high, columns.low, columns.close, columns.volume, strict=True)
    return [Bar(*row) for row in rows]
