"""Sending recorded orders, and applying what happened to them: the only code that moves an order's state."""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from backend.brokers.base import Broker, OrderRejectedError, OrderRequest
from backend.domain.calendar import IST
from backend.domain.decide import TradeStatus
from backend.domain.orders import Intent, OrderEventKind, OrderState, transition
from backend.domain.positions import Execution
from backend.domain.reconcile import BookTrade
from backend.domain.trades import TradeFill, TradeSummary, summarize
from backend.errors import SaudaError
from backend.models import (
    AutoTrade,
    AutoTradeSettings,
    BrokerAccount,
    Fill,
    Order,
    OrderEvent,
    OrderOrigin,
    OutboxMessage,
)
from backend.services.context import Trading
from backend.services.cycle_service import FencedError, ShardClaim, hold
from backend.services.record_service import Recorded, refund_quota

log = structlog.get_logger()


async def send(trading: Trading, claim: ShardClaim, recorded: Sequence[Recorded], market_now: datetime) -> None:
    """Send a shard's recorded orders, exits first, a few at a time; each outcome is written as soon as it is known.

    What is not sent stays PENDING and is abandoned by reconciliation: entries whose quotes have grown old meanwhile,
    and all of it once a newer claim has fenced this one.
    """
    brokers = await _broker_names(trading, {order.account_id for order in recorded})
    entries_until = time.monotonic() + trading.rules.entry_send_s_max
    at_once = asyncio.Semaphore(trading.rules.sends_at_once_max)

    async def one(order: Recorded) -> None:
        async with at_once:
            if order.approved.order.intent is Intent.ENTRY and time.monotonic() > entries_until:
                log.warning("entry_too_late", order=order.order_id)
                return
            await _send_one(trading, claim, order, trading.brokers[brokers[order.account_id]], market_now)

    failures: list[BaseException] = []
    for intent in (Intent.EXIT, Intent.ENTRY):
        batch = [order for order in recorded if order.approved.order.intent is intent]
        results = await asyncio.gather(*(one(order) for order in batch), return_exceptions=True)
        failures += [result for result in results if isinstance(result, BaseException)]
    fenced = [failure for failure in failures if isinstance(failure, FencedError)]
    if fenced:
        log.warning("send_fenced", cycle=claim.cycle_id, shard=claim.shard, unsent=len(fenced))
    for failure in failures:
        if not isinstance(failure, FencedError):
            raise failure


async def _send_one(
    trading: Trading, claim: ShardClaim, recorded: Recorded, broker: Broker, market_now: datetime
) -> None:
    """SUBMITTED is committed under the current fencing token before the broker hears of the order."""
    wanted = recorded.approved.order
    began = time.monotonic()
    async with trading.sessions.begin() as session:
        await hold(session, claim, trading.rules.lease_s)
        order = await _lock(session, recorded.order_id)
        if wanted.intent is Intent.ENTRY and not await _still_enabled(session, recorded.user_id):
            return
        await apply_event(session, order, OrderEventKind.SUBMITTED, "", market_now)
        order.submitted_at = await session.scalar(select(func.clock_timestamp()))
    if time.monotonic() - began > trading.rules.send_timeout_s:
        # Stalled between the commit and the socket: others may already count on its absence. It is not sent.
        await _answer(trading, recorded.order_id, OrderEventKind.ABANDONED, "stalled before the send", None, market_now)
        return
    request = OrderRequest(
        wanted.symbol,
        wanted.exchange,
        wanted.side,
        wanted.product,
        wanted.order_type,
        wanted.quantity,
        wanted.limit_price,
        recorded.client_order_id,
    )
    try:
        async with asyncio.timeout(trading.rules.send_timeout_s):
            broker_order_id = await broker.place(recorded.account_id, request)
    except OrderRejectedError as refusal:
        await _answer(trading, recorded.order_id, OrderEventKind.REJECTED, refusal.detail, None, market_now)
    except (TimeoutError, SaudaError) as silence:
        # Nobody knows whether the order exists: it stays SUBMITTED until the broker's book tells.
        log.warning("send_outcome_unknown", order=recorded.order_id, error=repr(silence))
    else:
        detail = f"accepted as {broker_order_id}"
        await _answer(trading, recorded.order_id, OrderEventKind.ACCEPTED, detail, broker_order_id, market_now)


async def _answer(
    trading: Trading,
    order_id: int,
    event: OrderEventKind,
    detail: str,
    broker_order_id: str | None,
    market_now: datetime,
) -> None:
    async with trading.sessions.begin() as session:
        order = await _lock(session, order_id)
        order.broker_order_id = broker_order_id or order.broker_order_id
        if order.state is OrderState.SUBMITTED:
            await apply_event(session, order, event, detail, market_now)
        else:
            # Reconciliation was faster; what it concluded stands until the book, which it keeps reading, says more.
            log.warning("answer_came_late", order=order_id, state=order.state.value, answer=event.value)


async def _still_enabled(session: AsyncSession, user_id: int) -> bool:
    return bool(await session.scalar(select(AutoTradeSettings.enabled).where(AutoTradeSettings.user_id == user_id)))


async def _broker_names(trading: Trading, account_ids: set[int]) -> dict[int, str]:
    async with trading.sessions() as session:
        rows = await session.execute(
            select(BrokerAccount.id, BrokerAccount.broker).where(BrokerAccount.id == func.any(list(account_ids)))
        )
        return {row.id: row.broker for row in rows}


async def _lock(session: AsyncSession, order_id: int) -> Order:
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
    if kind in {OrderEventKind.REJECTED, OrderEventKind.LOST, OrderEventKind.EXPIRED, OrderEventKind.ABANDONED}:
        order.status_message = detail[:300]
    if trade is not None:
        _add_fill(session, order, trade)
    await session.flush()
    if order.auto_trade_id is not None:
        await _update_trade(session, order.auto_trade_id, market_at)
    never_existed = kind in {OrderEventKind.REJECTED, OrderEventKind.ABANDONED, OrderEventKind.DENIED}
    counted = order.origin is OrderOrigin.ENGINE and order.intent is Intent.ENTRY
    if never_existed and counted and not order.filled_quantity:
        await refund_quota(session, order.user_id, order.decided_at.astimezone(IST).date())


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


async def _update_trade(session: AsyncSession, trade_id: int, market_at: datetime) -> None:
    """Recompute an auto-trade from its orders and fills, and tell its owner where it opened or closed."""
    trade = (await session.scalars(select(AutoTrade).where(AutoTrade.id == trade_id).with_for_update())).one()
    orders = (await session.scalars(select(Order).where(Order.auto_trade_id == trade_id))).all()
    intents = {order.id: order.intent for order in orders}
    fills = await session.scalars(select(Fill).where(Fill.order_id.in_(intents)).order_by(Fill.filled_at, Fill.id))
    summary = summarize(
        [(order.intent, order.state) for order in orders],
        [TradeFill(intents[f.order_id], Execution(f.side, f.quantity, f.price, f.charges), f.filled_at) for f in fills],
    )
    _announce_change(session, trade, summary)
    trade.status = summary.status
    trade.entry_quantity, trade.entry_price = summary.entry_quantity, summary.entry_price
    trade.exit_quantity, trade.exit_price = summary.exit_quantity, summary.exit_price
    trade.charges, trade.realized_pnl = summary.charges, summary.realized_pnl
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
