"""The report on a sweep: every combination, the best deflated by the number of tries, and how likely it is overfit."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from backend.backtest.history import MarketHistory
from backend.backtest.report import charts, formats
from backend.backtest.report.build import INDEX, Report, Told, asked_of, market_of, silent
from backend.backtest.report.charts import Line
from backend.backtest.report.metrics import SESSIONS_PER_YEAR, curve_metrics, finite, growth, per_session_sharpe
from backend.backtest.report.overfitting import Overfitting, backtest_overfitting, expected_best_sharpe
from backend.backtest.report.page import environment, figures
from backend.backtest.report.series import Floats, daily
from backend.backtest.report.summary import Analysed, analyse
from backend.backtest.report.trades import closed, net_return, rupee_text
from backend.backtest.report.verdict import SURE, Statement
from backend.backtest.result import BacktestResult, TraderResult

Run = tuple[Mapping[str, Any], BacktestResult]

RUNS_LISTED_MAX = 500
LOGIT_BINS = 20
PBO_HIGH = 0.5
PBO_LOW = 0.1
_RUN_FIGURES = ("total_return", "cagr", "volatility", "sharpe", "max_drawdown")


@dataclass(frozen=True, slots=True)
class _Tries:
    """The finished runs, their returns in columns, and what their Sharpe ratios per session come to."""

    runs: Sequence[Run]
    returns: Floats
    variance: float
    best: int

    @property
    def chosen(self) -> BacktestResult:
        return self.runs[self.best][1]


def build_sweep(
    runs: Sequence[Run],
    history: MarketHistory,
    *,
    seed: int = 7,
    progress: Told = silent,
    universe: str = "",
    benchmark_name: str = INDEX,
) -> Report:
    """The report on a sweep: each run is one combination of parameters and the backtest of one trader with it.

    The best is the one with the highest Sharpe ratio; its probability is deflated by the number of combinations and the
    spread of their ratios, and CSCV says how often a best one of such is no better than the median afterwards. Stopped
    runs are left out and counted. Arguments are those of `build`.

    Raises:
        ValueError: no run was finished, or the runs span different sessions.
    """
    progress(0.0, "the runs' returns")
    tries, notes = _tries(runs)
    overfit = backtest_overfitting(tries.returns)
    best = tries.chosen
    market, told = market_of(best, history, daily(best.traders[0].curve).days, benchmark_name)
    asked = asked_of(best, universe) | {"notes": [*best.notes, *notes, *told], "seed": seed}
    progress(0.4, "the best run's figures")
    trials = tries.returns.shape[1]
    analysed = analyse(best.traders[0], market, asked, trials=trials, seed=seed, variance=tries.variance)
    progress(0.8, "the page")
    summary = asked | {
        "combinations": trials,
        "parameters": sorted({name for parameters, _ in tries.runs for name in parameters}),
        "runs": [_row(parameters, run.traders[0]) for parameters, run in _ordered(tries)],
        "best": analysed.summary,
        "best_parameters": _plain(tries.runs[tries.best][0]),
        "overfitting": _overfitting(overfit, tries, analysed),
    }
    summary["verdict"] = [asdict(one) for one in sweep_verdict(summary)]
    html = _page(summary, tries, analysed, overfit)
    progress(1.0, "done")
    return Report(summary, html)


def _tries(runs: Sequence[Run]) -> tuple[_Tries, tuple[str, ...]]:
    finished = [run for run in runs if not run[1].interrupted and run[1].traders]
    if not finished:
        raise ValueError("no run of the sweep was finished: resume it first")
    series = [daily(run.traders[0].curve) for _, run in finished]
    if any(one.days != series[0].days for one in series):
        raise ValueError("the runs of a sweep span different sessions: sweep them over the same days")
    returns = np.stack([one.returns for one in series], axis=1)
    ratios = np.nan_to_num(per_session_sharpe(returns.T))
    variance = float(ratios.var(ddof=1)) if len(ratios) > 1 else 0.0
    missing = len(runs) - len(finished)
    notes = (f"{formats.count(missing, 'run')} of the sweep not finished and left out.",) if missing else ()
    return _Tries(finished, returns, variance, int(ratios.argmax())), notes


def _ordered(tries: _Tries) -> list[Run]:
    """The runs, best Sharpe ratio first."""
    ratios = np.nan_to_num(per_session_sharpe(tries.returns.T))
    return [tries.runs[place] for place in np.argsort(-ratios, kind="stable")]


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as JSON holds them."""
    return {
        str(name): value
        if isinstance(value, str | int | bool | None)
        else finite(value)
        if isinstance(value, float)
        else str(value)
        for name, value in parameters.items()
    }


def _row(parameters: Mapping[str, Any], found: TraderResult) -> dict[str, Any]:
    metrics = curve_metrics(daily(found.curve).returns)
    over = closed(found.trades)
    return {
        "parameters": _plain(parameters),
        **{name: finite(metrics[name]) for name in _RUN_FIGURES},
        "trades": len(over),
        "expectancy_return": float(np.mean([net_return(trade) for trade in over])) if over else None,
        "equity": rupee_text(found.equity),
    }


def _overfitting(overfit: Overfitting | None, tries: _Tries, best: Analysed) -> dict[str, Any]:
    trials = tries.returns.shape[1]
    threshold = expected_best_sharpe(trials, tries.variance) * SESSIONS_PER_YEAR**0.5
    found: dict[str, Any] = {
        **best.summary["overfitting"],
        "sharpe_variance": tries.variance,
        "expected_best_sharpe": threshold,
        "probability": None,
    }
    if overfit is None:
        return found
    counted, edges = np.histogram(overfit.logits, LOGIT_BINS)
    return found | {
        "probability": overfit.probability,
        "loss_probability": overfit.loss_probability,
        "slope": overfit.slope,
        "blocks": overfit.blocks,
        "splits": len(overfit.logits),
        "logits": {"edges": [float(edge) for edge in edges], "counts": [int(many) for many in counted]},
    }


def sweep_verdict(summary: Mapping[str, Any]) -> list[Statement]:
    """What may be concluded from the best of so many; the first statement is the bottom line."""
    sure = summary["overfitting"]
    tries, found = formats.count(summary["combinations"], "combination"), list[Statement]()
    deflated, pbo = sure["deflated_sharpe"], sure["probability"]
    if summary["environment"] == "simulated":
        found.append(Statement("caution", "The market is simulated: what was best here need not be in a real one."))
    if deflated is None:
        found.append(Statement("caution", "The best combination has too few returns, or none, to be judged."))
    else:
        ratio = formats.number(summary["best"]["metrics"]["sharpe"]["value"])
        text = (
            f"The best of {tries} shows a Sharpe ratio of {ratio}; the best of as many worthless ones would show about "
            f"{formats.number(sure['expected_best_sharpe'])}. It is above that with probability "
            f"{formats.share(deflated)} (deflated Sharpe ratio)"
        )
        tone = "good" if deflated >= SURE else "bad" if deflated < 0.5 else "caution"
        found.append(Statement(tone, f"{text}."))
    if pbo is None:
        found.append(Statement("caution", "The probability of overfitting needs two combinations and 40 sessions."))
    else:
        tone = "good" if pbo <= PBO_LOW else "bad" if pbo >= PBO_HIGH else "caution"
        text = (
            f"In {formats.share(pbo)} of {formats.grouped(sure['splits'])} splits the best in one half was no better "
            "than the median in the other (probability of overfitting)"
        )
        found.append(Statement(tone, f"{text}; it lost money there in {formats.share(sure['loss_probability'])}."))
    tones = {one.tone for one in found}
    if "bad" in tones:
        line = Statement("bad", "The best combination looks chosen by luck: do not trade it on this evidence.")
    elif "caution" in tones:
        line = Statement("caution", "Choosing this combination is not yet borne out.")
    else:
        line = Statement("good", "The choice holds up beside the number of tries. Judge it on days outside the sweep.")
    return [line, *found]


def _page(summary: Mapping[str, Any], tries: _Tries, best: Analysed, overfit: Overfitting | None) -> str:
    name, returns = best.benchmark
    lines = [
        Line("best combination", growth(best.series.returns)[1:] - 1, 0),
        Line(name, growth(returns)[1:] - 1, 1),
        Line("median combination", np.median(growth(tries.returns.T)[:, 1:], axis=0) - 1, 2),
    ]
    logits = None
    if overfit is not None:
        # A rank at the median counts as overfit: it is drawn below zero.
        drawn = np.where(overfit.logits == 0, -1e-9, overfit.logits)
        words = "Rank logit of the best in sample, out of sample"
        logits = charts.histogram(words, drawn, lambda value: formats.number(value, 1))
    tries_told = formats.count(summary["combinations"], "combination")
    view = {
        "title": f"Sweep {summary['first']} to {summary['last']}: {tries_told}",
        "capital": formats.rupees(Decimal(summary["best"]["capital"])),
        "figures": figures(best.summary["metrics"]),
        "equity": charts.line_chart("Net gain since the start", best.series.days, lines, base=0.0),
        "logits": logits,
        "rows": summary["runs"][:RUNS_LISTED_MAX],
        "most": RUNS_LISTED_MAX,
    }
    return environment().get_template("sweep.html.j2").render(asked=summary, **view)
