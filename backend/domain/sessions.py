"""One day's trading session: its phases as intervals, laid from a regime's offsets around the continuous windows."""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo

from backend.domain.market import Exchange, StockClass

IST = ZoneInfo("Asia/Kolkata")
STANDARD_OPEN = time(9, 15)
STANDARD_END = time(15, 30)


class Phase(StrEnum):
    """What the exchange does at an instant.

    CLOSED is before the first and after the last phase of a day, and all day where there is no session;
    CLOSED_INTERVAL is a gap inside a session day (before the post-close session, or between two continuous windows).
    """

    CLOSED = "closed"
    PRE_OPEN_ORDER_ENTRY = "pre_open_order_entry"
    PRE_OPEN_LIMIT_ONLY = "pre_open_limit_only"
    PRE_OPEN_MATCHING = "pre_open_matching"
    PRE_OPEN_BUFFER = "pre_open_buffer"
    CONTINUOUS = "continuous"
    CLOSING_REFERENCE = "closing_reference"
    CLOSING_ORDER_ENTRY = "closing_order_entry"
    CLOSING_LIMIT_ONLY = "closing_limit_only"
    CLOSING_MATCHING = "closing_matching"
    CLOSING_BUFFER = "closing_buffer"
    CLOSED_INTERVAL = "closed_interval"
    POST_CLOSE = "post_close"


class SessionKind(StrEnum):
    """SPECIAL is any session that a weekday's standard hours do not explain: a weekend, a short or an extended day."""

    NORMAL = "normal"
    MUHURAT = "muhurat"
    SPECIAL = "special"


ClockWindow = tuple[time, time]
"""A continuous window as published, IST: its open and the end of its last minute. For shares that close by auction,
the auction takes the last minutes before that end."""

STANDARD_WINDOWS: tuple[ClockWindow, ...] = ((STANDARD_OPEN, STANDARD_END),)


@dataclass(frozen=True, slots=True)
class DayRecord:
    """What is known of a day that is not an ordinary weekday or weekend: a closure where `continuous` is empty.

    A `kind` without `continuous` is a session whose times are not published: closed until an admin sets them.
    """

    continuous: tuple[ClockWindow, ...]
    reason: str
    source: str
    kind: SessionKind | None = None


@dataclass(frozen=True, slots=True)
class PhaseOffset:
    """A phase from `start_min` to `end_min` minutes after its anchor (negative: before it)."""

    phase: Phase
    start_min: int
    end_min: int


@dataclass(frozen=True, slots=True)
class Regime:
    """The phases in force from `valid_from`: `pre_open` around a continuous open, the others around the day's end."""

    valid_from: date
    pre_open: tuple[PhaseOffset, ...]
    closing_cas: tuple[PhaseOffset, ...]
    closing_non_cas: tuple[PhaseOffset, ...]
    source: str

    def closing(self, stock_class: StockClass) -> tuple[PhaseOffset, ...]:
        return self.closing_cas if stock_class is StockClass.CAS else self.closing_non_cas


@dataclass(frozen=True, slots=True)
class PhaseWindow:
    """`phase` holds for start ≤ t < end; both are Asia/Kolkata datetimes."""

    phase: Phase
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Session:
    """One exchange's session on `day`: adjoining phase windows per stock class, and the documents that set them."""

    exchange: Exchange
    day: date
    kind: SessionKind
    windows_cas: tuple[PhaseWindow, ...]
    windows_non_cas: tuple[PhaseWindow, ...]
    reason: str
    source: str

    def windows(self, stock_class: StockClass) -> tuple[PhaseWindow, ...]:
        """All phases of the day in order, without gaps."""
        return self.windows_cas if stock_class is StockClass.CAS else self.windows_non_cas

    def continuous(self, stock_class: StockClass) -> tuple[PhaseWindow, ...]:
        """The continuous windows in order: one, or two on the short disaster-recovery days."""
        return tuple(window for window in self.windows(stock_class) if window.phase is Phase.CONTINUOUS)

    def continuous_open(self, stock_class: StockClass) -> datetime:
        """When continuous trading first opens."""
        return self.continuous(stock_class)[0].start

    def continuous_close(self, stock_class: StockClass) -> datetime:
        """When continuous trading ends for the day."""
        return self.continuous(stock_class)[-1].end

    def phase_at(self, now: datetime, stock_class: StockClass) -> Phase:
        """The phase at `now` (aware); CLOSED outside the day's windows."""
        for window in self.windows(stock_class):
            if window.start <= now < window.end:
                return window.phase
        return Phase.CLOSED


@lru_cache(maxsize=8192)
def build_session(exchange: Exchange, day: date, record: DayRecord, regime: Regime) -> Session:
    """Lay `regime`'s phases around the continuous windows of `record` on `day`.

    Raises ValueError where the phases would overlap, leave the day, or squeeze a continuous window to nothing.
    """
    return Session(
        exchange=exchange,
        day=day,
        kind=record.kind or SessionKind.SPECIAL,
        windows_cas=_phase_windows(day, record.continuous, regime.pre_open, regime.closing_cas),
        windows_non_cas=_phase_windows(day, record.continuous, regime.pre_open, regime.closing_non_cas),
        reason=record.reason,
        source=f"{record.source}; {regime.source}" if record.source else regime.source,
    )


def _phase_windows(
    day: date, continuous: tuple[ClockWindow, ...], pre_open: tuple[PhaseOffset, ...], closing: tuple[PhaseOffset, ...]
) -> tuple[PhaseWindow, ...]:
    if not continuous:
        raise ValueError(f"a session on {day} needs at least one continuous window")
    windows: list[PhaseWindow] = []
    last_end = datetime.combine(day, continuous[-1][1], IST)
    for opens, ends in continuous:
        start, end = datetime.combine(day, opens, IST), datetime.combine(day, ends, IST)
        before = _shifted(start, pre_open)
        if windows:
            windows.append(PhaseWindow(Phase.CLOSED_INTERVAL, windows[-1].end, before[0].start))
        if end == last_end:
            end += timedelta(minutes=min(0, closing[0].start_min))
        windows += [*before, PhaseWindow(Phase.CONTINUOUS, start, end)]
    windows += _shifted(last_end, closing)
    _require_orderly(day, windows)
    return tuple(windows)


def _shifted(anchor: datetime, offsets: tuple[PhaseOffset, ...]) -> list[PhaseWindow]:
    return [
        PhaseWindow(o.phase, anchor + timedelta(minutes=o.start_min), anchor + timedelta(minutes=o.end_min))
        for o in offsets
    ]


def _require_orderly(day: date, windows: list[PhaseWindow]) -> None:
    in_order = all(window.start < window.end for window in windows)
    same_day = windows[0].start.date() == day == windows[-1].end.date()
    if not (in_order and same_day):
        raise ValueError(f"the session times given for {day} overlap, leave the day, or are too short for its phases")
