"""What a strategy is: when it proposes a share, why, and the model that says what came of such proposals."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from ml_service.model import Model, fit_linear

Fit = Callable[[np.ndarray, np.ndarray, dict[str, np.ndarray]], Model]
"""(rows × features, gross returns in ATR fractions, events) → a model. Raises ValueError where it cannot be learned."""


@dataclass(frozen=True)
class Strategy:
    """A long-only strategy. `when` is a boolean expression over the frame of `compute_features` that looks back only:
    the rows in which the strategy proposes the share; None where it has a view of every row. `fit` learns, from such
    rows alone, what then happened. `reason` is a stable snake_case code."""

    name: str
    reason: str
    when: pl.Expr | None
    fit: Fit


def rule(name: str, reason: str, when: pl.Expr, inputs: tuple[str, ...]) -> Strategy:
    """A rule whose proposals are told apart by a linear model on a few features, `inputs`: how strong the pattern is,
    and how far the share moves anyway."""
    return Strategy(name, reason, when, lambda x, scaled, events: fit_linear(x, scaled, events, inputs))
