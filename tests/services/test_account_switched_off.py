"""An account that is switched off enters nothing; what slipped in as it was switched off is still let out."""

from datetime import timedelta
from decimal import Decimal

from sqlalchemy import update

from backend.models import BrokerAccount, BrokerAccountStatus
from backend.services.auto_trading_service import run_cycle
from contracts.predictions import Action


async def switch_off(sessions) -> None:
    async with sessions.begin() as session:
        await session.execute(update(BrokerAccount).values(status=BrokerAccountStatus.DISABLED))


async def test_it_enters_nothing(trading, market, make_user, sessions) -> None:
    await make_user(symbols=("INFY",))
    await switch_off(sessions)
    assert (await run_cycle(trading, market.now)).entries == 0


async def test_its_open_trade_is_let_out_and_nothing_else_comes_in(trading, market, make_user, sessions) -> None:
    await make_user(symbols=("INFY", "TCS"))
    market.stocks["TCS"].action = Action.HOLD
    assert (await run_cycle(trading, market.now)).entries == 1
    await switch_off(sessions)
    market.stocks["TCS"].action = Action.BUY
    for price, exits in ((Decimal(1500), 0), (Decimal(1390), 1)):
        market.now += timedelta(minutes=1)
        market.stocks["INFY"].last = price
        report = await run_cycle(trading, market.now)
        assert (report.entries, report.exits) == (0, exits)
