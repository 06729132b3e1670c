"""Turn a verified model version and the bars known at an instant into calibrated predictions and reasons. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from contracts.predictions import Action, Contribution, Prediction, RuleVote, TouchProbability
from ml_service.calibrate import Forecast, apply_calibration
from ml_service.client import IST
from ml_service.clusters import clusters_of
from ml_service.features import (
    FEATURES,
    HISTORY_SESSIONS_MIN,
    UNEXPLAINED_MOVE_FRACTION,
    UNEXPLAINED_MOVE_SESSIONS,
    compute_features,
)
from ml_service.labels import COST_FRACTION, STOP_ATR, TARGET_ATR, TOUCH_LEVELS, touch_name
from ml_service.model import STRATEGY
from ml_service.registry import Artefact
from ml_service.strategies import STRATEGIES, vote_column, with_votes

SELL_EXPECTED_NET_MAX = -0.01
TICK_RUPEES = Decimal("0.05")
SESSION_AGE_DAYS_MAX = 10
EXPLAINED_EVENT = "net_profit"
CONTRIBUTIONS_MAX = 10


class Abstention(StrEnum):
    """Why a prediction is HOLD without a view."""

    INSUFFICIENT_EVIDENCE = "insufficient_evidence"
    SHORT_HISTORY = "short_history"
    STALE_BARS = "stale_bars"
    UNEXPLAINED_MOVE = "unexplained_move"
    UNADJUSTED_ACTION = "unadjusted_action"
    OUT_OF_RANGE_FEATURES = "out_of_range_features"
    MODEL_TOO_OLD = "model_too_old"
    NO_MODEL = "no_model"
    ARTEFACT_MISMATCH = "artefact_mismatch"
    UNKNOWN_SYMBOL = "unknown_symbol"
    HORIZON_NOT_TRAINED = "horizon_not_trained"


@dataclass(frozen=True)
class Ages:
    """Limits on how long a model and its calibration may be used, in days."""

    model_age_days_max: int
    calibration_age_days_max: int


def hold(symbol: str, horizon: int, reason: Abstention) -> Prediction:
    """An abstention without numbers."""
    return Prediction(
        symbol=symbol, action=Action.HOLD, strategy=STRATEGY, horizon_sessions=horizon, reasons=[reason.value]
    )


def too_old(artefact: Artefact, session: date, ages: Ages) -> bool:
    """Whether the model or its calibration is past its age on the day of the decision."""
    model_days = (session - artefact.trained_through).days
    calibration_days = (session - artefact.calibrated_through).days
    return model_days > ages.model_age_days_max or calibration_days > ages.calibration_age_days_max


def rupees(price: float) -> Decimal:
    """A price rounded to 0.05 rupees."""
    return (Decimal(str(price)) / TICK_RUPEES).quantize(Decimal(1), ROUND_HALF_EVEN) * TICK_RUPEES


def end_of(day: date) -> datetime:
    """When a prediction for a day stops being one to act upon: at the midnight (IST) that ends it."""
    return datetime.combine(day + timedelta(days=1), time(), IST)


def expiring(prediction: Prediction, until: datetime) -> Prediction:
    """The prediction, not to be acted upon from `until` on unless it says so itself."""
    return prediction if prediction.valid_until else prediction.model_copy(update={"valid_until": until})


def abstention_of(row: dict[str, Any], features_through: date, unadjusted: Mapping[str, date]) -> Abstention | None:
    """Why nothing can be said of this symbol's latest row, first reason first."""
    if row["session"] < features_through:
        return Abstention.STALE_BARS
    if row["history_sessions"] < HISTORY_SESSIONS_MIN:
        return Abstention.SHORT_HISTORY
    if row["symbol"] in unadjusted and unadjusted[row["symbol"]] >= row["reach"]:
        return Abstention.UNADJUSTED_ACTION
    if row["move_max"] is None or row["move_max"] > UNEXPLAINED_MOVE_FRACTION:
        return Abstention.UNEXPLAINED_MOVE
    if not row["complete"]:
        return Abstention.OUT_OF_RANGE_FEATURES
    return None


def action_of(forecast: Forecast, i: int, certified: bool) -> tuple[Action, list[str]]:
    """BUY where the expected net return and its lower bound are positive; SELL where the upper bound is negative and
    the expectation at most −1 %; neither without a certified mode."""
    if not certified:
        return Action.HOLD, [Abstention.INSUFFICIENT_EVIDENCE.value]
    if forecast.expected[i] > 0 and forecast.lower[i] > 0:
        return Action.BUY, []
    if forecast.expected[i] <= SELL_EXPECTED_NET_MAX and forecast.upper[i] < 0:
        return Action.SELL, []
    return Action.HOLD, []


@dataclass(frozen=True)
class View:
    """The latest row of every symbol as of one session: `rows` (with votes, one per symbol), features `x` aligned with
    them (unknown values NaN), the session's clusters, and per symbol why nothing can be said of it."""

    rows: pl.DataFrame
    x: np.ndarray
    clusters: Mapping[str, str]
    unfit: Mapping[str, Abstention]


def view_of(bars: pl.DataFrame, features_through: date, unadjusted: Mapping[str, date] | None = None) -> View:
    """What is known at the end of session `features_through` from bars that hold the universe's last 400 sessions.

    `unadjusted` maps a symbol to the ex-date of its last action that moved the price and that no factor undoes: for 60
    sessions its returns are none.
    """
    known = bars.filter(pl.col("session") <= features_through)
    frame = with_votes(compute_features(known))
    reach = pl.col("session").tail(UNEXPLAINED_MOVE_SESSIONS).first()
    rows = frame.group_by("symbol", maintain_order=True).agg(pl.all().last(), reach.alias("reach"))
    unfit = {
        row["symbol"]: reason
        for row in rows.iter_rows(named=True)
        if (reason := abstention_of(row, features_through, unadjusted or {})) is not None
    }
    x = rows.select(pl.col(FEATURES).fill_null(np.nan)).to_numpy().reshape(rows.height, len(FEATURES))
    return View(rows, x, clusters_of(frame), unfit)


@dataclass(frozen=True)
class SessionAnswers:
    """All that a model version says as of one session: the machine-learned strategy's view of every symbol, what the
    rules propose, and the rows of features they were made from (see `monitor`)."""

    predictions: dict[str, Prediction]
    candidates: dict[str, list[Prediction]] = field(default_factory=dict[str, list[Prediction]])
    features: np.ndarray = field(default_factory=lambda: np.empty((0, len(FEATURES))))
    """Rows of features that were fit to be answered for."""


def prediction_of(
    strategy: str,
    row: Mapping[str, Any],
    forecast: Forecast,
    i: int,
    *,
    horizon: int,
    certified: list[str],
    clusters: Mapping[str, str],
    scale: float = 1.0,
) -> Prediction:
    """What a strategy says of a row of features with votes; its numbers are the forecast's `i`-th. `scale` brings the
    row's prices to the scale of the day that is traded."""
    action, reasons = action_of(forecast, i, bool(certified))
    close, atr = row["close"] * scale, row["atr"] * scale
    expected = float(forecast.expected[i])
    return Prediction(
        symbol=row["symbol"],
        action=action,
        strategy=strategy,
        horizon_sessions=horizon,
        confidence=float(forecast.events["net_profit"][i]),
        target_probability=float(forecast.events["bracket"][i]),
        expected_return_gross=expected + COST_FRACTION,
        expected_return_net=expected,
        expected_return_net_lower=float(forecast.lower[i]),
        touch=[
            TouchProbability(net_return=level, probability=float(forecast.events[touch_name(level)][i]))
            for level in TOUCH_LEVELS
        ],
        reference_close=rupees(close),
        target=rupees(close + TARGET_ATR * atr),
        stop=rupees(max(close - STOP_ATR * atr, float(TICK_RUPEES))),
        reasons=reasons,
        supporting_strategies=[
            one.name for one in STRATEGIES if one.name not in (STRATEGY, strategy) and row[vote_column(one.name)]
        ],
        certified_modes=certified,
        cluster=clusters.get(row["symbol"]),
    )


def answer_session(
    artefact: Artefact,
    bars: pl.DataFrame,
    features_through: date,
    unadjusted: Mapping[str, date] | None = None,
) -> SessionAnswers:
    """Every strategy's view as of the end of session `features_through` (see `view_of` for the arguments).

    Ranks and the market's state are taken across the model's universe. A symbol of it without bars, or with too few, is
    HOLD with `short_history`.
    """
    horizon = artefact.horizon_sessions
    universe: list[str] = artefact.manifest["universe"]
    predictions = {symbol: hold(symbol, horizon, Abstention.SHORT_HISTORY) for symbol in universe}
    view = view_of(bars, features_through, unadjusted)
    predictions |= {symbol: hold(symbol, horizon, reason) for symbol, reason in view.unfit.items()}
    fit = ~view.rows["symbol"].is_in(list(view.unfit)).to_numpy()
    rows, x = view.rows.filter(pl.Series(fit)), view.x[fit]
    candidates: dict[str, list[Prediction]] = {}
    if not len(x):
        return SessionAnswers(predictions)
    atr = rows["atr_fraction"].to_numpy()
    for strategy in STRATEGIES:
        if (model := artefact.models.get(strategy.name)) is None:
            continue
        forecast = apply_calibration(artefact.calibrations[strategy.name], model.scores(x, atr), atr)
        say = partial(
            prediction_of,
            strategy.name,
            forecast=forecast,
            horizon=horizon,
            certified=artefact.certified(strategy.name),
            clusters=view.clusters,
        )
        in_range = model.in_range(x)
        for i, row in enumerate(rows.iter_rows(named=True)):
            symbol = row["symbol"]
            if strategy.when is None and not in_range[i]:
                predictions[symbol] = hold(symbol, horizon, Abstention.OUT_OF_RANGE_FEATURES)
            elif strategy.when is None:
                predictions[symbol] = say(row, i=i)
            elif row[vote_column(strategy.name)] and in_range[i]:
                candidates.setdefault(symbol, []).append(say(row, i=i))
    return SessionAnswers(predictions, candidates, x)


@dataclass(frozen=True)
class Explanation:
    """How a score came about, in log odds: `intercept` + `contributions` + `rest` is the uncalibrated score."""

    event: str
    intercept: float | None
    contributions: list[Contribution]
    rest: float | None
    votes: list[RuleVote]


def explain(
    artefact: Artefact,
    bars: pl.DataFrame,
    features_through: date,
    symbol: str,
    unadjusted: Mapping[str, date] | None = None,
) -> Explanation:
    """What moved the machine-learned strategy's log odds of a net profit for one symbol, and which rules propose it.

    Without contributions where it abstains. Many times dearer than a prediction: ask when somebody reads it.
    """
    view = view_of(bars, features_through, unadjusted)
    names = view.rows["symbol"].to_list()
    if symbol not in names:
        return Explanation(EXPLAINED_EVENT, None, [], None, [])
    i = names.index(symbol)
    row = view.rows.row(i, named=True)
    votes = [
        RuleVote(strategy=one.name, fired=bool(row[vote_column(one.name)]), reason=one.reason)
        for one in STRATEGIES
        if one.when is not None
    ]
    if symbol in view.unfit:
        return Explanation(EXPLAINED_EVENT, None, [], None, votes)
    model, x = artefact.models[STRATEGY], view.x[i : i + 1]
    parts, intercept = model.contributions(x, EXPLAINED_EVENT)
    order = np.argsort(-np.abs(parts[0]), kind="stable")
    shown = [
        Contribution(
            feature=model.inputs[k],
            value=float(x[0, FEATURES.index(model.inputs[k])]),
            contribution=float(parts[0, k]),
        )
        for k in order[:CONTRIBUTIONS_MAX]
    ]
    rest = float(parts[0, order[CONTRIBUTIONS_MAX:]].sum())
    return Explanation(EXPLAINED_EVENT, intercept, shown, rest, votes)
