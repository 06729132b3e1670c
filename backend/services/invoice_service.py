"""Invoices: whom they name, their consecutive numbers, and what a paid period's says."""

from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from backend.domain.billing import SAC, STATES, financial_year, gstin_problem, invoice_number
from backend.domain.calendar import IST
from backend.errors import InvalidRequestError, NotFoundError
from backend.models import BillingDetails, Invoice, InvoiceSeries, Payment, Subscription
from backend.services.audit_service import Actor, record
from backend.services.billing_rules import Seller


async def details_of(session: AsyncSession, user_id: int) -> BillingDetails:
    """Whom the user's invoices name.

    Raises:
        NotFoundError: nothing has been given yet.
    """
    details = await session.get(BillingDetails, user_id)
    if details is None:
        raise NotFoundError("There are no billing details yet: PUT /v1/billing/details.", code="no_billing_details")
    return details


async def replace_details(
    session: AsyncSession, actor: Actor, user_id: int, name: str, address: str, state_code: str, gstin: str | None
) -> BillingDetails:
    """Set whom later invoices name; those that were issued or asked for stay as they are.

    Raises:
        InvalidRequestError: no such state, or a GSTIN that cannot be.
    """
    if state_code not in STATES:
        raise InvalidRequestError(f"{state_code!r} is no GST state code: two digits, as 27.", code="unknown_state")
    if gstin is not None and (problem := gstin_problem(gstin, state_code)):
        raise InvalidRequestError(f"{problem[0].upper()}{problem[1:]}.", code="gstin_invalid")
    values = {"name": name, "address": address, "state_code": state_code, "gstin": gstin}
    found = await session.get(BillingDetails, user_id)
    changed = [key for key, value in values.items() if found is None or getattr(found, key) != value]
    before = found and {"state_code": found.state_code}
    await session.execute(
        insert(BillingDetails)
        .values(user_id=user_id, **values)
        .on_conflict_do_update(index_elements=["user_id"], set_=values | {"updated_at": func.clock_timestamp()})
    )
    # The audit log outlives an erasure: it names what changed, and not whom.
    after = {"state_code": state_code, "changed": changed}
    await record(session, actor, "billing_details.change", subject_id=user_id, before=before, after=after)
    return await session.get_one(BillingDetails, user_id, populate_existing=True)


async def issue(session: AsyncSession, seller: Seller, payment: Payment, row: Subscription, now: datetime) -> Invoice:
    """The invoice of a payment, as it was asked. Its number is taken last: a rolled-back one leaves no gap."""
    day = now.astimezone(IST).date()
    tax = payment.tax
    if row.period_from is None or row.period_until is None:
        raise ValueError(f"subscription {row.id} has no period to invoice")
    invoice = Invoice(
        number=await _next_number(session, financial_year(day)),
        user_id=row.user_id,
        subscription_id=row.id,
        plan_code=row.plan_code,
        billing=row.billing,
        period_from=row.period_from,
        period_until=row.period_until,
        issued_on=day,
        seller={
            "name": seller.name,
            "address": seller.address,
            "state_code": seller.state_code,
            "gstin": seller.gstin or None,
        },
        buyer=tax["buyer"],
        sac=SAC,
        price=payment.price,
        credit=payment.credit,
        taxable=payment.price - payment.credit,
        gst_percent=Decimal(tax["gst_percent"]),
        cgst=Decimal(tax["cgst"]),
        sgst=Decimal(tax["sgst"]),
        igst=Decimal(tax["igst"]),
        total=payment.amount,
        paid_at=now,
    )
    session.add(invoice)
    await session.flush()
    payment.invoice_id = invoice.id
    return invoice


async def _next_number(session: AsyncSession, year: str) -> str:
    """The year's next number; whoever takes one holds the others up until it commits, so that none is left out."""
    taken = (
        insert(InvoiceSeries)
        .values(financial_year=year, last_number=1)
        .on_conflict_do_update(index_elements=["financial_year"], set_={"last_number": InvoiceSeries.last_number + 1})
        .returning(InvoiceSeries.last_number)
    )
    return invoice_number(year, (await session.execute(taken)).scalar_one())


async def invoices_of(session: AsyncSession, user_id: int, before_id: int | None, limit: int) -> list[Invoice]:
    """The user's invoices, newest first."""
    query = select(Invoice).where(Invoice.user_id == user_id)
    if before_id is not None:
        query = query.where(Invoice.id < before_id)
    return list((await session.scalars(query.order_by(Invoice.id.desc()).limit(limit))).all())


async def invoice_of(session: AsyncSession, user_id: int, invoice_id: int) -> Invoice:
    """One of the user's own.

    Raises:
        NotFoundError: there is none, or it is another user's.
    """
    query = select(Invoice).where(Invoice.id == invoice_id, Invoice.user_id == user_id)
    found = (await session.scalars(query)).first()
    if found is None:
        raise NotFoundError(f"You have no invoice {invoice_id}.")
    return found


@cache
def _pages() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def page_of(invoice: Invoice) -> str:
    """An invoice as a page to print: whole in itself, nothing of it comes from a network."""
    return _pages().get_template("invoice_page.html").render(i=invoice, ist=IST)
