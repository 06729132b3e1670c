"""Bars as columns: the one in-memory shape that simulator, store, adjustment and replies share."""

from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.market import Interval
from data_service.sessions import EPOCH
from data_service.store.schemas import TRUST

Ints = NDArray[np.int64]

INTERVAL_S = {
    Interval.MIN_1: 60,
    Interval.MIN_3: 180,
    Interval.MIN_5: 300,
    Interval.MIN_10: 600,
    Interval.MIN_15: 900,
    Interval.MIN_30: 1800,
    Interval.HOUR_1: 3600,
}
"""Length of the intraday bars in seconds, finest first; a daily bar is as long as its session."""

SOURCES = tuple(TRUST)
SOURCE_CODES = {name: code for code, name in enumerate(SOURCES)}

PRICE_FIELDS = ("open", "high", "low", "close")


@dataclass(frozen=True, slots=True)
class Bars:
    """One symbol's bars of one interval, oldest first, as columns of equal length.

    `day` is the session date in days since 1970-01-01; `start` and `end` are seconds since the epoch; prices are
    integers of 10**-`decimals` rupees (paise unless adjusted); `volume` is shares; `source` is an index into SOURCES.
    """

    day: Ints
    start: Ints
    end: Ints
    open: Ints
    high: Ints
    low: Ints
    close: Ints
    volume: Ints
    source: Ints
    decimals: int = 2

    def __len__(self) -> int:
        return len(self.start)

    def part(self, low: int, high: int) -> "Bars":
        """The bars at positions low..high-1, as views."""
        columns: dict[str, Any] = {name: getattr(self, name)[low:high] for name in COLUMN_FIELDS}
        return replace(self, **columns)

    def ended_by(self, as_of_s: int) -> int:
        """How many bars had ended by `as_of_s` (a bar ending exactly then has ended)."""
        return int(np.searchsorted(self.end, as_of_s, side="right"))

    def between(self, from_: date, through: date, as_of_s: int) -> "Bars":
        """The bars of sessions `from_`..`through` (inclusive) that had ended by `as_of_s`."""
        low = int(np.searchsorted(self.day, day_number(from_), side="left"))
        high = int(np.searchsorted(self.day, day_number(through), side="right"))
        return self.part(low, max(low, min(high, self.ended_by(as_of_s))))


COLUMN_FIELDS = ("day", "start", "end", *PRICE_FIELDS, "volume", "source")


def day_number(day: date) -> int:
    """Days since 1970-01-01."""
    return (day - EPOCH).days


def joined(parts: list[Bars]) -> Bars:
    """The bars of several parts in their order. Raises ValueError for an empty list."""
    columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMN_FIELDS}
    return Bars(**columns)


def grouped(bars: Bars, length_s: int, opens: Ints, closes: Ints) -> Bars:
    """Finer bars summed up into bars of `length_s`, counted from each session's open and ending with its close at most.

    `opens` and `closes` are, per bar, its session's open and end of continuous trading in seconds since the epoch.
    """
    if not len(bars):
        return bars
    bucket = (bars.start - opens) // length_s
    first = np.flatnonzero((np.diff(bucket, prepend=-1) != 0) | (np.diff(bars.day, prepend=-1) != 0))
    start = opens[first] + bucket[first] * length_s
    return Bars(
        day=bars.day[first],
        start=start,
        end=np.minimum(start + length_s, closes[first]),
        open=bars.open[first],
        high=np.maximum.reduceat(bars.high, first),
        low=np.minimum.reduceat(bars.low, first),
        close=bars.close[np.append(first[1:], len(bars)) - 1],
        volume=np.add.reduceat(bars.volume, first),
        source=bars.source[first],
        decimals=bars.decimals,
    )


def without_days(bars: Bars, days: Ints) -> Bars:
    """The bars of sessions that are not among `days`."""
    keep = ~np.isin(bars.day, days)
    return bars if keep.all() else taken(bars, np.flatnonzero(keep))


def taken(bars: Bars, positions: Ints) -> Bars:
    """The bars at these positions, in their order."""
    columns: dict[str, Any] = {name: getattr(bars, name)[positions] for name in COLUMN_FIELDS}
    return replace(bars, **columns)


def providers_of(bars: Bars) -> list[str]:
    """The names of the sources the bars came from, the one with most bars first."""
    codes, counts = np.unique(bars.source, return_counts=True)
    return [SOURCES[code] for code in codes[np.argsort(-counts, kind="stable")].tolist()]
