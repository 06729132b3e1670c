"""Builds a quote from ended bars: the same arithmetic for generated and recorded markets."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import numpy as np

from contracts.market import Quote
from data_service.bars import Bars
from data_service.sessions import ist_instant
from data_service.ticks import bands_paise, tick_paise

HALF_SPREAD_BP = Decimal("1.25")
"""Neither source records the order book: bid and ask stand this far around the last price, at least one tick."""


@dataclass(frozen=True, slots=True)
class SessionSoFar:
    """What a quote is made of: the session's ended bars (at least one), and what the session started from.

    `previous_close` is in paise on today's scale; `as_of_s` is when the last price was still the market's price,
    `asked_s` the instant asked about.
    """

    symbol: str
    source: str
    day: date
    as_of_s: int
    asked_s: int
    bars: Bars
    previous_close: int
    band_pct: int


def rupees(paise: int) -> Decimal:
    """Paise to rupees, exactly, with two decimals."""
    return Decimal(int(paise)).scaleb(-2)


def half_spread_paise(last: int, tick: int) -> int:
    """How far bid and ask are taken to stand from the last price where no source tells them."""
    return max(tick, round(last * HALF_SPREAD_BP / 10_000 / tick) * tick)


def build_quote(session: SessionSoFar) -> Quote:
    """The quote. Bid and ask stay within the bands; the last price does by construction of its source."""
    bars = session.bars
    last = int(bars.close[-1])
    previous = np.array([session.previous_close])
    tick_array = tick_paise(previous, session.day)
    tick = int(tick_array[0])
    low, high = (int(band[0]) for band in bands_paise(previous, tick_array, session.band_pct))
    half = half_spread_paise(last, tick)
    return Quote(
        symbol=session.symbol,
        as_of=ist_instant(session.as_of_s),
        age_s=float(max(session.asked_s - session.as_of_s, 0)),
        source=session.source,
        last=rupees(last),
        bid=rupees(max(min(last, low), last - half, tick)),
        ask=rupees(min(max(last, high), last + half)),
        open=rupees(bars.open[0]),
        high=rupees(bars.high.max()),
        low=rupees(bars.low.min()),
        previous_close=rupees(session.previous_close),
        volume=int(bars.volume.sum()),
        lower_band=rupees(low),
        upper_band=rupees(high),
        bar_start=ist_instant(bars.start[-1]),
        bar_end=ist_instant(bars.end[-1]),
        bar_open=rupees(bars.open[-1]),
        bar_high=rupees(bars.high[-1]),
        bar_low=rupees(bars.low[-1]),
        bar_close=rupees(last),
        bar_volume=int(bars.volume[-1]),
    )
