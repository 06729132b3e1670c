"""How many shares: a fraction of funds by mode, whole shares, never more than 80 % of funds in use."""

from decimal import ROUND_FLOOR, Decimal

FUNDS_IN_USE_FRACTION_MAX = Decimal("0.80")
ENTRY_CHARGES_FRACTION = Decimal("0.0015")
"""Reserve for the entry's own charges when sizing: delivery buys cost about 0.12 % on NSE."""


def budget_rupees(funds_total: Decimal, funds_in_use: Decimal, cash_free: Decimal, fraction: Decimal) -> Decimal:
    """Rupees one entry may spend, charges included.

    Args:
        funds_total: cash plus holdings at their market value, rupees.
        funds_in_use: holdings plus what open entry orders have reserved, rupees.
        cash_free: cash not reserved by open orders, rupees.
        fraction: the mode's share of funds per trade (0.05 is 5 %).
    """
    headroom = funds_total * FUNDS_IN_USE_FRACTION_MAX - funds_in_use
    return max(Decimal(0), min(funds_total * fraction, headroom, cash_free))


def whole_shares(budget: Decimal, price: Decimal, charges_fraction: Decimal) -> int:
    """Shares that `budget` rupees buy at `price` with entry charges of `charges_fraction` of the value."""
    if price <= 0:
        raise ValueError("price must be positive")
    return int((budget / (price * (1 + charges_fraction))).to_integral_value(ROUND_FLOOR))
