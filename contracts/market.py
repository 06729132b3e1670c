"""Market data on the wire: instruments, bars, quotes and the market's clock, as data_service serves them."""

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from contracts.common import Environment, Instant, Rupees, Symbol, Symbols, Wire


class Interval(StrEnum):
    """A bar's length. An intraday bar is named by its start; a daily bar by its session's opening instant."""

    MIN_1 = "1m"
    MIN_5 = "5m"
    DAY_1 = "1d"


class Instrument(Wire):
    """One listed share. `has_derivatives` decides its session times since 2026-08-03 (closing auction)."""

    symbol: Symbol
    exchange: str = "nse"
    name: str
    isin: str | None = None
    series: str = "EQ"
    tick_size_rupees: Rupees
    lot_size: int = 1
    freeze_quantity: int = 100_000
    has_derivatives: bool
    band_pct: Rupees | None = Field(
        default=None, description="Fixed daily price band in per cent; null where the band is dynamic (derivatives)."
    )


class InstrumentsReply(Wire):
    environment: Environment
    as_of: Instant
    instruments: list[Instrument]


class BarsRequest(Wire):
    """Bars of `symbols` whose session dates lie in `from`..`through` (both inclusive) and that had ended by `as_of`."""

    symbols: Symbols
    interval: Interval
    from_: Annotated[date, Field(alias="from")]
    through: date
    as_of: Instant
    adjusted: bool = True

    @model_validator(mode="after")
    def _ordered(self) -> "BarsRequest":
        if self.from_ > self.through:
            raise ValueError("from must not be after through")
        return self


class BarColumns(Wire):
    """One symbol's bars, oldest first, as columns of equal length. `start` is the bar's first instant.

    Prices are rupees; `volume` is shares. Adjusted prices are on the scale of the last session known at `as_of`.
    """

    start: list[datetime]
    open: list[Rupees]
    high: list[Rupees]
    low: list[Rupees]
    close: list[Rupees]
    volume: list[int]


class BarsReply(Wire):
    """`missing` says, per symbol without a single bar in the answer, why."""

    environment: Environment
    as_of: Instant
    provider: str
    interval: Interval
    adjusted: bool
    series: dict[Symbol, BarColumns]
    missing: dict[Symbol, str] = {}


class QuotesRequest(Wire):
    symbols: Symbols
    as_of: Instant | None = Field(default=None, description="The market's present where it is left out.")


class Quote(Wire):
    """The market in one symbol as it stood at `as_of`, which is never later than the request's `as_of`.

    `open`, `high`, `low` and `volume` are of the session so far; `bar_*` describe the last finished bar, which bounds
    what could have been traded just now. Prices are unadjusted: they are what an order would meet.
    """

    symbol: Symbol
    as_of: Instant
    source: str
    last: Rupees
    bid: Rupees
    ask: Rupees
    open: Rupees
    high: Rupees
    low: Rupees
    previous_close: Rupees
    volume: int
    lower_band: Rupees
    upper_band: Rupees
    bar_start: Instant
    bar_end: Instant
    bar_open: Rupees
    bar_high: Rupees
    bar_low: Rupees
    bar_close: Rupees
    bar_volume: int


class QuotesReply(Wire):
    """`missing` says, per symbol without a quote, why (unknown symbol, no trade yet in this session ...)."""

    environment: Environment
    as_of: Instant
    quotes: dict[Symbol, Quote]
    missing: dict[Symbol, str] = {}


class ClockReply(Wire):
    """The market's present. `speed` is market seconds per real second (1 outside the simulated market).

    The simulated clock skips the hours between sessions, so `speed` holds inside a session only.
    `data_through` is the last session date the store can answer for.
    """

    environment: Environment
    now: Instant
    speed: float
    data_from: date | None = None
    data_through: date | None = None
