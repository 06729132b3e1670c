"""Ticks, bands and halts at their published boundaries."""

from datetime import date, time, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.market import (
    Halt,
    Side,
    circuit_breaker_halt,
    circuit_breaker_level,
    closing_auction_band,
    dynamic_band,
    fixed_band,
    round_nearest,
    round_to_tick,
    tick_size,
)

D = Decimal
TODAY = date(2026, 11, 20)
prices = st.decimals(min_value="0.05", max_value="100000", places=2)
ticks = st.sampled_from([D("0.01"), D("0.05"), D("0.10"), D("0.50"), D(1), D(5)])


@pytest.mark.parametrize(
    ("price", "tick"),
    [
        ("0.05", "0.01"),
        ("249.99", "0.01"),
        ("250", "0.05"),
        ("1000", "0.05"),
        ("1000.05", "0.10"),
        ("5000", "0.10"),
        ("5000.10", "0.50"),
        ("10000", "0.50"),
        ("10000.50", "1"),
        ("20000", "1"),
        ("20001", "5"),
    ],
)
def test_ticks_follow_the_price_from_2025_04_15(price: str, tick: str) -> None:
    assert tick_size(D(price), date(2025, 4, 15)) == D(tick)


@pytest.mark.parametrize(
    ("on", "cheap", "dear"),
    [
        (date(2019, 1, 1), "0.05", "0.05"),
        (date(2024, 6, 9), "0.05", "0.05"),
        (date(2024, 6, 10), "0.01", "0.05"),
        (date(2025, 4, 14), "0.01", "0.05"),
        (date(2025, 4, 15), "0.01", "0.50"),
    ],
)
def test_tick_regimes_change_on_their_day(on: date, cheap: str, dear: str) -> None:
    assert (tick_size(D("249.95"), on), tick_size(D(7000), on)) == (D(cheap), D(dear))


def test_etfs_keep_a_tick_that_is_valid_at_any_price() -> None:
    assert {tick_size(D(price), TODAY, is_etf=True) for price in (20, 400, 30000)} == {D("0.05")}


@pytest.mark.parametrize("price", ["0", "-1", "NaN", "Infinity"])
def test_a_price_must_be_positive(price: str) -> None:
    for call in (lambda p: tick_size(p, TODAY), lambda p: round_nearest(p, D("0.05"))):
        with pytest.raises(ValueError, match="must be positive"):
            call(D(price))


@pytest.mark.parametrize(
    ("price", "tick", "buy", "sell", "nearest"),
    [
        ("100.07", "0.05", "100.05", "100.10", "100.05"),
        ("100.075", "0.05", "100.05", "100.10", "100.10"),
        ("100.05", "0.05", "100.05", "100.05", "100.05"),
        ("20003", "5", "20000", "20005", "20005"),
    ],
)
def test_limit_prices_round_in_the_orders_favour(price: str, tick: str, buy: str, sell: str, nearest: str) -> None:
    assert round_to_tick(D(price), D(tick), Side.BUY) == D(buy)
    assert round_to_tick(D(price), D(tick), Side.SELL) == D(sell)
    assert round_nearest(D(price), D(tick)) == D(nearest)


def test_a_buy_below_one_tick_is_refused() -> None:
    with pytest.raises(ValueError, match="below one tick"):
        round_to_tick(D("0.04"), D("0.05"), Side.BUY)


@given(prices, ticks)
def test_rounding_lands_on_the_grid_within_one_tick(price: Decimal, tick: Decimal) -> None:
    sell = round_to_tick(price, tick, Side.SELL)
    assert sell % tick == 0
    assert price <= sell < price + tick
    if price >= tick:
        buy = round_to_tick(price, tick, Side.BUY)
        assert buy % tick == 0
        assert price - tick < buy <= price


def test_bands_round_inwards() -> None:
    band = fixed_band(D("101.03"), D(5), D("0.05"))
    assert (band.lower, band.upper) == (D("96.00"), D("106.05"))
    assert D("96.00") in band
    assert D("106.05") in band
    assert D("95.95") not in band
    assert D("106.10") not in band


def test_dynamic_and_closing_auction_bands_have_their_published_width() -> None:
    assert dynamic_band(D(1000), D("0.05")) == fixed_band(D(1000), D(10), D("0.05"))
    band = closing_auction_band(D(1000), D("0.05"))
    assert (band.lower, band.upper) == (970, 1030)


@pytest.mark.parametrize("pct", ["0", "-5", "100", "250"])
def test_a_bands_width_is_bounded(pct: str) -> None:
    with pytest.raises(ValueError, match="between 0 and 100"):
        fixed_band(D(100), D(pct), D("0.05"))


@given(
    prices.filter(lambda p: p >= 10),
    st.sampled_from([D(2), D(5), D(10), D(20)]),
    st.sampled_from([D("0.01"), D("0.05")]),
)
def test_a_band_never_reaches_beyond_its_width(close: Decimal, pct: Decimal, tick: Decimal) -> None:
    band = fixed_band(close, pct, tick)
    assert close * (100 - pct) <= band.lower * 100
    assert band.upper * 100 <= close * (100 + pct)
    assert round_nearest(close, tick) in band


@pytest.mark.parametrize(
    ("level", "at", "halt_min"),
    [
        (10, time(9, 15), 45),
        (10, time(12, 59, 59), 45),
        (10, time(13), 15),
        (10, time(14, 29, 59), 15),
        (15, time(12, 59, 59), 105),
        (15, time(13), 45),
        (15, time(13, 59, 59), 45),
    ],
)
def test_market_wide_halts_depend_on_level_and_time(level: int, at: time, halt_min: int) -> None:
    assert circuit_breaker_halt(level, at, TODAY) == Halt(timedelta(minutes=halt_min), timedelta(minutes=15))


def test_late_or_deep_moves_end_the_day_or_change_nothing() -> None:
    assert circuit_breaker_halt(10, time(14, 30), TODAY) is None
    assert circuit_breaker_halt(15, time(14), TODAY) == Halt(None)
    assert circuit_breaker_halt(20, time(9, 15), TODAY) == Halt(None)


def test_an_unpublished_level_is_refused() -> None:
    with pytest.raises(ValueError, match="no level of 12"):
        circuit_breaker_halt(12, time(10), TODAY)


@pytest.mark.parametrize(
    ("value", "level"), [("9000.01", None), ("9000", 10), ("8500", 15), ("8000", 20), ("11000", 10), ("10999.99", None)]
)
def test_the_widest_level_reached_counts_either_way(value: str, level: int | None) -> None:
    assert circuit_breaker_level(D(10000), D(value)) == level


def test_the_index_fall_of_2020_03_13_halts_for_45_minutes() -> None:
    """NIFTY 50 opened on 2020-03-13 at 8,624 after 9,590.15 and was halted within minutes."""
    level = circuit_breaker_level(D("9590.15"), D("8624.05"))
    assert level == 10
    halt = circuit_breaker_halt(level, time(9, 21), date(2020, 3, 13))
    assert halt is not None
    assert halt.closed_for == timedelta(minutes=45)
