"""Turn the bars of a session under way into what the opening-range strategy proposes at an instant. Pure."""

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from typing import Any

import numpy as np
import polars as pl

from contracts.predictions import Action, Prediction, TouchProbability
from ml_service.calibrate import Forecast, apply_calibration
from ml_service.client import IST
from ml_service.intraday.bars import BAR_MINUTES, OPEN_MINUTE
from ml_service.intraday.features import DECIDE_MINUTES, FEATURES, HISTORY_SESSIONS, STRATEGY, compute_candidates
from ml_service.intraday.labels import COST_FRACTION, STOP_ATR, TARGET_ATR
from ml_service.labels import TOUCH_LEVELS, touch_name
from ml_service.predict import TICK_RUPEES, Abstention, rupees
from ml_service.registry import Artefact

VALID_MINUTES = 10
HISTORY_DAYS = 2 * HISTORY_SESSIONS + 10
"""Calendar days that hold HISTORY_SESSIONS sessions, with all holidays there have been among them."""


def at_minute(day: date, minute: int) -> datetime:
    """The instant `minute` minutes after 09:15 IST of `day`."""
    return datetime.combine(day, time(), IST) + timedelta(minutes=OPEN_MINUTE + minute)


def bar_end(as_of: datetime) -> datetime:
    """The end of the newest five-minute bar that had ended by `as_of`, in IST."""
    local = as_of.astimezone(IST)
    return local.replace(minute=local.minute // BAR_MINUTES * BAR_MINUTES, second=0, microsecond=0)


def may_propose(as_of: datetime) -> bool:
    """Whether a breakout's proposal could be valid at the instant, were its day a session."""
    day, (first, last) = as_of.astimezone(IST).date(), DECIDE_MINUTES
    return day.weekday() < 5 and at_minute(day, first) <= as_of < at_minute(day, last + VALID_MINUTES)


def _prediction(row: dict[str, Any], forecast: Forecast, certified: list[str]) -> Prediction:
    """`forecast` is of this one row."""
    expected, lower = float(forecast.expected[0]), float(forecast.lower[0])
    close, atr = row["close"], row["atr"]
    buys = bool(certified) and expected > 0 and lower > 0
    return Prediction(
        symbol=row["symbol"],
        action=Action.BUY if buys else Action.HOLD,
        strategy=STRATEGY,
        horizon_sessions=1,
        confidence=float(forecast.events["net_profit"][0]),
        target_probability=float(forecast.events["bracket"][0]),
        expected_return_gross=expected + COST_FRACTION,
        expected_return_net=expected,
        expected_return_net_lower=lower,
        touch=[
            TouchProbability(net_return=level, probability=float(forecast.events[touch_name(level)][0]))
            for level in TOUCH_LEVELS
        ],
        reference_close=rupees(close),
        target=rupees(close + TARGET_ATR * atr),
        stop=rupees(max(close - STOP_ATR * atr, float(TICK_RUPEES))),
        reasons=[] if certified else [Abstention.INSUFFICIENT_EVIDENCE.value],
        certified_modes=certified,
        intraday=True,
        valid_until=at_minute(row["session"], row["minute"] + BAR_MINUTES + VALID_MINUTES),
    )


def propose(
    artefact: Artefact, bars: pl.DataFrame, day: date, unadjusted: Mapping[str, date] | None = None
) -> dict[str, Prediction]:
    """What the strategy proposes on `day`, per symbol: each breakout of the day so far, whether still valid or not.

    `bars` (BARS_5M) hold the 15 sessions before `day` and what had ended of it. `unadjusted` names symbols with an
    action among these sessions that moved the price and that no factor undoes: nothing is said of them.
    """
    flawed = list(unadjusted or {})
    rows = compute_candidates(bars).filter(pl.col("session") == day, ~pl.col("symbol").is_in(flawed))
    model, calibration = artefact.models[STRATEGY], artefact.calibrations[STRATEGY]
    origin = {"model_version": artefact.version, "logic_version": artefact.manifest["logic_version"]}
    found: dict[str, Prediction] = {}
    for row in rows.iter_rows(named=True):
        # One by one: the last bit of a matrix product depends on its other rows, and these change during the day.
        x, atr = np.array([[row[name] for name in FEATURES]]), np.array([row["atr_fraction"]])
        if model.in_range(x)[0]:
            forecast = apply_calibration(calibration, model.scores(x, atr), atr)
            found[row["symbol"]] = _prediction(row, forecast, artefact.certified(STRATEGY)).model_copy(update=origin)
    return found


def valid_at(proposals: Mapping[str, Prediction], as_of: datetime) -> dict[str, Prediction]:
    """Those that may be acted upon at `as_of`."""
    return {s: each for s, each in proposals.items() if each.valid_until is not None and as_of < each.valid_until}
