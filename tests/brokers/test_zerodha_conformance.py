"""Zerodha's adapter through the conformance suite, against a double of Kite Connect on loopback."""

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from backend.brokers.adapter import Access
from backend.brokers.base import BrokerUnavailableError
from backend.brokers.credential_fields import CredentialField
from backend.brokers.zerodha import Zerodha
from tests.brokers.conformance import EGRESS_IP, LIMIT, ORDERS, placed
from tests.brokers.rest_server import Break, Request, RestServer
from tests.brokers.wire_conformance import PATIENT_S, Sent, WireConformance, connected, http
from tests.support.broker_book import FIRST_CASH, Book
from tests.support.kite_server import API_KEY, API_SECRET, CLIENT_ID, KiteServer, book_id, resting

__all__ = ["http"]

ACCOUNT = 7
NOW = datetime(2024, 3, 18, 5, 0, tzinfo=UTC)


class KiteWorld:
    """One account at the double of Kite Connect."""

    login_path = "/session/token"
    logs_out_at = True

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.account_id = ACCOUNT
        self.credentials = {CredentialField.API_KEY: API_KEY, CredentialField.API_SECRET: API_SECRET}
        self.kite = KiteServer(resting(Book(lambda: NOW, time.monotonic)), {"todays-token": ACCOUNT})
        self.server = RestServer(self.kite.handle)
        self.access = Access(ACCOUNT, CLIENT_ID, API_KEY, "todays-token", http, EGRESS_IP)

    def connect(self) -> None:
        self.adapter = Zerodha(http=self.access.http, now=self.now, url=self.server.url, timeout_s=PATIENT_S)
        self.broker, self.accesses = connected(self.adapter, self.access)

    def now(self) -> datetime:
        return NOW

    async def seed(self, cash: Decimal, holdings: dict[str, int]) -> None:
        self.kite.cash_more = cash - FIRST_CASH
        self.kite.opening[ACCOUNT] = dict(holdings)

    async def fill(self, order_id: str, quantity: int) -> Decimal:
        self.kite.book.fill(book_id(order_id), quantity)
        return self.kite.book.orders[book_id(order_id)].trades[-1].price

    async def lapse(self, order_id: str) -> None:
        self.kite.book.orders[book_id(order_id)].status = "CANCELLED"

    async def reject(self, order_id: str, words: str) -> None:
        order = self.kite.book.orders[book_id(order_id)]
        order.status, order.message = "REJECTED", words

    async def refuse_next(self, words: str) -> None:
        self.kite.refusal = words

    async def end_session(self) -> None:
        for order in self.kite.book.orders.values():
            order.status = "CANCELLED" if order.status == "OPEN" else order.status

    async def expire_session(self) -> None:
        self.kite.sessions.clear()

    async def limit_rate(self, limited: bool) -> None:
        self.kite.limited = limited

    async def call_it(self, order_id: str, word: str) -> None:
        self.kite.words[book_id(order_id)] = word

    async def user_logs_in(self) -> Mapping[str, str]:
        return {"request_token": self.kite.log_in(ACCOUNT), "status": "success", "action": "login", "state": "s"}

    def shown(self, request: Request) -> Mapping[str, Any]:
        return request.form


ORDER_FIELDS = {"exchange": "NSE", "tradingsymbol": "INFY", "quantity": "10", "validity": "DAY", "product": "CNC"}
DOCUMENTED = {
    "limit": {"transaction_type": "BUY", "order_type": "LIMIT", "price": "1500.05", "tag": LIMIT.tag},
    "stop": {
        "transaction_type": "SELL",
        "order_type": "SL",
        "price": "1440",
        "trigger_price": "1450.5",
        "tag": "stop1",
    },
    "ioc": {
        "transaction_type": "BUY",
        "order_type": "LIMIT",
        "price": "1500.05",
        "validity": "IOC",
        "product": "MIS",
        "tag": "ioc1",
    },
    "market": {
        "transaction_type": "SELL",
        "order_type": "MARKET",
        "market_protection": "2.5",
        "algo_id": "42",
        "tag": "market1",
    },
}


class TestZerodha(WireConformance):
    documented = {name: Sent("POST", "/orders/regular", ORDER_FIELDS | own) for name, own in DOCUMENTED.items()}
    modified = Sent(
        "PUT",
        "/orders/regular/{order_id}",
        {"order_type": "LIMIT", "quantity": "8", "price": "1490.1", "validity": "DAY"},
    )
    cancelled = Sent("DELETE", "/orders/regular/{order_id}", {})
    report_paths = {
        "orders": ("/orders", "/trades"),
        "holdings": ("/portfolio/holdings", "/portfolio/positions"),
        "positions": ("/portfolio/positions",),
        "funds": ("/user/margins/equity",),
    }

    @pytest.fixture
    async def world(self, http: httpx.AsyncClient) -> AsyncIterator[KiteWorld]:
        world = KiteWorld(http)
        async with world.server:
            world.connect()
            yield world

    async def test_its_login_page_gets_our_state_back_to_us(self, world: KiteWorld, http: httpx.AsyncClient):
        url = httpx.URL(await world.adapter.login_url(http, world.credentials, "a b&c=d"))
        params = dict(url.params)
        assert (params["api_key"], params["v"]) == (API_KEY, "3")
        assert dict(httpx.QueryParams(params["redirect_params"])) == {"state": "a b&c=d"}

    @pytest.mark.parametrize(
        ("login", "end"),
        [
            ("2024-03-18T09:00:00+05:30", "2024-03-19T06:00:00+05:30"),
            ("2024-03-18T05:59:59+05:30", "2024-03-18T06:00:00+05:30"),
            ("2024-03-18T23:30:00+00:00", "2024-03-19T06:00:00+05:30"),
        ],
    )
    async def test_its_token_ends_at_six_in_the_morning(
        self, world: KiteWorld, http: httpx.AsyncClient, login: str, end: str
    ):
        returned = await world.user_logs_in()
        session = await world.adapter.log_in(http, world.credentials, returned, datetime.fromisoformat(login))
        assert session.ends_at == datetime.fromisoformat(end)

    async def test_a_share_of_another_series_trades_under_its_own_name(self, world: KiteWorld):
        await world.adapter.instruments()
        await placed(world, replace(LIMIT, symbol="63MOONS"))
        assert world.server.requests[-1].form["tradingsymbol"] == "63MOONS-BE"
        (order,) = await world.adapter.orders(world.access)
        assert order.symbol == "63MOONS"

    async def test_the_list_of_instruments_is_fetched_once_a_day_and_yesterdays_is_not_given(
        self, world: KiteWorld, http: httpx.AsyncClient
    ):
        clock = [datetime(2024, 3, 18, 3, 1, tzinfo=UTC)]
        adapter = Zerodha(http=http, now=lambda: clock[0], url=world.server.url, timeout_s=PATIENT_S)
        listed = await adapter.instruments()
        assert set(listed) == {("nse", s) for s in ("INFY", "TCS", "63MOONS", "AAKASH-SM")} | {("bse", "INFY")}
        clock[0] += timedelta(hours=23)
        await adapter.instruments()
        assert world.server.count("GET") == 2
        clock[0] += timedelta(hours=1)
        world.server.break_next(Break.CUT, "GET", "/instruments/BSE")
        with pytest.raises(BrokerUnavailableError, match="instruments"):
            await adapter.instruments()
        assert await adapter.instruments() == listed
        assert world.server.count("GET") == 6

    async def test_a_status_without_a_meaning_is_logged_once(self, world: KiteWorld):
        for word in ("LAPSED", "LAPSED", "FROZEN"):
            await world.call_it(await placed(world, replace(LIMIT, tag=word)), word)
        with capture_logs() as logs:
            await world.adapter.orders(world.access)
            await world.adapter.orders(world.access)
        told = [entry["status"] for entry in logs if entry["event"] == "order_status_unknown"]
        assert told == ["FROZEN", "LAPSED"]

    async def test_its_own_charges_are_told_for_what_was_executed(self, world: KiteWorld):
        bought = await placed(world)
        await placed(world, replace(LIMIT, tag="rests"))
        await world.fill(bought, 4)
        (charges,) = await world.adapter.charges(world.access, await world.adapter.orders(world.access))
        assert charges.stt == Decimal("6.0002")
        assert charges.gst == pytest.approx(charges.exchange_transaction * Decimal("0.18"))
        assert world.server.requests[-1].json[0]["average_price"] == Decimal("1500.05")

    async def test_a_protected_market_order_comes_back_as_a_limit_order(self, world: KiteWorld):
        await placed(world, ORDERS["market"])
        (order,) = await world.adapter.orders(world.access)
        assert order.limit_price == Decimal(1455)
