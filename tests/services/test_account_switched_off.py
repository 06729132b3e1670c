"""An account that is switched off enters nothing; what slipped in as it was switched off is still let out."""

from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import update

from backend.domain.decide import ExitReason
from backend.models import BrokerAccount, BrokerAccountStatus
from backend.services.auto_trading_service import run_cycle
from tests.services.test_cycle import trades_of


async def switch_off(sessions) -> None:
    async with sessions.begin() as session:
        await session.execute(update(BrokerAccount).values(status=BrokerAccountStatus.DISABLED))


async def test_it_enters_nothing(trading, market, make_user, sessions) -> None:
    await make_user(symbols=("INFY",))
    await switch_off(sessions)
    assert (await run_cycle(trading, market.now)).entries == 0


@pytest.mark.parametrize("entered", [1, 2])
async def test_its_open_trades_are_let_out_and_nothing_else_comes_in(
    trading, market, make_user, sessions, entered
) -> None:
    await make_user(symbols=("INFY", "TCS")[:entered])
    assert (await run_cycle(trading, market.now)).entries == entered
    await switch_off(sessions)
    market.now += timedelta(minutes=1)
    market.stocks["INFY"].last = Decimal(1400)
    result = await run_cycle(trading, market.now)
    assert (result.entries, result.exits) == (0, 1)
    assert (await trades_of(trading))[0].exit_reason is ExitReason.STOP
    market.now += timedelta(days=1)
    market.stocks["INFY"].last = market.stocks["TCS"].last = market.stocks["INFY"].reference = Decimal(1500)
    assert (await run_cycle(trading, market.now)).entries == 0
