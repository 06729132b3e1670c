"""Turn a verified model and the bars known at an instant into one calibrated prediction per symbol. Pure."""

from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from typing import Any

import numpy as np
import polars as pl

from contracts.predictions import Action, Prediction, TouchProbability
from ml_service.calibrate import Forecast, apply_calibration
from ml_service.features import (
    FEATURES,
    HISTORY_SESSIONS_MIN,
    UNEXPLAINED_MOVE_FRACTION,
    compute_features,
)
from ml_service.labels import COST_FRACTION, STOP_ATR, TARGET_ATR, TOUCH_LEVELS, touch_name
from ml_service.model import STRATEGY
from ml_service.registry import Artefact
from ml_service.strategies import RULES, with_votes

SELL_EXPECTED_NET_MAX = -0.01
TICK_RUPEES = Decimal("0.05")
SESSION_AGE_DAYS_MAX = 10


class Abstention(StrEnum):
    """Why a prediction is HOLD without a view."""

    INSUFFICIENT_EVIDENCE = "insufficient_evidence"
    SHORT_HISTORY = "short_history"
    STALE_BARS = "stale_bars"
    UNEXPLAINED_MOVE = "unexplained_move"
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


def _unfit(row: dict[str, Any], features_through: date, in_range: bool) -> Abstention | None:
    """Why this symbol's latest row carries no prediction, first reason first."""
    if row["session"] < features_through:
        return Abstention.STALE_BARS
    if row["history_sessions"] < HISTORY_SESSIONS_MIN:
        return Abstention.SHORT_HISTORY
    if row["move_max"] is None or row["move_max"] > UNEXPLAINED_MOVE_FRACTION:
        return Abstention.UNEXPLAINED_MOVE
    if not row["complete"] or not in_range:
        return Abstention.OUT_OF_RANGE_FEATURES
    return None


def _action(forecast: Forecast, i: int, certified: bool) -> tuple[Action, list[str]]:
    """BUY where the expected net return and its lower bound are positive; SELL where the upper bound is negative and
    the expectation at most −1 %; neither without a certified mode."""
    if not certified:
        return Action.HOLD, [Abstention.INSUFFICIENT_EVIDENCE.value]
    if forecast.expected[i] > 0 and forecast.lower[i] > 0:
        return Action.BUY, []
    if forecast.expected[i] <= SELL_EXPECTED_NET_MAX and forecast.upper[i] < 0:
        return Action.SELL, []
    return Action.HOLD, []


def _prediction(row: dict[str, Any], forecast: Forecast, i: int, horizon: int, certified: bool) -> Prediction:
    action, reasons = _action(forecast, i, certified)
    close, atr = row["close"], row["atr"]
    expected = float(forecast.expected[i])
    return Prediction(
        symbol=row["symbol"],
        action=action,
        strategy=STRATEGY,
        horizon_sessions=horizon,
        confidence=float(forecast.events["net_profit"][i]),
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
        supporting_strategies=[rule.name for rule in RULES if row[f"vote_{rule.name}"]],
    )


def predict_universe(artefact: Artefact, bars: pl.DataFrame, features_through: date) -> dict[str, Prediction]:
    """One prediction per symbol of the model's universe, from bars that end with session `features_through`.

    `bars` (BAR_SCHEMA) hold the universe's last 400 sessions or more: ranks and the market's state are taken across
    it. A symbol without bars, or with too few, is HOLD with `short_history`.
    """
    horizon, certified = artefact.horizon_sessions, bool(artefact.certified_modes)
    universe: list[str] = artefact.manifest["universe"]
    answers = {symbol: hold(symbol, horizon, Abstention.SHORT_HISTORY) for symbol in universe}
    frame = with_votes(compute_features(bars.filter(pl.col("session") <= features_through)))
    latest = frame.group_by("symbol", maintain_order=True).last()
    if latest.is_empty():
        return answers
    x = latest.select(pl.col(FEATURES).fill_null(np.nan)).to_numpy()
    finite = ~np.any(~np.isfinite(x), axis=1, keepdims=True)[:, 0]
    safe = np.where(finite[:, None], x, artefact.model.mean)
    in_range = artefact.model.in_range(safe) & finite
    atr = np.nan_to_num(latest["atr_fraction"].to_numpy())
    forecast = apply_calibration(artefact.calibration, artefact.model.scores(safe, atr))
    for i, row in enumerate(latest.iter_rows(named=True)):
        reason = _unfit(row, features_through, bool(in_range[i]))
        symbol = row["symbol"]
        answers[symbol] = hold(symbol, horizon, reason) if reason else _prediction(row, forecast, i, horizon, certified)
    return answers
