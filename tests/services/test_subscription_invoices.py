"""Invoices below the API: numbers without a gap, also when a transaction fails, and nobody else's invoice."""

import asyncio

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from backend.errors import NotFoundError
from backend.models import Billing, Invoice
from backend.services import payment_service, subscription_service
from backend.services.audit_service import SYSTEM
from backend.services.billing_rules import BillingRules, Seller
from backend.services.invoice_service import invoice_of
from tests.services.test_subscription_rollover import ADMIN, START, new_user

RULES = BillingRules(seller=Seller("Sauda", "1 MG Road, Bengaluru", "29", ""))
Sessions = async_sessionmaker[AsyncSession]


async def buy(sessions: Sessions, user_id: int, *, fails: bool = False) -> None:
    async with sessions.begin() as session:
        row = await subscription_service.request(session, RULES, SYSTEM, user_id, "pro", Billing.MONTHLY, START)
    async with sessions.begin() as session:
        await payment_service.activate(session, RULES, ADMIN, row.id, START)
        if fails:
            raise ZeroDivisionError


async def test_numbers_have_no_gap_and_invoices_one_reader(sessions: Sessions) -> None:
    users = [await new_user(sessions, f"u{n}") for n in range(5)]
    results = await asyncio.gather(
        *(buy(sessions, user, fails=n == 2) for n, user in enumerate(users)), return_exceptions=True
    )
    assert [type(r) for r in results if r] == [ZeroDivisionError]
    async with sessions() as session:
        invoices = list(await session.scalars(select(Invoice).order_by(Invoice.number)))
        assert [i.number for i in invoices] == [f"SAU/25-26/{n:06}" for n in range(1, 5)]
        mine, other = invoices[0], invoices[1]
        assert (await invoice_of(session, mine.user_id, mine.id)).id == mine.id
        with pytest.raises(NotFoundError):
            await invoice_of(session, other.user_id, mine.id)
