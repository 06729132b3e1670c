"""One paper account at the real paper broker, and the market it trades in, in the words of a trader."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncEngine

from backend.brokers.base import AccountSnapshot, OrderRequest
from backend.brokers.paper import PaperBroker
from backend.db import Sessions
from backend.domain.market import OrderType, Product, Side
from backend.domain.reconcile import BookOrder
from backend.models import BrokerAccount
from tests.support.market_server import Market

D = Decimal
CASH = D(500_000)
_tags = itertools.count(1)


@dataclass
class Desk:
    """One paper account at the real broker, and the market it trades in: INFY at 1499.95-1500.05, TCS at 4000."""

    broker: PaperBroker
    sessions: Sessions
    market: Market
    account: int
    start: datetime

    async def place(self, side: Side, quantity: int, limit: Decimal | int | str, /, **changes) -> str:
        tag = f"T{next(_tags)}"
        order = OrderRequest("INFY", "nse", side, Product.CNC, OrderType.LIMIT, quantity, D(limit), tag)
        return await self.broker.place(self.account, replace(order, **changes))

    async def buy(self, quantity: int, limit: Decimal | int | str, /, **changes) -> str:
        return await self.place(Side.BUY, quantity, limit, **changes)

    async def sell(self, quantity: int, limit: Decimal | int | str, /, **changes) -> str:
        return await self.place(Side.SELL, quantity, limit, **changes)

    async def book(self) -> dict[str, BookOrder]:
        (orders,) = (await self.broker.books([self.account], self.start - timedelta(days=1))).values()
        assert not isinstance(orders, Exception)
        return {order.broker_order_id: order for order in orders}

    async def funds(self) -> AccountSnapshot:
        (snapshot,) = (await self.broker.snapshots([self.account])).values()
        assert isinstance(snapshot, AccountSnapshot)
        return snapshot

    def bar(self, opened, high, low, volume: int = 100_000, symbol: str = "INFY") -> None:
        """A minute passes in which the stock trades between `high` and `low`."""
        minute = self.market.now.replace(second=0)
        self.market.stocks[symbol].bars.append((minute, D(opened), D(high), D(low), D(opened), volume))
        self.market.now += timedelta(minutes=1)


async def open_desk(trading, market: Market, make_user, sessions: Sessions, cash: Decimal = CASH) -> Desk:
    """A new user's account with `cash` rupees, at the broker of a `trading` world."""
    account = await account_of(sessions, await make_user(f"trader{next(_tags)}", cash=cash))
    return Desk(trading.brokers["paper"], sessions, market, account, market.now)


async def account_of(sessions: Sessions, user_id: int) -> int:
    async with sessions() as session:
        return (await session.scalars(select(BrokerAccount.id).where(BrokerAccount.user_id == user_id))).one()


@contextmanager
def statements(engine: AsyncEngine) -> Iterator[list[tuple[str, tuple]]]:
    """Every statement that reaches the database meanwhile, with its parameters."""
    seen: list[tuple[str, tuple]] = []

    def see(_connection, _cursor, statement, parameters, *_):
        seen.append((statement, parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", see)
    yield seen
    event.remove(engine.sync_engine, "before_cursor_execute", see)
