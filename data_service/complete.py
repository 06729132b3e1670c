"""Brings in the newest bars a question lacks before it is answered, from one provider after another."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import date, datetime

import structlog

from contracts.market import Interval
from data_service.backfill import BarsChain, fill, plan
from data_service.ingest import Gate
from data_service.sessions import Sessions, floor_s, ist_date
from data_service.store.stores import Stores

log = structlog.get_logger(__name__)

SESSIONS_MAX = 10
"""Only so many of the newest sessions are completed for a question; older gaps are for `sauda data backfill`."""

SYMBOLS_MAX = 50
ASKED_AGAIN_AFTER_S = 60.0
"""What no provider had is not asked for again at once."""

FETCHED = {Interval.DAY_1: Interval.DAY_1, Interval.MIN_1: Interval.MIN_1, Interval.MIN_3: Interval.MIN_1}
"""What is fetched for an interval; all others are made of five-minute bars."""


class Completer:
    """Asks the chain for lacking sessions that are over. Runs on one event loop, one question at a time."""

    def __init__(
        self,
        chain: BarsChain,
        gate: Gate,
        stores: Stores,
        sessions: Sessions,
        *,
        deadline_s: float,
        monotonic_s: Callable[[], float],
    ) -> None:
        """`deadline_s` bounds one step over all providers."""
        self._chain, self._gate, self._stores, self._sessions = chain, gate, stores, sessions
        self._deadline_s, self._monotonic_s = deadline_s, monotonic_s
        self._asked: dict[tuple[Interval, str], float] = {}
        self._one_at_a_time = asyncio.Lock()

    async def complete(
        self, interval: Interval, symbols: Sequence[str], first: date, last: date, now: datetime
    ) -> None:
        """Store what is lacking of the newest sessions in `first`..`last`. Raises StoreError, OSError."""
        fetched = FETCHED.get(interval, Interval.MIN_5)
        days = [s.day for s in self._sessions.all if first <= s.day <= min(last, ist_date(now))][-SESSIONS_MAX:]
        if not days:
            return
        async with self._one_at_a_time:
            due = [symbol for symbol in symbols[:SYMBOLS_MAX] if self._is_due(fetched, symbol)]
            now_s = floor_s(now)
            steps = await asyncio.to_thread(plan, self._stores, self._sessions, fetched, due, days[0], days[-1], now_s)
            for step in steps:
                self._asked |= dict.fromkeys(((fetched, symbol) for symbol in step.wanted), self._monotonic_s())
            done = fill(self._chain, self._gate, self._stores, fetched, steps, now_s=now_s, deadline_s=self._deadline_s)
            async for step, report in done:
                counts = report.ingested.counts
                log.info(
                    "bars_completed", first=step.days[0], last=step.days[1], new=counts.new, lacking=report.lacking
                )

    def _is_due(self, interval: Interval, symbol: str) -> bool:
        asked = self._asked.get((interval, symbol))
        return asked is None or self._monotonic_s() - asked > ASKED_AGAIN_AFTER_S
