"""Kite Connect's REST market data: quotes with depth and bands, candles, and the instruments with tick and lot.

Wire format: kite.trade/docs/connect/v3 (market quotes, historical, instruments, exceptions).
"""

import asyncio
import io
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import httpx
import polars as pl
from pydantic import SecretStr

from contracts.market import Interval
from data_service.imports.checked import SYMBOL_PATTERN
from data_service.providers.base import (
    SERIES_SUFFIX,
    SHARE_SERIES,
    Kind,
    ProviderError,
    RateLimitedError,
    RawQuote,
    SessionEndedError,
    Unsupporting,
)
from data_service.providers.candles import Candle, bars_of, day_of, parts, rupees, shares
from data_service.providers.http import Fetched, fetch, gather_each, parsed_json, require_ok, retry_after_s, whole
from data_service.providers.pace import Pace
from data_service.sessions import IST, Sessions
from data_service.store.schemas import BAR_SCHEMA, INSTRUMENT_SCHEMA

BASE_URL = "https://api.kite.trade"
QUOTES_PER_CALL_MAX = 500
QUOTES_PER_S, HISTORICAL_PER_S, OTHERS_PER_S = 1, 3, 10
"""Kite's limits per key (2026); it answers 429 beyond them."""

DUMP_NEW_FROM_S = 8 * 3600 + 30 * 60
"""The dump of a day is there by 08:30 IST; before that it is the one of the day before, under yesterday's names."""

INTERVALS = {
    Interval.MIN_1: ("minute", 60),
    Interval.MIN_3: ("3minute", 100),
    Interval.MIN_5: ("5minute", 100),
    Interval.MIN_10: ("10minute", 100),
    Interval.MIN_15: ("15minute", 200),
    Interval.MIN_30: ("30minute", 200),
    Interval.HOUR_1: ("60minute", 400),
    Interval.DAY_1: ("day", 2000),
}
"""Kite's name of an interval and the most days one request may ask for."""

INSTRUMENT_COLUMNS = {
    "instrument_token",
    "tradingsymbol",
    "name",
    "tick_size",
    "lot_size",
    "instrument_type",
    "segment",
}
MALFORMED = (KeyError, TypeError, IndexError, AttributeError, ValueError)


def _never(_: str) -> None:
    return None


class Kite(Unsupporting):
    """Quotes, bars and instruments of NSE through one account with the data subscription."""

    name = "kite"
    kinds = frozenset({Kind.QUOTES, Kind.DAILY_BARS, Kind.INTRADAY_BARS, Kind.INSTRUMENTS})
    batch_max = {Kind.DAILY_BARS: 6, Kind.INTRADAY_BARS: 6, Kind.QUOTES: QUOTES_PER_CALL_MAX}

    def __init__(
        self,
        http: httpx.AsyncClient,
        sessions: Sessions,
        now_s: Callable[[], float],
        api_key: str,
        access_token: Callable[[], SecretStr],
        *,
        adjusted_before: Callable[[str], date | None] = _never,
        base_url: str = BASE_URL,
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`now_s` is the present in seconds since 1970-01-01 UTC; `access_token` gives the one of today.

        `adjusted_before` is a symbol's last ex-date: Kite adjusts its older candles for splits, bonuses, rights,
        demergers and large dividends and does not say how, so none of them is taken.
        """
        self._http, self._sessions, self._now_s, self._base_url = http, sessions, now_s, base_url
        self._api_key, self._access_token, self._adjusted_before = api_key, access_token, adjusted_before
        self._quote_pace = Pace(QUOTES_PER_S, monotonic_s, sleep)
        self._historical_pace = Pace(HISTORICAL_PER_S, monotonic_s, sleep)
        self._others_pace = Pace(OTHERS_PER_S, monotonic_s, sleep)
        self._listed: tuple[date, pl.DataFrame] | None = None
        self._listing = asyncio.Lock()
        self._trading_names: Mapping[str, str] = {}

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, RawQuote]:
        """The market with the best bid and ask and the day's bands. Raises ProviderError (SessionEndedError where the
        token has expired); IncompleteError where only some of several calls failed."""
        batches = [tuple(symbols[at : at + QUOTES_PER_CALL_MAX]) for at in range(0, len(symbols), QUOTES_PER_CALL_MAX)]
        gathered = await gather_each(batches, self._quote_batch, at_once_max=1)
        return whole(gathered, {symbol: quote for batch in gathered.got.values() for symbol, quote in batch.items()})

    async def _quote_batch(self, symbols: Sequence[str]) -> dict[str, RawQuote]:
        names = {symbol: f"NSE:{self._trading_names.get(symbol, symbol)}" for symbol in symbols}
        said = await self._data("/quote", self._quote_pace, {"i": list(names.values())})
        try:
            known = {symbol: said[name] for symbol, name in names.items() if name in said}
            return {symbol: quote_of(quote, symbol, self.name) for symbol, quote in known.items()}
        except MALFORMED as error:
            raise ProviderError(f"{self.name}'s quotes are malformed") from error

    async def bars(self, symbols: Sequence[str], interval: Interval, from_: date, through: date) -> pl.DataFrame:
        """Finished bars of the days, as traded (see `adjusted_before`). Raises ProviderError; IncompleteError where
        only some symbols failed."""
        tokens = dict((await self._shares_today()).select("symbol", "instrument_token").iter_rows())
        name, days_max = INTERVALS[interval]
        last = min(through, day_of(int(self._now_s())))

        async def of(symbol: str) -> pl.DataFrame:
            first = max(from_, self._adjusted_before(symbol) or from_)
            found = [BAR_SCHEMA.to_frame()]
            for begin, end in parts(first, last, days_max):
                candles = await self._candles(tokens[symbol], name, begin, end)
                days = {"from_": begin, "through": end, "now_s": self._now_s()}
                found.append(bars_of(candles, symbol, interval, self.name, self._sessions, **days))
            return pl.concat(found)

        known = [symbol for symbol in symbols if symbol in tokens]
        gathered = await gather_each(known, of, at_once_max=HISTORICAL_PER_S)
        return whole(gathered, pl.concat([BAR_SCHEMA.to_frame(), *gathered.got.values()]))

    async def _candles(self, token: int, interval: str, first: date, last: date) -> list[Candle]:
        days = {"from": f"{first} 00:00:00", "to": f"{last} 23:59:59"}
        said = await self._data(f"/instruments/historical/{token}/{interval}", self._historical_pace, days)
        try:
            return [_candle(row) for row in said["candles"]]
        except MALFORMED as error:
            raise ProviderError(f"{self.name}'s candles are malformed") from error

    async def instruments(self) -> pl.DataFrame:
        """The shares of series EQ and BE on NSE with tick and lot. Raises ProviderError."""
        today = day_of(int(self._now_s()))
        listed = await self._shares_today()
        said = {
            "symbol": pl.col("symbol"),
            "known_on": pl.lit(today),
            "exchange": pl.lit("nse"),
            "name": pl.col("name"),
            "series": pl.col("series"),
            "tick_paise": pl.col("tick_paise"),
            "lot_size": pl.col("lot_size"),
            "source": pl.lit(self.name),
        }
        columns = [said.get(name, pl.lit(None)).cast(dtype).alias(name) for name, dtype in INSTRUMENT_SCHEMA.items()]
        return listed.select(columns)

    async def tokens(self, symbols: Sequence[str]) -> Mapping[int, str]:
        """Instrument token to symbol, of those that Kite lists today. Raises ProviderError."""
        listed = (await self._shares_today()).filter(pl.col("symbol").is_in(list(symbols)))
        return dict(listed.select("instrument_token", "symbol").iter_rows())

    async def _shares_today(self) -> pl.DataFrame:
        """The exchange's dump, fetched once per day: Kite makes it anew each morning. Raises ProviderError."""
        async with self._listing:
            made_on = day_of(int(self._now_s()) - DUMP_NEW_FROM_S)
            if self._listed is None or self._listed[0] != made_on:
                reply = await self._reply("/instruments/NSE", self._others_pace, {})
                content = self._checked(reply)
                self._listed = made_on, await asyncio.to_thread(shares_of, content, reply.place)
                self._trading_names = dict(self._listed[1].select("symbol", "tradingsymbol").iter_rows())
            return self._listed[1]

    async def _reply(self, path: str, pace: Pace, params: Mapping[str, Any]) -> Fetched:
        await pace.wait()
        credentials = f"token {self._api_key}:{self._access_token().get_secret_value()}"
        headers = {"authorization": credentials, "x-kite-version": "3"}
        return await fetch(self._http, self._base_url + path, params=params, headers=headers)

    async def _data(self, path: str, pace: Pace, params: Mapping[str, Any]) -> Any:
        """The data of a success envelope. Raises ProviderError."""
        reply = await self._reply(path, pace, params)
        said = parsed_json(self._checked(reply), reply.place)
        if not isinstance(said, dict) or said.get("status") != "success" or not isinstance(said.get("data"), dict):
            raise ProviderError(f"{reply.place}: not a success")
        return said["data"]

    def _checked(self, reply: Fetched) -> bytes:
        """The content of a 200, or the error that its envelope names."""
        if reply.status == 200:
            return reply.content
        try:
            kind, message = _error_of(parsed_json(reply.content, reply.place))
        except ProviderError:
            return require_ok(reply)
        if reply.status == 429:
            raise RateLimitedError(f"{reply.place}: {message}", retry_after_s(reply.headers))
        if kind == "TokenException":
            raise SessionEndedError(f"{self.name}'s session has ended: log in again ({message})")
        raise ProviderError(f"{reply.place}: {reply.status} {kind}: {message}")


def _error_of(said: Any) -> tuple[str, str]:
    if not isinstance(said, dict):
        raise ProviderError("not an envelope")
    return str(said.get("error_type", ""))[:40], str(said.get("message", ""))[:200]


def _candle(row: list[Any]) -> Candle:
    """["2017-12-15T09:15:00+0530", open, high, low, close, volume, ...]"""
    return Candle(int(_instant_s(row[0])), (row[1], row[2], row[3], row[4]), row[5])


def _instant_s(text: str) -> float:
    """Seconds since 1970-01-01 UTC; Indian time where no offset is said."""
    instant = datetime.fromisoformat(text)
    return (instant if instant.tzinfo else instant.replace(tzinfo=IST)).timestamp()


def quote_of(said: dict[str, Any], symbol: str, source: str) -> RawQuote:
    """A quote of Kite's. Its timestamps are Indian time without an offset. Raises one of MALFORMED, ProviderError."""
    stamp, ohlc, depth = said.get("timestamp"), said.get("ohlc") or {}, said.get("depth") or {}

    def price(value: Any, what: str) -> Decimal | None:
        return rupees(value, f"{symbol}'s {what}")

    def best(side: str) -> Decimal | None:
        orders = depth.get(side) or []
        # An empty side of the book is said as a price of 0 for no shares.
        return price(orders[0]["price"], side) if orders and orders[0]["quantity"] else None

    return RawQuote(
        symbol=symbol,
        source=source,
        as_of_s=_instant_s(stamp) if stamp else None,
        last=price(said.get("last_price"), "last price"),
        bid=best("buy"),
        ask=best("sell"),
        open=price(ohlc.get("open"), "open"),
        high=price(ohlc.get("high"), "high"),
        low=price(ohlc.get("low"), "low"),
        previous_close=price(ohlc.get("close"), "previous close"),
        volume=shares(said.get("volume"), f"{symbol}'s volume"),
        lower_band=price(said.get("lower_circuit_limit"), "lower band"),
        upper_band=price(said.get("upper_circuit_limit"), "upper band"),
    )


def shares_of(content: bytes, place: str) -> pl.DataFrame:
    """NSE's shares of series EQ and BE in Kite's dump, one row per symbol: instrument_token, tradingsymbol, symbol,
    name, series, tick_paise, lot_size. Raises ProviderError."""
    try:
        dump = pl.read_csv(io.BytesIO(content), infer_schema=False)
        if missing := INSTRUMENT_COLUMNS - set(dump.columns):
            raise ProviderError(f"{place}: no column {', '.join(sorted(missing))}")
        trading = pl.col("tradingsymbol")
        listed = dump.filter(pl.col("segment") == "NSE", pl.col("instrument_type") == "EQ").select(
            pl.col("instrument_token").cast(pl.Int64),
            trading,
            symbol=trading.str.replace(SERIES_SUFFIX.pattern, ""),
            name=pl.col("name"),
            series=trading.str.extract(SERIES_SUFFIX.pattern).fill_null("EQ"),
            tick_paise=(pl.col("tick_size").cast(pl.Decimal(12, 4)) * 100).cast(pl.Int64),
            lot_size=pl.col("lot_size").cast(pl.Int64),
        )
    except pl.exceptions.PolarsError as error:
        raise ProviderError(f"{place}: not an instruments dump") from error
    taken = listed.filter(pl.col("series").is_in(SHARE_SERIES), pl.col("symbol").str.contains(SYMBOL_PATTERN))
    return taken.sort(pl.col("series") != "EQ", maintain_order=True).unique("symbol", keep="first", maintain_order=True)
