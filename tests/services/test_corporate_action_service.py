"""Corporate actions through the whole service: our books, the paper broker's, and a trade that goes on to its end."""

import asyncio
import contextlib
import sys
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select, text

from backend.brokers.base import OrderRequest
from backend.domain.calendar import IST
from backend.domain.decide import ExitReason, TradeStatus
from backend.domain.market import OrderType, Product, Side
from backend.domain.orders import OrderEventKind, OrderState
from backend.domain.reasons import Reason
from backend.domain.reconcile import BookTrade
from backend.domain.trading_states import Cause, Scope, TradingState
from backend.errors import UpstreamError
from backend.models import (
    AccountAction,
    AutoTrade,
    AutoTradeSettings,
    CorporateActionRecord,
    Decision,
    Fill,
    LedgerEntry,
    Order,
    OutboxMessage,
    PaperAction,
    TradingStatePeriod,
    User,
)
from backend.services import auto_trading_service, ledger_service
from backend.services.auto_trading_service import run_cycle
from backend.services.corporate_action_service import settle_actions
from backend.services.manual_order_service import ManualOrder, place_manual
from backend.services.order_service import apply_event, lock_order
from backend.services.position_service import watch_positions
from backend.services.trade_query_service import live_trades_of, valued_trades
from backend.services.trading_state_service import lift_own
from contracts.market import ActionKind, CorporateAction
from contracts.predictions import Action
from tests.crash.points import Points

D = Decimal
MONDAY, TUESDAY = date(2024, 3, 18), date(2024, 3, 19)
TUESDAY_10 = datetime(2024, 3, 19, 10, 0, tzinfo=IST)
PAISA = D("0.01")
SPLIT = {"kind": ActionKind.SPLIT, "shares_before": 1, "shares_after": 5}
BONUS = {"kind": ActionKind.BONUS, "shares_before": 2, "shares_after": 3}


def action(symbol: str = "INFY", on: date = TUESDAY, **figures: Any) -> CorporateAction:
    told = {"symbol": symbol, "ex_date": on, "known_on": on, "subject": "as announced", "source": "test"} | figures
    return CorporateAction.model_validate(told)


@pytest.fixture
async def user(trading, market, make_user) -> int:
    """A user with one open trade in INFY since Monday, at 1500; nothing is signalled any more, and Tuesday has come."""
    user_id = await make_user(symbols=("INFY",))
    await run_cycle(trading, market.now)
    market.stocks["INFY"].action = Action.HOLD
    market.stocks["INFY"].closes[MONDAY] = D(1500)
    market.now = TUESDAY_10
    return user_id


def now_trades_at(market, price: Decimal | int) -> None:
    """INFY on the ex-date."""
    market.stocks["INFY"].last = D(price)


async def trade_of(trading, user_id: int) -> AutoTrade:
    async with trading.sessions() as session:
        return (await session.scalars(select(AutoTrade).where(AutoTrade.user_id == user_id))).one()


async def account_of(trading, user_id: int) -> int:
    async with trading.sessions() as session:
        return await session.scalar(text("SELECT id FROM broker_accounts WHERE user_id = :u"), {"u": user_id})


async def books(trading, user_id: int) -> ledger_service.Books:
    account_id = await account_of(trading, user_id)
    async with trading.sessions() as session:
        return (await ledger_service.books_of(session, [account_id]))[account_id]


async def at_broker(trading, user_id: int):
    (snapshot,) = (await trading.brokers["paper"].snapshots([await account_of(trading, user_id)])).values()
    return snapshot


async def profit(trading, user_id: int) -> Decimal:
    """Realized and unrealized P&L of all of the user's trades, in rupees."""
    async with trading.sessions() as session:
        realized = await session.scalar(select(func.sum(AutoTrade.realized_pnl)).where(AutoTrade.user_id == user_id))
        live = await live_trades_of(session, user_id)
    valued = await valued_trades(trading, live)
    # A trade that is partly left counts what it realized in its column, and the rest here.
    return (realized or D(0)) + sum((v.unrealized_pnl or D(0) for v in valued), D(0))


async def everything(trading) -> dict[str, Any]:
    """All that an action may change, row by row, without the database's own clock."""
    async with trading.sessions() as session:
        found = {}
        for table, columns in {
            "auto_trades": "id, symbol, status, quantity, entry_quantity, entry_price, exit_quantity, stop_price, "
            "target_price, reference_price, realized_pnl, dividends",
            "ledger_balances": "*",
            "ledger_entries": "journal, account_id, kind, ledger_account, symbol, amount, quantity, at",
            "paper_balances": "*",
            "paper_entries": "account_id, asset, kind, amount, balance_after, at",
            "account_actions": "account_id, status, shares_before, shares_after, cash",
            "paper_actions": "account_id, action, shares_before, shares_after, cash",
            "outbox": "topic, user_id, payload::text",
        }.items():
            rows = (await session.execute(text(f"SELECT {columns} FROM {table}"))).all()
            found[table] = sorted(map(str, rows))
        found["done"] = (await session.scalars(select(func.count(CorporateActionRecord.done_at)))).one()
    return found


async def agrees(trading, user_id: int) -> None:
    """Our books add up, and the watch over positions finds nothing to correct."""
    async with trading.sessions() as session:
        sums = select(LedgerEntry.journal, func.sum(LedgerEntry.amount)).group_by(LedgerEntry.journal)
        assert all(total == 0 for _, total in await session.execute(sums))
        adjusts = select(func.count()).where(LedgerEntry.kind == "adjust")
        before = await session.scalar(adjusts)
    report = await watch_positions(trading)
    assert (report.adopted, report.aligned, report.failed_accounts) == (0, 0, set())
    mine, there = await books(trading, user_id), await at_broker(trading, user_id)
    assert (mine.cash + mine.reserved, mine.shares) == (there.cash, dict(there.holdings))
    async with trading.sessions() as session:
        assert await session.scalar(adjusts) == before


@pytest.mark.parametrize(
    ("ratios", "price"),
    [
        ([SPLIT], D(300)),
        ([BONUS], D(1000)),
        ([BONUS | {"shares_before": 7, "shares_after": 8}], D("1312.50")),
        ([SPLIT, BONUS], D(200)),
        ([SPLIT, BONUS | {"shares_before": 7, "shares_after": 8}], D("262.50")),
        ([SPLIT | {"shares_before": 10, "shares_after": 3}], D(5000)),
    ],
    ids=["split", "bonus", "fraction", "both_on_one_day", "both_and_a_fraction", "consolidation"],
)
async def test_profit_goes_on_and_the_exit_earns_what_the_price_did(trading, market, user, ratios, price):
    before, held = await profit(trading, user), (await trade_of(trading, user)).entry_quantity
    assert held > 10
    market.actions = [action(**ratio) for ratio in ratios]
    now_trades_at(market, price)
    await run_cycle(trading, market.now)
    trade = await trade_of(trading, user)
    entitled = held
    for ratio in ratios:
        entitled = entitled * ratio["shares_after"] // ratio["shares_before"]
    assert (trade.status, trade.entry_quantity, trade.exit_quantity) == (TradeStatus.OPEN, entitled, 0)
    # What the last price of Monday makes of the shares, wherever Tuesday begins.
    assert abs(await profit(trading, user) - before) < PAISA
    await agrees(trading, user)
    now_trades_at(market, trade.target_price.quantize(D("0.05")) + D("0.05"))
    market.now += timedelta(minutes=1)
    await run_cycle(trading, market.now)
    done = await trade_of(trading, user)
    assert (done.status, done.exit_reason) == (TradeStatus.CLOSED, ExitReason.TARGET)
    async with trading.sessions() as session:
        sale = (await session.scalars(select(Fill).where(Fill.side == Side.SELL))).one()
        entry_charges = await session.scalar(select(func.sum(Fill.charges)).where(Fill.side == Side.BUY))
        bought = await session.scalar(select(func.sum(Fill.price * Fill.quantity)).where(Fill.side == Side.BUY))
        paid = await session.scalar(select(func.sum(AccountAction.cash)))
    assert sale.quantity == entitled
    in_rupees = sale.price * sale.quantity + paid - bought - entry_charges - sale.charges
    assert abs(done.realized_pnl - in_rupees) < PAISA
    await agrees(trading, user)
    assert (await books(trading, user)).shares == {}


async def test_the_levels_follow_and_nothing_is_sold_for_the_new_price(trading, market, user):
    plan = await trade_of(trading, user)
    market.actions = [action(**SPLIT)]
    now_trades_at(market, 300)
    report = await run_cycle(trading, market.now)
    trade = await trade_of(trading, user)
    assert report.exits == 0
    assert (trade.stop_price, trade.target_price) == (plan.stop_price / 5, plan.target_price / 5)
    assert (trade.reference_price, trade.quantity) == (plan.reference_price / 5, plan.quantity * 5)
    async with trading.sessions() as session:
        topics = (await session.scalars(select(OutboxMessage.topic).where(OutboxMessage.user_id == user))).all()
    assert topics == ["trade.entry_filled", "holding.adjusted"]


async def test_doing_it_again_changes_nothing(trading, market, user):
    market.actions = [action(**SPLIT), action(kind=ActionKind.DIVIDEND, amount=D(18))]
    await settle_actions(trading, market.now)
    once = await everything(trading)
    for minutes in (0, 20):
        assert await settle_actions(trading, market.now + timedelta(minutes=minutes))
    assert await everything(trading) == once
    assert once["done"] == 2


async def test_who_comes_after_an_action_is_not_concerned_when_it_is_told_again(trading, market, user, make_user):
    market.actions = [action(**SPLIT)]
    now_trades_at(market, 300)
    await settle_actions(trading, market.now)
    newcomer = await make_user("newcomer", symbols=("TCS",))
    await by_hand(trading, newcomer, Side.BUY, 10, "303")
    await watch_positions(trading)
    await settle_actions(trading, market.now + timedelta(minutes=20))
    async with trading.sessions() as session:
        assert (await session.scalars(select(AccountAction.account_id))).all() == [await account_of(trading, user)]


async def test_two_traders_do_it_once(two_traders, trading, market, user):
    market.actions = [action(**BONUS), action(kind=ActionKind.DIVIDEND, amount=D(18))]
    await asyncio.gather(*(settle_actions(trader, market.now) for trader in two_traders * 3))
    async with trading.sessions() as session:
        journals = select(func.count(LedgerEntry.journal.distinct())).where(
            LedgerEntry.kind.in_(["corporate_action", "dividend"])
        )
        assert await session.scalar(journals) == 2
        assert await session.scalar(select(func.count()).select_from(PaperAction)) == 2
    await agrees(trading, user)


async def killed_at(trading, market, point: int) -> int:
    """Settle the day's actions in a task that is ended at the `point`-th awaiting line of the service, commits
    included; how many there were."""

    async def work() -> None:
        points.install()
        try:
            await settle_actions(trading, market.now)
        finally:
            sys.settrace(None)

    def kill(_where: str) -> None:
        task.cancel()

    points = Points(point, kill, ("corporate_action_service",))
    task = asyncio.create_task(work())
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return len(points.seen)


async def test_killed_at_any_point_and_run_again_it_is_done_once(trading, market, user):
    """A day per point: six for five and back, most days with a fraction to pay, and a process that dies there."""
    shares = (await trade_of(trading, user)).entry_quantity
    day, point = TUESDAY, 1
    while True:
        market.now = datetime.combine(day, TUESDAY_10.timetz())
        market.stocks["INFY"].closes[day - timedelta(days=1)] = D(1500)
        before, after = (5, 6) if point % 2 else (6, 5)
        market.actions = [action(on=day, kind=ActionKind.SPLIT, shares_before=before, shares_after=after)]
        seen = await killed_at(trading, market, point)
        await settle_actions(trading, market.now)
        shares = shares * after // before
        trade, mine, there = await trade_of(trading, user), await books(trading, user), await at_broker(trading, user)
        assert trade.entry_quantity == mine.shares["INFY"] == there.holdings["INFY"] == shares, point
        assert mine.cash == there.cash, point
        async with trading.sessions() as session:
            told = select(func.count()).select_from(OutboxMessage).where(OutboxMessage.topic == "holding.adjusted")
            assert await session.scalar(told) == point
        if seen < point:
            break
        day, point = day + timedelta(days=1), point + 1
    assert point > 20
    await agrees(trading, user)


async def late_fill(trading, order_id: int, quantity: int, price: str, trade_id: str) -> None:
    """An execution of Monday that the broker lists on Tuesday."""
    at = datetime(2024, 3, 18, 15, 0, tzinfo=IST)
    async with trading.sessions.begin() as session:
        order = await lock_order(session, order_id)
        kind = (
            OrderEventKind.FILLED
            if order.filled_quantity + quantity == order.quantity
            else (OrderEventKind.PARTIALLY_FILLED)
        )
        await apply_event(session, order, kind, "late", at, BookTrade(trade_id, quantity, D(price), D(7), at))


async def unknown_exit(trading, user_id: int, quantity: int) -> int:
    """Monday's exit order whose outcome nobody knows; its id."""
    async with trading.sessions.begin() as session:
        entry = (await session.scalars(select(Order).where(Order.user_id == user_id))).one()
        values = {c.name: getattr(entry, c.name) for c in Order.__table__.columns if c.name not in {"id", "created_at"}}
        order = Order(
            **values | {"client_order_id": "LATE", "broker_order_id": None, "intent": "exit", "side": Side.SELL}
        )
        order.quantity, order.state, order.filled_quantity, order.average_price = quantity, OrderState.UNKNOWN, 0, None
        session.add(order)
        await session.flush()
        return order.id


@pytest.mark.parametrize("ratio", [SPLIT, BONUS, SPLIT | {"shares_before": 10, "shares_after": 1}])
@pytest.mark.parametrize("all_at_once", [True, False])
async def test_a_late_sale_of_before_the_ex_date_settles_on_the_old_scale(trading, market, user, ratio, all_at_once):
    """The books and the trade end as if the sale had been known before the action was applied."""
    held = (await trade_of(trading, user)).entry_quantity
    cash = (await books(trading, user)).cash
    order = await unknown_exit(trading, user, held)
    market.actions = [action(**ratio)]
    await settle_actions(trading, market.now)
    parts = [held] if all_at_once else [3, 1, held - 4]
    for number, part in enumerate(parts):
        await late_fill(trading, order, part, "1520", f"late{number}")
    trade, mine = await trade_of(trading, user), await books(trading, user)
    async with trading.sessions() as session:
        bought = (await session.scalars(select(Fill).where(Fill.side == Side.BUY))).all()
        results = select(func.sum(LedgerEntry.amount)).where(LedgerEntry.ledger_account == "pnl")
        gained = -(await session.scalar(results) or D(0))
    cost = sum(f.price * f.quantity for f in bought)
    assert trade.status is TradeStatus.CLOSED
    assert trade.realized_pnl == 1520 * held - cost - sum(f.charges for f in bought) - 7 * len(parts)
    assert (mine.shares, mine.positions) == ({}, D(0))
    assert mine.cash == cash + 1520 * held - 7 * len(parts)
    assert gained == 1520 * held - cost


async def test_a_late_purchase_is_carried_to_todays_shares(trading, market, user):
    trade = await trade_of(trading, user)
    async with trading.sessions.begin() as session:
        entry = (await session.scalars(select(Order))).one()
        entry.quantity, entry.state = entry.quantity + 3, OrderState.UNKNOWN
    before = await books(trading, user)
    market.actions = [action(**BONUS), action(kind=ActionKind.DIVIDEND, amount=D(4))]
    await settle_actions(trading, market.now)
    await late_fill(trading, entry.id, 3, "1500", "late")
    now, mine = await trade_of(trading, user), await books(trading, user)
    whole, half = divmod((trade.entry_quantity + 3) * 3, 2)
    assert (now.entry_quantity, mine.shares) == (whole, {"INFY": whole})
    assert now.dividends == 4 * (trade.entry_quantity + 3)
    assert mine.cash == before.cash - 3 * 1500 - 7 + now.dividends + half * D(500)


async def test_a_dividend_is_paid_by_the_broker_and_shown_beside_the_profit(trading, market, user):
    plan, before = await trade_of(trading, user), await books(trading, user)
    market.actions = [action(kind=ActionKind.DIVIDEND, amount=D("18.50"))]
    await run_cycle(trading, market.now)
    trade, mine = await trade_of(trading, user), await books(trading, user)
    assert trade.dividends == D("18.50") * trade.entry_quantity
    assert mine.cash == before.cash + trade.dividends
    assert (trade.realized_pnl, trade.stop_price) == (plan.realized_pnl, plan.stop_price)
    await agrees(trading, user)


async def test_an_extraordinary_dividend_moves_the_stop_with_the_price(trading, market, user):
    plan = await trade_of(trading, user)
    market.actions = [action(kind=ActionKind.DIVIDEND, amount=D(120))]
    now_trades_at(market, 1380)  # below the stop of the day before
    assert plan.stop_price > 1380
    report = await run_cycle(trading, market.now)
    trade = await trade_of(trading, user)
    assert (report.exits, trade.stop_price, trade.target_price) == (0, plan.stop_price - 120, plan.target_price - 120)


async def test_a_new_name_reaches_holdings_trades_and_settings(trading, market, user, make_user, sessions):
    before = await profit(trading, user)
    both = await make_user("both", symbols=("INFY", "INFOSYS", "TCS"), enabled=False)
    market.stocks["INFOSYS"] = market.stocks["INFY"]
    market.actions = [action(kind=ActionKind.RENAME, new_symbol="INFOSYS")]
    trading.calendar.know(await trading.market_data.load_instruments())
    await run_cycle(trading, market.now)
    trade = await trade_of(trading, user)
    assert (trade.symbol, trade.status) == ("INFOSYS", TradeStatus.OPEN)
    assert (await books(trading, user)).shares == {"INFOSYS": trade.entry_quantity}
    async with sessions() as session:
        chosen = dict((await session.execute(select(AutoTradeSettings.user_id, AutoTradeSettings.symbols))).all())
    assert chosen == {user: ["INFOSYS"], both: ["INFOSYS", "TCS"]}
    assert await profit(trading, user) == before
    await agrees(trading, user)
    now_trades_at(market, trade.target_price)
    market.now += timedelta(minutes=1)
    await run_cycle(trading, market.now)
    assert (await trade_of(trading, user)).status is TradeStatus.CLOSED
    await agrees(trading, user)


async def test_what_no_rule_computes_holds_the_share_until_its_owner_has_looked(trading, market, user, make_user):
    other = await make_user("other", symbols=("INFY",))
    market.stocks["INFY"].action = Action.BUY
    market.actions = [action(kind=ActionKind.DEMERGER)]
    now_trades_at(market, 900)  # far below the stop
    market.stocks["INFY"].reference = D(900)
    report = await run_cycle(trading, market.now)
    assert (report.exits, report.entries) == (0, 0)
    assert report.denied == {"trading_halted": 2, "action_today": 1}
    account_id = await account_of(trading, user)
    async with trading.sessions() as session:
        period = (await session.scalars(select(TradingStatePeriod))).one()
        told = select(OutboxMessage.payload).where(OutboxMessage.topic == "holding.needs_you")
        (payload,) = (await session.scalars(told)).all()
        owner = await session.get(User, user)
        stranger = await session.get(User, other)
    assert (period.scope, period.key, period.state) == (Scope.HOLDING, f"{account_id}:INFY", TradingState.HALTED)
    assert (period.cause, payload["account_id"]) == (Cause.CORPORATE_ACTION, account_id)
    async with trading.sessions.begin() as session:
        await lift_own(session, stranger, "this is none of mine")
        assert (await session.scalars(select(TradingStatePeriod.ended_at))).all() == [None]
        await lift_own(session, owner, "I have looked at it")
    market.now += timedelta(minutes=1)
    report = await run_cycle(trading, market.now)
    assert (report.exits, (await trade_of(trading, user)).exit_reason) == (1, ExitReason.STOP)


async def test_nothing_is_decided_while_the_days_actions_are_not_known(trading, market, user, make_user):
    await make_user("other", symbols=("INFY", "TCS"))
    market.stocks["INFY"].action = Action.BUY
    market.actions_down = True
    market.actions = [action(**SPLIT)]
    now_trades_at(market, 300)
    market.stocks["INFY"].reference = D(300)
    report = await run_cycle(trading, market.now)
    assert (report.exits, report.entries) == (0, 0)
    assert set(report.denied) == {Reason.ACTIONS_UNKNOWN}
    async with trading.sessions() as session:
        outcomes = await session.scalar(
            select(Decision.outcomes).where(Decision.user_id == user).order_by(Decision.cycle_id.desc()).limit(1)
        )
    assert {"exit_reason": "stop", "reason": "actions_unknown"}.items() <= outcomes[0].items()
    market.actions_down = False
    market.now += timedelta(minutes=1)
    report = await run_cycle(trading, market.now)
    assert (report.exits, report.entries) == (0, 2)
    await agrees(trading, user)


async def test_no_order_by_hand_is_taken_while_the_days_actions_are_not_known(trading, market, user):
    market.actions_down = True
    wanted = ManualOrder("INFY", Side.SELL, 1, Product.CNC)
    with pytest.raises(UpstreamError) as refused:
        await place_manual(trading, user, "a key of mine", wanted)
    assert refused.value.code == Reason.ACTIONS_UNKNOWN
    market.actions_down = False
    assert (await place_manual(trading, user, "a key of mine", wanted)).state is OrderState.FILLED


async def test_actions_of_the_day_stay_known_when_asking_again_fails(trading, market, user):
    assert await settle_actions(trading, market.now)
    market.actions_down = True
    assert await settle_actions(trading, market.now + timedelta(hours=1))


async def test_an_action_that_cannot_be_applied_bars_its_symbol_and_no_other(trading, market, user, sessions):
    """Half a share is to be paid out, and nobody knows at which price: nothing is guessed."""
    async with sessions.begin() as session:
        await session.execute(text("UPDATE auto_trade_settings SET symbols = '{INFY,TCS}'"))
    held = (await trade_of(trading, user)).entry_quantity
    market.stocks["INFY"].closes.clear()
    market.actions = [action(kind=ActionKind.BONUS, shares_before=held + 1, shares_after=held)]
    now_trades_at(market, 1400)  # at the stop
    report = await run_cycle(trading, market.now)
    assert (report.exits, report.entries, report.denied) == (0, 1, {"action_pending": 1})
    assert (await at_broker(trading, user)).holdings["INFY"] == held
    async with sessions() as session:
        assert (await session.scalars(select(TradingStatePeriod))).all() == []  # no loss of the day was seen
    market.stocks["INFY"].closes[MONDAY] = D(1500)
    market.now += timedelta(minutes=1)
    await run_cycle(trading, market.now)
    async with sessions() as session:
        trade = (await session.scalars(select(AutoTrade).where(AutoTrade.symbol == "INFY"))).one()
    assert trade.stop_price > 1400
    assert (trade.exit_reason, trade.exit_quantity) == (ExitReason.STOP, held * held // (held + 1))
    await agrees(trading, user)


async def test_the_gate_refuses_what_was_decided_on_the_old_scale(trading, market, user, monkeypatch):
    """An exit was decided; before it is sent the action becomes known and is applied."""
    held, send = (await trade_of(trading, user)).entry_quantity, auto_trading_service.send

    async def send_after(world, claim, recorded, market_now):
        market.actions = [action(kind=ActionKind.BONUS, shares_before=held + 1, shares_after=held)]
        assert await settle_actions(world, market_now + timedelta(minutes=20))
        await send(world, claim, recorded, market_now)

    monkeypatch.setattr(auto_trading_service, "send", send_after)
    now_trades_at(market, 1400)
    await run_cycle(trading, market.now)
    async with trading.sessions() as session:
        order = (await session.scalars(select(Order).where(Order.side == Side.SELL))).one()
    assert (order.state, order.denied_reason) == (OrderState.DENIED, Reason.ACTION_PENDING)


async def test_a_price_of_before_the_split_values_nothing(trading, market, user):
    """From midnight of the ex-date to its first trade the last price is on the old scale."""
    market.now = TUESDAY_10.replace(hour=8)
    market.actions = [action(**SPLIT)]
    market.stocks["INFY"] = replace(market.stocks["INFY"], as_of=TUESDAY_10.replace(hour=15, minute=30) - timedelta(1))
    assert await settle_actions(trading, market.now)
    async with trading.sessions() as session:
        trades = await live_trades_of(session, user)
    (before,) = await valued_trades(trading, trades)
    assert (before.last_price, before.unrealized_pnl) == (None, None)
    market.stocks["INFY"] = replace(market.stocks["INFY"], as_of=None)
    market.now = TUESDAY_10
    now_trades_at(market, 303)
    (after,) = await valued_trades(trading, trades)
    assert after.last_price == 303


async def test_a_sale_by_hand_of_before_the_split_closes_no_trade_when_new_shares_come_late(trading, market, user):
    """A real broker may credit the new shares days later: until then the account lacks them."""
    market.now = TUESDAY_10 - timedelta(hours=20)
    await by_hand(trading, user, Side.BUY, 20, "1510")
    await watch_positions(trading)
    await by_hand(trading, user, Side.SELL, 20, "1490")
    await watch_positions(trading)
    market.now, market.actions = TUESDAY_10, [action(**SPLIT)]
    assert await settle_actions(trading, market.now)
    account_id = await account_of(trading, user)
    held = (await trade_of(trading, user)).entry_quantity
    async with trading.sessions.begin() as session:
        late = text("UPDATE paper_balances SET balance = 0 WHERE asset = 'INFY' AND account_id = :account_id")
        await session.execute(late, {"account_id": account_id})
    await watch_positions(trading)
    trade = await trade_of(trading, user)
    assert (trade.status, trade.exit_quantity, trade.entry_quantity) == (TradeStatus.OPEN, 0, held)


async def test_no_loss_is_seen_in_a_price_on_another_scale(trading, market, user):
    """The price has halved with the shares to double, and the half share's worth is not known yet."""
    await run_cycle(trading, market.now)
    held = (await trade_of(trading, user)).entry_quantity
    market.stocks["INFY"].closes.clear()
    market.actions = [action(kind=ActionKind.BONUS, shares_before=held + 1, shares_after=2 * held)]
    now_trades_at(market, 780)
    market.now += timedelta(minutes=20)
    report = await run_cycle(trading, market.now)
    assert report.denied == {"action_pending": 1}
    async with trading.sessions() as session:
        assert (await session.scalars(select(TradingStatePeriod))).all() == []


async def test_the_watch_takes_no_new_share_for_one_from_outside(trading, market, user, monkeypatch):
    """The broker's book is on the new scale already, ours not yet."""

    async def not_yet(*_):
        """Another trader is at it."""

    market.actions = [action(**SPLIT)]
    with monkeypatch.context() as patch:
        patch.setattr("backend.services.corporate_action_service._settle_account", not_yet)
        assert (await watch_positions(trading)).aligned == 0
        held = (await trade_of(trading, user)).entry_quantity
        assert (await at_broker(trading, user)).holdings["INFY"] == 5 * held
        assert (await books(trading, user)).shares["INFY"] == held
    await agrees(trading, user)
    assert (await books(trading, user)).shares["INFY"] == 5 * held


async def test_the_watch_aligns_nothing_while_the_days_actions_are_not_known(trading, market, user):
    """A broker that adjusts on its own is ahead of what data_service tells."""
    held = (await trade_of(trading, user)).entry_quantity
    async with trading.sessions.begin() as session:
        await session.execute(text("UPDATE paper_balances SET balance = balance * 5 WHERE asset = 'INFY'"))
    market.actions_down = True
    assert (await watch_positions(trading)).aligned == 0
    assert (await books(trading, user)).shares["INFY"] == held


async def by_hand(trading, user_id: int, side: Side, quantity: int, price: str) -> None:
    order = OrderRequest("INFY", "nse", side, Product.CNC, OrderType.LIMIT, quantity, D(price), "")
    await trading.brokers["paper"].place(await account_of(trading, user_id), order)


async def test_what_became_known_after_trading_went_on_is_for_a_person(trading, market, user):
    """On Tuesday nobody told of the split; shares of both scales lie in one holding now."""
    assert await settle_actions(trading, market.now)
    await by_hand(trading, user, Side.BUY, 10, "1510")
    await watch_positions(trading)
    held = (await books(trading, user)).shares["INFY"]
    market.actions = [action(**SPLIT)]
    market.now += timedelta(days=1)
    await run_cycle(trading, market.now)
    async with trading.sessions() as session:
        assert (await session.scalars(select(AccountAction.status))).one() == "flagged"
        assert (await session.scalars(select(TradingStatePeriod.scope))).one() is Scope.HOLDING
        assert await session.scalar(select(CorporateActionRecord.done_at)) is not None
    assert (await books(trading, user)).shares["INFY"] == (await at_broker(trading, user)).holdings["INFY"] == held


async def test_who_bought_on_the_ex_date_has_no_part_in_it(trading, market, user, make_user):
    assert await settle_actions(trading, market.now)
    newcomer = await make_user("newcomer", symbols=("TCS",), enabled=True)
    now_trades_at(market, 300)
    await by_hand(trading, newcomer, Side.BUY, 10, "303")
    await watch_positions(trading)
    market.actions = [action(**SPLIT), action(kind=ActionKind.DIVIDEND, amount=D(3))]
    market.now += timedelta(minutes=30)
    await settle_actions(trading, market.now)
    assert (await books(trading, newcomer)).shares == {"INFY": 10}
    await agrees(trading, newcomer)
    await agrees(trading, user)


async def test_an_engines_trade_of_the_ex_date_keeps_its_plan(trading, market, make_user):
    """It was decided on the new scale, before anybody told of the action."""
    now_trades_at(market, 300)
    market.now = TUESDAY_10
    user_id = await make_user("newcomer", symbols=("INFY",))
    await run_cycle(trading, market.now)
    before = await everything(trading)
    market.actions = [action(**SPLIT)]
    market.now += timedelta(minutes=30)
    await settle_actions(trading, market.now)
    after = await everything(trading)
    assert after["auto_trades"] == before["auto_trades"]
    assert after["paper_balances"] == before["paper_balances"]
    assert after["done"] == 1
    await agrees(trading, user_id)


async def test_an_order_of_the_day_before_is_settled_in_the_paper_book_first(trading, market, user):
    """Its bars cannot be read: whether it filled on the old scale is not known yet."""
    account_id = await account_of(trading, user)
    async with trading.sessions.begin() as session:
        await session.execute(
            text(
                "INSERT INTO paper_orders (account_id, tag, symbol, exchange, side, product, order_type, quantity, "
                "limit_price, status, filled_quantity, filled_value, charges, message, placed_at, matched_through) "
                "VALUES (:a, '', 'INFY', 'nse', 'buy', 'cnc', 'limit', 10, 1490, 'open', 0, 0, 0, '', :at, :at)"
            ),
            {"a": account_id, "at": market.now - timedelta(days=1)},
        )
    minute = datetime(2024, 3, 18, 15, 0, tzinfo=IST)
    market.stocks["INFY"].bars.append((minute, D(1495), D(1495), D(1480), D(1485), 100_000))
    market.actions, market.quotes_down = [action(**SPLIT)], True
    held = (await books(trading, user)).shares["INFY"]
    await settle_actions(trading, market.now)
    assert (await at_broker(trading, user)).holdings["INFY"] == held
    assert (await books(trading, user)).shares["INFY"] == held
    market.quotes_down = False
    await settle_actions(trading, market.now)
    assert (await at_broker(trading, user)).holdings["INFY"] == 5 * (held + 10)
    assert (await books(trading, user)).shares["INFY"] == 5 * held  # the purchase by hand is not on our record


async def test_a_name_that_another_trade_bears_is_for_a_person(trading, market, user, sessions):
    async with sessions.begin() as session:
        await session.execute(text("UPDATE auto_trade_settings SET symbols = '{INFY,TCS}'"))
    await run_cycle(trading, market.now)
    market.actions = [action(kind=ActionKind.RENAME, new_symbol="TCS")]
    market.now += timedelta(minutes=20)
    await settle_actions(trading, market.now)
    async with sessions() as session:
        assert (await session.scalars(select(AccountAction.status))).one() == "flagged"
        assert sorted((await session.scalars(select(AutoTrade.symbol))).all()) == ["INFY", "TCS"]
        assert (await session.scalars(select(TradingStatePeriod.scope))).one() is Scope.HOLDING


async def test_the_gate_refuses_what_is_between_two_scales(trading, market, user, monkeypatch):
    """An exit was decided; before it is sent the action becomes known, and is not booked yet."""
    held, send = (await trade_of(trading, user)).entry_quantity, auto_trading_service.send

    async def send_after(world, claim, recorded, market_now):
        market.actions = [action(kind=ActionKind.BONUS, shares_before=held + 1, shares_after=held)]
        market.stocks["INFY"].closes.clear()
        await settle_actions(world, market_now + timedelta(minutes=20))
        await send(world, claim, recorded, market_now)

    monkeypatch.setattr(auto_trading_service, "send", send_after)
    now_trades_at(market, 1400)
    await run_cycle(trading, market.now)
    async with trading.sessions() as session:
        order = (await session.scalars(select(Order).where(Order.side == Side.SELL))).one()
    assert (order.state, order.denied_reason) == (OrderState.DENIED, Reason.ACTION_PENDING)
