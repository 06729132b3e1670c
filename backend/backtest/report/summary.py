"""One trader's whole record as JSON-ready figures: what the page shows and what programs read."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np

from backend.backtest.report import trades as trade_figures
from backend.backtest.report.baselines import Baseline, buy_and_hold, equal_weight
from backend.backtest.report.bootstrap import Estimate, curve_estimates
from backend.backtest.report.metrics import (
    SESSIONS_PER_YEAR,
    curve_metrics,
    deepest_drawdown,
    drawdowns,
    growth,
    monthly_returns,
    tellable,
    withheld,
)
from backend.backtest.report.overfitting import deflated_sharpe, probabilistic_sharpe, track_record_sessions_min
from backend.backtest.report.panel import Adjusted, Panel
from backend.backtest.report.random_entries import RandomEntries, random_entries
from backend.backtest.report.series import Daily, Floats, aligned, daily, days_of, of_closes
from backend.backtest.report.stranded import stranded_of
from backend.backtest.report.trades import rupee_text
from backend.backtest.report.verdict import verdict
from backend.backtest.result import Prices, TraderResult
from backend.domain.decide import TradeStatus

EQUAL_WEIGHT = "the universe at equal weights"
_CURVE_DIGITS = 6
_BENCHMARK_FIGURES = ("total_return", "cagr", "volatility", "sharpe", "max_drawdown")


@dataclass(frozen=True, slots=True)
class Market:
    """What all traders of a backtest are compared with: the sessions and prices, an index where one is told (`index`:
    its name and returns per session), the cost of one order as a fraction of the price, all session days known, and
    the closes that were found."""

    panel: Panel
    prices: Adjusted
    index: tuple[str, Floats] | None
    cost: Decimal
    session_days: Sequence[date]
    closes: Prices


@dataclass(frozen=True, slots=True)
class Analysed:
    """One trader's figures, and the series behind them for the drawings."""

    found: TraderResult
    series: Daily
    held: Baseline
    equal: Baseline
    random: RandomEntries | None
    benchmark: tuple[str, Floats]
    exposure: Floats
    summary: dict[str, Any]


def index_of(
    benchmark: Sequence[tuple[date, float]], days: Sequence[date], name: str
) -> tuple[tuple[str, Floats] | None, tuple[str, ...]]:
    """The index over the sessions, or None with the reason in a note."""
    returns = aligned(days, benchmark)
    if returns is not None:
        return (name, returns), ()
    why = "none is stored" if not benchmark else "its levels do not cover these days"
    return None, (f"No index to compare with ({why}): alpha and beta are against {EQUAL_WEIGHT}.",)


def analyse(
    found: TraderResult,
    market: Market,
    asked: Mapping[str, Any],
    *,
    trials: int,
    seed: int,
    variance: float | None = None,
) -> Analysed:
    """All figures of one trader. `trials`: how many combinations this one was chosen from; `variance`: that of their
    Sharpe ratios per session, where they are known."""
    series = daily(found.curve)
    capital = found.trader.capital
    held = buy_and_hold(market.panel, capital, market.cost)
    equal = equal_weight(market.panel, capital, market.cost)
    of_equal = of_closes(series.days, float(capital), equal.close).returns
    benchmark = market.index or (EQUAL_WEIGHT, of_equal)
    chance = random_entries(
        found.trades, market.panel, market.prices, market.session_days, float(market.cost), seed=seed
    )
    left_out = withheld(len(series.days))
    curve, block = curve_estimates(series.returns, benchmark[1], seed=seed)
    curve = {name: Estimate(None) if name in left_out else one for name, one in curve.items()}
    exposure = _exposure(found, series)
    of_trades = trade_figures.trade_estimates(trade_figures.closed(found.trades), series.days, seed=seed)
    whole = {"exposure": Estimate(_mean_exposure(found)), "turnover": Estimate(_turnover(found, series))}
    pnl, costs = trade_figures.reconciliation(found), trade_figures.costs_by_kind(found.orders)
    paid = sum(costs.values(), Decimal(0))
    summary: dict[str, Any] = {
        **_who(found),
        "sessions": len(series.days),
        "benchmark": benchmark[0],
        "benchmark_is_index": market.index is not None,
        "metrics": {name: asdict(one) for name, one in {**curve, **of_trades, **whole}.items()},
        "withheld": left_out,
        "block_sessions": block,
        "drawdown": _drawdown(series),
        "trades": _counts(found),
        "pnl": {**_texts(pnl), "before_charges": rupee_text(pnl["change"] + paid)},
        "costs": {**_texts(costs), "total": rupee_text(paid)},
        "by_symbol": _groups(found, lambda trade: trade.symbol),
        "by_strategy": _groups(found, lambda trade: trade.strategy),
        "by_exit_reason": _groups(found, trade_figures.exit_name),
        "monthly": _monthly(series),
        "denied": {reason.value: many for reason, many in _most(found.denied)},
        "overfitting": {"trials": trials, **_sureness(series.returns, trials, variance)},
        "stranded": [one.told() for one in stranded_of(found, market.closes, series.days)],
        "baselines": {
            "buy_and_hold": _baseline(held, series, capital),
            "equal_weight": _baseline(equal, series, capital),
            "benchmark": _benchmark(benchmark),
            "random_entries": _random(chance),
        },
    }
    summary["verdict"] = [asdict(one) for one in verdict(summary, asked)]
    summary["curve"] = _curve(series, held, equal, benchmark, exposure)
    return Analysed(found, series, held, equal, chance, benchmark, exposure, summary)


def _sureness(returns: Floats, trials: int, variance: float | None) -> dict[str, float | None]:
    left_out = withheld(len(returns))
    found = {
        "probabilistic_sharpe": probabilistic_sharpe(returns),
        "deflated_sharpe": deflated_sharpe(returns, trials, variance),
        "track_record_sessions_min": track_record_sessions_min(returns),
    }
    return {name: None if name in left_out else value for name, value in found.items()}


def _who(found: TraderResult) -> dict[str, Any]:
    trader = found.trader
    return {
        "name": trader.name,
        "mode": trader.mode.value,
        "product": trader.product.value,
        "strategies": sorted(trader.strategies),
        "entries_per_day_max": trader.entries_per_day_max,
        "capital": rupee_text(trader.capital),
        "equity": rupee_text(found.equity),
        "cash": rupee_text(found.cash),
    }


def _exposure(found: TraderResult, series: Daily) -> Floats:
    """Mean share of the equity in positions over each session's bars."""
    share = _share_in_positions(found)[1:]
    _, place = np.unique(days_of(found.curve.at[1:]), return_inverse=True)
    bars = np.bincount(place, minlength=len(series.days))
    return np.bincount(place, share, len(series.days)).astype(np.float64) / np.maximum(bars, 1)


def _share_in_positions(found: TraderResult) -> Floats:
    equity = found.curve.equity
    return np.where(equity > 0, found.curve.positions / np.where(equity > 0, equity, 1.0), 0.0)


def _mean_exposure(found: TraderResult) -> float | None:
    share = _share_in_positions(found)[1:]
    return float(share.mean()) if len(share) else None


def _turnover(found: TraderResult, series: Daily) -> float | None:
    """Half of what was bought and sold, over the mean equity at the closes, a year."""
    mean = float(series.close.mean()) if len(series.close) else 0.0
    if mean <= 0:
        return None
    traded = float(sum(trade_figures.traded_value(found.orders).values(), Decimal(0)))
    return traded / 2 / mean * SESSIONS_PER_YEAR / len(series.close)


def _drawdown(series: Daily) -> dict[str, Any]:
    deepest = deepest_drawdown(series)
    return {name: day.isoformat() if isinstance(day, date) else day for name, day in asdict(deepest).items()}


def _counts(found: TraderResult) -> dict[str, int]:
    entered = trade_figures.entered(found.trades)
    return {
        "entered": len(entered),
        "closed": len(trade_figures.closed(found.trades)),
        "open": sum(trade.status is not TradeStatus.CLOSED for trade in entered),
        "never_filled": len(found.trades) - len(entered),
        "episodes": trade_figures.episodes(entered),
        "entry_days": len({trade_figures.entry_day(trade) for trade in entered}),
        "orders": len(found.orders),
    }


def _texts(amounts: Mapping[str, Decimal]) -> dict[str, str]:
    return {name: rupee_text(amount) for name, amount in amounts.items()}


def _groups(found: TraderResult, name: Any) -> list[dict[str, Any]]:
    return trade_figures.groups_told(trade_figures.grouped(trade_figures.entered(found.trades), name))


def _most(counted: Mapping[Any, int]) -> list[tuple[Any, int]]:
    return sorted(counted.items(), key=lambda pair: (-pair[1], str(pair[0])))


def _monthly(series: Daily) -> list[dict[str, Any]]:
    """One row a year: twelve months, None where there was no session, and the year's return."""
    months = monthly_returns(series)
    rows: list[dict[str, Any]] = []
    for year in sorted({year for year, _ in months}):
        of_year = [months.get((year, month)) for month in range(1, 13)]
        total = float(np.prod([1 + value for value in of_year if value is not None]) - 1)
        rows.append({"year": year, "months": of_year, "total": total})
    return rows


def _baseline(baseline: Baseline, series: Daily, capital: Decimal) -> dict[str, Any]:
    found = curve_metrics(of_closes(series.days, float(capital), baseline.close).returns)
    return {
        **_of_benchmark(found, len(series.days)),
        "charges": rupee_text(baseline.charges),
        "orders": baseline.orders,
        "invested_first_day": baseline.invested,
    }


def _benchmark(benchmark: tuple[str, Floats]) -> dict[str, Any]:
    found = curve_metrics(benchmark[1])
    return {"name": benchmark[0], **_of_benchmark(found, len(benchmark[1]))}


def _of_benchmark(found: Mapping[str, Floats], sessions: int) -> dict[str, float | None]:
    return tellable({name: found[name] for name in _BENCHMARK_FIGURES}, sessions)


def _random(chance: RandomEntries | None) -> dict[str, Any] | None:
    if chance is None:
        return None
    low, middle, high = (float(value) for value in np.percentile(chance.mean_return, (2.5, 50, 97.5)))
    total = [f"{value:.2f}" for value in np.percentile(chance.total_rupees, (2.5, 50, 97.5))]
    return {
        "draws": len(chance.mean_return),
        "entries": chance.entries,
        "own_mean_return": chance.own_mean_return,
        "mean_return": {"low": low, "median": middle, "high": high},
        "p_mean_return": chance.p_mean_return,
        "own_total": f"{chance.own_total_rupees:.2f}",
        "total": dict(zip(("low", "median", "high"), total, strict=True)),
        "p_total": chance.p_total,
    }


def _curve(
    series: Daily, held: Baseline, equal: Baseline, benchmark: tuple[str, Floats], exposure: Floats
) -> dict[str, Any]:
    """Values at the closes as multiples of the money put in, drawdown and exposure as fractions."""

    def told(values: Floats) -> list[float]:
        return [float(value) for value in np.round(values, _CURVE_DIGITS)]

    start = series.start if series.start > 0 else 1.0
    return {
        "days": [day.isoformat() for day in series.days],
        "account": told(series.close / start),
        "drawdown": told(drawdowns(growth(series.returns))[1:]),
        "benchmark": told(growth(benchmark[1])[1:]),
        "buy_and_hold": told(held.close / start),
        "equal_weight": told(equal.close / start),
        "exposure": told(exposure),
    }
