"""One request to a broker, written once: bounded, never repeated, its failure told as what it proves."""

import asyncio
import contextlib
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx

from backend.brokers.base import (
    BrokerError,
    BrokerUnavailableError,
    NotPlacedError,
    OutcomeUnknownError,
)
from backend.brokers.wire_fields import MalformedError, parsed_json

TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2.0
"""How long a connection may take; it ends before the whole request does, so that its failure stays a proof."""

BYTES_MAX = 4 << 20
"""The largest reply taken, packed or unpacked: a day of 5,000 orders with their trades is below it."""

GZIP = 16 + zlib.MAX_WBITS
GZIP_MAGIC = b"\x1f\x8b"

WRITING = ("http11.send_request_headers.started", "http2.send_request_headers.started")
"""What httpcore calls the moment at which there is a connection and nothing is written on it yet."""

_FOREIGN = (httpx.HTTPError, httpx.StreamError, aiohttp.ClientError, OSError)
_UNCONNECTED = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
_UNCONNECTED_AIOHTTP = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
"""A proxy's own refusal is one to connect, too: the request goes through a tunnel that was never dug."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request: `form` or `body` (JSON) or neither. `broker` is who is asked, for messages."""

    broker: str
    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    params: Mapping[str, str] | None = field(default=None, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    body: Any = field(default=None, repr=False)
    timeout_s: float = TIMEOUT_S
    bytes_max: int = BYTES_MAX

    @property
    def place(self) -> str:
        """Method and path, for messages: the query may carry a secret."""
        return f"{self.method} {urlsplit(self.url).path}"


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply, whatever its status; `content` is unpacked."""

    status: int
    content: bytes = field(repr=False)

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        """What it says, numbers with a fraction as Decimal. Raises MalformedError."""
        return parsed_json(self.content)


async def write(http: httpx.AsyncClient, call: Call, before: Callable[[], None] | None = None) -> Reply:
    """Send what changes something at the broker, once. Any reply that is whole is returned, refusals too.

    `before` is asked right before the request is written, once there is a connection, and ends it by raising. `http`
    has httpx's own transport: aiohttp's keeps cookies of its own, sends PUT and DELETE a second time where a connection
    breaks, and does not tell when it writes.

    Raises:
        NotPlacedError: there was no connection, so nothing was written.
        OutcomeUnknownError: no whole reply came.
    """
    try:
        return await _exchange(http, call, before)
    except _FOREIGN as error:
        kind = NotPlacedError if _was_never_connected(error) else OutcomeUnknownError
        raise kind(f"{call.broker} did not answer {call.place}: {type(error).__name__}") from error
    except MalformedError as error:
        raise OutcomeUnknownError(f"{call.broker} answered {call.place} with {error}") from error


async def read(http: httpx.AsyncClient, call: Call) -> Reply:
    """Ask for a report, once. Any reply that is whole is returned, refusals too.

    Raises:
        BrokerUnavailableError: no whole reply came.
    """
    try:
        return await _exchange(http, call, None)
    except _FOREIGN as error:
        raise BrokerUnavailableError(f"{call.broker} did not answer {call.place}: {type(error).__name__}") from error
    except MalformedError as error:
        raise BrokerUnavailableError(f"{call.broker} answered {call.place} with {error}") from error


@contextlib.contextmanager
def malformed_as(kind: type[BrokerError], what: str) -> Iterator[None]:
    """Let what cannot be read be a failure of `kind`: `what` names the report and whose it is."""
    try:
        yield
    except MalformedError as error:
        raise kind(f"{what} cannot be read: {error}") from error


def unpacked(content: bytes, bytes_max: int) -> bytes:
    """A file as it is or, where it is a gzip, what is inside: at most `bytes_max` bytes. Raises MalformedError."""
    if not content.startswith(GZIP_MAGIC):
        return content
    unpacker = zlib.decompressobj(GZIP)
    try:
        inside = unpacker.decompress(content, bytes_max + 1)
    except zlib.error:
        raise MalformedError("a damaged gzip") from None
    if len(inside) > bytes_max:
        raise MalformedError(f"more than {bytes_max} bytes when unpacked")
    if not unpacker.eof:
        raise MalformedError("a gzip that is cut off")
    return inside


async def _exchange(http: httpx.AsyncClient, call: Call, before: Callable[[], None] | None) -> Reply:
    async def trace(event: str, _: Mapping[str, Any]) -> None:
        if before is not None and event in WRITING:
            before()

    if before is not None:
        before()  # a transport without traces asks here only
    async with asyncio.timeout(call.timeout_s):
        response = await http.send(_request(http, call, trace), stream=True, follow_redirects=False)
        try:
            packed = await _limited(response, call.bytes_max)
        finally:
            await response.aclose()
    encoding = response.headers.get("content-encoding", "identity").lower()
    return Reply(response.status_code, _decoded(packed, encoding, call.bytes_max))


def _request(http: httpx.AsyncClient, call: Call, trace: Callable[..., Awaitable[None]]) -> httpx.Request:
    """Raises UnsupportedProtocol for what cannot be asked at all: a credential, say, that no header can carry."""
    connect_s = min(CONNECT_TIMEOUT_S, call.timeout_s / 2)
    try:
        request = http.build_request(
            call.method,
            call.url,
            headers={"accept": "*/*", "accept-encoding": "gzip", **call.headers},
            params=call.params,
            data=call.form,
            json=call.body,
            timeout=httpx.Timeout(call.timeout_s, connect=connect_s, pool=connect_s),
            extensions={"trace": trace},
        )
    except (UnicodeError, httpx.InvalidURL) as error:
        raise httpx.UnsupportedProtocol(type(error).__name__) from error
    # One client serves many accounts: what a broker's gateway hung on one of them is nobody else's.
    request.headers.pop("cookie", None)
    return request


async def _limited(response: httpx.Response, bytes_max: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > bytes_max:
            raise MalformedError(f"more than {bytes_max} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _decoded(packed: bytes, encoding: str, bytes_max: int) -> bytes:
    if encoding == "identity" or not packed:
        return packed
    if encoding not in ("gzip", "x-gzip"):
        raise MalformedError("an encoding that was not asked for")
    if not packed.startswith(GZIP_MAGIC):
        raise MalformedError("a damaged gzip")
    return unpacked(packed, bytes_max)


def _was_never_connected(error: Exception) -> bool:
    """Whether it proves that no byte was written. httpx's name alone does not under aiohttp: its transport calls every
    broken connection a ConnectTimeout, also one that broke after the request."""
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientError):
        return isinstance(cause, _UNCONNECTED_AIOHTTP)
    return isinstance(error, _UNCONNECTED)
