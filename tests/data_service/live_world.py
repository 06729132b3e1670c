"""A quote book over the real chain and real providers on loopback, with both clocks under control."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from decimal import Decimal

from provider_world import http_client

from data_service.breaker import BreakerLimits, Breakers
from data_service.chain import Chain, orders
from data_service.checks import QuoteContext
from data_service.metrics import Metrics
from data_service.providers.base import RawQuote
from data_service.providers.yahoo import Yahoo
from data_service.quote_book import QuoteBook
from data_service.sessions import IST, load_sessions
from tests.support.upstream_server import Reply, UpstreamServer, as_json

SESSIONS = load_sessions()
LIMITS = BreakerLimits(failures_in_row_max=2, open_s=10)


def ist_s(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=IST).timestamp())


NOW_S = ist_s("2026-11-18 11:00")
"""A Wednesday's session is under way."""


def chart(symbol: str, last: float, as_of_s: float, **meta) -> Reply:
    said = {"symbol": f"{symbol}.NS", "regularMarketPrice": last, "regularMarketTime": int(as_of_s), **meta}
    return as_json({"chart": {"result": [{"meta": said}], "error": None}})


def path(symbol: str) -> str:
    return f"/v8/finance/chart/{symbol}.NS"


def raw(symbol: str = "ACME", last: str = "100.00", as_of_s: float | None = NOW_S, **given) -> RawQuote:
    return RawQuote(symbol=symbol, source=given.pop("source", "kite"), as_of_s=as_of_s, last=Decimal(last), **given)


class Held(Yahoo):
    """Yahoo, whose answers wait until they are let go."""

    def __init__(self, *given, **named) -> None:
        super().__init__(*given, **named)
        self.asked, self.let_go = asyncio.Event(), asyncio.Event()
        self.let_go.set()

    async def quotes(self, symbols):
        found = await super().quotes(symbols)
        self.asked.set()
        await self.let_go.wait()
        return found


class LiveWorld:
    def __init__(self, http, server: UpstreamServer, shared=None) -> None:
        self.server, self.now_s, self.monotonic_s, self.running = server, float(NOW_S), 0.0, True
        self.metrics, self.accepted = Metrics(), []
        self.breakers = Breakers(lambda: self.monotonic_s, self.metrics.breaker, LIMITS)
        self.yahoo = Held(http, SESSIONS, lambda: self.now_s, base_url=server.url)
        clocks = {"monotonic_s": lambda: self.monotonic_s, "now_s": lambda: self.now_s}
        self.chain = Chain(orders([self.yahoo]), self.breakers, self.metrics, SESSIONS, **clocks)
        self.book = self.another(shared)

    def another(self, shared=None) -> QuoteBook:
        return QuoteBook(
            self.chain,
            self.context,
            monotonic_s=lambda: self.monotonic_s,
            refresh_s=2.0,
            deadline_s=2.0,
            shared=shared,
            on_accepted=self.accepted.append,
        )

    def context(self, _symbol: str, last, since) -> QuoteContext:
        return QuoteContext(
            now_s=self.now_s,
            age_s_max=60.0,
            session_running=self.running,
            tick=Decimal("0.05"),
            last_quote=last,
            unchanged_since_s=since,
        )

    def passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.monotonic_s += seconds

    def says(self, symbol: str, last: float, as_of_s: float | None = None, **meta) -> None:
        self.server.replies[path(symbol)] = chart(symbol, last, self.now_s if as_of_s is None else as_of_s, **meta)


@asynccontextmanager
async def live_world(shared=None):
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(http_client())
        server = await stack.enter_async_context(UpstreamServer())
        yield LiveWorld(http, server, shared)
