"""Yahoo's chart API: free, unofficial, and the second opinion on everything. Its prices are split-adjusted; the bars
here are not."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any
from urllib.parse import quote as quoted

import httpx
import polars as pl

from contracts.market import Interval
from data_service.providers.base import Kind, ProviderError, RawQuote, UnsupportedError, Unsupporting
from data_service.providers.candles import Candle, Split, bars_of, day_of, rupees, shares
from data_service.providers.http import fetch, gather_each, parsed_json, require_ok, whole
from data_service.sessions import DAY_S, Sessions, ist_midnight_s
from data_service.store.schemas import BAR_SCHEMA

BASE_URL = "https://query1.finance.yahoo.com"
REQUESTS_AT_ONCE_MAX = 8

INTERVALS = {
    Interval.MIN_1: ("1m", 7),
    Interval.MIN_5: ("5m", 60),
    Interval.MIN_15: ("15m", 60),
    Interval.MIN_30: ("30m", 60),
    Interval.HOUR_1: ("60m", 730),
    Interval.DAY_1: ("1d", 366 * 50),
}
"""Yahoo's name of an interval and how many days back it has it (its own error messages say so)."""

RATIO_MAX = 10_000
PAISA = Decimal("0.01")
MALFORMED = (KeyError, TypeError, IndexError, AttributeError, ValueError)


def yahoo_symbol(symbol: str) -> str:
    """NSE symbols end in .NS there, BSE's scrip codes in .BO."""
    return f"{symbol}.{'BO' if symbol.isdigit() else 'NS'}"


class Yahoo(Unsupporting):
    """Daily and intraday bars and quotes, a request per symbol."""

    name = "yahoo"
    kinds = frozenset({Kind.DAILY_BARS, Kind.INTRADAY_BARS, Kind.QUOTES})
    batch_max = {Kind.DAILY_BARS: 40, Kind.INTRADAY_BARS: 40, Kind.QUOTES: 40}

    def __init__(
        self, http: httpx.AsyncClient, sessions: Sessions, now_s: Callable[[], float], *, base_url: str = BASE_URL
    ) -> None:
        """`now_s` is the present in seconds since 1970-01-01 UTC."""
        self._http, self._sessions, self._now_s, self._base_url = http, sessions, now_s, base_url
        self._free = asyncio.Semaphore(REQUESTS_AT_ONCE_MAX)

    async def bars(self, symbols: Sequence[str], interval: Interval, from_: date, through: date) -> pl.DataFrame:
        """Finished bars of the days, of as many as Yahoo still has.

        Raises ProviderError; IncompleteError where only some symbols failed; UnsupportedError for 3m and 10m.
        """
        if interval not in INTERVALS:
            raise UnsupportedError(f"{self.name} has no {interval} bars")
        name, days_back = INTERVALS[interval]
        today = day_of(int(self._now_s()))
        first = max(from_, today - timedelta(days=days_back - 1))
        if first > min(through, today):
            return BAR_SCHEMA.to_frame()
        # Prices are adjusted for every split up to today, so the reply must reach up to today to name them all.
        period = {"period1": ist_midnight_s(first), "period2": ist_midnight_s(today) + DAY_S}
        params = {**period, "interval": name, "events": "div,split"}

        async def of(symbol: str) -> pl.DataFrame:
            chart = await self._chart(symbol, params)
            if chart is None:
                return BAR_SCHEMA.to_frame()
            return self._bars(chart, symbol, interval, first, through)

        gathered = await gather_each(symbols, of, at_once_max=REQUESTS_AT_ONCE_MAX)
        return whole(gathered, pl.concat([BAR_SCHEMA.to_frame(), *gathered.got.values()]))

    def _bars(self, chart: dict[str, Any], symbol: str, interval: Interval, first: date, through: date) -> pl.DataFrame:
        try:
            candles, splits = candles_of(chart), splits_of(chart)
        except MALFORMED as error:
            raise ProviderError(f"{self.name}'s chart of {symbol} is malformed") from error
        return bars_of(
            candles,
            symbol,
            interval,
            self.name,
            self._sessions,
            from_=first,
            through=through,
            now_s=self._now_s(),
            splits=splits,
        )

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, RawQuote]:
        """The last trade and the session so far; no bid, ask or bands. Raises ProviderError; IncompleteError where only
        some symbols failed."""

        async def of(symbol: str) -> RawQuote | None:
            chart = await self._chart(symbol, {"range": "1d", "interval": "1d"})
            try:
                return None if chart is None else quote_of(chart, symbol, self.name)
            except MALFORMED as error:
                raise ProviderError(f"{self.name}'s chart of {symbol} is malformed") from error

        gathered = await gather_each(symbols, of, at_once_max=REQUESTS_AT_ONCE_MAX)
        return whole(gathered, {symbol: quote for symbol, quote in gathered.got.items() if quote})

    async def _chart(self, symbol: str, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """One symbol's chart; None where Yahoo does not know it or has nothing for the days. Raises ProviderError."""
        name = yahoo_symbol(symbol)
        async with self._free:
            reply = await fetch(self._http, f"{self._base_url}/v8/finance/chart/{quoted(name, safe='')}", params=params)
        if reply.status in (400, 404) and b'"chart"' in reply.content:
            return None
        try:
            said = parsed_json(require_ok(reply), reply.place)["chart"]
            chart = said["result"][0] if said["result"] else None
            if chart is not None and chart["meta"]["symbol"] != name:
                raise ProviderError(f"{reply.place}: the chart of another symbol")
        except MALFORMED as error:
            raise ProviderError(f"{reply.place}: not a chart") from error
        return chart


def candles_of(chart: dict[str, Any]) -> list[Candle]:
    """The candles of a chart. Raises one of MALFORMED."""
    starts = chart.get("timestamp") or []
    said = chart["indicators"]["quote"][0] if starts else {}
    columns = [said[name] for name in ("open", "high", "low", "close", "volume")] if starts else [[]] * 5
    if not all(type(start) is int for start in starts):
        raise TypeError("timestamps are integers")
    return [
        Candle(start, (open_, high, low, close), volume)
        for start, open_, high, low, close, volume in zip(starts, *columns, strict=True)
    ]


def splits_of(chart: dict[str, Any]) -> list[Split]:
    """The splits (bonus issues too) the chart's prices are adjusted for. Raises one of MALFORMED, ProviderError."""
    found: list[Split] = []
    for said in (chart.get("events") or {}).get("splits", {}).values():
        ratio = Fraction(said["numerator"]) / Fraction(said["denominator"]) if said["denominator"] else Fraction(0)
        if not Fraction(1, RATIO_MAX) <= ratio <= RATIO_MAX:
            raise ProviderError(f"a split of {said['numerator']} for {said['denominator']}")
        found.append(Split(day_of(int(said["date"])), ratio))
    return found


def quote_of(chart: dict[str, Any], symbol: str, source: str) -> RawQuote:
    """The quote in a chart's meta block; the open is in the day's candle. Raises one of MALFORMED, ProviderError."""
    meta = chart["meta"]
    as_of_s = meta.get("regularMarketTime")
    if as_of_s is not None and type(as_of_s) is not int:
        raise TypeError("an instant is an integer")
    today = [] if as_of_s is None or "indicators" not in chart else candles_of(chart)
    opens = [candle.prices[0] for candle in today if as_of_s and day_of(candle.start_s) == day_of(as_of_s)]

    def price(*names: str) -> Any:
        found = next((meta[name] for name in names if meta.get(name) is not None), None)
        return rupees(found, f"{symbol}'s {names[0]}")

    return RawQuote(
        symbol=symbol,
        source=source,
        as_of_s=as_of_s,
        last=price("regularMarketPrice"),
        open=_to_paisa(rupees(opens[0], f"{symbol}'s open")) if opens else None,
        high=price("regularMarketDayHigh"),
        low=price("regularMarketDayLow"),
        previous_close=price("previousClose", "chartPreviousClose"),
        volume=shares(meta.get("regularMarketVolume"), f"{symbol}'s volume"),
    )


def _to_paisa(price: Decimal | None) -> Decimal | None:
    """A candle's price as it was traded: Yahoo keeps these in 32-bit floats (443.3999938964844), meta's rounded."""
    return None if price is None else price.quantize(PAISA, ROUND_HALF_UP)
