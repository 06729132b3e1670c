"""On the real market the model is as modest as it must be; skipped where the recorded data is absent."""

from datetime import date
from pathlib import Path

import polars as pl
import pytest
from quick_training import few_trees

from ml_service.evaluate import evaluate, read_daily
from ml_service.features import with_members
from ml_service.labels import EVENTS

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
DAILY = SHARED / "nse_daily_unadjusted_2019_2024.parquet"
FACTORS = SHARED / "split_bonus_factors_2019_2024.csv"

pytestmark = pytest.mark.skipif(not DAILY.exists(), reason="recorded market data is not on this machine")


def test_the_record_is_in_the_honest_range() -> None:
    bars = read_daily(DAILY, FACTORS, date(2023, 3, 19))
    largest = with_members(bars, 15).filter(pl.col("member")).select("symbol").unique()
    with few_trees():
        record = evaluate(bars.join(largest, on="symbol", how="semi"), date(2021, 1, 1), 10)
    assert record["metrics"]["rows"] > 5_000
    for name in EVENTS:
        event = record["metrics"]["events"][name]
        assert 0.45 < event["auc"] < 0.62, "above 0.62 a leak is presumed"
        assert -0.02 < event["brier_skill"] < 0.06
    assert record["metrics"]["events"]["touch_0.02"]["ece"] < 0.05
    assert abs(record["metrics"]["rank_ic"]) < 0.12
    assert 0.4 < record["metrics"]["events"]["net_profit"]["base_rate"] < 0.7


def test_splits_are_adjusted_and_nothing_later_is_read() -> None:
    bars = read_daily(DAILY, FACTORS, date(2024, 3, 19))
    assert bars["session"].max() == date(2024, 3, 19)
    tatasteel = bars.filter(symbol="TATASTEEL")
    before = tatasteel.filter(session=date(2022, 7, 27))["close"][0]
    after = tatasteel.filter(session=date(2022, 7, 28))["close"][0]
    assert after / before == pytest.approx(1, abs=0.1), "the 10:1 split of 2022-07-28"
