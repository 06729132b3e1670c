"""The paper broker's fills: tables at each boundary, and an order walked tick by tick along every path a bar allows."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from backend.domain.calendar import IST
from backend.domain.market import OrderType, Side
from backend.domain.matching import BarView, FillModel, Match, RestingOrder, match_in_bar, match_on_arrival, offered

D = Decimal
Price = Decimal | str | int
TICK = D("0.05")
START = datetime(2024, 3, 18, 10, 0, tzinfo=IST)
NO_FILL = D(0)


def limit(side: Side, price: Price, quantity: int = 10) -> RestingOrder:
    return RestingOrder(side, OrderType.LIMIT, quantity, D(price), None, triggered=False)


def stop(side: Side, trigger: Price, price: Price, quantity: int = 10, triggered: bool = False) -> RestingOrder:
    return RestingOrder(side, OrderType.STOP_LIMIT, quantity, D(price), D(trigger), triggered=triggered)


def bar(low: Price, opened: Price, high: Price, volume: int = 1000) -> BarView:
    return BarView(START, START + timedelta(minutes=1), D(opened), D(high), D(low), D(opened), volume)


def arrive(order: RestingOrder, volume: int = 1000, **model: Any) -> Match:
    """On arrival at a market of 100.00 bid, 100.05 asked."""
    return match_on_arrival(order, D("100.00"), D("100.05"), volume, TICK, FillModel(**model))


@pytest.mark.parametrize(
    ("side", "price", "filled_at"),
    [
        (Side.BUY, "100.00", None),
        (Side.BUY, "100.05", "100.05"),  # slippage would cross the limit
        (Side.BUY, "100.10", "100.10"),
        (Side.BUY, "101.00", "100.10"),  # 0.02 % is less than a tick: a whole tick is paid
        (Side.SELL, "100.05", None),
        (Side.SELL, "100.00", "100.00"),
        (Side.SELL, "99.95", "99.95"),
        (Side.SELL, "99.00", "99.95"),
    ],
)
def test_arrival_pays_the_touch_and_slippage_within_the_limit(side: Side, price: str, filled_at: str | None) -> None:
    match = arrive(limit(side, price))
    assert match.quantity == (10 if filled_at else 0)
    assert filled_at is None or match.price == D(filled_at)


@pytest.mark.parametrize(
    ("side", "low", "high", "shares"),
    [
        (Side.BUY, "110", "110", 0),  # locked at the upper band: nobody sells
        (Side.BUY, "109.95", "110", 1000),  # it opened up within the bar
        (Side.BUY, "90", "90", 1000),  # at the lower band everybody does
        (Side.SELL, "90", "90", 0),
        (Side.SELL, "90", "90.05", 1000),
        (Side.SELL, "110", "110", 1000),
        (Side.BUY, "100", "100", 1000),
    ],
)
def test_a_share_locked_at_its_band_offers_nothing_on_that_side(side: Side, low: str, high: str, shares: int) -> None:
    assert offered(side, D(low), D(high), 1000, D("90"), D("110")) == shares


@pytest.mark.parametrize(("slippage", "buy", "sell"), [("0", "100.05", "100.00"), ("0.0006", "100.15", "99.90")])
def test_slippage_is_whole_ticks_against_the_trader(slippage: str, buy: str, sell: str) -> None:
    assert arrive(limit(Side.BUY, 110), slippage=D(slippage)).price == D(buy)
    assert arrive(limit(Side.SELL, 90), slippage=D(slippage)).price == D(sell)


@pytest.mark.parametrize(("volume", "quantity"), [(0, 0), (9, 0), (10, 1), (99, 9), (100, 10), (101, 10), (10_000, 10)])
def test_no_fill_takes_more_than_a_tenth_of_the_volume(volume: int, quantity: int) -> None:
    assert arrive(limit(Side.BUY, 101), volume).quantity == quantity
    assert match_in_bar(limit(Side.BUY, 101), bar("99", "100", "102", volume), FillModel()).quantity == quantity
    triggered = match_in_bar(stop(Side.BUY, "101", "102"), bar("99", "100", "102", volume), FillModel())
    assert (triggered.quantity, triggered.triggered) == (quantity, True)


@pytest.mark.parametrize("side", Side)
def test_a_stop_waits_for_its_trigger_on_arrival(side: Side) -> None:
    assert arrive(stop(side, 100, 100)).quantity == 0


@given(
    side=st.sampled_from(Side),
    price=st.integers(1, 400),
    touch=st.tuples(st.integers(1, 400), st.integers(0, 20)),
    quantity=st.integers(1, 500),
    volume=st.integers(0, 5000),
    slippage=st.sampled_from([D(0), D("0.0002"), D("0.01"), D("0.5")]),
)
def test_an_arrival_is_never_better_than_the_touch_nor_beyond_the_limit(
    side: Side, price: int, touch: tuple[int, int], quantity: int, volume: int, slippage: D
) -> None:
    bid, ask = touch[0] * TICK, sum(touch) * TICK
    order = limit(side, price * TICK, quantity)
    match = match_on_arrival(order, bid, ask, volume, TICK, FillModel(slippage=slippage))
    marketable = order.limit_price >= ask if side is Side.BUY else order.limit_price <= bid
    assert match.quantity == (min(quantity, volume // 10) if marketable else 0)
    event(f"fills: {match.quantity > 0}")
    if match.quantity:
        assert match.price % TICK == 0
        low, high = (ask, order.limit_price) if side is Side.BUY else (order.limit_price, bid)
        assert low <= match.price <= high


@pytest.mark.parametrize(
    ("order", "prices", "filled_at"),
    [
        # a resting limit: touched is not enough, traded through is; an open beyond it is better
        (limit(Side.BUY, 100), ("100", "101", "102"), None),
        (limit(Side.BUY, 100), ("100", "100", "102"), None),
        (limit(Side.BUY, 100), ("99.95", "101", "102"), "100"),
        (limit(Side.BUY, 100), ("99.95", "100", "102"), "100"),
        (limit(Side.BUY, 100), ("98", "99", "102"), "99"),
        (limit(Side.SELL, 100), ("98", "99", "100"), None),
        (limit(Side.SELL, 100), ("98", "100", "100"), None),
        (limit(Side.SELL, 100), ("98", "99", "100.05"), "100"),
        (limit(Side.SELL, 100), ("98", "101", "102"), "101"),
        # a stop below the market: not reached, reached, gapped over, gapped beyond its limit, and back through it
        (stop(Side.SELL, 100, 99), ("100.05", "102", "103"), None),
        (stop(Side.SELL, 100, 99), ("100", "102", "103"), "100"),
        (stop(Side.SELL, 100, 99), ("98", "99.50", "103"), "99.50"),
        (stop(Side.SELL, 100, 99), ("97", "98", "99"), None),
        (stop(Side.SELL, 100, 99), ("97", "98", "99.05"), "99"),
        # a stop above the market
        (stop(Side.BUY, 100, 101), ("97", "98", "99.95"), None),
        (stop(Side.BUY, 100, 101), ("97", "98", "100"), "100"),
        (stop(Side.BUY, 100, 101), ("97", "100.50", "103"), "100.50"),
        (stop(Side.BUY, 100, 101), ("101", "102", "103"), None),
        (stop(Side.BUY, 100, 101), ("100.95", "102", "103"), "101"),
        # triggered on the way with a limit the market had left behind by then: what came before is not its
        (stop(Side.BUY, 100, 99), ("97", "98", "103"), None),
        (stop(Side.SELL, 100, 101), ("97", "102", "103"), None),
        # once triggered it is a resting limit
        (stop(Side.BUY, 100, 99, triggered=True), ("97", "99.50", "99.95"), "99"),
    ],
)
def test_fills_inside_a_bar(order: RestingOrder, prices: tuple[str, str, str], filled_at: str | None) -> None:
    match = match_in_bar(order, bar(*prices), FillModel())
    assert match.quantity == (10 if filled_at else 0)
    assert filled_at is None or match.price == D(filled_at)


@pytest.mark.parametrize(("side", "prices"), [(Side.BUY, ("97", "98", "99.95")), (Side.SELL, ("100.05", "101", "102"))])
def test_a_stop_stays_asleep_below_its_trigger_and_without_one(side: Side, prices: tuple[str, str, str]) -> None:
    assert not match_in_bar(stop(side, 100, 100), bar(*prices), FillModel()).triggered
    lost = RestingOrder(side, OrderType.STOP_LIMIT, 10, D(100), None, triggered=False)
    assert match_in_bar(lost, bar("90", "100", "110"), FillModel()) == Match(0, NO_FILL, triggered=False)


def walk(order: RestingOrder, path: list[int]) -> tuple[int | None, bool]:
    """An order in ticks carried along consecutive prices: (price of its fill, whether it was triggered).

    A stop joins the market at the first price at or beyond its trigger and takes that price if its limit allows.
    Otherwise an order fills at its limit once the market trades beyond it, or at a first price that is beyond it.
    """
    sign = 1 if order.side is Side.BUY else -1
    at_most = sign * int(order.limit_price)
    awake = order.triggered or order.trigger_price is None
    for step, price in enumerate(sign * p for p in path):
        if not awake and order.trigger_price is not None:
            awake = price >= sign * int(order.trigger_price)
            if awake and price <= at_most:
                return sign * price, True
        elif awake and price < at_most:
            return sign * (price if step == 0 else at_most), True
    return None, awake


def tick_path(*stations: int) -> list[int]:
    """Every tick from station to station, the first station once."""
    path = [stations[0]]
    for station in stations[1:]:
        step = 1 if station > path[-1] else -1
        path += range(path[-1] + step, station + step, step) if station != path[-1] else []
    return path


@st.composite
def bars_in_ticks(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """(open, high, low, close) in whole ticks."""
    low, high = sorted((draw(st.integers(90, 110)), draw(st.integers(90, 110))))
    return draw(st.integers(low, high)), high, low, draw(st.integers(low, high))


@settings(max_examples=500)
@given(
    prices=bars_in_ticks(),
    side=st.sampled_from(Side),
    limit_price=st.integers(88, 112),
    trigger=st.none() | st.integers(88, 112),
    triggered=st.booleans(),
)
def test_a_fill_exists_on_every_path_and_is_never_better_than_the_worst_of_them(
    prices: tuple[int, int, int, int], side: Side, limit_price: int, trigger: int | None, triggered: bool
) -> None:
    opened, high, low, close = prices
    kind = OrderType.LIMIT if trigger is None else OrderType.STOP_LIMIT
    order = RestingOrder(side, kind, 10, D(limit_price), None if trigger is None else D(trigger), triggered=triggered)
    view = BarView(START, START + timedelta(minutes=1), D(opened), D(high), D(low), D(close), 1000)
    match = match_in_bar(order, view, FillModel())
    ways = [walk(order, tick_path(opened, *turns, close)) for turns in ((high, low), (low, high))]
    assert all(match.triggered == awake for _, awake in ways)
    event(f"fills: {match.quantity > 0}, stop: {trigger is not None}")
    sign = 1 if side is Side.BUY else -1
    if not match.quantity:
        woken_on_the_way = trigger is not None and not triggered and sign * opened < sign * trigger
        assert woken_on_the_way or None in [price for price, _ in ways]
        return
    for price, _ in ways:
        assert price is not None
        assert sign * match.price >= sign * price
    assert low <= match.price <= high
    assert sign * match.price <= sign * limit_price
