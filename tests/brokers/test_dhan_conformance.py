"""Dhan through the suite that every broker passes, against a server built from its documents."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from backend.brokers.adapter import Access
from backend.brokers.base import OrderRejectedError, RateLimitedError, SessionExpiredError
from backend.brokers.credential_fields import CredentialField
from backend.brokers.dhan import Dhan
from backend.domain.reconcile import BookStatus
from backend.errors import InvalidRequestError
from tests.brokers.conformance import LIMIT, TAG, placed
from tests.brokers.rest_server import Break, Request, RestServer
from tests.brokers.wire_conformance import CHANGE, LOST, PATIENT_S, Sent, WireConformance, break_next, connected, http
from tests.support.dhan_server import API_KEY, API_SECRET, CLIENT_ID, INFY
from tests.support.dhan_server import Dhan as Double
from tests.support.upstox_trading_book import State

__all__ = ["http"]

TOKEN = "eyJhbGciOiJIUzUxMiJ9.of-this-morning"
EMPTY_LISTS = ("orders", "holdings", "positions")


class DhanWorld:
    """The adapter, an open session, and the double."""

    account_id = 7
    login_path = "/app/consumeApp-consent"
    logs_out_at = False

    def __init__(self, double: Double, server: RestServer, http: httpx.AsyncClient) -> None:
        self.double, self.server = double, server
        self.adapter = Dhan(
            http=http,
            now=lambda: datetime.now(UTC),
            url=f"{server.url}/v2",
            login_url=server.url,
            file_url=f"{server.url}/api-scrip-master-detailed.csv",
            timeout_s=PATIENT_S,
        )
        self.access = Access(self.account_id, CLIENT_ID, API_KEY, TOKEN, http, LIMIT.egress_ip)
        self.broker, self.accesses = connected(self.adapter, self.access)
        self.credentials = {
            CredentialField.CLIENT_ID: CLIENT_ID,
            CredentialField.API_KEY: API_KEY,
            CredentialField.API_SECRET: API_SECRET,
        }
        double.tokens.add(TOKEN)
        double.expiry = f"{double.book.now() + timedelta(hours=24):%Y-%m-%dT%H:%M:%S.000}"

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
        token_id = f"token-id-{len(self.double.token_ids)}"
        self.double.token_ids.add(token_id)
        return {"tokenId": token_id}

    def shown(self, request: Request) -> Mapping[str, Any]:
        return request.json if request.body else request.query


def asked(**fields: Any) -> Sent:
    usual = {
        "dhanClientId": CLIENT_ID,
        "correlationId": TAG,
        "transactionType": "BUY",
        "exchangeSegment": "NSE_EQ",
        "productType": "CNC",
        "orderType": "LIMIT",
        "validity": "DAY",
        "securityId": INFY,
        "quantity": 10,
        "price": Decimal("1500.05"),
        "afterMarketOrder": False,
    }
    return Sent("POST", "/v2/orders", usual | fields)


class TestDhan(WireConformance):
    documented = {
        "limit": asked(),
        "stop": asked(
            transactionType="SELL",
            orderType="STOP_LOSS",
            price=1440,
            triggerPrice=Decimal("1450.5"),
            correlationId="stop1",
        ),
        "ioc": asked(productType="INTRADAY", validity="IOC", correlationId="ioc1"),
        "market": asked(transactionType="SELL", orderType="MARKET", price=0, correlationId="market1"),
    }
    modified = Sent(
        "PUT",
        "/v2/orders/{order_id}",
        {
            "dhanClientId": CLIENT_ID,
            "orderId": "{order_id}",
            "orderType": "LIMIT",
            "quantity": CHANGE.quantity,
            "price": CHANGE.limit_price,
            "validity": "DAY",
        },
    )
    cancelled = Sent("DELETE", "/v2/orders/{order_id}", {})
    report_paths = {
        "orders": ("/v2/orders", "/v2/trades"),
        "holdings": ("/v2/holdings",),
        "positions": ("/v2/positions",),
        "funds": ("/v2/fundlimit",),
    }

    @pytest.fixture
    async def world(self) -> AsyncIterator[DhanWorld]:
        double = Double()
        async with RestServer(double.handle) as server, httpx.AsyncClient(timeout=2, verify=False) as http:
            world = DhanWorld(double, server, http)
            await world.adapter.instruments()
            yield world

    @pytest.mark.parametrize("report", [*EMPTY_LISTS, "funds"])
    @pytest.mark.parametrize("kind", LOST)
    async def test_a_failed_part_of_a_report_fails_all_of_it(self, world: DhanWorld, report: str, kind: Break):
        if kind is Break.LIST and report in EMPTY_LISTS:
            return await self.an_empty_list_is_a_whole_report(world, report)
        return await super().test_a_failed_part_of_a_report_fails_all_of_it(world, report, kind)

    async def an_empty_list_is_a_whole_report(self, world: DhanWorld, report: str) -> None:
        """Dhan's lists have no envelope: an empty one is what it says of a day without orders."""
        break_next(world, Break.LIST, "GET", self.report_paths[report][0])
        assert list(await getattr(world.adapter, report)(world.access)) == []

    async def test_an_empty_depository_is_no_failure(self, world: DhanWorld):
        world.double.book.holdings = {}
        assert list(await world.adapter.holdings(world.access)) == []

    async def test_an_order_is_found_by_its_tag_with_its_executions(self, world: DhanWorld):
        assert await world.adapter.order_by_tag(world.access, TAG) is None
        order_id = await placed(world)
        found = await world.adapter.order_by_tag(world.access, TAG)
        assert found is not None
        assert (found.broker_order_id, found.status, found.trades) == (order_id, BookStatus.OPEN, ())
        for filled in (4, 6):
            await world.fill(order_id, filled)
            found = await world.adapter.order_by_tag(world.access, TAG)
            (listed,) = await world.adapter.orders(world.access)
            assert found == listed
        assert found.status is BookStatus.COMPLETE

    async def test_what_is_on_its_way_is_neither_found_nor_cancelled_yet(self, world: DhanWorld):
        order_id = await placed(world)
        world.double.in_transit = True
        assert await world.adapter.order_by_tag(world.access, TAG) is None
        with pytest.raises(OrderRejectedError, match="Transit"):
            await world.adapter.cancel(world.access, order_id)

    async def test_the_look_up_by_tag_fails_as_reports_do(self, world: DhanWorld):
        world.double.limited = True
        with pytest.raises(RateLimitedError):
            await world.adapter.order_by_tag(world.access, TAG)
        world.double.limited = False
        world.double.tokens.clear()
        with pytest.raises(SessionExpiredError):
            await world.adapter.order_by_tag(world.access, TAG)

    async def test_a_login_as_another_client_opens_nothing(self, world: DhanWorld, http: httpx.AsyncClient):
        world.double.logs_in = "1100009999"
        returned = await world.user_logs_in()
        with pytest.raises(InvalidRequestError, match="another client"):
            await world.adapter.log_in(http, world.credentials, returned, datetime.now(UTC))

    async def test_the_login_is_begun_by_a_consent(self, world: DhanWorld, http: httpx.AsyncClient):
        url = await world.adapter.login_url(http, world.credentials, "unused")
        assert url == f"{world.server.url}/login/consentApp-login?consentAppId={world.double.consents[-1]}"
        (request,) = [request for request in world.server.requests if request.path == "/app/generate-consent"]
        assert (request.method, dict(request.query)) == ("POST", {"client_id": CLIENT_ID})
