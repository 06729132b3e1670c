"""Rupees as text for people and programs outside: one format for every payload."""

from decimal import ROUND_HALF_UP, Decimal

_FOUR_DECIMALS = Decimal("0.0001")


def rupees_text(amount: Decimal) -> str:
    """A plain decimal with two to four decimals, halves away from zero: 2450.50, 0.1234, -12.00."""
    # Adding zero turns a negative zero into zero.
    whole, _, decimals = f"{amount.quantize(_FOUR_DECIMALS, ROUND_HALF_UP) + 0:f}".partition(".")
    return f"{whole}.{decimals[:2]}{decimals[2:].rstrip('0')}"
