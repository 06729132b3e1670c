"""What Dhan takes and says, read into Sauda's terms; nothing here asks it anything.

Formats: dhanhq.co/docs/v2 (authentication, orders, portfolio, funds, postback, instruments, annexure, releases) as of
2026-09, and what others measured of it in 2026-09: fields that do not apply have to be left out rather than sent empty,
a correlation id may have 25 characters, an empty depository is answered with an error (DH-1111), and a time that never
came is the year 1.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from backend.brokers.adapter import Funds, Holding, Instrument, LoggedIn, Position
from backend.brokers.base import OrderChange, OrderRequest
from backend.brokers.book_rows import OrderHint, Words, concluded, plain_symbol, sold_from_holdings, tag_of
from backend.brokers.share_list import ShareList, is_share, readable, tick_of_paise
from backend.brokers.wire_fields import (
    Fields,
    MalformedError,
    fields,
    identifier,
    instant,
    message,
    number,
    one_of,
    price,
    rows,
    rupees,
    shares,
    text,
)
from backend.domain.calendar import IST
from backend.domain.market import OrderType, Product, Side, Validity
from backend.domain.reconcile import BookOrder, BookStatus, BookTrade

SIDES = {"BUY": Side.BUY, "SELL": Side.SELL}
PRODUCTS = {"CNC": Product.CNC, "INTRADAY": Product.MIS}
OTHER_PRODUCTS = frozenset({"MARGIN", "MTF", "CO", "BO"})
"""Margin funding, cover and bracket orders: only a person makes them, elsewhere."""

SEGMENTS = {"NSE_EQ": "nse", "BSE_EQ": "bse"}
OTHER_SEGMENTS = frozenset({"IDX_I", "NSE_FNO", "NSE_CURRENCY", "BSE_FNO", "BSE_CURRENCY", "MCX_COMM"})
EXCHANGES = {"NSE": "nse", "BSE": "bse", "ALL": "nse"}
"""A share that is held is "ALL" where both exchanges list it: it is sold at NSE."""

AT_MARKET = frozenset({"MARKET", "STOP_LOSS_MARKET"})
ORDER_TYPES = {OrderType.LIMIT: "LIMIT", OrderType.STOP_LIMIT: "STOP_LOSS", OrderType.MARKET: "MARKET"}
VALIDITIES = {Validity.DAY: "DAY", Validity.IOC: "IOC"}

STATUSES: Mapping[str, BookStatus] = {
    "TRANSIT": BookStatus.OPEN,
    "PENDING": BookStatus.OPEN,
    "PART_TRADED": BookStatus.OPEN,
    "TRADED": BookStatus.COMPLETE,
    "REJECTED": BookStatus.REJECTED,
    "CANCELLED": BookStatus.CANCELLED,
    "EXPIRED": BookStatus.EXPIRED,
}
"""Those of ordinary orders. TRIGGERED and CLOSED are said of super orders alone (annexure): they mean nothing here."""

ENDED_BADLY = frozenset({BookStatus.REJECTED, BookStatus.CANCELLED, BookStatus.EXPIRED})
CONFIRMED = "CONFIRMED"
"""What stands in place of an error's words where there was none."""

TOKEN_LIVES = timedelta(hours=24)
NEVER = ("0001-", "1970-", "1980-")
NSE_SERIES = ("EQ", "BE", "BZ", "SM", "ST")
"""Shares, in the order of preference where a symbol has two: rolling settlement, trade for trade, small companies."""

COLUMNS = ("EXCH_ID", "SEGMENT", "SECURITY_ID", "ISIN", "INSTRUMENT", "UNDERLYING_SYMBOL", "SERIES", "LOT_SIZE")
TICK_COLUMN = "TICK_SIZE"


def place_body(order: OrderRequest, client_id: str, security_id: str) -> dict[str, Any]:
    """The body of an order for the security `security_id`: one order, never sliced.

    A market order carries no protection: Dhan makes a limit order of it with its own (releases, 2026-03-17).
    """
    body: dict[str, Any] = {
        "dhanClientId": client_id,
        "correlationId": order.tag,
        "transactionType": order.side.value.upper(),
        "exchangeSegment": f"{order.exchange.upper()}_EQ",
        "productType": "CNC" if order.product is Product.CNC else "INTRADAY",
        "orderType": ORDER_TYPES[order.order_type],
        "validity": VALIDITIES[order.validity],
        "securityId": security_id,
        "quantity": order.quantity,
        "price": 0 if order.order_type is OrderType.MARKET else number(order.limit_price),
        "afterMarketOrder": False,
    }
    if order.order_type is OrderType.STOP_LIMIT and order.trigger_price is not None:
        body["triggerPrice"] = number(order.trigger_price)
    return body


def change_body(client_id: str, broker_order_id: str, change: OrderChange) -> dict[str, Any]:
    """The body of a change: the quantity is all of the order's, not what is left of it (releases, version 2)."""
    body: dict[str, Any] = {
        "dhanClientId": client_id,
        "orderId": broker_order_id,
        "orderType": ORDER_TYPES[change.order_type],
        "quantity": change.quantity,
        "price": 0 if change.order_type is OrderType.MARKET else number(change.limit_price),
        "validity": VALIDITIES[change.validity],
    }
    if change.trigger_price is not None:
        body["triggerPrice"] = number(change.trigger_price)
    return body


def order_id_of(said: Any) -> str:
    """The number of the order that was placed, changed or cancelled. Raises MalformedError."""
    return identifier(fields(said), "orderId")


def consent_of(said: Any) -> str:
    """The consent with which a login begins. Raises MalformedError."""
    return text(fields(said), "consentAppId", length_max=200)


def login_of(said: Any, now: datetime) -> LoggedIn:
    """The day's token, with its end in Indian time: never later than 24 hours from `now`. Raises MalformedError."""
    login = fields(said)
    token = text(login, "accessToken", length_max=4000)
    ends_at = min(instant(login, "expiryTime", IST), now + TOKEN_LIVES)
    if ends_at <= now:
        raise MalformedError("expiryTime is over")
    return LoggedIn(identifier(login, "dhanClientId"), token, ends_at)


def orders_of(orders: Any, trades: Any, listed: ShareList, words: Words) -> list[BookOrder]:
    """The day's orders in shares with their executions, charges not counted yet; what is no share, and what is bought
    on margin, is left out. Raises MalformedError."""
    executed = _trades_of(trades)
    return [_order_of(row, executed, listed, words) for row in _ours(orders, "orders")]


def _order_of(row: Fields, executed: Mapping[str, Sequence[BookTrade]], listed: ShareList, words: Words) -> BookOrder:
    order_id = identifier(row, "orderId")
    trades = tuple(executed.get(order_id, ()))
    status = words.status(text(row, "orderStatus").upper())
    at_market = text(row, "orderType") in AT_MARKET
    exchange = one_of(row, "exchangeSegment", SEGMENTS)
    told = message(row, "omsErrorDescription") if status in ENDED_BADLY else ""
    return BookOrder(
        broker_order_id=order_id,
        tag=tag_of(row.get("correlationId")),
        symbol=_symbol(row, exchange, listed),
        exchange=exchange,
        side=one_of(row, "transactionType", SIDES),
        product=one_of(row, "productType", PRODUCTS),
        quantity=shares(row, "quantity"),
        limit_price=None if at_market else rupees(row, "price"),
        placed_at=_at(row, "createTime"),
        status=concluded(status, shares(row, "filledQty", default=0), trades),
        message="" if told == CONFIRMED else told,
        trades=trades,
    )


def _ours(said: Any, what: str) -> Iterable[Fields]:
    """The rows in shares. A word that is documented nowhere may stand for anything: it fails the whole report."""
    for row in rows(said, what):
        one_of(row, "exchangeSegment", dict.fromkeys((*SEGMENTS, *OTHER_SEGMENTS)))
        one_of(row, "productType", dict.fromkeys((*PRODUCTS, *OTHER_PRODUCTS)))
        if row["exchangeSegment"] in SEGMENTS and row["productType"] in PRODUCTS:
            yield row


def _trades_of(said: Any) -> Mapping[str, Sequence[BookTrade]]:
    found: dict[str, list[BookTrade]] = defaultdict(list)
    for row in rows(said, "trades"):
        quantity = shares(row, "tradedQuantity")
        if not quantity:
            raise MalformedError("tradedQuantity is zero")
        at = _at(row, "exchangeTime", "updateTime", "createTime")
        trade = BookTrade(identifier(row, "exchangeTradeId"), quantity, price(row, "tradedPrice"), Decimal(0), at)
        found[identifier(row, "orderId")].append(trade)
    return found


def _symbol(row: Fields, exchange: str, listed: ShareList) -> str:
    named = plain_symbol(text(row, "tradingSymbol", default=""))
    symbol = listed.symbol(exchange, identifier(row, "securityId"), named)
    if not symbol:
        raise MalformedError("tradingSymbol is empty, and today's list of shares is missing")
    return symbol


def _at(row: Fields, *names: str) -> datetime:
    """The first of the instants, in Indian time without an offset, that ever came. Raises MalformedError."""
    for name in names:
        if row.get(name) is not None and not str(row[name]).startswith(NEVER):
            return instant(row, name, IST)
    raise MalformedError(f"{names[0]} is no instant")


def positions_of(said: Any, listed: ShareList) -> list[Position]:
    """The day's trades in shares, net: what was carried over from the day before is left out. Raises MalformedError."""
    found: list[Position] = []
    for row in _ours(said, "positions"):
        exchange = SEGMENTS[row["exchangeSegment"]]
        net = shares(row, "dayBuyQty") - shares(row, "daySellQty")
        average = rupees(row, "buyAvg" if net >= 0 else "sellAvg", default=Decimal(0))
        found.append(Position(_symbol(row, exchange, listed), exchange, PRODUCTS[row["productType"]], net, average))
    return found


def blocks_shares(said: Any) -> bool:
    """Whether any holding has shares that cannot be sold (any more). Raises MalformedError."""
    return any(_blocked(row) for row in rows(said, "holdings"))


def _blocked(row: Fields) -> int:
    return max(0, shares(row, "totalQty") - shares(row, "availableQty"))


def holdings_of(said: Any, positions: Iterable[Position], listed: ShareList) -> list[Holding]:
    """The shares held, without those sold today. Raises MalformedError.

    The report is of all that "was bought or sold in previous sessions" (portfolio); `availableQty` leaves out what is
    sold, offered, pledged or still on its way. Of these, those that the day's `positions` show as delivered are sold.
    """
    sold = dict(sold_from_holdings(positions))
    found: list[Holding] = []
    for row in rows(said, "holdings"):
        exchange = one_of(row, "exchange", EXCHANGES)
        symbol = _symbol(row, exchange, listed)
        gone = min(sold.get(symbol, 0), _blocked(row))
        sold[symbol] = sold.get(symbol, 0) - gone
        settled, coming = shares(row, "dpQty"), shares(row, "t1Qty", default=0)
        left, coming = max(0, settled - gone), max(0, coming - max(0, gone - settled))
        average = rupees(row, "avgCostPrice", default=Decimal(0))
        found.append(Holding(symbol, exchange, text(row, "isin", default=""), left, coming, average))
    return found


def funds_of(said: Any) -> Funds:
    """The account's own rupees. Raises MalformedError.

    `availabelBalance` (so spelled) is what may be traded with: after what was spent today and what open orders hold
    back, which Dhan does not tell apart. It is the free cash, less what was lent against collateral, and stands for the
    cash, too: right whenever no order is open, and too small otherwise, never too large.
    """
    limit = fields(said)
    free = rupees(limit, "availabelBalance") - max(Decimal(0), rupees(limit, "collateralAmount", default=Decimal(0)))
    return Funds(free, free)


def shares_of(content: bytes) -> list[Instrument]:
    """The shares of both exchanges in the detailed list, those to prefer first: prices in paise.

    Raises:
        MalformedError: it is none, or has no shares.
    """
    try:
        reader = csv.DictReader(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline=""))
        if missing := {*COLUMNS, TICK_COLUMN} - set(reader.fieldnames or ()):
            raise MalformedError(f"no column {', '.join(sorted(missing))}")
        listed = [row for row in reader if _is_listed_share(row)]
    except (csv.Error, UnicodeDecodeError):
        raise MalformedError("no CSV") from None
    listed.sort(key=lambda row: NSE_SERIES.index(row["SERIES"]) if row["EXCH_ID"] == "NSE" else 0)
    return readable(listed, _share_of)


def _is_listed_share(row: Mapping[str, Any]) -> bool:
    exchange, series = row["EXCH_ID"], row["SERIES"]
    in_cash = row["SEGMENT"] == "E" and row["INSTRUMENT"] == "EQUITY" and is_share(row["ISIN"] or "")
    return in_cash and (exchange == "BSE" or (exchange == "NSE" and series in NSE_SERIES))


def _share_of(row: Fields) -> Instrument:
    return Instrument(
        symbol=plain_symbol(text(row, "UNDERLYING_SYMBOL")),
        exchange=EXCHANGES[row["EXCH_ID"]],
        key=text(row, "SECURITY_ID"),
        tick=tick_of_paise(rupees(row, TICK_COLUMN)),
        lot=shares(row, "LOT_SIZE"),
    )


def hint_of(said: Any) -> OrderHint:
    """What a postback is about; it is signed by nobody, so the book is read. Raises MalformedError."""
    notice = fields(said)
    client, order_id = identifier(notice, "dhanClientId"), identifier(notice, "orderId")
    return OrderHint(client, order_id, tag_of(notice.get("correlationId")))
