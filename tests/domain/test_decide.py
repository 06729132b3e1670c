"""Ranking, exits and denials: each threshold at its boundary, on a quiet market changed in one respect at a time."""

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.decide import ExitReason, OpenTrade, Outcome, UserDecision, UserState, decide, exit_reason
from backend.domain.market import OrderType, Product, Side
from backend.domain.modes import MODE_RULES, Mode
from backend.domain.orders import Intent
from backend.domain.ranking import TYPICAL_ROUND_TRIP_FRACTION, MarketView, SignalAction, rank
from backend.domain.reasons import Reason
from backend.domain.risk import OrderIntent
from tests.support.decision_views import (
    HORIZON_END,
    LIMITS,
    NOW,
    SQUARE_OFF,
    TODAY,
    make_market,
    make_quote,
    make_signal,
    make_trade,
    make_user,
)

D = Decimal
INSTANT = timedelta(microseconds=1)


def rejection(mode: Mode = Mode.MODERATE, market: Mapping[str, Any] | None = None, **signal: Any) -> Reason | None:
    """Why `mode` does not take INFY; None where it does."""
    ranking = rank(make_market(signals={"INFY": make_signal(**signal)}, **(market or {})), mode, LIMITS)
    assert len(ranking.candidates) + len(ranking.rejected) == 1
    missed = ranking.rejected.get("INFY")
    return missed.reason if missed else None


def decided(market: MarketView, user: UserState) -> UserDecision:
    return decide(market, rank(market, user.mode, LIMITS), user, LIMITS)


def test_the_modes_are_the_published_ones() -> None:
    assert {mode.value: (r.return_net_min, r.confidence_min, r.funds_fraction) for mode, r in MODE_RULES.items()} == {
        "conservative": (0.02, 0.80, D("0.05")),
        "moderate": (0.015, 0.70, D("0.075")),
        "aggressive": (0.01, 0.60, D("0.10")),
    }


@pytest.mark.parametrize("mode", Mode)
def test_a_mode_takes_what_reaches_its_thresholds_exactly_and_nothing_just_below(mode: Mode) -> None:
    rules = MODE_RULES[mode]
    least = {"touch": {rules.return_net_min: rules.confidence_min}, "expected_return_net": rules.return_net_min}
    assert rejection(mode, **least) is None
    below = math.nextafter(rules.confidence_min, 0)
    assert rejection(mode, **{**least, "touch": {rules.return_net_min: below}}) is Reason.CONFIDENCE_BELOW_MODE
    below = math.nextafter(rules.return_net_min, 0)
    assert rejection(mode, **{**least, "expected_return_net": below}) is Reason.RETURN_BELOW_MODE
    assert rejection(mode, **least, expected_return_net_lower=1e-12) is None
    assert rejection(mode, **least, expected_return_net_lower=0.0) is Reason.LOWER_BOUND_NOT_POSITIVE


def test_a_confidence_counts_for_its_own_return_only() -> None:
    assert rejection(Mode.MODERATE, touch={0.01: 0.99, 0.02: 0.99}) is Reason.CONFIDENCE_BELOW_MODE  # none for 1.5 %
    ranking = rank(make_market(signals={"INFY": make_signal(touch={0.01: 0.99, 0.015: 0.71})}), Mode.MODERATE, LIMITS)
    assert [(c.confidence, c.confidence_kind) for c in ranking.candidates] == [(0.71, "touch_net_0.015")]


@pytest.mark.parametrize(
    ("signal", "reason"),
    [
        ({"touch": {0.015: math.nan}}, Reason.CONFIDENCE_BELOW_MODE),
        ({"expected_return_net": math.nan}, Reason.RETURN_BELOW_MODE),
        ({"expected_return_net_lower": math.nan}, Reason.LOWER_BOUND_NOT_POSITIVE),
        ({"abstained": ("few_episodes",)}, Reason.MODEL_ABSTAINED),
        ({"certified_modes": frozenset({Mode.CONSERVATIVE, Mode.AGGRESSIVE})}, Reason.MODE_NOT_CERTIFIED),
        ({"valid_until": NOW + INSTANT}, None),
        ({"valid_until": NOW}, Reason.PREDICTION_EXPIRED),
        ({"valid_until": None}, Reason.PREDICTION_EXPIRED),
        ({"action": SignalAction.HOLD}, Reason.NOT_A_BUY),
        ({"action": SignalAction.SELL}, Reason.NOT_A_BUY),
        ({"reference_close": 0}, Reason.PRICE_MOVED),
    ],
)
def test_a_signal_that_says_less_than_a_buy_is_refused(signal: dict[str, Any], reason: Reason | None) -> None:
    assert rejection(**signal) is reason


@pytest.mark.parametrize(
    ("market", "reason"),
    [
        ({"continuous": {"INFY": False}}, Reason.MARKET_NOT_CONTINUOUS),
        ({"signals": {}}, Reason.NO_PREDICTION),
        ({"quotes": {}, "continuous": {"INFY": True}}, Reason.NO_QUOTE),
        ({"quotes": {"INFY": make_quote(as_of=NOW - timedelta(seconds=11))}}, Reason.QUOTE_STALE),
        ({"quotes": {"INFY": make_quote(bid=D(0))}}, Reason.QUOTE_UNUSABLE),
        ({"quotes": {"INFY": replace(make_quote(), last=D(0), lower_band=D(0))}}, Reason.QUOTE_UNUSABLE),
    ],
)
def test_a_market_that_cannot_be_traded_is_refused(market: dict[str, Any], reason: Reason) -> None:
    ranking = rank(replace(make_market(), **market), Mode.MODERATE, LIMITS)
    assert ranking.candidates == ()
    assert {symbol: missed.reason for symbol, missed in ranking.rejected.items()} == {"INFY": reason}


@pytest.mark.parametrize(
    ("last", "reason"),
    [("984.95", Reason.PRICE_MOVED), ("985.00", None), ("1015.00", None), ("1015.05", Reason.PRICE_MOVED)],
)
def test_a_price_that_left_the_predictions_level_is_refused(last: str, reason: Reason | None) -> None:
    assert rejection(market={"quotes": {"INFY": make_quote(last=last)}}) is reason


def test_a_dearer_entry_earns_less() -> None:
    """At 1010 a plan worth 2.5 % at 1000 earns (1.025 / 1.01) − 1 = 1.485 %: too little for 1.5 %."""
    dearer = {"quotes": {"INFY": make_quote(last=1010)}}
    assert rejection(market=dearer, expected_return_net=0.025) is Reason.RETURN_BELOW_MODE
    assert rejection(market=dearer, expected_return_net=0.0252) is None
    assert rejection(market=dearer, expected_return_net_lower=0.0099) is Reason.LOWER_BOUND_NOT_POSITIVE
    assert rejection(market=dearer, expected_return_net_lower=0.0101) is None


RANKED = {
    "C": make_signal("C", expected_return_net_lower=0.03),
    "B": make_signal("B", touch={0.015: 0.95}),
    "A": make_signal("A", touch={0.015: 0.80}),
    "D": make_signal("D", touch={0.015: 0.80}),
}


@given(st.permutations(sorted(RANKED)))
def test_the_ranking_is_by_lower_bound_confidence_and_name_whatever_came_first(order: list[str]) -> None:
    market = make_market(
        {symbol: make_quote(symbol) for symbol in order},
        {symbol: RANKED[symbol] for symbol in reversed(order)},
        continuous=dict.fromkeys(order, True),
    )
    assert [c.signal.symbol for c in rank(market, Mode.MODERATE, LIMITS).candidates] == ["C", "B", "A", "D"]


@pytest.mark.parametrize(
    ("last", "upper_band", "limit_price"),
    [("1000", None, "1003.00"), ("1000.05", None, "1003.05"), ("1000", "1002.00", "1002.00"), ("1.00", None, "1.00")],
)
def test_an_entry_pays_at_most_three_in_a_thousand_more_on_the_tick_within_the_band(
    last: str, upper_band: str | None, limit_price: str
) -> None:
    quote = make_quote(last=last)
    quote = replace(quote, upper_band=D(upper_band or quote.upper_band), bid=D("0.05"), ask=D("0.05"))
    market = make_market({"INFY": quote}, {"INFY": make_signal(reference_close=last)})
    assert [c.limit_price for c in rank(market, Mode.MODERATE, LIMITS).candidates] == [D(limit_price)]


AFTER = {"today": HORIZON_END + timedelta(days=1)}
LAST_DAY = {"today": HORIZON_END, "now": SQUARE_OFF - INSTANT}
LATE_LAST_DAY = {"today": HORIZON_END, "now": SQUARE_OFF}
SELLING = {"signals": {"INFY": make_signal(action=SignalAction.SELL)}}


@pytest.mark.parametrize(
    ("market", "trade", "reason"),
    [
        ({}, {}, None),
        ({"last": "960.05"}, {}, None),
        ({"last": "960"}, {}, ExitReason.STOP),
        ({"last": "959.95"}, {}, ExitReason.STOP),
        ({"last": "1059.95"}, {}, None),
        ({"last": "1060"}, {}, ExitReason.TARGET),
        ({"last": "1060.05"}, {}, ExitReason.TARGET),
        (LAST_DAY, {}, None),
        (LATE_LAST_DAY, {}, ExitReason.HORIZON),
        (AFTER, {}, ExitReason.HORIZON),
        ({"now": SQUARE_OFF - INSTANT}, {"product": Product.MIS}, None),
        ({"now": SQUARE_OFF}, {"product": Product.MIS}, ExitReason.SQUARE_OFF),
        ({"now": SQUARE_OFF}, {}, None),
        (SELLING, {}, ExitReason.OPPOSITE_SIGNAL),
        ({"signals": {"INFY": make_signal(action=SignalAction.SELL, abstained=("few_episodes",))}}, {}, None),
        ({"signals": {"INFY": make_signal(action=SignalAction.HOLD)}}, {}, None),
        ({"signals": {"INFY": make_signal(action=SignalAction.SELL, valid_until=NOW)}}, {}, None),
        ({"signals": {"INFY": make_signal(action=SignalAction.SELL, certified_modes=frozenset())}}, {}, None),
        # the most urgent reason wins
        ({"now": SQUARE_OFF, "last": "960"}, {"product": Product.MIS}, ExitReason.SQUARE_OFF),
        ({**AFTER, "last": "960"}, {}, ExitReason.STOP),
        ({**AFTER, "last": "1060"}, {}, ExitReason.TARGET),
        ({**AFTER, **SELLING}, {}, ExitReason.HORIZON),
        # exits need no prediction, and what is due by time needs no quote either
        ({"signals": {}, "last": "960"}, {}, ExitReason.STOP),
        ({"signals": {}, "quotes": {}, **AFTER}, {}, ExitReason.HORIZON),
        ({"signals": {}, "quotes": {}}, {}, None),
    ],
)
def test_why_a_trade_is_left(market: dict[str, Any], trade: dict[str, Any], reason: ExitReason | None) -> None:
    market = dict(market)
    quotes = {"quotes": {"INFY": make_quote(last=market.pop("last"))}} if "last" in market else {}
    assert exit_reason(replace(make_market(), **quotes, **market), make_trade(**trade)) is reason


HOLDER = make_user(open_trades=(make_trade(),), holdings={"INFY": 10}, blocked={"INFY": Reason.ALREADY_HELD})


def leave(
    quotes: dict[str, Any] | None = None, trade: OpenTrade | None = None, held: int = 10, **market: Any
) -> UserDecision:
    """What is decided for a holder whose stop is reached, without a single prediction."""
    quote = replace(make_quote(last=950), **(quotes or {}))
    view = make_market({"INFY": quote}, {}, **market)
    return decided(view, replace(HOLDER, open_trades=(trade or make_trade(),), holdings={"INFY": held}))


@pytest.mark.parametrize(
    ("changes", "price"),
    [({}, "940.50"), ({"last": D("950.05")}, "940.55"), ({"lower_band": D("945.00")}, "945.00")],
)
def test_an_exit_asks_one_per_cent_less_rounded_up_within_the_band(changes: dict[str, Any], price: str) -> None:
    (planned,) = leave(changes).exits
    assert planned.approved.order == OrderIntent(
        "INFY", "nse", Side.SELL, Product.CNC, OrderType.LIMIT, 10, D(price), Intent.EXIT
    )
    assert planned.reason is ExitReason.STOP


@pytest.mark.parametrize(
    ("quote", "market", "held", "reason"),
    [
        ({}, {"continuous": {"INFY": False}}, 10, Reason.MARKET_NOT_CONTINUOUS),
        ({}, {"continuous": {}}, 10, Reason.MARKET_NOT_CONTINUOUS),
        ({"as_of": NOW - timedelta(seconds=11)}, {}, 10, Reason.QUOTE_STALE),
        ({"last": D(0)}, {}, 10, Reason.QUOTE_UNUSABLE),
        ({"last": D(0), "lower_band": D(0)}, {}, 10, Reason.QUOTE_UNUSABLE),
        ({}, {}, 0, Reason.SELL_EXCEEDS_HOLDING),
        ({"freeze_quantity": 0}, {}, 10, Reason.QUANTITY_INVALID),
    ],
)
def test_an_exit_that_cannot_be_sent_says_why(
    quote: dict[str, Any], market: dict[str, Any], held: int, reason: Reason
) -> None:
    decision = leave(quote, held=held, **market)
    assert decision.exits == []
    assert [(o.intent, o.reason, o.exit_reason, o.quantity) for o in decision.outcomes] == [
        (Intent.EXIT, reason, ExitReason.STOP, 10)
    ]


@pytest.mark.parametrize(("held", "sold"), [(1, 1), (9, 9), (10, 10), (11, 10)])
def test_an_exit_sells_what_is_still_there_and_never_more_than_the_trade_holds(held: int, sold: int) -> None:
    """Whoever sold some of the shares by hand must not leave the others without their stop."""
    (planned,) = leave({}, held=held).exits
    assert planned.approved.order.quantity == sold


def test_an_exit_without_a_quote_is_named_once_it_is_due() -> None:
    market = make_market({}, {}, continuous={"INFY": True}, today=HORIZON_END + timedelta(days=1))
    assert decided(market, HOLDER).outcomes == [
        Outcome("INFY", Intent.EXIT, Reason.NO_QUOTE, 10, None, ExitReason.HORIZON, "momentum")
    ]


@pytest.mark.parametrize(("freeze", "lot", "sold"), [(10, 1, 10), (9, 1, 9), (4, 1, 4), (10, 4, 8), (7, 4, 4)])
def test_a_holding_too_large_for_one_order_is_left_in_parts(freeze: int, lot: int, sold: int) -> None:
    decision = leave({"freeze_quantity": freeze, "lot": lot})
    assert [e.approved.order.quantity for e in decision.exits] == [sold]
    assert [(o.reason, o.quantity) for o in decision.outcomes] == [(None, sold)]


def two_stocks(**market: Any) -> MarketView:
    """INFY at its stop for who holds it, and TCS to be entered."""
    quotes = {"INFY": make_quote(last=950), "TCS": make_quote("TCS")}
    return make_market(quotes, {"TCS": make_signal("TCS")}, **market)


BOTH = replace(HOLDER, symbols=frozenset({"INFY", "TCS"}))


def test_exits_come_before_entries() -> None:
    decision = decided(two_stocks(), BOTH)
    assert [(o.symbol, o.intent, o.reason) for o in decision.outcomes] == [
        ("INFY", Intent.EXIT, None),
        ("TCS", Intent.ENTRY, None),
    ]


@pytest.mark.parametrize(
    ("user", "exits", "entries"),
    [
        ({}, 1, 1),
        ({"enabled": False}, 1, 0),
        ({"plan_entries_left": 0}, 1, 0),
        ({"cash_free": D(0), "funds_total": D(0)}, 1, 0),
        ({"symbols": frozenset()}, 1, 0),
        ({"unavailable": Reason.BROKER_UNAVAILABLE}, 0, 0),
    ],
)
def test_what_bars_entries_never_bars_exits(user: dict[str, Any], exits: int, entries: int) -> None:
    decision = decided(two_stocks(), replace(BOTH, **user))
    assert (len(decision.exits), len(decision.entries)) == (exits, entries)
    if user.get("unavailable"):
        assert decision.outcomes == []
    if user.get("enabled") is False:
        assert [o.intent for o in decision.outcomes] == [Intent.EXIT]


def denial(market: MarketView | None = None, **user: Any) -> Reason | None:
    """Why the one candidate is not entered; None where it is."""
    decision = decided(market or make_market(), make_user(**user))
    (outcome,) = decision.outcomes
    assert len(decision.entries) == (outcome.reason is None)
    return outcome.reason


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        ({}, None),
        ({"plan_entries_left": 1}, None),
        ({"plan_entries_left": 0}, Reason.PLAN_LIMIT),
        ({"plan_entries_left": -1}, Reason.PLAN_LIMIT),
        ({"own_entries_left": 1}, None),
        ({"own_entries_left": 0}, Reason.OWN_DAY_LIMIT),
        ({"blocked": {"INFY": Reason.ORDER_UNKNOWN}}, Reason.ORDER_UNKNOWN),
        ({"blocked": {"TCS": Reason.ORDER_UNKNOWN}}, None),
        ({"funds_in_use": D(400_000)}, Reason.FUNDS_IN_USE_LIMIT),
        ({"cash_free": D(0)}, Reason.FUNDS_IN_USE_LIMIT),
        ({"cash_free": D(0), "funds_total": D(0)}, Reason.BUDGET_BELOW_ONE_SHARE),
        # one share at the limit of 1003 with 0.15 % for charges is 1004.5045 rupees
        ({"cash_free": D("1004.50")}, Reason.FUNDS_IN_USE_LIMIT),
        ({"cash_free": D("1004.51")}, None),
        ({"funds_in_use": D("398995.50")}, Reason.FUNDS_IN_USE_LIMIT),
        ({"funds_in_use": D("398995.49")}, None),
        ({"funds_total": D("13393.39")}, Reason.BUDGET_BELOW_ONE_SHARE),
        ({"funds_total": D("13393.40")}, None),
    ],
)
def test_why_a_candidate_is_not_entered(user: dict[str, Any], reason: Reason | None) -> None:
    assert denial(**user) is reason


@pytest.mark.parametrize(
    ("now", "product", "reason"),
    [
        (SQUARE_OFF - INSTANT, Product.MIS, None),
        (SQUARE_OFF, Product.MIS, Reason.TOO_LATE_FOR_INTRADAY),
        (SQUARE_OFF, Product.CNC, None),
    ],
)
def test_intraday_entries_stop_at_the_square_off(now: Any, product: Product, reason: Reason | None) -> None:
    market = make_market({"INFY": make_quote(as_of=now)}, {"INFY": make_signal(horizon_sessions=1)}, now=now)
    assert denial(market, product=product) is reason


def test_without_a_square_off_time_there_is_no_intraday_entry() -> None:
    signals = {"INFY": make_signal(horizon_sessions=1)}
    unknown = make_market(signals=signals, square_off_at={})
    assert denial(unknown, product=Product.MIS) is Reason.TOO_LATE_FOR_INTRADAY
    assert denial(make_market(square_off_at={})) is None


@pytest.mark.parametrize(("product", "ends_on"), [(Product.MIS, TODAY), (Product.CNC, HORIZON_END)])
def test_an_intraday_plan_ends_today_and_a_delivery_plan_at_its_horizon(product: Product, ends_on: Any) -> None:
    market = make_market(signals={"INFY": make_signal(horizon_sessions=1 if product is Product.MIS else 10)})
    (entry,) = decided(market, make_user(product=product)).entries
    assert entry.horizon_ends_on == ends_on
    assert entry.approved.order == OrderIntent(
        "INFY", "nse", Side.BUY, product, OrderType.LIMIT, 37, D("1003.00"), Intent.ENTRY
    )


@pytest.mark.parametrize(
    ("charges", "reason"),
    [
        (TYPICAL_ROUND_TRIP_FRACTION, None),
        (D(0), None),
        (TYPICAL_ROUND_TRIP_FRACTION + D("0.01"), None),
        (TYPICAL_ROUND_TRIP_FRACTION + D("0.010001"), Reason.EDGE_BELOW_CHARGES),
    ],
)
def test_an_edge_must_survive_charges_beyond_the_typical(charges: D, reason: Reason | None) -> None:
    """An aggressive plan of 2 % has 1 % to give."""
    market = make_market(signals={"INFY": make_signal(expected_return_net=0.02)}, round_trip_charges=lambda *_: charges)
    assert denial(market, mode=Mode.AGGRESSIVE) is reason


def test_the_depositorys_flat_charge_bars_a_small_account_and_not_a_large_one() -> None:
    """₹15.34 on one share of 1000 are 1.5 % of it; on 37 they are 0.04 %."""
    market = make_market(signals={"INFY": make_signal(expected_return_net=0.02)})
    small = {"funds_total": D(15_000), "cash_free": D(15_000)}
    assert denial(market, **small) is Reason.EDGE_BELOW_CHARGES
    intraday = make_market(signals={"INFY": make_signal(expected_return_net=0.02, horizon_sessions=1)})
    assert denial(intraday, **small, product=Product.MIS) is None
    assert denial(market) is None


def test_an_intraday_trade_needs_a_one_session_prediction() -> None:
    assert denial(make_market(), product=Product.MIS) is Reason.NO_INTRADAY_MODEL


@pytest.mark.parametrize(
    ("last", "confidence"),
    [
        ("1000", 0.80),  # the published level itself
        ("1004", 0.80 - 0.1 * (1.015 * 1.004 - 1.015) / 0.005),  # between 1.5 % and 2 %
        ("995", 0.80 + 0.1 * (1.015 - 1.015 * 0.995) / 0.005),  # between 1 % and 1.5 %: 0.9925 % is below the lowest
    ],
)
def test_the_probability_moves_with_the_entry_price(last: str, confidence: float) -> None:
    """P(touch) is published from the prediction's close: a dearer entry needs a longer way, a cheaper one a shorter."""
    touch = {0.01: 0.90, 0.015: 0.80, 0.02: 0.70, 0.025: 0.60}
    market = make_market({"INFY": make_quote(last=last)}, {"INFY": make_signal(touch=touch)})
    (candidate,) = rank(market, Mode.MODERATE, LIMITS).candidates
    assert candidate.confidence == pytest.approx(min(confidence, 0.90), abs=1e-9)


def test_a_level_beyond_the_published_ones_is_not_reached() -> None:
    dearer = {"quotes": {"INFY": make_quote(last="1010")}}
    assert rejection(Mode.CONSERVATIVE, market=dearer, touch={0.01: 0.99, 0.02: 0.99}) is Reason.CONFIDENCE_BELOW_MODE


def test_a_trade_still_entering_has_its_entry_cancelled_before_anything_is_sold() -> None:
    trade = make_trade(entering=True)
    decision = decided(make_market({"INFY": make_quote(last="950")}), make_user(open_trades=(trade,), enabled=False))
    assert decision.entry_cancels == [trade]
    assert (decision.exits, decision.outcomes) == ([], [])
