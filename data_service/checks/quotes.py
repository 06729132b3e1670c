"""Judges one quote at a time: a quote that could not be the market now must not be traded on."""

from dataclasses import dataclass
from decimal import Decimal

from data_service.checks.reasons import QuoteReason
from data_service.providers.base import RawQuote
from data_service.sessions import DAY_S, IST_OFFSET_S

PRICE_FIELDS = ("last", "bid", "ask", "open", "high", "low", "previous_close", "lower_band", "upper_band")
ON_TICK_FIELDS = ("last", "bid", "ask")
PAISA = Decimal("0.01")
HUNDREDFOLD_FROM, HUNDREDFOLD_TO = 50, 200
"""No band lets a price become this many times another within a session: rupees and paise were mixed up."""


@dataclass(frozen=True, slots=True)
class QuoteLimits:
    """How much is too much; rupees, shares and seconds."""

    price_rupees_max: Decimal = Decimal(10**8)
    volume_shares_max: int = 10**13
    future_s_max: float = 5.0
    frozen_s_max: float = 900.0
    closed_age_s_max: float = 10 * DAY_S


@dataclass(frozen=True, slots=True)
class QuoteContext:
    """What is known beside the quote; rupees, and seconds since 1970-01-01 UTC. None where it is not known.

    `previous_close` is on today's scale (after today's split); the bands are the exchange's, else the quote's own
    count. `last_quote` is the last one accepted of the symbol, `unchanged_since_s` when its values were first seen.
    """

    now_s: float
    age_s_max: float
    session_running: bool
    previous_close: Decimal | None = None
    tick: Decimal | None = None
    lower_band: Decimal | None = None
    upper_band: Decimal | None = None
    last_quote: RawQuote | None = None
    unchanged_since_s: float | None = None
    limits: QuoteLimits = QuoteLimits()


def check_quote(raw: RawQuote, context: QuoteContext) -> QuoteReason | None:
    """The first reason why `raw` must not be used, None where it may be.

    Where a side of the book is empty the provider says None: a price of zero is refused.
    """
    return (
        _numbers(raw, context.limits)
        or _coherence(raw, context)
        or _scale(raw, context)
        or _time(raw, context)
        or _sequence(raw, context)
    )


def same_values(one: RawQuote, other: RawQuote) -> bool:
    """Whether nothing but the instant differs, as between two looks at a feed that stands still."""
    fields = ("last", "bid", "ask", "volume")
    return all(getattr(one, name) == getattr(other, name) for name in fields)


def _numbers(raw: RawQuote, limits: QuoteLimits) -> QuoteReason | None:
    if raw.last is None:
        return QuoteReason.NO_PRICE
    prices = [price for name in PRICE_FIELDS if (price := getattr(raw, name)) is not None]
    if not all(price.is_finite() for price in prices):
        return QuoteReason.NOT_A_NUMBER
    if any(price <= 0 for price in prices):
        return QuoteReason.NON_POSITIVE
    if any(price > limits.price_rupees_max for price in prices):
        return QuoteReason.TOO_LARGE
    if any(price != price.quantize(PAISA) for price in prices):
        return QuoteReason.FINER_THAN_PAISA
    if raw.volume is not None and raw.volume < 0:
        return QuoteReason.NEGATIVE_VOLUME
    if raw.volume is not None and raw.volume > limits.volume_shares_max:
        return QuoteReason.TOO_LARGE
    return None


def _coherence(raw: RawQuote, context: QuoteContext) -> QuoteReason | None:
    prices = {name: getattr(raw, name) for name in ON_TICK_FIELDS}
    said = {name: price for name, price in prices.items() if price is not None}
    if context.tick is not None and any(price % context.tick for price in said.values()):
        return QuoteReason.OFF_TICK
    if raw.bid is not None and raw.ask is not None and raw.bid > raw.ask:
        return QuoteReason.CROSSED
    if not all(_within(price, raw.low, raw.high) for price in (raw.last, raw.open, raw.low) if price is not None):
        return QuoteReason.OUTSIDE_DAY_RANGE
    return None


def _scale(raw: RawQuote, context: QuoteContext) -> QuoteReason | None:
    assert raw.last is not None  # noqa: S101 - _numbers refused it
    before = context.last_quote.last if context.last_quote else None
    for known in (context.previous_close, raw.previous_close, before):
        if known and any(HUNDREDFOLD_FROM < ratio < HUNDREDFOLD_TO for ratio in (raw.last / known, known / raw.last)):
            return QuoteReason.HUNDREDFOLD
    lower = context.lower_band if context.lower_band is not None else raw.lower_band
    upper = context.upper_band if context.upper_band is not None else raw.upper_band
    said = [price for name in ON_TICK_FIELDS if (price := getattr(raw, name)) is not None]
    return None if all(_within(price, lower, upper) for price in said) else QuoteReason.OUTSIDE_BAND


def _time(raw: RawQuote, context: QuoteContext) -> QuoteReason | None:
    if raw.as_of_s is None:
        return QuoteReason.NO_INSTANT
    age_s = context.now_s - raw.as_of_s
    if not -context.limits.future_s_max <= age_s:
        return QuoteReason.FROM_FUTURE
    age_s_max = context.age_s_max if context.session_running else context.limits.closed_age_s_max
    return None if age_s <= age_s_max else QuoteReason.STALE


def _sequence(raw: RawQuote, context: QuoteContext) -> QuoteReason | None:
    """What can only be seen beside the quote accepted before."""
    before = context.last_quote
    if before is None or before.as_of_s is None or raw.as_of_s is None:
        return None
    if raw.as_of_s < before.as_of_s:
        return QuoteReason.WENT_BACK
    comparable = raw.source == before.source and _ist_day(raw.as_of_s) == _ist_day(before.as_of_s)
    if comparable and raw.volume is not None and before.volume is not None and raw.volume < before.volume:
        return QuoteReason.VOLUME_FELL
    if context.session_running and context.unchanged_since_s is not None and same_values(raw, before):
        unchanged_s = context.now_s - context.unchanged_since_s
        if raw.as_of_s > before.as_of_s and unchanged_s > context.limits.frozen_s_max:
            return QuoteReason.FROZEN
    return None


def _within(price: Decimal, low: Decimal | None, high: Decimal | None) -> bool:
    return (low is None or price >= low) and (high is None or price <= high)


def _ist_day(instant_s: float) -> int:
    return int((instant_s + IST_OFFSET_S) // DAY_S)
