"""A simulated account's orders and trades as the result shows them."""

from collections.abc import Sequence
from decimal import Decimal

from backend.backtest.account import ZERO, SimOrder, SimTrade
from backend.backtest.market import Day
from backend.backtest.result import OrderRecord, TradeRecord
from backend.domain.positions import position_of
from backend.domain.trades import executed, timeline


def order_record(order: SimOrder) -> OrderRecord:
    """An order as it ended, or stands."""
    return OrderRecord(
        number=order.number,
        trade=order.trade.number,
        at=order.at,
        symbol=order.intent.symbol,
        side=order.intent.side,
        intent=order.intent.intent,
        product=order.intent.product,
        strategy=order.strategy,
        quantity=order.intent.quantity,
        limit_price=order.intent.limit_price,
        state=order.state,
        filled_quantity=order.filled,
        fills=tuple(order.fills),
        charges=order.charges,
        dp_charge=order.dp,
        message=order.message,
        denied=order.denied,
    )


def trade_record(trade: SimTrade, days: Sequence[Day]) -> TradeRecord:
    """A trade as it ended; what is still held is valued at the last price of `days`, after its entry charges."""
    planned, summary = trade.planned, trade.summary
    signal, order = planned.candidate.signal, planned.approved.order
    unrealized = ZERO
    if summary is not None and trade.held and days:
        last = days[-1].last(trade.symbol, days[-1].close)
        position = position_of(executed(timeline(trade.fills, trade.actions)))
        unrealized = position.unrealized(Decimal(last or 0) / 100)
    return TradeRecord(
        number=trade.number,
        symbol=trade.symbol,
        strategy=signal.strategy,
        model_version=signal.model_version,
        mode=trade.mode,
        product=order.product,
        status=trade.status,
        decided_at=trade.decided_at,
        opened_at=summary.opened_at if summary else None,
        closed_at=trade.closed_at,
        entry_quantity=summary.entry_quantity if summary else 0,
        entry_price=summary.entry_price if summary else None,
        exit_quantity=summary.exit_quantity if summary else 0,
        exit_price=summary.exit_price if summary else None,
        target=trade.levels.target,
        stop=trade.levels.stop,
        horizon_ends_on=planned.horizon_ends_on,
        confidence=planned.candidate.confidence,
        expected_return_net=planned.candidate.expected_return_net,
        charges=summary.charges if summary else ZERO,
        realized_pnl=summary.realized_pnl if summary else ZERO,
        unrealized_pnl=unrealized,
        dividends=summary.dividends if summary else ZERO,
        exit_reason=trade.exit_reason,
    )
