"""Auto-trading: a user's settings and the record of every trade the engine made for them."""

from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    Numeric,
    String,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from backend.domain.decide import ExitReason, TradeStatus
from backend.domain.market import Product, Side
from backend.domain.modes import Mode
from backend.models.base import Base, BigId, CreatedAt, Money, Price, enum_type


class AutoTradeSettings(Base):
    """What the user chose. `entries_per_day_max` may only lower the plan's own limit.

    `protections` holds what differs from the defaults of domain/protections.py; `strategies` are those that may enter,
    all of them where it is empty.
    """

    __tablename__ = "auto_trade_settings"

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)
    enabled: Mapped[bool] = mapped_column(default=False)
    mode: Mapped[Mode] = mapped_column(enum_type(Mode))
    product: Mapped[Product] = mapped_column(enum_type(Product))
    symbols: Mapped[list[str]] = mapped_column(ARRAY(String(20)))
    entries_per_day_max: Mapped[int | None] = mapped_column(Integer)
    strategies: Mapped[list[str]] = mapped_column(ARRAY(String(40)), default=list, server_default=text("'{}'"))
    protections: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default=text("'{}'::jsonb"))
    enabled_at: Mapped[datetime | None]
    updated_at: Mapped[CreatedAt]


class AutoTrade(Base):
    """One trade from signal to realized P&L. Quantities are shares, prices rupees per share, returns fractions.

    Shares and prices are on the scale after the last corporate action; `dividends` (rupees, gross of tax) are income
    beside `realized_pnl`. `model_version` and `logic_version` name what proposed it, `cluster` the shares that its own
    moved together with at its entry.
    """

    __tablename__ = "auto_trades"

    id: Mapped[BigId]
    user_id: Mapped[int] = mapped_column(BigInteger)
    account_id: Mapped[int] = mapped_column(BigInteger)
    cycle_id: Mapped[int] = mapped_column(BigInteger)
    symbol: Mapped[str] = mapped_column(String(20))
    exchange: Mapped[str] = mapped_column(String(3))
    side: Mapped[Side] = mapped_column(enum_type(Side))
    product: Mapped[Product] = mapped_column(enum_type(Product))
    mode: Mapped[Mode] = mapped_column(enum_type(Mode))
    status: Mapped[TradeStatus] = mapped_column(enum_type(TradeStatus))
    strategy: Mapped[str] = mapped_column(String(40))
    model_version: Mapped[str | None] = mapped_column(String(64))
    logic_version: Mapped[str | None] = mapped_column(Text)
    cluster: Mapped[str | None] = mapped_column(Text)
    confidence: Mapped[float]
    confidence_kind: Mapped[str] = mapped_column(String(40))
    expected_return_net: Mapped[float]
    horizon_ends_on: Mapped[date]
    reference_price: Mapped[Price]
    target_price: Mapped[Price]
    stop_price: Mapped[Price]
    quantity: Mapped[int] = mapped_column(Integer)
    entry_quantity: Mapped[int] = mapped_column(Integer, default=0)
    entry_price: Mapped[Decimal | None] = mapped_column(Numeric(18, 6))
    exit_quantity: Mapped[int] = mapped_column(Integer, default=0)
    exit_price: Mapped[Decimal | None] = mapped_column(Numeric(18, 6))
    exit_reason: Mapped[ExitReason | None] = mapped_column(enum_type(ExitReason))
    charges: Mapped[Money] = mapped_column(default=Decimal(0))
    realized_pnl: Mapped[Money] = mapped_column(default=Decimal(0))
    dividends: Mapped[Money] = mapped_column(default=Decimal(0), server_default=text("0"))
    decided_at: Mapped[datetime]
    opened_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        # One check proves that the account is the user's own.
        ForeignKeyConstraint(["account_id", "user_id"], ["broker_accounts.id", "broker_accounts.user_id"]),
        Index("ix_auto_trades_user_id_id", "user_id", "id"),
        Index("ix_auto_trades_user_id_closed_at", "user_id", "closed_at"),
        Index(
            "uq_auto_trades_one_live_per_symbol",
            "account_id",
            "symbol",
            unique=True,
            postgresql_where=text("status IN ('entering', 'open', 'exiting')"),
        ),
    )


class Decision(Base):
    """What one cycle decided for one user: every candidate of the user's mode, taken or not, with its numbers."""

    __tablename__ = "decisions"

    cycle_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("cycles.id"), primary_key=True)
    user_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id"), primary_key=True)
    mode: Mapped[Mode] = mapped_column(enum_type(Mode))
    skipped_reason: Mapped[str | None] = mapped_column(String(40))
    outcomes: Mapped[list[dict[str, Any]]]

    __table_args__ = (Index("ix_decisions_user_id_cycle_id", "user_id", "cycle_id"),)
