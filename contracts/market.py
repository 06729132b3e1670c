"""Market data on the wire: instruments, bars, quotes and the market's clock, as data_service serves them."""

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from contracts.common import Environment, Instant, Rupees, Symbol, Symbols, Wire


class Interval(StrEnum):
    """A bar's length. An intraday bar is named by its start; a daily bar by its session's opening instant.

    Intraday bars are counted from the session's open; the last one ends when continuous trading does.
    """

    MIN_1 = "1m"
    MIN_3 = "3m"
    MIN_5 = "5m"
    MIN_10 = "10m"
    MIN_15 = "15m"
    MIN_30 = "30m"
    HOUR_1 = "1h"
    DAY_1 = "1d"


class ActionKind(StrEnum):
    """What a company did to its shares. Only splits and bonuses are adjusted for; the others that move prices are
    flagged, because no arithmetic makes their prices comparable."""

    SPLIT = "split"
    BONUS = "bonus"
    DIVIDEND = "dividend"
    RIGHTS = "rights"
    DEMERGER = "demerger"
    MERGER = "merger"
    CAPITAL_REDUCTION = "capital_reduction"
    RENAME = "rename"
    OTHER = "other"


ADJUSTING_KINDS = frozenset({ActionKind.SPLIT, ActionKind.BONUS})


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


class CorporateAction(Wire):
    """One action of a company. From the open of `ex_date` on a buyer does not take part in it.

    Of a split or bonus (a consolidation too) `shares_before` shares become `shares_after`; `amount` is rupees per share
    of a dividend; `new_symbol` is a rename's. `known_on` is the first day on which an answer may use it; `subject` is
    the announcement's own text.
    """

    symbol: Symbol
    ex_date: date
    known_on: date
    kind: ActionKind
    shares_before: int | None = Field(default=None, ge=1)
    shares_after: int | None = Field(default=None, ge=1)
    amount: Rupees | None = None
    new_symbol: Symbol | None = None
    subject: str = ""
    source: str


class ActionsReply(Wire):
    """Corporate actions with an ex-date in the days asked for, known at `as_of`, ordered by ex-date and symbol."""

    environment: Environment
    as_of: Instant
    actions: list[CorporateAction]


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


class SeriesSource(Wire):
    """How many bars one symbol has, where they came from (most first), when the last ended, and how old that is."""

    bars: int = Field(ge=1)
    providers: list[str]
    as_of: Instant
    age_s: float = Field(ge=0)


class BarsReply(Wire):
    """`missing` says, per symbol without a single bar in the answer, why.

    `unadjusted` lists, per symbol, the price-moving actions with an ex-date among its bars that no factor can undo
    (demergers, mergers, rights, capital reductions): returns across these days are not returns.
    """

    environment: Environment
    as_of: Instant
    provider: str
    interval: Interval
    adjusted: bool
    series: dict[Symbol, BarColumns]
    sources: dict[Symbol, SeriesSource] = {}
    unadjusted: dict[Symbol, list[CorporateAction]] = {}
    missing: dict[Symbol, str] = {}


BARS_ARROW = "application/vnd.sauda.bars+arrow"
"""The reply to a BarsRequest whose Accept names this type: four bytes, big-endian, with the length of what follows; a
BarsReply as JSON with an empty series; and an Arrow IPC stream of one table with the columns symbol, start (seconds
since 1970-01-01 UTC), open, high, low, close (whole numbers of 10^-PRICE_DECIMALS rupees) and volume, by symbol, oldest
first."""

PRICE_DECIMALS = 6


class QuoteHistoryRequest(Wire):
    """What quotes showed as each bar of `symbols` ended: of the sessions `from`..`through`, both inclusive, known at
    `as_of`. Unadjusted: what an order would have met."""

    symbols: Symbols
    interval: Interval
    from_: Annotated[date, Field(alias="from")]
    through: date
    as_of: Instant

    @model_validator(mode="after")
    def _ordered(self) -> "QuoteHistoryRequest":
        if self.from_ > self.through:
            raise ValueError("from must not be after through")
        return self


class QuoteHistoryHead(Wire):
    """What the columns of a quote history do not say. `half_spread_bp`: no source records the order book, so a quote's
    bid and ask are taken to stand this many basis points around the last price, to the tick, at least one tick;
    `missing` says, per symbol without a row, why."""

    environment: Environment
    as_of: Instant
    provider: str
    interval: Interval
    half_spread_bp: Rupees
    missing: dict[Symbol, str] = {}


QUOTE_HISTORY_ARROW = "application/vnd.sauda.quote-history+arrow"
"""The reply to a QuoteHistoryRequest: four bytes, big-endian, with the length of what follows; a QuoteHistoryHead as
JSON; and an Arrow IPC stream of one table with the columns symbol, start and end (seconds since 1970-01-01 UTC), open,
high, low, close, previous_close, lower_band, upper_band, tick (paise), volume, lot, freeze_quantity (shares) and
has_derivatives, by symbol, oldest first. What is known of a session before it opens stands in each of its rows."""


class QuotesRequest(Wire):
    symbols: Symbols
    as_of: Instant | None = Field(default=None, description="The market's present where it is left out.")


class Quote(Wire):
    """The market in one symbol as it stood at `as_of`, which is never later than the request's `as_of`.

    `open`, `high`, `low` and `volume` are of the session so far; `bar_*` describe the last finished bar, which bounds
    what could have been traded just now. Prices are unadjusted: they are what an order would meet. `age_s` is how long
    before the reply's `as_of` that was, in market seconds.
    """

    symbol: Symbol
    as_of: Instant
    age_s: float = Field(ge=0)
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
    data_version: str | None = Field(
        default=None,
        description="Names the state of the store: while it stays, so do answers about the past; null without a store.",
    )


class QualityFinding(Wire):
    """Something wrong with a datum. `quarantined` data is kept out of every answer; the rest is served and flagged."""

    symbol: Symbol
    interval: Interval | None = Field(default=None, description="null for a quote.")
    start: Instant | None = Field(default=None, description="The bar's start or the quote's instant.")
    source: str
    reason: str
    detail: str
    quarantined: bool
    found_at: Instant


class QualityReply(Wire):
    """Findings, newest first, and how many there are per reason in all."""

    environment: Environment
    as_of: Instant
    counts: dict[str, int]
    findings: list[QualityFinding]
    next_cursor: str | None = None


class UniverseReply(Wire):
    """The members of a universe as of an instant, in its order (turnover: largest first)."""

    environment: Environment
    as_of: Instant
    name: str
    members: list[Symbol]
    note: str = ""
