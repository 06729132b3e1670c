"""Upstox through the suite that every broker passes, against a server built from its documents."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest

from backend.brokers.adapter import Access
from backend.brokers.credential_fields import CredentialField
from backend.brokers.upstox import Upstox
from tests.brokers.conformance import LIMIT, ORDERS, TAG, placed
from tests.brokers.rest_server import Request, RestServer
from tests.brokers.wire_conformance import CHANGE, PATIENT_S, Sent, WireConformance, connected, http
from tests.support.upstox_trading_book import State
from tests.support.upstox_trading_server import API_KEY, API_SECRET, INFY, REDIRECT_URL, USER_ID
from tests.support.upstox_trading_server import Upstox as Double

__all__ = ["http"]

TOKEN = "eyJ0eXAiOiJKV1Qi.of-this-morning"


class UpstoxWorld:
    """The adapter, an open session, and the double."""

    account_id = 7
    login_path = "/v2/login/authorization/token"
    logs_out_at = True

    def __init__(self, double: Double, server: RestServer, http: httpx.AsyncClient) -> None:
        self.double, self.server = double, server
        self.adapter = Upstox(
            http=http,
            now=lambda: datetime.now(UTC),
            redirect_url=REDIRECT_URL,
            url=server.url,
            orders_url=server.url,
            login_url=f"{server.url}/v2/login/authorization/dialog",
            files_url=server.url,
            timeout_s=PATIENT_S,
        )
        self.access = Access(self.account_id, USER_ID, API_KEY, TOKEN, http, LIMIT.egress_ip)
        self.broker, self.accesses = connected(self.adapter, self.access)
        self.credentials = {CredentialField.API_KEY: API_KEY, CredentialField.API_SECRET: API_SECRET}
        double.tokens.add(TOKEN)

    def now(self) -> datetime:
        return self.double.book.now()

    async def seed(self, cash: Decimal, holdings: dict[str, int]) -> None:
        self.double.book.cash, self.double.book.holdings = cash, holdings

    async def fill(self, order_id: str, quantity: int) -> Decimal:
        return self.double.book.fill(order_id, quantity)

    async def lapse(self, order_id: str) -> None:
        self.double.book.end(order_id, State.CANCELLED)

    async def reject(self, order_id: str, words: str) -> None:
        self.double.book.end(order_id, State.REJECTED, words)

    async def refuse_next(self, words: str) -> None:
        self.double.book.refusal = words

    async def end_session(self) -> None:
        self.double.book.end_session(State.EXPIRED)

    async def expire_session(self) -> None:
        self.double.tokens.clear()

    async def limit_rate(self, limited: bool) -> None:
        self.double.limited = limited

    async def call_it(self, order_id: str, word: str) -> None:
        self.double.book.change(order_id, word=word)

    async def user_logs_in(self) -> Mapping[str, str]:
        code = f"code-{len(self.double.codes)}"
        self.double.codes.add(code)
        return {"code": code, "state": "state-of-ours"}

    def shown(self, request: Request) -> Mapping[str, Any]:
        return request.json if request.body else request.query


def asked(**fields: Any) -> Sent:
    usual = {
        "quantity": 10,
        "product": "D",
        "validity": "DAY",
        "price": Decimal("1500.05"),
        "tag": TAG,
        "instrument_token": INFY,
        "order_type": "LIMIT",
        "transaction_type": "BUY",
        "disclosed_quantity": 0,
        "trigger_price": 0,
        "is_amo": False,
        "slice": False,
    }
    return Sent("POST", "/v3/order/place", usual | fields)


class TestUpstox(WireConformance):
    documented = {
        "limit": asked(),
        "stop": asked(
            transaction_type="SELL", order_type="SL", price=1440, trigger_price=Decimal("1450.5"), tag="stop1"
        ),
        "ioc": asked(product="I", validity="IOC", tag="ioc1"),
        "market": asked(
            transaction_type="SELL", order_type="MARKET", price=0, tag="market1", market_protection=Decimal("2.5")
        ),
    }
    modified = Sent(
        "PUT",
        "/v3/order/modify",
        {
            "order_id": "{order_id}",
            "quantity": CHANGE.quantity,
            "validity": "DAY",
            "price": CHANGE.limit_price,
            "order_type": "LIMIT",
            "trigger_price": 0,
        },
    )
    cancelled = Sent("DELETE", "/v3/order/cancel", {"order_id": "{order_id}"})
    report_paths = {
        "orders": ("/v2/order/retrieve-all", "/v2/order/trades/get-trades-for-day"),
        "holdings": ("/v2/portfolio/long-term-holdings",),
        "positions": ("/v2/portfolio/short-term-positions",),
        "funds": ("/v3/user/get-funds-and-margin",),
    }

    @pytest.fixture
    async def world(self) -> AsyncIterator[UpstoxWorld]:
        double = Double()
        async with RestServer(double.handle) as server, httpx.AsyncClient(timeout=2, verify=False) as http:
            world = UpstoxWorld(double, server, http)
            await world.adapter.instruments()
            yield world

    async def test_the_algos_name_goes_with_the_order_that_has_one(self, world: UpstoxWorld):
        await placed(world, ORDERS["market"])
        await placed(world)
        assert [request.headers.get("x-algo-name") for request in world.server.requests[-2:]] == ["42", None]
