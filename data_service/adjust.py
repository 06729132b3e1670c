"""Split and bonus adjustment as of a date, so that what is announced later cannot change an earlier answer."""

from dataclasses import dataclass, replace
from datetime import date

import numpy as np
from numpy.typing import NDArray

from data_service.bars import PRICE_FIELDS, Bars, Ints, day_number

ADJUSTED_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Factors:
    """One symbol's splits and bonuses, ordered by ex-date (days since 1970-01-01).

    A price before the ex-date times `factor` is on the scale of the ex-date: a 10-for-1 split has factor 0.1.
    """

    ex_day: Ints
    factor: NDArray[np.float64]


NO_FACTORS = Factors(np.array([], dtype=np.int64), np.array([], dtype=np.float64))


def multipliers(days: Ints, factors: Factors, as_of: date) -> NDArray[np.float64]:
    """What prices of `days` are multiplied by to be on the scale of `as_of`: factors with day < ex-date <= as_of."""
    known = int(np.searchsorted(factors.ex_day, day_number(as_of), side="right"))
    suffix = np.append(np.cumprod(factors.factor[:known][::-1])[::-1], 1.0)
    return suffix[np.searchsorted(factors.ex_day[:known], days, side="right")]


def adjusted(bars: Bars, factors: Factors, as_of: date) -> Bars:
    """Bars on the scale of `as_of`'s session, volumes inversely; paise where nothing changes, else 1e-6 rupees."""
    scale = multipliers(bars.day, factors, as_of)
    if (scale == 1.0).all():
        return bars
    prices = {name: np.rint(getattr(bars, name) * scale * 10**4).astype(np.int64) for name in PRICE_FIELDS}
    volume = np.rint(bars.volume / scale).astype(np.int64)
    return replace(bars, **prices, volume=volume, decimals=ADJUSTED_DECIMALS)
