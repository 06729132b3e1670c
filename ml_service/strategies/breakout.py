"""Buy a close above the highest high of the 55 sessions before (Donchian's channel) on more volume than usual."""

import polars as pl

from ml_service.strategies.base import Rule

BREAKOUT = Rule(
    name="breakout",
    reason="close_above_55_session_high",
    when=(pl.col("close") > pl.col("high").shift(1).rolling_max(55).over("symbol")) & (pl.col("volume_surge") > 0),
)
