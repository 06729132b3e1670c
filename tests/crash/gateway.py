"""Gateways, traders and markets as processes of their own, for the proofs that need several of them at once."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import uvicorn
from argon2 import PasswordHasher
from httpx_aiohttp import AiohttpTransport

from backend import log
from backend.api.app import create_api
from backend.api.state import ApiState
from backend.db import APPLICATION_ROLE, create_engine, create_sessions, create_tenant_sessions
from backend.domain.calendar import standard_calendar
from backend.security import Security
from backend.services.context import Trading
from backend.services.market_calendar import MarketCalendar
from backend.services.market_data_client import MarketDataClient
from backend.services.ml_service_client import MlServiceClient
from backend.services.quote_board import QuoteBoard
from backend.services.streams import create_streams
from contracts.common import Environment
from tests.crash.children import Child, Say
from tests.crash.world import rules_with
from tests.support import market_server
from tests.support.broker_book import FIRST_CASH
from tests.support.http_broker import HttpBroker
from tests.support.market_server import Market, Stock

KEY = "a test key of more than thirty-two bytes"
TIMEOUT_S = 5.0
LISTEN_MAX = 1024


@dataclass(frozen=True, slots=True)
class Wires:
    """Where a process finds its database and its three services; each can be a proxy, or a place where nobody is."""

    database_url: str
    broker_url: str
    data_url: str
    ml_url: str


def security() -> Security:
    """Tokens for anybody: gateways and whoever calls them share the key, and stand still in time."""
    hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    return Security(KEY, 60, lambda: datetime(2026, 3, 2, 4, 0, tzinfo=UTC), hasher)


def bearer(user_id: int) -> dict[str, str]:
    """The headers that log a user in; the login bears the user's number, too."""
    return {"Authorization": f"Bearer {security().issue(user_id, user_id)}"}


NEVER = datetime(2100, 1, 1, tzinfo=UTC)
"""When these logins end."""


@asynccontextmanager
async def wired(wires: Wires, trader: str, lease_s: float) -> AsyncIterator[Trading]:
    """The trading world as the composition root wires it for a simulated market, with the misbehaving broker."""
    engine = create_engine(wires.database_url)
    async with httpx.AsyncClient(transport=AiohttpTransport()) as http:
        market_data = MarketDataClient(http, wires.data_url, TIMEOUT_S)
        calendar = MarketCalendar(standard_calendar())
        calendar.know(await market_data.load_instruments())

        async def clock() -> datetime:
            return (await market_data.clock()).now

        yield Trading(
            sessions=create_sessions(engine),
            brokers={HttpBroker.name: HttpBroker(http, wires.broker_url)},
            market_data=market_data,
            ml_service=MlServiceClient(http, wires.ml_url, TIMEOUT_S),
            calendar=calendar,
            rules=rules_with({"lease_s": lease_s}, trader, shards=1),
            clock=clock,
            announce=lambda _: None,
        )
    await engine.dispose()


def gateway(wires: Wires, say: Say) -> None:
    """The REST API on a free loopback port, until killed; it says its URL."""

    async def serve() -> None:
        async with wired(wires, "gateway", TIMEOUT_S) as trading:
            board = QuoteBoard(trading.market_data, Environment.SIMULATED)
            api_sessions = create_tenant_sessions(create_engine(wires.database_url, role=APPLICATION_ROLE))
            state = ApiState(
                sessions=api_sessions,
                trading=replace(trading, sessions=api_sessions),
                desk=trading,
                security=security(),
                quote_board=board,
                streams=create_streams(board, trading.market_data, trading.calendar, Environment.SIMULATED),
                paper_deposit_rupees=FIRST_CASH,
                cors_origins=(),
                environment=Environment.SIMULATED,
            )
            with socket.create_server(("127.0.0.1", 0), backlog=LISTEN_MAX) as listener:
                say(f"http://127.0.0.1:{listener.getsockname()[1]}")
                config = uvicorn.Config(create_api(state), log_level="warning", lifespan="off")
                await uvicorn.Server(config).serve(sockets=[listener])

    log.configure("INFO", None)
    asyncio.run(serve())


def market(now: datetime, symbols: tuple[str, ...], say: Say) -> None:
    """What speaks as data_service and as ml_service until killed; every symbol is worth buying. It says its URL."""
    stocks = {symbol: Stock(Decimal(1000)) for symbol in symbols}
    with market_server.serving(market_server.create_app(Market(now, stocks))) as url:
        say(url)
        signal.pause()


def first(child: Child) -> Any:
    """The first thing a child says."""
    return words(child, 1)[0]


def words(child: Child, count: int) -> list[Any]:
    """What a child has said, once it is so much; a child that ended says no more."""
    while len(child.said()) < count and child.hear():
        pass
    return child.said()
