"""Coarser bars of finer ones: along real sessions, never before they are whole, and official ones first."""

from datetime import date

import numpy as np
import polars as pl
import pytest
from data_market import at_s, daily, filled_store

from contracts.market import Interval
from data_service.bars import INTERVAL_S, Bars
from data_service.instruments import InstrumentMaster, load_reference
from data_service.providers.recorded import RecordedMarket, RecordedView
from data_service.resample import LATE_S, finer_than
from data_service.sessions import load_sessions
from data_service.store.schemas import INSTRUMENT_SCHEMA
from data_service.store.stores import Stores
from data_service.views import Missing

SESSIONS = load_sessions()
INTRADAY = [interval for interval in Interval if interval is not Interval.DAY_1]
MUHURAT, SHORT, USUAL, AUCTION = date(2023, 11, 12), date(2024, 3, 2), date(2024, 3, 20), date(2026, 11, 18)


def minutes_of(symbol: str, day: date, length_s: int = 60) -> list[tuple]:
    """Every bar of the session: the close counts up by a paisa."""
    session = SESSIONS.by_day[day]
    starts = range(session.open_s, session.close_s(symbol in load_reference()), length_s)
    return [(symbol, start, 10_000 + n, 10_002 + n, 9_999 + n, 10_001 + n, 1 + n) for n, start in enumerate(starts)]


def view_of(stores: Stores) -> RecordedView:
    return RecordedMarket(stores, SESSIONS, load_reference()).view()


def asked(view: RecordedView, symbol: str, interval: Interval, day: date, clock: str) -> Bars:
    bars = view.bars(symbol, interval, day, day, at_s(f"{day} {clock}"))
    assert isinstance(bars, Bars)
    return bars


def expected(rows: list[tuple], symbol: str, interval: Interval, day: date) -> list[tuple]:
    """Summed up bar by bar, the slow way: start, end, open, high, low, close, volume."""
    session, length_s = SESSIONS.by_day[day], INTERVAL_S[interval]
    close_s = session.close_s(symbol in load_reference())
    found = []
    for start in range(session.open_s, close_s, length_s):
        part = [row for row in rows if start <= row[1] < start + length_s]
        if part:
            prices = part[0][2], max(row[3] for row in part), min(row[4] for row in part), part[-1][5]
            found.append((start, min(start + length_s, close_s), *prices, sum(row[6] for row in part)))
    return found


def as_rows(bars: Bars) -> list[tuple]:
    columns = (bars.start, bars.end, bars.open, bars.high, bars.low, bars.close, bars.volume)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("interval", INTRADAY)
@pytest.mark.parametrize("day", [MUHURAT, SHORT, USUAL, AUCTION])
@pytest.mark.parametrize("symbol", ["TCS", "SMALL"])
def test_every_length_of_every_session_is_summed_up_from_its_open(tmp_path, symbol, day, interval):
    rows = minutes_of(symbol, day)
    view = view_of(filled_store(tmp_path, {Interval.MIN_1: rows}))
    assert as_rows(asked(view, symbol, interval, day, "23:00")) == expected(rows, symbol, interval, day)


def test_last_bars_end_when_continuous_trading_does(tmp_path):
    rows = minutes_of("TCS", AUCTION) + minutes_of("SMALL", AUCTION) + minutes_of("SMALL", SHORT)
    view = view_of(filled_store(tmp_path, {Interval.MIN_1: rows}))

    def last(symbol: str, day: date, interval: Interval) -> tuple[int, int]:
        bars = asked(view, symbol, interval, day, "23:00")
        return int(bars.start[-1]) - at_s(f"{day} 00:00"), int(bars.end[-1] - bars.start[-1]) // 60

    assert last("TCS", AUCTION, Interval.MIN_5) == (15 * 3600 + 600, 5)
    assert last("SMALL", AUCTION, Interval.MIN_5) == (15 * 3600 + 1500, 5)
    clipped = (Interval.MIN_10, Interval.MIN_30, Interval.HOUR_1)
    assert [last("TCS", AUCTION, interval)[1] for interval in clipped] == [10, 30, 60]
    assert [last("SMALL", AUCTION, interval)[1] for interval in clipped] == [5, 15, 15]
    assert [last("SMALL", SHORT, interval)[1] for interval in clipped] == [5, 15, 15]


def test_a_bar_made_of_others_shows_when_it_has_ended(tmp_path):
    view = view_of(filled_store(tmp_path, {Interval.MIN_5: minutes_of("TCS", USUAL, 300)}))
    assert isinstance(view.bars("TCS", Interval.MIN_15, USUAL, USUAL, at_s(f"{USUAL} 09:29:59")), Missing)
    assert len(asked(view, "TCS", Interval.MIN_15, USUAL, "09:30")) == 1
    assert len(asked(view, "TCS", Interval.MIN_15, USUAL, "09:44:59")) == 1
    assert isinstance(view.bars("TCS", Interval.DAY_1, USUAL, USUAL, at_s(f"{USUAL} 15:29:59")), Missing)
    assert asked(view, "TCS", Interval.DAY_1, USUAL, "15:30").close.tolist() == [10_075]


def test_a_bar_whose_last_part_has_not_come_yet_waits_for_it_a_while(tmp_path):
    rows = [row for row in minutes_of("TCS", USUAL) if row[1] < at_s(f"{USUAL} 09:44")]
    view = view_of(filled_store(tmp_path, {Interval.MIN_1: rows}))
    assert len(asked(view, "TCS", Interval.MIN_15, USUAL, "09:45")) == 1
    ended_s = at_s(f"{USUAL} 09:45")
    for late_s, bars in ((LATE_S - 1, 1), (LATE_S, 2)):
        found = view.bars("TCS", Interval.MIN_15, USUAL, USUAL, ended_s + late_s)
        assert isinstance(found, Bars)
        assert len(found) == bars
    later = [(*rows[0][:1], ended_s, 1, 1, 1, 1, 1)]
    view = view_of(filled_store(tmp_path, {Interval.MIN_1: later}))
    assert len(asked(view, "TCS", Interval.MIN_15, USUAL, "09:46")) == 2


def test_an_hour_of_gaps_is_made_of_what_was_traded(tmp_path):
    rows = [row for number, row in enumerate(minutes_of("TCS", USUAL)) if number % 7 == 3]
    view = view_of(filled_store(tmp_path, {Interval.MIN_1: rows}))
    assert as_rows(asked(view, "TCS", Interval.HOUR_1, USUAL, "23:00")) == expected(rows, "TCS", Interval.HOUR_1, USUAL)


@pytest.mark.parametrize("lacking", [0, -1])
def test_a_day_that_is_not_covered_from_open_to_close_makes_no_daily_bar(tmp_path, lacking):
    rows = minutes_of("TCS", USUAL, 300)
    view = view_of(filled_store(tmp_path, {Interval.MIN_5: rows}))
    assert len(asked(view, "TCS", Interval.DAY_1, USUAL, "23:00")) == 1
    del rows[lacking]
    view = view_of(filled_store(tmp_path / "other", {Interval.MIN_5: rows}))
    assert isinstance(view.bars("TCS", Interval.DAY_1, USUAL, USUAL, at_s(f"{USUAL} 23:00")), Missing)


def test_a_daily_bar_made_of_others_is_known_when_the_official_close_is(tmp_path):
    view = view_of(filled_store(tmp_path, {Interval.MIN_5: minutes_of("TCS", AUCTION, 300)}))
    assert isinstance(view.bars("TCS", Interval.DAY_1, AUCTION, AUCTION, at_s(f"{AUCTION} 15:34:59")), Missing)
    assert asked(view, "TCS", Interval.DAY_1, AUCTION, "15:35").end.tolist() == [at_s(f"{AUCTION} 15:35")]


def test_what_is_stored_goes_before_what_is_made_and_gaps_are_filled_day_by_day(tmp_path):
    days = [date(2024, 3, 18), date(2024, 3, 19), date(2024, 3, 20)]
    rows = {
        Interval.DAY_1: [daily("TCS", days[0], 5000), daily("TCS", days[2], 7000)],
        Interval.MIN_5: [row for day in days for row in minutes_of("TCS", day, 300)],
    }
    view = view_of(filled_store(tmp_path, rows))
    bars = view.bars("TCS", Interval.DAY_1, days[0], days[2], at_s("2024-03-20 16:00"))
    assert isinstance(bars, Bars)
    assert bars.close.tolist() == [5000, 10_075, 7000]
    assert np.all(np.diff(bars.start) > 0)


def test_bars_outside_continuous_trading_are_in_no_coarser_bar(tmp_path):
    """A share of the closing auction with stored bars of after 15:15."""
    rows = minutes_of("TCS", AUCTION, 300)
    late = [("TCS", at_s(f"{AUCTION} 15:{minute}"), 1, 1, 1, 1, 999) for minute in (15, 20, 25)]
    view = view_of(filled_store(tmp_path, {Interval.MIN_5: rows + late}))
    assert as_rows(asked(view, "TCS", Interval.HOUR_1, AUCTION, "23:00")) == expected(
        rows, "TCS", Interval.HOUR_1, AUCTION
    )
    assert asked(view, "TCS", Interval.DAY_1, AUCTION, "23:00").low.tolist() == [9_999]


def test_the_finer_bars_of_years_without_a_gap_are_not_even_read(tmp_path, monkeypatch):
    days = [of.day for of in SESSIONS.all if date(2023, 1, 1) <= of.day <= date(2024, 12, 31)]
    rows = {
        Interval.DAY_1: [daily("TCS", day, 5000) for day in days if day != USUAL],
        Interval.MIN_5: [row for day in (days[3], USUAL) for row in minutes_of("TCS", day, 300)],
    }
    stores = filled_store(tmp_path, rows)
    read = []
    original = stores.bars.read
    monkeypatch.setattr(
        type(stores.bars), "read", lambda _, interval, year: read.append((interval, year)) or original(interval, year)
    )
    bars = view_of(stores).bars("TCS", Interval.DAY_1, days[0], days[-1], at_s("2024-12-31 16:00"))
    assert isinstance(bars, Bars)
    assert len(bars) == len(days)
    assert sorted(read) == [(Interval.DAY_1, 2023), (Interval.DAY_1, 2024), (Interval.MIN_5, 2024)]


def test_finer_bars_are_those_that_add_up():
    assert finer_than(Interval.MIN_1) == []
    assert finer_than(Interval.MIN_5) == [Interval.MIN_1]
    assert finer_than(Interval.MIN_15) == [Interval.MIN_5, Interval.MIN_3, Interval.MIN_1]
    assert finer_than(Interval.DAY_1) == list(reversed(INTRADAY))


def test_what_is_learnt_later_of_derivatives_moves_no_earlier_close(tmp_path):
    said = [("SMALL", date(2026, 11, 19), True), ("SMALL", date(2026, 11, 23), False)]
    facts = pl.DataFrame(
        [{"symbol": symbol, "known_on": day, "has_derivatives": flag, "source": "kite"} for symbol, day, flag in said],
        schema=INSTRUMENT_SCHEMA,
    )
    days = [date(2026, 11, day) for day in (18, 19, 20, 23)]
    stores = filled_store(tmp_path, {Interval.DAY_1: [daily("SMALL", day, 5000) for day in days]})
    stores.facts.upsert_instruments(facts)
    bars = view_of(stores).bars("SMALL", Interval.DAY_1, days[0], days[-1], at_s("2026-11-23 16:00"))
    assert isinstance(bars, Bars)
    assert [(int(end) - at_s(f"{day} 15:30")) // 60 for day, end in zip(days, bars.end, strict=True)] == [0, 5, 5, 0]
    master = InstrumentMaster(facts, load_reference())
    assert [master.has_derivatives("SMALL", day) for day in days] == [False, True, True, False]
