"""Applying what happened to an order: the only code that moves its state, and all that follows from it."""

from datetime import datetime
from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from backend.domain.calendar import IST
from backend.domain.decide import ExitReason, TradeStatus
from backend.domain.orders import LIVE_STATES, Intent, OrderEventKind, transition
from backend.domain.positions import Execution
from backend.domain.reconcile import BookTrade
from backend.domain.trades import TradeFill, TradeSummary, summarize
from backend.models import AutoTrade, Fill, Order, OrderEvent, OrderOrigin, OutboxMessage
from backend.services import ledger_service
from backend.services.action_record_service import actions_of_trades
from backend.services.record_service import refund_quota


async def lock_order(session: AsyncSession, order_id: int) -> Order:
    """The order as it is now, locked until the transaction ends."""
    return (await session.scalars(select(Order).where(Order.id == order_id).with_for_update())).one()


async def apply_event(
    session: AsyncSession,
    order: Order,
    kind: OrderEventKind,
    detail: str,
    market_at: datetime,
    trade: BookTrade | None = None,
) -> None:
    """Move a locked order along the state table, with the fill that moved it, and bring its auto-trade in line.

    Joins the caller's transaction.

    Raises:
        IllegalTransitionError: the event cannot happen to an order in this state; the transaction must roll back.
    """
    before = order.state
    after = transition(before, kind)
    session.add(
        OrderEvent(
            order_id=order.id,
            kind=kind,
            from_state=before,
            to_state=after,
            detail=detail[:300],
            market_at=market_at,
        )
    )
    order.state = after
    if kind in {
        OrderEventKind.REJECTED,
        OrderEventKind.LOST,
        OrderEventKind.EXPIRED,
        OrderEventKind.ABANDONED,
        OrderEventKind.DENIED,
    }:
        order.status_message = detail[:300]
    if trade is not None:
        _add_fill(session, order, trade)
    await session.flush()
    if order.auto_trade_id is not None and (after not in LIVE_STATES or trade is not None):
        await update_trade(session, order.auto_trade_id, market_at)
    never_existed = kind in {OrderEventKind.REJECTED, OrderEventKind.ABANDONED, OrderEventKind.DENIED}
    counted = order.origin is OrderOrigin.ENGINE and order.intent is Intent.ENTRY
    if never_existed and counted and not order.filled_quantity:
        await refund_quota(session, order.user_id, order.decided_at.astimezone(IST).date())
    if trade is not None:
        await ledger_service.post_fill(session, order, trade)
    await ledger_service.release_rest(session, order, market_at)
    if kind is OrderEventKind.LOST:
        _alert_unknown(session, order)


def _alert_unknown(session: AsyncSession, order: Order) -> None:
    """Tell the owner that a person may have to look: the broker's book does not show what was sent."""
    payload = {
        "order_id": order.id,
        "symbol": order.symbol,
        "side": order.side.value,
        "quantity": order.quantity,
        "message": f"{order.symbol} is blocked until the broker's book, or a person, settles this order.",
    }
    session.add(OutboxMessage(topic="order.unknown", user_id=order.user_id, payload=payload))


def _add_fill(session: AsyncSession, order: Order, trade: BookTrade) -> None:
    session.add(
        Fill(
            order_id=order.id,
            account_id=order.account_id,
            trade_id=trade.trade_id,
            trade_date=trade.traded_at.astimezone(IST).date(),
            symbol=order.symbol,
            side=order.side,
            quantity=trade.quantity,
            price=trade.price,
            charges=trade.charges,
            filled_at=trade.traded_at,
        )
    )
    value = (order.average_price or Decimal(0)) * order.filled_quantity + trade.price * trade.quantity
    order.filled_quantity += trade.quantity
    order.average_price = value / order.filled_quantity


async def update_trade(session: AsyncSession, trade_id: int, market_at: datetime, *, announced: bool = True) -> None:
    """Recompute an auto-trade from its orders, their fills and its share's corporate actions, and tell its owner where
    it opened or closed (unless `announced` is False: the figures are on a new scale, nothing was traded)."""
    trade = (await session.scalars(select(AutoTrade).where(AutoTrade.id == trade_id).with_for_update())).one()
    orders = (await session.scalars(select(Order).where(Order.auto_trade_id == trade_id))).all()
    intents = {order.id: order.intent for order in orders}
    fills = await session.scalars(select(Fill).where(Fill.order_id.in_(intents)).order_by(Fill.filled_at, Fill.id))
    summary = summarize(
        # A guard rests for as long as its trade is open: that it does makes no trade one that is being left.
        [(order.intent, order.state) for order in orders if order.origin is not OrderOrigin.GUARD],
        [TradeFill(intents[f.order_id], Execution(f.side, f.quantity, f.price, f.charges), f.filled_at) for f in fills],
        (await actions_of_trades(session, [trade_id]))[trade_id],
    )
    if trade.exit_reason is None and any(o.origin is OrderOrigin.GUARD and o.filled_quantity for o in orders):
        trade.exit_reason = ExitReason.STOP
    if announced:
        _announce_change(session, trade, summary)
    trade.status = summary.status
    trade.entry_quantity, trade.entry_price = summary.entry_quantity, summary.entry_price
    trade.exit_quantity, trade.exit_price = summary.exit_quantity, summary.exit_price
    trade.charges, trade.realized_pnl = summary.charges, summary.realized_pnl
    trade.dividends = summary.dividends
    trade.opened_at = summary.opened_at
    if summary.status is TradeStatus.CANCELLED:
        trade.closed_at = trade.closed_at or market_at
    else:
        trade.closed_at = summary.closed_at
    if summary.status is TradeStatus.OPEN:
        trade.exit_reason = None
    await session.flush()


def _announce_change(session: AsyncSession, trade: AutoTrade, summary: TradeSummary) -> None:
    """Write the message in the transaction it tells of; the trading loop delivers it after the commit."""
    if summary.entry_quantity > trade.entry_quantity:
        topic, quantity, price = (
            "trade.entry_filled",
            summary.entry_quantity - trade.entry_quantity,
            summary.entry_price,
        )
    elif summary.status is TradeStatus.CLOSED and trade.status is not TradeStatus.CLOSED:
        topic, quantity, price = "trade.closed", summary.exit_quantity, summary.exit_price
    elif summary.status is TradeStatus.CANCELLED and trade.status is not TradeStatus.CANCELLED:
        topic, quantity, price = "trade.cancelled", trade.quantity, None
    else:
        return
    payload = {
        "trade_id": trade.id,
        "symbol": trade.symbol,
        "mode": trade.mode.value,
        "strategy": trade.strategy,
        "quantity": quantity,
        "price": str(price.quantize(Decimal("0.01"))) if price is not None else None,
        "confidence": trade.confidence,
        "exit_reason": trade.exit_reason.value if trade.exit_reason else None,
        "realized_pnl": str(summary.realized_pnl.quantize(Decimal("0.01"))),
    }
    session.add(OutboxMessage(topic=topic, user_id=trade.user_id, payload=payload))
