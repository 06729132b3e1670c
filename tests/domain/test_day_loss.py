"""The day's loss limit, just below it, at it and above."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.day_loss import day_loss_fraction, loss_limit_reached

D = Decimal
LIMIT = D("0.02")
START = D(500_000)


@pytest.mark.parametrize(
    ("equity", "lifted", "reached"),
    [
        ("490000.01", 0, False),
        ("490000.00", 0, True),
        ("489999.99", 0, True),
        # lifted once: as much again
        ("490000.00", 1, False),
        ("480000.01", 1, False),
        ("480000.00", 1, True),
        ("479999.99", 1, True),
        ("480000.00", 2, False),
        ("470000.00", 2, True),
        ("500000.00", 0, False),
        ("600000.00", 0, False),
    ],
)
def test_two_percent_and_as_much_again_each_time_it_is_lifted(equity, lifted, reached) -> None:
    assert loss_limit_reached(START, D(equity), LIMIT, lifted) is reached


@pytest.mark.parametrize(
    ("start", "now", "fraction"),
    [("500000", "490000", "0.02"), ("500000", "510000", "0"), ("500000", "-500000", "2"), ("0", "-1", "0")],
)
def test_the_part_that_is_gone(start, now, fraction) -> None:
    assert day_loss_fraction(D(start), D(now)) == D(fraction)


@given(start=st.decimals(1, 10**9, places=2), now=st.decimals(-(10**9), 2 * 10**9, places=2), lifted=st.integers(0, 5))
def test_a_smaller_equity_never_ends_a_limit_that_a_larger_one_reached(start, now, lifted) -> None:
    if loss_limit_reached(start, now, LIMIT, lifted):
        assert loss_limit_reached(start, now - 1, LIMIT, lifted)
        assert now < start
