"""The last check before the socket: each rule one step before its limit, at it and beyond, and what it never does."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain.gate import AccountFacts, GateLimits, LiveSwitches, Refused, admit, needed_rupees
from backend.domain.market import Side
from backend.domain.orders import Intent
from backend.domain.reasons import Reason
from backend.domain.risk import Approved, OrderIntent, QuoteView
from backend.domain.sizing import ENTRY_CHARGES_FRACTION
from backend.domain.trading_states import Cause, Effective, TradingState
from tests.support.decision_views import LIMITS, make_order, make_quote

D = Decimal
R = Reason
GATE = GateLimits()
ACTIVE = Effective(TradingState.ACTIVE, False, ())
ENTRY = make_order()
EXIT = make_order(side=Side.SELL, intent=Intent.EXIT)
NEEDED = D(10_000) * (1 + ENTRY_CHARGES_FRACTION)


def make_facts(**changes: Any) -> AccountFacts:
    """A quiet account of ₹50,00,000 in cash that holds a thousand of the shares, at a broker without real money."""
    facts = AccountFacts(
        standing=ACTIVE,
        cash_free=D(5_000_000),
        funds_total=D(5_000_000),
        open_value=D(0),
        shares_free=1000,
        opposite_open=False,
        sent_last_second=0,
        sent_last_minute=0,
        sent_today=0,
        symbol_sent=0,
        rejections_running=0,
        live_switches=None,
    )
    return replace(facts, **changes)


def verdict(
    order: OrderIntent, facts: AccountFacts | None = None, quote: QuoteView | None = None, age_s: float = 1.0
) -> Reason | None:
    """The gate's reason, None where it approves; on the standard quote and account unless others are given."""
    answer = admit(order, quote or make_quote(), age_s, facts or make_facts(), GATE, LIMITS)
    if isinstance(answer, Approved):
        assert answer.order is order
        return None
    return answer.reason


@pytest.mark.parametrize(
    ("price", "reason"),
    [
        ("969.95", R.OUTSIDE_COLLAR),
        ("970.00", None),
        ("970.05", None),
        ("1029.95", None),
        ("1030.00", None),
        ("1030.05", R.OUTSIDE_COLLAR),
        ("1000.04", R.NOT_ON_TICK),
        ("1000.05", None),
        ("1000.06", R.NOT_ON_TICK),
    ],
)
@pytest.mark.parametrize("order", [ENTRY, EXIT], ids=["entry", "exit"])
def test_the_collar_and_the_tick_are_those_of_the_fresh_quote(order, price, reason) -> None:
    priced = replace(order, limit_price=D(price))
    assert verdict(priced) is reason
    assert verdict(priced, quote=make_quote(last=1070)) is (reason or R.OUTSIDE_COLLAR)


NARROW = make_quote(lower_band=D("990.00"), upper_band=D("1010.00"))


@pytest.mark.parametrize(
    ("price", "reason"),
    [
        ("989.95", R.OUTSIDE_PRICE_BAND),
        ("990.00", None),
        ("990.05", None),
        ("1009.95", None),
        ("1010.00", None),
        ("1010.05", R.OUTSIDE_PRICE_BAND),
    ],
)
@pytest.mark.parametrize("order", [ENTRY, EXIT], ids=["entry", "exit"])
def test_the_band(order, price, reason) -> None:
    assert verdict(replace(order, limit_price=D(price)), quote=NARROW) is reason


@pytest.mark.parametrize(
    ("age_s", "reason"),
    [
        (-0.001, R.QUOTE_STALE),
        (0.0, None),
        (4.999, None),
        (5.0, None),
        (5.001, R.QUOTE_STALE),
        (3600.0, R.QUOTE_STALE),
    ],
)
@pytest.mark.parametrize("order", [ENTRY, EXIT], ids=["entry", "exit"])
def test_a_quote_of_five_seconds_is_the_oldest_one(order, age_s, reason) -> None:
    assert verdict(order, age_s=age_s) is reason


@pytest.mark.parametrize(
    ("quantity", "reason"),
    [
        (24, R.QUANTITY_INVALID),
        (25, None),
        (26, R.QUANTITY_INVALID),
        (475, None),
        (500, None),
        (525, R.ABOVE_FREEZE_QUANTITY),
    ],
)
@pytest.mark.parametrize("order", [ENTRY, EXIT], ids=["entry", "exit"])
def test_the_lot_and_the_freeze_quantity(order, quantity, reason) -> None:
    assert verdict(replace(order, quantity=quantity), quote=make_quote(lot=25, freeze_quantity=500)) is reason


@pytest.mark.parametrize(("price", "reason"), [("999.95", None), ("1000.00", None), ("1000.05", R.ORDER_VALUE_LIMIT)])
def test_one_orders_value(price, reason) -> None:
    assert verdict(make_order(quantity=1000, limit_price=D(price))) is reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        # what it costs with its charges: 10 × 1000 × 1.0015 = 10,015
        ({"cash_free": NEEDED - D("0.01"), "funds_total": D(0)}, R.INSUFFICIENT_FUNDS),
        ({"cash_free": NEEDED, "funds_total": D(0)}, None),
        ({"cash_free": NEEDED + D("0.01"), "funds_total": D(0)}, None),
        # a fifth of 50,000 must stay free
        ({"cash_free": NEEDED + D("9999.99"), "funds_total": D(50_000)}, R.FUNDS_IN_USE_LIMIT),
        ({"cash_free": NEEDED + D("10000"), "funds_total": D(50_000)}, None),
        ({"cash_free": NEEDED + D("10000.01"), "funds_total": D(50_000)}, None),
        ({"open_value": D("9989999.99")}, None),
        ({"open_value": D(9_990_000)}, None),
        ({"open_value": D("9990000.01")}, R.OPEN_VALUE_LIMIT),
    ],
    ids=str,
)
def test_money_bounds_an_entry_and_never_an_exit(changes, reason) -> None:
    facts = make_facts(**changes)
    assert verdict(ENTRY, facts) is reason
    assert verdict(EXIT, facts) is None


def test_what_a_buy_needs_is_its_value_and_its_charges_and_a_sell_needs_nothing() -> None:
    assert needed_rupees(ENTRY) == D("10015")
    assert needed_rupees(EXIT) == 0


@pytest.mark.parametrize(("shares_free", "reason"), [(9, R.SELL_EXCEEDS_HOLDING), (10, None), (11, None)])
def test_an_exit_sells_what_is_free_and_not_a_share_more(shares_free, reason) -> None:
    assert verdict(EXIT, make_facts(shares_free=shares_free)) is reason


HALT_RATE = (TradingState.HALTED, Cause.ORDER_RATE)
HALT_REJECTIONS = (TradingState.HALTED, Cause.REJECTIONS)


@pytest.mark.parametrize("order", [ENTRY, EXIT], ids=["entry", "exit"])
@pytest.mark.parametrize(
    ("count", "limit", "refused"),
    [
        ("sent_last_second", 8, Refused(R.ORDERS_PER_SECOND, wait=True)),
        ("sent_last_minute", 200, Refused(R.ORDERS_PER_MINUTE)),
        ("sent_today", 3000, Refused(R.ORDERS_PER_DAY)),
        ("symbol_sent", 20, Refused(R.SYMBOL_ORDER_RATE, impose=HALT_RATE)),
        ("rejections_running", 5, Refused(R.REJECTIONS_RUNNING, impose=HALT_REJECTIONS)),
    ],
)
def test_orders_are_counted(order, count, limit, refused) -> None:
    """The count is of orders sent before this one: with `limit` of them, this one would be one too many."""
    for sent, expected in ((limit - 1, None), (limit, refused), (limit + 1, refused)):
        answer = admit(order, make_quote(), 1.0, make_facts(**{count: sent}), GATE, LIMITS)
        assert isinstance(answer, Approved) if expected is None else answer == expected


@pytest.mark.parametrize("order", [ENTRY, EXIT], ids=["entry", "exit"])
def test_an_own_order_on_the_other_side_is_not_traded_with(order) -> None:
    assert verdict(order, make_facts(opposite_open=True)) is R.OWN_OPPOSITE_ORDER


@pytest.mark.parametrize(
    ("state", "flatten", "intent", "reason"),
    [
        (TradingState.ACTIVE, False, Intent.ENTRY, None),
        (TradingState.ACTIVE, False, Intent.EXIT, None),
        (TradingState.REDUCING, False, Intent.ENTRY, R.TRADING_REDUCING),
        (TradingState.REDUCING, False, Intent.EXIT, None),
        (TradingState.HALTED, False, Intent.ENTRY, R.TRADING_HALTED),
        (TradingState.HALTED, False, Intent.EXIT, R.TRADING_HALTED),
        (TradingState.HALTED, True, Intent.ENTRY, R.TRADING_HALTED),
        (TradingState.HALTED, True, Intent.EXIT, None),
    ],
)
def test_each_state_lets_through_what_it_says(state, flatten, intent, reason) -> None:
    order = EXIT if intent is Intent.EXIT else ENTRY
    assert verdict(order, make_facts(standing=Effective(state, flatten, ()))) is reason


@pytest.mark.parametrize("switches", list(product([False, True], repeat=3)), ids=str)
@pytest.mark.parametrize("order", [ENTRY, EXIT], ids=["entry", "exit"])
def test_real_money_needs_all_three_switches(order, switches) -> None:
    facts = make_facts(live_switches=LiveSwitches(*switches))
    assert verdict(order, facts) is (None if all(switches) else R.LIVE_SWITCH_OFF)


@pytest.mark.parametrize(
    "changes", [{"bid": D(0)}, {"last": D(0)}, {"tick": D(0)}, {"lot": 0}, {"ask": D("NaN")}], ids=str
)
def test_a_quote_that_makes_no_sense_is_a_refusal(changes) -> None:
    assert verdict(ENTRY, quote=replace(make_quote(), **changes)) is R.QUOTE_UNUSABLE


@pytest.mark.parametrize("order", [ENTRY, EXIT], ids=["entry", "exit"])
def test_no_quote_is_a_refusal(order) -> None:
    assert admit(order, None, 0.0, make_facts(), GATE, LIMITS) == Refused(R.NO_QUOTE)


def test_a_halt_is_named_before_the_counts_that_led_to_it_and_waiting_comes_last() -> None:
    """What ends in a halt, or in nothing until tomorrow, must not be waited for."""
    halted = Effective(TradingState.HALTED, False, ())
    crowded = make_facts(
        standing=halted, symbol_sent=20, rejections_running=5, sent_today=3000, sent_last_minute=200, sent_last_second=8
    )
    order = [R.TRADING_HALTED, R.SYMBOL_ORDER_RATE, R.REJECTIONS_RUNNING, R.ORDERS_PER_DAY, R.ORDERS_PER_MINUTE]
    relieved: list[dict[str, Any]] = [{}, {"standing": ACTIVE}, {"symbol_sent": 0}, {"rejections_running": 0}]
    relieved += [{"sent_today": 0}]
    for reason, change in zip(order, relieved, strict=True):
        crowded = replace(crowded, **change)
        assert verdict(ENTRY, crowded) is reason
    assert verdict(ENTRY, replace(crowded, sent_last_minute=0)) is R.ORDERS_PER_SECOND


def mostly(calm: Any, *odd: Any) -> st.SearchStrategy[Any]:
    """`calm` seven times in eight, or else one of the odd values: most orders then meet one limit, or none."""
    return st.integers(0, 7).flatmap(lambda n: st.sampled_from(odd) if n == 7 else st.just(calm))


HALTED, FLATTENED, REDUCED = (
    Effective(state, flatten, ())
    for state, flatten in ((TradingState.HALTED, False), (TradingState.HALTED, True), (TradingState.REDUCING, False))
)
accounts = st.builds(
    AccountFacts,
    standing=mostly(ACTIVE, HALTED, FLATTENED, REDUCED),
    cash_free=st.decimals(-1000, 3_000_000, places=2),
    funds_total=st.decimals(0, 3_000_000, places=2),
    open_value=mostly(D(0), D(9_000_000), D(9_500_000), D(9_999_000), D(10_000_000)),
    shares_free=mostly(2000, -5, 0, 1, 100, 500),
    opposite_open=mostly(False, True),
    sent_last_second=mostly(0, 7, 8, 9),
    sent_last_minute=mostly(0, 199, 200, 201),
    sent_today=mostly(0, 2999, 3000, 3001),
    symbol_sent=mostly(0, 19, 20, 21),
    rejections_running=mostly(0, 4, 5, 6),
    live_switches=mostly(None, *(LiveSwitches(*on) for on in product([False, True], repeat=3))),
)
orders = st.builds(
    lambda intent, quantity, away: make_order(
        intent=intent,
        side=Side.BUY if intent is Intent.ENTRY else Side.SELL,
        quantity=quantity,
        limit_price=D(1000) + away,
    ),
    st.sampled_from(Intent),
    mostly(25, -25, 0, 1, 500, 975, 1000, 1025, 1200, 1225),
    st.one_of(st.integers(-620, 620).map(lambda ticks: ticks * D("0.05")), mostly(D(0), D("0.01"), D("30.04"))),
)


@given(order=orders, facts=accounts, age_s=st.one_of(st.floats(0, 5), st.floats(-10, 1e6)))
def test_it_fails_closed_without_a_quote(order, facts, age_s) -> None:
    assert isinstance(admit(order, None, age_s, facts, GATE, LIMITS), Refused)


@settings(max_examples=400, deadline=None)
@given(order=orders, facts=accounts, lot=mostly(1, 25), age_s=mostly(1.0, -0.1, 0.0, 5.0, 5.1))
def test_what_it_approves_keeps_every_limit_and_what_keeps_them_is_approved(order, facts, lot, age_s) -> None:
    """Every limit once more, in numbers of the test's own."""
    quote = make_quote(lot=lot, freeze_quantity=1200)
    value = order.limit_price * order.quantity
    cost = value * D("1.0015")
    entry = order.intent is Intent.ENTRY
    state, switches = facts.standing, facts.live_switches
    kept = [
        state.state is TradingState.ACTIVE or (not entry and (state.state is TradingState.REDUCING or state.flatten)),
        switches is None or (switches.deployment and switches.compliance and switches.user),
        facts.symbol_sent < 20 and facts.rejections_running < 5,
        facts.sent_last_second < 8 and facts.sent_last_minute < 200 and facts.sent_today < 3000,
        not facts.opposite_open,
        # an instant has no parts smaller than a microsecond
        timedelta(0) <= timedelta(seconds=age_s) <= timedelta(seconds=5),
        order.quantity > 0 and order.quantity % lot == 0 and order.quantity <= 1200,
        order.limit_price * 20 == (order.limit_price * 20).to_integral_value(),
        D(970) <= order.limit_price <= D(1030),
        entry or order.quantity <= facts.shares_free,
        not entry or value <= 1_000_000,
        not entry or cost <= facts.cash_free,
        not entry or facts.cash_free - cost >= facts.funds_total / 5,
        not entry or facts.open_value + value <= 10_000_000,
    ]
    assert isinstance(admit(order, quote, age_s, facts, GATE, LIMITS), Approved) == all(kept)


@given(facts=accounts, poor=st.decimals(-10_000, 0, places=2), rich=st.decimals(0, 10**9, places=2))
def test_an_exit_is_never_refused_for_money(facts, poor, rich) -> None:
    well_off = replace(facts, cash_free=D(10**9), funds_total=D(10**9), open_value=D(0))
    badly_off = replace(facts, cash_free=poor, funds_total=rich, open_value=rich)
    assert verdict(EXIT, badly_off) is verdict(EXIT, well_off)
    assert verdict(EXIT, badly_off) not in {R.INSUFFICIENT_FUNDS, R.FUNDS_IN_USE_LIMIT, R.OPEN_VALUE_LIMIT}
