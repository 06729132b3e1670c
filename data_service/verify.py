"""Judges what is stored as if it arrived today: the gate learns, the calendar and the actions become known later."""

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from contracts.market import Interval
from data_service.checks import check_bars
from data_service.ingest import Gate
from data_service.store.stores import Stores


@dataclass(frozen=True, slots=True)
class Verified:
    """One part of the store: its bars, the findings about them (QUARANTINE_SCHEMA), and how many were taken out."""

    interval: Interval
    year: int
    bars: int
    findings: pl.DataFrame
    removed: int


def verify(stores: Stores, gate: Gate, now_s: int, *, quarantine: bool) -> Iterator[Verified]:
    """Check every stored part and write the findings down; with `quarantine`, take out what the gate would keep out.

    Raises StoreError where a part is damaged, OSError.
    """
    for interval, year in sorted(stores.bars.stamps(), key=lambda part: (part[0].value, part[1])):
        bars = stores.bars.read(interval, year)
        if bars.is_empty():
            continue
        checked = check_bars(bars, interval, gate.context(interval, bars, now_s))
        gate.note(checked.findings)
        wrong = checked.findings.filter(pl.col("quarantined"))
        removed = stores.bars.remove(interval, wrong) if quarantine and len(wrong) else 0
        yield Verified(interval, year, len(bars), checked.findings, removed)
