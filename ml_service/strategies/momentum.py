"""Buy what has risen over the past year and is still rising (Jegadeesh and Titman 1993, twelve months less one)."""

import polars as pl

from ml_service.strategies.base import rule

MOMENTUM = rule(
    name="momentum",
    reason="strong_year_and_month",
    when=(pl.col("momentum_252_21") > 1.0) & (pl.col("rank_20") > 0.25) & (pl.col("gap_60") > 0),
    inputs=("momentum_252_21", "rank_20", "atr_log", "market_volatility_ratio"),
)
