"""Orders on the wire, whoever made them."""

from datetime import date
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints

from backend.api.schemas.common import Body, Id, Line, MarketReply, Moment, Money, PageQuery, Reply, Symbol
from backend.domain.market import OrderType, Product, Side
from backend.domain.orders import Intent, OrderEventKind, OrderState
from backend.domain.reasons import NEXT_STEP, Reason
from backend.models import Fill, Order, OrderEvent, OrderOrigin
from backend.services.manual_order_service import ManualOrder
from backend.services.order_query_service import OrderFilter, OrderRecord
from contracts.common import Environment

SHARES_MAX = 10_000_000


def _positive(rupees: str) -> str:
    if Decimal(rupees) <= 0:
        raise ValueError("a price is above zero")
    return rupees


RupeesText = Annotated[str, StringConstraints(pattern=r"^\d{1,9}(\.\d{1,4})?$"), AfterValidator(_positive)]
"""Rupees as they are written: a JSON number would have been a float on its way."""


class OrderBody(Body):
    """`limit_price` in rupees per share, as a string; null stays close to the market: a protected limit.

    `account_id` null is the primary account. A sell needs the shares in that account.
    """

    symbol: Symbol
    side: Side
    quantity: Annotated[int, Field(strict=True, ge=1, le=SHARES_MAX)]
    product: Product = Product.CNC
    limit_price: RupeesText | None = None
    account_id: Id | None = None

    def order(self) -> ManualOrder:
        limit = None if self.limit_price is None else Decimal(self.limit_price)
        return ManualOrder(self.symbol, self.side, self.quantity, self.product, limit, self.account_id)


class OrdersQuery(PageQuery):
    """Filters; each left out means any."""

    state: OrderState | None = None
    origin: OrderOrigin | None = None
    symbol: Symbol | None = None

    def filter(self) -> OrderFilter:
        return OrderFilter(self.state, self.origin, self.symbol)


class OrderView(Reply):
    """Quantities are shares, prices rupees per share. `client_order_id` is the tag in the broker's book.

    `limit_price` is null for a market order made in the broker's own app; `next_step` goes with `denied_reason`.
    """

    id: int
    client_order_id: str
    broker_order_id: str | None
    origin: OrderOrigin
    auto_trade_id: int | None
    account_id: int
    intent: Intent
    symbol: str
    exchange: str
    side: Side
    product: Product
    order_type: OrderType
    quantity: int
    limit_price: Money | None
    trigger_price: Money | None
    state: OrderState
    filled_quantity: int
    average_price: Money | None
    status_message: str | None
    denied_reason: Reason | None
    next_step: str | None
    decided_at: Moment
    submitted_at: Moment | None

    @classmethod
    def of(cls, order: Order) -> Self:
        own = {name: getattr(order, name) for name in cls.model_fields if name != "next_step"}
        return cls(**own, next_step=NEXT_STEP[order.denied_reason] if order.denied_reason else None)


class OrderReply(MarketReply):
    order: OrderView


class OrdersReply(MarketReply):
    orders: list[OrderView]
    next_cursor: str | None


class OrderEventView(Reply):
    """`market_at` is the market's time, `created_at` when it was written down."""

    kind: OrderEventKind
    from_state: OrderState
    to_state: OrderState
    detail: str
    market_at: Moment
    created_at: Moment

    @classmethod
    def of(cls, event: OrderEvent) -> "OrderEventView":
        return cls(**{name: getattr(event, name) for name in cls.model_fields})


class FillView(Reply):
    """One execution: shares, rupees per share, all charges in rupees."""

    trade_id: str
    trade_date: date
    quantity: int
    price: Money
    charges: Money
    filled_at: Moment

    @classmethod
    def of(cls, fill: Fill) -> "FillView":
        return cls(**{name: getattr(fill, name) for name in cls.model_fields})


class OrderRecordReply(MarketReply):
    """An order, its events and its fills, oldest first."""

    order: OrderView
    events: list[OrderEventView]
    fills: list[FillView]

    @classmethod
    def of(cls, environment: Environment, record: OrderRecord) -> "OrderRecordReply":
        return cls(
            environment=environment,
            order=OrderView.of(record.order),
            events=[OrderEventView.of(event) for event in record.events],
            fills=[FillView.of(fill) for fill in record.fills],
        )


class UnknownOrderView(OrderView):
    """With whose order it is, for administrators."""

    user_id: int


class UnknownOrdersReply(MarketReply):
    orders: list[UnknownOrderView]
    next_cursor: str | None


class SettleBody(Body):
    """What the broker said when asked: the order `abandoned` (it never arrived), `cancelled` or `expired` there."""

    outcome: Literal["abandoned", "cancelled", "expired"]
    reason: Annotated[Line, Field(min_length=10, max_length=240)]
