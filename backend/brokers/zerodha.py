"""Zerodha over Kite Connect 3: sessions, orders of variety `regular` in cash equity, and the day's reports.

Sources: kite.trade/docs/connect/v3. Good-till-triggered orders, baskets and quotes are not used here: the engine's
stops are orders of type SL, and quotes come from the market data half.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import httpx
import structlog

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
    OrderChange,
    OrderRejectedError,
    OrderRequest,
    OutcomeUnknownError,
    SessionExpiredError,
)
from backend.brokers.book_charges import with_charges
from backend.brokers.credential_fields import CredentialField
from backend.brokers.kite_postback import postback_is_genuine
from backend.brokers.kite_reports import (
    book_orders,
    charges_of,
    funds_of,
    holdings_of,
    instruments_of,
    positions_of,
    unknown_statuses,
)
from backend.brokers.kite_wire import (
    EXCHANGES,
    PRODUCTS,
    SIDES,
    VERSION,
    change_form,
    checksum,
    data_of,
    login_address,
    order_form,
    order_id_of,
    report_of,
    token_ends_at,
)
from backend.brokers.wire import TIMEOUT_S, Call, Reply, malformed_as, read, unpacked, write
from backend.brokers.wire_fields import fields, number, text
from backend.domain.calendar import IST
from backend.domain.charges import Charges
from backend.domain.reconcile import BookOrder
from backend.errors import InvalidRequestError

log = structlog.get_logger()

URL = "https://api.kite.trade"
LOGIN_URL = "https://kite.zerodha.com/connect/login"

INSTRUMENTS_BYTES_MAX = 32 << 20
INSTRUMENTS_TIMEOUT_S = 60.0
DUMP_NEW_FROM = timedelta(hours=8, minutes=30)
"""Kite makes the day's dump until then, Indian time; before that it is the one of the day before."""
UNKNOWN_STATUSES_KEPT_MAX = 100


class Zerodha:
    """An `Adapter`. `now` is the real clock in UTC, `http` for what needs no account."""

    name = "zerodha"
    rates: Mapping[CallKind, Sequence[Rate]] = {
        CallKind.ORDER: (Rate(10, 1), Rate(400, 60), Rate(5000, 86_400)),
        CallKind.READ: (Rate(5, 1),),
        CallKind.LOGIN: (Rate(10, 1),),
    }
    """Kite's limits per user and key in 2026 (kite.trade forum 52882). Its ten other calls a second are five reads:
    a book is two requests, of orders and of trades, and so are holdings."""

    def __init__(
        self,
        *,
        http: httpx.AsyncClient,
        now: Callable[[], datetime],
        url: str = URL,
        login_url: str = LOGIN_URL,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._http, self._now, self._url, self._login_url = http, now, url, login_url
        self.timeout_s = timeout_s
        self._listing = asyncio.Lock()
        self._listed: tuple[object, Mapping[tuple[str, str], Instrument]] = (None, {})
        self._unknown_statuses: set[str] = set()

    async def login_url(self, http: httpx.AsyncClient, credentials: Credentials, state: str) -> str:  # noqa: ARG002
        return login_address(self._login_url, credentials[CredentialField.API_KEY], state)

    async def log_in(
        self, http: httpx.AsyncClient, credentials: Credentials, returned: Mapping[str, str], now: datetime
    ) -> LoggedIn:
        request_token = returned.get("request_token", "")
        if returned.get("status", "success") != "success" or not request_token:
            raise InvalidRequestError("The login at Zerodha was not finished: log in there again.")
        key, secret = credentials[CredentialField.API_KEY], credentials[CredentialField.API_SECRET]
        form = {"api_key": key, "request_token": request_token, "checksum": checksum(key, request_token, secret)}
        try:
            reply = await write(http, self._call("POST", "/session/token", form=form))
            said = data_of(reply, OutcomeUnknownError, "POST /session/token")
        except (OrderRejectedError, SessionExpiredError) as refusal:
            raise InvalidRequestError(f"Zerodha did not take the login: {refusal.detail} Log in there again.") from None
        except BrokerError as error:
            raise BrokerUnavailableError(error.detail) from error
        with malformed_as(BrokerUnavailableError, "zerodha's session"):
            session = fields(said, "a session")
            client_id, token = text(session, "user_id"), text(session, "access_token", length_max=400)
        return LoggedIn(client_id, token, token_ends_at(now))

    async def log_out(self, access: Access) -> None:
        """A session that is over already is ended, too."""
        params = {"api_key": access.api_key, "access_token": access.token}
        call = self._call("DELETE", "/session/token", access, params=params)
        try:
            data_of(await write(access.http, call), OutcomeUnknownError, call.place)
        except SessionExpiredError:
            return

    async def place(self, access: Access, order: OrderRequest) -> str:
        form = order_form(order, self._trading_name(order.exchange, order.symbol))
        call = self._call("POST", "/orders/regular", access, form=form)
        reply = await write(access.http, call, order.require_time)
        return _order_id(reply, call)

    async def modify(self, access: Access, broker_order_id: str, change: OrderChange) -> None:
        """Of the order's whole quantity, filled shares included (from memory). Kite allows 25 changes of an order."""
        call = self._call("PUT", _path_of(broker_order_id), access, form=change_form(change))
        _order_id(await write(access.http, call), call)

    async def cancel(self, access: Access, broker_order_id: str) -> None:
        call = self._call("DELETE", _path_of(broker_order_id), access)
        _order_id(await write(access.http, call), call)

    async def orders(self, access: Access) -> Sequence[BookOrder]:
        # Orders first: an execution in between then is a trade of an open order, never a fill without its trade.
        orders = await self._report(access, "/orders")
        trades = await self._report(access, "/trades")
        with malformed_as(BrokerUnavailableError, "zerodha's book"):
            book = book_orders(orders, trades)
            self._tell_of(unknown_statuses(orders))
            return with_charges(book, self.name)

    async def holdings(self, access: Access) -> Sequence[Holding]:
        holdings = await self._report(access, "/portfolio/holdings")
        sold_today = await self.positions(access)
        with malformed_as(BrokerUnavailableError, "zerodha's holdings"):
            return holdings_of(holdings, sold_today)

    async def positions(self, access: Access) -> Sequence[Position]:
        positions = await self._report(access, "/portfolio/positions")
        with malformed_as(BrokerUnavailableError, "zerodha's positions"):
            return positions_of(positions)

    async def funds(self, access: Access) -> Funds:
        margins = await self._report(access, "/user/margins/equity")
        with malformed_as(BrokerUnavailableError, "zerodha's margins"):
            return funds_of(margins)

    async def charges(self, access: Access, orders: Sequence[BookOrder]) -> Sequence[Charges]:
        """What Zerodha itself computes for executed orders, by their average prices: rupees, not rounded.

        Raises:
            BrokerError: as a read does.
        """
        asked = [order for order in orders if order.trades]
        body = [_executed(order, self._trading_name(order.exchange, order.symbol)) for order in asked]
        call = self._call("POST", "/charges/orders", access, body=body)
        told = report_of(await read(access.http, call), call.place)
        with malformed_as(BrokerUnavailableError, "zerodha's charges"):
            return charges_of(told, asked)

    def is_genuine(self, postback: bytes, credentials: Credentials) -> bool:
        """Whether it was signed with the app's secret, as every postback of Kite's is."""
        return postback_is_genuine(postback, credentials[CredentialField.API_SECRET])

    async def instruments(self) -> Mapping[tuple[str, str], Instrument]:
        """NSE's and BSE's shares, fetched once a day; yesterday's names are not given for today's."""
        async with self._listing:
            made_on = (self._now().astimezone(IST) - DUMP_NEW_FROM).date()
            if self._listed[0] != made_on:
                found: dict[tuple[str, str], Instrument] = {}
                for exchange in EXCHANGES:
                    listed = await self._instruments_of(exchange)
                    found |= {(exchange, symbol): instrument for symbol, instrument in listed.items()}
                self._listed = made_on, found
            return self._listed[1]

    async def _instruments_of(self, exchange: str) -> Mapping[str, Instrument]:
        path = f"/instruments/{EXCHANGES[exchange]}"
        call = self._call("GET", path, timeout_s=INSTRUMENTS_TIMEOUT_S, bytes_max=INSTRUMENTS_BYTES_MAX)
        reply = await read(self._http, call)
        if reply.status != 200:
            report_of(reply, call.place)
            raise BrokerUnavailableError(f"zerodha answered {call.place} with {reply.status}")
        with malformed_as(BrokerUnavailableError, f"zerodha's instruments of {exchange}"):
            content = unpacked(reply.content, INSTRUMENTS_BYTES_MAX)
            return await asyncio.to_thread(instruments_of, content, exchange)

    def _trading_name(self, exchange: str, symbol: str) -> str:
        """Kite's name of a share by the last list; where it is not in it, Kite itself knows it or refuses it."""
        instrument = self._listed[1].get((exchange, symbol))
        return symbol if instrument is None else instrument.key

    async def _report(self, access: Access, path: str) -> Any:
        call = self._call("GET", path, access)
        return report_of(await read(access.http, call), call.place)

    def _call(self, method: str, path: str, access: Access | None = None, **said: Any) -> Call:
        headers = {"x-kite-version": VERSION}
        if access is not None:
            headers["authorization"] = f"token {access.api_key}:{access.token}"
        said.setdefault("timeout_s", self.timeout_s)
        return Call(self.name, method, self._url + path, headers, **said)

    def _tell_of(self, statuses: set[str]) -> None:
        for status in sorted(statuses - self._unknown_statuses):
            if len(self._unknown_statuses) < UNKNOWN_STATUSES_KEPT_MAX:
                self._unknown_statuses.add(status)
                log.warning("order_status_unknown", broker=self.name, status=status)


def _path_of(broker_order_id: str) -> str:
    return f"/orders/regular/{quote(broker_order_id, safe='')}"


def _order_id(reply: Reply, call: Call) -> str:
    data = data_of(reply, OutcomeUnknownError, call.place)
    with malformed_as(OutcomeUnknownError, f"zerodha's reply to {call.place}"):
        return order_id_of(data)


def _executed(order: BookOrder, tradingsymbol: str) -> dict[str, Any]:
    filled = sum(trade.quantity for trade in order.trades)
    value = sum((trade.price * trade.quantity for trade in order.trades), Decimal(0))
    return {
        "order_id": order.broker_order_id,
        "exchange": EXCHANGES[order.exchange],
        "tradingsymbol": tradingsymbol,
        "transaction_type": SIDES[order.side],
        "variety": "regular",
        "product": PRODUCTS[order.product],
        "order_type": "MARKET" if order.limit_price is None else "LIMIT",
        "quantity": filled,
        "average_price": number(round(value / filled, 4)),
    }
