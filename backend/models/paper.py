"""The paper broker's own book: its orders, its trades, and cash and holdings as append-only entries.

It stands apart from the platform's orders on purpose, as a real broker's book would.
"""

from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, Numeric, String, text
from sqlalchemy.orm import Mapped, mapped_column

from backend.domain.market import OrderType, Product, Side, Validity
from backend.domain.matching import PaperStatus
from backend.models.base import Base, BigId, CreatedAt, Money, Price, enum_type


class PaperOrder(Base):
    """An order in the paper broker's book. `matched_through` is the end of the last bar it was matched against.

    Of its shares, `closing_quantity` reduce what the account has and need no money; the others hold back their value,
    divided by `leverage`. `arrives_at`: until then it is on its way; `ended_at`: when it was filled or ended.
    `broker_like`: it was placed under a broker's rules, and follows them.
    """

    __tablename__ = "paper_orders"

    id: Mapped[BigId]
    account_id: Mapped[int] = mapped_column(ForeignKey("broker_accounts.id"))
    tag: Mapped[str] = mapped_column(String(20), index=True)
    symbol: Mapped[str] = mapped_column(String(20))
    exchange: Mapped[str] = mapped_column(String(3))
    side: Mapped[Side] = mapped_column(enum_type(Side))
    product: Mapped[Product] = mapped_column(enum_type(Product))
    order_type: Mapped[OrderType] = mapped_column(enum_type(OrderType))
    quantity: Mapped[int] = mapped_column(Integer)
    limit_price: Mapped[Price]
    trigger_price: Mapped[Decimal | None] = mapped_column(Numeric(18, 4))
    status: Mapped[PaperStatus] = mapped_column(enum_type(PaperStatus))
    filled_quantity: Mapped[int] = mapped_column(Integer, default=0)
    filled_value: Mapped[Money] = mapped_column(default=Decimal(0))
    charges: Mapped[Money] = mapped_column(default=Decimal(0))
    message: Mapped[str] = mapped_column(String(300), default="")
    validity: Mapped[Validity] = mapped_column(enum_type(Validity), default=Validity.DAY)
    closing_quantity: Mapped[int] = mapped_column(Integer, default=0)
    leverage: Mapped[Money] = mapped_column(default=Decimal(1))
    modifications: Mapped[int] = mapped_column(Integer, default=0)
    squares_off: Mapped[bool] = mapped_column(default=False)
    broker_like: Mapped[bool] = mapped_column(default=False)
    placed_at: Mapped[datetime]
    matched_through: Mapped[datetime]
    arrives_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        Index(
            "ix_paper_orders_resting",
            "account_id",
            postgresql_where=text("status IN ('open', 'trigger_pending')"),
        ),
    )


class PaperChange(Base):
    """What an order was until `at`, when it was modified. Never updated or deleted."""

    __tablename__ = "paper_changes"

    id: Mapped[BigId]
    order_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("paper_orders.id"), index=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("broker_accounts.id"))
    order_type: Mapped[OrderType] = mapped_column(enum_type(OrderType))
    quantity: Mapped[int] = mapped_column(Integer)
    limit_price: Mapped[Price]
    trigger_price: Mapped[Decimal | None] = mapped_column(Numeric(18, 4))
    validity: Mapped[Validity] = mapped_column(enum_type(Validity))
    filled_quantity: Mapped[int] = mapped_column(Integer)
    at: Mapped[datetime]
    created_at: Mapped[CreatedAt]


class PaperTrade(Base):
    """One execution in the paper broker's book. Never updated or deleted."""

    __tablename__ = "paper_trades"

    id: Mapped[BigId]
    order_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("paper_orders.id"), index=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("broker_accounts.id"))
    quantity: Mapped[int] = mapped_column(Integer)
    price: Mapped[Price]
    charges: Mapped[Money]
    trade_date: Mapped[date]
    traded_at: Mapped[datetime]
    created_at: Mapped[CreatedAt]

    __table_args__ = (Index("ix_paper_trades_account_id_trade_date", "account_id", "trade_date"),)


class PaperPosition(Base):
    """A day's trades in a share and product, summed in the transaction that writes them: shares and rupees."""

    __tablename__ = "paper_positions"

    account_id: Mapped[int] = mapped_column(ForeignKey("broker_accounts.id"), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    symbol: Mapped[str] = mapped_column(String(20), primary_key=True)
    exchange: Mapped[str] = mapped_column(String(3), primary_key=True)
    product: Mapped[Product] = mapped_column(enum_type(Product), primary_key=True)
    buy_quantity: Mapped[int] = mapped_column(Integer, default=0)
    buy_value: Mapped[Money] = mapped_column(default=Decimal(0))
    sell_quantity: Mapped[int] = mapped_column(Integer, default=0)
    sell_value: Mapped[Money] = mapped_column(default=Decimal(0))

    __table_args__ = (
        Index(
            "ix_paper_positions_open_intraday",
            "account_id",
            postgresql_where=text("product = 'mis' AND buy_quantity <> sell_quantity"),
        ),
    )


class PaperEntryKind(StrEnum):
    DEPOSIT = "deposit"
    TRADE = "trade"
    CHARGES = "charges"
    CORPORATE_ACTION = "corporate_action"
    DIVIDEND = "dividend"


class PaperEntry(Base):
    """A change of an account's cash (asset INR, rupees) or holding (asset = symbol, shares), and the balance after.

    Never updated or deleted.
    """

    __tablename__ = "paper_entries"

    id: Mapped[BigId]
    account_id: Mapped[int] = mapped_column(ForeignKey("broker_accounts.id"))
    asset: Mapped[str] = mapped_column(String(20))
    kind: Mapped[PaperEntryKind] = mapped_column(enum_type(PaperEntryKind))
    amount: Mapped[Money]
    balance_after: Mapped[Money]
    trade_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("paper_trades.id"))
    at: Mapped[datetime]
    created_at: Mapped[CreatedAt]

    __table_args__ = (Index("ix_paper_entries_account_id_asset_id", "account_id", "asset", "id"),)


class PaperBalance(Base):
    """What an account has of an asset now: the sum of its entries, kept in the transaction that appends them."""

    __tablename__ = "paper_balances"

    account_id: Mapped[int] = mapped_column(ForeignKey("broker_accounts.id"), primary_key=True)
    asset: Mapped[str] = mapped_column(String(20), primary_key=True)
    balance: Mapped[Money]


class PaperAction(Base):
    """A corporate action that was applied to an account of the paper book, so that it never is again.

    Never updated or deleted.
    """

    __tablename__ = "paper_actions"

    account_id: Mapped[int] = mapped_column(ForeignKey("broker_accounts.id"), primary_key=True)
    action: Mapped[str] = mapped_column(String(60), primary_key=True)
    shares_before: Mapped[int] = mapped_column(Integer)
    shares_after: Mapped[int] = mapped_column(Integer)
    cash: Mapped[Money]
    at: Mapped[datetime]
    created_at: Mapped[CreatedAt]
