"""Kite's live ticks: the binary packets as pure functions, and what is said on their connection.

Wire format: kite.trade/docs/connect/v3/websocket. A message is heartbeat (one byte) or, big-endian, the number of
packets and for each its length and content; the content's length says which fields there are.
"""

import asyncio
import json
import random
import struct
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import structlog
from pydantic import SecretStr

from data_service.providers.base import ProviderError, RawQuote, SessionEndedError
from data_service.providers.ticker import Backoff, Ticker

log = structlog.get_logger(__name__)

TICKER_URL = "wss://ws.kite.trade"
SYMBOLS_MAX = 3000
"""Instruments on one connection."""

SILENCE_S = 5.0
"""Kite sends a heartbeat each second: after this long without anything the other end is not there any more."""

LTP_BYTES, INDEX_BYTES, INDEX_FULL_BYTES, QUOTE_BYTES, FULL_BYTES = 8, 28, 32, 44, 184
DEPTH_AT, DEPTH_ENTRY_BYTES, DEPTH_SIDE = 64, 12, 5
CURRENCY, CURRENCY_BSE, COMMODITY = 3, 6, 12
DIVISORS = {CURRENCY: 10**7, CURRENCY_BSE: 10**4, COMMODITY: 10**4}
DIVISOR = 100
"""Prices are whole paise, except in the segments (the token's last byte) above."""


@dataclass(frozen=True, slots=True)
class Tick:
    """One packet: rupees, shares, `as_of_s` seconds since 1970-01-01 UTC; None where its mode does not carry it or the
    side of the book is empty."""

    token: int
    last: Decimal
    open: Decimal | None = None
    high: Decimal | None = None
    low: Decimal | None = None
    previous_close: Decimal | None = None
    volume: int | None = None
    bid: Decimal | None = None
    ask: Decimal | None = None
    as_of_s: int | None = None


def decode(message: bytes) -> list[Tick]:
    """The ticks of a binary message, in order; none in a heartbeat. Packets of unknown length are passed over.

    Raises ProviderError where the lengths in the message do not add up.
    """
    if len(message) == 1:
        return []
    return [tick for packet in _packets(message) if (tick := _tick(packet))]


def _packets(message: bytes) -> Iterator[bytes]:
    try:
        (count,) = struct.unpack_from(">H", message)
        at = 2
        for _ in range(count):
            (length,) = struct.unpack_from(">H", message, at)
            yield message[at + 2 : at + 2 + length]
            at += 2 + length
    except struct.error as error:
        raise ProviderError("a tick message is cut off") from error
    if at != len(message):
        raise ProviderError("a tick message is not as long as its packets")


def _tick(packet: bytes) -> Tick | None:
    if len(packet) not in (LTP_BYTES, INDEX_BYTES, INDEX_FULL_BYTES, QUOTE_BYTES, FULL_BYTES):
        return None
    words = struct.unpack_from(f">{min(len(packet), DEPTH_AT) // 4}i", packet)
    token = words[0]
    divisor = DIVISORS.get(token & 0xFF, DIVISOR)

    def price(word: int) -> Decimal:
        return Decimal(word) / divisor

    if len(packet) == LTP_BYTES:
        return Tick(token, price(words[1]))
    if len(packet) in (INDEX_BYTES, INDEX_FULL_BYTES):
        high, low, open_, close = (price(word) for word in words[2:6])
        as_of_s = words[7] if len(packet) == INDEX_FULL_BYTES else None
        return Tick(token, price(words[1]), open_, high, low, close, as_of_s=as_of_s or None)
    open_, high, low, close = (price(word) for word in words[7:11])
    if len(packet) == QUOTE_BYTES:
        return Tick(token, price(words[1]), open_, high, low, close, words[4])
    bid, ask = (price(paise) if quantity else None for quantity, paise in (_best(packet, 0), _best(packet, DEPTH_SIDE)))
    return Tick(token, price(words[1]), open_, high, low, close, words[4], bid, ask, words[15] or None)


def _best(packet: bytes, entry: int) -> tuple[int, int]:
    """Quantity and price of an entry of the depth: five to buy, then five to sell, the best first."""
    quantity, price = struct.unpack_from(">ii", packet, DEPTH_AT + entry * DEPTH_ENTRY_BYTES)
    return quantity, price


def raw_quote(tick: Tick, symbol: str) -> RawQuote:
    """A tick as the quote of its symbol. Ticks carry no bands."""
    return RawQuote(
        symbol=symbol,
        source="kite",
        as_of_s=tick.as_of_s,
        last=tick.last,
        bid=tick.bid,
        ask=tick.ask,
        open=tick.open,
        high=tick.high,
        low=tick.low,
        previous_close=tick.previous_close,
        volume=tick.volume,
    )


class KiteTicker(Ticker[int]):
    """Live quotes of the symbols watched, by instrument token."""

    name = "kite"
    symbols_max = SYMBOLS_MAX

    def __init__(
        self,
        api_key: str,
        access_token: Callable[[], SecretStr],
        *,
        url: str = TICKER_URL,
        silence_s: float = SILENCE_S,
        backoff: Backoff | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(silence_s, backoff, sleep, chance)
        self._api_key, self._access_token, self._url = api_key, access_token, url

    async def _address(self) -> str:
        query = urlencode({"api_key": self._api_key, "access_token": self._access_token().get_secret_value()})
        return f"{self._url}?{query}"

    def _ends(self, status: int) -> SessionEndedError | None:
        return SessionEndedError("kite's session has ended: log in again") if status == 403 else None

    def _asking(self, keys: Sequence[int]) -> Sequence[str]:
        """In full mode: only there do ticks carry the exchange's own instant and the depth."""
        return json.dumps({"a": "subscribe", "v": keys}), json.dumps({"a": "mode", "v": ["full", keys]})

    def _leaving(self, keys: Sequence[int]) -> Sequence[str]:
        return (json.dumps({"a": "unsubscribe", "v": keys}),)

    def _quotes_in(self, message: str | bytes) -> Sequence[RawQuote]:
        if isinstance(message, str):
            _note(message)
            return []
        try:
            ticks = decode(message)
        except ProviderError as error:
            log.warning("tick_unreadable", why=str(error))
            return []
        return [raw_quote(tick, self._symbols[tick.token]) for tick in ticks if tick.token in self._symbols]


def _note(message: str) -> None:
    """Text messages are errors and the account's order updates; of those only the errors concern market data."""
    try:
        said: Any = json.loads(message)
    except ValueError:
        said = None
    if isinstance(said, dict) and said.get("type") == "error":
        log.warning("ticker_error", said=str(said.get("data", ""))[:200])
