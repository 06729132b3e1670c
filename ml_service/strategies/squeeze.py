"""Buy the first close above a narrow range: volatility far below its own year, then a new 20-session high."""

import polars as pl

from ml_service.strategies.base import rule

SQUEEZE = rule(
    name="squeeze",
    reason="break_out_of_low_volatility",
    when=(pl.col("volatility_20").shift(1).over("symbol") < -0.3)
    & (pl.col("close") > pl.col("high").shift(1).rolling_max(20).over("symbol")),
    inputs=("volatility_20", "return_5", "atr_log", "volume_5"),
)
