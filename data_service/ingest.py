"""The one way into the store: bars pass the quality gate, the good are kept, and what was found is written down."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta

import polars as pl

from contracts.market import Interval
from data_service.actions import under_names_of_then
from data_service.checks import BarContext, check_bars
from data_service.instruments import InstrumentMaster
from data_service.sessions import EPOCH, IST_OFFSET_S, Sessions
from data_service.store.base import BarStore, Upserted, in_years
from data_service.store.schemas import BAR_KEY, BAR_SCHEMA
from data_service.store.stores import Stores


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of the bars. `quarantined` of them were kept out; `reasons` counts all findings, flags too."""

    counts: Upserted = field(default_factory=Upserted)
    quarantined: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict[str, int])

    def __add__(self, other: "Ingested") -> "Ingested":
        names = [*self.reasons, *other.reasons]
        reasons = {name: self.reasons.get(name, 0) + other.reasons.get(name, 0) for name in dict.fromkeys(names)}
        return Ingested(self.counts + other.counts, self.quarantined + other.quarantined, reasons)


class Gate:
    """The quality gate in front of one pair of stores; `reference` names shares with derivatives."""

    def __init__(self, stores: Stores, sessions: Sessions, reference: Mapping[str, str]) -> None:
        self._stores, self._sessions, self._reference = stores, sessions, reference

    def ingest(self, interval: Interval, bars: pl.DataFrame, now_s: int) -> Ingested:
        """Judge and store the bars (BAR_SCHEMA) of one source. Raises StoreError, OSError."""
        if bars.is_empty():
            return Ingested()
        checked = check_bars(bars, interval, self.context(interval, bars, now_s))
        counts = self._stores.bars.upsert(interval, checked.good)
        stored = checked.good.select("symbol", pl.lit(interval.value).alias("interval"), "start", "source")
        self._stores.facts.clear_findings(stored)
        return Ingested(counts, *self.note(checked.findings))

    def note(self, findings: pl.DataFrame) -> tuple[int, Mapping[str, int]]:
        """Write findings down; returns how many bars they keep out, and their number by reason."""
        if findings.is_empty():
            return 0, {}
        self._stores.facts.add_findings(findings)
        reasons = dict(findings["reason"].value_counts(sort=True).iter_rows())
        return int(findings["quarantined"].sum()), reasons

    def context(self, interval: Interval, bars: pl.DataFrame, now_s: int) -> BarContext:
        """What the store knows beside the bars: the close before them, other sources' bars, corporate actions."""
        stored = stored_around(self._stores.bars, interval, bars)
        others = stored.join(bars, on=BAR_KEY, how="semi").join(bars, on=[*BAR_KEY, "source"], how="anti")
        facts = self._stores.facts
        return BarContext(
            sessions=self._sessions,
            now_s=now_s,
            last_close=_closes_before(stored, bars),
            actions=under_names_of_then(facts.actions()),
            others=others,
            derivatives=InstrumentMaster(facts.instruments(), self._reference).derivatives,
        )


def stored_around(store: BarStore, interval: Interval, bars: pl.DataFrame) -> pl.DataFrame:
    """The stored bars of the same symbols, in the years of `bars` and the one before."""
    # A bar that does not say when it was has no year.
    of = set(in_years(bars.drop_nulls("start")))
    years = {*of, min(of) - 1} if of else of
    there = [store.read(interval, year) for year in sorted(years) if (interval, year) in store.stamps()]
    symbols = bars.select(pl.col("symbol").unique())
    return pl.concat([pl.DataFrame(schema=BAR_SCHEMA), *there]).join(symbols, on="symbol", how="semi")


def _closes_before(stored: pl.DataFrame, bars: pl.DataFrame) -> dict[str, tuple[date, int]]:
    """Per symbol the last stored close before its first given bar, with its day."""
    firsts = bars.group_by("symbol").agg(first=pl.col("start").min())
    before = stored.join(firsts, on="symbol").filter(pl.col("start") < pl.col("first")).sort("start")
    last = before.group_by("symbol").agg(
        day=(pl.col("start").last() + IST_OFFSET_S) // 86_400, close=pl.col("close").last()
    )
    return {symbol: (EPOCH + timedelta(days=day), close) for symbol, day, close in last.iter_rows()}
