"""The day's loss limit at work: only exits are left once two percent are gone, until the user says otherwise."""

from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import func, select, text

from backend.domain.decide import TradeStatus
from backend.domain.orders import Intent, OrderState
from backend.domain.trading_states import Cause, Scope, Standing, TradingState
from backend.models import AutoTrade, DayEquity, Order, User
from backend.services.account_service import deposit_play_money
from backend.services.auto_trading_service import run_cycle
from backend.services.context import Trading
from backend.services.trading_state_service import impose, lift_own, standings
from tests.support.paper_desk import account_of

D = Decimal
REASON = "looked at it, all is well"


async def began_with(trading: Trading, market, user_id: int, rupees: int | str) -> None:
    """What the account was worth at the day's first look."""
    account_id = await account_of(trading.sessions, user_id)
    async with trading.sessions.begin() as session:
        start = await session.get(DayEquity, (account_id, market.now.date()))
        if start is None:
            start = DayEquity(account_id=account_id, trade_date=market.now.date(), equity_rupees=D(0))
            session.add(start)
        start.equity_rupees = D(rupees)


async def standing(trading: Trading) -> list[Standing]:
    async with trading.sessions() as session:
        return list((await standings(session)).rows)


async def tick(trading: Trading, market) -> dict[str, int]:
    """One minute of the market; the reasons for which something was denied."""
    market.now += timedelta(minutes=1)
    report = await run_cycle(trading, market.now)
    assert report is not None
    return report.denied


async def lift(trading: Trading, user_id: int) -> None:
    async with trading.sessions.begin() as session:
        await lift_own(session, await session.get_one(User, user_id), REASON)


@pytest.mark.parametrize(
    ("cash", "reduced"), [("490000.01", False), ("490000.00", True), ("489999.99", True)], ids=["under", "at", "over"]
)
async def test_two_percent_gone_leave_only_exits(trading, market, make_user, cash, reduced) -> None:
    user_id = await make_user(cash=D(cash))
    await began_with(trading, market, user_id, 500_000)
    denied = await tick(trading, market)
    assert denied == ({"trading_reducing": 2} if reduced else {})
    assert [(s.scope, s.key, s.state, s.cause) for s in await standing(trading)] == (
        [(Scope.USER, str(user_id), TradingState.REDUCING, Cause.DAILY_LOSS)] if reduced else []
    )
    async with trading.sessions() as session:
        assert await session.scalar(select(func.count()).select_from(Order)) == (0 if reduced else 2)


async def test_the_first_look_of_a_day_is_what_its_loss_is_counted_from(trading, market, make_user) -> None:
    user_id = await make_user(cash=D(490_000))
    await began_with(trading, market, user_id, 500_000)
    market.now += timedelta(days=1)
    assert await tick(trading, market) == {}
    async with trading.sessions() as session:
        equity = await session.scalars(select(DayEquity.equity_rupees).order_by(DayEquity.trade_date))
        assert equity.all() == [500_000, 490_000]
    await tick(trading, market)
    assert await standing(trading) == []


async def test_exits_go_on_and_entries_wait(trading, market, make_user) -> None:
    user_id = await make_user(symbols=("INFY",))
    await tick(trading, market)
    async with trading.sessions.begin() as session:
        await session.execute(text("UPDATE auto_trade_settings SET symbols = '{INFY,TCS}'"))
    await began_with(trading, market, user_id, 600_000)
    market.stocks["INFY"].last = D(1600)  # beyond its target
    denied = await tick(trading, market)
    assert denied["trading_reducing"] >= 1
    assert [s.state for s in await standing(trading)] == [TradingState.REDUCING]
    async with trading.sessions() as session:
        orders = (await session.execute(select(Order.symbol, Order.intent, Order.state).order_by(Order.id))).all()
        status = (await session.scalars(select(AutoTrade.status))).one()
    assert orders == [
        ("INFY", Intent.ENTRY, OrderState.FILLED),
        ("INFY", Intent.EXIT, OrderState.FILLED),
    ]
    assert status is TradeStatus.CLOSED


async def test_lifted_once_the_day_may_cost_as_much_again(trading, market, make_user) -> None:
    user_id = await make_user(cash=D(490_000), symbols=())
    await began_with(trading, market, user_id, 500_000)
    await tick(trading, market)
    assert len(await standing(trading)) == 1
    await lift(trading, user_id)
    await tick(trading, market)
    assert await standing(trading) == []
    await began_with(trading, market, user_id, "510416.66")  # 490,000 is a hundredth of a rupee above 4 % less
    await tick(trading, market)
    assert await standing(trading) == []
    await began_with(trading, market, user_id, "510416.67")
    await tick(trading, market)
    assert [s.cause for s in await standing(trading)] == [Cause.DAILY_LOSS]


async def test_another_users_lift_allows_this_one_nothing(trading, market, make_user) -> None:
    first, second = await make_user("asha", cash=D(490_000)), await make_user("ravi", cash=D(490_000))
    await began_with(trading, market, first, 500_000)
    await tick(trading, market)
    await lift(trading, first)
    await began_with(trading, market, second, 500_000)
    await tick(trading, market)
    assert [s.key for s in await standing(trading)] == [str(second)]


async def test_there_is_no_verdict_while_something_held_has_no_quote(trading, market, make_user) -> None:
    user_id = await make_user(symbols=("INFY",))
    await tick(trading, market)
    await began_with(trading, market, user_id, 600_000)
    infy = market.stocks.pop("INFY")
    await tick(trading, market)
    assert await standing(trading) == []
    market.stocks["INFY"] = infy
    await tick(trading, market)
    assert [s.state for s in await standing(trading)] == [TradingState.REDUCING]


async def test_a_graver_state_that_stands_is_left_alone(trading, market, make_user) -> None:
    user_id = await make_user(cash=D(400_000))
    await began_with(trading, market, user_id, 500_000)
    async with trading.sessions.begin() as session:
        await impose(session, Scope.USER, str(user_id), TradingState.HALTED, Cause.USER_KILL_SWITCH, "why")
    await tick(trading, market)
    assert [(s.state, s.cause) for s in await standing(trading)] == [(TradingState.HALTED, Cause.USER_KILL_SWITCH)]


async def test_a_halt_over_the_loss_limit_is_not_a_lift_of_it(trading, market, make_user) -> None:
    """Who stops trading altogether has not said that the day may cost more."""
    user_id = await make_user(cash=D(490_000), symbols=())
    await began_with(trading, market, user_id, 500_000)
    await tick(trading, market)
    async with trading.sessions.begin() as session:
        await impose(session, Scope.USER, str(user_id), TradingState.HALTED, Cause.USER_KILL_SWITCH, "why", by=user_id)
    await lift(trading, user_id)
    await tick(trading, market)
    assert [s.cause for s in await standing(trading)] == [Cause.DAILY_LOSS]


@pytest.mark.parametrize(
    ("began", "transfers", "cash", "reduced"),
    [
        (500_000, [100_000], 488_000, True),  # 12,000 of 600,000
        (500_000, [100_000], 488_001, False),
        (500_000, [-100_000], 500_000, False),
        (500_000, [-100_000], 490_000, True),  # 10,000 of 500,000
        (500_000, [-400_000], 490_001, False),
        (500_000, [300_000, -300_000], 490_000, True),
        (0, [500_000], 0, False),
    ],
)
async def test_money_that_comes_or_goes_is_no_gain_and_no_loss(
    trading, market, make_user, began, transfers, cash, reduced
) -> None:
    """`cash` is what the day itself has left of what it began with."""
    user_id = await make_user(cash=D(cash), symbols=())
    await began_with(trading, market, user_id, began)
    for rupees in transfers:
        async with trading.sessions.begin() as session:
            account_id = await account_of(trading.sessions, user_id)
            await deposit_play_money(session, account_id, D(rupees), market.now)
    await tick(trading, market)
    assert [s.cause for s in await standing(trading)] == ([Cause.DAILY_LOSS] if reduced else [])
