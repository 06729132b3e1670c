"""The linear model: winsorised, standardised features; ridge for the return, logistic regression for each event."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge

from ml_service.labels import EVENTS

STRATEGY = "linear_v1"
LOGIC_VERSION = "linear_v1.2"
"""What is decided from the numbers, apart from the weights: a change of logic is a new strategy to a regulator. A model
trained under another version is refused."""

RETURN_HEAD = "return"
WINSOR_QUANTILE = 0.005
RANGE_QUANTILE = 0.001
OUT_OF_RANGE_SHARE_MAX = 0.05
PENALTY_PER_ROW = 0.01
HYPERPARAMETERS = {"winsor_quantile": WINSOR_QUANTILE, "penalty_per_row": PENALTY_PER_ROW}


def rounded(values: np.ndarray) -> np.ndarray:
    """Ten significant digits: what is saved is what is used, and the last bits of a sum decide nothing."""
    return np.array([float(f"{value:.10g}") for value in np.ravel(values)]).reshape(np.shape(values))


@dataclass(frozen=True)
class LinearModel:
    """Coefficients on k features. `heads` maps "return" and each of EVENTS to (intercept, k weights).

    The return head predicts the plan's gross return in units of the signal's ATR fraction; event heads give log odds.
    """

    winsor_low: np.ndarray
    winsor_high: np.ndarray
    range_low: np.ndarray
    range_high: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    heads: dict[str, tuple[float, np.ndarray]]

    def standardised(self, x: np.ndarray) -> np.ndarray:
        return (np.clip(x, self.winsor_low, self.winsor_high) - self.mean) / self.scale

    def scores(self, x: np.ndarray, atr_fraction: np.ndarray) -> dict[str, np.ndarray]:
        """Uncalibrated scores of rows (n × k): the return head as a fraction of the entry value, events as log odds."""
        z = self.standardised(x)
        raw = {name: intercept + z @ weights for name, (intercept, weights) in self.heads.items()}
        raw[RETURN_HEAD] = raw[RETURN_HEAD] * atr_fraction
        return raw

    def in_range(self, x: np.ndarray) -> np.ndarray:
        """Rows of which no more than 5 % of the features lie outside the training data's 0.1–99.9 % range."""
        outside = (x < self.range_low) | (x > self.range_high)
        return outside.mean(axis=1) <= OUT_OF_RANGE_SHARE_MAX

    def to_json(self) -> dict[str, Any]:
        arrays = ("winsor_low", "winsor_high", "range_low", "range_high", "mean", "scale")
        return {name: getattr(self, name).tolist() for name in arrays} | {
            "heads": {name: {"intercept": a, "weights": w.tolist()} for name, (a, w) in self.heads.items()}
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> "LinearModel":
        heads = {name: (float(h["intercept"]), np.array(h["weights"], float)) for name, h in data["heads"].items()}
        arrays = {name: np.array(data[name], float) for name in data if name != "heads"}
        return LinearModel(**arrays, heads=heads)


def _logistic(z: np.ndarray, hit: np.ndarray) -> tuple[float, np.ndarray]:
    if hit.all() or not hit.any():
        raise ValueError("an event that always or never happened cannot be learned")
    # scikit-learn's C multiplies the summed loss, so 1 / (rows × penalty) keeps the penalty per row the same.
    model = LogisticRegression(C=1 / (PENALTY_PER_ROW * len(hit)), solver="newton-cholesky", max_iter=50)
    model.fit(z, hit)
    return float(f"{np.asarray(model.intercept_)[0]:.10g}"), rounded(np.asarray(model.coef_)[0])


def fit_linear(x: np.ndarray, scaled_return: np.ndarray, events: dict[str, np.ndarray]) -> LinearModel:
    """Fit on rows (n × k) with the gross return in ATR fractions and one boolean array per event.

    Deterministic. Raises ValueError where an event has only one outcome.
    """
    quantiles = (RANGE_QUANTILE, WINSOR_QUANTILE, 1 - WINSOR_QUANTILE, 1 - RANGE_QUANTILE)
    range_low, low, high, range_high = (rounded(q) for q in np.quantile(x, quantiles, axis=0))
    clipped = np.clip(x, low, high)
    mean, spread = rounded(clipped.mean(axis=0)), clipped.std(axis=0)
    scale = rounded(np.where(spread > 1e-12, spread, 1.0))
    z = (clipped - mean) / scale
    ridge = Ridge(alpha=PENALTY_PER_ROW * len(x), solver="cholesky").fit(z, scaled_return)
    heads = {RETURN_HEAD: (float(f"{float(ridge.intercept_):.10g}"), rounded(ridge.coef_))}
    heads |= {name: _logistic(z, events[name]) for name in EVENTS}
    return LinearModel(low, high, range_low, range_high, mean, scale, heads)
