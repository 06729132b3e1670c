"""Turns the candles of a provider's JSON into bars: exact paise, finished bars only, on the scale they traded at."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from math import prod
from typing import Any

import polars as pl

from contracts.market import Interval
from data_service.bars import INTERVAL_S
from data_service.providers.base import ProviderError
from data_service.sessions import EPOCH, IST_OFFSET_S, Sessions
from data_service.store.schemas import BAR_SCHEMA

RUPEES_MAX = Decimal(10**8)
VOLUME_MAX = 10**13


@dataclass(frozen=True, slots=True)
class Split:
    """From `day` on there are `ratio` shares for one of before."""

    day: date
    ratio: Fraction


@dataclass(frozen=True, slots=True)
class Candle:
    """One candle as said: its start in seconds since 1970-01-01 UTC, rupees, shares; None where it says nothing."""

    start_s: int
    prices: tuple[Any, Any, Any, Any]
    volume: Any


def rupees(value: Any, what: str) -> Decimal | None:
    """A JSON number as rupees; None for null. Raises ProviderError: no number, or one that no price can be."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ProviderError(f"{what} is no number")
    price = Decimal(value)
    if not price.is_finite() or abs(price) > RUPEES_MAX:
        raise ProviderError(f"{what} is out of range")
    return price


def shares(value: Any, what: str) -> int | None:
    """A JSON number as a count of shares; None for null. Raises ProviderError."""
    if value is None:
        return None
    known = not isinstance(value, bool) and isinstance(value, int | Decimal) and 0 <= value <= VOLUME_MAX
    if not known or value != int(value):
        raise ProviderError(f"{what} is no count of shares")
    return int(value)


def day_of(epoch_s: int) -> date:
    """The Indian calendar date. Raises ProviderError where no date is that early or late."""
    try:
        return date.fromordinal(EPOCH.toordinal() + (epoch_s + IST_OFFSET_S) // 86_400)
    except (ValueError, OverflowError) as error:
        raise ProviderError(f"instant {epoch_s} is out of range") from error


def parts(first: date, last: date, days_max: int) -> Iterator[tuple[date, date]]:
    """The days in spans of at most `days_max`, both ends inclusive; none where `last` comes before `first`."""
    while first <= last:
        end = min(last, first + timedelta(days=days_max - 1))
        yield first, end
        first = end + timedelta(days=1)


def bars_of(
    candles: Iterable[Candle],
    symbol: str,
    interval: Interval,
    source: str,
    sessions: Sessions,
    *,
    from_: date,
    through: date,
    now_s: float,
    splits: Sequence[Split] = (),
) -> pl.DataFrame:
    """Bars (BAR_SCHEMA) of the days that had ended by `now_s`; candles with a null price are left out.

    `splits` are those the prices were adjusted for: what is before their day is put back on its own scale, volumes
    inversely. Daily candles of one day are one bar, the last said. Raises ProviderError.
    """
    rows: dict[int, tuple[Any, ...]] = {}
    for candle in candles:
        day = day_of(candle.start_s)
        if not from_ <= day <= through:
            continue
        session = sessions.usual(day)
        daily = interval is Interval.DAY_1
        start_s = session.open_s if daily else candle.start_s
        end_s = session.official_close_s(has_derivatives=True)
        if not daily:
            end_s = min(start_s + INTERVAL_S[interval], max(session.close_other_s, start_s))
        prices = [rupees(price, f"{symbol}'s price") for price in candle.prices]
        if end_s > now_s or None in prices:
            continue
        scale = prod((split.ratio for split in splits if day < split.day), start=Fraction(1))
        volume = shares(candle.volume, f"{symbol}'s volume") or 0
        paise = [_rounded(price * 100, scale) for price in prices if price is not None]
        rows[start_s] = (symbol, start_s, *paise, _rounded(Decimal(volume), 1 / scale), source)
    return pl.DataFrame([rows[start_s] for start_s in sorted(rows)], schema=BAR_SCHEMA, orient="row")


def _rounded(value: Decimal, scale: Fraction) -> int:
    return int((value * scale.numerator / scale.denominator).to_integral_value(ROUND_HALF_UP))
