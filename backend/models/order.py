"""Orders, the append-only record of what happened to them, and their fills."""

from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    Numeric,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from backend.domain.market import OrderType, Product, Side
from backend.domain.orders import Intent, OrderEventKind, OrderState
from backend.domain.reasons import Reason
from backend.models.base import Base, BigId, CreatedAt, Money, Price, enum_type


class OrderOrigin(StrEnum):
    """Who made an order: the engine for an auto-trade, the user through Sauda, the user in the broker's own app, or the
    engine as a guard: a stop that rests at the broker for as long as an auto-trade is open."""

    ENGINE = "engine"
    MANUAL = "manual"
    EXTERNAL = "external"
    GUARD = "guard"


class Order(Base):
    """One broker order. Recorded before it is sent; `client_order_id` is the tag the broker sees.

    Trade, cycle and shard are the engine's; an external sell of an auto-trade's shares has its trade, too. `lookups`
    counts the complete reports in which the order did not show since its send, or since it last showed; `missing_since`
    is the first of them for an order that has stood in the book. An order with real money bears the exchange's name of
    its strategy, `algo_id`, and the address that it left from.
    """

    __tablename__ = "orders"

    id: Mapped[BigId]
    client_order_id: Mapped[str] = mapped_column(String(20), unique=True)
    origin: Mapped[OrderOrigin] = mapped_column(enum_type(OrderOrigin))
    auto_trade_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("auto_trades.id"), index=True)
    cycle_id: Mapped[int | None] = mapped_column(BigInteger)
    shard: Mapped[int | None] = mapped_column(Integer)
    user_id: Mapped[int] = mapped_column(BigInteger)
    account_id: Mapped[int] = mapped_column(BigInteger)
    intent: Mapped[Intent] = mapped_column(enum_type(Intent))
    symbol: Mapped[str] = mapped_column(String(20))
    exchange: Mapped[str] = mapped_column(String(3))
    side: Mapped[Side] = mapped_column(enum_type(Side))
    product: Mapped[Product] = mapped_column(enum_type(Product))
    order_type: Mapped[OrderType] = mapped_column(enum_type(OrderType))
    quantity: Mapped[int] = mapped_column(Integer)
    limit_price: Mapped[Decimal | None] = mapped_column(Numeric(18, 4))
    trigger_price: Mapped[Decimal | None] = mapped_column(Numeric(18, 4))
    state: Mapped[OrderState] = mapped_column(enum_type(OrderState))
    filled_quantity: Mapped[int] = mapped_column(Integer, default=0)
    average_price: Mapped[Decimal | None] = mapped_column(Numeric(18, 6))
    broker_order_id: Mapped[str | None] = mapped_column(String(40))
    status_message: Mapped[str | None] = mapped_column(String(300))
    denied_reason: Mapped[Reason | None] = mapped_column(enum_type(Reason, grows=True))
    lookups: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))
    missing_since: Mapped[datetime | None]
    environment: Mapped[str] = mapped_column(String(12))
    algo_id: Mapped[str | None] = mapped_column(String(40))
    egress_ip: Mapped[str | None] = mapped_column(String(45))
    decided_at: Mapped[datetime]
    submitted_at: Mapped[datetime | None]
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        ForeignKeyConstraint(["account_id", "user_id"], ["broker_accounts.id", "broker_accounts.user_id"]),
        CheckConstraint("quantity > 0", name="quantity_positive"),
        CheckConstraint("limit_price IS NOT NULL OR origin = 'external'", name="no_order_without_a_limit"),
        CheckConstraint("(origin = 'engine') = (cycle_id IS NOT NULL)", name="engine_orders_have_a_cycle"),
        CheckConstraint("filled_quantity BETWEEN 0 AND quantity", name="filled_within_quantity"),
        Index(
            "uq_orders_one_live_exit",
            "auto_trade_id",
            unique=True,
            postgresql_where=text(
                "intent = 'exit' AND state IN "
                "('pending', 'submitted', 'accepted', 'partially_filled', 'cancel_pending', 'unknown')"
            ),
        ),
        Index("ix_orders_submitted_at", "submitted_at"),
        Index("ix_orders_account_id_submitted_at", "account_id", "submitted_at"),
        Index("ix_orders_account_id_broker_order_id", "account_id", "broker_order_id"),
        Index("ix_orders_user_id_id", "user_id", "id"),
        Index(
            "ix_orders_live",
            "user_id",
            postgresql_where=text(
                "state IN ('pending', 'submitted', 'accepted', 'partially_filled', 'cancel_pending', 'unknown')"
            ),
        ),
    )


class OrderEvent(Base):
    """One transition of one order; never updated or deleted."""

    __tablename__ = "order_events"

    id: Mapped[BigId]
    order_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("orders.id"), index=True)
    kind: Mapped[OrderEventKind] = mapped_column(enum_type(OrderEventKind))
    from_state: Mapped[OrderState] = mapped_column(enum_type(OrderState, "from_state"))
    to_state: Mapped[OrderState] = mapped_column(enum_type(OrderState, "to_state"))
    detail: Mapped[str] = mapped_column(String(300), default="")
    market_at: Mapped[datetime]
    created_at: Mapped[CreatedAt]


class Fill(Base):
    """One execution as the broker reported it; unique by (account, trade id, date), never updated or deleted."""

    __tablename__ = "fills"

    id: Mapped[BigId]
    order_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("orders.id"), index=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("broker_accounts.id"))
    trade_id: Mapped[str] = mapped_column(String(40))
    trade_date: Mapped[date]
    symbol: Mapped[str] = mapped_column(String(20))
    side: Mapped[Side] = mapped_column(enum_type(Side))
    quantity: Mapped[int] = mapped_column(Integer)
    price: Mapped[Price]
    charges: Mapped[Money]
    filled_at: Mapped[datetime]
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        UniqueConstraint("account_id", "trade_id", "trade_date"),
        CheckConstraint("quantity > 0", name="quantity_positive"),
        CheckConstraint("price > 0", name="price_positive"),
    )
