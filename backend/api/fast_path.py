"""Public quotes straight from the board's prepared bytes, before any routing: 200 or 304 in a few microseconds."""

from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from backend.services.quote_board import SYMBOLS_DEFAULT, Prepared, QuoteBoard

QUOTES_PATH = "/v1/market/quotes"
CACHE_CONTROL = b"public, max-age=1"
QUERY_BYTES_MAX = 2048


class FastQuotes:
    """Pure ASGI middleware. What the board has not got fresh is left to the route behind it."""

    def __init__(self, app: ASGIApp, board: QuoteBoard) -> None:
        self._app = app
        self._board = board

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == QUOTES_PATH and scope["method"] == "GET":
            symbols = requested_symbols(scope["query_string"])
            prepared = self._board.fresh(symbols) if symbols else None
            if prepared is not None:
                await _send(prepared, scope["headers"], send)
                return
        await self._app(scope, receive, send)


def requested_symbols(query: bytes) -> tuple[str, ...] | None:
    """The symbols of a query that is nothing but `symbols=A,B`; the default set for none; None for anything else."""
    if not query:
        return SYMBOLS_DEFAULT
    if not query.startswith(b"symbols=") or b"&" in query or b"+" in query or len(query) > QUERY_BYTES_MAX:
        return None
    return tuple(unquote(query[8:].decode("latin-1")).split(","))


def matches(if_none_match: bytes, etag: bytes) -> bool:
    """RFC 9110, 13.1.2: `*`, or any listed tag that is the same but for a weakness prefix."""
    if if_none_match == etag:
        return True
    tags = [tag.strip().removeprefix(b"W/") for tag in if_none_match.split(b",")]
    return etag in tags or tags == [b"*"]


def cache_headers(prepared: Prepared) -> list[tuple[bytes, bytes]]:
    return [(b"cache-control", CACHE_CONTROL), (b"etag", prepared.etag)]


async def _send(prepared: Prepared, request_headers: list[tuple[bytes, bytes]], send: Send) -> None:
    headers = cache_headers(prepared)
    for name, value in request_headers:
        if name == b"if-none-match" and matches(value, prepared.etag):
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
    headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(prepared.body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": prepared.body})
