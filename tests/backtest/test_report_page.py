"""The page and its JSON: sums that add up, words that follow from figures, and nothing of a user's run as markup."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_cases import FIRST, D, still_open, trade, traded

from backend.backtest.engine import run
from backend.backtest.history import MarketHistory
from backend.backtest.report import Report, build, build_sweep, charts, formats, page
from backend.backtest.report.series import daily
from backend.backtest.report.trades import episodes, grouped, net_return, trade_estimates
from backend.backtest.report.verdict import verdict
from backend.backtest.result import BacktestResult
from backend.domain.corporate_actions import ActionKind, CorporateAction
from backend.domain.decide import TradeStatus
from backend.domain.modes import Mode
from backend.domain.reasons import Reason

NASTY = "<script>alert('x')</script>&\"'"
Pair = tuple[BacktestResult, MarketHistory]


@pytest.fixture(scope="module")
def one() -> Pair:
    return traded(130, 6)


@pytest.fixture(scope="module")
def report(one: Pair) -> Report:
    return build(*one, universe="nifty_50", benchmark_name="NIFTY 50")


class Page(HTMLParser):
    """What a browser would build: tags, their attributes, and text outside styles and scripts."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data


def walked(value: Any) -> Iterator[Any]:
    """Every leaf of a JSON value."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from walked(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from walked(inner)
    else:
        yield value


def test_the_summary_is_json_and_holds_no_number_that_is_none(report: Report) -> None:
    assert json.loads(json.dumps(report.summary, allow_nan=False))["universe"] == "nifty_50"
    assert all(leaf is None or isinstance(leaf, str | int | float) for leaf in walked(report.summary))


def test_costs_add_up_to_what_trades_paid(one: Pair, report: Report) -> None:
    costs = report.summary["traders"][0]["costs"]
    kinds = sum(Decimal(amount) for kind, amount in costs.items() if kind != "total")
    assert abs(kinds - Decimal(costs["total"])) <= D("0.05"), "each kind is rounded to the paisa"
    paid = sum((trade.charges for trade in one[0].traders[0].trades), D(0))
    assert abs(Decimal(costs["total"]) - paid) <= D("0.01")
    assert Decimal(costs["stt"]) > 0
    assert Decimal(costs["dp"]) > 0


def test_the_change_of_equity_is_explained(one: Pair, report: Report) -> None:
    told, found = report.summary["traders"][0], one[0].traders[0]
    pnl = {name: Decimal(amount) for name, amount in told["pnl"].items()}
    assert pnl["change"] == round(found.equity - found.trader.capital, 2)
    assert abs(pnl["other"]) <= D("0.05")
    for group in ("by_symbol", "by_strategy", "by_exit_reason"):
        assert abs(sum(Decimal(row["pnl"]) for row in told[group]) - pnl["change"]) <= D("0.5"), group
        assert sum(row["trades"] for row in told[group]) == told["trades"]["entered"]
    assert float(pnl["change"] / found.trader.capital) == pytest.approx(told["metrics"]["total_return"]["value"])


def test_months_and_curve_come_to_the_total(report: Report) -> None:
    told = report.summary["traders"][0]
    years = np.prod([1 + row["total"] for row in told["monthly"]]) - 1
    assert years == pytest.approx(told["metrics"]["total_return"]["value"])
    assert told["curve"]["account"][-1] - 1 == pytest.approx(told["metrics"]["total_return"]["value"], abs=1e-6)
    lengths = {len(values) for values in told["curve"].values()}
    assert lengths == {told["sessions"]} == {130}


def test_intervals_hold_their_values(report: Report) -> None:
    for name in ("total_return", "sharpe", "volatility", "hit_rate", "expectancy_rupees", "profit_factor"):
        estimate = report.summary["traders"][0]["metrics"][name]
        assert estimate["low"] < estimate["value"] < estimate["high"], name


def test_the_same_seed_gives_the_same_page_and_another_another(one: Pair, report: Report) -> None:
    again = build(*one, universe="nifty_50", benchmark_name="NIFTY 50")
    assert again == report
    assert build(*one, seed=8).summary["traders"][0]["metrics"] != report.summary["traders"][0]["metrics"]


def test_progress_is_told_to_its_end(one: Pair) -> None:
    told: list[float] = []
    build(*one, progress=lambda part, _: told.append(part))
    assert told == sorted(told)
    assert told[-1] == 1


def test_the_page_is_one_file_of_well_formed_parts(report: Report) -> None:
    seen = Page(report.html)
    assert not seen.open
    assert {"link", "img", "iframe", "object"}.isdisjoint(seen.tags)
    assert not [value for _, name, value in seen.attributes if name in {"src", "href", "action"}]
    assert "http" not in report.html
    assert "url(" not in report.html
    charts_drawn = [value for tag, name, value in seen.attributes if tag == "svg" and name == "aria-label"]
    assert len(charts_drawn) >= 6
    assert seen.tags["caption"] == seen.tags["table"] > 8
    assert "nan" not in seen.text.lower().split()


def test_the_page_says_what_was_asked(report: Report) -> None:
    text = " ".join(Page(report.html).text.split())
    for words in (
        "moderate mode",
        "nifty_50",
        "₹5,00,000",
        "NIFTY 50",
        "sauda backtest --mode moderate --capital 500000 --product cnc --from 2023-01-02",
        "130 sessions",
    ):
        assert words in text
    for heading in ("Equity", "Drawdown", "Months", "Trades on the price", "Exposure", "Costs by kind", "Assumptions"):
        assert heading in text


@pytest.mark.parametrize(
    ("benchmark", "said"), [("NIFTY 50", "NIFTY 50"), ("", "No index to compare with (none is stored)")]
)
def test_an_index_is_named_only_where_there_is_one(one: Pair, benchmark: str, said: str) -> None:
    result, history = one
    if not benchmark:
        result, history = replace(result, benchmark=()), replace(history, benchmark=())
    found = build(result, history, benchmark_name=benchmark or "NIFTY 50")
    text = Page(found.html).text
    assert said in text
    assert ("NIFTY 50" in text) == bool(benchmark)
    assert found.summary["traders"][0]["benchmark"] == (benchmark or "the universe at equal weights")


def test_names_and_notes_are_text_and_never_markup(one: Pair) -> None:
    result, history = one
    found = result.traders[0]
    trades = tuple(replace(t, strategy=NASTY, symbol=NASTY if t.symbol == "SH1" else t.symbol) for t in found.trades)
    nasty = replace(found, trades=trades, trader=replace(found.trader, name=NASTY))
    symbols = tuple(NASTY if symbol == "SH1" else symbol for symbol in result.prices.symbols)
    result = replace(
        result,
        traders=(nasty, nasty),
        notes=(NASTY,),
        idle={NASTY: 3},
        provider=NASTY,
        prices=replace(result.prices, symbols=symbols),
    )
    seen = Page(build(result, history, universe=NASTY, benchmark_name=NASTY).html)
    assert seen.tags["script"] == 1
    assert seen.text.count(NASTY) > 10
    assert not [name for _, name, _ in seen.attributes if name.startswith("on")]
    told = [json.loads(value) for _, name, value in seen.attributes if name == "data-told"]
    assert any(NASTY in names["names"] for names in told)


def test_several_traders_stand_side_by_side() -> None:
    found = build(*traded(60, 4, modes=(Mode.MODERATE, Mode.AGGRESSIVE)))
    text = Page(found.html).text
    assert "Side by side" in text
    assert [one["name"] for one in found.summary["traders"]] == ["moderate", "aggressive"]


def test_an_account_that_never_traded_has_a_page(one: Pair) -> None:
    result, history = traded(40, 2, rate=0.0)
    found = build(result, history)
    told = found.summary["traders"][0]
    assert told["verdict"][0]["text"].startswith("It did not trade")
    assert told["trades"]["entered"] == 0
    assert told["metrics"]["sharpe"]["value"] is None
    assert told["metrics"]["hit_rate"]["value"] is None
    assert told["baselines"]["random_entries"] is None
    json.dumps(found.summary, allow_nan=False)
    assert not Page(found.html).open


@pytest.mark.parametrize("sessions", [1, 2, 3])
def test_very_few_sessions_have_a_page(sessions: int) -> None:
    found = build(*traded(sessions, 2, rate=0.9))
    json.dumps(found.summary, allow_nan=False)
    assert found.summary["traders"][0]["sessions"] == sessions
    assert not Page(found.html).open


def test_a_run_stopped_before_its_first_session_has_a_page(one: Pair) -> None:
    result, history = one
    curve = result.traders[0].curve
    start = replace(curve, at=curve.at[:1], cash=curve.cash[:1], positions=curve.positions[:1], equity=curve.equity[:1])
    stopped = replace(
        result, interrupted=True, traders=(replace(result.traders[0], curve=start, trades=(), orders=()),)
    )
    found = build(stopped, history)
    json.dumps(found.summary, allow_nan=False)
    assert "stopped before its last session" in Page(found.html).text


def test_trades_from_before_a_split_are_drawn_on_the_adjusted_closes(one: Pair) -> None:
    result, history = one
    early = trade(1, symbol="SH1", entry_price=D(5000), exit_price=D(5100), target=D(5500), stop=D(4500))
    split = CorporateAction("SH1", FIRST + timedelta(days=40), ActionKind.SPLIT, shares_before=1, shares_after=5)
    closes = page.Closes(result.prices, [split])
    assert closes.scale_after(early) == pytest.approx(0.2)
    assert closes.scale_after(replace(early, symbol="SH2")) == 1
    assert closes.scale_after(trade(2, symbol="SH1", day=41)) == 1
    assert closes.scale_after(still_open(number=3, symbol="SH1")) == 1
    found = replace(result, traders=(replace(result.traders[0], trades=(early,)),))
    drawn = build(found, replace(history, actions=(split,))).html
    heights = {
        sign: float(y)
        for sign, y in re.findall(r"<g class='(\w+)[^>]*><title>[^<]*</title><path d='M\S+ ([\d.]+)", drawn)
    }
    assert abs(heights["entry"] - heights["exit"]) < 60, "a fifth of 5,000 and of 5,100 lie close together"


def test_a_run_that_was_stopped_judges_each_trader_on_their_own_sessions() -> None:
    whole, history = traded(60, 3, modes=(Mode.MODERATE, Mode.AGGRESSIVE))
    looks = iter(range(1000))
    stopped = run(whole.spec, history, stopped=lambda: next(looks) > 20)
    spans = [len(daily(found.curve).days) for found in stopped.traders]
    assert stopped.interrupted
    assert spans[0] > spans[1]
    found = build(stopped, history)
    assert [one["sessions"] for one in found.summary["traders"]] == spans
    json.dumps(found.summary, allow_nan=False)
    assert not Page(found.html).open


def test_a_long_list_of_trades_says_what_it_leaves_out(one: Pair) -> None:
    result, history = one
    many = tuple(trade(number, symbol="SH1") for number in range(1, 731))
    found = build(replace(result, traders=(replace(result.traders[0], trades=many),)), history)
    assert "The first 500 of 730 trades" in Page(found.html).text


# trades


def test_trades_figures_by_hand() -> None:
    trades = [trade(1, pnl=300), trade(2, pnl=-100, day=1), trade(3, pnl=200, day=2), trade(4, pnl=-150, day=3)]
    days = [FIRST + timedelta(days=n) for n in range(10)]
    found = {name: estimate.value for name, estimate in trade_estimates(trades, days, seed=1).items()}
    assert found == pytest.approx(
        {
            "hit_rate": 0.5,
            "expectancy_rupees": 62.5,
            "expectancy_return": 0.00625,
            "profit_factor": 2.0,
            "payoff": 2.0,
            "holding_sessions": 3,
        }
    )


def test_trades_of_one_day_count_as_one_look_at_the_market() -> None:
    pnl = [400, -300, 500, -200, 300, -350, 250, -100]
    days = [FIRST + timedelta(days=n) for n in range(30)]
    apart = [trade(number, day=number % 8, pnl=pnl[number % 8]) for number in range(80)]
    spread = [trade(number, day=number % 20, pnl=pnl[(number * 7 + number // 20) % 8]) for number in range(80)]
    clustered, mixed = (trade_estimates(trades, days, seed=2)["expectancy_rupees"] for trades in (apart, spread))
    assert clustered.low is not None
    assert mixed.low is not None
    assert clustered.high is not None
    assert mixed.high is not None
    assert clustered.high - clustered.low > 1.5 * (mixed.high - mixed.low)
    few = trade_estimates([trade(n, day=n % 4) for n in range(40)], days, seed=2)
    assert few["hit_rate"].low is None


def test_no_losing_trade_has_no_profit_factor() -> None:
    days = [FIRST + timedelta(days=n) for n in range(30)]
    found = trade_estimates([trade(n, day=n) for n in range(10)], days, seed=1)
    assert found["profit_factor"].value is None
    assert found["payoff"].value is None
    assert found["hit_rate"].value == 1


@pytest.mark.parametrize(
    ("days", "horizon", "expected"),
    [([], 5, 0), ([0, 0, 0], 5, 1), ([0, 3, 5], 5, 1), ([0, 3, 6, 8, 11], 5, 2), ([0, 6, 12], 5, 3), ([0, 1], 0, 2)],
)
def test_an_episode_takes_in_all_entries_up_to_its_horizon(days: list[int], horizon: int, expected: int) -> None:
    trades = [trade(n, day=day, horizon_ends_on=FIRST + timedelta(days=day + horizon)) for n, day in enumerate(days)]
    assert episodes(trades) == expected


def test_groups_count_open_trades_and_dividends() -> None:
    trades = [trade(1, dividends=D(50)), still_open(number=2, symbol="XYZ")]
    found = {group.name: group for group in grouped(trades, lambda one: one.symbol)}
    assert found["ABC"].pnl == 150
    assert found["XYZ"].pnl == D("287.5")
    assert net_return(trades[0]) == pytest.approx(0.015)


# the verdict


def _told(**more: Any) -> dict[str, Any]:
    def estimate(value: float, low: float | None, high: float | None) -> dict[str, float | None]:
        return {"value": value, "low": low, "high": high}

    random = {"p_mean_return": more.pop("p", 0.01), "draws": 200}
    return {
        "trades": {"entered": more.pop("entered", 200), "episodes": more.pop("episodes", 40)},
        "metrics": {
            "expectancy_rupees": estimate(100, more.pop("low", 20), more.pop("high", 180)),
            "sharpe": estimate(1.5, more.pop("sharpe_low", 0.5), 2.5),
            "total_return": estimate(0.3, None, None),
            "exposure": estimate(0.5, None, None),
            "alpha": estimate(0.1, 0.02, 0.2),
        },
        "sessions": 1000,
        "equity": "500000.00",
        "stranded": more.pop("stranded", []),
        "benchmark": "NIFTY 50",
        "pnl": {"before_charges": more.pop("gross", "50000.00")},
        "costs": {"total": "10000.00"},
        "overfitting": {
            "track_record_sessions_min": more.pop("needed", 300.0),
            "deflated_sharpe": 0.99,
            "trials": more.pop("trials", 1),
        },
        "baselines": {"random_entries": random, "buy_and_hold": {"total_return": more.pop("held", 0.2)}},
        **more,
    }


ASKED = {"environment": "paper", "interrupted": False}


@pytest.mark.parametrize(
    ("more", "tone", "words"),
    [
        ({}, "good", "speak for an edge"),
        ({"episodes": 14, "entered": 52}, "caution", "52 trades in 14 separate episodes: too few"),
        ({"episodes": 19}, "caution", "better than chance, but so few episodes do not bear it out."),
        ({"episodes": 19}, "caution", "above zero, but so few episodes do not bear it out."),
        ({"episodes": 19}, "caution", "in shares on average, but so few episodes do not bear it out."),
        ({"episodes": 20}, "good", "better than chance."),
        ({"episodes": 19, "p": 0.8}, "bad", "the entries cannot be told from chance."),
        (
            {"stranded": [{"value": "20000.00"}] * 2},
            "caution",
            "₹40,000 of the equity (8 %) is in 2 shares that stopped",
        ),
        ({"p": 0.005}, "good", "(p < .01)"),
        ({"p": 0.3}, "caution", "(p = .30)"),
        ({"p": 0.8}, "bad", "cannot be told from chance"),
        ({"low": -5}, "caution", "zero lies inside"),
        ({"low": -90, "high": -10}, "bad", "below zero"),
        ({"sharpe_low": -0.2}, "caution", "zero lies inside"),
        ({"held": 0.9}, "caution", "Buying the universe"),
        ({"needed": 2500.0}, "caution", "needs 2,500 sessions"),
        ({"gross": "8000.00"}, "bad", "more than all it earned"),
        ({"gross": "-1.00"}, "bad", "even before ₹10,000 of charges"),
        ({"gross": "15000.00"}, "caution", "67 %"),
        ({"entered": 0, "episodes": 0}, "caution", "did not trade"),
    ],
)
def test_the_verdict_follows_from_the_figures(more: dict[str, Any], tone: str, words: str) -> None:
    found = verdict(_told(**more), ASKED)
    assert found[0].tone == tone
    assert any(words in one.text for one in found)


@pytest.mark.parametrize("more", [{}, {"held": 0.9}, {"needed": 2500.0}, {"trials": 9}])
def test_nothing_is_praised_on_few_episodes(more: dict[str, Any]) -> None:
    assert "good" in {one.tone for one in verdict(_told(), ASKED)}
    assert "good" not in {one.tone for one in verdict(_told(episodes=19, entered=20, **more), ASKED)}


def test_a_simulated_market_proves_nothing_of_a_real_one() -> None:
    found = verdict(_told(), ASKED | {"environment": "simulated"})
    assert found[0].tone == "caution"
    assert "simulated" in found[1].text


# sweeps


def test_a_sweep_judges_the_best_by_how_many_were_tried() -> None:
    runs = [({"rate": rate, "mode": NASTY}, traded(80, 3, rate=rate)[0]) for rate in (0.05, 0.2, 0.5)]
    _, history = traded(80, 3)
    found = build_sweep(runs, history, universe="nifty_50")
    json.dumps(found.summary, allow_nan=False)
    ratios = [row["sharpe"] for row in found.summary["runs"]]
    assert ratios == sorted(ratios, reverse=True)
    assert found.summary["best"]["metrics"]["sharpe"]["value"] == ratios[0]
    sure = found.summary["overfitting"]
    assert sure["trials"] == found.summary["combinations"] == 3
    assert sure["deflated_sharpe"] < sure["probabilistic_sharpe"]
    assert sure["sharpe_variance"] == pytest.approx(np.var(np.array(ratios) / 252**0.5, ddof=1))
    assert sum(sure["logits"]["counts"]) == sure["splits"] == 70
    seen = Page(found.html)
    assert seen.tags["script"] == 1
    assert not seen.open
    assert seen.text.count(NASTY) == 3


def test_stopped_runs_are_left_out_of_a_sweep_and_told() -> None:
    result, history = traded(45, 2)
    stopped = replace(result, interrupted=True)
    found = build_sweep([({"a": 1}, result), ({"a": 2}, stopped)], history)
    assert found.summary["combinations"] == 1
    assert any("1 run of the sweep not finished" in note for note in found.summary["notes"])
    assert found.summary["overfitting"]["probability"] is None
    with pytest.raises(ValueError, match="no run of the sweep was finished"):
        build_sweep([({"a": 2}, stopped)], history)
    with pytest.raises(ValueError, match="different sessions"):
        build_sweep([({"a": 1}, result), ({"a": 2}, traded(40, 2)[0])], history)


# formats and drawings


@pytest.mark.parametrize(
    ("amount", "digits", "written"),
    [
        (D(0), 0, "₹0"),
        (D(999), 0, "₹999"),
        (D(1000), 0, "₹1,000"),
        (D(123456), 0, "₹1,23,456"),
        (D("-12345678.905"), 2, "−₹1,23,45,678.91"),
        (D("0.4"), 0, "₹0"),
        (D("99999.995"), 2, "₹1,00,000.00"),
        (None, 0, "–"),
    ],
)
def test_rupees_are_grouped_as_in_india(amount: Decimal | None, digits: int, written: str) -> None:
    assert formats.rupees(amount, digits) == written


@given(st.integers(-(10**12), 10**12))
def test_grouping_loses_no_digit(whole: int) -> None:
    written = formats.grouped(whole)
    assert int(written.replace(",", "").replace("−", "-")) == whole
    assert re.fullmatch(r"−?\d{1,2}(,\d{2})*,\d{3}|−?\d{1,3}", written)


@pytest.mark.parametrize(
    ("fraction", "written"),
    [(0.0123, "+1.2 %"), (-0.5, "−50.0 %"), (0.0, "0.0 %"), (-0.0001, "0.0 %"), (12.5, "+1,250.0 %"), (None, "–")],
)
def test_percentages_have_signs(fraction: float | None, written: str) -> None:
    assert formats.percent(fraction) == written


@given(st.floats(-1e7, 1e7), st.floats(0, 1e7))
def test_ticks_cover_what_is_drawn(low: float, span: float) -> None:
    levels = charts.ticks(low, low + span)
    assert levels[0] <= low + 1e-6 * max(span, 1)
    assert levels[-1] >= low + span - 1e-6 * max(span, 1)
    assert 2 <= len(levels) <= 13


@pytest.mark.parametrize("most", [0.00003, 0.0002, 0.008, 0.011, 0.06, 0.4, 12.0])
def test_levels_of_a_chart_are_told_apart(most: float) -> None:
    drawn = charts.line_chart("x", [FIRST, FIRST + timedelta(days=1)], [charts.Line("x", np.array([0.0, most]))])
    labels = re.findall(r"class='ylab'[^>]*>([^<]+)<", drawn)
    assert len(labels) > 2
    assert len(set(labels)) == len(labels)
    steps = np.diff([float(label.replace("−", "-").replace(",", "").removesuffix(" %")) for label in labels])
    assert np.ptp(steps) < 1e-9


def test_thinning_keeps_every_peak() -> None:
    values = np.sin(np.arange(5000) / 7)
    values[1234], values[4321], values[77] = 9.0, -9.0, np.nan
    kept = charts.thinned(values, 200)
    assert {0, 1234, 4321, 4999} <= set(kept.tolist())
    assert 77 not in kept
    assert len(kept) <= 202


def test_six_years_of_fifty_shares_stay_small() -> None:
    # Curves are thinned for drawing: 250 sessions weigh nearly what 1,500 do. The trades are made as many.
    result, history = traded(250, 50, rate=0.1)
    found = result.traders[0]
    assert len(found.trades) > 300
    result = replace(result, traders=(replace(found, trades=found.trades * 5),))
    found = build(result, history)
    assert len(found.html.encode()) < 1_500_000


def test_a_page_has_room_for_so_many_marks(one: Pair) -> None:
    result, history = one
    many = tuple(trade(number, symbol="SH0" if number <= 2700 else f"SH{number % 6}") for number in range(1, 3001))
    found = build(replace(result, traders=(replace(result.traders[0], trades=many),)), history)
    assert len(found.html.encode()) < 1_500_000
    assert "5 shares with the fewest trades not drawn" in Page(found.html).text
    assert found.html.count("<g class='entry'>") == 2500


def test_every_refusal_is_told_with_what_it_means(one: Pair) -> None:
    result, history = one
    denied = dict.fromkeys(Reason, 1)
    text = Page(build(replace(result, traders=(replace(result.traders[0], denied=denied),)), history).html).text
    assert "at the looks at which something was decided, counted once per session" in text
    assert all(formats.words(reason.value) in text for reason in Reason)


def test_what_was_never_filled_is_no_trade(one: Pair) -> None:
    result, history = one
    unfilled = trade(99, entry_quantity=0, entry_price=None, status=TradeStatus.CANCELLED, opened_at=None)
    found = replace(result.traders[0], trades=(*result.traders[0].trades, unfilled))
    before, after = (
        build(replace(result, traders=(one,)), history).summary["traders"][0] for one in (result.traders[0], found)
    )
    assert after["trades"]["never_filled"] == before["trades"]["never_filled"] + 1
    assert after["metrics"] == before["metrics"]
    assert isinstance(date.fromisoformat(after["curve"]["days"][0]), date)
