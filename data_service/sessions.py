"""The market's sessions as data_service knows them, read from the packaged calendar file."""

import csv
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

IST = ZoneInfo("Asia/Kolkata")
IST_OFFSET_S = 19_800
DAY_S = 86_400
EPOCH = date(1970, 1, 1)
PACKAGED_FILE = Path(__file__).parent / "reference" / "sessions.csv"
COLUMNS = ["date", "open", "close_cas", "close_other", "kind"]
OPEN_USUAL_S = 9 * 3600 + 15 * 60
CLOSE_USUAL_S = 15 * 3600 + 30 * 60
AUCTION_MATCHED_AFTER_S = 300
"""The closing auction is matched in the five minutes after 15:30 (NSE/CMTR/74466, since 2026-08-03)."""


class SessionsFileError(ValueError):
    """The calendar file is absent or has a bad line; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Session:
    """One trading session; instants are whole seconds since 1970-01-01 UTC.

    `close_cas_s` ends continuous trading in shares with derivatives, `close_other_s` in all others.
    """

    day: date
    open_s: int
    close_cas_s: int
    close_other_s: int
    kind: str = "normal"

    def close_s(self, has_derivatives: bool) -> int:
        """The end of continuous trading for the class of share."""
        return self.close_cas_s if has_derivatives else self.close_other_s

    def official_close_s(self, has_derivatives: bool) -> int:
        """When the official closing price is known: after the closing auction where there is one."""
        auction = has_derivatives and self.close_cas_s < self.close_other_s
        return self.close_other_s + (AUCTION_MATCHED_AFTER_S if auction else 0)


class Sessions:
    """An ordered, immutable calendar."""

    def __init__(self, sessions: Iterable[Session]) -> None:
        self.all: tuple[Session, ...] = tuple(sessions)
        self.by_day = {session.day: session for session in self.all}
        self._opens = [session.open_s for session in self.all]

    def index_opened_by(self, instant_s: int) -> int:
        """Index of the last session that had opened by `instant_s`; -1 before the first."""
        return bisect_right(self._opens, instant_s) - 1

    def usual(self, day: date) -> Session:
        """The session of `day`, or the customary 09:15 to 15:30 where the calendar has no such day."""
        known = self.by_day.get(day)
        if known:
            return known
        midnight_s = ist_midnight_s(day)
        close_s = midnight_s + CLOSE_USUAL_S
        return Session(day, midnight_s + OPEN_USUAL_S, close_s, close_s, "assumed")


def ist_midnight_s(day: date) -> int:
    """Seconds since the epoch at 00:00 IST of `day` (India has kept UTC+05:30 since 1945)."""
    return (day - EPOCH).days * DAY_S - IST_OFFSET_S


def ist_date(instant: datetime) -> date:
    """The Indian calendar date of an aware instant."""
    return instant.astimezone(IST).date()


def ist_instant(epoch_s: int) -> datetime:
    """An aware instant in IST from seconds since the epoch."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(epoch_s))).astimezone(IST)


def floor_s(instant: datetime) -> int:
    """Whole seconds since the epoch, rounded down."""
    return int((instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1))


def _clock_s(text: str) -> int:
    hours, minutes = text.split(":")
    if not (0 <= int(hours) < 24 and 0 <= int(minutes) < 60):
        raise ValueError(f"{text} is not HH:MM")
    return int(hours) * 3600 + int(minutes) * 60


def _session(row: Sequence[str], previous: Session | None) -> Session:
    day = date.fromisoformat(row[0])
    midnight_s = ist_midnight_s(day)
    open_s, close_cas_s, close_other_s = (midnight_s + _clock_s(text) for text in row[1:4])
    if not open_s < close_cas_s <= close_other_s:
        raise ValueError("times are not in the order open < close_cas <= close_other")
    if previous and day <= previous.day:
        raise ValueError(f"{day} does not come after {previous.day}")
    return Session(day, open_s, close_cas_s, close_other_s, row[4])


def load_sessions(path: Path = PACKAGED_FILE) -> Sessions:
    """Read the calendar: columns date, open, close_cas, close_other (IST, HH:MM), kind; ascending by date.

    Raises SessionsFileError with the line where the file is absent or wrong.
    """
    sessions: list[Session] = []
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            reader = csv.reader(lines)
            if next(reader, None) != COLUMNS:
                raise SessionsFileError(f"{path}: line 1: expected the columns {','.join(COLUMNS)}")
            for row in reader:
                try:
                    sessions.append(_session(row, sessions[-1] if sessions else None))
                except (ValueError, IndexError) as error:
                    raise SessionsFileError(f"{path}: line {reader.line_num}: {error}") from error
    except OSError as error:
        raise SessionsFileError(f"{path}: {error.strerror}") from error
    if not sessions:
        raise SessionsFileError(f"{path}: no sessions")
    return Sessions(sessions)
