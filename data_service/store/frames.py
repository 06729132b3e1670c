"""Decodes stored files into arrays and keeps them in memory for as long as the files stay as they are."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from contracts.market import Interval
from data_service.adjust import NO_FACTORS, Factors
from data_service.bars import INTERVAL_S, PRICE_FIELDS, Bars, Ints, joined
from data_service.sessions import EPOCH, IST_OFFSET_S, Sessions
from data_service.store.parquet_store import BAR_SCHEMA, BarStore, Signature, read_frame

FRAMES_CACHED_MAX = 64
DAY_S = 86_400


@dataclass(frozen=True)
class YearBars:
    """One stored file: all bars ordered by symbol and start, and where each symbol's begin and end."""

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
    """Reads files of a store into YearBars; unchanged files are decoded once."""

    def __init__(self, sessions: Sessions, derivatives: frozenset[str]) -> None:
        self._sessions, self._derivatives = sessions, derivatives
        self._cached = lru_cache(FRAMES_CACHED_MAX)(self._decode)

    def year(self, path: Path, interval: Interval, stamp: tuple[str, int, int, int]) -> YearBars:
        """The decoded file; `stamp` is its part of the store's signature. Raises StoreError."""
        return self._cached(path, interval, stamp)

    def _decode(self, path: Path, interval: Interval, stamp: tuple[str, int, int, int]) -> YearBars:  # noqa: ARG002
        frame = read_frame(path, BAR_SCHEMA).sort("symbol", "start")
        groups = frame.group_by("symbol", maintain_order=True).len()
        ends = np.cumsum(groups["len"].to_numpy())
        symbols = groups["symbol"].to_list()
        spans = dict(zip(symbols, zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True), strict=True))
        start = frame["start"].to_numpy()
        day = (start + IST_OFFSET_S) // DAY_S
        if interval is Interval.DAY_1:
            end = self._daily_ends(day, frame["symbol"].is_in(list(self._derivatives)).to_numpy())
        else:
            end = start + INTERVAL_S[interval]
        columns: dict[str, Any] = {name: frame[name].to_numpy() for name in (*PRICE_FIELDS, "volume")}
        return YearBars(Bars(day=day, start=start, end=end, **columns), spans)

    def _daily_ends(self, day: Ints, has_derivatives: np.ndarray) -> Ints:
        """A recorded daily bar is known when its official close is."""
        unique, place = np.unique(day, return_inverse=True)
        sessions = [self._sessions.usual(EPOCH + timedelta(days=number)) for number in unique.tolist()]
        with_derivatives = np.array([session.official_close_s(True) for session in sessions], dtype=np.int64)
        others = np.array([session.official_close_s(False) for session in sessions], dtype=np.int64)
        return np.where(has_derivatives, with_derivatives[place], others[place])


class StoreSnapshot:
    """The store as one signature describes it; years are decoded when first asked for."""

    def __init__(self, store: BarStore, decoder: Decoder, signature: Signature) -> None:
        self._store, self._decoder = store, decoder
        self._stamps = {entry[0]: entry for entry in signature}
        files = {key: path for key, path in store.bar_files().items() if path.name in self._stamps}
        self._files = dict(sorted(files.items(), key=lambda item: item[0][1], reverse=True))

    def years(self, interval: Interval) -> Iterator[tuple[int, YearBars]]:
        """(year, bars) of one interval, newest first. Raises StoreError."""
        for (of, year), path in self._files.items():
            if of is interval:
                yield year, self._decoder.year(path, interval, self._stamps[path.name])

    def between(self, symbol: str, interval: Interval, first_year: int, last_year: int) -> Bars | None:
        """One symbol's bars of some years, oldest first."""
        wanted = [bars.of(symbol) for year, bars in self.years(interval) if first_year <= year <= last_year]
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
    def factors(self) -> dict[str, Factors]:
        """Splits and bonuses per symbol. Raises StoreError."""
        parts = self._store.factors().partition_by("symbol", as_dict=True)
        return {
            str(key[0]): Factors(part["ex_date"].to_physical().cast(pl.Int64).to_numpy(), part["factor"].to_numpy())
            for key, part in parts.items()
        }

    def factors_of(self, symbol: str) -> Factors:
        return self.factors.get(symbol, NO_FACTORS)
