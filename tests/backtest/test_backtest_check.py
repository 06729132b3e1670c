"""The look-ahead check: it names the first thing that knows of a later day, and finds what only looks back honest."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from market_columns import VALID_FOREVER, market, random_predictions, sessions, signal, walk

from backend.backtest.check import (
    AT_ORDERS,
    CUT_OFF,
    INPUTS,
    OTHERWISE,
    THEN,
    Delay,
    check,
    cuts_of,
    delayed,
    perturbed,
    truncated,
)
from backend.backtest.differences import first_difference, first_difference_until, first_signal_difference
from backend.backtest.engine import run
from backend.backtest.history import DaySignals, MarketHistory
from backend.backtest.market import Day, Look, instant
from backend.backtest.result import BacktestResult, TraderResult
from backend.backtest.spec import Spec, Trader
from backend.domain.calendar import IST
from backend.domain.corporate_actions import ActionKind, CorporateAction
from backend.domain.market import StockClass
from backend.domain.modes import Mode
from backend.domain.orders import OrderState
from backend.domain.risk import QuoteView
from contracts.market import Interval

D = Decimal
FIRST = date(2023, 1, 2)
SESSIONS, SHARES, INTRADAY_BARS = 40, 4, 76
Predict = Callable[[MarketHistory], dict[date, DaySignals]]


def bars_only(seed: int = 1, interval: Interval = Interval.DAY_1) -> MarketHistory:
    rng, daily = np.random.default_rng(seed), interval is Interval.DAY_1
    found = sessions(FIRST, SESSIONS if daily else 5)
    count, spread = (SESSIONS, 0.02) if daily else (5 * INTRADAY_BARS, 0.004)
    return market({f"S{i}": walk(rng, count, spread=spread) for i in range(SHARES)}, found, interval=interval)


def random_market(seed: int = 1, interval: Interval = Interval.DAY_1) -> MarketHistory:
    history = bars_only(seed, interval)
    rng = np.random.default_rng(seed)
    return replace(history, predictions=random_predictions(rng, history.shares, history.sessions, 0.25))


def spec_of(history: MarketHistory, *modes: Mode) -> Spec:
    traders = tuple(Trader(mode.value, mode) for mode in modes or (Mode.MODERATE,))
    return Spec(history.sessions[0].day, history.sessions[-1].day, traders, history.interval)


def days_of(history: MarketHistory) -> list[date]:
    return [session.day for session in history.sessions]


def maker(history: MarketHistory, predict: Predict) -> Callable[[date | None], Awaitable[MarketHistory]]:
    """A market whose predictions are made of the bars that are given, also for the session after the last of them."""

    async def make(day: date | None) -> MarketHistory:
        if day is None:
            return replace(history, predictions=predict(history))
        following = days_of(history).index(day) + 2
        known = replace(truncated(history, day), sessions=history.sessions[:following])
        return replace(known, predictions=predict(known))

    return make


def predicting(ahead: int, horizon: int = 3) -> Predict:
    """Buys what rose in the session `ahead` sessions after the one before the trade: 0 is all that can be known."""

    def predict(history: MarketHistory) -> dict[date, DaySignals]:
        said: dict[date, DaySignals] = {}
        for number, day in enumerate(days_of(history)):
            signals = {}
            for symbol, share in history.shares.items():
                place = number - 1 + ahead
                if (
                    1 <= number <= len(share)
                    and 1 <= place < len(share)
                    and share.close[place] > share.close[place - 1]
                ):
                    signals[symbol] = signal(symbol, D(int(share.close[number - 1])) / 100, horizon=horizon)
            said[day] = DaySignals(signals)
        return said

    return predict


def normalised(history: MarketHistory) -> dict[date, DaySignals]:
    """Says to the last digit how high the price stands among all that there are."""
    said = predicting(0)(history)
    means = {symbol: float(share.close.mean()) for symbol, share in history.shares.items()}
    return {
        day: DaySignals({s: replace(each, expected_return_net=1 / means[s]) for s, each in told.signals.items()})
        for day, told in said.items()
    }


def changed_of(report: Any, name: str) -> list[str | None]:
    return [finding.changed for finding in report.findings if finding.check == name]


# --- strategies that peek, and one that does not ----------------------------------------------------------------


async def test_what_only_looks_back_passes() -> None:
    history = bars_only()
    report = await check(maker(history, predicting(0)), spec_of(history))
    assert report.passed
    assert [finding.changed for finding in report.findings] == [None] * (2 * 4 + 1)
    assert report.delays[0].trades > 5
    days, cut = days_of(history), max(finding.cut for finding in report.findings if finding.check == INPUTS)
    said = predicting(0)(history)
    assert report.predictions == sum(len(said[day].signals) for day in days if day <= cut) > 20
    orders = run(spec_of(history), replace(history, predictions=said)).traders[0].orders
    assert report.orders == sum(order.at.date() <= cut for order in orders) > 5
    assert report.compared.endswith(f"{report.predictions} predictions to act on, {report.orders} orders.")


async def test_what_had_nothing_to_look_at_is_not_called_proven() -> None:
    history = bars_only()
    silent = await check(maker(history, lambda known: dict.fromkeys(days_of(known), DaySignals())), spec_of(history))
    assert (silent.predictions, silent.orders, len(silent.findings)) == (0, 0, 8)
    assert "nothing is known of predictions and of the engine" in silent.compared
    assert "nothing is known of the engine" in replace(silent, predictions=3).compared


@pytest.mark.parametrize(("ahead", "first_told"), [(1, 1), (2, 0)])
async def test_a_strategy_that_peeks_is_caught_at_its_first_prediction(ahead: int, first_told: int) -> None:
    """One that knows the day's own close is seen on the day after the cut, one that knows the next on the cut's."""
    history = bars_only()
    days = days_of(history)
    cut = 20
    make = maker(history, predicting(ahead))
    report = await check(make, spec_of(history), [days[cut]])
    day = days[cut + first_told]
    # Which shares rose on the first day that was not known, by the bars alone.
    rose = sorted(s for s, h in history.shares.items() if h.close[cut + 1] > h.close[cut])
    assert rose
    assert changed_of(report, INPUTS) == [f"{day} prediction of {rose[0]} (planted): nothing became buy"]
    assert not report.passed


async def test_a_number_made_of_the_whole_history_is_caught_where_it_first_stands() -> None:
    history = bars_only()
    make = maker(history, normalised)
    report = await check(make, spec_of(history))
    first = min(day for day, said in (await make(None)).predictions.items() if said.signals)
    for changed in changed_of(report, INPUTS):
        assert changed is not None
        assert changed.startswith(f"{first} prediction of S")
        assert "expected_return_net" in changed


async def test_mended_bars_are_named_with_both_values() -> None:
    history = bars_only()
    days, share = days_of(history), history.shares["S2"]
    mended = share.close.copy()
    mended[4] += 5
    told = replace(history, shares={**history.shares, "S2": replace(share, close=mended)})
    honest, late = maker(history, predicting(0)), maker(told, predicting(0))

    async def make(day: date | None) -> MarketHistory:
        return await (late if day is None else honest)(day)

    report = await check(make, spec_of(history), [days[20]])
    assert changed_of(report, INPUTS) == [f"{days[4]} bar of S2: close {share.close[4]} became {mended[4]} paise"]


async def test_a_later_split_is_told_where_inputs_change() -> None:
    history = bars_only()
    split = CorporateAction("S1", days_of(history)[35], ActionKind.SPLIT, 1, 2)
    told = replace(history, actions=(split,))
    report = await check(maker(told, normalised), spec_of(history), [days_of(history)[20]])
    (finding,) = [each for each in report.findings if each.check == INPUTS]
    assert f"S1 on {split.ex_date}" in finding.note
    plain = await check(maker(history, normalised), spec_of(history), [days_of(history)[20]])
    assert {each.note for each in plain.findings} == {""}


async def test_a_calendar_that_was_asked_for_less_far_is_no_knowledge_of_the_market() -> None:
    """Plans that would end after it end elsewhere, which is not the market's doing."""
    history = bars_only()

    def near(known: MarketHistory) -> dict[date, DaySignals]:
        return {
            day: DaySignals(
                {
                    symbol: replace(
                        each, target=each.reference_close * D("1.01"), stop=each.reference_close * D("0.99")
                    )
                    for symbol, each in said.signals.items()
                }
            )
            for day, said in predicting(0, 8)(known).items()
        }

    honest = maker(history, near)

    async def make(day: date | None) -> MarketHistory:
        known = await honest(day)
        soon = [each for each in known.session_days if each <= known.sessions[-1].day]
        return known if day is None else replace(known, session_days=soon)

    report = await check(make, spec_of(history), days_of(history)[10:35:4])
    assert report.passed
    assert report.delays[0].trades > 20


# --- engines that peek --------------------------------------------------------------------------------------------


async def test_a_quote_that_shows_the_next_bar_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    history = random_market(3)

    honest = Day.quote

    def peeking(self: Day, symbol: str, look: Look) -> QuoteView | None:
        quote, share = honest(self, symbol, look), self.market.shares[symbol]
        if quote is None:
            return None
        last = D(share.close[min(self.row(symbol, look) + 1, len(share.close) - 1)]) / 100
        return replace(quote, last=last, bid=last - quote.tick, ask=last + quote.tick)

    async def make(day: date | None) -> MarketHistory:
        return history if day is None else replace(truncated(history, day), predictions=history.predictions)

    spec, cuts = spec_of(history), days_of(history)[10:30:4]
    assert (await check(make, spec, cuts)).passed
    monkeypatch.setattr(Day, "quote", peeking)
    report = await check(make, spec, cuts)
    for name in (THEN, CUT_OFF, OTHERWISE):
        assert any(changed_of(report, name)), name
    assert not any(changed_of(report, INPUTS))
    told = [finding for finding in report.findings if finding.changed]
    assert all((finding.changed or "").startswith(f"{finding.cut} moderate: ") for finding in told), "on the cut itself"


async def test_an_engine_that_peeks_one_bar_ahead_is_caught_where_it_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cut at the end of a day sees it: what is peeked at lies within the day."""
    history = random_market(3, Interval.MIN_5)
    honest, cut = Day.quote, days_of(history)[2]

    def peeking(self: Day, symbol: str, look: Look) -> QuoteView | None:
        quote, share = honest(self, symbol, look), self.market.shares[symbol]
        if quote is None:
            return None
        last = D(share.close[min(self.row(symbol, look) + 1, len(share.close) - 1)]) / 100
        return replace(quote, last=last, bid=last - quote.tick, ask=last + quote.tick)

    async def make(day: date | None) -> MarketHistory:
        return history if day is None else replace(truncated(history, day), predictions=history.predictions)

    spec = spec_of(history)
    assert changed_of(await check(make, spec, [cut]), AT_ORDERS) == [None]
    monkeypatch.setattr(Day, "quote", peeking)
    report = await check(make, spec, [cut])
    assert not any(changed_of(report, OTHERWISE))
    (told,) = changed_of(report, AT_ORDERS)
    assert told is not None
    assert "order" in told
    assert " became " in told


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), number=st.integers(0, 5 * 75 - 1))
def test_the_engine_knows_nothing_of_the_bars_to_come_in_a_day(seed: int, number: int) -> None:
    history = random_market(seed, Interval.MIN_5)
    at = instant(int(history.shares["S0"].end[number]))
    other, spec = perturbed(history, at, seed), spec_of(history, Mode.AGGRESSIVE)
    for symbol, share in history.shares.items():
        ended = share.end <= at.timestamp()
        assert (other.shares[symbol].close[ended] == share.close[ended]).all()
        assert ended.all() or (other.shares[symbol].volume[~ended] != share.volume[~ended]).mean() > 0.9
        same_day = share.start < datetime.combine(at.date() + timedelta(days=1), datetime.min.time(), IST).timestamp()
        assert (other.shares[symbol].upper_band[same_day] == share.upper_band[same_day]).all(), "known in the morning"
    assert first_difference_until(run(spec, other), run(spec, history), at) is None


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), interval=st.sampled_from([Interval.DAY_1, Interval.MIN_5]), cut=st.integers(1, 38))
def test_the_engine_knows_nothing_of_the_future(seed: int, interval: Interval, cut: int) -> None:
    history = random_market(seed, interval)
    day = days_of(history)[cut % len(history.sessions)]
    spec = spec_of(history, Mode.CONSERVATIVE, Mode.AGGRESSIVE)
    whole = run(spec, history)
    for other in (truncated(history, day), perturbed(history, day, seed)):
        assert first_difference(history, other, day) is None
        assert first_difference(run(spec, other), whole, day) is None


# --- other markets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [Interval.DAY_1, Interval.MIN_5])
def test_another_future_changes_every_later_bar_and_none_before(interval: Interval) -> None:
    history = random_market(2, interval)
    days = days_of(history)
    cut = days[len(days) // 2]
    other = perturbed(history, cut, 7)
    after = int(history.sessions[len(days) // 2 + 1].windows_non_cas[0].start.timestamp())
    for symbol, share in history.shares.items():
        mine, later = other.shares[symbol], share.start >= after
        for name in ("open", "high", "low", "close", "volume", "previous_close", "upper_band"):
            assert (getattr(mine, name)[~later] == getattr(share, name)[~later]).all(), name
        assert (mine.close[later] != share.close[later]).mean() > 0.95
        assert (mine.volume[later] != share.volume[later]).mean() > 0.95
        for name in ("previous_close", "lower_band", "upper_band"):
            assert getattr(mine, name)[later][0] == getattr(share, name)[later][0], "known before the session opens"
        assert (mine.low <= np.minimum(mine.open, mine.close)).all()
        assert (mine.high >= np.maximum(mine.open, mine.close)).all()
        assert (mine.close % mine.tick == 0).all()
    assert not [day for day in other.predictions if day > cut]
    assert other.sessions == history.sessions
    assert perturbed(history, cut, 7).shares["S0"].close.tolist() == other.shares["S0"].close.tolist()


def test_what_is_said_after_an_instant_is_dropped_and_what_was_said_before_it_stays() -> None:
    history = random_market(2, Interval.MIN_5)
    noon = _open_s(history, 1) + 3 * 3600
    told = replace(history, timed=[(noon + more, days_of(history)[1], DaySignals()) for more in (-60, 0, 60)])
    assert [second - noon for second, _, _ in perturbed(told, instant(noon)).timed] == [-60, 0]
    assert perturbed(told, instant(noon)).predictions.keys() == set(days_of(history)[:2])


def test_nothing_is_left_of_the_days_after_the_last() -> None:
    history = random_market()
    days = days_of(history)
    told = replace(
        history,
        actions=[CorporateAction("S0", day, ActionKind.DIVIDEND, amount=D(1)) for day in (days[5], days[9])],
        members={days[0]: frozenset({"S0"}), days[9]: frozenset({"S1"})},
        benchmark=[(day, 1.0) for day in days],
        timed=[(0, day, DaySignals()) for day in days],
    )
    cut = truncated(told, days[5])
    assert days_of(cut) == days[:6]
    assert {len(share) for share in cut.shares.values()} == {6}
    assert [action.ex_date for action in cut.actions] == [days[5]]
    assert (list(cut.members), len(cut.benchmark), len(cut.timed)) == ([days[0]], 6, 6)
    assert max(cut.predictions) == days[5]
    assert cut.session_days == told.session_days


def test_predictions_are_acted_on_later_and_are_valid_for_as_much_longer() -> None:
    history = random_market()
    days = days_of(history)
    late = delayed(history, 2)
    assert list(late.predictions) == days[2:]
    day, said = next((d, s) for d, s in history.predictions.items() if s.signals and d < days[-2])
    new = days[days.index(day) + 2]
    (symbol, told), *_ = said.signals.items()
    moved = late.predictions[new].signals[symbol]
    assert moved == replace(told, valid_until=VALID_FOREVER + timedelta(days=(new - day).days))
    timed = replace(history, timed=[(_open_s(history, 3) + 60, days[3], said)])
    assert [each[:2] for each in delayed(timed).timed] == [(_open_s(history, 4) + 60, days[4])]


def _open_s(history: MarketHistory, number: int) -> int:
    return int(history.sessions[number].continuous_open(StockClass.NON_CAS).timestamp())


async def test_one_that_lives_on_being_at_once_is_told_so() -> None:
    """Knows the day's own close: with a day's delay what it knew is over."""
    history = bars_only(5)
    report = await check(maker(history, predicting(1, 1)), spec_of(history))
    (delay,) = report.delays
    whole = run(spec_of(history), replace(history, predictions=predicting(1, 1)(history))).traders[0]
    assert delay.net_return == float(whole.equity / 500_000) - 1 > 0
    assert delay.net_return_late < delay.net_return / 2
    assert "profit is gone" in delay.verdict


@pytest.mark.parametrize(
    ("at_once", "late", "said"),
    [
        (0.05, -0.01, "The profit is gone"),
        (0.05, 0.0, "The profit is gone"),
        (0.05, 0.02, "More than half"),
        (0.05, 0.03, "Most of the profit is there"),
        (-0.01, 0.05, "There was no profit"),
    ],
)
def test_a_delay_is_judged_by_what_is_left(at_once: float, late: float, said: str) -> None:
    assert Delay("one", 3, at_once, 3, late).verdict.startswith(said)


def test_cuts_are_thirds_of_the_days_of_which_something_was_said() -> None:
    history = random_market()
    days = days_of(history)
    later = replace(history, predictions={day: DaySignals() for day in days[10:]})
    assert cuts_of(later) == [days[19], days[29]]
    with pytest.raises(ValueError, match="predictions for 3 sessions: a check needs 4"):
        cuts_of(replace(history, predictions={day: DaySignals() for day in days[:3]}))


# --- the first difference in words --------------------------------------------------------------------------------


def changed(history: MarketHistory, day: date, **fields: Any) -> MarketHistory:
    """The first signal of a day otherwise."""
    said = history.predictions[day]
    symbol = min(said.signals)
    signals = {**said.signals, symbol: replace(said.signals[symbol], **fields)}
    return replace(history, predictions={**history.predictions, day: replace(said, signals=signals)})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"expected_return_net": 0.024}, "expected_return_net 0.04 became 0.024"),
        ({"target": D("1")}, "became 1"),
        ({"cluster": "X"}, "cluster"),
        ({"certified_modes": frozenset()}, "certified_modes aggressive,conservative,moderate became nothing"),
        ({"touch": {0.02: 0.9}}, "touch[0] 0.99 became nothing"),
        ({"model_version": None}, "model_version test became nothing"),
    ],
)
def test_a_prediction_that_changed_is_told_field_by_field(fields: dict[str, Any], words: str) -> None:
    history = random_market()
    day = next(day for day, said in history.predictions.items() if said.signals)
    symbol = min(history.predictions[day].signals)
    told = first_difference(history, changed(history, day, **fields), day)
    assert told is not None
    assert told.startswith(f"{day} prediction of {symbol} (planted): ")
    assert words in told
    assert first_difference(history, changed(history, day, **fields), day - timedelta(days=1)) is None


def test_last_bits_of_statistics_are_no_difference() -> None:
    history = random_market()
    day = next(day for day, said in history.predictions.items() if said.signals)
    assert first_difference(history, changed(history, day, expected_return_net=0.04 + 1e-14), day) is None
    assert first_difference(history, changed(history, day, expected_return_net=0.04 + 1e-8), day) is not None


def test_markets_differ_in_members_actions_bars_index_and_moments() -> None:
    history = random_market(1, Interval.MIN_5)
    days, share = days_of(history), history.shares["S1"]
    volume = share.volume.copy()
    volume[75] = 1
    said = DaySignals({"S0": signal("S0", D(100))})
    cases = {
        f"{days[1]} members: nothing became S0": {"members": {**history.members, days[1]: frozenset({"S0"})}},
        f"{days[2]} action: nothing became S0 dividend 1:1, 5, None": {
            "actions": [CorporateAction("S0", days[2], ActionKind.DIVIDEND, amount=D(5))]
        },
        f"{days[1]} 09:15 bar of S1: volume {share.volume[75]} became 1": {
            "shares": {**history.shares, "S1": replace(share, volume=volume)}
        },
        f"{days[0]} 09:15 bar of S1: one became nothing": {
            "shares": {symbol: each for symbol, each in history.shares.items() if symbol != "S1"}
        },
        f"{days[3]} session: {history.sessions[3]} became nothing": {"sessions": history.sessions[:3]},
        f"{days[2]} index level: nothing became 7.0": {"benchmark": [(days[2], 7.0)]},
        f"{days[1]} 09:16 prediction of S0 (planted): nothing became buy": {
            "timed": [(_open_s(history, 1) + 60, days[1], said)]
        },
    }
    for words, fields in cases.items():
        assert first_difference(history, replace(history, **fields), days[-1]) == words
        assert first_difference(history, replace(history, **fields), days[0] - timedelta(days=1)) is None


def test_the_earliest_day_counts_and_shares_that_were_no_members_do_not() -> None:
    history = random_market()
    days = days_of(history)
    both = changed(replace(history, benchmark=[(days[1], 7.0)]), days[20], cluster="X")
    assert first_difference(history, both, days[-1]) == f"{days[1]} index level: nothing became 7.0"
    later = changed(replace(history, benchmark=[(days[30], 7.0)]), days[20], cluster="X")
    assert (first_difference(history, later, days[-1]) or "").startswith(f"{days[20]} prediction of ")
    member = replace(history, members={days[0]: frozenset({"S0"}), days[30]: frozenset({"S0", "S1"})})
    without = replace(member, shares={symbol: each for symbol, each in member.shares.items() if symbol != "S1"})
    assert first_difference(member, without, days[29]) is None
    assert first_difference(member, without, days[30]) == f"{days[0]} bar of S1: one became nothing"


def test_what_was_said_for_the_session_after_a_day_is_compared() -> None:
    history = random_market()
    days = days_of(history)
    day = next(day for day in days if history.predictions[day].signals)
    other, symbol = changed(history, day, cluster="X"), min(history.predictions[day].signals)
    before = days[days.index(day) - 1]
    told = first_signal_difference(history, other, day, before)
    assert told is not None
    assert told.startswith(f"{day} prediction of {symbol} (planted): cluster ")
    assert first_signal_difference(history, history, day, before) is None


def result_with(result: BacktestResult, **fields: Any) -> BacktestResult:
    trader: TraderResult = replace(result.traders[0], **fields)
    return replace(result, traders=(trader,))


def nth(records: Sequence[Any], number: int, **fields: Any) -> tuple[Any, ...]:
    return tuple(replace(each, **fields) if place == number else each for place, each in enumerate(records))


def test_results_differ_in_orders_fills_trades_and_curve() -> None:
    history = random_market()
    result = run(spec_of(history), history)
    trader, last = result.traders[0], days_of(history)[-1]
    order, curve = trader.orders[4], trader.curve
    number, trade = next((n, t) for n, t in enumerate(trader.trades) if t.closed_at)
    assert trade.closed_at is not None
    fill, equity = order.fills[0], curve.equity.copy()
    equity[6] += 0.5
    name = f"{order.side.value} {order.quantity} {order.symbol}"
    ends = trade.closed_at.date()
    at = days_of(history)[5]
    cases = {
        f"{order.at.date()} moderate: order 5 ({name}): state {order.state} became expired": {
            "orders": nth(trader.orders, 4, state=OrderState.EXPIRED)
        },
        f"{order.at.date()} moderate: fill of order 5 ({name}): price {fill.price} became 1": {
            "orders": nth(trader.orders, 4, fills=(replace(fill, price=D(1)), *order.fills[1:]))
        },
        f"{ends} moderate: trade {trade.number} ({trade.symbol}, {trade.status}): stop {trade.stop} became 1": {
            "trades": nth(trader.trades, number, stop=D(1))
        },
        f"{at} 15:30 moderate: equity: {curve.equity[6]:.2f} became {equity[6]:.2f}": {
            "curve": replace(curve, equity=equity)
        },
    }
    for words, fields in cases.items():
        told = first_difference(result, result_with(result, **fields), last)
        assert told is not None
        assert told.replace("moderate: 15:30 ", "15:30 moderate: ") == words
        assert first_difference(result, result_with(result, **fields), FIRST) is None
    late = trader.orders[-1]
    gone = first_difference(result, result_with(result, orders=trader.orders[:-1]), last)
    words = (
        f"order {late.number} ({late.side} {late.quantity} {late.symbol}): {late.side} {late.quantity} {late.symbol}"
    )
    assert gone == f"{late.at.date()} moderate: {words} became nothing"


def test_only_alike_can_be_compared() -> None:
    history = random_market()
    one, other = run(spec_of(history), history), run(spec_of(history, Mode.AGGRESSIVE), history)
    with pytest.raises(ValueError, match="not of the same traders"):
        first_difference(one, other, FIRST)
