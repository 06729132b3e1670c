"""A user's account at a broker, through which orders go, and the sealed credentials that open it."""

from datetime import date, datetime
from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKey, ForeignKeyConstraint, Index, LargeBinary, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, BigId, CreatedAt, enum_type


class BrokerAccountStatus(StrEnum):
    """Orders go through READY ones alone; a CLOSED one is kept for its history and never opens again."""

    READY = "ready"
    DISABLED = "disabled"
    CLOSED = "closed"


class BrokerAccount(Base):
    """One account. The primary one executes the auto-trades; a paper account needs no credentials.

    `nudged_on` is the day (IST) on which its owner was last reminded to log in at the broker.
    """

    __tablename__ = "broker_accounts"

    id: Mapped[BigId]
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    broker: Mapped[str] = mapped_column(String(20))
    label: Mapped[str] = mapped_column(String(60))
    status: Mapped[BrokerAccountStatus] = mapped_column(enum_type(BrokerAccountStatus))
    is_primary: Mapped[bool]
    nudged_on: Mapped[date | None]
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        UniqueConstraint("id", "user_id"),
        Index("uq_broker_accounts_primary", "user_id", unique=True, postgresql_where=text("is_primary")),
    )


class BrokerCredential(Base):
    """One secret field of an account, sealed by backend/vault.py: without the master key `key_id` it says nothing.

    `hint` is the visible end of what is no secret by itself, an API key's name, and empty for everything else.
    """

    __tablename__ = "broker_credentials"

    account_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    field: Mapped[str] = mapped_column(String(40), primary_key=True)
    user_id: Mapped[int] = mapped_column(BigInteger)
    key_id: Mapped[str] = mapped_column(String(40), index=True)
    wrapped_key: Mapped[bytes] = mapped_column(LargeBinary)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    hint: Mapped[str] = mapped_column(String(4))
    updated_at: Mapped[CreatedAt]

    __table_args__ = (
        # One check proves that the account is the user's own.
        ForeignKeyConstraint(["account_id", "user_id"], ["broker_accounts.id", "broker_accounts.user_id"]),
    )


class BrokerSession(Base):
    """An account's last login at its broker. The token itself is sealed among the account's credentials.

    `client_id` is the user's number at the broker. `reconciled_at`: its whole book was read since this login; nothing
    is traded before. `ended_at`: logged out, or the broker took the token no more.
    """

    __tablename__ = "broker_sessions"

    account_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    user_id: Mapped[int] = mapped_column(BigInteger)
    client_id: Mapped[str] = mapped_column(String(40))
    begun_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    reconciled_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    end_reason: Mapped[str] = mapped_column(String(200), default="")

    __table_args__ = (
        ForeignKeyConstraint(["account_id", "user_id"], ["broker_accounts.id", "broker_accounts.user_id"]),
    )


class BrokerCall(Base):
    """One call to a broker that counts against its limits of an account; kept for the day."""

    __tablename__ = "broker_calls"

    id: Mapped[BigId]
    account_id: Mapped[int] = mapped_column(ForeignKey("broker_accounts.id"))
    kind: Mapped[str] = mapped_column(String(10))
    at: Mapped[CreatedAt]

    __table_args__ = (
        Index("ix_broker_calls_account_id_kind_at", "account_id", "kind", "at"),
        {"prefixes": ["UNLOGGED"]},
    )
