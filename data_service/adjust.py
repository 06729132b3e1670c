"""Split and bonus adjustment as of a date, so that what is announced later cannot change an earlier answer."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contracts.market import ADJUSTING_KINDS
from data_service.bars import PRICE_FIELDS, Bars, Ints, day_number
from data_service.store.schemas import TRUST

ADJUSTED_DECIMALS = 6
RATIO_DENOMINATOR_MAX = 10**6
"""Ratios of whole shares with denominators up to this differ by more than 1e-12, a float is off by far less: so a
factor kept as a float still names its ratio exactly."""

_COLUMNS = ("ex_date", "known_on", "kind", "shares_before", "shares_after", "source")


@dataclass(frozen=True, slots=True)
class Factors:
    """One symbol's splits and bonuses, ordered by ex-date (days since 1970-01-01).

    A price before the ex-date times `factor` is on the scale of the ex-date: a 10-for-1 split has factor 0.1.
    """

    ex_day: Ints
    factor: NDArray[np.float64]

    def suffixes(self, as_of: date) -> tuple[Ints, list[Fraction]]:
        """The ex-days up to `as_of`; and, one more, the exact product of the factors from each place on (last: 1)."""
        known = int(np.searchsorted(self.ex_day, day_number(as_of), side="right"))
        products = [Fraction(1)]
        for factor in reversed(self.factor[:known].tolist()):
            products.append(products[-1] * Fraction(factor).limit_denominator(RATIO_DENOMINATOR_MAX))
        return self.ex_day[:known], products[::-1]


NO_FACTORS = Factors(np.array([], dtype=np.int64), np.array([], dtype=np.float64))


def factors_of(actions: pl.DataFrame, as_of: date) -> Factors:
    """One symbol's splits and bonuses (of ACTION_SCHEMA rows, under whatever names) that were known on `as_of`."""
    rows = actions.select(_COLUMNS).iter_rows(named=True)
    by_day = ratios_by_day(row for row in rows if row["ex_date"] <= as_of and row["known_on"] <= as_of)
    if not by_day:
        return NO_FACTORS
    days = sorted(by_day)
    ratios = np.array([float(by_day[day]) for day in days])
    return Factors(np.array([day_number(day) for day in days], dtype=np.int64), ratios)


def ratios_by_day(rows: Iterable[dict[str, Any]]) -> dict[date, Fraction]:
    """Shares before per share after of each ex-date of one symbol's action rows: what its earlier prices times.

    Of several sources for one ex-date the most trusted is believed alone; an action it tells twice counts once.
    """
    told: dict[date, dict[tuple[int, str], set[tuple[str, Fraction]]]] = {}
    for row in rows:
        if row["kind"] in ADJUSTING_KINDS and row["shares_before"] and row["shares_after"]:
            rank = TRUST.get(row["source"], 0), row["source"]
            ratio = Fraction(row["shares_before"], row["shares_after"])
            told.setdefault(row["ex_date"], {}).setdefault(rank, set()).add((row["kind"], ratio))
    return {day: prod((ratio for _, ratio in by[max(by)]), start=Fraction(1)) for day, by in told.items()}


def multipliers(days: Ints, factors: Factors, as_of: date) -> NDArray[np.float64]:
    """What prices of `days` are multiplied by to be on the scale of `as_of`: factors with day < ex-date <= as_of."""
    ex_day, products = factors.suffixes(as_of)
    return np.array([float(product) for product in products])[np.searchsorted(ex_day, days, side="right")]


def adjusted(bars: Bars, factors: Factors, as_of: date) -> Bars:
    """Bars on the scale of `as_of`'s session, volumes inversely; paise where nothing changes, else 1e-6 rupees.

    Computed in whole numbers and rounded once (half up), so that many splits add no error.
    """
    ex_day, products = factors.suffixes(as_of)
    place = np.searchsorted(ex_day, bars.day, side="right")
    if all(products[number] == 1 for number in np.unique(place).tolist()):
        return bars
    columns: dict[str, Any] = {name: getattr(bars, name) * 10**4 for name in PRICE_FIELDS}
    columns["volume"] = bars.volume.copy()
    for number in np.unique(place).tolist():
        inside, product = place == number, products[number]
        for name in PRICE_FIELDS:
            columns[name][inside] = _times(columns[name][inside], product)
        columns["volume"][inside] = _times(columns["volume"][inside], 1 / product)
    return replace(bars, **columns, decimals=ADJUSTED_DECIMALS)


def _times(values: Ints, ratio: Fraction) -> Ints:
    """Non-negative whole numbers times a ratio, rounded half up; in Python's integers where 64 bits are too few."""
    doubled, divisor = 2 * ratio.numerator, 2 * ratio.denominator
    fits = int(values.max(initial=0)) * doubled + ratio.denominator < 2**63 and divisor < 2**63
    exact = values if fits else values.astype(object)
    return ((exact * doubled + ratio.denominator) // divisor).astype(np.int64)
