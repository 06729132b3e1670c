"""Where recorded exchange data is, if this machine has any; none of it comes with the project."""

from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import polars as pl

from ml_service.evaluate import read_daily

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


@dataclass(frozen=True, slots=True)
class Recorded:
    """Files as `sauda ml evaluate` reads them, and the dates to judge (with the earlier years, from `from_history`)."""

    data: Path = SHARED / "nse_daily_unadjusted_2019_2024.parquet"
    factors: Path = SHARED / "split_bonus_factors_2019_2024.csv"
    history: Path | None = SHARED / "nifty50_daily_yahoo_1996_2018.parquet"
    from_: date = date(2021, 1, 1)
    from_history: date = date(2013, 1, 1)
    to: date = date(2024, 12, 31)

    @property
    def present(self) -> bool:
        return self.data.exists() and self.factors.exists()

    def changed(self, **given: Path | date | None) -> "Recorded":
        """With what was given. Files of somebody's own come without this machine's history."""
        known = {name: value for name, value in given.items() if value is not None}
        own = {"history": None} if "data" in known else {}
        return replace(self, **(own | known))

    def sample(self, one_in: int) -> pl.DataFrame:
        """Adjusted bars of every so many-th symbol, delisted ones too."""
        bars = read_daily(self.data, self.factors, self.to)
        symbols = bars["symbol"].unique().sort()[::one_in]
        return bars.filter(pl.col("symbol").is_in(symbols.implode()))
