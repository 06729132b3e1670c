"""The published record behind the calendar, as dated rows with their source: closures, special sessions, regimes.

Sources are named as the exchanges name them. MEMORY marks what no document was at hand for: the dates up to 2026-08-21
were checked against the exchange's end-of-day files (DAILY_FILES); holiday names and some times are from memory.
"""

from dataclasses import dataclass
from datetime import date, time

from backend.domain.sessions import STANDARD_WINDOWS, ClockWindow, Phase, PhaseOffset, Regime, SessionKind

YEARS_RECORDED = frozenset(range(2019, 2027))

DAILY_FILES = "presence or absence of NSE's official end-of-day file"
MEMORY = "name or times from memory"
HOLIDAYS_2025 = f"NSE holiday list for 2025; {DAILY_FILES}; {MEMORY}"
HOLIDAYS_2026 = f"NSE and BSE circulars of 2025-12-12 (BSE 20251212-8); {MEMORY}"


@dataclass(frozen=True, slots=True)
class Closure:
    """A weekday without a session on either exchange."""

    day: date
    name: str
    source: str


@dataclass(frozen=True, slots=True)
class SpecialSession:
    """A session of both exchanges outside a weekday's standard hours.

    No `continuous` windows means that its times were not published when this was recorded.
    """

    day: date
    kind: SessionKind
    continuous: tuple[ClockWindow, ...]
    reason: str
    source: str


@dataclass(frozen=True, slots=True)
class SettlementHoliday:
    """A day on which trades may be made but nothing settles."""

    day: date
    source: str


@dataclass(frozen=True, slots=True)
class SettlementCycle:
    """Trades from `valid_from` on settle `days` settlement days later."""

    valid_from: date
    days: int
    source: str


def _closures(year: int, source: str, rows: str) -> tuple[Closure, ...]:
    """One closure per line of `rows`: "MM-DD name"."""
    lines = (line.strip().split(" ", 1) for line in rows.strip().splitlines())
    return tuple(Closure(date.fromisoformat(f"{year}-{month_day}"), name, source) for month_day, name in lines)


CLOSURES = (
    *_closures(
        2019,
        f"{DAILY_FILES}; {MEMORY}",
        """
        03-04 Mahashivratri
        03-21 Holi
        04-17 Mahavir Jayanti
        04-19 Good Friday
        04-29 Parliamentary elections in Mumbai
        05-01 Maharashtra Day
        06-05 Id-ul-Fitr
        08-12 Bakri Id
        08-15 Independence Day
        09-02 Ganesh Chaturthi
        09-10 Muharram
        10-02 Mahatma Gandhi Jayanti
        10-08 Dussehra
        10-21 Maharashtra assembly elections
        10-28 Diwali Balipratipada
        11-12 Gurunanak Jayanti
        12-25 Christmas
        """,
    ),
    *_closures(
        2020,
        f"{DAILY_FILES}; {MEMORY}",
        """
        02-21 Mahashivratri
        03-10 Holi
        04-02 Ram Navami
        04-06 Mahavir Jayanti
        04-10 Good Friday
        04-14 Dr Baba Saheb Ambedkar Jayanti
        05-01 Maharashtra Day
        05-25 Id-ul-Fitr
        10-02 Mahatma Gandhi Jayanti
        11-16 Diwali Balipratipada
        11-30 Gurunanak Jayanti
        12-25 Christmas
        """,
    ),
    *_closures(
        2021,
        f"{DAILY_FILES}; {MEMORY}",
        """
        01-26 Republic Day
        03-11 Mahashivratri
        03-29 Holi
        04-02 Good Friday
        04-14 Dr Baba Saheb Ambedkar Jayanti
        04-21 Ram Navami
        05-13 Id-ul-Fitr
        07-21 Bakri Id
        08-19 Muharram
        09-10 Ganesh Chaturthi
        10-15 Dussehra
        11-05 Diwali Balipratipada
        11-19 Gurunanak Jayanti
        """,
    ),
    *_closures(
        2022,
        f"{DAILY_FILES}; {MEMORY}",
        """
        01-26 Republic Day
        03-01 Mahashivratri
        03-18 Holi
        04-14 Dr Baba Saheb Ambedkar Jayanti and Mahavir Jayanti
        04-15 Good Friday
        05-03 Id-ul-Fitr
        08-09 Muharram
        08-15 Independence Day
        08-31 Ganesh Chaturthi
        10-05 Dussehra
        10-26 Diwali Balipratipada
        11-08 Gurunanak Jayanti
        """,
    ),
    *_closures(
        2023,
        f"{DAILY_FILES}; {MEMORY}",
        """
        01-26 Republic Day
        03-07 Holi
        03-30 Ram Navami
        04-04 Mahavir Jayanti
        04-07 Good Friday
        04-14 Dr Baba Saheb Ambedkar Jayanti
        05-01 Maharashtra Day
        06-29 Bakri Id
        08-15 Independence Day
        09-19 Ganesh Chaturthi
        10-02 Mahatma Gandhi Jayanti
        10-24 Dussehra
        11-14 Diwali Balipratipada
        11-27 Gurunanak Jayanti
        12-25 Christmas
        """,
    ),
    *_closures(
        2024,
        f"{DAILY_FILES}; {MEMORY}",
        """
        01-22 Consecration of the Ram temple
        01-26 Republic Day
        03-08 Mahashivratri
        03-25 Holi
        03-29 Good Friday
        04-11 Id-ul-Fitr
        04-17 Ram Navami
        05-01 Maharashtra Day
        05-20 Parliamentary elections in Mumbai
        06-17 Bakri Id
        07-17 Muharram
        08-15 Independence Day
        10-02 Mahatma Gandhi Jayanti
        11-15 Gurunanak Jayanti
        11-20 Maharashtra assembly elections
        12-25 Christmas
        """,
    ),
    *_closures(
        2025,
        HOLIDAYS_2025,
        """
        02-26 Mahashivratri
        03-14 Holi
        03-31 Id-ul-Fitr
        04-10 Mahavir Jayanti
        04-14 Dr Baba Saheb Ambedkar Jayanti
        04-18 Good Friday
        05-01 Maharashtra Day
        08-15 Independence Day
        08-27 Ganesh Chaturthi
        10-02 Mahatma Gandhi Jayanti and Dussehra
        10-22 Diwali Balipratipada
        11-05 Gurunanak Jayanti
        12-25 Christmas
        """,
    ),
    *_closures(2026, "NSE and BSE notices of 2026-01-09 and 2026-01-12", "01-15 Maharashtra municipal elections"),
    *_closures(
        2026,
        HOLIDAYS_2026,
        """
        01-26 Republic Day
        03-03 Holi
        03-26 Ram Navami
        03-31 Mahavir Jayanti
        04-03 Good Friday
        04-14 Dr Baba Saheb Ambedkar Jayanti
        05-01 Maharashtra Day
        05-28 Bakri Id
        06-26 Muharram
        09-14 Ganesh Chaturthi
        10-02 Mahatma Gandhi Jayanti
        10-20 Dussehra
        11-10 Diwali Balipratipada
        11-24 Gurunanak Jayanti
        12-25 Christmas
        """,
    ),
)

_EVENING = ((time(18, 15), time(19, 15)),)
_DISASTER_RECOVERY = ((time(9, 15), time(10)), (time(11, 30), time(12, 30)))


def _muhurat(day: date, continuous: tuple[ClockWindow, ...], source: str) -> SpecialSession:
    return SpecialSession(day, SessionKind.MUHURAT, continuous, "Diwali muhurat trading", source)


def _special(day: date, continuous: tuple[ClockWindow, ...], reason: str, source: str) -> SpecialSession:
    return SpecialSession(day, SessionKind.SPECIAL, continuous, reason, source)


SPECIAL_SESSIONS = (
    _muhurat(date(2019, 10, 27), _EVENING, f"{DAILY_FILES}; {MEMORY}"),
    _special(date(2020, 2, 1), STANDARD_WINDOWS, "Union budget on a Saturday", DAILY_FILES),
    _muhurat(date(2020, 11, 14), _EVENING, f"{DAILY_FILES}; {MEMORY}"),
    _special(
        date(2021, 2, 24),
        ((time(9, 15), time(17)),),
        "Close extended to 17:00 after NSE's outage; its halt inside the day is not modelled",
        f"{DAILY_FILES}; close agrees with a public calendar library; {MEMORY}",
    ),
    _muhurat(date(2021, 11, 4), _EVENING, "NSE; the end-of-day file is missing upstream, the session was held"),
    _muhurat(date(2022, 10, 24), _EVENING, DAILY_FILES),
    _muhurat(date(2023, 11, 12), _EVENING, DAILY_FILES),
    _special(date(2024, 1, 20), STANDARD_WINDOWS, "Saturday session instead of Monday 2024-01-22", DAILY_FILES),
    _special(date(2024, 3, 2), _DISASTER_RECOVERY, "Disaster-recovery site exercise", f"{DAILY_FILES}; {MEMORY}"),
    _special(date(2024, 5, 18), _DISASTER_RECOVERY, "Disaster-recovery site exercise", f"{DAILY_FILES}; {MEMORY}"),
    _muhurat(date(2024, 11, 1), ((time(18), time(19)),), DAILY_FILES),
    _special(date(2025, 2, 1), STANDARD_WINDOWS, "Union budget on a Saturday", DAILY_FILES),
    _muhurat(date(2025, 10, 21), ((time(13, 45), time(14, 45)),), HOLIDAYS_2025),
    _special(date(2026, 2, 1), STANDARD_WINDOWS, "Union budget on a Sunday", "NSE/CMTR/72349 of 2026-01-16"),
    _muhurat(date(2026, 11, 8), (), f"{HOLIDAYS_2026}; timings were to be notified and are not recorded"),
)

_NCL = "NCL/CMPT/71904 of 2025-12-22"
SETTLEMENT_HOLIDAYS = (
    SettlementHoliday(date(2026, 2, 1), _NCL),
    SettlementHoliday(date(2026, 2, 19), _NCL),
    SettlementHoliday(date(2026, 3, 19), _NCL),
    SettlementHoliday(date(2026, 4, 1), _NCL),
    SettlementHoliday(date(2026, 8, 26), _NCL),
)

SETTLEMENT_CYCLES = (
    SettlementCycle(date.min, 2, "T+2 rolling settlement; changeover day of the last, largest batch from memory"),
    SettlementCycle(date(2023, 1, 27), 1, "T+1 rolling settlement for every share; changeover day from memory"),
)

_PRE_OPEN_UNTIL_2026_09_06 = (
    PhaseOffset(Phase.PRE_OPEN_ORDER_ENTRY, -15, -7),
    PhaseOffset(Phase.PRE_OPEN_MATCHING, -7, -3),
    PhaseOffset(Phase.PRE_OPEN_BUFFER, -3, 0),
)
_PRE_OPEN_FROM_2026_09_07 = (
    PhaseOffset(Phase.PRE_OPEN_ORDER_ENTRY, -15, -10),
    PhaseOffset(Phase.PRE_OPEN_LIMIT_ONLY, -10, -5),
    PhaseOffset(Phase.PRE_OPEN_MATCHING, -5, -3),
    PhaseOffset(Phase.PRE_OPEN_BUFFER, -3, 0),
)
_POST_CLOSE_UNTIL_2026_08_02 = (PhaseOffset(Phase.CLOSED_INTERVAL, 0, 10), PhaseOffset(Phase.POST_CLOSE, 10, 30))
_POST_CLOSE_FROM_2026_08_03 = (PhaseOffset(Phase.CLOSED_INTERVAL, 0, 20), PhaseOffset(Phase.POST_CLOSE, 20, 30))
_CLOSING_AUCTION = (
    PhaseOffset(Phase.CLOSING_REFERENCE, -15, -10),
    PhaseOffset(Phase.CLOSING_ORDER_ENTRY, -10, -5),
    PhaseOffset(Phase.CLOSING_LIMIT_ONLY, -5, 0),
    PhaseOffset(Phase.CLOSING_MATCHING, 0, 5),
    PhaseOffset(Phase.CLOSING_BUFFER, 5, 20),
    PhaseOffset(Phase.POST_CLOSE, 20, 30),
)
_CLOSING_AUCTION_SOURCE = (
    "SEBI HO/47/11/11(3)2025-MRD-POD2/I/2765/2026 of 2026-01-16; NSE/CMTR/74466 of 2026-05-29; BSE 20260610-41, "
    "20260801-1"
)

REGIMES = (
    Regime(
        date.min,
        _PRE_OPEN_UNTIL_2026_09_06,
        _POST_CLOSE_UNTIL_2026_08_02,
        _POST_CLOSE_UNTIL_2026_08_02,
        "NSE/CMTR/72349 of 2026-01-16",
    ),
    Regime(
        date(2026, 8, 3),
        _PRE_OPEN_UNTIL_2026_09_06,
        _CLOSING_AUCTION,
        _POST_CLOSE_FROM_2026_08_03,
        _CLOSING_AUCTION_SOURCE,
    ),
    Regime(
        date(2026, 9, 7),
        _PRE_OPEN_FROM_2026_09_07,
        _CLOSING_AUCTION,
        _POST_CLOSE_FROM_2026_08_03,
        f"NSE CMTR74969 of 2026-07-01; BSE 20260803-35; {_CLOSING_AUCTION_SOURCE}",
    ),
)
"""Special sessions keep the same offsets around their own open and end; their published post-close may be shorter."""
