"""A session's phases at the exact second each regime changes them."""

from datetime import date, datetime, time, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.calendar import IST, Phase, standard_calendar
from backend.domain.market import Exchange, StockClass

CALENDAR = standard_calendar()
NSE = Exchange.NSE
CAS, NON_CAS = StockClass.CAS, StockClass.NON_CAS
recorded_days = st.dates(date(2019, 1, 1), date(2026, 12, 31))


def ist(day: str, clock: str) -> datetime:
    return datetime.combine(date.fromisoformat(day), time.fromisoformat(clock), IST)


BEFORE_CAS = [
    ("08:59:59", Phase.CLOSED),
    ("09:00:00", Phase.PRE_OPEN_ORDER_ENTRY),
    ("09:07:59", Phase.PRE_OPEN_ORDER_ENTRY),
    ("09:08:00", Phase.PRE_OPEN_MATCHING),
    ("09:12:00", Phase.PRE_OPEN_BUFFER),
    ("09:14:59", Phase.PRE_OPEN_BUFFER),
    ("09:15:00", Phase.CONTINUOUS),
    ("15:29:59", Phase.CONTINUOUS),
    ("15:30:00", Phase.CLOSED_INTERVAL),
    ("15:40:00", Phase.POST_CLOSE),
    ("15:59:59", Phase.POST_CLOSE),
    ("16:00:00", Phase.CLOSED),
]
AUCTION = [
    ("09:15:00", Phase.CONTINUOUS),
    ("15:14:59", Phase.CONTINUOUS),
    ("15:15:00", Phase.CLOSING_REFERENCE),
    ("15:20:00", Phase.CLOSING_ORDER_ENTRY),
    ("15:24:59", Phase.CLOSING_ORDER_ENTRY),
    ("15:25:00", Phase.CLOSING_LIMIT_ONLY),
    ("15:29:59", Phase.CLOSING_LIMIT_ONLY),
    ("15:30:00", Phase.CLOSING_MATCHING),
    ("15:35:00", Phase.CLOSING_BUFFER),
    ("15:50:00", Phase.POST_CLOSE),
    ("15:59:59", Phase.POST_CLOSE),
    ("16:00:00", Phase.CLOSED),
]
NO_AUCTION = [
    ("15:29:59", Phase.CONTINUOUS),
    ("15:30:00", Phase.CLOSED_INTERVAL),
    ("15:49:59", Phase.CLOSED_INTERVAL),
    ("15:50:00", Phase.POST_CLOSE),
    ("16:00:00", Phase.CLOSED),
]
NEW_PRE_OPEN = [
    ("08:59:59", Phase.CLOSED),
    ("09:00:00", Phase.PRE_OPEN_ORDER_ENTRY),
    ("09:04:59", Phase.PRE_OPEN_ORDER_ENTRY),
    ("09:05:00", Phase.PRE_OPEN_LIMIT_ONLY),
    ("09:10:00", Phase.PRE_OPEN_MATCHING),
    ("09:12:00", Phase.PRE_OPEN_BUFFER),
    ("09:15:00", Phase.CONTINUOUS),
]
OLD_PRE_OPEN = BEFORE_CAS[:7]


@pytest.mark.parametrize("exchange", list(Exchange))
@pytest.mark.parametrize(
    ("day", "stock_class", "expected"),
    [
        ("2026-07-31", CAS, BEFORE_CAS),
        ("2026-07-31", NON_CAS, BEFORE_CAS),
        ("2019-01-01", CAS, BEFORE_CAS),
        ("2026-08-03", CAS, OLD_PRE_OPEN + AUCTION),
        ("2026-08-03", NON_CAS, OLD_PRE_OPEN + NO_AUCTION),
        ("2026-09-04", CAS, OLD_PRE_OPEN + AUCTION),
        ("2026-09-07", CAS, NEW_PRE_OPEN + AUCTION),
        ("2026-09-07", NON_CAS, NEW_PRE_OPEN + NO_AUCTION),
        ("2026-12-31", CAS, NEW_PRE_OPEN + AUCTION),
    ],
)
def test_phases_at_the_exact_second(
    exchange: Exchange, day: str, stock_class: StockClass, expected: list[tuple[str, Phase]]
) -> None:
    assert [(clock, CALENDAR.phase_at(exchange, stock_class, ist(day, clock))) for clock, _ in expected] == expected


@given(recorded_days, st.sampled_from(list(StockClass)))
def test_a_sessions_phases_adjoin_and_lie_inside_its_day(day: date, stock_class: StockClass) -> None:
    found = CALENDAR.session_on(NSE, day)
    if found is None:
        assert not CALENDAR.is_trading_day(day)
        return
    windows = found.windows(stock_class)
    assert all(window.start < window.end for window in windows)
    assert all(one.end == other.start for one, other in pairwise(windows))
    assert {window.start.date() for window in windows} == {day} == {windows[-1].end.date()}
    for window in windows:
        assert CALENDAR.phase_at(NSE, stock_class, window.start) is window.phase
        assert CALENDAR.phase_at(NSE, stock_class, window.end - timedelta(microseconds=1)) is window.phase
    assert found.source


@pytest.mark.parametrize("day", ["2024-03-02", "2024-05-18"])
def test_the_disaster_recovery_days_trade_in_two_windows(day: str) -> None:
    found = CALENDAR.session_on(NSE, date.fromisoformat(day))
    assert found is not None
    windows = [(w.start.time(), w.end.time()) for w in found.continuous(CAS)]
    assert windows == [(time(9, 15), time(10)), (time(11, 30), time(12, 30))]
    phases = [
        CALENDAR.phase_at(NSE, CAS, ist(day, clock)) for clock in ("09:59:59", "10:00", "11:15", "11:30", "12:30")
    ]
    assert phases == [
        Phase.CONTINUOUS,
        Phase.CLOSED_INTERVAL,
        Phase.PRE_OPEN_ORDER_ENTRY,
        Phase.CONTINUOUS,
        Phase.CLOSED_INTERVAL,
    ]
    assert CALENDAR.next_continuous_open(NSE, CAS, ist(day, "09:30")) == ist(day, "11:30")
