"""Make scores mean what they say, from walk-forward predictions that the scoring models had not seen.

Probabilities: Platt scaling (Platt 1999); isotonic regression over-claims in the tail. The touch levels share one
score, so theirs has the log of the signal's ATR fraction beside it: how far a level lies in the share's own steps.
Expected return: a straight line from score to realised net return, with a one-sided 90 % lower bound on the *mean* from
cluster-robust errors by calendar month (Liang and Zeger 1986): rows of one month share one market and count little
more than once. The bound covers the calibration line, not the spread of single trades.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import expit, logit
from scipy.stats import t
from sklearn.linear_model import LogisticRegression

from ml_service.labels import EVENTS, TOUCH_LEVELS, touch_name
from ml_service.model import RETURN_HEAD, TOUCH_HEAD

LOWER_BOUND_Z = 1.2816
"""Standard normal quantile of the one-sided 90 % bound."""
SCORE_QUANTILE = 0.001
CLUSTERS_MIN = 6
ROWS_MIN = 100


def _digits(value: float) -> float:
    return float(f"{value:.10g}")


def head_of(event: str) -> str:
    """The model's head whose score an event is calibrated on."""
    return TOUCH_HEAD if event.startswith("touch") else event


@dataclass(frozen=True)
class Platt:
    """P(event) = 1 / (1 + exp(−(intercept + slope × score + step_slope × log ATR fraction))); score and ATR are held
    inside the range they were calibrated on."""

    intercept: float
    slope: float
    step_slope: float
    score_low: float
    score_high: float
    step_low: float
    step_high: float

    def probability(self, score: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Calibrated probability; `step` is the log of the ATR as a fraction of the close."""
        held = np.clip(score, self.score_low, self.score_high)
        return expit(
            self.intercept + self.slope * held + self.step_slope * np.clip(step, self.step_low, self.step_high)
        )


@dataclass(frozen=True)
class ExpectedReturn:
    """E[net] = intercept + slope × score, with the covariance of both; fractions of the entry value."""

    intercept: float
    slope: float
    variance_intercept: float
    covariance: float
    variance_slope: float
    score_low: float
    score_high: float

    def mean_and_error(self, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expected net return and its standard error, per score."""
        x = np.clip(score, self.score_low, self.score_high)
        variance = self.variance_intercept + 2 * x * self.covariance + x * x * self.variance_slope
        return self.intercept + self.slope * x, np.sqrt(np.maximum(variance, 0.0))


@dataclass(frozen=True)
class Calibration:
    """Coefficients that turn a model's scores into probabilities and an expected net return with its error."""

    events: dict[str, Platt]
    expected: ExpectedReturn

    def to_json(self) -> dict[str, Any]:
        return {"events": {k: asdict(v) for k, v in self.events.items()}, "expected": asdict(self.expected)}

    @staticmethod
    def from_json(data: dict[str, Any]) -> "Calibration":
        events = {name: Platt(**platt) for name, platt in data["events"].items()}
        return Calibration(events, ExpectedReturn(**data["expected"]))


@dataclass(frozen=True)
class Forecast:
    """Calibrated answers, one array per quantity. Returns are fractions of the entry value, after costs."""

    events: dict[str, np.ndarray]
    expected: np.ndarray
    error: np.ndarray

    @property
    def lower(self) -> np.ndarray:
        return self.expected - LOWER_BOUND_Z * self.error

    @property
    def upper(self) -> np.ndarray:
        return self.expected + LOWER_BOUND_Z * self.error


def _score_range(score: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(score, (SCORE_QUANTILE, 1 - SCORE_QUANTILE))
    return _digits(low), _digits(high)


def fit_platt(score: np.ndarray, hit: np.ndarray, step: np.ndarray | None = None) -> Platt:
    """Platt scaling of log-odds scores, with `step` as a second input where it is given.

    A score that ranks backwards is worth the base rate and nothing more. Raises ValueError where the event always or
    never happened: no probability could be told from that.
    """
    if hit.all() or not hit.any():
        raise ValueError("an event that always or never happened cannot be calibrated")
    low, high = _score_range(score)
    step_low, step_high = _score_range(step) if step is not None else (0.0, 0.0)
    columns = [np.clip(score, low, high)] + ([] if step is None else [np.clip(step, step_low, step_high)])
    # Platt's own targets (n + 1) / (n + 2) are not needed: with thousands of rows of both kinds they change nothing.
    model = LogisticRegression(C=np.inf, solver="newton-cholesky").fit(np.column_stack(columns), hit)
    slope, step_slope = float(model.coef_[0, 0]), float(model.coef_[0, 1]) if step is not None else 0.0
    if slope <= 0:
        return Platt(_digits(float(logit(hit.mean()))), 0.0, 0.0, low, high, step_low, step_high)
    return Platt(
        _digits(float(model.intercept_[0])), _digits(slope), _digits(step_slope), low, high, step_low, step_high
    )


def _clustered_covariance(design: np.ndarray, residual: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Sandwich covariance of least-squares coefficients, clustered, with the G / (G − 1) correction."""
    bread = np.linalg.inv(design.T @ design)
    _, index = np.unique(cluster, return_inverse=True)
    count = int(index.max()) + 1
    sums = np.stack([np.bincount(index, weights=column * residual, minlength=count) for column in design.T], axis=1)
    return bread @ (sums.T @ sums) @ bread * (count / (count - 1))


def fit_expected(score: np.ndarray, net: np.ndarray, month: np.ndarray) -> ExpectedReturn:
    """Least-squares line of net return on score, with errors clustered by `month` (any integer key).

    Raises ValueError under six months of rows: no error could be estimated. A negative slope becomes a flat line.
    """
    if len(np.unique(month)) < CLUSTERS_MIN:
        raise ValueError(f"calibration needs at least {CLUSTERS_MIN} calendar months of out-of-sample predictions")
    low, high = _score_range(score)
    x = np.clip(score, low, high)
    design = np.column_stack([np.ones_like(x), x])
    # With few months the normal quantile promises too much: Student's t, as a factor on the error.
    wider = float(t.ppf(0.9, len(np.unique(month)) - 2) / LOWER_BOUND_Z) ** 2
    (intercept, slope), *_ = np.linalg.lstsq(design, net, rcond=None)
    if slope <= 0:
        flat, intercept, slope = design[:, :1], net.mean(), 0.0
        covariance = np.zeros((2, 2))
        covariance[0, 0] = _clustered_covariance(flat, net - intercept, month)[0, 0]
    else:
        covariance = _clustered_covariance(design, net - intercept - slope * x, month)
    covariance = covariance * wider
    return ExpectedReturn(
        intercept=_digits(float(intercept)),
        slope=_digits(float(slope)),
        variance_intercept=_digits(covariance[0, 0]),
        covariance=_digits(covariance[0, 1]),
        variance_slope=_digits(covariance[1, 1]),
        score_low=low,
        score_high=high,
    )


def fit_calibration(
    scores: dict[str, np.ndarray],
    events: dict[str, np.ndarray],
    net: np.ndarray,
    month: np.ndarray,
    atr_fraction: np.ndarray,
) -> Calibration:
    """Calibrate every event on out-of-sample rows (aligned arrays). Raises ValueError where there are too few."""
    if len(net) < ROWS_MIN:
        raise ValueError(f"calibration needs at least {ROWS_MIN} out-of-sample predictions")
    step = np.log(atr_fraction)
    platt = {
        name: fit_platt(scores[head_of(name)], events[name], step if name.startswith("touch") else None)
        for name in EVENTS
    }
    return Calibration(platt, fit_expected(scores[RETURN_HEAD], net, month))


def apply_calibration(calibration: Calibration, scores: dict[str, np.ndarray], atr_fraction: np.ndarray) -> Forecast:
    """Probabilities, expected net return and its error for rows of scores and of ATR fractions.

    Reaching a higher level implies having reached the lower ones, whatever separately fitted curves say: each level's
    probability is the running minimum over the levels up to it. Never more is claimed than was calibrated, and levels
    above a mode's own do not change it.
    """
    mean, error = calibration.expected.mean_and_error(scores[RETURN_HEAD])
    step = np.log(np.maximum(atr_fraction, 1e-9))
    events = {name: platt.probability(scores[head_of(name)], step) for name, platt in calibration.events.items()}
    touches = [touch_name(level) for level in TOUCH_LEVELS]
    events |= zip(touches, np.minimum.accumulate([events[name] for name in touches]), strict=True)
    return Forecast(events, mean, error)
