"""Where each broker tells of an account's orders as they change: WebSockets, of which one word says "look at the book".

Sources: kite.trade/docs/connect/v3/websocket ("Postbacks and non-binary updates"), dhanhq.co/docs/v2/order-update,
upstox.com/developer/api-documentation (portfolio stream feed; the names of its message's fields are from memory).
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from backend.brokers.adapter import Access
from backend.brokers.base import BrokerUnavailableError, RateLimitedError, SessionExpiredError
from backend.brokers.wire import Call, malformed_as, read
from backend.brokers.wire_fields import fields, text

KITE_URL = "wss://ws.kite.trade"
DHAN_URL = "wss://api-order-update.dhan.co"
KITE_SILENCE_S = 10.0
"""Kite sends a heartbeat each second."""

_UNAUTHORIZED, _TOO_MANY = 401, 429


@dataclass(frozen=True, slots=True)
class OrderSocket:
    """How to listen: the address, which opens with its secret, and what is sent first. `silence_s`: after so long
    without a word the other end is gone; None where it may have nothing to say for hours, and is pinged instead."""

    url: str = field(repr=False)
    hello: str = field(default="", repr=False)
    silence_s: float | None = None


SocketOf = Callable[[Access], Awaitable[OrderSocket]]
"""How to listen to an account's orders. Raises BrokerError."""


def kite_socket(url: str = KITE_URL) -> SocketOf:
    """One that subscribes to no instrument gets heartbeats and its account's orders."""

    async def socket(access: Access) -> OrderSocket:
        query = urlencode({"api_key": access.api_key, "access_token": access.token})
        return OrderSocket(f"{url}?{query}", silence_s=KITE_SILENCE_S)

    return socket


def dhan_socket(url: str = DHAN_URL) -> SocketOf:
    async def socket(access: Access) -> OrderSocket:
        login = {"MsgCode": 42, "ClientId": access.client_id, "Token": access.token}
        return OrderSocket(url, json.dumps({"LoginReq": login, "UserType": "SELF"}))

    return socket


def upstox_socket(url: str) -> SocketOf:
    """Upstox gives an address that is good for one connection."""

    async def socket(access: Access) -> OrderSocket:
        headers = {"authorization": f"Bearer {access.token}", "accept": "application/json"}
        where = f"{url}/v2/feed/portfolio-stream-feed/authorize"
        reply = await read(access.http, Call("Upstox", "GET", where, headers, {"update_types": "order"}))
        if reply.status == _UNAUTHORIZED:
            raise SessionExpiredError("the session at Upstox is over: log in there again")
        if reply.status == _TOO_MANY:
            raise RateLimitedError("Upstox: too many requests")
        if not reply.is_success:
            raise BrokerUnavailableError(f"Upstox answered the request for a stream with {reply.status}")
        with malformed_as(BrokerUnavailableError, "Upstox's address of a stream"):
            said = fields(fields(reply.json()).get("data"))
            return OrderSocket(text(said, "authorized_redirect_uri"))

    return socket


def tells_of_an_order(message: str | bytes) -> bool:
    """Whether a message says that an order changed; heartbeats, ticks, errors and nonsense do not.

    Kite's ticks are binary and its order updates text; Upstox sends JSON in binary frames (from memory).
    """
    try:
        said: Any = json.loads(message)
    except (ValueError, RecursionError):
        return False
    if not isinstance(said, dict):
        return False
    return "order" in (said.get("type"), said.get("update_type")) or said.get("Type") == "order_alert"
