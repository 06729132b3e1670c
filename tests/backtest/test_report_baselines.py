"""The baselines: arithmetic by hand, charges to the paisa, and entries at random that earn what they must."""

from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from market_columns import market, sessions, walk
from report_cases import FIRST, D, priced, still_open, trade, traded

from backend.backtest.history import MarketHistory
from backend.backtest.report.baselines import buy_and_hold, equal_weight
from backend.backtest.report.panel import Adjusted, adjusted, panel_of
from backend.backtest.report.random_entries import ChargeTable, Plans, plans_of, random_entries, simulate
from backend.domain.charges import charges_for, dp_charge
from backend.domain.corporate_actions import ActionKind, CorporateAction
from backend.domain.market import Exchange, Product, Side
from backend.domain.sizing import ENTRY_CHARGES_FRACTION
from contracts.market import Interval

NO_COST = D(0)


def days_of(history: MarketHistory) -> list[date]:
    return [session.day for session in history.sessions]


def flat(*closes: float) -> list[tuple[float, float, float, float]]:
    """Bars without a range."""
    return [(price, price, price, price) for price in closes]


def charged(side: Side, shares: int, price: Decimal, on: date) -> Decimal:
    depository = dp_charge() if side is Side.SELL else D(0)
    return charges_for(side, Product.CNC, Exchange.NSE, shares, price, on=on).total + depository


def test_bought_at_the_first_open_and_held_to_the_last_close() -> None:
    history = priced({"AAA": [(100, 100, 100, 100), (105, 110, 104, 110)], "BBB": [(250, 255, 245, 250)] * 2})
    days = days_of(history)
    found = buy_and_hold(panel_of(history, days), D(100_000), NO_COST)
    shares = {"AAA": int(D(50_000) / (100 * (1 + ENTRY_CHARGES_FRACTION))), "BBB": 199}
    paid = charged(Side.BUY, shares["AAA"], D(100), days[0]) + charged(Side.BUY, shares["BBB"], D(250), days[0])
    cash = D(100_000) - shares["AAA"] * 100 - shares["BBB"] * 250 - paid
    assert found.charges == paid
    assert found.orders == 2
    assert found.close[0] == pytest.approx(float(cash + shares["AAA"] * 100 + shares["BBB"] * 250))
    assert found.close[1] == pytest.approx(float(cash + shares["AAA"] * 110 + shares["BBB"] * 250))
    assert 0.99 < found.invested < 1


def test_an_order_pays_its_cost_per_price() -> None:
    history = priced({"AAA": flat(100, 100)})
    panel = panel_of(history, days_of(history))
    free, dear = (buy_and_hold(panel, D(100_000), D(cost)) for cost in ("0", "0.01"))
    assert free.close[-1] - dear.close[-1] == pytest.approx(100_000 * 0.01 / 1.01, rel=0.01)


def test_a_split_is_no_loss_and_a_dividend_a_gain() -> None:
    first = FIRST + timedelta(days=1)
    split = CorporateAction("AAA", first, ActionKind.SPLIT, shares_before=1, shares_after=5)
    plain = priced({"AAA": flat(1000, 1000, 1000)})
    halved = priced({"AAA": flat(1000, 200, 200)}, [split])
    days = days_of(plain)
    held, split_held = (buy_and_hold(panel_of(one, days), D(100_000), NO_COST) for one in (plain, halved))
    assert split_held.close == pytest.approx(held.close)
    paid = CorporateAction("AAA", first, ActionKind.DIVIDEND, amount=D(10))
    gained = buy_and_hold(panel_of(replace(plain, actions=(paid,)), days), D(100_000), NO_COST)
    assert gained.close - held.close == pytest.approx([0, 990, 990])


def test_a_renamed_share_goes_on_under_its_new_name() -> None:
    history = priced({"OLD": flat(100, 100, 100), "NEW": flat(100, 100, 120)})
    rename = CorporateAction("OLD", days_of(history)[1], ActionKind.RENAME, new_symbol="NEW")
    history = replace(history, actions=(rename,), members={FIRST: frozenset({"OLD"})})
    found = buy_and_hold(panel_of(history, days_of(history)), D(100_000), NO_COST)
    assert found.close[-1] / found.close[0] == pytest.approx(1.2, abs=0.002)


def test_a_split_while_a_share_does_not_trade_is_no_loss() -> None:
    split = CorporateAction("AAA", FIRST + timedelta(days=1), ActionKind.SPLIT, shares_before=1, shares_after=5)
    history = priced({"AAA": flat(1000, 1, 200), "BBB": flat(100, 100, 100)}, [split])
    panel = panel_of(history, days_of(history))
    for values in (panel.open, panel.high, panel.low, panel.close):
        values[1, panel.symbols.index("AAA")] = 0
    found = buy_and_hold(panel, D(100_000), NO_COST)
    assert np.ptp(found.close) < 1


def test_equal_weights_follow_the_members_of_each_month() -> None:
    count = 45
    history = priced({"AAA": flat(*[100] * count), "BBB": flat(*[100] * count), "CCC": flat(*[100] * count)})
    days = days_of(history)
    turned = next(day for day in days if day.month == 2)
    members = {days[0]: frozenset({"AAA", "BBB"}), turned - timedelta(days=1): frozenset({"BBB", "CCC"})}
    panel = panel_of(replace(history, members=members), days)
    found = equal_weight(panel, D(100_000), NO_COST)
    # Two buys; in February one sale and one buy; in March nothing has moved.
    assert found.orders == 4
    sold = int(D(50_000) / (100 * (1 + ENTRY_CHARGES_FRACTION)))
    first = 2 * charged(Side.BUY, sold, D(100), days[0])
    last = found.charges - first - charged(Side.SELL, sold, D(100), turned)
    assert any(last == charged(Side.BUY, bought, D(100), turned) for bought in range(sold - 5, sold + 1))
    assert found.close[-1] == pytest.approx(100_000 - float(found.charges))
    assert buy_and_hold(panel, D(100_000), NO_COST).orders == 2


def test_rebalancing_sells_what_has_grown_and_buys_what_has_fallen() -> None:
    count = 30
    history = priced({"AAA": flat(100, *[200] * (count - 1)), "BBB": flat(100, *[50] * (count - 1))})
    panel = panel_of(history, days_of(history))
    found = equal_weight(panel, D(100_000), NO_COST)
    assert found.orders == 4
    assert found.close[-1] == pytest.approx(499 * 250 + 200 - float(found.charges), abs=1)


@pytest.mark.parametrize("seed", range(12))
def test_a_baseline_never_spends_what_it_has_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = sessions(FIRST, 22)
    names = [f"S{n}" for n in range(6)]
    history = market({n: walk(rng, 22, price=int(rng.integers(5_000, 90_000)), spread=0.08) for n in names}, found)
    days = days_of(history)
    # The sales of February's first session bring in less than the shares were worth at its open.
    panel = panel_of(history, days[: 1 + next(n for n, day in enumerate(days) if day.month == 2)])
    for baseline in (buy_and_hold, equal_weight):
        one = baseline(panel, D(100_000), D("0.03"))
        assert one.cash >= 0
        assert 0 <= one.invested <= 1


def test_sessions_are_made_of_bars() -> None:
    found = sessions(FIRST, 3)
    rng = np.random.default_rng(3)
    history = market({"AAA": walk(rng, 240)}, found, interval=Interval.MIN_5)
    share = history.shares["AAA"]
    panel = panel_of(history, [session.day for session in found[1:]])
    bars = len(share) // 3
    for row in range(2):
        of_day = slice((row + 1) * bars, (row + 2) * bars)
        assert panel.open[row, 0] == share.open[of_day][0]
        assert panel.high[row, 0] == share.high[of_day].max()
        assert panel.low[row, 0] == share.low[of_day].min()
        assert panel.close[row, 0] == share.close[of_day][-1]


def test_no_sessions_give_an_empty_account() -> None:
    history = priced({"AAA": flat(100, 100)})
    panel = panel_of(history, [])
    assert len(buy_and_hold(panel, D(1000), NO_COST).close) == 0
    assert random_entries([trade()], panel, adjusted(panel), [], 0.0, seed=1) is None


@given(
    st.sampled_from([0, 1]),
    st.sampled_from([Side.BUY, Side.SELL]),
    st.dates(date(2019, 1, 1), date(2026, 10, 30)),
    st.integers(1, 3000),
    st.decimals("1", "5000", places=2),
)
@settings(max_examples=200, deadline=None)
def test_charges_of_many_are_the_charges_modules(
    intraday: int, side: Side, on: date, shares: int, price: Decimal
) -> None:
    product = Product.MIS if intraday else Product.CNC
    expected = charges_for(side, product, Exchange.NSE, shares, price, on=on).total
    if side is Side.SELL and product is Product.CNC:
        expected += dp_charge()
    table = ChargeTable([date(2020, 1, 1), on])
    found = table.of(side, np.array([intraday]), np.array([1]), np.array([float(shares * price)]))
    assert float(found[0]) == pytest.approx(float(expected), rel=1e-12)


def _plan(target: float, stop: float, horizon: int, *, intraday: bool = False) -> Plans:
    return Plans(
        np.array([target]), np.array([stop]), np.array([horizon]), np.array([100_000.0]), np.array([int(intraday)])
    )


def _left(history: MarketHistory, plans: Plans, *, row: int = 0, cost: float = 0.0) -> float:
    """Gross return of one entry: its net one and the charges it paid."""
    days = days_of(history)
    panel = panel_of(history, days)
    free = ChargeTable(days)
    free.of = lambda side, intraday, day, turnover: np.zeros(len(turnover))  # type: ignore[method-assign]
    one, none = np.array([row]), np.array([0])
    return float(simulate(plans, none, one, none, adjusted(panel), free, cost)[0])


UP, DOWN, STILL, NONE = (100, 112, 99, 110), (100, 101, 88, 90), (100, 101, 99, 100), (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("bars", "expected", "why"),
    [
        ([STILL, UP, STILL], 0.05, "the target's price, inside the bar"),
        ([STILL, DOWN, STILL], -0.05, "the stop's price, inside the bar"),
        ([STILL, (100, 112, 88, 100), STILL], -0.05, "both in one bar: the stop first"),
        ([STILL, (80, 120, 79, 110), STILL], -0.20, "a gap through the stop fills at the open"),
        ([STILL, (110, 112, 90, 95), STILL], 0.10, "a gap through the target fills at the open, before its fall"),
        ([UP, STILL, STILL], 0.05, "the entry's own bar counts"),
        ([DOWN, STILL, STILL], -0.05, "the entry's own bar counts against it too"),
        ([STILL, STILL, (100, 104, 99, 103), DOWN], 0.03, "the horizon's close"),
        ([STILL, (100, 101, 99, 101)], 0.01, "what is still held is worth its last close"),
        ([STILL, UP, NONE, (98, 104, 97, 103)], 0.05, "what was left before is not left again"),
        ([STILL, STILL, NONE, NONE, (98, 104, 97, 103)], -0.02, "no trade at its horizon: the next open"),
        ([STILL, STILL, NONE, (80, 120, 79, 110)], -0.20, "overdue, it leaves at the open, wherever its target is"),
        ([STILL, (100, 104, 99, 103), NONE, NONE], 0.03, "it stopped trading: held at its last close"),
    ],
)
def test_a_position_leaves_by_the_bars(
    bars: list[tuple[float, float, float, float]], expected: float, why: str
) -> None:
    assert _left(priced({"AAA": bars}), _plan(0.05, 0.05, 2)) == pytest.approx(expected), why


def test_each_side_pays_its_cost_and_its_charges() -> None:
    history = priced({"AAA": [STILL, STILL, STILL]})
    days = days_of(history)
    assert _left(history, _plan(0.5, 0.5, 1), cost=0.01) == pytest.approx(0.99 / 1.01 - 1)
    panel, place = panel_of(history, days), np.array([0])
    found = simulate(_plan(0.5, 0.5, 1), place, place, place, adjusted(panel), ChargeTable(days), 0.0)
    expected = charged(Side.BUY, 1000, D(100), days[0]) + charged(Side.SELL, 1000, D(100), days[1])
    assert float(found[0]) == pytest.approx(-float(expected) / 100_000)
    held = simulate(_plan(0.5, 0.5, 9), place, place, place, adjusted(panel), ChargeTable(days), 0.0)
    assert float(held[0]) == pytest.approx(-float(charged(Side.BUY, 1000, D(100), days[0])) / 100_000)


def test_what_stopped_trading_is_not_sold() -> None:
    history = priced({"AAA": [STILL, STILL, NONE, NONE]})
    days, place = days_of(history), np.array([0])
    prices = adjusted(panel_of(history, days))
    found = simulate(_plan(0.5, 0.5, 2), place, place, place, prices, ChargeTable(days), 0.01)
    bought = float(charged(Side.BUY, 1000, D(100), days[0])) / 100_000
    assert float(found[0]) == pytest.approx(1 / 1.01 - 1 - bought), "neither the cost of a sale nor its charges"


def test_a_split_and_a_dividend_are_adjusted_for() -> None:
    split = CorporateAction("AAA", FIRST + timedelta(days=1), ActionKind.SPLIT, shares_before=1, shares_after=2)
    paid = CorporateAction("AAA", FIRST + timedelta(days=1), ActionKind.DIVIDEND, amount=D(4))
    bars = [(100, 101, 99, 100), (50, 50.5, 49.5, 50), (50, 50.5, 49.5, 51)]
    assert _left(priced({"AAA": bars}, [split]), _plan(0.05, 0.05, 2)) == pytest.approx(0.02)
    # Four rupees on a share from before the split, on the scale after it two of fifty.
    assert _left(priced({"AAA": bars}, [split, paid]), _plan(0.05, 0.05, 2)) == pytest.approx(0.06)
    assert _left(priced({"AAA": bars}, [split, paid]), _plan(0.05, 0.05, 1), row=1) == pytest.approx(0.02)


def test_plans_are_the_trades_own() -> None:
    history = priced({"AAA": flat(*[100] * 20)})
    first = trade(entry_price=D(100), target=D(106), stop=D(97), horizon_ends_on=days_of(history)[4])
    intraday = trade(product=Product.MIS, target=D(101), stop=D(99))
    odd = trade(target=D(99))
    found = plans_of([first, intraday, odd], history.session_days)
    assert found.target == pytest.approx([0.06, 0.01])
    assert found.stop == pytest.approx([0.03, 0.01])
    assert list(found.horizon) == [4, 0]
    assert list(found.intraday) == [0, 1]
    assert list(found.value) == [10_000, 10_000]


def _drawn(history: MarketHistory, trades: list[Any], **more: Any) -> Any:
    panel = panel_of(history, days_of(history))
    return random_entries(trades, panel, adjusted(panel), history.session_days, 0.0, seed=5, **more)


def test_only_members_that_traded_are_entered() -> None:
    history = priced({"AAA": flat(*[100] * 30), "BBB": [(100, 300, 100, 300)] * 30})
    history = replace(history, members={FIRST: frozenset({"AAA"})})
    found = _drawn(history, [trade(n, target=D(300)) for n in range(5)])
    assert found.mean_return.max() < 0, "the share that gains is no member"


def test_chance_does_as_well_as_it_must() -> None:
    _, history = traded(100, 4)
    own = [trade(n, day=n, target=D(103), stop=D(97), horizon_ends_on=days_of(history)[10]) for n in range(12)]
    worst, best = ([replace(one, realized_pnl=D(pnl)) for one in own] for pnl in (-5000, 5000))
    assert _drawn(history, worst).p_mean_return == 1
    assert _drawn(history, best).p_mean_return == pytest.approx(1 / 201)
    assert _drawn(history, best).p_total == pytest.approx(1 / 201)
    again = [_drawn(history, own) for _ in range(2)]
    assert (again[0].mean_return == again[1].mean_return).all()
    assert again[0].mean_return.shape == (200,)
    assert again[0].entries == 12


def test_the_traders_own_figure_is_what_its_trades_earned() -> None:
    _, history = traded(60, 3)
    found = _drawn(history, [trade(pnl=250), still_open(number=2)])
    assert found.own_total_rupees == pytest.approx(250 - 12.5 + 300)
    assert found.own_mean_return == pytest.approx((0.025 + 0.02875) / 2)


def test_chunks_draw_what_one_piece_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    _, history = traded(60, 3)
    whole = _drawn(history, [trade(n) for n in range(4)])
    monkeypatch.setattr("backend.backtest.report.random_entries._ENTRIES_AT_ONCE", 37)
    assert _drawn(history, [trade(n) for n in range(4)]).mean_return == pytest.approx(whole.mean_return)


def test_entries_of_one_time_stay_together() -> None:
    # One session gains 10 % in every share, all others nothing: a burst of entries is there as a whole or not at all.
    rises = [(100, 110, 100, 110) if place == 20 else (100, 100, 100, 100) for place in range(40)]
    history = priced({"AAA": rises, "BBB": rises})
    burst = [trade(n, day=0, target=D(108), stop=D(50), horizon_ends_on=FIRST) for n in range(10)]
    found = _drawn(history, burst)
    gained = found.mean_return > 0.05
    assert np.ptp(found.mean_return[gained]) < 1e-3
    assert np.ptp(found.mean_return[~gained]) < 1e-3
    assert gained.mean() == pytest.approx(1 / 40, abs=0.03)


def test_a_session_without_a_share_to_enter_gives_way_to_the_next() -> None:
    bars = [(100, 110, 100, 100)] * 10 + flat(*[100] * 20)
    history = priced({"AAA": bars, "BBB": bars})
    days = days_of(history)
    panel = panel_of(replace(history, members={days[0]: frozenset(), days[10]: frozenset({"BBB"})}), days)
    found = random_entries([trade(n) for n in range(4)], panel, adjusted(panel), days, 0.0, seed=1)
    assert found is not None
    assert np.isfinite(found.mean_return).all()
    assert found.mean_return.max() < 0


def test_random_entries_in_a_random_walk_lose_their_charges() -> None:
    found = sessions(FIRST, 250)
    rng = np.random.default_rng(4)
    history = market({f"S{n}": walk(rng, 250, spread=0.01) for n in range(30)}, found)
    own = [trade(n, target=D(103), stop=D(97), horizon_ends_on=days_of(history)[5]) for n in range(60)]
    drawn = _drawn(history, own)
    value, on = D(10_000), days_of(history)[100]
    round_trip = charged(Side.BUY, 100, D(100), on) + charged(Side.SELL, 100, D(100), on)
    assert drawn.mean_return.mean() == pytest.approx(-float(round_trip / value), abs=0.002)


def test_adjusted_prices_hold_the_last_close() -> None:
    history = priced({"AAA": flat(100, 101, 102), "BBB": flat(50, 51, 52)})
    panel = panel_of(history, days_of(history))
    gone = panel.close.copy()
    gone[1:, 1] = 0
    found: Adjusted = adjusted(replace(panel, close=gone))
    assert found.held[:, 1] == pytest.approx([50, 50, 50])
    assert found.held[:, 0] == pytest.approx([100, 101, 102])
