"""Public market data on the wire."""

from datetime import date, timedelta
from typing import Annotated

from pydantic import Field, model_validator

from backend.api.schemas.common import Body, Day, MarketReply, Moment, Money, Reply, Symbol, SymbolList
from backend.api.schemas.reference import ActionView
from backend.services.quote_board import SYMBOLS_DEFAULT
from backend.services.status_service import ClassStatus, MarketStatus
from contracts.common import Environment
from contracts.market import (
    BarColumns,
    BarsReply,
    Interval,
)

DAYS_MAX = {
    Interval.MIN_1: 10,
    Interval.MIN_3: 30,
    Interval.MIN_5: 60,
    Interval.MIN_10: 120,
    Interval.MIN_15: 180,
    Interval.MIN_30: 365,
    Interval.HOUR_1: 730,
    Interval.DAY_1: 3700,
}
"""Days per request, so that an answer holds some four thousand bars at most."""
DAYS_DEFAULT = {
    Interval.MIN_1: 1,
    Interval.MIN_3: 1,
    Interval.MIN_5: 1,
    Interval.MIN_10: 1,
    Interval.MIN_15: 5,
    Interval.MIN_30: 5,
    Interval.HOUR_1: 30,
    Interval.DAY_1: 365,
}


class SymbolsQuery(Body):
    symbols: SymbolList = Field(
        default=",".join(SYMBOLS_DEFAULT),
        validate_default=True,
        description="Up to 50 symbols with commas between them.",
    )

    def wanted(self) -> tuple[str, ...]:
        """The symbols, each once, in the order asked for."""
        return tuple(self.symbols)


class BarsQuery(Body):
    """`from` and `to` are session days, both inclusive; `to` is the market's present day where it is left out."""

    symbol: Symbol
    interval: Interval = Interval.DAY_1
    from_: Annotated[Day | None, Field(alias="from")] = None
    to: Day | None = None
    adjusted: bool = True

    @model_validator(mode="after")
    def _days(self) -> "BarsQuery":
        if any(day is not None and not 1990 <= day.year <= 9000 for day in (self.from_, self.to)):
            raise ValueError("days lie between 1990 and 9000")
        if self.from_ is not None and self.to is not None and self.from_ > self.to:
            raise ValueError("from must not be after to")
        return self

    def days(self, today: date) -> tuple[date, date]:
        """The first and last day to answer for."""
        last = self.to or max(today, self.from_ or today)
        return self.from_ or last - timedelta(days=DAYS_DEFAULT[self.interval] - 1), last


class QuoteView(Reply):
    """Rupees per share; `open`, `high`, `low` and `volume` are of the session so far."""

    symbol: str
    as_of: Moment
    source: str
    last: Money
    bid: Money
    ask: Money
    open: Money
    high: Money
    low: Money
    previous_close: Money
    change: Money
    change_fraction: float | None
    volume: int
    lower_band: Money
    upper_band: Money


class QuotesView(MarketReply):
    """`as_of` is the newest quote's instant; `missing` says why a symbol has none."""

    as_of: Moment | None
    quotes: dict[str, QuoteView]
    missing: dict[str, str]


class BarView(Reply):
    start: Moment
    open: Money
    high: Money
    low: Money
    close: Money
    volume: int


class BarsView(MarketReply):
    """Finished bars, oldest first; an intraday bar is named by its start. `note` says why there are none.

    `as_of` is when the last of them ended, so that an unchanged answer is unchanged bytes. `sources` are the providers
    whose bars these are, most bars first. `unadjusted` lists the actions among the bars that moved the price and that
    no factor undoes: a return across their ex-dates is not a return.
    """

    symbol: str
    interval: Interval
    adjusted: bool
    as_of: Moment | None
    source: str
    sources: list[str]
    unadjusted: list[ActionView]
    bars: list[BarView]
    note: str | None = None

    @classmethod
    def of(cls, environment: Environment, symbol: str, reply: BarsReply) -> "BarsView":
        columns, source = reply.series.get(symbol), reply.sources.get(symbol)
        return cls(
            environment=environment,
            symbol=symbol,
            interval=reply.interval,
            adjusted=reply.adjusted,
            as_of=source.as_of if source else None,
            source=reply.provider,
            sources=source.providers if source else [],
            unadjusted=[ActionView.of(action) for action in reply.unadjusted.get(symbol, [])],
            bars=bar_views(columns) if columns else [],
            note=reply.missing.get(symbol),
        )


def bar_views(columns: BarColumns) -> list[BarView]:
    """Columns turned into rows."""
    rows = zip(columns.start, columns.open, columns.high, columns.low, columns.close, columns.volume, strict=True)
    return [BarView(start=s, open=o, high=h, low=lo, close=c, volume=v) for s, o, h, lo, c, v in rows]


class WindowView(Reply):
    phase: str
    start: Moment
    end: Moment


class ClassView(Reply):
    """`cas`: stocks with derivatives, which close by auction since 2026-08-03; `non_cas`: all others."""

    stock_class: str
    phase: str
    windows: list[WindowView]
    square_off_at: Moment | None

    @classmethod
    def of(cls, status: ClassStatus) -> "ClassView":
        return cls(
            stock_class=status.stock_class.value,
            phase=status.phase.value,
            windows=[WindowView(phase=w.phase.value, start=w.start, end=w.end) for w in status.windows],
            square_off_at=status.square_off_at,
        )


class MarketStatusReply(MarketReply):
    """`clock_speed` is market seconds per real second; in an unrecorded year the market counts as closed."""

    exchange: str
    now: Moment
    clock_speed: float
    day: date
    day_recorded: bool
    session_kind: str | None
    note: str
    next_open: Moment | None
    classes: list[ClassView]

    @classmethod
    def of(cls, environment: Environment, exchange: str, status: MarketStatus) -> "MarketStatusReply":
        return cls(
            environment=environment,
            exchange=exchange,
            now=status.now,
            clock_speed=status.speed,
            day=status.day,
            day_recorded=status.recorded,
            session_kind=status.session_kind,
            note=status.reason,
            next_open=status.next_open,
            classes=[ClassView.of(c) for c in status.classes],
        )
