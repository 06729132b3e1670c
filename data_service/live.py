"""The market of this moment from providers and streams, on top of what is recorded."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import structlog

from contracts.market import Quote
from data_service.checks import QuoteContext
from data_service.errors import DataServiceError, StoreError
from data_service.minutes import MINUTE_S, Minute, MinuteBars
from data_service.providers.base import ProviderError, RawQuote
from data_service.providers.recorded import REFERENCE_KEPT_S, Reference
from data_service.providers.ticker import Ticker
from data_service.quote_book import QuoteBook
from data_service.quotes import half_spread_paise, rupees
from data_service.sessions import Sessions, floor_s, ist_date, ist_instant, ist_midnight_s
from data_service.store.buffer import BarBuffer

log = structlog.get_logger(__name__)

Tokens = Callable[[Sequence[str]], Awaitable[Mapping[Any, str]]]
"""Symbols to the stream's own numbers for them."""

FLUSH_EVERY_S = 60.0
"""Each flush rewrites a part of the store, and a share's minute comes but once."""

WATCH_EVERY_S = 5.0


class References:
    """What the store knew of each share before today's session, read beside the event loop and kept for a while."""

    def __init__(self, read: Callable[[str, datetime], Reference], clock: Callable[[], datetime]) -> None:
        """`read(symbol, now)` asks the store, and may raise StoreError."""
        self._read, self._clock = read, clock
        self._known: dict[str, tuple[int, Reference]] = {}

    async def bring(self, symbols: Iterable[str]) -> None:
        """Have the references of these shares at hand. Raises StoreError where one was never read."""
        now, period = self._clock(), self._period()
        due = [symbol for symbol in symbols if symbol not in self._known or self._known[symbol][0] != period]
        if not due:
            return
        try:
            found = await asyncio.to_thread(lambda: {symbol: self._read(symbol, now) for symbol in due})
        except StoreError:
            if any(symbol not in self._known for symbol in due):
                raise
            log.warning("references_from_before", symbols=len(due))
        else:
            self._known |= {symbol: (period, reference) for symbol, reference in found.items()}

    def of(self, symbol: str) -> Reference:
        """The share's reference, as it was brought last. Raises StoreError."""
        if symbol not in self._known:
            self._known[symbol] = self._period(), self._read(symbol, self._clock())
        return self._known[symbol][1]

    def _period(self) -> int:
        return floor_s(self._clock()) // REFERENCE_KEPT_S


@dataclass(frozen=True, slots=True)
class Gauge:
    """What a quote is judged by beside itself: the sessions, the recorded market, and how old it may be."""

    sessions: Sessions
    references: References
    clock: Callable[[], datetime]
    age_s_max: float

    def context(self, symbol: str, last: RawQuote | None, unchanged_since_s: float | None) -> QuoteContext:
        """For the gate, at this moment."""
        now = self.clock()
        reference = self.references.of(symbol)
        previous = reference.previous_close
        return QuoteContext(
            now_s=now.timestamp(),
            age_s_max=self.age_s_max,
            session_running=self.running(now, reference.has_derivatives),
            previous_close=None if previous is None else rupees(previous),
            tick=rupees(reference.tick) if reference.tick_said else None,
            last_quote=last,
            unchanged_since_s=unchanged_since_s,
        )

    def running(self, now: datetime, has_derivatives: bool) -> bool:
        """Whether continuous trading runs."""
        session = self.sessions.by_day.get(ist_date(now))
        return session is not None and session.open_s <= now.timestamp() < session.close_s(has_derivatives)

    def open_s(self, symbol: str) -> int | None:
        """When the session under way opened, None while none runs."""
        now = self.clock()
        has_derivatives = self.references.of(symbol).has_derivatives
        return self.sessions.by_day[ist_date(now)].open_s if self.running(now, has_derivatives) else None


class LiveMarket:
    """Quotes of the present. Every accepted quote also goes into the minute bars of its session."""

    def __init__(self, book: Callable[[Callable[[RawQuote], None]], QuoteBook], gauge: Gauge, bars: BarBuffer) -> None:
        """`book` makes the quote book that reports accepted quotes to the function it is given."""
        self._gauge, self._bars, self._minutes = gauge, bars, MinuteBars()
        self.book = book(self._accepted)

    def _accepted(self, quote: RawQuote) -> None:
        open_s = self._gauge.open_s(quote.symbol)
        finished = None if open_s is None else self._minutes.add(quote, open_s)
        if finished is not None:
            self._bars.add(finished)

    async def quotes(self, symbols: Sequence[str], now: datetime) -> tuple[dict[str, Quote], Mapping[str, str]]:
        """The market at `now` in each symbol, and why it is missing in the others. Raises StoreError."""
        await self._gauge.references.bring(symbols)
        held, missing = await self.book.quotes(symbols)
        quotes: dict[str, Quote] = {}
        refused: dict[str, str] = dict(missing)
        for symbol, raw in held.items():
            built = live_quote(raw, self._gauge.references.of(symbol), self._minutes.finished(symbol), now)
            if built is None:
                refused[symbol] = f"{raw.source}: no previous close is known"
            else:
                quotes[symbol] = built
        return quotes, refused

    @asynccontextmanager
    async def running(self, refresh_s: float, ticker: Ticker[Any] | None, tokens: Tokens | None) -> AsyncIterator[None]:
        """Keep quotes fresh and hand finished minutes to the store while the block runs."""
        jobs = [self._repeat(refresh_s, self._refresh), self._repeat(FLUSH_EVERY_S, self._flush)]
        if ticker is not None and tokens is not None:
            jobs += [self._listen(ticker), self._repeat(WATCH_EVERY_S, lambda: self._watch(ticker, tokens))]
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._flush()

    async def _flush(self) -> None:
        now_s = floor_s(self._gauge.clock())
        for bar in self._minutes.over(now_s):
            self._bars.add(bar)
        await asyncio.to_thread(self._bars.flush, now_s)

    async def _refresh(self) -> None:
        await self._gauge.references.bring(self.book.watched)
        await self.book.refresh()

    async def _watch(self, ticker: Ticker[Any], tokens: Tokens) -> None:
        await ticker.watch(await tokens(self.book.watched))

    async def _listen(self, ticker: Ticker[Any]) -> None:
        """Take every tick in until the session at its provider ends; asking the providers goes on all the same."""
        try:
            async for quote in ticker.quotes():
                self.book.offer(quote)
        except ProviderError as error:
            log.warning("stream_ended", error=str(error))
        except Exception:
            log.exception("stream_failed")

    async def _repeat(self, every_s: float, job: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await job()
            except DataServiceError as error:
                log.warning("live_job_failed", error=str(error))
            except Exception:
                log.exception("live_job_failed")
            await asyncio.sleep(every_s)


def live_quote(raw: RawQuote, reference: Reference, minute: Minute | None, now: datetime) -> Quote | None:
    """An accepted quote as it travels, None where no previous close is known.

    What its provider does not say comes from the recorded market: bid and ask stand around the last price, neither
    beyond the other side nor outside the bands. `minute` is the last one that is over, if any.
    """
    before = _previous_close(raw.previous_close, reference)
    if before is None or raw.last is None or raw.as_of_s is None:
        return None
    # A provider's clock may run some seconds ahead of ours.
    last, as_of_s = raw.last, min(int(raw.as_of_s), floor_s(now))
    low, high = reference.bands(int(before * 100))
    lower = raw.lower_band if raw.lower_band is not None else rupees(low)
    upper = raw.upper_band if raw.upper_band is not None else rupees(high)
    half = rupees(half_spread_paise(int(last * 100), reference.tick))
    bid, ask = raw.bid, raw.ask
    if bid is None:
        bid = max(last - half, min(lower, last))
        bid = max(bid if ask is None else min(bid, ask), Decimal("0.01"))
    if ask is None:
        ask = max(min(last + half, max(upper, last)), bid)
    if minute is None or minute.start_s < ist_midnight_s(ist_instant(as_of_s).date()):
        price = int(last * 100)
        minute = Minute(as_of_s // MINUTE_S * MINUTE_S - MINUTE_S, price, price, price, price, 0, 0)
    return Quote(
        symbol=raw.symbol,
        as_of=ist_instant(as_of_s),
        age_s=max(now.timestamp() - raw.as_of_s, 0.0),
        source=raw.source,
        last=last,
        bid=bid,
        ask=ask,
        open=raw.open if raw.open is not None else last,
        high=max(last, raw.high if raw.high is not None else last),
        low=min(last, raw.low if raw.low is not None else last),
        previous_close=before,
        volume=raw.volume or 0,
        lower_band=lower,
        upper_band=upper,
        bar_start=ist_instant(minute.start_s),
        bar_end=ist_instant(minute.start_s + MINUTE_S),
        bar_open=rupees(minute.open),
        bar_high=rupees(minute.high),
        bar_low=rupees(minute.low),
        bar_close=rupees(minute.close),
        bar_volume=minute.volume,
    )


def _previous_close(said: Decimal | None, reference: Reference) -> Decimal | None:
    """The close before today's session on today's scale; the recorded one where the provider says none.

    On the day of a split or bonus some say it as it was traded: it is taken for that where it fits better so.
    """
    known = reference.previous_close
    if said is None or known is None:
        return said if known is None else rupees(known)
    scaled = max(round(float(said) * 100 * reference.factor), 1)
    fits_better = abs(math.log(scaled / known)) < abs(math.log(float(said) * 100 / known))
    return rupees(scaled) if fits_better and reference.factor != 1 else said
