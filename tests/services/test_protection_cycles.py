"""Protections through real cycles: what a stop, a bad week or a bad symbol bars, for how long, and that exits go on."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from backend.domain.decide import ExitReason, TradeStatus
from backend.domain.market import Product, Side
from backend.domain.modes import Mode
from backend.domain.protections import (
    REACH_SESSIONS_MAX,
    Block,
    Cooldown,
    LowProfit,
    MaxDrawdown,
    Protections,
    StoplossGuard,
    to_stored,
)
from backend.domain.reasons import Reason
from backend.models import AutoTrade, AutoTradeSettings, BrokerAccount
from backend.services.auto_trading_service import run_cycle
from backend.services.corporate_action_service import settle_actions
from backend.services.decision_query_service import decisions_of
from backend.services.gather_service import gather_market, gather_users
from backend.services.protection_service import blocks_of, session_days
from tests.support.market_server import Stock

D = Decimal
OFF = Protections(cooldown=None, stoploss_guard=None, max_drawdown=None, low_profit=None)
Protect = Callable[..., Awaitable[int]]


@pytest.fixture
def protect(make_user, sessions) -> Protect:
    """Create a trading user with these rules and no others; returns the user's id."""

    async def make(rules: Protections, name: str = "asha", **user: Any) -> int:
        user_id = await make_user(name, **user)
        async with sessions.begin() as session:
            mine = AutoTradeSettings.user_id == user_id
            await session.execute(update(AutoTradeSettings).where(mine).values(protections=to_stored(rules)))
        return user_id

    return make


async def in_force(trading, user_id: int) -> tuple[Block, ...]:
    """What the status says; the next cycle must find the same."""
    async with trading.sessions() as session:
        settings = await session.get_one(AutoTradeSettings, user_id)
        account = (await session.scalars(select(BrokerAccount).where(BrokerAccount.user_id == user_id))).one()
    return await blocks_of(trading, settings, account, await trading.clock())


async def stop_out(trading, market, *symbols: str) -> None:
    """Enter everything, then let `symbols` fall through their stops."""
    assert (await run_cycle(trading, market.now)).entries
    market.now += timedelta(minutes=1)
    before = {symbol: market.stocks[symbol].last for symbol in symbols}
    for symbol in symbols:
        market.stocks[symbol].last *= D("0.93")
    assert (await run_cycle(trading, market.now)).exits == len(symbols)
    market.now += timedelta(minutes=1)
    for symbol in symbols:
        market.stocks[symbol].last = before[symbol]


async def denied_on(trading, market, days: int) -> dict[str, int]:
    """The denials of a tick so many days on, without its exits."""
    market.now += timedelta(days=days)
    report = await run_cycle(trading, market.now)
    return report.denied


async def test_a_stop_bars_its_symbol_for_the_cooldown_and_the_next_tick_says_so(trading, market, protect):
    user_id = await protect(replace(OFF, cooldown=Cooldown(pause_sessions=2)))  # Monday 18 March
    await stop_out(trading, market, "INFY")
    for days in (0, 1, 1):
        assert await denied_on(trading, market, days) == {"cooldown": 1, "already_held": 1}
        (block,) = await in_force(trading, user_id)
        assert (block.rule, block.symbol, block.until.isoformat()) == (Reason.COOLDOWN, "INFY", "2024-03-21")
    (newest, *_) = await decisions_of(trading, user_id, None, 10)
    reasons = {s.symbol: (s.reason, s.recorded) for s in newest.symbols}
    assert reasons["INFY"] == (Reason.COOLDOWN, True)
    market.now += timedelta(days=1)
    assert await in_force(trading, user_id) == ()
    assert (await run_cycle(trading, market.now)).entries == 1


async def test_by_default_a_stop_cools_down_for_one_session(trading, market, make_user):
    user_id = await make_user(symbols=("INFY",))
    await stop_out(trading, market, "INFY")
    assert await denied_on(trading, market, 1) == {"cooldown": 1}
    assert [b.rule for b in await in_force(trading, user_id)] == [Reason.COOLDOWN]
    market.now += timedelta(days=1)
    assert (await run_cycle(trading, market.now)).entries == 1


async def test_stops_pause_every_entry_and_no_exit(trading, market, protect):
    market.stocks |= {"SBIN": Stock(D(750)), "WIPRO": Stock(D(480), touch=0.5)}
    guard = StoplossGuard(lookback_sessions=5, stops_min=2, pause_sessions=2)
    await trading.market_data.load_instruments()
    user_id = await protect(replace(OFF, stoploss_guard=guard), symbols=("INFY", "TCS", "SBIN", "WIPRO"))
    await stop_out(trading, market, "INFY", "TCS")
    market.stocks["WIPRO"].touch = 0.85
    assert await denied_on(trading, market, 0) == {"exited_today": 2, "already_held": 1, "stoploss_guard": 1}
    assert await denied_on(trading, market, 1) == {"already_held": 1, "stoploss_guard": 3}
    (block,) = await in_force(trading, user_id)
    assert (block.rule, block.symbol, block.until.isoformat()) == (Reason.STOPLOSS_GUARD, None, "2024-03-21")
    market.stocks["SBIN"].last *= D("1.04")
    market.now += timedelta(minutes=1)
    report = await run_cycle(trading, market.now)
    assert (report.exits, report.entries) == (1, 0)
    assert await denied_on(trading, market, 1) == {"stoploss_guard": 4}
    market.now += timedelta(days=1)
    assert (await run_cycle(trading, market.now)).entries == 4


@pytest.mark.parametrize(("times_the_fall", "pauses"), [("0.999", True), ("1.001", False)])
async def test_a_drawdown_is_a_part_of_the_funds_before_it(trading, market, protect, times_the_fall, pauses):
    """Within 0.1 %: neither the open trade's cost, 7.5 % of the funds, nor its fall since, 0.2 %, may be missed."""
    market.stocks["SBIN"] = Stock(D(750))
    await trading.market_data.load_instruments()
    user_id = await protect(OFF, symbols=("INFY", "TCS", "SBIN"))
    await stop_out(trading, market, "INFY", "TCS")
    market.stocks["SBIN"].last *= D("0.97")
    async with trading.sessions.begin() as session:
        pnls = (await session.scalars(select(AutoTrade.realized_pnl).where(AutoTrade.status == "closed"))).all()
        rule = MaxDrawdown(5, 2, -sum(pnls, D(0)) / D(500_000) * D(times_the_fall), 1)
        rules = replace(OFF, max_drawdown=rule)
        await session.execute(update(AutoTradeSettings).values(protections=to_stored(rules)))
    assert [(b.rule, b.symbol) for b in await in_force(trading, user_id)] == [(Reason.MAX_DRAWDOWN, None)] * pauses
    market.stocks["SBIN"].touch = 0.5
    denied = await denied_on(trading, market, 1)
    assert denied.get("max_drawdown", 0) == 2 * pauses
    if pauses:
        market.now += timedelta(days=1)
        assert (await run_cycle(trading, market.now)).entries == 2
        # What the broker does not tell cannot be judged; the cycle leaves such a user alone altogether.
        market.now -= timedelta(days=1)
        assert await in_force(replace(trading, brokers={}), user_id) == ()


async def test_a_symbol_that_does_not_pay_is_left_alone(trading, market, protect):
    rule = LowProfit(lookback_sessions=5, trades_min=1, return_fraction_min=D("-0.05"), pause_sessions=1)
    user_id = await protect(replace(OFF, low_profit=rule))
    await stop_out(trading, market, "INFY")
    assert await denied_on(trading, market, 1) == {"low_profit_symbol": 1, "already_held": 1}
    (block,) = await in_force(trading, user_id)
    assert (block.rule, block.symbol, block.until.isoformat()) == (Reason.LOW_PROFIT_SYMBOL, "INFY", "2024-03-20")
    market.now += timedelta(days=1)
    assert (await run_cycle(trading, market.now)).entries == 1


async def test_one_users_stops_are_nothing_to_another(trading, market, protect, make_user):
    asha = await protect(replace(OFF, cooldown=Cooldown(2)))
    await stop_out(trading, market, "INFY")
    ravi = await protect(replace(OFF, cooldown=Cooldown(2)), name="ravi")
    assert (await run_cycle(trading, market.now)).entries == 2
    assert [bool(await in_force(trading, user)) for user in (asha, ravi)] == [True, False]


async def add_closed(sessions, user_id: int, symbol: str, at: datetime, **changes: Any) -> None:
    """A trade of ₹10,000 that was stopped with a loss of ₹600, as the engine leaves it."""
    async with sessions.begin() as session:
        account_id = await session.scalar(select(BrokerAccount.id).where(BrokerAccount.user_id == user_id))
        values = {
            "user_id": user_id,
            "account_id": account_id,
            "cycle_id": 1,
            "symbol": symbol,
            "exchange": "nse",
            "side": Side.BUY,
            "product": Product.CNC,
            "mode": Mode.MODERATE,
            "status": TradeStatus.CLOSED,
            "strategy": "pooled",
            "confidence": 0.75,
            "confidence_kind": "touch_net_0.015",
            "expected_return_net": 0.02,
            "horizon_ends_on": at.date(),
            "reference_price": D(1000),
            "target_price": D(1030),
            "stop_price": D(940),
            "quantity": 10,
            "entry_quantity": 10,
            "entry_price": D(1000),
            "exit_quantity": 10,
            "exit_price": D(940),
            "exit_reason": ExitReason.STOP,
            "charges": D(0),
            "realized_pnl": D(-600),
            "decided_at": at,
            "opened_at": at,
            "closed_at": at,
        }
        await session.execute(insert(AutoTrade).values(**(values | changes)))


async def gathered(trading, now: datetime) -> dict[int, tuple[dict[str, Reason], Reason | None]]:
    await settle_actions(trading, now)
    view = (await gather_market(trading, now)).view
    users = [user for shard in range(2) for user in await gather_users(trading, shard, 2, view)]
    return {user.user_id: (dict(user.blocked), user.paused) for user in users}


async def test_a_cycle_reads_as_far_back_as_each_users_rules_reach(trading, market, protect, sessions):
    """The oldest trade of every rule sits at the end of its reach, and one session before it counts for nothing."""
    days = [d for d in session_days(trading.calendar, market.now.date()) if d <= market.now.date()]
    rules = {
        "longest": replace(OFF, low_profit=LowProfit(40, 2, D("-0.05"), 20)),
        "short": replace(OFF, low_profit=LowProfit(2, 2, D("-0.05"), 3)),
        "guard": replace(OFF, stoploss_guard=StoplossGuard(35, 2, None, 2)),
        "cooldown": replace(OFF, cooldown=Cooldown(20)),
    }
    expected = {}
    for name, rule in rules.items():
        for sooner in (0, 1):
            user_id = await protect(rule, name=f"{name}{sooner}")
            oldest = datetime.combine(days[-1 - rule.reach_sessions - sooner], market.now.timetz())
            await add_closed(sessions, user_id, "INFY", oldest)
            if name != "cooldown":
                lookback = (rule.low_profit or rule.stoploss_guard).lookback_sessions
                at = datetime.combine(days[-1 - rule.reach_sessions + lookback - 1], market.now.timetz())
                await add_closed(sessions, user_id, "INFY", at)
            barred = ({"INFY": Reason.COOLDOWN}, None) if name == "cooldown" else ({}, Reason.STOPLOSS_GUARD)
            barred = ({"INFY": Reason.LOW_PROFIT_SYMBOL}, None) if rule.low_profit else barred
            expected[user_id] = ({}, None) if sooner else barred
    assert await gathered(trading, market.now) == expected
    for user_id, (blocked, paused) in expected.items():
        found = await in_force(trading, user_id)
        assert {b.symbol: b.rule for b in found} == (blocked or ({None: paused} if paused else {}))


async def test_settings_nobody_can_read_are_the_defaults_for_that_user_alone(trading, market, protect, sessions):
    broken = await protect(OFF, name="broken")
    sound = await protect(OFF, name="sound")
    async with sessions.begin() as session:
        mine = AutoTradeSettings.user_id == broken
        nonsense = {"cooldown": {"pause_sessions": 0}, "kill": 1}
        await session.execute(update(AutoTradeSettings).where(mine).values(protections=nonsense))
    for user_id in (broken, sound):
        await add_closed(sessions, user_id, "INFY", market.now - timedelta(days=3))
    assert await gathered(trading, market.now) == {broken: ({"INFY": Reason.COOLDOWN}, None), sound: ({}, None)}


async def test_the_days_read_hold_the_longest_reach_and_pause_in_every_year(trading):
    calendar = trading.calendar
    for year in range(2020, 2026):
        for month in range(1, 13):
            today = datetime(year, month, 15).date()  # noqa: DTZ001
            days = session_days(calendar, today)
            before = [day for day in days if day <= today]
            assert len(before) > REACH_SESSIONS_MAX
            assert len(days) - len(before) > 21


async def test_of_one_symbols_reasons_the_gravest_is_shown(trading, market, protect, sessions):
    user_id = await protect(replace(OFF, cooldown=Cooldown(), low_profit=LowProfit(trades_min=1)))
    await add_closed(sessions, user_id, "TCS", market.now - timedelta(hours=1))
    await add_closed(
        sessions, user_id, "INFY", market.now - timedelta(hours=1), exit_reason=ExitReason.TARGET, realized_pnl=D(100)
    )
    never_filled = {"status": TradeStatus.CANCELLED, "entry_price": None, "entry_quantity": 0, "realized_pnl": D(0)}
    await add_closed(sessions, user_id, "SBIN", market.now - timedelta(hours=1), **never_filled)
    assert await gathered(trading, market.now) == {
        user_id: ({"TCS": Reason.LOW_PROFIT_SYMBOL, "INFY": Reason.EXITED_TODAY}, None)
    }
