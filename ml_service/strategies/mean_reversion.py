"""Buy a short, sharp fall against the market in a stock that is not in a downtrend (Connors' RSI-2 family)."""

import polars as pl

from ml_service.strategies.base import rule

MEAN_REVERSION = rule(
    name="mean_reversion",
    reason="oversold_against_the_market",
    when=(pl.col("rsi_2") < -0.4) & (pl.col("relative_5") < -1.0) & (pl.col("momentum_252_21") > 0),
    inputs=("relative_5", "rsi_10", "atr_log", "market_5"),
)
