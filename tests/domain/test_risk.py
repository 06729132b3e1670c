"""The gate at each limit, one step before it and one beyond; and that nothing but the gate approves."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.market import Side
from backend.domain.orders import Intent
from backend.domain.reasons import NEXT_STEP, Reason
from backend.domain.risk import Approved, Denied, OrderIntent, QuoteView, check, quote_problem
from tests.support.decision_views import LIMITS, NOW, make_order, make_quote

D = Decimal


def verdict(
    order: OrderIntent, quote: QuoteView | None = None, cash_free: D = D(10**9), held: int = 0, **limits: Any
) -> Reason | None:
    """The gate's reason, None where it approves; on the standard quote unless another is given."""
    answer = check(order, quote or make_quote(), NOW, cash_free=cash_free, held=held, limits=replace(LIMITS, **limits))
    if isinstance(answer, Approved):
        assert answer.order is order
        return None
    return answer.reason


NARROW = make_quote(lower_band=D("990.00"), upper_band=D("1010.00"))


@pytest.mark.parametrize(
    ("price", "quote", "reason"),
    [
        ("989.95", NARROW, Reason.OUTSIDE_PRICE_BAND),
        ("990.00", NARROW, None),
        ("990.05", NARROW, None),
        ("1009.95", NARROW, None),
        ("1010.00", NARROW, None),
        ("1010.05", NARROW, Reason.OUTSIDE_PRICE_BAND),
        ("969.95", None, Reason.OUTSIDE_COLLAR),
        ("970.00", None, None),
        ("970.05", None, None),
        ("1029.95", None, None),
        ("1030.00", None, None),
        ("1030.05", None, Reason.OUTSIDE_COLLAR),
        ("1000.04", None, Reason.NOT_ON_TICK),
        ("1000.05", None, None),
        ("1000.06", None, Reason.NOT_ON_TICK),
        ("0", None, Reason.NOT_ON_TICK),
        ("-1000", None, Reason.NOT_ON_TICK),
        ("NaN", None, Reason.NOT_ON_TICK),
        ("Infinity", None, Reason.NOT_ON_TICK),
    ],
)
@pytest.mark.parametrize("intent", Intent)
def test_prices(price: str, quote: QuoteView | None, reason: Reason | None, intent: Intent) -> None:
    side = Side.BUY if intent is Intent.ENTRY else Side.SELL
    assert verdict(make_order(limit_price=D(price), intent=intent, side=side), quote, held=10) is reason


@pytest.mark.parametrize(
    ("quantity", "lot", "reason"),
    [
        (0, 1, Reason.QUANTITY_INVALID),
        (-1, 1, Reason.QUANTITY_INVALID),
        (1, 1, None),
        (24, 25, Reason.QUANTITY_INVALID),
        (25, 25, None),
        (26, 25, Reason.QUANTITY_INVALID),
        (-25, 25, Reason.QUANTITY_INVALID),
        (499, 1, None),
        (500, 1, None),
        (501, 1, Reason.ABOVE_FREEZE_QUANTITY),
    ],
)
def test_quantities(quantity: int, lot: int, reason: Reason | None) -> None:
    assert verdict(make_order(quantity=quantity), make_quote(lot=lot, freeze_quantity=500)) is reason


@pytest.mark.parametrize(
    ("limit_price", "reason"), [("999.95", None), ("1000.00", None), ("1000.05", Reason.ORDER_VALUE_LIMIT)]
)
def test_order_value(limit_price: str, reason: Reason | None) -> None:
    assert verdict(make_order(quantity=1000, limit_price=D(limit_price))) is reason


@pytest.mark.parametrize(
    ("cash", "reason"),
    [("9999.99", Reason.INSUFFICIENT_FUNDS), ("10000", None), ("10000.01", None), ("-1", Reason.INSUFFICIENT_FUNDS)],
)
def test_cash(cash: str, reason: Reason | None) -> None:
    assert verdict(make_order(), cash_free=D(cash)) is reason


@pytest.mark.parametrize(("held", "reason"), [(9, Reason.SELL_EXCEEDS_HOLDING), (10, None), (11, None)])
def test_an_exit_sells_what_is_held_and_needs_neither_cash_nor_a_small_value(held: int, reason: Reason | None) -> None:
    order = make_order(side=Side.SELL, intent=Intent.EXIT)
    assert verdict(order, cash_free=D(0), held=held, order_value_rupees_max=D(1)) is reason


@pytest.mark.parametrize(
    ("age", "reason"),
    [
        (timedelta(seconds=-1), Reason.QUOTE_STALE),
        (timedelta(microseconds=-1), Reason.QUOTE_STALE),
        (timedelta(0), None),
        (timedelta(seconds=9.9), None),
        (timedelta(seconds=10), None),
        (timedelta(seconds=10, microseconds=1), Reason.QUOTE_STALE),
    ],
)
def test_a_quote_may_be_neither_old_nor_from_the_future(age: timedelta, reason: Reason | None) -> None:
    assert verdict(make_order(), make_quote(as_of=NOW - age)) is reason


BAD_QUOTES: list[dict[str, Any]] = [
    {"bid": D(0)},
    {"bid": D(-1)},
    {"bid": D("1000.10"), "ask": D("1000.05")},
    {"bid": D(0), "ask": D(0)},
    {"last": D(0)},
    {"last": D("899.95")},
    {"last": D("1100.05")},
    {"last": D("0.01"), "lower_band": D(0)},
    {"tick": D(0)},
    {"tick": D("-0.05")},
    {"lot": 0},
    {"lot": -1},
    *(
        {name: D(odd)}
        for odd in ("NaN", "Infinity")
        for name in ("last", "bid", "ask", "lower_band", "upper_band", "tick")
    ),
]


@pytest.mark.parametrize("changes", BAD_QUOTES, ids=str)
@pytest.mark.parametrize("intent", Intent)
def test_a_quote_that_makes_no_sense_is_refused_and_never_an_error(changes: dict[str, Any], intent: Intent) -> None:
    quote = replace(make_quote(), **changes)
    assert quote_problem(quote, NOW, LIMITS) is Reason.QUOTE_UNUSABLE
    assert verdict(make_order(intent=intent), quote, held=10) is Reason.QUOTE_UNUSABLE


@pytest.mark.parametrize("changes", [{"bid": D(1000), "ask": D(1000)}, {"last": D(900)}, {"last": D(1100)}], ids=str)
def test_a_locked_market_and_a_price_at_its_band_are_sound(changes: dict[str, Any]) -> None:
    assert quote_problem(replace(make_quote(), **changes), NOW, LIMITS) is None


def test_no_quote_is_a_refusal() -> None:
    assert quote_problem(None, NOW, LIMITS) is Reason.NO_QUOTE
    denied = check(make_order(), None, NOW, cash_free=D(10**9), held=10, limits=LIMITS)
    assert denied == Denied(Reason.NO_QUOTE)


def test_only_the_gate_approves() -> None:
    approved = check(make_order(), make_quote(), NOW, cash_free=D(10**9), held=0, limits=LIMITS)
    assert isinstance(approved, Approved)
    for seal in (None, object(), getattr(approved, "seal", None)):
        with pytest.raises(TypeError, match=r"risk\.check"):
            Approved(make_order(quantity=10**6), cast("Any", seal))
    with pytest.raises((TypeError, ValueError)):
        replace(approved, order=make_order(quantity=10**6))


@given(
    order=st.builds(make_order, quantity=st.integers(-5, 3000), intent=st.sampled_from(Intent)),
    last=st.integers(20, 60_000).map(lambda ticks: ticks * D("0.05")),
    away_paise=st.one_of(st.integers(-100, 100), st.integers(-2000, 2000).map(lambda ticks: ticks * 5)),
    lot=st.sampled_from([1, 25]),
    cash=st.decimals(0, 2_000_000, places=2),
    held=st.integers(0, 3000),
)
def test_it_approves_what_keeps_every_limit_and_nothing_else(
    order: OrderIntent, last: D, away_paise: int, lot: int, cash: D, held: int
) -> None:
    order = replace(order, limit_price=last + D(away_paise) / 100)
    answer = check(
        order, make_quote(last=last, lot=lot, freeze_quantity=2000), NOW, cash_free=cash, held=held, limits=LIMITS
    )
    value = order.limit_price * order.quantity
    kept = [
        order.quantity in range(lot, 2001, lot),
        away_paise % 5 == 0,
        D("0.97") * last <= order.limit_price <= D("1.03") * last,
        order.quantity <= held if order.intent is Intent.EXIT else value <= min(cash, D(1_000_000)),
    ]
    assert isinstance(answer, Approved) == all(kept)


def test_every_reason_says_what_to_do_next() -> None:
    assert set(NEXT_STEP) == set(Reason)
    assert all(step.endswith(".") and len(step) > 20 for step in NEXT_STEP.values())
