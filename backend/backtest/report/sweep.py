"""The report on a sweep: every setting that was tried, the best deflated by the number of tries, how likely it is
overfit, and what becomes of each where fills are worse."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from backend.backtest.history import MarketHistory
from backend.backtest.report import charts, formats
from backend.backtest.report.assumptions import (
    Run,
    assumptions_of,
    by_caution,
    most_cautious,
    plain,
    same_settings,
    settings_of,
    words_of,
)
from backend.backtest.report.build import INDEX, Report, Told, asked_of, market_of, silent
from backend.backtest.report.charts import Line
from backend.backtest.report.metrics import SESSIONS_PER_YEAR, curve_metrics, growth, per_session_sharpe, tellable
from backend.backtest.report.overfitting import Overfitting, backtest_overfitting, expected_best_sharpe
from backend.backtest.report.page import environment, figures
from backend.backtest.report.series import Floats, daily
from backend.backtest.report.stranded import stranded_notes
from backend.backtest.report.summary import Analysed, analyse
from backend.backtest.report.trades import closed, entered, net_return, rupee_text
from backend.backtest.report.verdict import SURE, Statement, borne_out, enough
from backend.backtest.result import BacktestResult

RUNS_LISTED_MAX, SENSITIVITIES_LISTED_MAX = 500, 100
LOGIT_BINS = 20
PBO_HIGH = 0.5
PBO_LOW = 0.1
_RUN_FIGURES = ("total_return", "cagr", "volatility", "sharpe", "max_drawdown")


@dataclass(frozen=True, slots=True)
class _Tries:
    """The runs that are judged, best Sharpe ratio first, their returns in columns, and the variance of their Sharpe
    ratios per session."""

    runs: Sequence[Run]
    returns: Floats
    variance: float


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

    Settings are what one chooses; slippage, latency and the like are assumptions, and nobody may choose those. So the
    runs under the most cautious assumptions of the sweep alone are judged, and of them those that traded: the best is
    the one with the highest Sharpe ratio, its probability is deflated by their number and the spread of their ratios,
    and CSCV says how often a best one of such is no better than the median afterwards. The others show how much hangs
    on the assumptions. Stopped runs are left out and counted. Arguments are those of `build`.

    Raises:
        ValueError: no run was finished, or the runs span different sessions.
    """
    progress(0.0, "the runs' returns")
    finished, notes = _finished(runs)
    judged = most_cautious(finished)
    tries, idle = _tries(judged), [run for run in judged if not _traded(run)]
    overfit = backtest_overfitting(tries.returns)
    first = (*tries.runs, *idle)[0][1]
    asked = asked_of(first, universe) | {"notes": [*first.notes, *notes], "seed": seed}
    analysed = None
    if tries.runs:
        market, told = market_of(first, history, daily(first.traders[0].curve).days, benchmark_name)
        asked["notes"] += told
        progress(0.4, "the best run's figures")
        trials = len(tries.runs)
        analysed = analyse(first.traders[0], market, asked, trials=trials, seed=seed, variance=tries.variance)
        asked["notes"] += stranded_notes([analysed.summary])
    progress(0.8, "the page")
    summary = asked | {
        "combinations": len(finished),
        "parameters": sorted({name for parameters, _ in finished for name in parameters}),
        "judged": len(tries.runs),
        "judged_at": plain(assumptions_of(judged[0][0])),
        "never_traded": len(idle),
        "runs": [_row(*run) for run in (*tries.runs, *idle)],
        "sensitivity": _sensitivity(finished, [*tries.runs, *idle]),
        "best": analysed.summary if analysed else None,
        "best_parameters": plain(tries.runs[0][0]) if analysed else None,
        "overfitting": _overfitting(overfit, tries, analysed),
    }
    summary["verdict"] = [asdict(one) for one in sweep_verdict(summary)]
    html = _page(summary, first, tries, analysed, overfit)
    progress(1.0, "done")
    return Report(summary, html)


def _finished(runs: Sequence[Run]) -> tuple[list[Run], tuple[str, ...]]:
    finished = [run for run in runs if not run[1].interrupted and run[1].traders]
    if not finished:
        raise ValueError("no run of the sweep was finished: resume it first")
    days = daily(finished[0][1].traders[0].curve).days
    if any(daily(run.traders[0].curve).days != days for _, run in finished):
        raise ValueError("the runs of a sweep span different sessions: sweep them over the same days")
    missing = len(runs) - len(finished)
    notes = (f"{formats.count(missing, 'run')} of the sweep not finished and left out.",) if missing else ()
    return finished, notes


def _traded(run: Run) -> bool:
    return bool(entered(run[1].traders[0].trades))


def _tries(judged: Sequence[Run]) -> _Tries:
    """Those that traded, best Sharpe ratio first."""
    runs = [run for run in judged if _traded(run)]
    if not runs:
        return _Tries((), np.zeros((0, 0)), 0.0)
    returns = np.stack([daily(run.traders[0].curve).returns for _, run in runs], axis=1)
    ratios = np.nan_to_num(per_session_sharpe(returns.T))
    variance = float(ratios.var(ddof=1)) if len(ratios) > 1 else 0.0
    order = np.argsort(-ratios, kind="stable")
    return _Tries([runs[place] for place in order], returns[:, order], variance)


def _sensitivity(finished: Sequence[Run], judged: Sequence[Run]) -> dict[str, Any] | None:
    """Every judged setting under each of the assumptions, the kindest first; None where they did not vary."""
    columns = by_caution(finished)
    if len(columns) < 2:
        return None
    rows = [
        {
            "parameters": plain(settings_of(parameters)),
            "runs": [_row(*found) if (found := same_settings(column, parameters)) else None for column in columns],
        }
        for parameters, _ in judged
    ]
    return {"assumptions": [plain(assumptions_of(column[0][0])) for column in columns], "rows": rows}


def _row(parameters: Mapping[str, Any], result: BacktestResult) -> dict[str, Any]:
    found = result.traders[0]
    returns = daily(found.curve).returns
    metrics = curve_metrics(returns)
    over = closed(found.trades)
    return {
        "parameters": plain(parameters),
        **tellable({name: metrics[name] for name in _RUN_FIGURES}, len(returns)),
        "traded": bool(entered(found.trades)),
        "trades": len(over),
        "expectancy_return": float(np.mean([net_return(trade) for trade in over])) if over else None,
        "equity": rupee_text(found.equity),
    }


def _overfitting(overfit: Overfitting | None, tries: _Tries, best: Analysed | None) -> dict[str, Any]:
    trials = len(tries.runs)
    none = dict.fromkeys(("probabilistic_sharpe", "deflated_sharpe", "track_record_sessions_min"))
    found: dict[str, Any] = {
        **(best.summary["overfitting"] if best else {"trials": 0, **none}),
        "sharpe_variance": tries.variance,
        "expected_best_sharpe": expected_best_sharpe(trials, tries.variance) * SESSIONS_PER_YEAR**0.5,
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
    best = summary["best"]
    if best is None:
        return [Statement("caution", "None of the combinations that are judged traded: there is nothing to choose.")]
    found = [*_deflated(summary), *_overfit(summary["overfitting"])]
    market = "The market is simulated: what was best here need not be in a real one."
    simulated = [Statement("caution", market)] if summary["environment"] == "simulated" else []
    found = [*simulated, *enough(best), *borne_out(found, best)]
    if summary["judged"] == 1:
        line = Statement("caution", "One setting is no choice: this shows only what hangs on the assumptions.")
        return (
            [line, *found] if summary["sensitivity"] else [Statement("caution", "There is no choice of one."), *found]
        )
    tones = {one.tone for one in found}
    if "bad" in tones:
        line = Statement("bad", "The best combination looks chosen by luck: do not trade it on this evidence.")
    elif "caution" in tones:
        line = Statement("caution", "Choosing this combination is not yet borne out.")
    else:
        line = Statement("good", "The choice holds up beside the number of tries. Judge it on days outside the sweep.")
    return [line, *found]


def _deflated(summary: Mapping[str, Any]) -> list[Statement]:
    sure = summary["overfitting"]
    deflated = sure["deflated_sharpe"]
    if deflated is None:
        return [Statement("caution", "The best combination has too few returns to be judged.")]
    ratio = formats.number(summary["best"]["metrics"]["sharpe"]["value"])
    text = (
        f"The best of {formats.count(summary['judged'], 'setting')} that traded shows a Sharpe ratio of {ratio}; the "
        f"best of as many worthless ones would show about {formats.number(sure['expected_best_sharpe'])}. It is above "
        f"that with probability {formats.share(deflated)} (deflated Sharpe ratio)."
    )
    return [Statement("good" if deflated >= SURE else "bad" if deflated < 0.5 else "caution", text)]


def _overfit(sure: Mapping[str, Any]) -> list[Statement]:
    pbo = sure["probability"]
    if pbo is None:
        text = "The probability of overfitting needs two settings that traded and 40 sessions."
        return [Statement("caution", text)]
    # A choice that holds its rank among losers is none to follow.
    earned = sure["loss_probability"] < PBO_HIGH
    tone = "bad" if pbo >= PBO_HIGH else "good" if pbo <= PBO_LOW and earned else "caution"
    text = (
        f"In {formats.share(pbo)} of {formats.grouped(sure['splits'])} splits the best in one half was no better "
        "than the median in the other (probability of overfitting)"
    )
    return [Statement(tone, f"{text}; it lost money there in {formats.share(sure['loss_probability'])}.")]


def _page(
    summary: Mapping[str, Any], first: BacktestResult, tries: _Tries, best: Analysed | None, overfit: Overfitting | None
) -> str:
    trader = first.traders[0].trader
    logits = None
    if overfit is not None:
        # A rank at the median counts as overfit: it is drawn below zero.
        drawn = np.where(overfit.logits == 0, -1e-9, overfit.logits)
        words = "Rank logit of the best in sample, out of sample"
        logits = charts.histogram(words, drawn, lambda value: formats.number(value, 1))
    told = formats.count(summary["combinations"], "combination")
    view = {
        "title": f"Sweep {summary['first']} to {summary['last']}: {told}",
        "capital": formats.rupees(trader.capital),
        "cap": formats.grouped(trader.entries_per_day_max),
        "figures": figures(best.summary) if best else [],
        "equity": _equity(tries, best) if best else None,
        "logits": logits,
        "rows": summary["runs"][:RUNS_LISTED_MAX],
        "listed_max": RUNS_LISTED_MAX,
        "judged_at": words_of(summary["judged_at"]),
        "sensitivity": _sensitivity_rows(summary["sensitivity"]),
    }
    return environment().get_template("sweep.html.j2").render(asked=summary, **view)


def _equity(tries: _Tries, best: Analysed) -> Markup:
    name, returns = best.benchmark
    lines = [
        Line("best combination", growth(best.series.returns)[1:] - 1, 0),
        Line(name, growth(returns)[1:] - 1, 1),
        Line("median combination", np.median(growth(tries.returns.T)[:, 1:], axis=0) - 1, 2),
    ]
    return charts.line_chart("Net gain since the start", best.series.days, lines, base=0.0)


def _sensitivity_rows(sensitivity: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The head and the rows of the table: the total return of each setting under each of the assumptions."""
    if sensitivity is None:
        return None
    return {
        "head": [words_of(assumed) for assumed in sensitivity["assumptions"]],
        "rows": [
            (words_of(row["parameters"]) or "as asked", [_outcome(run) for run in row["runs"]])
            for row in sensitivity["rows"][:SENSITIVITIES_LISTED_MAX]
        ],
        "left_out": max(len(sensitivity["rows"]) - SENSITIVITIES_LISTED_MAX, 0),
    }


def _outcome(run: Mapping[str, Any] | None) -> str:
    if run is None:
        return "not finished"
    return formats.percent(run["total_return"]) if run["traded"] else "never traded"
