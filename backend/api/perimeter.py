"""What every request passes before any routing: whose it is, how large it may be, how often it may come, and the
headers that every answer bears."""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.api.limits import UNLIMITED, RateLimits, RouteClass, Window, address_key, class_of
from backend.api.problems import problem_response, request_id_of_scope

log = structlog.get_logger()

HEADERS_MAX = 100
HEADER_BYTES_MAX = 16 * 1024
QUERY_BYTES_MAX = 8 * 1024
PATH_BYTES_MAX = 2 * 1024
FORWARDED_HOPS_MAX = 20
POLICY_VIOLATION = 1008
"""WebSocket's closing code (RFC 6455, 7.4.1)."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_ALWAYS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    b"cross-origin-opener-policy": b"same-origin",
    # The answers are for frontends of other origins, which CORS names; embedding them is refused by their type.
    b"cross-origin-resource-policy": b"cross-origin",
}
_PROXY_HINT = "X-Forwarded-For came and TRUSTED_PROXIES is empty: behind a proxy all clients then count as one address"
_PRIVATE = (b"cache-control", b"no-store")
_TLS = (b"strict-transport-security", b"max-age=63072000; includeSubDomains")


@dataclass(frozen=True, slots=True)
class Perimeter:
    """The deployment's choices: `trusted` are the proxies whose word on the client's address counts, `tls` whether
    users reach it by https; without `limits` nothing is counted."""

    trusted: Sequence[Network] = ()
    tls: bool = False
    limits: RateLimits | None = None


def networks_of(texts: Iterable[str]) -> list[Network]:
    """Addresses and networks out of settings.

    Raises:
        ValueError: one is neither; the message names it.
    """
    networks: list[Network] = []
    for text in texts:
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError:
            raise ValueError(f"TRUSTED_PROXIES: {text!r} is no address and no network (such as 10.0.0.0/8)") from None
    return networks


def require_origins(origins: Iterable[str]) -> None:
    """Refuse what is no exact origin: a scheme and a host, perhaps a port, and nothing else.

    Raises:
        ValueError: it names the first that is not.
    """
    for origin in origins:
        scheme, found, host = origin.partition("://")
        if scheme not in {"http", "https"} or not found or not host or not set(host).isdisjoint("*/?#@ \\"):
            raise ValueError(f"CORS_ORIGINS: {origin!r} is no origin such as https://app.example.com")


def client_address(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """Whose request it is: the last address in X-Forwarded-For that none of the trusted proxies has.

    Each proxy appends the address it was called from, so what stands to the left of that one may be anybody's
    invention. A peer that is not trusted has no say; nor has a text that is no address.
    """
    address = peer
    hops = [hop.strip() for line in forwarded for hop in line.split(",")]
    for hop in reversed(hops[-FORWARDED_HOPS_MAX:]):
        if not _within(address, trusted):
            return address
        try:
            address = str(ipaddress.ip_address(hop))
        except ValueError:
            return address
    return address


def _within(address: str, networks: Sequence[Network]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)


class AtThePerimeter:
    """Pure ASGI middleware around everything but CORS."""

    def __init__(self, app: ASGIApp, perimeter: Perimeter) -> None:
        self._app = app
        self._perimeter = perimeter
        self._warned = False
        self._always = [*_ALWAYS.items(), *([_TLS] if perimeter.tls else [])]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        if self._perimeter.trusted and scope.get("client"):
            forwarded = Headers(scope=scope).getlist("x-forwarded-for")
            peer, port = scope["client"]
            scope["client"] = (client_address(peer, forwarded, self._perimeter.trusted), port)
        elif not self._warned and "x-forwarded-for" in Headers(scope=scope):
            self._warned = True
            log.warning("proxy_not_trusted", peer=(scope.get("client") or ("",))[0], hint=_PROXY_HINT)
        windows: list[Window] = []
        scope["rate_windows"] = windows
        scope["request_id"] = request_id_of_scope(scope)

        async def guarded_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers(message["headers"], scope, windows)]
            await send(message)

        refusal = _too_large(scope) or await self._too_often(scope, windows)
        if refusal is None:
            await self._app(scope, receive, guarded_send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": refusal[1]})
        else:
            status, code, title, detail = refusal
            retry = {"Retry-After": str(windows[-1].reset_s)} if status == 429 else {}
            answer = problem_response(scope["request_id"], status, code, title, detail, headers=retry)
            await answer(scope, receive, guarded_send)

    async def _too_often(self, scope: Scope, windows: list[Window]) -> tuple[int, str, str, str] | None:
        limits = self._perimeter.limits
        if limits is None or scope["path"] in UNLIMITED:
            return None
        client = scope.get("client")
        kind = class_of(scope.get("method", "GET"), scope["path"])
        if kind is RouteClass.SAFETY:
            return None  # counted by user alone: nobody at the same address, or behind the same proxy, bars a halt
        windows.append(await limits.count(kind, "address", address_key(client[0] if client else "")))
        return None if windows[-1].passed else refused(windows[-1])

    def _headers(
        self, present: Iterable[tuple[bytes, bytes]], scope: Scope, windows: Sequence[Window]
    ) -> list[tuple[bytes, bytes]]:
        names = {name.lower() for name, _ in present}
        headers = [(name, value) for name, value in self._always if name not in names]
        if b"cache-control" not in names:
            headers.append(_PRIVATE)
        if b"x-request-id" not in names:
            headers.append((b"x-request-id", scope["request_id"].encode()))
        if windows:
            headers.append((b"ratelimit-policy", ", ".join(window.policy_item() for window in windows).encode()))
            headers.append((b"ratelimit", ", ".join(window.state_item() for window in windows).encode()))
        return headers


def refused(window: Window) -> tuple[int, str, str, str]:
    """Status, code, title and detail of the answer to one request too many."""
    detail = f"More than {window.limit} requests a minute ({window.policy}): try again in {window.reset_s} s."
    return 429, "too_many_requests", "Too many requests", detail


def _too_large(scope: Scope) -> tuple[int, str, str, str] | None:
    headers = scope["headers"]
    size = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > HEADERS_MAX or size > HEADER_BYTES_MAX:
        what = f"A request may have {HEADERS_MAX} headers of {HEADER_BYTES_MAX} bytes in all."
        return 431, "headers_too_large", "Request header fields too large", what
    if len(scope["query_string"]) > QUERY_BYTES_MAX or len(scope.get("raw_path") or b"") > PATH_BYTES_MAX:
        what = f"A path may have {PATH_BYTES_MAX} bytes, a query {QUERY_BYTES_MAX}."
        return 414, "uri_too_long", "URI too long", what
    return None
