"""Know which session was the last one finished at an instant, and which one it is at the market's present."""

from collections import OrderedDict
from datetime import date, datetime, timedelta

from contracts.common import Environment
from ml_service.client import IST, DataServiceClient, DataServiceError

PROBE_SYMBOLS_MAX = 25
PROBE_DAYS = 15
KNOWN_SPANS_MAX = 512
AHEAD_MAX = timedelta(seconds=60)
"""How far another machine's clock may run ahead of the market's and still mean the present."""


def spread(symbols: list[str]) -> list[str]:
    """At most PROBE_SYMBOLS_MAX of the symbols, evenly over the list: no few shares' gap reads as the market's."""
    count = min(len(symbols), PROBE_SYMBOLS_MAX)
    return [symbols[i * len(symbols) // count] for i in range(count)]


class FinishedSessions:
    """The last finished session as of an instant, remembered.

    If the same session was the last one at two instants, it was at every instant between them, so what was learned at
    one minute never answers for a later one.
    """

    def __init__(self, client: DataServiceClient, environment: Environment) -> None:
        self._client, self._environment = client, environment
        self._spans: OrderedDict[date, tuple[datetime, datetime]] = OrderedDict()

    async def last(self, symbols: list[str], as_of: datetime) -> date | None:
        """Session date of the newest daily bar of a few symbols ended by `as_of`, to the minute; None without any."""
        minute = as_of.astimezone(IST).replace(second=0, microsecond=0)
        for session, (first, last) in self._spans.items():
            if first <= minute <= last:
                return session
        today = minute.date()
        source, frame = await self._client.bars(spread(symbols), today - timedelta(days=PROBE_DAYS), today, minute)
        if source is None or source.environment is not self._environment:
            raise DataServiceError(f"data_service does not serve the {self._environment.value} market")
        if frame.is_empty():
            return None
        session = max(frame["session"].to_list())
        first, last = self._spans.get(session, (minute, minute))
        self._spans[session] = (min(first, minute), max(last, minute))
        if len(self._spans) > KNOWN_SPANS_MAX:
            self._spans.popitem(last=False)
        return session


class Present:
    """The market's present as it was last seen. It only moves on, so what lies before it never needs to be asked."""

    def __init__(self, client: DataServiceClient, sessions: FinishedSessions, environment: Environment) -> None:
        self._client, self._sessions, self._environment = client, sessions, environment
        self.session: date | None = None
        """The last finished session."""
        self.now: datetime | None = None

    async def look(self, symbols: list[str]) -> datetime:
        """Ask the market's clock, and which session is the last one finished; returns the market's now.

        Raises DataServiceError.
        """
        clock = await self._client.clock()
        if clock.environment is not self._environment:
            raise DataServiceError(f"data_service does not serve the {self._environment.value} market")
        self.session, self.now = await self._sessions.last(symbols, clock.now), clock.now
        return clock.now

    async def instant(self, symbols: list[str], session: date, as_of: datetime) -> datetime | None:
        """The market's now where `session` is its last finished one and `as_of` is not later; None for a question about
        the past. Raises DataServiceError."""
        if self.session is not None and session < self.session:
            return None
        now = await self.look(symbols)
        return now if session == self.session and as_of <= now + AHEAD_MAX else None
