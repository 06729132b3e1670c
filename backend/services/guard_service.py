"""Keeping a guard, a stop that rests at the broker, in line with every open trade of real money."""

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import structlog
from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from backend.domain.calendar import IST, Phase
from backend.domain.guard import GONE_BEFORE_CLOSE, Guarded, GuardStep, RestingGuard, guard_order, guard_step
from backend.domain.market import OrderType, Product
from backend.domain.orders import LIVE_STATES, Intent, OrderState, guard_order_id
from backend.domain.risk import Approved, OrderIntent, QuoteView, check
from backend.domain.trading_states import holding_key, permits
from backend.models import BrokerAccount, Order, OrderOrigin
from backend.services.context import Trading
from backend.services.reconcile_service import ask_cancel, reconcile, request_cancel
from backend.services.record_service import Recorded
from backend.services.send_service import FreshQuotes, Sending, send_one
from backend.services.trading_state_service import standings

log = structlog.get_logger()

RELEASE_S_MAX = 1.5
"""Real seconds a tick waits for guards to be taken back before it leaves their trades; else the next tick does it."""
RELEASE_STEP_S = 0.2
AT_ONCE_MAX = 8
CHANGED = "its trade has changed"

# An open trade with its guard, if one lives; a trade that is being left has an exit of its own.
_TRADES = text("""
    SELECT t.id, t.user_id, t.account_id, a.broker, t.symbol, t.exchange, t.product, t.strategy,
           t.entry_quantity - t.exit_quantity AS held, t.stop_price AS stop,
           g.id AS guard_id, g.state AS guard_state, g.quantity - g.filled_quantity AS guard_open,
           g.trigger_price, g.broker_order_id, n.guards, n.last_at, n.refusals,
           EXISTS (SELECT FROM orders x WHERE x.auto_trade_id = t.id AND x.intent = 'exit' AND x.origin <> 'guard'
                      AND x.state IN ('pending', 'submitted', 'accepted', 'partially_filled', 'cancel_pending',
                                      'unknown')) AS leaving
      FROM auto_trades t
      JOIN broker_accounts a ON a.id = t.account_id
      -- logged in, and its book read since: before that nothing is sold on what is believed of its shares
      JOIN broker_sessions h ON h.account_id = t.account_id
       AND h.ended_at IS NULL AND h.ends_at > :now AND h.reconciled_at IS NOT NULL
      LEFT JOIN orders g ON g.auto_trade_id = t.id AND g.origin = 'guard'
       AND g.state IN ('pending', 'submitted', 'accepted', 'partially_filled', 'cancel_pending', 'unknown')
      LEFT JOIN LATERAL (
           SELECT count(*) AS guards,
                  -- one that was taken back to let the shares go is not placed again at once
                  greatest(max(decided_at), (
                      SELECT max(e.market_at) FROM order_events e JOIN orders x ON x.id = e.order_id
                       WHERE x.auto_trade_id = t.id AND x.origin = 'guard' AND e.kind = 'cancel_requested'
                         AND e.detail <> :changed)) AS last_at,
                  count(*) FILTER (WHERE state = 'rejected' AND decided_at >= :day_start) AS refusals
             FROM orders WHERE auto_trade_id = t.id AND origin = 'guard') n ON true
     WHERE a.broker = ANY(:brokers)
       AND (t.closed_at IS NULL AND t.status IN ('entering', 'open')
            OR t.id IN (SELECT auto_trade_id FROM orders WHERE origin = 'guard' AND state IN (
                        'submitted', 'accepted', 'partially_filled', 'cancel_pending', 'unknown')))
     ORDER BY t.id
""")


@dataclass(slots=True)
class GuardReport:
    """Guards placed and taken back in one pass."""

    placed: int = 0
    cancelled: int = 0


async def guard_trades(trading: Trading) -> GuardReport:
    """Bring every guard in line with its trade: place, take back, or leave it. Doing it twice changes nothing.

    Raises:
        SQLAlchemyError, OSError: the database did not answer.
    """
    report = GuardReport()
    brokers = [name for name, broker in trading.brokers.items() if broker.real_money]
    if not brokers:
        return report
    now = await trading.clock()
    day_start = datetime.combine(now.astimezone(IST).date(), datetime.min.time(), tzinfo=IST)
    async with trading.sessions() as session:
        rows = (
            await session.execute(_TRADES, {"brokers": brokers, "day_start": day_start, "now": now, "changed": CHANGED})
        ).all()
        standing = await standings(session)
    quotes = FreshQuotes(trading, [row.symbol for row in rows])
    at_once = asyncio.Semaphore(AT_ONCE_MAX)

    async def one(row: Any) -> None:
        effective = standing.effective(row.user_id, row.strategy, row.broker, holding_key(row.account_id, row.symbol))
        may_rest = permits(effective, Intent.EXIT) and not row.leaving and _in_time(trading, row.symbol, now)
        quote, _ = await quotes.of(row.symbol) if may_rest else (None, 0.0)
        if may_rest and quote is None:
            return  # without a price nothing is known to be wrong
        trade = _guarded(row, now)
        wanted = guard_order(trade, quote, trading.rules.limits) if quote is not None else None
        resting = None if row.guard_id is None else RestingGuard(row.guard_open, row.trigger_price)
        step = guard_step(trade, wanted, resting)
        if step is GuardStep.PLACE and wanted is not None and quote is not None:
            report.placed += await _place(trading, row, wanted, quote, quotes, now, at_once)
        elif step is GuardStep.CANCEL and row.guard_state != OrderState.CANCEL_PENDING:
            async with at_once:
                report.cancelled += await _take_back(trading, row, CHANGED, now)

    results = await asyncio.gather(*(one(row) for row in rows), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    if report.placed or report.cancelled:
        log.info("guards", placed=report.placed, cancelled=report.cancelled)
    return report


def _in_time(trading: Trading, symbol: str, now: datetime) -> bool:
    """Whether a guard may rest at `now`: in continuous trading, and not in its last minutes."""
    phase = trading.calendar.phase
    soon = now + GONE_BEFORE_CLOSE
    return phase(symbol, now) is Phase.CONTINUOUS and phase(symbol, soon) is Phase.CONTINUOUS


def _guarded(row: Any, now: datetime) -> Guarded:
    since: timedelta | None = None if row.last_at is None else now - row.last_at
    return Guarded(row.symbol, row.exchange, Product(row.product), row.held, row.stop, since, row.refusals)


async def _place(
    trading: Trading,
    row: Any,
    wanted: OrderIntent,
    quote: QuoteView,
    quotes: FreshQuotes,
    now: datetime,
    at_once: asyncio.Semaphore,
) -> int:
    verdict = check(
        wanted, quote, max(now, quote.as_of), cash_free=Decimal(0), held=row.held, limits=trading.rules.limits
    )
    if not isinstance(verdict, Approved):
        return 0
    recorded = await _record(trading, row, verdict, now)
    if recorded is None:
        return 0
    sending = Sending(recorded, None, trading.brokers[row.broker], now)
    until = time.monotonic() + trading.rules.entry_send_s_max
    await send_one(trading, sending, quotes, until, at_once)
    return 1


async def _record(trading: Trading, row: Any, approved: Approved, now: datetime) -> Recorded | None:
    """The guard as PENDING; None where another pass, or an exit, was faster: a trade has one live exit at most."""
    order, name = approved.order, guard_order_id(row.id, row.guards)
    values = {
        "client_order_id": name,
        "origin": OrderOrigin.GUARD,
        "auto_trade_id": row.id,
        "user_id": row.user_id,
        "account_id": row.account_id,
        "intent": order.intent,
        "symbol": order.symbol,
        "exchange": order.exchange,
        "side": order.side,
        "product": order.product,
        "order_type": OrderType.STOP_LIMIT,
        "quantity": order.quantity,
        "limit_price": order.limit_price,
        "trigger_price": order.trigger_price,
        "state": OrderState.PENDING,
        "filled_quantity": 0,
        "environment": trading.rules.environment.value,
        "decided_at": now,
    }
    try:
        async with trading.sessions.begin() as session:
            order_id = await session.scalar(insert(Order).values(values).returning(Order.id))
    except IntegrityError:
        return None
    return None if order_id is None else Recorded(order_id, name, row.user_id, row.account_id, approved, Decimal(0))


async def _take_back(trading: Trading, row: Any, why: str, now: datetime) -> int:
    if row.broker_order_id is None or not await request_cancel(trading, row.guard_id, why, now):
        return 0
    await ask_cancel(trading.brokers[row.broker], row.account_id, row.broker_order_id)
    return 1


async def release_guards(trading: Trading, trade_ids: Collection[int], market_now: datetime) -> None:
    """Take back the guards of trades that are about to be left, and wait for the broker's word for a moment.

    A guard that is still there then keeps its trade's exit for the next tick: the two together could sell twice.
    """
    until = time.monotonic() + RELEASE_S_MAX
    while rows := await _live_guards(trading, trade_ids):
        await asyncio.gather(
            *(
                _take_back(trading, row, "its trade is being left", market_now)
                for row in rows
                if row.guard_state != OrderState.CANCEL_PENDING
            )
        )
        await reconcile(trading, {row.account_id for row in rows})
        if time.monotonic() + RELEASE_STEP_S > until:
            return
        await asyncio.sleep(RELEASE_STEP_S)


async def _live_guards(trading: Trading, trade_ids: Collection[int]) -> Sequence[Any]:
    async with trading.sessions() as session:
        rows = await session.execute(
            select(
                Order.id.label("guard_id"),
                Order.state.label("guard_state"),
                Order.account_id,
                Order.broker_order_id,
                BrokerAccount.broker,
            )
            .join(BrokerAccount, BrokerAccount.id == Order.account_id)
            .where(Order.auto_trade_id.in_(trade_ids), Order.origin == OrderOrigin.GUARD, Order.state.in_(LIVE_STATES))
        )
        return rows.all()
