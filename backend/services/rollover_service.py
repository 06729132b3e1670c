"""The turn of periods: renewals, planned changes, ends of trials and of grace, each in a transaction of its own."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from sqlalchemy import and_, or_, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from backend.db import OPERATOR_ROLE, Sessions, acting_as
from backend.domain.billing import ZERO, period_end
from backend.models import CURRENT, Payment, PaymentStatus, Plan, Subscription, SubscriptionStatus, User
from backend.services.audit_service import SYSTEM, record
from backend.services.billing_rules import (
    COMP,
    MONTHS,
    PENDING_DAYS,
    QUOTE_DAYS,
    BillingRules,
    ask_payment,
    bill_of,
    day_of,
    price_of,
    tell,
)
from backend.services.subscription_service import end, open_payment, pending_of, stored

BATCH_MAX = 200
EVERY_S = 60.0

log = structlog.get_logger()


async def keep_rolling(sessions: Sessions, rules: BillingRules, now: Callable[[], datetime]) -> None:
    """Do what is due every EVERY_S real seconds until it is cancelled; `sessions` are the API's, `now` is real time."""
    with acting_as(OPERATOR_ROLE):
        while True:
            try:
                if changed := await roll_over(sessions, rules, now()):
                    log.info("subscriptions_rolled_over", changed=changed)
            except (SQLAlchemyError, OSError) as error:
                log.warning("rollover_failed", error=repr(error))
            except Exception:
                log.exception("rollover_crashed")
            await asyncio.sleep(EVERY_S)


async def roll_over(sessions: Sessions, rules: BillingRules, now: datetime) -> int:
    """Do what is due at `now`; `sessions` work as the operator. Several gateways may run it: each row is done once.

    Returns how many subscriptions changed.
    """
    async with sessions() as session:
        due = (await session.execute(_due(now))).all()
    changed = 0
    for row_id, user_id in due:
        async with sessions.begin() as session:
            free = select(User.id).where(User.id == user_id).with_for_update(key_share=True, skip_locked=True)
            if await session.scalar(free) is not None:
                changed += await _roll(session, rules, row_id, now)
    return changed


def _due(now: datetime):
    past_due = Subscription.status == SubscriptionStatus.PAST_DUE
    asked_before = now - timedelta(days=QUOTE_DAYS)
    stale_quote = select(Payment.id).where(
        Payment.subscription_id == Subscription.id,
        Payment.status == PaymentStatus.CREATED,
        Payment.credit > 0,
        Payment.created_at <= asked_before,
    )
    pending = and_(
        Subscription.status == SubscriptionStatus.PENDING,
        or_(Subscription.requested_at <= now - timedelta(days=PENDING_DAYS), stale_quote.exists()),
    )
    over = and_(Subscription.status.in_(CURRENT), ~past_due, Subscription.period_until <= now)
    query = select(Subscription.id, Subscription.user_id).where(
        or_(over, and_(past_due, Subscription.grace_until <= now), pending)
    )
    return query.order_by(Subscription.id).limit(BATCH_MAX)


async def _roll(session: AsyncSession, rules: BillingRules, row_id: int, now: datetime) -> int:
    """One subscription that was due a moment ago, its user locked: is it still?"""
    still = select(Subscription).where(Subscription.id == row_id, Subscription.id.in_(_due_ids(now)))
    row = (await session.scalars(still)).first()
    if row is None:
        return 0
    before, user_id = stored(row), row.user_id
    if row.status is SubscriptionStatus.PENDING:
        action = await _lapse(session, row, now)
    elif row.status is SubscriptionStatus.PAST_DUE or row.cancel_at_end or _is_gift(row):
        action = await _finish(session, row, now)
    else:
        await _drop_quote(session, row.user_id, now)
        row, action = await _renew(session, rules, row, now)
    await session.flush()
    await record(session, SYSTEM, action, subject_id=user_id, target=str(row.id), before=before, after=stored(row))
    return 1


def _is_gift(row: Subscription) -> bool:
    """Whether an administrator gave it until now: it does not go on by itself, whatever its user took back."""
    return row.provider == COMP and row.next_plan_code is None


def _due_ids(now: datetime):
    return _due(now).with_only_columns(Subscription.id).order_by(None).limit(None)


async def _lapse(session: AsyncSession, row: Subscription, now: datetime) -> str:
    await end(session, row, now)
    text = "What you asked for was not paid in time and is withdrawn. Ask again whenever you like."
    await tell(session, row.user_id, "Your plan was not paid", text)
    return "subscription.lapse"


async def _drop_quote(session: AsyncSession, user_id: int, now: datetime) -> None:
    """A price with credit for a period that is over stands no more."""
    pending = await pending_of(session, user_id)
    payment = await open_payment(session, pending.id) if pending else None
    if pending is not None and payment is not None and payment.credit > 0:
        await end(session, pending, now)


async def _finish(session: AsyncSession, row: Subscription, now: datetime) -> str:
    unpaid = row.status is SubscriptionStatus.PAST_DUE
    plan = await session.get_one(Plan, row.plan_code)
    await end(session, row, now)
    why = "was not paid" if unpaid else "was cancelled"
    text = f"{plan.name} {why} and has ended; you are on Free. Open trades keep their targets, stops and exits."
    await tell(session, row.user_id, f"{plan.name} has ended", text)
    return "subscription.end_unpaid" if unpaid else "subscription.end"


async def _renew(
    session: AsyncSession, rules: BillingRules, row: Subscription, now: datetime
) -> tuple[Subscription, str]:
    """The next period, of the plan that was planned for it, at today's price."""
    begins = row.period_until or now
    action = "subscription.renew"
    if row.next_plan_code or row.next_billing:
        await end(session, row, now)
        row = Subscription(
            user_id=row.user_id,
            plan_code=row.next_plan_code or row.plan_code,
            billing=row.next_billing or row.billing,
            status=SubscriptionStatus.ACTIVE,
            provider=rules.provider.name,
            requested_at=now,
            activated_at=begins,
        )
        session.add(row)
        action = "subscription.change"
    plan = await session.get_one(Plan, row.plan_code)
    price = price_of(plan, row.billing)
    anchor = row.trial_until or row.activated_at or begins
    row.period_from, row.period_until = begins, period_end(anchor, MONTHS[row.billing], begins)
    row.status = SubscriptionStatus.ACTIVE
    await session.flush()
    if price:
        await _ask(session, rules, row, plan, now)
    return row, action


async def _ask(session: AsyncSession, rules: BillingRules, row: Subscription, plan: Plan, now: datetime) -> None:
    until = now + rules.grace
    row.status, row.grace_until = SubscriptionStatus.PAST_DUE, until
    asked = await bill_of(session, rules, row.user_id, price_of(plan, row.billing), ZERO, now)
    payment = await ask_payment(session, rules, row, asked, now)
    text = (
        f"The next period of {plan.name} has begun. Please pay ₹{payment.amount:,.2f} by {day_of(until)}: "
        f"POST /v1/payments/{payment.id}/checkout. Without it the plan ends then."
    )
    await tell(session, row.user_id, f"{plan.name}: please pay", text)
