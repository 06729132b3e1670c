"""What the report makes of choices: traders and settings as tries, assumptions as none, and too little as nothing."""

import json
from dataclasses import fields, replace
from io import StringIO
from typing import Any

import numpy as np
import pytest
from market_columns import market, random_predictions, sessions, walk
from report_cases import FIRST, D, still_open, trade, traded
from rich.console import Console

from backend.backtest.engine import run
from backend.backtest.history import MarketHistory, ShareHistory
from backend.backtest.report import Report, build, build_sweep, formats
from backend.backtest.report.assumptions import CAUTION, by_caution, most_cautious
from backend.backtest.report.metrics import per_session_sharpe, withheld
from backend.backtest.report.overfitting import deflated_sharpe
from backend.backtest.report.series import daily
from backend.backtest.report.stranded import stranded_of
from backend.backtest.report.sweep import sweep_verdict
from backend.backtest.request import PARAMETERS, with_values
from backend.backtest.result import BacktestResult
from backend.backtest.spec import Spec, Trader
from backend.domain.modes import Mode
from sauda.backtest_summary import print_summary

MODES = (Mode.CONSERVATIVE, Mode.MODERATE, Mode.AGGRESSIVE)
Pair = tuple[BacktestResult, MarketHistory]


@pytest.fixture(scope="module")
def one() -> Pair:
    return traded(60, 3)


def printed(report: Report) -> str:
    console = Console(width=300, record=True, file=StringIO())
    print_summary(report.summary, console, interrupted=False)
    return console.export_text()


def plain_text(html: str) -> str:
    return " ".join(html.replace("\u00a0", " ").split())


# traders of one run


def test_traders_with_different_settings_are_tries() -> None:
    result, history = traded(60, 4)
    asked = (
        Trader("a", Mode.MODERATE),
        Trader("b", Mode.MODERATE, entries_per_day_max=1),
        Trader("c", Mode.AGGRESSIVE, entries_per_day_max=2),
    )
    result = run(replace(result.spec, traders=asked), history)
    returns = [daily(found.curve).returns for found in result.traders]
    variance = float(np.var([per_session_sharpe(one) for one in returns], ddof=1))
    assert variance > 0
    found = build(result, history)
    for told, own in zip(found.summary["traders"], returns, strict=True):
        sure = told["overfitting"]
        assert sure["trials"] == 3
        assert sure["deflated_sharpe"] == pytest.approx(deflated_sharpe(own, 3, variance))
        assert sure["deflated_sharpe"] < sure["probabilistic_sharpe"]
        assert any("Allowing for 3 tries" in line["text"] for line in told["verdict"])
    assert "Their 3 different settings are as many tries" in plain_text(found.html)
    assert build(result, history, trials=4).summary["traders"][0]["overfitting"]["trials"] == 12


def test_a_name_and_more_money_are_no_other_try() -> None:
    result, history = traded(60, 3)
    asked = (Trader("a", Mode.MODERATE), Trader("b", Mode.MODERATE, D(900_000)))
    found = build(run(replace(result.spec, traders=asked), history), history)
    sure = found.summary["traders"][0]["overfitting"]
    assert sure["trials"] == 1
    assert sure["deflated_sharpe"] == sure["probabilistic_sharpe"]
    assert "as many tries" not in found.html


# sweeps


def swept(history: MarketHistory, spec: Spec, **values: list[Any]) -> list[tuple[dict[str, Any], BacktestResult]]:
    """Every combination of the values, by the engine."""
    combinations: list[dict[str, Any]] = [{}]
    for name, many in values.items():
        combinations = [found | {name: value} for found in combinations for value in many]
    return [(found, run(with_values(spec, found), history)) for found in combinations]


def test_a_kind_assumption_is_no_choice(one: Pair) -> None:
    result, history = one
    runs = swept(history, result.spec, mode=["moderate", "aggressive"], slippage_fraction=["0", "0.01", "0.002"])
    assert len({found.traders[0].equity for _, found in runs}) == 6
    found = build_sweep(runs, history)
    told = found.summary
    assert max(runs, key=lambda run: run[1].traders[0].equity)[0]["slippage_fraction"] == "0"
    assert told["best_parameters"]["slippage_fraction"] == "0.01"
    assert told["judged_at"] == {"slippage_fraction": "0.01"}
    assert told["combinations"] == 6
    assert told["judged"] == told["overfitting"]["trials"] == 2
    assert {row["parameters"]["slippage_fraction"] for row in told["runs"]} == {"0.01"}
    assert told["fills"]["slippage"] == 0.01
    table = told["sensitivity"]
    assert [column["slippage_fraction"] for column in table["assumptions"]] == ["0", "0.002", "0.01"]
    by_equity = {(r[0]["mode"], r[0]["slippage_fraction"]): r[1].traders[0].equity for r in runs}
    for row in table["rows"]:
        mode = row["parameters"]["mode"]
        expected = [f"{by_equity[mode, slippage]:.2f}" for slippage in ("0", "0.002", "0.01")]
        assert [cell["equity"] for cell in row["runs"]] == expected
    text = plain_text(found.html)
    assert "judged at the most cautious assumptions of the sweep alone (Slippage fraction 0.01)" in text
    assert "If fills are worse" in text
    said = printed(found)
    assert "Best of 2 settings that traded at slippage_fraction 0.01, the most cautious assumptions:" in said
    assert told["verdict"][0]["text"] in said


def test_assumptions_alone_leave_nothing_to_choose(one: Pair) -> None:
    result, history = one
    found = build_sweep(swept(history, result.spec, slippage_fraction=["0", "0.002"]), history).summary
    assert found["judged"] == found["overfitting"]["trials"] == 1
    assert found["overfitting"]["deflated_sharpe"] == found["overfitting"]["probabilistic_sharpe"]
    assert found["overfitting"]["probability"] is None
    assert found["verdict"][0]["text"].startswith("One setting is no choice")
    alone = build_sweep([({"mode": "moderate"}, result)], history)
    assert alone.summary["sensitivity"] is None
    assert "If fills are worse" not in alone.html


def test_what_never_traded_is_never_best() -> None:
    result, history = traded(60, 3)
    nothing = run(result.spec, replace(history, predictions={}))
    result = run(with_values(result.spec, {"slippage_fraction": "0.02"}), history)
    assert result.traders[0].equity < result.traders[0].trader.capital, "it must lose, or the idle one is no rival"
    found = build_sweep([({"a": 1}, nothing), ({"a": 2}, result)], history)
    assert found.summary["best_parameters"] == {"a": 2}
    assert found.summary["judged"] == found.summary["never_traded"] == 1
    assert [row["traded"] for row in found.summary["runs"]] == [True, False]
    assert "1 setting never traded and cannot be best" in printed(found)
    assert "what never traded last and not ranked" in found.html


def test_a_sweep_in_which_none_traded_says_so(one: Pair) -> None:
    result, history = one
    nothing = run(result.spec, replace(history, predictions={}))
    found = build_sweep([({"a": 1}, nothing), ({"a": 2}, nothing)], history)
    assert found.summary["best"] is found.summary["best_parameters"] is None
    assert [line["text"] for line in found.summary["verdict"]] == [
        "None of the combinations that are judged traded: there is nothing to choose."
    ]
    json.dumps(found.summary, allow_nan=False)
    assert "there is nothing to choose" in found.html
    assert "Equity of the best" not in found.html
    assert "there is nothing to choose" in printed(found)


def test_a_sweep_praises_nothing_on_few_episodes() -> None:
    result, history = traded(60, 3, rate=0.05)
    found = build_sweep([({"a": 1}, result)], history).summary
    assert found["best"]["trades"]["episodes"] < 20
    assert "good" not in {line["tone"] for line in found["verdict"]}
    assert any("too few to tell skill from luck" in line["text"] for line in found["verdict"])


@pytest.mark.parametrize(
    ("episodes", "sure", "tones"),
    [
        (20, {}, ["good", "good", "good", "good"]),
        (19, {}, ["caution", "caution", "caution", "caution"]),
        (19, {"deflated_sharpe": 0.3}, ["bad", "caution", "bad", "caution"]),
        (20, {"probability": 0.5}, ["bad", "good", "good", "bad"]),
        (20, {"loss_probability": 0.9}, ["caution", "good", "good", "caution"]),
        (20, {"probability": None}, ["caution", "good", "good", "caution"]),
    ],
)
def test_the_verdict_on_a_sweep(episodes: int, sure: dict[str, Any], tones: list[str]) -> None:
    best = {"trades": {"entered": 90, "episodes": episodes}, "metrics": {"sharpe": {"value": 2.0}}}
    known = {"deflated_sharpe": 0.99, "probability": 0.05, "loss_probability": 0.1, "splits": 70}
    told = {"best": best, "judged": 5, "environment": "paper", "sensitivity": None}
    told["overfitting"] = known | {"expected_best_sharpe": 0.8} | sure
    assert [line.tone for line in sweep_verdict(told)] == tones


@pytest.mark.parametrize(
    ("kinder", "more_cautious"),
    [
        ({"slippage_fraction": "0.0005"}, {"slippage_fraction": "0.001"}),
        ({"slippage_fraction": "9E-4"}, {"slippage_fraction": "0.001"}),
        ({"participation_fraction": "0.1"}, {"participation_fraction": "0.05"}),
        ({"latency_bars": 2}, {"latency_bars": 10}),
        ({"proceeds": "at_once"}, {"proceeds": "settled"}),
    ],
)
def test_the_most_cautious_is_the_least_kind(one: Pair, kinder: dict[str, Any], more_cautious: dict[str, Any]) -> None:
    for order in ([kinder, more_cautious], [more_cautious, kinder]):
        runs = [({"mode": mode, **values}, one[0]) for values in order for mode in ("moderate", "aggressive")]
        assert [group[0][0] for group in by_caution(runs)] == [
            {"mode": "moderate", **v} for v in (kinder, more_cautious)
        ]
        assert [parameters for parameters, _ in most_cautious(runs)] == [
            {"mode": mode, **more_cautious} for mode in ("moderate", "aggressive")
        ]


def test_all_else_that_may_be_swept_is_a_choice() -> None:
    choices = {
        "mode", "strategies", "entry_protection_fraction", "exit_protection_fraction", "cluster_positions_max",
    }  # fmt: skip
    assert set(PARAMETERS) - set(CAUTION) == choices


# too little


@pytest.mark.parametrize(
    ("count", "annual", "ratios"), [(19, False, False), (20, False, True), (251, False, True), (252, True, True)]
)
def test_few_sessions_make_no_headline(count: int, annual: bool, ratios: bool) -> None:
    result, history = traded(count, 2, rate=0.3)
    found = build(result, history)
    told = found.summary["traders"][0]
    metrics = told["metrics"]
    for name in ("cagr", "calmar", "alpha"):
        assert (metrics[name]["value"] is not None) == (metrics[name]["low"] is not None) == annual, name
        assert (name in told["withheld"]) != annual
    assert (told["baselines"]["buy_and_hold"]["cagr"] is not None) == annual
    for name in ("sharpe", "sortino"):
        assert (metrics[name]["value"] is not None) == ratios, name
    assert (told["overfitting"]["probabilistic_sharpe"] is not None) == ratios
    assert (told["overfitting"]["deflated_sharpe"] is not None) == ratios
    assert (told["baselines"]["benchmark"]["sharpe"] is not None) == ratios
    assert metrics["total_return"]["value"] is not None
    text, said = plain_text(found.html), printed(found)
    assert ("<dt>CAGR</dt>" in text) == annual
    assert ("<dt>Total return</dt>" in text) != annual
    assert (f"too short to annualise: {count} of 252 sessions" in text) != annual
    assert ("CAGR (a year)  " in said) == annual
    assert ("too short to annualise" in said) != annual
    assert "Total return" in said
    assert ("Sharpe ratio  " in said) == ratios
    row = build_sweep([({"a": 1}, result)], history).summary["runs"][0]
    assert (row["cagr"] is not None, row["sharpe"] is not None) == (annual, ratios)


def test_a_short_track_record_is_not_told() -> None:
    assert "track_record_sessions_min" in withheld(19)
    assert withheld(252) == {}
    assert withheld(0)["sharpe"] == "too short to be judged: 0 of 20 sessions"


# shares that stopped trading


def cut(share: ShareHistory, bars: int) -> ShareHistory:
    """The share's first bars only."""
    return ShareHistory(share.symbol, *(getattr(share, field.name)[:bars] for field in fields(share)[1:]))


def test_what_could_not_be_sold_is_told() -> None:
    rng = np.random.default_rng(3)
    days = sessions(FIRST, 40)
    history = market({f"SH{place}": walk(rng, 40, spread=0.004) for place in range(3)}, days)
    history = replace(history, shares={**history.shares, "SH1": cut(history.shares["SH1"], 20)})
    history = replace(history, predictions=random_predictions(rng, history.shares, days, 0.9))
    result = run(Spec(days[0].day, days[-1].day, (Trader("me", Mode.MODERATE),)), history)
    held = [t for t in result.traders[0].trades if t.symbol == "SH1" and t.closed_at is None and t.entry_quantity]
    assert held, "the engine is left with shares of it"
    found = build(result, history)
    (told,) = found.summary["traders"][0]["stranded"]
    shares = sum(t.entry_quantity - t.exit_quantity for t in held)
    value = D(int(history.shares["SH1"].close[-1])) / 100 * shares
    assert told == {"symbol": "SH1", "shares": shares, "value": f"{value:.2f}", "priced_on": days[19].day.isoformat()}
    note = (
        f"{formats.grouped(shares)} shares of SH1, {formats.rupees(value)} at its last price of {days[19].day}, "
        "could not be sold: the share stopped trading."
    )
    assert note in found.summary["notes"]
    assert note in plain_text(found.html)
    assert any("that stopped trading" in line["text"] for line in found.summary["traders"][0]["verdict"])
    assert note in build_sweep([({"a": 1}, result)], history).summary["notes"]


def test_only_what_is_held_and_no_longer_traded_is_stranded(one: Pair) -> None:
    result, _ = one
    prices = replace(result.prices, close=result.prices.close.copy())
    prices.close[-5:, prices.symbols.index("SH1")] = np.nan
    prices.close[-5:-1, prices.symbols.index("SH2")] = np.nan
    trades = (
        still_open(number=1, symbol="SH1", exit_quantity=40),
        still_open(number=2, symbol="SH1"),
        still_open(number=3, symbol="SH2"),
        still_open(number=4, symbol="SH0"),
        trade(5, symbol="SH1", exit_quantity=99),  # its last fraction was paid out at a split
        still_open(number=6, symbol="SH1", entry_quantity=0, entry_price=None),
        still_open(number=7, symbol="UNKNOWN"),
    )
    account = replace(result.traders[0], trades=trades)
    (found,) = stranded_of(account, prices, prices.days)
    assert (found.symbol, found.shares, found.priced_on) == ("SH1", 160, prices.days[-6])
    # A trader that was stopped while the share still traded could have sold it the next day.
    assert stranded_of(account, prices, prices.days[:-5]) == []
    assert stranded_of(account, prices, []) == []


def test_the_traders_are_told_apart_in_notes(one: Pair) -> None:
    result, history = one
    prices = replace(result.prices, close=result.prices.close.copy())
    prices.close[-5:, prices.symbols.index("SH1")] = np.nan
    account = replace(result.traders[0], trades=(still_open(symbol="SH1"),))
    other = replace(account, trades=(), trader=replace(account.trader, name="other"))
    found = build(replace(result, prices=prices, traders=(account, other)), history).summary["notes"]
    (note,) = (note for note in found if "stopped" in note)
    assert note.startswith("moderate: 100 shares of SH1")
