"""Reading the calendar, tick sizes and bands."""

from datetime import date

import numpy as np
import pytest
from data_market import at_s, short_calendar
from hypothesis import given
from hypothesis import strategies as st

from data_service.sessions import SessionsFileError, ist_instant, load_sessions
from data_service.ticks import bands_paise, tick_paise

HEADER = "date,open,close_cas,close_other,kind\n"


def calendar_file(folder, text):
    path = folder / "sessions.csv"
    path.write_text(text)
    return path


def test_reads_sessions(tmp_path):
    path = calendar_file(
        tmp_path, HEADER + "2026-08-03,09:15,15:15,15:30,normal\n2026-11-08,18:00,18:45,19:00,muhurat\n"
    )
    first, second = load_sessions(path).all
    assert (first.open_s, first.close_s(True), first.close_s(False)) == (
        at_s("2026-08-03 09:15"),
        at_s("2026-08-03 15:15"),
        at_s("2026-08-03 15:30"),
    )
    assert first.official_close_s(True) == at_s("2026-08-03 15:35")
    assert first.official_close_s(False) == at_s("2026-08-03 15:30")
    assert second.kind == "muhurat"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("date,open\n", "line 1"),
        (HEADER, "no sessions"),
        (HEADER + "2026-08-03,09:15,15:15\n", "line 2"),
        (HEADER + "2026-08-03,09:15,15:35,15:30,normal\n", "line 2: times"),
        (HEADER + "2026-08-03,09:15,15:15,25:30,normal\n", "line 2: 25:30"),
        (
            HEADER + "2026-08-04,09:15,15:15,15:30,n\n2026-08-03,09:15,15:15,15:30,n\n",
            "line 3: 2026-08-03 does not come",
        ),
    ],
)
def test_bad_calendar_names_its_line(tmp_path, text, complaint):
    with pytest.raises(SessionsFileError, match=complaint):
        load_sessions(calendar_file(tmp_path, text))


def test_absent_calendar(tmp_path):
    with pytest.raises(SessionsFileError, match="No such file"):
        load_sessions(tmp_path / "none.csv")


def test_packaged_calendar_knows_the_closing_auction_and_special_days():
    sessions = load_sessions()
    assert sessions.by_day[date(2026, 8, 3)].close_s(True) == at_s("2026-08-03 15:15")
    assert sessions.by_day[date(2026, 7, 31)].close_s(True) == at_s("2026-07-31 15:30")
    assert sessions.by_day[date(2024, 11, 1)].open_s == at_s("2024-11-01 18:00")
    assert date(2024, 1, 26) not in sessions.by_day


def test_days_outside_the_calendar_are_taken_as_customary():
    unknown = short_calendar().usual(date(2007, 3, 1))
    assert (unknown.open_s, unknown.close_s(True)) == (at_s("2007-03-01 09:15"), at_s("2007-03-01 15:30"))


@given(st.integers(min_value=0, max_value=4_000_000_000))
def test_instants_round_trip(epoch_s):
    assert int(ist_instant(epoch_s).timestamp()) == epoch_s


@pytest.mark.parametrize(
    ("day", "price", "tick"),
    [
        (date(2024, 6, 9), 100_00, 5),
        (date(2024, 6, 10), 249_99, 1),
        (date(2024, 6, 10), 250_00, 5),
        (date(2025, 4, 14), 6_000_00, 5),
        (date(2025, 4, 15), 249_99, 1),
        (date(2025, 4, 15), 1_000_00, 5),
        (date(2025, 4, 15), 1_000_05, 10),
        (date(2025, 4, 15), 5_000_10, 50),
        (date(2025, 4, 15), 10_000_50, 100),
        (date(2025, 4, 15), 20_001_00, 500),
    ],
)
def test_tick_sizes_by_date_and_price(day, price, tick):
    assert tick_paise(np.array([price]), day).tolist() == [tick]


@given(st.integers(min_value=500, max_value=10**8), st.sampled_from([1, 5, 10, 50, 100]), st.sampled_from([5, 10, 20]))
def test_bands_lie_on_the_tick_and_within_the_per_cent(close, tick, band_pct):
    low, high = (int(band[0]) for band in bands_paise(np.array([close]), np.array([tick]), band_pct))
    assert low % tick == high % tick == 0
    assert low * 100 >= close * (100 - band_pct) > (low - tick) * 100
    assert high * 100 <= close * (100 + band_pct) < (high + tick) * 100 or high == tick
