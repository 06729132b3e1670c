"""The one way into the store: judged beside what is stored and announced, and what was found is written down."""

from datetime import date

import polars as pl
import pytest
from data_market import at_s, daily, filled_store, frame

from contracts.market import Interval
from data_service.ingest import Gate, Ingested, stored_around
from data_service.sessions import load_sessions
from data_service.store.base import Upserted
from data_service.store.schemas import ACTION_SCHEMA, BAR_SCHEMA
from data_service.store.stores import Stores, embedded

SESSIONS = load_sessions()
DAYS = [
    of.day for of in SESSIONS.all if date(2024, 3, 1) <= of.day <= date(2024, 4, 30) and of.open_s % 86_400 == 13_500
]
LATER_S = at_s("2026-01-01 00:00")


def gate_of(stores: Stores) -> Gate:
    return Gate(stores, SESSIONS, {})


def told(*rows: dict) -> pl.DataFrame:
    base = {"source": "nse", "subject": "said"}
    return pl.DataFrame([{**base, "known_on": row["ex_date"], **row} for row in rows], schema=ACTION_SCHEMA)


def findings(stores: Stores) -> list[tuple]:
    return stores.facts.findings().select("symbol", "reason", "quarantined").rows()


def test_good_bars_are_stored_and_bad_ones_written_down(tmp_path):
    stores = embedded(tmp_path)
    bad = ("TCS", at_s(f"{DAYS[1]} 09:15"), 100, 90, 80, 100, 5)
    done = gate_of(stores).ingest(Interval.DAY_1, frame([daily("TCS", DAYS[0], 40_000), bad]), LATER_S)
    assert (done.counts.new, done.quarantined, done.reasons) == (1, 1, {"ohlc_inconsistent": 1})
    assert stores.bars.read(Interval.DAY_1, 2024)["close"].to_list() == [40_000]
    (found,) = stores.facts.findings().rows(named=True)
    assert (found["high"], found["found_at"], found["interval"], found["quarantined"]) == (90, LATER_S, "1d", True)
    again = gate_of(stores).ingest(Interval.DAY_1, frame([bad]), LATER_S + 5)
    assert (again.counts, again.quarantined) == (Upserted(), 1)
    assert stores.facts.findings()["found_at"].to_list() == [LATER_S]


def test_nothing_and_a_bar_without_an_instant_are_no_error(tmp_path):
    stores = embedded(tmp_path)
    assert gate_of(stores).ingest(Interval.DAY_1, BAR_SCHEMA.to_frame(), LATER_S) == Ingested()
    lost = frame([("TCS", None, 1, 1, 1, 1, 1)])  # pyright: ignore[reportArgumentType]
    assert gate_of(stores).ingest(Interval.DAY_1, lost, LATER_S).reasons == {"missing_value": 1}
    assert stores.bars.stamps() == {}


def test_a_bar_that_came_right_later_is_out_of_quarantine(tmp_path):
    stores, start = embedded(tmp_path), at_s(f"{DAYS[0]} 09:15")
    gate = gate_of(stores)
    for rows, source in [([("TCS", start, 100, 90, 80, 100, 5)], "file"), ([("TCS", start, 1, 0, 0, 0, 5)], "yahoo")]:
        gate.ingest(Interval.DAY_1, frame(rows, source), LATER_S)
    assert findings(stores) == [("TCS", "ohlc_inconsistent", True), ("TCS", "non_positive", True)]
    gate.ingest(Interval.DAY_1, frame([daily("TCS", DAYS[0], 40_000)]), LATER_S + 5)
    assert findings(stores) == [("TCS", "non_positive", True)]


def test_flags_of_stored_bars_stay(tmp_path):
    stores = embedded(tmp_path)
    rows = [
        daily("TCS", day, close) for day, close in zip(DAYS, [40_000, 41_000, 60_000, 60_500, 61_000], strict=False)
    ]
    for _ in range(2):
        gate_of(stores).ingest(Interval.DAY_1, frame(rows), LATER_S)
    assert findings(stores) == [("TCS", "outlier", False)]


def test_the_close_stored_before_is_what_the_first_bar_is_judged_by(tmp_path):
    stores = filled_store(tmp_path, {Interval.DAY_1: [daily("TCS", DAYS[0], 40_000)]})
    hundredfold = [daily("TCS", day, 4_000_000 + number) for number, day in enumerate(DAYS[1:9])]
    done = gate_of(stores).ingest(Interval.DAY_1, frame(hundredfold), LATER_S)
    assert (done.quarantined, done.reasons) == (8, {"hundredfold": 8})


def test_the_close_of_the_year_before_counts_too(tmp_path):
    stores = filled_store(tmp_path, {Interval.DAY_1: [daily("TCS", date(2023, 12, 29), 40_000)]})
    done = gate_of(stores).ingest(Interval.DAY_1, frame([daily("TCS", date(2024, 1, 1), 4_000_000)]), LATER_S)
    assert done.reasons == {"hundredfold": 1}
    around = stored_around(stores.bars, Interval.DAY_1, frame([daily("TCS", date(2025, 1, 1), 1)]))
    assert around.is_empty()


def test_what_a_more_trusted_source_tells_differently_is_kept_out(tmp_path):
    stores = embedded(tmp_path)
    stores.bars.upsert(Interval.DAY_1, frame([daily("TCS", DAYS[0], 40_000)], "nse"))
    done = gate_of(stores).ingest(Interval.DAY_1, frame([daily("TCS", DAYS[0], 43_000)], "yahoo"), LATER_S)
    assert done.reasons == {"source_disagreement": 1}
    close = gate_of(stores).ingest(Interval.DAY_1, frame([daily("TCS", DAYS[0], 40_100)], "yahoo"), LATER_S)
    assert (close.counts.outranked, close.reasons) == (1, {})
    assert stores.bars.read(Interval.DAY_1, 2024)["source"].to_list() == ["nse"]


@pytest.mark.parametrize(("under", "known"), [("NEW", True), ("OLD", True), ("OTHER", False)])
def test_a_split_is_known_under_the_symbol_that_the_bars_had(tmp_path, under, known):
    """Feeds tell of a company's earlier actions under its present symbol; its bars of then have the name of then."""
    stores = embedded(tmp_path)
    split = {"symbol": under, "ex_date": DAYS[4], "kind": "split", "shares_before": 1, "shares_after": 5}
    rename = {"symbol": "OLD", "new_symbol": "NEW", "ex_date": DAYS[-1], "kind": "rename"}
    stores.facts.upsert_actions(told(split, rename))
    closes = [40_000, 40_100, 40_200, 40_300, 8_050, 8_060, 8_070, 8_080]
    rows = [daily("OLD", day, close) for day, close in zip(DAYS, closes, strict=False)]
    reasons = gate_of(stores).ingest(Interval.DAY_1, frame(rows), LATER_S).reasons
    assert reasons == ({} if known else {"outlier": 1})


def test_ingested_adds_up():
    one = Ingested(Upserted(new=1, outranked=2), 3, {"outlier": 1, "frozen": 2})
    other = Ingested(Upserted(new=4, changed=1), 1, {"frozen": 3, "off_grid": 1})
    assert one + other == Ingested(
        Upserted(new=5, changed=1, outranked=2), 4, {"outlier": 1, "frozen": 5, "off_grid": 1}
    )
