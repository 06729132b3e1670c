"""The trading clock's record: a row per planned tick, and the claims on its shards."""

from datetime import date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Integer, Sequence, String
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, BigId, CreatedAt, enum_type


class CycleStatus(StrEnum):
    OPEN = "open"
    DONE = "done"
    MISSED = "missed"


class Cycle(Base):
    """One planned tick. `inputs` are the predictions and quotes every decision of the cycle was made from."""

    __tablename__ = "cycles"

    id: Mapped[BigId]
    scheduled_at: Mapped[datetime] = mapped_column(unique=True)
    trade_date: Mapped[date]
    environment: Mapped[str] = mapped_column(String(12))
    status: Mapped[CycleStatus] = mapped_column(enum_type(CycleStatus))
    inputs: Mapped[dict[str, Any] | None]
    summary: Mapped[dict[str, Any] | None]
    opened_at: Mapped[CreatedAt]
    finished_at: Mapped[datetime | None]


class CycleShard(Base):
    """A share of a cycle's users. Its fencing token grows with every claim: an older holder can no longer send."""

    __tablename__ = "cycle_shards"

    cycle_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("cycles.id"), primary_key=True)
    shard: Mapped[int] = mapped_column(Integer, primary_key=True)
    token: Mapped[int | None] = mapped_column(BigInteger)
    claimed_until: Mapped[datetime | None]
    recorded: Mapped[bool] = mapped_column(default=False)
    done: Mapped[bool] = mapped_column(default=False)


fencing_token = Sequence("fencing_token_seq", metadata=Base.metadata)
