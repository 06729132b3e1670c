"""Judges what is stored or was kept out as if it arrived today: the gate learns, and actions become known later."""

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from contracts.market import Interval
from data_service.checks import check_bars
from data_service.ingest import Gate
from data_service.store.base import Part, year_of_start
from data_service.store.schemas import BAR_KEY, BAR_SCHEMA
from data_service.store.stores import Stores


@dataclass(frozen=True, slots=True)
class Verified:
    """One part of the store after a look at it: its bars and the findings about them (QUARANTINE_SCHEMA).

    `doubted` of the bars are not to be believed, `removed` of these were taken out; `released` were kept out before and
    are stored now.
    """

    interval: Interval
    year: int
    bars: int
    findings: pl.DataFrame
    doubted: int
    removed: int
    released: int


def verify(stores: Stores, gate: Gate, now_s: int, *, quarantine: bool) -> Iterator[Verified]:
    """Check every part and replace what was found in it; with `quarantine`, take out what the gate would keep out.

    Bars that were quarantined are judged again beside the stored ones and stored where they are good. Raises StoreError
    where a part is damaged, OSError.
    """
    for interval, year in _parts(stores):
        stored = stores.bars.read(interval, year)
        kept_out = _kept_out(stores, interval, year).join(stored, on=BAR_KEY, how="anti")
        together = pl.concat([stored, kept_out]).sort(BAR_KEY)
        if together.is_empty():
            continue
        checked = check_bars(together, interval, gate.context(interval, together, now_s))
        released = checked.good.join(kept_out, on=list(BAR_SCHEMA), how="semi")
        wrong = checked.findings.filter("quarantined")
        doubted = wrong.join(stored, on=BAR_KEY, how="semi").select(BAR_KEY).unique()
        stores.bars.upsert(interval, released)
        removed = stores.bars.remove(interval, doubted) if quarantine and len(doubted) else 0
        findings = checked.findings if quarantine else _served(checked.findings, doubted)
        stores.facts.replace_findings(interval, year, findings)
        left = len(stored) + len(released) - removed
        yield Verified(interval, year, left, findings, len(doubted), removed, len(released))


def _parts(stores: Stores) -> list[Part]:
    """The parts with bars, stored or kept out, intervals apart and oldest first."""
    kept_out = stores.facts.findings().filter("quarantined", pl.col("start").is_not_null())
    found = kept_out.select("interval", year_of_start().cast(pl.Int64).alias("year")).unique().iter_rows()
    parts = {*stores.bars.stamps(), *((Interval(interval), year) for interval, year in found)}
    return sorted(parts, key=lambda part: (part[0].value, part[1]))


def _kept_out(stores: Stores, interval: Interval, year: int) -> pl.DataFrame:
    """The part's quarantined bars that are whole, the newest word on each (BAR_SCHEMA)."""
    found = stores.facts.findings().filter("quarantined", pl.col("interval") == interval)
    bars = found.select(list(BAR_SCHEMA)).drop_nulls().filter(year_of_start() == year)
    return bars.unique(BAR_KEY, keep="last", maintain_order=True)


def _served(findings: pl.DataFrame, doubted: pl.DataFrame) -> pl.DataFrame:
    """The findings, those about bars that stay in the store as flags: they are not kept out of any answer."""
    there = findings.join(doubted.with_columns(there=True), on=BAR_KEY, how="left", maintain_order="left")
    stays = pl.col("there").fill_null(False)
    return there.with_columns(quarantined=pl.col("quarantined") & ~stays).drop("there")
