"""The rule strategies: adding one is one file and one entry here.

Their record is measured out of sample with the model and published on its card. They vote for and explain a
candidate; a rule alone has shown no edge after costs and never makes one.
"""

import polars as pl

from ml_service.strategies.base import Rule
from ml_service.strategies.breakout import BREAKOUT
from ml_service.strategies.mean_reversion import MEAN_REVERSION
from ml_service.strategies.momentum import MOMENTUM

RULES: tuple[Rule, ...] = (MOMENTUM, MEAN_REVERSION, BREAKOUT)


def with_votes(features: pl.DataFrame) -> pl.DataFrame:
    """Add one boolean column `vote_<rule>` per rule; unknown inputs are no vote."""
    return features.with_columns(rule.when.fill_null(False).alias(f"vote_{rule.name}") for rule in RULES)
