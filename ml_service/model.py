"""The models: a linear one and boosted trees together on every feature for the machine-learned strategy, a small linear
one for each rule.

All answer four heads (`HEADS`): the plan's gross return in units of the signal's ATR fraction, and the log odds of
three events. All are plain JSON, deterministic, and say how much each feature moved a score.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import xgboost as xgb
from sklearn.linear_model import LogisticRegression, Ridge

from ml_service.features import FEATURES

STRATEGY = "ensemble"
LOGIC_VERSION = "ensemble_v2.0"
"""What is decided from the numbers, apart from the weights: a change of logic is a new strategy to a regulator. A model
trained under another version is refused."""

RETURN_HEAD = "return"
TOUCH_HEAD = "touch_0.02"
"""One head for every touch level: how far the price moves is one thing to learn; calibration sets each level."""
HEADS = (RETURN_HEAD, "net_profit", "bracket", TOUCH_HEAD)
SEEDS = (1, 2, 3, 4, 5)
WINSOR_QUANTILE = 0.005
RANGE_QUANTILE = 0.001
OUT_OF_RANGE_SHARE_MAX = 0.05
PENALTY_PER_ROW = 0.01
ENSEMBLE_PENALTY_PER_ROW = 0.1
TREES = 60
ROWS_PER_LEAF_SHARE = 500
ROWS_PER_LEAF_MIN, ROWS_PER_LEAF_MAX = 20, 300
TREE_PARAMETERS = {
    "max_depth": 4,
    "eta": 0.07,
    "subsample": 0.5,
    "colsample_bytree": 0.3,
    "reg_lambda": 10.0,
    "max_bin": 64,
    "tree_method": "hist",
}
HYPERPARAMETERS: dict[str, Any] = {
    "trees": TREES,
    "seeds": list(SEEDS),
    **TREE_PARAMETERS,
    "rows_per_leaf": f"rows / {ROWS_PER_LEAF_SHARE}, {ROWS_PER_LEAF_MIN} to {ROWS_PER_LEAF_MAX}",
    "linear_penalty_per_row": ENSEMBLE_PENALTY_PER_ROW,
    "rule_penalty_per_row": PENALTY_PER_ROW,
}


def rounded(values: np.ndarray) -> np.ndarray:
    """Ten significant digits: what is saved is what is used, and the last bits of a sum decide nothing."""
    return np.array([float(f"{value:.10g}") for value in np.ravel(values)]).reshape(np.shape(values))


@dataclass(frozen=True)
class Range:
    """The 0.1–99.9 % range of each feature in the training data, arrays of k."""

    low: np.ndarray
    high: np.ndarray

    def holds(self, x: np.ndarray) -> np.ndarray:
        """Rows of which no more than 5 % of the features lie outside."""
        outside = (x < self.low) | (x > self.high)
        return outside.mean(axis=1) <= OUT_OF_RANGE_SHARE_MAX

    @staticmethod
    def of(x: np.ndarray) -> "Range":
        low, high = np.quantile(x, (RANGE_QUANTILE, 1 - RANGE_QUANTILE), axis=0)
        return Range(rounded(low), rounded(high))


class Model(Protocol):
    """What a strategy's numbers come from. `x` is always n × len(FEATURES); a model picks its own columns."""

    @property
    def inputs(self) -> tuple[str, ...]: ...

    def scores(self, x: np.ndarray, atr_fraction: np.ndarray) -> dict[str, np.ndarray]:
        """Uncalibrated scores: the return head as a fraction of the entry value, events as log odds."""
        ...

    def in_range(self, x: np.ndarray) -> np.ndarray:
        """Rows like those it was trained on."""
        ...

    def contributions(self, x: np.ndarray, head: str) -> tuple[np.ndarray, float]:
        """How much each input moved an event's log odds (n × inputs), and the intercept they are added to."""
        ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class BoostedModel:
    """Gradient-boosted trees (xgboost), the mean of five seeds per head, on every feature."""

    range: Range
    heads: dict[str, list[xgb.Booster]]
    inputs: tuple[str, ...] = FEATURES

    def scores(self, x: np.ndarray, atr_fraction: np.ndarray) -> dict[str, np.ndarray]:
        rows = x.astype(np.float32)
        raw = {
            name: np.mean([booster.inplace_predict(rows, predict_type="margin") for booster in boosters], axis=0)
            for name, boosters in self.heads.items()
        }
        return {name: score.astype(float) for name, score in raw.items()} | {
            RETURN_HEAD: raw[RETURN_HEAD].astype(float) * atr_fraction
        }

    def in_range(self, x: np.ndarray) -> np.ndarray:
        return self.range.holds(x)

    def contributions(self, x: np.ndarray, head: str) -> tuple[np.ndarray, float]:
        """SHAP values of the trees (Lundberg et al. 2020): exact, and a hundred times dearer than a score."""
        rows = xgb.DMatrix(x.astype(np.float32), nthread=1)
        parts = np.mean([booster.predict(rows, pred_contribs=True) for booster in self.heads[head]], axis=0)
        return parts[:, :-1], float(parts[0, -1])

    def to_json(self) -> dict[str, Any]:
        return {
            "range_low": self.range.low.tolist(),
            "range_high": self.range.high.tolist(),
            "heads": {
                name: [json.loads(bytes(booster.save_raw("json"))) for booster in boosters]
                for name, boosters in self.heads.items()
            },
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> "BoostedModel":
        span = Range(np.array(data["range_low"], float), np.array(data["range_high"], float))
        return BoostedModel(span, {name: [_booster(one) for one in many] for name, many in data["heads"].items()})


def _booster(data: dict[str, Any]) -> xgb.Booster:
    booster = xgb.Booster()
    booster.load_model(bytearray(json.dumps(data).encode()))
    # One thread: a batch of a few hundred rows is over before others have been woken.
    booster.set_param({"nthread": 1})
    return booster


def _grow(x: np.ndarray, target: np.ndarray, objective: str) -> list[xgb.Booster]:
    rows = xgb.DMatrix(x.astype(np.float32), target.astype(np.float32), nthread=1)
    leaf = min(ROWS_PER_LEAF_MAX, max(ROWS_PER_LEAF_MIN, len(x) // ROWS_PER_LEAF_SHARE))
    # A logistic loss weighs a row by p (1 − p), at most a quarter.
    weight = leaf if objective.startswith("reg") else leaf / 4
    fixed = TREE_PARAMETERS | {"objective": objective, "min_child_weight": weight, "nthread": 1, "verbosity": 0}
    return [xgb.train(fixed | {"seed": seed}, rows, TREES) for seed in SEEDS]


def fit_boosted(x: np.ndarray, scaled_return: np.ndarray, events: dict[str, np.ndarray]) -> BoostedModel:
    """Fit on rows (n × k) with the gross return in ATR fractions and one boolean array per event.

    Deterministic: every booster grows on one thread, whatever the number of cores. Raises ValueError where an event has
    only one outcome.
    """
    _require_both_outcomes(events)
    targets = {RETURN_HEAD: (scaled_return, "reg:squarederror")}
    targets |= {name: (events[name], "binary:logistic") for name in HEADS if name != RETURN_HEAD}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        grown = pool.map(lambda head: _grow(x, *targets[head]), HEADS)
        heads = {str(name): boosters for name, boosters in zip(HEADS, grown, strict=True)}
    return BoostedModel.from_json(BoostedModel(Range.of(x), heads).to_json())


@dataclass(frozen=True)
class LinearModel:
    """Winsorised, standardised inputs; ridge for the return, logistic regression for each event. `heads` maps each of
    HEADS to (intercept, weights); `columns` names those of `x` (the daily FEATURES, or another plan's own)."""

    kind: ClassVar[str] = "linear"
    inputs: tuple[str, ...]
    range: Range
    winsor_low: np.ndarray
    winsor_high: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    heads: dict[str, tuple[float, np.ndarray]]
    columns: tuple[str, ...] = FEATURES

    def _own(self, x: np.ndarray) -> np.ndarray:
        return x[:, _places(self.inputs, self.columns)]

    def _standardised(self, x: np.ndarray) -> np.ndarray:
        return (np.clip(self._own(x), self.winsor_low, self.winsor_high) - self.mean) / self.scale

    def scores(self, x: np.ndarray, atr_fraction: np.ndarray) -> dict[str, np.ndarray]:
        z = self._standardised(x)
        raw = {name: intercept + z @ weights for name, (intercept, weights) in self.heads.items()}
        return raw | {RETURN_HEAD: raw[RETURN_HEAD] * atr_fraction}

    def in_range(self, x: np.ndarray) -> np.ndarray:
        return self.range.holds(self._own(x))

    def contributions(self, x: np.ndarray, head: str) -> tuple[np.ndarray, float]:
        intercept, weights = self.heads[head]
        return self._standardised(x) * weights, intercept

    def to_json(self) -> dict[str, Any]:
        arrays = ("winsor_low", "winsor_high", "mean", "scale")
        return {name: getattr(self, name).tolist() for name in arrays} | {
            "kind": self.kind,
            "inputs": list(self.inputs),
            "range_low": self.range.low.tolist(),
            "range_high": self.range.high.tolist(),
            "heads": {name: {"intercept": a, "weights": w.tolist()} for name, (a, w) in self.heads.items()},
            **({} if self.columns == FEATURES else {"columns": list(self.columns)}),
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> "LinearModel":
        columns = tuple(data.get("columns", FEATURES))
        if unknown := set(data["inputs"]) - set(columns):
            raise ValueError(f"unknown features: {', '.join(sorted(unknown))}")
        heads = {name: (float(h["intercept"]), np.array(h["weights"], float)) for name, h in data["heads"].items()}
        arrays = {n: np.array(data[n], float) for n in ("winsor_low", "winsor_high", "mean", "scale")}
        span = Range(np.array(data["range_low"], float), np.array(data["range_high"], float))
        return LinearModel(inputs=tuple(data["inputs"]), range=span, heads=heads, columns=columns, **arrays)


def _places(inputs: Sequence[str], columns: Sequence[str]) -> list[int]:
    return [columns.index(name) for name in inputs]


def _require_both_outcomes(events: dict[str, np.ndarray]) -> None:
    if any(events[name].all() or not events[name].any() for name in HEADS if name != RETURN_HEAD):
        raise ValueError("an event that always or never happened cannot be learned")


def _logistic(z: np.ndarray, hit: np.ndarray, penalty_per_row: float) -> tuple[float, np.ndarray]:
    # scikit-learn's C multiplies the summed loss, so 1 / (rows × penalty) keeps the penalty per row the same.
    model = LogisticRegression(C=1 / (penalty_per_row * len(hit)), solver="newton-cholesky", max_iter=50)
    model.fit(z, hit)
    return float(f"{np.asarray(model.intercept_)[0]:.10g}"), rounded(np.asarray(model.coef_)[0])


def fit_linear(
    x: np.ndarray,
    scaled_return: np.ndarray,
    events: dict[str, np.ndarray],
    inputs: Sequence[str],
    penalty_per_row: float = PENALTY_PER_ROW,
    columns: Sequence[str] = FEATURES,
) -> LinearModel:
    """Fit on the columns `inputs` of rows (n × len(columns), which names them), otherwise as `fit_boosted`.

    Raises ValueError where an event has only one outcome.
    """
    _require_both_outcomes(events)
    own = x[:, _places(inputs, columns)]
    low, high = (rounded(q) for q in np.quantile(own, (WINSOR_QUANTILE, 1 - WINSOR_QUANTILE), axis=0))
    clipped = np.clip(own, low, high)
    mean, spread = rounded(clipped.mean(axis=0)), clipped.std(axis=0)
    scale = rounded(np.where(spread > 1e-12, spread, 1.0))
    z = (clipped - mean) / scale
    ridge = Ridge(alpha=penalty_per_row * len(own), solver="cholesky").fit(z, scaled_return)
    heads = {RETURN_HEAD: (float(f"{float(ridge.intercept_):.10g}"), rounded(ridge.coef_))}
    heads |= {name: _logistic(z, events[name], penalty_per_row) for name in HEADS if name != RETURN_HEAD}
    return LinearModel(tuple(inputs), Range.of(own), low, high, mean, scale, heads, tuple(columns))


@dataclass(frozen=True)
class EnsembleModel:
    """The mean of a linear model's and boosted trees' scores on the same rows: where an effect is a straight line or
    rows are few the first is better, elsewhere the second, and the mean is seldom worse than either."""

    kind: ClassVar[str] = "ensemble"
    linear: LinearModel
    boosted: BoostedModel
    inputs: tuple[str, ...] = FEATURES

    def scores(self, x: np.ndarray, atr_fraction: np.ndarray) -> dict[str, np.ndarray]:
        straight, grown = self.linear.scores(x, atr_fraction), self.boosted.scores(x, atr_fraction)
        return {name: (straight[name] + grown[name]) / 2 for name in HEADS}

    def in_range(self, x: np.ndarray) -> np.ndarray:
        return self.boosted.in_range(x)

    def contributions(self, x: np.ndarray, head: str) -> tuple[np.ndarray, float]:
        (straight, intercept), (grown, bias) = self.linear.contributions(x, head), self.boosted.contributions(x, head)
        return (straight + grown) / 2, (intercept + bias) / 2

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "linear": self.linear.to_json(), "boosted": self.boosted.to_json()}

    @staticmethod
    def from_json(data: dict[str, Any]) -> "EnsembleModel":
        return EnsembleModel(LinearModel.from_json(data["linear"]), BoostedModel.from_json(data["boosted"]))


def fit_ensemble(x: np.ndarray, scaled_return: np.ndarray, events: dict[str, np.ndarray]) -> EnsembleModel:
    """Fit both on the same rows (see `fit_boosted`)."""
    linear = fit_linear(x, scaled_return, events, FEATURES, ENSEMBLE_PENALTY_PER_ROW)
    return EnsembleModel(linear, fit_boosted(x, scaled_return, events))


def model_from_json(data: dict[str, Any]) -> Model:
    """The model a registered file holds. Raises ValueError, KeyError, TypeError where it holds none."""
    kinds: dict[str, type[EnsembleModel] | type[LinearModel]] = {
        EnsembleModel.kind: EnsembleModel,
        LinearModel.kind: LinearModel,
    }
    try:
        return kinds[data["kind"]].from_json(data)
    except xgb.core.XGBoostError as error:
        raise ValueError("the trees are not readable") from error
