"""How backtests go on, as server-sent events: one question to the database a second, however many listen."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from zlib import crc32

import orjson
import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from backend.db import OPERATOR_ROLE, Sessions, acting_as
from backend.models import Backtest
from backend.services.backtest_service import UNFINISHED
from backend.services.quote_stream import HEARTBEAT
from backend.services.stream_slots import News, StreamSlots

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class BacktestStreamPace:
    """Real seconds: between looks at the database, between looks whether the gateway stops (`wake_s`), and of silence
    before a heartbeat."""

    poll_s: float = 1.0
    wake_s: float = 0.5
    heartbeat_s: float = 15.0


@dataclass(frozen=True, slots=True)
class BacktestEvent:
    """One event as it goes over the wire; `last`: nothing comes after it."""

    id: str
    wire: bytes
    last: bool


@dataclass(slots=True, eq=False)
class BacktestChannel:
    """One backtest that somebody listens to; its newest event is all that is kept."""

    backtest_id: int
    newest: BacktestEvent | None = None
    listeners: int = 0
    news: News = field(default_factory=News)


class BacktestStreams:
    """Channels by backtest, all followed together while there are any. Runs on one event loop."""

    def __init__(self, sessions: Sessions, slots: StreamSlots, pace: BacktestStreamPace | None = None) -> None:
        self._sessions, self._slots, self._pace = sessions, slots, pace or BacktestStreamPace()
        self._channels: dict[int, BacktestChannel] = {}
        self._follower: asyncio.Task[None] | None = None
        self._opened = asyncio.Event()

    @contextmanager
    def subscribed(self, backtest_id: int) -> Iterator[BacktestChannel]:
        """The backtest's channel, kept current while the block runs."""
        channel = self._channels.setdefault(backtest_id, BacktestChannel(backtest_id))
        channel.listeners += 1
        self._opened.set()
        if self._follower is None:
            self._follower = asyncio.create_task(self._follow(), name="backtest-streams")
        try:
            yield channel
        finally:
            channel.listeners -= 1
            if not channel.listeners:
                del self._channels[backtest_id]
            if not self._channels and self._follower is not None:
                self._follower.cancel()
                self._follower = None

    async def listen(self, channel: BacktestChannel, last_id: str = "") -> AsyncIterator[bytes]:
        """The present state, then each change, with heartbeats in between; it ends with the backtest, or with the
        gateway. What bears `last_id` is known and not sent again."""
        told, silent_s = last_id, 0.0
        while not self._slots.closing:
            event = channel.newest
            if event is not None and event.id != told:
                told, silent_s = event.id, 0.0
                yield event.wire
            if event is not None and event.last:
                return
            if not await channel.news.wait(self._pace.wake_s):
                silent_s += self._pace.wake_s
                if silent_s >= self._pace.heartbeat_s:
                    silent_s = 0.0
                    yield HEARTBEAT

    async def _follow(self) -> None:
        while True:
            self._opened.clear()
            try:
                await self._look()
            except (SQLAlchemyError, OSError) as error:
                log.warning("backtest_streams_wait", error=repr(error))
            try:
                # A newcomer need not wait for the next look.
                async with asyncio.timeout(self._pace.poll_s):
                    await self._opened.wait()
            except TimeoutError:
                continue

    async def _look(self) -> None:
        columns = (Backtest.id, Backtest.status, Backtest.done, Backtest.total, Backtest.doing, Backtest.error)
        # The follower began in the first listener's request; the route has checked whose each backtest is.
        with acting_as(OPERATOR_ROLE):
            async with self._sessions() as session:
                rows = await session.execute(select(*columns).where(Backtest.id.in_(list(self._channels))))
                found = {row.id: event_of(row) for row in rows}
        for backtest_id, channel in self._channels.items():
            event = found.get(backtest_id, DELETED)
            if channel.newest is None or channel.newest.id != event.id:
                channel.newest = event
                channel.news.tell()


def event_of(row: "Backtest | object") -> BacktestEvent:
    """`progress` while it goes on, `done` once it is over, whatever became of it; the id names the state."""
    status, done, total, doing, error = (getattr(row, name) for name in ("status", "done", "total", "doing", "error"))
    last = status not in UNFINISHED
    data = {"status": status.value, "progress": {"done": done, "total": total, "doing": doing}, "error": error}
    return _event("done" if last else "progress", f"{status.value}.{done}.{total}.{crc32(doing.encode())}", data, last)


def _event(name: str, event_id: str, data: dict[str, object], last: bool) -> BacktestEvent:
    wire = b"event: %s\nid: %s\ndata: %s\n\n" % (name.encode(), event_id.encode(), orjson.dumps(data))
    return BacktestEvent(event_id, wire, last)


DELETED = _event(
    "done",
    "deleted",
    {"status": "deleted", "progress": {"done": 0, "total": 0, "doing": ""}, "error": None},
    last=True,
)
