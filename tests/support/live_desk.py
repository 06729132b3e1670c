"""Live trading as it is wired: services, Zerodha's adapter and its account's login, before a double of Kite Connect."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import httpx
from argon2 import PasswordHasher
from sqlalchemy import select

from backend.brokers.connected import ConnectedBroker
from backend.brokers.credential_fields import CredentialField
from backend.brokers.zerodha import Zerodha
from backend.db import Sessions
from backend.models import BrokerAccount, ComplianceKind, ComplianceRecord, LivePermission, Order
from backend.security import Security
from backend.services.audit_service import SYSTEM
from backend.services.broker_access import BrokerAccesses, CallCounter, Egress
from backend.services.broker_credential_service import set_credentials
from backend.services.broker_login_service import BrokerLogins, finish_login
from backend.services.context import Trading
from backend.services.position_service import watch_positions
from backend.vault import Vault
from contracts.common import Environment
from tests.brokers.rest_server import Request, RestServer
from tests.support.broker_book import Book
from tests.support.kite_server import API_KEY, API_SECRET, KiteServer, book_id, resting
from tests.support.market_server import Market

EGRESS_IP = "192.0.2.7"
BROKER_ACCOUNT = 7
"""The double's own number of the account."""


@dataclass
class LiveDesk:
    """A trading world whose users trade real money at the double of Zerodha."""

    trading: Trading
    market: Market
    kite: KiteServer
    server: RestServer
    logins: BrokerLogins
    accesses: BrokerAccesses
    operator: Sessions

    def now(self) -> datetime:
        return self.market.now

    async def account(self, user_id: int, *, logged_in: bool = True) -> int:
        """Move a user's account to Zerodha, with credentials, compliance record and permission, and log it in."""
        async with self.operator.begin() as session:
            account = (await session.scalars(select(BrokerAccount).where(BrokerAccount.user_id == user_id))).one()
            account.broker = Zerodha.name
            session.add(LivePermission(user_id=user_id, confirmed_at=self.market.now))
            day = self.market.now.date()
            session.add(
                ComplianceRecord(
                    user_id=user_id,
                    kind=ComplianceKind.SELF_HOSTED_FAMILY,
                    broker=Zerodha.name,
                    algo_id="ALGO1",
                    egress_ip=EGRESS_IP,
                    approval="KYC 7",
                    approved_on=day,
                    valid_from=day,
                    valid_until=day.replace(year=day.year + 1),
                    recorded_by=user_id,
                )
            )
            await session.flush()
            given = {CredentialField.API_KEY: API_KEY, CredentialField.API_SECRET: API_SECRET}
            await set_credentials(session, self.logins.vault, SYSTEM, user_id, account.id, given)
        if logged_in:
            await self.log_in(user_id, account.id)
            await watch_positions(self.trading, {account.id})
        return account.id

    async def log_in(self, user_id: int, account_id: int) -> None:
        returned = {"request_token": self.kite.log_in(BROKER_ACCOUNT), "status": "success"}
        await finish_login(self.logins, SYSTEM, user_id, account_id, returned, self.market.now)

    def forms(self) -> list[dict[str, str]]:
        """The forms of the orders that arrived, in order."""
        placed = [r for r in self.server.requests if (r.method, r.path) == ("POST", "/orders/regular")]
        return [request.form for request in placed]

    def fill(self, order: Order, quantity: int | None = None) -> None:
        assert order.broker_order_id is not None
        self.kite.book.fill(book_id(order.broker_order_id), quantity)

    async def orders(self, **having: Any) -> list[Order]:
        """Orders on record, oldest first, of those with these values."""
        async with self.trading.sessions() as session:
            rows = await session.scalars(select(Order).filter_by(**having).order_by(Order.id))
            return list(rows.all())

    def requests(self, method: str | None = None) -> list[Request]:
        return [r for r in self.server.requests if method in (None, r.method)]


@asynccontextmanager
async def open_live_desk(trading: Trading, market: Market, operator: Sessions) -> AsyncIterator[LiveDesk]:
    """A `trading` world in the environment `live`, with every deployment switch on; `operator` sessions prepare it."""
    kite = KiteServer(resting(Book(lambda: market.now, time.monotonic)), {}, cash_more=Decimal(0))
    market.predicted_for = Environment.LIVE

    def now() -> datetime:
        return market.now

    egress = Egress({EGRESS_IP: "direct"})
    vault = Vault({"first": bytes(range(32))})
    security = Security("k" * 40, 10, now, PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    async with RestServer(kite.handle) as server, httpx.AsyncClient() as http:
        adapter = Zerodha(http=http, now=now, url=server.url)
        accesses = BrokerAccesses(trading.sessions, vault, egress, now)
        broker = ConnectedBroker(adapter, accesses, CallCounter(trading.sessions, adapter.rates))
        rules = replace(trading.rules, environment=Environment.LIVE, live_trading=True)
        live = replace(trading, brokers={**trading.brokers, broker.name: broker}, rules=rules)
        logins = BrokerLogins({adapter.name: adapter}, http, trading.sessions, vault, security)
        yield LiveDesk(live, market, kite, server, logins, accesses, operator)
    await egress.close()
