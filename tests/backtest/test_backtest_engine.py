"""The backtest's engine: what arithmetic says an account must hold, on markets small enough to compute by hand."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from market_columns import (
    Ohlcv,
    bars_of,
    market,
    random_predictions,
    sessions,
    share,
    signal,
    walk,
)

from backend.backtest.account import Account, Position, SimTrade
from backend.backtest.engine import Simulation, run
from backend.backtest.history import DaySignals, MarketHistory, ShareHistory
from backend.backtest.market import Market
from backend.backtest.result import BacktestResult, OrderRecord, TraderResult
from backend.backtest.spec import Proceeds, Spec, Trader
from backend.domain.charges import charges_on_turnover, contract_note, dp_charge, rates_on
from backend.domain.corporate_actions import ActionKind, CorporateAction, Levels
from backend.domain.decide import ExitReason, PlannedEntry, TradeStatus
from backend.domain.market import Exchange, OrderType, Product, Side
from backend.domain.matching import FillModel, Match
from backend.domain.modes import Mode
from backend.domain.orders import Intent, OrderEventKind, OrderState
from backend.domain.ranking import SignalAction
from backend.domain.reasons import Reason
from backend.domain.risk import OrderIntent, RiskLimits
from contracts.market import Interval

D = Decimal
FIRST = date(2023, 1, 2)
INTRADAY_BARS = 76


def spec_of(history: MarketHistory, *modes: Mode, **more: Any) -> Spec:
    traders = more.pop("traders", tuple(Trader(mode.value, mode) for mode in modes or (Mode.MODERATE,)))
    days = history.sessions
    return Spec(days[0].day, days[-1].day, traders, history.interval, **more)


def one(history: MarketHistory, **more: Any) -> TraderResult:
    return run(spec_of(history, **more), history).traders[0]


def flat(*closes: float, volume: int = 5_000_000) -> Ohlcv:
    """Daily bars that open where the last one closed, between their open and close; rupees."""
    prices = np.array(closes) * 100
    opens = np.concatenate([prices[:1], prices[:-1]])
    return bars_of(opens, np.maximum(opens, prices), np.minimum(opens, prices), prices, np.full(len(prices), volume))


def day_bars(*bars: tuple[float, float, float, float], volume: int = 5_000_000) -> Ohlcv:
    """(open, high, low, close) in rupees."""
    columns = [np.array(column) * 100 for column in zip(*bars, strict=True)]
    return bars_of(*columns, np.full(len(bars), volume))


def with_buy(bars: Ohlcv, reference: float, **more: Any) -> MarketHistory:
    """A market of one share that is to be bought in its second session."""
    found = sessions(FIRST, len(bars["close"]))
    said = {found[1].day: DaySignals({"ABC": signal("ABC", D(str(reference)), **more)})}
    return market({"ABC": bars}, found, said)


def _approved(history: MarketHistory) -> tuple[Any, Any]:
    """An approval and its candidate, as the decision makes them."""
    simulation = Simulation(spec_of(history), Market(history), Trader("one", Mode.MODERATE))
    for day in Market(history).days[:2]:
        simulation.trade(day)
    planned = simulation.account.trades[0].planned
    return planned.approved, planned.candidate


def random_market(seed: int, interval: Interval = Interval.DAY_1, rate: float = 0.12) -> MarketHistory:
    rng = np.random.default_rng(seed)
    daily = interval is Interval.DAY_1
    found = sessions(FIRST, 60 if daily else 6)
    count, spread = (60, 0.02) if daily else (6 * INTRADAY_BARS, 0.004)
    bars = {f"S{i}": walk(rng, count, spread=spread) for i in range(6)}
    thin = {"S0": {**bars["S0"], "volume": bars["S0"]["volume"] // 400}}  # orders that fill in parts, or not at all
    history = market(bars | thin, found, interval=interval)
    return replace(history, predictions=random_predictions(rng, history.shares, found, rate))


# --- the order path on hand-made bars ---------------------------------------------------------------------------


def test_a_target_is_reached_and_every_rupee_is_accounted_for() -> None:
    bars = day_bars((100, 100, 100, 100), (100, 101, 99.5, 100), (100, 107, 100, 105))
    result = one(with_buy(bars, 100))
    (trade,) = result.trades
    buy, sell = result.orders
    assert (trade.status, trade.exit_reason) == (TradeStatus.CLOSED, ExitReason.TARGET)
    # 7.5 % of 500,000 at a limit of 100.30 and 0.15 % of reserve; filled at the ask and one step of slippage.
    assert buy.limit_price == D("100.30")
    assert buy.quantity == int(D(37_500) / (D("100.30") * D("1.0015")))
    assert trade.entry_price == D("100.10")
    assert trade.exit_price == D("105.90")  # the target of 106, its bid, and slippage
    note = sum((each.charges.total for each in (buy, sell) if each.charges), D(0)) + dp_charge()
    gross = (D("105.90") - D("100.10")) * buy.quantity
    assert trade.realized_pnl == gross - note
    assert result.cash == result.equity == 500_000 + gross - note


@pytest.mark.parametrize(
    ("third", "exit_reason", "price"),
    [
        ((100, 102, 93, 95), ExitReason.STOP, "93.90"),  # passes through its stop of 94
        ((90, 95, 89, 94), ExitReason.STOP, "89.90"),  # opens far below it: that is what there is to sell at
        ((100, 107, 93, 100), ExitReason.STOP, "93.90"),  # reaches both: the stop came first, as nobody can tell
        ((108, 110, 107, 109), ExitReason.TARGET, "107.90"),  # opens beyond the target
    ],
)
def test_gaps_and_ranges_are_read_cautiously(third: tuple[float, ...], exit_reason: ExitReason, price: str) -> None:
    bars = day_bars((100, 100, 100, 100), (100, 101, 99.5, 100), third)  # pyright: ignore[reportArgumentType]
    (trade,) = one(with_buy(bars, 100)).trades
    assert (trade.exit_reason, trade.exit_price) == (exit_reason, D(price))


def test_a_trade_may_end_in_the_bar_it_began_in() -> None:
    bars = day_bars((100, 100, 100, 100), (100, 101, 93, 99), (99, 99, 99, 99))
    (trade,) = one(with_buy(bars, 100)).trades
    assert trade.exit_reason is ExitReason.STOP
    assert trade.opened_at is not None
    assert trade.closed_at is not None
    assert trade.opened_at.date() == trade.closed_at.date()


def test_the_horizon_ends_a_trade_before_its_last_close() -> None:
    result = one(with_buy(flat(100, 100, 101, 101, 102, 103), 100, horizon=2))
    (trade,) = result.trades
    assert (trade.exit_reason, trade.exit_price) == (ExitReason.HORIZON, D("100.90"))
    assert trade.closed_at is not None
    assert trade.closed_at.date() == trade.horizon_ends_on


def test_an_intraday_trade_is_squared_off_on_its_day() -> None:
    history = with_buy(flat(100, 100, 100, 100), 100, horizon=1)
    trader = Trader("intraday", Mode.MODERATE, product=Product.MIS)
    (trade,) = one(history, traders=(trader,)).trades
    assert trade.exit_reason is ExitReason.SQUARE_OFF
    assert trade.closed_at is not None
    assert trade.closed_at.date() == history.sessions[1].day


def test_a_sell_signal_ends_a_trade_at_the_next_open() -> None:
    history = with_buy(flat(100, 100, 100, 100, 100), 100)
    sell = DaySignals({"ABC": signal("ABC", D(100), action=SignalAction.SELL)})
    history = replace(history, predictions={**history.predictions, history.sessions[3].day: sell})
    (trade,) = one(history).trades
    assert trade.exit_reason is ExitReason.OPPOSITE_SIGNAL
    assert trade.closed_at is not None
    assert trade.closed_at.date() == history.sessions[3].day


def test_a_price_that_has_moved_from_the_predictions_is_left_alone() -> None:
    bars = day_bars((100, 100, 100, 100), (101.6, 102, 101, 102), (102, 103, 101, 102))
    result = one(with_buy(bars, 100))
    assert not result.orders
    (order,) = one(with_buy(day_bars((100, 100, 100, 100), (101.4, 102, 101, 102)), 100)).orders
    assert order.state is OrderState.FILLED


def test_a_share_locked_at_its_upper_band_is_not_to_be_had() -> None:
    bars = day_bars((100, 100, 100, 100), (101, 101, 101, 101), (101, 101, 101, 101))
    history = with_buy(bars, 100)
    locked = replace(history.shares["ABC"], upper_band=np.array([12_000, 10_100, 12_000]))
    result = one(replace(history, shares={"ABC": locked}))
    (order,) = result.orders
    assert (order.state, order.filled_quantity) == (OrderState.EXPIRED, 0)
    assert result.cash == 500_000
    assert result.trades[0].status is TradeStatus.CANCELLED


def test_no_more_is_filled_than_a_part_of_the_volume() -> None:
    bars = day_bars((100, 100, 100, 100), (100, 101, 99, 100), (100, 101, 99, 100), volume=75_000)
    (order,) = one(with_buy(bars, 100)).orders
    assert order.filled_quantity == 100  # a tenth of a seventy-fifth of the day's shares
    assert order.state in {OrderState.EXPIRED, OrderState.CANCELLED}


def test_a_split_is_neither_gain_nor_loss_and_a_dividend_is_cash() -> None:
    bars = day_bars((100, 100, 100, 100), (100, 101, 99, 100), (50, 51, 49.5, 50), (50, 51, 49.5, 50))
    history = with_buy(bars, 100)
    on = history.sessions[2].day
    split = CorporateAction("ABC", on, ActionKind.SPLIT, 1, 2)
    paid = CorporateAction("ABC", on, ActionKind.DIVIDEND, amount=D(1))
    plain, result = one(history), one(replace(history, actions=(split, paid)))
    assert plain.trades[0].exit_reason is ExitReason.STOP
    (trade,) = result.trades
    bought = result.orders[0].filled_quantity
    assert (trade.status, trade.entry_quantity) == (TradeStatus.OPEN, 2 * bought)
    assert (trade.target, trade.stop) == (D("53"), D("47"))
    assert trade.dividends == bought
    paid_in = result.cash - 500_000 + sum(f.price * f.quantity + f.charges for f in result.orders[0].fills)
    assert paid_in == bought
    assert result.equity == result.cash + 50 * 2 * bought


@pytest.mark.parametrize(("proceeds", "locked"), [(Proceeds.AT_ONCE, D(0)), (Proceeds.SETTLED, D(9_000))])
def test_unsettled_proceeds_are_not_free_where_they_must_settle(proceeds: Proceeds, locked: Decimal) -> None:
    found = sessions(date(2023, 2, 1), 2)  # T+1 by then
    account = Account(D(500_000), found[0].windows_non_cas[0].start, FillModel(), proceeds)
    account.positions["ABC"] = Position(100, D(10_000))
    history = with_buy(flat(100, 100, 100), 100)
    planned = PlannedEntry(*_approved(history), found[1].day)
    trade = SimTrade(
        1, "ABC", planned, "moderate", found[0].windows_non_cas[0].start, Levels(100, D(100), D(106), D(94))
    )
    intent = OrderIntent("ABC", "NSE", Side.SELL, Product.CNC, OrderType.LIMIT, 100, D(90), Intent.EXIT)
    at = found[0].windows_non_cas[2].start
    order = account.record(trade, intent, at, "planted", D(500_000))
    order.event(OrderEventKind.SUBMITTED)
    account.rest(order)
    account.book(order, Match(100, D(90), triggered=True), at)
    charges = order.fills[0].charges
    assert account.cash - account.books_free(found[0].day) == (locked - charges if locked else 0)
    assert account.books_free(found[1].day) == account.cash == 509_000 - charges


def test_only_members_of_the_day_are_entered() -> None:
    history = with_buy(flat(100, 100, 100, 100), 100)
    later = replace(history, members={history.sessions[2].day: frozenset({"ABC"})})
    assert one(history).trades
    assert not one(later).trades


def test_the_plans_entries_bound_a_day() -> None:
    found = sessions(FIRST, 4)
    names = ["A", "B", "C"]
    said = {found[1].day: DaySignals({n: signal(n, D(100)) for n in names})}
    history = market({n: flat(100, 100, 100, 100) for n in names}, found, said)
    result = one(history, traders=(Trader("small", Mode.MODERATE, entries_per_day_max=2),))
    assert len(result.trades) == 2
    assert result.denied == {Reason.PLAN_LIMIT: 1}


def test_latency_makes_an_order_meet_the_next_bar() -> None:
    history = random_market(5, Interval.MIN_5, rate=0.3)
    at_once, late = run(spec_of(history), history), run(spec_of(history, latency_bars=1), history)
    first, second = at_once.traders[0].orders[0], late.traders[0].orders[0]
    assert first.at == second.at
    assert first.fills[0].at == first.at
    assert all(fill.at > order.at for order in late.traders[0].orders for fill in order.fills)


@pytest.mark.parametrize("latency", [2, 3])
def test_with_any_latency_what_must_be_left_is_left(latency: int) -> None:
    """An order rests from its arrival on, however late that is."""
    found = sessions(FIRST, 2)
    closes = np.concatenate([np.full(20, 10_000), np.linspace(10_000, 9_000, 30), np.full(110, 9_000)])
    bars = bars_of(closes, closes + 5, closes - 5, closes, np.full(160, 1_000_000))
    said = {found[0].day: DaySignals({"ABC": signal("ABC", D(100))})}
    history = market({"ABC": bars}, found, said, Interval.MIN_5)
    (trade,) = one(history, latency_bars=latency).trades
    assert (trade.status, trade.exit_reason) == (TradeStatus.CLOSED, ExitReason.STOP)


def test_a_late_order_pays_spread_and_slippage_like_any_other() -> None:
    found = sessions(FIRST, 1)
    flat_bars = bars_of(*(np.full(80, 10_000) for _ in range(4)), np.full(80, 1_000_000))
    said = {found[0].day: DaySignals({"ABC": signal("ABC", D(100))})}
    history = market({"ABC": flat_bars}, found, said, Interval.MIN_5)
    paid = [one(history, latency_bars=late).orders[0].fills[0].price for late in (0, 1, 2)]
    assert paid == [D("100.10")] * 3
    dear = one(history, latency_bars=1, fills=FillModel(slippage=D("0.001"))).orders[0].fills[0].price
    assert dear == D("100.20")


def test_on_daily_bars_entries_are_made_at_opens_only() -> None:
    """What an exit at the open makes room for is not bought at noon, when another share meets its stop."""
    found = sessions(FIRST, 4)
    calm, gaps = day_bars(*[(100, 101, 99, 100)] * 4), day_bars(*[(100, 101, 99, 100)] * 2, *[(90, 91, 89, 90)] * 2)
    falls = day_bars((100, 101, 99, 100), (100, 101, 99, 100), (100, 101, 90, 92), (92, 93, 91, 92))
    said = {
        found[1].day: DaySignals({"A": signal("A", D(100), cluster="one"), "B": signal("B", D(100), cluster="two")}),
        found[2].day: DaySignals({"C": signal("C", D(100), cluster="one")}),
    }
    history = market({"A": gaps, "B": falls, "C": calm}, found, said)
    result = one(history, limits=RiskLimits(cluster_positions_max=1))
    assert [trade.exit_reason for trade in result.trades] == [ExitReason.STOP, ExitReason.STOP]
    assert result.denied[Reason.CLUSTER_FULL] == 1


def test_what_cannot_be_sold_at_its_stop_is_tried_again_before_the_close() -> None:
    bars = day_bars((100, 101, 99, 100), (100, 101, 99, 100), (100, 100, 90, 92), (92, 93, 91, 92))
    bars = {**bars, "volume": np.array([5_000_000, 5_000_000, 10, 5_000_000])}
    history = with_buy(bars, 100)
    screened, every = (run(spec_of(history), history, every_look=each).traders[0] for each in (False, True))
    assert screened.orders == every.orders
    tried = [order for order in screened.orders if order.at.date() == history.sessions[2].day]
    assert [order.side for order in tried] == [Side.SELL, Side.SELL]
    assert screened.trades[0].status is TradeStatus.CLOSED


def test_a_share_at_its_lower_band_by_the_close_is_not_sold_there() -> None:
    history = with_buy(
        day_bars((100, 100, 100, 100), (100, 101, 99, 100), (100, 100, 80, 80)), 100, stop=0.5, horizon=1
    )
    banded = replace(history.shares["ABC"], lower_band=np.array([8_000, 8_000, 8_000]))
    result = one(replace(history, shares={"ABC": banded}))
    assert result.trades[0].status is TradeStatus.OPEN
    assert not any(order.fills for order in result.orders if order.side is Side.SELL)


def test_a_split_without_figures_leaves_the_holding_alone_and_ends_no_run() -> None:
    bars = day_bars((100, 100, 100, 100), (100, 101, 99, 100), (50, 51, 49.5, 50), (50, 51, 49.5, 50))
    history = with_buy(bars, 100)
    on = history.sessions[2].day
    unknown = CorporateAction("ABC", on, ActionKind.SPLIT, 0, 0)
    bonus = CorporateAction("ABC", on, ActionKind.BONUS, 1, 2)
    assert one(replace(history, actions=(unknown,))).trades[0].status is TradeStatus.OPEN
    assert one(replace(history, actions=(unknown, bonus))).trades[0].status is TradeStatus.OPEN


def test_an_action_on_a_day_without_session_is_felt_on_the_next() -> None:
    bars = day_bars(*[(100, 101, 99, 100)] * 5, (50, 51, 49.5, 50), (50, 51, 49.5, 50))
    history = with_buy(bars, 100)
    before, after = history.sessions[4].day, history.sessions[5].day
    assert (after - before).days > 1, "a weekend lies between"
    split = CorporateAction("ABC", before + timedelta(days=1), ActionKind.SPLIT, 1, 2)
    result = one(replace(history, actions=(split,)))
    assert result.trades[0].status is TradeStatus.OPEN
    assert result.trades[0].entry_quantity == 2 * result.orders[0].filled_quantity


def test_a_split_while_a_share_does_not_trade_is_no_gain() -> None:
    bars = day_bars(*[(100, 101, 99, 100)] * 3, (50, 50, 50, 50), (50, 51, 49.5, 50))
    history = with_buy(bars, 100)
    columns = {
        name: np.delete(getattr(history.shares["ABC"], name), 3)
        for name in ShareHistory.__dataclass_fields__
        if name != "symbol"
    }
    split = CorporateAction("ABC", history.sessions[3].day, ActionKind.SPLIT, 1, 2)
    gap = replace(history, shares={"ABC": ShareHistory("ABC", **columns)}, actions=(split,))
    assert np.ptp(one(gap).curve.equity) < 500
    day = Market(gap).days[3]
    assert day.last("ABC", day.look(0)) == day.last("ABC", day.close) == 5_000


def test_daily_bars_have_no_latency_in_bars() -> None:
    history = with_buy(flat(100, 100), 100)
    with pytest.raises(ValueError, match="intraday"):
        spec_of(history, latency_bars=1)


# --- what must hold on any market -------------------------------------------------------------------------------


def charges_again(order: OrderRecord) -> Decimal:
    """From the charges module and the fills alone."""
    turnover = sum((fill.price * fill.quantity for fill in order.fills), D(0))
    if not turnover:
        return D(0)
    rates = rates_on(order.product, Exchange.NSE, order.fills[0].at.date())
    return charges_on_turnover(rates, order.side, turnover).total


def must_add_up(result: TraderResult, capital: Decimal) -> None:
    """Cash, shares, charges and trades say the same."""
    assert np.allclose(result.curve.cash + result.curve.positions, result.curve.equity, rtol=0, atol=1e-6)
    assert result.curve.equity[0] == float(capital)
    assert result.curve.equity[-1] == pytest.approx(float(result.equity), abs=1e-6)
    cash, dp_days = capital, set()
    for order in result.orders:
        paid = sum((fill.charges for fill in order.fills), D(0))
        assert paid == charges_again(order) + order.dp_charge
        if order.dp_charge:
            assert (order.symbol, order.fills[0].at.date()) not in dp_days
            dp_days.add((order.symbol, order.fills[0].at.date()))
        value = sum((fill.price * fill.quantity for fill in order.fills), D(0))
        cash += -value - paid if order.side is Side.BUY else value - paid
        assert order.filled_quantity == sum(fill.quantity for fill in order.fills) <= order.quantity
    assert cash == result.cash
    profit = sum((trade.realized_pnl + trade.unrealized_pnl for trade in result.trades), D(0))
    assert profit == result.equity - capital
    assert sum((t.charges for t in result.trades), D(0)) == sum(
        (f.charges for o in result.orders for f in o.fills), D(0)
    )


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), interval=st.sampled_from([Interval.DAY_1, Interval.MIN_5]))
def test_books_add_up_and_the_screen_leaves_out_nothing(seed: int, interval: Interval) -> None:
    history = random_market(seed, interval, rate=0.25)
    spec = spec_of(history, Mode.CONSERVATIVE, Mode.AGGRESSIVE)
    screened, every = run(spec, history), run(spec, history, every_look=True)
    for mine, theirs in zip(screened.traders, every.traders, strict=True):
        must_add_up(mine, mine.trader.capital)
        assert mine.orders == theirs.orders
        assert mine.trades == theirs.trades
        assert (mine.curve.equity == theirs.curve.equity).all()


def test_a_days_notes_hold_the_charges_of_its_orders() -> None:
    """The rounding of a contract note is at most half a rupee of STT and stamp duty each, and a few paise."""
    result = run(spec_of(history := random_market(3, rate=0.3)), history).traders[0]
    by_day: dict[date, list[OrderRecord]] = {}
    for order in result.orders:
        if order.charges is not None:
            by_day.setdefault(order.fills[0].at.date(), []).append(order)
    assert len(by_day) > 10
    for orders in by_day.values():
        note = contract_note(order.charges for order in orders if order.charges is not None)
        exact = sum((order.charges.total for order in orders if order.charges is not None), D(0))
        assert abs(note.total - exact) <= D("1.03")


def test_the_same_history_gives_the_same_result() -> None:
    history = random_market(11)
    first, second = run(spec_of(history), history), run(spec_of(history), history)
    assert first.traders[0].orders == second.traders[0].orders


def test_a_stopped_run_says_so_and_keeps_what_it_has() -> None:
    history = random_market(11)
    asked = iter([False] * 30 + [True] * 100)
    result = run(spec_of(history), history, stopped=lambda: next(asked))
    assert result.interrupted
    whole = run(spec_of(history), history).traders[0]
    end = history.sessions[29].day
    assert [o for o in result.traders[0].orders if o.at.date() < end] == [o for o in whole.orders if o.at.date() < end]
    assert result.traders[0].curve.at[-1] < whole.curve.at[-1]


# --- what must come out of known strategies ---------------------------------------------------------------------


def oracle(history: MarketHistory, bars: Mapping[str, Ohlcv]) -> dict[date, DaySignals]:
    """Knows each day's close: buys what rises by more than 3 % from its open, to be sold there."""
    said: dict[date, DaySignals] = {}
    for number, session in enumerate(history.sessions):
        found = {}
        for symbol, columns in bars.items():
            opens, closes = int(columns["open"][number]), int(columns["close"][number])
            if number and closes > opens * 1.03:
                rise = closes / opens
                found[symbol] = signal(symbol, D(opens) / 100, target=rise - 0.002, stop=0.5, horizon=1)
        said[session.day] = DaySignals(found)
    return said


def test_an_oracle_earns_what_arithmetic_says() -> None:
    rng = np.random.default_rng(8)
    found = sessions(FIRST, 120)
    bars = {f"S{i}": walk(rng, 120, spread=0.03) for i in range(5)}
    history = market(bars, found)
    history = replace(history, predictions=oracle(history, bars))
    result = one(history)
    must_add_up(result, D(500_000))
    won = [trade for trade in result.trades if trade.realized_pnl > 0]
    assert len(result.trades) > 40
    assert len(won) == len(result.trades)
    for trade in result.trades:
        assert trade.entry_price is not None
        assert trade.exit_price is not None
        # the target, less a bid's half spread and slippage of a few ticks
        assert trade.exit_price >= trade.target * D("0.9990") - D("0.15")
    earned = sum((trade.realized_pnl for trade in result.trades), D(0))
    assert result.equity == 500_000 + earned


def test_a_random_strategy_loses_its_charges_and_slippage() -> None:
    """On a martingale, entries at random earn minus what trading costs, within three standard errors."""
    net, cost = [], []
    for seed in range(6):
        history = random_market(100 + seed, rate=0.2)
        result: BacktestResult = run(spec_of(history), history)
        for trade in result.traders[0].trades:
            if trade.status is TradeStatus.CLOSED and trade.entry_price is not None:
                value = float(trade.entry_price * trade.entry_quantity)
                net.append(float(trade.realized_pnl) / value)
                cost.append(float(trade.charges) / value)
    error = np.std(net) / np.sqrt(len(net))
    assert len(net) > 250
    assert np.mean(net) < 0
    assert abs(np.mean(net) + np.mean(cost)) < 3 * error + 0.002


def test_shares_of_one_market_are_laid_alike() -> None:
    found = sessions(FIRST, 3)
    columns = share("ABC", walk(np.random.default_rng(1), 3 * INTRADAY_BARS), found, Interval.MIN_5)
    assert len(columns) == 3 * 75
    assert (np.diff(columns.start) > 0).all()
