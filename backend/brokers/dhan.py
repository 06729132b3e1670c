"""Dhan v2 as an adapter: orders, reports, the login by consent, and the list of shares."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from backend.brokers import dhan_wire
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
from backend.brokers.wire_fields import MalformedError, fields, message, text
from backend.domain.reconcile import BookOrder
from backend.errors import InvalidRequestError

URL = "https://api.dhan.co/v2"
LOGIN_URL = "https://auth.dhan.co"
FILE_URL = "https://images.dhan.co/api-data/api-scrip-master-detailed.csv"
FILE_NEW_FROM = timedelta(hours=7)
"""Dhan says no more of the list than that it is of the day; from memory it is made before 07:00 in India."""

ACCEPTED, NOT_FOUND, TOO_MANY_REQUESTS = 202, 404, 429
SESSION_CODES = frozenset({"DH-901", "807", "808", "809", "810"})
INVALID_TOKEN = "invalid token"  # noqa: S105 (words)
"""The words, under any code, of a token that is over: measured under DH-906, too."""

RATE_CODES = frozenset({"DH-904", "805"})
REFUSAL_CODES = frozenset({"DH-902", "DH-903", "DH-905", "DH-906", "DH-911", "806", "813", "814"})
"""What the annexure says of requests that are not taken: no access, the account's set-up, wrong fields, an order that
cannot be processed, the static address; no subscription, a security that is none. DH-907 to DH-910 and 800 are failures
of Dhan's own, and prove nothing."""

NO_HOLDINGS = "DH-1111"


class Dhan:
    """One account of Dhan after another, each with its own access."""

    name = "dhan"
    rates: Mapping[CallKind, Sequence[Rate]] = {
        CallKind.ORDER: (Rate(10, 1), Rate(250, 60), Rate(1000, 3600), Rate(7000, 86400)),
        CallKind.CANCEL: (Rate(10, 1), Rate(250, 60), Rate(1000, 3600), Rate(7000, 86400)),
        CallKind.READ: (Rate(10, 1),),
        CallKind.LOGIN: (Rate(1, 1), Rate(25, 86400)),
    }
    """Per account (introduction, "Rate Limit", since 2026-03-21). Its twenty other calls a second are ten reads: a book
    is two requests, of orders and of trades, and so are holdings. 25 consents a day (authentication)."""

    def __init__(
        self,
        *,
        http: httpx.AsyncClient,
        now: Callable[[], datetime],
        url: str = URL,
        login_url: str = LOGIN_URL,
        file_url: str = FILE_URL,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`http` fetches the list of shares, which needs no account; `now` is the real clock."""
        self._http, self.timeout_s = http, timeout_s
        self._url, self._login_url, self._file_url = url, login_url, file_url
        self._list = DayList(self._download, now, FILE_NEW_FROM)
        self._words = Words(self.name, dhan_wire.STATUSES)

    async def login_url(
        self,
        http: httpx.AsyncClient,
        credentials: Credentials,
        state: str,  # noqa: ARG002 (Dhan brings back nothing but its token)
    ) -> str:
        params = {"client_id": credentials[CredentialField.CLIENT_ID]}
        said = await self._login(http, "POST", "/app/generate-consent", params, credentials)
        with malformed_as(BrokerUnavailableError, "Dhan's consent"):
            consent = dhan_wire.consent_of(said)
        return f"{self._login_url}/login/consentApp-login?{urlencode({'consentAppId': consent})}"

    async def log_in(
        self, http: httpx.AsyncClient, credentials: Credentials, returned: Mapping[str, str], now: datetime
    ) -> LoggedIn:
        """As `Adapter.log_in`. A login as another client than the credentials' is refused: Dhan's redirect brings back
        no state, so whoever is logged in at Dhan in this browser may be another."""
        token_id = returned.get("tokenId")
        if not token_id:
            raise InvalidRequestError("Dhan's login returned no tokenId: log in there again.")
        said = await self._login(http, "GET", "/app/consumeApp-consent", {"tokenId": token_id}, credentials)
        with malformed_as(BrokerUnavailableError, "Dhan's login"):
            session = dhan_wire.login_of(said, now)
        if session.client_id != credentials[CredentialField.CLIENT_ID]:
            raise InvalidRequestError(
                "You logged in at Dhan as another client than this account's: log in as that one."
            )
        return session

    async def log_out(self, access: Access) -> None:
        """Nothing: Dhan has no request for it. The token ends by itself, 24 hours after its login at the latest."""

    async def place(self, access: Access, order: OrderRequest) -> str:
        """As `Broker.place`. What today's list does not have is not sent; without a list nothing is.

        The algo's id is Dhan's own to set: its documents name no field for it.
        """
        require_sendable(order)
        body = dhan_wire.place_body(order, access.client_id, await self._key(order))
        reply = await self._write(access, self._call(access, "POST", "/orders", body), order.require_time)
        return self._order_id(reply, f"the order {order.tag}")

    async def modify(self, access: Access, broker_order_id: str, change: OrderChange) -> None:
        body = dhan_wire.change_body(access.client_id, broker_order_id, change)
        reply = await self._write(access, self._call(access, "PUT", _order_path(broker_order_id), body))
        self._order_id(reply, f"the change of {broker_order_id}")

    async def cancel(self, access: Access, broker_order_id: str) -> None:
        reply = await self._write(access, self._call(access, "DELETE", _order_path(broker_order_id)))
        if reply.status == ACCEPTED and not reply.content.strip():
            return  # the page says both: that there is a body and that there is none
        self._order_id(reply, f"the cancel of {broker_order_id}")

    async def orders(self, access: Access) -> Sequence[BookOrder]:
        listed = await self._list.today_or_none()
        # Orders first: an execution in between then shows as a trade of an open order, never as a fill without one.
        orders = await self._report(access, "/orders")
        trades = await self._report(access, "/trades")
        with malformed_as(BrokerUnavailableError, "Dhan's order book"):
            return priced(dhan_wire.orders_of(orders, trades, listed, self._words), self.name)

    async def order_by_tag(self, access: Access, tag: str) -> BookOrder | None:
        """The order that was sent with `tag`, with its executions: Dhan's look-up by the client's own id, which no
        other broker has. None where Dhan does not find it, which proves nothing: it finds none that is still on its
        way to the exchange. Its charges are those of a day without other orders. Raises as reports do."""
        listed = await self._list.today_or_none()
        path = f"/orders/external/{quote(tag, safe='')}"
        reply = await read(access.http, self._call(access, "GET", path))
        refusal = _refusal(reply)
        if reply.status == NOT_FOUND and refusal and not _is_session_over(reply, refusal):
            return None
        said = self._said(reply, path)
        if said == []:
            return None
        with malformed_as(BrokerUnavailableError, f"Dhan's order {tag}"):
            trades = await self._report(access, f"/trades/{quote(dhan_wire.order_id_of(said), safe='')}")
            trades = [trades] if isinstance(trades, dict) else trades  # documented as one, and there may be several
            return next(iter(priced(dhan_wire.orders_of([said], trades, listed, self._words), self.name)), None)

    async def holdings(self, access: Access) -> Sequence[Holding]:
        listed = await self._list.today_or_none()
        reply = await read(access.http, self._call(access, "GET", "/holdings"))
        refusal = _refusal(reply)
        if refusal and refusal[0] == NO_HOLDINGS:
            return []
        said = self._said(reply, "/holdings")
        with malformed_as(BrokerUnavailableError, "Dhan's holdings"):
            positions = await self.positions(access) if dhan_wire.blocks_shares(said) else ()
            return dhan_wire.holdings_of(said, positions, listed)

    async def positions(self, access: Access) -> Sequence[Position]:
        listed = await self._list.today_or_none()
        said = await self._report(access, "/positions")
        with malformed_as(BrokerUnavailableError, "Dhan's positions"):
            return dhan_wire.positions_of(said, listed)

    async def funds(self, access: Access) -> Funds:
        said = await self._report(access, "/fundlimit")
        with malformed_as(BrokerUnavailableError, "Dhan's funds"):
            return dhan_wire.funds_of(said)

    def is_genuine(self, postback: bytes, credentials: Credentials) -> bool:  # noqa: ARG002
        """True: Dhan signs none of its postbacks. What they say is a hint, and the address they go to a secret."""
        return True

    async def instruments(self) -> Mapping[tuple[str, str], Instrument]:
        return (await self._list.today()).by_name

    async def _key(self, order: OrderRequest) -> str:
        try:
            share = (await self._list.today()).by_name.get((order.exchange, order.symbol))
        except BrokerUnavailableError as error:
            raise NotPlacedError(f"the order {order.tag} was not sent: {error}") from error
        if share is None:
            raise NotPlacedError(f"Dhan lists no share {order.symbol} on {order.exchange.upper()} today")
        return share.key

    async def _download(self) -> ShareList:
        call = Call("Dhan", "GET", self._file_url, timeout_s=FILE_TIMEOUT_S, bytes_max=FILE_BYTES_MAX)
        reply = await read(self._http, call)
        if not reply.is_success:
            raise BrokerUnavailableError(f"Dhan answered {call.place} with {reply.status}")
        with malformed_as(BrokerUnavailableError, "Dhan's list of shares"):
            return await asyncio.to_thread(
                lambda: ShareList.of(dhan_wire.shares_of(unpacked(reply.content, FILE_BYTES_MAX)))
            )

    async def _login(
        self, http: httpx.AsyncClient, method: str, path: str, params: Mapping[str, str], credentials: Credentials
    ) -> Any:
        """What Dhan's host for logins says. Raises as `Adapter.log_in`."""
        headers = {
            "app_id": credentials[CredentialField.API_KEY],
            "app_secret": credentials[CredentialField.API_SECRET],
            "accept": "application/json",
        }
        call = Call("Dhan", method, f"{self._login_url}{path}", headers, params, timeout_s=self.timeout_s)
        reply = await read(http, call)
        with malformed_as(BrokerUnavailableError, f"Dhan's answer to {call.place}"):
            said = fields(reply.json())
        if httpx.codes.is_client_error(reply.status) and reply.status != TOO_MANY_REQUESTS:
            words = message(said, "errorMessage", "message", "remarks") or f"it answers {reply.status}"
            raise InvalidRequestError(f"Dhan does not take the login: {words}")
        if not reply.is_success:
            raise BrokerUnavailableError(f"Dhan answered {call.place} with {reply.status}")
        return said

    def _call(self, access: Access, method: str, path: str, body: Any = None) -> Call:
        headers = {"access-token": access.token, "accept": "application/json"}
        return Call("Dhan", method, f"{self._url}{path}", headers, body=body, timeout_s=self.timeout_s)

    async def _write(self, access: Access, call: Call, before: Callable[[], None] | None = None) -> Reply:
        """One request that changes something.

        Raises:
            NotPlacedError: nothing was changed (its kinds tell why).
            OrderRejectedError: Dhan refused it in its documented words.
            OutcomeUnknownError: anything else.
        """
        reply = await write(access.http, call, before)
        if not reply.is_success:
            raise _write_failure(reply, call.place)
        return reply

    def _order_id(self, reply: Reply, what: str) -> str:
        with malformed_as(OutcomeUnknownError, f"Dhan's answer to {what}"):
            return dhan_wire.order_id_of(reply.json())

    async def _report(self, access: Access, path: str) -> Any:
        return self._said(await read(access.http, self._call(access, "GET", path)), path)

    def _said(self, reply: Reply, path: str) -> Any:
        if not reply.is_success:
            raise _read_failure(reply, f"GET {path}")
        with malformed_as(BrokerUnavailableError, f"Dhan's answer to GET {path}"):
            return reply.json()


def _order_path(broker_order_id: str) -> str:
    return f"/orders/{quote(broker_order_id, safe='')}"


def _refusal(reply: Reply) -> tuple[str, str] | None:
    """Code and words of the documented envelope of errors; None where it is not whole."""
    try:
        said = fields(reply.json())
        text(said, "errorType")
        return text(said, "errorCode"), message(said, "errorMessage") or text(said, "errorCode")
    except MalformedError:
        return None


def _is_session_over(reply: Reply, refusal: tuple[str, str]) -> bool:
    code, words = refusal
    return reply.status == httpx.codes.UNAUTHORIZED or code in SESSION_CODES or words.lower() == INVALID_TOKEN


def _read_failure(reply: Reply, what: str) -> BrokerError:
    refusal = _refusal(reply)
    words = refusal[1] if refusal else "nothing that can be read"
    if reply.status == TOO_MANY_REQUESTS or (refusal and refusal[0] in RATE_CODES):
        return RateLimitedError(f"Dhan: {words}")
    if refusal and _is_session_over(reply, refusal):
        return SessionExpiredError(f"the session at Dhan is over: log in there again ({words})")
    return BrokerUnavailableError(f"Dhan answered {what} with {reply.status}: {words}")


def _write_failure(reply: Reply, what: str) -> BrokerError:
    """What a reply that is no success proves: no more than its documented envelope says."""
    failure, refusal = _read_failure(reply, what), _refusal(reply)
    if isinstance(failure, NotPlacedError):
        return failure
    if refusal and refusal[0] in REFUSAL_CODES and httpx.codes.is_client_error(reply.status):
        return OrderRejectedError(refusal[1], code=refusal[0])
    return OutcomeUnknownError(str(failure))
