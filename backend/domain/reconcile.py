"""Bringing an order in line with the broker's book: pure, and applying it twice changes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from backend.domain.market import Product, Side
from backend.domain.orders import OrderEventKind, OrderState, Progress


@dataclass(frozen=True, slots=True)
class LookupRules:
    """When a complete report without an order counts as a look-up, in real seconds, and after how many in a row its
    outcome is UNKNOWN."""

    from_s: float = 5.0
    every_s: float = 2.0
    count_max: int = 5

    def is_due(self, age_s: float, lookups: int) -> bool:
        """Whether a report read `age_s` after a send that was not answered counts as the next look-up."""
        return age_s >= self.from_s + lookups * self.every_s


class BookStatus(StrEnum):
    """A broker's word on an order, in Sauda's terms. UNKNOWN: a word that has no meaning here, so that nothing is
    concluded of it but that the order exists."""

    OPEN = "open"
    COMPLETE = "complete"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class BookTrade:
    """One execution as the broker shows it: shares, rupees per share, all charges in rupees."""

    trade_id: str
    quantity: int
    price: Decimal
    charges: Decimal
    traded_at: datetime


@dataclass(frozen=True, slots=True)
class BookOrder:
    """One order as the broker shows it, with its executions, oldest first. `limit_price` is None at the market."""

    broker_order_id: str
    tag: str
    symbol: str
    exchange: str
    side: Side
    product: Product
    quantity: int
    limit_price: Decimal | None
    placed_at: datetime
    status: BookStatus
    message: str
    trades: tuple[BookTrade, ...]


@dataclass(frozen=True, slots=True)
class KnownOrder:
    """One order as Sauda knows it. `age_s` is real seconds since it was submitted, `lookups` the complete reports
    that counted and did not show it, this one included, since it was sent or last showed. `has_broker_id`: its broker
    has once given it a number."""

    state: OrderState
    quantity: int
    client_order_id: str
    known_trade_ids: frozenset[str]
    filled_quantity: int
    age_s: float
    lookups: int = 0
    has_broker_id: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One event to apply, with the fill that caused it where there is one."""

    event: OrderEventKind
    detail: str
    trade: BookTrade | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the book says beyond what is known; empty where nothing is new."""

    broker_order_id: str | None
    steps: tuple[Step, ...]


_ENDINGS: Mapping[BookStatus, OrderEventKind] = {
    BookStatus.REJECTED: OrderEventKind.REJECTED,
    BookStatus.CANCELLED: OrderEventKind.CANCELLED,
    BookStatus.EXPIRED: OrderEventKind.EXPIRED,
}

_ENDED = {
    OrderState.FILLED,
    OrderState.REJECTED,
    OrderState.CANCELLED,
    OrderState.EXPIRED,
}

IN_BOOK_STATES = frozenset({OrderState.ACCEPTED, OrderState.PARTIALLY_FILLED, OrderState.CANCEL_PENDING})
"""States of an order that stood in the broker's book, alive, when last heard of."""


def settle(
    order: KnownOrder,
    shown: Sequence[BookOrder],
    absence_is_proof_after_s: float | None,
    lookups_max: int = 5,
) -> Settlement:
    """What to apply to `order`, given the book's orders with its tag.

    Args:
        shown: the book's orders that carry the order's tag; a complete report, never a failed one.
        absence_is_proof_after_s: seconds after which this broker's silence proves that the order never arrived;
            None for a broker whose book may be late, where silence makes the order UNKNOWN. An order that the
            broker once knew did arrive: its absence makes it UNKNOWN at every broker.
        lookups_max: reports without the order after which it is.
    """
    if not shown:
        return Settlement(None, _absent(order, absence_is_proof_after_s, lookups_max))
    book = shown[0]
    steps: list[Step] = []
    filled = order.filled_quantity
    # Keyed by trade id: a report that shows an execution twice still tells of one.
    new = {trade.trade_id: trade for trade in book.trades if trade.trade_id not in order.known_trade_ids}
    ended = order.state in _ENDED
    if order.state in {OrderState.SUBMITTED, OrderState.UNKNOWN} and book.status is not BookStatus.REJECTED:
        # One that had traded before it was lost is partly filled again, not merely accepted.
        found = Progress(filled, order.quantity).fill_event() if filled else OrderEventKind.ACCEPTED
        steps.append(Step(found, f"in the broker's book as {book.broker_order_id}"))
    for trade in new.values():
        filled += trade.quantity
        steps.append(Step(Progress(filled, order.quantity).fill_event(), f"trade {trade.trade_id}", trade))
    ending = _ENDINGS.get(book.status)
    if ending is not None and not ended and filled < order.quantity:
        # A refusal after fills ended only the rest: the order did exist, and what it traded stands.
        refused_rest = ending is OrderEventKind.REJECTED and filled > 0
        steps.append(Step(OrderEventKind.CANCELLED if refused_rest else ending, book.message))
    return Settlement(book.broker_order_id, tuple(steps))


def _absent(order: KnownOrder, absence_is_proof_after_s: float | None, lookups_max: int) -> tuple[Step, ...]:
    existed = order.state in IN_BOOK_STATES or order.has_broker_id
    proof = absence_is_proof_after_s is not None and order.age_s >= absence_is_proof_after_s
    if order.state in {OrderState.SUBMITTED, OrderState.UNKNOWN} and proof and not existed:
        return (Step(OrderEventKind.ABANDONED, "absent from the broker's book: it never arrived"),)
    if order.state in {OrderState.SUBMITTED, *IN_BOOK_STATES} and (order.lookups >= lookups_max or (existed and proof)):
        what = "shows it no more" if existed else "has not shown it"
        return (Step(OrderEventKind.LOST, f"the broker's book {what}; the symbol is blocked until it does"),)
    return ()
