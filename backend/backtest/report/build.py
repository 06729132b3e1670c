"""From a finished backtest to its report: the figures once, as JSON and as one self-contained page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np

from backend.backtest.history import MarketHistory
from backend.backtest.report.metrics import per_session_sharpe
from backend.backtest.report.page import run_page
from backend.backtest.report.panel import adjusted, panel_of
from backend.backtest.report.series import daily
from backend.backtest.report.stranded import stranded_notes
from backend.backtest.report.summary import Market, analyse, index_of
from backend.backtest.report.trades import entered
from backend.backtest.result import BacktestResult, TraderResult
from backend.backtest.spec import Trader

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
        trials: how many combinations of settings were tried before this run; its traders with different settings are
            tries of their own, so that each is one of `trials` times as many.
        universe: its name, for the title.
        benchmark_name: what the index in `history.benchmark` is called, such as NIFTY 50.
    """
    progress(0.0, "the market by session")
    # A run that was stopped leaves its traders at different sessions: each is judged on their own.
    spans = [daily(found.curve).days for found in result.traders]
    markets = {days: market_of(result, history, days, benchmark_name) for days in sorted(set(spans), key=len)}
    notes = markets[max(spans, key=len)][1] if spans else ()
    asked = asked_of(result, universe) | {"notes": [*result.notes, *notes], "seed": seed}
    settings = len({settings_of(found.trader) for found in result.traders})
    tries = {"trials": trials * settings, "variance": _variance(result.traders), "seed": seed}
    analysed = []
    for place, (found, days) in enumerate(zip(result.traders, spans, strict=True)):
        progress((place + 0.5) / (len(result.traders) + 1), f"figures of {found.trader.name}")
        analysed.append(analyse(found, markets[days][0], asked, **tries))
    progress(len(result.traders) / (len(result.traders) + 1), "the page")
    traders = [one.summary for one in analysed]
    asked["notes"] += stranded_notes(traders)
    summary = asked | {"settings": settings, "traders": traders}
    html = run_page(result, summary, analysed, history.actions)
    progress(1.0, "done")
    return Report(summary, html)


def settings_of(trader: Trader) -> Trader:
    """A trader without what no result is chosen by: their name and how much they have."""
    return replace(trader, name="", capital=Decimal(1))


def _variance(traders: Sequence[TraderResult]) -> float | None:
    """Of the Sharpe ratios per session of the traders with different settings; None where not even two of them
    traded."""
    different = {settings_of(found.trader): found for found in traders if entered(found.trades)}
    ratios = [per_session_sharpe(daily(found.curve).returns) for found in different.values()]
    return float(np.var(np.nan_to_num(ratios), ddof=1)) if len(ratios) > 1 else None


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
    return Market(panel, adjusted(panel), index, cost, history.session_days, result.prices), notes


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
