"""The one way into and out of rupees: exact decimals, floats refused, rounding by name."""

from decimal import ROUND_HALF_UP, Decimal, InvalidOperation

PAISE_PER_RUPEE = 100
_PAISA = Decimal("0.01")
_RUPEE = Decimal(1)


def rupees(value: str | int | Decimal) -> Decimal:
    """`value` rupees as an exact Decimal.

    Raises TypeError for a float (its digits are not what was meant) or a bool, ValueError for text that is no number
    and for NaN or infinity.
    """
    if type(value) not in (str, int, Decimal):
        raise TypeError(f"rupees are str, int or Decimal, never {type(value).__name__}")
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise ValueError(f"not an amount in rupees: {value!r}") from None
    return _finite(amount)


def round_paise(amount: Decimal) -> Decimal:
    """`amount` rupees to the paisa, halves away from zero. Raises ValueError for NaN or infinity."""
    return _finite(amount).quantize(_PAISA, ROUND_HALF_UP)


def round_rupee(amount: Decimal) -> Decimal:
    """`amount` rupees to the rupee, halves away from zero. Raises ValueError for NaN or infinity."""
    return _finite(amount).quantize(_RUPEE, ROUND_HALF_UP)


def percent_of(pct: Decimal, amount: Decimal) -> Decimal:
    """`pct` per cent of `amount` rupees, unrounded. Raises ValueError for NaN or infinity."""
    return _finite(pct) * _finite(amount) / 100


def paise_from_rupees(amount: Decimal) -> int:
    """`amount` rupees as whole paise. Raises ValueError where it holds a fraction of a paisa, or is not finite."""
    paise = _finite(amount) * PAISE_PER_RUPEE
    if paise != paise.to_integral_value():
        raise ValueError(f"{amount} rupees are not a whole number of paise: round first")
    return int(paise)


def rupees_from_paise(paise: int) -> Decimal:
    """`paise` as rupees with two decimals. Raises TypeError for anything but an int (a numpy integer included)."""
    if type(paise) is not int:
        raise TypeError(f"paise are int, never {type(paise).__name__}")
    return Decimal(paise).scaleb(-2)


def _finite(amount: Decimal) -> Decimal:
    if not isinstance(amount, Decimal):  # pyright: ignore[reportUnnecessaryIsInstance]: a float gets past hints
        raise TypeError(f"an amount in rupees is a Decimal, never {type(amount).__name__}")
    if not amount.is_finite():
        raise ValueError(f"an amount in rupees is finite, not {amount}")
    return amount
