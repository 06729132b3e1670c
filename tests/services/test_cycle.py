"""The trading cycle over a real database, real HTTP and the paper broker's own book."""

import asyncio
from datetime import timedelta
from decimal import Decimal

from sqlalchemy import func, select, text, update

from backend.domain.decide import ExitReason, TradeStatus
from backend.domain.modes import Mode
from backend.domain.orders import OrderState
from backend.models import (
    AutoTrade,
    AutoTradeSettings,
    Cycle,
    CycleStatus,
    DailyUsage,
    Decision,
    Fill,
    Order,
    PaperEntry,
    PaperOrder,
)
from backend.services.auto_trading_service import run_cycle
from backend.services.reconcile_service import reconcile
from contracts.predictions import Action
from tests.support.market_server import Stock


async def trades_of(trading) -> list[AutoTrade]:
    async with trading.sessions() as session:
        return list((await session.scalars(select(AutoTrade).order_by(AutoTrade.symbol, AutoTrade.id))).all())


async def test_signals_become_orders_fills_and_trades(trading, market, make_user):
    await make_user()
    report = await run_cycle(trading, market.now)
    assert report is not None
    assert (report.entries, report.exits, report.candidates["moderate"]) == (2, 0, 2)
    infy, tcs = await trades_of(trading)
    assert (infy.status, tcs.status) == (TradeStatus.OPEN, TradeStatus.OPEN)
    # 7.5 % of 500,000 at the limit of 1504.50 with 0.15 % kept for charges: 24 whole shares.
    assert (infy.quantity, infy.entry_quantity) == (24, 24)
    # ask 1500.05 plus slippage of 0.02 %, rounded away to the tick.
    assert infy.entry_price == Decimal("1500.40")
    assert infy.confidence == 0.85
    assert infy.confidence_kind == "touch_net_0.015"
    assert infy.charges > 0
    async with trading.sessions() as session:
        cash = await session.scalar(
            select(PaperEntry.balance_after).where(PaperEntry.asset == "INR").order_by(PaperEntry.id.desc()).limit(1)
        )
        spent = sum(t.entry_price * t.entry_quantity + t.charges for t in (infy, tcs))
        assert cash == Decimal(500_000) - spent
        assert await session.scalar(select(DailyUsage.entries_used)) == 2
        cycle = (await session.scalars(select(Cycle))).one()
        assert cycle.status is CycleStatus.DONE
        assert set(cycle.inputs["quotes"]["quotes"]) == {"INFY", "TCS"}


async def test_two_cycles_over_one_tick_give_one_set_of_orders(two_traders, market, make_user):
    for name in ("asha", "ravi", "meera"):
        await make_user(name)
    one, other = two_traders
    await asyncio.gather(run_cycle(one, market.now), run_cycle(other, market.now))
    await run_cycle(one, market.now + timedelta(seconds=20))
    async with one.sessions() as session:
        assert await session.scalar(select(func.count()).select_from(Cycle)) == 1
        assert await session.scalar(select(func.count()).select_from(Order)) == 6
        assert await session.scalar(select(func.count()).select_from(PaperOrder)) == 6
        tags = (await session.scalars(select(PaperOrder.tag))).all()
        assert len(set(tags)) == 6


async def test_the_next_tick_does_not_enter_what_is_held(trading, market, make_user):
    await make_user()
    await run_cycle(trading, market.now)
    market.now += timedelta(minutes=1)
    report = await run_cycle(trading, market.now)
    assert report.entries == 0
    assert report.denied == {"already_held": 2}


async def test_a_target_is_taken_and_the_profit_is_net_of_every_charge(trading, market, make_user):
    await make_user(symbols=("INFY",))
    await run_cycle(trading, market.now)
    market.now += timedelta(minutes=1)
    market.stocks["INFY"].last = Decimal(1560)
    market.stocks["INFY"].reference = Decimal(1500)
    report = await run_cycle(trading, market.now)
    assert report.exits == 1
    (trade,) = await trades_of(trading)
    assert (trade.status, trade.exit_reason) == (TradeStatus.CLOSED, ExitReason.TARGET)
    assert trade.exit_quantity == trade.entry_quantity == 24
    gross = (trade.exit_price - trade.entry_price) * 24
    assert trade.realized_pnl == gross - trade.charges
    async with trading.sessions() as session:
        cash = await session.scalar(
            select(PaperEntry.balance_after).where(PaperEntry.asset == "INR").order_by(PaperEntry.id.desc()).limit(1)
        )
        assert cash == Decimal(500_000) + trade.realized_pnl
        fills = (await session.scalars(select(Fill))).all()
        assert sum(f.charges for f in fills) == trade.charges
    market.now += timedelta(minutes=1)
    market.stocks["INFY"].reference = Decimal(1560)
    report = await run_cycle(trading, market.now)
    assert report.denied == {"exited_today": 1}


async def test_stop_opposite_signal_and_horizon_close_a_trade(trading, market, make_user, sessions):
    await make_user(symbols=("INFY",))
    async with sessions.begin() as session:  # entered again on the day after its stop
        unprotected = {"cooldown": None, "low_profit": None}
        await session.execute(update(AutoTradeSettings).values(protections=unprotected))
    for change, expected in (
        ({"last": Decimal(1400)}, ExitReason.STOP),
        ({"action": Action.SELL}, ExitReason.OPPOSITE_SIGNAL),
        ({}, ExitReason.HORIZON),
    ):
        market.stocks["INFY"].last = market.stocks["INFY"].reference = Decimal(1500)
        market.stocks["INFY"].action = Action.BUY
        assert (await run_cycle(trading, market.now)).entries == 1
        for name, value in change.items():
            setattr(market.stocks["INFY"], name, value)
        if expected is ExitReason.HORIZON:
            # ten sessions after Wednesday 20 March, past the holidays of 25 and 29 March, at the square-off time
            market.now = market.now.replace(month=4, day=5, hour=15, minute=16)
        else:
            market.now += timedelta(minutes=1)
        assert (await run_cycle(trading, market.now)).exits == 1, expected
        assert (await trades_of(trading))[-1].exit_reason is expected
        market.now += timedelta(days=1)


async def test_exits_need_no_prediction_and_no_plan(trading, market, make_user, sessions):
    user_id = await make_user(symbols=("INFY",))
    await run_cycle(trading, market.now)
    market.now += timedelta(minutes=1)
    market.stocks["INFY"].last = Decimal(1390)
    market.predictions_down = True
    async with sessions.begin() as session:
        await session.execute(text("DELETE FROM subscriptions WHERE user_id = :u"), {"u": user_id})
        await session.execute(text("UPDATE auto_trade_settings SET enabled = false"))
    report = await run_cycle(trading, market.now)
    assert report.exits == 1
    assert "predictions" in report.problems
    (trade,) = await trades_of(trading)
    assert trade.status is TradeStatus.CLOSED


async def test_without_quotes_nothing_is_traded(trading, market, make_user):
    await make_user()
    market.quotes_down = True
    report = await run_cycle(trading, market.now)
    assert report.entries == 0
    assert report.rejected == {"no_quote": 6}


async def test_the_free_plan_is_denied_with_its_reason(trading, market, make_user):
    await make_user(plan="free")
    report = await run_cycle(trading, market.now)
    assert report.entries == 0
    assert report.denied == {"plan_limit": 2}
    async with trading.sessions() as session:
        decision = (await session.scalars(select(Decision))).one()
        assert {o["reason"] for o in decision.outcomes} == {"plan_limit"}


async def test_a_thin_market_fills_in_parts_and_the_rest_is_cancelled(trading, market, make_user):
    await make_user(symbols=("INFY",), mode=Mode.AGGRESSIVE)
    market.stocks["INFY"].bar_volume = 100  # ten per cent of it may be ours
    await run_cycle(trading, market.now)
    (trade,) = await trades_of(trading)
    assert (trade.status, trade.entry_quantity) == (TradeStatus.ENTERING, 10)
    start = market.now
    for minute in range(2):
        market.stocks["INFY"].bars.append(
            (start + timedelta(minutes=minute), Decimal(1501), Decimal(1502), Decimal(1500), Decimal(1501), 50)
        )
    market.now = start + timedelta(minutes=2)
    await reconcile(trading)
    (trade,) = await trades_of(trading)
    assert trade.entry_quantity == 20
    market.now = start + timedelta(minutes=11)
    await reconcile(trading)
    await reconcile(trading)
    (trade,) = await trades_of(trading)
    assert (trade.status, trade.entry_quantity) == (TradeStatus.OPEN, 20)
    async with trading.sessions() as session:
        order = (await session.scalars(select(Order))).one()
        assert (order.state, order.filled_quantity) == (OrderState.CANCELLED, 20)


async def test_outside_the_continuous_session_no_cycle_opens(trading, market, make_user):
    await make_user()
    for hour, minute in ((9, 14), (15, 30), (18, 0)):
        assert await run_cycle(trading, market.now.replace(hour=hour, minute=minute)) is None
    assert await run_cycle(trading, market.now.replace(day=25)) is None  # Holi


async def test_ticks_that_passed_unattended_are_on_record(trading, market, make_user):
    await make_user()
    await run_cycle(trading, market.now)
    market.now += timedelta(minutes=4)
    report = await run_cycle(trading, market.now)
    assert report.missed == 3
    async with trading.sessions() as session:
        states = (await session.scalars(select(Cycle.status).order_by(Cycle.scheduled_at))).all()
    assert states == [CycleStatus.DONE, *[CycleStatus.MISSED] * 3, CycleStatus.DONE]
    market.now += timedelta(days=1)
    market.now = market.now.replace(hour=9, minute=17)
    assert (await run_cycle(trading, market.now)).missed == 2
    assert await run_cycle(trading, market.now) is None


async def test_a_stop_crossed_while_the_entry_fills_cancels_it_and_sells_what_it_got(trading, market, make_user):
    await make_user(symbols=("INFY",), mode=Mode.AGGRESSIVE)
    market.stocks["INFY"].bar_volume = 100
    await run_cycle(trading, market.now)
    assert (await trades_of(trading))[0].status is TradeStatus.ENTERING
    market.stocks["INFY"].last = Decimal(1400)
    market.stocks["INFY"].bar_volume = 100_000
    market.now += timedelta(minutes=1)
    assert (await run_cycle(trading, market.now)).exits == 0
    await reconcile(trading)
    assert (await trades_of(trading))[0].status is TradeStatus.OPEN
    market.now += timedelta(minutes=1)
    assert (await run_cycle(trading, market.now)).exits == 1
    (trade,) = await trades_of(trading)
    assert (trade.status, trade.exit_reason) == (TradeStatus.CLOSED, ExitReason.STOP)
    assert trade.exit_quantity == trade.entry_quantity == 10


async def test_a_deactivated_user_enters_nothing_and_is_let_out(trading, market, make_user, sessions):
    await make_user(symbols=("INFY", "TCS"))
    market.stocks["TCS"].action = Action.HOLD
    await run_cycle(trading, market.now)
    async with sessions.begin() as session:
        await session.execute(text("UPDATE users SET active = false"))
    market.now += timedelta(minutes=1)
    market.stocks["INFY"].last = Decimal(1390)
    market.stocks["TCS"].action = Action.BUY
    report = await run_cycle(trading, market.now)
    assert (report.entries, report.exits) == (0, 1)


async def test_more_symbols_than_one_request_holds_are_asked_for_in_parts(trading, market, make_user):
    names = [f"S{i:03d}" for i in range(600)]
    market.stocks |= {name: Stock(Decimal(1000), action=Action.HOLD) for name in names}
    await trading.market_data.load_instruments()
    await make_user(symbols=("INFY", *names))
    report = await run_cycle(trading, market.now)
    assert (report.symbols, report.entries, report.problems) == (601, 1, {})
