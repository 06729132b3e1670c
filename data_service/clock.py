"""The simulated market's clock: it runs through sessions only, faster than life, and never goes back."""

import json
import threading
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import accumulate
from pathlib import Path

from data_service.errors import ConfigError
from data_service.files import write_atomically
from data_service.sessions import Session, Sessions, ist_instant

BEFORE_OPEN_S = 60
AFTER_CLOSE_S = 600
RESERVATION_REAL_S = 10.0
"""How far ahead of the served time progress is written down: a restart skips at most this much real time."""


class Timeline:
    """Market time with everything between sessions cut out: a pure mapping of active seconds to instants."""

    def __init__(self, sessions: Sessions, start: date) -> None:
        """Begins one minute before the open of the first session on or after `start`. Raises ConfigError if none."""
        self._windows = [_window(session) for session in sessions.all if session.day >= start]
        if not self._windows:
            raise ConfigError(f"SIM_START={start} is after the last session of the calendar: choose an earlier date")
        self._ends_s = list(accumulate(end - begin for begin, end in self._windows))

    @property
    def length_s(self) -> int:
        """Active seconds until the clock stands still for want of sessions."""
        return self._ends_s[-1]

    def instant(self, active_s: float) -> datetime:
        """The market's instant (IST) after `active_s` seconds of market time; beyond the end, the end."""
        active_s = min(max(active_s, 0.0), float(self.length_s))
        index = min(bisect_right(self._ends_s, active_s), len(self._windows) - 1)
        begin_s, end_s = self._windows[index]
        length_s = end_s - begin_s
        return ist_instant(begin_s) + timedelta(seconds=active_s - (self._ends_s[index] - length_s))


def _window(session: Session) -> tuple[int, int]:
    return session.open_s - BEFORE_OPEN_S, session.close_other_s + AFTER_CLOSE_S


@dataclass(frozen=True, slots=True)
class Identity:
    """What a simulated market's progress belongs to; progress of one must not continue another."""

    seed: int
    edge: float
    start: date


class ProgressFile:
    """The clock's progress on disk, one small JSON document."""

    def __init__(self, path: Path, identity: Identity) -> None:
        self._path = path
        self._identity = {"seed": identity.seed, "edge": identity.edge, "start": identity.start.isoformat()}

    def read(self) -> float:
        """Active seconds reserved so far, 0 at first. Raises ConfigError if damaged or of another market."""
        try:
            saved = json.loads(self._path.read_bytes())
            reserved_s, identity = float(saved["reserved_s"]), saved["market"]
        except FileNotFoundError:
            return 0.0
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self._path} is damaged: delete it (the clock starts over) or restore it") from error
        if identity != self._identity:
            raise ConfigError(
                f"{self._path} belongs to the simulated market {identity}, the settings ask for {self._identity}: "
                "use another DATA_DIR, or set SIM_SEED, SIM_EDGE and SIM_START as they were"
            )
        return reserved_s

    def write(self, reserved_s: float) -> None:
        content = json.dumps({"market": self._identity, "reserved_s": reserved_s})
        write_atomically(self._path, content.encode())


class SimulatedClock:
    """Callable: the market's present. Safe to call from several threads."""

    def __init__(
        self, timeline: Timeline, speed: float, progress: ProgressFile, monotonic: Callable[[], float]
    ) -> None:
        """`speed` is market seconds per real second; `monotonic` gives real seconds. Raises ConfigError."""
        self._timeline, self._speed, self._progress, self._monotonic = timeline, speed, progress, monotonic
        self._base_s = self._reserved_s = progress.read()
        self._started = monotonic()
        self._lock = threading.Lock()

    @property
    def at_end(self) -> bool:
        """Whether the calendar has run out and the clock stands still."""
        return self._active_s() >= self._timeline.length_s

    def _active_s(self) -> float:
        return self._base_s + (self._monotonic() - self._started) * self._speed

    def __call__(self) -> datetime:
        """The present, in IST; what is served has always been reserved on disk first."""
        with self._lock:
            active_s = min(self._active_s(), float(self._timeline.length_s))
            if active_s > self._reserved_s or self._reserved_s == 0.0:
                reserved_s = active_s + RESERVATION_REAL_S * self._speed
                self._progress.write(reserved_s)
                self._reserved_s = reserved_s
            return self._timeline.instant(active_s)
