"""The send path before a broker of its own process boundary: real HTTP, its own book, and counts of what arrived."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import httpx
from httpx_aiohttp import AiohttpTransport
from sqlalchemy import select, text

from backend.domain.market import OrderType, Product, Side
from backend.domain.orders import Intent, OrderState, manual_order_id
from backend.domain.risk import Approved, OrderIntent, check
from backend.models import BrokerAccount, Order, OrderOrigin
from backend.services.context import Trading
from backend.services.record_service import Recorded
from backend.services.send_service import FreshQuotes, Sending, send_one
from tests.support.broker_book import FIRST_CASH, Mode
from tests.support.broker_server import create_app, serving
from tests.support.http_broker import HttpBroker
from tests.support.market_server import Market

_keys = itertools.count(1)


@dataclass
class SendDesk:
    """A trading world whose accounts are at the misbehaving broker, and that broker's control."""

    trading: Trading
    market: Market
    http: httpx.AsyncClient
    url: str

    async def account(self, user_id: int) -> int:
        """Move a user's account to this broker."""
        async with self.trading.sessions.begin() as session:
            account = (await session.scalars(select(BrokerAccount).where(BrokerAccount.user_id == user_id))).one()
            account.broker = HttpBroker.name
            return account.id

    async def behave(self, *modes: Mode, **figures: float) -> None:
        body = {"account": None, "modes": list(modes)} | figures
        (await self.http.put(f"{self.url}/control/behaviour", json=body)).raise_for_status()

    async def control(self, what: str, **body: Any) -> None:
        (await self.http.post(f"{self.url}/control/{what}", json=body)).raise_for_status()

    async def truth(self) -> dict[str, Any]:
        return (await self.http.get(f"{self.url}/control/truth")).raise_for_status().json()

    async def arrivals(self) -> int:
        """Order requests that reached the broker, booked or not."""
        return len((await self.truth())["arrivals"])

    async def cancel_all(self) -> None:
        """The broker cancels whatever rests."""
        for order in (await self.truth())["orders"]:
            if order["status"] == "OPEN":
                await self.control("cancel", order_id=order["order_id"])

    async def recorded(
        self,
        user_id: int,
        symbol: str = "INFY",
        *,
        side: Side = Side.BUY,
        quantity: int = 10,
        price: Decimal | None = None,
    ) -> Sending:
        """An order that the first gate approved, on record as PENDING and not sent; at the last price by default."""
        trading, now = self.trading, self.market.now
        quote = (await trading.market_data.quotes([symbol], now)).quotes[symbol].view
        intent = Intent.ENTRY if side is Side.BUY else Intent.EXIT
        wanted = OrderIntent(symbol, "nse", side, Product.CNC, OrderType.LIMIT, quantity, price or quote.last, intent)
        approved = check(wanted, quote, now, cash_free=FIRST_CASH, held=quantity, limits=trading.rules.limits)
        assert isinstance(approved, Approved), approved
        name = manual_order_id(user_id, f"key {next(_keys)}")
        async with trading.sessions.begin() as session:
            account = (await session.scalars(select(BrokerAccount).where(BrokerAccount.user_id == user_id))).one()
            order = Order(
                client_order_id=name,
                origin=OrderOrigin.MANUAL,
                user_id=user_id,
                account_id=account.id,
                intent=intent,
                symbol=symbol,
                exchange=wanted.exchange,
                side=side,
                product=wanted.product,
                order_type=wanted.order_type,
                quantity=quantity,
                limit_price=wanted.limit_price,
                state=OrderState.PENDING,
                environment=trading.rules.environment.value,
                decided_at=now,
            )
            session.add(order)
            await session.flush()
        recorded = Recorded(order.id, name, user_id, account.id, approved, FIRST_CASH)
        return Sending(recorded, None, trading.brokers[account.broker], now)

    async def send(self, *sendings: Sending, within_s: float = 10.0) -> list[Order]:
        """Send recorded orders, all at once; what each came to."""
        quotes = FreshQuotes(self.trading, [sending.recorded.approved.order.symbol for sending in sendings])
        until = time.monotonic() + within_s
        at_once = asyncio.Semaphore(self.trading.rules.sends_at_once_max)
        await asyncio.gather(*(send_one(self.trading, sending, quotes, until, at_once) for sending in sendings))
        return await self.orders([sending.recorded.order_id for sending in sendings])

    async def send_new(self, user_id: int, symbol: str = "INFY", **wanted: Any) -> Order:
        """Record one order and send it."""
        (order,) = await self.send(await self.recorded(user_id, symbol, **wanted))
        return order

    async def orders(self, order_ids: Sequence[int] | None = None) -> list[Order]:
        """Orders as they are on record, oldest first; all of them by default."""
        query = select(Order).order_by(Order.id)
        async with self.trading.sessions() as session:
            return list(
                (await session.scalars(query if order_ids is None else query.where(Order.id.in_(order_ids)))).all()
            )

    async def let_time_pass(self, seconds: int) -> None:
        """Age what was sent, as the database's own clock counts it."""
        async with self.trading.sessions.begin() as session:
            await session.execute(
                text("UPDATE orders SET submitted_at = submitted_at - make_interval(secs => :s)"), {"s": seconds}
            )


@asynccontextmanager
async def open_send_desk(trading: Trading, market: Market) -> AsyncIterator[SendDesk]:
    """A `trading` world with the misbehaving broker in place of the paper broker."""
    with serving(create_app(lambda: market.now)) as url:
        async with httpx.AsyncClient(transport=AiohttpTransport()) as http:
            broker = HttpBroker(http, f"{url}/desk", timeout_s=1.0)
            there = replace(trading, brokers={broker.name: broker})
            yield SendDesk(there, market, http, f"{url}/desk")
