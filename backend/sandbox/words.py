"""Kite Connect 3's words and shapes: envelopes, error types, order rows, timestamps, identifiers. Pure.

Sources: kite.trade/docs/connect/v3 (exceptions, orders, portfolio, user, gtt), zerodha/kiteconnect-mocks. Prices leave
as JSON numbers, as at Kite: what is money in here is Decimal until then.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from backend.domain.calendar import IST
from backend.domain.market import OrderType, Product, Side, Validity
from backend.domain.matching import PaperStatus
from backend.models.paper import PaperChange, PaperOrder, PaperTrade

T = TypeVar("T")

SEGMENT_NSE = 1
ORDER_ID_DIGITS = 9
TOKEN_ENDS = time(6, 0)
"""Indian time at which Kite's access tokens end, every day (from memory)."""

ORDER_TYPES = {"MARKET": OrderType.MARKET, "LIMIT": OrderType.LIMIT, "SL": OrderType.STOP_LIMIT}
PRODUCTS = {"CNC": Product.CNC, "MIS": Product.MIS}
SIDES = {"BUY": Side.BUY, "SELL": Side.SELL}
VALIDITIES = {"DAY": Validity.DAY, "IOC": Validity.IOC}
_TYPE_WORDS = {kind: word for word, kind in ORDER_TYPES.items()}

STATUS_WORDS = {
    PaperStatus.OPEN: "OPEN",
    PaperStatus.TRIGGER_PENDING: "TRIGGER PENDING",
    PaperStatus.COMPLETE: "COMPLETE",
    PaperStatus.REJECTED: "REJECTED",
    PaperStatus.CANCELLED: "CANCELLED",
    # What the exchange lets lapse at the end of the session is CANCELLED at Kite.
    PaperStatus.EXPIRED: "CANCELLED",
}
BEFORE_OPEN = ("PUT ORDER REQ RECEIVED", "VALIDATION PENDING", "OPEN PENDING")
BEFORE_MODIFIED = ("MODIFY VALIDATION PENDING", "MODIFY PENDING", "MODIFIED")


class KiteError(Exception):
    """A refusal as Kite words it: an error type of its documents, its HTTP status, a message for people."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type, self.message = error_type, message
        self.status = 429 if error_type == "RateLimit" else HTTP_STATUS[error_type]


HTTP_STATUS = {
    "TokenException": 403,
    "PermissionException": 403,
    "UserException": 400,
    "OrderException": 500,
    "InputException": 400,
    "MarginException": 400,
    "HoldingException": 400,
    "NetworkException": 503,
    "DataException": 502,
    "GeneralException": 500,
}


def failure(error: KiteError) -> dict[str, Any]:
    error_type = "NetworkException" if error.error_type == "RateLimit" else error.error_type
    return {"status": "error", "message": error.message, "data": None, "error_type": error_type}


def ist(at: datetime | None) -> str | None:
    """Naive Indian time, as Kite writes every instant but a candle's."""
    return None if at is None else at.astimezone(IST).strftime("%Y-%m-%d %H:%M:%S")


def candle_time(at: datetime) -> str:
    """With an offset without a colon."""
    return at.astimezone(IST).strftime("%Y-%m-%dT%H:%M:%S%z")


def token_ends_at(now: datetime) -> datetime:
    """The next six o'clock in the morning, Indian time."""
    local = now.astimezone(IST)
    ends = datetime.combine(local.date(), TOKEN_ENDS, tzinfo=IST)
    return ends if local < ends else ends + timedelta(days=1)


def day_start(now: datetime) -> datetime:
    return datetime.combine(now.astimezone(IST).date(), time(), tzinfo=IST)


def client_id(account_id: int) -> str:
    """Six characters as at Zerodha."""
    return f"SB{account_id:04d}"


def order_id(row_id: int, placed_at: datetime) -> str:
    """Fifteen digits, the first six the day: as Kite's look."""
    return f"{placed_at.astimezone(IST):%y%m%d}{row_id:0{ORDER_ID_DIGITS}d}"


def row_id(kite_order_id: str) -> int:
    """The order's number in the book. Raises KiteError for what is no order id."""
    if not (kite_order_id.isascii() and kite_order_id.isdigit() and len(kite_order_id) == 6 + ORDER_ID_DIGITS):
        raise KiteError("InputException", "Invalid `order_id`.")
    return int(kite_order_id[6:])


def tokens_of(symbols: Iterable[str]) -> dict[str, int]:
    """An instrument token per symbol: a number of its own, shifted past the segment, the same as long as the symbols
    are: two that fall on one number take the next, in the order of the alphabet."""
    taken: dict[int, str] = {}
    for symbol in sorted(symbols):
        number = zlib.crc32(f"NSE:{symbol}".encode()) & 0x3FFFFF
        while number == 0 or number in taken:
            number = (number + 1) & 0x3FFFFF
        taken[number] = symbol
    return {symbol: number << 8 | SEGMENT_NSE for number, symbol in taken.items()}


def order_row(order: PaperOrder, token: int) -> dict[str, Any]:
    """An order as the order book, postbacks and the ticker show it."""
    kite_id, user = order_id(order.id, order.placed_at), client_id(order.account_id)
    filled, over = order.filled_quantity, order.ended_at is not None
    rejected = order.status is PaperStatus.REJECTED
    at = ist(order.ended_at or order.placed_at)
    return {
        "placed_by": user,
        "order_id": kite_id,
        "exchange_order_id": None if rejected else f"1{kite_id}",
        "parent_order_id": None,
        "status": STATUS_WORDS[order.status],
        "status_message": order.message or None,
        "status_message_raw": order.message or None,
        "order_timestamp": at,
        "exchange_update_timestamp": None if rejected else at,
        "exchange_timestamp": None if rejected else ist(order.placed_at),
        "variety": "regular",
        "modified": order.modifications > 0,
        "exchange": order.exchange.upper(),
        "tradingsymbol": order.symbol,
        "instrument_token": token,
        "order_type": _TYPE_WORDS[order.order_type],
        "transaction_type": order.side.value.upper(),
        "validity": order.validity.value.upper(),
        "validity_ttl": 0,
        "product": order.product.value.upper(),
        "quantity": order.quantity,
        "disclosed_quantity": 0,
        "price": float(order.limit_price),
        "trigger_price": float(order.trigger_price or 0),
        "average_price": float(round(order.filled_value / filled, 4)) if filled else 0,
        "filled_quantity": filled,
        "pending_quantity": 0 if over else order.quantity - filled,
        "cancelled_quantity": order.quantity - filled if over and not rejected else 0,
        "market_protection": 0,
        "meta": {},
        "tag": order.tag or None,
        "guid": f"sandbox{order.id}",
    }


def history_rows(order: PaperOrder, changes: Sequence[PaperChange], token: int) -> list[dict[str, Any]]:
    """What the order went through, oldest first; each row is the order as it was then."""
    now = order_row(order, token)
    found: list[dict[str, Any]] = []

    def add(status: str, at: datetime, **terms: Any) -> None:
        fresh = {"filled_quantity": 0, "average_price": 0, "cancelled_quantity": 0, "status_message": None}
        found.append(now | fresh | {"order_timestamp": ist(at), "status": status} | terms)

    versions = [_terms(change) for change in changes] + [_terms(order)]
    starts = [order.placed_at, *(change.at for change in changes)]
    if order.status is PaperStatus.REJECTED:
        return [now | {"status": status} for status in (*BEFORE_OPEN[:2], now["status"])]
    for number, (terms, at) in enumerate(zip(versions, starts, strict=True)):
        for status in BEFORE_MODIFIED if number else BEFORE_OPEN:
            add(status, at, **terms)
        waits = terms["order_type"] == "SL"
        add("TRIGGER PENDING" if waits else "OPEN", at, **terms)
    if now["status"] != found[-1]["status"] or order.filled_quantity:
        found.append(now)
    return found


def _terms(version: PaperOrder | PaperChange) -> dict[str, Any]:
    return {
        "quantity": version.quantity,
        "pending_quantity": version.quantity,
        "price": float(version.limit_price),
        "trigger_price": float(version.trigger_price or 0),
        "order_type": _TYPE_WORDS[version.order_type],
        "validity": version.validity.value.upper(),
    }


def trade_row(trade: PaperTrade, order: PaperOrder, token: int) -> dict[str, Any]:
    """One execution. Its order_timestamp is a time of day alone, as at Kite (mock trades.json)."""
    kite_id = order_id(order.id, order.placed_at)
    return {
        "trade_id": str(trade.id),
        "order_id": kite_id,
        "exchange_order_id": f"1{kite_id}",
        "exchange": order.exchange.upper(),
        "tradingsymbol": order.symbol,
        "instrument_token": token,
        "product": order.product.value.upper(),
        "average_price": float(trade.price),
        "quantity": trade.quantity,
        "transaction_type": order.side.value.upper(),
        "fill_timestamp": ist(trade.traded_at),
        "order_timestamp": order.placed_at.astimezone(IST).strftime("%H:%M:%S"),
        "exchange_timestamp": ist(trade.traded_at),
    }


def decimal_of(form: Mapping[str, str], name: str) -> Decimal:
    """A price or percentage of a form, 0 where it is left out. Raises KiteError."""
    text = form.get(name) or "0"
    try:
        value = Decimal(text)
    except ArithmeticError:
        value = Decimal("NaN")
    if len(text) > 20 or not value.is_finite() or abs(value) >= Decimal(10) ** 12:
        raise KiteError("InputException", f"Invalid `{name}`.")
    return value


def integer_of(form: Mapping[str, str], name: str) -> int:
    """A quantity of a form. Raises KiteError."""
    text = form.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise KiteError("InputException", f"Invalid `{name}`.")
    return int(text)


def one_of(form: Mapping[str, str], name: str, words: Mapping[str, T], default: str | None = None) -> T:
    """What a word of a form means. Raises KiteError."""
    word = form.get(name) or default
    if word is None:
        raise KiteError("InputException", f"Missing or empty field `{name}`")
    if word not in words:
        raise KiteError("InputException", f"Invalid `{name}`.")
    return words[word]


def on(day: date) -> str:
    return f"{day.isoformat()} 00:00:00"
