"""Dhan on loopback, built from its documents: orders, reports, the login by consent and the detailed list of shares.

Formats: dhanhq.co/docs/v2 (authentication, orders, portfolio, funds, instruments, annexure).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from tests.brokers.rest_server import Answer, Request, json_answer
from tests.support.upstox_trading_book import Book, Standing, State

CLIENT_ID, API_KEY, API_SECRET = "1100003626", "a1b2c3d4", "a-secret-of-the-app"
INFY = "1594"

LISTED = """\
EXCH_ID,SEGMENT,SECURITY_ID,ISIN,INSTRUMENT,UNDERLYING_SECURITY_ID,UNDERLYING_SYMBOL,SYMBOL_NAME,DISPLAY_NAME,\
INSTRUMENT_TYPE,SERIES,LOT_SIZE,SM_EXPIRY_DATE,STRIKE_PRICE,OPTION_TYPE,TICK_SIZE,EXPIRY_FLAG
NSE,D,68407,NA,FUTIDX,26000,NIFTY,NIFTY-Sep2026-FUT,NIFTY SEP FUT,FUT,NA,65.0,2026-09-29,-0.01000,XX,10.0000,M
NSE,E,1594,INE009A01021,EQUITY,,INFY,INFOSYS LIMITED,Infosys,ES,EQ,1.0,,,,10.0000,NA
NSE,E,19257,INE121A08PJ0,EQUITY,,CHOLAFIN,"CHOLAMANDALAM IN & FIN, CO",CIFCL-7.5%-30092026-NCD,ES,D1,1.0,,,,5.0000,NA
BSE,E,500209,INE009A01021,EQUITY,,INFY,INFOSYS LTD.,Infosys,ES,A,1.0,,,,5.0000,NA
"""

PLACE_FIELDS = {
    "dhanClientId": str,
    "correlationId": str,
    "transactionType": str,
    "exchangeSegment": str,
    "productType": str,
    "orderType": str,
    "validity": str,
    "securityId": str,
    "quantity": int,
    "price": int | Decimal,
    "afterMarketOrder": bool,
}
CHANGE_FIELDS = {
    "dhanClientId": str,
    "orderId": str,
    "orderType": str,
    "quantity": int,
    "price": int | Decimal,
    "validity": str,
}
NO_SUCH_ORDER = "Incorrect request for order and cannot be processed"
WORDS = {State.OPEN: "PENDING", State.COMPLETE: "TRADED"}


def error(status: int, kind: str, code: str, words: str) -> Answer:
    return json_answer({"errorType": kind, "errorCode": code, "errorMessage": words}, status)


@dataclass
class Dhan:
    """The broker and its one client."""

    book: Book = field(default_factory=lambda: Book(112111182198))
    tokens: set[str] = field(default_factory=set)
    token_ids: set[str] = field(default_factory=set)
    consents: list[str] = field(default_factory=list)
    logs_in: str = CLIENT_ID
    limited: bool = False
    in_transit: bool = False
    listed: str = LISTED
    expiry: str = ""

    def handle(self, request: Request) -> Answer:
        if request.path == "/api-scrip-master-detailed.csv":
            return Answer(200, self.listed.encode(), {"content-type": "text/csv"})
        if request.path.startswith("/app/"):
            return self._login(request)
        if self.limited:
            words = "Too many requests on server from single user breaching rate limits. Try throttling API calls."
            return error(429, "Rate_Limit", "DH-904", words)
        if request.headers.get("access-token") not in self.tokens:
            words = "Client ID or user generated access token is invalid or expired."
            return error(401, "Invalid_Authentication", "DH-901", words)
        if request.path == "/v2/orders" and request.method == "POST":
            return self._place(request.json)
        if request.path.startswith("/v2/orders/") and request.method in ("PUT", "DELETE"):
            return self._act(request)
        return self._report(request.path)

    def _login(self, request: Request) -> Answer:
        if (request.headers.get("app_id"), request.headers.get("app_secret")) != (API_KEY, API_SECRET):
            return error(400, "Invalid_Authentication", "DH-901", "Invalid app_id or app_secret")
        if (request.method, request.path) == ("POST", "/app/generate-consent"):
            self.consents.append(f"940b0ca1-3ff4-4476-b46e-{len(self.consents):012d}")
            told = {"consentAppId": self.consents[-1], "consentAppStatus": "GENERATED", "status": "success"}
            return json_answer(told)
        token_id = request.query.get("tokenId", "")
        if token_id not in self.token_ids:
            return error(400, "Input_Exception", "DH-905", "Invalid tokenId")
        self.token_ids.remove(token_id)
        token = f"eyJhbGciOiJIUzUxMiJ9.{token_id}"
        self.tokens.add(token)
        return json_answer(
            {
                "dhanClientId": self.logs_in,
                "dhanClientName": "JOHN DOE",
                "dhanClientUcc": "ABCD12345E",
                "givenPowerOfAttorney": False,
                "accessToken": token,
                "expiryTime": self.expiry or f"{self.book.now():%Y-%m-%dT23:59:59.999}",
            }
        )

    def _place(self, asked: dict[str, Any]) -> Answer:
        trigger = asked.pop("triggerPrice", 0)
        if _is_wrong(asked, PLACE_FIELDS) or len(asked["correlationId"]) > 25:
            return error(400, "Input_Exception", "DH-905", "Missing required fields, bad values for parameters etc.")
        if f"{asked['exchangeSegment'][:3]},E,{asked['securityId']}," not in self.listed:
            return error(400, "Input_Exception", "DH-905", "Invalid Security Id")
        if self.book.refusal is not None:
            words, self.book.refusal = self.book.refusal, None
            return error(400, "Order_Error", "DH-906", words)
        order = self.book.take(
            tag=asked["correlationId"],
            key=f"{asked['exchangeSegment']}|{asked['securityId']}",
            symbol="INFY",
            side=asked["transactionType"],
            product=asked["productType"],
            order_type=asked["orderType"],
            validity=asked["validity"],
            quantity=asked["quantity"],
            price=Decimal(asked["price"]),
            trigger_price=Decimal(trigger),
        )
        return json_answer({"orderId": order.order_id, "orderStatus": "TRANSIT"})

    def _act(self, request: Request) -> Answer:
        order = self.book.orders.get(request.path.removeprefix("/v2/orders/"))
        if order is None or order.state is not State.OPEN:
            return error(400, "Order_Error", "DH-906", NO_SUCH_ORDER)
        if request.method == "DELETE":
            if self.in_transit:
                return error(400, "Order_Error", "DH-906", "Order is in Transit state")
            self.book.end(order.order_id, State.CANCELLED)
            return json_answer({"orderId": order.order_id, "orderStatus": "CANCELLED"}, 202)
        asked = request.json
        trigger = asked.pop("triggerPrice", order.trigger_price)
        if _is_wrong(asked, CHANGE_FIELDS) or asked["orderId"] != order.order_id:
            return error(400, "Input_Exception", "DH-905", "Missing required fields, bad values for parameters etc.")
        prices = {"price": Decimal(asked["price"]), "trigger_price": Decimal(trigger)}
        self.book.change(order.order_id, quantity=asked["quantity"], order_type=asked["orderType"], **prices)
        return json_answer({"orderId": order.order_id, "orderStatus": "TRANSIT"})

    def _report(self, path: str) -> Answer:
        if path.startswith("/v2/orders/external/"):
            return self._by_tag(path.removeprefix("/v2/orders/external/"))
        if path.startswith("/v2/trades/"):
            trades = [row for row in self._trades() if row["orderId"] == path.removeprefix("/v2/trades/")]
            return json_answer(trades[0] if len(trades) == 1 else trades)
        if path == "/v2/holdings" and not any(self.book.holdings.values()):
            return error(500, "HOLDING_ERROR", "DH-1111", "No holdings available")
        reports = {
            "/v2/orders": lambda: [_order(order) for order in self.book.orders.values()],
            "/v2/trades": self._trades,
            "/v2/holdings": self._holdings,
            "/v2/positions": self._positions,
            "/v2/fundlimit": self._funds,
        }
        report = reports.get(path)
        return json_answer(report()) if report else json_answer({"status": 404, "error": "Not Found"}, 404)

    def _by_tag(self, tag: str) -> Answer:
        found = [order for order in self.book.orders.values() if order.tag == tag]
        if not found or self.in_transit:
            return error(404, "Order_Error", "DH-906", NO_SUCH_ORDER)
        return json_answer(_order(found[0]))

    def _trades(self) -> list[dict[str, Any]]:
        return [
            _share(order)
            | {
                "exchangeTradeId": fill.trade_id,
                "tradedQuantity": fill.quantity,
                "tradedPrice": fill.price,
                "exchangeTime": f"{fill.at:%Y-%m-%d %H:%M:%S}",
            }
            for order, fill in self.book.fills()
        ]

    def _holdings(self) -> list[dict[str, Any]]:
        used = self.book.used_shares("CNC")
        return [
            {
                "exchange": "ALL",
                "tradingSymbol": symbol,
                "securityId": INFY,
                "isin": "INE009A01021",
                "totalQty": held,
                "dpQty": held,
                "t1Qty": 0,
                "mtf_t1_qty": 0,
                "mtf_qty": 0,
                "availableQty": held - min(held, used.get(symbol, 0)),
                "collateralQty": 0,
                "avgCostPrice": 1400.25,
                "lastTradedPrice": 1500.0,
            }
            for symbol, held in self.book.holdings.items()
        ]

    def _positions(self) -> list[dict[str, Any]]:
        return [
            {
                "dhanClientId": CLIENT_ID,
                "tradingSymbol": day.symbol,
                "securityId": day.key.split("|")[1],
                "positionType": "LONG" if day.bought > day.sold else "SHORT" if day.sold > day.bought else "CLOSED",
                "exchangeSegment": day.key.split("|")[0],
                "productType": day.product,
                "buyAvg": day.bought_for / day.bought if day.bought else 0,
                "buyQty": day.bought,
                "costPrice": 0,
                "sellAvg": day.sold_for / day.sold if day.sold else 0,
                "sellQty": day.sold,
                "netQty": day.bought - day.sold,
                "realizedProfit": 0,
                "unrealizedProfit": 0,
                "rbiReferenceRate": 1,
                "multiplier": 1,
                "carryForwardBuyQty": 0,
                "carryForwardSellQty": 0,
                "dayBuyQty": day.bought,
                "daySellQty": day.sold,
                "dayBuyValue": day.bought_for,
                "daySellValue": day.sold_for,
                "drvExpiryDate": "0001-01-01 00:00:00",
                "drvOptionType": None,
                "drvStrikePrice": 0,
                "crossCurrency": False,
            }
            for day in self.book.days()
        ]

    def _funds(self) -> dict[str, Any]:
        free = self.book.cash_free()
        return {
            "dhanClientId": CLIENT_ID,
            "availabelBalance": free + 750,
            "sodLimit": self.book.cash,
            "collateralAmount": 750,
            "receiveableAmount": 0,
            "utilizedAmount": self.book.cash - free,
            "blockedPayoutAmount": 0,
            "withdrawableBalance": free,
        }


def _is_wrong(asked: dict[str, Any], wanted: Mapping[str, Any]) -> bool:
    return asked.keys() != wanted.keys() or not all(isinstance(asked[name], kind) for name, kind in wanted.items())


def _share(order: Standing) -> dict[str, Any]:
    at = f"{order.placed_at:%Y-%m-%d %H:%M:%S}"
    return {
        "dhanClientId": CLIENT_ID,
        "orderId": order.order_id,
        "exchangeOrderId": f"15{order.order_id}",
        "transactionType": order.side,
        "exchangeSegment": order.key.split("|")[0],
        "productType": order.product,
        "orderType": order.order_type,
        "tradingSymbol": "",
        "securityId": order.key.split("|")[1],
        "createTime": at,
        "updateTime": at,
        "exchangeTime": "0001-01-01 00:00:00",
        "drvExpiryDate": None,
        "drvOptionType": None,
        "drvStrikePrice": 0.0,
    }


def _order(order: Standing) -> dict[str, Any]:
    partly = order.state is State.OPEN and order.filled
    ended = order.state in (State.REJECTED, State.CANCELLED, State.EXPIRED)
    return _share(order) | {
        "correlationId": order.tag,
        "orderStatus": order.word or ("PART_TRADED" if partly else WORDS.get(order.state, order.state.value.upper())),
        "validity": order.validity,
        "quantity": order.quantity,
        "disclosedQuantity": 0,
        "price": order.price,
        "triggerPrice": order.trigger_price,
        "afterMarketOrder": False,
        "omsErrorCode": "0" if not ended else "16283",
        "omsErrorDescription": order.message or "CONFIRMED",
        "algoId": "0",
        "remainingQuantity": order.left,
        "averageTradedPrice": order.average,
        "filledQty": order.filled,
    }
