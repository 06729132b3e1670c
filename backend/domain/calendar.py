"""When the exchanges trade and settle: the recorded days plus an admin's corrections; `now` is always an argument."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache

from backend.domain.market import Exchange, StockClass
from backend.domain.sessions import (
    IST,
    STANDARD_END,
    STANDARD_WINDOWS,
    ClockWindow,
    DayRecord,
    Phase,
    PhaseWindow,
    Regime,
    Session,
    SessionKind,
    build_session,
)
from backend.domain.sessions_data import (
    CLOSURES,
    REGIMES,
    SETTLEMENT_CYCLES,
    SETTLEMENT_HOLIDAYS,
    SPECIAL_SESSIONS,
    YEARS_RECORDED,
)

__all__ = [
    "IST",
    "Calendar",
    "DayRecord",
    "Override",
    "OverrideKind",
    "Phase",
    "PhaseWindow",
    "Session",
    "SessionKind",
    "YearNotRecorded",
    "sessions_csv",
    "square_off_at",
    "standard_calendar",
]

_ONE_DAY = timedelta(days=1)
_WEEKDAYS = 5


class YearNotRecorded(LookupError):  # noqa: N818 (it names a state of the record, not a fault)
    """The calendar holds no published list for the year of `day`, so it cannot tell sessions from holidays."""

    def __init__(self, day: date) -> None:
        super().__init__(
            f"{day}: no holiday list is recorded for {day.year}, so the market counts as closed; "
            f"an admin can add the days of {day.year} to the calendar"
        )
        self.year = day.year


class OverrideKind(StrEnum):
    """What an admin says of a day: no trading, trading, or trading without settlement."""

    CLOSED = "closed"
    OPEN = "open"
    SETTLEMENT_HOLIDAY = "settlement_holiday"


@dataclass(frozen=True, slots=True)
class Override:
    """An admin's addition or correction of one day; `exchange` None is both exchanges.

    OPEN takes the published continuous windows (IST clock times, the standard day where left out); the pre-open, the
    closing auction and the post-close are laid around them by the regime in force.
    """

    day: date
    kind: OverrideKind
    reason: str
    author: str
    exchange: Exchange | None = None
    continuous: tuple[ClockWindow, ...] = STANDARD_WINDOWS
    session_kind: SessionKind = SessionKind.SPECIAL

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        return tuple(Exchange) if self.exchange is None else (self.exchange,)

    def record(self) -> DayRecord:
        """The day as this override leaves it."""
        source = f"set by {self.author}"
        if self.kind is OverrideKind.CLOSED:
            return DayRecord((), self.reason, source)
        return DayRecord(self.continuous, self.reason, source, self.session_kind)


@dataclass(frozen=True, eq=False)
class Calendar:
    """The sessions of both exchanges. Immutable: corrections give a new calendar. Days are IST dates."""

    years: frozenset[int]
    records: Mapping[tuple[Exchange, date], DayRecord]
    settlement_holidays: frozenset[tuple[Exchange, date]]

    def with_overrides(self, overrides: Iterable[Override]) -> "Calendar":
        """A calendar with `overrides` applied in order: the last one for an exchange and day holds.

        Raises ValueError where an override's times cannot hold the phases of a session.
        """
        records, settlement_holidays = dict(self.records), set(self.settlement_holidays)
        for override in overrides:
            for exchange in override.exchanges:
                if override.kind is OverrideKind.SETTLEMENT_HOLIDAY:
                    settlement_holidays.add((exchange, override.day))
                    continue
                records[exchange, override.day] = record = override.record()
                if override.kind is OverrideKind.OPEN:
                    _session(exchange, override.day, record)
        return replace(self, records=records, settlement_holidays=frozenset(settlement_holidays))

    def with_years(self, years: Iterable[int]) -> "Calendar":
        """A calendar in which `years` count as recorded: their holidays are all in, other weekdays are sessions."""
        return replace(self, years=self.years | frozenset(years))

    def is_recorded(self, year: int) -> bool:
        """Whether the whole year's holiday list is in. Where it is not, callers should say so loudly."""
        return year in self.years

    def record_on(self, exchange: Exchange, day: date) -> DayRecord | None:
        """Why `day` is not an ordinary weekday or weekend, or None."""
        return self.records.get((exchange, day))

    def session_on(self, exchange: Exchange, day: date) -> Session | None:
        """The session of `day`, or None where there is none. Raises YearNotRecorded."""
        record = self.records.get((exchange, day))
        if record is not None:
            return _session(exchange, day, record) if record.continuous else None
        if day.year not in self.years:
            raise YearNotRecorded(day)
        return None if day.weekday() >= _WEEKDAYS else _session(exchange, day, _ORDINARY)

    def phase_at(self, exchange: Exchange, stock_class: StockClass, now: datetime) -> Phase:
        """The phase at `now` (aware), CLOSED in a year that is not recorded. Raises ValueError for a naive `now`."""
        now = _ist(now)
        try:
            session = self.session_on(exchange, now.date())
        except YearNotRecorded:
            return Phase.CLOSED
        return Phase.CLOSED if session is None else session.phase_at(now, stock_class)

    def is_trading_day(self, day: date, exchange: Exchange = Exchange.NSE) -> bool:
        """Whether `day` has a session, however short. Raises YearNotRecorded."""
        return self.session_on(exchange, day) is not None

    def next_session_day(self, day: date, exchange: Exchange = Exchange.NSE) -> date:
        """The first session day after `day`. Raises YearNotRecorded where it would lie beyond the record."""
        return next(self._session_days(day + _ONE_DAY, _ONE_DAY, exchange))

    def previous_session_day(self, day: date, exchange: Exchange = Exchange.NSE) -> date:
        """The last session day before `day`. Raises YearNotRecorded where it would lie before the record."""
        return next(self._session_days(day - _ONE_DAY, -_ONE_DAY, exchange))

    def add_sessions(self, day: date, n: int, exchange: Exchange = Exchange.NSE) -> date:
        """The `n`-th session day after `day` (before it where `n` < 0); `day` itself for 0. Raises YearNotRecorded."""
        step = self.next_session_day if n > 0 else self.previous_session_day
        for _ in range(abs(n)):
            day = step(day, exchange)
        return day

    def sessions_between(self, first: date, last: date, exchange: Exchange = Exchange.NSE) -> list[date]:
        """The session days of first..last, both inclusive, oldest first. Raises YearNotRecorded."""
        days = (first + timedelta(days=offset) for offset in range((last - first).days + 1))
        return [day for day in days if self._has_session(exchange, day)]

    def next_continuous_open(self, exchange: Exchange, stock_class: StockClass, now: datetime) -> datetime:
        """The first start of continuous trading strictly after `now` (aware), in IST.

        Raises YearNotRecorded beyond the record and ValueError for a naive `now`.
        """
        now = _ist(now)
        for day in self._session_days(now.date(), _ONE_DAY, exchange):
            session = self.session_on(exchange, day)
            opens = [window.start for window in session.continuous(stock_class)] if session else []
            if later := [start for start in opens if start > now]:
                return later[0]
        raise AssertionError("unreachable: the walk over days ends only by YearNotRecorded")

    def settlement_day(self, trade_day: date, exchange: Exchange = Exchange.NSE) -> date:
        """When a trade of `trade_day` settles: T+1 (T+2 until 2023-01-26), counted in settlement days.

        Settlement holidays do not count, nor do weekend and muhurat sessions, when banks are shut. Raises ValueError
        where `trade_day` has no session, and YearNotRecorded. Source: SETTLEMENT_CYCLES, SETTLEMENT_HOLIDAYS.
        """
        if not self.is_trading_day(trade_day, exchange):
            raise ValueError(f"there is no session on {trade_day} whose trades could settle")
        days = next(cycle.days for cycle in reversed(SETTLEMENT_CYCLES) if cycle.valid_from <= trade_day)
        settling = (
            d for d in self._session_days(trade_day + _ONE_DAY, _ONE_DAY, exchange) if self._settles(exchange, d)
        )
        return [next(settling) for _ in range(days)][-1]

    def _settles(self, exchange: Exchange, day: date) -> bool:
        session = self.session_on(exchange, day)
        if session is None or session.kind is SessionKind.MUHURAT or day.weekday() >= _WEEKDAYS:
            return False
        return (exchange, day) not in self.settlement_holidays

    def _has_session(self, exchange: Exchange, day: date) -> bool:
        """As is_trading_day, but a weekend in an unrecorded year is closed, so that walks can cross it."""
        if day.weekday() >= _WEEKDAYS and day.year not in self.years and (exchange, day) not in self.records:
            return False
        return self.is_trading_day(day, exchange)

    def _session_days(self, day: date, step: timedelta, exchange: Exchange) -> Iterator[date]:
        while True:
            if self._has_session(exchange, day):
                yield day
            day += step


_ORDINARY = DayRecord(STANDARD_WINDOWS, "", "", SessionKind.NORMAL)


def _session(exchange: Exchange, day: date, record: DayRecord) -> Session:
    return build_session(exchange, day, record, _regime_on(day))


@lru_cache(maxsize=4096)
def _regime_on(day: date) -> Regime:
    return next(regime for regime in reversed(REGIMES) if regime.valid_from <= day)


def _ist(now: datetime) -> datetime:
    if now.tzinfo is None:
        raise ValueError("the calendar needs an aware datetime: a naive one names no instant")
    return now.astimezone(IST)


@lru_cache(maxsize=1)
def standard_calendar() -> Calendar:
    """The calendar of 2019-2026 as published, NSE and BSE alike (source: sessions_data)."""
    days = {closure.day: DayRecord((), closure.name, closure.source) for closure in CLOSURES}
    days |= {s.day: DayRecord(s.continuous, s.reason, s.source, s.kind) for s in SPECIAL_SESSIONS}
    return Calendar(
        years=YEARS_RECORDED,
        records={(exchange, day): record for exchange in Exchange for day, record in days.items()},
        settlement_holidays=frozenset((exchange, row.day) for exchange in Exchange for row in SETTLEMENT_HOLIDAYS),
    )


_SQUARE_OFF_BEFORE_STANDARD_END = timedelta(minutes=15)
_SQUARE_OFF_BEFORE_CLOSE = timedelta(minutes=10)


def square_off_at(stock_class: StockClass, session: Session) -> datetime:
    """When Sauda squares off its own intraday positions, ahead of every broker's automatic square-off.

    15:15 where continuous trading ends at 15:30; otherwise 10 minutes before it ends, so 15:05 for shares that close
    by auction since 2026-08-03, and accordingly on short days. An own default: no rule of SEBI sets it.
    """
    close = session.continuous_close(stock_class)
    standard = close.time() == STANDARD_END
    return close - (_SQUARE_OFF_BEFORE_STANDARD_END if standard else _SQUARE_OFF_BEFORE_CLOSE)


def sessions_csv() -> str:
    """The recorded sessions with known times as CSV text: date,open,close_cas,close_other,kind; IST HH:MM.

    `open` and the closes bound continuous trading; a day with two windows shows its first open and last close.
    """
    calendar = standard_calendar()
    days = calendar.sessions_between(date(min(calendar.years), 1, 1), date(max(calendar.years), 12, 31))
    sessions = (calendar.session_on(Exchange.NSE, day) for day in days)
    rows = [_csv_row(session) for session in sessions if session is not None]
    return "\n".join(["date,open,close_cas,close_other,kind", *rows, ""])


def _csv_row(session: Session) -> str:
    opens = session.continuous_open(StockClass.NON_CAS)
    closes = (session.continuous_close(StockClass.CAS), session.continuous_close(StockClass.NON_CAS))
    clock = ",".join(_hh_mm(moment.time()) for moment in (opens, *closes))
    return f"{session.day},{clock},{session.kind}"


def _hh_mm(moment: time) -> str:
    return moment.isoformat("minutes")
