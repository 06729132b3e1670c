"""What one might have traded on out of sample, held against buying everything, calm shares, or at random."""

from typing import Any

import numpy as np
import polars as pl

from ml_service.calibrate import Forecast
from ml_service.evidence import MODES, accepts, clustered_interval, deflated_sharpe, episodes_of, finite, proportion
from ml_service.labels import touch_name
from ml_service.walkforward import Dataset, OutOfSample

SESSIONS_PER_YEAR = 248
CALM_SHARE = 0.2
RANDOM_SEED = 1


def _taken(net: np.ndarray, session: np.ndarray, horizon: int, trials: int) -> dict[str, Any]:
    """How the plans of these rows ended. Episodes, not rows, are independent."""
    if not len(net):
        return {"trades": 0, "days": 0, "episodes": 0}
    episode = episodes_of(session, horizon)
    each = np.array([net[episode == one].mean() for one in np.unique(episode)])
    return {
        "trades": len(net),
        "days": len(np.unique(session)),
        "episodes": len(each),
        "profitable": finite(proportion(net > 0, episode)),
        "net": finite(clustered_interval(net, episode)),
        "deflated_sharpe": deflated_sharpe(each, trials),
    }


def _rules(forecast: Forecast) -> dict[str, np.ndarray]:
    """Filters by name: each mode's own rule, and the same thresholds asked of P(net profit)."""
    found = {mode.name: accepts(mode, forecast) for mode in MODES}
    for mode in MODES:
        found[f"{mode.name}, P(net profit)"] = (forecast.expected >= mode.net_return) & (
            forecast.events["net_profit"] >= mode.confidence
        )
    two = MODES[0].net_return
    found["P(touch +2 %) >= 0.8"] = forecast.events[touch_name(two)] >= MODES[0].confidence
    found["E[net] >= 1 %"] = forecast.expected >= 0.01
    return found


def filters(data: Dataset, answers: OutOfSample, horizon: int, trials: int) -> dict[str, dict[str, Any]]:
    """What each filter would have taken of all out-of-sample rows, with 95 % intervals by episode."""
    net, session = data.labels.net[answers.rows], data.session[answers.rows]
    return {name: _taken(net[keep], session[keep], horizon, trials) for name, keep in _rules(answers.forecast).items()}


def _held(returns: np.ndarray) -> dict[str, float | None]:
    """A daily series of simple returns: growth per year, volatility, Sharpe ratio without a riskless rate."""
    if len(returns) < 2:
        return {"cagr": None, "volatility": None, "sharpe": None}
    growth = float(np.prod(1 + returns) ** (SESSIONS_PER_YEAR / len(returns)) - 1)
    deviation = float(np.std(returns, ddof=1) * SESSIONS_PER_YEAR**0.5)
    mean = float(np.mean(returns) * SESSIONS_PER_YEAR)
    return {"cagr": growth, "volatility": deviation, "sharpe": mean / deviation if deviation > 0 else None}


def baselines(
    data: Dataset, answers: OutOfSample, frame: pl.DataFrame, horizon: int, trials: int
) -> dict[str, dict[str, Any]]:
    """The same plan entered in every row and in as many random rows as the widest mode took; and holding the members,
    and the calmest fifth of them, equally weighted from close to close, before the costs of rebalancing.

    `frame` holds the bars of the dates judged with `member`.
    """
    rows = answers.rows
    net, session = data.labels.net[rows], data.session[rows]
    size = max(int(accepts(mode, answers.forecast).sum()) for mode in MODES) or min(1000, len(rows))
    picked = np.sort(np.random.default_rng(RANDOM_SEED).choice(len(rows), size=min(size, len(rows)), replace=False))
    calm = np.zeros(len(rows), dtype=bool)
    for day in np.unique(session):
        here = session == day
        calm[here] = data.atr_fraction[rows][here] <= np.quantile(data.atr_fraction[rows][here], CALM_SHARE)
    daily = frame.sort("symbol", "session").with_columns(
        (pl.col("close") / pl.col("close").shift(1) - 1).over("symbol").alias("day"),
        pl.col("member").shift(1).over("symbol").alias("was_member"),
        pl.col("close").pct_change().rolling_std(60).shift(1).over("symbol").alias("spread"),
    )
    # A day's move over 40 % is an action that the factors lack, no return that somebody earned.
    daily = daily.filter(pl.col("was_member"), pl.col("day").abs() < 0.4)
    quiet = daily.filter(pl.col("spread") <= pl.col("spread").quantile(CALM_SHARE).over("session"))
    return {
        "every row": _taken(net, session, horizon, trials),
        "random entries": _taken(net[picked], session[picked], horizon, trials),
        "calmest fifth, same exits": _taken(net[calm], session[calm], horizon, trials),
        "buy and hold": _held(_by_session(daily)),
        "hold the calmest fifth": _held(_by_session(quiet)),
    }


def _by_session(daily: pl.DataFrame) -> np.ndarray:
    return daily.group_by("session").agg(pl.col("day").mean()).sort("session")["day"].to_numpy()
