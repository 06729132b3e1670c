"""Payments: letting users pay, and what follows when a provider or an administrator says that the money came."""

from datetime import datetime
from decimal import Decimal

import structlog
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from backend.db import Sessions
from backend.domain.money import paise_from_rupees
from backend.errors import ConflictError, InvalidRequestError, NotFoundError
from backend.models import Payment, PaymentEvent, PaymentStatus, Plan, Subscription, SubscriptionStatus
from backend.payments.base import Ask, Checkout, Outcome, ProviderEvent, Told
from backend.services.audit_service import SYSTEM, Actor, record
from backend.services.billing_rules import BillingRules, day_of, lock_user, tell
from backend.services.invoice_service import issue
from backend.services.subscription_service import current_of, start, withdraw_pending

log = structlog.get_logger()

_ASKED = "asked-"
"""How a payment is named until its provider has an order for it."""


async def payments_of(
    session: AsyncSession, user_id: int | None, status: PaymentStatus | None, before_id: int | None, limit: int
) -> list[Payment]:
    """Payments of a user, or with None of everybody, newest first."""
    query = select(Payment)
    if user_id is not None:
        query = query.where(Payment.user_id == user_id)
    if status is not None:
        query = query.where(Payment.status == status)
    if before_id is not None:
        query = query.where(Payment.id < before_id)
    return list((await session.scalars(query.order_by(Payment.id.desc()).limit(limit))).all())


async def payment_of(session: AsyncSession, user_id: int, payment_id: int) -> Payment:
    """One of the user's own.

    Raises:
        NotFoundError: there is none, or it is another user's.
    """
    found = await session.scalar(select(Payment).where(Payment.id == payment_id, Payment.user_id == user_id))
    if found is None:
        raise NotFoundError(f"You have no payment {payment_id}.")
    return found


async def checkout(sessions: Sessions, rules: BillingRules, user_id: int, payment_id: int) -> tuple[Payment, Checkout]:
    """Let the user pay what is asked; doing it again opens the same order.

    Raises:
        NotFoundError: no such payment.
        ConflictError: it is not open, or is collected by another provider than the present one.
        PaymentError, PaymentUnknownError: the provider refused, or did not answer.
    """
    async with sessions() as session:
        payment = await payment_of(session, user_id, payment_id)
    _require_open(payment)
    if payment.provider != rules.provider.name:
        raise ConflictError(
            f"This payment was asked for by {payment.provider}, which this deployment no longer uses: ask for the "
            "plan again.",
            code="provider_changed",
        )
    known = None if payment.provider_ref.startswith(_ASKED) else payment.provider_ref
    receipt = payment.provider_ref if known is None else ""
    ask = Ask(receipt, paise_from_rupees(payment.amount), f"Sauda payment {payment.id}", known)
    opened = await rules.provider.checkout(ask)
    if known is None and opened.reference is not None:
        async with sessions.begin() as session:
            # Two checkouts at once: the first reference stays, and both show it.
            query = select(Payment).where(Payment.id == payment_id).with_for_update()
            payment = (await session.scalars(query)).one()
            _require_open(payment)
            if payment.provider_ref.startswith(_ASKED):
                payment.provider_ref = opened.reference
        opened = Checkout(payment.provider_ref, opened.key, opened.note)
    return payment, opened


def _require_open(payment: Payment) -> None:
    if payment.status is not PaymentStatus.CREATED:
        raise ConflictError(f"The payment is {payment.status.value}: there is nothing to pay.", code="payment_not_open")


async def settle(
    session: AsyncSession,
    rules: BillingRules,
    actor: Actor,
    payment_id: int,
    reference: str,
    now: datetime,
    reason: str = "",
) -> str:
    """The money came: begin or renew what it pays for, and issue the invoice. Doing it again changes nothing.

    Money for what was withdrawn meanwhile is kept as paid and told to the user and the log: an administrator decides.
    Returns what was done.
    """
    owner = await session.scalar(select(Payment.user_id).where(Payment.id == payment_id))
    if owner is None:
        raise NotFoundError(f"There is no payment {payment_id}.")
    await lock_user(session, owner)
    payment = await session.get_one(Payment, payment_id, populate_existing=True)
    if payment.status in {PaymentStatus.PAID, PaymentStatus.REFUNDED}:
        same = payment.provider_payment == reference
        return "repeated" if same else f"paid already, by {payment.provider_payment}"
    payment.status, payment.provider_payment, payment.paid_at = PaymentStatus.PAID, reference, now
    row = await session.get_one(Subscription, payment.subscription_id, populate_existing=True)
    done = await _apply(session, row, now)
    plan = await session.get_one(Plan, row.plan_code)
    if done == "stranded":
        log.error("payment_stranded", payment_id=payment.id, subscription_id=row.id)
        text = f"₹{payment.amount:,.2f} came for {plan.name}, which was no longer asked for. We will write to you."
        await tell(session, owner, "Your payment needs a decision", text)
    else:
        number = (await issue(session, rules.seller, payment, row, now)).number if rules.seller else None
        until = f" until {day_of(row.period_until)}" if row.period_until else ""
        text = f"₹{payment.amount:,.2f} received. {plan.name} is yours{until}."
        text += f" Invoice {number}: GET /v1/invoices." if number else ""
        await tell(session, owner, "Payment received", text)
    await session.flush()
    after = {"amount": str(payment.amount), "reference": reference, "done": done}
    await record(session, actor, "payment.settle", subject_id=owner, target=str(payment.id), after=after, reason=reason)
    return done


async def _apply(session: AsyncSession, row: Subscription, now: datetime) -> str:
    if row.status is SubscriptionStatus.PENDING:
        await start(session, row, await current_of(session, row.user_id), now)
        return "begun"
    if row.status is SubscriptionStatus.PAST_DUE:
        row.status, row.grace_until = SubscriptionStatus.ACTIVE, None
        # What was quoted while this was unpaid had no credit for it: it is asked for anew, at its new price.
        await withdraw_pending(session, row.user_id, now)
        await session.flush()
        return "renewed"
    return "stranded"


async def record_payment(
    session: AsyncSession,
    rules: BillingRules,
    actor: Actor,
    payment_id: int,
    reference: str,
    amount: Decimal,
    reason: str,
    now: datetime,
) -> Payment:
    """An administrator saw the money: `amount` rupees under `reference`, as a bank's UTR.

    Raises:
        NotFoundError: no such payment.
        InvalidRequestError: another amount than was asked.
        ConflictError: it is settled, or the reference has been used.
    """
    query = select(Payment).where(Payment.provider_payment == reference, Payment.id != payment_id)
    if (await session.scalars(query)).first() is not None:
        raise ConflictError(f"The reference {reference!r} was recorded for another payment.", code="reference_used")
    payment = await session.get(Payment, payment_id)
    if payment is None:
        raise NotFoundError(f"There is no payment {payment_id}.")
    if amount != payment.amount:
        raise InvalidRequestError(f"₹{payment.amount:,.2f} was asked, not ₹{amount:,.2f}.", code="amount_differs")
    done = await settle(session, rules, actor, payment_id, reference, now, reason)
    if done.startswith(("paid already", "repeated")):
        raise ConflictError(f"The payment is settled: {done}.", code="payment_not_open")
    return payment


async def activate(
    session: AsyncSession, rules: BillingRules, actor: Actor, subscription_id: int, now: datetime
) -> Subscription:
    """Take the payment of a pending or unpaid subscription as made, and switch it on.

    Raises:
        NotFoundError: no such subscription.
        ConflictError: it does not wait for a payment.
    """
    row = await session.get(Subscription, subscription_id)
    if row is None:
        raise NotFoundError(f"There is no subscription {subscription_id}.")
    await lock_user(session, row.user_id)
    await session.refresh(row)
    waiting = select(Payment).where(Payment.subscription_id == row.id, Payment.status == PaymentStatus.CREATED)
    payment = (await session.scalars(waiting.order_by(Payment.id.desc()).limit(1))).first()
    if payment is None or row.status not in {SubscriptionStatus.PENDING, SubscriptionStatus.PAST_DUE}:
        raise ConflictError(f"The subscription is {row.status}, not pending.", code="not_pending")
    row.activated_by = actor.id
    await settle(session, rules, actor, payment.id, f"activated-{payment.id}", now)
    return row


async def verify(
    sessions: Sessions, rules: BillingRules, user_id: int, reference: str, payment: str, signature: str, now: datetime
) -> Payment:
    """What the user's browser brought back from the checkout, asked back at the provider.

    Raises:
        NotFoundError: the order is none of this user's.
        PaymentError, PaymentUnknownError: a wrong signature, or the provider refused or did not answer.
    """
    async with sessions() as session:
        query = select(Payment).where(Payment.provider_ref == reference, Payment.user_id == user_id)
        found = (await session.scalars(query)).first()
    if found is None:
        raise NotFoundError("You have no payment of this order.", code="payment_unknown")
    told = await rules.provider.look_up(reference, payment, signature)
    async with sessions.begin() as session:
        outcome = await _hear(session, rules, told, now)
        log.info("payment_verified", payment_id=found.id, outcome=outcome)
        return await session.get_one(Payment, found.id, populate_existing=True)


async def hear(sessions: Sessions, rules: BillingRules, event: ProviderEvent, now: datetime) -> str:
    """Take in a provider's message, once: what it did is kept beside it. Joins nothing; opens its own transaction."""
    async with sessions.begin() as session:
        new = await session.scalar(
            insert(PaymentEvent)
            .values(provider=rules.provider.name, event_id=event.event_id, kind=event.kind, payload=event.facts)
            .on_conflict_do_nothing()
            .returning(PaymentEvent.event_id)
        )
        if new is None:
            return "repeated"
        outcome = "ignored" if event.told is None else await _hear(session, rules, event.told, now)
        row = await session.get_one(PaymentEvent, (rules.provider.name, event.event_id))
        row.outcome, row.handled_at = outcome[:200], now
        return outcome


async def _hear(session: AsyncSession, rules: BillingRules, told: Told, now: datetime) -> str:
    """Forward only: no message moves a payment back, whatever the order in which they come."""
    provider = rules.provider.name
    if told.outcome is Outcome.REFUNDED:
        return await _refunded(session, provider, told)
    query = select(Payment).where(Payment.provider == provider, Payment.provider_ref == told.reference)
    payment = (await session.scalars(query)).first()
    if payment is None:
        return "no payment of ours"
    if told.outcome is not Outcome.PAID:
        return f"noted: {told.outcome.value}"
    if told.currency != "INR" or told.paise != paise_from_rupees(payment.amount):
        outcome = f"refused: {told.paise} paise {told.currency}, not ₹{payment.amount}"
        log.error("payment_amount_differs", payment_id=payment.id, paise=told.paise, currency=told.currency)
        return outcome
    return await settle(session, rules, SYSTEM, payment.id, told.payment, now)


async def _refunded(session: AsyncSession, provider: str, told: Told) -> str:
    """Money went back at the provider: written down; the plan stays until somebody ends it."""
    query = select(Payment).where(Payment.provider == provider, Payment.provider_payment == told.payment)
    payment = (await session.scalars(query.with_for_update())).first()
    if payment is None:
        return "no payment of ours"
    if payment.status is not PaymentStatus.PAID or told.paise != paise_from_rupees(payment.amount):
        return "noted: a part of it was refunded" if payment.status is PaymentStatus.PAID else "repeated"
    payment.status = PaymentStatus.REFUNDED
    await session.flush()
    target = str(payment.id)
    await record(session, SYSTEM, "payment.refund", subject_id=payment.user_id, target=target)
    return "refunded"
