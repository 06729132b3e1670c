"""The market of a backtest, session by session: what a quote showed and what a bar traded, read from the columns."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from functools import cached_property, lru_cache

import numpy as np

from backend.backtest.history import Ints, MarketHistory, ShareHistory
from backend.domain.calendar import IST, Phase, Session, square_off_at
from backend.domain.corporate_actions import RESCALING
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
        self.splits: list[tuple[int, float]] = []
        """(first second on the new scale, new price per old one), oldest first."""

    def scale(self, since: int, until: int) -> float:
        """What splits and bonuses after `since` and up to `until` multiply a price by; seconds since 1970."""
        found = 1.0
        for second, factor in self.splits:
            if since < second <= until:
                found *= factor
        return found

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
                stale = (rows >= 0) & (rows < share.first[self.number])
                if stale.any():
                    known = np.where(stale, self._stale(share, int(rows[stale][0])) or 0, known)
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
        first = share.first[self.number]
        if look.kind is Kind.BAR:
            row = bisect_right(share.end, look.second) - 1
            return share.close[row] if row >= first else self._stale(share, row)
        if first >= share.after[self.number]:
            return self._stale(share, first - 1)
        if look.kind is Kind.CLOSE:
            return share.close[first]
        return look.touched.get(symbol, share.open[first])

    def _stale(self, share: Share, row: int) -> int | None:
        """The close of an earlier session on this one's scale."""
        if row < 0:
            return None
        scale = share.scale(share.end[row], int(self.market.opens[self.number]))
        return share.close[row] if scale == 1 else round(share.close[row] * scale)

    def quote(self, symbol: str, look: Look) -> QuoteView | None:
        row, last = self.row(symbol, look), self.last(symbol, look)
        if last is None:
            return None
        share = self.market.shares[symbol]
        of_today = look.kind is not Kind.BAR and row >= share.first[self.number]
        as_of = look.at if of_today else instant(share.end[row])
        return share.quote(share.facts(self.number, row), last, as_of, self.market.history.half_spread_bp)

    def offered(self, symbol: str, look: Look, side: Side) -> int:
        """Shares that an order finds as it arrives: the last finished bar's, or a part of a daily one's; of that none
        where the price itself stands at the band."""
        row, last = self.row(symbol, look), self.last(symbol, look)
        if last is None:
            return 0
        share, h = self.market.shares[symbol], self.market.shares[symbol].history
        facts = share.facts(self.number, row)
        if look.kind is Kind.BAR:
            low, high, volume = int(h.low[row]), int(h.high[row]), int(h.volume[row])
        else:
            low, high, volume = last, last, int(h.volume[row]) // ARRIVAL_PARTS
        return offered(side, _rupees(low), _rupees(high), volume, facts.lower_band, facts.upper_band)

    def quote_at(self, symbol: str, bar: BarView) -> QuoteView:
        """The quote at the open of one of the session's bars."""
        share = self.market.shares[symbol]
        facts = share.facts(self.number, share.first[self.number])
        return share.quote(facts, int(bar.open * 100), bar.start, self.market.history.half_spread_bp)

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
        self._days = [session.day for session in history.sessions]
        for action in sorted(history.actions, key=lambda a: a.ex_date):
            day = self.session_from(action.ex_date)
            if day is not None and action.kind in RESCALING and not action.flagged and action.symbol in self.shares:
                second = int(self.opens[bisect_left(self._days, day)])
                self.shares[action.symbol].splits.append((second, action.shares_before / action.shares_after))

    def session_from(self, day: date) -> date | None:
        """The first session on or after a day; None for a day before them all, or after."""
        place = bisect_left(self._days, day)
        return self._days[place] if place < len(self._days) and day >= self._days[0] else None

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
