"""When the opening-range breakout proposes a share, and what was known of it at that moment. Pure.

The rule (Crabel 1990; Zarattini and Aziz 2023): the range is that of the session's first 15 minutes; a share is
proposed when a five-minute bar closes above it for the first time that day, on more volume than is usual at that time
of day. A row depends on bars that had ended with its own bar only; every feature is a ratio.
"""

import hashlib
from functools import cache

import numpy as np
import polars as pl

from ml_service.features import UNEXPLAINED_MOVE_FRACTION
from ml_service.intraday.bars import BAR_MINUTES, BARS_5M, SESSION_MINUTES

STRATEGY = "opening_range"
LOGIC_VERSION = "opening_range_v1.0"
RANGE_MINUTES = 15
DECIDE_MINUTES = (RANGE_MINUTES + BAR_MINUTES, 255)
"""A breakout bar ends in these minutes after the open, both included: after 09:30 and until 13:30."""
USUAL_SESSIONS = 14
HISTORY_SESSIONS = USUAL_SESSIONS + 1
"""Earlier sessions a row needs: the first one gives the close that the next one's true range begins at."""
FEATURES = (
    "or_range",
    "or_gap",
    "or_above",
    "or_day_move",
    "or_volume",
    "or_day_volume",
    "or_time",
    "or_market",
    "or_previous_location",
    "or_atr_log",
)
_SHARE_DAY = ["symbol", "session"]
_PER_SESSION, _PER_MINUTE = 1 / USUAL_SESSIONS, 1 / SESSION_MINUTES
"""Multiplied with: how a column is divided by a number depends, in the last bit, on where in it a row stands."""


def _days(bars: pl.DataFrame) -> pl.DataFrame:
    """One row per symbol and session: its open and range, and what the sessions before it say. Sorted.

    `atr` is the mean true range of the 14 sessions before, in rupees.
    """
    early = pl.col("minute") < RANGE_MINUTES
    days = (
        bars.sort("symbol", "session", "minute")
        .group_by(_SHARE_DAY, maintain_order=True)
        .agg(
            pl.col("open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            pl.col("close").last(),
            pl.col("high").filter(early).max().alias("range_high"),
            pl.col("low").filter(early).min().alias("range_low"),
            (pl.col("minute").filter(early).n_unique() == RANGE_MINUTES // BAR_MINUTES).alias("range_complete"),
        )
        .with_columns(number=pl.col("session").rank("dense").cast(pl.Int64))
    )
    own = [pl.col(name).shift(1).over("symbol").alias(f"previous_{name}") for name in ("high", "low", "close")]
    gap_days = pl.col("number") - pl.col("number").shift(HISTORY_SESSIONS).over("symbol")
    days = days.with_columns(*own, (gap_days == HISTORY_SESSIONS).fill_null(False).alias("unbroken"))
    top, bottom = pl.max_horizontal("high", "previous_close"), pl.min_horizontal("low", "previous_close")
    days = days.with_columns(
        pl.when(pl.col("previous_close").is_not_null()).then(top - bottom).alias("true_range"),
        (pl.col("close") / pl.col("previous_close") - 1).abs().alias("move"),
    )
    # Sums of shifted values, not a running sum: a row is the same to the last bit whatever lies before its window.
    earlier = range(1, USUAL_SESSIONS + 1)
    ranges = [pl.col("true_range").shift(n).over("symbol") for n in earlier]
    moves = [pl.col("move").shift(n).over("symbol") for n in earlier]
    opening_move = (pl.col("open") / pl.col("previous_close") - 1).abs()
    return days.with_columns(
        (pl.sum_horizontal(ranges, ignore_nulls=False) * _PER_SESSION).alias("atr"),
        pl.max_horizontal(*moves, opening_move).alias("move_max"),
    )


def _usual(column: str) -> pl.Expr:
    """Mean of the column at this minute over the share's 14 sessions before. Exact: volumes are whole numbers."""
    return (pl.col(column).rolling_sum(USUAL_SESSIONS) * _PER_SESSION).shift(1).over("symbol", "minute")


def _with_day(bars: pl.DataFrame) -> pl.DataFrame:
    """Every bar with its day's facts, the volume until then, what is usual, and the market's move since the open."""
    known = ["range_high", "range_low", "range_complete", "number", "unbroken", "atr", "move_max"]
    previous = ["previous_high", "previous_low", "previous_close"]
    days = _days(bars).select(*_SHARE_DAY, pl.col("open").alias("day_open"), *known, *previous)
    frame = bars.sort("symbol", "session", "minute").join(days, on=_SHARE_DAY, how="left", maintain_order="left")
    frame = frame.with_columns(pl.col("volume").cum_sum().over(_SHARE_DAY).alias("day_volume"))
    frame = frame.with_columns(
        _usual("volume").alias("usual_volume"),
        _usual("day_volume").alias("usual_day_volume"),
        ((pl.col("close") - pl.col("day_open")) / pl.col("atr")).alias("or_day_move"),
    )
    # The mean is of sorted values, so that the order of rows decides no last bit.
    market = pl.col("or_day_move").filter(pl.col("or_day_move").is_finite()).sort().mean().alias("or_market")
    per_minute = frame.group_by("session", "minute").agg(market)
    return frame.join(per_minute, on=["session", "minute"], how="left", maintain_order="left")


def _with_features(frame: pl.DataFrame) -> pl.DataFrame:
    atr, close = pl.col("atr"), pl.col("close")
    width = pl.col("previous_high") - pl.col("previous_low")
    place = (pl.col("previous_close") - pl.col("previous_low")) / width
    return frame.with_columns(
        ((pl.col("range_high") - pl.col("range_low")) / atr).alias("or_range"),
        ((pl.col("day_open") - pl.col("previous_close")) / atr).alias("or_gap"),
        ((close - pl.col("range_high")) / atr).alias("or_above"),
        (pl.col("volume") / pl.col("usual_volume")).log().alias("or_volume"),
        (pl.col("day_volume") / pl.col("usual_day_volume")).log().alias("or_day_volume"),
        ((pl.col("minute") + BAR_MINUTES) * _PER_MINUTE).alias("or_time"),
        pl.when(width > 0).then(place - 0.5).otherwise(0.0).alias("or_previous_location"),
        (atr / close).log().alias("or_atr_log"),
        (atr / close).alias("atr_fraction"),
    )


def compute_candidates(bars: pl.DataFrame) -> pl.DataFrame:
    """The breakouts among `bars` (BARS_5M, any order), one row per symbol and session at most, sorted by both.

    A row adds FEATURES, `atr` (rupees), `atr_fraction` (of the close) and `number` (of the session among those given)
    to its breakout bar. There is none where the first three bars from 09:15 on are not complete, and none on a Saturday
    or Sunday: such sessions are special. Nor is there one for a share that did not trade in each of the market's 15
    sessions before, moved by more than 20 % between two of them, or has an unknown feature.
    """
    above = (pl.col("minute") >= RANGE_MINUTES) & (pl.col("close") > pl.col("range_high"))
    usual_day = (pl.col("session").dt.weekday() <= 5) & pl.col("range_complete")
    trusted = pl.col("unbroken") & (pl.col("move_max") <= UNEXPLAINED_MOVE_FRACTION) & (pl.col("atr") > 0)
    in_time = (pl.col("minute") + BAR_MINUTES).is_between(*DECIDE_MINUTES)
    first = _with_day(bars).filter(above).unique(_SHARE_DAY, keep="first", maintain_order=True)
    frame = _with_features(first.filter(usual_day, trusted, in_time, pl.col("volume") > pl.col("usual_volume")))
    return frame.filter(pl.all_horizontal(pl.col(FEATURES).is_finite().fill_null(False)))


@cache
def features_hash() -> str:
    """Hash of what the features *do*: their names, order and values on a fixed set of bars."""
    rng, sessions, slots = np.random.default_rng(7), USUAL_SESSIONS + 8, SESSION_MINUTES // BAR_MINUTES
    days = pl.date_range(pl.date(2000, 1, 3), pl.date(2000, 3, 31), eager=True)
    days = days.filter(days.dt.weekday() <= 5)[:sessions]
    frames = []
    for symbol in ("A", "B", "C"):
        close = 100 * np.exp(np.cumsum(rng.normal(0, 0.002, sessions * slots)))
        open_ = np.roll(close, 1)
        open_[0] = 100.0
        frames.append(
            pl.DataFrame(
                {
                    "symbol": [symbol] * len(close),
                    "session": np.repeat(days.to_numpy(), slots),
                    "minute": np.tile(np.arange(slots) * BAR_MINUTES, sessions),
                    "open": open_,
                    "high": np.maximum(open_, close) * 1.001,
                    "low": np.minimum(open_, close) * 0.999,
                    "close": close,
                    "volume": np.floor(rng.uniform(1e3, 1e4, len(close))),
                },
                schema=BARS_5M,
            )
        )
    values = compute_candidates(pl.concat(frames)).select(FEATURES).to_numpy()
    text = ",".join(FEATURES) + ";" + ",".join(f"{value:.4f}" for value in (values + 0.0).ravel())
    return hashlib.sha256(text.replace("-0.0000", "0.0000").encode()).hexdigest()
