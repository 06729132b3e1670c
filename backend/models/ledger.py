"""Sauda's own books: every rupee and share of a broker account as double entries that are never changed."""

from datetime import date, datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, Sequence, String
from sqlalchemy.orm import Mapped, mapped_column

from backend.domain.ledger import JournalKind, LedgerAccount
from backend.models.base import Base, BigId, CreatedAt, Money, enum_type

journal_number = Sequence("ledger_journal_seq", metadata=Base.metadata)


class LedgerEntry(Base):
    """One line of a journal: rupees (debit positive), and shares in `positions`. A journal's lines add up to zero.

    Never updated or deleted: the application's database role may not.
    """

    __tablename__ = "ledger_entries"

    id: Mapped[BigId]
    journal: Mapped[int] = mapped_column(BigInteger, index=True)
    account_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("broker_accounts.id"))
    kind: Mapped[JournalKind] = mapped_column(enum_type(JournalKind))
    ledger_account: Mapped[LedgerAccount] = mapped_column(enum_type(LedgerAccount))
    symbol: Mapped[str] = mapped_column(String(20), default="")
    amount: Mapped[Money]
    quantity: Mapped[int] = mapped_column(Integer, default=0)
    order_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("orders.id"), index=True)
    at: Mapped[datetime]
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        CheckConstraint("quantity = 0 OR ledger_account = 'positions'", name="shares_in_positions_only"),
        Index("ix_ledger_entries_account_id_id", "account_id", "id"),
    )


class LedgerBalance(Base):
    """The sum of an account's entries by ledger account and symbol, kept in the transaction that appends them."""

    __tablename__ = "ledger_balances"

    account_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("broker_accounts.id"), primary_key=True)
    ledger_account: Mapped[LedgerAccount] = mapped_column(enum_type(LedgerAccount), primary_key=True)
    symbol: Mapped[str] = mapped_column(String(20), primary_key=True)
    balance: Mapped[Money]
    quantity: Mapped[int] = mapped_column(Integer)


class DayEquity(Base):
    """What an account was worth at the first look of a trading day, rupees: the day's loss is counted from it."""

    __tablename__ = "day_equity"

    account_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("broker_accounts.id"), primary_key=True)
    trade_date: Mapped[date] = mapped_column(primary_key=True)
    equity_rupees: Mapped[Money]
    created_at: Mapped[CreatedAt]
