"""One way to fetch from an upstream: every byte counted, every failure a ProviderError, money never a binary float."""

import asyncio
import io
import json
import zipfile
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import aiohttp
import httpx
import polars as pl

from data_service.providers.base import IncompleteError, ProviderError, RateLimitedError, RawQuote

BYTES_MAX = 16 << 20
"""The largest reply taken, packed or unpacked; an exchange's file of a day is below 1 MB."""

RETRY_AFTER_S = 60.0
RETRY_AFTER_S_MAX = 3600.0
FAILURES_MAX = 5
"""After so many failed requests of one call the rest of them is not tried."""

GZIP = 16 + zlib.MAX_WBITS
USER_AGENT = "Mozilla/5.0 (compatible; Sauda)"
"""The exchanges' file servers let a request without a browser's prefix hang."""

Key = TypeVar("Key")
Got = TypeVar("Got")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A reply, whatever its status; `content` is unpacked. `place` names its host and path without the query, which may
    carry a secret."""

    place: str
    status: int
    headers: Mapping[str, str]
    content: bytes


def place_of(url: str) -> str:
    """Host and path of a URL, for messages."""
    parts = urlsplit(url)
    return f"{parts.netloc}{parts.path}"


async def fetch(
    http: httpx.AsyncClient,
    url: str,
    *,
    params: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    bytes_max: int = BYTES_MAX,
) -> Fetched:
    """GET with at most `bytes_max` bytes on the wire and unpacked. The caller brings the deadline (asyncio.timeout).

    Raises ProviderError: no connection, cut off, not HTTP, too large, packed in a way not asked for or not at all.
    """
    asked = {"user-agent": USER_AGENT, "accept": "*/*", "accept-encoding": "gzip", **(headers or {})}
    place = place_of(url)
    try:
        async with http.stream("GET", url, params=params, headers=asked) as reply:
            packed = await _limited(reply, place, bytes_max)
            encoding = reply.headers.get("content-encoding", "identity").lower()
            return Fetched(place, reply.status_code, reply.headers, _decoded(packed, encoding, place, bytes_max))
    except (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError) as error:
        raise ProviderError(f"{place}: {type(error).__name__}") from error


async def _limited(reply: httpx.Response, place: str, bytes_max: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in reply.aiter_raw():
        size += len(chunk)
        if size > bytes_max:
            raise ProviderError(f"{place}: more than {bytes_max} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _decoded(packed: bytes, encoding: str, place: str, bytes_max: int) -> bytes:
    if encoding == "identity" or not packed:
        return packed
    if encoding not in ("gzip", "x-gzip"):
        raise ProviderError(f"{place}: content-encoding {encoding[:20]} was not asked for")
    return gunzipped(packed, place, bytes_max)


def gunzipped(packed: bytes, place: str, bytes_max: int = BYTES_MAX) -> bytes:
    """What a gzip holds, at most `bytes_max` bytes. Raises ProviderError."""
    unpacker = zlib.decompressobj(GZIP)
    try:
        content = unpacker.decompress(packed, bytes_max + 1)
    except zlib.error as error:
        raise ProviderError(f"{place}: damaged gzip") from error
    if len(content) > bytes_max:
        raise ProviderError(f"{place}: more than {bytes_max} bytes when unpacked")
    if not unpacker.eof:
        raise ProviderError(f"{place}: cut off")
    return content


def require_ok(reply: Fetched) -> bytes:
    """The content of a 200. Raises RateLimitedError for 429 and for 503 that says when to come back, else
    ProviderError."""
    if reply.status == 200:
        return reply.content
    if reply.status == 429 or (reply.status == 503 and "retry-after" in reply.headers):
        raise RateLimitedError(f"{reply.place}: {reply.status}, too many requests", retry_after_s(reply.headers))
    raise ProviderError(f"{reply.place}: answered {reply.status}")


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds of a Retry-After header, a number or a date (RFC 9110 §10.2.3) counted from the reply's own Date; within
    1 s and an hour, a minute where it says nothing readable."""
    said = headers.get("retry-after", "")
    try:
        wait_s = float(said) if said.strip().isdigit() else (_date(said) - _date(headers["date"])).total_seconds()
    except (ValueError, KeyError, TypeError):
        return RETRY_AFTER_S
    return min(max(wait_s, 1.0), RETRY_AFTER_S_MAX)


def _date(text: str) -> datetime:
    return parsedate_to_datetime(text)


def unzipped_csv(content: bytes, place: str, bytes_max: int = BYTES_MAX) -> bytes:
    """The one CSV inside a zip, at most `bytes_max` bytes. Raises ProviderError."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [name for name in archive.namelist() if name.lower().endswith(".csv")]
            if len(members) != 1:
                raise ProviderError(f"{place}: a zip with {len(members)} CSV files")
            with archive.open(members[0]) as stream:
                unpacked = stream.read(bytes_max + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise ProviderError(f"{place}: damaged zip") from error
    if len(unpacked) > bytes_max:
        raise ProviderError(f"{place}: more than {bytes_max} bytes when unpacked")
    return unpacked


def parsed_json(content: bytes, place: str) -> Any:
    """JSON with decimals as Decimal; NaN and infinities refused. Raises ProviderError."""
    try:
        return json.loads(content, parse_float=Decimal, parse_constant=_refuse)
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise ProviderError(f"{place}: not JSON") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


@dataclass(frozen=True, slots=True)
class Gathered(Generic[Key, Got]):
    """What came of many requests: answers by key, and why others failed (the first of the errors)."""

    got: dict[Key, Got]
    error: ProviderError | None


async def gather_each(
    keys: Sequence[Key], ask: Callable[[Key], Awaitable[Got]], *, at_once_max: int
) -> Gathered[Key, Got]:
    """Ask for each key, `at_once_max` at a time. After a RateLimitedError, or FAILURES_MAX other failures, no further
    request is begun; the keys not asked for are absent."""
    waiting = iter(keys)
    got: dict[Key, Got] = {}
    errors: list[ProviderError] = []

    def given_up() -> bool:
        return len(errors) >= FAILURES_MAX or any(isinstance(error, RateLimitedError) for error in errors)

    async def work() -> None:
        for key in waiting:
            if given_up():
                return
            try:
                got[key] = await ask(key)
            except ProviderError as error:
                errors.append(error)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_once_max, len(keys))):
            group.create_task(work())
    limited = [error for error in errors if isinstance(error, RateLimitedError)]
    return Gathered(got, next(iter(limited or errors), None))


Whole = TypeVar("Whole", pl.DataFrame, Mapping[str, RawQuote])


def whole(gathered: Gathered[Any, Any], found: Whole) -> Whole:
    """`found`, made of all that was gathered, where nothing failed. Raises IncompleteError with it where something
    came, else the error itself."""
    if gathered.error is None:
        return found
    raise IncompleteError(gathered.error, found) if gathered.got else gathered.error
