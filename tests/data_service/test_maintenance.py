"""Old minute bars become five-minute bars: every coarser answer stays as it was, and the disk gets its room back."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from data_market import at_s, daily, filled_store, five_minutes
from memory_stores import MemoryBars, MemoryFacts, MemoryStores

from contracts.market import Interval
from data_service.bars import COLUMN_FIELDS, Bars
from data_service.instruments import InstrumentMaster, load_reference
from data_service.maintenance import downsample
from data_service.providers.recorded import RecordedMarket
from data_service.sessions import load_sessions
from data_service.store.base import Upserted
from data_service.store.schemas import INSTRUMENT_SCHEMA
from data_service.store.stores import Stores
from data_service.views import Missing

SESSIONS = load_sessions()
MASTER = InstrumentMaster(INSTRUMENT_SCHEMA.to_frame(), load_reference())
MUHURAT, SHORT, USUAL, AUCTION = date(2023, 11, 12), date(2024, 3, 2), date(2024, 3, 20), date(2026, 11, 18)
COARSER = [Interval.MIN_5, Interval.MIN_10, Interval.MIN_15, Interval.MIN_30, Interval.HOUR_1, Interval.DAY_1]
TODAY = date(2026, 12, 31)
NOW_S = at_s("2026-12-31 20:00")


def minutes_of(symbol: str, day: date, seed: int = 1) -> list[tuple]:
    """Most minutes of a session at random prices."""
    rng, session = np.random.default_rng(seed), SESSIONS.by_day[day]
    rows = []
    for start in range(session.open_s, session.close_s(symbol in load_reference()), 60):
        prices = rng.integers(9_000, 11_000, 4).tolist()
        rows.append((symbol, start, prices[0], max(prices), min(prices), prices[3], int(rng.integers(1, 999))))
    keep = rng.random(len(rows)) < 0.9
    return [row for row, kept in zip(rows, keep, strict=True) if kept or row in (rows[0], rows[-1])]


@pytest.fixture
def stores(tmp_path) -> Stores:
    days = (MUHURAT, SHORT, USUAL, AUCTION)
    rows = [row for day in days for symbol in ("TCS", "SMALL") for row in minutes_of(symbol, day)]
    return filled_store(tmp_path, {Interval.MIN_1: rows, Interval.DAY_1: [daily("TCS", USUAL, 10_000)]})


def small(stores: Stores, days_kept: int = 5) -> Upserted:
    return downsample(stores, SESSIONS, MASTER, TODAY, days_kept)


def answers(stores: Stores) -> dict[tuple, list]:
    view = RecordedMarket(stores, SESSIONS, load_reference()).view()
    found = {}
    for symbol in ("TCS", "SMALL"):
        for interval in COARSER:
            bars = view.bars(symbol, interval, MUHURAT, TODAY, NOW_S)
            assert isinstance(bars, Bars)
            found[symbol, interval] = [getattr(bars, name).tolist() for name in COLUMN_FIELDS]
    return found


def test_every_coarser_answer_stays_as_it_was(stores):
    before = answers(stores)
    made = small(stores)
    assert made.new == sum(len(before[symbol, Interval.MIN_5][0]) for symbol in ("TCS", "SMALL"))
    assert {interval for interval, _ in stores.bars.stamps()} == {Interval.MIN_5, Interval.DAY_1}
    assert answers(stores) == before


def test_sessions_younger_than_the_days_kept_stay(stores):
    limit = (TODAY - AUCTION).days
    small(stores, limit)
    assert set(stores.bars.read(Interval.MIN_1, 2026)["symbol"]) == {"TCS", "SMALL"}
    assert {interval_year for interval_year in stores.bars.stamps() if interval_year[0] is Interval.MIN_1} == {
        (Interval.MIN_1, 2026)
    }
    assert stores.bars.read(Interval.MIN_5, 2026).is_empty()
    small(stores, limit - 1)
    assert stores.bars.read(Interval.MIN_1, 2026).is_empty()
    assert len(stores.bars.read(Interval.MIN_5, 2026))


def test_five_minute_bars_that_are_stored_stay(tmp_path):
    official = five_minutes("TCS", USUAL, [500, 501, 502])
    stores = filled_store(tmp_path, {Interval.MIN_1: minutes_of("TCS", USUAL), Interval.MIN_5: official})
    small(stores)
    held = stores.bars.read(Interval.MIN_5, 2024)
    assert held["close"].head(3).to_list() == [500, 501, 502]
    assert len(held) == 75


def test_killed_before_the_minutes_went_it_is_done_again(stores, monkeypatch):
    before = answers(stores)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(stores.bars), "drop_before", killed)
        with pytest.raises(KeyboardInterrupt):
            small(stores)
    assert answers(stores) == before
    assert small(stores) == Upserted()
    assert not [year for interval, year in stores.bars.stamps() if interval is Interval.MIN_1]
    assert answers(stores) == before
    assert small(stores) == Upserted()


def test_bars_keep_their_source_and_the_auctions_minutes_are_of_those_who_take_part(tmp_path):
    said = pl.DataFrame(
        [{"symbol": "SMALL", "known_on": AUCTION - timedelta(days=1), "has_derivatives": True, "source": "kite"}],
        schema=INSTRUMENT_SCHEMA,
    )
    stores = filled_store(tmp_path, {Interval.MIN_1: minutes_of("SMALL", AUCTION)})
    downsample(stores, SESSIONS, InstrumentMaster(said, {}), TODAY, 1)
    held = stores.bars.read(Interval.MIN_5, 2026)
    assert held["start"].max() == at_s(f"{AUCTION} 15:10")
    assert held["source"].unique().to_list() == ["file"]


def test_a_part_that_lost_its_last_bar_is_served_as_empty(tmp_path):
    """A server's part keeps its version when its bars are gone."""

    class Emptied(MemoryBars):
        def stamps(self):
            return {(Interval.DAY_1, 2024): 1, (Interval.MIN_1, 2024): 1}

    stores = MemoryStores(Emptied({}), MemoryFacts())
    view = RecordedMarket(stores, SESSIONS, {}).view()
    assert isinstance(view.bars("TCS", Interval.HOUR_1, USUAL, USUAL, NOW_S), Missing)
    assert isinstance(view.quote("TCS", NOW_S), Missing)
    assert (view.instruments(NOW_S), view.days(NOW_S)) == ([], None)


def test_an_empty_store_is_no_error(tmp_path):
    assert small(filled_store(tmp_path, {})) == Upserted()
