"""The three modes a user may trade in, and what each asks of a prediction."""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum


class Mode(StrEnum):
    """How sure a user wants to be before a trade, and how much of the funds one may take."""

    CONSERVATIVE = "conservative"
    MODERATE = "moderate"
    AGGRESSIVE = "aggressive"


@dataclass(frozen=True, slots=True)
class ModeRules:
    """Least expected net return and least P(the price reaches that return), as fractions; share of funds per trade."""

    return_net_min: float
    confidence_min: float
    funds_fraction: Decimal

    @property
    def confidence_kind(self) -> str:
        """The event whose probability a trade's confidence is."""
        return f"touch_net_{self.return_net_min:g}"


MODE_RULES: dict[Mode, ModeRules] = {
    Mode.CONSERVATIVE: ModeRules(0.02, 0.80, Decimal("0.05")),
    Mode.MODERATE: ModeRules(0.015, 0.70, Decimal("0.075")),
    Mode.AGGRESSIVE: ModeRules(0.01, 0.60, Decimal("0.10")),
}
