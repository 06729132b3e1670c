"""Guards: what may rest at the broker for a trade, and when one is placed, kept or taken back."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.guard import GAP, REFUSALS_MAX, Guarded, GuardStep, RestingGuard, guard_order, guard_step
from backend.domain.market import OrderType, Product, Side
from backend.domain.risk import Approved, QuoteView, RiskLimits, check

NOW = datetime(2026, 3, 2, 5, 0, tzinfo=UTC)
LIMITS = RiskLimits()
QUOTE = QuoteView(
    symbol="INFY",
    as_of=NOW,
    last=Decimal(1500),
    bid=Decimal("1499.90"),
    ask=Decimal("1500.10"),
    lower_band=Decimal(1350),
    upper_band=Decimal(1650),
    tick=Decimal("0.10"),
    lot=1,
    freeze_quantity=10_000,
    source="test",
)
TRADE = Guarded("INFY", "nse", Product.CNC, 20, Decimal("1420.03"))
WANTED = guard_order(TRADE, QUOTE, LIMITS)


def test_a_guard_sells_at_the_stop_and_not_far_below() -> None:
    assert WANTED is not None
    assert (WANTED.side, WANTED.order_type, WANTED.quantity) == (Side.SELL, OrderType.STOP_LIMIT, 20)
    assert (WANTED.trigger_price, WANTED.limit_price) == (Decimal("1420.1"), Decimal("1405.9"))


@pytest.mark.parametrize(
    ("trade", "quote"),
    [
        (replace(TRADE, held=0), QUOTE),
        (replace(TRADE, held=4), replace(QUOTE, lot=5)),
        (replace(TRADE, stop=Decimal(1349)), QUOTE),
        (replace(TRADE, stop=Decimal(1500)), QUOTE),
        (replace(TRADE, stop=Decimal(1700)), replace(QUOTE, last=Decimal(1800))),
    ],
    ids=["nothing held", "less than a lot", "below the band", "the price is there", "above the band"],
)
def test_where_the_exchange_would_take_none_there_is_none(trade: Guarded, quote: QuoteView) -> None:
    assert guard_order(trade, quote, LIMITS) is None


@given(
    stop=st.decimals(1340, 1660, places=2),
    last=st.decimals(1350, 1650, places=1),
    held=st.integers(0, 9_000),
    lot=st.sampled_from([1, 5]),
)
def test_what_is_wanted_is_what_the_gate_approves(stop: Decimal, last: Decimal, held: int, lot: int) -> None:
    quote = replace(QUOTE, last=last, bid=last, ask=last, lot=lot)
    wanted = guard_order(replace(TRADE, stop=stop, held=held), quote, LIMITS)
    if wanted is not None:
        verdict = check(wanted, quote, NOW, cash_free=Decimal(0), held=held, limits=LIMITS)
        assert isinstance(verdict, Approved), verdict


def test_the_gate_refuses_a_stop_that_cannot_wait() -> None:
    assert WANTED is not None
    for changed in (
        replace(WANTED, trigger_price=None),
        replace(WANTED, trigger_price=Decimal(1500)),
        replace(WANTED, trigger_price=Decimal("1420.15")),
        replace(WANTED, trigger_price=Decimal(1400)),
        replace(WANTED, side=Side.BUY),
    ):
        refused = check(changed, QUOTE, NOW, cash_free=Decimal(0), held=20, limits=LIMITS)
        assert not isinstance(refused, Approved), changed


def resting(quantity: int = 20, trigger: str = "1420.1") -> RestingGuard:
    return RestingGuard(quantity, Decimal(trigger))


JUST_NOW, LONG_AGO = GAP - timedelta(seconds=1), GAP


@pytest.mark.parametrize(
    ("trade", "wanted", "guard", "step"),
    [
        (TRADE, WANTED, None, GuardStep.PLACE),
        (TRADE, WANTED, resting(), GuardStep.KEEP),
        (TRADE, None, resting(), GuardStep.CANCEL),
        (TRADE, None, None, GuardStep.KEEP),
        (replace(TRADE, since_last=JUST_NOW), WANTED, None, GuardStep.KEEP),
        (replace(TRADE, since_last=LONG_AGO), WANTED, None, GuardStep.PLACE),
        (replace(TRADE, since_last=JUST_NOW), WANTED, resting(10), GuardStep.KEEP),
        (replace(TRADE, since_last=LONG_AGO), WANTED, resting(10), GuardStep.CANCEL),
        # more than is held could sell what is not there: that is not waited for
        (replace(TRADE, since_last=JUST_NOW), WANTED, resting(21), GuardStep.CANCEL),
        (replace(TRADE, since_last=LONG_AGO), WANTED, resting(20, "1400"), GuardStep.CANCEL),
        (replace(TRADE, refusals=REFUSALS_MAX), WANTED, None, GuardStep.KEEP),
    ],
)
def test_what_is_done_about_a_guard(
    trade: Guarded, wanted: object, guard: RestingGuard | None, step: GuardStep
) -> None:
    assert guard_step(trade, wanted, guard) is step
