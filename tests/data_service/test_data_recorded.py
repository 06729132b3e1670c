"""Recorded bars: quotes of the finest interval, splits on their day, fresh imports seen, the future unseen."""

from datetime import date
from decimal import Decimal

import pytest
from data_market import SHARED_DATA, at_s, daily, filled_store, five_minutes, frame, session, short_calendar, weekdays
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.market import Interval, Quote
from data_service.encode import series_columns
from data_service.imports.load import import_file
from data_service.instruments import load_reference
from data_service.providers.recorded import RecordedMarket
from data_service.sessions import load_sessions
from data_service.store.stores import Stores, embedded
from data_service.views import Missing

CALENDAR = short_calendar()
MONDAY, TUESDAY, WEDNESDAY = date(2024, 3, 18), date(2024, 3, 19), date(2024, 3, 20)
ROWS = {
    Interval.DAY_1: [daily("TCS", MONDAY, 400_000), daily("TCS", TUESDAY, 402_000), daily("SMALL", TUESDAY, 20_000)],
    Interval.MIN_5: five_minutes("TCS", WEDNESDAY, [403_000, 404_500, 404_000, 405_000]),
}


def market(store: Stores) -> RecordedMarket:
    return RecordedMarket(store, CALENDAR, load_reference())


@pytest.fixture
def view(tmp_path):
    return market(filled_store(tmp_path, ROWS)).view()


def test_a_quote_is_of_the_last_ended_bar_of_the_finest_interval(view):
    quote = view.quote("TCS", at_s("2024-03-20 09:29:59"))
    assert quote.as_of.isoformat() == "2024-03-20T09:25:00+05:30"
    assert (quote.last, quote.previous_close) == (Decimal("4045.00"), Decimal("4020.00"))
    assert (quote.open, quote.high, quote.low) == (Decimal("4030.00"), Decimal("4045.05"), Decimal("4029.95"))
    assert (quote.volume, quote.bar_volume) == (2001, 1001)
    assert (quote.lower_band, quote.upper_band) == (Decimal("3618.00"), Decimal("4422.00"))
    assert quote.bid < quote.last < quote.ask


def test_a_five_minute_bar_is_known_the_second_it_ends(view):
    assert view.quote("TCS", at_s("2024-03-20 09:19:59")).last == Decimal("4020.00")
    assert view.quote("TCS", at_s("2024-03-20 09:20")).last == Decimal("4030.00")


def test_a_daily_bar_is_known_at_its_close(view):
    before, after = (view.quote("TCS", at_s(f"2024-03-19 15:{minute}")) for minute in ("29", "30"))
    assert isinstance(before, Missing)
    assert (after.last, after.previous_close) == (Decimal("4020.00"), Decimal("4000.00"))
    assert len(view.bars("TCS", Interval.DAY_1, MONDAY, TUESDAY, at_s("2024-03-19 15:29"))) == 1
    assert len(view.bars("TCS", Interval.DAY_1, MONDAY, TUESDAY, at_s("2024-03-19 15:30"))) == 2


def test_a_daily_bar_with_a_closing_auction_is_known_when_it_is_matched(tmp_path):
    day = CALENDAR.all[-1].day
    view = market(filled_store(tmp_path, {Interval.DAY_1: [daily("TCS", day, 100), daily("SMALL", day, 100)]})).view()
    known = {
        (symbol, minute): not isinstance(
            view.bars(symbol, Interval.DAY_1, day, day, at_s(f"{day} 15:{minute}")), Missing
        )
        for symbol in ("TCS", "SMALL")
        for minute in (29, 30, 34, 35)
    }
    assert [known["TCS", minute] for minute in (29, 30, 34, 35)] == [False, False, False, True]
    assert [known["SMALL", minute] for minute in (29, 30, 34, 35)] == [False, True, True, True]


def test_shares_without_known_derivatives_have_the_fixed_band(tmp_path):
    rows = {Interval.DAY_1: [daily("SMALL", MONDAY, 10_000), daily("SMALL", TUESDAY, 10_100)]}
    view = market(filled_store(tmp_path, rows)).view()
    quote = view.quote("SMALL", at_s("2024-03-19 16:00"))
    assert (quote.lower_band, quote.upper_band) == (Decimal("80.00"), Decimal("120.00"))
    (instrument,) = view.instruments(at_s("2024-03-19 16:00"))
    assert (instrument.has_derivatives, instrument.band_pct) == (False, 20)
    assert instrument.tick_size_rupees == Decimal("0.05")


def test_a_split_today_scales_the_previous_close(tmp_path):
    rows = {Interval.DAY_1: [daily("TCS", MONDAY, 400_000)], Interval.MIN_5: five_minutes("TCS", TUESDAY, [80_000])}
    view = market(filled_store(tmp_path, rows, [("TCS", TUESDAY, 0.2), ("TCS", WEDNESDAY, 0.5)])).view()
    assert view.quote("TCS", at_s("2024-03-19 09:20")).previous_close == Decimal("800.00")


def test_the_official_close_goes_before_the_last_intraday_close(tmp_path):
    rows = {
        Interval.DAY_1: [daily("TCS", MONDAY, 400_000)],
        Interval.MIN_5: five_minutes("TCS", MONDAY, [399_000]) + five_minutes("TCS", TUESDAY, [401_000]),
    }
    view = market(filled_store(tmp_path, rows)).view()
    assert view.quote("TCS", at_s("2024-03-19 09:20")).previous_close == Decimal("4000.00")


def test_a_newer_intraday_close_goes_before_an_older_official_one(tmp_path):
    rows = {
        Interval.DAY_1: [daily("TCS", MONDAY, 400_000)],
        Interval.MIN_5: five_minutes("TCS", TUESDAY, [399_000]) + five_minutes("TCS", WEDNESDAY, [401_000]),
    }
    view = market(filled_store(tmp_path, rows)).view()
    assert view.quote("TCS", at_s("2024-03-20 09:20")).previous_close == Decimal("3990.00")


def test_bars_run_over_years(tmp_path):
    rows = {
        Interval.DAY_1: [
            daily("TCS", day, 100_000 + place) for place, day in enumerate(weekdays(date(2022, 12, 28), 280))
        ]
    }
    view = market(filled_store(tmp_path, rows)).view()
    bars = view.bars("TCS", Interval.DAY_1, date(2022, 12, 30), date(2024, 1, 2), at_s("2024-06-01 00:00"))
    assert bars.close.tolist() == list(range(100_002, 100_002 + len(bars)))
    assert len(bars) == 263


def test_a_running_service_sees_an_import(tmp_path):
    recorded = market(embedded(tmp_path))
    as_of_s = at_s("2024-03-19 16:00")
    assert isinstance(recorded.view().quote("TCS", as_of_s), Missing)
    first = filled_store(tmp_path, ROWS) and recorded.view()
    assert first.quote("TCS", as_of_s).last == Decimal("4020.00")
    assert recorded.view() is first
    embedded(tmp_path).bars.upsert(Interval.DAY_1, frame([daily("TCS", TUESDAY, 402_500)]))
    assert recorded.view().quote("TCS", as_of_s).last == Decimal("4025.00")


def everything(view, as_of_s: int) -> str:
    answers = [view.instruments(as_of_s), view.days(as_of_s)]
    for symbol in ("TCS", "SMALL", "LATER"):
        quote = view.quote(symbol, as_of_s)
        answers.append(quote.model_dump_json() if isinstance(quote, Quote) else quote)
        for interval in Interval:
            bars = view.bars(symbol, interval, date(2023, 1, 1), date(2025, 1, 1), as_of_s)
            answers.append(bars if isinstance(bars, Missing) else series_columns({symbol: bars}))
    return repr(answers)


DAYS = weekdays(date(2023, 12, 21), 12)
closes = st.lists(st.integers(1000, 900_000), min_size=12, max_size=12)


@settings(max_examples=40, deadline=None)
@given(
    tcs=closes,
    other=closes,
    later=closes,
    cut=st.integers(0, 11),
    second=st.integers(-3600, 30_000),
    absent=st.booleans(),
)
def test_nothing_after_as_of_shows(tmp_path_factory, tcs, other, later, cut, second, absent):
    """Two stores agree on every bar that had ended by as_of and on nothing else."""
    as_of_s = session(DAYS[cut]).open_s + second

    def store(future: list[int], listed_later: bool) -> Stores:
        def close(day_place: int, end_s: int) -> int:
            return tcs[day_place] if end_s <= as_of_s else future[day_place]

        days = {day: place for place, day in enumerate(DAYS)}
        bars = [daily("TCS", day, close(place, session(day).close_other_s) + 100) for day, place in days.items()]
        fives: list[tuple] = []
        for day, place in days.items():
            start_s = session(day).open_s
            for number in range(4):
                end_s = start_s + 300 * (number + 1)
                price = close(place, end_s) + number
                fives.append(("SMALL", end_s - 300, price, price + 5, price - 5, price, 10))
        if listed_later:
            bars += [daily("LATER", day, 5000) for day in DAYS if session(day).close_other_s > as_of_s]
        return filled_store(tmp_path_factory.mktemp("store"), {Interval.DAY_1: bars, Interval.MIN_5: fives})

    first, second_store = store(other, True), store(later, not absent)
    assert everything(market(first).view(), as_of_s) == everything(market(second_store).view(), as_of_s)


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared market data folder is absent")
def test_the_real_replay_set(tmp_path):
    store = embedded(tmp_path)
    for name in (
        "nse_daily_unadjusted_2019_2024.parquet",
        "nse_5min_10stocks_2024-03-20_2024-04-19.parquet",
        "split_bonus_factors_2019_2024.csv",
    ):
        import_file(store, load_sessions(), SHARED_DATA / name, now_s=at_s("2026-01-01 00:00"))
    view = RecordedMarket(store, load_sessions(), load_reference()).view()
    quote = view.quote("RELIANCE", at_s("2024-04-03 10:31"))
    assert (quote.last, quote.previous_close) == (Decimal("2956.75"), Decimal("2973.90"))
    assert quote.as_of.isoformat() == "2024-04-03T10:30:00+05:30"
    missing = [
        symbol for symbol in load_reference() if isinstance(view.quote(symbol, at_s("2024-04-03 10:31")), Missing)
    ]
    assert missing == []
    bars = view.bars("RELIANCE", Interval.DAY_1, date(2019, 1, 1), date(2024, 12, 31), at_s("2024-12-31 16:00"))
    assert len(bars) > 1450
