"""Quotes for everybody: fetched once per second, serialised once per change, and handed out as prepared bytes."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
import structlog

from backend.domain.calendar import IST
from backend.errors import SaudaError
from backend.services.market_data_client import QuoteBatch
from backend.services.rupees import rupees_text
from contracts.common import SYMBOLS_PER_REQUEST_MAX, Environment
from contracts.market import Quote, QuotesReply

log = structlog.get_logger()

SYMBOLS_DEFAULT = ("RELIANCE", "TCS", "INFY", "HDFCBANK", "ICICIBANK")
SETS_MAX = 64
UNASKED_S_MAX = 60.0
STALE_AFTER_S = 5.0
REFRESH_INTERVAL_S = 1.0


class QuoteSource(Protocol):
    """Where the board gets quotes: data_service's client, or a test's."""

    async def quotes(self, symbols: Sequence[str], as_of: None) -> QuoteBatch:
        """The market's present in `symbols`."""
        ...


@dataclass(slots=True)
class Prepared:
    """The answer for one set of symbols: JSON bytes and their strong ETag; instants are monotonic seconds."""

    symbols: tuple[str, ...]
    body: bytes
    etag: bytes
    refreshed_at: float
    asked_at: float


class QuoteBoard:
    """Prepared answers by set of symbols. The default set is always kept; others while somebody asks for them."""

    def __init__(
        self,
        market_data: QuoteSource,
        environment: Environment,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sets_max: int = SETS_MAX,
    ) -> None:
        self._market_data = market_data
        self._environment = environment
        self._monotonic = monotonic
        self._sets_max = sets_max
        self._sets: OrderedDict[tuple[str, ...], Prepared] = OrderedDict()

    def fresh(self, symbols: tuple[str, ...]) -> Prepared | None:
        """The prepared answer for `symbols`; None where there is none or it is older than STALE_AFTER_S."""
        prepared, now = self._sets.get(symbols), self._monotonic()
        if prepared is None or now - prepared.refreshed_at > STALE_AFTER_S:
            return None
        prepared.asked_at = now
        self._sets.move_to_end(symbols)
        return prepared

    async def answer(self, symbols: tuple[str, ...]) -> Prepared:
        """The answer for `symbols`, fetched now where no fresh one is prepared, and prepared from now on.

        Raises:
            UpstreamError: data_service did not answer.
        """
        if (prepared := self.fresh(symbols)) is not None:
            return prepared
        batch = await self._market_data.quotes(symbols, None)
        prepared = self._prepare(symbols, batch.reply, self._monotonic())
        self._sets[symbols] = prepared
        self._sets.move_to_end(symbols)
        while len(self._sets) > self._sets_max:
            self._sets.popitem(last=False)
        return prepared

    async def refresh(self) -> None:
        """Fetch all kept sets in one call and prepare them anew.

        Raises:
            UpstreamError: data_service did not answer; what is prepared goes stale by itself.
        """
        started = self._monotonic()
        for symbols in [s for s, p in self._sets.items() if started - p.asked_at > UNASKED_S_MAX]:
            del self._sets[symbols]
        wanted = _fitting([SYMBOLS_DEFAULT, *reversed(self._sets)])
        everything = list(dict.fromkeys(symbol for symbols in wanted for symbol in symbols))
        reply = (await self._market_data.quotes(everything, None)).reply
        for symbols in wanted:
            before = self._sets.get(symbols)
            if before is None and symbols != SYMBOLS_DEFAULT:
                continue  # pushed out while the quotes were on their way
            prepared = self._prepare(symbols, reply, started)
            prepared.asked_at = before.asked_at if before is not None else started
            self._sets[symbols] = prepared

    @asynccontextmanager
    async def running(self, interval_s: float = REFRESH_INTERVAL_S) -> AsyncIterator[None]:
        """Keep the board fresh while the block runs."""
        task = asyncio.create_task(self._keep_fresh(interval_s), name="quote-board")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _keep_fresh(self, interval_s: float) -> None:
        while True:
            try:
                await self.refresh()
            except SaudaError as error:
                log.warning("quote_board_stale", detail=error.detail)
            except Exception:
                log.exception("quote_board_failed")
            await asyncio.sleep(interval_s)

    def _prepare(self, symbols: tuple[str, ...], reply: QuotesReply, now: float) -> Prepared:
        body = encode_quotes(symbols, reply, self._environment)
        return Prepared(symbols, body, etag_of(body), refreshed_at=now, asked_at=now)


def etag_of(body: bytes) -> bytes:
    """A strong entity tag, quotes included."""
    return b'"' + hashlib.blake2b(body, digest_size=12).hexdigest().encode() + b'"'


def _fitting(sets: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The sets, in order and each once, that together stay within one request's limit of symbols."""
    taken: dict[tuple[str, ...], None] = {}
    symbols: set[str] = set()
    for candidate in sets:
        if len(symbols | set(candidate)) <= SYMBOLS_PER_REQUEST_MAX:
            taken[candidate] = None
            symbols |= set(candidate)
    return list(taken)


def encode_quotes(symbols: Sequence[str], reply: QuotesReply, environment: Environment) -> bytes:
    """The public quotes as JSON. `as_of` is the newest quote's instant, so that an unchanged market is unchanged bytes.

    Prices are strings in rupees with two to four decimals; `change_fraction` is of the previous close.
    """
    quotes = [reply.quotes[symbol] for symbol in symbols if symbol in reply.quotes]
    newest = max((quote.as_of for quote in quotes), default=None)
    return orjson.dumps(
        {
            "environment": environment.value,
            "as_of": newest.astimezone(IST).isoformat() if newest else None,
            "quotes": {quote.symbol: _quote(quote) for quote in quotes},
            "missing": {s: reply.missing.get(s, "no quote") for s in symbols if s not in reply.quotes},
        }
    )


def _quote(quote: Quote) -> dict[str, Any]:
    change = quote.last - quote.previous_close
    return {
        "symbol": quote.symbol,
        "as_of": quote.as_of.astimezone(IST).isoformat(),
        "source": quote.source,
        "last": rupees_text(quote.last),
        "bid": rupees_text(quote.bid),
        "ask": rupees_text(quote.ask),
        "open": rupees_text(quote.open),
        "high": rupees_text(quote.high),
        "low": rupees_text(quote.low),
        "previous_close": rupees_text(quote.previous_close),
        "change": rupees_text(change),
        "change_fraction": round(float(change / quote.previous_close), 6) if quote.previous_close else None,
        "volume": quote.volume,
        "lower_band": rupees_text(quote.lower_band),
        "upper_band": rupees_text(quote.upper_band),
    }
