"""Part `parity`: a replay of the whole stack and a backtest of the same recorded days do the same, to the paisa."""

import tempfile
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl

from backend import log
from ml_service.walkforward import Progress
from sauda.embedded import EmbeddedPostgres
from tests.evaluation.claims import Claim, nothing
from tests.evaluation.recorded_files import SHARED, Recorded
from tests.support.parity import trade_both
from tests.support.recorded_market import import_here

MINUTES = SHARED / "nse_5min_10stocks_2024-03-20_2024-04-19.parquet"
FIRST, LAST = date(2024, 3, 20), date(2024, 4, 19)
IMPORTED_AT = datetime(2024, 5, 1, tzinfo=UTC)


def claims(files: Recorded, progress: Progress) -> list[Claim]:
    """Twenty sessions of ten shares, three users; empty where this machine has no such bars."""
    if not (files.present and MINUTES.exists()):
        return []
    progress(0, 2, "importing")
    symbols = sorted(pl.read_parquet(MINUTES)["symbol"].unique())
    with tempfile.TemporaryDirectory(prefix="sauda-parity-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        daily = pl.read_parquet(files.data).filter(
            pl.col("symbol").is_in(symbols), pl.col("date").is_between(date(2024, 1, 1), LAST)
        )
        daily.write_parquet(folder / "daily.parquet")
        import_here(folder / "data", int(IMPORTED_AT.timestamp()), folder / "daily.parquet", files.factors, MINUTES)
        log.configure("WARNING", folder / "parity.log")
        postgres = EmbeddedPostgres(folder / "postgres")
        postgres.start()
        try:
            progress(1, 2, "replaying and backtesting")
            both = trade_both(postgres, folder / "data", folder / "own", symbols, FIRST, LAST)
        finally:
            postgres.stop()
    replayed, backtested = set(both.replayed), set(both.backtested)
    apart = [f"{order.user} {order.at} {order.side} {order.symbol}" for order in replayed ^ backtested]
    cash = [user for user, rupees in both.replayed_cash.items() if both.backtested_cash.get(user) != rupees]
    fills = sum(len(order.fills) for order in both.replayed)
    what = f"{both.ticks} ticks, {len(both.replayed)} orders, {fills} fills"
    return [nothing(f"orders that differ ({what})", apart), nothing("users whose cash differs", cash)]
