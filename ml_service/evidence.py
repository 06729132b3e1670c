"""Judge out-of-sample predictions: scores, intervals that respect clustering, and whether a mode may rely on them."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import expit
from scipy.stats import kurtosis, norm, rankdata, skew, t
from sklearn.metrics import roc_auc_score

from ml_service.calibrate import Forecast
from ml_service.labels import touch_name

EPISODES_MIN = 20
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


def _interval(mean: float, error: float, freedom: float) -> Interval:
    reach = float(t.ppf(0.975, freedom)) * error
    return Interval(mean, mean - reach, mean + reach)


def _with_neighbours(sums: np.ndarray) -> float:
    """Sum of squares plus half of each neighbour's product twice (Newey and West 1987, one lag): the last rows of an
    episode and the first of the next overlap in time. Never less than without."""
    return float(max((sums**2).sum(), (sums**2).sum() + (sums[:-1] * sums[1:]).sum()))


def clustered_interval(values: np.ndarray, cluster: np.ndarray) -> Interval:
    """Mean of `values` with a 95 % interval that takes clusters, numbered in time, for what is independent.

    The errors are cluster-robust with Student's t; its degrees of freedom are the effective number of clusters less
    one, (Σ rows)² / Σ rows² (Kish 1965), so that one large cluster is not taken for many. One cluster alone has no
    error and an infinite interval.
    """
    mean = float(np.mean(values))
    _, index = np.unique(cluster, return_inverse=True)
    rows = np.bincount(index)
    count = len(rows)
    if count < 2:
        return Interval(mean, -np.inf, np.inf)
    sums = np.bincount(index, weights=values - mean, minlength=count)
    error = float(np.sqrt(_with_neighbours(sums) * count / (count - 1))) / len(values)
    return _interval(mean, error, max(float(rows.sum() ** 2 / (rows**2).sum()) - 1, 1.0))


def episode_interval(values: np.ndarray, cluster: np.ndarray) -> Interval:
    """As `clustered_interval`, of the episodes' own means, each counting once however many rows it has."""
    _, index = np.unique(cluster, return_inverse=True)
    means = np.bincount(index, weights=values) / np.bincount(index)
    count, mean = len(means), float(np.mean(means))
    if count < 2:
        return Interval(mean, -np.inf, np.inf)
    error = float(np.sqrt(_with_neighbours(means - mean) / (count - 1) / count))
    return _interval(mean, error, count - 1)


def reliability(probability: np.ndarray, hit: np.ndarray) -> list[dict[str, float]]:
    """Ten bins of equal width of the stated probability: rows, mean stated, share realised; empty ones left out."""
    place = np.clip((probability * ECE_BINS).astype(int), 0, ECE_BINS - 1)
    return [
        {"count": int(rows.sum()), "stated": float(probability[rows].mean()), "realised": float(hit[rows].mean())}
        for rows in (place == one for one in range(ECE_BINS))
        if rows.any()
    ]


def expected_calibration_error(probability: np.ndarray, hit: np.ndarray) -> float:
    """Mean |stated − realised| over ten bins of equal width (Guo et al. 2017), weighted by their rows."""
    bins = reliability(probability, hit)
    return float(sum(one["count"] * abs(one["stated"] - one["realised"]) for one in bins) / len(probability))


def calibration_error_by_size(probability: np.ndarray, hit: np.ndarray) -> float:
    """Mean |stated − realised| over ten bins of equal size (Naeini et al. 2015). Where a probability hardly varies, its
    bins are stretches of time, and this measures the years' luck rather than the calibration."""
    bins = np.array_split(np.argsort(probability, kind="stable"), ECE_BINS)
    gaps = [len(rows) * abs(probability[rows].mean() - hit[rows].mean()) for rows in bins if len(rows)]
    return float(sum(gaps) / len(probability))


def event_metrics(score: np.ndarray, stated: np.ndarray, hit: np.ndarray, base: np.ndarray) -> dict[str, Any]:
    """Base rate, AUC, Brier score and skill against `base` (the rate known at the time), ECE before and after Platt.

    `score` is in log odds. AUC is of the scores: a calibration that has gone flat would hide a ranking gone wrong.
    """
    raw = expit(score)
    brier = float(np.mean((stated - hit) ** 2))
    reference = float(np.mean((base - hit) ** 2))
    both = hit.any() and not hit.all()
    return {
        "base_rate": float(hit.mean()),
        "trailing_base_rate": float(base.mean()),
        "auc": float(roc_auc_score(hit, score)) if both else None,
        "brier": brier,
        "base_brier": reference,
        "brier_skill": 1 - brier / reference if reference > 0 else None,
        "ece_raw": expected_calibration_error(raw, hit),
        "ece": expected_calibration_error(stated, hit),
        "ece_equal_size": calibration_error_by_size(stated, hit),
        "reliability": reliability(stated, hit),
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


def proportion(hit: np.ndarray, cluster: np.ndarray) -> Interval:
    """How often something happened, with its clustered interval held inside 0..1."""
    found = clustered_interval(hit.astype(float), cluster)
    low, high = (float(np.clip(bound, 0, 1)) if np.isfinite(bound) else bound for bound in (found.low, found.high))
    return Interval(found.mean, low, high)


def finite(interval: Interval) -> dict[str, float | None]:
    """The interval with null for an infinite bound."""
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
    return per trade's lower 95 % bound above zero; both also where each episode counts once, so that no single one
    proves a mode.
    """
    rows = accepts(mode, forecast)
    report: dict[str, Any] = asdict(mode) | {"candidates": int(rows.sum()), "episodes": 0, "certified": False}
    if not rows.any():
        return report | {"verdict": "insufficient_evidence"}
    event = touch_name(mode.net_return)
    episode = episodes_of(session[rows], horizon)
    hit, earned = proportion(hits[event][rows], episode), clustered_interval(net[rows], episode)
    hit_each, earned_each = (episode_interval(x[rows].astype(float), episode) for x in (hits[event], net))
    report |= {
        "episodes": int(episode.max()) + 1,
        "sessions": len(np.unique(session[rows])),
        "stated": float(forecast.events[event][rows].mean()),
        "stated_net": float(forecast.expected[rows].mean()),
        "hit_rate": finite(hit),
        "net": finite(earned),
        "profitable": float(hits["net_profit"][rows].mean()),
    }
    if report["episodes"] < EPISODES_MIN:
        return report | {"verdict": "insufficient_evidence"}
    if min(hit.low, hit_each.low) < mode.confidence:
        return report | {"verdict": "hit_rate_not_proven"}
    if min(earned.low, earned_each.low) <= 0:
        return report | {"verdict": "net_return_not_proven"}
    return report | {"certified": True, "verdict": "certified"}


def deflated_sharpe(returns: np.ndarray, trials: int) -> float | None:
    """P(the true Sharpe ratio of independent `returns` is above what the best of `trials` worthless ones would show).

    Bailey and López de Prado (2014), with the variance of the trials' ratios taken as that of a worthless one's
    estimate, 1 / (n − 1). None under five returns or without spread.
    """
    n, spread = len(returns), float(np.std(returns, ddof=1)) if len(returns) > 1 else 0.0
    if n < 5 or spread <= 0:
        return None
    ratio = float(np.mean(returns)) / spread
    gamma, best = np.euler_gamma, 0.0
    if trials > 1:
        best = (1 - gamma) * norm.ppf(1 - 1 / trials) + gamma * norm.ppf(1 - 1 / (trials * np.e))
    threshold = best * (1 / (n - 1)) ** 0.5
    shape = 1 - skew(returns) * ratio + (kurtosis(returns, fisher=False) - 1) / 4 * ratio**2
    return float(norm.cdf((ratio - threshold) * (n - 1) ** 0.5 / max(shape, 1e-9) ** 0.5))
