"""How easily the best of several tries looks good: deflated Sharpe ratio, track record length, and CSCV."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import kurtosis, norm, skew

from backend.backtest.report.metrics import finite
from backend.backtest.report.series import Floats

RETURNS_LEAST = 5
BLOCKS = 16
BLOCK_SESSIONS_LEAST = 10
_SPLITS_AT_ONCE = 2000
"""So many of the splits (12,870 for 16 blocks) are held in memory at a time."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A series' Sharpe ratio per session and what its estimate's error depends on: length, skew, kurtosis (3 where the
    returns are normal)."""

    sessions: int
    ratio: float
    skew: float
    kurtosis: float

    @property
    def spread(self) -> float:
        """Standard deviation of the ratio's estimate x sqrt(n - 1) (Mertens 2002)."""
        variance = 1 - self.skew * self.ratio + (self.kurtosis - 1) / 4 * self.ratio**2
        return max(variance, 1e-9) ** 0.5

    def probability(self, above: float) -> float:
        """P(the true ratio is more than `above`)."""
        return float(norm.cdf((self.ratio - above) * (self.sessions - 1) ** 0.5 / self.spread))

    def sessions_min(self, above: float, confidence: float) -> float | None:
        """Sessions needed to tell the ratio from `above` with `confidence`; None where it is not above it."""
        if self.ratio <= above:
            return None
        return finite(1 + (self.spread * float(norm.ppf(confidence)) / (self.ratio - above)) ** 2)


def shape_of(returns: Floats) -> Shape | None:
    """The shape of a series; None under five returns or without spread."""
    n = len(returns)
    deviation = float(np.std(returns, ddof=1)) if n > 1 else 0.0
    if n < RETURNS_LEAST or deviation <= 1e-14:
        return None
    ratio = float(np.mean(returns)) / deviation
    return Shape(n, ratio, float(skew(returns)), float(kurtosis(returns, fisher=False)))


def probabilistic_sharpe(returns: Floats, above: float = 0.0) -> float | None:
    """P(the true Sharpe ratio per session is more than `above`), from a series' length, skew and kurtosis (Bailey and
    Lopez de Prado 2012). None under five returns or without spread."""
    shape = shape_of(returns)
    return None if shape is None else shape.probability(above)


def expected_best_sharpe(trials: int, variance: float) -> float:
    """The Sharpe ratio that the best of `trials` worthless tries is expected to show, where the tries' ratios have
    `variance` (Bailey and Lopez de Prado 2014, "false strategy theorem"); 0 for one try."""
    if trials <= 1:
        return 0.0
    gamma = float(np.euler_gamma)
    best = (1 - gamma) * norm.ppf(1 - 1 / trials) + gamma * norm.ppf(1 - 1 / (trials * np.e))
    return float(best) * variance**0.5


def deflated_sharpe(returns: Floats, trials: int, variance: float | None = None) -> float | None:
    """P(the true Sharpe ratio is above what the best of `trials` worthless tries would show): the probabilistic Sharpe
    ratio against `expected_best_sharpe` (Bailey and Lopez de Prado 2014).

    `variance` is that of the tries' ratios per session; without it that of a worthless one's estimate, 1 / (n - 1).
    None under five returns or without spread.
    """
    spread = variance if variance is not None else 1 / max(len(returns) - 1, 1)
    return probabilistic_sharpe(returns, expected_best_sharpe(trials, spread))


def track_record_sessions_min(returns: Floats, above: float = 0.0, confidence: float = 0.95) -> float | None:
    """Sessions needed before a Sharpe ratio like this one is told from `above` (per session) with `confidence` (Bailey
    and Lopez de Prado 2012). None where the ratio is not above it: no length would do."""
    shape = shape_of(returns)
    return None if shape is None else shape.sessions_min(above, confidence)


@dataclass(frozen=True, slots=True)
class Overfitting:
    """What CSCV found. `probability`: how often the best in sample was no better than the median out of sample;
    `logits`: ln(w / (1 - w)) of its relative rank w out of sample, one per split; `loss_probability`: how often it lost
    money out of sample; `slope`: of its Sharpe ratio out of sample on that in sample (None: it did not vary)."""

    probability: float
    logits: Floats
    blocks: int
    loss_probability: float
    slope: float | None


def blocks_for(sessions: int) -> int:
    """Blocks that a series of `sessions` is cut into: 16, or the most of an even number that leaves each ten sessions
    or more; 0 where not even four do."""
    fit = min(BLOCKS, sessions // BLOCK_SESSIONS_LEAST)
    return fit - fit % 2 if fit >= 4 else 0


def backtest_overfitting(returns: Floats) -> Overfitting | None:
    """Probability of backtest overfitting by combinatorially symmetric cross-validation (CSCV; Bailey, Borwein, Lopez
    de Prado and Zhu 2015), judged by the Sharpe ratio. `returns` has the shape (sessions, tries).

    Sessions are cut into blocks; each half of them in turn is in sample, the rest out of sample. A try that never
    traded has a ratio of 0. None under two tries or 40 sessions.
    """
    sessions, tries = returns.shape
    blocks = blocks_for(sessions)
    if tries < 2 or blocks == 0:
        return None
    parts = np.array_split(returns, blocks)
    sums = np.stack([[len(part) * np.ones(tries), part.sum(axis=0), (part**2).sum(axis=0)] for part in parts], axis=1)
    chosen = np.array([np.isin(np.arange(blocks), half) for half in combinations(range(blocks), blocks // 2)], float)
    found = [_split(sums, chosen[at : at + _SPLITS_AT_ONCE]) for at in range(0, len(chosen), _SPLITS_AT_ONCE)]
    inside, outside, logits = (np.concatenate(column) for column in zip(*found, strict=True))
    varies = inside.std() > 1e-12
    return Overfitting(
        probability=float((logits <= 0).mean()),
        logits=logits,
        blocks=blocks,
        loss_probability=float((outside < 0).mean()),
        slope=float(np.cov(inside, outside)[0, 1] / inside.var(ddof=1)) if varies else None,
    )


def _split(sums: Floats, chosen: Floats) -> tuple[Floats, Floats, Floats]:
    """Per split: the winner's ratio in sample and out of sample, and the logit of its rank out of sample."""
    inside, outside = _ratios(sums, chosen), _ratios(sums, 1 - chosen)
    rows, best = np.arange(len(chosen)), inside.argmax(axis=1)
    # Its own rank alone is needed: as rankdata's, ties share the mean of their places.
    own = outside[rows, best][:, None]
    rank = (outside < own).sum(axis=1) + ((outside == own).sum(axis=1) + 1) / 2
    relative = rank / (inside.shape[1] + 1)
    return inside[rows, best], own[:, 0], np.log(relative / (1 - relative))


def _ratios(sums: Floats, chosen: Floats) -> Floats:
    """Sharpe ratios per session, shape (splits, tries), of the chosen blocks' (count, sum, squares)."""
    count, total, squares = (chosen @ part for part in sums)
    mean = total / count
    variance = np.maximum(squares - count * mean**2, 0) / (count - 1)
    known = variance > 1e-20
    return np.where(known, mean / np.sqrt(np.where(known, variance, 1.0)), 0.0)
