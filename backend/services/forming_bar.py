"""The bar that is being formed, made of its finished minutes and the prices seen since."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from backend.domain.market import StockClass
from backend.domain.sessions import Session
from contracts.market import Interval, Quote

MINUTE = timedelta(minutes=1)
LENGTHS = {
    Interval.MIN_1: MINUTE,
    Interval.MIN_3: 3 * MINUTE,
    Interval.MIN_5: 5 * MINUTE,
    Interval.MIN_10: 10 * MINUTE,
    Interval.MIN_15: 15 * MINUTE,
    Interval.MIN_30: 30 * MINUTE,
    Interval.HOUR_1: 60 * MINUTE,
}
INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Bar:
    """Prices in rupees, `volume` in shares; `start` is the bar's first instant."""

    start: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int


@dataclass(frozen=True, slots=True)
class Slot:
    """The time of one bar: start ≤ t < end."""

    start: datetime
    end: datetime


def slot_at(session: Session, stock_class: StockClass, interval: Interval, moment: datetime) -> Slot | None:
    """The slot that `moment` falls into, counted from the session's open; the last one ends when continuous trading
    does. None outside continuous trading."""
    opens, closes = session.continuous_open(stock_class), session.continuous_close(stock_class)
    if not opens <= moment < closes:
        return None
    length = LENGTHS.get(interval, closes - opens)
    start = opens + (moment - opens) // length * length
    return Slot(start, min(start + length, closes))


def last_ended(session: Session, stock_class: StockClass, interval: Interval, now: datetime) -> Slot | None:
    """The session's last slot that had ended by `now`; None before the first has."""
    opens, closes = session.continuous_open(stock_class), session.continuous_close(stock_class)
    if now >= closes:
        return slot_at(session, stock_class, interval, closes - INSTANT)
    current = slot_at(session, stock_class, interval, now)
    if current is None or current.start == opens:
        return None
    return slot_at(session, stock_class, interval, current.start - INSTANT)


@dataclass(frozen=True, slots=True)
class Forming:
    """A slot, its finished minutes (oldest first), and what was seen since: (open, high, low, close)."""

    slot: Slot
    minutes: tuple[Bar, ...] = ()
    seen: tuple[Decimal, Decimal, Decimal, Decimal] | None = None

    def with_minutes(self, minutes: Sequence[Bar]) -> "Forming":
        """Know these finished minutes, too, as far as they lie in the slot; a later word on one replaces the former."""
        end = self.slot.end - MINUTE
        known = {bar.start: bar for bar in (*self.minutes, *minutes) if self.slot.start <= bar.start <= end}
        ordered = tuple(known[start] for start in sorted(known))
        newer = bool(ordered) and (not self.minutes or ordered[-1].start > self.minutes[-1].start)
        return replace(self, minutes=ordered, seen=None if newer else self.seen)

    def with_price(self, last: Decimal) -> "Forming":
        """Know the last price."""
        if self.seen is None:
            return replace(self, seen=(last, last, last, last))
        opened, high, low, _ = self.seen
        return replace(self, seen=(opened, max(high, last), min(low, last), last))

    def bar(self) -> Bar | None:
        """The bar so far; its volume is that of the finished minutes. None while nothing is known of it."""
        parts = [(m.open, m.high, m.low, m.close) for m in self.minutes] + ([self.seen] if self.seen else [])
        if not parts:
            return None
        return Bar(
            start=self.slot.start,
            open=parts[0][0],
            high=max(part[1] for part in parts),
            low=min(part[2] for part in parts),
            close=parts[-1][3],
            volume=sum(minute.volume for minute in self.minutes),
        )


def minute_of(quote: Quote) -> Bar | None:
    """The last finished minute as the quote tells it; None where the market's finest bars are longer, or where nothing
    was traded in it: data_service tells such a minute, too, while it has seen none."""
    if quote.bar_end - quote.bar_start != MINUTE or not quote.bar_volume:
        return None
    return Bar(quote.bar_start, quote.bar_open, quote.bar_high, quote.bar_low, quote.bar_close, quote.bar_volume)


def day_so_far(quote: Quote, slot: Slot) -> Bar:
    """The daily bar so far: a quote carries its session's open, high, low and volume."""
    high, low = max(quote.high, quote.last), min(quote.low, quote.last)
    return Bar(slot.start, quote.open, high, low, quote.last, quote.volume)
