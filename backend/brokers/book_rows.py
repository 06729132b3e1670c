"""What reports of different brokers have in common, once their words are read."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import structlog

from backend.brokers.adapter import Position
from backend.brokers.base import NotPlacedError, OrderRequest
from backend.brokers.book_charges import with_charges
from backend.brokers.wire_fields import MalformedError
from backend.domain.market import OrderType, Product
from backend.domain.reconcile import BookOrder, BookStatus, BookTrade

log = structlog.get_logger()

TAG = re.compile(r"[A-Za-z0-9]{1,20}")
SERIES_SUFFIX = re.compile(r"-[A-Z][A-Z0-9]$")
"""Brokers write a share's series behind its symbol, "NHPC-EQ": no symbol of NSE ends in a hyphen and two letters."""


@dataclass(frozen=True, slots=True)
class OrderHint:
    """What an unsigned notice says of an order: whose it is (the number at the broker) and its number there. Anybody
    may have written it, so it only hastens a look at the book."""

    client_id: str
    broker_order_id: str
    tag: str


def require_sendable(order: OrderRequest, protection_percent_max: Decimal = Decimal(100)) -> None:
    """Send nothing that no broker could take as it is meant. Raises NotPlacedError."""
    if not TAG.fullmatch(order.tag):
        raise NotPlacedError(f"the tag {order.tag[:40]!r} is not of 1 to 20 letters and digits")
    if order.quantity <= 0:
        raise NotPlacedError(f"an order is for at least one share, not {order.quantity}")
    if order.order_type is OrderType.STOP_LIMIT and not order.trigger_price:
        raise NotPlacedError("a stop order needs a trigger price")
    if order.order_type is OrderType.MARKET and not 0 < (order.protection_percent or 0) <= protection_percent_max:
        raise NotPlacedError(f"a market order needs protection of more than 0 and at most {protection_percent_max} %")


def tag_of(value: Any) -> str:
    """The tag of an order of Sauda's; "" where others wrote something else there, or nothing."""
    return value if isinstance(value, str) and TAG.fullmatch(value) else ""


def plain_symbol(name: str) -> str:
    """A trading symbol without its series: "NHPC-EQ" is NHPC."""
    return SERIES_SUFFIX.sub("", name)


def concluded(status: BookStatus, filled: int, trades: Sequence[BookTrade]) -> BookStatus:
    """`status`, or UNKNOWN for an end while `filled` shares were traded and the trades of some of them are not reported
    yet: an order must not end here without them."""
    reported = sum(trade.quantity for trade in trades)
    return status if status is BookStatus.OPEN or reported >= filled else BookStatus.UNKNOWN


def priced(book: Iterable[BookOrder], broker: str) -> list[BookOrder]:
    """The book with its charges. Raises MalformedError for a trade of a day that cannot be."""
    try:
        return with_charges(book, broker)
    except ValueError as error:
        raise MalformedError(str(error)) from error


def sold_from_holdings(positions: Iterable[Position]) -> Mapping[str, int]:
    """Shares that were delivered out of the holdings today, by symbol: what was sold beyond what was bought today."""
    net: dict[str, int] = defaultdict(int)
    for position in positions:
        if position.product is Product.CNC:
            net[position.symbol] += position.quantity
    return {symbol: -quantity for symbol, quantity in net.items() if quantity < 0}


class Words:
    """A broker's words for what has become of an order; one without a meaning here is logged once."""

    def __init__(self, broker: str, meanings: Mapping[str, BookStatus]) -> None:
        self._broker, self._meanings = broker, meanings
        self._strange: set[str] = set()

    def status(self, word: str) -> BookStatus:
        """Its meaning; UNKNOWN for a word without one."""
        meaning = self._meanings.get(word, BookStatus.UNKNOWN)
        if meaning is BookStatus.UNKNOWN and word not in self._strange and len(self._strange) < 100:
            self._strange.add(word)
            log.warning("order_status_unknown", broker=self._broker, status=word)
        return meaning
