"""The charges of a real broker's book: an order's, however it filled, and the depository's once a share and day."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.brokers.book_charges import with_charges
from backend.domain.charges import charges_for, dp_charge
from backend.domain.market import Exchange, Product, Side
from backend.domain.reconcile import BookOrder, BookStatus, BookTrade

AT = datetime(2026, 10, 5, 5, 0, tzinfo=UTC)
DAY = date(2026, 10, 5)


def order(number: str, side: Side, product: Product, *quantities: int, symbol: str = "INFY", minute: int = 0):
    trades = tuple(
        BookTrade(f"{number}-{i}", quantity, Decimal(1500), Decimal(0), AT + timedelta(minutes=minute, seconds=i))
        for i, quantity in enumerate(quantities)
    )
    return BookOrder(
        number, "", symbol, "nse", side, product, 500, Decimal(1500), AT, BookStatus.OPEN, "", trades
    )  # fmt: skip


def charges(book: list[BookOrder]) -> list[list[Decimal]]:
    return [[trade.charges for trade in shown.trades] for shown in with_charges(book, "zerodha")]


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=5),
    st.sampled_from(Side),
    st.sampled_from(Product),
)
def test_an_order_costs_the_same_however_it_filled(quantities: list[int], side: Side, product: Product):
    (parts,) = charges([order("1", side, product, *quantities)])
    whole = charges_for(side, product, Exchange.NSE, sum(quantities), Decimal(1500), on=DAY).total
    delivered = dp_charge() if (side, product) == (Side.SELL, Product.CNC) else 0
    assert sum(parts) == whole + delivered
    assert all(part >= 0 for part in parts)


def test_the_depository_is_paid_with_the_first_delivery_sell_of_a_share():
    sells = [
        order("late", Side.SELL, Product.CNC, 10, minute=5),
        order("first", Side.SELL, Product.CNC, 10, 10),
        order("other", Side.SELL, Product.CNC, 10, symbol="TCS", minute=9),
        order("intraday", Side.SELL, Product.MIS, 10),
    ]
    late, first, other, intraday = charges(sells)
    plain = charges_for(Side.SELL, Product.CNC, Exchange.NSE, 10, Decimal(1500), on=DAY).total
    assert late == [plain]
    assert first == [plain + dp_charge(), plain]
    assert other == [plain + dp_charge()]
    assert intraday == [charges_for(Side.SELL, Product.MIS, Exchange.NSE, 10, Decimal(1500), on=DAY).total]


def test_a_later_execution_changes_nothing_of_the_ones_before():
    (before,) = charges([order("1", Side.SELL, Product.CNC, 10, 20)])
    (after, _) = charges(
        [order("1", Side.SELL, Product.CNC, 10, 20, 30), order("2", Side.SELL, Product.CNC, 5, minute=9)]
    )
    assert after[:2] == before


def test_executions_are_shown_oldest_first():
    shown = order("1", Side.BUY, Product.CNC, 1, 2, 3)
    (sorted_,) = with_charges([replace(shown, trades=shown.trades[::-1])], "zerodha")
    assert [trade.quantity for trade in sorted_.trades] == [1, 2, 3]


def test_a_broker_without_a_plan_is_an_error():
    with pytest.raises(ValueError, match="no brokerage plan"):
        with_charges([order("1", Side.BUY, Product.CNC, 1)], "nobody")
