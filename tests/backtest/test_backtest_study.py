"""As of when a backtest is done: never later than the market's present, and as seldom another instant as can be."""

from datetime import date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.backtest.study import known_at
from backend.domain.calendar import IST
from contracts.common import Environment
from contracts.market import ClockReply

DAYS = st.dates(date(2019, 1, 1), date(2030, 1, 1))


def clock(now: str, data_through: str | None = None) -> ClockReply:
    return ClockReply(
        environment=Environment.PAPER,
        now=datetime.fromisoformat(now).replace(tzinfo=IST),
        speed=1.0,
        data_through=date.fromisoformat(data_through) if data_through else None,
    )


@pytest.mark.parametrize(
    ("last", "now", "data_through", "as_of"),
    [
        ("2023-12-29", "2026-03-17 11:00", "2026-03-16", "2026-03-01"),  # this month's models serve
        ("2026-02-28", "2026-03-17 11:00", "2026-03-16", "2026-03-01"),
        ("2026-03-02", "2026-03-17 11:00", "2026-03-16", "2026-03-17"),  # days of this month need today's
        ("2026-12-31", "2026-03-17 11:00", None, "2026-03-17"),
        ("2023-12-29", "2026-03-17 11:00", "2024-12-31", "2025-01-01"),  # bars that end long ago: for good
        ("2024-12-31", "2026-03-17 11:00", "2024-12-31", "2025-01-01"),
        ("2024-12-01", "2026-03-17 11:00", "2024-12-19", "2024-12-20"),
        ("2023-12-29", "2026-03-01 00:00", "2026-02-27", "2026-02-01"),
    ],
)
def test_the_instant_is_the_months_or_the_days(last: str, now: str, data_through: str | None, as_of: str) -> None:
    found = known_at(date.fromisoformat(last), clock(now, data_through))
    assert found == datetime.fromisoformat(as_of).replace(tzinfo=IST)


@given(last=DAYS, now=DAYS, behind=st.none() | st.integers(0, 900), hour=st.integers(0, 23))
def test_it_is_never_in_the_future_and_after_what_is_traded_where_there_is_data(
    last: date, now: date, behind: int | None, hour: int
) -> None:
    through = None if behind is None else now - timedelta(days=behind)
    told = clock(f"{now} {hour:02}:00", str(through) if through else None)
    found = known_at(last, told)
    assert found <= told.now
    assert found.astimezone(IST).time() == datetime.min.time()
    if last < min(now, through or now):
        assert found.date() > last
