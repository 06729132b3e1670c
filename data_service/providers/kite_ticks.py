"""Kite's live ticks: the binary packets as pure functions, and a connection that is there again after any failure.

Wire format: kite.trade/docs/connect/v3/websocket. A message is heartbeat (one byte) or, big-endian, the number of
packets and for each its length and content; the content's length says which fields there are.
"""

import asyncio
import json
import logging
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import structlog
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from data_service.providers.base import ProviderError, RawQuote
from data_service.providers.kite import SessionEndedError

log = structlog.get_logger(__name__)

TICKER_URL = "wss://ws.kite.trade"
SYMBOLS_MAX = 3000
"""Instruments on one connection."""

SILENCE_S = 5.0
"""Kite sends a heartbeat each second: after this long without anything the other end is not there any more."""

OPEN_S_MAX, CLOSE_S_MAX = 10.0, 0.5
"""Patience for the opening handshake, and for the closing one, which an end that is gone never answers."""

LTP_BYTES, INDEX_BYTES, INDEX_FULL_BYTES, QUOTE_BYTES, FULL_BYTES = 8, 28, 32, 44, 184
DEPTH_AT, DEPTH_ENTRY_BYTES, DEPTH_SIDE = 64, 12, 5
CURRENCY, CURRENCY_BSE, COMMODITY = 3, 6, 12
DIVISORS = {CURRENCY: 10**7, CURRENCY_BSE: 10**4, COMMODITY: 10**4}
DIVISOR = 100
"""Prices are whole paise, except in the segments (the token's last byte) above."""

# The library writes the address, and so the token, into its debug log.
socket_log = logging.getLogger("data_service.kite_ticks.socket")
socket_log.setLevel(logging.INFO)


class _Direct(connect):
    """A connection to the address given and no other: the library would follow a redirect to any host, and what that
    one sends would count as Kite's."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


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


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the next attempt: doubling from `first_s` up to `s_max`, the upper half by chance, so
    that many clients do not come back at the same instant."""

    first_s: float = 1.0
    s_max: float = 60.0

    def delay_s(self, failures_in_row: int, chance: float) -> float:
        """`chance` is within 0 and 1."""
        whole_s = min(self.s_max, self.first_s * 2.0 ** min(failures_in_row - 1, 60))
        return whole_s * (0.5 + 0.5 * chance)


class KiteTicker:
    """Live quotes of the symbols watched, over one connection that is made again as often as needed."""

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
        self._api_key, self._access_token, self._url, self._silence_s = api_key, access_token, url, silence_s
        self._backoff, self._sleep, self._chance = backoff or Backoff(), sleep, chance
        self._symbols: dict[int, str] = {}
        self._socket: ClientConnection | None = None

    @property
    def connected(self) -> bool:
        return self._socket is not None

    async def watch(self, symbols: Mapping[int, str]) -> None:
        """Watch these (symbol by instrument token) instead of what was watched. Raises ValueError above SYMBOLS_MAX."""
        if len(symbols) > SYMBOLS_MAX:
            raise ValueError(f"at most {SYMBOLS_MAX} symbols on one connection")
        gone = [token for token in self._symbols if token not in symbols]
        new = [token for token in symbols if token not in self._symbols]
        self._symbols = dict(symbols)
        if self._socket is None:
            return
        try:
            if gone:
                await self._socket.send(json.dumps({"a": "unsubscribe", "v": gone}))
            await self._subscribe(self._socket, new)
        except WebSocketException:
            log.info("ticker_lost_while_subscribing")  # the reader notices too, reconnects and subscribes to all

    async def quotes(self) -> AsyncIterator[RawQuote]:
        """Each tick of a watched symbol as it comes, until the caller closes the iterator (contextlib.aclosing).

        Raises SessionEndedError: the token was refused, and asking again would not help. Nothing else ends it.
        """
        failures = 0
        while True:
            try:
                async with self._connection() as socket:
                    await self._subscribe(socket, list(self._symbols))
                    self._socket = socket
                    while True:
                        message = await self._message(socket)
                        failures = 0
                        for quote in self._quotes_in(message):
                            yield quote
            except InvalidStatus as error:
                if error.response.status_code == 403:
                    raise SessionEndedError("kite's session has ended: log in again") from None
                log.warning("ticker_refused", status=error.response.status_code)
            except (OSError, WebSocketException) as error:
                log.warning("ticker_lost", why=type(error).__name__)
            finally:
                self._socket = None
            failures += 1
            await self._sleep(self._backoff.delay_s(failures, self._chance()))

    def _connection(self) -> connect:
        query = urlencode({"api_key": self._api_key, "access_token": self._access_token().get_secret_value()})
        return _Direct(
            f"{self._url}?{query}",
            open_timeout=OPEN_S_MAX,
            close_timeout=CLOSE_S_MAX,
            ping_interval=None,
            compression=None,
            logger=socket_log,
        )

    async def _subscribe(self, socket: ClientConnection, tokens: Sequence[int]) -> None:
        """In full mode: only there do ticks carry the exchange's own instant and the depth."""
        if tokens:
            await socket.send(json.dumps({"a": "subscribe", "v": tokens}))
            await socket.send(json.dumps({"a": "mode", "v": ["full", tokens]}))

    async def _message(self, socket: ClientConnection) -> str | bytes:
        """The next message. Raises TimeoutError after the silence of a connection whose other end is gone."""
        async with asyncio.timeout(self._silence_s):
            return await socket.recv()

    def _quotes_in(self, message: str | bytes) -> list[RawQuote]:
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
