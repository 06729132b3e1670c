"""Cancelling open orders at the brokers, a few at a time within a deadline; reconciliation goes on with the rest."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import structlog
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from backend.domain.orders import LIVE_STATES, OrderState
from backend.errors import SaudaError
from backend.models import AutoTrade, BrokerAccount, Order
from backend.services.context import Trading
from backend.services.reconcile_service import ask_cancel, reconcile, request_cancel

log = structlog.get_logger()

CANCEL_S_MAX = 0.7
"""Real seconds for all of it: whoever cancels has an answer within a second."""
CLOCK_S_MAX = 0.1
CANCELS_AT_ONCE_MAX = 4

SENT_STATES = LIVE_STATES - {OrderState.PENDING}
"""States in which an order is, or may be, at the broker."""


@dataclass(frozen=True, slots=True)
class OpenOrder:
    """An order that may still fill, as a cancel needs it."""

    id: int
    account_id: int
    broker: str
    broker_order_id: str | None
    state: OrderState
    decided_at: datetime


@dataclass(slots=True)
class CancelCounts:
    """Of the orders that were open: those whose cancel is recorded as wanted, those whose broker took the request, and
    those not known to be over yet, which reconciliation goes on with."""

    open: int = 0
    requested: int = 0
    asked: int = 0
    unconfirmed: int = 0


async def open_orders(session: AsyncSession, *conditions: ColumnElement[bool]) -> list[OpenOrder]:
    """Orders that are, or may be, at a broker, under conditions on Order, BrokerAccount and AutoTrade."""
    rows = await session.execute(
        select(Order.id, Order.account_id, BrokerAccount.broker, Order.broker_order_id, Order.state, Order.decided_at)
        .join(BrokerAccount, BrokerAccount.id == Order.account_id)
        .outerjoin(AutoTrade, AutoTrade.id == Order.auto_trade_id)
        .where(Order.state.in_(SENT_STATES), *conditions)
        .order_by(Order.id)
    )
    return [OpenOrder(*row) for row in rows]


async def cancel_orders(trading: Trading, orders: Sequence[OpenOrder], why: str) -> CancelCounts:
    """Record that each cancel is wanted, ask the broker, and read its book, all within CANCEL_S_MAX.

    It needs the database and the brokers only: without the market's clock an order's event bears the instant at which
    the order was decided.

    Raises:
        SQLAlchemyError, OSError: the database did not answer.
    """
    counts = CancelCounts(open=len(orders))
    if not orders:
        return counts
    try:
        async with asyncio.timeout(CANCEL_S_MAX):
            market_now = await _market_now(trading)
            at_once = asyncio.Semaphore(CANCELS_AT_ONCE_MAX)

            async def one(order: OpenOrder) -> None:
                async with at_once:
                    await _cancel(trading, order, why, market_now or order.decided_at, counts)

            results = await asyncio.gather(*(one(order) for order in orders), return_exceptions=True)
            for failure in results:
                if isinstance(failure, BaseException):
                    raise failure
            await _read_books(trading, orders, market_now)
    except TimeoutError:
        log.warning("cancels_unfinished", open=counts.open, requested=counts.requested, asked=counts.asked)
    counts.unconfirmed = await _still_open(trading, [order.id for order in orders])
    return counts


async def _cancel(trading: Trading, order: OpenOrder, why: str, market_at: datetime, counts: CancelCounts) -> None:
    under_way = order.state is OrderState.CANCEL_PENDING
    if not (under_way or await request_cancel(trading, order.id, why, market_at)):
        return
    counts.requested += 1
    broker = trading.brokers.get(order.broker)
    if broker is not None and order.broker_order_id is not None:
        await ask_cancel(broker, order.account_id, order.broker_order_id)
        counts.asked += 1


async def _read_books(trading: Trading, orders: Sequence[OpenOrder], market_now: datetime | None) -> None:
    """One reconciliation of the accounts concerned: it alone can confirm a cancel."""
    known = market_now or max(order.decided_at for order in orders)

    async def clock() -> datetime:
        return known

    await reconcile(replace(trading, clock=clock), {order.account_id for order in orders})


async def _market_now(trading: Trading) -> datetime | None:
    try:
        async with asyncio.timeout(CLOCK_S_MAX):
            return await trading.clock()
    except (SaudaError, TimeoutError) as silence:
        log.warning("cancelling_without_clock", error=repr(silence))
        return None


async def _still_open(trading: Trading, order_ids: Collection[int]) -> int:
    async with trading.sessions() as session:
        found = await session.scalar(
            select(func.count()).where(Order.id == func.any(list(order_ids)), Order.state.in_(LIVE_STATES))
        )
    return found or 0
