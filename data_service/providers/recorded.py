"""Serves imported bars: the market as it was, with quotes made of the finest bars there are."""

import csv
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from contracts.market import Instrument, Interval, Quote
from data_service.adjust import Factors, multipliers
from data_service.bars import Bars
from data_service.providers.base import Missing
from data_service.quotes import SessionSoFar, build_quote, rupees
from data_service.sessions import EPOCH, Sessions, ist_instant
from data_service.store.frames import Decoder, StoreSnapshot
from data_service.store.parquet_store import BarStore, Signature
from data_service.ticks import BAND_DYNAMIC_PCT, tick_paise

REFERENCE_FILE = Path(__file__).parents[1] / "reference" / "instruments.csv"
BAND_FIXED_PCT = 20
"""Assumed where a share is not known to have derivatives: the widest of the exchanges' fixed bands."""

NOTHING_ENDED = Missing("no bar of it that had ended is stored: import more with `sauda data import FILE`")
"""One reason for all, because whether a symbol appears later must not show."""

FINEST_FIRST = (Interval.MIN_1, Interval.MIN_5, Interval.DAY_1)


def load_reference(path: Path = REFERENCE_FILE) -> dict[str, str]:
    """Names of the shares known to have derivatives, by symbol."""
    with path.open(newline="", encoding="utf-8") as lines:
        return {row["symbol"]: row["name"] for row in csv.DictReader(lines)}


@dataclass(frozen=True, slots=True)
class _Latest:
    """The last session with ended bars of one interval: its bars, and the close before it (with its day)."""

    day: int
    bars: Bars
    previous: tuple[int, int] | None


def _latest(snapshot: StoreSnapshot, symbol: str, interval: Interval, as_of_s: int) -> _Latest | None:
    parts = snapshot.ended(symbol, interval, as_of_s)
    newest = next(parts, None)
    if newest is None:
        return None
    day = int(newest.day[-1])
    first = int(np.searchsorted(newest.day, day, side="left"))
    before = newest.part(0, first) if first else next(parts, None)
    previous = (int(before.day[-1]), int(before.close[-1])) if before else None
    return _Latest(day, newest.part(first, len(newest)), previous)


class RecordedView:
    """One state of the store."""

    def __init__(self, snapshot: StoreSnapshot, reference: dict[str, str]) -> None:
        self._snapshot, self._reference = snapshot, reference

    def bars(self, symbol: str, interval: Interval, from_: date, through: date, as_of_s: int) -> Bars | Missing:
        """See MarketView."""
        stored = self._snapshot.between(symbol, interval, from_.year, through.year)
        bars = stored.between(from_, through, as_of_s) if stored else None
        return bars if bars else NOTHING_ENDED

    def factors(self, symbol: str) -> Factors:
        """See MarketView."""
        return self._snapshot.factors_of(symbol)

    def quote(self, symbol: str, as_of_s: int) -> Quote | Missing:
        """See MarketView. Its `as_of` is the end of the last bar: nothing is known of the time after it."""
        found = [latest for interval in FINEST_FIRST if (latest := _latest(self._snapshot, symbol, interval, as_of_s))]
        if not found:
            return NOTHING_ENDED
        chosen = max(found, key=lambda latest: latest.day)
        previous = self._previous_close(symbol, chosen.day, as_of_s)
        if previous is None:
            return Missing("no close of an earlier session is stored")
        return build_quote(
            SessionSoFar(
                symbol=symbol,
                source="recorded",
                day=EPOCH + timedelta(days=chosen.day),
                as_of_s=int(chosen.bars.end[-1]),
                bars=chosen.bars,
                previous_close=previous,
                band_pct=BAND_DYNAMIC_PCT if symbol in self._reference else BAND_FIXED_PCT,
            )
        )

    def _previous_close(self, symbol: str, day: int, as_of_s: int) -> int | None:
        """The last close before `day` in paise on `day`'s scale; a daily (official) close before an intraday one."""
        closes: list[tuple[int, int]] = []
        for interval in reversed(FINEST_FIRST):
            latest = _latest(self._snapshot, symbol, interval, as_of_s)
            if latest and latest.day < day:
                closes.append((latest.day, int(latest.bars.close[-1])))
            elif latest and latest.previous:
                closes.append(latest.previous)
        if not closes:
            return None
        closed_on, close = max(closes, key=lambda candidate: candidate[0])
        scale = multipliers(np.array([closed_on]), self.factors(symbol), EPOCH + timedelta(days=day))
        return max(round(close * float(scale[0])), 1)

    def instruments(self, as_of_s: int) -> list[Instrument]:
        """See MarketView. A share is known from its first ended bar on."""
        listed = ((symbol, self._last_close(symbol, as_of_s)) for symbol in self._snapshot.symbols)
        return [self._instrument(symbol, close, as_of_s) for symbol, close in listed if close]

    def _last_close(self, symbol: str, as_of_s: int) -> int | None:
        ended = (next(self._snapshot.ended(symbol, interval, as_of_s), None) for interval in Interval)
        newest = max((bars for bars in ended if bars), key=lambda bars: int(bars.end[-1]), default=None)
        return int(newest.close[-1]) if newest else None

    def _instrument(self, symbol: str, close: int, as_of_s: int) -> Instrument:
        tick = tick_paise(np.array([close]), ist_instant(as_of_s).date())
        has_derivatives = symbol in self._reference
        return Instrument(
            symbol=symbol,
            name=self._reference.get(symbol, symbol),
            tick_size_rupees=rupees(tick[0]),
            has_derivatives=has_derivatives,
            band_pct=None if has_derivatives else rupees(BAND_FIXED_PCT * 100),
        )

    def days(self, as_of_s: int) -> tuple[date, date] | None:
        """See MarketView."""
        frames = [bars for interval in Interval for _, bars in self._snapshot.years(interval)]
        first = min((int(year.bars.day.min()) for year in frames), default=None)
        last = max((day for year in frames if (day := year.last_day(as_of_s)) is not None), default=None)
        if first is None or last is None:
            return None
        return EPOCH + timedelta(days=first), EPOCH + timedelta(days=last)


class RecordedMarket:
    """The provider: notices an import by the files' stamps and then shows a new view."""

    name = "recorded"

    def __init__(self, store: BarStore, sessions: Sessions, reference: dict[str, str]) -> None:
        self._store, self._reference = store, reference
        self._decoder = Decoder(sessions, frozenset(reference))
        self._current: tuple[Signature, RecordedView] | None = None

    def view(self) -> RecordedView:
        """The store as it is now."""
        signature = self._store.signature()
        current = self._current
        if current is None or current[0] != signature:
            snapshot = StoreSnapshot(self._store, self._decoder, signature)
            current = self._current = signature, RecordedView(snapshot, self._reference)
        return current[1]
