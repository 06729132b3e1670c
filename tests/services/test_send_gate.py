"""Between the record and the socket: what changes there is seen by the gate, and what it refuses does not go out."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace

import pytest
from sqlalchemy import select, text

from backend.brokers import base
from backend.domain import ledger
from backend.domain.decide import TradeStatus
from backend.domain.gate import GateLimits
from backend.domain.ledger import JournalKind
from backend.domain.market import Side
from backend.domain.orders import OrderState
from backend.domain.reasons import NEXT_STEP, Reason
from backend.domain.trading_states import Cause, Scope, TradingState
from backend.models import AutoTrade, AutoTradeSettings, DailyUsage, TradingStatePeriod
from backend.services import auto_trading_service, ledger_service, send_service
from backend.services.auto_trading_service import run_cycle
from backend.services.order_query_service import order_of
from backend.services.reconcile_service import reconcile
from backend.services.send_service import FreshQuotes
from backend.services.trading_state_service import impose
from tests.support.broker_book import Mode, per_second_max
from tests.support.market_server import Stock
from tests.support.send_desk import SendDesk, open_send_desk

D = Decimal
R = Reason
HALTED, REDUCING = TradingState.HALTED, TradingState.REDUCING
Meanwhile = Callable[[SendDesk, int], Awaitable[None]]


@pytest.fixture
async def desk(trading, market):
    async with open_send_desk(trading, market) as desk:
        yield desk


@pytest.fixture
def between(monkeypatch):
    """Let something happen after a cycle's orders are recorded and before they are sent."""

    def arrange(meanwhile: Callable[[], Awaitable[None]]) -> None:
        real = auto_trading_service.send

        async def send(trading, claim, recorded, market_now):
            if recorded:
                await meanwhile()
            await real(trading, claim, recorded, market_now)

        monkeypatch.setattr(auto_trading_service, "send", send)

    return arrange


def spend(rupees: int) -> Meanwhile:
    """The account's cash goes elsewhere."""

    async def meanwhile(desk: SendDesk, account_id: int) -> None:
        async with desk.trading.sessions.begin() as session:
            gone = ledger.fund(D(-rupees), JournalKind.ADJUST)
            await ledger_service.post(session, account_id, gone, desk.market.now)

    return meanwhile


def move_price(last: int) -> Meanwhile:
    async def meanwhile(desk: SendDesk, _account_id: int) -> None:
        desk.market.stocks["INFY"].last = D(last)

    return meanwhile


async def quotes_go_down(desk: SendDesk, _account_id: int) -> None:
    desk.market.quotes_down = True


def stop(scope: Scope, key: str, state: TradingState) -> Meanwhile:
    """Somebody imposes a state; '?' is the user's own key."""

    async def meanwhile(desk: SendDesk, _account_id: int) -> None:
        async with desk.trading.sessions.begin() as session:
            user_id = (await session.scalars(select(AutoTradeSettings.user_id))).one()
            await impose(session, scope, key.replace("?", str(user_id)), state, Cause.ADMIN, "why")

    return meanwhile


@pytest.mark.parametrize(
    ("meanwhile", "reason"),
    [
        (spend(495_000), R.INSUFFICIENT_FUNDS),
        (spend(380_000), R.FUNDS_IN_USE_LIMIT),
        (move_price(1400), R.OUTSIDE_COLLAR),
        (move_price(1600), R.OUTSIDE_COLLAR),
        (quotes_go_down, R.NO_QUOTE),
        (stop(Scope.USER, "?", HALTED), R.TRADING_HALTED),
        (stop(Scope.PLATFORM, "", HALTED), R.TRADING_HALTED),
        (stop(Scope.BROKER, "http", HALTED), R.TRADING_HALTED),
        (stop(Scope.STRATEGY, "test_v1", HALTED), R.TRADING_HALTED),
        (stop(Scope.USER, "?", REDUCING), R.TRADING_REDUCING),
    ],
    ids=["spent", "a_fifth", "fell", "rose", "no_quotes", "user", "platform", "broker", "strategy", "reducing"],
)
async def test_what_changed_since_the_decision_denies_the_entry(desk, make_user, between, meanwhile, reason) -> None:
    user_id = await make_user(symbols=("INFY",))
    account_id = await desk.account(user_id)
    between(lambda: meanwhile(desk, account_id))
    report = await run_cycle(desk.trading, desk.market.now)
    assert report is not None
    assert (report.entries, await desk.arrivals()) == (1, 0)
    (order,) = await desk.orders()
    assert (order.state, order.denied_reason, order.submitted_at) == (OrderState.DENIED, reason, None)
    async with desk.trading.sessions() as session:
        record = await order_of(session, user_id, order.id)
        assert [(event.to_state, event.detail) for event in record.events] == [(OrderState.DENIED, reason.value)]
        assert (record.order.status_message, bool(NEXT_STEP[reason])) == (reason.value, True)
        assert (await session.scalars(select(AutoTrade.status))).one() is TradeStatus.CANCELLED
        assert (await session.scalars(select(DailyUsage.entries_used))).one() == 0
        assert (await ledger_service.books_of(session, [account_id]))[account_id].reserved == 0


async def test_nothing_changed_and_the_entry_goes_out_with_its_money_reserved(desk, make_user, between) -> None:
    """What the cases above have in common is allowed without their change."""
    await desk.behave(Mode.REST)
    account_id = await desk.account(await make_user(symbols=("INFY",)))
    between(lambda: spend(0)(desk, account_id))
    await run_cycle(desk.trading, desk.market.now)
    (order,) = await desk.orders()
    assert (order.state, await desk.arrivals()) == (OrderState.ACCEPTED, 1)
    async with desk.trading.sessions() as session:
        books = (await ledger_service.books_of(session, [account_id]))[account_id]
        assert (await session.scalars(select(DailyUsage.entries_used))).one() == 1
    assert books.reserved == order.limit_price * order.quantity * D("1.0015")
    assert books.cash == D(500_000) - books.reserved


@pytest.mark.parametrize("switched", ["auto_trade_settings SET enabled", "users SET active"])
async def test_a_user_who_switched_off_or_was_meanwhile_is_not_sent_for(
    desk, make_user, between, sessions, switched
) -> None:
    await desk.account(await make_user(symbols=("INFY",)))

    async def switch_off() -> None:
        async with sessions.begin() as session:
            await session.execute(text(f"UPDATE {switched} = false"))

    between(switch_off)
    await run_cycle(desk.trading, desk.market.now)
    await reconcile(desk.trading)
    assert [order.state for order in await desk.orders()] == [OrderState.EXPIRED]
    assert await desk.arrivals() == 0


async def test_a_quote_that_cannot_be_renewed_grows_too_old(desk, make_user, monkeypatch) -> None:
    user_id = await make_user()
    await desk.account(user_id)
    sending = await desk.recorded(user_id)
    quotes = FreshQuotes(desk.trading, ["INFY"])
    assert (await quotes.of("INFY"))[0] is not None
    desk.market.quotes_down = True
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 5.5)
    monkeypatch.setattr(send_service, "time", later)
    await send_service.send_one(desk.trading, sending, quotes, later.monotonic() + 1, asyncio.Semaphore(1))
    (order,) = await desk.orders()
    assert (order.denied_reason, await desk.arrivals()) == (R.QUOTE_STALE, 0)


async def test_one_commit_is_good_for_one_hand_over(desk, make_user) -> None:
    """A second one never reaches the broker, and everything stops until a person has looked."""
    user_id = await make_user()
    await desk.account(user_id)
    sending = await desk.recorded(user_id)
    (order,) = await desk.send(sending)
    assert (order.state, await desk.arrivals()) == (OrderState.ACCEPTED, 1)
    admitted = send_service.Admitted(send_service.Admission.SEND, 0.0)
    await send_service._hand_over(desk.trading, sending, admitted, time.monotonic() + 2)
    assert await desk.arrivals() == 1
    async with desk.trading.sessions() as session:
        (halt,) = (await session.scalars(select(TradingStatePeriod))).all()
    assert (halt.scope, halt.state, halt.cause) == (Scope.PLATFORM, HALTED, Cause.ORDERS_EXCEED_INTENTS)
    assert (await desk.send_new(user_id, "TCS")).denied_reason is R.TRADING_HALTED
    assert await desk.arrivals() == 1


async def test_sending_what_was_sent_sends_nothing(desk, make_user) -> None:
    user_id = await make_user()
    await desk.account(user_id)
    sending = await desk.recorded(user_id)
    await desk.send(sending, sending)
    await desk.send(sending)
    assert await desk.arrivals() == 1


async def test_a_process_that_stalled_after_its_commit_does_not_send(desk, make_user, monkeypatch) -> None:
    user_id = await make_user()
    account_id = await desk.account(user_id)
    desk.trading = replace(desk.trading, rules=replace(desk.trading.rules, send_timeout_s=2.0))
    admit = send_service._admit

    async def slowly(*args):
        admission = await admit(*args)
        monkeypatch.setattr(base, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 2.1))
        return admission

    monkeypatch.setattr(send_service, "_admit", slowly)
    order = await desk.send_new(user_id)
    assert (order.state, await desk.arrivals()) == (OrderState.EXPIRED, 0)
    async with desk.trading.sessions() as session:
        assert (await ledger_service.books_of(session, [account_id]))[account_id].cash == 500_000


@pytest.fixture
def many_stocks(market):
    """More symbols than orders in one second; taken before `trading` reads the list."""
    market.stocks |= {f"S{n:02d}": Stock(D(100)) for n in range(20)}
    return sorted(symbol for symbol in market.stocks if symbol.startswith("S"))


async def test_the_ninth_order_of_a_second_waits_for_the_next_one(many_stocks, desk, make_user) -> None:
    """Measured where it matters: at the broker. Another account's orders have a second of their own."""
    await desk.behave(Mode.REST)
    busy, other = await make_user("busy"), await make_user("other")
    busy_account = await desk.account(busy)
    await desk.account(other)
    sendings = [await desk.recorded(busy, symbol, quantity=1) for symbol in many_stocks]
    sendings += [await desk.recorded(other, symbol, quantity=1) for symbol in many_stocks[:8]]
    orders = await desk.send(*sendings)
    assert {order.state for order in orders} == {OrderState.ACCEPTED}
    arrivals = (await desk.truth())["arrivals"]
    at_s = sorted(a["at_s"] for a in arrivals if a["account"] == busy_account)
    assert len(arrivals) == 28
    assert per_second_max(at_s) <= 8
    assert at_s[-1] - at_s[0] > 2


async def test_an_order_for_which_the_next_second_comes_too_late_stays_unsent(many_stocks, desk, make_user) -> None:
    user_id = await make_user()
    await desk.account(user_id)
    await desk.send(*[await desk.recorded(user_id, symbol, quantity=1) for symbol in many_stocks[:8]])
    await desk.let_time_pass(-10)  # however slow the machine: all eight are of the present second
    ninth = await desk.recorded(user_id, many_stocks[8])
    (order,) = await desk.send(ninth, within_s=0.5)
    assert (order.state, await desk.arrivals()) == (OrderState.PENDING, 8)
    await desk.let_time_pass(12)
    (order,) = await desk.send(ninth)
    assert (order.state, await desk.arrivals()) == (OrderState.ACCEPTED, 9)


@pytest.mark.parametrize(
    ("limits", "reason", "over_after_s"),
    [
        (GateLimits(orders_per_minute_max=2), R.ORDERS_PER_MINUTE, 61),
        (GateLimits(orders_per_day_max=2), R.ORDERS_PER_DAY, 2 * 86_400),
        (GateLimits(symbol_orders_max=2), R.SYMBOL_ORDER_RATE, 301),
    ],
    ids=["minute", "day", "symbol"],
)
async def test_what_was_sent_is_counted_for_as_long_as_the_limit_says(
    desk, make_user, limits, reason, over_after_s
) -> None:
    desk.trading = replace(desk.trading, rules=replace(desk.trading.rules, gate=limits))
    user_id, other = await make_user("asha"), await make_user("ravi")
    await desk.account(user_id)
    await desk.account(other)
    for quantity in (1, 2):
        assert (await desk.send_new(user_id, quantity=quantity)).state is OrderState.ACCEPTED
    assert (await desk.send_new(other)).state is OrderState.ACCEPTED
    assert (await desk.send_new(user_id)).denied_reason is reason
    assert await desk.arrivals() == 3
    async with desk.trading.sessions.begin() as session:
        halts = (await session.scalars(select(TradingStatePeriod))).all()
        assert [(h.key, h.state, h.cause) for h in halts] == (
            [(str(user_id), HALTED, Cause.ORDER_RATE)] if reason is R.SYMBOL_ORDER_RATE else []
        )
        await session.execute(text("UPDATE trading_states SET ended_at = set_at - interval '1 day'"))
    await desk.let_time_pass(over_after_s)
    assert (await desk.send_new(user_id)).state is OrderState.ACCEPTED


async def test_orders_of_ones_own_do_not_trade_with_each_other(desk, make_user) -> None:
    await desk.behave(Mode.REST)
    user_id, other = await make_user("asha"), await make_user("ravi")
    account_id = await desk.account(user_id)
    await desk.account(other)
    await hold(desk, account_id, 100)
    assert (await desk.send_new(user_id)).state is OrderState.ACCEPTED
    assert (await desk.send_new(user_id, side=Side.SELL)).denied_reason is R.OWN_OPPOSITE_ORDER
    assert (await desk.send_new(other)).state is OrderState.ACCEPTED
    await desk.cancel_all()
    await reconcile(desk.trading)
    assert (await desk.send_new(user_id, side=Side.SELL)).state is OrderState.ACCEPTED
    assert (await desk.send_new(user_id)).denied_reason is R.OWN_OPPOSITE_ORDER


async def hold(desk: SendDesk, account_id: int, shares: int, cost: int = 0) -> None:
    """Shares in the account's books that cost so many rupees."""
    async with desk.trading.sessions.begin() as session:
        bought = ledger.buy("INFY", shares, D(cost) / shares, D(0), D(0))
        await ledger_service.post(session, account_id, bought, desk.market.now)
        await ledger_service.post(session, account_id, ledger.fund(D(cost)), desk.market.now)


async def test_shares_are_sold_once(desk, make_user) -> None:
    """What rests on sale is not free, whatever the earlier gate was told."""
    await desk.behave(Mode.REST)
    user_id = await make_user()
    account_id = await desk.account(user_id)
    await hold(desk, account_id, 10)
    assert (await desk.send_new(user_id, side=Side.SELL, quantity=11)).denied_reason is R.SELL_EXCEEDS_HOLDING
    assert (await desk.send_new(user_id, side=Side.SELL, quantity=6)).state is OrderState.ACCEPTED
    assert (await desk.send_new(user_id, side=Side.SELL, quantity=5)).denied_reason is R.SELL_EXCEEDS_HOLDING
    assert (await desk.send_new(user_id, side=Side.SELL, quantity=4)).state is OrderState.ACCEPTED
    assert (await desk.send_new(user_id, side=Side.SELL, quantity=1)).denied_reason is R.SELL_EXCEEDS_HOLDING


async def test_positions_and_resting_buys_count_as_open_value(desk, make_user) -> None:
    """₹30,000 held, 15,000 resting, and a third order that brings it to the limit, or a rupee over."""
    await desk.behave(Mode.REST)
    user_id = await make_user()
    account_id = await desk.account(user_id)
    await hold(desk, account_id, 20, cost=30_000)
    assert (await desk.send_new(user_id)).state is OrderState.ACCEPTED
    for limit, reason in ((49_499, R.OPEN_VALUE_LIMIT), (49_500, None)):
        gate = GateLimits(open_value_rupees_max=D(limit))
        desk.trading = replace(desk.trading, rules=replace(desk.trading.rules, gate=gate))
        assert (await desk.send_new(user_id, quantity=3)).denied_reason is reason


async def test_two_sends_at_once_cannot_spend_the_same_rupee(desk, make_user) -> None:
    """Five buys of 90,000 and their charges: each fits, and four of them leave the fifth that must stay free."""
    await desk.behave(Mode.REST)
    user_id = await make_user()
    account_id = await desk.account(user_id)
    orders = await desk.send(*[await desk.recorded(user_id, quantity=60) for _ in range(5)])
    sent = [order for order in orders if order.state is OrderState.ACCEPTED]
    assert [order.denied_reason for order in orders if order not in sent] == [R.FUNDS_IN_USE_LIMIT]
    spent = 4 * 90_000 * D("1.0015")
    async with desk.trading.sessions() as session:
        books = (await ledger_service.books_of(session, [account_id]))[account_id]
    assert (books.cash, books.reserved) == (500_000 - spent, spent)
    assert books.cash >= 100_000
