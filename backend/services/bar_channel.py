"""What is known of one share's bars of one interval, and which message each of its listeners needs next."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import orjson

from backend.domain.calendar import IST
from backend.services.forming_bar import MINUTE, Bar, Forming, Slot, day_so_far, minute_of
from backend.services.rupees import rupees_text
from backend.services.stream_slots import News
from contracts.common import Environment
from contracts.market import Interval, Quote

PING = '{"type":"ping"}'
BARS_KEPT_MAX = 450
"""A session of minutes and some: a listener that is further behind gets a snapshot."""


@dataclass(slots=True)
class Cursor:
    """How far one listener has been told."""

    snapshot: bool = False
    last_start: datetime | None = None
    forming: str | None = None
    stale: bool = False


@dataclass(slots=True, eq=False)
class BarChannel:
    """Finished bars and the forming one, each as the text that all listeners get."""

    symbol: str
    interval: Interval
    environment: Environment
    listeners: int = 0
    ready: bool = False
    news: News = field(default_factory=News)
    _bars: list[Bar] = field(default_factory=list)
    _texts: list[str] = field(default_factory=list)
    _source: str = ""
    _note: str | None = None
    _snapshot: str | None = None
    _forming: Forming | None = None
    _forming_bar: Bar | None = None
    _forming_text: str | None = None
    _stale_text: str | None = None

    @property
    def last_start(self) -> datetime | None:
        """The start of the last finished bar."""
        return self._bars[-1].start if self._bars else None

    def has(self, start: datetime) -> bool:
        """Whether the bar that starts at `start`, or a later one, is known."""
        return self.last_start is not None and self.last_start >= start

    def go_stale(self, reason: str) -> None:
        """The market cannot be seen; listeners are told once, and get a snapshot when it can be seen again."""
        if self._stale_text is None:
            self._stale_text = self._message("stale", reason=reason)
            self.news.tell()

    def take(self, bars: Sequence[Bar], source: str, note: str | None) -> None:
        """Learn finished bars, oldest first; of those, the ones that are not known yet."""
        fresh = [bar for bar in bars[-BARS_KEPT_MAX:] if self.last_start is None or bar.start > self.last_start]
        self._source, self._note = source, note
        if fresh or not self.ready:
            self._bars = [*self._bars, *fresh][-BARS_KEPT_MAX:]
            texts = [self._message("bar", finished=True, bar=_row(bar)) for bar in fresh]
            self._texts = [*self._texts, *texts][-BARS_KEPT_MAX:]
            self._snapshot, self.ready = None, True
            self.news.tell()

    def lacks_minutes(self, slot: Slot, quote: Quote) -> bool:
        """Whether minutes of the slot have passed that were not seen."""
        minute = minute_of(quote)
        if self.interval in (Interval.MIN_1, Interval.DAY_1) or minute is None or minute.start < slot.start:
            return False
        forming = self._forming
        known = forming.minutes if forming is not None and forming.slot == slot else ()
        expected = known[-1].start + MINUTE if known else slot.start
        return minute.start > expected

    def look(self, slot: Slot | None, quote: Quote | None, minutes: Sequence[Bar]) -> None:
        """Learn the present: the slot that the quote is of, None where there is none; and that the market is seen."""
        bar = self._formed(slot, quote, minutes) if slot is not None and quote is not None else None
        changed = bar is not None and bar != self._forming_bar
        if changed and bar is not None and quote is not None:
            as_of = quote.as_of.astimezone(IST).isoformat()
            self._forming_text = self._message("bar", finished=False, as_of=as_of, bar=_row(bar))
        elif bar is None:
            self._forming_text = None
        self._forming_bar = bar
        if changed or self._stale_text is not None:
            self._stale_text = None
            self.news.tell()

    def _formed(self, slot: Slot, quote: Quote, minutes: Sequence[Bar]) -> Bar | None:
        if self.interval is Interval.DAY_1:
            return day_so_far(quote, slot)
        before = self._forming
        forming = before if before is not None and before.slot == slot else Forming(slot)
        minute = minute_of(quote)
        forming = forming.with_minutes([*minutes, minute] if minute is not None else minutes)
        self._forming = forming.with_price(quote.last)
        return self._forming.bar()

    def next_for(self, cursor: Cursor) -> str | None:
        """The next message for a listener that has been told as much as `cursor` says, which it moves on."""
        if self._stale_text is not None:
            told, cursor.stale, cursor.snapshot = cursor.stale, True, False
            return None if told else self._stale_text
        cursor.stale = False
        if not self.ready:
            return None
        if not cursor.snapshot or self._left_behind(cursor):
            cursor.snapshot, cursor.last_start, cursor.forming = True, self.last_start, None
            return self._snapshot_text()
        place = 0 if cursor.last_start is None else bisect_right(self._bars, cursor.last_start, key=_start)
        if place < len(self._bars):
            cursor.last_start = self._bars[place].start
            return self._texts[place]
        if self._forming_text is not None and self._forming_text is not cursor.forming:
            cursor.forming = self._forming_text
            return self._forming_text
        return None

    def _left_behind(self, cursor: Cursor) -> bool:
        """Whether bars that the listener has not got may have been dropped."""
        return (
            bool(self._bars)
            and len(self._bars) == BARS_KEPT_MAX
            and (cursor.last_start is None or cursor.last_start < self._bars[0].start)
        )

    def _snapshot_text(self) -> str:
        if self._snapshot is None:
            day = _day(self._bars[-1].start) if self._bars else None
            rows = [_row(bar) for bar in self._bars if _day(bar.start) == day]
            self._snapshot = self._message("snapshot", day=day, source=self._source, bars=rows, note=self._note)
        return self._snapshot

    def _message(self, kind: str, **content: Any) -> str:
        head = {
            "type": kind,
            "environment": self.environment.value,
            "symbol": self.symbol,
            "interval": self.interval.value,
        }
        return orjson.dumps(head | content).decode()


def _start(bar: Bar) -> datetime:
    return bar.start


def _day(moment: datetime) -> date:
    return moment.astimezone(IST).date()


def _row(bar: Bar) -> dict[str, Any]:
    return {
        "start": bar.start.astimezone(IST).isoformat(),
        "open": rupees_text(bar.open),
        "high": rupees_text(bar.high),
        "low": rupees_text(bar.low),
        "close": rupees_text(bar.close),
        "volume": bar.volume,
    }
