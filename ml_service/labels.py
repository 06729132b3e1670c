"""What really happened after each signal, for the position plan that would have been traded.

The plan: enter at the next session's open; leave at +1.5 × ATR14, at −3 × ATR14, or at the close of the last session
of the horizon. Where one bar holds both stop and target, the stop is taken to come first; a gap through the stop
fills at the open, a gap through the target at the target.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.lib.stride_tricks import sliding_window_view

from ml_service.features import ATR_SESSIONS

TARGET_ATR = 1.5
STOP_ATR = 3.0
TOUCH_LEVELS = (0.01, 0.015, 0.02, 0.025, 0.03, 0.035)
"""Net returns, ascending. The modes ask for the first three; the others let a decision ask for more where the price has
risen since the reference."""
COST_FRACTION = 0.0035
"""Charges and slippage of a delivery round trip, as a fraction of the entry value: statutory charges of about 0.23 %
(STT 0.1 % each side, exchange, stamp duty, GST), the depository's fee per sale, and a spread crossed twice."""

BRACKET = {"target_atr": TARGET_ATR, "stop_atr": STOP_ATR, "atr_sessions": float(ATR_SESSIONS)}


def touch_name(level: float) -> str:
    """Name of the event "the price reaches +`level` net before the stop, within the horizon"."""
    return f"touch_{level:g}"


EVENTS = ("net_profit", "bracket", *(touch_name(level) for level in TOUCH_LEVELS))
"""`net_profit`: the plan ends above zero net; `bracket`: the target is met before the stop, within the horizon."""


@dataclass(frozen=True)
class Labels:
    """Outcomes aligned with the rows they belong to; the returns are NaN where the horizon is not over yet.

    Returns are fractions of the entry value; `forward` is the gross one of holding to the horizon's last close, without
    target and stop. `end` is the session number in which the horizon ended (int, −1 where
    unknown): nothing may be learned from the row before that session has ended.
    """

    gross: np.ndarray
    net: np.ndarray
    forward: np.ndarray
    events: dict[str, np.ndarray]
    end: np.ndarray

    @property
    def known(self) -> np.ndarray:
        return self.end >= 0


def _first(hits: np.ndarray) -> np.ndarray:
    """Position of the first True along axis 1, or the row's length where there is none."""
    return np.where(hits.any(axis=1), hits.argmax(axis=1), hits.shape[1])


def bracket_outcomes(
    open_: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray, atr: np.ndarray, horizon: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Gross returns and events of one symbol's signals, for the first `len(close) − horizon` rows.

    Arrays are aligned bars of one symbol, rupees; row t is decided after bar t and entered at the open of bar t + 1.
    """
    opens, highs, lows = (sliding_window_view(column[1:], horizon) for column in (open_, high, low))
    rows, entry = np.arange(len(opens)), opens[:, 0]
    target, stop = entry + TARGET_ATR * atr[: len(rows)], entry - STOP_ATR * atr[: len(rows)]
    stopped, reached = _first(lows <= stop[:, None]), _first(highs >= target[:, None])
    at_stop = np.minimum(opens[rows, np.minimum(stopped, horizon - 1)], stop)
    leave = np.where(reached < stopped, target, np.where(stopped < horizon, at_stop, close[horizon:]))
    events = {"bracket": reached < stopped}
    events |= {
        touch_name(level): _first(highs >= (entry * (1 + COST_FRACTION + level))[:, None]) < stopped
        for level in TOUCH_LEVELS
    }
    return leave / entry - 1, events


def make_labels(frame: pl.DataFrame, horizon: int) -> Labels:
    """Labels for every row of a frame sorted by symbol and session, with an `atr` column.

    A row whose horizon is not over has no label, even if its stop or target was already met: keeping only the quick
    ones would bias the sample.
    """
    size = frame.height
    gross, end = np.full(size, np.nan), np.full(size, -1, dtype=np.int64)
    forward = np.full(size, np.nan)
    events = {name: np.zeros(size, dtype=bool) for name in EVENTS}
    number = frame["session"].rank("dense").to_numpy().astype(np.int64) - 1
    open_, high, low, close, atr = (frame[name].to_numpy() for name in ("open", "high", "low", "close", "atr"))
    _, starts = np.unique(frame["symbol"].to_numpy().astype(str), return_index=True)
    for first, last in zip(starts, [*starts[1:], size], strict=True):
        labelled = last - first - horizon
        if labelled <= 0:
            continue
        rows, own = slice(first, first + labelled), slice(first, last)
        gross[rows], hits = bracket_outcomes(open_[own], high[own], low[own], close[own], atr[own], horizon)
        forward[rows] = close[own][horizon:] / open_[own][1 : 1 + labelled] - 1
        end[rows] = number[first + horizon : last]
        for name, hit in hits.items():
            events[name][rows] = hit
    end[np.isnan(gross)] = -1
    net = gross - COST_FRACTION
    return Labels(gross, net, forward, events | {"net_profit": net > 0}, end)
