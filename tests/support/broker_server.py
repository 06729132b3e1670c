"""A broker in a process of its own that misbehaves on demand: plain HTTP and JSON, real sockets, a book of its own.

`python -m tests.support.broker_server --port 0 --folder DIR` prints its address and writes every arrival to
DIR/arrivals.jsonl. One server keeps many worlds apart: the first part of each path names the book that is meant.

    POST   /W/accounts/A/orders            place       → {"order_id"}
    DELETE /W/accounts/A/orders/ID         cancel      → {"order_id"}
    GET    /W/accounts/A/{orders,trades,funds,holdings}
    PUT    /W/control/{behaviour,clock}    POST /W/control/{fill,cancel,orders,copy}    GET /W/control/truth
"""

import argparse
import asyncio
import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tests.support.broker_book import Arrival, Behaviour, Book, BookedOrder, Mode, Ticket

LATE_S_MAX = 30.0
GARBAGE = b"<html>Service is under maintenance</html>"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)

transports: dict[tuple[str, int], asyncio.Transport] = {}
"""The open connections by their peer, so that a route can break its own."""


class BreakableHttp(HttpToolsProtocol):
    """uvicorn's own protocol, which remembers its transport."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transports[transport.get_extra_info("peername")[:2]] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        transports.pop(self.transport.get_extra_info("peername")[:2], None)
        super().connection_lost(exc)


class TicketBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    symbol: str
    exchange: str
    side: str = Field(pattern="^(buy|sell)$")
    product: str
    order_type: str
    quantity: int = Field(gt=0)
    limit_price: Decimal | None
    tag: str = Field("", max_length=20)

    def ticket(self) -> Ticket:
        return Ticket(**self.model_dump())


class BehaviourBody(BaseModel):
    """None as the account means all of them, and forgets what was set for single ones."""

    model_config = ConfigDict(extra="forbid")
    account: int | None = None
    modes: list[Mode]
    late_s: float = Field(1.0, ge=0, le=LATE_S_MAX)
    parts: int = Field(3, ge=1)
    retry_after_s: int = 1


class ClockBody(BaseModel):
    now: datetime


class FillBody(BaseModel):
    order_id: str
    quantity: int | None = None


class HandBody(TicketBody):
    account: int


class CopyBody(BaseModel):
    source: str


class Worlds:
    """The books by world, each with the market clock a test gave it, or else the real one."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._set: dict[str, datetime] = {}
        self._books: dict[str, Book] = {}

    def __getitem__(self, world: str) -> Book:
        if world not in self._books:
            self._books[world] = Book(self._clock(world), time.monotonic)
        return self._books[world]

    def _clock(self, world: str) -> Callable[[], datetime]:
        return lambda: self._set.get(world) or self._now()

    def set_clock(self, world: str, now: datetime) -> None:
        self._set[world] = now

    def copy(self, source: str, world: str) -> None:
        self._books[world] = self[source].copy()
        self._books[world].now = self._clock(world)
        if source in self._set:
            self._set[world] = self._set[source]

    def forget(self, world: str) -> None:
        self._books.pop(world, None)
        self._set.pop(world, None)


def create_app(now: Callable[[], datetime], heard: Callable[[str, Arrival], None] = lambda _w, _a: None) -> FastAPI:
    """The broker. `now` is its market clock where a test sets none; `heard` is told of every arrival and its world."""
    app = FastAPI()
    worlds = Worlds(now)
    _add_trading(app, worlds, heard)
    _add_reports(app, worlds)
    _add_control(app, worlds)
    return app


def _add_trading(app: FastAPI, worlds: Worlds, heard: Callable[[str, Arrival], None]) -> None:
    @app.post("/{world}/accounts/{account}/orders")
    async def place(world: str, account: int, body: TicketBody, request: Request) -> Response:
        book = worlds[world]
        order = book.arrive(account, body.ticket())
        heard(world, book.arrivals[-1])
        return await _placed(request, book.behaviour(account), order)

    @app.delete("/{world}/accounts/{account}/orders/{order_id}")
    async def cancel(world: str, account: int, order_id: str) -> Response:
        book = worlds[world]
        if denial := _denial(book.behaviour(account)):
            return denial
        if not book.cancel(account, order_id):
            return _refusal(400, "OrderException", f"order {order_id} cannot be cancelled")
        return JSONResponse({"order_id": order_id})


async def _placed(request: Request, behaviour: Behaviour, order: BookedOrder | None) -> Response:
    """The answer to an order, broken as the account's mode says; the order itself is booked by now, or never is."""
    modes = behaviour.modes
    if denial := _denial(behaviour):
        return denial
    if Mode.REFUSE in modes:
        return _refusal(400, "MarginException", "RMS: margin exceeded")
    faults: dict[Mode, Callable[[Request], Awaitable[None]]] = {
        Mode.ACCEPT_THEN_HANG: _until_gone,
        Mode.ACCEPT_THEN_RESET: _reset,
        Mode.ACCEPT_THEN_CUT: _cut,
        Mode.DROP_BEFORE_ACCEPT: _drop,
    }
    for mode in modes & faults.keys():
        await faults[mode](request)
    if Mode.ACCEPT_THEN_502 in modes:
        return Response("Bad Gateway", 502)
    if Mode.ACCEPT_THEN_GARBAGE in modes:
        return Response(GARBAGE, 200, media_type="text/html")
    return JSONResponse({"order_id": order.order_id if order else None})


def _denial(behaviour: Behaviour) -> Response | None:
    """What an account hears on every request while its token is dead or its quota is used up."""
    if Mode.TOKEN_EXPIRED in behaviour.modes:
        return _refusal(403, "TokenException", "the access token has expired")
    if Mode.RATE_LIMITED in behaviour.modes:
        return _refusal(429, "RateLimitException", "too many requests", {"Retry-After": str(behaviour.retry_after_s)})
    return None


def _refusal(status: int, error_type: str, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error_type": error_type, "message": message}, status, headers)


def _transport(request: Request) -> asyncio.Transport:
    assert request.client is not None
    return transports[request.client.host, request.client.port]


async def _until_gone(request: Request) -> None:
    """Say nothing for as long as the client listens."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _drop(request: Request) -> None:
    _transport(request).abort()
    await _until_gone(request)


async def _reset(request: Request) -> None:
    transport = _transport(request)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    transport.abort()
    await _until_gone(request)


async def _cut(request: Request) -> None:
    transport = _transport(request)
    transport.write(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{"order_id": ')
    transport.close()
    await _until_gone(request)


def _add_reports(app: FastAPI, worlds: Worlds) -> None:
    async def report(world: str, account: int, request: Request, read: Callable[[Book], Any]) -> Response:
        behaviour = worlds[world].behaviour(account)
        if denial := _denial(behaviour):
            return denial
        if Mode.BOOK_HANGS in behaviour.modes:
            await _until_gone(request)
        if Mode.BOOK_502 in behaviour.modes:
            return Response("Bad Gateway", 502)
        if Mode.BOOK_GARBAGE in behaviour.modes:
            return Response(GARBAGE, 200, media_type="text/html")
        return JSONResponse(jsonable_encoder(read(worlds[world])))

    @app.get("/{world}/accounts/{account}/orders")
    async def orders(world: str, account: int, request: Request) -> Response:
        return await report(world, account, request, lambda book: [shown(o) for o in book.shown(account)])

    @app.get("/{world}/accounts/{account}/trades")
    async def trades(world: str, account: int, request: Request) -> Response:
        return await report(
            world, account, request, lambda book: [_wire(asdict(t)) for t in book.trades_shown(account)]
        )

    @app.get("/{world}/accounts/{account}/funds")
    async def funds(world: str, account: int, request: Request) -> Response:
        def read(book: Book) -> dict[str, str]:
            cash, free = book.funds(account)
            return {"cash": str(cash), "cash_free": str(free)}

        return await report(world, account, request, read)

    @app.get("/{world}/accounts/{account}/holdings")
    async def holdings(world: str, account: int, request: Request) -> Response:
        return await report(world, account, request, lambda book: book.holdings(account))


def _add_control(app: FastAPI, worlds: Worlds) -> None:
    @app.put("/{world}/control/behaviour")
    async def behave(world: str, body: BehaviourBody) -> None:
        behaviour = Behaviour(frozenset(body.modes), body.late_s, body.parts, body.retry_after_s)
        worlds[world].behave(body.account, behaviour)

    @app.put("/{world}/control/clock")
    async def clock(world: str, body: ClockBody) -> None:
        worlds.set_clock(world, body.now)

    @app.post("/{world}/control/fill")
    async def fill(world: str, body: FillBody) -> None:
        worlds[world].fill(body.order_id, body.quantity)

    @app.post("/{world}/control/cancel")
    async def cancel(world: str, body: FillBody) -> bool:
        return worlds[world].cancel(None, body.order_id)

    @app.post("/{world}/control/orders")
    async def place_by_hand(world: str, body: HandBody) -> dict[str, str]:
        ticket = Ticket(**body.model_dump(exclude={"account"}))
        return {"order_id": worlds[world].place_by_hand(body.account, ticket).order_id}

    @app.post("/{world}/control/copy")
    async def copy(world: str, body: CopyBody) -> None:
        worlds.copy(body.source, world)

    @app.delete("/{world}")
    async def forget(world: str) -> None:
        worlds.forget(world)

    @app.get("/{world}/control/truth")
    async def truth(world: str) -> Any:
        told = worlds[world].truth()
        return told | {
            "orders": [shown(o) | {"trades": [_wire(asdict(t)) for t in o.trades]} for o in told["orders"]],
            "arrivals": [asdict(arrival) for arrival in told["arrivals"]],
        }


def shown(order: BookedOrder) -> dict[str, Any]:
    """An order as reports show it."""
    return _wire(asdict(order.ticket)) | {
        "order_id": order.order_id,
        "account": order.account,
        "status": order.status,
        "message": order.message,
        "filled": order.filled,
        "by_hand": order.by_hand,
        "placed_at": order.placed_at.isoformat(),
    }


def _wire(fields: dict[str, Any]) -> dict[str, Any]:
    """Rupees travel as text, instants with their offset."""
    return {name: _wire_value(value) for name, value in fields.items()}


def _wire_value(value: Any) -> Any:
    if isinstance(value, Decimal):
        return str(value)
    return value.isoformat() if isinstance(value, datetime) else value


def _server(app: FastAPI) -> uvicorn.Server:
    return uvicorn.Server(uvicorn.Config(app, http=BreakableHttp, log_level="warning", lifespan="off", loop="asyncio"))


def _listen(port: int) -> socket.socket:
    """A listening loopback socket that knows it is TCP: only then does asyncio send small replies without delay."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    return listener


@contextlib.contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Run the broker on a free loopback port in a thread of its own; yields its URL."""
    with _listen(0) as listener:
        server = _server(app)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.force_exit = server.should_exit = True
        thread.join(10)


def run(port: int, folder: Path) -> None:
    """Serve until the process ends; the address is printed first, arrivals are appended to the folder's journal."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        _listen(port) as listener,
        (folder / "arrivals.jsonl").open("a", buffering=1) as journal,
    ):

        def heard(world: str, arrival: Arrival) -> None:
            journal.write(json.dumps({"world": world} | asdict(arrival)) + "\n")

        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)  # noqa: T201
        app = create_app(lambda: datetime.now(UTC), heard)
        asyncio.run(_server(app).serve(sockets=[listener]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    run(arguments.port, arguments.folder)
