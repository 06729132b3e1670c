"""Upstox's live ticks: the messages of its MarketDataFeedV3 as pure functions, and what is said on their connection.

Wire format: upstox.com/developer/api-documentation (v3/get-market-data-feed, its MarketDataFeedV3.proto). The numbers
of the fields that are read:

    FeedResponse:   type 1 (0 first, 1 live, 2 market's status), feeds 2 (key to Feed), currentTs 3 (milliseconds)
    Feed:           fullFeed 2
    FullFeed:       marketFF 1
    MarketFullFeed: ltpc 1, marketLevel 2, marketOHLC 4, vtt 6 (shares of the session)
    LTPC:           ltp 1, ltt 2 (milliseconds), cp 4 (previous close)
    MarketLevel:    bidAskQuote 1 (repeated, the best first): bidQ 1, bidP 2, askQ 3, askP 4
    MarketOHLC:     ohlc 1 (repeated): interval 1 ("1d" is the session's), open 2, high 3, low 4
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from uuid import uuid4

import structlog

from data_service.providers.base import ProviderError, RawQuote
from data_service.providers.protobuf import Message
from data_service.providers.ticker import Backoff, Ticker

log = structlog.get_logger(__name__)

SYMBOLS_MAX = 2000
"""Instruments in full mode on one connection; two connections may be open per user."""

SILENCE_S = 60.0
"""In a session something trades each second; outside it there is nothing, and the connection is made anew each
minute."""

PING_S = 5.0
SESSION = "1d"
LIVE = 1


def quotes_of(message: bytes, symbols: Mapping[str, str]) -> list[RawQuote]:
    """The quotes of `symbols` (by instrument key) in a message; none in one about the market's status. Feeds carry no
    bands. Raises ProviderError: it is no message.

    The first message tells what was last known, as of each share's last trade; a live one what has just changed.
    """
    said = Message(message)
    live_ms = said.integer(3) if said.integer(1) == LIVE else 0
    feeds = {key: feed for key, feed in said.by_text(2).items() if key in symbols}
    quotes = (_quote(feed.message(2).message(1), symbols[key], live_ms) for key, feed in feeds.items())
    return [quote for quote in quotes if quote.last]


def _quote(full: Message, symbol: str, live_ms: int) -> RawQuote:
    traded, best = full.message(1), next(iter(full.message(2).messages(1)), Message(b""))
    days = (ohlc for ohlc in full.message(4).messages(1) if ohlc.text(1) == SESSION)
    day = next(days, Message(b""))
    as_of_ms = live_ms or traded.integer(2)
    return RawQuote(
        symbol=symbol,
        source="upstox",
        as_of_s=as_of_ms / 1000 if as_of_ms > 0 else None,
        last=_price(traded, 1),
        bid=_price(best, 2) if best.integer(1) > 0 else None,
        ask=_price(best, 4) if best.integer(3) > 0 else None,
        open=_price(day, 2),
        high=_price(day, 3),
        low=_price(day, 4),
        previous_close=_price(traded, 4),
        volume=full.integer(6) or None,
    )


def _price(said: Message, number: int) -> Decimal | None:
    """Rupees; None for 0, which is what the format makes of nothing."""
    return Decimal(repr(said.double(number))) or None


class UpstoxTicker(Ticker[str]):
    """Live quotes of the symbols watched, by instrument key."""

    name = "upstox"
    symbols_max = SYMBOLS_MAX
    ping_s = PING_S

    def __init__(
        self,
        address: Callable[[], Awaitable[str]],
        *,
        silence_s: float = SILENCE_S,
        backoff: Backoff | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`address` gives a new address for one connection, signed: it raises SessionEndedError where the token is
        over, so a handshake that is refused with any status is tried again."""
        super().__init__(silence_s, backoff, sleep, chance)
        self._new_address = address

    async def _address(self) -> str:
        return await self._new_address()

    def _asking(self, keys: Sequence[str]) -> Sequence[bytes]:
        """In full mode: only there do ticks carry the depth and the session's volume."""
        return (_request("sub", {"mode": "full", "instrumentKeys": list(keys)}),)

    def _leaving(self, keys: Sequence[str]) -> Sequence[bytes]:
        return (_request("unsub", {"instrumentKeys": list(keys)}),)

    def _quotes_in(self, message: str | bytes) -> Sequence[RawQuote]:
        try:
            return quotes_of(message, self._symbols) if isinstance(message, bytes) else []
        except ProviderError as error:
            log.warning("tick_unreadable", why=str(error))
            return []


def _request(method: str, data: Mapping[str, object]) -> bytes:
    """Binary: Upstox takes no text."""
    return json.dumps({"guid": uuid4().hex, "method": method, "data": data}).encode()
