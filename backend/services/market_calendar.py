"""The calendar with the admins' corrections in force, asked by symbol: each stock's class decides its hours."""

from collections.abc import Iterable
from datetime import date, datetime

from sqlalchemy import select

from backend.db import Sessions
from backend.domain.calendar import IST, Calendar, Override, OverrideKind, Phase, Session, YearNotRecorded
from backend.domain.calendar import square_off_at as session_square_off_at
from backend.domain.market import Exchange, StockClass
from backend.models import CalendarOverride
from contracts.market import Instrument

EXCHANGE = Exchange.NSE


class MarketCalendar:
    """Answers for the exchange Sauda trades on; `instruments` and overrides are refreshed by the trading loop."""

    def __init__(self, base: Calendar) -> None:
        self._base = base
        self._calendar = base
        self._classes: dict[str, StockClass] = {}

    def know(self, instruments: Iterable[Instrument]) -> None:
        """Learn the class of each instrument. An unknown symbol counts as closing by auction: the shorter hours."""
        self._classes = {i.symbol: StockClass.CAS if i.has_derivatives else StockClass.NON_CAS for i in instruments}

    async def refresh(self, sessions: Sessions) -> None:
        """Read the admins' corrections from the database."""
        async with sessions() as session:
            rows = (await session.scalars(select(CalendarOverride).order_by(CalendarOverride.id))).all()
        self._calendar = self._base.with_overrides(_override(row) for row in rows)

    @property
    def calendar(self) -> Calendar:
        """The plain calendar, corrections included."""
        return self._calendar

    def stock_class(self, symbol: str) -> StockClass:
        return self._classes.get(symbol, StockClass.CAS)

    def phase(self, symbol: str, now: datetime) -> Phase:
        return self._calendar.phase_at(EXCHANGE, self.stock_class(symbol), now)

    def any_continuous(self, now: datetime) -> bool:
        """Whether any class of stock trades continuously at `now`."""
        return any(self._calendar.phase_at(EXCHANGE, c, now) is Phase.CONTINUOUS for c in StockClass)

    def session(self, day: date) -> Session | None:
        """The session of `day`; None where there is none or the year is not recorded."""
        try:
            return self._calendar.session_on(EXCHANGE, day)
        except YearNotRecorded:
            return None

    def is_recorded(self, day: date) -> bool:
        return self._calendar.is_recorded(day.year) or self._calendar.record_on(EXCHANGE, day) is not None

    def square_off_at(self, symbol: str, day: date) -> datetime | None:
        session = self.session(day)
        return None if session is None else session_square_off_at(self.stock_class(symbol), session)

    def horizon_end(self, day: date, sessions: int) -> date:
        """The day on which a trade entered on `day` has lasted `sessions` sessions; at most the last recorded one."""
        end = day
        for _ in range(sessions):
            try:
                end = self._calendar.next_session_day(end, EXCHANGE)
            except YearNotRecorded:
                break
        return end

    def next_open(self, now: datetime) -> datetime | None:
        """The next start of continuous trading; None beyond the recorded years."""
        try:
            return self._calendar.next_continuous_open(EXCHANGE, StockClass.CAS, now)
        except YearNotRecorded:
            return None

    def last_finished(self, now: datetime) -> date | None:
        """The last session whose continuous trading is over; None where its year is not recorded."""
        today = now.astimezone(IST).date()
        if self.session(today) is not None and self.session_ended(now, now):
            return today
        try:
            return self._calendar.previous_session_day(today, EXCHANGE)
        except YearNotRecorded:
            return None

    def session_ended(self, placed_at: datetime, now: datetime) -> bool:
        """Whether the last continuous trading of the day an order was placed on is over."""
        placed, moment = placed_at.astimezone(IST), now.astimezone(IST)
        if moment.date() > placed.date():
            return True
        session = self.session(placed.date())
        return session is None or moment >= session.continuous_close(StockClass.NON_CAS)

    def sessions_between(self, first: date, last: date) -> list[Session]:
        days = self._calendar.sessions_between(first, last, EXCHANGE)
        return [session for day in days if (session := self._calendar.session_on(EXCHANGE, day)) is not None]


def _override(row: CalendarOverride) -> Override:
    exchange = Exchange(row.exchange) if row.exchange else None
    kind = OverrideKind(row.kind)
    author = f"admin {row.created_by}" if row.created_by else "an admin"
    if row.open_at is not None and row.close_at is not None:
        return Override(row.day, kind, row.reason, author, exchange, continuous=((row.open_at, row.close_at),))
    return Override(row.day, kind, row.reason, author, exchange)
