"""One account's odd report or slow cancel is that account's trouble: everybody else's orders and books go on."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from backend.domain.market import OrderType, Product, Side
from backend.domain.orders import OrderState
from backend.models import Order
from backend.services import ledger_service
from backend.services.auto_trading_service import run_cycle
from backend.services.position_service import watch_positions
from backend.services.reconcile_service import reconcile
from tests.support.paper_desk import account_of


class Wrapped:
    """The paper broker with one of its calls changed."""

    name = "paper"
    real_money = False
    absence_is_proof_after_s = 10.0

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


async def states(trading) -> Sequence[OrderState]:
    async with trading.sessions() as session:
        return (await session.scalars(select(Order.state).order_by(Order.account_id))).all()


@pytest.mark.parametrize(
    "odd", [{"quantity": 0}, {"trade_id": "9" * 60}, {"price": Decimal("1e40")}], ids=["no shares", "long id", "price"]
)
async def test_a_trade_that_cannot_be_kept_leaves_other_accounts_settled(trading, market, make_user, odd) -> None:
    first, _ = await make_user("asha", symbols=("INFY",)), await make_user("ravi", symbols=("INFY",))
    victim = await account_of(trading.sessions, first)

    class Odd(Wrapped):
        async def books(self, account_ids, since, tags=None):
            books = dict(await self._real.books(account_ids, since, tags))
            books[victim] = [
                replace(o, trades=tuple(replace(t, **odd) for t in o.trades)) for o in books.get(victim, ())
            ]
            return books

    strange = replace(trading, brokers={"paper": Odd(trading.brokers["paper"])})
    await run_cycle(strange, market.now)
    report = await reconcile(strange)
    assert len(report.unsettled) == 1
    assert (await states(trading))[1] is OrderState.FILLED
    await reconcile(trading)
    assert await states(trading) == [OrderState.FILLED, OrderState.FILLED]


async def test_a_holding_that_cannot_be_kept_leaves_other_accounts_aligned(trading, make_user) -> None:
    first, second = await make_user("asha"), await make_user("ravi")
    victim, other = [await account_of(trading.sessions, user) for user in (first, second)]

    class Odd(Wrapped):
        async def snapshots(self, account_ids):
            snapshots = dict(await self._real.snapshots(account_ids))
            snapshots[victim] = replace(snapshots[victim], holdings={"A-NAME-LONGER-THAN-ANY-SHARE": 5})
            snapshots[other] = replace(snapshots[other], holdings={"TCS": 5})
            return snapshots

    report = await watch_positions(replace(trading, brokers={"paper": Odd(trading.brokers["paper"])}))
    assert (report.failed_accounts, report.aligned) == ({victim}, 1)
    async with trading.sessions() as session:
        books = await ledger_service.books_of(session, [victim, other])
    assert (books[victim].shares, books[other].shares) == ({}, {"TCS": 5})


async def test_cancels_are_asked_for_side_by_side(trading, market, make_user) -> None:
    """Each of two cancels is answered only once the broker has been asked for both."""
    await make_user("asha", symbols=("INFY",))
    await make_user("ravi", symbols=("INFY",))
    both = asyncio.Barrier(2)

    class Slow(Wrapped):
        async def place(self, account_id, order):
            assert (order.side, order.order_type, order.product) == (Side.BUY, OrderType.LIMIT, Product.CNC)
            return await self._real.place(account_id, replace(order, limit_price=Decimal(1400)))

        async def cancel(self, account_id, broker_order_id):
            async with asyncio.timeout(1):
                await both.wait()
            await self._real.cancel(account_id, broker_order_id)

    slow = replace(trading, brokers={"paper": Slow(trading.brokers["paper"])})
    await run_cycle(slow, market.now)
    assert await states(trading) == [OrderState.ACCEPTED] * 2
    market.now += timedelta(minutes=11)
    await reconcile(slow)
    await reconcile(slow)
    assert await states(trading) == [OrderState.CANCELLED] * 2
