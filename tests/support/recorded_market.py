"""Files of bars of a simulated market, as somebody would import recorded ones."""

import csv
from collections.abc import Sequence
from pathlib import Path

from contracts.market import Interval
from data_service.bars import Bars
from data_service.imports.load import import_file
from data_service.providers.simulated import SimulatedMarket
from data_service.sessions import Session, ist_instant, load_sessions
from data_service.simulator.universe import Universe
from data_service.store.stores import embedded


def first_shares(universe: Universe, count: int) -> Universe:
    """The first shares of a universe."""
    return Universe(
        universe.symbols[:count],
        universe.names[:count],
        universe.has_derivatives[:count],
        universe.price[:count],
        universe.volume[:count],
    )


def bars_of(market: SimulatedMarket, symbol: str, interval: Interval, days: Sequence[Session]) -> Bars:
    bars = market.bars(symbol, interval, days[0].day, days[-1].day, days[-1].close_other_s)
    assert isinstance(bars, Bars), bars
    return bars


def write_csv(
    path: Path, market: SimulatedMarket, symbols: Sequence[str], interval: Interval, days: Sequence[Session]
) -> Path:
    """Bars as a CSV of rupees."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["symbol", "start", "open", "high", "low", "close", "volume"])
        for symbol in symbols:
            bars = bars_of(market, symbol, interval, days)
            for i, start in enumerate(bars.start):
                when = ist_instant(start)
                prices = (f"{column[i] / 100:.2f}" for column in (bars.open, bars.high, bars.low, bars.close))
                rows.writerow([symbol, when.date() if interval is Interval.DAY_1 else when, *prices, bars.volume[i]])
    return path


def import_here(data_dir: Path, now_s: int, *files: Path) -> None:
    """Import files into a data folder without starting a process."""
    for file in files:
        done = import_file(embedded(data_dir / "market" / "recorded"), load_sessions(), file, now_s=now_s)
        assert done.imported, done.bad
