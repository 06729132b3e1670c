"""The paper broker over real PostgreSQL: how it fills orders, what it refuses, and what that costs."""

import asyncio
from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import select

from backend.brokers.base import AccountSnapshot, OrderRejectedError
from backend.brokers.paper import deposit
from backend.domain.charges import charges_for, dp_charge
from backend.domain.market import Exchange, OrderType, Product, Side
from backend.domain.reconcile import BookStatus
from backend.models.paper import PaperOrder
from tests.support.paper_desk import CASH, D, Desk, account_of, open_desk


@pytest.fixture
async def desk(trading, market, make_user, sessions) -> Desk:
    return await open_desk(trading, market, make_user, sessions)


def charges(desk: Desk, side: Side, quantity: int, price: Decimal, product: Product = Product.CNC) -> Decimal:
    return charges_for(side, product, Exchange.NSE, quantity, price, on=desk.start.date()).total


@pytest.mark.parametrize(("limit", "price"), [("1504.50", "1500.40"), ("1500.20", "1500.20")])
async def test_a_marketable_buy_pays_the_ask_and_slippage_up_to_its_limit(desk, limit, price):
    order = await desk.buy(10, limit)
    bought = (await desk.book())[order]
    (trade,) = bought.trades
    assert bought.status is BookStatus.COMPLETE
    assert (trade.quantity, trade.price, trade.charges) == (10, D(price), charges(desk, Side.BUY, 10, D(price)))
    left = CASH - 10 * D(price) - trade.charges
    assert await desk.funds() == AccountSnapshot(left, left, {"INFY": 10})


async def test_a_marketable_sell_gets_the_bid_less_slippage_down_to_its_limit(desk):
    await desk.buy(20, "1504.50")
    sold = [await desk.sell(10, "1490"), await desk.sell(10, "1499.80")]
    book = await desk.book()
    assert [trade.price for order in sold for trade in book[order].trades] == [D("1499.65"), D("1499.80")]
    assert (await desk.funds()).holdings == {}


@pytest.mark.parametrize(
    ("opened", "low", "price"),
    [("1496", "1495", None), ("1496", "1494.95", "1495"), ("1490", "1489", "1490")],
    ids=["touched only", "traded through", "opened beyond"],
)
async def test_a_resting_buy_fills_where_the_market_trades_through_it(desk, opened, low, price):
    order = await desk.buy(10, 1495)
    assert (await desk.book())[order].status is BookStatus.OPEN
    held = 10 * D(1495) + charges(desk, Side.BUY, 10, D(1495))
    assert await desk.funds() == AccountSnapshot(CASH, CASH - held, {})
    desk.bar(opened, 1500, low)
    trades = (await desk.book())[order].trades
    assert [(t.quantity, t.price, t.traded_at) for t in trades] == ([(10, D(price), desk.market.now)] if price else [])


async def test_the_minute_an_order_came_in_is_not_its_to_trade(desk):
    early = await desk.buy(10, 1495)
    desk.market.now += timedelta(seconds=30)
    late = await desk.buy(10, 1495)
    desk.bar(1490, 1500, 1480)
    book = await desk.book()
    assert [book[order].status for order in (early, late)] == [BookStatus.COMPLETE, BookStatus.OPEN]


async def test_a_resting_sell_mirrors_the_buy(desk):
    await desk.buy(10, "1504.50")
    order = await desk.sell(10, 1510)
    desk.bar(1505, 1510, 1500)
    assert (await desk.book())[order].status is BookStatus.OPEN
    desk.bar(1505, "1510.05", 1500)
    assert [trade.price for trade in (await desk.book())[order].trades] == [D(1510)]


async def test_a_stop_waits_for_its_trigger_and_then_is_a_limit(desk):
    await desk.buy(10, "1504.50")
    order = await desk.sell(10, 1470, order_type=OrderType.STOP_LIMIT, trigger_price=D(1480))
    desk.bar(1490, 1495, "1480.05")
    desk.bar(1460, 1465, 1450)  # through the trigger, and beyond the limit at once
    assert (await desk.book())[order].trades == ()
    async with desk.sessions() as session:
        assert await session.scalar(select(PaperOrder.status).where(PaperOrder.id == int(order))) == "open"
    desk.bar(1472, 1475, 1465)
    assert [trade.price for trade in (await desk.book())[order].trades] == [D(1472)]


async def test_a_stop_that_is_triggered_on_the_way_fills_at_its_trigger(desk):
    order = await desk.buy(10, 1520, order_type=OrderType.STOP_LIMIT, trigger_price=D(1510))
    desk.bar(1505, 1515, 1500)
    assert [trade.price for trade in (await desk.book())[order].trades] == [D(1510)]


async def test_parts_are_bounded_by_the_volume_and_charged_as_one_order(desk):
    desk.market.stocks["INFY"].bar_volume = 1000
    order = await desk.buy(300, "1504.50", product=Product.MIS)  # a tenth at once, at 1500.40
    desk.bar(1500, 1501, 1499, volume=1509)
    assert (await desk.book())[order].status is BookStatus.OPEN
    desk.bar(1502, 1503, 1501, volume=5000)
    bought = (await desk.book())[order]
    assert [(t.quantity, t.price) for t in bought.trades] == [(100, D("1500.40")), (150, D(1500)), (50, D(1502))]
    average = sum(t.quantity * t.price for t in bought.trades) / 300
    # Each part alone would pay the most brokerage an order can pay.
    assert sum(t.charges for t in bought.trades) == charges(desk, Side.BUY, 300, average, Product.MIS)
    assert bought.status is BookStatus.COMPLETE


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantity": 0}, "positive multiple"),
        ({"limit_price": D("1500.03")}, "tick"),
        ({"order_type": OrderType.STOP_LIMIT, "trigger_price": D("1500.03")}, "tick"),
        ({"limit_price": D("1650.05")}, "band"),
        ({"limit_price": D("1349.95")}, "band"),
        ({"order_type": OrderType.MARKET}, "Market orders"),
        ({"order_type": OrderType.STOP_LIMIT}, "trigger price"),
        ({"symbol": "NOSUCH"}, "No market"),
        ({"quantity": 340}, "Insufficient funds"),
        ({"side": Side.SELL, "quantity": 1}, "Insufficient holdings"),
    ],
)
async def test_a_refusal_is_proof_and_stands_in_the_book(desk, changes, words):
    with pytest.raises(OrderRejectedError, match=words):
        await desk.place(Side.BUY, 10, 1500, **changes)
    (order,) = (await desk.book()).values()
    assert (order.status, order.trades) == (BookStatus.REJECTED, ())
    assert words in order.message
    assert await desk.funds() == AccountSnapshot(CASH, CASH, {})


@pytest.mark.parametrize(("day", "hour", "minute"), [(18, 9, 14), (18, 15, 30), (25, 10, 0)])
async def test_a_closed_market_takes_no_order(desk, day, hour, minute):
    desk.market.now = desk.market.now.replace(day=day, hour=hour, minute=minute)
    with pytest.raises(OrderRejectedError, match="closed"):
        await desk.buy(10, 1500)


async def test_funds_must_cover_the_charges_too_and_may_be_used_to_the_last_paisa(desk):
    async with desk.sessions.begin() as session:
        needed = 10 * D(1495) + charges(desk, Side.BUY, 10, D(1495))
        await deposit(session, desk.account, needed - D("0.01") - CASH, desk.start)
    with pytest.raises(OrderRejectedError, match="Insufficient funds"):
        await desk.buy(10, 1495)
    async with desk.sessions.begin() as session:
        await deposit(session, desk.account, D("0.01"), desk.start)
    await desk.buy(10, 1495)
    assert await desk.funds() == AccountSnapshot(needed, D(0), {})
    desk.bar(1496, 1497, 1494)
    await desk.book()
    assert await desk.funds() == AccountSnapshot(D(0), D(0), {"INFY": 10})


async def test_what_a_part_fill_leaves_stays_reserved(desk):
    desk.market.stocks["INFY"].bar_volume = 100
    order = await desk.buy(25, "1500.20", product=Product.MIS)
    paid = (await desk.book())[order].trades[0].charges
    assert (cash := (await desk.funds()).cash) == CASH - 10 * D("1500.20") - paid
    unpaid = charges(desk, Side.BUY, 25, D("1500.20"), Product.MIS) - paid
    assert (await desk.funds()).cash_free == cash - 15 * D("1500.20") - unpaid


async def test_shares_on_offer_cannot_be_offered_twice(desk):
    await desk.buy(10, "1504.50")
    first = await desk.sell(6, 1520)
    with pytest.raises(OrderRejectedError, match="sells 5, holds 4"):
        await desk.sell(5, 1520)
    await desk.broker.cancel(desk.account, first)
    await desk.sell(10, 1520)


async def test_a_day_order_expires_with_its_session(desk):
    order = await desk.buy(10, 1495)
    desk.market.now = desk.start.replace(hour=15, minute=29)
    assert (await desk.book())[order].status is BookStatus.OPEN
    desk.market.now = desk.start + timedelta(days=1)
    desk.bar(1400, 1400, 1390)
    assert (await desk.book())[order].status is BookStatus.EXPIRED
    assert await desk.funds() == AccountSnapshot(CASH, CASH, {})


async def test_a_bar_of_its_own_session_still_fills_a_day_order_that_nobody_looked_at(desk):
    order = await desk.buy(10, 1495)
    desk.bar(1490, 1500, 1480)
    desk.market.now += timedelta(days=1)
    bought = (await desk.book())[order]
    assert (bought.status, bought.trades[0].traded_at) == (BookStatus.COMPLETE, desk.start + timedelta(minutes=1))


async def test_a_cancel_ends_a_resting_order_and_nothing_else(desk, make_user):
    filled, resting = await desk.buy(1, "1504.50"), await desk.buy(10, 1495)
    with pytest.raises(OrderRejectedError, match="no order"):
        await desk.broker.cancel(await account_of(desk.sessions, await make_user("ravi")), resting)
    for order in (filled, resting):
        await desk.broker.cancel(desk.account, order)
    desk.bar(1490, 1500, 1480)
    book = await desk.book()
    assert [book[order].status for order in (filled, resting)] == [BookStatus.COMPLETE, BookStatus.CANCELLED]
    assert (await desk.funds()).holdings == {"INFY": 1}


@pytest.mark.parametrize("limit", ["1504.50", "1495"], ids=["marketable", "resting"])
async def test_orders_at_once_cannot_spend_the_same_cash(desk, limit):
    answers = await asyncio.gather(*(desk.buy(100, limit) for _ in range(8)), return_exceptions=True)
    assert [type(a) for a in answers if not isinstance(a, str)] == [OrderRejectedError] * 5
    assert (await desk.funds()).cash_free >= 0


async def test_the_depository_charges_once_per_share_and_day(desk):
    await desk.buy(40, "1504.50")
    await desk.buy(10, 4012, symbol="TCS")

    async def dp(**changes) -> Decimal:
        order = await desk.sell(10, 1490, **changes)
        trades = (await desk.book())[order].trades
        value = sum(t.price * t.quantity for t in trades)
        product = changes.get("product", Product.CNC)
        return sum(t.charges for t in trades) - charges(desk, Side.SELL, 1, value, product)

    assert await dp(product=Product.MIS) == 0
    assert (await dp(), await dp()) == (dp_charge(), 0)
    assert await dp(symbol="TCS", limit_price=D(3960)) == dp_charge()
    desk.market.now += timedelta(days=1)
    assert await dp() == dp_charge()
