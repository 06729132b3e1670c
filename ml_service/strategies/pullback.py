"""Buy a few days' dip in a stock that has risen for months and still stands above its mean of 60 sessions."""

import polars as pl

from ml_service.strategies.base import rule

PULLBACK = rule(
    name="pullback",
    reason="dip_in_an_uptrend",
    when=(pl.col("momentum_252_21") > 0.5)
    & (pl.col("gap_60") > 0)
    & (pl.col("gap_10") < -0.5)
    & (pl.col("return_5") < -0.5),
    inputs=("gap_60", "return_5", "atr_log", "market_20"),
)
