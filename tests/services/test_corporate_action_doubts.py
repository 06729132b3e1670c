"""Actions that are wrong, told twice, missed for days, or applied while a process dies: what protects the holding."""

import asyncio
import contextlib
import sys
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import func, select

from backend.domain.decide import TradeStatus
from backend.models import (
    AccountAction,
    CorporateActionRecord,
    LedgerEntry,
    OutboxMessage,
    TradingStatePeriod,
    User,
)
from backend.services.action_record_service import scales
from backend.services.auto_trading_service import run_cycle
from backend.services.corporate_action_service import settle_actions
from backend.services.reconcile_service import reconcile
from backend.services.trading_state_service import lift_own
from contracts.market import ActionKind
from contracts.predictions import Action
from tests.crash.points import Act, Points, awaiting
from tests.services.test_corporate_action_service import (
    BONUS,
    MONDAY,
    PAISA,
    SPLIT,
    TUESDAY,
    TUESDAY_10,
    action,
    agrees,
    at_broker,
    books,
    late_fill,
    now_trades_at,
    profit,
    trade_of,
    unknown_exit,
)

D = Decimal
WEDNESDAY, THURSDAY, FRIDAY = (TUESDAY + timedelta(days=n) for n in (1, 2, 3))
DOUBLED = {"kind": ActionKind.BONUS, "shares_before": 1, "shares_after": 2}


@pytest.fixture
async def holder(trading, market, make_user) -> int:
    """A user with one open trade in INFY since Monday, at 1500; nothing is signalled any more, and Tuesday has come."""
    user_id = await make_user(symbols=("INFY",))
    await run_cycle(trading, market.now)
    market.stocks["INFY"].action = Action.HOLD
    market.stocks["INFY"].closes[MONDAY] = D(1500)
    market.now = TUESDAY_10
    return user_id


def at_ten(day: date) -> datetime:
    return datetime.combine(day, TUESDAY_10.timetz())


async def count(trading, topic: str) -> int:
    async with trading.sessions() as session:
        told = select(func.count()).select_from(OutboxMessage).where(OutboxMessage.topic == topic)
        return await session.scalar(told) or 0


async def held_back(trading) -> list[str]:
    async with trading.sessions() as session:
        return list(await session.scalars(select(TradingStatePeriod.key).where(TradingStatePeriod.ended_at.is_(None))))


async def lift(trading, user_id: int) -> None:
    async with trading.sessions.begin() as session:
        await lift_own(session, await session.get(User, user_id), "I have looked at it")


async def test_a_bonus_that_the_price_does_not_show_sells_nothing_until_a_person_has_looked(trading, market, holder):
    """NSE's feed had one: the shares double on paper, and the price that stayed is far above the halved target."""
    market.actions = [action(**DOUBLED)]
    report = await run_cycle(trading, market.now)
    assert (report.exits, report.denied) == (0, {"trading_halted": 1})
    account = (await at_account(trading, holder), "INFY")
    assert await held_back(trading) == [f"{account[0]}:INFY"]
    assert await count(trading, "holding.needs_you") == 1
    await lift(trading, holder)
    market.now += timedelta(minutes=20)
    await settle_actions(trading, market.now)
    assert await held_back(trading) == []  # who has looked is not asked again


async def at_account(trading, user_id: int) -> int:
    async with trading.sessions() as session:
        return (await session.scalars(select(AccountAction.account_id))).one()


async def test_nothing_is_decided_on_a_new_scale_before_the_market_has_traded_on_it(trading, market, holder):
    market.now = TUESDAY_10.replace(hour=8)
    market.actions = [action(**DOUBLED)]
    await settle_actions(trading, market.now)
    assert (await trade_of(trading, holder)).entry_quantity == (await books(trading, holder)).shares["INFY"]
    account_id = await at_account(trading, holder)
    async with trading.sessions() as session:
        assert (await scales(session, TUESDAY)).pending == {(account_id, "INFY")}
    market.now = TUESDAY_10
    market.quotes_down = True
    await settle_actions(trading, market.now)
    async with trading.sessions() as session:
        assert (await scales(session, TUESDAY)).pending == {(account_id, "INFY")}
    market.quotes_down = False
    now_trades_at(market, 770)
    await settle_actions(trading, market.now)
    async with trading.sessions() as session:
        assert (await scales(session, TUESDAY)).pending == frozenset()
    assert await held_back(trading) == []


@pytest.mark.parametrize(
    "correction", [[action(**SPLIT | {"shares_after": 10})], []], ids=["another_ratio", "told_no_longer"]
)
async def test_an_applied_split_that_is_told_otherwise_is_held_for_a_person_once(trading, market, holder, correction):
    market.actions = [action(**SPLIT)]
    now_trades_at(market, 300)
    await settle_actions(trading, market.now)
    before = await books(trading, holder)
    market.actions = correction
    for asked in range(2):
        market.now += timedelta(minutes=20)
        await settle_actions(trading, market.now)
        assert await count(trading, "holding.needs_you") == 1
        assert len(await held_back(trading)) == 1 - asked
        await lift(trading, holder)
    assert await books(trading, holder) == before


async def test_what_two_sources_tell_is_applied_once_whenever_the_second_is_heard(trading, market, holder):
    """A table of factors calls every rescaling a split; the exchange's feed tells the same bonus, and a dividend."""
    held, cash = (await trade_of(trading, holder)).entry_quantity, (await books(trading, holder)).cash
    factors = action(kind=ActionKind.SPLIT, shares_before=1, shares_after=4, source="file")
    paid = {"kind": ActionKind.DIVIDEND, "amount": D("18.50")}
    market.actions = [factors, action(**paid, source="nse"), action(**paid, source="file", subject="dividend")]
    now_trades_at(market, 375)
    await settle_actions(trading, market.now)
    market.actions += [action(**DOUBLED, source="nse"), action(**SPLIT | {"shares_after": 2}, source="nse")]
    market.now += timedelta(minutes=20)
    await settle_actions(trading, market.now)
    mine = await books(trading, holder)
    assert (mine.shares, mine.cash) == ({"INFY": 4 * held}, cash + held * D("18.50"))
    assert await held_back(trading) == []
    await agrees(trading, holder)


async def test_actions_of_days_that_were_missed_follow_the_share_through_its_names(trading, market, holder):
    """Renamed on Tuesday, split on Wednesday, renamed again on Thursday; nobody was there before Friday."""
    before, held = await profit(trading, holder), (await trade_of(trading, holder)).entry_quantity
    for name in ("MID", "NEW"):
        market.stocks[name] = market.stocks["INFY"]
    market.stocks["INFY"].closes |= {TUESDAY: D(1500)}
    market.actions = [
        action(kind=ActionKind.RENAME, new_symbol="MID"),
        action("MID", WEDNESDAY, **SPLIT),
        action("MID", THURSDAY, kind=ActionKind.RENAME, new_symbol="NEW"),
    ]
    market.now = at_ten(FRIDAY)
    now_trades_at(market, 300)
    trading.calendar.know(await trading.market_data.load_instruments())
    report = await run_cycle(trading, market.now)
    trade = await trade_of(trading, holder)
    assert (trade.symbol, trade.status, trade.entry_quantity) == ("NEW", TradeStatus.OPEN, 5 * held)
    assert (report.exits, trade.stop_price) == (0, D(1410) / 5)
    assert abs(await profit(trading, holder) - before) < PAISA
    assert await held_back(trading) == []
    await agrees(trading, holder)


async def test_a_split_of_the_day_of_a_new_name_reaches_who_held_the_old_one(trading, market, holder):
    held = (await trade_of(trading, holder)).entry_quantity
    market.stocks["NEW"] = market.stocks["INFY"]
    market.actions = [action(kind=ActionKind.RENAME, new_symbol="NEW"), action("NEW", **SPLIT)]
    now_trades_at(market, 300)
    trading.calendar.know(await trading.market_data.load_instruments())
    await run_cycle(trading, market.now)
    assert (await books(trading, holder)).shares == {"NEW": 5 * held}
    assert (await trade_of(trading, holder)).stop_price == D(1410) / 5
    await agrees(trading, holder)


async def test_a_later_action_waits_for_the_one_before_it(trading, market, holder):
    """Tuesday's fraction cannot be paid yet: Wednesday's bonus is on the shares that come of it."""
    held = (await trade_of(trading, holder)).entry_quantity
    market.stocks["INFY"].closes = {TUESDAY: D(1490)}
    first = BONUS | {"shares_before": held + 1, "shares_after": 2 * held}
    market.actions = [action(**first), action(on=WEDNESDAY, **BONUS)]
    market.now = at_ten(WEDNESDAY)
    await settle_actions(trading, market.now)
    assert (await books(trading, holder)).shares == dict((await at_broker(trading, holder)).holdings) == {"INFY": held}
    market.stocks["INFY"].closes[MONDAY] = D(1500)
    await settle_actions(trading, market.now)
    shares = held * 2 * held // (held + 1) * 3 // 2
    assert (await books(trading, holder)).shares == {"INFY": shares}
    assert (await trade_of(trading, holder)).entry_quantity == shares
    await agrees(trading, holder)


async def test_a_later_action_waits_in_our_books_where_the_broker_keeps_its_own(trading, market, holder):
    held = (await trade_of(trading, holder)).entry_quantity
    market.stocks["INFY"].closes = {TUESDAY: D(1490)}
    first = BONUS | {"shares_before": held + 1, "shares_after": 2 * held}
    market.actions = [action(**first), action(on=WEDNESDAY, **BONUS)]
    await settle_actions(replace(trading, brokers={}), at_ten(WEDNESDAY))
    assert (await books(trading, holder)).shares == {"INFY": held}


async def test_a_price_of_the_day_before_confirms_nothing(trading, market, holder, monkeypatch):
    market.actions = [action(**DOUBLED)]
    now_trades_at(market, 1500)
    quotes = trading.market_data.quotes

    async def of_yesterday(symbols, _as_of):
        return await quotes(symbols, TUESDAY_10 - timedelta(days=1))

    with monkeypatch.context() as patch:
        patch.setattr(trading.market_data, "quotes", of_yesterday)
        await settle_actions(trading, market.now)
    assert await held_back(trading) == []
    now_trades_at(market, 760)
    await settle_actions(trading, market.now)
    assert await held_back(trading) == []


async def test_late_fills_and_two_traders_at_once_neither_block_nor_lose_each_other(
    two_traders, trading, market, holder
):
    """Executions of Monday become known while Tuesday's actions are applied: any order comes to the same end."""
    held = (await trade_of(trading, holder)).entry_quantity
    cash = (await books(trading, holder)).cash
    order = await unknown_exit(trading, holder, 8)
    market.actions = [action(**SPLIT), action(kind=ActionKind.DIVIDEND, amount=D(18))]
    now_trades_at(market, 300)
    await asyncio.wait_for(
        asyncio.gather(
            *(settle_actions(trader, market.now) for trader in two_traders * 3),
            *(late_fill(trading, order, 2, "1520", f"late{number}") for number in range(4)),
            *(reconcile(trader) for trader in two_traders),
        ),
        timeout=20,
    )
    trade, mine = await trade_of(trading, holder), await books(trading, holder)
    left = held - 8
    assert (trade.entry_quantity - trade.exit_quantity, mine.shares) == (5 * left, {"INFY": 5 * left})
    assert (mine.cash, trade.dividends) == (cash + 8 * 1520 - 4 * 7 + 18 * left, 18 * left)


async def test_a_dividend_heard_of_after_the_split_of_its_day_is_paid_on_the_old_shares(trading, market, holder):
    """The books, the broker and the stop end as if both had been known in the morning."""
    held, cash = (await trade_of(trading, holder)).entry_quantity, (await books(trading, holder)).cash
    market.actions = [action(**SPLIT)]
    now_trades_at(market, 276)
    await settle_actions(trading, market.now)
    market.actions.append(action(kind=ActionKind.DIVIDEND, amount=D(120)))
    market.now += timedelta(minutes=20)
    await settle_actions(trading, market.now)
    trade, mine = await trade_of(trading, holder), await books(trading, holder)
    assert (mine.cash, trade.dividends) == (cash + 120 * held, 120 * held)
    assert trade.stop_price == D(1410 - 120) / 5
    await agrees(trading, holder)


BACKEND = Path(__file__).resolve().parents[2] / "backend"
BOOKS = ("paper", "paper_actions", "paper_ledger", "ledger_service", "order_service", "action_doubt_service", "db")
CALLED = [file for file in BACKEND.rglob("*.py") if file.stem in BOOKS]


class EveryAwait(Points):
    """The first time that each awaiting line of the books and the paper broker runs: what the service calls."""

    def __init__(self, at: int, act: Act) -> None:
        super().__init__(at, act)
        self._lines = {str(file): awaiting(file.read_text("utf-8")) for file in CALLED}

    def _pass(self, where: str) -> None:
        if where not in self.seen:
            super()._pass(where)


async def killed_at(trading, market, point: int) -> list[str]:
    async def work() -> None:
        points.install()
        try:
            await settle_actions(trading, market.now)
        finally:
            sys.settrace(None)

    def kill(_where: str) -> None:
        task.cancel()

    points = EveryAwait(point, kill)
    task = asyncio.create_task(work())
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return points.seen


async def test_killed_at_any_statement_of_books_and_broker_and_run_again_it_is_done_once(trading, market, holder):
    """A day per point: a dividend and six for five or back, most days with a fraction to pay, and a death there."""
    shares, day, point, seen = (await trade_of(trading, holder)).entry_quantity, TUESDAY, 0, [""]
    paid = D(0)
    while len(seen) >= point:
        point += 1
        market.now = at_ten(day)
        market.stocks["INFY"].closes[day - timedelta(days=1)] = D(1500)
        before, after = (5, 6) if point % 2 else (6, 5)
        market.actions = [
            action(on=day, kind=ActionKind.SPLIT, shares_before=before, shares_after=after),
            action(on=day, kind=ActionKind.DIVIDEND, amount=D(1)),
        ]
        seen = await killed_at(trading, market, point)
        await settle_actions(trading, market.now)
        paid += shares
        shares = shares * after // before
        trade, mine, there = (
            await trade_of(trading, holder),
            await books(trading, holder),
            await at_broker(trading, holder),
        )
        assert trade.entry_quantity == mine.shares["INFY"] == there.holdings["INFY"] == shares, seen[-1]
        assert (mine.cash, trade.dividends) == (there.cash, paid), seen[-1]
        day += timedelta(days=1)
    assert {where.split(":")[0] for where in seen} == set(BOOKS)
    async with trading.sessions() as session:
        settled = select(func.count()).select_from(CorporateActionRecord).where(CorporateActionRecord.done_at.is_(None))
        assert await session.scalar(settled) == 0
        sums = select(func.sum(LedgerEntry.amount)).group_by(LedgerEntry.journal)
        assert set(await session.scalars(sums)) == {0}
    assert await count(trading, "holding.adjusted") == 2 * point
    await agrees(trading, holder)
