"""Judge out-of-sample predictions: scores, intervals that respect clustering, and whether a mode may rely on them."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import expit
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from ml_service.calibrate import Forecast
from ml_service.labels import touch_name

EPISODES_MIN = 20
INTERVAL_Z = 1.96
ECE_BINS = 10


@dataclass(frozen=True)
class Mode:
    """What a mode asks of a signal: E[net] ≥ `net_return` and P(touch +`net_return` net) ≥ `confidence`."""

    name: str
    net_return: float
    confidence: float


MODES = (Mode("conservative", 0.02, 0.8), Mode("moderate", 0.015, 0.7), Mode("aggressive", 0.01, 0.6))


@dataclass(frozen=True)
class Interval:
    """A mean over rows with its 95 % interval, episodes counted as independent and rows within one not."""

    mean: float
    low: float
    high: float


def episodes_of(session: np.ndarray, horizon: int) -> np.ndarray:
    """Episode number of each row. An episode opens with a candidate and takes in all within `horizon` sessions of it,
    of whatever symbol: their outcomes overlap in time and share one market."""
    opens: dict[int, int] = {}
    episode, until = -1, -1
    for day in np.unique(session):
        if day > until:
            episode, until = episode + 1, day + horizon - 1
        opens[int(day)] = episode
    return np.array([opens[int(day)] for day in session], dtype=np.int64)


def clustered_interval(values: np.ndarray, cluster: np.ndarray) -> Interval:
    """Mean of `values` with a cluster-robust 95 % interval; one cluster alone has no error and an infinite interval."""
    mean = float(np.mean(values))
    _, index = np.unique(cluster, return_inverse=True)
    count = int(index.max()) + 1
    if count < 2:
        return Interval(mean, -np.inf, np.inf)
    sums = np.bincount(index, weights=values - mean, minlength=count)
    error = float(np.sqrt((sums**2).sum() * count / (count - 1))) / len(values)
    return Interval(mean, mean - INTERVAL_Z * error, mean + INTERVAL_Z * error)


def expected_calibration_error(probability: np.ndarray, hit: np.ndarray) -> float:
    """Mean |stated − realised| over ten bins of equal size (Naeini et al. 2015)."""
    bins = np.array_split(np.argsort(probability, kind="stable"), ECE_BINS)
    gaps = [len(rows) * abs(probability[rows].mean() - hit[rows].mean()) for rows in bins if len(rows)]
    return float(sum(gaps) / len(probability))


def event_metrics(score: np.ndarray, stated: np.ndarray, hit: np.ndarray, base: np.ndarray) -> dict[str, float]:
    """Base rate, AUC, Brier score and skill against `base` (the rate known at the time), ECE before and after Platt.

    `score` is in log odds. AUC is of the scores: a calibration that has gone flat would hide a ranking gone wrong.
    """
    raw = expit(score)
    brier = float(np.mean((stated - hit) ** 2))
    reference = float(np.mean((base - hit) ** 2))
    return {
        "base_rate": float(hit.mean()),
        "auc": float(roc_auc_score(hit, score)),
        "brier": brier,
        "brier_skill": 1 - brier / reference,
        "ece_raw": expected_calibration_error(raw, hit),
        "ece": expected_calibration_error(stated, hit),
    }


def rank_ic(forecast: np.ndarray, outcome: np.ndarray, session: np.ndarray) -> float:
    """Mean over sessions of the Spearman correlation of forecast and outcome across symbols; 0 where one is flat.

    Give both in units of each symbol's own volatility: the plan's outcome is most often its target, a multiple of ATR,
    so in per cent a ranking by volatility alone looks like skill.
    """
    correlations = [0.0]
    for day in np.unique(session):
        rows = session == day
        if rows.sum() >= 5 and np.ptp(forecast[rows]) > 0 and np.ptp(outcome[rows]) > 0:
            correlations.append(np.corrcoef(rankdata(forecast[rows]), rankdata(outcome[rows]))[0, 1])
        elif rows.sum() >= 5:
            correlations.append(0.0)
    return float(np.mean(correlations[1:] or correlations))


def accepts(mode: Mode, forecast: Forecast) -> np.ndarray:
    """Rows the mode takes: enough expected return, enough confidence, and a positive lower bound."""
    confident = forecast.events[touch_name(mode.net_return)] >= mode.confidence
    return (forecast.expected >= mode.net_return) & confident & (forecast.lower > 0)


def _finite(interval: Interval) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in asdict(interval).items()}


def judge_mode(
    mode: Mode,
    forecast: Forecast,
    hits: dict[str, np.ndarray],
    net: np.ndarray,
    session: np.ndarray,
    horizon: int,
) -> dict[str, Any]:
    """The mode's out-of-sample record, and whether it is certified.

    Certified: at least 20 episodes, the hit rate's lower 95 % bound no less than the mode's confidence, and the net
    return per trade's lower 95 % bound above zero.
    """
    rows = accepts(mode, forecast)
    report: dict[str, Any] = asdict(mode) | {"candidates": int(rows.sum()), "episodes": 0, "certified": False}
    if not rows.any():
        return report | {"verdict": "insufficient_evidence"}
    event = touch_name(mode.net_return)
    episode = episodes_of(session[rows], horizon)
    hit, earned = (clustered_interval(x[rows].astype(float), episode) for x in (hits[event], net))
    report |= {
        "episodes": int(episode.max()) + 1,
        "sessions": len(np.unique(session[rows])),
        "stated": float(forecast.events[event][rows].mean()),
        "stated_net": float(forecast.expected[rows].mean()),
        "hit_rate": _finite(hit),
        "net": _finite(earned),
        "profitable": float(hits["net_profit"][rows].mean()),
    }
    if report["episodes"] < EPISODES_MIN:
        return report | {"verdict": "insufficient_evidence"}
    if hit.low < mode.confidence:
        return report | {"verdict": "hit_rate_not_proven"}
    if earned.low <= 0:
        return report | {"verdict": "net_return_not_proven"}
    return report | {"certified": True, "verdict": "certified"}


def judge_rule(vote: np.ndarray, net: np.ndarray, session: np.ndarray, horizon: int) -> dict[str, Any]:
    """A rule's record over the same rows as the model: how often it fired and what the plan then earned."""
    if not vote.any():
        return {"candidates": 0, "episodes": 0}
    episode = episodes_of(session[vote], horizon)
    return {
        "candidates": int(vote.sum()),
        "episodes": int(episode.max()) + 1,
        "profitable": _finite(clustered_interval((net[vote] > 0).astype(float), episode)),
        "net": _finite(clustered_interval(net[vote], episode)),
    }
