"""The two kinds of server the quotes benchmark compares, each in a process of its own on the same uvicorn."""

import contextlib
import multiprocessing
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

import httpx
import psutil
import uvicorn
from fastapi import FastAPI
from httpx_aiohttp import AiohttpTransport
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.api.app import create_api
from backend.api.state import ApiState
from backend.domain.calendar import standard_calendar
from backend.security import Security
from backend.services.market_calendar import MarketCalendar
from backend.services.market_data_client import MarketDataClient
from backend.services.quote_board import QuoteBoard
from backend.services.streams import create_streams
from contracts.common import Environment

NOW = datetime(2024, 3, 20, 4, 30, tzinfo=UTC)
START_S_MAX = 30
STOP_S_MAX = 10


def gateway(market_url: str) -> ASGIApp:
    """The gateway's whole application, its board kept fresh from a market over HTTP; it has no database."""
    http = httpx.AsyncClient(transport=AiohttpTransport())
    market_data = MarketDataClient(http, market_url, 5)
    board = QuoteBoard(market_data, Environment.SIMULATED)
    absent = cast("Any", SimpleNamespace())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await board.refresh()
        async with board.running():
            yield
        await http.aclose()

    state = ApiState(
        sessions=absent,
        trading=absent,
        desk=absent,
        security=Security("a key of the benchmark's own, used by nobody", 60, lambda: NOW),
        quote_board=board,
        streams=create_streams(board, market_data, MarketCalendar(standard_calendar()), Environment.SIMULATED),
        paper_deposit_rupees=Decimal(0),
        cors_origins=(),
        environment=Environment.SIMULATED,
    )
    return create_api(state, lifespan)


def bare(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> ASGIApp:
    """The least an ASGI application can do: one prepared answer to whatever is asked."""
    start = {"type": "http.response.start", "status": status, "headers": headers}
    end = {"type": "http.response.body", "body": body}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await send(start)
        await send(end)

    return app


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its loopback port and its process."""

    port: int
    process: psutil.Process

    def cpu_s(self) -> float:
        """Seconds of processor time, user and system, that it has used so far."""
        times = self.process.cpu_times()
        return times.user + times.system


@contextlib.contextmanager
def serving_apart(make_app: Callable[..., ASGIApp], *arguments: object) -> Iterator[Server]:
    """Serve `make_app(*arguments)` in a new process until the block ends."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=_serve, args=(listener, make_app, arguments), daemon=True)
        process.start()
        assert process.pid is not None
        try:
            yield Server(listener.getsockname()[1], psutil.Process(process.pid))
        finally:
            process.terminate()
            process.join(STOP_S_MAX)
            if process.is_alive():
                process.kill()
                process.join()


def _serve(listener: socket.socket, make_app: Callable[..., ASGIApp], arguments: tuple[Any, ...]) -> None:
    config = uvicorn.Config(
        make_app(*arguments), loop="uvloop", http="httptools", workers=1, log_config=None, access_log=False
    )
    uvicorn.Server(config).run(sockets=[listener])
