"""Orders that rest at the real paper broker, recorded as the send records them, for tests that cancel them."""

import itertools
from datetime import datetime
from decimal import Decimal

from sqlalchemy import select

from backend.brokers.base import OrderRequest
from backend.domain.market import OrderType, Product, Side
from backend.domain.orders import Intent, OrderEventKind, OrderState
from backend.models import AutoTrade, BrokerAccount, Order, OrderOrigin
from backend.services.context import Trading
from backend.services.order_service import apply_event

_tags = itertools.count(1)


async def rest(
    trading: Trading,
    user_id: int,
    now: datetime,
    limit: int | str,
    *,
    symbol: str = "INFY",
    side: Side = Side.BUY,
    trade: AutoTrade | None = None,
    origin: OrderOrigin = OrderOrigin.MANUAL,
) -> int:
    """Ten shares at `limit` rupees: recorded, sent and accepted. Of an auto-trade where there is one."""
    async with trading.sessions() as session:
        account = (await session.scalars(select(BrokerAccount).where(BrokerAccount.user_id == user_id))).one()
    order = Order(
        client_order_id=f"REST{next(_tags)}",
        origin=OrderOrigin.ENGINE if trade else origin,
        auto_trade_id=trade.id if trade else None,
        cycle_id=trade.cycle_id if trade else None,
        shard=0 if trade else None,
        user_id=user_id,
        account_id=account.id,
        intent=Intent.ENTRY if side is Side.BUY else Intent.EXIT,
        symbol=symbol,
        exchange="nse",
        side=side,
        product=Product.CNC,
        order_type=OrderType.LIMIT,
        quantity=10,
        limit_price=Decimal(limit),
        state=OrderState.PENDING,
        environment="simulated",
        decided_at=now,
    )
    async with trading.sessions.begin() as session:
        session.add(order)
        await session.flush()
        await apply_event(session, order, OrderEventKind.SUBMITTED, "", now)
    request = OrderRequest(symbol, "nse", side, Product.CNC, OrderType.LIMIT, 10, Decimal(limit), order.client_order_id)
    broker_order_id = await trading.brokers[account.broker].place(account.id, request)
    async with trading.sessions.begin() as session:
        sent = (await session.scalars(select(Order).where(Order.id == order.id))).one()
        sent.broker_order_id = broker_order_id
        await apply_event(session, sent, OrderEventKind.ACCEPTED, "", now)
    return order.id


async def state_of(trading: Trading, order_id: int) -> OrderState:
    """Where an order stands."""
    async with trading.sessions() as session:
        return (await session.scalars(select(Order.state).where(Order.id == order_id))).one()
