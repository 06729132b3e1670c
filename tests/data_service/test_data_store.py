"""The store: exact upserts, one-step replacement, damage named, and adjustment as of a date."""

from datetime import date

import numpy as np
import polars as pl
import pytest
from data_market import daily, filled_store, five_minutes, frame
from hypothesis import given
from hypothesis import strategies as st

from contracts.market import Interval
from data_service.adjust import Factors, adjusted, multipliers
from data_service.bars import Bars, day_number
from data_service.errors import StoreError
from data_service.store import frame_files
from data_service.store.base import Upserted, merge
from data_service.store.frame_files import read_frame
from data_service.store.parquet_bars import ParquetBars
from data_service.store.schemas import BAR_SCHEMA

DAY = date(2024, 3, 20)


def test_upsert_counts_and_the_later_import_wins(tmp_path):
    store = ParquetBars(tmp_path)
    first = frame([daily("AAA", DAY, 10_000), daily("BBB", DAY, 20_000)])
    assert store.upsert(Interval.DAY_1, first) == Upserted(new=2)
    assert store.upsert(Interval.DAY_1, first) == Upserted(unchanged=2)
    second = frame([daily("AAA", DAY, 10_005), daily("BBB", DAY, 20_000), daily("CCC", DAY, 5)])
    assert store.upsert(Interval.DAY_1, second) == Upserted(new=1, changed=1, unchanged=1)
    stored = read_frame(tmp_path / "bars-1d-2024.parquet", BAR_SCHEMA)
    assert stored["close"].to_list() == [10_005, 20_000, 5]


rows = st.lists(
    st.tuples(st.sampled_from(["A", "B"]), st.integers(0, 5), st.integers(1, 3)), unique_by=lambda row: row[:2]
)


@given(rows, rows)
def test_merge_is_a_dictionary_update(old, given_rows):
    def table(found):
        return frame([(symbol, start, price, price, price, price, 1) for symbol, start, price in found])

    merged, _, counts = merge(table(old).sort("symbol", "start"), table(given_rows))
    before = {row[:2]: row[2] for row in old}
    after = before | {row[:2]: row[2] for row in given_rows}
    assert {(row[0], row[1]): row[2] for row in merged.iter_rows()} == after
    assert counts.new == len(after) - len(before)
    assert counts.unchanged == sum(before.get(row[:2]) == row[2] for row in given_rows)
    assert counts.new + counts.changed + counts.unchanged == len(given_rows)


def test_years_lie_in_their_own_files_by_indian_date(tmp_path):
    store = ParquetBars(tmp_path)
    store.upsert(Interval.DAY_1, frame([daily("AAA", date(2023, 12, 29), 100), daily("AAA", date(2024, 1, 1), 101)]))
    assert sorted(year for _, year in store.stamps()) == [2023, 2024]


def test_a_crash_before_the_replacement_leaves_the_old_file(tmp_path, monkeypatch):
    store = filled_store(tmp_path, {Interval.DAY_1: [daily("AAA", DAY, 100)]}).bars
    before, signature = (tmp_path / "bars-1d-2024.parquet").read_bytes(), store.stamps()

    def torn(descriptor):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(frame_files.os, "fsync", torn)
        with pytest.raises(OSError, match="no space"):
            store.upsert(Interval.DAY_1, frame([daily("AAA", DAY, 999)]))
    assert (tmp_path / "bars-1d-2024.parquet").read_bytes() == before
    assert store.stamps() == signature
    store.upsert(Interval.DAY_1, frame([daily("AAA", date(2023, 3, 20), 998)]))
    assert not list(tmp_path.glob(".tmp-*"))


def test_an_unchanged_import_does_not_touch_the_files(tmp_path):
    store = filled_store(tmp_path, {Interval.DAY_1: [daily("AAA", DAY, 100)]}).bars
    signature = store.stamps()
    store.upsert(Interval.DAY_1, frame([daily("AAA", DAY, 100)]))
    assert store.stamps() == signature
    store.upsert(Interval.DAY_1, frame([daily("AAA", DAY, 101)]))
    assert store.stamps() != signature


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_a_damaged_file_is_one_clear_line(tmp_path, keep):
    store = filled_store(tmp_path, {Interval.DAY_1: [daily("AAA", DAY, 100)]}).bars
    path = tmp_path / "bars-1d-2024.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StoreError, match=r"bars-1d-2024\.parquet cannot be read: delete it") as raised:
        store.status()
    assert "\n" not in str(raised.value)


def test_a_file_of_another_shape_is_refused(tmp_path):
    filled_store(tmp_path, {Interval.DAY_1: [daily("AAA", DAY, 100)]})
    pl.DataFrame({"symbol": ["AAA"]}).write_parquet(tmp_path / "bars-1d-2024.parquet")
    with pytest.raises(StoreError, match="other columns"):
        ParquetBars(tmp_path).status()


def test_status_says_what_is_stored(tmp_path):
    assert ParquetBars(tmp_path / "none").status() == []
    rows_of = {
        Interval.DAY_1: [daily("AAA", date(2023, 12, 29), 100), daily("BBB", date(2024, 1, 1), 101)],
        Interval.MIN_5: five_minutes("AAA", DAY, [100, 101, 102]),
    }
    fives, days = filled_store(tmp_path, rows_of).bars.status()
    assert (fives.interval, fives.symbols, fives.rows, fives.from_, fives.through) == (Interval.MIN_5, 1, 3, DAY, DAY)
    assert (days.symbols, days.rows, days.from_, days.through) == (2, 2, date(2023, 12, 29), date(2024, 1, 1))


def bars_of(closes: dict[date, int], volume: int = 1000) -> Bars:
    day = np.array([day_number(day) for day in closes])
    close = np.array(list(closes.values()))
    start, zeros = day * 86400, np.zeros_like(day)
    return Bars(day, start, start + 1, close, close, close, close, np.full(len(day), volume), zeros)


SPLIT = Factors(np.array([day_number(date(2024, 3, 15)), day_number(date(2024, 3, 20))]), np.array([0.5, 0.1]))


def test_factors_apply_before_their_ex_date_and_from_it_on():
    days = np.array([day_number(date(2024, 3, number)) for number in (14, 15, 19, 20, 21)])
    assert multipliers(days, SPLIT, date(2024, 3, 19)).tolist() == [0.5, 1, 1, 1, 1]
    assert multipliers(days, SPLIT, date(2024, 3, 20)).tolist() == pytest.approx([0.05, 0.1, 0.1, 1, 1])
    assert multipliers(days, SPLIT, date(2024, 3, 14)).tolist() == [1, 1, 1, 1, 1]


def test_adjusted_prices_and_volumes():
    bars = adjusted(bars_of({date(2024, 3, 14): 123_455, date(2024, 3, 20): 6_200}), SPLIT, date(2024, 3, 20))
    assert bars.decimals == 6
    assert bars.close.tolist() == [61_727_500, 62_000_000]
    assert bars.volume.tolist() == [20_000, 1000]


def test_a_later_split_does_not_change_an_earlier_answer():
    bars = bars_of({date(2024, 3, 14): 123_455, date(2024, 3, 18): 61_000})
    known = Factors(SPLIT.ex_day[:1], SPLIT.factor[:1])
    early, late = (adjusted(bars, factors, date(2024, 3, 19)) for factors in (known, SPLIT))
    assert early.close.tolist() == late.close.tolist()
    assert early.decimals == late.decimals


def test_without_a_factor_prices_stay_whole_paise():
    bars = bars_of({date(2024, 3, 20): 6_205})
    assert adjusted(bars, SPLIT, date(2024, 3, 21)) is bars


def test_bars_end_when_they_end():
    day = bars_of({DAY: 100})
    end_s = int(day.end[0])
    assert day.ended_by(end_s) == 1
    assert day.ended_by(end_s - 1) == 0
