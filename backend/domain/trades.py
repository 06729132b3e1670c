"""An auto-trade as the sum of its orders and fills: recomputed from them, never counted up."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from backend.domain.decide import TradeStatus
from backend.domain.orders import LIVE_STATES, Intent, OrderState
from backend.domain.positions import Execution, position_of


@dataclass(frozen=True, slots=True)
class TradeFill:
    """One fill of one of the trade's orders, oldest first where there are many."""

    intent: Intent
    execution: Execution
    at: datetime


@dataclass(frozen=True, slots=True)
class TradeSummary:
    """Shares, average rupees per share, charges and realized P&L in rupees; `realized_pnl` is net of charges."""

    status: TradeStatus
    entry_quantity: int
    entry_price: Decimal | None
    exit_quantity: int
    exit_price: Decimal | None
    charges: Decimal
    realized_pnl: Decimal
    opened_at: datetime | None
    closed_at: datetime | None


def summarize(states: Sequence[tuple[Intent, OrderState]], fills: Sequence[TradeFill]) -> TradeSummary:
    """Where a trade stands, from its orders' states and their fills.

    An exit under way makes it EXITING; an entry under way ENTERING; an ended entry without a fill CANCELLED; otherwise
    it is OPEN while shares are held and CLOSED when none are. A late fill therefore reopens what seemed over.
    """
    entries = [f for f in fills if f.intent is Intent.ENTRY]
    exits = [f for f in fills if f.intent is Intent.EXIT]
    entry_quantity, entry_price = _average(entries)
    exit_quantity, exit_price = _average(exits)
    status = _status(states, entry_quantity, exit_quantity)
    return TradeSummary(
        status=status,
        entry_quantity=entry_quantity,
        entry_price=entry_price,
        exit_quantity=exit_quantity,
        exit_price=exit_price,
        charges=sum((f.execution.charges for f in fills), Decimal(0)),
        realized_pnl=position_of(f.execution for f in fills).realized,
        opened_at=entries[0].at if entries else None,
        closed_at=exits[-1].at if exits and status is TradeStatus.CLOSED else None,
    )


def _status(states: Sequence[tuple[Intent, OrderState]], entry_quantity: int, exit_quantity: int) -> TradeStatus:
    live = {intent for intent, state in states if state in LIVE_STATES}
    if Intent.EXIT in live:
        return TradeStatus.EXITING
    if Intent.ENTRY in live:
        return TradeStatus.ENTERING
    if entry_quantity == 0:
        return TradeStatus.CANCELLED
    return TradeStatus.CLOSED if exit_quantity >= entry_quantity else TradeStatus.OPEN


def _average(fills: Sequence[TradeFill]) -> tuple[int, Decimal | None]:
    quantity = sum(f.execution.quantity for f in fills)
    if not quantity:
        return 0, None
    value = sum((f.execution.price * f.execution.quantity for f in fills), Decimal(0))
    return quantity, value / quantity
