"""Rows that the engine would have written, for tests that only read."""

from datetime import date, datetime
from decimal import Decimal
from typing import Any

from backend.db import Sessions
from backend.domain.decide import ExitReason, TradeStatus
from backend.domain.market import OrderType, Product, Side
from backend.domain.modes import Mode
from backend.domain.orders import Intent, OrderState
from backend.models import AutoTrade, Cycle, CycleStatus, Fill, Order, OrderOrigin
from tests.api.conftest import MONDAY_10, Someone


async def add_cycle(sessions: Sessions, at: datetime = MONDAY_10) -> int:
    async with sessions.begin() as session:
        cycle = Cycle(
            scheduled_at=at, trade_date=at.date(), environment="simulated", status=CycleStatus.DONE, summary={}
        )
        session.add(cycle)
        await session.flush()
        return cycle.id


def backtest_asked(**changes: Any) -> dict[str, Any]:
    """A stored request for a backtest of a year of daily bars by one trader, with changes to the trader."""
    trader = {
        "name": "moderate",
        "mode": "moderate",
        "capital": "500000",
        "product": "cnc",
        "strategies": [],
        "protections": {},
        "entries_per_day_max": 50,
    }
    return {
        "traders": [trader | changes],
        "from": "2023-01-01",
        "to": "2023-12-31",
        "universe": "default",
        "interval": "1d",
        "slippage_fraction": "0.0002",
        "participation_fraction": "0.1",
        "latency_bars": 0,
        "proceeds": "at_once",
        "model": "walk_forward",
        "sweep": None,
    }


def trade(user: Someone, cycle_id: int, **changes: Any) -> AutoTrade:
    """An open trade of ten shares of TCS at 100 rupees, with changes."""
    values: dict[str, Any] = {
        "user_id": user.id,
        "account_id": user.account_id,
        "cycle_id": cycle_id,
        "symbol": "TCS",
        "exchange": "nse",
        "side": Side.BUY,
        "product": Product.CNC,
        "mode": Mode.MODERATE,
        "status": TradeStatus.OPEN,
        "strategy": "pooled",
        "model_version": "m1",
        "confidence": 0.75,
        "confidence_kind": "touch_net_0.015",
        "expected_return_net": 0.02,
        "horizon_ends_on": date(2024, 4, 1),
        "reference_price": Decimal(100),
        "target_price": Decimal(103),
        "stop_price": Decimal(97),
        "quantity": 10,
        "entry_quantity": 10,
        "entry_price": Decimal(100),
        "charges": Decimal(0),
        "realized_pnl": Decimal(0),
        "decided_at": MONDAY_10,
        "opened_at": MONDAY_10,
    }
    return AutoTrade(**(values | changes))


def closed(user: Someone, cycle_id: int, at: datetime, pnl: str, charges: str = "1", **changes: Any) -> AutoTrade:
    """The same trade, closed at `at` with a net result of `pnl` rupees."""
    ended = {
        "status": TradeStatus.CLOSED,
        "exit_quantity": 10,
        "exit_price": Decimal(100),
        "exit_reason": ExitReason.TARGET,
        "closed_at": at,
        "realized_pnl": Decimal(pnl),
        "charges": Decimal(charges),
    }
    return trade(user, cycle_id, **(ended | changes))


def filled_order(owner: AutoTrade, side: Side, quantity: int, price: str, charges: str, tag: str) -> tuple[Order, Fill]:
    """A filled order of a trade, with its one fill."""
    order = Order(
        client_order_id=tag,
        origin=OrderOrigin.ENGINE,
        auto_trade_id=owner.id,
        cycle_id=owner.cycle_id,
        shard=0,
        user_id=owner.user_id,
        account_id=owner.account_id,
        intent=Intent.ENTRY if side is Side.BUY else Intent.EXIT,
        symbol=owner.symbol,
        exchange="nse",
        side=side,
        product=owner.product,
        order_type=OrderType.LIMIT,
        quantity=quantity,
        limit_price=Decimal(price),
        state=OrderState.FILLED,
        filled_quantity=quantity,
        average_price=Decimal(price),
        environment="simulated",
        decided_at=MONDAY_10,
    )
    fill = Fill(
        account_id=owner.account_id,
        trade_id=tag,
        trade_date=MONDAY_10.date(),
        symbol=owner.symbol,
        side=side,
        quantity=quantity,
        price=Decimal(price),
        charges=Decimal(charges),
        filled_at=MONDAY_10,
    )
    return order, fill
