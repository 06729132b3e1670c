"""Kite Connect's wire before the misbehaving broker's book and its misbehaviour: for sweeps through Zerodha's adapter.

/W/kite/...   Kite Connect for the account N whose access token is `account-N`
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response

from backend.brokers.adapter import Access, CallKind
from backend.brokers.base import OrderRequest
from backend.brokers.connected import ConnectedBroker
from backend.brokers.zerodha import Zerodha
from backend.domain.calendar import IST
from backend.domain.charges import charges_on_turnover, dp_charge, rates_on
from backend.domain.market import Exchange, Product, Side
from tests.brokers import rest_server
from tests.support import broker_server
from tests.support.broker_book import Arrival, Book, BookedOrder, Mode
from tests.support.kite_server import API_KEY, CLIENT_ID, KiteServer, kite_id, trade_number

EGRESS_IP = "192.0.2.1"
FAULTS = {
    Mode.ACCEPT_THEN_HANG: broker_server._until_gone,
    Mode.ACCEPT_THEN_RESET: broker_server._reset,
    Mode.ACCEPT_THEN_CUT: broker_server._cut,
    Mode.DROP_BEFORE_ACCEPT: broker_server._drop,
}
INSTEAD = {
    Mode.ACCEPT_THEN_502: Response("Bad Gateway", 502),
    Mode.ACCEPT_THEN_GARBAGE: Response(broker_server.GARBAGE, 200),
}
REPORTS_INSTEAD = {
    Mode.BOOK_502: Response("Bad Gateway", 502),
    Mode.BOOK_GARBAGE: Response(broker_server.GARBAGE, 200),
}
CASH_TOLERANCE = "0.02"
"""Rupees: Kite tells of money in binary floats, of which whole paise are believed."""


class KiteBook(Book):
    """A book whose executions cost what they cost at Zerodha: so its money is what the books of Sauda come to."""

    def _execute(self, order: BookedOrder, quantity: int) -> None:
        super()._execute(order, quantity)
        if not quantity:
            return
        ticket, trade = order.ticket, order.trades[-1]
        day = trade.traded_at.astimezone(IST).date()
        rates = rates_on(Product(ticket.product), Exchange(ticket.exchange), day)
        turnover = sum((t.price * t.quantity for t in order.trades), Decimal(0))
        due = charges_on_turnover(rates, Side(ticket.side), turnover).total
        trade.charges = due - sum((t.charges for t in order.trades[:-1]), Decimal(0))
        if (ticket.side, ticket.product) == ("sell", "cnc") and self._is_first_sell(order):
            trade.charges += dp_charge()

    def _is_first_sell(self, order: BookedOrder) -> bool:
        same = [o for o in self._of(order.account) if o.ticket.symbol == order.ticket.symbol]
        return sum(len(o.trades) for o in same if (o.ticket.side, o.ticket.product) == ("sell", "cnc")) == 1

    def copy(self) -> "KiteBook":
        twin = super().copy()
        twin.__class__ = KiteBook
        return twin  # type: ignore[return-value]


class KiteWorlds(broker_server.Worlds):
    def __getitem__(self, world: str) -> Book:
        book = super().__getitem__(world)
        if type(book) is Book:
            book.__class__ = KiteBook
        return book


class AccountTokens(dict[str, int]):
    """`account-7` opens account 7."""

    def get(self, token: str, default: Any = None) -> Any:
        number = token.removeprefix("account-")
        return int(number) if number.isdigit() else default


def create_app(now: Callable[[], datetime], heard: Callable[[str, Arrival], None] = lambda _w, _a: None) -> FastAPI:
    """The broker on Kite's wire, with the control routes of `broker_server`."""
    app = FastAPI()
    worlds = KiteWorlds(now)
    broker_server._add_control(app, worlds)

    @app.api_route("/{world}/kite/{path:path}", methods=["GET", "POST", "PUT", "DELETE"])
    async def kite(world: str, path: str, request: Request) -> Response:
        book = worlds[world]
        headers, query, body = dict(request.headers), dict(request.query_params), await request.body()
        asked = rest_server.Request(request.method, f"/{path}", query, headers, body)
        arrivals = len(book.arrivals)
        account = AccountTokens().get(headers.get("authorization", "").rpartition(":")[2])
        modes = book.behaviour(account).modes
        if request.method == "GET" and Mode.BOOK_HANGS in modes:
            await broker_server._until_gone(request)
        answer = KiteServer(book, AccountTokens()).handle(asked)
        instead = REPORTS_INSTEAD if request.method == "GET" else {}
        if len(book.arrivals) > arrivals:
            heard(world, book.arrivals[-1])
            instead = INSTEAD
            for mode in modes & FAULTS.keys():
                await FAULTS[mode](request)
        for mode in modes & instead.keys():
            return instead[mode]
        return Response(answer.body, answer.status, dict(answer.headers))

    return app


def as_kite_tells(truth: Mapping[str, Any]) -> dict[str, Any]:
    """The broker's truth under the numbers that its book shows on Kite's wire."""
    orders = [
        order
        | {
            "order_id": kite_id(order["order_id"]),
            "trades": [
                trade | {"trade_id": f"{kite_id(trade['order_id'])}-{trade_number(trade['trade_id'])}"}
                for trade in order["trades"]
            ],
        }
        for order in truth["orders"]
    ]
    return {**truth, "orders": orders, "cash_tolerance": CASH_TOLERANCE}


class _Opened:
    """`Accesses` and `CallBudget` of a test: any account is open, and every call may be made."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def access(self, account_id: int) -> Access:
        return Access(account_id, CLIENT_ID, API_KEY, f"account-{account_id}", self._http, EGRESS_IP)

    async def expired(self, access: Access) -> None:
        """The next request finds out anew: a test brings the session back to life."""

    async def take(self, account_id: int, kind: CallKind, until: float) -> None:
        """There is always one left."""


class ZerodhaDesk(ConnectedBroker):
    """`ConnectedBroker(Zerodha)` at a double: no real money, and orders approved for the address it leaves from."""

    real_money = False
    broker = Zerodha.name

    def __init__(self, http: httpx.AsyncClient, url: str, now: Callable[[], datetime], timeout_s: float) -> None:
        opened = _Opened(http)
        super().__init__(Zerodha(http=http, now=now, url=f"{url}/kite", timeout_s=timeout_s), opened, opened)

    async def place(self, account_id: int, order: OrderRequest) -> str:
        return await super().place(account_id, replace(order, egress_ip=EGRESS_IP))
