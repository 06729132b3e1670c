"""Clients that trade a paper account through the sandbox: their keys, their logins, and their standing triggers."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, ForeignKeyConstraint, Index, LargeBinary, Numeric, String, text
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, BigId, CreatedAt, enum_type


class SandboxApp(Base):
    """The key of the client that may trade a paper account. Its secret is sealed among the account's credentials."""

    __tablename__ = "sandbox_apps"

    api_key: Mapped[str] = mapped_column(String(32), primary_key=True)
    account_id: Mapped[int] = mapped_column(BigInteger, unique=True)
    user_id: Mapped[int] = mapped_column(BigInteger)
    redirect_url: Mapped[str] = mapped_column(String(400))
    postback_url: Mapped[str] = mapped_column(String(400), default="")
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        ForeignKeyConstraint(["account_id", "user_id"], ["broker_accounts.id", "broker_accounts.user_id"]),
    )


class SandboxSession(Base):
    """One login: first a request token, then the access token it was exchanged for; SHA-256 of either, never itself."""

    __tablename__ = "sandbox_sessions"

    id: Mapped[BigId]
    api_key: Mapped[str] = mapped_column(String(32), index=True)
    account_id: Mapped[int] = mapped_column(BigInteger)
    user_id: Mapped[int] = mapped_column(BigInteger)
    token_hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    exchanged: Mapped[bool] = mapped_column(default=False)
    ends_at: Mapped[datetime]
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        ForeignKeyConstraint(["account_id", "user_id"], ["broker_accounts.id", "broker_accounts.user_id"]),
    )


class GttStatus(StrEnum):
    """Kite's words for a trigger."""

    ACTIVE = "active"
    TRIGGERED = "triggered"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    DELETED = "deleted"


class SandboxGtt(Base):
    """A trigger that stands until its price comes: one leg, or two of which the first to come ends the other.

    `orders` are Kite's, with the `result` of the leg that fired.
    """

    __tablename__ = "sandbox_gtts"

    id: Mapped[BigId]
    account_id: Mapped[int] = mapped_column(BigInteger)
    user_id: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[GttStatus] = mapped_column(enum_type(GttStatus))
    symbol: Mapped[str] = mapped_column(String(20))
    exchange: Mapped[str] = mapped_column(String(3))
    lower_trigger: Mapped[Decimal | None] = mapped_column(Numeric(18, 4))
    upper_trigger: Mapped[Decimal | None] = mapped_column(Numeric(18, 4))
    two_legs: Mapped[bool]
    last_price: Mapped[Decimal] = mapped_column(Numeric(18, 4))
    orders: Mapped[list[dict[str, Any]]]
    updated_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    placed_at: Mapped[datetime]
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        ForeignKeyConstraint(["account_id", "user_id"], ["broker_accounts.id", "broker_accounts.user_id"]),
        Index("ix_sandbox_gtts_active", "account_id", postgresql_where=text("status = 'active'")),
    )
