"""Whatever keeps the bars keeps the same promises: the same tests for the embedded files and for InfluxDB."""

import itertools
from datetime import date

import pytest
from data_market import daily, five_minutes, frame
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.market import Interval
from data_service.errors import StoreError
from data_service.store.base import Stored, Upserted
from data_service.store.influx_bars import InfluxBars
from data_service.store.parquet_bars import ParquetBars
from tests.support.influx_server import BUCKET, ORG, TOKEN, influx_server

DAY = date(2024, 3, 20)
KINDS = ["parquet", "influx"]


def influx(server, token: str = TOKEN) -> InfluxBars:
    clock = itertools.count(0, 10)
    return InfluxBars(server.url, token, ORG, BUCKET, timeout_s=5, monotonic_s=lambda: float(next(clock)))


@pytest.fixture(params=KINDS)
def store(request, tmp_path):
    if request.param == "parquet":
        yield ParquetBars(tmp_path)
        return
    with influx_server() as server:
        bars = influx(server)
        yield bars
        bars.close()


def test_an_empty_store_is_empty(store):
    assert store.stamps() == {}
    assert store.status() == []
    assert store.read(Interval.DAY_1, 2024).is_empty()


def test_rows_come_back_as_they_were_ordered_and_by_indian_year(store):
    new_year = [daily("ZZZ", date(2024, 1, 1), 10_101), daily("M&M", date(2023, 12, 29), 50), daily("AAA", DAY, 1)]
    assert store.upsert(Interval.DAY_1, frame(new_year, "nse")) == Upserted(new=3)
    assert sorted(store.stamps()) == [(Interval.DAY_1, 2023), (Interval.DAY_1, 2024)]
    assert store.read(Interval.DAY_1, 2023).equals(frame(new_year[1:2], "nse"))
    assert store.read(Interval.DAY_1, 2024).equals(frame([new_year[2], new_year[0]], "nse"))


def test_intervals_are_kept_apart(store):
    store.upsert(Interval.MIN_5, frame(five_minutes("AAA", DAY, [100, 101, 102])))
    store.upsert(Interval.DAY_1, frame([daily("AAA", DAY, 102)]))
    assert len(store.read(Interval.MIN_5, 2024)) == 3
    assert [(held.interval, held.rows) for held in store.status()] == [(Interval.MIN_5, 3), (Interval.DAY_1, 1)]


def test_a_later_word_replaces_an_earlier_one_of_no_better_source(store):
    store.upsert(Interval.DAY_1, frame([daily("AAA", DAY, 100), daily("BBB", DAY, 100)], "yahoo"))
    official = frame([daily("AAA", DAY, 101)], "nse")
    assert store.upsert(Interval.DAY_1, official) == Upserted(changed=1)
    assert store.upsert(Interval.DAY_1, official) == Upserted(unchanged=1)
    assert store.upsert(Interval.DAY_1, frame([daily("AAA", DAY, 999)], "yahoo")) == Upserted(outranked=1)
    assert store.upsert(Interval.DAY_1, frame([daily("BBB", DAY, 102)], "yahoo")) == Upserted(changed=1)
    stored = store.read(Interval.DAY_1, 2024).select("symbol", "close", "source").rows()
    assert stored == [("AAA", 101, "nse"), ("BBB", 102, "yahoo")]


def test_the_stamp_changes_with_the_bars_and_only_then(store):
    store.upsert(Interval.DAY_1, frame([daily("AAA", DAY, 100), daily("AAA", date(2023, 3, 20), 9)]))
    before = store.stamps()
    store.upsert(Interval.DAY_1, frame([daily("AAA", DAY, 100)]))
    assert store.stamps() == before
    store.upsert(Interval.DAY_1, frame([daily("AAA", DAY, 101)]))
    changed = {part for part, stamp in store.stamps().items() if stamp != before[part]}
    assert changed == {(Interval.DAY_1, 2024)}


def test_retention_forgets_the_sessions_before_a_day(store):
    rows = [daily("AAA", day, 100) for day in (date(2023, 12, 29), date(2024, 3, 19), DAY, date(2024, 3, 21))]
    store.upsert(Interval.DAY_1, frame(rows))
    store.upsert(Interval.MIN_5, frame(five_minutes("AAA", date(2023, 3, 20), [1, 2])))
    before = store.stamps()
    assert store.drop_before(Interval.DAY_1, DAY) == 2
    assert store.read(Interval.DAY_1, 2023).is_empty()
    assert store.read(Interval.DAY_1, 2024).equals(frame(rows[2:]))
    assert len(store.read(Interval.MIN_5, 2023)) == 2
    assert store.stamps().get((Interval.DAY_1, 2024)) != before[Interval.DAY_1, 2024]
    assert store.drop_before(Interval.DAY_1, DAY) == 0


def test_single_bars_can_be_taken_out(store):
    store.upsert(Interval.DAY_1, frame([daily(symbol, DAY, 100) for symbol in ("AAA", "BBB", "M&M")]))
    before, keys = store.stamps(), frame([daily("BBB", DAY, 1), daily("M&M", DAY, 1), daily("CCC", DAY, 1)])
    assert store.remove(Interval.DAY_1, keys.select("symbol", "start")) == 2
    assert store.read(Interval.DAY_1, 2024)["symbol"].to_list() == ["AAA"]
    assert store.stamps() != before
    assert store.remove(Interval.DAY_1, keys) == 0


def test_status_says_what_is_stored(store):
    store.upsert(Interval.DAY_1, frame([daily("AAA", date(2023, 12, 29), 100), daily("BBB", DAY, 101)]))
    (held,) = store.status()
    size = held.size_bytes
    assert held == Stored(Interval.DAY_1, 2, date(2023, 12, 29), DAY, 2, size)
    assert size is None or size > 0


keys = st.tuples(st.sampled_from(["A", "B-1", "M&M"]), st.integers(1, 700))
writes = st.lists(
    st.tuples(st.sampled_from(["yahoo", "file", "nse"]), st.dictionaries(keys, st.integers(1, 10**10), max_size=8)),
    max_size=5,
)
TRUSTED = {"yahoo": 1, "file": 2, "nse": 3}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes)
def test_any_writes_end_as_a_dictionary_would(kind, tmp_path_factory, written):
    with influx_server() as server:
        store = influx(server) if kind == "influx" else ParquetBars(tmp_path_factory.mktemp("store"))
        known: dict[tuple[str, int], tuple[int, str]] = {}
        for source, prices in written:
            rows = [(symbol, at * 86_400, *[price] * 4, at) for (symbol, at), price in prices.items()]
            store.upsert(Interval.DAY_1, frame(rows, source))
            for key, price in prices.items():
                if TRUSTED[source] >= TRUSTED[known.get(key, (0, "yahoo"))[1]]:
                    known[key] = price, source
        parts = [store.read(*part) for part in store.stamps()]
        stored = {(row[0], row[1] // 86_400): (row[5], row[7]) for part in parts for row in part.iter_rows()}
        assert stored == known


def test_a_server_that_is_away_or_refuses_is_one_clear_line():
    with influx_server() as server:
        store = influx(server)
        store.upsert(Interval.DAY_1, frame([daily("AAA", DAY, 100)]))
        server.broken = True
        for call in (store.stamps, store.status, lambda: store.read(Interval.DAY_1, 2024)):
            with pytest.raises(StoreError, match="InfluxDB answered 503"):
                call()
        server.broken = False
        assert len(store.read(Interval.DAY_1, 2024)) == 1
        with pytest.raises(StoreError, match=r"401.*check INFLUXDB_URL, its token"):
            influx(server, "wrong").stamps()
    with pytest.raises(StoreError, match="did not give a usable answer") as raised:
        store.read(Interval.DAY_1, 2024)
    assert "\n" not in str(raised.value)


def test_another_process_sees_an_import_within_two_seconds():
    with influx_server() as server:
        now = [0.0]
        reader = InfluxBars(server.url, TOKEN, ORG, BUCKET, timeout_s=5, monotonic_s=lambda: now[0])
        assert reader.stamps() == {}
        influx(server).upsert(Interval.DAY_1, frame([daily("AAA", DAY, 100)]))
        assert reader.stamps() == {}
        asked = server.requests
        now[0] = 2.1
        assert list(reader.stamps()) == [(Interval.DAY_1, 2024)]
        assert server.requests == asked + 1
