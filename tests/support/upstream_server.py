"""An upstream of market data on loopback: serves what a test gives it over real sockets, and misbehaves on demand."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

HEAD_BYTES_MAX = 65_536


class Mode(StrEnum):
    """How a reply goes out: whole, not at all, head and half of the body and then silence, or that and then the end."""

    WHOLE = "whole"
    HANG = "hang"
    HALF_OPEN = "half_open"
    CUT = "cut"


@dataclass(frozen=True, slots=True)
class Reply:
    """What one path answers."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    mode: Mode = Mode.WHOLE


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it arrived: the unquoted path, the first value of each query field, headers in lower case."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


def as_json(value: Any, status: int = 200, **headers: str) -> Reply:
    return Reply(json.dumps(value).encode(), status, {"content-type": "application/json", **headers})


def bomb(unpacked_bytes: int) -> Reply:
    """A small gzip that unpacks to many zeros."""
    return Reply(gzip.compress(bytes(unpacked_bytes)), headers={"content-encoding": "gzip"})


HTML = Reply(b"<html>Service is under maintenance</html>", headers={"content-type": "text/html"})
HANG = Reply(mode=Mode.HANG)
HALF_OPEN = Reply(bytes(1000), mode=Mode.HALF_OPEN)
CUT = Reply(bytes(1000), mode=Mode.CUT)
NOT_FOUND = Reply(b"<html>not found</html>", 404)


class UpstreamServer:
    """`replies` by unquoted path; `everywhere` beats them while it is set. `asked` holds the requests in order.

    Use it as `async with UpstreamServer(replies) as server:`; after the block its `url` refuses connections.
    """

    def __init__(self, replies: Mapping[str, Reply] | None = None, everywhere: Reply | None = None) -> None:
        self.replies = dict(replies or {})
        self.everywhere = everywhere
        self.asked: list[Asked] = []
        self.at_once = self.at_once_peak = 0
        self.url = ""
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, after a stop on the same port as before."""
        port = urlsplit(self.url).port or 0
        self._listener = await asyncio.start_server(self._accepted, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Refuse connections from now on; those that are open are cut."""
        assert self._listener is not None
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listener.wait_closed()

    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.at_once += 1
        self.at_once_peak = max(self.at_once_peak, self.at_once)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                asked = _asked(await reader.readuntil(b"\r\n\r\n"))
                self.asked.append(asked)
                await _answer(writer, reader, self.everywhere or self.replies.get(asked.path, NOT_FOUND))
        finally:
            self.at_once -= 1
            writer.close()


def _asked(head: bytes) -> Asked:
    first, *lines = head.decode("latin-1").split("\r\n")
    target = urlsplit(first.split(" ")[1])
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    query = {name: values[0] for name, values in parse_qs(target.query).items()}
    return Asked(unquote(target.path), query, headers)


async def _answer(writer: asyncio.StreamWriter, reader: asyncio.StreamReader, reply: Reply) -> None:
    """Send the reply as its mode says; a silent one waits until the client gives up."""
    if reply.mode is not Mode.HANG:
        headers = {"content-length": str(len(reply.body)), "connection": "close", **reply.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        body = reply.body if reply.mode is Mode.WHOLE else reply.body[: len(reply.body) // 2]
        writer.write(f"HTTP/1.1 {reply.status} Said\r\n{head}\r\n".encode("latin-1") + body)
        await writer.drain()
    if reply.mode in (Mode.HANG, Mode.HALF_OPEN):
        await reader.read(HEAD_BYTES_MAX)
