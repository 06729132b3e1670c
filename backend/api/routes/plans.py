"""The catalogue of plans, and the user's own subscription."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy.ext.asyncio import AsyncSession

from backend.api.deps import AccountHolder, CurrentUser, Public, Session, State
from backend.api.documentation import documented
from backend.api.idempotency import IdempotentRoute
from backend.api.schemas.billing import (
    ChangeBody,
    PaymentView,
    PlansReply,
    PlanView,
    PreviewQuery,
    PreviewReply,
    SubscribeBody,
    SubscribedReply,
    SubscriptionReply,
    SubscriptionView,
)
from backend.api.state import ApiState
from backend.db import OPERATOR_ROLE, acting_as
from backend.models import Billing, Subscription
from backend.services import plan_service, subscription_service
from backend.services.email_service import require_verified
from backend.services.subscription_service import current_of, open_payment, pending_of

router = APIRouter(prefix="/v1", tags=["plans"], route_class=IdempotentRoute)


@asynccontextmanager
async def billing_desk(state: ApiState) -> AsyncIterator[AsyncSession]:
    """A transaction that may write what is owed and paid: no user may, of their own rows either."""
    with acting_as(OPERATOR_ROLE):
        async with state.sessions.begin() as session:
            yield session


@router.get("/plans", dependencies=[Public], **documented("list_plans"))
async def list_plans(session: Session) -> PlansReply:
    """All plans, cheapest first: prices before GST, limits and features."""
    return PlansReply(plans=[PlanView.of(plan) for plan in await plan_service.list_plans(session)])


@router.get("/subscription", **documented("get_subscription", 401, 403))
async def get_subscription(user: CurrentUser, session: Session) -> SubscriptionReply:
    """The plan in force, what was asked for, and what is to be paid."""
    plan = await plan_service.plan_of(session, user.id)
    active, pending = await current_of(session, user.id), await pending_of(session, user.id)
    asked = pending or active
    payment = await open_payment(session, asked.id) if asked else None
    return SubscriptionReply(
        plan=PlanView.of(plan),
        active=SubscriptionView.of(active) if active else None,
        pending=SubscriptionView.of(pending) if pending else None,
        payment=PaymentView.of(payment) if payment else None,
    )


@router.get("/subscription/preview", **documented("preview_subscription", 401, 403, 409))
async def preview_subscription(
    query: Annotated[PreviewQuery, Query()], user: CurrentUser, session: Session, state: State
) -> PreviewReply:
    """What a change would do and cost today, to the paisa; nothing is changed."""
    now = state.security.now()
    change = await subscription_service.preview(
        session, state.billing, user.id, query.plan, query.billing, now, trial=query.trial
    )
    return PreviewReply.of(change)


@router.post("/subscription", **documented("subscribe", 401, 403, 409, status=201))
async def subscribe(body: SubscribeBody, caller: AccountHolder, state: State) -> SubscribedReply:
    """Ask for a plan. It is pending until it is paid (POST /v1/payments/{id}/checkout) or activated by an
    administrator; a trial begins at once, once per user whose address is verified. An upgrade credits the unused rest
    of the present period; a smaller plan begins when that ends. Refunds are credit, never money."""
    if body.trial:
        require_verified(caller.user)  # else an invented address were good for another trial
    async with billing_desk(state) as session:
        row = await subscription_service.request(
            session,
            state.billing,
            caller.actor,
            caller.user.id,
            body.plan,
            body.billing,
            state.security.now(),
            trial=body.trial,
        )
        return await _subscribed(session, row)


@router.patch("/subscription", **documented("change_subscription", 401, 403, 404, 409))
async def change_subscription(body: ChangeBody, caller: AccountHolder, state: State) -> SubscribedReply:
    """Change plan or billing, by the rules of POST; or take a cancellation or planned change back."""
    async with billing_desk(state) as session:
        user_id = caller.user.id
        if body.cancel_at_end is False:
            row = await subscription_service.resume(session, caller.actor, user_id)
            return await _subscribed(session, row)
        current = await current_of(session, user_id)
        plan = body.plan or (current.plan_code if current else plan_service.FREE)
        billing = body.billing or (current.billing if current else Billing.MONTHLY)
        row = await subscription_service.request(
            session, state.billing, caller.actor, user_id, plan, billing, state.security.now()
        )
        return await _subscribed(session, row)


@router.delete("/subscription", **documented("cancel_subscription", 401, 403, 404))
async def cancel_subscription(caller: AccountHolder, state: State) -> SubscriptionView:
    """Withdraw what waits for payment, or else cancel the plan when its period ends: entries stop then, exits go on."""
    async with billing_desk(state) as session:
        row = await subscription_service.cancel(session, caller.actor, caller.user.id, state.security.now())
        return SubscriptionView.of(row)


async def _subscribed(session: AsyncSession, row: Subscription) -> SubscribedReply:
    payment = await open_payment(session, row.id)
    return SubscribedReply(subscription=SubscriptionView.of(row), payment=PaymentView.of(payment) if payment else None)
