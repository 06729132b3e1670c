"""Upstox on loopback, built from its documents: orders, reports, the login and the files of instruments.

Formats: upstox.com/developer/api-documentation (v3/place-order, v3/modify-order, v3/cancel-order, get-order-book,
get-trade-history, get-holdings, get-positions, get-funds-and-margin-v3, get-token, logout, instruments, error-codes).
"""

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from tests.brokers.rest_server import Answer, Request, json_answer
from tests.support.upstox_trading_book import Book, Standing, State

INFY = "NSE_EQ|INE009A01021"
API_KEY, API_SECRET = "1f2d3c4b-0000-4444-8888-aaaabbbbcccc", "a-secret-of-the-app"
REDIRECT_URL = "https://sauda.example/broker-accounts/callback"
USER_ID = "5QC7BH"

LISTED = [
    {
        "segment": "NSE_EQ",
        "name": "INFOSYS LIMITED",
        "exchange": "NSE",
        "isin": "INE009A01021",
        "instrument_type": "EQ",
        "instrument_key": INFY,
        "lot_size": 1,
        "freeze_quantity": 100000.0,
        "exchange_token": "1594",
        "tick_size": 10.0,
        "trading_symbol": "INFY",
        "short_name": "INFOSYS",
        "security_type": "NORMAL",
        "cas_eligible": True,
    },
    {
        "segment": "NSE_EQ",
        "name": "SDL GJ 7.5% 2031",
        "exchange": "NSE",
        "isin": "IN1520190043",
        "instrument_type": "SG",
        "instrument_key": "NSE_EQ|IN1520190043",
        "lot_size": 100,
        "exchange_token": "20190",
        "tick_size": 1.0,
        "trading_symbol": "75GJ31",
    },
    {
        "segment": "NSE_FO",
        "name": "INFY",
        "exchange": "NSE",
        "instrument_type": "FUT",
        "instrument_key": "NSE_FO|43919",
        "lot_size": 400,
        "expiry": 1785263399000,
        "tick_size": 10.0,
        "trading_symbol": "INFY FUT 28 JUL 26",
    },
]
LISTED_BSE = [
    LISTED[0]
    | {"segment": "BSE_EQ", "exchange": "BSE", "instrument_type": "A", "instrument_key": "BSE_EQ|INE009A01021"}
    | {"exchange_token": "500209", "tick_size": 5.0}
]

PLACE_FIELDS = {
    "quantity": int,
    "product": str,
    "validity": str,
    "price": int | Decimal,
    "tag": str,
    "instrument_token": str,
    "order_type": str,
    "transaction_type": str,
    "disclosed_quantity": int,
    "trigger_price": int | Decimal,
    "is_amo": bool,
    "slice": bool,
}
MODIFY_FIELDS = {
    "order_id": str,
    "quantity": int,
    "validity": str,
    "price": int | Decimal,
    "order_type": str,
    "trigger_price": int | Decimal,
}


def error(status: int, code: str, words: str) -> Answer:
    told = {"error_code": code, "message": words, "property_path": None, "invalid_value": None}
    deprecated = {"errorCode": code, "propertyPath": None, "invalidValue": None}
    return json_answer({"status": "error", "errors": [told | deprecated]}, status)


def success(data: Any) -> Answer:
    return json_answer({"status": "success", "data": data, "metadata": {"latency": 30}})


@dataclass
class Upstox:
    """The broker and its one client."""

    book: Book = field(default_factory=lambda: Book(240108010918222))
    tokens: set[str] = field(default_factory=set)
    codes: set[str] = field(default_factory=set)
    limited: bool = False
    list_fails: bool = False
    listed: list[Mapping[str, Any]] = field(default_factory=lambda: list(LISTED))

    def handle(self, request: Request) -> Answer:
        if request.path.endswith(".json.gz"):
            return self._file(request.path)
        if self.limited:
            return error(429, "UDAPI10005", "Too Many Request Sent")
        if request.path == "/v2/login/authorization/token":
            return self._token(request)
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self.tokens:
            return error(401, "UDAPI100050", "Invalid token used to access API")
        if request.path == "/v2/logout":
            self.tokens.discard(token)
            return success(True)
        return self._act(request) if request.path.startswith("/v3/order") else self._report(request.path)

    def _file(self, path: str) -> Answer:
        if self.list_fails:
            return Answer(503, b"<html>")
        said = self.listed if path == "/NSE.json.gz" else LISTED_BSE
        return Answer(200, gzip.compress(json.dumps(said).encode(), 1), {"content-type": "application/gzip"})

    def _token(self, request: Request) -> Answer:
        form = request.form
        known = {"client_id": API_KEY, "redirect_uri": REDIRECT_URL, "grant_type": "authorization_code"}
        if any(form.get(name) != value for name, value in known.items()):
            return error(400, "UDAPI100068", "Check your 'client_id' and 'redirect_uri'; one or both are incorrect.")
        if form["client_secret"] != API_SECRET:
            return error(401, "UDAPI100016", "Invalid Credentials")
        if form["code"] not in self.codes:
            return error(400, "UDAPI100057", "Invalid Auth code")
        self.codes.remove(form["code"])
        token = f"eyJ0eXAiOiJKV1Qi.{form['code']}"
        self.tokens.add(token)
        return json_answer(
            {
                "email": "client@example.com",
                "exchanges": ["NSE", "BSE"],
                "products": ["I", "D"],
                "broker": "UPSTOX",
                "user_id": USER_ID,
                "user_name": "client",
                "order_types": ["MARKET", "LIMIT", "SL", "SL-M"],
                "user_type": "individual",
                "poa": False,
                "ddpi": True,
                "is_active": True,
                "access_token": token,
                "extended_token": None,
            }
        )

    def _act(self, request: Request) -> Answer:
        if (request.method, request.path) == ("POST", "/v3/order/place"):
            return self._place(request.json)
        if (request.method, request.path) == ("PUT", "/v3/order/modify"):
            return self._modify(request.json)
        if (request.method, request.path) == ("DELETE", "/v3/order/cancel"):
            return self._cancel(request.query["order_id"])
        return error(404, "UDAPI100060", "Resource not Found.")

    def _place(self, asked: dict[str, Any]) -> Answer:
        protection = asked.pop("market_protection", 0)
        if wrong := _wrong(asked, PLACE_FIELDS):
            return error(400, "UDAPI100036", f"Invalid input: {wrong}")
        if asked["order_type"] == "MARKET" and not protection:
            return error(403, "UDAPI1158", "Market orders are not allowed. Try placing a limit order.")
        if asked["instrument_token"] not in {row["instrument_key"] for row in (*self.listed, *LISTED_BSE)}:
            return error(400, "UDAPI100011", "Invalid Instrument key")
        if self.book.refusal is not None:
            words, self.book.refusal = self.book.refusal, None
            return error(400, "UDAPI100010", words)
        order = self.book.take(
            tag=asked["tag"],
            key=asked["instrument_token"],
            symbol="INFY",
            side=asked["transaction_type"],
            product=asked["product"],
            order_type=asked["order_type"],
            validity=asked["validity"],
            quantity=asked["quantity"],
            price=Decimal(asked["price"]),
            trigger_price=Decimal(asked["trigger_price"]),
        )
        return success({"order_ids": [order.order_id]})

    def _modify(self, asked: dict[str, Any]) -> Answer:
        asked.pop("market_protection", None)
        if wrong := _wrong(asked, MODIFY_FIELDS):
            return error(400, "UDAPI100036", f"Invalid input: {wrong}")
        order = self.book.orders.get(asked["order_id"])
        if order is None:
            return error(400, "UDAPI100010", "Order not found")
        if order.state is not State.OPEN:
            words = "Modifications of already cancelled/rejected/completed orders are not allowed"
            return error(400, "UDAPI100041", words)
        prices = {name: Decimal(asked[name]) for name in ("price", "trigger_price")}
        kept = {name: asked[name] for name in ("quantity", "validity", "order_type")}
        self.book.change(order.order_id, **prices, **kept)
        return success({"order_id": order.order_id})

    def _cancel(self, order_id: str) -> Answer:
        order = self.book.orders.get(order_id)
        if order is None:
            return error(400, "UDAPI100010", "Order not found")
        if order.state is not State.OPEN:
            words = "Cancel of already cancelled/rejected/completed order is not allowed"
            return error(400, "UDAPI100040", words)
        self.book.end(order_id, State.CANCELLED)
        return success({"order_id": order_id})

    def _report(self, path: str) -> Answer:
        reports = {
            "/v2/order/retrieve-all": lambda: [_order(order) for order in self.book.orders.values()],
            "/v2/order/trades/get-trades-for-day": self._trades,
            "/v2/portfolio/long-term-holdings": self._holdings,
            "/v2/portfolio/short-term-positions": self._positions,
            "/v3/user/get-funds-and-margin": self._funds,
        }
        report = reports.get(path)
        return success(report()) if report else error(404, "UDAPI100060", "Resource not Found.")

    def _trades(self) -> list[dict[str, Any]]:
        return [
            _share(order)
            | {
                "quantity": fill.quantity,
                "average_price": fill.price,
                "trade_id": fill.trade_id,
                "exchange_timestamp": f"{fill.at:%d-%b-%Y %H:%M:%S}",
                "order_timestamp": f"{order.placed_at:%d-%b-%Y %H:%M:%S}",
            }
            for order, fill in self.book.fills()
        ]

    def _holdings(self) -> list[dict[str, Any]]:
        used = self.book.used_shares("D")
        return [
            {
                "isin": "INE009A01021",
                "cnc_used_quantity": min(held, used.get(symbol, 0)),
                "collateral_type": "WC",
                "company_name": "INFOSYS LIMITED",
                "haircut": 0.2,
                "product": "D",
                "quantity": held,
                "trading_symbol": symbol,
                "tradingsymbol": symbol,
                "last_price": 1500,
                "close_price": 1498.5,
                "pnl": 100,
                "day_change": 0,
                "day_change_percentage": 0,
                "instrument_token": INFY,
                "average_price": 1400.25,
                "collateral_quantity": 0,
                "collateral_update_quantity": 0,
                "t1_quantity": 0,
                "exchange": "NSE",
            }
            for symbol, held in self.book.holdings.items()
        ]

    def _positions(self) -> list[dict[str, Any]]:
        return [
            {
                "exchange": "NSE" if day.key.startswith("NSE") else "BSE",
                "multiplier": 1,
                "value": day.bought_for,
                "pnl": 0,
                "product": day.product,
                "instrument_token": day.key,
                "average_price": day.bought_for / day.bought if day.bought else day.sold_for / day.sold,
                "buy_value": day.bought_for,
                "overnight_quantity": 0,
                "day_buy_value": day.bought_for,
                "day_buy_price": 0,
                "day_buy_quantity": day.bought,
                "day_sell_value": day.sold_for,
                "day_sell_price": 0,
                "day_sell_quantity": day.sold,
                "quantity": day.bought - day.sold,
                "last_price": 1500,
                "unrealised": 0,
                "realised": 0,
                "sell_value": day.sold_for,
                "trading_symbol": day.symbol,
                "tradingsymbol": day.symbol,
                "close_price": 1498.5,
            }
            for day in self.book.days()
        ]

    def _funds(self) -> dict[str, Any]:
        free = self.book.cash_free()
        return {
            "available_to_trade": {
                "total": free + 500,
                "cash_available_to_trade": {
                    "total": free,
                    "cash": {
                        "opening_balance": self.book.cash,
                        "added_today": 0,
                        "withdrawn_today": 0,
                        "amount_from_stock_sale": 0,
                        "unpaid_charges": 0,
                    },
                    "margin_used": {"total": self.book.cash - free},
                },
                "pledge_available_to_trade": {"total": 500, "margin_from_pledge": {"total": 500}},
            },
            "unavailable_to_trade": {"cash_unavailable_to_trade": {"unsettled_profit": {"todays_profit": 0}}},
        }


def _wrong(asked: dict[str, Any], wanted: Mapping[str, Any]) -> str:
    if odd := asked.keys() ^ wanted.keys():
        return f"{', '.join(sorted(odd))} is missing or unknown"
    return ", ".join(name for name, kind in wanted.items() if not isinstance(asked[name], kind))


def _share(order: Standing) -> dict[str, Any]:
    return {
        "exchange": "NSE" if order.key.startswith("NSE") else "BSE",
        "product": order.product,
        "trading_symbol": f"{order.symbol}-EQ",
        "tradingsymbol": f"{order.symbol}-EQ",
        "instrument_token": order.key,
        "order_type": order.order_type,
        "transaction_type": order.side,
        "exchange_order_id": "1697686200000169148",
        "order_id": order.order_id,
        "order_ref_id": "57744821658411",
    }


def _order(order: Standing) -> dict[str, Any]:
    resting = "trigger pending" if order.order_type == "SL" else "open"
    words = {State.OPEN: resting, State.EXPIRED: "cancelled"}
    at = f"{order.placed_at:%Y-%m-%d %H:%M:%S}"
    return _share(order) | {
        "price": order.price,
        "quantity": order.quantity,
        "status": order.word or words.get(order.state, order.state.value),
        "guid": None,
        "tag": order.tag or None,
        "placed_by": USER_ID,
        "validity": order.validity,
        "trigger_price": order.trigger_price,
        "disclosed_quantity": 0,
        "average_price": order.average,
        "filled_quantity": order.filled,
        "pending_quantity": order.left,
        "status_message": order.message or None,
        "status_message_raw": None,
        "parent_order_id": None,
        "variety": "SIMPLE",
        "order_timestamp": at,
        "exchange_timestamp": at,
        "is_amo": False,
        "order_request_id": "1",
    }
