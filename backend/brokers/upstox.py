"""Upstox v2 and v3 as an adapter: orders at its own host for orders, reports, the login and the list of shares."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import httpx

from backend.brokers import upstox_wire
from backend.brokers.adapter import (
    Access,
    CallKind,
    Credentials,
    Funds,
    Holding,
    Instrument,
    LoggedIn,
    Position,
    Rate,
)
from backend.brokers.base import (
    BrokerError,
    BrokerUnavailableError,
    NotPlacedError,
    OrderChange,
    OrderRejectedError,
    OrderRequest,
    OutcomeUnknownError,
    RateLimitedError,
    SessionExpiredError,
)
from backend.brokers.book_rows import Words, priced, require_sendable
from backend.brokers.credential_fields import CredentialField
from backend.brokers.share_list import FILE_BYTES_MAX, FILE_TIMEOUT_S, DayList, ShareList
from backend.brokers.wire import TIMEOUT_S, Call, Reply, malformed_as, read, unpacked, write
from backend.brokers.wire_fields import MalformedError, fields, message, rows
from backend.domain.reconcile import BookOrder
from backend.errors import InvalidRequestError

URL = "https://api.upstox.com"
ORDERS_URL = "https://api-hft.upstox.com"
"""The host for orders (announcements/enhanced-url); it takes place, modify and cancel alone."""

FILES_URL = "https://assets.upstox.com/market-quote/instruments/exchange"
FILES_NEW_FROM = timedelta(hours=6, minutes=30)
"""The files of a day are made around 06:00 in India (instruments)."""

TOO_MANY_REQUESTS = 429
SESSION_CODES = frozenset({"UDAPI100050", "UDAPI100016"})
"""An invalid token; invalid credentials."""

RATE_CODES = frozenset({"UDAPI10005"})
REFUSAL_CODES = frozenset(
    f"UDAPI{code}"
    for code in (
        *(1003, 1004, 1007, 1008, 1010, 1023, 1026, 1029, 1030, 1031, 1032, 1036, 1039, 1043, 1052, 1055, 1056),
        *(1118, 1119, 1154, 1156, 1158, 1159, 1160, 1161, 1176, 1177),
        *(
            10000,
            100010,
            100011,
            100015,
            100036,
            100038,
            100039,
            100040,
            100041,
            100049,
            100060,
            100067,
            100073,
            100074,
        ),
    )
)
"""What Upstox documents of orders it does not take (the 4XX tables of v3/place-order, v3/modify-order, v3/cancel-order
and error-codes): fields that are missing or wrong, the static address (1154), the algo's name (1156), unprotected
market orders (1158), orders that have ended (100040, 100041), its hours of 05:30 to 24:00 (100074). Any other code,
100500 ("something went wrong") among them, proves nothing."""


class Upstox:
    """One account of Upstox after another, each with its own access."""

    name = "upstox"
    rates: Mapping[CallKind, Sequence[Rate]] = {
        CallKind.ORDER: (Rate(10, 1), Rate(500, 60), Rate(2000, 1800)),
        CallKind.CANCEL: (Rate(10, 1), Rate(500, 60), Rate(2000, 1800)),
        CallKind.READ: (Rate(50, 1), Rate(500, 60), Rate(2000, 1800)),
        CallKind.LOGIN: (Rate(1, 1), Rate(10, 60), Rate(60, 1800)),
    }
    """Per account and kind of request (rate-limiting, 2026-09), orders by the limits of an algo that is not
    registered."""

    def __init__(
        self,
        *,
        http: httpx.AsyncClient,
        now: Callable[[], datetime],
        redirect_url: str,
        url: str = URL,
        orders_url: str = ORDERS_URL,
        login_url: str = f"{URL}/v2/login/authorization/dialog",
        files_url: str = FILES_URL,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`redirect_url` is where the login returns to: exactly as it is registered with the user's app.

        `http` fetches the list of shares, which needs no account; `now` is the real clock.
        """
        self._http, self._redirect_url, self.timeout_s = http, redirect_url, timeout_s
        self._url, self._orders_url, self._login_url, self._files_url = url, orders_url, login_url, files_url
        self._list = DayList(self._download, now, FILES_NEW_FROM)
        self._words = Words(self.name, upstox_wire.STATUSES)

    async def login_url(
        self,
        http: httpx.AsyncClient,  # noqa: ARG002 (Upstox need not be asked)
        credentials: Credentials,
        state: str,
    ) -> str:
        asked = {
            "response_type": "code",
            "client_id": credentials[CredentialField.API_KEY],
            "redirect_uri": self._redirect_url,
            "state": state,
        }
        return f"{self._login_url}?{urlencode(asked)}"

    async def log_in(
        self, http: httpx.AsyncClient, credentials: Credentials, returned: Mapping[str, str], now: datetime
    ) -> LoggedIn:
        code = returned.get("code")
        if not code:
            raise InvalidRequestError("Upstox's login returned no code: log in there again.")
        form = {
            "code": code,
            "client_id": credentials[CredentialField.API_KEY],
            "client_secret": credentials[CredentialField.API_SECRET],
            "redirect_uri": self._redirect_url,
            "grant_type": "authorization_code",
        }
        url = f"{self._url}/v2/login/authorization/token"
        reply = await read(http, Call("Upstox", "POST", url, form=form, timeout_s=self.timeout_s))
        if not reply.is_success:
            refusal = _refusal(reply)
            if refusal is None or reply.status >= 500 or _is_rate_limit(reply, refusal):
                raise _read_failure(reply, "the login")
            raise InvalidRequestError(f"Upstox does not take the login: {refusal[1]}")
        with malformed_as(BrokerUnavailableError, "Upstox's login"):
            return upstox_wire.login_of(reply.json(), now)

    async def log_out(self, access: Access) -> None:
        """A session that is over already is ended, too."""
        with contextlib.suppress(SessionExpiredError):
            await self._write(access, self._call(access, "DELETE", f"{self._url}/v2/logout"))

    async def place(self, access: Access, order: OrderRequest) -> str:
        """As `Broker.place`. What today's list does not have is not sent; without a list nothing is."""
        require_sendable(order, upstox_wire.PROTECTION_PERCENT_MAX)
        body = upstox_wire.place_body(order, await self._key(order))
        call = self._call(access, "POST", f"{self._orders_url}/v3/order/place", body=body, algo=order.algo_id)
        said = await self._write(access, call, order.require_time)
        with malformed_as(OutcomeUnknownError, f"Upstox's answer to the order {order.tag}"):
            return upstox_wire.order_id_of(said.json())

    async def modify(self, access: Access, broker_order_id: str, change: OrderChange) -> None:
        body = upstox_wire.change_body(broker_order_id, change)
        await self._write(access, self._call(access, "PUT", f"{self._orders_url}/v3/order/modify", body=body))

    async def cancel(self, access: Access, broker_order_id: str) -> None:
        params = {"order_id": broker_order_id}
        await self._write(access, self._call(access, "DELETE", f"{self._orders_url}/v3/order/cancel", params=params))

    async def orders(self, access: Access) -> Sequence[BookOrder]:
        listed = await self._list.today_or_none()
        # Orders first: an execution in between then shows as a trade of an open order, never as a fill without one.
        orders = await self._report(access, "/v2/order/retrieve-all")
        trades = await self._report(access, "/v2/order/trades/get-trades-for-day")
        with malformed_as(BrokerUnavailableError, "Upstox's order book"):
            return priced(upstox_wire.orders_of(orders, trades, listed, self._words), self.name)

    async def holdings(self, access: Access) -> Sequence[Holding]:
        listed = await self._list.today_or_none()
        said = await self._report(access, "/v2/portfolio/long-term-holdings")
        with malformed_as(BrokerUnavailableError, "Upstox's holdings"):
            positions = await self.positions(access) if upstox_wire.blocks_shares(said) else ()
            return upstox_wire.holdings_of(said, positions, listed)

    async def positions(self, access: Access) -> Sequence[Position]:
        listed = await self._list.today_or_none()
        said = await self._report(access, "/v2/portfolio/short-term-positions")
        with malformed_as(BrokerUnavailableError, "Upstox's positions"):
            return upstox_wire.positions_of(said, listed)

    async def funds(self, access: Access) -> Funds:
        said = await self._report(access, "/v3/user/get-funds-and-margin")
        with malformed_as(BrokerUnavailableError, "Upstox's funds"):
            return upstox_wire.funds_of(said)

    def is_genuine(self, postback: bytes, credentials: Credentials) -> bool:  # noqa: ARG002
        """True: Upstox signs none of its notices (webhook). What they say is a hint, and the address they go to a
        secret."""
        return True

    async def instruments(self) -> Mapping[tuple[str, str], Instrument]:
        return (await self._list.today()).by_name

    async def _key(self, order: OrderRequest) -> str:
        try:
            share = (await self._list.today()).by_name.get((order.exchange, order.symbol))
        except BrokerUnavailableError as error:
            raise NotPlacedError(f"the order {order.tag} was not sent: {error}") from error
        if share is None:
            raise NotPlacedError(f"Upstox lists no share {order.symbol} on {order.exchange.upper()} today")
        return share.key

    async def _download(self) -> ShareList:
        shares = [share for exchange in ("nse", "bse") for share in await self._file(exchange)]
        return ShareList.of(shares)

    async def _file(self, exchange: str) -> Sequence[Instrument]:
        url = f"{self._files_url}/{exchange.upper()}.json.gz"
        call = Call("Upstox", "GET", url, timeout_s=FILE_TIMEOUT_S, bytes_max=FILE_BYTES_MAX)
        reply = await read(self._http, call)
        if not reply.is_success:
            raise BrokerUnavailableError(f"Upstox answered {call.place} with {reply.status}")
        with malformed_as(BrokerUnavailableError, f"Upstox's list of {exchange.upper()}"):
            return await asyncio.to_thread(
                lambda: upstox_wire.shares_of(unpacked(reply.content, FILE_BYTES_MAX), exchange)
            )

    def _call(
        self,
        access: Access,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        algo: str = "",
    ) -> Call:
        headers = {"authorization": f"Bearer {access.token}", "accept": "application/json", "api-version": "3.0"}
        if algo:
            headers["x-algo-name"] = algo
        return Call("Upstox", method, url, headers, params, body=body, timeout_s=self.timeout_s)

    async def _write(self, access: Access, call: Call, before: Callable[[], None] | None = None) -> Reply:
        """One request that changes something. A success has to say so in its body.

        Raises:
            NotPlacedError: nothing was changed (its kinds tell why).
            OrderRejectedError: Upstox refused it in its documented words.
            OutcomeUnknownError: anything else.
        """
        reply = await write(access.http, call, before)
        if not reply.is_success:
            raise _write_failure(reply, call.place)
        with malformed_as(OutcomeUnknownError, f"Upstox's answer to {call.place}"):
            upstox_wire.data_of(reply.json())
        return reply

    async def _report(self, access: Access, path: str) -> Any:
        reply = await read(access.http, self._call(access, "GET", f"{self._url}{path}"))
        if not reply.is_success:
            raise _read_failure(reply, f"GET {path}")
        with malformed_as(BrokerUnavailableError, f"Upstox's answer to GET {path}"):
            return upstox_wire.data_of(reply.json())


def _refusal(reply: Reply) -> tuple[str, str] | None:
    """Code and words of the documented envelope of errors; None where it is not whole."""
    try:
        said = fields(reply.json())
        errors = rows(said.get("errors"))
    except MalformedError:
        return None
    if said.get("status") != "error" or not errors:
        return None
    code = errors[0].get("error_code") or errors[0].get("errorCode")
    return (code, message(errors[0], "message") or code) if isinstance(code, str) and code.isalnum() else None


def _is_rate_limit(reply: Reply, refusal: tuple[str, str] | None) -> bool:
    return reply.status == TOO_MANY_REQUESTS or (refusal is not None and refusal[0] in RATE_CODES)


def _read_failure(reply: Reply, what: str) -> BrokerError:
    refusal = _refusal(reply)
    words = refusal[1] if refusal else "nothing that can be read"
    if _is_rate_limit(reply, refusal):
        return RateLimitedError(f"Upstox: {words}")
    if refusal and (reply.status == httpx.codes.UNAUTHORIZED or refusal[0] in SESSION_CODES):
        return SessionExpiredError(f"the session at Upstox is over: log in there again ({words})")
    return BrokerUnavailableError(f"Upstox answered {what} with {reply.status}: {words}")


def _write_failure(reply: Reply, what: str) -> BrokerError:
    """What a reply that is no success proves: no more than its documented envelope says."""
    failure, refusal = _read_failure(reply, what), _refusal(reply)
    if isinstance(failure, NotPlacedError):
        return failure
    if refusal and refusal[0] in REFUSAL_CODES and httpx.codes.is_client_error(reply.status):
        return OrderRejectedError(refusal[1], code=refusal[0])
    return OutcomeUnknownError(str(failure))
