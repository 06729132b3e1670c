"""From a finished backtest to its report: the figures once, as JSON and as one self-contained page."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from backend.backtest.history import MarketHistory
from backend.backtest.report.page import run_page
from backend.backtest.report.panel import adjusted, panel_of
from backend.backtest.report.series import daily
from backend.backtest.report.summary import Market, analyse, index_of
from backend.backtest.result import BacktestResult

BASIS_POINTS = Decimal(10_000)
INDEX = "the index"

Told = Callable[[float, str], None]
"""Called with the fraction done and what is done next."""


def silent(_fraction: float, _what: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Report:
    """`summary`: JSON-ready, rupees as strings, statistics as floats, None where a figure does not exist; `html`: one
    file that needs no network."""

    summary: dict[str, Any]
    html: str


def build(
    result: BacktestResult,
    history: MarketHistory,
    *,
    seed: int = 7,
    progress: Told = silent,
    trials: int = 1,
    universe: str = "",
    benchmark_name: str = INDEX,
) -> Report:
    """The report on one backtest.

    Args:
        result, history: what was found, and the market it was found in.
        seed: of the resampling and the random entries; the same seed gives the same report.
        progress: told how far it is.
        trials: how many combinations of settings were tried before this one was chosen.
        universe: its name, for the title.
        benchmark_name: what the index in `history.benchmark` is called, such as NIFTY 50.
    """
    progress(0.0, "the market by session")
    # A run that was stopped leaves its traders at different sessions: each is judged on their own.
    spans = [daily(found.curve).days for found in result.traders]
    markets = {days: market_of(result, history, days, benchmark_name) for days in sorted(set(spans), key=len)}
    notes = markets[max(spans, key=len)][1] if spans else ()
    asked = asked_of(result, universe) | {"notes": [*result.notes, *notes], "seed": seed}
    analysed = []
    for place, (found, days) in enumerate(zip(result.traders, spans, strict=True)):
        progress((place + 0.5) / (len(result.traders) + 1), f"figures of {found.trader.name}")
        analysed.append(analyse(found, markets[days][0], asked, trials=trials, seed=seed))
    progress(len(result.traders) / (len(result.traders) + 1), "the page")
    summary = asked | {"traders": [one.summary for one in analysed]}
    html = run_page(result, summary, analysed, history.actions)
    progress(1.0, "done")
    return Report(summary, html)


def market_of(
    result: BacktestResult, history: MarketHistory, days: tuple[date, ...], benchmark_name: str
) -> tuple[Market, tuple[str, ...]]:
    """What the traders are compared with, and what a reader must know of it."""
    index, notes = index_of(result.benchmark or history.benchmark, days, benchmark_name)
    panel = panel_of(history, days)
    cost = Decimal(str(history.half_spread_bp)) / BASIS_POINTS + result.spec.fills.slippage
    flagged = sorted({a.symbol for of_day in panel.actions.values() for a in of_day if a.flagged})
    if flagged:
        told = ", ".join(flagged[:10]) + (" and others" if len(flagged) > 10 else "")
        notes += (f"Demergers, rights and the like are not adjusted for; a fall on their ex-date is no loss: {told}.",)
    return Market(panel, adjusted(panel), index, cost, history.session_days), notes


def asked_of(result: BacktestResult, universe: str) -> dict[str, Any]:
    """What was asked and of which market."""
    spec = result.spec
    return {
        "first": spec.first.isoformat(),
        "last": spec.last.isoformat(),
        "interval": spec.interval.value,
        "environment": result.environment,
        "provider": result.provider,
        "universe": universe,
        "symbols": len(result.prices.symbols),
        "sessions": result.sessions,
        "bars": result.bars,
        "interrupted": result.interrupted,
        "fills": {
            "participation": float(spec.fills.participation),
            "slippage": float(spec.fills.slippage),
            "latency_bars": spec.latency_bars,
            "proceeds": spec.proceeds.value,
            "order_rest_s_max": spec.order_rest_s_max,
        },
        "idle": dict(sorted(result.idle.items(), key=lambda pair: (-pair[1], pair[0]))),
    }
