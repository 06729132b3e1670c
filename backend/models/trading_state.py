"""What holds trading back: a row per period in which a user, strategy, broker or the platform was not ACTIVE."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from backend.domain.trading_states import Cause, Scope, TradingState
from backend.models.base import Base, BigId, CreatedAt, enum_type


class TradingStatePeriod(Base):
    """One period; the open one (`ended_at` is null) stands now, and without one the scope is ACTIVE.

    `key` is empty for the platform, else the user's id, the strategy's or the broker's name, or
    account and symbol. `set_by` is null where
    the system did it; only a person ends a period.
    """

    __tablename__ = "trading_states"

    id: Mapped[BigId]
    scope: Mapped[Scope] = mapped_column(enum_type(Scope))
    key: Mapped[str] = mapped_column(String(60))
    state: Mapped[TradingState] = mapped_column(enum_type(TradingState))
    flatten: Mapped[bool] = mapped_column(default=False)
    cause: Mapped[Cause] = mapped_column(enum_type(Cause, grows=True))
    detail: Mapped[str] = mapped_column(String(300))
    set_by: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("users.id"))
    set_at: Mapped[CreatedAt]
    ended_at: Mapped[datetime | None]
    ended_by: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("users.id"))
    end_reason: Mapped[str | None] = mapped_column(String(300))

    __table_args__ = (
        Index("uq_trading_states_standing", "scope", "key", unique=True, postgresql_where=text("ended_at IS NULL")),
        Index("ix_trading_states_scope_key_ended_at", "scope", "key", "ended_at"),
    )
