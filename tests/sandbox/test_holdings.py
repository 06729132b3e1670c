"""What of a share is a holding today, out of the days' trades and the balance: a table, and a property."""

from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.calendar import standard_calendar
from backend.domain.market import Product
from backend.models.paper import PaperPosition
from backend.sandbox.portfolio import Shares, delivered_on, shares_of

D = Decimal
MONDAY = date(2026, 8, 24)


def row(day: int, bought: int = 0, sold: int = 0, price: int = 100, product: Product = Product.CNC) -> PaperPosition:
    """A day's trades, so many days after MONDAY."""
    return PaperPosition(
        day=MONDAY + timedelta(days=day),
        symbol="INFY",
        exchange="nse",
        product=product,
        buy_quantity=bought,
        buy_value=D(bought * price),
        sell_quantity=sold,
        sell_value=D(sold * price),
    )


@pytest.mark.parametrize(
    ("rows", "balance", "today", "expected"),
    [
        # Wednesday the 26th is a settlement holiday (NCL/CMPT/71904): Tuesday's trades are delivered on Thursday.
        ([row(1, 10)], 10, 1, Shares(0, 0, 0, D(0))),
        ([row(1, 10)], 10, 2, Shares(10, 10, 0, D(100))),
        ([row(1, 10)], 10, 3, Shares(10, 0, 0, D(100))),
        ([row(0, 10), row(1, 10, price=200)], 20, 2, Shares(20, 10, 0, D(150))),
        ([row(0, 10), row(3, sold=4)], 6, 3, Shares(10, 0, 4, D(100))),
        ([row(0, 10), row(2, sold=4)], 6, 3, Shares(6, 0, 0, D(100))),
        ([row(0, 10), row(3, 5)], 15, 3, Shares(10, 0, 0, D(100))),
        ([row(0, 10), row(3, 5, product=Product.MIS)], 15, 3, Shares(10, 0, 0, D(100))),
        ([row(0, 10), row(3, sold=5, product=Product.MIS)], 5, 3, Shares(10, 0, 0, D(100))),
        ([], 25, 3, Shares(25, 0, 0, D(0))),  # given, not bought
    ],
)
def test_a_share_waits_for_its_settlement_and_is_then_held(rows, balance, today, expected):
    calendar = standard_calendar()
    settled = {r.day: delivered_on(calendar, r.day) for r in rows}
    assert shares_of(balance, rows, settled, MONDAY + timedelta(days=today)) == expected


def test_beyond_the_calendar_the_next_day_delivers():
    assert delivered_on(standard_calendar(), date(2026, 12, 31)) == date(2027, 1, 1)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=8), st.integers(0, 10))
def test_holdings_never_exceed_what_there_is(days, today):
    rows, balance = [], 0
    for number, (bought, sold) in enumerate(days):
        rows.append(row(number, bought, min(sold, balance + bought)))
        balance += bought - min(sold, balance + bought)
    settled = {r.day: r.day + timedelta(days=1) for r in rows}
    shares = shares_of(balance, rows, settled, MONDAY + timedelta(days=today))
    assert 0 <= shares.waiting <= shares.opening
    assert shares.sold <= shares.opening
    assert shares.average_price >= 0
