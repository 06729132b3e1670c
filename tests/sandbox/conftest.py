"""A sandbox over the real paper broker, database and HTTP: the market is the test's, a client comes over loopback."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp

from backend.brokers.paper import PaperBroker
from backend.brokers.paper_market import BROKER_LIKE
from backend.sandbox.app import create_sandbox
from backend.sandbox.limits import CallLimits
from backend.sandbox.world import World
from backend.services.audit_service import Actor
from backend.services.sandbox_key_service import SandboxKey, make_key
from backend.vault import Vault
from tests.services.conftest import make_user, market, trading
from tests.support.market_server import Market
from tests.support.paper_desk import account_of

__all__ = ["make_user", "market", "trading"]

REDIRECT = "http://127.0.0.1:9/after?x=1"
NOON = datetime(2026, 11, 23, 6, 30, tzinfo=UTC)


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    """The app on a free port of loopback, in this event loop; yields its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await running


@dataclass
class Kite:
    """A client that is logged in, in the words of the documents."""

    url: str
    http: httpx.AsyncClient
    world: World
    market: Market
    key: SandboxKey
    account: int
    user: int
    now: list[datetime]
    token: str = ""

    async def ask(self, method: str, path: str, *, status: int = 200, **kwargs: Any) -> Any:
        """The data of an answer, or the whole envelope of an error that is expected."""
        headers = {"Authorization": f"token {self.key.api_key}:{self.token}", "X-Kite-Version": "3"}
        reply = await self.http.request(method, self.url + path, headers=headers, **kwargs)
        assert reply.status_code == status, reply.text
        said = reply.json()
        assert said["status"] == ("success" if status == 200 else "error")
        return said["data"] if status == 200 else said

    async def refused(self, method: str, path: str, status: int, kind: str, **kwargs: Any) -> str:
        said = await self.ask(method, path, status=status, **kwargs)
        assert said["error_type"] == kind
        return said["message"]

    async def request_token(self) -> str:
        """Log in on the page with a click; what the redirect brings back."""
        asked = {"api_key": self.key.api_key, "v": "3", "redirect_params": "state=s1"}
        reply = await self.http.post(f"{self.url}/connect/login", params=asked)
        assert reply.status_code == 302
        back = urlsplit(reply.headers["location"])
        told = parse_qs(back.query)
        assert (back.path, told["x"], told["state"], told["status"]) == ("/after", ["1"], ["s1"], ["success"])
        return told["request_token"][0]

    def checksum(self, request_token: str) -> str:
        return sha256((self.key.api_key + request_token + self.key.api_secret).encode()).hexdigest()

    async def log_in(self) -> dict[str, Any]:
        token = await self.request_token()
        form = {"api_key": self.key.api_key, "request_token": token, "checksum": self.checksum(token)}
        session = await self.ask("POST", "/session/token", data=form)
        self.token = session["access_token"]
        return session

    async def place(self, quantity: int = 10, price: float | str = 1510, **changes: Any) -> str:
        return (await self.ask("POST", "/orders/regular", data=order(quantity, price, **changes)))["order_id"]

    async def found(self, order_id: str) -> dict[str, Any]:
        (row,) = [row for row in await self.ask("GET", "/orders") if row["order_id"] == order_id]
        return row

    def bar(self, opened: int, high: int, low: int, volume: int = 100_000) -> None:
        from tests.support.paper_desk import D

        minute = self.market.now.replace(second=0)
        self.market.stocks["INFY"].bars.append((minute, D(opened), D(high), D(low), D(opened), volume))
        self.market.now += timedelta(minutes=1)


def order(quantity: int = 10, price: float | str = 1510, **changes: Any) -> dict[str, Any]:
    plain = {
        "exchange": "NSE",
        "tradingsymbol": "INFY",
        "transaction_type": "BUY",
        "quantity": quantity,
        "product": "CNC",
        "order_type": "LIMIT",
        "price": price,
        "validity": "DAY",
    }
    return {name: value for name, value in (plain | changes).items() if value is not None}


@pytest.fixture
def pulse_s() -> float:
    """Between looks at the market of its own accord; who waits for one has it look more often."""
    return 30.0


@pytest.fixture
async def kite(trading, market, make_user, sessions, pulse_s) -> AsyncIterator[Kite]:
    """A client with a new account of five lakh rupees, not logged in yet."""
    user = await make_user("client")
    account = await account_of(sessions, user)
    paper = replace(trading.brokers["paper"]._market, hours=trading.calendar)
    vault, now = Vault({"test": os.urandom(32)}), [NOON]
    async with httpx.AsyncClient() as http:
        world = World(
            sessions=trading.sessions,
            broker=PaperBroker(trading.sessions, paper, rules=BROKER_LIKE),
            market_data=trading.market_data,
            calendar=trading.calendar,
            clock=trading.clock,
            now=lambda: now[0],
            vault=vault,
            postbacks=http,
            limits=CallLimits(enforced=False),
        )
        async with sessions.begin() as session:
            key = await make_key(session, vault, Actor("test", user, ""), user, account, REDIRECT)
        async with served(create_sandbox(world, pulse_s=pulse_s)) as url:
            yield Kite(url, http, world, market, key, account, user, now)


@pytest.fixture
async def client(kite: Kite) -> Kite:
    """As `kite`, logged in."""
    await kite.log_in()
    return kite
