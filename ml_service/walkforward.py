"""Walk-forward predictions: every row is scored by a model that could not have seen it, and calibrated likewise."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType

import numpy as np
import polars as pl

from ml_service.calibrate import Calibration, Forecast, apply_calibration, fit_calibration
from ml_service.checkpoint import Checkpoint, no_checkpoint
from ml_service.features import FEATURES, UNEXPLAINED_MOVE_SESSIONS, compute_features, eligible
from ml_service.labels import EVENTS, Labels, make_labels
from ml_service.model import Model
from ml_service.strategies import STRATEGIES, with_votes
from ml_service.strategies.base import Fit, Strategy

TRAIN_SESSIONS_MIN = 252
CALIBRATION_SESSIONS_MIN = 126
REFIT_SESSIONS_MIN, REFIT_SESSIONS_MAX = 126, 252
"""A model is refitted when its history has grown by an eighth, within these bounds: a yearly refit is as good as a
quarterly one once there are years to learn from."""
RECALIBRATE_SESSIONS = 21
LIKE_TODAY_SHARE = 0.4
"""A model that learned from less than this share of today's history is another model: its scores calibrate nothing."""
EMBARGO_SESSIONS = 5
FOLDS = (
    TRAIN_SESSIONS_MIN,
    CALIBRATION_SESSIONS_MIN,
    REFIT_SESSIONS_MIN,
    REFIT_SESSIONS_MAX,
    RECALIBRATE_SESSIONS,
    LIKE_TODAY_SHARE,
    EMBARGO_SESSIONS,
)
ROWS_MIN = 400
"""Fewer rows teach a strategy nothing; it then says that its evidence is insufficient."""

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what is being done)."""


class TrainingError(Exception):
    """The data cannot carry a model; the message says what is missing."""


@dataclass(frozen=True)
class Dataset:
    """Eligible rows as arrays (n rows): features (n × k), session number, month (year × 12 + month), labels, votes per
    strategy."""

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

    def proposed_by(self, strategy: Strategy) -> "Dataset":
        """The rows in which the strategy proposes the share."""
        keep = self.votes[strategy.name]
        own = self.labels
        return Dataset(
            x=self.x[keep],
            atr_fraction=self.atr_fraction[keep],
            session=self.session[keep],
            month=self.month[keep],
            symbol=self.symbol[keep],
            labels=Labels(own.gross[keep], own.net[keep], own.forward[keep], self.events(keep), own.end[keep]),
            votes={name: vote[keep] for name, vote in self.votes.items()},
        )


def across(frame: pl.DataFrame, horizon: int, unadjusted: Mapping[str, Sequence[date]]) -> np.ndarray:
    """Rows whose horizon, or whose last 60 sessions, hold an action that moved the price and that no factor undoes."""
    symbol, number = frame["symbol"].to_numpy(), frame["number"].to_numpy().astype(np.int64)
    sessions = frame["session"].unique().sort()
    found = np.zeros(frame.height, dtype=bool)
    for name, days in unadjusted.items():
        for day in days:
            first = int((sessions < day).sum())
            near = (number >= first - horizon) & (number < first + UNEXPLAINED_MOVE_SESSIONS)
            found |= (symbol == name) & near
    return found


def make_dataset(
    bars: pl.DataFrame, horizon: int, unadjusted: Mapping[str, Sequence[date]] = MappingProxyType({})
) -> Dataset:
    """Features, labels and votes of every eligible row of `bars` (see `compute_features`).

    `unadjusted` maps a symbol to the ex-dates of demergers, rights issues and the like: a return across one is none, so
    rows that look at one, before or after, teach nothing.
    """
    frame = numbered(bars)
    return dataset_of(frame, make_labels(frame, horizon), is_eligible(frame) & ~across(frame, horizon, unadjusted))


def numbered(bars: pl.DataFrame) -> pl.DataFrame:
    """Features and votes of every row of `bars`, and the `number` of its session, from 0."""
    return with_votes(compute_features(bars)).with_columns((pl.col("session").rank("dense") - 1).alias("number"))


def is_eligible(frame: pl.DataFrame) -> np.ndarray:
    """Which rows of `numbered` are eligible (see `features.eligible`)."""
    return frame.select(eligible().fill_null(False)).to_series().to_numpy()


def dataset_of(frame: pl.DataFrame, labels: Labels, keep: np.ndarray) -> Dataset:
    """The rows of `numbered` that are kept, with their `labels` (aligned with the frame)."""
    rows = frame.filter(pl.Series(keep))
    events = {name: hit[keep] for name, hit in labels.events.items()}
    session = rows["session"]
    return Dataset(
        x=rows.select(FEATURES).to_numpy(),
        atr_fraction=rows["atr_fraction"].to_numpy(),
        session=rows["number"].to_numpy().astype(np.int64),
        month=(session.dt.year().cast(pl.Int64) * 12 + session.dt.month()).to_numpy(),
        symbol=rows["symbol"].to_numpy(),
        labels=Labels(labels.gross[keep], labels.net[keep], labels.forward[keep], events, labels.end[keep]),
        votes={one.name: rows[f"vote_{one.name}"].to_numpy() for one in STRATEGIES},
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


def fit_rows(data: Dataset, rows: np.ndarray, fit: Fit) -> Model:
    """Fit the model on the given row numbers. Raises ValueError where they hold too little."""
    if len(rows) < ROWS_MIN:
        raise ValueError(f"{len(rows)} rows; {ROWS_MIN} are needed")
    return fit(data.x[rows], data.scaled_return[rows], data.events(rows))


def calibrate_rows(data: Dataset, rows: np.ndarray, scores: dict[str, np.ndarray]) -> Calibration:
    """Calibrate on the given row numbers; `scores` is aligned with them. Raises ValueError where there are too few."""
    return fit_calibration(scores, data.events(rows), data.labels.net[rows], data.month[rows], data.atr_fraction[rows])


def like_today(data: Dataset, rows: np.ndarray, session: int) -> np.ndarray:
    """Which of the scored `rows` were scored by models about as well taught as one of `session`."""
    first = int(data.session.min())
    return data.session[rows] - first >= LIKE_TODAY_SHARE * (session - first)


def fold_starts(data: Dataset, last: int | None = None) -> list[int]:
    """Session numbers at which the model is refitted, up to `last`: by default the last one with a known outcome.

    Raises TrainingError where history is too short for one.
    """
    sessions = np.unique(data.session[data.labels.known])
    needed = TRAIN_SESSIONS_MIN + CALIBRATION_SESSIONS_MIN + EMBARGO_SESSIONS + RECALIBRATE_SESSIONS
    if len(sessions) < needed:
        raise TrainingError(f"{len(sessions)} usable sessions; a walk-forward needs {needed} after the warm-up")
    first, last = int(sessions[0]), int(sessions[-1]) if last is None else last
    start = int(sessions[TRAIN_SESSIONS_MIN]) + EMBARGO_SESSIONS
    starts = []
    while start <= last:
        starts.append(start)
        start += min(REFIT_SESSIONS_MAX, max(REFIT_SESSIONS_MIN, (start - first) // 8))
    return starts


def _stack(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def score_folds(
    data: Dataset,
    strategy: Strategy,
    starts: list[int],
    progress: Progress,
    checkpoint: Checkpoint,
    *,
    unlabelled: bool = False,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Rows and raw scores, fold by fold: train on what was complete before the fold, then score the fold; of it also
    the rows whose outcome is not known, where they are `unlabelled` too."""
    scorable = data.labels.known | unlabelled
    ends = [*starts[1:], np.inf]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        progress(number, len(starts) + 1, f"{strategy.name}: fold {number + 1} of {len(starts)}")
        rows = np.flatnonzero((data.session >= start) & (data.session < end) & scorable)
        kept = checkpoint.load(strategy.name, start)
        if kept is not None and kept["position"].max(initial=-1) < len(rows):
            yield rows[kept["position"]], {name: kept[name] for name in kept if name != "position"}
            continue
        try:
            model = fit_rows(data, np.flatnonzero(data.learnable(start)), strategy.fit)
        except ValueError:  # a rule may have proposed too little so far
            continue
        position = np.flatnonzero(model.in_range(data.x[rows]))
        scores = model.scores(data.x[rows[position]], data.atr_fraction[rows[position]])
        checkpoint.save(strategy.name, start, {"position": position, **scores})
        yield rows[position], scores


def calibration_starts(data: Dataset, scored: np.ndarray) -> range:
    """Session numbers at which scored rows are calibrated anew: each holds for RECALIBRATE_SESSIONS."""
    session = data.session[scored]
    return range(int(session.min()) + CALIBRATION_SESSIONS_MIN, int(session.max()) + 1, RECALIBRATE_SESSIONS)


def calibrate_forward(
    data: Dataset, scored: np.ndarray, scores: dict[str, np.ndarray], progress: Progress = lambda *_: None
) -> OutOfSample:
    """Calibrate scored rows a month at a time, each on earlier predictions whose outcomes were complete.

    Raises TrainingError where none could be calibrated.
    """
    answers: list[tuple[np.ndarray, dict[str, np.ndarray], Forecast, dict[str, np.ndarray]]] = []
    session = data.session[scored]
    starts = calibration_starts(data, scored)
    for number, start in enumerate(starts):
        progress(number, len(starts), f"calibrating {len(scored)} rows")
        past = data.learnable(start)[scored]
        like = past & like_today(data, scored, start)
        now = (session >= start) & (session < start + RECALIBRATE_SESSIONS)
        if not now.any():
            continue
        known = scored[past]
        try:
            calibration = calibrate_rows(data, scored[like], {name: score[like] for name, score in scores.items()})
        except ValueError:  # too few months, or an event without both outcomes
            continue
        raw = {name: score[now] for name, score in scores.items()}
        base = {name: np.full(int(now.sum()), data.labels.events[name][known].mean()) for name in EVENTS}
        answers.append((scored[now], raw, apply_calibration(calibration, raw, data.atr_fraction[scored[now]]), base))
    if not answers:
        raise TrainingError("no prediction could be calibrated: too few rows are inside the training range")
    rows, raws, forecasts, bases = zip(*answers, strict=True)
    forecast = Forecast(
        _stack([f.events for f in forecasts]),
        np.concatenate([f.expected for f in forecasts]),
        np.concatenate([f.error for f in forecasts]),
    )
    return OutOfSample(scored, scores, np.concatenate(rows), _stack(list(raws)), forecast, _stack(list(bases)))


def walk_forward(
    data: Dataset,
    strategy: Strategy,
    starts: list[int],
    progress: Progress,
    checkpoint: Checkpoint = no_checkpoint,
    *,
    unlabelled: bool = False,
) -> OutOfSample:
    """Score and calibrate the strategy's own rows (see `Dataset.proposed_by`) as a user would have met them, refitted
    at the session numbers `starts`; rows of unknown outcome too where they are `unlabelled`. Raises TrainingError."""
    folds = list(score_folds(data, strategy, starts, progress, checkpoint, unlabelled=unlabelled))
    if not sum(len(rows) for rows, _ in folds):
        raise TrainingError(f"{strategy.name} proposed too little to be learned from")
    scored, scores = np.concatenate([rows for rows, _ in folds]), _stack([scores for _, scores in folds])
    return calibrate_forward(data, scored, scores, progress)
