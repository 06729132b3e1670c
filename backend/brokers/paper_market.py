"""What the paper broker is given: the market it trades in, and how much of a real broker it plays."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Protocol

from backend.domain.calendar import Calendar, Phase, Session
from backend.domain.market import StockClass
from backend.domain.matching import BarView
from backend.domain.risk import QuoteView
from backend.errors import SaudaError

MARKET_ERRORS = (SaudaError, TimeoutError)
"""How reading the market fails."""


@dataclass(frozen=True, slots=True)
class PaperQuote:
    """A quote with the last finished bar, which bounds what could have been traded just now."""

    view: QuoteView
    bar: BarView


class MarketHours(Protocol):
    """Who knows the sessions of each share; services/market_calendar.py does."""

    @property
    def calendar(self) -> Calendar: ...

    def session(self, day: date) -> Session | None: ...

    def stock_class(self, symbol: str) -> StockClass: ...

    def square_off_at(self, symbol: str, day: date) -> datetime | None: ...


@dataclass(frozen=True, slots=True)
class PaperMarket:
    """What the paper broker sees of the market. `now` is the market's clock, `today` and phases follow from it.

    `hours` are needed by the rules that follow a day's phases: square-off and auction.
    """

    now: Callable[[], Awaitable[datetime]]
    quotes: Callable[[Sequence[str], datetime], Awaitable[Mapping[str, PaperQuote]]]
    bars_since: Callable[[Mapping[str, datetime], datetime], Awaitable[Mapping[str, Sequence[BarView]]]]
    phase: Callable[[str, datetime], Phase]
    session_ended: Callable[[datetime, datetime], bool]
    """(placed at, now) → whether the session an order was placed in is over: day orders expire then."""
    hours: MarketHours | None = None


@dataclass(frozen=True, slots=True)
class PaperRules:
    """How much of a real broker the paper broker plays. The defaults are what replays and backtests are judged by.

    `intraday`: MIS and CNC stand apart; MIS may go short, holds back 1/`intraday_leverage` of its value, ends at the
    square-off time and is squared off then. `auctions`: the closing auction takes orders. `queues`: an account's orders
    share what a bar offers, by price and then by time. `latency_s`: real seconds' worth of market time, within ±50 %
    as `seed` says, until an order meets the market.
    """

    intraday: bool = False
    intraday_leverage: Decimal = Decimal(5)
    auctions: bool = False
    queues: bool = False
    latency_s: float = 0.0
    seed: int = 0

    @property
    def leverage(self) -> Decimal:
        """What an open intraday position's value is divided by to give the money it holds back."""
        return self.intraday_leverage if self.intraday else Decimal(1)

    def latency(self, account_id: int, tag: str, placed_at: datetime) -> timedelta:
        """How long this order travels: the same for the same seed, account, tag and instant."""
        if not self.latency_s:
            return timedelta(0)
        drawn = sha256(f"{self.seed}/{account_id}/{tag}/{placed_at.isoformat()}".encode()).digest()
        return timedelta(seconds=self.latency_s * (0.5 + int.from_bytes(drawn[:4]) / 2**32))


BROKER_LIKE = PaperRules(intraday=True, auctions=True, queues=True)
"""As a discount broker trades cash equity: margin ×5 on MIS (facts of Zerodha's margin policy, 2026)."""


def words(error: Exception) -> str:
    return str(error) or type(error).__name__
