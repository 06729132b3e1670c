"""The market of this moment from providers and streams, on top of what is recorded."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import structlog

from contracts.market import Quote
from data_service.checks import QuoteContext
from data_service.minutes import MINUTE_S, MinuteBars
from data_service.providers.base import ProviderError, RawQuote
from data_service.providers.kite_ticks import KiteTicker
from data_service.providers.recorded import Reference
from data_service.quote_book import QuoteBook
from data_service.quotes import half_spread_paise, rupees
from data_service.sessions import Sessions, ist_date, ist_instant
from data_service.store.buffer import BarBuffer

log = structlog.get_logger(__name__)

Tokens = Callable[[Sequence[str]], Awaitable[Mapping[int, str]]]
"""Symbols to the stream's own numbers for them."""

FLUSH_EVERY_S = 5.0
WATCH_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Gauge:
    """What a quote is judged by beside itself: the sessions, the recorded market, and how old it may be."""

    sessions: Sessions
    reference_of: Callable[[str], Reference]
    clock: Callable[[], datetime]
    age_s_max: float

    def context(self, symbol: str, last: RawQuote | None, unchanged_since_s: float | None) -> QuoteContext:
        """For the gate, at this moment."""
        now = self.clock()
        reference = self.reference_of(symbol)
        previous = reference.previous_close
        return QuoteContext(
            now_s=now.timestamp(),
            age_s_max=self.age_s_max,
            session_running=self.running(now, reference.has_derivatives),
            previous_close=None if previous is None else rupees(previous),
            tick=rupees(reference.tick),
            last_quote=last,
            unchanged_since_s=unchanged_since_s,
        )

    def running(self, now: datetime, has_derivatives: bool) -> bool:
        """Whether continuous trading runs."""
        session = self.sessions.by_day.get(ist_date(now))
        return session is not None and session.open_s <= now.timestamp() < session.close_s(has_derivatives)


class LiveMarket:
    """Quotes of the present. Every accepted quote also goes into the minute bars of its session."""

    def __init__(self, book: Callable[[Callable[[RawQuote], None]], QuoteBook], gauge: Gauge, bars: BarBuffer) -> None:
        """`book` makes the quote book that reports accepted quotes to the function it is given."""
        self._gauge, self._bars, self._minutes = gauge, bars, MinuteBars()
        self.book = book(self._accepted)

    def _accepted(self, quote: RawQuote) -> None:
        now = self._gauge.clock()
        if not self._gauge.running(now, self._gauge.reference_of(quote.symbol).has_derivatives):
            return
        finished = self._minutes.add(quote)
        if finished is not None:
            self._bars.add(finished)

    async def quotes(self, symbols: Sequence[str], now: datetime) -> tuple[dict[str, Quote], Mapping[str, str]]:
        """The market at `now` in each symbol, and why it is missing in the others."""
        held, missing = await self.book.quotes(symbols)
        quotes: dict[str, Quote] = {}
        refused: dict[str, str] = dict(missing)
        for symbol, raw in held.items():
            reference = self._gauge.reference_of(symbol)
            built = self._quote(raw, reference, now)
            if built is None:
                refused[symbol] = f"{raw.source}: no previous close is known"
            else:
                quotes[symbol] = built
        return quotes, refused

    def _quote(self, raw: RawQuote, reference: Reference, now: datetime) -> Quote | None:
        """The quote as it travels; what its provider does not say comes from the recorded market."""
        before = raw.previous_close
        if before is None and reference.previous_close is not None:
            before = rupees(reference.previous_close)
        if before is None or raw.last is None or raw.as_of_s is None:
            return None
        last, as_of_s = raw.last, int(raw.as_of_s)
        half = rupees(half_spread_paise(int(last * 100), reference.tick))
        lower, upper = reference.bands(int(before * 100))
        minute = self._minutes.finished(raw.symbol)
        start_s = minute.start_s if minute else as_of_s // MINUTE_S * MINUTE_S - MINUTE_S
        prices = (minute.open, minute.high, minute.low, minute.close) if minute else (int(last * 100),) * 4
        bar_open, bar_high, bar_low, bar_close = (rupees(price) for price in prices)
        return Quote(
            symbol=raw.symbol,
            as_of=ist_instant(as_of_s),
            age_s=max(now.timestamp() - raw.as_of_s, 0.0),
            source=raw.source,
            last=last,
            bid=raw.bid if raw.bid is not None else max(last - half, Decimal("0.01")),
            ask=raw.ask if raw.ask is not None else last + half,
            open=raw.open if raw.open is not None else last,
            high=max(last, raw.high if raw.high is not None else last),
            low=min(last, raw.low if raw.low is not None else last),
            previous_close=before,
            volume=raw.volume or 0,
            lower_band=raw.lower_band if raw.lower_band is not None else rupees(lower),
            upper_band=raw.upper_band if raw.upper_band is not None else rupees(upper),
            bar_start=ist_instant(start_s),
            bar_end=ist_instant(start_s + MINUTE_S),
            bar_open=bar_open,
            bar_high=bar_high,
            bar_low=bar_low,
            bar_close=bar_close,
            bar_volume=minute.volume if minute else 0,
        )

    @asynccontextmanager
    async def running(self, refresh_s: float, ticker: KiteTicker | None, tokens: Tokens | None) -> AsyncIterator[None]:
        """Keep quotes fresh and hand finished minutes to the store while the block runs."""
        jobs = [self._repeat(refresh_s, self.book.refresh), self._repeat(FLUSH_EVERY_S, self._flush)]
        if ticker is not None and tokens is not None:
            jobs += [self._listen(ticker), self._repeat(WATCH_EVERY_S, lambda: self._watch(ticker, tokens))]
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
            await self._flush()

    async def _flush(self) -> None:
        await asyncio.to_thread(self._bars.flush, int(self._gauge.clock().timestamp()))

    async def _watch(self, ticker: KiteTicker, tokens: Tokens) -> None:
        await ticker.watch(await tokens(self.book.watched))

    async def _listen(self, ticker: KiteTicker) -> None:
        """Take every tick in until Kite's session ends; asking the providers goes on all the same."""
        try:
            async for quote in ticker.quotes():
                self.book.offer(quote)
        except ProviderError as error:
            log.warning("stream_ended", error=str(error))

    async def _repeat(self, every_s: float, job: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await job()
            except Exception:
                log.exception("live_job_failed")
            await asyncio.sleep(every_s)
