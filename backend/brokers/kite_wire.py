"""What is said to Kite Connect 3 and how it says no: forms of orders, the envelope of replies, its classes of errors.

Sources: kite.trade/docs/connect/v3 (orders, user, exceptions); for what those pages leave open
zerodha/pykiteconnect 5.2.2 and zerodha/kiteconnect-mocks.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from backend.brokers.base import (
    BrokerError,
    BrokerUnavailableError,
    OrderChange,
    OrderRejectedError,
    OrderRequest,
    OutcomeUnknownError,
    RateLimitedError,
    SessionExpiredError,
)
from backend.brokers.wire import Reply, malformed_as
from backend.brokers.wire_fields import MalformedError, fields, identifier, plain, rows, text, words
from backend.domain.calendar import IST
from backend.domain.market import OrderType, Product, Side, Validity

VERSION = "3"
TAG = re.compile(r"[A-Za-z0-9]{1,20}")
"""Longer ones are refused, not cut (kite.trade forum 52970); Sauda's own are such."""
PROTECTION_PERCENT_MAX = Decimal(100)
TOKENS_END_AT = time(6, 0)
"""Indian time, each morning: the regulator's daily logout (kite.trade/docs/connect/v3/user)."""

SIDES = {Side.BUY: "BUY", Side.SELL: "SELL"}
PRODUCTS = {Product.CNC: "CNC", Product.MIS: "MIS"}
EXCHANGES = {"nse": "NSE", "bse": "BSE"}
VALIDITIES = {Validity.DAY: "DAY", Validity.IOC: "IOC"}
ORDER_TYPES = {OrderType.LIMIT: "LIMIT", OrderType.STOP_LIMIT: "SL", OrderType.MARKET: "MARKET"}

REFUSALS = frozenset(
    {"InputException", "OrderException", "MarginException", "HoldingException", "UserException", "PermissionException"}
)
"""Classes of error that say what is wrong with the request. The others (NetworkException, DataException,
GeneralException) say that Kite and its order management lost each other: the order may have arrived."""


def login_address(url: str, api_key: str, state: str) -> str:
    """Where the user logs in; `state` comes back beside the request_token, as redirect_params."""
    return f"{url}?{urlencode({'v': VERSION, 'api_key': api_key, 'redirect_params': urlencode({'state': state})})}"


def checksum(*parts: str) -> str:
    """SHA-256 of the parts in a row, in hexadecimal: how Kite lets a secret be proved without being told."""
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def token_ends_at(now: datetime) -> datetime:
    """The next six o'clock in the morning of India."""
    today = now.astimezone(IST)
    end = datetime.combine(today.date(), TOKENS_END_AT, IST)
    return end if today < end else end + timedelta(days=1)


def order_form(order: OrderRequest, tradingsymbol: str) -> dict[str, str]:
    """The fields of an order of variety `regular`; autoslice is never asked for.

    Raises:
        OrderRejectedError: Kite would refuse it, or take it for another: no tag of 1 to 20 letters and digits, or a
            market order without protection.
    """
    if not TAG.fullmatch(order.tag):
        raise OrderRejectedError(f"the tag {order.tag[:30]!r} is not 1 to 20 letters and digits")
    form = {
        "exchange": _word(EXCHANGES, order.exchange, "exchange"),
        "tradingsymbol": tradingsymbol,
        "transaction_type": SIDES[order.side],
        "quantity": str(order.quantity),
        "product": PRODUCTS[order.product],
        "order_type": ORDER_TYPES[order.order_type],
        "validity": VALIDITIES[order.validity],
        "tag": order.tag,
        **_prices(order.order_type, order.limit_price, order.trigger_price),
    }
    if order.order_type is OrderType.MARKET:
        form["market_protection"] = _protection(order.protection_percent)
    if order.algo_id:
        form["algo_id"] = order.algo_id
    return form


def change_form(change: OrderChange) -> dict[str, str]:
    """The fields of a modification. Raises OrderRejectedError for one to a market order: it names no protection."""
    if change.order_type is OrderType.MARKET:
        raise OrderRejectedError("an order is not changed to one at the market: cancel it and place another")
    return {
        "order_type": ORDER_TYPES[change.order_type],
        "quantity": str(change.quantity),
        "validity": VALIDITIES[change.validity],
        **_prices(change.order_type, change.limit_price, change.trigger_price),
    }


def _word(known: Mapping[str, str], name: str, what: str) -> str:
    if name not in known:
        raise OrderRejectedError(f"{what} {name[:20]!r} is none of {', '.join(known)}")
    return known[name]


def _prices(order_type: OrderType, limit: Decimal, trigger: Decimal | None) -> dict[str, str]:
    if order_type is OrderType.MARKET:
        return {}
    if order_type is OrderType.LIMIT:
        return {"price": plain(limit)}
    if trigger is None:
        raise OrderRejectedError("a stop order needs a trigger price")
    return {"price": plain(limit), "trigger_price": plain(trigger)}


def _protection(percent: Decimal | None) -> str:
    """Since 2026-04-01 Kite refuses market orders with none (kite.trade forum 52940)."""
    if percent is None or not 0 < percent <= PROTECTION_PERCENT_MAX:
        raise OrderRejectedError("a market order needs a protection above 0 and of at most 100 per cent")
    return plain(percent)


def order_id_of(data: Any) -> str:
    """The order's number in the reply to an order.

    A sliced order's reply has `children` beside its own number, each with an order_id or an error; they are orders of
    their own in the book, under the same tag. Sauda asks for no slices; were there some, the number is the parent's
    as long as one child was placed, and no outcome is known where none was.

    Raises:
        MalformedError: there is no number.
    """
    said = fields(data, "the reply to an order")
    number = identifier(said, "order_id")
    children = rows(said["children"], "children") if said.get("children") is not None else None
    if children is not None and not any(child.get("order_id") for child in children):
        raise MalformedError("an order without one of its slices")
    return number


def data_of(reply: Reply, kind: type[BrokerError], what: str) -> Any:
    """The data of a success envelope.

    Args:
        kind: OutcomeUnknownError for what changes something, BrokerUnavailableError for a report.
        what: the report or request, for messages.

    Raises:
        BrokerError: as the envelope's class of error says, `kind` where it proves nothing or there is none.
    """
    with malformed_as(kind, f"zerodha's reply to {what} ({reply.status})"):
        if reply.status == 429:
            raise RateLimitedError(f"zerodha took no more requests: {what}")
        said = fields(reply.json(), "the envelope")
        if reply.is_success and said.get("status") == "success" and "data" in said:
            return said["data"]
        if said.get("status") != "error":
            raise MalformedError("neither a success nor an error")
        raise error_of(text(said, "error_type"), said.get("message"), kind, what)


def error_of(error_type: str, message: Any, kind: type[BrokerError], what: str) -> BrokerError:
    """What a class of error means. A refusal is proof only of what was asked to be changed: a report that is refused
    is one that failed."""
    said = words(message) if isinstance(message, str) and message.strip() else error_type
    if error_type == "TokenException":
        return SessionExpiredError(f"zerodha's session is over: {said}")
    if error_type == "NetworkException" and "too many requests" in said.lower():
        return RateLimitedError(f"zerodha took no more requests: {what}")
    if error_type in REFUSALS and kind is OutcomeUnknownError:
        return OrderRejectedError(said, code=error_type)
    return kind(f"zerodha answered {what} with {error_type}: {said}"[:400])


def report_of(reply: Reply, what: str) -> Any:
    """The data of a report. Raises SessionExpiredError, RateLimitedError, BrokerUnavailableError."""
    return data_of(reply, BrokerUnavailableError, what)
