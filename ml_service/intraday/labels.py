"""What really happened after each breakout, for the position plan that would have been traded within the day.

The plan: enter at the open of the next bar; leave at + 1 × ATR, at − 0.5 × ATR, or at the close of the last bar that
ends by the square-off. ATR is the mean true range of the 14 sessions before, in rupees. Where one bar holds both stop
and target, the stop is taken to come first; a gap through the stop fills at the open, a gap through the target at the
target.
"""

import numpy as np
import polars as pl

from ml_service.intraday.bars import BAR_MINUTES, SESSION_MINUTES
from ml_service.labels import TOUCH_LEVELS, Labels, touch_name

TARGET_ATR = 1.0
STOP_ATR = 0.5
SQUARE_OFF_MINUTE = 350
"""15:05, in minutes after 09:15: the earliest hour at which Sauda squares off on a usual day (shares that close by
auction, since 2026-08-03)."""
COST_FRACTION = 0.0013
"""Charges and slippage of an intraday round trip on NSE, as a fraction of the entry value: 0.106 % of charges
(brokerage 0.03 % a side, STT 0.025 % on the sale, exchange 0.00307 % and SEBI 0.0001 % a side, stamp duty 0.003 % on
the purchase, 18 % GST on brokerage, exchange and SEBI), and half a spread of 0.025 % on each side."""

BRACKET = {"target_atr": TARGET_ATR, "stop_atr": STOP_ATR, "square_off_minute": float(SQUARE_OFF_MINUTE)}
_PRICES = ("open", "high", "low", "close")


def _first(hits: np.ndarray) -> np.ndarray:
    """Position of the first True along axis 1, or the row's length where there is none."""
    return np.where(hits.any(axis=1), hits.argmax(axis=1), hits.shape[1])


def plan_outcomes(
    paths: dict[str, np.ndarray], after: np.ndarray, atr: np.ndarray
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Gross return of the plan, gross return of holding to the square-off, and events, per row; NaN where no bar
    follows.

    `paths` maps open, high, low and close to arrays (n × bars of a day, rupees, NaN where there was no bar); `after` is
    the position of each row's breakout bar; `atr` is in rupees.
    """
    place = np.arange(paths["open"].shape[1])
    held = (place > after[:, None]) & ((place + 1) * BAR_MINUTES <= SQUARE_OFF_MINUTE) & np.isfinite(paths["open"])
    known, rows = held.any(axis=1), np.arange(len(after))
    last = held.shape[1] - 1 - held[:, ::-1].argmax(axis=1)
    entry, leave = paths["open"][rows, held.argmax(axis=1)], paths["close"][rows, last]
    highs, lows = np.where(held, paths["high"], -np.inf), np.where(held, paths["low"], np.inf)
    target, stop = entry + TARGET_ATR * atr, entry - STOP_ATR * atr
    stopped, reached = _first(lows <= stop[:, None]), _first(highs >= target[:, None])
    at_stop = np.minimum(paths["open"][rows, np.minimum(stopped, held.shape[1] - 1)], stop)
    out = np.where(reached < stopped, target, np.where(stopped < held.shape[1], at_stop, leave))
    events = {"bracket": reached < stopped}
    for level in TOUCH_LEVELS:
        touched = _first(highs >= (entry * (1 + COST_FRACTION + level))[:, None])
        events[touch_name(level)] = touched < stopped
    unknown = np.where(known, 0.0, np.nan)
    return out / entry - 1 + unknown, leave / entry - 1 + unknown, events


def make_labels(bars: pl.DataFrame, candidates: pl.DataFrame) -> Labels:
    """Labels of the rows of `compute_candidates(bars)`; see ml_service.labels.Labels. `end` is the row's own session.

    Unknown where the share had no bar between its breakout and the square-off, and where the market's session does not
    reach the square-off: it is not over in `bars`, or was a short or halted one.
    """
    days = candidates.select("symbol", "session").with_row_index("row")
    market_end = (pl.col("minute").max() + BAR_MINUTES).alias("market_end")
    ends = candidates.join(bars.group_by("session").agg(market_end), on="session", how="left", maintain_order="left")
    over = ends["market_end"].to_numpy() >= SQUARE_OFF_MINUTE
    inside = bars.filter(pl.col("minute").is_between(0, SESSION_MINUTES - 1)).join(days, on=["symbol", "session"])
    row, slot = inside["row"].to_numpy(), inside["minute"].to_numpy() // BAR_MINUTES
    paths = {name: np.full((days.height, SESSION_MINUTES // BAR_MINUTES), np.nan) for name in _PRICES}
    for name, path in paths.items():
        path[row, slot] = inside[name].to_numpy()
    after = candidates["minute"].to_numpy() // BAR_MINUTES
    gross, forward, events = plan_outcomes(paths, after, candidates["atr"].to_numpy())
    gross = np.where(over, gross, np.nan)
    known = np.isfinite(gross)
    net = gross - COST_FRACTION
    end = np.where(known, candidates["number"].to_numpy(), -1).astype(np.int64)
    events = {name: hit & known for name, hit in events.items()}
    return Labels(gross, net, np.where(known, forward, np.nan), events | {"net_profit": net > 0}, end)
