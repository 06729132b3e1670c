"""Charges against published and recomputed contract notes, and what must hold for any trade."""

from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.charges import (
    Charges,
    auto_square_off_charge,
    charges_for,
    charges_on_turnover,
    contract_note,
    dp_charge,
    rates_on,
    round_trip_fraction,
)
from backend.domain.charges_data import EXCHANGE_TRANSACTION
from backend.domain.market import Exchange, Product, Side
from backend.domain.money import round_paise

D = Decimal
TODAY = date(2026, 11, 20)
sides, products, exchanges = (st.sampled_from(list(enum)) for enum in (Side, Product, Exchange))
turnovers = st.decimals(min_value="1", max_value="100000000", places=2)


def round_trip(
    product: Product, exchange: Exchange, on: date, trade: tuple[int, str, str] = (400, "1000", "1100")
) -> tuple[Charges, Charges]:
    quantity, bought, sold = trade
    return (
        charges_for(Side.BUY, product, exchange, quantity, D(bought), on=on),
        charges_for(Side.SELL, product, exchange, quantity, D(sold), on=on),
    )


@pytest.mark.parametrize(
    ("product", "exchange", "on", "total"),
    [
        (Product.MIS, Exchange.NSE, date(2022, 6, 1), "204.39"),
        (Product.MIS, Exchange.NSE, TODAY, "200.62"),
        (Product.MIS, Exchange.BSE, TODAY, "207.36"),
        (Product.CNC, Exchange.NSE, TODAY, "931.42"),
    ],
)
def test_totals_of_400_shares_bought_at_1000_and_sold_at_1100(
    product: Product, exchange: Exchange, on: date, total: str
) -> None:
    buy, sell = round_trip(product, exchange, on)
    assert round_paise(buy.total + sell.total) == D(total)


@pytest.mark.parametrize(
    ("product", "exchange", "on", "parts"),
    [
        (Product.MIS, Exchange.NSE, date(2022, 6, 1), ("40.00", "110.00", "28.98", "0.84", "12.00", "12.57")),
        (Product.MIS, Exchange.NSE, TODAY, ("40.00", "110.00", "25.79", "0.84", "12.00", "11.99")),
        (Product.MIS, Exchange.BSE, TODAY, ("40.00", "110.00", "31.50", "0.84", "12.00", "13.02")),
        (Product.CNC, Exchange.NSE, TODAY, ("0.00", "840.00", "25.79", "0.84", "60.00", "4.79")),
    ],
)
def test_each_charge_of_that_trade(product: Product, exchange: Exchange, on: date, parts: tuple[str, ...]) -> None:
    buy, sell = round_trip(product, exchange, on)
    names = ("brokerage", "stt", "exchange_transaction", "sebi", "stamp_duty", "gst")
    assert tuple(str(round_paise(getattr(buy, name) + getattr(sell, name))) for name in names) == parts


def test_a_small_intraday_trade_pays_the_percentage_brokerage() -> None:
    buy, sell = round_trip(Product.MIS, Exchange.NSE, TODAY, (10, "500", "505"))
    assert (buy.brokerage, sell.brokerage) == (D("1.5"), D("1.515"))
    assert sell.stt == D("1.2625")
    assert buy.stt == 0
    assert buy.exchange_transaction + sell.exchange_transaction == D("0.308535")
    assert buy.sebi + sell.sebi == D("0.01005")
    assert (buy.stamp_duty, sell.stamp_duty) == (D("0.15"), 0)
    assert round_paise(buy.gst + sell.gst) == D("0.60")
    assert round_paise(buy.total + sell.total) == D("5.35")


@pytest.mark.parametrize(
    ("on", "pct"),
    [
        (date(2019, 1, 1), "0.00325"),
        (date(2020, 12, 31), "0.00325"),
        (date(2021, 1, 1), "0.00345"),
        (date(2023, 3, 31), "0.00345"),
        (date(2023, 4, 1), "0.00335"),
        (date(2024, 3, 31), "0.00335"),
        (date(2024, 4, 1), "0.00322"),
        (date(2024, 9, 30), "0.00322"),
        (date(2024, 10, 1), "0.00307"),
        (date(2026, 3, 1), "0.00307"),
    ],
)
def test_the_exchange_rate_in_force_is_the_days_own(on: date, pct: str) -> None:
    assert rates_on(Product.CNC, Exchange.NSE, on).exchange_transaction == D(pct) / 100


def test_rates_are_recorded_in_order_with_a_source() -> None:
    for rows in EXCHANGE_TRANSACTION.values():
        assert [row.valid_from for row in rows] == sorted({row.valid_from for row in rows})
        assert all(row.source for row in rows)


def test_what_the_schedule_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="schedule begins on 2019-01-01"):
        rates_on(Product.CNC, Exchange.NSE, date(2018, 12, 31))
    with pytest.raises(ValueError, match="no brokerage plan"):
        rates_on(Product.CNC, Exchange.NSE, TODAY, "nobody")


@pytest.mark.parametrize(("quantity", "price"), [(0, "10"), (-1, "-10"), (-1, "10"), (1, "0")])
def test_only_executed_orders_are_charged(quantity: int, price: str) -> None:
    with pytest.raises(ValueError, match="positive quantity and price"):
        charges_for(Side.BUY, Product.CNC, Exchange.NSE, quantity, D(price), on=TODAY)
    with pytest.raises(ValueError, match="turnover is positive"):
        charges_on_turnover(rates_on(Product.CNC, Exchange.NSE, TODAY), Side.BUY, D(0))


def test_fixed_charges_include_gst() -> None:
    assert dp_charge() == (D("3.5") + D("9.5")) * D("1.18")
    assert auto_square_off_charge() == D(50) * D("1.18")


def test_a_delivery_round_trip_carries_the_depository_charge() -> None:
    price, quantity = D(1000), 10
    exact = sum(charges_for(side, Product.CNC, Exchange.NSE, quantity, price, on=TODAY).total for side in Side)
    fraction = round_trip_fraction(price, quantity, Product.CNC, Exchange.NSE, on=TODAY)
    assert fraction == (exact + D("15.34")) / 10000
    assert round_trip_fraction(price, 10 * quantity, Product.CNC, Exchange.NSE, on=TODAY) < fraction


def test_an_intraday_round_trip_does_not() -> None:
    exact = sum(charges_for(side, Product.MIS, Exchange.BSE, 10, D(1000), on=TODAY).total for side in Side)
    assert round_trip_fraction(D(1000), 10, Product.MIS, Exchange.BSE, on=TODAY) == exact / 10000


def test_a_contract_note_rounds_stt_and_stamp_duty_to_the_rupee_once() -> None:
    orders = [charges_for(Side.SELL, Product.MIS, Exchange.NSE, 7, D(800), on=TODAY) for _ in range(3)]
    orders.append(charges_for(Side.BUY, Product.CNC, Exchange.NSE, 1, D(3300), on=TODAY))
    note = contract_note(orders)
    assert sum(order.stt for order in orders) == D("7.5")
    assert str(note.stt) == "8"
    assert sum(order.stamp_duty for order in orders) == D("0.495")
    assert str(note.stamp_duty) == "0"
    assert note.brokerage == D("5.04")
    assert note.total == note.brokerage + 8 + 0 + note.exchange_transaction + note.sebi + note.gst


def test_an_empty_contract_note_is_free() -> None:
    assert contract_note([]).total == 0


@given(sides, products, exchanges, turnovers)
def test_charges_are_never_negative_and_below_the_turnover(
    side: Side, product: Product, exchange: Exchange, turnover: Decimal
) -> None:
    charges = charges_on_turnover(rates_on(product, exchange, TODAY), side, turnover)
    assert min(charges.brokerage, charges.stt, charges.exchange_transaction, charges.sebi, charges.stamp_duty) >= 0
    assert 0 < charges.gst < charges.total < turnover
    assert charges.brokerage <= 20
    assert (charges.brokerage == 0) == (product is Product.CNC)


@given(sides, products, exchanges, turnovers, turnovers)
def test_charges_grow_with_the_turnover(
    side: Side, product: Product, exchange: Exchange, one: Decimal, other: Decimal
) -> None:
    rates = rates_on(product, exchange, TODAY)
    less, more = (charges_on_turnover(rates, side, turnover).total for turnover in sorted((one, other)))
    assert less < more or one == other


@given(st.lists(st.tuples(sides, products, turnovers), max_size=20))
def test_a_contract_note_stays_within_its_rounding(orders: list[tuple[Side, Product, Decimal]]) -> None:
    exact = [charges_on_turnover(rates_on(product, Exchange.NSE, TODAY), side, t) for side, product, t in orders]
    drift = contract_note(exact).total - sum((charges.total for charges in exact), D(0))
    assert abs(drift) <= D("1.02")
