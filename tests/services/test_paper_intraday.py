"""The paper broker as a discount broker: changed orders, IOC, protected market, intraday, auction, queue, latency."""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import select

from backend.brokers.base import OrderChange, OrderRejectedError
from backend.brokers.paper import PaperBroker
from backend.brokers.paper_market import BROKER_LIKE, PaperRules
from backend.brokers.paper_square_off import due_positions, square_off
from backend.domain.calendar import IST
from backend.domain.charges import auto_square_off_charge, charges_for
from backend.domain.market import Exchange, OrderType, Product, Side, Validity
from backend.domain.matching import FillModel
from backend.domain.reconcile import BookStatus
from backend.models.paper import PaperChange, PaperOrder
from tests.support.paper_desk import CASH, D, Desk, open_desk

MIS = {"product": Product.MIS}


@pytest.fixture
async def desk(trading, market, make_user, sessions) -> Desk:
    return await open_desk(trading, market, make_user, sessions)


def under(desk: Desk, trading, rules: PaperRules) -> Desk:
    """The same account at a broker with other rules."""
    market = replace(desk.broker._market, hours=trading.calendar)
    return replace(desk, broker=PaperBroker(trading.sessions, market, rules=rules))


@pytest.fixture
def kite(desk, trading) -> Desk:
    return under(desk, trading, BROKER_LIKE)


def charges(side: Side, quantity: int, price: Decimal, product: Product, desk: Desk) -> Decimal:
    return charges_for(side, product, Exchange.NSE, quantity, price, on=desk.market.now.date()).total


def at(desk: Desk, hour: int, minute: int, day: datetime | None = None) -> None:
    desk.market.now = (day or desk.market.now).replace(hour=hour, minute=minute, second=0)


def change(quantity: int, limit: str, **changes) -> OrderChange:
    return replace(OrderChange(OrderType.LIMIT, quantity, D(limit)), **changes)


# ---- changing an order


async def test_a_changed_order_holds_back_and_fills_by_its_new_terms(desk):
    order = await desk.buy(10, 1495)
    await desk.broker.modify(desk.account, order, change(20, "1490"))
    held = 20 * D(1490) + charges(Side.BUY, 20, D(1490), Product.CNC, desk)
    assert (await desk.funds()).cash_free == CASH - held
    desk.bar(1495, 1500, 1491)  # through the old limit alone
    assert (await desk.book())[order].trades == ()
    await desk.broker.modify(desk.account, order, change(20, "1504.50"))  # marketable now
    (trade,) = (await desk.book())[order].trades
    assert (trade.quantity, trade.price) == (20, D("1500.40"))
    async with desk.sessions() as session:
        before = (await session.scalars(select(PaperChange).order_by(PaperChange.id))).all()
    assert [(c.quantity, c.limit_price) for c in before] == [(10, D(1495)), (20, D(1490))]


async def test_a_changed_order_does_not_trade_in_bars_before_its_change(desk):
    order = await desk.buy(10, 1490)
    desk.bar(1500, 1501, 1491)
    await desk.broker.modify(desk.account, order, change(10, "1495"))
    assert (await desk.book())[order].trades == ()
    desk.bar(1493, 1494, 1492)
    assert [t.price for t in (await desk.book())[order].trades] == [D(1493)]


async def test_a_limit_becomes_a_stop_and_waits_for_its_trigger(desk):
    order = await desk.buy(10, 1495)
    stop = change(10, "1520", order_type=OrderType.STOP_LIMIT, trigger_price=D(1510))
    await desk.broker.modify(desk.account, order, stop)
    desk.bar(1500, 1509, 1480)
    assert (await desk.book())[order].trades == ()
    desk.bar(1512, 1515, 1511)
    assert [t.price for t in (await desk.book())[order].trades] == [D(1512)]


async def test_a_triggered_stop_is_changed_as_the_limit_that_it_is(kite):
    order = await kite.buy(10, 1511, order_type=OrderType.STOP_LIMIT, trigger_price=D(1510))
    kite.bar(1512, 1515, 1511)  # triggered, and beyond its limit
    assert (await kite.book())[order].trades == ()
    kite.market.stocks["INFY"].last = D(1515)
    asked = change(5, "1515.50", order_type=OrderType.STOP_LIMIT, trigger_price=D(1510))
    await kite.broker.modify(kite.account, order, asked)
    assert [t.quantity for t in (await kite.book())[order].trades] == [5]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (change(100, "1490"), "above the 100 that are filled"),
        (change(400, "1500.03"), "tick"),
        (change(400, "2000"), "band"),
        (change(30_000, "1490"), "Insufficient funds"),
        (change(400, "1490", order_type=OrderType.MARKET), "without protection"),
        (change(400, "1490", order_type=OrderType.STOP_LIMIT), "trigger"),
    ],
)
async def test_a_change_that_cannot_be_leaves_the_order_as_it_was(desk, asked, words):
    desk.market.stocks["INFY"].bar_volume = 1000
    order = await desk.buy(300, "1500.50")  # a tenth of the volume at once
    before = (await desk.book())[order], await desk.funds()
    with pytest.raises(OrderRejectedError, match=words):
        await desk.broker.modify(desk.account, order, asked)
    assert ((await desk.book())[order], await desk.funds()) == before


async def test_what_is_over_or_anothers_cannot_be_changed(desk, trading, market, make_user, sessions):
    order = await desk.buy(10, "1504.50")
    with pytest.raises(OrderRejectedError, match="is complete and cannot be modified"):
        await desk.broker.modify(desk.account, order, change(20, "1490"))
    other = await open_desk(trading, market, make_user, sessions)
    with pytest.raises(OrderRejectedError, match="no order"):
        await other.broker.modify(other.account, order, change(20, "1490"))


# ---- IOC and protected market


async def test_an_ioc_takes_what_there_is_and_the_rest_ends(desk):
    desk.market.stocks["INFY"].bar_volume = 1000
    part = await desk.buy(150, "1504.50", validity=Validity.IOC)
    none = await desk.buy(150, "1490", validity=Validity.IOC)
    book = await desk.book()
    assert [t.quantity for t in book[part].trades] == [100]
    assert book[none].trades == ()
    assert [book[o].status for o in (part, none)] == [BookStatus.CANCELLED] * 2
    snapshot = await desk.funds()
    assert snapshot.cash == snapshot.cash_free


async def test_a_protected_market_order_is_a_limit_at_its_collar(desk):
    market_order = {"order_type": OrderType.MARKET, "protection_percent": D(2)}
    bought = await desk.buy(10, 0, **market_order)
    sold = await desk.sell(5, 0, **market_order)
    book = await desk.book()
    # 2 % from the last price of 1500, on the tick; the fill is the market's, not the collar's.
    assert [(book[o].limit_price, book[o].trades[0].price) for o in (bought, sold)] == [
        (D(1530), D("1500.40")),
        (D(1470), D("1499.65")),
    ]
    wide = await desk.buy(10, 0, order_type=OrderType.MARKET, protection_percent=D(50))
    assert (await desk.book())[wide].limit_price == D(1650)  # the band's edge
    async with desk.sessions() as session:
        assert await session.scalar(select(PaperOrder.order_type).where(PaperOrder.id == int(wide))) == "limit"


# ---- intraday


async def test_an_intraday_long_holds_back_a_fifth(kite):
    await kite.buy(1000, "1500.40", **MIS)  # three times the cash
    value, fee = 1000 * D("1500.40"), charges(Side.BUY, 1000, D("1500.40"), Product.MIS, kite)
    free = CASH - value / 5 - fee
    assert (await kite.funds()).cash_free == free
    with pytest.raises(OrderRejectedError, match="Insufficient funds"):
        await kite.buy(1000, "1500.40", **MIS)
    rests = await kite.sell(1000, 1510, **MIS)  # closing holds back nothing
    assert (await kite.funds()).cash_free == free
    with pytest.raises(OrderRejectedError, match="Insufficient funds"):
        await kite.sell(1000, 1510, **MIS)  # a second one would be a short
    kite.bar(1511, 1515, 1509)
    assert (await kite.book())[rests].status is BookStatus.COMPLETE
    out = charges(Side.SELL, 1000, D(1511), Product.MIS, kite)
    end = CASH - value - fee + 1000 * D(1511) - out
    assert (await kite.funds()) == replace(await kite.funds(), cash=end, cash_free=end, holdings={})


async def test_a_short_is_for_intraday_alone_and_pays_back(kite):
    with pytest.raises(OrderRejectedError, match="Insufficient holdings"):
        await kite.sell(100, "1490")
    await kite.sell(100, "1490", **MIS)
    value, fee = 100 * D("1499.65"), charges(Side.SELL, 100, D("1499.65"), Product.MIS, kite)
    snapshot = await kite.funds()
    assert snapshot.cash_free == CASH - value / 5 - fee  # what came in is not the account's to spend
    assert snapshot.holdings == {}
    await kite.buy(100, "1510", **MIS)
    back, paid = 100 * D("1500.40"), charges(Side.BUY, 100, D("1500.40"), Product.MIS, kite)
    assert (await kite.funds()).cash == CASH + value - fee - back - paid


async def test_delivery_cannot_sell_what_an_intraday_long_holds(kite):
    await kite.buy(10, "1510")
    await kite.buy(10, "1510", **MIS)
    with pytest.raises(OrderRejectedError, match="holds 10"):
        await kite.sell(20, "1490")


async def test_the_broker_squares_off_in_time_whenever_it_is_looked_at(kite):
    await kite.buy(100, "1510", **MIS)
    resting = await kite.buy(10, "1490", **MIS)
    kept = await kite.buy(10, "1510")
    kite.market.stocks["INFY"].bar_volume = 400
    at(kite, 15, 15)
    kite.market.stocks["INFY"].last = D(1520)
    for _ in range(2):
        kite.bar(1480, 1481, 1479, volume=400)
    at(kite, 11, 0, kite.market.now + timedelta(days=1))  # nobody looked until the next day
    book = await kite.book()
    assert (book[resting].status, book[resting].trades) == (BookStatus.CANCELLED, ())  # it ended before 1480
    (squared,) = (o for o in book.values() if o.side is Side.SELL)
    assert [t.quantity for t in squared.trades] == [40, 40, 20]
    assert squared.trades[0].traded_at.astimezone(IST).strftime("%H:%M") == "15:15"
    without_fee = charges(Side.SELL, 100, sum(t.quantity * t.price for t in squared.trades) / 100, Product.MIS, kite)
    assert sum(t.charges for t in squared.trades) == without_fee + auto_square_off_charge()
    assert (await kite.funds()).holdings == {"INFY": 10}
    assert book[kept].status is BookStatus.COMPLETE
    assert len(await kite.book()) == len(book)  # once


async def test_two_who_look_at_once_square_a_position_off_once(kite, trading):
    await kite.buy(100, "1510", **MIS)
    kite.market.stocks["INFY"].bar_volume = 400
    at(kite, 15, 15)
    async with kite.sessions() as session:
        (due,) = await due_positions(session, [kite.account], trading.calendar)
    quote = (await kite.broker._market.quotes(["INFY"], due.at))["INFY"]
    placed = [await square_off(kite.sessions, due, quote, FillModel(), BROKER_LIKE) for _ in range(2)]
    assert placed == [True, False]


async def test_no_fresh_intraday_order_after_the_square_off(kite):
    at(kite, 15, 14)
    await kite.buy(10, "1490", **MIS)
    at(kite, 15, 15)
    with pytest.raises(OrderRejectedError, match="ended at 15:15"):
        await kite.buy(10, "1490", **MIS)
    await kite.buy(10, "1490")


async def test_a_trader_at_the_same_account_leaves_a_clients_orders_to_their_rules(desk, kite):
    carried = await kite.buy(10, 1495)
    own = await desk.buy(10, 1495)
    desk.bar(1490, 1491, 1489)
    book = await desk.book()
    assert [book[o].status for o in (carried, own)] == [BookStatus.OPEN, BookStatus.COMPLETE]
    assert (await kite.book())[carried].status is BookStatus.COMPLETE
    left = await kite.buy(10, 1450)
    at(desk, 10, 0, desk.market.now + timedelta(days=1))
    assert (await desk.book())[left].status is BookStatus.EXPIRED


# ---- the closing auction (from 2026-08-03, shares with derivatives)

AUCTION_DAY = datetime(2026, 9, 1, 10, 0, tzinfo=IST)


@pytest.fixture
def auction(kite) -> Desk:
    kite.market.now = AUCTION_DAY
    return replace(kite, start=AUCTION_DAY)


async def test_the_auction_matches_at_one_price_by_price_and_time(auction):
    carried = await auction.buy(60, 1495)
    stop = await auction.buy(60, 1520, order_type=OrderType.STOP_LIMIT, trigger_price=D(1510))
    at(auction, 15, 21)
    auction.market.stocks["INFY"].last = D(1490)
    entered = [await auction.buy(60, limit) for limit in ("1489", "1500")]
    auction.market.stocks["INFY"].bar_volume = 1000  # a hundred shares are ours at most
    assert (await auction.book())[carried].status is BookStatus.OPEN
    at(auction, 15, 35)
    book = await auction.book()
    assert [(t.quantity, t.price) for t in book[entered[1]].trades] == [(60, D(1490))]  # the better price first
    assert [(t.quantity, t.price) for t in book[carried].trades] == [(40, D(1490))]
    assert book[entered[0]].trades == ()
    ends = {o: (book[o].status, book[o].message) for o in (carried, entered[0], stop)}
    assert ends[carried] == ends[entered[0]] == (BookStatus.CANCELLED, "not matched in the closing auction")
    assert ends[stop] == (BookStatus.CANCELLED, "stop orders end before the closing auction")


@pytest.mark.parametrize(
    ("clock", "changes", "words"),
    [
        ((15, 17), {}, "closed"),
        ((15, 21), {"validity": Validity.IOC}, "for the day only"),
        ((15, 21), {"order_type": OrderType.STOP_LIMIT, "trigger_price": D(1500)}, "for the day only"),
        ((15, 21), {"limit_price": D("1545.05")}, "1455-1545"),  # 3 % around the last price
        ((15, 21), MIS, "ended at 15:05"),
        ((15, 31), {}, "closed"),
    ],
)
async def test_what_the_auction_does_not_take(auction, clock, changes, words):
    at(auction, *clock)
    with pytest.raises(OrderRejectedError, match=words):
        await auction.buy(10, "1500", **changes)


# ---- queue and latency


async def test_orders_of_one_account_share_a_bar_by_price_then_time(desk, trading):
    queue = under(desk, trading, PaperRules(queues=True))
    first, better, late = [await queue.buy(40, limit) for limit in ("1495", "1496", "1495")]
    queue.bar(1490, 1492, 1489, volume=500)
    book = await queue.book()
    assert [sum(t.quantity for t in book[o].trades) for o in (better, first, late)] == [40, 10, 0]
    await queue.book()  # the same bar has nothing more to give
    queue.bar(1490, 1492, 1489, volume=500)
    book = await queue.book()
    assert [sum(t.quantity for t in book[o].trades) for o in (better, first, late)] == [40, 40, 20]
    queue.market.stocks["INFY"].bar_volume = 500
    one = await queue.buy(40, "1510")
    assert (await queue.book())[one].trades == ()  # all fifty were taken of the minute that ended
    queue.market.now += timedelta(minutes=1)
    two, three = [await queue.buy(40, "1510") for _ in range(2)]
    book = await queue.book()
    assert [sum(t.quantity for t in book[o].trades) for o in (two, three)] == [40, 10]


async def test_a_slow_order_meets_the_quotes_of_its_arrival(desk, trading):
    slow = under(desk, trading, PaperRules(latency_s=10, seed=3))
    order = await slow.buy(10, "1510")
    assert (await slow.book())[order].trades == ()
    slow.market.now += timedelta(seconds=4)  # between 5 and 15 it travels
    assert (await slow.book())[order].trades == ()
    slow.market.stocks["INFY"].last = D(1502)
    slow.market.now += timedelta(seconds=12)
    (trade,) = (await slow.book())[order].trades
    assert trade.price == D("1502.40")
    travelled = trade.traded_at - slow.start
    assert timedelta(seconds=5) <= travelled <= timedelta(seconds=15)
    rules = PaperRules(latency_s=10, seed=3)
    (tag,) = [o.tag for o in (await slow.book()).values()]
    assert rules.latency(slow.account, tag, slow.start) == travelled
    assert replace(rules, seed=4).latency(slow.account, tag, slow.start) != travelled
