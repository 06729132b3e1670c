"""Corporate actions as they were applied: what became known and when, and what each account got of it, once."""

from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, Numeric, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from backend.domain.corporate_actions import ActionKind
from backend.models.base import Base, BigId, CreatedAt, Money, enum_type


class CorporateActionDay(Base):
    """A market day whose actions data_service has told; `asked_at` is the market's time of the newest answer."""

    __tablename__ = "corporate_action_days"

    day: Mapped[date] = mapped_column(primary_key=True)
    asked_at: Mapped[datetime]


class CorporateActionRecord(Base):
    """One action as it was first told: these figures are used for every account, whatever a source says later.

    `close_before` is the last price before the ex-date in rupees; `done_at` is null until the accounts concerned, and
    the books of brokers that are ours to keep, have been adjusted; `confirmed_at` until a price was seen since, or
    there is none to see; `contradicted_at` is when the source first told it otherwise.
    """

    __tablename__ = "corporate_actions"

    id: Mapped[BigId]
    symbol: Mapped[str] = mapped_column(String(20))
    ex_date: Mapped[date]
    kind: Mapped[ActionKind] = mapped_column(enum_type(ActionKind))
    shares_before: Mapped[int] = mapped_column(Integer)
    shares_after: Mapped[int] = mapped_column(Integer)
    amount: Mapped[Money]
    new_symbol: Mapped[str] = mapped_column(String(20), default="")
    close_before: Mapped[Decimal | None] = mapped_column(Numeric(18, 4))
    subject: Mapped[str] = mapped_column(String(300))
    source: Mapped[str] = mapped_column(String(40))
    noted_at: Mapped[CreatedAt]
    done_at: Mapped[datetime | None]
    confirmed_at: Mapped[datetime | None]
    contradicted_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("symbol", "ex_date", "kind"),
        Index("ix_corporate_actions_renames", "new_symbol", postgresql_where=text("kind = 'rename'")),
        Index("ix_corporate_actions_waiting", "id", postgresql_where=text("done_at IS NULL OR confirmed_at IS NULL")),
    )


class AccountActionStatus(StrEnum):
    """PENDING until the account's record is on the new scale (APPLIED) or a person was asked to look (FLAGGED)."""

    PENDING = "pending"
    APPLIED = "applied"
    FLAGGED = "flagged"


class AccountAction(Base):
    """What one action made of one account's holding: shares, and rupees paid out. Written once per action and account,
    in the transaction of the change; a late trade of before the ex-date moves the figures along."""

    __tablename__ = "account_actions"

    account_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("broker_accounts.id"), primary_key=True)
    action_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("corporate_actions.id"), primary_key=True)
    status: Mapped[AccountActionStatus] = mapped_column(enum_type(AccountActionStatus))
    shares_before: Mapped[int] = mapped_column(Integer, default=0)
    shares_after: Mapped[int] = mapped_column(Integer, default=0)
    cash: Mapped[Money] = mapped_column(default=Decimal(0))
    created_at: Mapped[CreatedAt]
    settled_at: Mapped[datetime | None]

    __table_args__ = (Index("ix_account_actions_pending", "action_id", postgresql_where=text("status = 'pending'")),)
