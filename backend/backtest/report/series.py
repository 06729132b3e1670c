"""An account's curve by session: the days, closes and returns that every statistic of the report is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt

from backend.backtest.result import Curve

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

IST_OFFSET_S = 19_800
DAY_S = 86_400
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Daily:
    """One value per session: `start` is the value before the first one, `close` rupees at each session's end and
    `returns` the fractions gained from close to close."""

    days: tuple[date, ...]
    start: float
    close: Floats
    returns: Floats


def days_of(seconds: Ints) -> Ints:
    """IST days since 1970-01-01 of instants in seconds UTC."""
    return (seconds + IST_OFFSET_S) // DAY_S


def day_of(number: int) -> date:
    """The date of a day counted from 1970-01-01."""
    return _EPOCH + timedelta(days=int(number))


def number_of(day: date) -> int:
    """`day` counted from 1970-01-01."""
    return (day - _EPOCH).days


def daily(curve: Curve) -> Daily:
    """The last equity of each session; the curve's first point is the start, not a session."""
    numbers = days_of(curve.at[1:])
    last = np.flatnonzero(np.diff(numbers, append=numbers[-1:] + 1)) if len(numbers) else np.zeros(0, dtype=np.int64)
    start = float(curve.equity[0]) if len(curve.equity) else 0.0
    return of_closes(tuple(day_of(number) for number in numbers[last]), start, curve.equity[1:][last])


def of_closes(days: Sequence[date], start: float, close: Floats) -> Daily:
    """A daily series of `close`, one per day, that began at `start`."""
    close = np.asarray(close, dtype=np.float64)
    return Daily(tuple(days), start, close, returns_of(np.concatenate(([start], close))))


def returns_of(values: Floats) -> Floats:
    """Fractions gained from each value to the next; 0 from a value that is not positive: nothing is left to earn on."""
    before = values[:-1]
    safe = np.where(before > 0, before, 1.0)
    return np.where(before > 0, values[1:] / safe - 1, 0.0)


def aligned(days: Sequence[date], levels: Sequence[tuple[date, float]]) -> Floats | None:
    """Returns of an index over `days`, one per day: from its last level before a day to its last by the day.

    None where it has no level before the first day (its first return would be a guess) or none after it.
    """
    if not days or not levels:
        return None
    known = sorted(levels)
    place = np.searchsorted(np.array([number_of(day) for day, _ in known]), [number_of(d) for d in days], side="right")
    first = int(np.searchsorted([number_of(day) for day, _ in known], number_of(days[0]), side="left"))
    if first == 0 or place[-1] <= first:
        return None
    values = np.array([level for _, level in known])
    return returns_of(np.concatenate(([values[first - 1]], values[place - 1])))
