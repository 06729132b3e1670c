"""Kite Connect 3 as its documents describe it, over the book of the misbehaving broker: the double of Zerodha.

It shares no code with what talks to it. Sources: kite.trade/docs/connect/v3 (user, orders, portfolio, margins,
exceptions) and zerodha/kiteconnect-mocks for the fields of replies.
"""

import gzip
import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta, timezone
from decimal import Decimal
from typing import Any

from tests.brokers.rest_server import Answer, Request, json_answer
from tests.support.broker_book import FIRST_CASH, Behaviour, Book, BookedOrder, Mode, Ticket, Trade

IST = timezone(timedelta(hours=5, minutes=30))
API_KEY, API_SECRET, CLIENT_ID = "kitekey1234", "kitesecret5678", "AB1234"
LAST_PRICE = Decimal(1500)
DUMP_HEAD = (
    "instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,"
    "instrument_type,segment,exchange\n"
)
DUMPS = {
    "NSE": DUMP_HEAD
    + "256265,1001,NIFTY 50,NIFTY 50,0.0,,0.0,0.0,0,EQ,INDICES,NSE\n"
    + "408065,1594,INFY,INFOSYS,0.0,,0.0,0.1,1,EQ,NSE,NSE\n"
    + "2953217,11536,TCS,TATA CONSULTANCY SERV LT,0.0,,0.0,0.1,1,EQ,NSE,NSE\n"
    + "3038977,11871,63MOONS-BE,63 MOONS TECHNOLOGIES,0.0,,0.0,0.05,1,EQ,NSE,NSE\n"
    + "730113,2852,AAKASH-SM,,0.0,,0.0,0.05,3000,EQ,NSE,NSE\n",
    "BSE": DUMP_HEAD + "128053508,500209,INFY,INFOSYS LTD.,0.0,,0.0,0.05,1,EQ,BSE,BSE\n",
}
PRODUCTS = {"CNC": "cnc", "MIS": "mis"}
ORDER_TYPES = {"LIMIT", "MARKET", "SL"}


class KiteError(Exception):
    """What an error envelope says."""

    def __init__(self, status: int, error_type: str, message: str) -> None:
        super().__init__(message)
        self.answer = json_answer(
            {"status": "error", "message": message, "error_type": error_type, "data": None}, status
        )


@dataclass
class KiteServer:
    """Answers requests from a book; `sessions` are the accounts by access token.

    `opening` are shares held since yesterday, and `words` are statuses by order that are told instead of the book's.
    """

    book: Book
    sessions: dict[str, int] = field(default_factory=dict)
    opening: dict[int, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    cash_more: Decimal = Decimal(0)
    words: dict[str, str] = field(default_factory=dict)
    refusal: str = ""
    limited: bool = False
    request_tokens: dict[str, int] = field(default_factory=dict)
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def log_in(self, account: int) -> str:
        """A login on Kite's own page: the token of its redirect."""
        token = f"requesttoken{next(self.numbers)}"
        self.request_tokens[token] = account
        return token

    def handle(self, request: Request) -> Answer:
        try:
            return self._answer(request)
        except KiteError as error:
            return error.answer

    def _answer(self, request: Request) -> Answer:
        if request.path.startswith("/instruments/"):
            return dump(request.path.removeprefix("/instruments/"))
        if request.headers.get("x-kite-version") != "3":
            raise KiteError(400, "InputException", "Missing or invalid `X-Kite-Version`.")
        if self.limited:
            raise KiteError(429, "NetworkException", "Too many requests")
        if (request.method, request.path) == ("POST", "/session/token"):
            return success(self._session(request.form))
        account = self._account(request.headers)
        for method, pattern, serve in self._routes():
            found = re.fullmatch(pattern, request.path)
            if found and request.method == method:
                return success(serve(account, request, *found.groups()))
        raise KiteError(404, "DataException", "Route not found")

    def _routes(self) -> tuple[tuple[str, str, Callable[..., Any]], ...]:
        return (
            ("DELETE", "/session/token", self._log_out),
            ("POST", "/orders/regular", self._place),
            ("PUT", "/orders/regular/([^/]+)", self._modify),
            ("DELETE", "/orders/regular/([^/]+)", self._cancel),
            ("GET", "/orders", lambda account, _: [self.order_row(o) for o in self.book.shown(account)]),
            ("GET", "/trades", lambda account, _: [self.trade_row(t) for t in self.book.trades_shown(account)]),
            ("GET", "/portfolio/holdings", lambda account, _: self._holdings(account)),
            ("GET", "/portfolio/positions", lambda account, _: self._positions(account)),
            ("GET", "/user/margins/equity", lambda account, _: self._margins(account)),
            ("POST", "/charges/orders", lambda _, request: [charges_row(order) for order in request.json]),
        )

    def _account(self, headers: Mapping[str, str]) -> int:
        found = re.fullmatch(f"token {API_KEY}:(.+)", headers.get("authorization", ""))
        account = self.sessions.get(found[1]) if found else None
        if account is None or Mode.TOKEN_EXPIRED in self.book.behaviour(account).modes:
            raise KiteError(403, "TokenException", "Incorrect `api_key` or `access_token`.")
        if Mode.RATE_LIMITED in self.book.behaviour(account).modes:
            raise KiteError(429, "NetworkException", "Too many requests")
        return account

    def _session(self, form: Mapping[str, str]) -> Any:
        token = form.get("request_token", "")
        proof = hashlib.sha256(f"{API_KEY}{token}{API_SECRET}".encode()).hexdigest()
        if form.get("api_key") != API_KEY or form.get("checksum") != proof:
            raise KiteError(403, "TokenException", "Invalid `checksum`.")
        account = self.request_tokens.pop(token, None)
        if account is None:
            raise KiteError(403, "TokenException", "Token is invalid or has expired.")
        access_token = f"accesstoken{next(self.numbers)}"
        self.sessions[access_token] = account
        return {
            "user_type": "individual",
            "user_id": CLIENT_ID,
            "broker": "ZERODHA",
            "exchanges": ["NSE", "BSE"],
            "products": ["CNC", "MIS"],
            "api_key": API_KEY,
            "access_token": access_token,
            "refresh_token": "",
            "login_time": naive(self.book.now()),
        }

    def _log_out(self, _: int, request: Request) -> bool:
        self.sessions.pop(request.query.get("access_token", ""), None)
        return True

    def _place(self, account: int, request: Request) -> Any:
        ticket = ticket_of(request.form)
        words, self.refusal = self.refusal, ""
        if words:
            raise KiteError(400, "MarginException", words)
        order = self.book.arrive(account, ticket)
        if Mode.REFUSE in self.book.behaviour(account).modes:
            raise KiteError(400, "MarginException", "RMS: margin exceeded")
        return {"order_id": kite_id(order.order_id) if order else None}

    def _modify(self, account: int, request: Request, order_id: str) -> Any:
        order, form = self._open(account, order_id), request.form
        price = Decimal(form["price"]) if "price" in form else order.ticket.limit_price
        order.ticket = replace(order.ticket, quantity=int(form["quantity"]), limit_price=price)
        return {"order_id": order_id}

    def _cancel(self, account: int, _: Request, order_id: str) -> Any:
        self.book.cancel(account, self._open(account, order_id).order_id)
        return {"order_id": order_id}

    def _open(self, account: int, order_id: str) -> BookedOrder:
        order = self.book.orders.get(book_id(order_id))
        if order is None or order.account != account:
            raise KiteError(400, "OrderException", "Couldn't find that `order_id`.")
        if order.status != "OPEN":
            raise KiteError(400, "OrderException", "Order cannot be changed as it is being processed or is complete.")
        return order

    def order_row(self, order: BookedOrder) -> dict[str, Any]:
        """An order as GET /orders shows it."""
        ticket, filled = order.ticket, order.filled
        stop = ticket.order_type == "sl" and order.status == "OPEN" and not filled
        ended = order.status in {"CANCELLED", "REJECTED"}
        value = sum((t.price * t.quantity for t in order.trades), Decimal(0))
        return {
            "placed_by": CLIENT_ID,
            "order_id": kite_id(order.order_id),
            "exchange_order_id": None if order.status == "REJECTED" else f"1100000{order.order_id[1:]}",
            "parent_order_id": None,
            "status": self.words.get(order.order_id, "TRIGGER PENDING" if stop else order.status),
            "status_message": order.message or None,
            "status_message_raw": None,
            "order_timestamp": naive(order.placed_at),
            "exchange_update_timestamp": None,
            "exchange_timestamp": None if order.status == "REJECTED" else naive(order.placed_at),
            "variety": "regular",
            "exchange": ticket.exchange.upper(),
            "tradingsymbol": ticket.symbol,
            "instrument_token": 408065,
            "order_type": ticket.order_type.upper(),
            "transaction_type": ticket.side.upper(),
            "validity": "DAY",
            "product": ticket.product.upper(),
            "quantity": ticket.quantity,
            "disclosed_quantity": 0,
            "price": ticket.limit_price or 0,
            "trigger_price": 0,
            "average_price": value / filled if filled else 0,
            "filled_quantity": filled,
            "pending_quantity": 0 if ended else ticket.quantity - filled,
            "cancelled_quantity": ticket.quantity - filled if order.status == "CANCELLED" else 0,
            "market_protection": 0,
            "meta": {},
            "tag": ticket.tag or None,
            "guid": "XXXXXX",
        }

    def trade_row(self, trade: Trade) -> dict[str, Any]:
        """An execution as GET /trades shows it: its order's time of day alone."""
        ticket = self.book.orders[trade.order_id].ticket
        return {
            "trade_id": trade_number(trade.trade_id),
            "order_id": kite_id(trade.order_id),
            "exchange": ticket.exchange.upper(),
            "tradingsymbol": ticket.symbol,
            "instrument_token": 408065,
            "product": ticket.product.upper(),
            "average_price": trade.price,
            "quantity": trade.quantity,
            "exchange_order_id": f"1100000{trade.order_id[1:]}",
            "transaction_type": ticket.side.upper(),
            "fill_timestamp": naive(trade.traded_at),
            "order_timestamp": naive(trade.traded_at)[-8:],
            "exchange_timestamp": naive(trade.traded_at),
        }

    def _positions(self, account: int) -> dict[str, Any]:
        bought: dict[tuple[str, str, str], list[tuple[int, Decimal]]] = defaultdict(list)
        for order in self.book.orders.values():
            if order.account == account:
                sign = 1 if order.ticket.side == "buy" else -1
                key = order.ticket.symbol, order.ticket.exchange, order.ticket.product
                bought[key] += [(sign * trade.quantity, trade.price) for trade in order.trades]
        net = [position_row(*key, trades) for key, trades in bought.items() if trades]
        return {"net": net, "day": net}

    def _holdings(self, account: int) -> list[dict[str, Any]]:
        return [holding_row(symbol, shares) for symbol, shares in self.opening[account].items()]

    def _margins(self, account: int) -> dict[str, Any]:
        _, free = self.book.funds(account)
        opening = FIRST_CASH + self.cash_more
        net = free + self.cash_more
        return {
            "enabled": True,
            "net": net + 50_000,
            "available": {
                "adhoc_margin": 0,
                "cash": opening,
                "opening_balance": opening,
                "live_balance": net,
                "collateral": 50_000,
                "intraday_payin": 0,
            },
            "utilised": {"debits": opening - net, "holding_sales": 0, "delivery": 0},
        }


def success(data: Any) -> Answer:
    return json_answer({"status": "success", "data": data})


def naive(at: Any) -> str:
    return at.astimezone(IST).strftime("%Y-%m-%d %H:%M:%S")


def kite_id(order_id: str) -> str:
    return f"240318{int(order_id[1:]):09d}"


def trade_number(trade_id: str) -> str:
    return str(10_000_000 + int(trade_id[1:]))


def book_id(order_id: str) -> str:
    return f"B{int(order_id[6:] or 0):06d}" if order_id.isdigit() else ""


def ticket_of(form: Mapping[str, str]) -> Ticket:
    """An order of the documented fields, or the refusal of one that has others or lacks some."""
    for name in ("exchange", "tradingsymbol", "transaction_type", "quantity", "product", "order_type", "validity"):
        if not form.get(name):
            raise KiteError(400, "InputException", f"Missing `{name}`.")
    kind, side, price = form["order_type"], form["transaction_type"], Decimal(form.get("price", "0"))
    protection = Decimal(form.get("market_protection", "0"))
    if kind == "MARKET" and not (protection == -1 or 0 < protection <= 100):
        raise KiteError(400, "InputException", "Market orders without market protection are not allowed via API.")
    if kind == "MARKET":
        # Shown and handled as a limit order at the protected price.
        sign = 1 if side == "BUY" else -1
        kind, price = "LIMIT", LAST_PRICE * (1 + sign * max(protection, Decimal(3)) / 100)
    known = kind in ORDER_TYPES and side in {"BUY", "SELL"} and form["product"] in PRODUCTS
    if not known or form["validity"] not in {"DAY", "IOC"} or price <= 0 or int(form["quantity"]) <= 0:
        raise KiteError(400, "InputException", "Invalid order.")
    if kind == "SL" and Decimal(form.get("trigger_price", "0")) <= 0:
        raise KiteError(400, "InputException", "Missing `trigger_price`.")
    if not re.fullmatch("[A-Za-z0-9]{0,20}", form.get("tag", "")):
        raise KiteError(400, "InputException", "Invalid `tag`.")
    exchange, product = form["exchange"].lower(), PRODUCTS[form["product"]]
    quantity, tag = int(form["quantity"]), form.get("tag", "")
    return Ticket(form["tradingsymbol"], exchange, side.lower(), product, kind.lower(), quantity, price, tag)


def position_row(symbol: str, exchange: str, product: str, trades: list[tuple[int, Decimal]]) -> dict[str, Any]:
    net = sum(quantity for quantity, _ in trades)
    value = sum((abs(quantity) * price for quantity, price in trades), Decimal(0))
    return {
        "tradingsymbol": symbol,
        "exchange": exchange.upper(),
        "instrument_token": 408065,
        "product": product.upper(),
        "quantity": net,
        "overnight_quantity": 0,
        "multiplier": 1,
        "average_price": value / sum(abs(quantity) for quantity, _ in trades),
        "last_price": LAST_PRICE,
    }


def holding_row(symbol: str, shares: int) -> dict[str, Any]:
    """Shares of which two are not delivered yet."""
    return {
        "tradingsymbol": symbol,
        "exchange": "NSE",
        "instrument_token": 408065,
        "isin": "INE009A01021",
        "product": "CNC",
        "price": 0,
        "quantity": shares - 2,
        "used_quantity": 0,
        "t1_quantity": 2,
        "realised_quantity": shares - 2,
        "opening_quantity": shares,
        "collateral_quantity": 0,
        "average_price": 1400.5,
        "last_price": LAST_PRICE,
    }


def charges_row(order: Mapping[str, Any]) -> dict[str, Any]:
    """As the mock virtual_contract_note.json, which shows rates of 2023."""
    value = order["quantity"] * order["average_price"]
    exchange = value * Decimal("0.0000335")
    charges = {
        "transaction_tax": value / 1000,
        "transaction_tax_type": "stt",
        "exchange_turnover_charge": exchange,
        "sebi_turnover_charge": value / 1_000_000,
        "brokerage": 0,
        "stamp_duty": 0,
        "gst": {"igst": exchange * 18 / 100, "cgst": 0, "sgst": 0, "total": exchange * 18 / 100},
        "total": value / 1000,
    }
    return {key: order[key] for key in ("tradingsymbol", "exchange", "quantity")} | {"charges": charges}


def dump(exchange: str) -> Answer:
    """The list of instruments: NSE's packed on the wire, BSE's as a file that is packed."""
    if exchange not in DUMPS:
        return json_answer({"status": "error", "message": "Unknown exchange", "error_type": "InputException"}, 400)
    packed = gzip.compress(DUMPS[exchange].encode())
    headers = {"content-encoding": "gzip"} if exchange == "NSE" else {"content-type": "application/gzip"}
    return Answer(200, packed, headers)


def resting(book: Book) -> Book:
    """A book whose orders rest until they are filled by hand."""
    book.behave(None, Behaviour(frozenset({Mode.REST})))
    return book
