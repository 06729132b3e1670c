"""The day's loss limit of an account that holds more than anybody asked Sauda to trade."""

from decimal import Decimal

import pytest

from backend.brokers.base import OrderRequest
from backend.domain.market import OrderType, Product, Side
from backend.domain.trading_states import Cause, TradingState
from backend.models import DayEquity
from backend.services.auto_trading_service import run_cycle
from backend.services.position_service import watch_positions
from backend.services.trading_state_service import standings
from tests.support.paper_desk import account_of


@pytest.mark.parametrize("known", [True, False], ids=["a share nobody selected", "a share the market does not know"])
async def test_a_holding_outside_all_selections_leaves_the_limit_in_force(trading, market, make_user, known) -> None:
    user_id = await make_user(symbols=("INFY",))
    account_id = await account_of(trading.sessions, user_id)
    bought = OrderRequest("TCS", "nse", Side.BUY, Product.CNC, OrderType.LIMIT, 5, Decimal(4020), "")
    await trading.brokers["paper"].place(account_id, bought)
    await watch_positions(trading)
    async with trading.sessions.begin() as session:
        began = DayEquity(account_id=account_id, trade_date=market.now.date(), equity_rupees=Decimal(600_000))
        session.add(began)
    if not known:
        del market.stocks["TCS"]
        await trading.market_data.load_instruments()
    await run_cycle(trading, market.now)
    async with trading.sessions() as session:
        (standing,) = (await standings(session)).rows
    assert (standing.state, standing.cause) == (TradingState.REDUCING, Cause.DAILY_LOSS)
