"""The buffer before the store: nothing lost while the store is away, nothing doubled, a limit that is counted."""

import threading
from datetime import date

import polars as pl
import pytest
from data_market import session

from contracts.market import Interval
from data_service.errors import StoreError
from data_service.ingest import Gate
from data_service.sessions import Sessions
from data_service.store.buffer import BarBuffer
from data_service.store.schemas import BAR_SCHEMA
from data_service.store.stores import embedded

DAY = date(2026, 7, 6)
OPEN_S = session(DAY).open_s
LATER_S = OPEN_S + 86_400


def bar(number: int, close: int = 10_000) -> tuple:
    return ("ACME", OPEN_S + 60 * number, close, close + 5, close - 5, close, 10 + number, "stream")


class Store:
    """The real gate and files, which may be away for a while."""

    def __init__(self, folder) -> None:
        self.stores = embedded(folder)
        self.gate = Gate(self.stores, Sessions([session(DAY)]), {})
        self.error: Exception | None = None
        self.before = lambda: None
        self.sizes: list[int] = []

    def ingest(self, interval: Interval, bars: pl.DataFrame, now_s: int) -> object:
        self.before()
        if self.error:
            raise self.error
        self.sizes.append(len(bars))
        return self.gate.ingest(interval, bars, now_s)

    def starts(self) -> list[int]:
        return [(start - OPEN_S) // 60 for start in self.stores.bars.read(Interval.MIN_1, 2026)["start"].to_list()]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def buffer(store, bars_max: int = 100):
    dropped: list[int] = []
    return BarBuffer(Interval.MIN_1, store.ingest, on_dropped=dropped.append, bars_max=bars_max), dropped


def test_bars_reach_the_store_once(store):
    waiting, dropped = buffer(store)
    for number in range(5):
        waiting.add(bar(number))
    assert waiting.flush(LATER_S) == 5
    assert (len(waiting), store.starts(), dropped) == (0, [0, 1, 2, 3, 4], [])
    assert waiting.flush(LATER_S) == 0
    assert store.sizes == [5]
    held = store.stores.bars.read(Interval.MIN_1, 2026)
    assert held.schema == BAR_SCHEMA
    assert held.row(3) == bar(3)


@pytest.mark.parametrize("error", [StoreError("damaged"), OSError("full")])
def test_while_the_store_is_away_bars_wait_in_their_order(store, error):
    waiting, dropped = buffer(store)
    store.error = error
    waiting.add(bar(0))
    assert waiting.flush(LATER_S) == 0
    waiting.add(bar(1))
    assert (len(waiting), dropped) == (2, [])
    store.error = None
    assert waiting.flush(LATER_S) == 2
    assert store.starts() == [0, 1]


def test_over_the_limit_the_oldest_go_and_are_counted(store):
    waiting, dropped = buffer(store, bars_max=3)
    store.error = StoreError("away")
    for number in range(5):
        waiting.add(bar(number))
    waiting.flush(LATER_S)
    assert (len(waiting), sum(dropped)) == (3, 2)
    store.error = None
    waiting.flush(LATER_S)
    assert store.starts() == [2, 3, 4]


def test_a_bar_told_again_is_stored_as_it_was_told_last(store):
    waiting, _ = buffer(store)
    waiting.add(bar(0, 10_000))
    waiting.add(bar(0, 10_100))
    waiting.flush(LATER_S)
    assert store.stores.bars.read(Interval.MIN_1, 2026)["close"].to_list() == [10_100]


def test_bars_that_come_while_others_are_being_stored_are_neither_lost_nor_doubled(store):
    waiting, dropped = buffer(store, bars_max=4)
    for number in range(4):
        waiting.add(bar(number))
    store.before = lambda: [waiting.add(bar(number)) for number in (4, 5)]
    assert waiting.flush(LATER_S) == 4
    assert sum(dropped) == 2
    store.before = lambda: None
    assert waiting.flush(LATER_S) == 2
    assert store.starts() == [0, 1, 2, 3, 4, 5]


def test_more_may_come_than_fits_while_others_are_being_stored(store):
    waiting, dropped = buffer(store, bars_max=2)
    waiting.add(bar(0))
    store.before = lambda: [waiting.add(bar(number)) for number in (1, 2, 3, 4)]
    waiting.flush(LATER_S)
    assert len(waiting) == 2
    store.before = lambda: None
    waiting.flush(LATER_S)
    assert (store.starts(), sum(dropped)) == ([0, 3, 4], 3)


def test_many_threads_lose_nothing(store):
    waiting, dropped = buffer(store, bars_max=10_000)
    begin = threading.Barrier(6)

    def adds(worker: int) -> None:
        begin.wait()
        for number in range(90):
            waiting.add(bar(90 * worker + number if worker < 4 else number))

    def flushes() -> None:
        begin.wait()
        for _ in range(5):
            waiting.flush(LATER_S)

    threads = [threading.Thread(target=adds, args=(worker,)) for worker in range(4)]
    threads += [threading.Thread(target=flushes) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    waiting.flush(LATER_S)
    assert (len(waiting), dropped) == (0, [])
    assert store.starts() == list(range(360))


def test_what_the_gate_refuses_does_not_come_back(store):
    waiting, _ = buffer(store)
    waiting.add((*bar(0)[:2], -1, 5, -5, 1, 1, "stream"))
    waiting.add(bar(1))
    assert waiting.flush(LATER_S) == 2
    assert (len(waiting), store.starts()) == (0, [1])
    assert store.stores.facts.findings().filter(quarantined=True)["reason"].to_list() == ["non_positive"]
