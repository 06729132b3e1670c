"""How a deployment bills: who sells, who collects, how long an unpaid plan goes on, and what users are told by mail."""

import secrets
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from backend.domain.billing import STATES, ZERO, Bill, bill, gst_percent, gstin_problem
from backend.domain.calendar import IST
from backend.models import (
    Billing,
    BillingDetails,
    Payment,
    PaymentStatus,
    Plan,
    Subscription,
    User,
)
from backend.payments.base import PaymentProvider
from backend.payments.manual import ManualProvider
from backend.services.mail_service import MailKind, post

MONTHS = {Billing.MONTHLY: 1, Billing.YEARLY: 12}
COMP = "comp"
"""The provider of a plan that an administrator gave: it costs nothing."""
QUOTE_DAYS = 3
"""How long a price with credit stands: the credit shrinks by the day."""
PENDING_DAYS = 30
"""How long a plan that was asked for waits for its payment."""


@dataclass(frozen=True, slots=True)
class Seller:
    """Who issues the invoices. Without a GSTIN no tax is charged."""

    name: str
    address: str
    state_code: str
    gstin: str

    def __post_init__(self) -> None:
        if self.state_code not in STATES:
            raise ValueError(f"SELLER_STATE_CODE={self.state_code!r} is no GST state code: two digits, as 29")
        if self.gstin and (problem := gstin_problem(self.gstin, self.state_code)):
            raise ValueError(f"SELLER_GSTIN: {problem}")


@dataclass(frozen=True, slots=True)
class BillingRules:
    """The deployment's choices. Without a seller no invoice is issued."""

    provider: PaymentProvider = field(default_factory=ManualProvider)
    seller: Seller | None = None
    grace: timedelta = timedelta(days=7)


def price_of(plan: Plan, billing: Billing) -> Decimal:
    """Rupees before GST of one period."""
    return plan.price_rupees_per_month if billing is Billing.MONTHLY else plan.price_rupees_per_year


async def lock_user(session: AsyncSession, user_id: int) -> None:
    """Serialise changes of one user's subscriptions until the transaction ends."""
    await session.execute(select(User.id).where(User.id == user_id).with_for_update(key_share=True))


async def bill_of(
    session: AsyncSession, rules: BillingRules, user_id: int, price: Decimal, credit: Decimal, now: datetime
) -> Bill:
    """What a period costs this user today.

    The place of supply is the buyer's state, the seller's where none is on record (section 12(2) of the IGST Act).
    """
    seller = rules.seller
    percent = gst_percent(now.astimezone(IST).date()) if seller and seller.gstin else ZERO
    details = await session.get(BillingDetails, user_id)
    within = seller is None or details is None or details.state_code == seller.state_code
    return bill(price, credit, percent, within_state=within)


async def buyer_of(session: AsyncSession, user_id: int) -> dict[str, Any]:
    """Whom an invoice would name now: the billing details, or else name and e-mail address."""
    details = await session.get(BillingDetails, user_id)
    user = await session.get_one(User, user_id)
    if details is None:
        return {"name": user.name or user.email, "address": "", "state_code": "", "gstin": None}
    return {
        "name": details.name,
        "address": details.address,
        "state_code": details.state_code,
        "gstin": details.gstin,
    }


async def ask_payment(
    session: AsyncSession, rules: BillingRules, row: Subscription, asked: Bill, at: datetime
) -> Payment:
    """Ask the user to pay a bill: a row that waits for the money."""
    tax = {name: str(value) for name, value in asdict(asked).items() if name not in {"price", "credit"}}
    payment = Payment(
        user_id=row.user_id,
        subscription_id=row.id,
        provider=rules.provider.name,
        provider_ref=f"asked-{secrets.token_hex(12)}",
        price=asked.price,
        credit=asked.credit,
        tax=tax | {"buyer": await buyer_of(session, row.user_id)},
        amount=asked.total,
        status=PaymentStatus.CREATED,
        created_at=at,
    )
    session.add(payment)
    await session.flush()
    return payment


async def withdraw_payments(session: AsyncSession, subscription_id: int) -> None:
    """What was asked for a subscription is asked no more."""
    await session.execute(
        update(Payment)
        .where(Payment.subscription_id == subscription_id, Payment.status == PaymentStatus.CREATED)
        .values(status=PaymentStatus.FAILED)
    )


async def tell(session: AsyncSession, user_id: int, subject: str, text: str) -> None:
    """Leave a mail to the user in the outbox of the transaction it tells of; none to one who was erased."""
    user = await session.get_one(User, user_id)
    if user.erased_at is None:
        await post(session, MailKind.NOTICE, user.email, user_id=user_id, subject=subject, text=text)


def day_of(moment: datetime) -> str:
    """A moment's day in India, as people write it."""
    return f"{moment.astimezone(IST):%d %b %Y}"
