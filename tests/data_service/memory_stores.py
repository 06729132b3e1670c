"""Stores in memory for tests that need thousands of them: what is behind a store's files is not what they are about."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import polars as pl

from contracts.market import Interval
from data_service.store.base import Part, in_years
from data_service.store.schemas import ACTION_SCHEMA, BAR_SCHEMA, INSTRUMENT_SCHEMA


class MemoryBars:
    """Bars by part; reading only."""

    def __init__(self, bars: Mapping[Interval, pl.DataFrame]) -> None:
        self._parts: dict[Part, pl.DataFrame] = {
            (interval, year): part for interval, rows in bars.items() for year, part in in_years(rows).items()
        }

    def stamps(self) -> Mapping[Part, Hashable]:
        return dict.fromkeys(self._parts, 1)

    def read(self, interval: Interval, year: int) -> pl.DataFrame:
        return self._parts.get((interval, year), BAR_SCHEMA.to_frame())


@dataclass
class MemoryFacts:
    told: pl.DataFrame = field(default_factory=ACTION_SCHEMA.to_frame)
    said: pl.DataFrame = field(default_factory=INSTRUMENT_SCHEMA.to_frame)

    def signature(self) -> Hashable:
        return 1

    def actions(self) -> pl.DataFrame:
        return self.told

    def instruments(self) -> pl.DataFrame:
        return self.said


@dataclass
class MemoryStores:
    bars: MemoryBars
    facts: MemoryFacts
