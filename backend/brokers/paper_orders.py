"""One order of the paper book in its three forms: as it arrives, as it rests, and as the book shows it."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from backend.brokers.base import OrderRequest
from backend.domain.market import OrderType
from backend.domain.matching import PaperStatus, RestingOrder
from backend.domain.reconcile import BookOrder, BookStatus, BookTrade
from backend.models.paper import PaperOrder

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
        filled_quantity=0,
        filled_value=Decimal(0),
        charges=Decimal(0),
        message="",
        placed_at=now,
        matched_through=now,
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
