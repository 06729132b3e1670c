"""What a time-series store of bars offers, whichever it is: the embedded files or an InfluxDB server."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Protocol

import polars as pl

from contracts.market import Interval
from data_service.sessions import IST_OFFSET_S, ist_instant
from data_service.store.schemas import BAR_KEY, BAR_SCHEMA, TRUST

Part = tuple[Interval, int]
"""Bars are kept in parts: one interval and one (Indian) calendar year."""


@dataclass(frozen=True, slots=True)
class Upserted:
    """How many rows an import added, replaced by other values, found as they were, and left to a better source."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    outranked: int = 0

    def __add__(self, other: "Upserted") -> "Upserted":
        return Upserted(
            self.new + other.new,
            self.changed + other.changed,
            self.unchanged + other.unchanged,
            self.outranked + other.outranked,
        )


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store holds of one interval. `size_bytes` is None where the store does not say."""

    interval: Interval
    symbols: int
    from_: date
    through: date
    rows: int
    size_bytes: int | None


class BarStore(Protocol):
    """Bars by interval and year, one per (symbol, start). All methods raise StoreError where the store fails."""

    def stamps(self) -> Mapping[Part, Hashable]:
        """The parts there are; a part's stamp changes whenever its bars do. Cheap enough for every request."""
        ...

    def read(self, interval: Interval, year: int) -> pl.DataFrame:
        """One part (BAR_SCHEMA), ordered by symbol and start; empty where there is none."""
        ...

    def upsert(self, interval: Interval, bars: pl.DataFrame) -> Upserted:
        """Merge bars (BAR_SCHEMA, unique keys): a row replaces the stored one unless its source is trusted less."""
        ...

    def remove(self, interval: Interval, bars: pl.DataFrame) -> int:
        """Take out the bars with these keys (BAR_KEY); returns how many there were."""
        ...

    def drop_before(self, interval: Interval, day: date) -> int:
        """Forget the bars of sessions before `day`; returns how many there were."""
        ...

    def status(self) -> list[Stored]:
        """What is stored per interval."""
        ...


def year_of_start() -> pl.Expr:
    """The Indian calendar year of a bar's start."""
    return pl.from_epoch(pl.col("start") + IST_OFFSET_S).dt.year()


def in_years(bars: pl.DataFrame) -> dict[int, pl.DataFrame]:
    """The rows (of BAR_SCHEMA, or only some of its columns) by year."""
    parts = bars.select([name for name in BAR_SCHEMA if name in bars.columns]).with_columns(year=year_of_start())
    return {int(key[0]): part for key, part in parts.partition_by("year", as_dict=True, include_key=False).items()}


def trust_of(source: str) -> pl.Expr:
    """A source column as its rank."""
    return pl.col(source).replace_strict(TRUST, default=0, return_dtype=pl.Int8)


def merge(old: pl.DataFrame, given: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, Upserted]:
    """What of `given` is to be written over `old`: (all rows ordered by key, only the written ones, the counts)."""
    beside = given.join(old, on=BAR_KEY, how="left", suffix="_old")
    weaker = trust_of("source") < trust_of("source_old")
    values = [name for name in BAR_SCHEMA if name not in BAR_KEY]
    same = pl.all_horizontal(pl.col(name) == pl.col(f"{name}_old") for name in values)
    known = pl.col("source_old").is_not_null()
    fate = (
        pl.when(~known).then(pl.lit("new"))
        .when(same).then(pl.lit("unchanged"))
        .when(weaker).then(pl.lit("outranked"))
        .otherwise(pl.lit("changed"))
    )  # fmt: skip
    judged = beside.with_columns(fate=fate)
    written = judged.filter(pl.col("fate").is_in(["new", "changed"])).select(list(BAR_SCHEMA))
    counts = dict(judged["fate"].value_counts().iter_rows())
    kept = old.join(written, on=BAR_KEY, how="anti")
    return pl.concat([kept, written]).sort(BAR_KEY), written, Upserted(**counts)


def described(interval: Interval, bars: pl.DataFrame, size_bytes: int | None) -> Stored:
    """What `bars` (symbol, start; at least one) amount to."""
    first, last = (bars["start"].bottom_k(1)[0], bars["start"].top_k(1)[0])
    days = ist_instant(first).date(), ist_instant(last).date()
    return Stored(interval, bars["symbol"].n_unique(), *days, len(bars), size_bytes)
