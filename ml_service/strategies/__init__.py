"""The strategies: adding one is one file and one entry here.

Each is walked forward, calibrated and certified by the same machinery on the rows in which it proposes a share, so all
speak of the same plan in the same numbers.
"""

import polars as pl

from ml_service.strategies.base import Strategy
from ml_service.strategies.breakout import BREAKOUT
from ml_service.strategies.ensemble import ENSEMBLE
from ml_service.strategies.mean_reversion import MEAN_REVERSION
from ml_service.strategies.momentum import MOMENTUM
from ml_service.strategies.pullback import PULLBACK
from ml_service.strategies.squeeze import SQUEEZE

STRATEGIES: tuple[Strategy, ...] = (ENSEMBLE, MOMENTUM, MEAN_REVERSION, BREAKOUT, PULLBACK, SQUEEZE)


def vote_column(strategy: str) -> str:
    """The column that says whether a strategy proposes the row."""
    return f"vote_{strategy}"


def with_votes(features: pl.DataFrame) -> pl.DataFrame:
    """Add one boolean column per strategy; unknown inputs are no vote."""
    return features.with_columns(
        (pl.lit(True) if one.when is None else one.when.fill_null(False)).alias(vote_column(one.name))
        for one in STRATEGIES
    )
