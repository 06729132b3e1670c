"""Market data: quotes, candles, and the list of instruments."""

import csv
import gzip
import io
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from backend.domain.calendar import IST
from backend.errors import SaudaError
from backend.sandbox.limits import Group
from backend.sandbox.portfolio import quotes_of
from backend.sandbox.words import KiteError, candle_time, day_start, ist
from backend.sandbox.world import Caller, no_market
from contracts.market import BarsRequest, Instrument, Interval, Quote

QUOTES_MAX, PRICES_MAX = 500, 1000
INTERVALS: Mapping[str, tuple[Interval, int]] = {
    "minute": (Interval.MIN_1, 60),
    "3minute": (Interval.MIN_3, 100),
    "5minute": (Interval.MIN_5, 100),
    "10minute": (Interval.MIN_10, 100),
    "15minute": (Interval.MIN_15, 200),
    "30minute": (Interval.MIN_30, 200),
    "60minute": (Interval.HOUR_1, 400),
    "day": (Interval.DAY_1, 2000),
}
"""Kite's word for an interval, and the days that one call may ask for (kite.trade/docs/connect/v3/historical; days from
memory)."""
COLUMNS = (
    *("instrument_token", "exchange_token", "tradingsymbol", "name", "last_price", "expiry", "strike", "tick_size"),
    *("lot_size", "instrument_type", "segment", "exchange"),
)
DEPTH_LEVELS = 5
PARTICIPATION = 10
"""One tenth of the last bar's volume is what an order could take: shown as the depth's only level."""


async def quote(caller: Caller, request: Request) -> Mapping[str, Any]:
    """GET /quote?i=NSE:INFY: instruments without a quote are absent, as at Kite."""
    asked = await _instruments(caller, request, QUOTES_MAX)
    return {name: _full(q, token) for name, (q, token) in asked.items()}


async def ohlc(caller: Caller, request: Request) -> Mapping[str, Any]:
    """GET /quote/ohlc."""
    asked = await _instruments(caller, request, PRICES_MAX)
    return {name: _price(q, token) | {"ohlc": _ohlc(q)} for name, (q, token) in asked.items()}


async def ltp(caller: Caller, request: Request) -> Mapping[str, Any]:
    """GET /quote/ltp."""
    return {name: _price(q, token) for name, (q, token) in (await _instruments(caller, request, PRICES_MAX)).items()}


async def _instruments(caller: Caller, request: Request, most: int) -> dict[str, tuple[Quote, int]]:
    """What is asked for, by the name it is asked for with: EXCHANGE:SYMBOL or an instrument token."""
    caller.count(Group.QUOTE)
    names = request.query_params.getlist("i")
    if not names:
        raise KiteError("InputException", "Missing or empty field `i`")
    if len(names) > most:
        raise KiteError("InputException", f"At most {most} instruments are taken at once.")
    listing = await caller.world.listed()
    symbols = {name: _symbol(name, listing.symbols) for name in names}
    quotes = await quotes_of(caller, {symbol for symbol in symbols.values() if symbol})
    return {name: (quotes[s], listing.tokens[s]) for name, s in symbols.items() if s in quotes}


def _symbol(name: str, by_token: Mapping[int, str]) -> str:
    if name.isascii() and name.isdigit():
        return by_token.get(int(name), "")
    exchange, _, symbol = name.partition(":")
    return symbol if exchange == "NSE" else ""


def _price(q: Quote, token: int) -> dict[str, Any]:
    return {"instrument_token": token, "last_price": float(q.last)}


def _ohlc(q: Quote) -> dict[str, float]:
    return {"open": float(q.open), "high": float(q.high), "low": float(q.low), "close": float(q.previous_close)}


def _full(q: Quote, token: int) -> dict[str, Any]:
    offered = q.bar_volume // PARTICIPATION
    return _price(q, token) | {
        "timestamp": ist(q.as_of),
        "last_trade_time": ist(q.as_of),
        "last_quantity": 0,
        "buy_quantity": offered,
        "sell_quantity": offered,
        "volume": q.volume,
        "average_price": float(q.last),
        "oi": 0,
        "oi_day_high": 0,
        "oi_day_low": 0,
        "net_change": 0,
        "lower_circuit_limit": float(q.lower_band),
        "upper_circuit_limit": float(q.upper_band),
        "ohlc": _ohlc(q),
        "depth": {"buy": _depth(float(q.bid), offered), "sell": _depth(float(q.ask), offered)},
    }


def _depth(price: float, quantity: int) -> list[dict[str, Any]]:
    none = {"price": 0, "quantity": 0, "orders": 0}
    best = {"price": price, "quantity": quantity, "orders": 1} if quantity else none
    return [best, *[none] * (DEPTH_LEVELS - 1)]


async def historical(caller: Caller, request: Request) -> Mapping[str, Any]:
    """GET /instruments/historical/{token}/{interval}: candles that began within from..to, adjusted for splits."""
    caller.count(Group.HISTORICAL)
    word, token = request.path_params["interval"], request.path_params["token"]
    if word not in INTERVALS:
        raise KiteError("InputException", "Invalid `interval`.")
    symbol = (await caller.world.listed()).symbols.get(int(token)) if token.isascii() and token.isdigit() else None
    if symbol is None:
        raise KiteError("InputException", "Invalid `instrument_token`.")
    interval, days = INTERVALS[word]
    since, until = (_instant(request, name) for name in ("from", "to"))
    if since > until:
        raise KiteError("InputException", "from date cannot be after to date")
    if until - since > timedelta(days=days):
        raise KiteError("InputException", f"interval exceeds max limit: {days} days")
    try:
        now = await caller.world.clock()
        last = min(until, now.astimezone(IST))
        if since > last:
            return {"candles": []}
        asked = BarsRequest(
            symbols=[symbol], interval=interval, from_=since.date(), through=last.date(), as_of=now, adjusted=True
        )
        columns = (await caller.world.market_data.bars(asked)).series.get(symbol)
    except (SaudaError, TimeoutError) as error:
        raise no_market(error) from error
    if columns is None:
        return {"candles": []}
    with_oi = [0] if request.query_params.get("oi") == "1" else []
    bars = zip(columns.start, columns.open, columns.high, columns.low, columns.close, columns.volume, strict=True)
    starts = [(day_start(start) if interval is Interval.DAY_1 else start, *rest) for start, *rest in bars]
    return {
        "candles": [
            [candle_time(start), *map(float, prices), volume, *with_oi]
            for start, *prices, volume in starts
            if since <= start <= until
        ]
    }


def _instant(request: Request, name: str) -> datetime:
    text = request.query_params.get(name, "")
    for form in ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d"):
        try:
            return datetime.strptime(text, form).replace(tzinfo=IST)
        except ValueError:
            continue
    raise KiteError("InputException", f"invalid {name} date")


async def instruments(caller: Caller, request: Request) -> Response:
    """GET /instruments[/{exchange}]: the day's list as CSV, compressed where the client takes that."""
    caller.count(Group.OTHER)
    exchange = request.path_params.get("exchange")
    listing = await caller.world.listed()
    shares = listing.by_symbol.values() if exchange in {None, "NSE"} else ()
    content = as_csv(sorted(shares, key=lambda share: share.symbol), listing.tokens).encode()
    headers = {"Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers["Content-Encoding"] = gzip.compress(content, mtime=0), "gzip"
    return Response(content, media_type="text/csv", headers=headers)


def as_csv(shares: Sequence[Instrument], tokens: Mapping[str, int]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for share in shares:
        token = tokens[share.symbol]
        tick = f"{share.tick_size_rupees.normalize():f}"
        row = (token, token >> 8, share.symbol, share.name, 0, "", 0, tick, share.lot_size, "EQ", "NSE", "NSE")
        writer.writerow(row)
    return text.getvalue()
