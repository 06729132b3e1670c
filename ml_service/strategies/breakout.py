"""Buy a close above the highest high of the 55 sessions before (Donchian's channel) on more volume than usual."""

import polars as pl

from ml_service.strategies.base import rule

BREAKOUT = rule(
    name="breakout",
    reason="close_above_55_session_high",
    when=(pl.col("close") > pl.col("high").shift(1).rolling_max(55).over("symbol"))
    & (pl.col("volume_log") > pl.col("volume_log").rolling_mean(20).over("symbol")),
    inputs=("return_20", "volume_5", "atr_log", "volatility_20"),
)
