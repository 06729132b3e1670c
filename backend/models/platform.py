"""Platform-wide records: messages to deliver after commit, and an admin's corrections of the market calendar."""

from datetime import date, datetime, time
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, String, text
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, BigId, CreatedAt


class Deployment(Base):
    """What this database is and was made for: one row.

    The environment is written at the first start and never changed. Cluster and timeline are PostgreSQL's own names
    of the server the data lies on: a restored backup has others. `starts` counts with the file beside the process,
    so that an older copy of the data is noticed.
    """

    __tablename__ = "deployment"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    environment: Mapped[str] = mapped_column(String(12))
    name: Mapped[str] = mapped_column(String(32))
    cluster: Mapped[str] = mapped_column(String(40))
    timeline: Mapped[int] = mapped_column(Integer)
    starts: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[CreatedAt]

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class OutboxMessage(Base):
    """A message written in the transaction it tells of, and delivered afterwards.

    Topics that begin with `mail.` go out by e-mail: their payload, which may hold a link, is emptied on delivery, and
    a failed one is tried again from `next_attempt_at` on.
    """

    __tablename__ = "outbox"

    id: Mapped[BigId]
    topic: Mapped[str] = mapped_column(String(40))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    payload: Mapped[dict[str, Any]]
    created_at: Mapped[CreatedAt]
    attempts: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))
    next_attempt_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]

    __table_args__ = (Index("ix_outbox_undelivered", "id", postgresql_where=text("delivered_at IS NULL")),)


class CalendarOverride(Base):
    """A day an admin added or corrected. `kind`: closed, open or settlement_holiday; the newest row of a day counts."""

    __tablename__ = "calendar_overrides"

    id: Mapped[BigId]
    day: Mapped[date]
    exchange: Mapped[str | None] = mapped_column(String(3))
    kind: Mapped[str] = mapped_column(String(24))
    open_at: Mapped[time | None]
    close_at: Mapped[time | None]
    reason: Mapped[str] = mapped_column(String(300))
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[CreatedAt]
