"""The shares of the simulated market: real names at plausible price levels, with invented histories."""

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from data_service.bars import Ints

PACKAGED_FILE = Path(__file__).parents[1] / "reference" / "simulated_universe.csv"


@dataclass(frozen=True)
class Universe:
    """Columns over the simulated shares; prices in paise at the start of history, volume in shares per session."""

    symbols: tuple[str, ...]
    names: tuple[str, ...]
    has_derivatives: tuple[bool, ...]
    price: tuple[int, ...]
    volume: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def position(self) -> dict[str, int]:
        """Column index per symbol."""
        return {symbol: index for index, symbol in enumerate(self.symbols)}

    @cached_property
    def price_paise(self) -> Ints:
        return np.array(self.price, dtype=np.int64)

    @cached_property
    def derivatives_mask(self) -> np.ndarray:
        return np.array(self.has_derivatives)


def load_universe(path: Path = PACKAGED_FILE) -> Universe:
    """Read the packaged universe: symbol, name, has_derivatives, price_rupees, volume_shares."""
    with path.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    return Universe(
        symbols=tuple(row["symbol"] for row in rows),
        names=tuple(row["name"] for row in rows),
        has_derivatives=tuple(row["has_derivatives"] == "true" for row in rows),
        price=tuple(int(row["price_rupees"]) * 100 for row in rows),
        volume=tuple(int(row["volume_shares"]) for row in rows),
    )
