"""Walk-forward predictions: every row is scored by a model that could not have seen it, and calibrated likewise."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from ml_service.calibrate import Calibration, Forecast, apply_calibration, fit_calibration
from ml_service.features import FEATURES, compute_features, eligible
from ml_service.labels import EVENTS, Labels, make_labels
from ml_service.model import LinearModel, fit_linear
from ml_service.strategies import RULES, with_votes

TRAIN_SESSIONS_MIN = 252
CALIBRATION_SESSIONS_MIN = 126
FOLD_SESSIONS = 63
EMBARGO_SESSIONS = 5

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what is being done)."""


class TrainingError(Exception):
    """The data cannot carry a model; the message says what is missing."""


@dataclass(frozen=True)
class Dataset:
    """Eligible rows as arrays (n rows): features (n × k), session number, month (year × 12 + month), labels, votes."""

    x: np.ndarray
    atr_fraction: np.ndarray
    session: np.ndarray
    month: np.ndarray
    symbol: np.ndarray
    labels: Labels
    votes: dict[str, np.ndarray]

    @property
    def scaled_return(self) -> np.ndarray:
        return self.labels.gross / self.atr_fraction

    def events(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: hit[rows] for name, hit in self.labels.events.items()}

    def learnable(self, before_session: int) -> np.ndarray:
        """Rows whose outcome was complete at least an embargo before `before_session`: purged by their own horizon."""
        return self.labels.known & (self.labels.end < before_session - EMBARGO_SESSIONS)


def make_dataset(bars: pl.DataFrame, horizon: int) -> Dataset:
    """Features, labels and votes of every eligible row of `bars` (see `compute_features`)."""
    frame = with_votes(compute_features(bars)).with_columns((pl.col("session").rank("dense") - 1).alias("number"))
    labels = make_labels(frame, horizon)
    keep = frame.select(eligible()).to_series().to_numpy()
    rows = frame.filter(pl.Series(keep))
    events = {name: hit[keep] for name, hit in labels.events.items()}
    session = rows["session"]
    return Dataset(
        x=rows.select(FEATURES).to_numpy(),
        atr_fraction=rows["atr_fraction"].to_numpy(),
        session=rows["number"].to_numpy().astype(np.int64),
        month=(session.dt.year().cast(pl.Int64) * 12 + session.dt.month()).to_numpy(),
        symbol=rows["symbol"].to_numpy(),
        labels=Labels(labels.gross[keep], labels.net[keep], events, labels.end[keep]),
        votes={rule.name: rows[f"vote_{rule.name}"].to_numpy() for rule in RULES},
    )


@dataclass(frozen=True)
class OutOfSample:
    """Walk-forward answers. `scored` are rows with raw scores, `rows` those that could be calibrated too.

    `forecast`, `raw` and `base` (the base rate known at the time, per event) are aligned with `rows`.
    """

    scored: np.ndarray
    scores: dict[str, np.ndarray]
    rows: np.ndarray
    raw: dict[str, np.ndarray]
    forecast: Forecast
    base: dict[str, np.ndarray]


def fit_rows(data: Dataset, rows: np.ndarray) -> LinearModel:
    """Fit the model on the given row numbers."""
    return fit_linear(data.x[rows], data.scaled_return[rows], data.events(rows))


def calibrate_rows(data: Dataset, rows: np.ndarray, scores: dict[str, np.ndarray]) -> Calibration:
    """Calibrate on the given row numbers; `scores` is aligned with them."""
    return fit_calibration(scores, data.events(rows), data.labels.net[rows], data.month[rows])


def fold_starts(data: Dataset) -> list[int]:
    """Session numbers at which the model is refitted. Raises TrainingError where history is too short for one."""
    sessions = np.unique(data.session[data.labels.known])
    needed = TRAIN_SESSIONS_MIN + CALIBRATION_SESSIONS_MIN + EMBARGO_SESSIONS + FOLD_SESSIONS
    if len(sessions) < needed:
        raise TrainingError(f"{len(sessions)} usable sessions; a walk-forward needs {needed} after the warm-up")
    first = int(sessions[TRAIN_SESSIONS_MIN]) + EMBARGO_SESSIONS
    return list(range(first, int(sessions[-1]) + 1, FOLD_SESSIONS))


def _stack(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def walk_forward(data: Dataset, progress: Progress) -> OutOfSample:
    """Score the dataset fold by fold: train on what was complete before the fold, then predict the fold.

    Calibration of a fold uses only earlier folds' predictions whose outcomes were complete. Raises TrainingError.
    """
    starts = fold_starts(data)
    scored: list[np.ndarray] = []
    scores: list[dict[str, np.ndarray]] = []
    answers: list[tuple[np.ndarray, dict[str, np.ndarray], Forecast, dict[str, np.ndarray]]] = []
    for number, start in enumerate(starts):
        progress(number, len(starts) + 1, f"fold {number + 1} of {len(starts)}")
        learn = data.learnable(start)
        model = fit_rows(data, np.flatnonzero(learn))
        rows = np.flatnonzero((data.session >= start) & (data.session < start + FOLD_SESSIONS) & data.labels.known)
        rows = rows[model.in_range(data.x[rows])]
        if not len(rows):
            continue
        raw = model.scores(data.x[rows], data.atr_fraction[rows])
        if start - starts[0] >= CALIBRATION_SESSIONS_MIN:
            past, past_scores = np.concatenate(scored), _stack(scores)
            usable = learn[past]
            known, usable_scores = past[usable], {name: score[usable] for name, score in past_scores.items()}
            calibration = calibrate_rows(data, known, usable_scores)
            base = {name: np.full(len(rows), data.labels.events[name][known].mean()) for name in EVENTS}
            answers.append((rows, raw, apply_calibration(calibration, raw), base))
        scored.append(rows)
        scores.append(raw)
    if not answers:
        raise TrainingError("no fold could be calibrated: too few rows are inside the training range")
    rows, raws, forecasts, bases = zip(*answers, strict=True)
    forecast = Forecast(
        _stack([f.events for f in forecasts]),
        np.concatenate([f.expected for f in forecasts]),
        np.concatenate([f.error for f in forecasts]),
    )
    return OutOfSample(
        np.concatenate(scored), _stack(scores), np.concatenate(rows), _stack(list(raws)), forecast, _stack(list(bases))
    )
