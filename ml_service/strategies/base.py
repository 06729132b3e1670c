"""What a rule strategy is: a name, a condition on one row of features, and the reason it gives."""

from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class Rule:
    """A long-only rule. `when` is a boolean expression over the frame of `compute_features`; it may look back only.

    `reason` is a stable snake_case code.
    """

    name: str
    reason: str
    when: pl.Expr
