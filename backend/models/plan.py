"""What a user may do: the plan catalogue, subscriptions, and the entries used per trading day."""

from datetime import date, datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, String, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, BigId, CreatedAt, Money, enum_type


class Feature(StrEnum):
    """What a plan may include beyond public market data, predictions and one's own account."""

    PORTFOLIO = "portfolio"
    MANUAL_TRADING = "manual_trading"
    AUTO_TRADING = "auto_trading"
    BACKTESTS = "backtests"
    API_KEYS = "api_keys"
    LIVE = "live"


class Plan(Base):
    """One row of the catalogue. Prices are rupees before GST; `auto_trades_per_day` counts entries, exits are free.

    `features` are those of Feature, `brokers` the ones an account may be opened at, `symbols_max` how many symbols may
    be traded automatically. `backtests_at_once` is how many run together, the others wait;
    `backtest_combinations_max` bounds a sweep. A plan that is not `offered` stays with those who have it.
    """

    __tablename__ = "plans"

    code: Mapped[str] = mapped_column(String(20), primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    auto_trades_per_day: Mapped[int] = mapped_column(Integer)
    backtests_per_day: Mapped[int] = mapped_column(Integer)
    backtests_at_once: Mapped[int] = mapped_column(Integer)
    backtest_combinations_max: Mapped[int] = mapped_column(Integer)
    features: Mapped[list[str]] = mapped_column(ARRAY(String(40)))
    brokers: Mapped[list[str]] = mapped_column(ARRAY(String(20)))
    symbols_max: Mapped[int] = mapped_column(Integer)
    price_rupees_per_month: Mapped[Money]
    price_rupees_per_year: Mapped[Money]
    trial_days: Mapped[int] = mapped_column(Integer)
    offered: Mapped[bool]
    description: Mapped[str] = mapped_column(String(300))
    rank: Mapped[int] = mapped_column(Integer)


class SubscriptionStatus(StrEnum):
    """PENDING waits for payment or an administrator; TRIALING, ACTIVE and PAST_DUE (in grace) give the plan."""

    PENDING = "pending"
    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    CANCELLED = "cancelled"


CURRENT = (SubscriptionStatus.TRIALING, SubscriptionStatus.ACTIVE, SubscriptionStatus.PAST_DUE)
"""The statuses in which a subscription gives its plan: a user has one such at most."""


class Billing(StrEnum):
    MONTHLY = "monthly"
    YEARLY = "yearly"


class Subscription(Base):
    """A user's plan over time; instants are real time. A user without a current row is on Free.

    `period_from` and `period_until` bound the present period (null `period_until`: until somebody ends it);
    `cancel_at_end` ends it there, `next_plan_code` and `next_billing` change it there. `grace_until`: how long an
    unpaid one (PAST_DUE) still gives its plan. `provider_ref` is the provider's name of it.
    """

    __tablename__ = "subscriptions"

    id: Mapped[BigId]
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    plan_code: Mapped[str] = mapped_column(ForeignKey("plans.code"))
    billing: Mapped[Billing] = mapped_column(enum_type(Billing), default=Billing.MONTHLY)
    status: Mapped[SubscriptionStatus] = mapped_column(enum_type(SubscriptionStatus))
    provider: Mapped[str] = mapped_column(String(20), default="manual")
    provider_ref: Mapped[str | None] = mapped_column(String(80), unique=True)
    requested_at: Mapped[CreatedAt]
    activated_at: Mapped[datetime | None]
    activated_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    trial_until: Mapped[datetime | None]
    period_from: Mapped[datetime | None]
    period_until: Mapped[datetime | None]
    grace_until: Mapped[datetime | None]
    cancel_at_end: Mapped[bool] = mapped_column(default=False)
    next_plan_code: Mapped[str | None] = mapped_column(ForeignKey("plans.code"))
    next_billing: Mapped[Billing | None] = mapped_column(enum_type(Billing, "next_billing"))
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        Index(
            "uq_subscriptions_one_current",
            "user_id",
            unique=True,
            postgresql_where=text("status IN ('trialing', 'active', 'past_due')"),
        ),
        Index(
            "uq_subscriptions_one_pending",
            "user_id",
            unique=True,
            postgresql_where=text("status = 'pending'"),
        ),
        Index(
            "ix_subscriptions_period_until",
            "period_until",
            postgresql_where=text("status IN ('trialing', 'active', 'past_due')"),
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
