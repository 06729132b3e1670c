"""The two stores of the recorded market side by side: bars, and the facts beside them."""

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

from data_service.store.base import BarStore
from data_service.store.facts import Facts
from data_service.store.parquet_bars import ParquetBars


@dataclass(frozen=True, slots=True)
class Stores:
    """`bars` may be a server; `facts` are always files of this machine."""

    bars: BarStore
    facts: Facts

    def signature(self) -> Hashable:
        """Changes whenever anything that is served does. Raises StoreError."""
        return tuple(sorted(self.bars.stamps().items())), self.facts.signature()


def embedded(folder: Path) -> Stores:
    """Both stores as files in `folder`."""
    return Stores(ParquetBars(folder), Facts(folder))
