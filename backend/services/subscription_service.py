"""Subscriptions: asking for a plan, changing it, cancelling it, and what an administrator may give."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from backend.domain.billing import ZERO, Bill, Terms, period_end, takes_effect_now, unused
from backend.errors import ConflictError, InvalidRequestError, NotFoundError
from backend.models import (
    CURRENT,
    Billing,
    Payment,
    PaymentStatus,
    Plan,
    Subscription,
    SubscriptionStatus,
    User,
)
from backend.services.audit_service import Actor, record
from backend.services.billing_rules import (
    COMP,
    MONTHS,
    BillingRules,
    ask_payment,
    bill_of,
    day_of,
    lock_user,
    price_of,
    tell,
    withdraw_payments,
)
from backend.services.plan_service import FREE, plan_named


@dataclass(frozen=True, slots=True)
class Change:
    """What asking for a plan would do: `at` None is at once when it is paid, else then. `why` is for people."""

    plan: Plan
    billing: Billing
    at: datetime | None
    trial_days: int
    bill: Bill
    why: str


async def current_of(session: AsyncSession, user_id: int) -> Subscription | None:
    """The subscription that gives the user's plan."""
    query = select(Subscription).where(Subscription.user_id == user_id, Subscription.status.in_(CURRENT))
    return (await session.scalars(query)).first()


async def pending_of(session: AsyncSession, user_id: int) -> Subscription | None:
    """The subscription that waits for its payment."""
    wanted = Subscription.status == SubscriptionStatus.PENDING
    return (await session.scalars(select(Subscription).where(Subscription.user_id == user_id, wanted))).first()


async def open_payment(session: AsyncSession, subscription_id: int) -> Payment | None:
    """What is asked for a subscription now."""
    asked = Payment.status == PaymentStatus.CREATED
    query = select(Payment).where(Payment.subscription_id == subscription_id, asked)
    return (await session.scalars(query.order_by(Payment.id.desc()).limit(1))).first()


async def credit_of(session: AsyncSession, row: Subscription, now: datetime) -> Decimal:
    """The unused rest of what was paid for the present period, in rupees before GST."""
    if row.status is not SubscriptionStatus.ACTIVE or row.period_from is None or row.period_until is None:
        return ZERO
    paid = select(Payment.price).where(
        Payment.subscription_id == row.id,
        Payment.status == PaymentStatus.PAID,
        Payment.paid_at >= row.period_from,
    )
    price = await session.scalar(paid.order_by(Payment.id.desc()).limit(1))
    return ZERO if price is None else unused(price, row.period_from, row.period_until, now)


async def preview(
    session: AsyncSession,
    rules: BillingRules,
    user_id: int,
    plan_code: str,
    billing: Billing,
    now: datetime,
    *,
    trial: bool = False,
) -> Change:
    """What asking for a plan today would do and cost; nothing is changed.

    Raises:
        InvalidRequestError: no such plan, or no trial of it.
        ConflictError: the user is on it already, or has had a trial.
    """
    plan = await plan_named(session, plan_code)
    current = await current_of(session, user_id)
    price = price_of(plan, billing)
    if current is None:
        if plan.code == FREE:
            raise ConflictError(f"You are on {plan.name} already.", code="already_on_plan")
        days = await _trial_days(session, user_id, plan) if trial else 0
        asked = await bill_of(session, rules, user_id, ZERO if trial else price, ZERO, now)
        why = f"{days} days to try it, then it is to be paid." if trial else "It begins when it is paid."
        return Change(plan, billing, None, days, asked, why)
    if trial:
        raise ConflictError("A trial is for who is on Free.", code="trial_not_possible")
    if current.plan_code == plan.code and (current.billing is billing or plan.code == FREE):
        raise ConflictError(_already(plan, current), code="already_on_plan")
    old = await session.get_one(Plan, current.plan_code)
    credit = await credit_of(session, current, now)
    before = Terms(old.rank, MONTHS[current.billing], price_of(old, current.billing))
    after = Terms(plan.rank, MONTHS[billing], price)
    unpaid = current.status is SubscriptionStatus.PAST_DUE
    if current.period_until is None or unpaid or takes_effect_now(before, after, credit):
        asked = await bill_of(session, rules, user_id, price, credit, now)
        return Change(plan, billing, None, 0, asked, "It begins when it is paid; the unused rest is credited.")
    asked = await bill_of(session, rules, user_id, price, ZERO, now)
    return Change(plan, billing, current.period_until, 0, asked, _later(after, before, credit))


def _already(plan: Plan, current: Subscription) -> str:
    if current.status is SubscriptionStatus.TRIALING:
        return f"You are trying {plan.name}: it is to be paid when the trial ends."
    if current.cancel_at_end or current.next_plan_code or current.next_billing:
        return f"You are on {plan.name}: take the planned change back with PATCH /v1/subscription."
    return f"You are on {plan.name} already."


def _later(after: Terms, before: Terms, credit: Decimal) -> str:
    if after.rank > before.rank and credit > after.price:
        return (
            f"Credit is never paid out, and the unused rest of ₹{credit:,.2f} is more than the new price: "
            "it begins when the present period ends. Yearly billing may begin at once."
        )
    return "A smaller plan, or a shorter period, begins when the present one ends: it is paid for until then."


async def _trial_days(session: AsyncSession, user_id: int, plan: Plan) -> int:
    if plan.trial_days == 0:
        raise InvalidRequestError(f"{plan.name} has no trial: ask for it without.", code="no_trial")
    tried = Subscription.trial_until.is_not(None)
    if await session.scalar(select(func.count()).where(Subscription.user_id == user_id, tried)):
        raise ConflictError("You have had your trial: there is one per user.", code="trial_used")
    return plan.trial_days


async def request(
    session: AsyncSession,
    rules: BillingRules,
    actor: Actor,
    user_id: int,
    plan_code: str,
    billing: Billing,
    now: datetime,
    *,
    trial: bool = False,
) -> Subscription:
    """Ask for a plan. An upgrade waits for its payment and then begins at once; a downgrade begins at the period's end.

    Returns the subscription that was made, or the present one with its planned change.

    Raises:
        InvalidRequestError, ConflictError: as `preview`.
    """
    await lock_user(session, user_id)
    change = await preview(session, rules, user_id, plan_code, billing, now, trial=trial)
    await withdraw_pending(session, user_id, now)
    current = await current_of(session, user_id)
    if current is not None and (change.at is not None or change.plan.code == FREE):
        row = await _plan_change(session, current, change, now)
    else:
        row = await _begin(session, rules, current, change, user_id, now)
    action = "subscription.trial" if trial else "subscription.request"
    await record(session, actor, action, subject_id=user_id, target=str(row.id), after=stored(row))
    return row


async def _plan_change(session: AsyncSession, current: Subscription, change: Change, now: datetime) -> Subscription:
    to_free = change.plan.code == FREE
    current.cancel_at_end = to_free
    current.next_plan_code = None if to_free else change.plan.code
    current.next_billing = None if to_free else change.billing
    if current.period_until is None or current.status is SubscriptionStatus.PAST_DUE:
        await end(session, current, now)
    await session.flush()
    return current


async def _begin(
    session: AsyncSession,
    rules: BillingRules,
    current: Subscription | None,
    change: Change,
    user_id: int,
    now: datetime,
) -> Subscription:
    row = Subscription(
        user_id=user_id,
        plan_code=change.plan.code,
        billing=change.billing,
        status=SubscriptionStatus.PENDING,
        provider=rules.provider.name,
        requested_at=now,
    )
    session.add(row)
    await session.flush()
    if change.trial_days:
        row.status, row.activated_at, row.period_from = SubscriptionStatus.TRIALING, now, now
        row.trial_until = row.period_until = now + timedelta(days=change.trial_days)
    elif change.bill.price == 0:
        await start(session, row, current, now)
    else:
        await ask_payment(session, rules, row, change.bill, now)
    await session.flush()
    return row


async def start(session: AsyncSession, row: Subscription, current: Subscription | None, now: datetime) -> None:
    """Let a subscription give its plan from now on, in the place of the current one."""
    if current is not None:
        await end(session, current, now)
    row.status, row.activated_at, row.period_from = SubscriptionStatus.ACTIVE, now, now
    row.period_until = period_end(now, MONTHS[row.billing], now)
    await session.flush()


async def end(session: AsyncSession, row: Subscription, now: datetime) -> None:
    """End a subscription at once, and ask for no more money for it."""
    row.status, row.ended_at, row.grace_until = SubscriptionStatus.CANCELLED, now, None
    await withdraw_payments(session, row.id)
    await session.flush()


async def withdraw_pending(session: AsyncSession, user_id: int, now: datetime) -> Subscription | None:
    """Drop what was asked for and not paid."""
    pending = await pending_of(session, user_id)
    if pending is not None:
        await end(session, pending, now)
    return pending


async def cancel(session: AsyncSession, actor: Actor, user_id: int, now: datetime) -> Subscription:
    """Withdraw what waits for payment, or else cancel the present plan: at its period's end where one is paid for.

    Raises:
        NotFoundError: there is neither.
    """
    await lock_user(session, user_id)
    row = await withdraw_pending(session, user_id, now)
    if row is None:
        row = await current_of(session, user_id)
        if row is None:
            raise NotFoundError("There is no subscription to cancel.", code="no_subscription")
        row.next_plan_code = row.next_billing = None
        if row.period_until is None or row.status is SubscriptionStatus.PAST_DUE:
            await end(session, row, now)
        else:
            row.cancel_at_end = True
    await session.flush()
    await record(session, actor, "subscription.cancel", subject_id=user_id, target=str(row.id), after=stored(row))
    return row


async def resume(session: AsyncSession, actor: Actor, user_id: int) -> Subscription:
    """Take back a cancellation or a planned change; a gift still ends when whoever gave it said.

    Raises:
        ConflictError: nothing is planned.
    """
    await lock_user(session, user_id)
    row = await current_of(session, user_id)
    gift = row is not None and row.provider == COMP
    if row is None or not ((row.cancel_at_end and not gift) or row.next_plan_code or row.next_billing):
        raise ConflictError("Nothing is planned that could be taken back.", code="nothing_planned")
    before = stored(row)
    row.cancel_at_end, row.next_plan_code, row.next_billing = gift, None, None
    await session.flush()
    await record(
        session, actor, "subscription.resume", subject_id=user_id, target=str(row.id), before=before, after=stored(row)
    )
    return row


async def give(
    session: AsyncSession,
    actor: Actor,
    user_id: int,
    plan_code: str,
    until: datetime | None,
    reason: str,
    now: datetime,
) -> Subscription:
    """Give a user a plan free of charge, at once, until a day or for good.

    Raises:
        NotFoundError: no such user.
        InvalidRequestError: no such plan, Free itself, or `until` has passed.
    """
    if await session.get(User, user_id) is None:
        raise NotFoundError(f"There is no user {user_id}.")
    plan = await plan_named(session, plan_code)
    if plan.code == FREE or (until is not None and until <= now):
        raise InvalidRequestError("Give a plan other than Free, until a day that is yet to come.", code="not_givable")
    await lock_user(session, user_id)
    await withdraw_pending(session, user_id, now)
    current = await current_of(session, user_id)
    before = stored(current) if current else None
    row = Subscription(
        user_id=user_id,
        plan_code=plan.code,
        billing=Billing.MONTHLY,
        status=SubscriptionStatus.PENDING,
        provider=COMP,
        requested_at=now,
        activated_by=actor.id,
        cancel_at_end=until is not None,
    )
    session.add(row)
    await session.flush()
    await start(session, row, current, now)
    row.period_until = until
    term = f" until {day_of(until)}" if until else ""
    await tell(session, user_id, f"You have {plan.name}", f"{plan.name} is yours{term}, free of charge.")
    await session.flush()
    target = str(row.id)
    await record(
        session, actor, "subscription.give", subject_id=user_id, target=target, before=before, after=stored(row),
        reason=reason,
    )  # fmt: skip
    return row


async def list_subscriptions(
    session: AsyncSession, status: SubscriptionStatus | None, before_id: int | None, limit: int
) -> list[tuple[Subscription, str]]:
    """Subscriptions with their user's e-mail address, newest first."""
    query = select(Subscription, User.email).join(User, User.id == Subscription.user_id)
    if status is not None:
        query = query.where(Subscription.status == status)
    if before_id is not None:
        query = query.where(Subscription.id < before_id)
    rows = await session.execute(query.order_by(Subscription.id.desc()).limit(limit))
    return [(row[0], row[1]) for row in rows]


def stored(row: Subscription) -> dict[str, Any]:
    """A subscription as the audit log keeps it."""
    return {
        "plan": row.plan_code,
        "billing": row.billing.value,
        "status": row.status.value,
        "period_until": row.period_until.isoformat() if row.period_until else None,
        "cancel_at_end": row.cancel_at_end,
        "next_plan": row.next_plan_code,
    }
