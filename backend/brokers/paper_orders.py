"""One order of the paper book in its three forms: as it arrives, as it rests, and as the book shows it."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from backend.brokers.base import OrderChange, OrderRequest
from backend.domain.market import OrderType
from backend.domain.matching import PaperStatus, RestingOrder
from backend.domain.reconcile import BookOrder, BookStatus, BookTrade
from backend.models.paper import PaperChange, PaperOrder

_BOOK_STATUS = {
    PaperStatus.OPEN: BookStatus.OPEN,
    PaperStatus.TRIGGER_PENDING: BookStatus.OPEN,
    PaperStatus.COMPLETE: BookStatus.COMPLETE,
    PaperStatus.REJECTED: BookStatus.REJECTED,
    PaperStatus.CANCELLED: BookStatus.CANCELLED,
    PaperStatus.EXPIRED: BookStatus.EXPIRED,
}


def arriving(account_id: int, order: OrderRequest, now: datetime) -> PaperOrder:
    stop = order.order_type is OrderType.STOP_LIMIT
    return PaperOrder(
        account_id=account_id,
        tag=order.tag,
        symbol=order.symbol,
        exchange=order.exchange,
        side=order.side,
        product=order.product,
        order_type=order.order_type,
        quantity=order.quantity,
        limit_price=order.limit_price,
        trigger_price=order.trigger_price,
        status=PaperStatus.TRIGGER_PENDING if stop else PaperStatus.OPEN,
        validity=order.validity,
        filled_quantity=0,
        filled_value=Decimal(0),
        charges=Decimal(0),
        message="",
        closing_quantity=0,
        leverage=Decimal(1),
        modifications=0,
        squares_off=False,
        broker_like=False,
        placed_at=now,
        matched_through=now,
    )


def changed(order: PaperOrder, change: OrderChange, now: datetime) -> PaperChange:
    """Make the order what `change` says; returns what it was until now. It has to wait for its turn anew."""
    before = PaperChange(
        order_id=order.id,
        account_id=order.account_id,
        order_type=order.order_type,
        quantity=order.quantity,
        limit_price=order.limit_price,
        trigger_price=order.trigger_price,
        validity=order.validity,
        filled_quantity=order.filled_quantity,
        at=now,
    )
    waits = change.order_type is OrderType.STOP_LIMIT and not (
        order.order_type is OrderType.STOP_LIMIT and order.status is PaperStatus.OPEN
    )
    order.order_type, order.quantity, order.validity = change.order_type, change.quantity, change.validity
    order.limit_price, order.trigger_price = change.limit_price, change.trigger_price
    order.status = PaperStatus.TRIGGER_PENDING if waits else PaperStatus.OPEN
    order.modifications += 1
    order.matched_through = now
    return before


def requested(order: PaperOrder, change: OrderChange) -> OrderRequest:
    """The order as if it were placed now as `change` says, for the rules of the market. A stop that was triggered is a
    limit order by now."""
    triggered = order.order_type is OrderType.STOP_LIMIT and order.status is PaperStatus.OPEN
    return OrderRequest(
        order.symbol,
        order.exchange,
        order.side,
        order.product,
        OrderType.LIMIT if triggered else change.order_type,
        change.quantity,
        change.limit_price,
        order.tag,
        None if triggered else change.trigger_price,
        validity=change.validity,
    )


def shown(order: PaperOrder, trades: Sequence[BookTrade]) -> BookOrder:
    return BookOrder(
        broker_order_id=str(order.id),
        tag=order.tag,
        symbol=order.symbol,
        exchange=order.exchange,
        side=order.side,
        product=order.product,
        quantity=order.quantity,
        limit_price=order.limit_price,
        placed_at=order.placed_at,
        status=_BOOK_STATUS[order.status],
        message=order.message,
        trades=tuple(trades),
    )


def resting_order(order: PaperOrder) -> RestingOrder:
    return RestingOrder(
        side=order.side,
        order_type=order.order_type,
        open_quantity=order.quantity - order.filled_quantity,
        limit_price=order.limit_price,
        trigger_price=order.trigger_price,
        triggered=order.status is not PaperStatus.TRIGGER_PENDING,
    )
