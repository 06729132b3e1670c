"""What every broker does, whatever its wire: `TradingConformance` is passed by a subclass that gives a `world`.

A subclass overrides the fixture `world` with a `World`: the broker under test and the hand that moves what is behind
it. `tests/brokers/wire_conformance.py` adds what only a broker over HTTP can be asked for.
"""

import time
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol

import pytest

from backend.brokers.base import (
    AccountSnapshot,
    Broker,
    BrokerError,
    BrokerUnavailableError,
    NotPlacedError,
    OrderChange,
    OrderRejectedError,
    OrderRequest,
    TooLateError,
)
from backend.domain.market import OrderType, Product, Side, Validity
from backend.domain.reconcile import BookOrder, BookStatus

TAG = "0123456789abcdefGHIJ"
"""As long as a tag may be."""
EGRESS_IP = "192.0.2.1"
"""The address that the orders are approved for, and that a broker's access leaves from."""
LIMIT = OrderRequest(
    "INFY", "nse", Side.BUY, Product.CNC, OrderType.LIMIT, 10, Decimal("1500.05"), TAG, egress_ip=EGRESS_IP
)
STOP = replace(
    LIMIT,
    side=Side.SELL,
    order_type=OrderType.STOP_LIMIT,
    limit_price=Decimal("1440"),
    trigger_price=Decimal("1450.50"),
    tag="stop1",
)
IOC = replace(LIMIT, product=Product.MIS, validity=Validity.IOC, tag="ioc1")
MARKET = replace(
    LIMIT, side=Side.SELL, order_type=OrderType.MARKET, protection_percent=Decimal("2.5"), tag="market1", algo_id="42"
)
ORDERS = {"limit": LIMIT, "stop": STOP, "ioc": IOC, "market": MARKET}
CASH = Decimal(100_000)
HELD = 25


class World(Protocol):
    """A broker with one account, in its market's trading hours, and INFY at about 1,500 rupees.

    Shares and cash are seeded before orders are placed. Instants are aware, quantities shares, prices rupees.
    """

    broker: Broker
    account_id: int

    def now(self) -> datetime:
        """The market's present: nothing was placed before it began."""
        ...

    async def seed(self, cash: Decimal, holdings: dict[str, int]) -> None:
        """Give the account its only cash, and shares that were settled long ago."""
        ...

    async def fill(self, order_id: str, quantity: int) -> Decimal:
        """Let a resting order trade; returns the price of its shares."""
        ...

    async def lapse(self, order_id: str) -> None:
        """Let the exchange cancel what is left of an order."""
        ...

    async def reject(self, order_id: str, words: str) -> None:
        """Let an order that was taken be refused by the exchange."""
        ...

    async def refuse_next(self, words: str) -> None:
        """Let the broker refuse the next order it is given."""
        ...

    async def end_session(self) -> None:
        """Close the market for the day."""
        ...


async def book_of(world: World, tags: list[str] | None = None) -> list[BookOrder]:
    since = world.now() - timedelta(hours=12)
    report = (await world.broker.books([world.account_id], since, tags))[world.account_id]
    assert not isinstance(report, BrokerError), report
    return list(report)


async def only_order(world: World) -> BookOrder:
    (order,) = await book_of(world)
    return order


async def snapshot_of(world: World) -> AccountSnapshot:
    report = (await world.broker.snapshots([world.account_id]))[world.account_id]
    assert not isinstance(report, BrokerError), report
    return report


async def placed(world: World, order: OrderRequest = LIMIT) -> str:
    return await world.broker.place(world.account_id, order)


class TradingConformance:
    """Orders, book and balances. Names of what a broker cannot do stand in `lacks`, each with its reason."""

    lacks: dict[str, str] = {}

    @pytest.fixture
    async def world(self) -> World:
        raise NotImplementedError("a subclass gives the broker")

    @pytest.fixture(autouse=True)
    def only_what_it_can(self, request: pytest.FixtureRequest) -> None:
        reason = self.lacks.get(request.function.__name__)
        if reason is not None:
            pytest.skip(reason)

    @pytest.fixture(autouse=True)
    async def seeded(self, world: World) -> None:
        await world.seed(CASH, {"INFY": HELD})

    async def test_an_order_rests_in_the_book_as_it_was_placed(self, world: World):
        order_id = await placed(world)
        order = await only_order(world)
        assert (order.broker_order_id, order.tag, order.status) == (order_id, TAG, BookStatus.OPEN)
        assert (order.symbol, order.exchange, order.side, order.product) == ("INFY", "nse", Side.BUY, Product.CNC)
        assert (order.quantity, order.limit_price, order.trades) == (10, Decimal("1500.05"), ())
        assert abs(order.placed_at - world.now()) < timedelta(minutes=10)

    async def test_a_stop_order_rests_until_its_trigger(self, world: World):
        await placed(world, STOP)
        order = await only_order(world)
        assert (order.status, order.side, order.trades) == (BookStatus.OPEN, Side.SELL, ())
        assert order.limit_price == STOP.limit_price

    async def test_a_partial_fill_leaves_it_open_and_the_last_completes_it(self, world: World):
        order_id = await placed(world)
        first = await world.fill(order_id, 4)
        order = await only_order(world)
        assert (order.status, [(t.quantity, t.price) for t in order.trades]) == (BookStatus.OPEN, [(4, first)])
        second = await world.fill(order_id, 6)
        order = await only_order(world)
        assert order.status is BookStatus.COMPLETE
        assert [(t.quantity, t.price) for t in order.trades] == [(4, first), (6, second)]
        assert len({t.trade_id for t in order.trades}) == 2
        assert all(t.charges > 0 and abs(t.traded_at - world.now()) < timedelta(minutes=10) for t in order.trades)

    async def test_a_cancel_ends_it_and_keeps_what_it_traded(self, world: World):
        order_id = await placed(world)
        await world.fill(order_id, 4)
        await world.broker.cancel(world.account_id, order_id)
        order = await only_order(world)
        assert (order.status, [t.quantity for t in order.trades]) == (BookStatus.CANCELLED, [4])

    async def test_the_exchange_may_cancel_what_is_left(self, world: World):
        order_id = await placed(world)
        await world.fill(order_id, 4)
        await world.lapse(order_id)
        order = await only_order(world)
        assert order.status in {BookStatus.CANCELLED, BookStatus.EXPIRED}
        assert [t.quantity for t in order.trades] == [4]

    async def test_cancelling_a_finished_order_changes_nothing(self, world: World):
        order_id = await placed(world)
        await world.fill(order_id, 10)
        with pytest.raises(OrderRejectedError, match=r"\w+"):
            await world.broker.cancel(world.account_id, order_id)
        assert (await only_order(world)).status is BookStatus.COMPLETE

    async def test_nobody_elses_order_can_be_cancelled_or_changed(self, world: World):
        with pytest.raises(OrderRejectedError):
            await world.broker.cancel(world.account_id, "999999999")
        with pytest.raises(OrderRejectedError):
            await world.broker.modify(world.account_id, "999999999", OrderChange(OrderType.LIMIT, 5, Decimal(1500)))
        assert await book_of(world) == []

    async def test_a_change_of_price_and_quantity_shows_in_the_book(self, world: World):
        order_id = await placed(world)
        change = OrderChange(OrderType.LIMIT, 8, Decimal("1490.10"))
        await world.broker.modify(world.account_id, order_id, change)
        order = await only_order(world)
        assert (order.broker_order_id, order.tag, order.status) == (order_id, TAG, BookStatus.OPEN)
        assert (order.quantity, order.limit_price) == (8, Decimal("1490.10"))

    async def test_a_stop_orders_trigger_can_be_moved(self, world: World):
        order_id = await placed(world, STOP)
        change = OrderChange(OrderType.STOP_LIMIT, 10, Decimal(1430), Decimal(1435))
        await world.broker.modify(world.account_id, order_id, change)
        order = await only_order(world)
        assert (order.status, order.limit_price) == (BookStatus.OPEN, Decimal(1430))

    async def test_a_change_of_a_finished_order_is_refused(self, world: World):
        order_id = await placed(world)
        await world.fill(order_id, 10)
        with pytest.raises(OrderRejectedError, match=r"\w+"):
            await world.broker.modify(world.account_id, order_id, OrderChange(OrderType.LIMIT, 20, Decimal(1500)))
        order = await only_order(world)
        assert (order.status, order.quantity) == (BookStatus.COMPLETE, 10)

    async def test_a_refusal_is_told_in_the_brokers_words_and_nothing_rests(self, world: World):
        await world.refuse_next("Insufficient funds.")
        with pytest.raises(OrderRejectedError, match="Insufficient funds"):
            await placed(world)
        assert {order.status for order in await book_of(world)} <= {BookStatus.REJECTED}

    async def test_an_order_may_be_refused_after_it_was_taken(self, world: World):
        order_id = await placed(world)
        await world.reject(order_id, "The price is out of the band")
        order = await only_order(world)
        assert (order.status, order.trades) == (BookStatus.REJECTED, ())
        assert "out of the band" in order.message

    async def test_a_day_order_ends_with_the_session(self, world: World):
        order_id = await placed(world)
        await world.end_session()
        order = await only_order(world)
        assert order.broker_order_id == order_id
        assert order.status in {BookStatus.EXPIRED, BookStatus.CANCELLED}

    async def test_a_market_order_without_protection_is_refused(self, world: World):
        with pytest.raises((OrderRejectedError, NotPlacedError), match="protection"):
            await placed(world, replace(MARKET, protection_percent=None))

    async def test_what_comes_too_late_is_not_placed(self, world: World):
        with pytest.raises(TooLateError):
            await placed(world, replace(LIMIT, send_by=time.monotonic() - 0.001))
        assert await book_of(world) == []

    async def test_the_book_is_asked_for_by_tag_and_instant(self, world: World):
        first = await placed(world)
        second = await placed(world, replace(LIMIT, tag="other", quantity=1))
        assert {order.broker_order_id for order in await book_of(world)} == {first, second}
        assert [order.broker_order_id for order in await book_of(world, ["other"])] == [second]
        later = await world.broker.books([world.account_id], world.now() + timedelta(hours=1))
        assert later[world.account_id] == []

    async def test_cash_and_shares_follow_the_trades_of_the_day(self, world: World):
        snapshot = await snapshot_of(world)
        assert (snapshot.cash_free, snapshot.holdings) == (CASH, {"INFY": HELD})
        bought = await placed(world)
        await world.fill(bought, 10)
        assert (await snapshot_of(world)).holdings == {"INFY": HELD + 10}
        sold = await placed(world, replace(LIMIT, side=Side.SELL, quantity=HELD, tag="sold"))
        await world.fill(sold, HELD)
        snapshot = await snapshot_of(world)
        assert snapshot.holdings == {"INFY": 10}
        assert snapshot.cash_free <= snapshot.cash

    async def test_shares_that_are_all_sold_are_held_no_more(self, world: World):
        sold = await placed(world, replace(LIMIT, side=Side.SELL, quantity=HELD, tag="sold"))
        await world.fill(sold, HELD)
        assert (await snapshot_of(world)).holdings == {}

    async def test_an_open_buy_holds_cash_back(self, world: World):
        await placed(world)
        assert CASH - 10 * Decimal("1500.05") - 100 <= (await snapshot_of(world)).cash_free < CASH - 10 * 1500

    async def test_an_account_that_is_not_there_is_an_error_of_its_own(self, world: World):
        reports = await world.broker.snapshots([world.account_id, 987])
        assert isinstance(reports[987], BrokerError)
        assert isinstance(reports[world.account_id], AccountSnapshot)


def is_failed_report(report: object, kind: type[BrokerError] = BrokerUnavailableError) -> bool:
    """Whether a report failed as `kind`, and as nothing that says more."""
    return type(report) is kind
