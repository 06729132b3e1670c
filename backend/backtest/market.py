"""The market of a backtest, session by session: what a quote showed and what a bar traded, read from the columns."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from functools import cached_property

import numpy as np

from backend.backtest.history import Ints, MarketHistory, ShareHistory
from backend.domain.calendar import IST, Phase, Session, square_off_at
from backend.domain.market import StockClass
from backend.domain.matching import BarView
from backend.domain.money import rupees_from_paise
from backend.domain.risk import QuoteView
from contracts.market import Interval

INTERVAL_S: dict[Interval, int] = {
    Interval.MIN_1: 60,
    Interval.MIN_3: 180,
    Interval.MIN_5: 300,
    Interval.MIN_10: 600,
    Interval.MIN_15: 900,
    Interval.MIN_30: 1800,
    Interval.HOUR_1: 3600,
}
"""Seconds of an intraday bar; a daily bar has a length of its session."""

ARRIVAL_PARTS = 75
"""A daily bar does not say when its shares traded: an order finds a seventy-fifth of them, as of a five-minute bar."""

SOURCE = "backtest"
BP = 10_000


def instant(seconds: int) -> datetime:
    """Seconds since 1970-01-01 UTC as an instant of the exchange's clock."""
    return datetime.fromtimestamp(seconds, UTC).astimezone(IST)


@dataclass(frozen=True, slots=True)
class Rows:
    """A share's bars of one session: the row of the first, and of the one after the last."""

    first: int
    end: int


class Share:
    """One share's columns, with its rows by session and Python numbers where the loop reads single values."""

    def __init__(self, history: ShareHistory, sessions: Sequence[Session]) -> None:
        self.history = history
        opens = np.array([_second(session.windows_non_cas[0].start) for session in sessions], dtype=np.int64)
        starts = np.searchsorted(history.start, opens, side="left")
        self.rows = [Rows(int(first), int(end)) for first, end in zip(starts, [*starts[1:], len(history)], strict=True)]

    @cached_property
    def close(self) -> list[int]:
        return self.history.close.tolist()

    @cached_property
    def open(self) -> list[int]:
        return self.history.open.tolist()

    @cached_property
    def high(self) -> list[int]:
        return self.history.high.tolist()

    @cached_property
    def low(self) -> list[int]:
        return self.history.low.tolist()

    @cached_property
    def end(self) -> list[int]:
        return self.history.end.tolist()

    def stock_class(self, row: int) -> StockClass:
        return StockClass.CAS if self.history.has_derivatives[row] else StockClass.NON_CAS

    def quote(self, row: int, last: int, as_of: datetime, half_spread_bp: float) -> QuoteView:
        """What a quote shows at a last price of `last` paise in the session of `row`: bid and ask stand half a spread
        around it, within the bands (the rule of data_service/quotes.py)."""
        h = self.history
        tick, low, high = int(h.tick[row]), int(h.lower_band[row]), int(h.upper_band[row])
        half = max(tick, round(last * half_spread_bp / BP / tick) * tick)
        return QuoteView(
            symbol=h.symbol,
            as_of=as_of,
            last=rupees_from_paise(last),
            bid=rupees_from_paise(max(min(last, low), last - half, tick)),
            ask=rupees_from_paise(min(max(last, high), last + half)),
            lower_band=rupees_from_paise(low),
            upper_band=rupees_from_paise(high),
            tick=rupees_from_paise(tick),
            lot=int(h.lot[row]),
            freeze_quantity=int(h.freeze_quantity[row]),
            source=SOURCE,
        )

    def bar(self, row: int) -> BarView:
        h = self.history
        return BarView(
            instant(int(h.start[row])),
            instant(int(h.end[row])),
            rupees_from_paise(int(h.open[row])),
            rupees_from_paise(int(h.high[row])),
            rupees_from_paise(int(h.low[row])),
            rupees_from_paise(int(h.close[row])),
            int(h.volume[row]),
        )


def _second(moment: datetime) -> int:
    return int(moment.timestamp())


class Kind(Enum):
    """Which price a look shows: the close of the last bar that had ended; or, on daily bars, the open, a stop or target
    that the day's range reaches, or the close."""

    BAR = "bar"
    OPEN = "open"
    TOUCH = "touch"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Look:
    """One instant at which the loop looks at the market. `touched`: prices in paise that shares pass at that moment."""

    at: datetime
    second: int
    kind: Kind
    touched: Mapping[str, int] = field(default_factory=dict[str, int])


class Day:
    """One session as the loop walks it."""

    def __init__(self, market: "Market", number: int) -> None:
        self.market, self.number = market, number
        self.session: Session = market.history.sessions[number]
        self.date: date = self.session.day
        self.members = market.members(self.date)
        self._classes: dict[str, StockClass] = {}
        self._closes: dict[str, Ints] = {}

    @cached_property
    def looks(self) -> list[Look]:
        """The planned looks: as each bar of the continuous windows ends, except the last; on daily bars at the open."""
        step_s = self.market.interval_s
        if step_s is None:
            opens = self.session.continuous_open(StockClass.NON_CAS)
            return [Look(opens, _second(opens), Kind.OPEN)]
        found: list[Look] = []
        for window in self.session.continuous(StockClass.NON_CAS):
            at = window.start + timedelta(seconds=step_s)
            while at < window.end:
                found.append(Look(at, _second(at), Kind.BAR))
                at += timedelta(seconds=step_s)
        return found

    @cached_property
    def seconds(self) -> Ints:
        """The looks' instants, seconds since 1970-01-01 UTC."""
        return np.array([look.second for look in self.looks], dtype=np.int64)

    def closes(self, symbol: str) -> Ints:
        """The last price in paise at each look; 0 before the share's first bar."""
        known = self._closes.get(symbol)
        if known is None:
            share = self.market.shares.get(symbol)
            rows = np.searchsorted(share.history.end, self.seconds, side="right") - 1 if share else None
            if share is None or rows is None:
                known = np.zeros(len(self.looks), dtype=np.int64)
            else:
                known = np.where(rows >= 0, share.history.close[np.maximum(rows, 0)], 0)
            self._closes[symbol] = known
        return known

    @cached_property
    def close(self) -> Look:
        """The end of continuous trading: nothing is decided any more."""
        closes = self.session.continuous_close(StockClass.NON_CAS)
        return Look(closes, _second(closes), Kind.BAR if self.market.interval_s else Kind.CLOSE)

    def rows(self, symbol: str) -> Rows | None:
        """The share's bars of this session; None where it has none."""
        share = self.market.shares.get(symbol)
        if share is None:
            return None
        rows = share.rows[self.number]
        return rows if rows.first < rows.end else None

    def stock_class(self, symbol: str) -> StockClass:
        """As the session's own bars say; the shorter hours where there are none."""
        known = self._classes.get(symbol)
        if known is None:
            rows = self.rows(symbol)
            known = StockClass.CAS if rows is None else self.market.shares[symbol].stock_class(rows.first)
            self._classes[symbol] = known
        return known

    def continuous(self, symbol: str, look: Look) -> bool:
        return self.session.phase_at(look.at, self.stock_class(symbol)) is Phase.CONTINUOUS

    def square_off_at(self, symbol: str) -> datetime:
        return square_off_at(self.stock_class(symbol), self.session)

    def row(self, symbol: str, look: Look) -> int:
        """The row of the bar that the look reads; -1 where there is none. One of an earlier session makes the quote an
        old one."""
        share = self.market.shares.get(symbol)
        if share is None:
            return -1
        if look.kind is Kind.BAR:
            return bisect_right(share.end, look.second) - 1
        rows = share.rows[self.number]
        return rows.first if rows.first < rows.end else rows.first - 1

    def last(self, symbol: str, look: Look) -> int | None:
        """The last price in paise that a look shows; None where the share never traded before."""
        row = self.row(symbol, look)
        if row < 0:
            return None
        share = self.market.shares[symbol]
        if look.kind in {Kind.OPEN, Kind.TOUCH} and row >= share.rows[self.number].first:
            return look.touched.get(symbol, share.open[row])
        return share.close[row]

    def quote(self, symbol: str, look: Look) -> QuoteView | None:
        row, last = self.row(symbol, look), self.last(symbol, look)
        if last is None:
            return None
        share = self.market.shares[symbol]
        of_today = look.kind is not Kind.BAR and row >= share.rows[self.number].first
        as_of = look.at if of_today else instant(share.end[row])
        return share.quote(row, last, as_of, self.market.history.half_spread_bp)

    def arrival_bar(self, symbol: str, look: Look) -> BarView | None:
        """The bar that bounds what an order finds as it arrives: the last finished one; a part of a daily one."""
        row = self.row(symbol, look)
        if row < 0:
            return None
        bar = self.market.shares[symbol].bar(row)
        return bar if look.kind is Kind.BAR else replace(bar, volume=bar.volume // ARRIVAL_PARTS)

    def bars_between(self, symbol: str, since: datetime, look: Look) -> Iterator[BarView]:
        """The intraday bars that began at `since` or later and had ended by the look."""
        share = self.market.shares.get(symbol)
        if share is None or look.kind is not Kind.BAR:
            return
        row = bisect_right(share.end, look.second) - 1
        first = row
        while first >= 0 and share.history.start[first] >= _second(since):
            first -= 1
        for number in range(first + 1, row + 1):
            yield share.bar(number)


class Market:
    """The columns of a history, by session."""

    def __init__(self, history: MarketHistory) -> None:
        self.history = history
        self.interval_s = INTERVAL_S.get(history.interval)
        self.shares: Mapping[str, Share] = {
            symbol: Share(columns, history.sessions) for symbol, columns in history.shares.items()
        }
        self._determined = sorted(history.members)

    @property
    def daily(self) -> bool:
        return self.interval_s is None

    @cached_property
    def days(self) -> list[Day]:
        """Every session, made once for all traders."""
        return [Day(self, number) for number in range(len(self.history.sessions))]

    def members(self, day: date) -> frozenset[str]:
        """The universe in force on a day."""
        place = bisect_right(self._determined, day)
        return self.history.members[self._determined[place - 1]] if place else frozenset()
