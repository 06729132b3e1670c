"""The quality gate: nothing enters the store or an answer before it is judged here, by pure functions."""

from data_service.checks.bars import BarContext, BarLimits, CheckedBars, check_bars
from data_service.checks.quotes import QuoteContext, QuoteLimits, check_quote
from data_service.checks.reasons import BarReason, QuoteReason

__all__ = [
    "BarContext",
    "BarLimits",
    "BarReason",
    "CheckedBars",
    "QuoteContext",
    "QuoteLimits",
    "QuoteReason",
    "check_bars",
    "check_quote",
]
