"""Decodes stored parts into arrays and keeps them in memory for as long as they stay as they are."""

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
import polars as pl

from contracts.market import ActionKind, Interval
from data_service.bars import INTERVAL_S, PRICE_FIELDS, SOURCE_CODES, Bars, Ints, joined
from data_service.instruments import InstrumentMaster
from data_service.resample import official_closes, session_spans
from data_service.sessions import DAY_S, IST_OFFSET_S, Sessions
from data_service.store.base import BarStore, Part
from data_service.store.schemas import BAR_KEY
from data_service.store.stores import Stores

PARTS_CACHED_MAX = 64
CLIPPED = (Interval.MIN_10, Interval.MIN_30, Interval.HOUR_1)
"""Lengths that do not divide a usual session of 375 minutes: its last bar is shorter."""


@dataclass(frozen=True)
class YearBars:
    """One stored part: all bars ordered by symbol and start, and where each symbol's begin and end."""

    bars: Bars
    spans: dict[str, tuple[int, int]]

    def of(self, symbol: str) -> Bars | None:
        """The symbol's bars, as views."""
        span = self.spans.get(symbol)
        return self.bars.part(*span) if span else None

    def last_day(self, as_of_s: int) -> int | None:
        """The latest session (days since 1970-01-01) with a bar that had ended."""
        ended = self.bars.day[self.bars.end <= as_of_s]
        return int(ended.max()) if len(ended) else None


class Decoder:
    """Turns parts of a store into YearBars; unchanged parts are decoded once."""

    def __init__(self, sessions: Sessions, master: InstrumentMaster) -> None:
        self._sessions, self._master = sessions, master
        self._kept: OrderedDict[Part, tuple[Hashable, YearBars]] = OrderedDict()
        self._lock = Lock()

    def for_master(self, master: InstrumentMaster) -> "Decoder":
        """This decoder, or a new one where other shares have derivatives: their daily bars end at another time."""
        same = _said(master).equals(_said(self._master)) and master.reference.keys() == self._master.reference.keys()
        return self if same else Decoder(self._sessions, master)

    def year(self, store: BarStore, part: Part, stamp: Hashable) -> YearBars:
        """The decoded part; `stamp` is what the store said of it. Raises StoreError.

        Of each part one state is kept: while a session runs, its minutes are written anew every minute.
        """
        with self._lock:
            kept = self._kept.pop(part, None)
            decoded = kept[1] if kept and kept[0] == stamp else self.decode(store.read(*part), part[0])
            self._kept[part] = stamp, decoded
            while len(self._kept) > PARTS_CACHED_MAX:
                self._kept.popitem(last=False)
        return decoded

    def decode(self, stored: pl.DataFrame, interval: Interval) -> YearBars:
        """Stored bars (BAR_SCHEMA) of one interval as arrays."""
        frame = stored.sort(BAR_KEY)
        groups = frame.group_by("symbol", maintain_order=True).len()
        counts = groups["len"].to_numpy().astype(np.int64)
        ends = np.cumsum(counts)
        places = zip((ends - counts).tolist(), ends.tolist(), strict=True)
        spans = dict(zip(groups["symbol"].to_list(), places, strict=True))
        start = frame["start"].to_numpy()
        day = (start + IST_OFFSET_S) // DAY_S
        end = self._daily_ends(day, spans) if interval is Interval.DAY_1 else start + INTERVAL_S[interval]
        if interval in CLIPPED:
            _, close = session_spans(day, self._sessions, has_derivatives=False)
            end = np.maximum(np.minimum(end, close), start + 1)
        columns: dict[str, Any] = {name: frame[name].to_numpy() for name in (*PRICE_FIELDS, "volume")}
        codes = frame["source"].replace_strict(SOURCE_CODES, default=SOURCE_CODES["file"], return_dtype=pl.Int64)
        return YearBars(Bars(day=day, start=start, end=end, source=codes.to_numpy(), **columns), spans)

    def _daily_ends(self, day: Ints, spans: Mapping[str, tuple[int, int]]) -> Ints:
        """A recorded daily bar is known when its official close is."""
        flags = [self._master.with_derivatives(symbol, day[low:high]) for symbol, (low, high) in spans.items()]
        return official_closes(day, self._sessions, np.concatenate([np.array([], dtype=bool), *flags]))


def _said(master: InstrumentMaster) -> pl.DataFrame:
    said = master.rows.filter(pl.col("has_derivatives").is_not_null())
    return said.select("symbol", "known_on", "source", "has_derivatives").sort(pl.all())


class StoreSnapshot:
    """The store as its stamps describe it; years are decoded when first asked for."""

    def __init__(self, stores: Stores, decoder: Decoder, stamps: Mapping[Part, Hashable]) -> None:
        self._stores, self._decoder = stores, decoder
        self._stamps = dict(sorted(stamps.items(), key=lambda item: item[0][1], reverse=True))

    def years(self, interval: Interval) -> Iterator[tuple[int, YearBars]]:
        """(year, bars) of one interval, newest first. Raises StoreError."""
        return self._years(interval, date.min.year, date.max.year)

    def _years(self, interval: Interval, first: int, last: int) -> Iterator[tuple[int, YearBars]]:
        for part, stamp in self._stamps.items():
            if part[0] is interval and first <= part[1] <= last:
                yield part[1], self._decoder.year(self._stores.bars, part, stamp)

    def intervals(self) -> set[Interval]:
        """The intervals with any bar."""
        return {interval for interval, _ in self._stamps}

    def between(self, symbol: str, interval: Interval, first_year: int, last_year: int) -> Bars | None:
        """One symbol's bars of some years, oldest first."""
        wanted = [bars.of(symbol) for _, bars in self._years(interval, first_year, last_year)]
        found = [part for part in reversed(wanted) if part]
        return joined(found) if found else None

    def ended(self, symbol: str, interval: Interval, as_of_s: int) -> Iterator[Bars]:
        """One symbol's bars that had ended, year by year, newest first, none of them empty."""
        for _, year_bars in self.years(interval):
            bars = year_bars.of(symbol)
            if bars and (count := bars.ended_by(as_of_s)):
                yield bars.part(0, count)

    @cached_property
    def symbols(self) -> dict[str, None]:
        """All symbols with a bar of any interval, in order."""
        found = {symbol for interval in Interval for _, bars in self.years(interval) for symbol in bars.spans}
        return dict.fromkeys(sorted(found))

    @cached_property
    def actions(self) -> pl.DataFrame:
        """All corporate actions (ACTION_SCHEMA). Raises StoreError."""
        return self._stores.facts.actions()

    @cached_property
    def actions_by_symbol(self) -> dict[str, pl.DataFrame]:
        """The corporate actions of each symbol that has any. Raises StoreError."""
        return {str(key[0]): part for key, part in self.actions.partition_by("symbol", as_dict=True).items()}

    @cached_property
    def renames(self) -> pl.DataFrame:
        """The changes of symbols among the actions."""
        return self.actions.filter(pl.col("kind") == ActionKind.RENAME)
