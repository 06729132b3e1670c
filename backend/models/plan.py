"""What a user may do: the plan catalogue, subscriptions, and the entries used per trading day."""

from datetime import date, datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, String, text
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, BigId, CreatedAt, Money, enum_type


class Plan(Base):
    """One row of the catalogue. `auto_trades_per_day` counts entries; exits are never counted. `live`: real orders.

    `backtests_at_once` is how many run together, the others wait; `backtest_combinations_max` bounds a sweep.
    """

    __tablename__ = "plans"

    code: Mapped[str] = mapped_column(String(20), primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    auto_trades_per_day: Mapped[int] = mapped_column(Integer)
    backtests_per_day: Mapped[int] = mapped_column(Integer)
    backtests_at_once: Mapped[int] = mapped_column(Integer)
    backtest_combinations_max: Mapped[int] = mapped_column(Integer)
    live: Mapped[bool]
    price_rupees_per_month: Mapped[Money]
    description: Mapped[str] = mapped_column(String(300))
    rank: Mapped[int] = mapped_column(Integer)


class SubscriptionStatus(StrEnum):
    PENDING = "pending"
    ACTIVE = "active"
    CANCELLED = "cancelled"


class Subscription(Base):
    """A user's plan over time. A user without an active row is on Free."""

    __tablename__ = "subscriptions"

    id: Mapped[BigId]
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    plan_code: Mapped[str] = mapped_column(ForeignKey("plans.code"))
    status: Mapped[SubscriptionStatus] = mapped_column(enum_type(SubscriptionStatus))
    requested_at: Mapped[CreatedAt]
    activated_at: Mapped[datetime | None]
    activated_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        Index(
            "uq_subscriptions_one_active",
            "user_id",
            unique=True,
            postgresql_where=text("status = 'active'"),
        ),
        Index(
            "uq_subscriptions_one_pending",
            "user_id",
            unique=True,
            postgresql_where=text("status = 'pending'"),
        ),
    )


class DailyUsage(Base):
    """Entries claimed per user and trading day (IST); `last_claim`: what the newest got, `entries_max`: its cap."""

    __tablename__ = "daily_usage"

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)
    trade_date: Mapped[date] = mapped_column(primary_key=True)
    entries_used: Mapped[int] = mapped_column(Integer)
    last_claim: Mapped[int] = mapped_column(Integer)
    entries_max: Mapped[int] = mapped_column(Integer)

    __table_args__ = (CheckConstraint("entries_used >= 0", name="not_negative"),)
