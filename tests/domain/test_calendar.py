"""The calendar against what really traded, and what it answers at the edges of its record."""

import csv
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.calendar import (
    IST,
    Calendar,
    Override,
    OverrideKind,
    Phase,
    Session,
    SessionKind,
    YearNotRecorded,
    sessions_csv,
    square_off_at,
    standard_calendar,
)
from backend.domain.market import Exchange, StockClass
from backend.domain.sessions_data import CLOSURES, REGIMES, SPECIAL_SESSIONS

ROOT = Path(__file__).resolve().parents[2]
ORACLE = ROOT / ".." / "shared" / "data" / "nse_sessions_2019_2024.csv"
CALENDAR = standard_calendar()
NSE, BSE = Exchange.NSE, Exchange.BSE
CAS, NON_CAS = StockClass.CAS, StockClass.NON_CAS


def ist(day: str, clock: str) -> datetime:
    return datetime.combine(date.fromisoformat(day), time.fromisoformat(clock), IST)


def session(day: str, calendar: Calendar = CALENDAR) -> Session:
    found = calendar.session_on(NSE, date.fromisoformat(day))
    assert found is not None
    return found


def opened(day: str, **details) -> Override:
    return Override(date.fromisoformat(day), OverrideKind.OPEN, "test", "admin@example.org", **details)


def closed(day: str, **details) -> Override:
    return Override(date.fromisoformat(day), OverrideKind.CLOSED, "test", "admin@example.org", **details)


@pytest.mark.skipif(not ORACLE.exists(), reason="the folder of real market data is absent")
@pytest.mark.parametrize("exchange", list(Exchange))
def test_every_day_that_really_traded_is_a_session_and_no_other(exchange: Exchange) -> None:
    with ORACLE.open(newline="") as rows:
        traded = [date.fromisoformat(row["date"]) for row in csv.DictReader(rows)]
    assert len(traded) == 1488
    assert CALENDAR.sessions_between(date(2019, 1, 1), date(2024, 12, 31), exchange) == traded


@pytest.mark.parametrize(
    ("first", "last", "count"),
    [
        (date(2024, 1, 1), date(2024, 12, 31), 249),
        (date(2025, 1, 1), date(2025, 12, 31), 249),
        (date(2026, 1, 1), date(2026, 8, 21), 158),
        (date(2019, 1, 1), date(2026, 8, 21), 1895),
    ],
)
def test_years_hold_as_many_sessions_as_official_files_exist(first: date, last: date, count: int) -> None:
    """1,893 official files exist from 2019 to 2026-08-21; two sessions in that time have none."""
    assert len(CALENDAR.sessions_between(first, last)) == count


@pytest.mark.parametrize(("year", "count"), [(2024, 17), (2025, 14), (2026, 16)])
def test_weekday_closures_match_the_published_lists(year: int, count: int) -> None:
    """The lists count a weekday's muhurat as a holiday too."""
    muhurats = [s.day for s in SPECIAL_SESSIONS if s.kind is SessionKind.MUHURAT and s.day.weekday() < 5]
    assert len([day for day in [*muhurats, *(c.day for c in CLOSURES)] if day.year == year]) == count


def test_the_record_is_consistent() -> None:
    closures, specials = [c.day for c in CLOSURES], [s.day for s in SPECIAL_SESSIONS]
    assert all(day.weekday() < 5 for day in closures)
    assert len({*closures, *specials}) == len(closures) + len(specials)
    assert all(row.source for row in (*CLOSURES, *SPECIAL_SESSIONS, *REGIMES))
    assert [regime.valid_from for regime in REGIMES] == sorted({regime.valid_from for regime in REGIMES})


def test_an_instant_is_the_same_in_any_zone_and_a_naive_one_is_refused() -> None:
    assert CALENDAR.phase_at(NSE, CAS, datetime(2026, 11, 20, 3, 45, tzinfo=UTC)) is Phase.CONTINUOUS
    assert CALENDAR.phase_at(NSE, CAS, datetime(2026, 11, 20, 3, 44, 59, tzinfo=UTC)) is Phase.PRE_OPEN_BUFFER
    for ask in (CALENDAR.phase_at, CALENDAR.next_continuous_open):
        with pytest.raises(ValueError, match="naive"):
            ask(NSE, CAS, datetime(2026, 11, 20, 10))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("day", "opens", "closes", "kind"),
    [
        ("2019-10-27", "18:15", "19:15", SessionKind.MUHURAT),
        ("2020-11-14", "18:15", "19:15", SessionKind.MUHURAT),
        ("2021-11-04", "18:15", "19:15", SessionKind.MUHURAT),
        ("2022-10-24", "18:15", "19:15", SessionKind.MUHURAT),
        ("2023-11-12", "18:15", "19:15", SessionKind.MUHURAT),
        ("2024-11-01", "18:00", "19:00", SessionKind.MUHURAT),
        ("2025-10-21", "13:45", "14:45", SessionKind.MUHURAT),
        ("2020-02-01", "09:15", "15:30", SessionKind.SPECIAL),
        ("2024-01-20", "09:15", "15:30", SessionKind.SPECIAL),
        ("2025-02-01", "09:15", "15:30", SessionKind.SPECIAL),
        ("2026-02-01", "09:15", "15:30", SessionKind.SPECIAL),
        ("2021-02-24", "09:15", "17:00", SessionKind.SPECIAL),
    ],
)
def test_special_sessions_have_their_own_times(day: str, opens: str, closes: str, kind: SessionKind) -> None:
    found = session(day)
    assert found.kind is kind
    assert (found.continuous_open(CAS), found.continuous_close(CAS)) == (ist(day, opens), ist(day, closes))
    assert CALENDAR.phase_at(NSE, NON_CAS, ist(day, opens)) is Phase.CONTINUOUS


def test_a_muhurat_without_published_times_is_closed_until_an_admin_sets_them() -> None:
    day = "2026-11-08"
    record = CALENDAR.record_on(NSE, date.fromisoformat(day))
    assert record is not None
    assert record.kind is SessionKind.MUHURAT
    assert "not recorded" in record.source
    assert CALENDAR.session_on(NSE, date.fromisoformat(day)) is None
    evening = opened(day, continuous=((time(18), time(19)),), session_kind=SessionKind.MUHURAT)
    corrected = CALENDAR.with_overrides([evening])
    assert session(day, corrected).kind is SessionKind.MUHURAT
    phases = [
        corrected.phase_at(NSE, CAS, ist(day, clock))
        for clock in ("18:44:59", "18:45", "18:50", "18:55", "19:00", "19:05", "19:20", "19:30")
    ]
    assert phases == [
        Phase.CONTINUOUS,
        Phase.CLOSING_REFERENCE,
        Phase.CLOSING_ORDER_ENTRY,
        Phase.CLOSING_LIMIT_ONLY,
        Phase.CLOSING_MATCHING,
        Phase.CLOSING_BUFFER,
        Phase.POST_CLOSE,
        Phase.CLOSED,
    ]
    assert corrected.phase_at(NSE, NON_CAS, ist(day, "18:59:59")) is Phase.CONTINUOUS


def test_an_unrecorded_year_is_closed_and_asking_about_it_says_so() -> None:
    assert CALENDAR.is_recorded(2026)
    assert not CALENDAR.is_recorded(2027)
    assert CALENDAR.phase_at(NSE, CAS, ist("2027-01-04", "10:00")) is Phase.CLOSED
    monday = date(2027, 1, 4)
    asks = [
        lambda: CALENDAR.session_on(NSE, monday),
        lambda: CALENDAR.is_trading_day(monday),
        lambda: CALENDAR.next_session_day(date(2026, 12, 31)),
        lambda: CALENDAR.add_sessions(date(2026, 12, 30), 2),
        lambda: CALENDAR.sessions_between(date(2026, 12, 1), monday),
        lambda: CALENDAR.next_continuous_open(NSE, CAS, ist("2026-12-31", "10:00")),
        lambda: CALENDAR.settlement_day(date(2026, 12, 31)),
    ]
    for ask in asks:
        with pytest.raises(YearNotRecorded, match=r"2027.*an admin can add the days"):
            ask()
    with pytest.raises(YearNotRecorded, match="2018"):
        CALENDAR.previous_session_day(date(2019, 1, 1))


def test_a_new_year_opens_day_by_day() -> None:
    calendar = CALENDAR.with_overrides([closed("2027-01-01"), opened("2027-01-04", session_kind=SessionKind.NORMAL)])
    assert calendar.next_session_day(date(2026, 12, 31)) == date(2027, 1, 4)
    assert calendar.phase_at(NSE, CAS, ist("2027-01-04", "10:00")) is Phase.CONTINUOUS
    assert not calendar.is_trading_day(date(2027, 1, 1))
    with pytest.raises(YearNotRecorded):
        calendar.is_trading_day(date(2027, 1, 5))
    assert calendar.phase_at(NSE, CAS, ist("2027-01-05", "10:00")) is Phase.CLOSED


def test_a_year_can_be_declared_complete() -> None:
    calendar = CALENDAR.with_overrides([closed("2027-01-26")]).with_years([2027])
    assert calendar.is_trading_day(date(2027, 1, 1))
    assert not calendar.is_trading_day(date(2027, 1, 2))
    assert not calendar.is_trading_day(date(2027, 1, 26))


def test_overrides_correct_a_day_of_one_exchange_or_both_and_the_last_one_holds() -> None:
    friday = date(2026, 11, 20)
    calendar = CALENDAR.with_overrides([closed("2026-11-20", exchange=BSE)])
    assert calendar.is_trading_day(friday, NSE)
    assert not calendar.is_trading_day(friday, BSE)
    assert CALENDAR.is_trading_day(friday, BSE)
    both = calendar.with_overrides([closed("2026-11-20"), opened("2026-11-20", continuous=((time(9, 15), time(12)),))])
    short = both.session_on(BSE, friday)
    assert short is not None
    assert short.kind is SessionKind.SPECIAL
    assert "admin@example.org" in short.source
    assert short.continuous_close(NON_CAS) == ist("2026-11-20", "12:00")
    assert short.continuous_close(CAS) == ist("2026-11-20", "11:45")


@pytest.mark.parametrize(
    "continuous",
    [
        (),
        ((time(10), time(10)),),
        ((time(15, 30), time(9, 15)),),
        ((time(10), time(10, 15)),),
        ((time(9, 15), time(11)), (time(11, 10), time(12))),
        ((time(11, 30), time(12, 30)), (time(9, 15), time(10))),
        ((time(0, 5), time(1)),),
        ((time(23), time(23, 45)),),
    ],
)
def test_an_override_whose_times_hold_no_session_is_refused(continuous: tuple[tuple[time, time], ...]) -> None:
    with pytest.raises(ValueError, match=r"2026-11-22"):
        CALENDAR.with_overrides([opened("2026-11-22", continuous=continuous)])


def test_walking_over_sessions() -> None:
    assert CALENDAR.next_session_day(date(2026, 1, 30)) == date(2026, 2, 1)
    assert CALENDAR.previous_session_day(date(2026, 2, 2)) == date(2026, 2, 1)
    assert CALENDAR.next_session_day(date(2026, 11, 7)) == date(2026, 11, 9)
    assert CALENDAR.add_sessions(date(2026, 10, 1), 1) == date(2026, 10, 5)
    assert CALENDAR.add_sessions(date(2026, 10, 1), 0) == date(2026, 10, 1)
    assert CALENDAR.add_sessions(date(2026, 10, 5), -1) == date(2026, 10, 1)
    assert CALENDAR.sessions_between(date(2026, 10, 1), date(2026, 10, 5)) == [date(2026, 10, 1), date(2026, 10, 5)]
    assert CALENDAR.sessions_between(date(2026, 10, 5), date(2026, 10, 1)) == []


@given(st.dates(date(2019, 3, 1), date(2026, 9, 30)), st.integers(1, 40))
def test_walks_agree_with_the_list_of_sessions(day: date, n: int) -> None:
    target = CALENDAR.add_sessions(day, n)
    assert CALENDAR.sessions_between(day + timedelta(days=1), target)[n - 1 :] == [target]
    if CALENDAR.is_trading_day(day):
        assert CALENDAR.add_sessions(target, -n) == day


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        (("2026-11-20", "09:14:59"), ("2026-11-20", "09:15")),
        (("2026-11-20", "09:15:00"), ("2026-11-23", "09:15")),
        (("2026-11-20", "18:00:00"), ("2026-11-23", "09:15")),
        (("2026-01-31", "12:00:00"), ("2026-02-01", "09:15")),
        (("2025-10-20", "16:00:00"), ("2025-10-21", "13:45")),
    ],
)
def test_the_next_open_is_strictly_later(now: tuple[str, str], opens: tuple[str, str]) -> None:
    assert CALENDAR.next_continuous_open(NSE, NON_CAS, ist(*now)) == ist(*opens)


@pytest.mark.parametrize(
    ("trade_day", "settles"),
    [
        (date(2026, 11, 19), date(2026, 11, 20)),
        (date(2026, 11, 20), date(2026, 11, 23)),
        (date(2026, 1, 30), date(2026, 2, 2)),
        (date(2026, 2, 18), date(2026, 2, 20)),
        (date(2026, 3, 18), date(2026, 3, 20)),
        (date(2026, 3, 30), date(2026, 4, 2)),
        (date(2026, 8, 25), date(2026, 8, 27)),
        (date(2025, 1, 31), date(2025, 2, 3)),
        (date(2025, 10, 20), date(2025, 10, 23)),
        (date(2023, 1, 25), date(2023, 1, 30)),
        (date(2023, 1, 27), date(2023, 1, 30)),
        (date(2019, 1, 1), date(2019, 1, 3)),
    ],
)
def test_trades_settle_on_settlement_days(trade_day: date, settles: date) -> None:
    assert CALENDAR.settlement_day(trade_day) == settles


def test_settlement_needs_a_trade_day_and_obeys_an_admins_holiday() -> None:
    with pytest.raises(ValueError, match="no session on 2026-11-21"):
        CALENDAR.settlement_day(date(2026, 11, 21))
    holiday = Override(date(2026, 11, 20), OverrideKind.SETTLEMENT_HOLIDAY, "banks shut", "admin@example.org", NSE)
    calendar = CALENDAR.with_overrides([holiday])
    assert calendar.is_trading_day(date(2026, 11, 20))
    assert calendar.settlement_day(date(2026, 11, 19), NSE) == date(2026, 11, 23)
    assert calendar.settlement_day(date(2026, 11, 19), BSE) == date(2026, 11, 20)


@pytest.mark.parametrize(
    ("day", "stock_class", "clock"),
    [
        ("2026-07-31", CAS, "15:15"),
        ("2026-07-31", NON_CAS, "15:15"),
        ("2026-08-03", CAS, "15:05"),
        ("2026-08-03", NON_CAS, "15:15"),
        ("2026-02-01", CAS, "15:15"),
        ("2024-03-02", CAS, "12:20"),
        ("2025-10-21", NON_CAS, "14:35"),
        ("2021-02-24", CAS, "16:50"),
    ],
)
def test_intraday_positions_are_squared_off_before_continuous_trading_ends(
    day: str, stock_class: StockClass, clock: str
) -> None:
    assert square_off_at(stock_class, session(day)) == ist(day, clock)


def test_the_shipped_table_is_the_calendars_own() -> None:
    shipped = (ROOT / "data_service" / "reference" / "sessions.csv").read_text(encoding="utf-8")
    assert shipped == sessions_csv()


def test_the_table_lists_each_session_once_with_its_closes() -> None:
    rows = {row["date"]: row for row in csv.DictReader(sessions_csv().splitlines())}
    assert len(rows) == len(sessions_csv().splitlines()) - 1 == 1983
    assert rows["2026-08-03"] == {
        "date": "2026-08-03",
        "open": "09:15",
        "close_cas": "15:15",
        "close_other": "15:30",
        "kind": "normal",
    }
    assert tuple(rows["2026-07-31"].values())[1:] == ("09:15", "15:30", "15:30", "normal")
    assert tuple(rows["2024-03-02"].values())[1:] == ("09:15", "12:30", "12:30", "special")
    assert tuple(rows["2025-10-21"].values())[1:] == ("13:45", "14:45", "14:45", "muhurat")
    assert "2026-11-08" not in rows
