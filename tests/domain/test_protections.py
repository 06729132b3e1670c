"""Protections: every number at its limit and beside it, on a real calendar, and what holds for any trades."""

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain.calendar import IST, standard_calendar
from backend.domain.decide import ExitReason
from backend.domain.protections import (
    COUNT_MAX,
    DEFAULTS,
    LOOKBACK_SESSIONS_MAX,
    PAUSE_SESSIONS_MAX,
    REACH_SESSIONS_MAX,
    Block,
    ClosedTrade,
    Cooldown,
    LowProfit,
    MaxDrawdown,
    Protections,
    StoplossGuard,
    active_blocks,
    from_stored,
    to_stored,
)
from backend.domain.reasons import Reason

D = Decimal
DAYS = standard_calendar().sessions_between(date(2024, 1, 1), date(2024, 12, 31))
FUNDS = D(100_000)
OFF = Protections(cooldown=None, stoploss_guard=None, max_drawdown=None, low_profit=None)
NOW = 100


def day(n: int) -> date:
    """The n-th session after today's; before it where n < 0."""
    return DAYS[NOW + n]


def closed(n: int = 0, pnl: int | str = -100, symbol: str = "INFY", hour: int = 10, **changes: Any) -> ClosedTrade:
    """A trade of ₹10,000 that was stopped in the n-th session from today's."""
    at = datetime.combine(day(n), time(hour), tzinfo=IST)
    return replace(ClosedTrade(symbol, at, ExitReason.STOP, D(pnl), D(10_000)), **changes)


def blocks(
    protections: Protections, trades: Iterable[ClosedTrade], today: date | None = None, funds: Decimal = FUNDS
) -> tuple[Block, ...]:
    return active_blocks(protections, trades, funds, today or day(0), DAYS)


def barred(protections: Protections, trades: Iterable[ClosedTrade], **more: Any) -> set[str | None]:
    return {block.symbol for block in blocks(protections, trades, **more)}


def test_without_trades_nothing_is_barred() -> None:
    assert blocks(DEFAULTS, []) == ()


# cooldown


@pytest.mark.parametrize("pause", [1, 2, 5])
def test_a_cooldown_holds_for_the_rest_of_the_session_and_its_own(pause: int) -> None:
    rules = replace(OFF, cooldown=Cooldown(pause))
    stopped = [closed(0)]
    for n in range(pause + 1):
        (block,) = blocks(rules, stopped, today=day(n))
        assert (block.rule, block.symbol, block.until) == (Reason.COOLDOWN, "INFY", day(pause + 1))
    assert blocks(rules, stopped, today=day(pause + 1)) == ()


def test_a_cooldown_follows_stops_alone_unless_told_otherwise() -> None:
    reached = [closed(exit_reason=reason) for reason in ExitReason if reason is not ExitReason.STOP]
    reached.append(closed(exit_reason=None))
    assert blocks(replace(OFF, cooldown=Cooldown()), reached) == ()
    any_exit = replace(OFF, cooldown=Cooldown(stops_only=False))
    assert all(barred(any_exit, [trade]) == {"INFY"} for trade in reached)


def test_a_pause_counts_sessions_not_days() -> None:
    # Thursday 28 March 2024; the 29th was Good Friday, then a weekend: the one session is Monday 1 April.
    at = datetime(2024, 3, 28, 15, 0, tzinfo=IST)
    rules = replace(OFF, cooldown=Cooldown(1))
    for n in range(5):  # Thursday to Monday, with three days on which nothing trades
        (block,) = blocks(rules, [closed(closed_at=at)], today=date(2024, 3, 28) + timedelta(days=n))
        assert block.until == date(2024, 4, 2)
    assert blocks(rules, [closed(closed_at=at)], today=date(2024, 4, 2)) == ()


def test_a_symbol_bars_itself_only_and_its_latest_stop_counts() -> None:
    rules = replace(OFF, cooldown=Cooldown(2))
    found = blocks(rules, [closed(-2), closed(-1), closed(-1, symbol="TCS"), closed(-3, symbol="SBIN")])
    assert [(b.symbol, b.until) for b in found] == [("INFY", day(2)), ("TCS", day(2))]


def test_a_trade_belongs_to_its_session_by_the_indian_clock() -> None:
    # 18:30 UTC is midnight in India: the session of the trade is that of the day it begins.
    midnight = datetime.combine(day(-1), time(0), tzinfo=IST).astimezone(UTC)
    rules = replace(OFF, cooldown=Cooldown(1))
    assert midnight.date() < day(-1)
    assert [b.until for b in blocks(rules, [closed(closed_at=midnight)])] == [day(1)]
    assert blocks(rules, [closed(closed_at=midnight - timedelta(microseconds=1))]) == ()


# stoploss guard

GUARD = StoplossGuard(lookback_sessions=3, stops_min=3, pause_sessions=2)


@pytest.mark.parametrize(("stops", "bars"), [(2, False), (3, True), (4, True)])
def test_the_guard_needs_its_stops(stops: int, bars: bool) -> None:
    trades = [closed(0, symbol=f"S{i}") for i in range(stops)]
    found = blocks(replace(OFF, stoploss_guard=GUARD), trades)
    assert [(b.rule, b.symbol, b.until) for b in found] == [(Reason.STOPLOSS_GUARD, None, day(3))] * bars


@pytest.mark.parametrize(("oldest", "bars"), [(-1, True), (-2, True), (-3, False)])
def test_the_guard_looks_back_over_its_sessions(oldest: int, bars: bool) -> None:
    trades = [closed(oldest), closed(0), closed(0)]
    assert bool(blocks(replace(OFF, stoploss_guard=GUARD), trades)) is bars


@pytest.mark.parametrize(("since", "bars"), [(1, True), (2, True), (3, False)])
def test_the_guard_ends_after_its_pause(since: int, bars: bool) -> None:
    trades = [closed(-since - 2), closed(-since - 1), closed(-since)]
    assert bool(blocks(replace(OFF, stoploss_guard=GUARD), trades)) is bars


@pytest.mark.parametrize(
    "harmless",
    [{"pnl": 0}, {"pnl": 1}, {"exit_reason": ExitReason.HORIZON}, {"exit_reason": None}],
    ids=str,
)
def test_the_guard_counts_stops_that_lost(harmless: dict[str, Any]) -> None:
    rules = replace(OFF, stoploss_guard=GUARD)
    assert blocks(rules, [closed(), closed(), closed(**harmless)]) == ()
    assert blocks(rules, [closed(), closed(), closed(pnl="-0.01")]) != ()


def test_a_later_exit_that_is_no_stop_does_not_prolong_the_guard() -> None:
    rules = replace(OFF, stoploss_guard=GUARD)
    trades = [closed(-3), closed(-3), closed(-3)]
    assert blocks(rules, trades) == ()
    assert blocks(rules, [*trades, closed(-2, exit_reason=ExitReason.HORIZON), closed(-1, pnl=500)]) == ()
    (block,) = blocks(rules, [*trades, closed(-1)])  # a fourth stop does
    assert block.until == day(2)


@pytest.mark.parametrize(("stops", "found"), [(1, set()), (2, {"INFY"}), (3, {"INFY", None})])
def test_the_guard_of_one_symbol(stops: int, found: set[str | None]) -> None:
    rules = replace(OFF, stoploss_guard=replace(GUARD, symbol_stops_min=2))
    assert barred(rules, [closed()] * stops) == found
    assert barred(rules, [closed(symbol=f"S{i}") for i in range(stops)]) == found - {"INFY"}


# max drawdown

DRAWDOWN = MaxDrawdown(lookback_sessions=3, trades_min=2, drawdown_fraction_max=D("0.05"), pause_sessions=2)


def drawdown(trades: list[ClosedTrade], rule: MaxDrawdown = DRAWDOWN, **more: Any) -> tuple[Block, ...]:
    """What the rule says where FUNDS were there before the trades."""
    funds = FUNDS + sum((t.realized_pnl for t in trades), D(0))
    return blocks(replace(OFF, max_drawdown=rule), trades, funds=funds, **more)


@pytest.mark.parametrize(("second", "bars"), [("-2999.99", False), ("-3000", False), ("-3000.01", True)])
def test_a_drawdown_may_reach_its_limit_and_not_pass_it(second: str, bars: bool) -> None:
    found = drawdown([closed(-1, -2000), closed(0, second)])
    assert [(b.rule, b.symbol, b.until) for b in found] == [(Reason.MAX_DRAWDOWN, None, day(3))] * bars


def test_a_drawdown_is_measured_from_the_peak_in_order_of_closing() -> None:
    # 4,000 up and 5,001 down is a fall of 5,001, though only 1,001 were lost in all.
    assert drawdown([closed(-1, 4000), closed(0, -5001)])
    assert not drawdown([closed(-1, 4000), closed(0, -5000)])
    # What was gained on the way is not part of the funds before.
    assert drawdown([closed(-1, 10_000), closed(0, -5001)])
    # The other way round the fall was over before the gain came.
    assert drawdown([closed(-1, -2500, hour=10), closed(-1, -2501, hour=11), closed(0, 4000)])
    assert not drawdown([closed(-1, -2500, hour=10), closed(-1, 4000, hour=11), closed(-1, -4000, hour=12)])


@pytest.mark.parametrize(("trades_min", "bars"), [(1, True), (2, True), (3, False)])
def test_a_drawdown_needs_its_trades(trades_min: int, bars: bool) -> None:
    rule = replace(DRAWDOWN, trades_min=trades_min)
    assert bool(drawdown([closed(-1, 1), closed(0, -6000)], rule)) is bars


def test_trades_that_closed_after_the_fall_do_not_make_up_its_number() -> None:
    rule = replace(DRAWDOWN, trades_min=3)
    assert not drawdown([closed(-1, 1), closed(0, -6000, hour=10), closed(0, 1, hour=11)], rule)
    assert drawdown([closed(-1, 1), closed(0, -6000, hour=11), closed(0, 1, hour=10)], rule)


@pytest.mark.parametrize(("oldest", "bars"), [(-1, True), (-2, True), (-3, False)])
def test_a_drawdown_looks_back_over_its_sessions(oldest: int, bars: bool) -> None:
    assert bool(drawdown([closed(oldest, -3000), closed(0, -1), closed(0, -2000)])) is bars


@pytest.mark.parametrize(("since", "bars"), [(1, True), (2, True), (3, False)])
def test_a_drawdown_ends_after_its_pause(since: int, bars: bool) -> None:
    assert bool(drawdown([closed(-since - 1, -3000), closed(-since, -3000)])) is bars


def test_a_gain_does_not_prolong_a_drawdown() -> None:
    fall = [closed(-3, -3000), closed(-3, -3000)]
    assert not drawdown(fall)
    assert not drawdown([*fall, closed(-1, 10)])
    assert drawdown([*fall, closed(-1, -10)])


def test_a_small_loss_after_the_recovery_does_not_prolong_a_drawdown() -> None:
    (block,) = drawdown([closed(-1, -3000), closed(-1, -3000), closed(0, 6000, hour=10), closed(0, -1, hour=11)])
    assert block.until == day(2)


def test_the_worst_moment_of_a_session_counts() -> None:
    assert drawdown([closed(-1, 4000), closed(0, -5001, hour=10), closed(0, 3000, hour=11), closed(0, -1, hour=12)])


def test_trades_of_one_instant_count_in_one_order() -> None:
    # Lost 1,000 before; the gain first makes a fall of 4,500, the loss first one of 5,500.
    before, gain, loss = closed(-1, -1000), closed(0, 4000, symbol="TCS"), closed(0, -4500, symbol="SBIN")
    assert drawdown([before, gain, loss]) == drawdown([before, loss, gain])


def test_the_funds_of_a_drawdown_are_those_before_its_window() -> None:
    trades = [closed(-2, -2500), closed(-1, -2500), closed(0, -100)]
    rules = replace(OFF, max_drawdown=DRAWDOWN)
    # 5,100 lost; there were 102,000 before, of which 5 % are 5,100.
    assert not blocks(rules, trades, funds=D(96_900))
    assert blocks(rules, trades, funds=D("96899.99"))
    # Without funds, or after all was withdrawn, any fall is too much.
    assert blocks(rules, trades, funds=D(0))
    assert blocks(rules, trades, funds=D(-1_000_000))
    assert not blocks(rules, [closed(-1, 10), closed(0, 10)], funds=D(-1_000_000))


# low profit

LOW = LowProfit(lookback_sessions=3, trades_min=2, return_fraction_min=D("-0.02"), pause_sessions=2)


@pytest.mark.parametrize(("second", "bars"), [("-199.99", False), ("-200", False), ("-200.01", True)])
def test_a_symbol_may_return_its_least_and_not_less(second: str, bars: bool) -> None:
    found = blocks(replace(OFF, low_profit=LOW), [closed(-1, -200), closed(0, second)])
    assert [(b.rule, b.symbol, b.until) for b in found] == [(Reason.LOW_PROFIT_SYMBOL, "INFY", day(3))] * bars


def test_what_a_symbol_used_is_what_its_return_is_measured_by() -> None:
    rules = replace(OFF, low_profit=LOW)
    assert blocks(rules, [closed(0, -200), closed(0, -201)])
    assert not blocks(rules, [closed(0, -200), closed(0, -201, entry_value=D(10_050))])


def test_a_symbol_may_be_asked_to_gain() -> None:
    rules = replace(OFF, low_profit=replace(LOW, return_fraction_min=D("0.01")))
    assert not blocks(rules, [closed(0, 100), closed(0, 100)])
    assert blocks(rules, [closed(0, 100), closed(0, "99.99")])


@pytest.mark.parametrize(("trades_min", "bars"), [(1, True), (2, True), (3, False)])
def test_a_low_profit_needs_its_trades(trades_min: int, bars: bool) -> None:
    rules = replace(OFF, low_profit=replace(LOW, trades_min=trades_min))
    assert bool(blocks(rules, [closed(-1, -300), closed(0, -300)])) is bars


def test_the_trades_of_different_symbols_are_not_added_up() -> None:
    rules = replace(OFF, low_profit=LOW)
    assert blocks(rules, [closed(0, -900), closed(0, -900, symbol="TCS")]) == ()


@pytest.mark.parametrize(("oldest", "bars"), [(-1, True), (-2, True), (-3, False)])
def test_a_low_profit_looks_back_over_its_sessions(oldest: int, bars: bool) -> None:
    assert bool(blocks(replace(OFF, low_profit=LOW), [closed(oldest, -300), closed(0, -300)])) is bars


@pytest.mark.parametrize(("since", "bars"), [(1, True), (2, True), (3, False)])
def test_a_low_profit_ends_after_its_pause(since: int, bars: bool) -> None:
    trades = [closed(-since - 1, -300), closed(-since, -300)]
    assert bool(blocks(replace(OFF, low_profit=LOW), trades)) is bars


# all together


def test_each_block_says_its_figures() -> None:
    rules = Protections(Cooldown(), replace(GUARD, stops_min=2), DRAWDOWN, LOW)
    trades = [closed(-1, -3000), closed(0, "-2500.50")]
    sentences = {b.rule: b.detail for b in blocks(rules, trades, funds=D("94499.50"))}
    assert sentences == {
        Reason.MAX_DRAWDOWN: "Closed trades lost ₹5,500.50 from their peak within 3 sessions, more than 5 % of the "
        f"₹100,000.00 before them: no entry before {day(3)}.",
        Reason.STOPLOSS_GUARD: f"2 trades ended at the stop within 3 sessions (limit 2): no entry before {day(3)}.",
        Reason.LOW_PROFIT_SYMBOL: "2 trades of INFY within 3 sessions made -₹5,500.50, less than -2 % of the "
        f"₹20,000.00 used: no entry in INFY before {day(3)}.",
        Reason.COOLDOWN: f"INFY was left by its stop on {day(0)}: no entry in INFY before {day(2)}.",
    }


def test_blocks_of_everything_come_first_and_the_gravest_first() -> None:
    rules = Protections(Cooldown(), replace(GUARD, stops_min=2), DRAWDOWN, LOW)
    found = blocks(rules, [closed(-1, -3000), closed(0, -3000), closed(0, symbol="AXIS")])
    assert [(b.symbol, b.rule) for b in found] == [
        (None, Reason.MAX_DRAWDOWN),
        (None, Reason.STOPLOSS_GUARD),
        ("AXIS", Reason.COOLDOWN),
        ("INFY", Reason.LOW_PROFIT_SYMBOL),
        ("INFY", Reason.COOLDOWN),
    ]


def test_an_ordinary_week_is_not_disturbed() -> None:
    """Eight closings with two stops and a small loss in all: one of the stopped symbols cools down, nothing else."""
    week = [closed(-n % 5 - 4, 300, symbol=f"S{n}", exit_reason=ExitReason.TARGET) for n in range(6)]
    week += [closed(-3, -600, symbol="A"), closed(0, -600, symbol="B")]
    assert [(b.symbol, b.rule) for b in blocks(DEFAULTS, week)] == [("B", Reason.COOLDOWN)]


def test_trades_after_today_and_before_the_sessions_are_left_out() -> None:
    rules = replace(OFF, cooldown=Cooldown(PAUSE_SESSIONS_MAX))
    assert blocks(rules, [closed(1)]) == ()
    assert active_blocks(rules, [closed(-2)], FUNDS, day(0), DAYS[NOW - 1 :]) == ()
    assert active_blocks(rules, [closed(0)], FUNDS, day(0), ()) == ()


def test_a_pause_beyond_the_known_sessions_ends_the_day_after_them() -> None:
    (block,) = active_blocks(DEFAULTS, [closed(0)], FUNDS, day(0), DAYS[: NOW + 1])
    assert block.until == day(0) + timedelta(days=1)


def test_what_lies_before_the_reach_changes_nothing() -> None:
    rules = Protections(
        Cooldown(3), replace(GUARD, stops_min=1), replace(DRAWDOWN, trades_min=1), replace(LOW, trades_min=1)
    )
    assert (rules.reach_sessions, OFF.reach_sessions) == (4, 0)
    assert Protections(Cooldown(7), GUARD, DRAWDOWN, LOW).reach_sessions == 7
    assert DEFAULTS.reach_sessions == 29
    reaching = closed(-4, -6000, symbol="TCS")
    old = closed(-5, -6000, symbol="TCS")
    trades = [closed(-2, 4000, symbol="TCS")]
    assert blocks(rules, [*trades, reaching]) != blocks(rules, trades)
    assert blocks(rules, [*trades, old]) == blocks(rules, trades)
    assert REACH_SESSIONS_MAX == LOOKBACK_SESSIONS_MAX + PAUSE_SESSIONS_MAX - 1


# what holds for any trades

closings = st.builds(
    closed,
    st.integers(-30, 0),
    st.integers(-4000, 4000),
    st.sampled_from(["A", "B", "C"]),
    st.integers(9, 15),
    exit_reason=st.sampled_from([*ExitReason, None]),
)
rules_of = st.builds(
    Protections,
    st.none() | st.builds(Cooldown, st.integers(1, 5), st.booleans()),
    st.none()
    | st.builds(StoplossGuard, st.integers(1, 10), st.integers(1, 4), st.none() | st.integers(1, 3), st.integers(1, 5)),
    st.none()
    | st.builds(
        MaxDrawdown,
        st.integers(1, 10),
        st.integers(1, 4),
        st.decimals("0.01", "0.1", places=3),
        st.integers(1, 5),
    ),
    st.none()
    | st.builds(
        LowProfit, st.integers(1, 10), st.integers(1, 4), st.decimals("-0.1", "0.1", places=3), st.integers(1, 5)
    ),
)


@settings(max_examples=60)
@given(rules_of, st.lists(closings, max_size=20), st.randoms(use_true_random=False))
def test_the_order_of_the_trades_does_not_matter(rules: Protections, trades: list[ClosedTrade], random: Any) -> None:
    shuffled = random.sample(trades, len(trades))
    assert blocks(rules, shuffled) == blocks(rules, trades)


@settings(max_examples=60)
@given(rules_of, st.lists(closings, max_size=20))
def test_every_block_ends_when_it_says(rules: Protections, trades: list[ClosedTrade]) -> None:
    for block in blocks(rules, trades):
        still = {(b.rule, b.symbol) for b in blocks(rules, trades, today=block.until - timedelta(days=1))}
        over = {(b.rule, b.symbol) for b in blocks(rules, trades, today=block.until)}
        assert block.until > day(0)
        assert (block.rule, block.symbol) in still - over
    assert blocks(rules, trades, today=day(PAUSE_SESSIONS_MAX + 1)) == ()


@settings(max_examples=60)
@given(
    st.builds(StoplossGuard, st.integers(1, 10), st.integers(1, 4), st.none() | st.integers(1, 3), st.integers(1, 5)),
    st.lists(closings, max_size=15),
    closings,
)
def test_a_winning_trade_never_sets_off_the_guard(
    guard: StoplossGuard, trades: list[ClosedTrade], another: ClosedTrade
) -> None:
    rules = replace(OFF, stoploss_guard=guard)
    won = replace(another, realized_pnl=abs(another.realized_pnl))
    assert blocks(rules, [*trades, won]) == blocks(rules, trades)


@settings(max_examples=60)
@given(rules_of, st.lists(closings, max_size=20))
def test_no_trade_is_barred_by_the_trades_before_the_reach(rules: Protections, trades: list[ClosedTrade]) -> None:
    oldest = day(-rules.reach_sessions)
    reached = [t for t in trades if t.closed_at.astimezone(IST).date() >= oldest]
    assert blocks(rules, trades) == blocks(rules, reached)


# settings


@pytest.mark.parametrize(
    ("rule", "name", "least", "most"),
    [
        (Cooldown, "pause_sessions", 1, PAUSE_SESSIONS_MAX),
        (StoplossGuard, "lookback_sessions", 1, LOOKBACK_SESSIONS_MAX),
        (StoplossGuard, "stops_min", 1, COUNT_MAX),
        (StoplossGuard, "symbol_stops_min", 1, COUNT_MAX),
        (StoplossGuard, "pause_sessions", 1, PAUSE_SESSIONS_MAX),
        (MaxDrawdown, "lookback_sessions", 1, LOOKBACK_SESSIONS_MAX),
        (MaxDrawdown, "trades_min", 1, COUNT_MAX),
        (MaxDrawdown, "drawdown_fraction_max", D("0.001"), D(1)),
        (MaxDrawdown, "pause_sessions", 1, PAUSE_SESSIONS_MAX),
        (LowProfit, "lookback_sessions", 1, LOOKBACK_SESSIONS_MAX),
        (LowProfit, "trades_min", 1, COUNT_MAX),
        (LowProfit, "return_fraction_min", D(-1), D(1)),
        (LowProfit, "pause_sessions", 1, PAUSE_SESSIONS_MAX),
    ],
)
def test_every_setting_has_bounds(rule: Any, name: str, least: Any, most: Any) -> None:
    step = D("0.0001") if isinstance(least, Decimal) else 1
    assert getattr(rule(**{name: least}), name) == least
    assert getattr(rule(**{name: most}), name) == most
    for beyond in (least - step, most + step):
        with pytest.raises(ValueError, match=name):
            rule(**{name: beyond})
    for other in (float(most), str(most), True):
        with pytest.raises(TypeError, match=name):
            rule(**{name: other})


def test_a_fraction_that_is_no_number_is_refused() -> None:
    for nonsense in (D("NaN"), D("Infinity")):
        with pytest.raises(ValueError, match="drawdown_fraction_max"):
            MaxDrawdown(drawdown_fraction_max=nonsense)


@settings(max_examples=60)
@given(rules_of)
def test_settings_are_stored_and_read_as_they_are(rules: Protections) -> None:
    assert from_stored(json.loads(json.dumps(to_stored(rules)))) == rules


def test_what_is_the_default_is_not_stored() -> None:
    assert to_stored(DEFAULTS) == {}
    assert from_stored({}) == DEFAULTS
    changed = replace(DEFAULTS, cooldown=None, low_profit=LowProfit(return_fraction_min=D("0.01")))
    assert to_stored(changed) == {
        "cooldown": None,
        "low_profit": {
            "lookback_sessions": 20,
            "trades_min": 2,
            "return_fraction_min": "0.01",
            "pause_sessions": 10,
        },
    }


@pytest.mark.parametrize(
    "stored",
    [
        {"kill_switch": {}},
        {"cooldown": {"minutes": 5}},
        {"cooldown": {"pause_sessions": 0}},
        {"cooldown": {"pause_sessions": "5"}},
        {"cooldown": 5},
        {"max_drawdown": {"drawdown_fraction_max": "much"}},
        {"max_drawdown": {"drawdown_fraction_max": 0.05}},
    ],
    ids=str,
)
def test_what_was_not_stored_by_us_is_refused(stored: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"protections|pause_sessions"):
        from_stored(stored)
