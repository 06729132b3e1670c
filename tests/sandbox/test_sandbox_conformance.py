"""Zerodha's adapter through the conformance suite, against the sandbox over real HTTP."""

from datetime import datetime
from decimal import Decimal

import pytest

from backend.brokers.adapter import Access
from backend.brokers.paper_ledger import CASH, Posting, balances, post
from backend.brokers.zerodha import Zerodha
from backend.db import lock_account
from backend.domain.reconcile import BookStatus
from backend.models.paper import PaperEntryKind
from tests.brokers.conformance import EGRESS_IP, TradingConformance, book_of, placed
from tests.brokers.wire_conformance import connected
from tests.sandbox.conftest import Kite
from tests.support.paper_desk import D


class SandboxWorld:
    """One account behind the sandbox. Nothing trades until a bar is made to: the quote's own minute has no volume."""

    def __init__(self, kite: Kite) -> None:
        self.kite, self.account_id = kite, kite.account
        kite.market.stocks["INFY"].last, kite.market.stocks["INFY"].bar_volume = D(1505), 0
        access = Access(kite.account, "", kite.key.api_key, kite.token, kite.http, EGRESS_IP)
        self.broker, _ = connected(Zerodha(http=kite.http, now=lambda: kite.now[0], url=kite.url), access)

    def now(self) -> datetime:
        return self.kite.market.now

    async def seed(self, cash: Decimal, holdings: dict[str, int]) -> None:
        async with self.kite.world.sessions.begin() as session:
            await lock_account(session, self.account_id)
            has = (await balances(session, [self.account_id]))[self.account_id][CASH]
            shares = [Posting(symbol, PaperEntryKind.DEPOSIT, D(held)) for symbol, held in holdings.items()]
            given = [Posting(CASH, PaperEntryKind.DEPOSIT, cash - has), *shares]
            await post(session, self.account_id, given, self.kite.market.now)

    async def fill(self, order_id: str, quantity: int) -> Decimal:
        (order,) = [order for order in await book_of(self) if order.broker_order_id == order_id]
        assert order.limit_price is not None
        limit = int(order.limit_price)
        self.kite.bar(limit, limit + 1, limit - 1, volume=quantity * 10)
        (order,) = [order for order in await book_of(self) if order.broker_order_id == order_id]
        return order.trades[-1].price

    async def lapse(self, order_id: str) -> None:
        await self.end_session()

    async def reject(self, order_id: str, words: str) -> None:
        raise NotImplementedError("the sandbox refuses on arrival")

    async def refuse_next(self, words: str) -> None:
        assert words.startswith("Insufficient funds")
        await self.seed(D(0), {})

    async def end_session(self) -> None:
        self.kite.market.now = self.kite.market.now.replace(hour=15, minute=45)


class TestSandboxThroughZerodha(TradingConformance):
    lacks = {
        "test_an_order_may_be_refused_after_it_was_taken": "the paper exchange refuses on arrival or not at all",
    }

    @pytest.fixture
    async def world(self, client: Kite) -> SandboxWorld:
        return SandboxWorld(client)

    async def test_the_log_of_a_lapsed_order_is_the_brokers_own(self, world: SandboxWorld):
        order_id = await placed(world)
        await world.end_session()
        (order,) = await book_of(world)
        assert (order.broker_order_id, order.status) == (order_id, BookStatus.CANCELLED)
        assert order.message == "day order: the session has ended"
