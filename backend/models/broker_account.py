"""A user's account at a broker, through which orders go."""

from enum import StrEnum

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, BigId, CreatedAt, enum_type


class BrokerAccountStatus(StrEnum):
    READY = "ready"
    DISABLED = "disabled"


class BrokerAccount(Base):
    """One account. The primary one executes the auto-trades; a paper account needs no credentials."""

    __tablename__ = "broker_accounts"

    id: Mapped[BigId]
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    broker: Mapped[str] = mapped_column(String(20))
    label: Mapped[str] = mapped_column(String(60))
    status: Mapped[BrokerAccountStatus] = mapped_column(enum_type(BrokerAccountStatus))
    is_primary: Mapped[bool]
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        UniqueConstraint("id", "user_id"),
        Index("uq_broker_accounts_primary", "user_id", unique=True, postgresql_where=text("is_primary")),
    )
