"""The budget of one entry and the shares it buys, at each limit and one step beyond."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.sizing import FUNDS_IN_USE_FRACTION_MAX, budget_rupees, whole_shares

D = Decimal
rupees = st.decimals(-100_000, 10_000_000, places=2)


@pytest.mark.parametrize(
    ("total", "in_use", "cash", "fraction", "budget"),
    [
        ("500000", "0", "500000", "0.05", "25000"),
        ("500000", "0", "500000", "0.075", "37500"),
        ("500000", "375000", "125000", "0.05", "25000"),  # 80 % less what is in use: exactly one trade's share left
        ("500000", "375000.01", "125000", "0.05", "24999.99"),
        ("500000", "400000", "100000", "0.05", "0"),
        ("500000", "400000.01", "100000", "0.05", "0"),
        ("500000", "0", "25000", "0.05", "25000"),
        ("500000", "0", "24999.99", "0.05", "24999.99"),
        ("500000", "0", "0", "0.05", "0"),
        ("500000", "0", "-1", "0.05", "0"),
        ("0", "0", "0", "0.10", "0"),
        ("-10", "0", "100", "0.10", "0"),
    ],
)
def test_the_tightest_of_share_headroom_and_cash_is_the_budget(
    total: str, in_use: str, cash: str, fraction: str, budget: str
) -> None:
    assert budget_rupees(D(total), D(in_use), D(cash), D(fraction)) == D(budget)


@given(rupees, rupees, rupees, st.sampled_from([D("0.05"), D("0.075"), D("0.10")]))
def test_a_budget_breaks_no_limit_and_leaves_nothing_it_may_spend(total: D, in_use: D, cash: D, fraction: D) -> None:
    budget = budget_rupees(total, in_use, cash, fraction)
    limits = [total * fraction, D("0.8") * total - in_use, cash]
    assert budget >= 0
    assert all(budget <= max(limit, D(0)) for limit in limits)
    assert budget == 0 or budget in limits


def test_four_fifths_of_the_funds_may_be_in_use() -> None:
    assert D("0.80") == FUNDS_IN_USE_FRACTION_MAX


@pytest.mark.parametrize(
    ("budget", "price", "charges", "shares"),
    [
        ("1001.49", "1000", "0.0015", 0),
        ("1001.50", "1000", "0.0015", 1),
        ("10014.99", "1000", "0.0015", 9),
        ("10015.00", "1000", "0.0015", 10),
        ("10015.01", "1000", "0.0015", 10),
        ("1000", "0.05", "0", 20000),
        ("0", "1000", "0.0015", 0),
    ],
)
def test_shares_are_whole_and_leave_room_for_charges(budget: str, price: str, charges: str, shares: int) -> None:
    assert whole_shares(D(budget), D(price), D(charges)) == shares


@given(
    st.decimals(0, 10_000_000, places=2),
    st.decimals("0.05", 100_000, places=2),
    st.decimals(0, "0.01", places=4),
)
def test_one_share_more_would_break_the_budget(budget: D, price: D, charges: D) -> None:
    shares = whole_shares(budget, price, charges)
    cost = Fraction(price) * (1 + Fraction(charges))
    assert isinstance(shares, int)
    assert shares * cost <= Fraction(budget) < (shares + 1) * cost


@pytest.mark.parametrize("price", ["0", "-0.05"])
def test_a_price_must_be_positive(price: str) -> None:
    with pytest.raises(ValueError, match="positive"):
        whole_shares(D(1000), D(price), D(0))
