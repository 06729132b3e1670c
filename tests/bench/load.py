"""A load of keep-alive requests that costs its sender little, so that the server under it is what is measured."""

import asyncio
import re
import time
from dataclasses import dataclass
from typing import cast

import uvloop

CONNECTIONS = 32
TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP/1.1 answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes


def request_bytes(path: str, headers: dict[str, str] | None = None) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: bench", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    return "\r\n".join([*lines, "", ""]).encode()


def fetch(port: int, request: bytes) -> Answer:
    """One answer of the server on loopback `port`."""
    return uvloop.run(_fetch(port, request))


async def _fetch(port: int, request: bytes) -> Answer:
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        writer.close()
        return Answer(int(first.split(" ")[1]), headers, body)


def send(port: int, request: bytes, status: int, requests: int) -> float:
    """Send `requests` requests over CONNECTIONS connections, one outstanding on each; returns the seconds it took.

    Raises:
        AssertionError: an answer had another status or length than the first one, or a connection broke.
        TimeoutError: it took longer than TIMEOUT_S.
    """
    return uvloop.run(_send(port, request, status, requests))


async def _send(port: int, request: bytes, status: int, requests: int) -> float:
    loop = asyncio.get_running_loop()
    load = _Load(request, b"HTTP/1.1 %d " % status, requests, loop.create_future())
    async with asyncio.timeout(TIMEOUT_S):
        connections = [
            await loop.create_connection(lambda: _Connection(load), "127.0.0.1", port) for _ in range(CONNECTIONS)
        ]
        started = time.perf_counter()
        for _, connection in connections:
            connection.ask()
        await load.done
        taken_s = time.perf_counter() - started
    for transport, _ in connections:
        transport.close()
    return taken_s


@dataclass(slots=True)
class _Load:
    request: bytes
    prefix: bytes
    unsent: int
    done: asyncio.Future[None]
    outstanding: int = 0
    answer_bytes: int = 0

    def fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(AssertionError(why))


class _Connection(asyncio.Protocol):
    """Asks, takes in an answer of the known length, asks again."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it

    def ask(self) -> None:
        load = self._load
        if load.unsent:
            load.unsent -= 1
            load.outstanding += 1
            self._transport.write(load.request)
        elif not load.outstanding and not load.done.done():
            load.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        load = self._load
        self._received = received = self._received + data if self._received else data
        if not received.startswith(load.prefix):
            load.fail(f"unexpected answer: {received[:200]!r}")
            return
        load.answer_bytes = load.answer_bytes or _length(received)
        if load.answer_bytes and len(received) >= load.answer_bytes:
            if len(received) > load.answer_bytes:
                load.fail("an answer of another length")
            self._received = b""
            load.outstanding -= 1
            self.ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.fail(f"the server closed a connection: {exc}")


def _length(received: bytes) -> int:
    """The length of the answer that begins here, head and body; 0 while its head is not complete."""
    head = received.find(b"\r\n\r\n")
    if head < 0:
        return 0
    stated = re.search(rb"content-length: (\d+)", received[:head], re.IGNORECASE)
    return head + 4 + (int(stated[1]) if stated else 0)
