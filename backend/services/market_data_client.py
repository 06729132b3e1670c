"""data_service over HTTP: each call under one total deadline, wire shapes turned into the domain's."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from backend.brokers.paper import PaperQuote
from backend.domain.calendar import IST
from backend.domain.matching import BarView
from backend.domain.risk import QuoteView
from backend.errors import NotFoundError, SaudaError, UpstreamError
from backend.services.quote_history import QuoteHistory, read_quote_history
from contracts.common import SYMBOLS_PER_REQUEST_MAX, Problem, Wire
from contracts.market import (
    ActionsReply,
    BarsReply,
    BarsRequest,
    ClockReply,
    Instrument,
    InstrumentsReply,
    Interval,
    QualityReply,
    Quote,
    QuoteHistoryRequest,
    QuotesReply,
    QuotesRequest,
    UniverseReply,
)

Reply = TypeVar("Reply", bound=BaseModel)
REPLY_BYTES_MAX = 64_000_000
LONG_TIMEOUT_S = 120.0
"""For years at once, which no trading waits for."""
CLOSE_DAYS = 10
_LENGTHS = {timedelta(minutes=1): Interval.MIN_1, timedelta(minutes=5): Interval.MIN_5}


@dataclass(frozen=True, slots=True)
class QuoteBatch:
    """Quotes for the decision, the reply as it came, and why the missing ones are missing."""

    quotes: Mapping[str, PaperQuote]
    reply: QuotesReply


async def call(
    http: httpx.AsyncClient, method: str, url: str, reply: type[Reply], *, body: Wire | None = None, timeout_s: float
) -> Reply:
    """One call to a service of ours, read into its contract. Errors name its path only: the public reads them.

    Raises:
        UpstreamError: no answer in time, a broken connection, a 5xx, or an answer outside the contract or too large.
        SaudaError: the service's own refusal (4xx), with its code.
    """
    answer = await call_bytes(http, method, url, body=body, timeout_s=timeout_s)
    try:
        return reply.model_validate_json(answer)
    except ValidationError as error:
        path = httpx.URL(url).path
        raise UpstreamError(f"{path} answered outside its contract: {error.error_count()} errors") from error


async def call_bytes(
    http: httpx.AsyncClient, method: str, url: str, *, body: Wire | None = None, timeout_s: float
) -> bytes:
    """As `call`, the answer as it came."""
    content = body.model_dump_json(by_alias=True) if body is not None else None
    headers = {"content-type": "application/json"} if content else None
    path = httpx.URL(url).path
    try:
        async with asyncio.timeout(timeout_s):
            async with http.stream(method, url, content=content, headers=headers, timeout=timeout_s) as response:
                answer = await _read(response, path)
    except (TimeoutError, httpx.HTTPError) as error:
        raise UpstreamError(f"{path} did not answer: {type(error).__name__}") from error
    if response.is_success:
        return answer
    try:
        problem = Problem.model_validate_json(answer)
    except ValidationError:
        raise UpstreamError(f"{path} answered {response.status_code}") from None
    if response.status_code >= 500:
        raise UpstreamError(problem.detail, code=problem.code)
    refused = SaudaError(problem.detail, code=problem.code)
    refused.status, refused.title = problem.status, problem.title
    raise refused


async def _read(response: httpx.Response, path: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > REPLY_BYTES_MAX:
            raise UpstreamError(f"{path} answered more than {REPLY_BYTES_MAX} bytes")
        parts.append(part)
    return b"".join(parts)


def in_parts(symbols: Sequence[str]) -> list[list[str]]:
    """The symbols in as many requests as the contract's limit asks for."""
    return [list(symbols[i : i + SYMBOLS_PER_REQUEST_MAX]) for i in range(0, len(symbols), SYMBOLS_PER_REQUEST_MAX)]


class MarketDataClient:
    """Calls data_service. Instruments are kept: they change by the day; quotes are never kept."""

    def __init__(self, http: httpx.AsyncClient, base_url: str, timeout_s: float) -> None:
        self._http = http
        self._url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self.instruments: Mapping[str, Instrument] = {}

    async def clock(self) -> ClockReply:
        return await call(self._http, "GET", f"{self._url}/v1/clock", ClockReply, timeout_s=self._timeout_s)

    async def load_instruments(self, as_of: datetime | None = None) -> Sequence[Instrument]:
        """The shares known at `as_of` (the market's present where None), with their ticks of then; they are kept."""
        known_at = {} if as_of is None else {"as_of": as_of.isoformat()}
        url = str(httpx.URL(f"{self._url}/v1/instruments", params=known_at))
        reply = await call(self._http, "GET", url, InstrumentsReply, timeout_s=self._timeout_s)
        self.instruments = {i.symbol: i for i in reply.instruments}
        return reply.instruments

    async def require(self, symbol: str) -> None:
        """See that there is such an instrument; one that is not known yet may be listed by now.

        Raises:
            NotFoundError: there is none.
        """
        if symbol not in self.instruments:
            await self.load_instruments()
        if symbol not in self.instruments:
            raise NotFoundError(f"There is no instrument {symbol}.", code="unknown_symbol")

    async def quotes(self, symbols: Sequence[str], as_of: datetime | None) -> QuoteBatch:
        """Quotes of `symbols` as they stood at `as_of` (the market's present where None)."""
        if not self.instruments:
            await self.load_instruments(as_of)
        url = f"{self._url}/v1/quotes"
        replies = await asyncio.gather(
            *(
                call(
                    self._http,
                    "POST",
                    url,
                    QuotesReply,
                    body=QuotesRequest(symbols=part, as_of=as_of),
                    timeout_s=self._timeout_s,
                )
                for part in in_parts(symbols)
            )
        )
        reply = QuotesReply(
            environment=replies[0].environment,
            as_of=replies[0].as_of,
            quotes={symbol: quote for part in replies for symbol, quote in part.quotes.items()},
            missing={symbol: why for part in replies for symbol, why in part.missing.items()},
        )
        quotes = {
            symbol: self.paper_quote(quote) for symbol, quote in reply.quotes.items() if symbol in self.instruments
        }
        return QuoteBatch(quotes, reply)

    async def bars(self, request: BarsRequest) -> BarsReply:
        url = f"{self._url}/v1/bars"
        return await call(self._http, "POST", url, BarsReply, body=request, timeout_s=self._timeout_s)

    async def actions(self, from_: date, through: date, as_of: datetime) -> ActionsReply:
        """Corporate actions with an ex-date in the days (both inclusive) that were known at `as_of`."""
        asked = {"from": from_.isoformat(), "through": through.isoformat(), "as_of": as_of.isoformat()}
        url = str(httpx.URL(f"{self._url}/v1/actions", params=asked))
        return await call(self._http, "GET", url, ActionsReply, timeout_s=self._timeout_s)

    async def quote_history(self, request: QuoteHistoryRequest) -> QuoteHistory:
        """What quotes showed as each bar ended, unadjusted."""
        url = f"{self._url}/v1/quotes/history"
        content = await call_bytes(
            self._http, "POST", url, body=request, timeout_s=max(self._timeout_s, LONG_TIMEOUT_S)
        )
        # Hundreds of thousands of rows take longer to read than an event loop should stand still.
        return await asyncio.to_thread(read_quote_history, content, request)

    async def universe(self, name: str, n: int, as_of: datetime | None = None) -> UniverseReply:
        """The members of a universe at `as_of` (the market's present where None); `n` is how many of the largest by
        turnover."""
        known_at = {} if as_of is None else {"as_of": as_of.isoformat()}
        url = str(httpx.URL(f"{self._url}/v1/universe", params={"name": name, "n": n, **known_at}))
        return await call(self._http, "GET", url, UniverseReply, timeout_s=self._timeout_s)

    async def quality(self, symbol: str | None, reason: str | None, limit: int, cursor: str | None) -> QualityReply:
        """What the quality gate found, newest first, `limit` findings from `cursor` (the page before's) on."""
        asked = {"symbol": symbol, "reason": reason, "limit": limit, "cursor": cursor}
        given = {name: value for name, value in asked.items() if value is not None}
        url = str(httpx.URL(f"{self._url}/v1/quality", params=given))
        return await call(self._http, "GET", url, QualityReply, timeout_s=self._timeout_s)

    async def close_before(self, symbol: str, day: date, as_of: datetime) -> Decimal | None:
        """The last unadjusted close of `symbol` before `day`, in rupees; None where the last CLOSE_DAYS have none."""
        request = BarsRequest(
            symbols=[symbol],
            interval=Interval.DAY_1,
            from_=day - timedelta(days=CLOSE_DAYS),
            through=day - timedelta(days=1),
            as_of=as_of,
            adjusted=False,
        )
        columns = (await self.bars(request)).series.get(symbol)
        return columns.close[-1] if columns is not None and columns.close else None

    async def bars_since(self, since: Mapping[str, datetime], now: datetime) -> Mapping[str, Sequence[BarView]]:
        """Finished bars that began at or after each symbol's instant, in the finest interval there is."""
        symbols = sorted(since)
        batch = await self.quotes(symbols, now)
        lengths = {quote.bar.end - quote.bar.start for quote in batch.quotes.values()}
        interval = _LENGTHS.get(min(lengths, default=timedelta(0)), Interval.MIN_1)
        length = next(span for span, name in _LENGTHS.items() if name is interval)
        request = BarsRequest(
            symbols=symbols,
            interval=interval,
            from_=min(since.values()).astimezone(IST).date(),
            through=now.astimezone(IST).date(),
            as_of=now,
            adjusted=False,
        )
        reply = await self.bars(request)
        return {
            symbol: [
                BarView(start, start + length, opened, high, low, close, volume)
                for start, opened, high, low, close, volume in zip(
                    columns.start, columns.open, columns.high, columns.low, columns.close, columns.volume, strict=True
                )
                if start >= since[symbol]
            ]
            for symbol, columns in reply.series.items()
        }

    def paper_quote(self, quote: Quote) -> PaperQuote:
        instrument = self.instruments[quote.symbol]
        view = QuoteView(
            symbol=quote.symbol,
            as_of=quote.as_of,
            last=quote.last,
            bid=quote.bid,
            ask=quote.ask,
            lower_band=quote.lower_band,
            upper_band=quote.upper_band,
            tick=instrument.tick_size_rupees,
            lot=instrument.lot_size,
            freeze_quantity=instrument.freeze_quantity,
            source=quote.source,
        )
        bar = BarView(
            quote.bar_start,
            quote.bar_end,
            quote.bar_open,
            quote.bar_high,
            quote.bar_low,
            quote.bar_close,
            quote.bar_volume,
        )
        return PaperQuote(view, bar)
