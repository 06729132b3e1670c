"""Money for plans: who is billed, the invoices with their tax, payments, and what payment providers told."""

from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, Numeric, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, BigId, CreatedAt, Money, enum_type
from backend.models.plan import Billing


class BillingDetails(Base):
    """Whom an invoice names; `state_code` (GST, two digits) is the place of supply, `gstin` the buyer's own."""

    __tablename__ = "billing_details"

    user_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    address: Mapped[str] = mapped_column(String(300))
    state_code: Mapped[str] = mapped_column(String(2))
    gstin: Mapped[str | None] = mapped_column(String(15))
    updated_at: Mapped[CreatedAt]


class InvoiceSeries(Base):
    """The newest number of each financial year's invoices: consecutive, as rule 46 of the CGST Rules asks."""

    __tablename__ = "invoice_series"

    financial_year: Mapped[str] = mapped_column(String(7), primary_key=True)
    last_number: Mapped[int] = mapped_column(Integer)


class Invoice(Base):
    """One tax invoice, never changed once it is issued but for `paid_at`; rupees to the paisa.

    `seller` and `buyer` are names, addresses, state codes and GSTINs as they stood then. Within one state the tax is
    CGST and SGST, between two it is IGST.
    """

    __tablename__ = "invoices"

    id: Mapped[BigId]
    number: Mapped[str] = mapped_column(String(16), unique=True)
    user_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id"))
    subscription_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("subscriptions.id"))
    plan_code: Mapped[str] = mapped_column(ForeignKey("plans.code"))
    billing: Mapped[Billing] = mapped_column(enum_type(Billing))
    period_from: Mapped[datetime]
    period_until: Mapped[datetime]
    issued_on: Mapped[date]
    seller: Mapped[dict[str, Any]]
    buyer: Mapped[dict[str, Any]]
    sac: Mapped[str] = mapped_column(String(8))
    price: Mapped[Money]
    credit: Mapped[Money]
    taxable: Mapped[Money]
    gst_percent: Mapped[Decimal] = mapped_column(Numeric(5, 2))
    cgst: Mapped[Money]
    sgst: Mapped[Money]
    igst: Mapped[Money]
    total: Mapped[Money]
    paid_at: Mapped[datetime | None]
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        CheckConstraint("taxable = price - credit", name="taxable_is_price_less_credit"),
        CheckConstraint("total = taxable + cgst + sgst + igst", name="adds_up"),
        Index("ix_invoices_user_id_id", "user_id", "id"),
    )


class PaymentStatus(StrEnum):
    CREATED = "created"
    PAID = "paid"
    FAILED = "failed"
    REFUNDED = "refunded"


class Payment(Base):
    """One payment asked of a user, or made: `provider_ref` is the provider's order, `provider_payment` the payment.

    `amount` is `price` less `credit` (rupees before GST) and the tax on the difference; `tax` is that tax, and the
    buyer as they stood when it was asked: what the invoice will say.
    """

    __tablename__ = "payments"

    id: Mapped[BigId]
    user_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id"), index=True)
    subscription_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("subscriptions.id"))
    invoice_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("invoices.id"))
    provider: Mapped[str] = mapped_column(String(20))
    provider_ref: Mapped[str] = mapped_column(String(80))
    provider_payment: Mapped[str | None] = mapped_column(String(80))
    price: Mapped[Money]
    credit: Mapped[Money]
    tax: Mapped[dict[str, Any]]
    amount: Mapped[Money]
    status: Mapped[PaymentStatus] = mapped_column(enum_type(PaymentStatus))
    created_at: Mapped[CreatedAt]
    paid_at: Mapped[datetime | None]

    __table_args__ = (UniqueConstraint("provider", "provider_ref"), UniqueConstraint("provider", "provider_payment"))


class PaymentEvent(Base):
    """One signed message of a provider, once: a repeated one finds its row and changes nothing."""

    __tablename__ = "payment_events"

    provider: Mapped[str] = mapped_column(String(20), primary_key=True)
    event_id: Mapped[str] = mapped_column(String(80), primary_key=True)
    kind: Mapped[str] = mapped_column(String(60))
    payload: Mapped[dict[str, Any]]
    outcome: Mapped[str] = mapped_column(String(200), default="")
    received_at: Mapped[CreatedAt]
    handled_at: Mapped[datetime | None]
