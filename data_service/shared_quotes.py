"""Quotes shared between several data_services through Redis, so that an upstream's limit is spent once for all.

Keys hold no tenant and no user: `sauda:quote:{environment}:{symbol}`. Without Redis, or while it is away, each service
asks the providers itself; nothing else changes.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from decimal import Decimal
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from data_service.breaker import Breaker
from data_service.providers.base import RawQuote

log = structlog.get_logger(__name__)

TIMEOUT_S = 0.2
NUMBERS = frozenset({"last", "bid", "ask", "open", "high", "low", "previous_close", "lower_band", "upper_band"})


def encoded(quote: RawQuote) -> bytes:
    """A quote as JSON; prices are decimal strings."""
    return json.dumps(asdict(quote), default=str).encode()


def decoded(content: bytes) -> RawQuote | None:
    """The quote, None where the content is not one."""
    try:
        found: dict[str, Any] = json.loads(content)
        known = {field.name: found[field.name] for field in fields(RawQuote)}
        prices = {name: None if known[name] is None else Decimal(known[name]) for name in NUMBERS}
        volume = None if known["volume"] is None else int(known["volume"])
        as_of_s = None if known["as_of_s"] is None else float(known["as_of_s"])
        quote = RawQuote(**{**known, **prices, "volume": volume, "as_of_s": as_of_s})
    except (ValueError, ArithmeticError, KeyError, TypeError, RecursionError):
        return None
    return quote if isinstance(quote.symbol, str) and isinstance(quote.source, str) else None


class SharedQuotes:
    """A cache that may be away: reading then finds nothing, writing does nothing, and a breaker spares the waiting."""

    def __init__(self, url: str, environment: str, breaker: Breaker, *, kept_s: float) -> None:
        """A quote is there for `kept_s` seconds: as long as a service would serve its own, so that one which takes it
        over serves nothing that is older than twice that."""
        # The client's own retries would wait for seconds; who finds Redis away asks the providers at once.
        self._redis = Redis.from_url(
            url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
        )
        self._prefix, self._breaker = f"sauda:quote:{environment}:", breaker
        self._kept_ms = max(round(kept_s * 1000), 1)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._redis.aclose()

    async def get(self, symbols: Sequence[str]) -> Mapping[str, RawQuote]:
        """The shared quotes of the symbols; whether they are to be believed is the caller's to judge."""
        found = await self._guarded(self._redis.mget([f"{self._prefix}{symbol}" for symbol in symbols]))
        quotes = (decoded(content) for content in found or () if content is not None)
        return {quote.symbol: quote for quote in quotes if quote is not None and quote.symbol in symbols}

    async def put(self, quotes: Sequence[RawQuote]) -> None:
        """Share accepted quotes."""
        pipeline = self._redis.pipeline(transaction=False)
        for quote in quotes:
            pipeline.set(f"{self._prefix}{quote.symbol}", encoded(quote), px=self._kept_ms)
        await self._guarded(pipeline.execute())

    async def _guarded(self, call: Any) -> Any:
        permit = self._breaker.ask()
        if permit is None:
            call.close()
            return None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await call
        except Exception as error:  # whatever is wrong with a cache, quotes come without it
            self._breaker.failed(permit)
            log.warning("redis_away", error=type(error).__name__)
            return None
        except BaseException:
            self._breaker.abandoned(permit)
            raise
        self._breaker.succeeded(permit)
        return answer
