"""The day's loss limit, pure: how much of an account's funds one day may cost before only exits are left."""

from decimal import Decimal


def day_loss_fraction(equity_at_start: Decimal, equity_now: Decimal) -> Decimal:
    """The part of the day's opening equity that is gone, realized or not; zero on a gain or without funds."""
    if equity_at_start <= 0:
        return Decimal(0)
    return max(Decimal(0), (equity_at_start - equity_now) / equity_at_start)


def loss_limit_reached(
    equity_at_start: Decimal, equity_now: Decimal, fraction_max: Decimal, times_lifted_today: int
) -> bool:
    """Whether the day's loss is at its limit. Each time a person lifted it today allows as much again."""
    return day_loss_fraction(equity_at_start, equity_now) >= fraction_max * (1 + times_lifted_today)
