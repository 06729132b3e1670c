"""An HTTP server on loopback for doubles of brokers: it answers what its handler says, and breaks replies on demand."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
HTML = b"<html>Service is under maintenance</html>"
TOO_LARGE_BYTES = 5 << 20


class Break(StrEnum):
    """How a reply goes wrong: on the wire, at a gateway before the broker, or as well-formed nonsense."""

    SILENCE = "silence"
    RESET = "reset"
    CUT = "cut"
    TRUNCATED = "truncated"
    EMPTY = "empty"
    HTML = "html"
    NULL = "null"
    OBJECT = "object"
    LIST = "list"
    SERVER_ERROR = "500"
    BAD_GATEWAY = "502"
    UNAVAILABLE = "503"
    FORBIDDEN = "403"
    REDIRECT = "302"
    TOO_LARGE = "too_large"


_SAID: Mapping[Break, tuple[int, bytes]] = {
    Break.EMPTY: (200, b""),
    Break.HTML: (200, HTML),
    Break.NULL: (200, b"null"),
    Break.OBJECT: (200, b"{}"),
    Break.LIST: (200, b"[]"),
    Break.SERVER_ERROR: (500, HTML),
    Break.BAD_GATEWAY: (502, HTML),
    Break.UNAVAILABLE: (503, HTML),
    Break.FORBIDDEN: (403, HTML),
    Break.TOO_LARGE: (200, b'"' + bytes(TOO_LARGE_BYTES) + b'"'),
}


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it arrived: the unquoted path, the query's and a form's fields, headers in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))

    @property
    def json(self) -> Any:
        return json.loads(self.body, parse_float=Decimal)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


def json_answer(said: Any, status: int = 200) -> Answer:
    """Numbers of Decimal go out as JSON numbers."""
    return Answer(status, json.dumps(said, default=float).encode(), {"content-type": "application/json"})


@dataclass(frozen=True, slots=True)
class _Broken:
    kind: Break
    method: str
    path: str
    handled: bool

    def meets(self, request: Request) -> bool:
        return request.method == self.method and self.path in request.path


class RestServer:
    """Use it as `async with RestServer(handle) as server:`; `requests` holds what arrived, in order."""

    def __init__(self, handle: Callable[[Request], Answer]) -> None:
        self._handle = handle
        self._breaks: list[_Broken] = []
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._listener: asyncio.Server | None = None
        self.requests: list[Request] = []
        self.url = ""

    def break_next(self, kind: Break, method: str, path: str, *, handled: bool = True) -> None:
        """Break the reply to the next such request whose path contains `path`; `handled`: after the handler ran."""
        self._breaks.append(_Broken(kind, method, path, handled))

    def count(self, method: str | None = None) -> int:
        return sum(method in (None, request.method) for request in self.requests)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, after a stop on the same port as before."""
        self._listener = await asyncio.start_server(self._accepted, "127.0.0.1", urlsplit(self.url).port or 0)
        self.url = f"http://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Refuse connections from now on; those that are open are cut."""
        if self._listener is None:
            return
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listener.wait_closed()
        self._listener = None

    def drop_connections(self) -> None:
        """Close what is open, as a server does with connections that are idle for long."""
        for writer in self._tasks.values():
            writer.close()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks[task] = writer
        task.add_done_callback(self._tasks.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._answer(await _request(reader), reader, writer):
                    pass
        finally:
            writer.close()

    async def _answer(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False where the connection ends with it."""
        self.requests.append(request)
        broken = next((b for b in self._breaks if b.meets(request)), None)
        if broken is None:
            await _send(writer, self._handle(request))
            return True
        self._breaks.remove(broken)
        answer = self._handle(request) if broken.handled else json_answer({"status": "success", "data": {}})
        return await _broken_answer(broken.kind, answer, reader, writer)


async def _request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    split = urlsplit(target)
    return Request(method, unquote(split.path), dict(parse_qsl(split.query)), headers, body)


async def _send(writer: asyncio.StreamWriter, answer: Answer, body: bytes | None = None) -> None:
    """The answer's head, which tells of all its body, and `body` of it."""
    headers = {"content-length": str(len(answer.body)), **answer.headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {answer.status} Said\r\n{head}\r\n".encode("latin-1"))
    writer.write(answer.body if body is None else body)
    await writer.drain()


async def _broken_answer(
    kind: Break, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    half = answer.body[: len(answer.body) // 2]
    if kind is Break.SILENCE:
        await reader.read(1)
    elif kind is Break.RESET:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        writer.transport.abort()
    elif kind is Break.CUT:
        await _send(writer, answer, half)
    elif kind is Break.TRUNCATED:
        await _send(writer, Answer(answer.status, half, answer.headers))
    elif kind is Break.REDIRECT:
        await _send(writer, Answer(307, b"", {"location": "/elsewhere"}))
    else:
        await _send(writer, Answer(*_SAID[kind]))
    return False
