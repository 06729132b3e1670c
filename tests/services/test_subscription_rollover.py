"""The turn of periods on a real database: renewals, grace, planned changes, trials, and runners side by side."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from backend.domain.calendar import IST
from backend.errors import ConflictError
from backend.models import (
    AuditEntry,
    Billing,
    OutboxMessage,
    Payment,
    PaymentStatus,
    Plan,
    Subscription,
    SubscriptionStatus,
    User,
)
from backend.services import payment_service, subscription_service
from backend.services.audit_service import SYSTEM, Actor
from backend.services.billing_rules import QUOTE_DAYS, BillingRules
from backend.services.plan_service import plan_of
from backend.services.rollover_service import roll_over

Sessions = async_sessionmaker[AsyncSession]
START = datetime(2026, 1, 31, 6, 0, tzinfo=UTC)
RULES = BillingRules()
ADMIN = Actor("cli:test")


async def new_user(sessions: Sessions, name: str = "asha") -> int:
    async with sessions.begin() as session:
        user = User(email=f"{name}@example.com")
        session.add(user)
        await session.flush()
        return user.id


async def ask(sessions: Sessions, user_id: int, plan: str, now: datetime = START, **more: object) -> int:
    billing = more.pop("billing", Billing.MONTHLY)
    async with sessions.begin() as session:
        row = await subscription_service.request(session, RULES, SYSTEM, user_id, plan, billing, now, **more)
        return row.id


async def pay(sessions: Sessions, subscription_id: int, now: datetime = START) -> None:
    async with sessions.begin() as session:
        await payment_service.activate(session, RULES, ADMIN, subscription_id, now)


async def row_of(sessions: Sessions, user_id: int) -> Subscription | None:
    async with sessions() as session:
        return await subscription_service.current_of(session, user_id)


async def plan_code(sessions: Sessions, user_id: int) -> str:
    async with sessions() as session:
        return (await plan_of(session, user_id)).code


async def subjects(sessions: Sessions, user_id: int) -> list[str]:
    async with sessions() as session:
        rows = await session.scalars(
            select(OutboxMessage.payload).where(OutboxMessage.user_id == user_id).order_by(OutboxMessage.id)
        )
        return [row["subject"] for row in rows]


def ist(year: int, month: int, day: int) -> datetime:
    return datetime(year, month, day, 11, 30, tzinfo=IST)


async def test_an_unpaid_renewal_is_in_grace_then_ends(sessions: Sessions) -> None:
    user = await new_user(sessions)
    first = await ask(sessions, user, "basic")
    await pay(sessions, first)
    row = await row_of(sessions, user)
    assert row is not None
    assert (row.period_from, row.period_until) == (START, ist(2026, 2, 28))
    just_before = ist(2026, 2, 28) - timedelta(microseconds=1)
    assert await roll_over(sessions, RULES, just_before) == 0
    assert await roll_over(sessions, RULES, ist(2026, 2, 28)) == 1
    row = await row_of(sessions, user)
    assert row is not None
    # The next period, by the day of the first: the 31st.
    assert (row.status, row.period_from, row.period_until) == (
        SubscriptionStatus.PAST_DUE,
        ist(2026, 2, 28),
        ist(2026, 3, 31),
    )
    assert await plan_code(sessions, user) == "basic"
    assert await roll_over(sessions, RULES, ist(2026, 3, 6)) == 0
    assert await roll_over(sessions, RULES, ist(2026, 3, 7)) == 1
    assert await plan_code(sessions, user) == "free"
    assert await subjects(sessions, user) == ["Payment received", "Basic: please pay", "Basic has ended"]
    async with sessions() as session:
        deeds = list(await session.scalars(select(AuditEntry.action).order_by(AuditEntry.id)))
        assert deeds[-2:] == ["subscription.renew", "subscription.end_unpaid"]
        asked = await session.scalars(select(Payment.status).order_by(Payment.id))
        assert list(asked) == [PaymentStatus.PAID, PaymentStatus.FAILED]


async def test_a_late_payment_goes_on_without_gap_at_the_new_price(sessions: Sessions) -> None:
    user = await new_user(sessions)
    first = await ask(sessions, user, "basic")
    await pay(sessions, first)
    async with sessions.begin() as session:
        await session.execute(update(Plan).where(Plan.code == "basic").values(price_rupees_per_month=Decimal(600)))
    await roll_over(sessions, RULES, ist(2026, 2, 28))
    await pay(sessions, first, ist(2026, 3, 3))
    row = await row_of(sessions, user)
    assert row is not None
    assert (row.status, row.period_from, row.period_until) == (
        SubscriptionStatus.ACTIVE,
        ist(2026, 2, 28),
        ist(2026, 3, 31),
    )
    async with sessions() as session:
        assert list(await session.scalars(select(Payment.price).order_by(Payment.id))) == [499, 600]


async def test_paying_what_was_due_withdraws_an_upgrade_that_was_quoted_without_it(sessions: Sessions) -> None:
    """Else both would be paid, and the renewal be worth nothing: asked for anew, it is credited."""
    user = await new_user(sessions)
    first = await ask(sessions, user, "basic")
    await pay(sessions, first)
    await roll_over(sessions, RULES, ist(2026, 2, 28))
    upgrade = await ask(sessions, user, "pro", ist(2026, 3, 1))
    await pay(sessions, first, ist(2026, 3, 1))
    async with sessions() as session:
        assert (await session.get_one(Subscription, upgrade)).status is SubscriptionStatus.CANCELLED
    again = await ask(sessions, user, "pro", ist(2026, 3, 1))
    async with sessions() as session:
        credit = await session.scalar(select(Payment.credit).where(Payment.subscription_id == again))
    assert credit is not None
    assert credit > 400


async def test_a_planned_downgrade_begins_when_the_period_ends(sessions: Sessions) -> None:
    user = await new_user(sessions)
    await pay(sessions, await ask(sessions, user, "pro"))
    await ask(sessions, user, "basic", START + timedelta(days=3))
    assert await plan_code(sessions, user) == "pro"
    await roll_over(sessions, RULES, ist(2026, 2, 28))
    row = await row_of(sessions, user)
    assert row is not None
    assert (row.plan_code, row.status, row.period_from) == ("basic", SubscriptionStatus.PAST_DUE, ist(2026, 2, 28))
    await pay(sessions, row.id, ist(2026, 3, 1))
    async with sessions() as session:
        rows = await session.scalars(select(Subscription.status).order_by(Subscription.id))
        assert list(rows) == [SubscriptionStatus.CANCELLED, SubscriptionStatus.ACTIVE]


async def test_a_cancelled_plan_ends_with_its_period(sessions: Sessions) -> None:
    user = await new_user(sessions)
    await pay(sessions, await ask(sessions, user, "pro"))
    async with sessions.begin() as session:
        await subscription_service.cancel(session, SYSTEM, user, START + timedelta(days=1))
    await roll_over(sessions, RULES, ist(2026, 2, 28))
    assert await row_of(sessions, user) is None


async def test_a_trial_is_to_be_paid_when_it_ends(sessions: Sessions) -> None:
    user = await new_user(sessions)
    row_id = await ask(sessions, user, "basic", trial=True)
    ends = START + timedelta(days=14)
    assert await roll_over(sessions, RULES, ends - timedelta(seconds=1)) == 0
    assert await roll_over(sessions, RULES, ends) == 1
    row = await row_of(sessions, user)
    assert row is not None
    assert (row.status, row.period_from) == (SubscriptionStatus.PAST_DUE, ends)
    await pay(sessions, row_id, ends + timedelta(days=1))
    row = await row_of(sessions, user)
    assert row is not None
    assert (row.status, row.period_until) == (SubscriptionStatus.ACTIVE, ist(2026, 3, 14))


async def test_what_is_given_until_a_day_ends_and_given_for_good_goes_on(sessions: Sessions) -> None:
    users = [await new_user(sessions, name) for name in ("a", "b")]
    for user, until in zip(users, (ist(2026, 5, 1), None), strict=True):
        async with sessions.begin() as session:
            await subscription_service.give(session, ADMIN, user, "pro", until, "A gift.", START)
    # No user makes a gift last: not by taking its end back, nor by planning another plan and taking that back.
    async with sessions.begin() as session:
        with pytest.raises(ConflictError, match="Nothing is planned"):
            await subscription_service.resume(session, SYSTEM, users[0])
    await ask(sessions, users[0], "basic")
    async with sessions.begin() as session:
        assert (await subscription_service.resume(session, SYSTEM, users[0])).cancel_at_end
    assert await roll_over(sessions, RULES, ist(2026, 5, 1)) == 1
    assert [await plan_code(sessions, user) for user in users] == ["free", "pro"]


async def test_a_price_with_credit_does_not_stand_for_long(sessions: Sessions) -> None:
    user = await new_user(sessions)
    await pay(sessions, await ask(sessions, user, "basic"))
    asked = START + timedelta(days=10)
    upgrade = await ask(sessions, user, "pro", asked)
    late = asked + timedelta(days=QUOTE_DAYS)
    assert await roll_over(sessions, RULES, late - timedelta(seconds=1)) == 0
    assert await roll_over(sessions, RULES, late) == 1
    with pytest.raises(ConflictError, match="not pending"):
        await pay(sessions, upgrade, late)
    assert await plan_code(sessions, user) == "basic"


async def test_the_end_of_a_period_takes_its_credit_along(sessions: Sessions) -> None:
    user = await new_user(sessions)
    await pay(sessions, await ask(sessions, user, "basic"))
    upgrade = await ask(sessions, user, "pro", ist(2026, 2, 27))
    await roll_over(sessions, RULES, ist(2026, 2, 28))
    with pytest.raises(ConflictError, match="not pending"):
        await pay(sessions, upgrade, ist(2026, 2, 28))


async def test_runners_side_by_side_do_each_once(sessions: Sessions) -> None:
    users = [await new_user(sessions, f"u{n}") for n in range(4)]
    for user in users:
        await pay(sessions, await ask(sessions, user, "basic"))
    done = await asyncio.gather(*(roll_over(sessions, RULES, ist(2026, 2, 28)) for _ in range(3)))
    assert sum(done) == len(users)
    async with sessions() as session:
        created = Payment.status == PaymentStatus.CREATED
        assert await session.scalar(select(func.count()).where(created)) == len(users)
