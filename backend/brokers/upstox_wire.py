"""What Upstox takes and says, read into Sauda's terms; nothing here asks it anything.

Formats: upstox.com/developer/api-documentation (authentication, v3/place-order, v3/modify-order, v3/cancel-order,
get-order-book, get-trade-history, appendix/order-status, get-holdings, get-positions, get-funds-and-margin-v3,
instruments, webhook, error-codes, announcements/market-protection) and its OpenAPI document as of 2026-09-02
(api.upstox.com/v2/api-docs).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson

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
PRODUCTS = {"D": Product.CNC, "I": Product.MIS}
OTHER_PRODUCTS = frozenset({"MTF", "CO", "OCO"})
"""Margin funding, cover and bracket orders: only a person makes them, elsewhere."""

EXCHANGES = {"NSE": "nse", "BSE": "bse"}
OTHER_EXCHANGES = frozenset({"NFO", "CDS", "BFO", "BCD", "MCX", "NSCOM"})
AT_MARKET = frozenset({"MARKET", "SL-M"})

ORDER_TYPES = {OrderType.LIMIT: "LIMIT", OrderType.STOP_LIMIT: "SL", OrderType.MARKET: "MARKET"}
VALIDITIES = {Validity.DAY: "DAY", Validity.IOC: "IOC"}
PROTECTION_PERCENT_MAX = Decimal(25)
PROTECTION_BY_UPSTOX = -1
"""Upstox's own protection, for a change to a market order: a change says no percentage."""

STATUSES: Mapping[str, BookStatus] = {
    "put order req received": BookStatus.OPEN,
    "validation pending": BookStatus.OPEN,
    "open pending": BookStatus.OPEN,
    "open": BookStatus.OPEN,
    "trigger pending": BookStatus.OPEN,
    "modify validation pending": BookStatus.OPEN,
    "modify pending": BookStatus.OPEN,
    "modified": BookStatus.OPEN,
    "not modified": BookStatus.OPEN,
    "cancel pending": BookStatus.OPEN,
    "not cancelled": BookStatus.OPEN,
    "after market order req received": BookStatus.OPEN,
    "modify after market order req received": BookStatus.OPEN,
    "complete": BookStatus.COMPLETE,
    "rejected": BookStatus.REJECTED,
    "cancelled": BookStatus.CANCELLED,
    "cancelled after market order": BookStatus.CANCELLED,
}
"""All 17 of the appendix; a partial fill shows in the quantities alone, and a day order's end is a cancel."""

NSE_SERIES = ("EQ", "BE", "BZ", "SM", "ST")
"""Shares, in the order of preference where a symbol has two: rolling settlement, trade for trade, small companies."""

TOKEN_ENDS = timedelta(hours=3, minutes=30)
"""A token lives until 03:30 of the next morning in India, whenever it was made: the `exp` in those of 2026."""


def place_body(order: OrderRequest, key: str) -> dict[str, Any]:
    """The body of an order for the instrument `key`: one order, never sliced."""
    at_market = order.order_type is OrderType.MARKET
    body: dict[str, Any] = {
        "quantity": order.quantity,
        "product": "D" if order.product is Product.CNC else "I",
        "validity": VALIDITIES[order.validity],
        "price": 0 if at_market else number(order.limit_price),
        "tag": order.tag,
        "instrument_token": key,
        "order_type": ORDER_TYPES[order.order_type],
        "transaction_type": order.side.value.upper(),
        "disclosed_quantity": 0,
        "trigger_price": number(order.trigger_price) if order.order_type is OrderType.STOP_LIMIT else 0,  # type: ignore[arg-type]
        "is_amo": False,
        "slice": False,
    }
    if at_market:
        body["market_protection"] = number(order.protection_percent)  # type: ignore[arg-type]
    return body


def change_body(broker_order_id: str, change: OrderChange) -> dict[str, Any]:
    """The body of a change. `disclosed_quantity` is left out: where it is given it must not be zero."""
    at_market = change.order_type is OrderType.MARKET
    body: dict[str, Any] = {
        "order_id": broker_order_id,
        "quantity": change.quantity,
        "validity": VALIDITIES[change.validity],
        "price": 0 if at_market else number(change.limit_price),
        "order_type": ORDER_TYPES[change.order_type],
        "trigger_price": number(change.trigger_price or Decimal(0)),
    }
    if at_market:
        body["market_protection"] = PROTECTION_BY_UPSTOX
    return body


def data_of(said: Any) -> Any:
    """What a success carries. Raises MalformedError."""
    envelope = fields(said)
    if envelope.get("status") != "success":
        raise MalformedError("it is no success")
    return envelope.get("data")


def order_id_of(said: Any) -> str:
    """The number of the order that was placed. Raises MalformedError.

    A sliced order would have several, all with its tag: the first stands for it. None is ever asked to be sliced.
    """
    ids = fields(data_of(said), "data").get("order_ids")
    if not isinstance(ids, list) or not ids:
        raise MalformedError("order_ids is no list of numbers")
    return identifier({"order_id": ids[0]}, "order_id")


def login_of(said: Any, now: datetime) -> LoggedIn:
    """The day's token: a reply without an envelope, unlike all others. Raises MalformedError."""
    login = fields(said)
    token = text(login, "access_token", length_max=4000)
    return LoggedIn(identifier(login, "user_id"), token, token_end(now))


def token_end(now: datetime) -> datetime:
    """When a token that is made `now` ends."""
    day = (now.astimezone(IST) - TOKEN_ENDS).date() + timedelta(days=1)
    return datetime(day.year, day.month, day.day, tzinfo=IST) + TOKEN_ENDS


def orders_of(orders: Any, trades: Any, listed: ShareList, words: Words) -> list[BookOrder]:
    """The day's orders in shares with their executions, charges not counted yet; what is no share, and what is bought
    on margin, is left out. Raises MalformedError."""
    executed = _trades_of(trades)
    return [_order_of(row, executed, listed, words) for row in _ours(orders, "orders")]


def _ours(said: Any, what: str) -> Iterable[Fields]:
    """The rows in shares. A word that is documented nowhere may stand for anything: it fails the whole report."""
    for row in rows(said, what):
        one_of(row, "exchange", dict.fromkeys((*EXCHANGES, *OTHER_EXCHANGES)))
        one_of(row, "product", dict.fromkeys((*PRODUCTS, *OTHER_PRODUCTS)))
        if row["exchange"] in EXCHANGES and row["product"] in PRODUCTS:
            yield row


def _trades_of(said: Any) -> Mapping[str, Sequence[BookTrade]]:
    found: dict[str, list[BookTrade]] = defaultdict(list)
    for row in rows(said, "trades"):
        quantity = shares(row, "quantity")
        if not quantity:
            raise MalformedError("quantity of a trade is zero")
        trade = BookTrade(
            identifier(row, "trade_id"),
            quantity,
            price(row, "average_price"),
            Decimal(0),
            _at(row, "exchange_timestamp"),
        )
        found[identifier(row, "order_id")].append(trade)
    return found


def _order_of(row: Fields, executed: Mapping[str, Sequence[BookTrade]], listed: ShareList, words: Words) -> BookOrder:
    order_id = identifier(row, "order_id")
    trades = tuple(executed.get(order_id, ()))
    status = words.status(text(row, "status").lower())
    at_market = text(row, "order_type") in AT_MARKET
    exchange = EXCHANGES[row["exchange"]]
    return BookOrder(
        broker_order_id=order_id,
        tag=tag_of(row.get("tag")),
        symbol=_symbol(row, exchange, listed),
        exchange=exchange,
        side=one_of(row, "transaction_type", SIDES),
        product=PRODUCTS[row["product"]],
        quantity=shares(row, "quantity"),
        limit_price=None if at_market else rupees(row, "price"),
        placed_at=_at(row, "order_timestamp"),
        status=concluded(status, shares(row, "filled_quantity", default=0), trades),
        message=message(row, "status_message", "status_message_raw"),
        trades=trades,
    )


def _symbol(row: Fields, exchange: str, listed: ShareList) -> str:
    named = text(row, "trading_symbol", default="") or text(row, "tradingsymbol")
    return listed.symbol(exchange, text(row, "instrument_token", default=""), plain_symbol(named))


def _at(row: Fields, name: str) -> datetime:
    """An instant in Indian time without an offset: both of the documented spellings, that of the order book and that
    of the trades ("03-Aug-2017 15:03:42"). Raises MalformedError."""
    value = row.get(name)
    spelled_out = isinstance(value, str) and len(value) > 6 and value[3:6].isalpha()
    return instant(row, name, IST, "%d-%b-%Y %H:%M:%S" if spelled_out else None)


def positions_of(said: Any, listed: ShareList) -> list[Position]:
    """The day's trades in shares, net: what was carried over from the day before is left out. Raises MalformedError."""
    found: list[Position] = []
    for row in _ours(said, "positions"):
        exchange = EXCHANGES[row["exchange"]]
        bought, sold = (shares(row, f"day_{way}_quantity") for way in ("buy", "sell"))
        average = rupees(row, "average_price", default=Decimal(0))
        symbol = _symbol(row, exchange, listed)
        found.append(Position(symbol, exchange, PRODUCTS[row["product"]], bought - sold, average))
    return found


def blocks_shares(said: Any) -> bool:
    """Whether any holding has shares that an order of today is about. Raises MalformedError."""
    return any(shares(row, "cnc_used_quantity", default=0) for row in rows(said, "holdings"))


def holdings_of(said: Any, positions: Iterable[Position], listed: ShareList) -> list[Holding]:
    """The shares held, without those sold today. Raises MalformedError.

    Upstox tells how many an order blocks or has sold (`cnc_used_quantity`), not which of the two: those that the day's
    `positions` show as delivered are sold. `quantity` is taken as what is in the depository, beside `t1_quantity`.
    """
    sold = dict(sold_from_holdings(positions))
    found: list[Holding] = []
    for row in rows(said, "holdings"):
        exchange = one_of(row, "exchange", EXCHANGES)
        symbol = _symbol(row, exchange, listed)
        gone = min(sold.get(symbol, 0), shares(row, "cnc_used_quantity", default=0))
        sold[symbol] = sold.get(symbol, 0) - gone
        settled, coming = shares(row, "quantity"), shares(row, "t1_quantity", default=0)
        left = max(0, settled - gone)
        coming = max(0, coming - max(0, gone - settled))
        average = rupees(row, "average_price", default=Decimal(0))
        found.append(Holding(symbol, exchange, text(row, "isin", default=""), left, coming, average))
    return found


def funds_of(said: Any) -> Funds:
    """The account's own rupees. Raises MalformedError.

    `cash_available_to_trade.total` is the opening balance with what came in and went out today, less charges and less
    all margin in use: what was spent today and what open orders hold back, which Upstox does not tell apart. So it is
    the free cash, and stands for the cash, too: right whenever no order is open, and too small otherwise, never too
    large. Pledged shares (`pledge_available_to_trade`) are no cash.
    """
    available = fields(fields(said, "data").get("available_to_trade"), "available_to_trade")
    free = rupees(fields(available.get("cash_available_to_trade"), "cash_available_to_trade"), "total")
    return Funds(free, free)


def shares_of(content: bytes, exchange: str) -> list[Instrument]:
    """The shares in an exchange's file of instruments, those to prefer first: prices in paise, ISIN in the key.

    Raises:
        MalformedError: it is none, or has no shares.
    """
    try:
        said = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise MalformedError("no JSON") from None
    segment = f"{exchange.upper()}_EQ"
    listed = [row for row in rows(said, "the list") if row.get("segment") == segment and is_share(str(row.get("isin")))]
    if exchange == "nse":
        listed = [row for row in listed if row.get("instrument_type") in NSE_SERIES]
        listed.sort(key=lambda row: NSE_SERIES.index(row["instrument_type"]))
    return readable(listed, lambda row: _share_of(row, exchange))


def _share_of(row: Fields, exchange: str) -> Instrument:
    tick = tick_of_paise(rupees({"tick_size": _exact(row.get("tick_size"))}, "tick_size"))
    by_auction = row.get("cas_eligible")
    return Instrument(
        symbol=plain_symbol(text(row, "trading_symbol")),
        exchange=exchange,
        key=text(row, "instrument_key"),
        tick=tick,
        lot=shares({"lot_size": _exact(row.get("lot_size"))}, "lot_size"),
        closes_by_auction=by_auction if isinstance(by_auction, bool) else None,
    )


def _exact(value: Any) -> Any:
    """orjson reads fractions as floats; their shortest text is what the file said."""
    return Decimal(repr(value)) if isinstance(value, float) else value


def hint_of(said: Any) -> OrderHint:
    """What a notice to the webhook is about; it is signed by nobody, so the book is read. Raises MalformedError."""
    notice = fields(said)
    if notice.get("update_type", "order") != "order":
        raise MalformedError("it is not about an order")
    client = text(notice, "user_id", default="") or text(notice, "userId", default="") or text(notice, "placed_by")
    return OrderHint(client, identifier(notice, "order_id"), tag_of(notice.get("tag")))
