"""A gateway on loopback before a real simulated data_service whose clock the test moves, for tests of streams."""

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
from fastapi import FastAPI
from httpx_aiohttp import AiohttpTransport
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.api.app import create_api
from backend.api.server import GatewayServer
from backend.api.state import ApiState
from backend.domain.calendar import IST, standard_calendar
from backend.security import Security
from backend.services.bar_stream import BarStreamPace
from backend.services.market_calendar import MarketCalendar
from backend.services.market_data_client import MarketDataClient
from backend.services.quote_board import QuoteBoard
from backend.services.quote_stream import QuoteStreamPace
from backend.services.stream_slots import StreamLimits
from backend.services.streams import Streams, create_streams
from contracts.common import Environment
from data_service.config import Settings
from data_service.main import create_app
from data_service.sessions import Sessions, load_sessions
from tests.support.market_server import serving

FIRST, LAST = date(2026, 8, 3), date(2026, 8, 7)
"""A week of sessions with the closing auction."""
WAIT_S_MAX = 20.0
BOARD_HASTE = 10
"""The board's seconds are shorter than real ones: what is stale after five of them makes no test wait so long."""
QUOTE_PACE = QuoteStreamPace(poll_s=0.01, retry_s=0.01, heartbeat_s=30.0)
BAR_PACE = BarStreamPace(poll_s=0.02, retry_s_max=0.1, heartbeat_s=30.0)


class MovedClock:
    """Real seconds as the test sets them; the market's clock runs along."""

    def __init__(self, sessions: Sessions) -> None:
        self.seconds = 0.0
        self._sessions = sessions

    def __call__(self) -> float:
        return self.seconds

    def at(self, text: str) -> None:
        """Move on to an instant of a session, from "2026-08-04 10:02:30" (IST)."""
        moment = datetime.fromisoformat(text).replace(tzinfo=IST)
        windows = [(s.open_s - 60, s.close_other_s + 600, s.day) for s in self._sessions.all]
        before = sum(end - begin for begin, end, day in windows if day < moment.date())
        begin = next(begin for begin, _, day in windows if day == moment.date())
        self.seconds = before + moment.timestamp() - begin


@dataclass
class Switch:
    """An application that can be away, as a whole or to requests with `lost` in their bodies, and counts what it is
    asked."""

    app: ASGIApp
    away: bool = False
    lost: bytes = b""
    asked: Counter[str] = field(default_factory=Counter)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked[scope.get("path", "")] += 1
        body = await _body(receive) if self.lost else b""
        if self.away or (self.lost and self.lost in body):
            await Response("away", 503)(scope, receive, send)
        else:
            await self.app(scope, _again(body, receive) if self.lost else receive, send)


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


def _again(body: bytes, receive: Receive) -> Receive:
    """The body that was read, then whatever comes."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return first.pop() if first else await receive()

    return replayed


@dataclass
class DataService:
    url: str
    clock: MovedClock
    switch: Switch


@contextmanager
def serving_data(folder: Path) -> Iterator[DataService]:
    """A data_service with the simulated market of one week, on a clock that the test moves."""
    sessions = Sessions(s for s in load_sessions().all if FIRST <= s.day <= LAST)
    clock = MovedClock(sessions)
    settings = Settings(environment=Environment.SIMULATED, data_dir=folder, sim_start=FIRST, sim_speed=1.0)
    switch = Switch(create_app(settings, monotonic=clock, sessions=sessions))
    with serving(cast("FastAPI", switch)) as url:
        yield DataService(url, clock, switch)


@dataclass
class World:
    """A running gateway; `stopped` is whether its lifespan has come to its end."""

    data: DataService
    url: str
    server: GatewayServer
    running: asyncio.Task[None]
    streams: Streams
    client: httpx.AsyncClient
    stopped: list[bool]

    @property
    def ws_url(self) -> str:
        return f"ws{self.url.removeprefix('http')}/v1/stream/bars"

    async def stop(self) -> None:
        """Stop it as Ctrl-C does, and wait."""
        self.server.should_exit = True
        await self.running


@asynccontextmanager
async def gateway_before(
    data: DataService,
    *,
    limits: StreamLimits | None = None,
    quote_pace: QuoteStreamPace = QUOTE_PACE,
    bar_pace: BarStreamPace = BAR_PACE,
) -> AsyncIterator[World]:
    """The gateway's whole application but for a database, served as `python -m backend` does."""
    absent = cast("Any", SimpleNamespace())
    stopped: list[bool] = []
    async with httpx.AsyncClient(transport=AiohttpTransport()) as http:
        market_data = MarketDataClient(http, data.url, 5)
        board = QuoteBoard(market_data, Environment.SIMULATED, monotonic=lambda: BOARD_HASTE * time.monotonic())
        streams = create_streams(
            board,
            market_data,
            MarketCalendar(standard_calendar()),
            Environment.SIMULATED,
            limits=limits,
            quote_pace=quote_pace,
            bar_pace=bar_pace,
        )

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            async with board.running(interval_s=0.01):
                yield
            stopped.append(True)

        state = ApiState(
            sessions=absent,
            trading=absent,
            desk=absent,
            security=Security("a test key of more than thirty-two bytes", 60, lambda: datetime(2026, 8, 4, tzinfo=UTC)),
            quote_board=board,
            streams=streams,
            paper_deposit_rupees=Decimal(0),
            cors_origins=(),
            environment=Environment.SIMULATED,
        )
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            server = GatewayServer(create_api(state, lifespan), "127.0.0.1", 0)
            running = asyncio.create_task(server.serve(sockets=[listener]))
            async with httpx.AsyncClient(base_url=url, timeout=WAIT_S_MAX) as client:
                world = World(data, url, server, running, streams, client, stopped)
                try:
                    yield world
                finally:
                    await world.stop()


@dataclass(frozen=True)
class Sent:
    """One server-sent event, or a comment (event None)."""

    event: str | None
    id: str | None
    data: Any


class Events:
    """The events of an open stream, one by one."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> Sent:
        """The next one. Raises StopAsyncIteration at the stream's end."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(WAIT_S_MAX):
            while line := await anext(self._lines):
                name, _, value = line.partition(": ")
                fields[name] = value
        return Sent(fields.get("event"), fields.get("id"), json.loads(fields["data"]) if "data" in fields else None)


@asynccontextmanager
async def listening(world: World, query: str = "", **headers: str) -> AsyncIterator[Events]:
    """An open stream of quotes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with world.client.stream("GET", f"/v1/stream/quotes{query}", headers=named) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Events(response)
