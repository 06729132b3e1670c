"""Kite's limits of how often a key may call, counted in this process (kite.trade forum 52882, 2026)."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

from backend.sandbox.words import KiteError


class Group(StrEnum):
    """What is counted together."""

    QUOTE = "quote"
    HISTORICAL = "historical"
    ORDER = "order"
    OTHER = "other"


RATES: Mapping[Group, Sequence[tuple[int, float]]] = {
    Group.QUOTE: ((1, 1.0),),
    Group.HISTORICAL: ((3, 1.0),),
    Group.ORDER: ((10, 1.0), (400, 60.0), (5000, 86_400.0)),
    Group.OTHER: ((10, 1.0),),
}
"""At most so many calls in so many seconds running; calls that fail count, too."""
MODIFICATIONS_MAX = 25


class CallLimits:
    """Counts the calls of each key. `clock` is monotonic, in seconds."""

    def __init__(self, *, enforced: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        self._enforced, self._clock = enforced, clock
        self._calls: dict[tuple[str, Group], deque[float]] = defaultdict(deque)

    def take(self, api_key: str, group: Group) -> None:
        """Count one call.

        Raises:
            KiteError: it is one too many; nothing may be done.
        """
        if not self._enforced:
            return
        now, calls = self._clock(), self._calls[api_key, group]
        while calls and now - calls[0] >= RATES[group][-1][1]:
            calls.popleft()
        for most, seconds in RATES[group]:
            if len(calls) >= most and now - calls[-most] < seconds:
                raise KiteError("RateLimit", "Too many requests")
        calls.append(now)
