"""The market of a backtest, session by session: what a quote showed and what a bar traded, read from the columns."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from functools import cached_property, lru_cache

import numpy as np

from backend.backtest.history import Ints, MarketHistory, ShareHistory
from backend.domain.calendar import IST, Phase, Session, square_off_at
from backend.domain.market import Side, StockClass
from backend.domain.matching import BarView, offered
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


@lru_cache(maxsize=1 << 20)
def _rupees(paise: int) -> Decimal:
    return rupees_from_paise(paise)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a share before a session opens: rupees and shares, as a quote shows them, and paise."""

    lower_band: Decimal
    upper_band: Decimal
    tick: Decimal
    lot: int
    freeze_quantity: int
    lower_paise: int
    upper_paise: int
    tick_paise: int
    stock_class: StockClass


class Share:
    """One share's columns, with its rows by session, and as Python numbers where the loop reads single values."""

    def __init__(self, history: ShareHistory, opens: Ints) -> None:
        """`opens`: each session's first second."""
        self.history = history
        first = np.searchsorted(history.start, opens, side="left")
        self.first: list[int] = first.tolist()
        """By session, the row of its first bar; where it has none, that of the next session's."""
        self.after: list[int] = [*self.first[1:], len(history)]
        """By session, the row after its last bar."""
        self._facts: dict[int, Facts] = {}

    @cached_property
    def close(self) -> list[int]:
        return self.history.close.tolist()

    @cached_property
    def open(self) -> list[int]:
        return self.history.open.tolist()

    @cached_property
    def end(self) -> list[int]:
        return self.history.end.tolist()

    def facts(self, session: int, row: int) -> Facts:
        """Of the session of `row`, which is number `session` or an earlier one."""
        first = self.first[session]
        known = self._facts.get(first) if row >= first else None
        if known is None:
            h = self.history
            low, high, tick = int(h.lower_band[row]), int(h.upper_band[row]), int(h.tick[row])
            known = Facts(
                _rupees(low),
                _rupees(high),
                _rupees(tick),
                int(h.lot[row]),
                int(h.freeze_quantity[row]),
                low,
                high,
                tick,
                StockClass.CAS if h.has_derivatives[row] else StockClass.NON_CAS,
            )
            if row >= first:
                self._facts[first] = known
        return known

    def quote(self, facts: Facts, last: int, as_of: datetime, half_spread_bp: float) -> QuoteView:
        """What a quote shows at a last price of `last` paise: bid and ask stand half a spread around it, within the
        bands (the rule of data_service/quotes.py)."""
        tick = facts.tick_paise
        half = max(tick, round(last * half_spread_bp / BP / tick) * tick)
        return QuoteView(
            self.history.symbol,
            as_of,
            _rupees(last),
            _rupees(max(min(last, facts.lower_paise), last - half, tick)),
            _rupees(min(max(last, facts.upper_paise), last + half)),
            facts.lower_band,
            facts.upper_band,
            facts.tick,
            facts.lot,
            facts.freeze_quantity,
            SOURCE,
        )

    def bar(self, row: int) -> BarView:
        h = self.history
        return BarView(
            instant(int(h.start[row])),
            instant(int(h.end[row])),
            _rupees(int(h.open[row])),
            _rupees(int(h.high[row])),
            _rupees(int(h.low[row])),
            _rupees(int(h.close[row])),
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
        self._continuous: dict[tuple[int, StockClass], bool] = {}
        self._square_off: dict[StockClass, datetime] = {}
        self._closes: dict[str, Ints] = {}
        self._looks: dict[int, Look] = {}

    @cached_property
    def members(self) -> frozenset[str]:
        """The universe in force."""
        return self.market.members(self.date)

    @cached_property
    def seconds(self) -> Ints:
        """The planned looks, seconds since 1970-01-01 UTC: as each bar of the continuous windows ends, except the last;
        on daily bars at the open."""
        step = self.market.interval_s
        if step is None:
            return np.array([_second(self.session.continuous_open(StockClass.NON_CAS))], dtype=np.int64)
        windows = self.session.continuous(StockClass.NON_CAS)
        spans = [(_second(window.start), _second(window.end)) for window in windows]
        return np.concatenate([np.arange(start + step, end, step, dtype=np.int64) for start, end in spans])

    def look(self, number: int) -> Look:
        """A planned look."""
        known = self._looks.get(number)
        if known is None:
            second = int(self.seconds[number])
            known = Look(instant(second), second, Kind.BAR if self.market.interval_s else Kind.OPEN)
            self._looks[number] = known
        return known

    def closes(self, symbol: str) -> Ints:
        """The last price in paise at each look; 0 before the share's first bar."""
        known = self._closes.get(symbol)
        if known is None:
            share = self.market.shares.get(symbol)
            rows = np.searchsorted(share.history.end, self.seconds, side="right") - 1 if share else None
            if share is None or rows is None:
                known = np.zeros(len(self.seconds), dtype=np.int64)
            else:
                known = np.where(rows >= 0, share.history.close[np.maximum(rows, 0)], 0)
            self._closes[symbol] = known
        return known

    @cached_property
    def close(self) -> Look:
        """The end of continuous trading: nothing is decided any more."""
        closes = self.session.continuous_close(StockClass.NON_CAS)
        return Look(closes, _second(closes), Kind.BAR if self.market.interval_s else Kind.CLOSE)

    def traded(self, symbol: str) -> bool:
        """Whether the share has a bar in this session."""
        share = self.market.shares.get(symbol)
        return share is not None and share.first[self.number] < share.after[self.number]

    def stock_class(self, symbol: str) -> StockClass:
        """As the session's own bars say; the shorter hours where there are none."""
        if not self.traded(symbol):
            return StockClass.CAS
        share = self.market.shares[symbol]
        return share.facts(self.number, share.first[self.number]).stock_class

    def continuous(self, symbol: str, look: Look) -> bool:
        key = (look.second, self.stock_class(symbol))
        known = self._continuous.get(key)
        if known is None:
            known = self._continuous[key] = self.session.phase_at(look.at, key[1]) is Phase.CONTINUOUS
        return known

    def square_off_at(self, symbol: str) -> datetime:
        of_class = self.stock_class(symbol)
        known = self._square_off.get(of_class)
        if known is None:
            known = self._square_off[of_class] = square_off_at(of_class, self.session)
        return known

    def row(self, symbol: str, look: Look) -> int:
        """The row of the bar that the look reads; -1 where there is none. One of an earlier session makes the quote an
        old one."""
        share = self.market.shares.get(symbol)
        if share is None:
            return -1
        if look.kind is Kind.BAR:
            return bisect_right(share.end, look.second) - 1
        first = share.first[self.number]
        return first if first < share.after[self.number] else first - 1

    def last(self, symbol: str, look: Look) -> int | None:
        """The last price in paise that a look shows; None where the share never traded before."""
        share = self.market.shares.get(symbol)
        if share is None:
            return None
        if look.kind is Kind.BAR:
            row = bisect_right(share.end, look.second) - 1
            return share.close[row] if row >= 0 else None
        first = share.first[self.number]
        if first >= share.after[self.number]:
            return share.close[first - 1] if first else None
        if look.kind is Kind.CLOSE:
            return share.close[first]
        return look.touched.get(symbol, share.open[first])

    def quote(self, symbol: str, look: Look) -> QuoteView | None:
        row, last = self.row(symbol, look), self.last(symbol, look)
        if last is None:
            return None
        share = self.market.shares[symbol]
        of_today = look.kind is not Kind.BAR and row >= share.first[self.number]
        as_of = look.at if of_today else instant(share.end[row])
        return share.quote(share.facts(self.number, row), last, as_of, self.market.history.half_spread_bp)

    def offered(self, symbol: str, look: Look, side: Side) -> int:
        """Shares that an order finds as it arrives: the last finished bar's, or a part of a daily one's."""
        row = self.row(symbol, look)
        if row < 0:
            return 0
        share, h = self.market.shares[symbol], self.market.shares[symbol].history
        facts = share.facts(self.number, row)
        volume = int(h.volume[row]) if look.kind is Kind.BAR else int(h.volume[row]) // ARRIVAL_PARTS
        low, high = _rupees(int(h.low[row])), _rupees(int(h.high[row]))
        return offered(side, low, high, volume, facts.lower_band, facts.upper_band)

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
        opens = [_second(session.windows_non_cas[0].start) for session in history.sessions]
        self.opens: Ints = np.array(opens, dtype=np.int64)
        """Each session's first second."""
        self.shares: Mapping[str, Share] = {
            symbol: Share(columns, self.opens) for symbol, columns in history.shares.items()
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
