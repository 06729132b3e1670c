"""Backtests that users asked for: the queue, what became of each, and how many a user has asked for on a day."""

from datetime import date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, LargeBinary, String, text
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, BigId, CreatedAt, enum_type


class BacktestStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Backtest(Base):
    """One backtest of a user. `request` is what was asked, `summary` and `report` (HTML, zlib) what came of it.

    A running one belongs to the worker whose `claim` it bears, until `claimed_until`; `attempts` counts the workers
    that began it. `done` of `total` steps, `doing` is the present one. `request_key`: the request's Idempotency-Key.
    """

    __tablename__ = "backtests"

    id: Mapped[BigId]
    user_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id"))
    status: Mapped[BacktestStatus] = mapped_column(enum_type(BacktestStatus))
    request: Mapped[dict[str, Any]]
    request_key: Mapped[str | None] = mapped_column(String(128))
    done: Mapped[int] = mapped_column(Integer, default=0)
    total: Mapped[int] = mapped_column(Integer, default=0)
    doing: Mapped[str] = mapped_column(String(200), default="")
    summary: Mapped[dict[str, Any] | None] = mapped_column(deferred=True, deferred_raiseload=True)
    report: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True, deferred_raiseload=True)
    error: Mapped[str | None] = mapped_column(String(500))
    claim: Mapped[str | None] = mapped_column(String(64))
    claimed_until: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    cancel_asked_at: Mapped[datetime | None]
    created_at: Mapped[CreatedAt]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("(status = 'running') = (claim IS NOT NULL)", name="claimed_while_running"),
        CheckConstraint("(claim IS NULL) = (claimed_until IS NULL)", name="claims_end"),
        CheckConstraint(
            "(status IN ('done', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name="finished_has_an_instant"
        ),
        CheckConstraint("(status = 'done') = (report IS NOT NULL AND summary IS NOT NULL)", name="done_has_a_report"),
        CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="failed_has_an_error"),
        CheckConstraint("done >= 0 AND total >= 0 AND attempts >= 0", name="not_negative"),
        Index("ix_backtests_user_id_id", "user_id", "id"),
        # What the workers look at each second: never more than is waiting or under way.
        Index("ix_backtests_waiting", "id", postgresql_where=text("status = 'queued'")),
        Index("ix_backtests_running", "user_id", postgresql_where=text("status = 'running'")),
        Index("ix_backtests_finished_at", "finished_at"),
    )


class BacktestUsage(Base):
    """How many backtests a user has asked for on a day (IST, of real time): deleting one gives nothing back."""

    __tablename__ = "backtest_usage"

    user_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id"), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    used: Mapped[int] = mapped_column(Integer)

    __table_args__ = (CheckConstraint("used > 0", name="positive"),)
