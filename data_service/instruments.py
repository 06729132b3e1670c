"""The instrument master as of a day: what the newest word of any source on each property of a share was by then."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contracts.market import Instrument
from data_service.bars import Ints
from data_service.quotes import rupees
from data_service.ticks import BAND_DYNAMIC_PCT, tick_paise

REFERENCE_FILE = Path(__file__).parent / "reference" / "instruments.csv"
BAND_FIXED_PCT = 20
"""Assumed where a share is not known to have derivatives: the widest of the exchanges' fixed bands."""

TICK_VALID_DAYS = 31
"""Ticks are reviewed monthly (NSE, since 2025-04-15): an older word on a tick is not relied on, the table is."""

LOT_SIZE, FREEZE_QUANTITY = 1, 100_000
"""Shares; assumed where no source says them."""

PROPERTIES = ("exchange", "name", "isin", "series", "lot_size", "freeze_quantity", "has_derivatives", "band_pct")


def load_reference(path: Path = REFERENCE_FILE) -> dict[str, str]:
    """Names of the shares known to have derivatives, by symbol."""
    with path.open(newline="", encoding="utf-8") as lines:
        return {row["symbol"]: row["name"] for row in csv.DictReader(lines)}


@dataclass(frozen=True, slots=True)
class Terms:
    """What was said of a share by a day: the width of its band in per cent, lot and freeze quantity in shares."""

    band_pct: int
    lot_size: int
    freeze_quantity: int
    has_derivatives: bool


@dataclass(frozen=True)
class InstrumentMaster:
    """`rows` is INSTRUMENT_SCHEMA; `reference` the packaged names of shares with derivatives."""

    rows: pl.DataFrame
    reference: Mapping[str, str]

    @cached_property
    def _by_symbol(self) -> dict[str, list[dict[str, Any]]]:
        ordered = self.rows.sort("symbol", "known_on", maintain_order=True)
        return {str(key[0]): part.to_dicts() for key, part in ordered.partition_by("symbol", as_dict=True).items()}

    @cached_property
    def derivatives(self) -> frozenset[str]:
        """Shares that any source, at any time, called one with derivatives. Not for answers as of a day."""
        said = self.rows.filter(pl.col("has_derivatives"))["symbol"].unique()
        return frozenset({*self.reference, *said.to_list()})

    @cached_property
    def derivatives_said(self) -> dict[str, tuple[Ints, NDArray[np.bool_]]]:
        """Per symbol the days (since 1970-01-01) on which a source said whether it has derivatives, and what."""
        said = self.rows.filter(pl.col("has_derivatives").is_not_null()).sort("symbol", "known_on", maintain_order=True)
        parts = said.partition_by("symbol", as_dict=True)
        return {
            str(key[0]): (part["known_on"].to_physical().cast(pl.Int64).to_numpy(), part["has_derivatives"].to_numpy())
            for key, part in parts.items()
        }

    def with_derivatives(self, symbol: str, days: Ints) -> NDArray[np.bool_]:
        """Whether the share had derivatives on each day, by what was said by then: such take part in the closing
        auction. What is learnt later changes no earlier day."""
        usual = symbol in self.reference
        if symbol not in self.derivatives_said:
            return np.full(len(days), usual)
        on, said = self.derivatives_said[symbol]
        return np.append(said, usual)[np.searchsorted(on, days, side="right") - 1]

    def known(self, symbol: str, day: date) -> dict[str, Any]:
        """Each property that was said by `day`, the newest word on it."""
        said: dict[str, Any] = {}
        for row in self._by_symbol.get(symbol, ()):
            if row["known_on"] <= day:
                said |= {name: row[name] for name in PROPERTIES if row[name] is not None}
                if row["tick_paise"] is not None:
                    said |= {"tick_paise": row["tick_paise"], "tick_on": row["known_on"]}
        return said

    def has_derivatives(self, symbol: str, day: date) -> bool:
        return self.terms(symbol, day).has_derivatives

    def band_pct(self, symbol: str, day: date) -> int:
        """The width of the daily price band on either side, in per cent; the dynamic band's first width."""
        return self.terms(symbol, day).band_pct

    def terms(self, symbol: str, day: date) -> Terms:
        """What an order in the share had to keep to on `day`."""
        said = self.known(symbol, day)
        has_derivatives = bool(said.get("has_derivatives", symbol in self.reference))
        return Terms(
            band_pct=BAND_DYNAMIC_PCT if has_derivatives else int(said.get("band_pct", BAND_FIXED_PCT)),
            lot_size=int(said.get("lot_size", LOT_SIZE)),
            freeze_quantity=int(said.get("freeze_quantity", FREEZE_QUANTITY)),
            has_derivatives=has_derivatives,
        )

    def tick_said(self, symbol: str, day: date) -> int | None:
        """The tick in paise where a source said it lately. The table does not hold for ETFs, nor for a share whose
        price has crossed one of its lines since the last review."""
        said = self.known(symbol, day)
        lately = "tick_on" in said and day - said["tick_on"] <= timedelta(days=TICK_VALID_DAYS)
        return int(said["tick_paise"]) if lately else None

    def at(self, symbol: str, close: int, day: date) -> Instrument:
        """The share on `day`; its tick follows `close` (paise) where no source said it lately."""
        said, terms = self.known(symbol, day), self.terms(symbol, day)
        tick = self.tick_said(symbol, day) or int(tick_paise(np.array([close]), day)[0])
        return Instrument(
            symbol=symbol,
            exchange=said.get("exchange", "bse" if symbol.isdigit() else "nse"),
            name=said.get("name", self.reference.get(symbol, symbol)),
            isin=said.get("isin"),
            series=said.get("series", "EQ"),
            tick_size_rupees=rupees(tick),
            lot_size=terms.lot_size,
            freeze_quantity=terms.freeze_quantity,
            has_derivatives=terms.has_derivatives,
            band_pct=None if terms.has_derivatives else rupees(terms.band_pct * 100),
        )
