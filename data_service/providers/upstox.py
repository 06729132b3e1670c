"""Upstox's market data: quotes with depth and bands, candles, and the instruments with tick and lot.

Wire format: upstox.com/developer/api-documentation (get-full-market-quote, v3/get-historical-candle-data,
v3/get-intra-day-candle-data, instruments, error-codes, rate-limiting).
"""

import asyncio
import io
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote as quoted

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
from data_service.providers.http import (
    Fetched,
    fetch,
    gather_each,
    gunzipped,
    parsed_json,
    require_ok,
    retry_after_s,
    whole,
)
from data_service.providers.pace import Pace
from data_service.sessions import Sessions
from data_service.store.schemas import BAR_SCHEMA, INSTRUMENT_SCHEMA

BASE_URL = "https://api.upstox.com"
FILES_URL = "https://assets.upstox.com/market-quote/instruments/exchange"
FILE_BYTES_MAX = 256 << 20
"""Unpacked: it holds every derivative, too."""

FILE_NEW_FROM_S = 6 * 3600 + 30 * 60
"""The files of a day are made around 06:00 IST; before that they are those of the day before, under their names."""

QUOTES_PER_CALL_MAX = 500
CALLS_PER_S, CALLS_AT_ONCE = 1, 30
"""Of each kind: within all of 50 a second, 500 a minute and 2000 in half an hour, which count each kind by itself."""

CANDLES_AT_ONCE_MAX = 4
INTERVALS = {
    Interval.MIN_1: ("minutes/1", 28),
    Interval.MIN_3: ("minutes/3", 28),
    Interval.MIN_5: ("minutes/5", 28),
    Interval.MIN_10: ("minutes/10", 28),
    Interval.MIN_15: ("minutes/15", 28),
    Interval.MIN_30: ("minutes/30", 89),
    Interval.HOUR_1: ("hours/1", 89),
    Interval.DAY_1: ("days/1", 3650),
}
"""Upstox's name of an interval, and the most days one request may ask for: a month, a quarter, ten years."""

FIRST_DAY = date(2022, 1, 1)
"""There are no finer candles than daily ones before."""

DAILY_FIRST_DAY = date(2000, 1, 1)

SEGMENT = "NSE_EQ"
SHARE_ISIN = "^(INF.{9}|IN.{5}01.{3})$"
"""Equity shares ("01" after the issuer) and units of funds; no bonds and warrants."""

LISTED = pl.Schema(
    dict.fromkeys(("segment", "instrument_type", "instrument_key", "trading_symbol", "name", "isin"), pl.String)
    | {"lot_size": pl.Int64, "tick_size": pl.Float64}
)
"""What is read of a row of the instruments; the rest is not looked at."""

SESSION_CODES = frozenset({"UDAPI100050", "UDAPI100016"})
"""An invalid token; invalid credentials."""

RATE_CODE = "UDAPI10005"
PAISA = Decimal("0.01")
MALFORMED = (KeyError, TypeError, IndexError, AttributeError, ValueError)


def _never(_: str) -> None:
    return None


class Upstox(Unsupporting):
    """Quotes, bars and instruments of NSE through one account: its Analytics Token is valid for a year."""

    name = "upstox"
    kinds = frozenset({Kind.QUOTES, Kind.DAILY_BARS, Kind.INTRADAY_BARS, Kind.INSTRUMENTS})
    batch_max = {Kind.DAILY_BARS: 6, Kind.INTRADAY_BARS: 6, Kind.QUOTES: QUOTES_PER_CALL_MAX}

    def __init__(
        self,
        http: httpx.AsyncClient,
        sessions: Sessions,
        now_s: Callable[[], float],
        access_token: Callable[[], SecretStr],
        *,
        adjusted_before: Callable[[str], date | None] = _never,
        base_url: str = BASE_URL,
        files_url: str = FILES_URL,
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`now_s` is the present in seconds since 1970-01-01 UTC.

        `adjusted_before` is a symbol's last ex-date: Upstox adjusts older candles and does not say how, so none of them
        is taken.
        """
        self._http, self._sessions, self._now_s = http, sessions, now_s
        self._access_token, self._adjusted_before = access_token, adjusted_before
        self._base_url, self._files_url = base_url, files_url
        self._quote_pace = Pace(CALLS_PER_S, monotonic_s, sleep, at_once=CALLS_AT_ONCE)
        self._candle_pace = Pace(CALLS_PER_S, monotonic_s, sleep, at_once=CALLS_AT_ONCE)
        self._feed_pace = Pace(CALLS_PER_S, monotonic_s, sleep)
        self._listed: tuple[date, pl.DataFrame] | None = None
        self._listing = asyncio.Lock()

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, RawQuote]:
        """The market with the best bid and ask and the day's bands. Raises ProviderError (SessionEndedError where the
        token is over); IncompleteError where only some of several calls failed."""
        names = await self.keys(symbols)
        keys = tuple(names)
        batches = [keys[at : at + QUOTES_PER_CALL_MAX] for at in range(0, len(keys), QUOTES_PER_CALL_MAX)]

        async def batch(asked: Sequence[str]) -> dict[str, RawQuote]:
            said = await self._data("/v2/market-quote/quotes", self._quote_pace, {"instrument_key": ",".join(asked)})
            try:
                # Answers are named by segment and symbol, whatever was asked for; the key is inside.
                known = {quote["instrument_token"]: quote for quote in said.values()}
                return {names[key]: quote_of(known[key], names[key], self.name) for key in asked if key in known}
            except MALFORMED as error:
                raise ProviderError(f"{self.name}'s quotes are malformed") from error

        gathered = await gather_each(batches, batch, at_once_max=1)
        return whole(gathered, {symbol: quote for found in gathered.got.values() for symbol, quote in found.items()})

    async def bars(self, symbols: Sequence[str], interval: Interval, from_: date, through: date) -> pl.DataFrame:
        """Finished bars of the days, as traded (see `adjusted_before`). Raises ProviderError; IncompleteError where
        only some symbols failed."""
        keys = {symbol: key for key, symbol in (await self.keys(symbols)).items()}
        name, days_max = INTERVALS[interval]
        today = day_of(int(self._now_s()))
        last = min(through, today)
        earliest = max(from_, DAILY_FIRST_DAY if interval is Interval.DAY_1 else FIRST_DAY)

        async def of(symbol: str) -> pl.DataFrame:
            first = max(earliest, self._adjusted_before(symbol) or earliest)
            key, candles = quoted(keys[symbol], safe=""), list[Candle]()
            # Candles of today have an address of their own.
            for begin, end in parts(first, min(last, today - timedelta(days=1)), days_max):
                candles += await self._candles(f"{key}/{name}/{end}/{begin}")
            if first <= today <= last:
                candles += await self._candles(f"intraday/{key}/{name}")
            days = {"from_": first, "through": last, "now_s": self._now_s()}
            return bars_of(candles, symbol, interval, self.name, self._sessions, **days)

        gathered = await gather_each(list(keys), of, at_once_max=CANDLES_AT_ONCE_MAX)
        return whole(gathered, pl.concat([BAR_SCHEMA.to_frame(), *gathered.got.values()]))

    async def _candles(self, path: str) -> list[Candle]:
        said = await self._data(f"/v3/historical-candle/{path}", self._candle_pace, {})
        try:
            return [_candle(row) for row in said["candles"]]
        except MALFORMED as error:
            raise ProviderError(f"{self.name}'s candles are malformed") from error

    async def instruments(self) -> pl.DataFrame:
        """The shares of series EQ and BE on NSE with ISIN, tick and lot. Raises ProviderError."""
        said = {
            "known_on": pl.lit(day_of(int(self._now_s()))),
            "exchange": pl.lit("nse"),
            "source": pl.lit(self.name),
        } | {name: pl.col(name) for name in ("symbol", "name", "isin", "series", "tick_paise", "lot_size")}
        columns = [said.get(name, pl.lit(None)).cast(dtype).alias(name) for name, dtype in INSTRUMENT_SCHEMA.items()]
        return (await self._shares_today()).select(columns)

    async def keys(self, symbols: Sequence[str]) -> Mapping[str, str]:
        """Instrument key to symbol, of those that Upstox lists today. Raises ProviderError."""
        listed = (await self._shares_today()).filter(pl.col("symbol").is_in(list(symbols)))
        return dict(listed.select("instrument_key", "symbol").iter_rows())

    async def feed_address(self) -> str:
        """A new address for one connection to the stream of ticks. Raises ProviderError (SessionEndedError where the
        token is over)."""
        said = await self._data("/v3/feed/market-data-feed/authorize", self._feed_pace, {})
        address = said.get("authorized_redirect_uri") or said.get("authorizedRedirectUri")
        secure = self._base_url.startswith("https:")
        if not isinstance(address, str) or not address.startswith("wss://" if secure else "ws://"):
            raise ProviderError(f"{self.name} gives no address for its ticks")
        return address

    async def _shares_today(self) -> pl.DataFrame:
        """NSE's file, fetched once per day. Raises ProviderError."""
        async with self._listing:
            made_on = day_of(int(self._now_s()) - FILE_NEW_FROM_S)
            if self._listed is None or self._listed[0] != made_on:
                reply = await fetch(self._http, f"{self._files_url}/NSE.json.gz", bytes_max=FILE_BYTES_MAX)
                self._listed = made_on, await asyncio.to_thread(shares_of, require_ok(reply), reply.place)
            return self._listed[1]

    async def _data(self, path: str, pace: Pace, params: Mapping[str, Any]) -> dict[str, Any]:
        """The data of a success envelope. Raises ProviderError."""
        await pace.wait()
        headers = {
            "authorization": f"Bearer {self._access_token().get_secret_value()}",
            "accept": "application/json",
        }
        reply = await fetch(self._http, self._base_url + path, params=params, headers=headers)
        said = parsed_json(self._checked(reply), reply.place)
        if not isinstance(said, dict) or said.get("status") != "success" or not isinstance(said.get("data"), dict):
            raise ProviderError(f"{reply.place}: not a success")
        return said["data"]

    def _checked(self, reply: Fetched) -> bytes:
        """The content of a 200, or the error that its envelope names."""
        if reply.status == 200:
            return reply.content
        try:
            code, message = _error_of(parsed_json(reply.content, reply.place))
        except ProviderError:
            return require_ok(reply)
        if reply.status == 429 or code == RATE_CODE:
            raise RateLimitedError(f"{reply.place}: {message}", retry_after_s(reply.headers))
        if reply.status == 401 or code in SESSION_CODES:
            raise SessionEndedError(f"{self.name}'s token is over: set a new one ({message})")
        raise ProviderError(f"{reply.place}: {reply.status} {code}: {message}")


def _error_of(said: Any) -> tuple[str, str]:
    """Code and words of the first error of an envelope, in either spelling. Raises ProviderError."""
    try:
        error = said["errors"][0]
        code = error.get("errorCode") or error.get("error_code")
        return str(code)[:40], str(error.get("message", ""))[:200]
    except MALFORMED:
        raise ProviderError("not an envelope") from None


def _candle(row: list[Any]) -> Candle:
    """["2025-01-01T09:15:00+05:30", open, high, low, close, volume, open interest]"""
    return Candle(int(_instant_s(row[0])), (row[1], row[2], row[3], row[4]), row[5])


def _instant_s(text: str) -> float:
    """Seconds since 1970-01-01 UTC. Raises ValueError for an instant without an offset."""
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError("no offset")
    return instant.timestamp()


def quote_of(said: dict[str, Any], symbol: str, source: str) -> RawQuote:
    """A quote of Upstox's. Raises one of MALFORMED, ProviderError.

    Its `ohlc.close` is the last price again; the previous close is what `net_change` was counted from.
    """
    stamp, ohlc, depth = said.get("timestamp"), said.get("ohlc") or {}, said.get("depth") or {}

    def price(value: Any, what: str) -> Decimal | None:
        return rupees(value, f"{symbol}'s {what}")

    def best(side: str) -> Decimal | None:
        orders = depth.get(side) or []
        # An empty side of the book is said as a price of 0 for no shares.
        return price(orders[0]["price"], side) if orders and orders[0]["quantity"] else None

    last, change = price(said.get("last_price"), "last price"), price(said.get("net_change"), "change")
    return RawQuote(
        symbol=symbol,
        source=source,
        as_of_s=_instant_s(stamp) if stamp else None,
        last=last,
        bid=best("buy"),
        ask=best("sell"),
        open=price(ohlc.get("open"), "open"),
        high=price(ohlc.get("high"), "high"),
        low=price(ohlc.get("low"), "low"),
        # Changes are binary fractions at Upstox, too: 52.05 - 53.25 may be said as -1.2000000000000028.
        previous_close=None if last is None or change is None else (last - change).quantize(PAISA),
        volume=shares(said.get("volume"), f"{symbol}'s volume"),
        lower_band=price(said.get("lower_circuit_limit"), "lower band"),
        upper_band=price(said.get("upper_circuit_limit"), "upper band"),
    )


def shares_of(packed: bytes, place: str) -> pl.DataFrame:
    """NSE's shares of series EQ and BE in Upstox's file, one row per symbol: instrument_key, symbol, name, isin,
    series, tick_paise (null where it is no whole number of paise), lot_size. Raises ProviderError."""
    content = gunzipped(packed, place, FILE_BYTES_MAX)
    try:
        rows = pl.read_json(io.BytesIO(content), schema=LISTED)
    except pl.exceptions.PolarsError as error:
        raise ProviderError(f"{place}: no instruments") from error
    tick = pl.col("tick_size")  # in paise
    listed = rows.filter(
        pl.col("segment") == SEGMENT, pl.col("instrument_key").is_not_null(), pl.col("isin").str.contains(SHARE_ISIN)
    ).select(
        "instrument_key",
        "name",
        "isin",
        "lot_size",
        symbol=pl.col("trading_symbol").str.replace(SERIES_SUFFIX.pattern, ""),
        series=pl.col("instrument_type"),
        tick_paise=pl.when((tick > 0) & (tick == tick.round())).then(tick).cast(pl.Int64, strict=False),
    )
    taken = listed.filter(pl.col("series").is_in(SHARE_SERIES), pl.col("symbol").str.contains(SYMBOL_PATTERN))
    if taken.is_empty():
        raise ProviderError(f"{place}: it lists no shares")
    return taken.sort(pl.col("series") != "EQ", maintain_order=True).unique("symbol", keep="first", maintain_order=True)
