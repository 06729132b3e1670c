"""Listening to brokers: a word of an order is a hint, and a connection is there again after any failure."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import pytest
from sqlalchemy import text
from websockets.asyncio.server import Server, ServerConnection, serve

from backend.brokers.adapter import Access
from backend.brokers.base import BrokerUnavailableError, SessionExpiredError
from backend.brokers.order_sockets import dhan_socket, kite_socket, tells_of_an_order, upstox_socket
from backend.services.order_listen_service import Backoff, OrderListeners
from tests.brokers.rest_server import RestServer, json_answer
from tests.support.live_desk import open_live_desk

KITE_ORDER = json.dumps({"type": "order", "data": {"order_id": "1"}})


@pytest.mark.parametrize(
    ("message", "tells"),
    [
        (KITE_ORDER, True),
        (b"\x00", False),
        (b"\x00\x01\x00\x08" + bytes(8), False),
        ('{"type": "error", "data": "x"}', False),
        ('{"type": "instruments_meta"}', False),
        (b'{"update_type": "order", "order_id": "1"}', True),
        ('{"update_type": "holding"}', False),
        ('{"Type": "order_alert", "Data": {}}', True),
        ("[]", False),
        ("order", False),
        ("[" * 100_000, False),
        (b"\xff\xfe", False),
    ],
)
def test_only_a_word_of_an_order_is_one(message: str | bytes, tells: bool) -> None:
    assert tells_of_an_order(message) is tells


@dataclass
class Stream:
    """A broker's stream: what was asked of it, and the connections that stand."""

    url: str = ""
    paths: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    connections: list[ServerConnection] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.paths.append(connection.request.path)
        self.connections.append(connection)
        self.arrived.set()
        async for message in connection:
            self.heard.append(str(message))

    async def connection(self) -> ServerConnection:
        """The next connection that is made."""
        await asyncio.wait_for(self.arrived.wait(), 10)
        self.arrived.clear()
        return self.connections[-1]


@pytest.fixture
async def stream() -> AsyncIterator[Stream]:
    stream = Stream()
    server: Server = await serve(stream.handle, "127.0.0.1", 0)
    stream.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield stream
    server.close()
    await server.wait_closed()


@pytest.fixture
async def desk(trading, market, sessions):
    async with open_live_desk(trading, market, sessions) as desk:
        yield desk


class Hints:
    """Which accounts were hinted at; `next` waits for one more."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = defaultdict(int)
        self._more = asyncio.Event()

    def add(self, account_id: int) -> None:
        self.seen[account_id] += 1
        self._more.set()

    async def next(self) -> dict[int, int]:
        await asyncio.wait_for(self._more.wait(), 10)
        self._more.clear()
        return dict(self.seen)


async def test_each_account_is_listened_to_while_it_is_logged_in(desk, make_user, stream) -> None:
    user_id = await make_user()
    account_id = await desk.account(user_id)
    async with desk.trading.sessions.begin() as session:  # the session's end is real time
        await session.execute(text("UPDATE broker_sessions SET ends_at = now() + interval '1 hour'"))
    hints = Hints()
    sockets = {"zerodha": kite_socket(stream.url)}
    at_once = Backoff(0.01, 0.01)
    listeners = OrderListeners(desk.trading.sessions, desk.accesses, sockets, hints.add, at_once)
    await listeners.look()
    connection = await stream.connection()
    access = await desk.accesses.access(account_id)
    assert stream.paths == [f"/?api_key={access.api_key}&access_token={access.token}"]
    await connection.send(b"\x00")
    await connection.send(KITE_ORDER)
    assert await hints.next() == {account_id: 1}
    # Cut off, it is there again, and the book is looked at for what it has missed.
    await connection.close()
    assert await hints.next() == {account_id: 2}
    connection = await stream.connection()
    await listeners.look()
    assert len(stream.paths) == 2  # one connection an account
    async with desk.trading.sessions.begin() as session:
        await session.execute(text("UPDATE broker_sessions SET ended_at = now()"))
    await listeners.look()
    await asyncio.wait_for(connection.wait_closed(), 10)
    assert listeners._listening == {}


async def test_a_silent_connection_is_given_up(desk, make_user, stream, monkeypatch) -> None:
    account_id = await desk.account(await make_user())
    async with desk.trading.sessions.begin() as session:
        await session.execute(text("UPDATE broker_sessions SET ends_at = now() + interval '1 hour'"))
    monkeypatch.setattr("backend.brokers.order_sockets.KITE_SILENCE_S", 0.1)
    hints = Hints()
    sockets = {"zerodha": kite_socket(stream.url)}
    listeners = OrderListeners(desk.trading.sessions, desk.accesses, sockets, hints.add, Backoff(0.01, 0.01))
    await listeners.look()
    await stream.connection()
    assert await hints.next() == {account_id: 1}
    await stream.connection()
    await listeners._stop(list(listeners._listening))


async def test_dhan_is_told_who_listens_and_upstox_tells_where() -> None:
    async with httpx.AsyncClient() as http:
        access = Access(1, "1100", "key", "the token", http)
        dhan = await dhan_socket("ws://dhan")(access)
        assert json.loads(dhan.hello) == {
            "LoginReq": {"MsgCode": 42, "ClientId": "1100", "Token": "the token"},
            "UserType": "SELF",
        }
        assert "the token" not in repr(dhan)
        where = "wss://feed.example/?code=1"
        said: list = [json_answer({"status": "success", "data": {"authorized_redirect_uri": where}})]
        async with RestServer(lambda _: said[0]) as server:
            assert (await upstox_socket(server.url)(access)).url == where
            assert server.requests[0].headers["authorization"] == "Bearer the token"
            for answer, error in (
                (json_answer({}, 401), SessionExpiredError),
                (json_answer({}, 500), BrokerUnavailableError),
                (json_answer({"data": 1}), BrokerUnavailableError),
            ):
                said[0] = answer
                with pytest.raises(error):
                    await upstox_socket(server.url)(access)


def test_attempts_grow_apart() -> None:
    delays = [Backoff(2, 120).delay_s(n) for n in range(1, 40)]
    assert all(1 <= delay <= 120 for delay in delays)
    assert min(delays[6:]) >= 60
