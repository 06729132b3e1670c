"""First in, first out, against a slow account that follows every share, and the money that must add up."""

from collections import deque
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.market import Side
from backend.domain.positions import Execution, Position, position_of

D = Decimal
ROUNDING = Fraction(1, 10**15)
"""Rupees by which a position may differ from the exact result: far below a paisa, far above 28 digits' rounding."""

executions = st.builds(
    Execution,
    side=st.sampled_from(Side),
    quantity=st.integers(1, 40),
    price=st.decimals("0.05", 50_000, places=2),
    charges=st.decimals(0, 100, places=4),
)


def buy(quantity: int, price: str | int, charges: str | int = 0) -> Execution:
    return Execution(Side.BUY, quantity, D(price), D(charges))


def sell(quantity: int, price: str | int, charges: str | int = 0) -> Execution:
    return Execution(Side.SELL, quantity, D(price), D(charges))


@pytest.mark.parametrize(
    ("fills", "expected"),
    [
        ([], Position(0, D(0), D(0), D(0))),
        ([buy(10, 100, 5)], Position(10, D(100), D(0), D(5))),
        ([buy(10, 100, 5), buy(30, 120, 7)], Position(40, D(115), D(0), D(12))),
        ([buy(10, 100, 5), sell(10, 110, 6)], Position(0, D(0), D(89), D(0))),
        ([buy(10, 100, 5), sell(4, 110, 6)], Position(6, D(100), D(32), D(3))),
        ([buy(10, 100), buy(10, 200), sell(15, 300)], Position(5, D(200), D(2500), D(0))),  # oldest lot first
        ([sell(10, 100, 5), buy(10, 90, 6)], Position(0, D(0), D(89), D(0))),
        ([sell(10, 100), sell(10, 200), buy(15, 50)], Position(-5, D(200), D(1250), D(0))),
        ([buy(10, 100, 10), sell(30, 110, 30)], Position(-20, D(110), D(80), D(20))),  # through zero: 10 close, 20 open
        ([sell(10, 100, 10), buy(30, 90, 30)], Position(20, D(90), D(80), D(20))),
        ([buy(3, 100, 10), sell(3, 100, 10)], Position(0, D(0), D(-20), D(0))),  # thirds of charges add up exactly
        ([buy(3, 100, 10)], Position(3, D(100), D(0), D(10))),
        ([buy(3, "0.05", "0.01"), sell(1, "0.10"), sell(2, "0.10")], Position(0, D(0), D("0.14"), D(0))),
    ],
)
def test_positions(fills: list[Execution], expected: Position) -> None:
    assert position_of(fills) == expected


@pytest.mark.parametrize(
    ("fill", "price", "gain"), [(buy(10, 100, 5), 110, 95), (sell(10, 100, 5), 110, -105), (buy(1, 1), 1, 0)]
)
def test_unrealized_is_net_of_entry_charges(fill: Execution, price: int, gain: int) -> None:
    assert position_of([fill]).unrealized(D(price)) == gain


def share_by_share(fills: list[Execution]) -> tuple[int, Fraction, Fraction, Fraction]:
    """(shares, their value at entry, realized, open charges), each share carried with its own part of the charges."""
    held: deque[tuple[int, Fraction, Fraction]] = deque()
    realized = Fraction(0)
    for fill in fills:
        sign = 1 if fill.side is Side.BUY else -1
        price, charges = Fraction(fill.price), Fraction(fill.charges) / fill.quantity
        for _ in range(fill.quantity):
            if held and held[0][0] == -sign:
                entry_sign, entry_price, entry_charges = held.popleft()
                realized += entry_sign * (price - entry_price) - entry_charges - charges
            else:
                held.append((sign, price, charges))
    shares = sum(sign for sign, _, _ in held)
    value = sum((sign * price for sign, price, _ in held), Fraction(0))
    return shares, value, realized, sum((charges for _, _, charges in held), Fraction(0))


@given(st.lists(executions, max_size=12))
def test_positions_agree_with_an_account_of_single_shares(fills: list[Execution]) -> None:
    position = position_of(fills)
    shares, value, realized, open_charges = share_by_share(fills)
    assert position.quantity == shares
    assert abs(Fraction(position.average_price) * shares - value) < ROUNDING
    assert abs(Fraction(position.realized) - realized) < ROUNDING
    assert abs(Fraction(position.open_charges) - open_charges) < ROUNDING


@given(st.lists(executions, max_size=12), st.decimals("0.05", 50_000, places=2))
def test_realized_and_unrealized_are_everything_that_happened_to_the_money(fills: list[Execution], price: D) -> None:
    position = position_of(fills)
    paid = {Side.BUY: -1, Side.SELL: 1}
    cash = sum((paid[f.side] * f.price * f.quantity - f.charges for f in fills), D(0))
    assert position.quantity == sum(-paid[f.side] * f.quantity for f in fills)
    assert (
        abs(Fraction(position.realized + position.unrealized(price)) - Fraction(cash + position.quantity * price))
        < ROUNDING
    )


@given(
    st.lists(
        st.tuples(executions, st.decimals("0.05", 50_000, places=2), st.decimals(0, 100, places=4)),
        min_size=1,
        max_size=6,
    )
)
def test_round_trips_are_exact_to_the_last_digit(trips: list[tuple[Execution, D, D]]) -> None:
    fills: list[Execution] = []
    expected = D(0)
    for entry, price, charges in trips:
        buying = entry.side is Side.BUY
        fills += [entry, Execution(Side.SELL if buying else Side.BUY, entry.quantity, price, charges)]
        gained = (price - entry.price) * entry.quantity * (1 if buying else -1)
        expected += gained - entry.charges - charges
    assert position_of(fills) == Position(0, D(0), expected, D(0))
